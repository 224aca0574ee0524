"""Connected regions of a mask, all classes in one pass."""

from __future__ import annotations

import numpy as np
from skimage import measure


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label the connected regions of equal values in (H, W) uint8 or bool; pixels that touch at a corner are connected.

    Returns:
        labels (H, W) int64, numbered from 0 in reading order; the value of each region (R,); its pixels (R,) int64.
    """
    bytes_ = mask.view(np.uint8) if mask.dtype == bool else mask
    labels = measure.label(bytes_, background=-1, connectivity=2) - 1
    sizes = np.bincount(labels.ravel()) if mask.size else np.zeros(0, np.int64)
    values = np.empty(len(sizes), mask.dtype)
    values[labels.ravel()] = mask.ravel()
    return labels, values, sizes
