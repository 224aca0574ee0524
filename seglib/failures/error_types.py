"""Where the IoU was lost: every wrong pixel is of one kind, and an image's lost points add up to 1 - mIoU.

| kind | the first that is true of a wrong pixel, of true class t and predicted class p |
|---|---|
| false_negative | the t region was not found, the p region is real: its surroundings have swallowed it |
| misclassified | the t region was not found, the p region is not real: it is there under another name |
| boundary | the p region is real and p occurs in the ground truth nearby: an outline lies a little off |
| noise | the patch of wrong pixels is tiny and isolated |
| false_positive | the p region is not real: nothing of the kind is there |
| misclassified | all others, deep inside a region that was found |

After Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, for boxes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from seglib import metrics
from seglib.data import IGNORE, label_regions
from seglib.evaluate import Evaluation

ERROR_KINDS = ("boundary", "false_negative", "false_positive", "misclassified", "noise")
_BAND = 0.005  # nearby, as a share of the diagonal: Cityscapes' boundary; 0.02 would swallow poles and people
_NOISE = 1e-4  # share of the image's pixels up to which a patch of wrong pixels is noise; at least 4 pixels


def error_kinds(truth: np.ndarray, pred: np.ndarray, ratio: float = _BAND) -> np.ndarray:
    """Tell what kind of error each pixel of (H, W) uint8 class ids is: index into `ERROR_KINDS`, 255 for none.

    A region is a connected area (8-neighbourhood) of one class; 255 in `truth` separates regions. A true region
    is found, and a predicted region is real, if at least half of it lies within d = `boundary_width(shape,
    ratio)` pixels (|dx| and |dy|) of its class in the other mask.
    """
    kinds = np.full(truth.shape, IGNORE, np.uint8)
    pred = np.where(truth == IGNORE, IGNORE, pred)
    wrong = truth != pred
    width = metrics.boundary_width(truth.shape, ratio)
    near_truth = _near(truth, pred, wrong, width)
    found = _mostly(_near(pred, truth, wrong, width), truth, wrong)
    real = _mostly(near_truth, pred, wrong)
    patch, _, sizes = label_regions(wrong)
    rules = {  # regions first: else a missed pole, no wider than d, would be a matter of outlines
        "false_negative": ~found & real,
        "misclassified": ~found,
        "boundary": real & near_truth,
        "noise": sizes[patch[wrong]] <= max(4, round(_NOISE * truth.size)),
        "false_positive": ~real,
    }
    numbers = [ERROR_KINDS.index(name) for name in rules]
    kinds[wrong] = np.select(list(rules.values()), numbers, ERROR_KINDS.index("misclassified"))
    return kinds


def _mostly(near: np.ndarray, ids: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Tell of each wrong pixel (K,) whether at least half of its region is right or near."""
    labels, _, sizes = label_regions(ids)
    inside = labels[wrong]
    return (2 * np.bincount(inside[~near], minlength=len(sizes)) <= sizes)[inside]


def _near(ids: np.ndarray, wanted: np.ndarray, wrong: np.ndarray, width: int) -> np.ndarray:
    """Tell of each wrong pixel (K,) whether its class in `wanted` occurs in `ids` within `width`."""
    near, wanted = np.zeros(int(wrong.sum()), bool), wanted[wrong]
    classes = np.unique(wanted)
    for some in np.split(classes, range(32, len(classes), 32)):  # each class is one bit of a pass
        bits = np.zeros(IGNORE + 1, np.uint32)
        bits[some] = np.uint32(1) << np.arange(len(some), dtype=np.uint32)
        reach = _spread(_spread(bits[ids], width).T, width).T
        near |= (reach[wrong] & bits[wanted]) != 0
    return near


def _spread(bits: np.ndarray, width: int) -> np.ndarray:
    """(H, W) -> bits of all rows from `width` above to `width` below."""
    rows = np.pad(bits, ((width, width), (0, 0)))
    return np.bitwise_or.reduce(sliding_window_view(rows, 2 * width + 1, axis=0), axis=-1)


