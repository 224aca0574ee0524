"""Is the data sound? One pass over every file of a dataset -> findings, per-sample facts, class statistics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from seglib import runs
from seglib.classes import IGNORE
from seglib.dataset import FINDING_COLUMNS, Dataset, DatasetError, check_sizes, explain, read_image, read_mask

FEW_IMAGES = 5  # a class in fewer train images than this is learnt by heart, if at all
SMALL_SPLIT = 10  # a score on fewer images than this says little
MUCH_IGNORED = 0.9  # of a mask's pixels
FLAT = 2.0  # standard deviation of the grey values below which a picture shows nothing
# What is judged here beside the errors of reading (seglib.images) and pairing (seglib.pairing).
_CHECKS = {
    "blank-image": ("warning", "Look at it; exclude it if it shows nothing."),
    "all-ignored": ("warning", "It teaches nothing and has no score: label or exclude it."),
    "much-ignored": ("warning", "Is an id missing from the classes?"),
    "single-class": ("warning", "Look at it; exclude it if it was never labelled."),
    "no-train": ("warning", "02_train learns from train: rename a split, or add one."),
    "nothing-scored": ("error", "Check classes, ignore_ids and id_map in dataset.yaml."),
    "class-not-in-train": ("warning", "They cannot be learnt: add images of them, or drop the classes."),
    "class-not-in-split": ("warning", "They have no score there; the mean is over the others."),
    "few-images": ("warning", "Add images of them."),
    "small-split": ("warning", "Add images, or read its scores as anecdotes."),
    "shared-group": ("warning", "Neighbouring frames look alike, so such a score flatters: split by group."),
    "duplicate-across-splits": ("warning", "Keep one: a score on pictures seen in training flatters."),
    "duplicate-image": ("warning", "Keep one."),
    "modes-differ": ("info", "All are read alike."),
    "sizes-differ": ("info", "Training scales and crops or pads them."),
}
_FACTS = [
    "height",
    "width",
    "mode",
    "mask_mode",
    "ignore_share",
    "classes_present",
    "brightness",
    "contrast",
    "sharpness",
]
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class DataCheck:
    """What a pass over a dataset found.

    Args:
        findings: `severity` ("error", "warning", "info", in this order), `check`, `sample`, `split`, `detail`, `remedy`.
        samples: one row a complete pair: `id`, `split`, `group`, `height`, `width`, `mode` and `mask_mode` (as stored),
            `ignore_share` and `classes_present` of the mask, `brightness` (mean grey value, 0-255), `contrast` (its standard
            deviation), `sharpness` (variance of its Laplacian). Missing where a file could not be read.
        pixel_counts: (N, C) int64, scored pixels of each class in the rows of `samples`; zeros where there is no mask.
        class_stats: `split`, `class_id`, `class`, `pixels`, `pixel_share` (of scored pixels), `images`, `image_share`.
        summary: the counts as plain data.
    """

    findings: pd.DataFrame
    samples: pd.DataFrame
    pixel_counts: np.ndarray
    class_stats: pd.DataFrame
    summary: dict[str, Any]


def check_dataset(dataset: Dataset, progress: bool = False) -> DataCheck:
    """Read every image and mask once and judge them; a bad file becomes a finding and the pass goes on.

    Args:
        dataset: best loaded with `strict=False`, so that faults of names are listed beside faults of contents.
        progress: show a bar.
    """
    rows = list(dataset.samples.itertuples(index=False))
    # Decoding releases the interpreter's lock, so threads suffice; each holds one pair at a time.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done: Iterator = pool.map(lambda row: _inspect(dataset, row), rows)
        if progress:
            from tqdm.auto import tqdm

            done = tqdm(done, total=len(rows), desc="checking", unit="pair")
        facts = list(done)

    counts = np.array([f.pop("counts") for f in facts], np.int64).reshape(len(rows), len(dataset.classes))
    found = [finding for f in facts for finding in f.pop("findings")]
    samples = pd.DataFrame(facts, columns=["id", "split", "group", *_FACTS, "_hash"])
    samples = samples.astype({"height": "Int64", "width": "Int64"})
    found += _across(dataset, samples, counts)
    findings = pd.DataFrame([*dataset.problems.itertuples(index=False), *found], columns=FINDING_COLUMNS)
    findings["rank"] = findings["severity"].map(_SEVERITIES.index)
    findings = findings.sort_values("rank", kind="stable", ignore_index=True).drop(columns="rank")
    summary = {
        "dataset": dataset.name,
        "classes": list(dataset.classes.names),
        "samples": len(samples),
        "splits": {split: int((samples["split"] == split).sum()) for split in dataset.splits},
        "sizes": {f"{w}x{h}": int(n) for (w, h), n in samples.groupby(["width", "height"]).size().items()},
        "findings": {severity: int((findings["severity"] == severity).sum()) for severity in _SEVERITIES},
        "checks": {str(name): int(n) for name, n in findings.groupby("check").size().items()},
    }
    samples = samples.drop(columns="_hash")
    return DataCheck(findings, samples, counts, _class_stats(dataset, samples, counts), summary)


def _inspect(dataset: Dataset, row: Any) -> dict[str, Any]:
    """The facts and findings of one pair."""
    facts: dict[str, Any] = {"id": row.id, "split": row.split, "group": row.group, "_hash": None}
    findings = facts["findings"] = []

    def attempt(read: Callable, *args: Any) -> Any:
        try:
            return read(*args)
        except DatasetError as error:
            findings.append(("error", error.check, row.id, row.split, error.detail, error.remedy))

    image = attempt(read_image, dataset.root / row.image, f"{row.id!r} ({row.image})")
    mask = attempt(read_mask, dataset.root / row.mask, dataset.classes, f"{row.id!r} ({row.mask})")
    facts["counts"] = np.zeros(len(dataset.classes), np.int64)
    if image is not None:
        facts["mode"] = _stored_mode(dataset.root / row.image)
        facts["height"], facts["width"] = image.shape[:2]
        facts["brightness"], facts["contrast"], facts["sharpness"] = _look(image)
        facts["_hash"] = hashlib.blake2b(image.tobytes() + repr(image.shape).encode(), digest_size=16).digest()
        if facts["contrast"] < FLAT:
            detail = f"image {row.id!r} ({row.image}) is one flat colour."
            findings.append(_finding("blank-image", row.id, row.split, detail))
    if mask is not None:
        facts["mask_mode"] = _stored_mode(dataset.root / row.mask)
        count = np.bincount(mask.ravel(), minlength=256)
        facts["counts"] = count[: len(dataset.classes)]
        facts["classes_present"] = int((facts["counts"] > 0).sum())
        share = facts["ignore_share"] = float(count[IGNORE] / max(1, mask.size))
        if share == 1:
            check, what = "all-ignored", "has no scored pixel"
        elif share > MUCH_IGNORED:
            check, what = "much-ignored", f"ignores {share:.0%} of its pixels"
        elif facts["classes_present"] == 1 and len(dataset.classes) > 2:  # of two, one alone is an empty scene
            check, what = "single-class", f"holds nothing but {dataset.classes.names[int(facts['counts'].argmax())]!r}"
        else:
            check = ""
        if check:
            findings.append(_finding(check, row.id, row.split, f"mask {row.id!r} ({row.mask}) {what}."))
    if image is not None and mask is not None:
        attempt(check_sizes, row, image, mask)
    return facts


def _stored_mode(path: Path) -> str:
    with Image.open(path) as file:
        return file.mode


def _look(image: np.ndarray) -> tuple[float, float, float]:
    """Mean and standard deviation of the grey values (0-255), and the variance of their 4-neighbour Laplacian.

    The Laplacian's variance as a measure of focus: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy,
    ICPR 2000. It grows with noise and shrinks with magnification, so compare only like with like.
    """
    grey = (image @ np.array([77, 150, 29], np.uint16) >> 8).astype(np.int16)  # BT.601 weights, in 256ths
    inner = grey[1:-1, 1:-1]
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(grey.mean()), float(grey.std()), float(edges.var()) if edges.size else 0.0


def _class_stats(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    tables = []
    for split in dataset.splits:
        inside = counts[(samples["split"] == split).to_numpy()]
        pixels, images = inside.sum(axis=0), (inside > 0).sum(axis=0)
        tables.append(
            pd.DataFrame(
                {
                    "split": split,
                    "class_id": range(len(dataset.classes)),
                    "class": dataset.classes.names,
                    "pixels": pixels,
                    "pixel_share": pixels / max(1, pixels.sum()),
                    "images": images,
                    "image_share": images / len(inside),
                }
            )
        )
    columns = ["split", "class_id", "class", "pixels", "pixel_share", "images", "image_share"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _across(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Findings that no single pair shows."""
    members = {split: (samples["split"] == split).to_numpy() for split in dataset.splits}
    groups = {split: set(samples.loc[inside, "group"]) - {""} for split, inside in members.items()}
    if "train" not in members:
        yield _finding("no-train", "", "", "no split named train has samples.")
    for split, inside in members.items():
        images, train = (counts[inside] > 0).sum(axis=0), split == "train"
        absent = [name for name, n in zip(dataset.classes.names, images, strict=True) if n == 0]
        few = [f"{name} ({n})" for name, n in zip(dataset.classes.names, images, strict=True) if 0 < n < FEW_IMAGES]
        shared = sorted(groups[split] & groups.get("train", set()))
        if samples.loc[inside, "ignore_share"].isna().all():
            pass  # no mask could be read, which is said already
        elif not images.any():
            yield _finding("nothing-scored", "", split, f"no mask in {split} has a scored pixel.")
        elif absent:
            check = "class-not-in-train" if train else "class-not-in-split"
            yield _finding(check, "", split, f"never in {split}: {', '.join(absent)}.")
        if train and few:
            yield _finding("few-images", "", split, f"in fewer than {FEW_IMAGES} train images: {', '.join(few)}.")
        if not train and inside.sum() < SMALL_SPLIT:
            detail = f"{split} has {inside.sum()} images; fewer than {SMALL_SPLIT} say little."
            yield _finding("small-split", "", split, detail)
        if not train and shared:
            detail = f"{len(shared)} of {len(groups[split])} groups of {split} are in train too: {_some(shared)}."
            yield _finding("shared-group", "", split, detail)
    for _, same in samples[samples["_hash"].notna()].groupby("_hash", sort=False):
        if len(same) > 1:
            splits = list(dict.fromkeys(same["split"]))
            check = "duplicate-across-splits" if len(splits) > 1 else "duplicate-image"
            listed = _some([f"{split}/{name}" for split, name in zip(same["split"], same["id"], strict=True)])
            yield _finding(check, same["id"].iloc[-1], splits[-1], f"the same picture {len(same)} times: {listed}.")
    for column, what in (("mode", "images"), ("mask_mode", "masks")):
        modes = samples[column].value_counts()
        if len(modes) > 1:
            yield _finding("modes-differ", "", "", f"{what} are stored as {_counted(modes)}.")
    sizes = samples.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable")
    if len(sizes) > 1:
        sizes.index = [f"{w}x{h}" for w, h in sizes.index]
        yield _finding("sizes-differ", "", "", f"{len(sizes)} sizes (width x height): {_counted(sizes)}.")


