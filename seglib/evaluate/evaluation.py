"""Predictions beside their masks -> every score of a split, written to `evaluation/<split>/` and read back.

It does not matter where the predictions come from: a checkpoint (`seglib.evaluate.predict`) or another tool's files.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from seglib import metrics
from seglib.data import ClassMap, Dataset, DatasetError, digests, load_dataset
from seglib.evaluate.predictions import check_predictions, external_predictions, run_dataset, save_ids
from seglib.metrics import (
    BINS,
    COUNTS,
    EDGES,
    SIZES,
    boundary_counts,
    boundary_iou,
    boundary_width,
    calibration_counts,
    expected_calibration_error,
    mean_confidence,
    mean_iou_interval,
    region_counts,
    region_iou,
    region_table,
    reliability_table,
)
from seglib.params import Evaluate
from seglib.runs import (
    Run,
    atomic_path,
    display_path,
    read_json,
    read_table,
    replace_folder,
    stored_path,
    write_csv,
    write_json,
)


@dataclass(frozen=True)
class Evaluation:
    """What 03 found out about one split.

    Args:
        run: whose predictions were scored.
        dataset: that they were scored on, as it is now.
        split: its name.
        scores: metrics.json.
        per_image, per_class, per_image_class_iou: the tables of the same names.
        confusions: (N, C, C) counts, in the order of `per_image`.
        calibration: calibration.csv (see `reliability_table`); None where the predictions tell no confidence.
        region_sizes: region_sizes.csv (see `region_table`).
    """

    run: Run
    dataset: Dataset
    split: str
    scores: dict
    per_image: pd.DataFrame
    per_class: pd.DataFrame
    per_image_class_iou: pd.DataFrame
    confusions: np.ndarray
    calibration: pd.DataFrame | None = None
    region_sizes: pd.DataFrame | None = None

    @property
    def classes(self) -> ClassMap:
        """Return the classes of the dataset."""
        return self.dataset.classes


@dataclass
class Tally:
    """What is counted of N images and C classes; every score is a sum or a ratio of sums of these.

    Args:
        confusions: (N, C, C) int64; rows are truth.
        boundary: (N, 2, C) int64 of `boundary_counts`; zeros where it is off.
        calibration: (N, 3, BINS) float64 of `calibration_counts`; zeros without confidences.
        regions: (N, 4, C, 3) int64 of `region_counts`.
        sizes: (N, 2) heights and widths of the masks.
    """

    confusions: np.ndarray
    boundary: np.ndarray
    calibration: np.ndarray
    regions: np.ndarray
    sizes: np.ndarray

    @classmethod
    def empty(cls, images: int, classes: int) -> Tally:
        return cls(
            np.zeros((images, classes, classes), np.int64),
            np.zeros((images, 2, classes), np.int64),
            np.zeros((images, 3, BINS)),
            np.zeros((images, len(COUNTS), classes, len(SIZES)), np.int64),
            np.zeros((images, 2), np.int64),
        )

    def add(
        self,
        i: int,
        truth: np.ndarray,
        pred: np.ndarray,
        confidence: np.ndarray | None,
        boundary_ratio: float,
    ) -> None:
        """Count image `i`: truth and prediction (H, W) ids, confidence (H, W) in [0, 1] or None."""
        classes = self.confusions.shape[-1]
        self.sizes[i] = truth.shape
        self.confusions[i] = metrics.confusion_matrix(truth, pred, classes)
        self.regions[i] = region_counts(truth, pred, classes)
        if boundary_ratio:
            self.boundary[i] = boundary_counts(truth, pred, classes, boundary_ratio)
        if confidence is not None:
            self.calibration[i] = calibration_counts(truth, pred, confidence)


def write_evaluation(
    run: Run,
    dataset: Dataset,
    params: Evaluate,
    predictions: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]],
    about: Mapping,
    progress: bool = False,
) -> Evaluation:
    """Score the predictions of a split as they come, and write `evaluation/<split>/`. One image is in memory at a time.

    Args:
        predictions: every image of the split once: position in the split, truth (H, W) uint8, prediction (H, W) uint8,
            confidence (H, W) float32 in [0, 1] or None.
        about: what metrics.json says of where they come from.
        progress: show a bar.
    """
    files = digests(dataset, params.split)
    # Whoever finds metrics.json finds a whole evaluation; an earlier one stays until this one is whole.
    with replace_folder(
        run.evaluation(params.split), ("predictions", "calibration.csv"), last="metrics.json"
    ) as folder:
        _write(folder, run, dataset, params, predictions, about, progress)
        write_json(folder / "data.json", {params.split: files})
    return open_evaluation(run, params.split, dataset)


def _write(
    folder: Path,
    run: Run,
    dataset: Dataset,
    params: Evaluate,
    predictions: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]],
    about: Mapping,
    progress: bool,
) -> None:
    samples, names = dataset.split(params.split), dataset.classes.names
    tally, ids = Tally.empty(len(samples), len(names)), samples["id"].tolist()
    started = time.perf_counter()
    stream = tqdm(
        predictions, f"scoring {params.split}", len(ids), leave=False, unit="image", disable=not progress
    )
    for i, truth, pred, confidence in stream:
        tally.add(i, truth, pred, confidence, params.boundary_ratio)
        save_ids(folder / "predictions" / f"{ids[i]}.png", pred, dataset.classes)
    seconds = time.perf_counter() - started
    per_image_iou = metrics.image_class_iou(tally.confusions, params.absent)
    class_iou = pd.DataFrame(per_image_iou, columns=list(names))
    class_iou.insert(0, "id", ids)
    per_class = metrics.per_class_table(tally.confusions, names, params.absent)
    per_class["boundary_iou"] = boundary_iou(tally.boundary.sum(0))
    pooled = tally.calibration.sum(0)
    write_csv(folder / "per_image.csv", _per_image(samples, tally, per_image_iou, names, params.absent))
    write_csv(folder / "per_class.csv", per_class)
    write_csv(folder / "per_image_class_iou.csv", class_iou)
    write_csv(folder / "region_sizes.csv", region_table(tally.regions.sum(0), names))
    if pooled.any():
        write_csv(folder / "calibration.csv", reliability_table(pooled))
    with atomic_path(folder / "confusions.npz") as temporary:
        np.savez_compressed(
            temporary, ids=np.array(ids), confusions=tally.confusions, classes=np.array(names), boundary=tally.boundary,
            calibration=tally.calibration,
        )  # fmt: skip
    head = {"run": run.name, "dataset": dataset.name, "split": params.split, "images": len(ids)}
    found = _scores(samples, tally, names, params)
    write_json(
        folder / "metrics.json", head | dict(about) | found | {"images_per_second": len(ids) / seconds}
    )


def interval_sentence(scores: Mapping[str, Any]) -> str:
    """The mean IoU of metrics.json with its interval, and what was resampled for it."""
    interval = scores["mean_iou_interval"]
    if interval["low"] is None or np.isnan(interval["low"]):
        return f"mean IoU {scores['mean_iou'] or np.nan:.3f}; too little is independent for an interval: {interval['basis']}"
    return (
        f"mean IoU {scores['mean_iou']:.3f}, {interval['level']:.0%} interval {interval['low']:.3f} to {interval['high']:.3f}; "
        f"resampled: {interval['basis']}"
    )


def _scores(samples: pd.DataFrame, tally: Tally, names: tuple[str, ...], params: Evaluate) -> dict:
    confusions = tally.confusions
    units, basis = metrics.independent_units(
        samples["group"].to_numpy(str), samples["frame"].to_numpy(float, na_value=np.nan)
    )
    interval = mean_iou_interval(confusions, units, seed=params.seed)
    widths = [boundary_width(size, params.boundary_ratio) for size in np.unique(tally.sizes, axis=0)]
    return {
        "absent": params.absent,
        **metrics.scores(confusions, params.absent),
        "mean_iou_interval": {"low": interval.low, "high": interval.high, "level": 0.95, "basis": basis},
        "mean_boundary_iou": metrics.nanmean(boundary_iou(tally.boundary.sum(0))),
        "mean_boundary_iou_image": metrics.nanmean(_image_boundary_iou(tally, params.absent)),
        "boundary": {
            "ratio": params.boundary_ratio,
            "width": "max(1, round(ratio x diagonal)) pixels" if params.boundary_ratio else "off",
            "narrowest": min(widths) if params.boundary_ratio else None,
            "widest": max(widths) if params.boundary_ratio else None,
        },
        "ece": expected_calibration_error(tally.calibration.sum(0)),
        "calibration_bins": BINS,
        "region_iou": dict(
            zip(SIZES, metrics.nanmean(region_iou(tally.regions.sum(0)), axis=0).tolist(), strict=True)
        ),
        "region_edges": EDGES,
        "classes_absent": [n for n, pixels in zip(names, confusions.sum((0, 2)), strict=True) if pixels == 0],
        "images_unscored": [samples["id"].iloc[i] for i in np.flatnonzero(confusions.sum((1, 2)) == 0)],
    }


def _image_boundary_iou(tally: Tally, absent: str) -> np.ndarray:
    """(N,) mean boundary IoU over the classes that count in the image, as for the IoU itself."""
    iou = boundary_iou(tally.boundary)
    if absent == "truth":
        iou[tally.confusions.sum(-1) == 0] = np.nan
    return metrics.nanmean(iou, axis=1)


def _per_image(
    samples: pd.DataFrame, tally: Tally, iou: np.ndarray, names: tuple[str, ...], absent: str
) -> pd.DataFrame:
    confusions = tally.confusions
    pixels = confusions.sum((1, 2))
    scored = ~np.isnan(iou).all(1)
    worst = np.full(len(iou), "", dtype=object)
    worst[scored] = np.array(names, object)[np.nanargmin(iou[scored], axis=1)]
    columns = samples[["id", "image", "mask", "group"]].reset_index(drop=True)
    return columns.assign(
        height=tally.sizes[:, 0],
        width=tally.sizes[:, 1],
        miou=metrics.nanmean(iou, axis=1),
        pixel_accuracy=np.trace(confusions, axis1=1, axis2=2) / np.where(pixels, pixels, np.nan),
        worst_class=worst,
        valid_pixels=pixels,
        boundary_iou=_image_boundary_iou(tally, absent),
        confidence=mean_confidence(tally.calibration),
    )


def open_evaluation(run: Run, split: str, dataset: Dataset | None = None) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Args:
        dataset: of the run, where it is open already; read from the run's parameters by default.

    Raises:
        FileNotFoundError: the split has not been evaluated; says which have.
        ValueError: a file is missing or damaged, or the tables are not those of the counts: no score is made of such a mixture.
    """
    folder = run.evaluation(split)
    if not (folder / "metrics.json").is_file():
        there = sorted(p.parent.name for p in folder.parent.glob("*/metrics.json"))
        raise FileNotFoundError(
            f"run {run.name!r} has no evaluation of split {split!r} (evaluated: {', '.join(there) or 'none'}). "
            f"Run 03_evaluate with run={run.name!r}, split={split!r} first."
        )
    calibration, region_sizes = folder / "calibration.csv", folder / "region_sizes.csv"
    scores = read_json(folder / "metrics.json", ["absent", "mean_iou"])
    found = Evaluation(
        run,
        dataset or run_dataset(run),
        split,
        scores | {"absent": Evaluate.check({"absent": scores["absent"]}).absent},
        _read_table(folder / "per_image.csv", ("id", "image", "mask", "group", "worst_class")),
        _read_table(folder / "per_class.csv", ("class",)),
        _read_table(folder / "per_image_class_iou.csv", ("id",)),
        _read_counts(folder / "confusions.npz"),
        _read_table(calibration) if calibration.is_file() else None,
        _read_table(region_sizes, ("class", "size")) if region_sizes.is_file() else None,
    )
    if fault := _disagreement(found):
        raise ValueError(f"{display_path(folder)} holds no whole evaluation: {fault}. Run 03_evaluate again.")
    return found


