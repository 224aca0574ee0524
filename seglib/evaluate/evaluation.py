"""Predictions beside their ground truth -> every score of a split, written to `evaluation/<split>/`."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib import data, metrics, runs
from seglib.data import ClassMap, Dataset, DatasetError, compare_digests, digests
from seglib.params import Evaluate
from seglib.runs import Run, display_path

# position in the split, ground truth and prediction (H, W) uint8, confidence (H, W) in [0, 1] or None
Predictions = Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]
_HEADLINE = {
    "mean_iou": ("mean IoU", "the typical pixel"),
    "mean_iou_image": ("mean IoU of the images", "the typical image"),
    "mean_iou_class": ("mean IoU of the classes", "the typical image, rare classes included"),
    "mean_iou_image_worst_5": ("mean IoU, worst 5 % of images", "the worst images"),
    "mean_iou_class_worst_5": ("mean IoU, worst 5 % of each class", "the worst images of every class"),
    "mean_boundary_iou": ("boundary IoU", "the outlines alone"),
    "pixel_accuracy": ("pixel accuracy", "share of pixels that are right"),
    "mean_precision": ("precision", "share of predicted pixels that are right (none predicted: 0)"),
    "mean_recall": ("recall", "share of true pixels that are found"),
    "frequency_weighted_iou": ("frequency-weighted IoU", "large classes count more"),
    "ece": ("calibration error (ECE)", "confidence against accuracy; 0 is best"),
}
# Tables and their columns of text: "0042", "null" and "" are names there, not numbers or missing values.
_TEXT = {"per_image": ["id", "image", "mask", "group", "worst_class"], "per_image_class_iou": ["id"]}
_OPTIONAL = {"calibration": [], "region_sizes": ["class", "size"], "baselines": ["predictor"]}
_TEXT |= {"per_class": ["class"]} | _OPTIONAL
_BASELINE = ["predictor", "mean_iou", "mean_iou_image", "mean_iou_class", "pixel_accuracy"]
_GRID = (128, 128)  # common size of the mean mask: a finer one would show single masks for rare classes
_LOST = 1 / 3  # an IoU below it is an F1 below 0.5: more than two pixels are wrong for each right one


@dataclass(frozen=True)
class Evaluation:
    """What 03 found out about one split, and what was opened for it; tables are those of the same names."""

    run: Run
    dataset: Dataset  # that was scored
    split: str
    scores: dict  # metrics.json
    per_image: pd.DataFrame
    per_class: pd.DataFrame
    per_image_class_iou: pd.DataFrame
    confusions: np.ndarray  # (N, C, C) counts, in the order of `per_image`
    calibration: pd.DataFrame | None = None  # None where the predictions have no confidence
    region_sizes: pd.DataFrame | None = None
    baselines: pd.DataFrame | None = None  # of what never looks at the image; None without a training split

    classes = property(lambda self: self.dataset.classes)
    name = property(lambda self: self.scores.get("evaluation", self.split))  # of its folder

    @cached_property
    def training_dataset(self) -> Dataset:
        """Return the dataset of the run, which may be another than the one that was scored."""
        return self.dataset if self.name == self.split else run_dataset(self.run)

    def headline(self) -> pd.DataFrame:
        """Tabulate the scores to look at first, each with its value and what it stands for."""
        rows = {name: (self.scores.get(key), what) for key, (name, what) in _HEADLINE.items()}
        table = pd.DataFrame.from_dict(rows, "index", columns=[self.split, "stands for"])
        return table.astype({self.split: float}).rename_axis("score")

    def compare_with_baselines(self) -> pd.DataFrame:
        """Tabulate the baselines, if there is a split to learn them from, beside the model; the best last."""
        model = pd.DataFrame([{"predictor": "this model"} | self.scores])[_BASELINE]
        return pd.concat([self.baselines, model]).sort_values("mean_iou", kind="stable", ignore_index=True)

    def summary(self) -> str:
        """Word the mean IoU, its interval, over what it is taken, and the classes that the mean hides."""
        found, mean = self.scores["mean_iou_interval"], self.scores["mean_iou"]
        sure = f"no interval: too little is independent ({found['basis']})"
        if found["low"] is not None:
            sure = f"95 % interval {found['low']:.3f} to {found['high']:.3f} over {found['basis']}"
        return f"mean IoU {np.nan if mean is None else mean:.3f}, {sure}\n{self.lost_classes()}".strip()

    def lost_classes(self) -> str:
        """Warn of the classes of the ground truth that are nearly lost, with an IoU below 1/3; "" if none is."""
        total, names = self.confusions.sum(0), self.classes.names
        iou, images = metrics.iou_per_class(total), (self.confusions.sum(2) > 0).sum(0)
        lost = [c for c in np.argsort(iou, kind="stable") if images[c] and iou[c] < _LOST]
        told = ", ".join(f"{names[c]} {iou[c]:.2f} ({images[c]} images)" for c in lost)
        what = f"{len(lost)} of {len(names)} classes nearly lost, which the mean hides"
        return f"{what} (IoU below 1/3): {told}" if lost else ""


def run_dataset(run: Run) -> Dataset:
    """Open the dataset that a run was trained on."""
    stored = runs.read_json(run.params, ["dataset"])
    if not (folder := runs.resolve_path(stored["dataset"])).is_dir():
        told = f"{folder} is not there, on which run {run.name!r} was trained. If it was moved, correct dataset in"
        raise DatasetError(f"{told} {display_path(run.params)}.", "no-folder")
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


def write_evaluation(
    run: Run, dataset: Dataset, params: Evaluate, predictions: Predictions, about: dict, progress: bool
) -> Evaluation:
    """Score the predictions of a split as they come, in any order, and write `evaluation/<split>/`.

    `about` is what metrics.json says of them. An earlier evaluation stays until the new one is complete.
    """
    split, samples, classes = params.split, dataset.split(params.split), dataset.classes
    name = about.get("evaluation", split)
    files, ids, rows = digests(dataset, split), samples["id"].tolist(), [{}] * len(samples)
    count, unknown, off = len(classes), np.zeros((3, metrics.BINS)), np.zeros((2, len(classes)), np.int64)
    guesses = {}
    try:
        guesses = _learn_baselines(dataset if name == split else run_dataset(run))
    except DatasetError as error:
        if name == split:
            raise
        tqdm.write(f"No baselines: {error}")  # another dataset is scored without them
    started, replaced = time.perf_counter(), ("predictions", *(f"{what}.csv" for what in _OPTIONAL))
    with runs.replace_folder(run.evaluation(name), replaced, last="metrics.json") as new:
        bar = tqdm(predictions, f"scoring {split}", len(ids), leave=False, unit="image", disable=not progress)
        for i, truth, pred, confidence in bar:
            found = {"size": np.array(truth.shape), "boundary": off, "calibration": unknown}
            if ratio := params.boundary_ratio:
                found["boundary"] = metrics.boundary_counts(truth, pred, count, ratio)
            if confidence is not None:
                found["calibration"] = metrics.calibration_counts(truth, pred, confidence)
            found["confusions"] = metrics.confusion_matrix(truth, pred, count)
            found["regions"] = metrics.region_counts(truth, pred, count)
            for what, guess in guesses.items():
                found[what] = metrics.confusion_matrix(truth, _stretch(guess, truth.shape), count)
            rows[i] = found
            save_ids(new / "predictions" / f"{ids[i]}.png", pred, classes)
        speed = len(ids) / (time.perf_counter() - started)
        counts = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        tables = _tables(samples, counts, classes.names, params.absent)
        if guesses:
            rows = [metrics.scores(counts[what], params.absent) | {"predictor": what} for what in guesses]
            ranked = pd.DataFrame(rows)[_BASELINE].sort_values("mean_iou", kind="stable", ignore_index=True)
            better = counts[ranked["predictor"].iloc[-1]]
            tables["baselines"] = ranked
            tables["per_image"]["baseline_miou"] = metrics.image_miou(better, params.absent)
        for what, table in tables.items():
            runs.write_csv(new / f"{what}.csv", table)
        kept = {name: counts[name] for name in ("confusions", "boundary", "calibration")}
        with runs.atomic_path(new / "confusions.npz") as temporary:
            np.savez_compressed(temporary, ids=np.array(ids), classes=np.array(classes.names), **kept)
        head = {"run": run.name, "dataset": dataset.name, "split": split, "images": len(ids), **about}
        scores = head | _scores(samples, counts, tables, params) | {"images_per_second": speed}
        runs.write_json(new / "metrics.json", scores)
        runs.write_json(new / "data.json", {split: files})
    return open_evaluation(run, name, dataset)


def _learn_baselines(dataset: Dataset) -> dict[str, np.ndarray]:
    """Learn from the training masks what never looks at an image: predictor -> ids (128, 128); {} without any."""
    if "train" not in dataset.splits:
        return {}
    classes = len(dataset.classes)
    pixels, places = np.zeros(classes, np.int64), np.zeros((classes, *_GRID), np.int64)
    ids = np.arange(classes)[:, None, None]
    for row in dataset.split("train").itertuples():
        mask = data.read_mask(dataset.root / row.mask, dataset.classes)
        pixels += np.bincount(mask.ravel(), minlength=256)[:classes]
        places += _stretch(mask, _GRID) == ids
    majority = int(pixels.argmax())
    often = np.where(places.any(0), places.argmax(0), majority).astype(np.uint8)
    same = np.full_like(often, majority)
    return {f"majority class ({dataset.classes.names[majority]})": same, "mean mask": often}


def _stretch(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) uint8 ids to (height, width); interpolation would invent classes along outlines."""
    return np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))


