"""What `seglib check | evaluate | compare | init | fetch | plant | export | import` do; `seglib.cli` reads their options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from seglib.options import read_parameters

# Everything heavier than argparse is imported by the command that needs it.


def print_findings(findings: Iterable[Mapping[str, str]], path: Path, most: int = 3) -> None:
    """The first `most` findings of each check, the worst checks first, and where all of them are."""
    from seglib.runs import display_path

    checks: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for finding in findings:
        checks.setdefault((finding["severity"], finding["check"]), []).append(finding)
    for (severity, check), found in checks.items():
        print(f"{severity:<7}  {check} ({len(found)})")
        for finding in found[:most]:
            print(f"         {finding['detail']}")
        if len(found) > most:
            print(f"         ... and {len(found) - most} more")
        print(f"         -> {found[0]['suggestion']}")
    print(f"All findings: {display_path(path)}\n")


def check(options: argparse.Namespace) -> int:
    """Check a dataset; 1 when it has errors."""
    from seglib import checks
    from seglib.data import load_dataset
    from seglib.runs import check_name, project_root

    dataset = load_dataset(
        place(options.folder), place(options.config) if options.config else "", strict=False
    )
    check = checks.check_dataset(dataset, progress=sys.stderr.isatty())
    folder = project_root() / "artifacts" / "data_check" / check_name(dataset.name, "dataset")
    checks.write(check, folder)
    print_findings(check.findings.to_dict("records"), folder / "findings.csv")
    print(f"{dataset.name}: {checks.verdict(check)}")
    return int((check.findings["severity"] == "error").any())


def evaluate(options: argparse.Namespace) -> int:
    """Score another tool's predictions."""
    from seglib.evaluate import evaluate_predictions, interval_sentence
    from seglib.params import Evaluate
    from seglib.runs import Run, display_path

    folder = place(options.predictions)
    name = options.run or folder.resolve().name
    params = Evaluate.check({"run": name, "split": options.split} | read_parameters(options.parameters))
    config = place(options.config) if options.config else ""
    found = evaluate_predictions(
        name, folder, place(options.dataset), params, config, sys.stderr.isatty()
    ).scores
    print(f"{found['images']} images of {params.split}: {interval_sentence(found)}")
    print(f"scores   {display_path(Run.folder(name) / 'evaluation' / params.split)}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Compare two runs on the same images."""
    from seglib import evaluate
    from seglib.plots import run_comparison
    from seglib.runs import Run, display_path, save_figure

    first, second = Run.open(options.first), Run.open(options.second)
    found = evaluate.compare_runs(first, second, options.split, options.threshold)
    for table in (
        found.per_class,
        found.per_image[found.per_image["change"].isin(["fixed", "regressed"])].head(10),
    ):
        if len(table):
            print(table.round(3).to_string(index=False) + "\n")
    folder = evaluate.write_comparison(found, second)
    picture = run_comparison(found.per_image, first.name, second.name, options.threshold)
    save_figure(folder / "images.png", picture)
    print(evaluate.comparison_sentence(found))
    print(f"Tables and picture: {display_path(folder)}")
    return 0


def init(options: argparse.Namespace) -> int:
    """Draft a dataset.yaml."""
    from seglib.data import draft_dataset
    from seglib.runs import write_text

    folder = place(options.folder)
    path = folder / "dataset.yaml"
    draft = draft_dataset(folder)
    print(draft, end="")
    if path.exists():
        raise FileExistsError(
            f"{path} is there already and stays as it is; above is what would be drafted now."
        )
    write_text(path, draft)
    print(f"Written to {path}. Look it over, then: seglib check {options.folder}", file=sys.stderr)
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Download a known dataset."""
    from seglib.data import fetch
    from seglib.runs import display_path, resolve_path

    folder = fetch(
        options.name, Path.cwd() / options.to if options.to else resolve_path(f"data/{options.name}")
    )
    print(f"In {display_path(folder)}. Next: seglib check {display_path(folder)}")
    return 0


def place(path: str | Path) -> Path:
    """A path as a person at a terminal means it: from the working directory if it is there, else from the project root."""
    from seglib.runs import resolve_path

    path = Path(path).expanduser()
    return path.absolute() if path.exists() else resolve_path(path)


def plant(options: argparse.Namespace) -> int:
    """Copy a dataset with recorded faults."""
    from seglib.data import KINDS, load_dataset
    from seglib.data import plant as plant_faults
    from seglib.runs import display_path

    dataset = load_dataset(place(options.dataset), place(options.config) if options.config else "")
    kinds = options.kinds.split(",") if options.kinds else KINDS
    out = options.out.expanduser().absolute()
    table = plant_faults(dataset, out, kinds, options.share, options.splits.split(","), options.seed)
    print(
        table.groupby(["split", "kind"], sort=False)
        .size()
        .rename("samples")
        .reset_index()
        .to_string(index=False)
    )
    print(
        f"{len(table)} faults planted in {display_path(out)}; which and where: {display_path(out / 'planted.csv')}"
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Write suspected masks in a form that an annotation tool takes."""
    from seglib import failures
    from seglib.evaluate import run_dataset
    from seglib.failures import to_relabel
    from seglib.runs import Run, display_path

    run = Run.open(options.run)
    samples = options.ids.split(",") if options.ids else to_relabel(run.failures(options.split))
    if not samples:
        print(
            "No label of that split is in doubt, and no verdict says so: nothing to export. Name images with --ids."
        )
        return 0
    masks = run.evaluation(options.split) / "predictions" if options.masks == "predictions" else None
    write = failures.export_cvat if options.to == "cvat" else failures.export_label_studio
    out = write(samples, run_dataset(run), masks, options.out.expanduser().absolute())
    print(
        f"{len(samples)} images in {display_path(out)}. How they get into the tool and back: docs/annotation.md"
    )
    return 0


def import_masks(options: argparse.Namespace) -> int:
    """Turn what an annotation tool exported into mask files in the dataset's own form, in a folder of their own."""
    from seglib import failures
    from seglib.data import load_dataset
    from seglib.runs import display_path

    file, out = place(options.source), options.out.expanduser().absolute()
    dataset = load_dataset(place(options.dataset), place(options.config) if options.config else "")
    read = failures.import_cvat if file.suffix.lower() == ".zip" else failures.import_label_studio
    table = read(file, dataset, out)
    print(table.round(4).to_string(index=False))
    changed = int((table["changed"] > 0).sum())
    print(
        f"{changed} of {len(table)} masks changed"
        + (f"; in {display_path(out)}. Look, then copy them over." if changed else ".")
    )
    return 0