def _read_table(path: Path, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """A table whose columns `text` are taken as written: "0042", "null" and "" are names there, not numbers or gaps."""
    columns = read_table(path, nrows=0).columns
    if missing := [name for name in text if name not in columns]:
        raise ValueError(f"{display_path(path)} has no column {', '.join(missing)}. Run 03_evaluate again.")
    gaps = {name: [""] for name in columns if name not in text}
    table = read_table(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=gaps)
    if odd := [
        name for name in columns if name not in text and not pd.api.types.is_numeric_dtype(table[name])
    ]:
        raise ValueError(
            f"{display_path(path)} holds more than numbers in the column {odd[0]!r}. Run 03_evaluate again."
        )
    return table


def _read_counts(path: Path) -> np.ndarray:
    """(N, C, C) int64 of confusions.npz."""
    try:
        # Opened here: numpy forgets to close a file that is no archive.
        with path.open("rb") as file, np.load(file) as stored:
            counts = stored["confusions"]
    except (
        Exception
    ) as error:  # damaged archives raise OSError, BadZipFile, ValueError, KeyError, zlib.error, ...
        raise ValueError(f"{display_path(path)} cannot be read ({error}). Run 03_evaluate again.") from None
    if (
        counts.ndim != 3
        or counts.shape[1] != counts.shape[2]
        or counts.dtype.kind not in "iu"
        or (counts < 0).any()
    ):
        raise ValueError(
            f"{display_path(path)} holds no counts of images and classes. Run 03_evaluate again."
        )
    return counts


def _disagreement(found: Evaluation) -> str:
    """How the tables differ from the counts, in words; "" if they agree."""
    counts, images, names = found.confusions, found.per_image, list(found.classes.names)
    ids = images["id"].tolist()
    if counts.shape[1:] != (len(names), len(names)):
        return f"its counts are of {counts.shape[1]} classes, the dataset has {len(names)}"
    if not len(counts) == len(ids) == len(set(ids)) or found.per_image_class_iou["id"].tolist() != ids:
        return "its tables and its counts are not of the same images"
    if found.per_class["class"].tolist() != names or list(found.per_image_class_iou.columns) != [
        "id",
        *names,
    ]:
        return "its tables are of other classes than the dataset"
    iou, total = metrics.image_class_iou(counts, found.scores["absent"]), metrics.iou_per_class(counts.sum(0))
    told = {
        "per_image.csv": (images.get("miou"), metrics.nanmean(iou, axis=1)),
        "per_class.csv": (found.per_class.get("iou"), total),
        "per_image_class_iou.csv": (found.per_image_class_iou[names], iou),
        "metrics.json": (found.scores["mean_iou"], metrics.nanmean(total)),
    }
    for name, (stored, counted) in told.items():
        try:
            same = np.allclose(np.asarray(stored, float), counted, rtol=0, atol=1e-6, equal_nan=True)
        except (TypeError, ValueError):
            same = False
        if not same:
            return f"the scores in {name} are not those of its counts"
    return ""


def evaluate_predictions(
    name: str,
    folder: Path,
    dataset: str | Path,
    params: Evaluate,
    config: str | Path = "",
    progress: bool = False,
) -> Evaluation:
    """Score another tool's predictions with the same outputs as a checkpoint's, in a run of their own without a model.

    Args:
        name: of the run; scored anew if it holds predictions on the same dataset already.
        folder: one PNG of class ids an image of the split, `<id>.png` (see `foreign_predictions`).
        dataset, config: as for `load_dataset`.
        params: `split`, `absent`, `boundary_ratio` and `seed` count.

    Raises:
        FileExistsError: a run of that name was trained, or is of another dataset.
        DatasetError: predictions are missing, of another size, or hold ids outside the classes.
    """
    run, data = Run(Run.folder(name)), load_dataset(dataset, config)
    record = {
        "run": name,
        "dataset": stored_path(dataset),
        "config": stored_path(config) if config else "",
        "predictions": stored_path(folder),
    }
    trained = run.best_checkpoint.exists() or run.last_checkpoint.exists()
    if trained or (
        run.params.exists() and read_json(run.params, ["dataset"])["dataset"] != record["dataset"]
    ):
        what = "holds a trained model" if trained else "is of another dataset"
        raise FileExistsError(
            f"run {name!r} exists and {what} ({display_path(run.path)}). Choose another name with --run."
        )
    if Path(folder).resolve().is_relative_to(run.evaluation(params.split).resolve()):
        raise DatasetError(
            f"{display_path(folder)} is where the results go; expected another tool's predictions."
        )
    check_predictions(Path(folder), data, params.split)
    write_json(run.params, record)
    predictions = external_predictions(Path(folder), data, params.split)
    return write_evaluation(run, data, params, predictions, {"predictions": record["predictions"]}, progress)