def _tables(samples: pd.DataFrame, counts: dict, names: tuple[str, ...], absent: str) -> dict:
    confusions, calibration = counts["confusions"], counts["calibration"]
    pixels, iou = confusions.sum((1, 2)), metrics.image_class_iou(confusions, absent)
    class_iou, boundary_iou = pd.DataFrame(iou, columns=list(names)), metrics.boundary_iou(counts["boundary"])
    if absent == "truth":
        boundary_iou[confusions.sum(-1) == 0] = np.nan
    per_image = samples[["id", "image", "mask", "group"]].reset_index(drop=True)
    per_image[["height", "width"]] = counts["size"]
    per_image = per_image.assign(
        miou=metrics.nanmean(iou, axis=1),
        pixel_accuracy=np.trace(confusions, axis1=1, axis2=2) / np.where(pixels, pixels, np.nan),
        worst_class=class_iou.fillna(np.inf).idxmin(axis=1).where(class_iou.notna().any(axis=1), ""),
        valid_pixels=pixels,
        boundary_iou=metrics.nanmean(boundary_iou, axis=1),
        confidence=metrics.mean_confidence(calibration),
    )
    per_class = metrics.per_class_table(confusions, names, absent)
    per_class["boundary_iou"] = metrics.boundary_iou(counts["boundary"].sum(0))
    of_images = pd.concat([per_image["id"], class_iou], axis=1)
    tables = {"per_image": per_image, "per_class": per_class, "per_image_class_iou": of_images}
    tables["region_sizes"] = metrics.region_table(counts["regions"].sum(0), names)
    if calibration.any():
        tables["calibration"] = metrics.reliability_table(calibration.sum(0))
    return tables


