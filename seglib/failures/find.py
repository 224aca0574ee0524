"""The images on which the model fails: by which threshold, which ones, how badly, and by which confusions."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
from IPython.display import Markdown

from seglib import metrics
from seglib.evaluate import Evaluation
from seglib.failures.causes import summarise_causes
from seglib.failures.error_types import confusion_names, repair_gains, wrong_counts

_NEAR = 0.1  # within this of the limit: a near miss
_SEVERITIES = {"near-threshold": "near-threshold", "clear": "clear", "guessing": "no better than guessing"}


class Threshold(NamedTuple):
    """When an image fails, by mode.

    "absolute": its mIoU is below `value`; "percentile": it is among the share `value` (0-1) of the lowest;
    "per_class": the IoU of one of `classes` is below its own limit.
    """

    value: float = 0.5
    mode: str = "absolute"
    classes: dict[str, float] = {}  # noqa: RUF012  # never changed


def read_threshold(value: float, mode: str = "absolute", classes: str = "", names: tuple = ()) -> Threshold:
    """Read the parameters of 04 as a `Threshold`; what does not fit is a ValueError.

    `classes`, for "per_class", such as "person 0.5, sign 0.3, bicyclist": of `names`, with an IoU or `value`.
    """
    entries, limits = [part.strip() for part in classes.split(",") if part.strip()], {}
    if (mode == "per_class") != bool(entries):
        told = f"threshold_mode {mode!r} with class_thresholds {classes!r}: per_class needs classes"
        raise ValueError(f"{told} such as 'person 0.5', the others none.")
    for entry in entries:
        name, _, number = (entry, "", str(value)) if entry in names else entry.rpartition(" ")
        limit = float(number) if re.fullmatch(r"\d*\.?\d+", number) else np.nan
        if name not in names or name in limits or not limit <= 1:
            told = f"class threshold {entry!r}: expected a class, once, and an IoU from 0 to 1"
            raise ValueError(f"{told}. Classes: {', '.join(names)}.")
        limits[name] = limit
    return Threshold(value, mode, limits)


def cutoff(evaluation: Evaluation, threshold: Threshold) -> float:
    """Return the mIoU below which an image fails; at "per_class" the threshold's `value`."""
    miou = evaluation.per_image["miou"].dropna()
    if threshold.mode == "percentile" and len(miou):
        return float(np.percentile(miou, 100 * threshold.value))
    return threshold.value


