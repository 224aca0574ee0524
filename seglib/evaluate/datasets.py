"""Which dataset a run was trained on, and which one it is scored on."""

import re
from dataclasses import replace
from pathlib import Path

from seglib import actions, data, runs
from seglib.data import Dataset, DatasetError, compare_digests, digests
from seglib.runs import Run, display_path


def run_dataset(run: Run) -> Dataset:
    """Open the dataset that a run was trained on."""
    stored = runs.read_json(run.params, ["dataset"])
    if not (folder := runs.resolve_path(stored["dataset"])).is_dir():
        told = f"{folder} is not there, on which run {run.name!r} was trained. If it was moved, start the chain at 03 with"
        raise DatasetError(f"{told} dataset=..., or correct {display_path(run.params)}.", "no-folder")
    return data.load_dataset(folder, stored.get("config", stored.get("recipe", "")))  # its name in older runs


def evaluation_name(run: Run, split: str, dataset: str, config: str = "") -> str:
    """Name the folder of an evaluation: its split, or "<folder>-<split>" of another dataset than the run's own."""
    own = runs.read_json(run.params, ["dataset"])
    if not dataset or runs.stored_path(dataset) == runs.stored_path(own["dataset"]):
        known = own.get("config", own.get("recipe", ""))
        if config and runs.stored_path(config) != runs.stored_path(known or "."):
            told = f"config = {config!r}, but run {run.name!r} was trained with {known!r}"
            raise ValueError(f"{told}. Leave it empty, or name the other dataset that it is of.")
        return split
    stored = runs.stored_path(dataset)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{Path(stored).name}-{split}").lstrip("._-")
    path = run.evaluation(name) / "metrics.json"
    if path.is_file() and (before := runs.read_json(path).get("dataset_path")) != stored:
        told = f"{display_path(path.parent)} is an evaluation of {before}, not of {stored}"
        raise FileExistsError(f"{told}. Delete or rename that folder.")
    return name


def trained_on(run: Run, dataset: Dataset) -> Dataset:
    """Return the dataset without the samples that the run's actions left out of its training."""
    kept = run.path / "actions.yaml"
    left_out = actions.read(kept).excluded if kept.is_file() else ()
    return replace(dataset, samples=dataset.samples[~dataset.samples["id"].isin(left_out)])


def changed_since_training(run: Run, dataset: Dataset) -> str:
    """Word which files changed since the run was trained on them; "" if none did or none are known."""
    dataset, changes = trained_on(run, dataset), []
    for split, before in (runs.read_json(run.data) if run.data.is_file() else {}).items():
        if found := compare_digests(before, digests(dataset, split) if split in dataset.splits else {}):
            changes.append(f"{split}: {found}")
    told = f"The data changed since run {run.name!r} was trained on it ({'; '.join(changes)})."
    return told if changes else ""
