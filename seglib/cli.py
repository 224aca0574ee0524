"""The commands of a terminal: functions whose signatures are their arguments and options.

Each imports the rooms that it needs, so that `seglib --help` is quick.
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from seglib import __version__, runs
from seglib.params import Evaluate, Train, check_chain, read_file, read_parameters
from seglib.pipeline import run_chain
from seglib.runs import Run, display_path, resolve_path

if TYPE_CHECKING:
    from seglib.data import Dataset

_ABOUT = "Four notebooks that train a segmentation model, find the images on which it fails, and say why."
_FLAGS = {"parameters": "-p", "start": "--from", "stop": "--to", "source": "--from", "target": "--to"}
_HELP = {
    "broken": "its broken twin: 01 names the faults",
    "config": "a dataset.yaml that lies elsewhere",
    "dataset": "folder of the dataset",
    "ids": "images, separated by commas; labels in doubt by default",
    "kinds": "kinds of faults, separated by commas; all by default",
    "masks": "masks to begin with",
    "out": "what to write: a new folder, or a zip",
    "parameters": "a parameter, NAME=VALUE; may be repeated",
    "params": "YAML or JSON file of lines `parameter: value`",
    "predictions": "folder of <image id>.png",
    "run": "name of the run",
    "seed": "the same seed gives the same faults",
    "share": "share of the samples that get a fault",
    "source": "CVAT's zip, or a folder of <image id>.png",
    "split": "which split",
    "splits": "which splits get faults, separated by commas",
    "start": "first notebook, such as 2 or 02_train",
    "stop": "last notebook",
    "target": "a new folder; data/NAME by default",
    "threshold": "an image with a lower mIoU fails",
    "to": "the annotation tool",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it did what was asked, 1 if not (a message on stderr), 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # on Windows a character of an image's name could end a command
            stream.reconfigure(errors="backslashreplace")
    command, options = parse(argv)
    debug = options.pop("debug")
    try:
        return command(**options) or 0
    except KeyboardInterrupt:
        print("seglib: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:  # what seglib raises: the message says what to do
        if debug:
            raise
        print(f"seglib: {error}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str] | None = None) -> tuple[Callable[..., int | None], dict[str, Any]]:
    """Return a command and its options; wrong usage exits with code 2."""
    parser = argparse.ArgumentParser(prog="seglib", allow_abbrev=False, description=_ABOUT)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"seglib {__version__}")
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, run, check, evaluate, compare, plant, export, import_, init, fetch, lab):
        text = command.__doc__
        one = known.add_parser(command.__name__.strip("_"), help=text, description=text, allow_abbrev=False)
        one.set_defaults(command=command)
        for option in inspect.signature(command, eval_str=True).parameters.values():
            if option.kind is option.KEYWORD_ONLY:
                flag = _FLAGS.get(option.name, f"--{option.name}")
                one.add_argument(flag, dest=option.name, **_option(option))
            elif command is not lab:
                one.add_argument(option.name, metavar=option.name.upper())
    options, rest = parser.parse_known_args(argv)
    if rest and options.command is not lab:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    values = vars(options) | ({"options": rest} if options.command is lab else {})
    return values.pop("command"), values


def _option(option: inspect.Parameter) -> dict[str, Any]:
    text, default = _HELP[option.name], option.default
    if default is option.empty:
        return {"required": True, "help": text}
    if default is False:
        return {"action": "store_true", "help": text}
    if default == ():
        return {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": text}
    text += f" (default: {default})" if default != "" else ""
    return {
        "type": type(default),
        "default": default,
        "choices": get_args(option.annotation) or None,
        "help": text,
    }


def demo(*, broken: bool = False, parameters: Sequence[str] = ()) -> None:
    """Run the four notebooks on the demo dataset."""
    from seglib.data import ensure_demo

    name = "demo_broken" if broken else "demo"
    ensure_demo(f"data/{name}")
    values = {"dataset": f"data/{name}", "run": name} | read_parameters(parameters)
    _chain(values, "1", "1" if broken else "4")


def run(
    *, params: str, run: str = "", start: str = "1", stop: str = "4", parameters: Sequence[str] = ()
) -> None:
    """Run the notebooks with one parameter file."""
    path, given = _place(params), read_parameters(parameters)
    values = read_file(path)
    name = run or given.get("run") or values.get("run", path.stem)
    if (path.parent / "environment.json").is_file() and name != values.get("run"):  # those of another run
        values = _repeat(path.parent, values)
    _chain(values | given | {"run": name}, start, stop)


def _repeat(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that repeat a run; print which versions and data are not as they were."""
    from seglib.data import DatasetError, load_dataset
    from seglib.evaluate import changed_since_training

    then, now = runs.read_json(folder / "environment.json", ["python", "packages"]), runs.environment()
    before, after = ({"Python": facts["python"]} | facts["packages"] for facts in (then, now))
    changed = [f"{n} was {v} and is {after.get(n)}" for n, v in before.items() if after.get(n) != v]
    with suppress(DatasetError):  # 01 says it better
        dataset = load_dataset(values.get("dataset", "data/demo"), values.get("config", ""))
        changed += filter(None, [changed_since_training(Run(folder), dataset)])
    if changed:
        print(f"Not as it was for run {folder.name!r}: {'; '.join(changed)}")
    kept = {"actions": runs.stored_path(folder / "actions.yaml")} if values.get("actions") else {}
    return {**values, **kept, "resume": False}


