"""`seglib demo | run | check | evaluate | compare | plant | export | import | init | fetch | lab`: the notebooks and the package from a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seglib import commands
from seglib.commands import place, print_findings
from seglib.options import read_parameters

# Everything heavier than argparse is imported by the command that needs it: `seglib --help` answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; `sys.argv[1:]` when None.

    Returns:
        0 when it did what was asked, 1 when it could not (one message on stderr, no traceback unless `--debug`),
        130 when interrupted. Wrong usage leaves through argparse with code 2.
    """
    for stream in (sys.stdout, sys.stderr):
        # Redirected on Windows, they know a few hundred characters; the name of an image must not end a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parse(argv)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("seglib: interrupted.", file=sys.stderr)
        return 130
    except (
        ValueError,
        OSError,
        RuntimeError,
    ) as error:  # what seglib raises, with a message that says what to do
        if options.debug:
            raise
        print(f"seglib: {error}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; `seglib lab` hands on those that it does not know. Wrong usage exits with code 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command is not _lab:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seglib",
        allow_abbrev=False,
        description="Four notebooks that train a segmentation model, find the images on which it fails, and say why.",
        epilog="'seglib COMMAND --help' tells the options of a command.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"seglib {_version()}")
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _add(known, "demo", _demo, "make the demo dataset and run the four notebooks on it")
    demo.add_argument(
        "--broken", action="store_true", help="the demo's broken twin: 01 finds its faults and stops"
    )
    _add_parameters(demo)

    run = _add(known, "run", _run, "run the notebooks with one parameter file")
    run.add_argument(
        "--params", required=True, metavar="FILE", type=Path, help="YAML or JSON: `parameter: value`"
    )
    run.add_argument(
        "--run", metavar="NAME", help="name of the run (default: `run` in FILE, else FILE's own name)"
    )
    run.add_argument(
        "--from", dest="start", metavar="N", default="1", help="first notebook, such as 2 or 02_train"
    )
    run.add_argument("--to", dest="stop", metavar="N", default="4", help="last notebook")
    _add_parameters(run)

    check = _add(known, "check", commands.check, "check a dataset; exit code 1 when it has errors")
    check.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the dataset")
    check.add_argument("--config", default="", metavar="FILE", help="a dataset.yaml that lies elsewhere")

    score = _add(
        known,
        "evaluate",
        commands.evaluate,
        "score another tool's predictions: PNGs of class ids named by image",
    )
    score.add_argument(
        "--predictions", required=True, metavar="DIR", type=Path, help="folder of <image id>.png"
    )
    score.add_argument("--dataset", required=True, metavar="FOLDER", type=Path, help="folder of the dataset")
    score.add_argument("--config", default="", metavar="FILE", help="a dataset.yaml that lies elsewhere")
    score.add_argument(
        "--split", default="test", metavar="NAME", help="which split they predict (default: test)"
    )
    score.add_argument("--run", metavar="NAME", help="where results go (default: the name of DIR)")
    _add_parameters(score)

    compare = _add(known, "compare", commands.compare, "compare two runs on the same images")
    compare.add_argument("first", metavar="RUN_A", help="name of the run to compare with")
    compare.add_argument(
        "second", metavar="RUN_B", help="name of the run in question; results go into its folder"
    )
    compare.add_argument(
        "--split", default="test", metavar="NAME", help="a split that both have evaluated (default: test)"
    )
    compare.add_argument(
        "--threshold", default=0.5, type=float, metavar="X", help="an image below it fails (default: 0.5)"
    )

    plant = _add(
        known, "plant", commands.plant, "copy a dataset with recorded faults, to measure what finds them"
    )
    plant.add_argument("--dataset", required=True, metavar="FOLDER", type=Path, help="folder of the dataset")
    plant.add_argument("--config", default="", metavar="FILE", help="a dataset.yaml that lies elsewhere")
    plant.add_argument(
        "--out", required=True, metavar="FOLDER", type=Path, help="folder of the copy; must not exist"
    )
    plant.add_argument("--kinds", default="", metavar="A,B", help="kinds of faults (default: all)")
    plant.add_argument(
        "--share", default=0.2, type=float, metavar="X", help="share of the samples (default: 0.2)"
    )
    plant.add_argument("--splits", default="val", metavar="A,B", help="where to plant (default: val)")
    plant.add_argument(
        "--seed", default=0, type=int, metavar="N", help="the same seed, the same faults (default: 0)"
    )

    export = _add(known, "export", commands.export, "hand suspected masks to an annotation tool")
    export.add_argument("--run", default="demo", metavar="NAME", help="name of the run (default: demo)")
    export.add_argument(
        "--split", default="test", metavar="NAME", help="a split that 04 has analysed (default: test)"
    )
    export.add_argument("--to", required=True, choices=("cvat", "label-studio"), help="which tool")
    export.add_argument("--out", required=True, metavar="FILE", type=Path, help="the zip to write")
    export.add_argument(
        "--masks",
        default="present",
        choices=("present", "predictions"),
        help="what to begin with (default: present)",
    )
    export.add_argument(
        "--ids", default="", metavar="A,B", help="images (default: labels in doubt, by verdict and score)"
    )

    back = _add(known, "import", commands.import_masks, "take corrected masks back from an annotation tool")
    back.add_argument(
        "--from", dest="source", required=True, metavar="FILE", type=Path, help="CVAT's zip, or JSON"
    )
    back.add_argument("--dataset", required=True, metavar="FOLDER", type=Path, help="folder of the dataset")
    back.add_argument("--config", default="", metavar="FILE", help="a dataset.yaml that lies elsewhere")
    back.add_argument(
        "--out", required=True, metavar="FOLDER", type=Path, help="folder of the corrected masks"
    )

    init = _add(known, "init", commands.init, "write a draft dataset.yaml from what a folder holds")
    init.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the dataset")

    fetch = _add(known, "fetch", commands.fetch, "download a known dataset")
    fetch.add_argument("name", metavar="NAME", help="which one, such as camvid")
    fetch.add_argument("--to", metavar="FOLDER", type=Path, help="where to (default: data/NAME)")

    lab = _add(known, "lab", _lab, "open JupyterLab on the notebooks")
    lab.epilog = "Other options are handed on to JupyterLab, such as --port=9999."
    return parser


def _add(known: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    parser = known.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(command=command)
    return parser


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter; may be repeated",
    )


def _version() -> str:
    from seglib import __version__

    return __version__


def _demo(options: argparse.Namespace) -> int:
    from seglib.data import make_demo
    from seglib.runs import resolve_path

    dataset = "data/demo_broken" if options.broken else "data/demo"
    make_demo(resolve_path(dataset), broken=options.broken)
    values = {"dataset": dataset, "run": Path(dataset).name} | read_parameters(options.parameters)
    return _chain(values, "1", "1" if options.broken else "4")


def _run(options: argparse.Namespace) -> int:
    from seglib import repeat
    from seglib.params import read_file

    path, given = place(options.params), read_parameters(options.parameters)
    values = read_file(path)
    run = options.run or given.get("run") or values.get("run", options.params.stem)
    again = repeat.is_of_a_run(path) and run != values.get("run")
    if again:
        values = repeat.prepare(path, values, given)
    code = _chain(values | given | {"run": run}, options.start, options.stop)
    if again and code == 0:
        repeat.compare(path.parent, run)
    return code


def _chain(values: Mapping[str, Any], start: str, stop: str) -> int:
    from seglib.params import Evaluate, Train, check_chain
    from seglib.pipeline import ChainError, run_chain
    from seglib.runs import Run, display_path, read_json

    shares = check_chain(values)
    run = Run(Run.folder(shares["02_train"].get("run", Train().run)))
    before = _findings()
    try:
        run_chain(shares, run.name, start, stop)
    except ChainError as error:
        if error.notebook == "01_data_check" and _print_new_findings(before):
            raise ChainError(
                error.notebook, error.error.split("\n")[0].rstrip(": ") + ".", error.saved
            ) from error
        raise
    split = shares["03_evaluate"].get("split", Evaluate().split)
    scores = run.evaluation(split) / "metrics.json"
    print(f"\nnotebooks  {display_path(run.notebooks)} (.ipynb, .html)")
    for what, path in (("pictures", run.outputs), ("scores", scores), ("failures", run.failures(split))):
        if path.exists():
            score = read_json(path).get("mean_iou") if path == scores else None  # null: no pixel was scored
            note = f" (mean IoU {score:.3f} on {split})" if isinstance(score, (int, float)) else ""
            print(f"{what:<9}  {display_path(path)}{note}")
    return 0


def _findings() -> dict[Path, tuple[int, int]]:
    """Every findings.csv and what tells whether it was written anew: clocks jump, so no comparison with the time."""
    from seglib.runs import project_root

    paths = (project_root() / "artifacts" / "data_check").glob("*/findings.csv")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def _print_new_findings(before: Mapping[Path, tuple[int, int]]) -> bool:
    """What 01 found before it stopped; nothing, and False, if it stopped before it had looked."""
    from seglib.runs import read_table

    for path, state in _findings().items():
        if before.get(path) != state:
            print_findings(read_table(path).to_dict("records"), path)
            return True
    return False


def _lab(options: argparse.Namespace) -> int:
    import subprocess

    from seglib.runs import project_root

    # The project is the server's root, so that the notebooks' links to artifacts/ open too.
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={project_root()}"]
    command += ["--LabApp.default_url=/lab/tree/notebooks/01_data_check.ipynb", *options.rest]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