def _scores(samples: pd.DataFrame, counts: dict, tables: dict, params: Evaluate) -> dict:
    per_image, per_class, ratio = tables["per_image"], tables["per_class"], params.boundary_ratio
    units, basis = units_of(samples, per_image["miou"])
    _, low, high = metrics.jackknife(counts["confusions"], units)[:, 0]
    lost = (per_class["pixels"] > 0) & (counts["confusions"].sum((0, 1)) == 0)
    sizes, width = np.unique(counts["size"], axis=0), "max(1, round(ratio x diagonal)) pixels"
    widths = [metrics.boundary_width(size, ratio) for size in sizes] if ratio else [None]
    boundary = {"ratio": ratio, "width": width if ratio else "off"}
    by_size = metrics.nanmean(metrics.region_iou(counts["regions"].sum(0)), axis=0)
    return {
        "absent": params.absent,
        **metrics.scores(counts["confusions"], params.absent),
        "mean_iou_interval": {"low": low, "high": high, "level": 0.95, "basis": basis},
        "mean_boundary_iou": metrics.nanmean(per_class["boundary_iou"]),
        "mean_boundary_iou_image": metrics.nanmean(per_image["boundary_iou"]),
        "boundary": boundary | {"narrowest": min(widths), "widest": max(widths)},
        "ece": metrics.expected_calibration_error(counts["calibration"].sum(0)),
        "calibration_bins": metrics.BINS,
        "region_iou": dict(zip(metrics.SIZES, by_size.tolist(), strict=True)),
        "region_edges": metrics.EDGES,
        "classes_absent": per_class.loc[per_class["pixels"] == 0, "class"].tolist(),
        "classes_never_predicted": per_class.loc[lost, "class"].tolist(),  # whose precision counts as 0
        "images_unscored": per_image.loc[per_image["valid_pixels"] == 0, "id"].tolist(),
    }


def units_of(samples: pd.DataFrame, scores: pd.Series) -> tuple[np.ndarray, str]:
    """Call `metrics.independent_units` for rows of the samples table and the scores of the images."""
    frames = samples["frame"].to_numpy(float, na_value=np.nan)
    return metrics.independent_units(samples["group"].to_numpy(str), frames, scores.to_numpy(float))