def _chain(values: Mapping[str, Any], start: str, stop: str) -> None:
    shares = check_chain(values)
    run, split = Run(Run.folder(Train(**shares["02_train"]).run)), Evaluate(**shares["03_evaluate"]).split
    run_chain(shares, run.name, start, stop)
    scores = run.evaluation(split) / "metrics.json"
    score = runs.read_json(scores).get("mean_iou") if scores.exists() else None
    note = f" (mean IoU {score:.3f} on {split})" if score is not None else ""
    print(f"\nNotebooks, pages, figures and tables: {display_path(run.path)}{note}")


def check(folder: str, *, config: str = "") -> int:
    """Check a dataset; exit code 1 when it has errors."""
    from seglib import checks

    dataset = _dataset(folder, config, strict=False)
    found = checks.check_dataset(dataset, progress=sys.stderr.isatty())
    out = runs.project_root() / "artifacts" / "data_check" / runs.check_name(dataset.name, "dataset")
    checks.write(found, out)
    for (severity, kind), group in found.findings.groupby(["severity", "check"], sort=False):
        more = [f"... and {len(group) - 3} more"] if len(group) > 3 else []
        lines = [*group["detail"].head(3), *more, f"-> {group['suggestion'].iloc[0]}"]
        print(f"{severity:<7}  {kind} ({len(group)})\n         " + "\n         ".join(lines))
    print(f"All findings: {display_path(out / 'findings.csv')}\n\n{dataset.name}: {checks.verdict(found)}")
    return int((found.findings["severity"] == "error").any())


def evaluate(
    *,
    predictions: str,
    dataset: str,
    config: str = "",
    split: str = "test",
    run: str = "",
    parameters: Sequence[str] = (),
) -> None:
    """Score another tool's predictions: PNGs of class ids named by image."""
    from seglib.evaluate import evaluate_predictions, interval_sentence

    folder = _place(predictions)
    name = run or folder.resolve().name
    params = Evaluate.check({"run": name, "split": split} | read_parameters(parameters))
    where = _place(config) if config else ""
    scores = evaluate_predictions(name, folder, _place(dataset), params, where, sys.stderr.isatty()).scores
    print(f"{scores['images']} images of {params.split}: {interval_sentence(scores)}")
    print(f"scores   {display_path(Run.folder(name) / 'evaluation' / params.split)}")


