"""The images on which the model fails: by which threshold, which ones, how badly, and by which confusions."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from seglib import metrics
from seglib.data import overlay
from seglib.evaluate import Evaluation, read_layers, save_ids
from seglib.failures import causes
from seglib.failures.error_types import best_repairs
from seglib.runs import atomic_path

MODES = ("absolute", "percentile", "per_class")
SEVERITIES = ("near-threshold", "clear", "guessing")
LAYERS = ("images", "masks", "predictions", "overlays")  # folders that hold a PNG of every failure
FINDINGS = ("confidences", "suspects", "nearest")  # folders that an analysis adds
_GUESSING = 0.1  # below this an image is no better than guessed
_NEAR = 0.1  # within this of the threshold, a failure is a near miss


class ThresholdError(ValueError):
    """A threshold that cannot be read or fits no class."""


@dataclass(frozen=True)
class Threshold:
    """When an image fails.

    Args:
        value: "absolute": the mIoU below which an image fails; "percentile": the share of the images (0-1)
            that fails; "per_class": the limit of classes without one of their own.
        mode: one of `MODES`.
        classes: "per_class": IoU by class name; an image fails when one of them falls below its own.
    """

    value: float = 0.5
    mode: Literal["absolute", "percentile", "per_class"] = "absolute"
    classes: dict[str, float] = field(default_factory=dict)


def read_threshold(
    value: float, mode: str = "absolute", classes: str = "", names: tuple[str, ...] = ()
) -> Threshold:
    """Read the parameters of 04 as a `Threshold`.

    Args:
        value, mode: of the `Threshold`.
        classes: for "per_class": "person 0.5, sign: 0.3, bicyclist", with an IoU or `value`.
        names: the dataset's classes.

    Raises:
        ThresholdError: an unknown mode or class, a number outside 0-1, classes twice or in another mode.
    """
    entries = [part.strip() for part in classes.split(",") if part.strip()]
    if mode not in MODES:
        raise ThresholdError(f"threshold_mode {mode!r}: expected one of {', '.join(MODES)}.")
    if not 0 <= value <= 1:
        raise ThresholdError(f"threshold = {value:g}: expected a number from 0 to 1.")
    if entries and mode != "per_class":
        raise ThresholdError(f"class thresholds {classes!r} need threshold_mode='per_class', not {mode!r}.")
    if mode == "per_class" and not entries:
        example = f"{names[0] if names else 'person'} 0.5"
        raise ThresholdError(f"threshold_mode 'per_class' needs classes: expected names such as {example!r}.")
    limits = [_read_entry(entry, value, names) for entry in entries]
    if len(dict(limits)) < len(limits):
        raise ThresholdError(f"a class is named twice in {classes!r}; give it one threshold.")
    return Threshold(value, mode, dict(limits))


def _read_entry(entry: str, value: float, names: tuple[str, ...]) -> tuple[str, float]:
    """Class and limit of "person 0.5", "person: 0.5", "person=0.5" or "person"; names may hold spaces."""
    if entry in names:
        return entry, value
    *name, number = entry.replace("=", " ").replace(":", " ").split() or [""]
    try:
        name, limit = " ".join(name) or entry, float(number)
    except ValueError:
        name, limit = entry, value
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ThresholdError(
            f"class threshold {entry!r}: no class {name!r}{hint}. Classes: {', '.join(names)}."
        )
    if not 0 <= limit <= 1:
        raise ThresholdError(f"class threshold {entry!r}: expected an IoU from 0 to 1.")
    return name, limit


def cutoff(evaluation: Evaluation, threshold: Threshold) -> float:
    """Return the mIoU below which an image fails; at "per_class" the threshold's `value`."""
    miou = evaluation.per_image["miou"].dropna()
    share = threshold.mode == "percentile" and len(miou)
    return float(np.percentile(miou, 100 * threshold.value)) if share else threshold.value