def _limits(evaluation: Evaluation, threshold: Threshold) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each image and what it must reach: (N,) float64; "per_class": of its worst class."""
    if threshold.mode != "per_class":
        score = evaluation.per_image["miou"].to_numpy(float)
        return score, np.full(len(score), cutoff(evaluation, threshold))
    iou = evaluation.per_image_class_iou[list(threshold.classes)].to_numpy(float)
    limits = np.array(list(threshold.classes.values()))
    worst = np.where(np.isnan(iou), np.inf, iou - limits).argmin(1)
    return iou[np.arange(len(iou)), worst], limits[worst]


def failing(evaluation: Evaluation, threshold: Threshold) -> np.ndarray:
    """Tell which images fail: (N,) bool; an image at its threshold, or without a score, passes."""
    return np.less(*_limits(evaluation, threshold))


def describe(evaluation: Evaluation, threshold: Threshold) -> str:
    """Word what failures are, to finish "three images are ...": "below a mean IoU of 0.5"."""
    if threshold.mode == "per_class":
        named = (f"{limit:g} in {name}" for name, limit in threshold.classes.items())
        return f"below an IoU of {' or '.join(named)}"
    if threshold.mode == "absolute":
        return f"below a mean IoU of {threshold.value:g}"
    return f"below a mean IoU of {cutoff(evaluation, threshold):.3g}, the lowest {100 * threshold.value:g}%"


def find_failures(evaluation: Evaluation, threshold: float | Threshold = 0.5) -> pd.DataFrame:
    """Find the images below the threshold, worst first; an image without a valid pixel cannot fail.

    Returns id, miou, severity (guessing: not above the better baseline; near-threshold: within 0.1 of the limit; else
    clear), worst_class, worst_class_iou, top_confusion ("pole -> building"), top_confusion_share (of the valid
    pixels), group, best_fix (the confusion whose repair would raise its mIoU most; "" where nothing is wrong) and
    best_fix_gain (points of mIoU).
    """
    threshold = threshold if isinstance(threshold, Threshold) else Threshold(threshold)
    names, (score, limit) = evaluation.classes.names, _limits(evaluation, threshold)
    failed = score < limit
    images, counts = evaluation.per_image[failed].reset_index(drop=True), evaluation.confusions[failed]
    iou = evaluation.per_image_class_iou.loc[failed, list(names)]
    pairs, absent = confusion_names(names), evaluation.scores["absent"]
    wrong = wrong_counts(counts).reshape(-1, len(pairs))
    gains = np.reshape([repair_gains(one, absent) for one in counts], (-1, len(pairs)))
    near = np.where(score >= limit - _NEAR, "near-threshold", "clear")[failed]
    guess = images.get("baseline_miou", np.nan)  # unknown without a training split
    table = images[["id", "miou"]].assign(severity=np.where(images["miou"] <= guess, "guessing", near))
    table["worst_class"], table["worst_class_iou"] = images["worst_class"], iou.min(axis=1).to_numpy(float)
    table["top_confusion"] = np.where(wrong.any(1), pairs[wrong.argmax(1)], "")
    table["top_confusion_share"] = wrong.max(1) / images["valid_pixels"]
    table["group"], most = images["group"], gains.max(1)
    table["best_fix"], table["best_fix_gain"] = np.where(most > 0, pairs[gains.argmax(1)], ""), most
    return table.sort_values(["miou", "id"], ignore_index=True)


def class_view(evaluation: Evaluation, failures: pd.DataFrame) -> pd.DataFrame:
    """Tabulate how each class fares over the whole split and within the failures, the most lost first.

    Returns class, iou, iou_failures, failures (images that hold it), worst_in (failures whose worst class it is),
    pixel_share (of the split), mistaken_for (as what the failures show most of its lost pixels).
    """
    names, full = evaluation.classes.names, evaluation.confusions.sum(0)
    failed = evaluation.confusions[evaluation.per_image["id"].isin(failures["id"])]
    part, wrong = failed.sum(0), wrong_counts(failed.sum(0))
    table = pd.DataFrame({"class": names, "iou": metrics.iou_per_class(full)})
    table["iou_failures"], table["failures"] = metrics.iou_per_class(part), (failed.sum(2) > 0).sum(0)
    table["worst_in"] = [(failures["worst_class"] == name).sum() for name in names]
    table["pixel_share"] = full.sum(1) / max(1, full.sum())
    table["mistaken_for"] = np.where(wrong.any(1), np.array(names, object)[wrong.argmax(1)], "")
    return table.sort_values(["worst_in", "iou_failures"], ascending=[False, True], ignore_index=True)


def conclusion(evaluation: Evaluation, failures: pd.DataFrame, threshold: Threshold) -> Markdown:
    """Word how many images fail and how badly, then what each cause asks for; `failures` of an analysis."""
    total, failed, lowest = len(evaluation.per_image), len(failures), evaluation.per_image["miou"].min()
    below, lost = describe(evaluation, threshold), (1 - failures["miou"]).sum()
    if failed == 0:
        told = f"**No image of {total} is {below}**: the lowest has mIoU {lowest:.2f}.\n\n"
        return Markdown((told + evaluation.lost_classes()).strip())
    causes, counts = summarise_causes(failures), failures["severity"].value_counts()
    told = ", ".join(f"{row.cause} {row.failures}" for row in causes.itertuples())
    lines = [f"**{failed} of {total} images ({failed / total:.0%}) are {below}: {told}.**", ""]
    told = ", ".join(f"{counts[name]} {words}" for name, words in _SEVERITIES.items() if name in counts)
    lines += [f"How badly: {told}. What to do, by cause:", ""]
    for row in causes.sort_values("lost", ascending=False, kind="stable").itertuples():
        share = f"{row.lost / lost:.0%} of the IoU that failures lost"
        cause = f"{row.cause.capitalize()}: {row.failures} of {failed}, {share} ({row.examples})"
        lines.append(f"- {cause}. {row.advice}")
    return Markdown("\n".join([*lines, "", evaluation.lost_classes()]).strip())