def _finding(check: str, sample: str, split: str, detail: str) -> tuple[str, ...]:
    severity, remedy = _CHECKS[check]
    return severity, check, sample, split, detail, remedy


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _counted(counts: pd.Series) -> str:
    return _some([f"{name} ({n})" for name, n in counts.items()], 5)


def verdict(check: DataCheck) -> str:
    """One sentence: sound or not, and how many findings of which checks stand against it."""
    parts = []
    for severity in ("error", "warning"):
        names = check.findings.loc[check.findings["severity"] == severity, "check"].value_counts(sort=False)
        listed = ", ".join(f"{n} {name}" for name, n in names.items())
        total = int(names.sum())
        parts.append(f"{total or 'no'} {severity}{'s' * (total != 1)}" + (f" ({listed})" if listed else ""))
    sound = not (check.findings["severity"] == "error").any()
    return f"{'sound' if sound else 'not sound'}: {len(check.samples)} pairs, {parts[0]}, {parts[1]}."


def require_sound(check: DataCheck) -> None:
    """Stop here if the data has errors.

    Raises:
        DatasetError: of each check in each split the first error with its remedy, three ids and how many there are.
    """
    errors = check.findings[check.findings["severity"] == "error"]
    if len(errors):
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        detail = f"dataset {check.summary['dataset']!r} has {count}: {explain(errors)}"
        raise DatasetError(detail, str(errors["check"].iloc[0]))


