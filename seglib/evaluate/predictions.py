"""Predictions on disk: palette PNGs of class ids, those that seglib wrote and those of any other tool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from seglib import actions
from seglib.data import (
    IGNORE,
    ClassMap,
    Dataset,
    DatasetError,
    compare_digests,
    digests,
    load_dataset,
    read_mask,
    read_record,
    read_stored,
)
from seglib.params import Train
from seglib.runs import Run, atomic_path, display_path, read_json

if TYPE_CHECKING:
    from seglib.evaluate.evaluation import Evaluation

_NAMED = 3  # samples named in an error


def save_ids(path: Path, ids: np.ndarray, classes: ClassMap) -> None:
    """Write (H, W) class ids as a palette PNG: the index is the class id, the palette its colour."""
    picture = Image.fromarray(ids)
    picture.putpalette(classes.palette().tobytes())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def read_ids(path: Path) -> np.ndarray:
    """(H, W) uint8 class ids of a palette PNG that `save_ids` wrote.

    Raises:
        DatasetError: missing, damaged, or no picture of 8-bit ids.
    """
    ids = read_stored(path, f"prediction {path.name!r}")
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise DatasetError(
            f"{display_path(path)} holds no class ids of 8 bits. Run 03_evaluate again: it writes them."
        )
    return ids


def run_dataset(run: Run) -> Dataset:
    """The dataset that a run was trained on, read anew.

    Raises:
        FileNotFoundError, DatasetError: it has moved or changed.
    """
    stored = read_json(run.params, ["dataset", "config"])
    params = Train.check({name: stored[name] for name in ("dataset", "config")})
    return load_dataset(params.dataset, params.config)


def trained_on(run: Run, dataset: Dataset) -> Dataset:
    """The dataset without the samples that the run's actions left out of its training."""
    kept = run.path / "actions.yaml"
    left_out = [sample.id for sample in actions.read(kept).exclude] if kept.is_file() else []
    return replace(dataset, samples=dataset.samples[~dataset.samples["id"].isin(left_out)])


def changed_since_training(run: Run, dataset: Dataset) -> str:
    """In one sentence what became of the files that a run was trained and validated on; "" if nothing did.

    What its actions left out of the training does not count. Nothing is said of runs that kept no data.json.
    """
    dataset, changes = trained_on(run, dataset), []
    for split, before in read_record(run.data).items():
        now = digests(dataset, split) if split in dataset.splits else {}
        if found := compare_digests(before, now):
            changes.append(f"{split}: {found}")
    return (
        f"The data changed since run {run.name!r} was trained on it ({'; '.join(changes)})."
        if changes
        else ""
    )


def check_as_scored(run: Run, dataset: Dataset, split: str) -> None:
    """Refuse to go on when a split is no longer what 03 scored: its counts would be of other pictures.

    Raises:
        DatasetError: files changed, were added or are gone; says which.
    """
    before = read_record(run.evaluation(split) / "data.json").get(split)
    if before and (changes := compare_digests(before, digests(dataset, split))):
        raise DatasetError(
            f"split {split!r} changed since run {run.name!r} was evaluated on it: {changes}. Run 03_evaluate again, then 04.",
            "changed-since",
        )


def predicted_pairs(evaluation: Evaluation) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Stream the masks of an evaluated split beside its saved predictions: (id, truth (H, W), prediction (H, W))."""
    dataset = evaluation.dataset
    for sample in dataset.split(evaluation.split).itertuples():
        truth = read_mask(dataset.root / sample.mask, dataset.classes)
        yield sample.id, truth, saved_prediction(evaluation, sample.id, truth.shape)


def saved_prediction(evaluation: Evaluation, sample: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 class ids that 03 saved of one image.

    Args:
        size: (height, width) of its mask.

    Raises:
        DatasetError: as `read_ids`; another size, which is not what 03 scored.
    """
    path = evaluation.run.evaluation(evaluation.split) / "predictions" / f"{sample}.png"
    pred = read_ids(path)
    if pred.shape != size:
        raise DatasetError(
            f"{display_path(path)} is {pred.shape[1]}x{pred.shape[0]} (width x height), its mask {size[1]}x{size[0]}. "
            "Run 03_evaluate again."
        )
    return pred


def check_predictions(folder: Path, dataset: Dataset, split: str) -> None:
    """Refuse a folder that does not hold `<id>.png` for every sample of the split.

    Raises:
        DatasetError: no such folder, or predictions are missing; names the first three and counts all.
    """
    if not folder.is_dir():
        raise DatasetError(f"no folder of predictions at {folder}: expected one PNG of class ids an image.")
    samples = dataset.split(split)["id"].tolist()
    missing = [name for name in samples if not (folder / f"{name}.png").is_file()]
    if missing:
        raise DatasetError(
            f"no prediction for image {missing[0]!r}: expected {display_path(folder / f'{missing[0]}.png')}. {len(missing)} of "
            f"{len(samples)} images of split {split!r} lack one ({_some(missing)}). Predict them too, or name the files by the images' ids."
        )


def external_predictions(
    folder: Path, dataset: Dataset, split: str
) -> Iterator[tuple[int, np.ndarray, np.ndarray, None]]:
    """Another tool's predictions beside the masks of a split.

    Args:
        folder: `<id>.png` for every sample (see `check_predictions`): one channel or a palette, class ids in the order of
            dataset.yaml's classes, of the mask's size. What a prediction holds where the mask is not scored does not matter.

    Yields:
        position in the split, truth (H, W) uint8, prediction (H, W) uint8, None (a PNG of ids tells no confidence)

    Raises:
        DatasetError: after the last one, if some could not be used: says why of the first three, and counts all.
    """
    samples = dataset.split(split)
    faults = []
    for i, sample in enumerate(samples.itertuples()):
        truth = read_mask(dataset.root / sample.mask, dataset.classes, f"{sample.id!r} ({sample.mask})")
        try:
            pred = _foreign(folder / f"{sample.id}.png", truth, len(dataset.classes))
        except DatasetError as error:
            faults.append(str(error))
            continue
        yield i, truth, pred, None
    if faults:
        raise DatasetError(
            f"{len(faults)} of {len(samples)} predictions cannot be scored: {' | '.join(faults[:_NAMED])}"
        )


def _foreign(path: Path, truth: np.ndarray, classes: int) -> np.ndarray:
    name = f"prediction {path.name!r}"
    pred = read_stored(path, name)
    if pred.ndim != 2:
        raise DatasetError(
            f"{name} is an RGB image; expected one channel of class ids. Save ids, not colours."
        )
    if pred.shape != truth.shape:
        raise DatasetError(
            f"{name} is {pred.shape[1]}x{pred.shape[0]} (width x height), the mask {truth.shape[1]}x{truth.shape[0]}; expected "
            "equal sizes. Resize the logits to the mask's size before taking the most likely class, never the mask."
        )
    scored = truth != IGNORE
    wrong = np.unique(pred[scored & ((pred < 0) | (pred >= classes))])
    if len(wrong):
        raise DatasetError(
            f"{name} holds ids {{{', '.join(map(str, wrong[:8]))}}} on scored pixels; expected 0-{classes - 1}, in the order of "
            "dataset.yaml's classes. Is it another dataset's palette?"
        )
    return np.clip(pred, 0, IGNORE).astype(np.uint8)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
