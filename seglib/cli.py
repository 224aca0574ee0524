"""`seglib demo | run | check | init | fetch | lab`: the notebooks and the package from a terminal."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Everything heavier than argparse is imported by the command that needs it: `seglib --help` answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; `sys.argv[1:]` when None.

    Returns:
        0 when it did what was asked, 1 when it could not (one message on stderr, no traceback unless `--debug`),
        130 when interrupted. Wrong usage leaves through argparse with code 2.
    """
    options = parse(argv)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("seglib: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:  # what seglib raises, with a message that says what to do
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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _add(commands, "demo", _demo, "make the demo dataset and run the four notebooks on it")
    demo.add_argument("--broken", action="store_true", help="the demo's broken twin: 01 finds its faults and stops")
    _add_parameters(demo)

    run = _add(commands, "run", _run, "run the notebooks with one parameter file")
    run.add_argument("--params", required=True, metavar="FILE", type=Path, help="YAML or JSON: `parameter: value`")
    run.add_argument("--run", metavar="NAME", help="name of the run (default: `run` in FILE, else FILE's own name)")
    run.add_argument("--from", dest="start", metavar="N", default="1", help="first notebook, such as 2 or 02_train")
    run.add_argument("--to", dest="stop", metavar="N", default="4", help="last notebook")
    _add_parameters(run)

    check = _add(commands, "check", _check, "check a dataset; exit code 1 when it has errors")
    check.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the dataset")
    check.add_argument("--recipe", default="", metavar="FILE", help="a dataset.yaml that lies elsewhere")

    init = _add(commands, "init", _init, "write a draft dataset.yaml from what a folder holds")
    init.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the dataset")

    fetch = _add(commands, "fetch", _fetch, "download a known dataset")
    fetch.add_argument("name", metavar="NAME", help="which one, such as camvid")
    fetch.add_argument("--to", metavar="FOLDER", type=Path, help="where to (default: data/NAME)")

    lab = _add(commands, "lab", _lab, "open JupyterLab on the notebooks")
    lab.epilog = "Other options are handed on to JupyterLab, such as --port=9999."
    return parser


def _add(commands: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(command=command)
    return parser


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[], help="a parameter; may be repeated"
    )


def _version() -> str:
    from seglib import __version__

    return __version__


def _demo(options: argparse.Namespace) -> int:
    from seglib.demo import make_demo
    from seglib.runs import resolve

    dataset = "data/demo_broken" if options.broken else "data/demo"
    make_demo(resolve(dataset), broken=options.broken)
    values = {"dataset": dataset, "run": Path(dataset).name} | read_parameters(options.parameters)
    return _chain(values, "1", "1" if options.broken else "4")


def _run(options: argparse.Namespace) -> int:
    values = read_file(_place(options.params)) | read_parameters(options.parameters)
    values["run"] = options.run or values.get("run", options.params.stem)
    return _chain(values, options.start, options.stop)


def _chain(values: Mapping[str, Any], start: str, stop: str) -> int:
    from seglib.chain import ChainError, run_chain
    from seglib.params import Evaluate, Train, check_chain
    from seglib.runs import Run, read_json, shown

    shares = check_chain(values)
    run = Run(Run.folder(shares["02_train"].get("run", Train().run)))
    begin = time.time()
    try:
        run_chain(shares, run.name, start, stop)
    except ChainError as error:
        if error.notebook == "01_data_check" and _print_new_findings(begin):
            raise ChainError(error.notebook, error.error.split("\n")[0].rstrip(": ") + ".", error.saved) from error
        raise
    split = shares["03_evaluate"].get("split", Evaluate().split)
    scores = run.evaluation(split) / "metrics.json"
    print(f"\nnotebooks  {shown(run.notebooks)} (.ipynb, .html)")
    for what, path in (("pictures", run.outputs), ("scores", scores), ("failures", run.failures(split))):
        if path.exists():
            note = f" (mean IoU {read_json(path)['mean_iou']:.3f} on {split})" if path == scores else ""
            print(f"{what:<9}  {shown(path)}{note}")
    return 0


def _print_new_findings(since: float) -> bool:
    """What 01 found before it stopped; nothing, and False, if it stopped before it had looked."""
    from seglib.runs import project_root

    for path in (project_root() / "artifacts" / "data_check").glob("*/findings.csv"):
        if path.stat().st_mtime >= since:
            with path.open(encoding="utf-8", newline="") as file:
                _print_findings(csv.DictReader(file), path)
            return True
    return False


def _print_findings(findings: Iterable[Mapping[str, str]], path: Path, most: int = 3) -> None:
    """The first `most` findings of each check, the worst checks first, and where all of them are."""
    from seglib.runs import shown

    checks: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for finding in findings:
        checks.setdefault((finding["severity"], finding["check"]), []).append(finding)
    for (severity, check), found in checks.items():
        print(f"{severity:<7}  {check} ({len(found)})")
        for finding in found[:most]:
            print(f"         {finding['detail']}")
        if len(found) > most:
            print(f"         ... and {len(found) - most} more")
        print(f"         -> {found[0]['remedy']}")
    print(f"All findings: {shown(path)}\n")


def _check(options: argparse.Namespace) -> int:
    from seglib import checks
    from seglib.dataset import load_dataset
    from seglib.runs import check_name, project_root

    dataset = load_dataset(_place(options.folder), _place(options.recipe) if options.recipe else "", strict=False)
    check = checks.check_dataset(dataset, progress=sys.stderr.isatty())
    folder = project_root() / "artifacts" / "data_check" / check_name(dataset.name, "dataset")
    checks.write(check, folder)
    _print_findings(check.findings.to_dict("records"), folder / "findings.csv")
    print(f"{dataset.name}: {checks.verdict(check)}")
    return int((check.findings["severity"] == "error").any())


def _init(options: argparse.Namespace) -> int:
    from seglib.draft import draft_dataset
    from seglib.runs import write_text

    folder = _place(options.folder)
    path = folder / "dataset.yaml"
    draft = draft_dataset(folder)
    print(draft, end="")
    if path.exists():
        raise FileExistsError(f"{path} is there already and stays as it is; above is what would be drafted now.")
    write_text(path, draft)
    print(f"Written to {path}. Look it over, then: seglib check {options.folder}", file=sys.stderr)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from seglib.fetch import fetch
    from seglib.runs import resolve, shown

    folder = fetch(options.name, Path.cwd() / options.to if options.to else resolve(f"data/{options.name}"))
    print(f"In {shown(folder)}. Next: seglib check {shown(folder)}")
    return 0


def _lab(options: argparse.Namespace) -> int:
    import subprocess

    from seglib.runs import project_root

    # The project is the server's root, so that the notebooks' links to artifacts/ open too.
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={project_root()}"]
    command += ["--LabApp.default_url=/lab/tree/notebooks/01_data_check.ipynb", *options.rest]
    return subprocess.run(command, check=False).returncode


def _place(path: str | Path) -> Path:
    """A path as a person at a terminal means it: from the working directory if it is there, else from the project root."""
    from seglib.runs import resolve

    path = Path(path).expanduser()
    return path.absolute() if path.exists() else resolve(path)


def read_file(path: Path) -> dict[str, Any]:
    """The parameters in a YAML or JSON file: one flat mapping of names to values.

    Raises:
        FileNotFoundError: no such file.
        ParameterError: not YAML, or not a mapping.
    """
    import yaml

    from seglib.params import ParameterError

    if not path.is_file():
        raise FileNotFoundError(f"no parameter file {path}. It is YAML or JSON, such as params/camvid.yaml.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParameterError(
            f"{path} holds {'nothing' if values is None else type(values).__name__}; expected lines `parameter: value`."
        )
    return {str(name): value for name, value in values.items()}


def read_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts -> values, read as YAML does (3, 0.1, true), except that a text parameter stays as written.

    Raises:
        ParameterError: no "=" in one of them, or a value that is not YAML.
    """
    import yaml

    from seglib.params import NOTEBOOKS, ParameterError

    texts = {n for model in NOTEBOOKS.values() for n, field in model.model_fields.items() if field.annotation is str}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise ParameterError(f"-p {pair}: expected NAME=VALUE, such as -p epochs=3.")
        try:
            values[name.strip()] = value if name.strip() in texts else yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParameterError(f"-p {pair}: {value!r} is not a value that YAML can read.") from None
    return values


if __name__ == "__main__":
    sys.exit(main())
