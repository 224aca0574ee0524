"""Where the IoU was lost: every wrong pixel is of one kind, and the lost points of an image add up to 1 - mIoU.

The idea of giving each error one kind and asking what its repair would bring is TIDE's, for boxes: Bolya et al., TIDE: A General
Toolbox for Identifying Object Detection Errors, ECCV 2020. Here regions of pixels take the place of boxes, and the split is exact.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from seglib import metrics
from seglib.data import IGNORE, label_regions
from seglib.metrics import boundary_width

KINDS = ("boundary", "false_negative", "false_positive", "misclassified", "noise")
BAND = 0.005  # width of the boundary band as a share of the diagonal, Cityscapes'; 0.02 would swallow poles and pedestrians
SPECK = 1e-4  # share of the image's pixels up to which an isolated patch of wrong pixels is a speck; at least 4 pixels
_CHUNK = 1 << 24  # numbers that a table of pairs holds at a time


def error_kinds(truth: np.ndarray, pred: np.ndarray, ratio: float = BAND) -> np.ndarray:
    """What kind of error each wrong pixel is.

    A true region is a connected area (8-neighbourhood) of one class in the truth; it is *found* if at least half of it lies
    within d pixels of pixels predicted as its class. A predicted region is *real* if at least half of it lies within d pixels of
    true pixels of its class. Distances are those of a square, |dx| and |dy| at most d. A wrong pixel of true class t and
    predicted class p lies in one region of each sort, and is, by the first line that holds:

    - missed: its true region is not found, its predicted region is real: the surroundings have swallowed it.
    - swapped: its true region is not found, its predicted region is not real: it is there under another name.
    - boundary: both are there, and p occurs in the truth within d: an outline between the two lies a little beside its place.
    - specks: the patch of wrong pixels that it is in (connected, whatever their classes) has at most `SPECK` of the pixels.
    - invented: its predicted region is not real: something stands where nothing of the kind is.
    - swapped: both are there, but the pixel lies deeper in t's region than d: a part of it goes by the other's name.

    Regions come before the band: else a pole left out, no wider than d, would be called a matter of outlines. The d within which
    a region counts as found keeps a thin thing that is a few pixels off from being called missed and invented anew.

    Args:
        truth: (H, W) uint8 class ids; 255 is not scored, and parts regions.
        pred: (H, W) uint8 class ids; read only where truth is scored.
        ratio: d is `boundary_width(shape, ratio)`.

    Returns:
        (H, W) uint8: index into `KINDS`; 255 where the pixel is right or not scored.
    """
    kinds = np.full(truth.shape, IGNORE, np.uint8)
    pred = np.where(truth == IGNORE, IGNORE, pred)
    wrong = truth != pred
    if not wrong.any():
        return kinds
    width, at = boundary_width(truth.shape, ratio), np.flatnonzero(wrong)
    near_truth = _near(truth, at, pred.ravel()[at], width)
    found = _mostly(_near(pred, at, truth.ravel()[at], width), truth, at)
    real = _mostly(near_truth, pred, at)
    patch, _, sizes = label_regions(wrong)
    rules = {
        "false_negative": ~found & real,
        "misclassified": ~found,
        "boundary": real & near_truth,
        "noise": sizes[patch.ravel()[at]] <= max(4, round(SPECK * truth.size)),
        "false_positive": ~real,
    }
    kinds[wrong] = np.select(
        list(rules.values()), [KINDS.index(name) for name in rules], KINDS.index("misclassified")
    )
    return kinds


def _mostly(near: np.ndarray, ids: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Of each wrong pixel, whether at least half of the region of `ids` that it is in is right or near.

    Args:
        near: (K,) bool, of the wrong pixels.
        ids: (H, W).
        at: (K,) flat positions of the wrong pixels.
    """
    label, _, sizes = label_regions(ids)
    label = label.ravel()[at]
    return (2 * np.bincount(label[~near], minlength=len(sizes)) <= sizes)[label]


def _near(ids: np.ndarray, at: np.ndarray, wanted: np.ndarray, width: int) -> np.ndarray:
    """(K,) bool: whether `wanted[k]` occurs in `ids` (H, W) within `width` of the flat position `at[k]`.

    Each class is one bit, so that a few passes spread all classes at once.
    """
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=IGNORE + 1)[:IGNORE])
    near = np.zeros(len(at), bool)
    for some in np.split(present, range(32, len(present), 32)):
        bits = np.zeros(IGNORE + 1, np.uint32)
        bits[some] = np.uint32(1) << np.arange(len(some), dtype=np.uint32)
        reach = _spread(_spread(bits[ids], width).T, width).T
        near |= (reach.ravel()[at] & bits[wanted]) != 0
    return near