def write(check: DataCheck, folder: str | Path) -> None:
    """Write findings.csv, samples.csv (with a `pixels <class>` column each), class_stats.csv and summary.json."""
    folder = Path(folder)
    runs.write_csv(folder / "findings.csv", check.findings)
    pixels = pd.DataFrame(check.pixel_counts, columns=[f"pixels {name}" for name in check.summary["classes"]])
    runs.write_csv(folder / "samples.csv", pd.concat([check.samples, pixels], axis=1))
    runs.write_csv(folder / "class_stats.csv", check.class_stats)
    runs.write_json(folder / "summary.json", check.summary | {"verdict": verdict(check)})


def class_weights(pixel_counts: np.ndarray, kind: str) -> np.ndarray:
    """Weights that lift rare classes in a loss, from the train split's pixel counts.

    "sqrt_inverse": w_c = 1 / sqrt(f_c), where f_c is the class's share of all pixels; milder than the plain inverse.
    "median_frequency": w_c = median(f) / f_c, where f_c is the class's share of the pixels of those images that hold it.

    Args:
        pixel_counts: (N, C) scored pixels of each class in each train image.
        kind: one of the two.

    Returns:
        (C,) float32, mean 1 over the classes that occur. A class that never occurs gets 1: training never uses it, and
        a zero would turn the loss of a validation batch that holds nothing else into 0 / 0.

    Source: median frequency balancing: Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels, ICCV 2015.
    """
    counts = np.asarray(pixel_counts, np.float64)
    pixels, present = counts.sum(axis=0), counts.sum(axis=0) > 0
    weights = np.ones(counts.shape[1])
    if kind == "sqrt_inverse":
        weights[present] = np.sqrt(pixels.sum() / pixels[present])
    elif kind == "median_frequency":
        around = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
        share = pixels[present] / around[present]
        weights[present] = np.median(share) / share
    else:
        raise ValueError(f"class weights {kind!r}: expected 'sqrt_inverse' or 'median_frequency'.")
    if present.any():
        weights[present] /= weights[present].mean()
    return weights.astype(np.float32)
