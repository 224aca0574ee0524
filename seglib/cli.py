"""The commands of a terminal: functions whose parameters are their arguments, and after `*` their options."""

import argparse
import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import seglib
from seglib import runs
from seglib.params import EXPECTED_ERRORS, Evaluate, read_file, read_parameters
from seglib.pipeline import new_project, run_chain
from seglib.runs import Run, display_path


def _there(path: str) -> Path:
    """Return a path as meant at a terminal: below the working directory if there, else the project root."""
    place = Path(path).expanduser()
    return place.absolute() if place.exists() else runs.resolve_path(place)


def _new(path: str) -> Path:
    return Path(path).expanduser().absolute()


_FLAGS = {"parameters": "-p", "start": "--from", "stop": "--to", "source": "--from", "target": "--to"}
_FLAGS |= {"images_glob": "--images", "masks_glob": "--masks", "shares": "--split", "form": "--to"}
_EARLIER = {"config": ("--recipe",)}  # flags in earlier versions
_PROGRESS = sys.stderr.isatty()  # bars are for people
_OPTIONS: dict[str, dict[str, Any]] = {  # what argparse is told of each
    "adapt_norm": {"default": 0.0, "type": float, "help": "0.5: adapt the model to these images, see 03"},
    "against": {"default": "", "help": "a second run: where do the two disagree?"},
    "broken": {"action": "store_true", "help": "the demo's broken twin: 01 finds its faults and stops"},
    "config": {"type": _there, "help": "a dataset.yaml that lies elsewhere"},
    "count": {"default": 20, "type": int, "help": "images at most (default: 20)"},
    "dataset": {"required": True, "type": _there, "help": "folder of the dataset"},
    "folder": {"type": _there, "help": "folder of the dataset"},
    "form": {"default": "cvat", "choices": ["cvat", "onnx", "safetensors"], "help": "zip, or model file"},
    "ids": {"default": "", "help": "images, separated by commas; labels in doubt by default"},
    "images": {"required": True, "type": _there, "help": "folder of new images"},
    "images_glob": {"default": "", "help": "where images lie, if it must be told; {split} may stand in it"},
    "kind": {"default": "polygons", "help": "polygons, classes or instances (folders), pages (TIFF stacks)"},
    "masks": {"default": "present", "choices": ["present", "predictions"], "help": "masks to begin with"},
    "masks_glob": {"default": "", "help": "glob of the masks"},
    "out": {"required": True, "type": _new, "help": "what to write: a new folder, a zip, or a model file"},
    "parameters": {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": "may be repeated"},
    "params": {"required": True, "type": _there, "help": "YAML or JSON file of lines `parameter: value`"},
    "predictions": {"required": True, "type": _there, "help": "folder of <image id>.png"},
    "run": {"default": "", "help": "name of the run"},
    "shares": {"nargs": "+", "type": float, "help": "divide train by whole sequences, such as 0.7 0.15 0.15"},
    "source": {"required": True, "type": _there, "help": "CVAT's zip, or a folder of <image id>.png"},
    "split": {"default": "test", "help": "which split (default: test)"},
    "splits": {"default": "val", "help": "which splits get faults, separated by commas (default: val)"},
    "start": {"default": "1", "help": "first notebook, such as 2 or 02_train"},
    "stop": {"default": "4", "help": "last notebook"},
    "target": {"type": _new, "help": "a new folder; data/NAME by default"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it did what was asked, 1 if not (a message on stderr), 130 if interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        command, given = parse(argv)
        return command(**given) or 0
    except KeyboardInterrupt:
        print("seglib: interrupted.", file=sys.stderr)
        return 130
    except EXPECTED_ERRORS as error:
        if "--debug" in argv:
            raise
        print(f"seglib: {error}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str]) -> tuple[Callable[..., int | None], dict[str, Any]]:
    """Return a command and its arguments; wrong usage exits with code 2."""
    about = "Four notebooks that train a segmentation model, find the images on which it fails, and say why."
    parser = argparse.ArgumentParser(prog="seglib", allow_abbrev=False, description=about)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"seglib {seglib.__version__}")
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    first = (demo, run, runs_, check, evaluate, compare, plant, predict)
    for command in (*first, label_next, export, import_, init, convert, new, fetch, lab):
        name, text = command.__name__.strip("_").replace("_", "-"), command.__doc__
        one = known.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(command=command)
        for name, argument in inspect.signature(command).parameters.items():
            if argument.kind is argument.KEYWORD_ONLY:
                flags = _FLAGS.get(name, f"--{name.replace('_', '-')}"), *_EARLIER.get(name, ())
                one.add_argument(*flags, dest=name, **_OPTIONS[name])
            else:
                one.add_argument(name, metavar=name.upper(), **_OPTIONS.get(name, {}))
    given = vars(parser.parse_args(argv))
    del given["debug"]  # main looks for it
    return given.pop("command"), given


def demo(*, broken: bool, parameters: Sequence[str]) -> None:
    """Run the four notebooks on the demo dataset."""
    name, stop = ("demo_broken", "1") if broken else ("demo", "4")
    asked = read_parameters(parameters)
    run_chain({"dataset": f"data/{name}", "run": name}, "1", stop, asked)
    failures = Run(Run.folder(asked.get("run", name))).failures(asked.get("split", "test"))
    print(f"Now: make lab (or seglib lab), and open 04; or open {display_path(failures / 'report.html')}")


def run(*, params: Path, run: str, start: str, stop: str, parameters: Sequence[str]) -> None:
    """Run the notebooks with one parameter file."""
    values, asked = read_file(params), read_parameters(parameters)
    name = run or asked.get("run") or values.get("run", params.stem)
    if (params.parent / "environment.json").is_file() and name != values.get("run"):
        values = _repeat(params.parent, values)
    run_chain(values, start, stop, asked | {"run": name})


def _repeat(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that repeat a run; print which versions and data are not as they were."""
    kept = runs.read_json(folder / "environment.json", ["python", "packages"])
    then, now = ({"Python": facts["python"]} | facts["packages"] for facts in (kept, runs.environment()))
    changed = [f"{n} was {v} and is {now.get(n)}" for n, v in then.items() if now.get(n) != v]
    with suppress(seglib.data.DatasetError):  # 01 says it better
        dataset = seglib.data.load_dataset(values.get("dataset", "data/demo"), values.get("config", ""))
        changed += filter(None, [seglib.evaluate.changed_since_training(Run(folder), dataset)])
    if changed:
        print(f"Not as it was for run {folder.name!r}: {'; '.join(changed)}")
    actions = folder / "actions.yaml"
    return values | {"resume": False} | ({"actions": runs.stored_path(actions)} if actions.is_file() else {})


def runs_() -> None:
    """List all runs: data, model, scores, and which parameters differ between them."""
    table = seglib.evaluate.list_runs()
    print(table.to_string(index=False, float_format="{:.3f}".format, na_rep="", justify="left"))


def check(folder: Path, *, config: Path | None) -> int:
    """Check a dataset; exit code 1 when it has errors."""
    dataset = seglib.data.load_dataset(folder, config or "", strict=False)
    found = seglib.checks.check_dataset(dataset, progress=_PROGRESS)
    for (severity, kind), group in found.findings.groupby(["severity", "check"], sort=False):
        more = [f"... and {len(group) - 3} more"] if len(group) > 3 else []
        lines = [*group["detail"].head(3), *more, f"-> {group['suggestion'].iloc[0]}"]
        print(f"{severity:<7}  {kind} ({len(group)})\n         " + "\n         ".join(lines))
    lacking = [name for name in ("train", "val") if name not in dataset.splits]
    if lacking:
        way = "Name a split train in dataset.yaml"
        if "train" in dataset.splits:
            flag = seglib.data.split_flag(dataset.splits)
            way = f"seglib init {shlex.quote(str(folder))} {flag} divides train by whole sequences"
        print(f"error    no-split\n         no samples in {' and '.join(lacking)}, which training needs.")
        print(f"         -> {way}")
    table = seglib.checks.write(found) / "findings.csv"
    told = f" Training needs {' and '.join(lacking)} too." * bool(lacking)
    print(f"All findings: {display_path(table)}\n\n{dataset.name}: {seglib.checks.conclusion(found)}{told}")
    return int("error" in {*found.findings["severity"]} or len(lacking) > 0)


def evaluate(*, predictions: Path, dataset: Path, config: Path | None, split: str, run: str) -> None:
    """Score another tool's predictions: PNGs of class ids named by image."""
    name = run or predictions.resolve().name
    values = {"run": name, "split": split, "dataset": str(dataset), "config": str(config or "")}
    found = seglib.evaluate.evaluate_predictions(predictions, Evaluate.check(values), _PROGRESS)
    print(f"{len(found.per_image)} images of {found.split}: {found.summary()}")
    print(f"scores   {display_path(found.run.evaluation(found.name))}")


def compare(first: str, second: str, *, split: str) -> None:
    """Compare two runs on the same images, or repeated trainings of each side: a1,a2,a3 b1,b2,b3."""
    scores, plots = seglib.evaluate, seglib.plots
    sides = ([scores.open_evaluation(name, split) for name in side.split(",")] for side in (first, second))
    found = scores.compare_runs(*sides)
    folder = scores.write_comparison(found)
    plots.save_figure(folder / "images.png", plots.run_comparison(found.per_image, first, second, 0.5))
    print(f"{found.per_class.round(3).to_string(index=False)}\n\n{scores.comparison_sentence(found)}")
    print(f"Tables and figure: {display_path(folder)}")


def plant(*, dataset: Path, out: Path, splits: str) -> None:
    """Copy a dataset with recorded faults, to measure what finds them."""
    data = seglib.data
    table = data.inject_faults(data.load_dataset(dataset), out, splits=splits.split(","))
    print(table.groupby(["split", "kind"], sort=False).size().to_string())
    print(f"{len(table)} faults in {display_path(out)}; which and where: {display_path(out / 'planted.csv')}")


def predict(*, run: str, images: Path, out: Path, against: str, adapt_norm: float) -> int:
    """Predict a folder of new images, and say which predictions to distrust; goes on where it was interrupted."""
    model, other = Run.open(run or "demo"), Run.open(against) if against else None
    share = Evaluate.check({"adapt_norm": adapt_norm}).adapt_norm
    table = seglib.failures.predict_folder(model, images, out, other, share, _PROGRESS).table
    bad = table.loc[table["error"] != "", "error"]
    print(*bad.head(3), sep="\n", end="\n" * (len(bad) > 0))
    warned = f"{(table['warnings'] != '').sum()} with a warning, {len(bad)} could not be predicted"
    print(f"{len(table)} images: {warned}. Table: {display_path(out / 'predictions.csv')}")
    return int(len(bad) == len(table))


def label_next(*, run: str, images: Path, out: Path, split: str, count: int) -> None:
    """Choose the unlabelled images that would teach most, and write them for an annotation tool."""
    evaluation = seglib.evaluate.open_evaluation(run or "demo", split)
    chosen = seglib.failures.label_next(evaluation, images, out, count, _PROGRESS)
    seglib.plots.save_figure(out / "label_next.png", seglib.plots.label_sheet(out, chosen))
    print(chosen[["rank", "id", "expected_miou", "novelty", "rarest_class"]].round(3).to_string(index=False))
    found = runs.read_json(out / "label_next.json")
    learnt = f"Expected mIoU, learnt from {found['calibrated_on']} of {split}: off by {found['error']:.3f}"
    mean = f"on images left out (the mean of all by {found['error_of_mean']:.3f})"
    print(f"{len(chosen)} of {found['images']} images. {learnt} {mean}.")
    print(f"Sheet, table and zip for CVAT: {display_path(out / 'label_next')}.png, .csv, .zip")


def export(*, out: Path, run: str, split: str, form: str, masks: str, ids: str) -> None:
    """Write doubtful masks into a zip for an annotation tool, or the model into a file for other programs."""
    if form == "cvat":
        evaluation = seglib.evaluate.open_evaluation(run or "demo", split)
        folder = evaluation.run.failures(evaluation.name)
        if not (listed := ids.split(",") if ids else seglib.failures.to_relabel(folder)):
            told = "no mask is in doubt" if folder.is_dir() else "04_failure_analysis has not looked at it"
            raise ValueError(f"split {split!r} of run {evaluation.run.name!r}: {told}. Name images by --ids.")
        seglib.failures.export_for_relabelling(evaluation, out, listed, masks)
        told = "into the tool and back: docs/annotation.md"
    else:
        told = seglib.evaluate.export_model(Run.open(run or "demo"), out, form) + "; docs/deployment.md"
    print(f"{display_path(out)}: {told}")


def import_(*, source: Path, dataset: Path, out: Path) -> None:
    """Take corrected masks back, in the dataset's own form, into a folder of their own."""
    table = seglib.failures.import_corrections(source, seglib.data.load_dataset(dataset), out)
    changed = (table["changed"] > 0).sum()
    where = f"; in {display_path(out)}. Look, then copy them over." if changed else "."
    print(f"{table.round(4).to_string(index=False)}\n{changed} of {len(table)} masks changed{where}")


def init(folder: Path, *, images_glob: str, masks_glob: str, shares: Sequence[float] | None) -> None:
    """Write a draft dataset.yaml from what a folder holds, or divide its train by whole sequences."""
    path = folder / "dataset.yaml"
    if not path.exists():
        text = seglib.data.draft_dataset(folder, images_glob, masks_glob)
        runs.write_text(path, text)
        with suppress(seglib.data.DatasetError):  # for `seglib check` to tell
            text += seglib.checks.draft_range(seglib.data.load_dataset(folder))
            runs.write_text(path, text)
        print(text, end="")
    elif not shares:
        raise FileExistsError(f"{path} stays as it is. Delete or rename it for a new draft.")
    if shares:
        counts = seglib.checks.divide_train(folder, shares).value_counts(sort=False)
        print(f"Images of each split, by {folder / 'split'}:\n{counts.to_string()}")
    print(f"Written to {path}. Look it over, then: seglib check {shlex.quote(str(folder))}", file=sys.stderr)


def convert(folder: Path, *, kind: str, target: Path | None) -> None:
    """Draw masks of class ids from COCO, labelme or YOLO polygons, masks of single classes, or instances; unpack stacks."""
    out, names, count = seglib.data.convert(folder, kind, target or "")
    told = f"masks of {', '.join(names)}" if names else "pages of stacks"
    print(f"{count} {told} in {out}. Next: seglib init {shlex.quote(str(folder if names else out))}")


def new(target: Path) -> None:
    """Make a project of its own: notebooks, parameters and the demo dataset."""
    print(f"In {new_project(target)}. Next: cd {target} && seglib demo")


def fetch(name: str, *, target: Path | None) -> None:
    """Download a known dataset, such as camvid."""
    shown = display_path(seglib.data.download(name, target or runs.resolve_path(f"data/{name}")))
    print(f"In {shown}. Next: seglib check {shlex.quote(shown)}")


def lab() -> None:
    """Open JupyterLab on the notebooks."""
    from jupyterlab.labapp import LabApp

    # the project is the server's root, so that the notebooks' links to artifacts/ open too
    root = f"--ServerApp.root_dir={runs.project_root()}"
    LabApp.launch_instance([root, "--LabApp.default_url=/lab/tree/notebooks/01_data_check.ipynb"])


if __name__ == "__main__":
    sys.exit(main())