def wrong_counts(confusions: np.ndarray) -> np.ndarray:
    """Return confusion counts (..., C, C) with zeros for the right pixels, on the diagonal."""
    return confusions * (1 - np.eye(confusions.shape[-1], dtype=np.int64))


def pixel_price(confusion: np.ndarray, absent: str = "truth") -> np.ndarray:
    """Compute what each wrong pixel of each class costs the mIoU: (C,), all NaN where no class counts.

    A class loses 1 - IoU = (FP + FN) / union. A pixel of t called p is a FN of t and a FP of p, and costs both.
    """
    counted = ~np.isnan(metrics.image_class_iou(confusion[None], absent)[0])
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return counted / np.maximum(union, 1) / (counted.sum() or np.nan)


def lost_iou(truth: np.ndarray, pred: np.ndarray, price: np.ndarray) -> dict[str, float]:
    """Compute what one image loses to each kind of error, lost_<kind>, by the (C,) `pixel_price` of its classes."""
    kinds, lost = error_kinds(truth, pred), {}
    for k, kind in enumerate(ERROR_KINDS):
        errors = metrics.confusion_matrix(truth[kinds == k], pred[kinds == k], len(price))
        lost[f"lost_{kind}"] = float((errors * (price[:, None] + price)).sum())
    return lost


def repair_gains(confusion: np.ndarray, absent: str = "truth") -> np.ndarray:
    """Compute by how much an image's mIoU would rise if the pixels of one confusion were right: (C, C) float64.

    Exact: n[t, p] is moved to n[t, t] and the mIoU taken again; the union of p shrinks with it. Under the policy
    "union" a class that is no longer in truth or prediction stops counting. 0 for confusions that do not occur.
    """
    moved, hit = wrong_counts(confusion), confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit
    iou = metrics.image_class_iou(confusion[None], absent)[0]
    counted, before = ~np.isnan(iou), np.nan_to_num(iou)
    # t gains the pixels and keeps its union: they were in it as false negatives
    gain_t = moved * (counted / np.maximum(union, 1))[:, None]
    left = union - moved  # p's union without them
    gain_p = counted * hit / np.maximum(left, 1) - before
    number = counted.sum() - (counted & (left == 0))
    after = (before.sum() + gain_t + gain_p) / np.maximum(number, 1)
    return np.where(moved > 0, after - before.sum() / max(1, counted.sum()), 0.0)


def confusion_names(names: Sequence[str]) -> np.ndarray:
    """Name every confusion as "pole -> building": (C * C,), ground truth by ground truth."""
    return np.array([f"{t} -> {p}" for t in names for p in names], object)


def error_costs(evaluation: Evaluation, count: int | None = 10) -> pd.DataFrame:
    """Rank the confusions, `count` at most, by what their repair would bring the split's mean IoU (mIoU^D).

    Returns truth, prediction, pixels, share (of the true class), images (in which it occurs), gain (of mean IoU if
    these pixels were right) and gain_image (the mean of that over the images' own mIoUs).
    """
    confusions, names = evaluation.confusions, np.array(evaluation.classes.names, object)
    total, scored = confusions.sum(0), max(1, confusions.any((1, 2)).sum())  # images with valid pixels
    t, p = np.nonzero(wrong_counts(total))
    table = pd.DataFrame({"truth": names[t], "prediction": names[p], "pixels": total[t, p]})
    table["share"] = table["pixels"] / total.sum(1)[t]
    table["images"] = (confusions > 0).sum(0)[t, p]
    table["gain"] = repair_gains(total, "union")[t, p]
    gains = sum(repair_gains(one, evaluation.scores["absent"]) for one in confusions)
    table["gain_image"] = gains[t, p] / scored
    return table.sort_values("gain", ascending=False, kind="stable", ignore_index=True).head(count)
