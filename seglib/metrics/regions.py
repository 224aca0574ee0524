"""Score outlines, and regions by their size, from counts that add up over images as the confusion counts do."""

import math

import numpy as np
import pandas as pd
from scipy import ndimage

from seglib.data import IGNORE, label_regions
from seglib.metrics.scores import check_shapes, ratio

# Shares of an image's pixels: COCO's 32^2 and 96^2 pixels in its images of 640 x 480, at any resolution.
EDGES = (0.0033, 0.03)
SIZES = ("small", "medium", "large")


def region_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Count right and wrong pixels by class and by the size of the true region that they belong to.

    A true region is a connected area of one class (8-neighbourhood). Its pixels are hits or false negatives.
    The false positives of a connected predicted area count for the true region of its class that it overlaps
    most; an area that overlaps none is left out (IoU and `absent_false_positives` count it).

    Returns (4, C, 3) int64, by class and size (`SIZES`): regions, and pixels that are hits, false
    negatives and false positives. They may be added.
    """
    pred = np.where(truth == IGNORE, IGNORE, pred).astype(np.uint8)
    true_label, true_class, true_size = label_regions(truth)
    pred_label, _, pred_size = label_regions(pred)
    right = (truth == pred) & (truth != IGNORE)
    pairs, overlap = np.unique(pred_label[right] * len(true_size) + true_label[right], return_counts=True)
    from_pred, from_true = np.divmod(pairs, len(true_size))
    hits = np.bincount(from_true, overlap, len(true_size))
    beyond = pred_size - np.bincount(from_pred, overlap, len(pred_size))
    # The largest overlap of each predicted region comes last; of equal ones, that of the first true region.
    order = np.lexsort((-from_true, overlap, from_pred))
    owner = np.full(len(pred_size), -1)
    owner[from_pred[order]] = from_true[order]
    owned = owner >= 0
    false_positives = np.bincount(owner[owned], beyond[owned], len(true_size))
    valid = true_class != IGNORE
    size = np.searchsorted(EDGES, true_size[valid] / truth.size, side="right")
    place = len(SIZES) * true_class[valid].astype(np.intp) + size
    parts = np.ones_like(hits), hits, true_size - hits, false_positives
    counts = [np.bincount(place, part[valid], len(SIZES) * num_classes) for part in parts]
    return np.reshape(counts, (4, num_classes, len(SIZES))).astype(np.int64)


def region_iou(counts: np.ndarray) -> np.ndarray:
    """Divide hits of (4, ...) `region_counts` by all three kinds of pixels; NaN without a region."""
    return ratio(counts[1], counts[1:].sum(0))


def region_table(counts: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """List the classes and sizes that occur in (4, C, 3) counts; `pixels` are of the ground truth."""
    regions, hits, false_negatives, _ = counts.reshape(4, -1)
    index = pd.MultiIndex.from_product([names, SIZES], names=["class", "size"])
    table = pd.DataFrame({"regions": regions, "pixels": hits + false_negatives}, index)
    table["iou"], table["recall"] = region_iou(counts).ravel(), ratio(hits, table["pixels"])
    return table[regions > 0].reset_index()


def boundary_width(size: tuple[int, int], ratio: float) -> int:
    """Compute max(1, round(ratio x diagonal)), the width of a boundary in an image of (height, width)."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int, ratio: float = 0.02) -> np.ndarray:
    """Count the pixels in intersection and union of the true and the predicted boundary, class by class.

    Source: Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021.
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
    return ratio(*np.moveaxis(counts, -2, 0))
