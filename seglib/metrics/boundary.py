"""Boundary IoU: how well the outlines agree, in the same small currency as the confusion counts: sums over images.

Source: Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021.
"""

from __future__ import annotations

import math

import numpy as np

from seglib.data import IGNORE


def boundary_width(size: tuple[int, int], ratio: float) -> int:
    """d = max(1, round(ratio x image diagonal)): how many pixels of a mask, from its outline inwards, are its boundary.

    Args:
        size: (height, width) of the mask.
        ratio: 0.02 is COCO's and LVIS's, 0.005 Cityscapes'.
    """
    return max(1, round(ratio * math.hypot(*size)))


def boundary_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int, ratio: float = 0.02) -> np.ndarray:
    """Pixels in the intersection and in the union of the true and the predicted boundary, class by class.

    The boundary of a class is its binary mask minus the mask's erosion by `boundary_width` iterations of a 3 x 3 square; the
    image's border counts as background. Pixels that are not scored are taken out of both masks before the erosion, so that the
    rim of an unlabelled area is a boundary on both sides alike.

    Args:
        truth: (H, W) class ids; 255 is not scored.
        pred: (H, W) class ids below `num_classes`; read only where truth is scored.
        num_classes: C.
        ratio: width of the boundary as a share of the image's diagonal, above 0.

    Returns:
        (2, C) int64: intersections, unions. Those of several images may be added. A union of 0: the class is in neither mask.

    Raises:
        ValueError: shapes that differ, an id outside the classes, or a ratio of 0 or less.
    """
    if truth.shape != pred.shape:
        raise ValueError(
            f"truth is {truth.shape}, prediction {pred.shape}: they must be of one size. Resize logits, never masks."
        )
    if ratio <= 0:
        raise ValueError(f"boundary ratio {ratio}: expected a share of the diagonal above 0, such as 0.02.")
    width = boundary_width(truth.shape, ratio)
    scored = truth != IGNORE
    pred = np.where(scored, pred, IGNORE)
    true_rim, pred_rim = (scored & ~_inside(ids, width) for ids in (truth, pred))

    def count(ids: np.ndarray, where: np.ndarray) -> np.ndarray:
        counts = np.bincount(ids[where], minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"a mask holds id {len(counts) - 1}; expected 0-{num_classes - 1}.")
        return counts

    both = count(truth, true_rim & pred_rim & (truth == pred))
    return np.stack([both, count(truth, true_rim) + count(pred, pred_rim) - both])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """(..., 2, C) counts of `boundary_counts` -> (..., C) boundary IoU in [0, 1]; NaN where the union is empty."""
    both, either = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    return np.divide(both, either, out=np.full(either.shape, np.nan), where=either > 0)


def _inside(ids: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels around which the (2 width + 1)-square lies in the image and holds their own id alone.

    That is the erosion of every class's mask at once: `width` erosions by 3 x 3 are one by that square, and a pixel survives
    in its class's mask exactly if the square is of one id. The cost depends on neither the width nor the number of classes.
    """
    height, length = ids.shape
    inside = np.zeros((height, length), bool)
    if min(height, length) <= 2 * width:
        return inside
    # Rows first: which pixels have `width` equal neighbours on either side; then columns of such pixels of one id.
    even = _unchanged(ids[:, 1:] != ids[:, :-1], width, axis=1)
    column = ids[:, width:-width]
    broken = (column[1:] != column[:-1]) | ~even[1:] | ~even[:-1]
    inside[width:-width, width:-width] = _unchanged(broken, width, axis=0)
    return inside


def _unchanged(changes: np.ndarray, width: int, axis: int) -> np.ndarray:
    """Whether none of the 2 x width steps around a pixel is a change; only for pixels that have them all."""
    total = np.cumsum(changes, axis=axis, dtype=np.int32)
    total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis=axis)
    last = total.shape[axis]
    window = np.arange(2 * width, last)
    return total.take(window, axis) == total.take(window - 2 * width, axis)