def _spread(bits: np.ndarray, width: int) -> np.ndarray:
    """(H, W) -> bits of all rows from `width` above to `width` below; windows are doubled until they are as wide."""
    rows = np.pad(bits, ((width, width), (0, 0)))
    span, full = 1, 2 * width + 1
    while span < full:
        step = min(span, full - span)
        rows = rows[:-step] | rows[step:]
        span += step
    return rows


def _count(kinds: np.ndarray, truth: np.ndarray, pred: np.ndarray, size: int) -> np.ndarray:
    wrong = kinds != IGNORE
    place = (kinds[wrong].astype(np.int64) * size + truth[wrong]) * size + pred[wrong]
    return np.bincount(place, minlength=len(KINDS) * size**2).reshape(len(KINDS), size, size)


def lost_by_pair(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """The points of mIoU that each confusion costs each image.

    The IoU that class c loses is 1 - IoU_c = (FP + FN) / union: each of its wrong pixels costs it 1 / union, and the image's mIoU
    that by the number of classes that count. A pixel of t called p is a FN of t and a FP of p, and costs both, each as far as it
    counts in the image (under "truth" a class that the truth lacks does not, and what is called so costs t alone).

    Args:
        confusions: (N, C, C) pixel counts; rows are truth.
        absent: policy of `metrics.image_class_iou`.

    Returns:
        (N, C, C) float64, the diagonal 0; each image's entries add up to 1 - mIoU. NaN for an image without a scored pixel.
    """
    wrong = confusions * (1 - np.eye(confusions.shape[-1], dtype=np.int64))
    price = _pixel_price(confusions, absent)
    return wrong * (price[:, :, None] + price[:, None, :])


def _pixel_price(confusions: np.ndarray, absent: str) -> np.ndarray:
    """(N, C): what a wrong pixel of a class costs the image's mIoU; 0 for a class that does not count; NaN: none counts."""
    counted = ~np.isnan(metrics.image_class_iou(confusions, absent))
    shared = np.maximum(_unions(confusions), 1) * counted.sum(1, keepdims=True)
    return np.divide(counted, shared, out=np.full(counted.shape, np.nan), where=shared > 0)


def _unions(confusions: np.ndarray) -> np.ndarray:
    """(..., C) TP + FP + FN."""
    return confusions.sum(-1) + confusions.sum(-2) - np.diagonal(confusions, axis1=-2, axis2=-1)


def lost_iou(
    truth: np.ndarray, pred: np.ndarray, num_classes: int, absent: str = "truth", ratio: float = BAND
) -> dict:
    """The points of mIoU that one image loses to each kind of error.

    Args:
        truth, pred, ratio: as of `error_kinds`.
        num_classes, absent: as of `lost_by_pair`.

    Returns:
        lost_boundary, lost_false_negative, lost_false_positive, lost_misclassified, lost_noise: floats that add up to 1 - mIoU of the image;
        all NaN where no pixel is scored.
    """
    price = _pixel_price(metrics.confusion_matrix(truth, pred, num_classes)[None], absent)[0]
    errors = _count(error_kinds(truth, pred, ratio), truth, pred, num_classes)
    lost = (errors * (price[:, None] + price[None, :])).sum((1, 2))
    return {f"lost_{kind}": float(points) for kind, points in zip(KINDS, lost, strict=True)}


def repair_gains(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """By how much each image's mIoU would rise if the pixels of one confusion were right and nothing else changed.

    Exact: n[t, p] is moved to n[t, t] and the mIoU taken again. It is not what the confusion costs (`lost_by_pair`): without its
    false positives the union of p shrinks, so that its other errors weigh more.

    Args:
        confusions: (N, C, C) pixel counts; rows are truth.
        absent: policy. Under "union" a class that the truth lacks and nothing is called any more ceases to count.

    Returns:
        (N, C, C) float64; 0 on the diagonal and for confusions that do not occur; NaN for an image without a scored pixel.
    """
    moved = confusions * (1 - np.eye(confusions.shape[-1], dtype=np.int64))
    hit, union = np.diagonal(confusions, axis1=-2, axis2=-1).astype(np.float64), _unions(confusions)
    iou = metrics.image_class_iou(confusions, absent)
    counted, before = ~np.isnan(iou), np.nan_to_num(iou)
    number = counted.sum(1)[:, None, None]
    # t gains the pixels and keeps its union: they were in it as false negatives.
    gain_t = moved * np.divide(counted, union, out=np.zeros_like(hit), where=union > 0)[:, :, None]
    left = union[:, None, :] - moved  # p's union without them
    after_p = (
        np.divide(hit[:, None, :], left, out=np.zeros(moved.shape), where=left > 0) * counted[:, None, :]
    )
    gone = (left == 0) & counted[:, None, :]
    total = before.sum(1)[:, None, None]
    mean = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    rest = np.maximum(number - gone, 1)
    return np.where(moved > 0, (total + gain_t + after_p - before[:, None, :]) / rest - mean, 0 * mean)


def best_repairs(confusions: np.ndarray, names: tuple[str, ...], absent: str = "truth") -> pd.DataFrame:
    """The confusion of each image whose repair would raise its mIoU most.

    Returns:
        N rows: best_fix ("pole -> building"; "" where nothing is wrong or scored), best_fix_gain (points of mIoU; 0 there).
    """
    size, rows = len(names), []
    step = max(1, _CHUNK // size**2)
    for start in range(0, len(confusions), step):
        gains = np.nan_to_num(repair_gains(confusions[start : start + step], absent)).reshape(-1, size**2)
        for best, gain in zip(gains.argmax(1), gains.max(1), strict=True):
            t, p = divmod(int(best), size)
            rows.append((f"{names[t]} -> {names[p]}", float(gain)) if gain > 0 else ("", 0.0))
    return pd.DataFrame(rows, columns=["best_fix", "best_fix_gain"])


def pair_costs(
    confusions: np.ndarray, names: tuple[str, ...], absent: str = "truth", count: int | None = 10
) -> pd.DataFrame:
    """The confusions that cost the split's mean IoU (mIoU^D) most, by what their repair would bring.

    Args:
        confusions: (N, C, C) of the split, or of some of its images.
        names: of the classes.
        absent: policy of the per-image figure; the split's own counts every class that occurs.
        count: the most rows; None: all pairs that occur.

    Returns:
        truth, prediction, pixels, share (of the true class's pixels), images (in which it occurs), lost (points of mean IoU; over
        all pairs they add up to 1 - mean IoU), gain (of mean IoU if these pixels were right), gain_image (the mean of that over
        the images' own mIoUs).
    """
    total = confusions.sum(0, keepdims=True)
    lost, gain = lost_by_pair(total, "union")[0], repair_gains(total, "union")[0]
    wrong = total[0] * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-np.where(wrong > 0, gain, -np.inf), axis=None, kind="stable")[: (wrong > 0).sum()][
        :count
    ]
    step = max(1, _CHUNK // len(names) ** 2)
    scored = confusions[confusions.any((1, 2))]
    image_gain = sum(
        repair_gains(scored[at : at + step], absent).sum(0) for at in range(0, len(scored), step)
    )
    rows = [
        {
            "truth": names[t],
            "prediction": names[p],
            "pixels": int(wrong[t, p]),
            "share": wrong[t, p] / total[0, t].sum(),
            "images": int((confusions[:, t, p] > 0).sum()),
            "lost": lost[t, p],
            "gain": gain[t, p],
            "gain_image": image_gain[t, p] / len(scored),
        }
        for t, p in (divmod(int(k), len(names)) for k in order)
    ]
    columns = ["truth", "prediction", "pixels", "share", "images", "lost", "gain", "gain_image"]
    return pd.DataFrame(rows, columns=columns)


def class_costs(confusions: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """Which class costs the split's mean IoU most: what it loses itself, and what a model without fault on it would gain.

    Args:
        confusions: (N, C, C) of the split, or of some of its images.

    Returns:
        class, iou, lost_called_else (points of mean IoU that its pixels under other names cost it), lost_others (that others'
        pixels under its name cost it; the two over all classes add up to 1 - mean IoU), gain (of mean IoU if all its pixels were
        right and nothing else were called so, other classes' share in that included); most gain first. A class that does not
        occur has NaN and comes last.
    """
    total = confusions.sum(0)
    wrong = total * (1 - np.eye(len(names), dtype=np.int64))
    hit, union, iou = np.diagonal(total).astype(np.float64), _unions(total), metrics.iou_per_class(total)
    price = np.where(union > 0, _pixel_price(total[None], "union")[0], np.nan)
    # Each row is a world in which one class is without fault: what was taken for it is right, what it was taken for is gone.
    union_then = union[None, :] - wrong
    iou_then = np.divide(hit + wrong.T, union_then, out=np.full(wrong.shape, np.nan), where=union_then > 0)
    np.fill_diagonal(iou_then, np.where(total.sum(1) > 0, 1.0, np.nan))
    gain = np.where(union > 0, metrics.nanmean(iou_then, axis=1) - metrics.nanmean(iou), np.nan)
    table = pd.DataFrame(
        {
            "class": names,
            "iou": iou,
            "lost_called_else": wrong.sum(1) * price,
            "lost_others": wrong.sum(0) * price,
            "gain": gain,
        }
    )
    return table.sort_values("gain", ascending=False, kind="stable", na_position="last", ignore_index=True)
