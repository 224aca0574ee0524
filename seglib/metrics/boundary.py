"""Score outlines by Boundary IoU, from counts that add up over images as the confusion counts do.

Source: Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021.
"""

import math

import numpy as np
from scipy import ndimage

from seglib.data import IGNORE
from seglib.metrics.scores import check_shapes
from seglib.metrics.scores import ratio as divide


def boundary_width(size: tuple[int, int], ratio: float) -> int:
    """Compute max(1, round(ratio x diagonal)), the width of a boundary in an image of (height, width)."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int, ratio: float = 0.02) -> np.ndarray:
    """Count the pixels in intersection and union of the true and the predicted boundary, class by class.

    The boundary of a class is its mask minus its erosion by `boundary_width` iterations of a 3 x 3 square;
    the image's border counts as background. Ignored pixels are taken out of both masks first.

    Masks are uint8. `ratio`: width as a share of the image's diagonal; 0.02 is COCO's, 0.005 Cityscapes'.
    Returns (2, C) int64: intersections, unions. Those of several images may be added.
    """
    check_shapes(truth, pred)
    side = 2 * boundary_width(truth.shape, ratio) + 1
    valid = truth != IGNORE
    pred = np.where(valid, pred, IGNORE)

    def rim(ids: np.ndarray) -> np.ndarray:
        # Erosion leaves a pixel exactly if the square around it lies in the image and holds one id alone.
        lowest = ndimage.minimum_filter(ids, side, mode="constant", cval=0)
        return valid & (lowest != ndimage.maximum_filter(ids, side, mode="constant", cval=255))

    true_rim, pred_rim = rim(truth), rim(pred)
    parts = truth[true_rim & pred_rim & (truth == pred)], truth[true_rim], pred[pred_rim]
    both, true, predicted = (np.bincount(ids, minlength=num_classes) for ids in parts)
    return np.stack([both, true + predicted - both])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Divide (..., 2, C) `boundary_counts`: (..., C) in [0, 1]; NaN where the union is empty."""
    return divide(*np.moveaxis(counts, -2, 0))
