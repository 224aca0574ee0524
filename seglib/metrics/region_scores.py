"""IoU by the size of what is to be found: a class may be fine on the large regions that make its score, and lost on small ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from seglib.data import IGNORE, label_regions

# Shares of an image's pixels: COCO's 32^2 and 96^2 pixels in its images of 640 x 480, at any resolution.
EDGES = (0.0033, 0.03)
SIZES = ("small", "medium", "large")
COUNTS = ("regions", "hit", "missed", "invented")


def region_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels found, missed and invented, by class and by the size of the true region that they belong to.

    A true region is a connected area of one class (8-neighbourhood). Its pixels are hit or missed. What a connected predicted
    area holds beyond its class's true pixels is invented at the true region of that class that it overlaps most; an area that
    overlaps none belongs to no size and is left out (the class's IoU and `absent_false_positives` count it).

    Args:
        truth: (H, W) class ids; 255 is not scored, and parts regions.
        pred: (H, W) class ids; read only where truth is scored.
        num_classes: C.

    Returns:
        (4, C, 3) int64: regions, pixels hit, missed, invented (`COUNTS`) of each class and size (`SIZES`). Those of several
        images may be added.
    """
    result = np.zeros((4, num_classes, 3), np.int64)
    pred = np.where(truth == IGNORE, IGNORE, pred).astype(np.uint8)
    true_label, true_class, true_size = label_regions(truth)
    pred_label, _, pred_size = label_regions(pred)
    if not truth.size:
        return result
    right = (truth == pred) & (truth != IGNORE)
    pairs, overlap = np.unique(pred_label[right] * len(true_size) + true_label[right], return_counts=True)
    from_pred, from_true = np.divmod(pairs, len(true_size))
    hit = np.bincount(from_true, overlap, minlength=len(true_size)).astype(np.int64)
    beyond = pred_size - np.bincount(from_pred, overlap, minlength=len(pred_size)).astype(np.int64)
    # The largest overlap of each predicted region comes last; of equal ones, that of the first true region.
    order = np.lexsort((-from_true, overlap, from_pred))
    owner = np.full(len(pred_size), -1)
    owner[from_pred[order]] = from_true[order]
    owned = owner >= 0
    invented = np.bincount(owner[owned], beyond[owned], minlength=len(true_size)).astype(np.int64)
    scored = true_class != IGNORE
    size = np.searchsorted(EDGES, true_size / truth.size, side="right")
    for row, counted in enumerate((np.ones_like(hit), hit, true_size - hit, invented)):
        np.add.at(result[row], (true_class[scored], size[scored]), counted[scored])
    return result


def region_iou(counts: np.ndarray) -> np.ndarray:
    """(4, ...) counts of `region_counts` -> (...) hit / (hit + missed + invented); NaN where there is no region."""
    _, hit, missed, invented = np.asarray(counts, np.float64)
    total = hit + missed + invented
    return np.divide(hit, total, out=np.full(total.shape, np.nan), where=total > 0)


def region_table(counts: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """One row a class and size that occurs: class, size, regions, pixels (true), iou, recall.

    Args:
        counts: (4, C, 3) of `region_counts`, added up over images.
    """
    regions, hit, missed, _ = counts
    iou = region_iou(counts)
    rows = [
        (
            name,
            size,
            regions[c, s],
            hit[c, s] + missed[c, s],
            iou[c, s],
            hit[c, s] / (hit[c, s] + missed[c, s]),
        )
        for c, name in enumerate(names)
        for s, size in enumerate(SIZES)
        if regions[c, s]
    ]
    return pd.DataFrame(rows, columns=["class", "size", "regions", "pixels", "iou", "recall"])
