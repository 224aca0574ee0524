"""The commands of a terminal. Each imports the rooms that it needs, so that `seglib --help` is quick."""

from __future__ import annotations

import argparse
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglib import __version__, runs
from seglib.params import Evaluate, check_chain, read_file, read_parameters
from seglib.pipeline import run_chain
from seglib.runs import Run, display_path, resolve_path

_ABOUT = "Four notebooks that train a segmentation model, find the images on which it fails, and say why."
# What argparse is told of an argument; "command --flag" where a command means something else by it.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "-p": {"dest": "parameters", "action": "append", "default": [], "metavar": "NAME=VALUE"},
    "--broken": {"action": "store_true", "help": "its broken twin: 01 names the faults"},
    "--config": {"default": "", "help": "a dataset.yaml that lies elsewhere"},
    "--dataset": {"required": True, "help": "folder of the dataset"},
    "--ids": {"default": "", "help": "images, separated by commas; labels in doubt by default"},
    "--kinds": {"default": "", "help": "kinds of faults, separated by commas; all by default"},
    "--masks": {"choices": ["present", "predictions"], "default": "present", "help": "masks to begin with"},
    "--out": {"required": True, "help": "what to write: a new folder, or a zip"},
    "--params": {"required": True, "help": "YAML or JSON file of lines `parameter: value`"},
    "--predictions": {"required": True, "help": "folder of <image id>.png"},
    "--run": {"default": "", "help": "name of the run; that of the file or the folder by default"},
    "export --run": {"default": "demo", "help": "name of the run"},
    "--seed": {"type": int, "default": 0, "help": "the same seed gives the same faults"},
    "--share": {"type": float, "default": 0.2, "help": "share of the samples that get a fault"},
    "--split": {"default": "test", "help": "which split (default: test)"},
    "--splits": {"default": "val", "help": "which splits get faults, separated by commas (default: val)"},
    "--threshold": {"type": float, "default": 0.5, "help": "an image with a lower mIoU fails (default: 0.5)"},
    "run --from": {"dest": "start", "default": "1", "help": "first notebook, such as 2 or 02_train"},
    "run --to": {"dest": "stop", "default": "4", "help": "last notebook"},
    "import --from": {
        "dest": "source",
        "required": True,
        "help": "CVAT's zip, or a folder of <image id>.png",
    },
    "export --to": {"choices": ["cvat"], "default": "cvat", "help": "the annotation tool"},
    "fetch --to": {"dest": "target", "default": "", "help": "a new folder; data/NAME by default"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it did what was asked, 1 if not (a message on stderr), 130 if interrupted."""
    command, given = parse(argv)
    try:
        return command(given) or 0
    except KeyboardInterrupt:
        print("seglib: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:  # what seglib raises: the message says what to do
        if given.debug:
            raise
        print(f"seglib: {error}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str] | None = None) -> tuple[Callable[[Namespace], int | None], Namespace]:
    """Return a command and its arguments; wrong usage exits with code 2."""
    parser = argparse.ArgumentParser(prog="seglib", allow_abbrev=False, description=_ABOUT)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"seglib {__version__}")
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command, arguments in _COMMANDS.items():
        name, text = command.__name__.strip("_"), command.__doc__
        one = known.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(command=command)
        for argument in arguments.split():
            one.add_argument(argument, **_ARGUMENTS.get(f"{name} {argument}", _ARGUMENTS.get(argument, {})))
    given, given.rest = parser.parse_known_args(argv)
    if given.rest and given.command is not lab:
        parser.error(f"unrecognized arguments: {' '.join(given.rest)}")
    return given.command, given


def demo(given: Namespace) -> None:
    """Run the four notebooks on the demo dataset."""
    from seglib.data import ensure_demo

    name = "demo_broken" if given.broken else "demo"
    ensure_demo(f"data/{name}")
    values = {"dataset": f"data/{name}", "run": name} | read_parameters(given.parameters)
    _chain(values, "1", "1" if given.broken else "4")


def run(given: Namespace) -> None:
    """Run the notebooks with one parameter file."""
    path, changed = _place(given.params), read_parameters(given.parameters)
    values = read_file(path)
    name = given.run or changed.get("run") or values.get("run", path.stem)
    kept = path.parent / "actions.yaml"
    if (path.parent / "environment.json").is_file() and name != values.get("run"):  # repeats another run
        values |= {"resume": False} | ({"actions": runs.stored_path(kept)} if kept.is_file() else {})
    _chain(values | changed | {"run": name}, given.start, given.stop)


def _chain(values: Mapping[str, Any], start: str, stop: str) -> None:
    run_chain(check_chain(values), values["run"], start, stop)
    print(f"\nNotebooks, pages, figures and tables: {display_path(Run.folder(values['run']))}")


def check(given: Namespace) -> int:
    """Check a dataset; exit code 1 when it has errors."""
    from seglib import checks

    dataset = _dataset(given.folder, given.config, strict=False)
    found = checks.check_dataset(dataset, progress=sys.stderr.isatty())
    out = checks.write(found, found.folder)
    for (severity, kind), group in found.findings.groupby(["severity", "check"], sort=False):
        more = [f"... and {len(group) - 3} more"] if len(group) > 3 else []
        lines = [*group["detail"].head(3), *more, f"-> {group['suggestion'].iloc[0]}"]
        print(f"{severity:<7}  {kind} ({len(group)})\n         " + "\n         ".join(lines))
    print(f"All findings: {display_path(out / 'findings.csv')}\n\n{dataset.name}: {checks.verdict(found)}")
    return int((found.findings["severity"] == "error").any())


def evaluate(given: Namespace) -> None:
    """Score another tool's predictions: PNGs of class ids named by image."""
    from seglib.evaluate import evaluate_predictions, interval_sentence

    folder, dataset = _place(given.predictions), _place(given.dataset)
    name = given.run or folder.resolve().name
    params = Evaluate.check({"run": name, "split": given.split} | read_parameters(given.parameters))
    config = _place(given.config) if given.config else ""
    scores = evaluate_predictions(name, folder, dataset, params, config, sys.stderr.isatty()).scores
    print(f"{scores['images']} images of {params.split}: {interval_sentence(scores)}")
    print(f"scores   {display_path(Run.folder(name) / 'evaluation' / params.split)}")


def compare(given: Namespace) -> None:
    """Compare two runs on the same images; results go into the folder of the second."""
    from seglib.evaluate import compare_runs, comparison_sentence, open_evaluation, write_comparison
    from seglib.plots import run_comparison, save_figure

    names = (given.first, given.second)
    found = compare_runs(*(open_evaluation(Run.open(n), given.split) for n in names), given.threshold)
    changed = found.per_image[found.per_image["change"].isin(["fixed", "regressed"])].head(10)
    for table in (found.per_class, changed):
        if len(table):
            print(table.round(3).to_string(index=False) + "\n")
    folder = write_comparison(found)
    save_figure(folder / "images.png", run_comparison(found.per_image, *names, given.threshold))
    print(f"{comparison_sentence(found)}\nTables and figure: {display_path(folder)}")


def plant(given: Namespace) -> None:
    """Copy a dataset with recorded faults, to measure what finds them."""
    from seglib.data import KINDS, inject_faults

    new, kinds = _new(given.out), given.kinds.split(",") if given.kinds else KINDS
    dataset, splits = _dataset(given.dataset, given.config), given.splits.split(",")
    table = inject_faults(dataset, new, kinds, given.share, splits, given.seed)
    print(table.groupby(["split", "kind"], sort=False).size().to_string())
    print(f"{len(table)} faults in {display_path(new)}; which and where: {display_path(new / 'planted.csv')}")


def export(given: Namespace) -> None:
    """Write doubtful masks into a zip for an annotation tool."""
    from seglib.evaluate import open_evaluation
    from seglib.failures import export_for_relabelling, to_relabel

    evaluation = open_evaluation(Run.open(given.run), given.split)
    failures = evaluation.run.failures(given.split)
    samples = given.ids.split(",") if given.ids else to_relabel(failures)
    if not samples:
        print("No label of that split is in doubt, and no verdict says so. Name images with --ids.")
        return
    path = export_for_relabelling(evaluation, _new(given.out), samples, given.masks)
    print(f"{len(samples)} images in {display_path(path)}. Into the tool and back: docs/annotation.md")


def import_(given: Namespace) -> None:
    """Take corrected masks back, in the dataset's own form, into a folder of their own."""
    from seglib.failures import import_corrections

    out, dataset = _new(given.out), _dataset(given.dataset, given.config)
    table = import_corrections(_place(given.source), dataset, out)
    changed = int((table["changed"] > 0).sum())
    where = f"; in {display_path(out)}. Look, then copy them over." if changed else "."
    print(f"{table.round(4).to_string(index=False)}\n{changed} of {len(table)} masks changed{where}")


def init(given: Namespace) -> None:
    """Write a draft dataset.yaml from what a folder holds."""
    from seglib.data import draft_dataset

    path = _place(given.folder) / "dataset.yaml"
    print(draft := draft_dataset(path.parent), end="")
    if path.exists():
        raise FileExistsError(f"{path} stays as it is; above is what would be drafted now.")
    runs.write_text(path, draft)
    print(f"Written to {path}. Look it over, then: seglib check {given.folder}", file=sys.stderr)


def fetch(given: Namespace) -> None:
    """Download a known dataset, such as camvid."""
    from seglib.data import download

    target = _new(given.target) if given.target else resolve_path(f"data/{given.name}")
    shown = display_path(download(given.name, target))
    print(f"In {shown}. Next: seglib check {shown}")


def lab(given: Namespace) -> int:
    """Open JupyterLab on the notebooks; other options go to JupyterLab, such as --port=9999."""
    # the project is the server's root, so that the notebooks' links to artifacts/ open too
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={runs.project_root()}"]
    command += ["--LabApp.default_url=/lab/tree/notebooks/01_data_check.ipynb", *given.rest]
    return subprocess.run(command, check=False).returncode


_COMMANDS: dict[Callable[[Namespace], int | None], str] = {
    demo: "--broken -p",
    run: "--params --run --from --to -p",
    check: "folder --config",
    evaluate: "--predictions --dataset --config --split --run -p",
    compare: "first second --split --threshold",
    plant: "--dataset --out --config --kinds --share --splits --seed",
    export: "--out --run --split --to --masks --ids",
    import_: "--from --dataset --out --config",
    init: "folder",
    fetch: "name --to",
    lab: "",
}


def _place(path: str) -> Path:
    """Return a path as meant at a terminal: below the working directory if there, else the project root."""
    place = Path(path).expanduser()
    return place.absolute() if place.exists() else resolve_path(place)


def _new(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _dataset(folder: str, config: str, strict: bool = True) -> Any:
    from seglib.data import load_dataset

    return load_dataset(_place(folder), _place(config) if config else "", strict=strict)


if __name__ == "__main__":
    sys.exit(main())