def open_evaluation(run: Run | str, split: str, dataset: Dataset | str | None = None) -> Evaluation:
    """Read what 03 wrote about a split; `dataset` is opened already, or the folder of another than the run's own.

    Raises FileNotFoundError where the split has not been evaluated, ValueError where what was written is damaged.
    """
    run = Run.open(run) if isinstance(run, str) else run
    split = evaluation_name(run, split, dataset) if isinstance(dataset, str) else split
    folder = run.evaluation(split)
    if not (folder / "metrics.json").is_file():
        there = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/metrics.json"))) or "none"
        told = f"run {run.name!r} has no evaluation of split {split!r} (evaluated: {there})"
        raise FileNotFoundError(f"{told}. Run 03_evaluate on it first.")
    scores = runs.read_json(folder / "metrics.json", ["absent", "mean_iou"])
    if not isinstance(dataset, Dataset):
        other = "dataset_path" in scores
        dataset = data.load_dataset(scores["dataset_path"], scores["config"]) if other else run_dataset(run)
    split = scores.get("split", split)
    try:
        there = [name for name in _TEXT if name not in _OPTIONAL or (folder / f"{name}.csv").is_file()]
        tables = {name: _read_table(folder / f"{name}.csv") for name in there}
        with (folder / "confusions.npz").open("rb") as file, np.load(file) as stored:
            found = Evaluation(run, dataset, split, scores, confusions=stored["confusions"], **tables)
        names, ious = list(found.classes.names), found.per_image_class_iou
        same = [*found.per_class["class"]] == names and [*ious.columns] == ["id", *names]
        if not same or found.per_image["id"].tolist() != ious["id"].tolist():
            raise ValueError("its tables are not of the same images and the dataset's classes")
    except Exception as error:  # damaged archives raise OSError, BadZipFile, KeyError, zlib.error, ...
        told = f"{display_path(folder)} is not a whole evaluation on dataset {dataset.name!r}"
        raise ValueError(f"{told} ({error}). Run 03_evaluate again.") from None
    return found


def _read_table(path: Path) -> pd.DataFrame:
    text = _TEXT[path.stem]
    blank = {name: [""] for name in runs.read_table(path, nrows=0).columns if name not in text}
    table = runs.read_table(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=blank)
    table.drop(columns=text).astype(float)  # raises where a column is missing, or holds text for numbers
    return table.rename(columns={"scored_pixels": "valid_pixels"})  # the name in older runs


def check_as_scored(evaluation: Evaluation) -> None:
    """Raise DatasetError where files of the split changed, were added or are gone since 03 scored it."""
    split, before = evaluation.split, recorded_digests(evaluation)
    if before and (changes := compare_digests(before, digests(evaluation.dataset, split))):
        told = f"split {split!r} changed since run {evaluation.run.name!r} was evaluated on it: {changes}."
        raise DatasetError(told, "changed-since", "Run 03_evaluate again, then 04.")


def recorded_digests(evaluation: Evaluation) -> dict[str, str]:
    """Read the digests that 03 took of the split's files, by path; none in runs of an older version."""
    path = evaluation.run.evaluation(evaluation.name) / "data.json"
    return runs.read_json(path).get(evaluation.split, {}) if path.is_file() else {}


def save_ids(path: Path, ids: np.ndarray, classes: ClassMap, **how: Any) -> None:
    """Write (H, W) uint8 class ids as a palette PNG, or as Pillow's options say: the index is the class id."""
    picture = Image.fromarray(ids)
    picture.putpalette(classes.palette().tobytes())
    with runs.atomic_path(path) as temporary:
        picture.save(temporary, **how or {"format": "PNG"})


def read_ids(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read the (H, W) uint8 ids that `save_ids` wrote; a damaged file or another `size`: DatasetError."""
    if not path.is_file():
        raise DatasetError(f"no prediction at {display_path(path)}: it was deleted. Run 03_evaluate again.")
    ids = data.read_stored(path, f"prediction {path.name!r}")
    if ids.dtype != np.uint8 or ids.shape != (size or ids.shape[:2]):
        told = f"{display_path(path)} is {ids.shape} {ids.dtype}, expected class ids of 8 bits"
        raise DatasetError(f"{told}, of the size of its mask {size or ''}. Run 03_evaluate again.")
    return ids


def saved_prediction(evaluation: Evaluation, sample: str, size: tuple[int, int]) -> np.ndarray:
    """Read the (H, W) uint8 class ids that 03 saved for one image; another size is a DatasetError."""
    return read_ids(evaluation.run.evaluation(evaluation.name) / "predictions" / f"{sample}.png", size)


def read_layers(evaluation: Evaluation, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read image (H, W, 3), ground truth and saved prediction (H, W), all uint8, of an image of the split."""
    split = evaluation.split
    rows = evaluation.dataset.split(split).set_index("id", drop=False)
    if sample not in rows.index:
        raise DatasetError(f"sample {sample!r} is no longer in split {split!r}. Run 03_evaluate again.")
    image, truth = data.read_pair(evaluation.dataset, rows.loc[sample])
    return image, truth, saved_prediction(evaluation, sample, truth.shape)
