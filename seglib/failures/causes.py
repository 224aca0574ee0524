"""Why an image failed: one primary cause with evidence, a confidence and a suggestion, or "unexplained"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seglib import metrics
from seglib.checks import APART
from seglib.failures.error_types import repair_gains
from seglib.failures.label_errors import SURE as LABEL_SURE

# What each cause asks for, in the summary.
ADVICE = {
    "label error": "Correct or exclude the masks before anything else: no training can make up for them.",
    "degraded image": "Train with such a degradation if these images are expected in use, or exclude them.",
    "unlike training": "Label and add images like these.",
    "rare class": "Weight the class (class_weights) or add images that show it.",
    "small objects": "Train and predict at a higher resolution.",
    "class confusion": "Check that the labels of the two classes follow one rule; add images that show both.",
    "unexplained": "Look at them one by one; near the threshold, longer training may help.",
}
CAUSES = tuple(ADVICE)
DROP_COLUMNS = ["drop_vs_median", "drop_rare", "drop_class", "drop_class_iou", "drop_fix", "drop_fix_gain"]
SURE = 0.5  # a cause with less confidence is not stated
RARE = 0.01  # share of the training pixels below which a class is rare
_DOUBTED = 0.8  # label score from which a drop may be the label's fault
_NOVEL = 0.9  # share of the training images that have a nearer neighbour than the image has
# Times the uncertainty of the typical image from which the model is lost in an image: at a novelty of
# _STRANGE or more, and below it. Correct images of CamVid and the demo stay below 1.3.
_UNSURE, _STRANGE = (1.25, 1.5), 0.5
_SMALL_DROP = 0.02  # points of mIoU below the median that need no explanation
_NOT_FOUND, _HELD_BY = 0.05, 3  # a class of which less is found, in so many images, is never predicted
_GAINS = 1 << 24  # numbers in a table of pairs of classes

_AUGMENTATIONS = {"blur": "blur", "noise": "noise", "dark": "darkness", "washed out": "haze"}
_CORRECTIONS = {
    "swapped class": "Correct the class in its mask",
    "missing object": "Draw what its mask leaves out",
    "shifted mask": "Move its mask to where the outlines are",
    "mask of another image": "Find the mask that belongs to it",
}
_RARE = f"classes with less than {RARE:.0%} of the training pixels"
_ADD_LIKE_IT = "Label more images like it and train with them."
_ADD_CLASS = "Set class_weights='sqrt_inverse', crop closer, or add images that show them."
_ONE_RULE = "Check that the labels of the two follow one rule; then add images that show them side by side."
_WHY = "Neither label, image, training set nor class accounts for most of the lost IoU."
_RESOLUTION = "Train and predict at a higher resolution (long_side, tile), or crop closer."


class Claim(NamedTuple):
    """A cause, the confidence in it (0-1), and a sentence each of evidence and suggestion."""

    cause: str
    cause_confidence: float
    evidence: str
    suggestion: str


_UNEXPLAINED = Claim("unexplained", 0.0, _WHY, "Look at image, mask and prediction side by side.")


def explain(failures: pd.DataFrame) -> pd.DataFrame:
    """State the primary cause of each failed image.

    What lies outside of the model comes first: a wrong label, a degraded image, an image unlike training.
    Next come causes that account for half of the lost IoU: rare classes, small objects, one confusion. Last
    come those that account for half of the drop below the median image, and a model that is unsure all over
    the image. Of one rank the most confident is stated.

    Args:
        failures: the columns of failures.csv, as far as known: missing or NaN is no evidence.

    Returns:
        cause, cause_confidence, evidence and suggestion, in the order of `failures`.
    """
    claims = []
    for row in failures.to_dict("records"):
        ranks = (_outside_the_model(row), _half_of_the_loss(row), _half_of_the_drop(row))
        best = (max(rank, key=lambda claim: claim.cause_confidence) for rank in ranks)
        claim = next((claim for claim in best if claim.cause_confidence >= SURE), _UNEXPLAINED)
        claims.append(claim._replace(evidence=claim.evidence[:1].upper() + claim.evidence[1:]))
    return pd.DataFrame(claims, columns=Claim._fields, index=failures.index)


def _outside_the_model(row: Mapping[str, Any]) -> list[Claim]:
    kind, z = _text(row, "degradation"), _number(row, "degradation_z")
    degraded = 1 - 0.5 * (APART / z) ** 2 if kind and z >= APART else 0.0
    detail = _text(row, "degradation_detail") or f"{kind}: {z:.1f} standard deviations from training images."
    name = _AUGMENTATIONS.get(kind, kind)
    augment = f"Train with the augmentation {name!r} if such images are expected; else exclude it."
    novelty = _number(row, "novelty")
    # Distance alone is weaker evidence than a mask or an image that is visibly wrong.
    unlike = SURE + 0.25 * (novelty - _NOVEL) / (1 - _NOVEL) if novelty >= _NOVEL else 0.0
    far = f"Farther from its nearest training image than {novelty:.0%} of training images are from theirs."
    return [
        _label_error(row),
        Claim("degraded image", degraded, detail, augment),
        Claim("unlike training", unlike, far + _nearest(row), _ADD_LIKE_IT),
    ]


def _label_error(row: Mapping[str, Any]) -> Claim:
    kind, given, suggested = (_text(row, f"suspect_{part}") for part in ("kind", "given", "suggested"))
    what = "the model disagrees with the mask confidently and over a large area"
    if given and suggested:
        what = f"the model is sure of {suggested!r} where the mask says {given!r}"
    confidence = max(0.0, 1 - (1 - SURE) * (1 - _number(row, "label_score")) / (1 - LABEL_SURE))
    # A model that is lost in the image, or never predicts the mask's class, is no evidence against the mask.
    if _is_lost(row) or (given and given in _text(row, "never_predicted").split(", ")):
        confidence = 0.0
    correct = _CORRECTIONS.get(kind, "Compare its mask with the image and correct it")
    evidence = f"{kind}: {what}." if kind else f"{what}."
    return Claim("label error", confidence, evidence, f"{correct}, or exclude the image until that is done.")


def _half_of_the_loss(row: Mapping[str, Any]) -> list[Claim]:
    lost, gain = 1 - _number(row, "miou"), _number(row, "best_fix_gain")
    parts = (_number(row, name) for name in ("lost_rare", "lost_small", "best_fix_gain"))
    rare, small, fix = (min(1.0, part / lost) if lost > 0 else 0.0 for part in parts)
    of = "of the lost IoU is due to"
    confusion = f"One confusion, {_text(row, 'best_fix')}, costs {gain:.2f} of the lost {lost:.2f}."
    return [
        Claim("rare class", rare, f"{rare:.0%} {of} {_RARE}: {_text(row, 'rare_classes')}.", _ADD_CLASS),
        Claim("small objects", small, f"{small:.0%} {of} regions below 0.33 % of the image.", _RESOLUTION),
        Claim("class confusion", fix, confusion, _ONE_RULE),
    ]


def _half_of_the_drop(row: Mapping[str, Any]) -> list[Claim]:
    """State what makes an image worse than others; a label in doubt makes a class look bad in it alone."""
    drop, gain, unsure = (_number(row, name) for name in ("drop_vs_median", "drop_fix_gain", "unsure"))
    known = drop >= _SMALL_DROP and _number(row, "label_score") < _DOUBTED
    rare, fix = (min(1.0, part / drop) if known else 0.0 for part in (_number(row, "drop_rare"), gain))
    told = f"{rare:.0%} of its drop below the median image is due to {_RARE}: {_text(row, 'rare_classes')}."
    if classes := _text(row, "never_predicted"):
        told += f" The model hardly ever predicts {classes}."
    confusion = (
        f"One confusion, {_text(row, 'drop_fix')}, costs {gain:.2f} more than in the median image. "
        f"Classes below their median IoU cost {drop:.2f} in all, {_text(row, 'drop_class')!r} (median "
        f"{_number(row, 'drop_class_iou'):.2f}) the most."
    )
    lost = f"The model is {unsure:.1f} times as unsure all over it as in the typical image of this split."
    is_lost = SURE + 0.1 * min(1.0, unsure / _UNSURE[0] - 1) if _is_lost(row) else 0.0
    return [
        Claim("rare class", 0.25 + 0.5 * rare, told, _ADD_CLASS),
        Claim("class confusion", 0.25 + 0.5 * fix, confusion, _ONE_RULE),
        Claim("unlike training", is_lost, lost + _nearest(row), _ADD_LIKE_IT),
    ]


def _is_lost(row: Mapping[str, Any]) -> bool:
    """Whether the model is unsure all over the image; never in a training image, whose novelty is unknown."""
    known = not pd.isna(row.get("novelty"))
    return known and _number(row, "unsure") >= _UNSURE[_number(row, "novelty") < _STRANGE]


def _nearest(row: Mapping[str, Any]) -> str:
    nearest = row.get("nearest")
    return f" Nearest: {nearest[0]}." if isinstance(nearest, list) and nearest else ""


def _number(row: Mapping[str, Any], column: str) -> float:
    value = row.get(column)
    return 0.0 if value is None or not np.isfinite(value) else float(value)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


def summarise_causes(failures: pd.DataFrame) -> pd.DataFrame:
    """Count the failures of each cause, the most frequent first, "unexplained" last.

    Returns:
        cause, failures, share, lost (points of mIoU in all), examples (up to three ids), advice.
    """
    rows = []
    for cause, group in failures.groupby("cause", sort=False):
        examples = ", ".join(group["id"].head(3)) + (", ..." if len(group) > 3 else "")
        lost = float((1 - group["miou"]).sum())
        rows.append((cause, len(group), len(group) / len(failures), lost, examples, ADVICE[cause]))
    rows.sort(key=lambda row: (row[0] == "unexplained", -row[1]))
    return pd.DataFrame(rows, columns=["cause", "failures", "share", "lost", "examples", "advice"])


def class_losses(
    confusions: np.ndarray, names: tuple[str, ...], pixels: np.ndarray | None, absent: str
) -> pd.DataFrame:
    """Measure what each image of a split loses to rare classes, and what it does worse than the median image.

    The median of a class is taken over the images in which it counts. A rare class that is never predicted
    sets no standard: the median of the other classes takes its place.

    Args:
        confusions: (N, C, C) pixel counts; rows are ground truth.
        names: of the classes.
        pixels: (C,) training pixels of each class; None: unknown, then no class is rare.
        absent: policy of `metrics.image_class_iou`.

    Returns:
        N rows: lost_rare (points of mIoU), rare_classes (that lost any, the worst first), never_predicted
        (classes); drop_vs_median (points of mIoU that classes below their median IoU cost), drop_rare (the
        part of rare classes), drop_class (that costs most), drop_class_iou (its median IoU), drop_fix (its
        confusion whose repair would bring most beyond the median), drop_fix_gain (these points of mIoU).
    """
    rare = np.zeros(len(names), bool) if pixels is None else pixels / max(1, pixels.sum()) < RARE
    iou = metrics.image_class_iou(confusions, absent)  # (N, C)
    counted = np.maximum(np.count_nonzero(~np.isnan(iou), axis=1), 1)
    blind, median = never_predicted(confusions), pd.DataFrame(iou).median().to_numpy()
    if (known := ~blind & ~np.isnan(median)).any():
        median = np.where(rare & blind, np.median(median[known]), median)
    nowhere, usual, rows = ", ".join(np.array(names)[blind]), _median_gains(confusions, iou, absent), []
    for k in range(len(confusions)):
        lost = np.nan_to_num(1 - iou[k]) / counted[k]
        worst = [names[c] for c in np.argsort(-lost, kind="stable") if rare[c] and lost[c] > 0]
        drop = np.nan_to_num(np.maximum(median - iou[k], 0)) / counted[k]
        gains = np.nan_to_num(repair_gains(confusions[[k]], absent)[0]) - usual
        told = lost[rare].sum(), ", ".join(worst), nowhere, drop.sum(), drop[rare].sum()
        rows.append((*told, *_worst_drop(drop, gains, median, names)))
    return pd.DataFrame(rows, columns=["lost_rare", "rare_classes", "never_predicted", *DROP_COLUMNS])


def _worst_drop(drop: np.ndarray, gains: np.ndarray, median: np.ndarray, names: tuple[str, ...]) -> tuple:
    """Name the class that costs an image most, its median IoU, its worst confusion, and what that costs."""
    c = int(drop.argmax())
    if drop[c] <= 0:
        return "", np.nan, "", 0.0
    of_class = np.full(gains.shape, -np.inf)
    of_class[c], of_class[:, c] = gains[c], gains[:, c]
    t, p = np.unravel_index(of_class.argmax(), gains.shape)
    fix = (f"{names[t]} -> {names[p]}", gains[t, p]) if gains[t, p] > 0 else ("", 0.0)
    return names[c], median[c], *fix


def never_predicted(confusions: np.ndarray) -> np.ndarray:
    """Tell which classes, (C,) bool, three images hold and the model finds less than 5 % of."""
    pixels = confusions.sum(2)
    found = np.diagonal(confusions, axis1=1, axis2=2).sum(0)
    return ((pixels > 0).sum(0) >= _HELD_BY) & (found < _NOT_FOUND * pixels.sum(0))


def _median_gains(confusions: np.ndarray, iou: np.ndarray, absent: str) -> np.ndarray:
    """(C, C) median gain of repairing each confusion, over images in which its true class counts."""
    size = confusions.shape[-1]
    count = min(len(confusions), max(1, _GAINS // size**2))
    some = np.linspace(0, len(confusions) - 1, count).round().astype(int)
    gains = np.where(np.isnan(iou[some])[:, :, None], np.nan, repair_gains(confusions[some], absent))
    return np.nan_to_num(pd.DataFrame(gains.reshape(count, -1)).median().to_numpy().reshape(size, size))
