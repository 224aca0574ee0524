"""What an image did worse than usual: against the typical image of its split, not against a perfect prediction.

Every image of a split loses most of its IoU to the same hard classes, and that cannot be why one of them fails and its
neighbour does not.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from seglib import metrics
from seglib.failures.error_types import repair_gains

_CHUNK = 1 << 24  # numbers that a table of pairs holds at a time
_UNSAID = 0.05  # share of a class's pixels found, below which the model does not say it ...
_HELD_BY = 3  # ... if so many images hold it
COLUMNS = ["drop_vs_median", "drop_rare", "drop_class", "drop_class_iou", "drop_fix", "drop_fix_gain"]


def shortfall(
    confusions: np.ndarray,
    places: np.ndarray,
    names: tuple[str, ...],
    rare: np.ndarray,
    absent: str = "truth",
) -> pd.DataFrame:
    """By how much images stay behind what each class usually reaches, and which class and confusion that is.

    Usual is the median over the images of the split in which the class counts. A rare class that the model says nowhere in the split
    (`unsaid`) has no usual: not to be found is no standard. What the model usually reaches on the other classes takes its place.

    Args:
        confusions: (N, C, C) pixel counts of all images of the split; rows are truth.
        places: (M,) the images asked about.
        names: of the classes.
        rare: (C,) bool.
        absent: policy of `metrics.image_class_iou`.

    Returns:
        M rows: behind: points of mIoU that its classes below their usual IoU cost together (those above it do not make up for
        that); drop_rare: the part of rare classes; drop_class: the class that costs most ("" where none does), drop_class_iou:
        its usual IoU; drop_fix: the confusion of that class whose repair would bring most beyond what it usually would
        ("pole -> building"; "" where there is none), drop_fix_gain: points of mIoU beyond the usual.
    """
    iou = metrics.image_class_iou(confusions, absent)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "All-NaN slice encountered", RuntimeWarning
        )  # a class that never counts
        usual = np.nanmedian(iou, axis=0)
    blind = unsaid(confusions)
    if (said := ~blind & ~np.isnan(usual)).any():
        usual = np.where(rare & blind, np.median(usual[said]), usual)
    counted = np.maximum((~np.isnan(iou[places])).sum(1, keepdims=True), 1)
    behind = np.nan_to_num(np.maximum(usual - iou[places], 0)) / counted
    common, size, rows = _usual_gains(confusions, iou, absent), len(names), []
    step = max(1, _CHUNK // size**2)
    for start in range(0, len(places), step):
        part = places[start : start + step]
        gains = np.nan_to_num(repair_gains(confusions[part], absent)) - common
        for lost, gain in zip(behind[start : start + step], gains, strict=True):
            worst = int(lost.argmax())
            of_it = np.zeros((size, size), bool)
            of_it[worst] = of_it[:, worst] = True
            t, p = divmod(int(np.where(of_it, gain, -np.inf).argmax()), size)
            swap = f"{names[t]} -> {names[p]}" if lost[worst] > 0 and gain[t, p] > 0 else ""
            known = (names[worst], float(usual[worst])) if lost[worst] > 0 else ("", np.nan)
            rows.append(
                (float(lost.sum()), float(lost[rare].sum()), *known, swap, float(gain[t, p]) if swap else 0.0)
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def unsaid(confusions: np.ndarray) -> np.ndarray:
    """Which classes the model hardly says at all: under a twentieth of their pixels found, though three images or more hold them.

    Args:
        confusions: (N, C, C) pixel counts of all images of the split; rows are truth.

    Returns:
        (C,) bool. Of a class in fewer images nothing is said: the labels may as well be at fault.
    """
    pixels = confusions.sum(2)
    found = np.diagonal(confusions, axis1=1, axis2=2).sum(0)
    return ((pixels > 0).sum(0) >= _HELD_BY) & (found < _UNSAID * pixels.sum(0))


def _usual_gains(confusions: np.ndarray, iou: np.ndarray, absent: str) -> np.ndarray:
    """(C, C) the median of what each confusion's repair would bring, over images in which its true class counts.

    Of more images than a table of pairs holds, evenly spaced ones.
    """
    size = confusions.shape[-1]
    most = max(1, _CHUNK // size**2)
    some = np.linspace(0, len(confusions) - 1, min(most, len(confusions))).round().astype(int)
    gains = np.where(np.isnan(iou[some])[:, :, None], np.nan, repair_gains(confusions[some], absent))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        return np.nan_to_num(np.nanmedian(gains, axis=0))
