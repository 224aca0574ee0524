"""What counts as a failure: images below an mIoU, the lowest share of all images, or images in which a class is lost."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from seglib.evaluate import Evaluation

MODES = ("absolute", "percentile", "per_class")


class ThresholdError(ValueError):
    """A threshold that cannot be read or fits no class."""


@dataclass(frozen=True)
class Threshold:
    """When an image fails.

    Args:
        value: "absolute": the mIoU below which an image fails; "percentile": the share of the images (0-1) whose mIoU is taken
            as that threshold, so that 0.1 is the lowest tenth; "per_class": what classes without a number of their own take.
        mode: one of `MODES`.
        classes: "per_class": IoU by class name; an image fails when one of them falls below its own.
    """

    value: float = 0.5
    mode: Literal["absolute", "percentile", "per_class"] = "absolute"
    classes: dict[str, float] = field(default_factory=dict)


def read_threshold(
    value: float, mode: str = "absolute", classes: str = "", names: tuple[str, ...] = ()
) -> Threshold:
    """The parameters of 04 as a `Threshold`.

    Args:
        value: threshold, 0-1.
        mode: one of `MODES`.
        classes: "person 0.5, sign 0.3, bicyclist": class names, each with its own IoU threshold or without one, which takes
            `value`. Only for "per_class", and needed there.
        names: the dataset's classes.

    Raises:
        ThresholdError: an unknown mode or class, a number outside 0-1, a class twice, classes in a mode without them.
    """
    if mode not in MODES:
        raise ThresholdError(f"threshold_mode {mode!r}: expected one of {', '.join(MODES)}.")
    if not 0 <= value <= 1:
        raise ThresholdError(f"threshold = {value:g}: expected a number from 0 to 1.")
    entries = [part.strip() for part in classes.split(",") if part.strip()]
    if (mode == "per_class") != bool(entries):
        if entries:
            raise ThresholdError(
                f"class thresholds {classes!r} mean nothing in mode {mode!r}: set threshold_mode='per_class'."
            )
        raise ThresholdError(
            f"threshold_mode 'per_class' needs classes: expected text such as '{names[0] if names else 'person'} 0.5' "
            "with a name and its least IoU, several parted by commas."
        )
    limits: dict[str, float] = {}
    for entry in entries:
        name, limit = _entry(entry, value, names)
        if name in limits:
            raise ThresholdError(f"class {name!r} stands twice in {classes!r}; give it one threshold.")
        limits[name] = limit
    return Threshold(value, mode, limits)


def _entry(entry: str, value: float, names: tuple[str, ...]) -> tuple[str, float]:
    """Class and threshold of "person 0.5", "person: 0.5", "person=0.5" or "person"; a name may hold spaces and digits."""
    if entry in names:
        return entry, value
    parts = entry.replace("=", " ").replace(":", " ").split()
    name, number = " ".join(parts[:-1]), parts[-1] if parts else ""
    try:
        limit = float(number)
    except ValueError:
        name, limit = entry, value
    if name not in names:
        name = name or entry
        near = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ThresholdError(
            f"class threshold {entry!r}: no class {name!r}{hint}. Classes: {', '.join(names)}."
        )
    if not 0 <= limit <= 1:
        raise ThresholdError(f"class threshold {entry!r}: expected an IoU from 0 to 1.")
    return name, limit


def judged(evaluation: Evaluation, threshold: Threshold) -> tuple[np.ndarray, np.ndarray]:
    """The figure by which each image is judged, and the one that it should reach; below it, the image fails.

    Returns:
        score, limit: (N,) float64. The mIoU and the threshold (at "percentile": its value on these images); at "per_class" of
        each image the IoU and the threshold of the named class that falls furthest below its own, or clears it by least. NaN
        for images that cannot fail: without a scored pixel, or without any of the named classes.
    """
    if threshold.mode == "per_class":
        iou = evaluation.per_image_class_iou[list(threshold.classes)].to_numpy(float)
        limits = np.array(list(threshold.classes.values()))
        clear = np.where(np.isnan(iou), np.inf, iou - limits)
        worst = clear.argmin(1)
        score = np.take_along_axis(iou, worst[:, None], 1)[:, 0]
        return score, np.where(np.isnan(score), np.nan, limits[worst])
    score = evaluation.per_image["miou"].to_numpy(float)
    return score, np.where(np.isnan(score), np.nan, _cut(score, threshold))


def cutoff(evaluation: Evaluation, threshold: Threshold) -> float:
    """The mIoU below which an image of this evaluation fails; at "per_class" what classes without a number of their own take."""
    return _cut(evaluation.per_image["miou"].to_numpy(float), threshold)


def _cut(miou: np.ndarray, threshold: Threshold) -> float:
    """The mIoU below which an image fails."""
    known = miou[~np.isnan(miou)]
    if threshold.mode != "percentile" or not len(known):
        return threshold.value
    return float(np.percentile(known, 100 * threshold.value))


def failing(evaluation: Evaluation, threshold: Threshold) -> np.ndarray:
    """(N,) bool: which images fail, in the order of `evaluation.per_image`.

    An image exactly at its threshold passes; so, by percentile, do images that are all alike, whatever the share asked for.
    """
    score, limit = judged(evaluation, threshold)
    return score < limit


def describe(evaluation: Evaluation, threshold: Threshold) -> str:
    """What failures are, in words that finish "three images are ...": "below 0.5"."""
    if threshold.mode == "per_class":
        return "below an IoU of " + " or ".join(
            f"{limit:g} in {name}" for name, limit in threshold.classes.items()
        )
    if threshold.mode == "absolute":
        return f"below a mean IoU of {threshold.value:g}"
    return f"below a mean IoU of {cutoff(evaluation, threshold):.3g}, the lowest {100 * threshold.value:g}%"


def failure_curve(evaluation: Evaluation, threshold: Threshold) -> pd.DataFrame:
    """How many images would fail at every threshold.

    Returns:
        of ("mIoU", or a class named by a "per_class" threshold), threshold (0, 0.01, ..., 1, and the chosen one), images (that
        would fail), scored (that could), share (images / scored; NaN where none could), chosen (bool, one row of each `of`).
    """
    if threshold.mode == "per_class":
        table = evaluation.per_image_class_iou
        columns = [(name, table[name].to_numpy(float), limit) for name, limit in threshold.classes.items()]
    else:
        miou = evaluation.per_image["miou"].to_numpy(float)
        columns = [("mIoU", miou, _cut(miou, threshold))]
    parts = []
    for name, values, limit in columns:
        known = np.sort(values[~np.isnan(values)])
        steps = np.unique(np.append(np.arange(101) / 100, limit))
        below = np.searchsorted(known, steps)  # how many are below, not at, each
        share = below / len(known) if len(known) else np.full(len(steps), np.nan)
        part = {"of": name, "threshold": steps, "images": below, "scored": len(known), "share": share}
        parts.append(pd.DataFrame(part | {"chosen": steps == limit}))
    return pd.concat(parts, ignore_index=True)
