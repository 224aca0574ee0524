"""Score outlines by Boundary IoU, from counts that add up over images as the confusion counts do.

Source: Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from seglib.data import IGNORE
from seglib.metrics.confusion import check_shapes
from seglib.metrics.scores import ratio as divide


def boundary_width(size: tuple[int, int], ratio: float) -> int:
    """Compute d = max(1, round(ratio x image diagonal)), the width of a boundary in pixels.

    `size` is (height, width); a `ratio` of 0.02 is COCO's and LVIS's, 0.005 Cityscapes'.
    """
    return max(1, round(ratio * math.hypot(*size)))


def boundary_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int, ratio: float = 0.02) -> np.ndarray:
    """Count the pixels in intersection and union of the true and the predicted boundary, class by class.

    The boundary of a class is its binary mask minus the mask's erosion by `boundary_width` iterations of a 3
    x 3 square; the image's border counts as background. Ignored pixels are taken out of both masks first.

    Args:
        truth, pred, num_classes: as in `confusion_matrix`, uint8.
        ratio: width of the boundary as a share of the image's diagonal, above 0.

    Returns:
        (2, C) int64: intersections, unions. Those of several images may be added.
    """
    check_shapes(truth, pred)
    width = boundary_width(truth.shape, ratio)
    valid = truth != IGNORE
    pred = np.where(valid, pred, IGNORE)
    true_rim, pred_rim = (valid & ~_inside(ids, width) for ids in (truth, pred))

    def count(ids: np.ndarray, where: np.ndarray) -> np.ndarray:
        counts = np.bincount(ids[where], minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"a mask holds id {len(counts) - 1}; expected 0-{num_classes - 1}.")
        return counts

    both = count(truth, true_rim & pred_rim & (truth == pred))
    return np.stack([both, count(truth, true_rim) + count(pred, pred_rim) - both])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Divide (..., 2, C) `boundary_counts`: (..., C) in [0, 1]; NaN where the union is empty."""
    return divide(*np.moveaxis(counts, -2, 0))


def _inside(ids: np.ndarray, width: int) -> np.ndarray:
    """Erode the masks of all classes at once: (H, W) bool."""
    # A pixel survives exactly if the square of this side around it lies in the image and holds one id alone.
    side = 2 * width + 1
    lowest = ndimage.minimum_filter(ids, side, mode="constant", cval=0)
    return lowest == ndimage.maximum_filter(ids, side, mode="constant", cval=255)