def compare(first: str, second: str, *, split: str = "test", threshold: float = 0.5) -> None:
    """Compare two runs on the same images; results go into the folder of the second."""
    from seglib.evaluate import compare_runs, comparison_sentence, open_evaluation, write_comparison
    from seglib.plots import run_comparison, save_figure

    found = compare_runs(*(open_evaluation(Run.open(name), split) for name in (first, second)), threshold)
    changed = found.per_image[found.per_image["change"].isin(["fixed", "regressed"])].head(10)
    for table in (found.per_class, changed):
        if len(table):
            print(table.round(3).to_string(index=False) + "\n")
    folder = write_comparison(found)
    save_figure(folder / "images.png", run_comparison(found.per_image, first, second, threshold))
    print(f"{comparison_sentence(found)}\nTables and figure: {display_path(folder)}")


def plant(
    *,
    dataset: str,
    out: str,
    config: str = "",
    kinds: str = "",
    share: float = 0.2,
    splits: str = "val",
    seed: int = 0,
) -> None:
    """Copy a dataset with recorded faults, to measure what finds them."""
    from seglib.data import KINDS, inject_faults

    new, which = _new(out), kinds.split(",") if kinds else KINDS
    table = inject_faults(_dataset(dataset, config), new, which, share, splits.split(","), seed)
    print(table.groupby(["split", "kind"], sort=False).size().to_string())
    print(f"{len(table)} faults in {display_path(new)}; which and where: {display_path(new / 'planted.csv')}")


def export(
    *,
    out: str,
    run: str = "demo",
    split: str = "test",
    to: Literal["cvat"] = "cvat",
    masks: Literal["present", "predictions"] = "present",
    ids: str = "",
) -> None:
    """Write doubtful masks into a zip for an annotation tool."""
    from seglib.evaluate import open_evaluation
    from seglib.failures import export_for_relabelling, to_relabel

    evaluation = open_evaluation(Run.open(run), split)
    samples = ids.split(",") if ids else to_relabel(evaluation.run.failures(split))
    if not samples:
        print("No label of that split is in doubt, and no verdict says so. Name images with --ids.")
        return
    path = export_for_relabelling(evaluation, _new(out), samples, masks)
    print(f"{len(samples)} images in {display_path(path)}. Into the tool and back: docs/annotation.md")


def import_(*, source: str, dataset: str, out: str, config: str = "") -> None:
    """Take corrected masks back, in the dataset's own form, into a folder of their own."""
    from seglib.failures import import_corrections

    table = import_corrections(_place(source), _dataset(dataset, config), _new(out))
    changed = int((table["changed"] > 0).sum())
    where = f"; in {display_path(_new(out))}. Look, then copy them over." if changed else "."
    print(f"{table.round(4).to_string(index=False)}\n{changed} of {len(table)} masks changed{where}")


def init(folder: str) -> None:
    """Write a draft dataset.yaml from what a folder holds."""
    from seglib.data import draft_dataset

    path, draft = _place(folder) / "dataset.yaml", draft_dataset(_place(folder))
    print(draft, end="")
    if path.exists():
        raise FileExistsError(f"{path} stays as it is; above is what would be drafted now.")
    runs.write_text(path, draft)
    print(f"Written to {path}. Look it over, then: seglib check {folder}", file=sys.stderr)


def fetch(name: str, *, target: str = "") -> None:
    """Download a known dataset, such as camvid."""
    from seglib.data import download

    shown = display_path(download(name, _new(target) if target else resolve_path(f"data/{name}")))
    print(f"In {shown}. Next: seglib check {shown}")


def lab(options: Sequence[str] = ()) -> int:
    """Open JupyterLab on the notebooks; other options go to JupyterLab, such as --port=9999."""
    # the project is the server's root, so that the notebooks' links to artifacts/ open too
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={runs.project_root()}"]
    command += ["--LabApp.default_url=/lab/tree/notebooks/01_data_check.ipynb", *options]
    return subprocess.run(command, check=False).returncode


def _place(path: str) -> Path:
    """Return a path as meant at a terminal: below the working directory if there, else the project root."""
    place = Path(path).expanduser()
    return place.absolute() if place.exists() else resolve_path(place)


def _new(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _dataset(folder: str, config: str, strict: bool = True) -> Dataset:
    from seglib.data import load_dataset

    return load_dataset(_place(folder), _place(config) if config else "", strict=strict)


if __name__ == "__main__":
    sys.exit(main())