def _limits(evaluation: Evaluation, threshold: Threshold) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each image and what it must reach, (N,) float64; a NaN score cannot fail.

    "per_class": those of the named class that falls furthest below its limit, or clears it by least.
    """
    if threshold.mode != "per_class":
        score = evaluation.per_image["miou"].to_numpy(float)
        return score, np.full(len(score), cutoff(evaluation, threshold))
    iou = evaluation.per_image_class_iou[list(threshold.classes)].to_numpy(float)
    limits = np.array(list(threshold.classes.values()))
    worst = np.where(np.isnan(iou), np.inf, iou - limits).argmin(1)
    return iou[np.arange(len(iou)), worst], limits[worst]


def failing(evaluation: Evaluation, threshold: Threshold) -> np.ndarray:
    """Tell which images fail: (N,) bool, in the order of `per_image`; an image at its threshold passes."""
    score, limit = _limits(evaluation, threshold)
    return score < limit


def describe(evaluation: Evaluation, threshold: Threshold) -> str:
    """Word what failures are, to finish "three images are ...": "below a mean IoU of 0.5"."""
    if threshold.mode == "per_class":
        named = (f"{limit:g} in {name}" for name, limit in threshold.classes.items())
        return f"below an IoU of {' or '.join(named)}"
    if threshold.mode == "absolute":
        return f"below a mean IoU of {threshold.value:g}"
    return f"below a mean IoU of {cutoff(evaluation, threshold):.3g}, the lowest {100 * threshold.value:g}%"


def failure_curve(evaluation: Evaluation, threshold: Threshold) -> pd.DataFrame:
    """Count how many images would fail at every threshold.

    Returns:
        of ("mIoU" or a class of the threshold), threshold (0, 0.01, ..., 1, and the chosen one), images (that
        would fail), scored (that could), share (of those), chosen (bool, one row of each `of`).
    """
    chosen = threshold.classes or {"mIoU": cutoff(evaluation, threshold)}
    scores = evaluation.per_image_class_iou.assign(mIoU=evaluation.per_image["miou"].to_numpy())
    parts = []
    for name, limit in chosen.items():
        known = np.sort((scores if threshold.classes else scores[["mIoU"]])[name].dropna().to_numpy(float))
        steps = np.unique(np.append(np.arange(101) / 100, limit))
        below = np.searchsorted(known, steps)  # strictly below each step
        share = below / len(known) if len(known) else np.nan
        part = {"of": name, "threshold": steps, "images": below, "scored": len(known), "share": share}
        parts.append(pd.DataFrame(part | {"chosen": steps == limit}))
    return pd.concat(parts, ignore_index=True)


def find_failures(evaluation: Evaluation, threshold: float | Threshold = 0.5) -> pd.DataFrame:
    """Find the images below the threshold, worst first; an image without a valid pixel cannot fail.

    Args:
        threshold: of mIoU, or one of `read_threshold`.

    Returns:
        id, miou, severity (guessing: below 0.1; near-threshold: within 0.1 of it; clear: between; of the
        score that makes the image fail), worst_class, worst_class_iou, top_confusion ("pole -> building"),
        top_confusion_share (of the valid pixels), group, best_fix (the confusion whose repair would raise the
        mIoU most), best_fix_gain.
    """
    threshold = threshold if isinstance(threshold, Threshold) else Threshold(threshold)
    names, failed = evaluation.classes.names, np.flatnonzero(failing(evaluation, threshold))
    score, limit = (values[failed] for values in _limits(evaluation, threshold))
    images = evaluation.per_image.iloc[failed].reset_index(drop=True)
    counts, severity = evaluation.confusions[failed], np.where(score >= limit - _NEAR, *SEVERITIES[:2])
    wrong = (counts * (1 - np.eye(len(names), dtype=np.int64))).reshape(-1, len(names) ** 2)
    truth, pred = np.divmod(wrong.argmax(1), len(names))
    pixels = wrong.max(1)
    table = images[["id", "miou"]].assign(
        severity=np.where(score < _GUESSING, "guessing", severity),
        worst_class=images["worst_class"],
        worst_class_iou=evaluation.per_image_class_iou[list(names)].iloc[failed].min(axis=1).to_numpy(float),
        top_confusion=[
            f"{names[t]} -> {names[p]}" if n else "" for t, p, n in zip(truth, pred, pixels, strict=True)
        ],
        top_confusion_share=pixels / images["valid_pixels"],
        group=images["group"],
    )
    table = table.join(best_repairs(counts, names, evaluation.scores.get("absent", "truth")))
    return table.sort_values(["miou", "id"], ignore_index=True)


def failure_confusions(evaluation: Evaluation, failures: pd.DataFrame) -> np.ndarray:
    """Add up the (C, C) counts of the failed images; zeros when there are none."""
    return evaluation.confusions[evaluation.per_image["id"].isin(failures["id"])].sum(0)


def copy_layers(evaluation: Evaluation, failures: pd.DataFrame, folder: Path) -> None:
    """Write image, mask, prediction and overlay of every failure into the folders `LAYERS` of `folder`."""
    for name in LAYERS:
        (folder / name).mkdir(parents=True)
    for sample in failures["id"]:
        image, truth, pred = read_layers(evaluation, sample)
        save_ids(folder / "masks" / f"{sample}.png", truth, evaluation.classes)
        save_ids(folder / "predictions" / f"{sample}.png", pred, evaluation.classes)
        blended = overlay(image, pred, evaluation.classes)
        for kind, picture in {"images": image, "overlays": blended}.items():
            with atomic_path(folder / kind / f"{sample}.png") as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")


def class_view(evaluation: Evaluation, failures: pd.DataFrame) -> pd.DataFrame:
    """Tabulate how each class fares over the whole split and within the failures, the most lost first.

    Returns:
        class, iou, iou_failures, failures (images that hold it), worst_in (failures whose worst class it is),
        pixel_share (of the split), mistaken_for (as what the failures show most of its lost pixels).
    """
    names = evaluation.classes.names
    failed = evaluation.per_image["id"].isin(failures["id"]).to_numpy()
    full, part = evaluation.confusions.sum(0), evaluation.confusions[failed].sum(0)
    wrong = part * (1 - np.eye(len(names), dtype=np.int64))
    table = pd.DataFrame(
        {
            "class": names,
            "iou": metrics.iou_per_class(full),
            "iou_failures": metrics.iou_per_class(part),
            "failures": (evaluation.confusions[failed].sum(2) > 0).sum(0),
            "worst_in": [int((failures["worst_class"] == name).sum()) for name in names],
            "pixel_share": full.sum(1) / max(1, full.sum()),
            "mistaken_for": [names[int(row.argmax())] if row.any() else "" for row in wrong],
        }
    )
    return table.sort_values(["worst_in", "iou_failures"], ascending=[False, True], ignore_index=True)


@dataclass(frozen=True)
class Verdict:
    """The closing words of 04.

    Args:
        headline: how many fail and how badly, one sentence.
        points: what each cause asks for, the one that cost most first; empty when nothing fails.
    """

    headline: str
    points: tuple[str, ...] = ()

    def _repr_markdown_(self) -> str:
        return "\n".join([f"**{self.headline}**", "", *(f"- {point}" for point in self.points)])


def verdict(evaluation: Evaluation, failures: pd.DataFrame, threshold: float | Threshold) -> Verdict:
    """Word how many images fail and how badly, then what each cause asks for.

    Args:
        failures: with the columns `cause` and `miou` of an analysis.
        threshold: with which they were found.
    """
    below = describe(evaluation, threshold if isinstance(threshold, Threshold) else Threshold(threshold))
    total, failed, lowest = len(evaluation.per_image), len(failures), evaluation.per_image["miou"].min()
    if np.isnan(lowest):
        return Verdict(f"None of {total} images has a valid pixel. Look at the masks in 01_data_check.")
    if failed == 0:
        return Verdict(f"No image of {total} is {below}: a good result. The lowest has mIoU {lowest:.2f}.")
    counts = failures["severity"].str.replace("guessing", "no better than guessing").value_counts()
    kinds = [
        f"{counts[kind]} {kind}" for kind in (*SEVERITIES[:2], "no better than guessing") if kind in counts
    ]
    points = []
    found = causes.summarise_causes(failures).sort_values("lost", ascending=False, kind="stable")
    for row in found.itertuples():
        share = row.lost / (1 - failures["miou"]).sum()
        points.append(
            f"{row.cause.capitalize()}: {row.failures} of {failed}, {share:.0%} of the IoU that failures "
            f"lost ({row.examples}). {causes.ADVICE[row.cause]}"
        )
    headline = f"{failed} of {total} images ({failed / total:.0%}) are {below}: {', '.join(kinds)}."
    return Verdict(headline, tuple(points))
