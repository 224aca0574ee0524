"""Connected regions of a mask, all classes in one pass."""

from __future__ import annotations

import numpy as np


def regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected regions of equal values; pixels that touch at a corner are connected (8-neighbourhood).

    Runs of equal pixels in a row are joined with those they touch in the next one, so that the work grows with the
    outlines and not with the pixels, and not with the classes, as labelling one class after the other would.

    Args:
        mask: (H, W) uint8.

    Returns:
        values: (R,) uint8, the value of each region.
        sizes: (R,) int64, its pixels.

    Source: run-based labelling: He et al., A Run-Based Two-Scan Labeling Algorithm, IEEE Trans. Image Processing 2008.
    """
    _, values, sizes = _joined(mask)
    return values, sizes


def labelled_regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`regions`, and which pixel belongs to which.

    Returns:
        labels: (H, W) intp, the region of each pixel, numbered from 0 in reading order of their first pixels.
        values, sizes: (R,) as of `regions`.
    """
    (lengths, number), values, sizes = _joined(mask)
    return np.repeat(number, lengths).reshape(mask.shape), values, sizes


def _joined(mask: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Length and region of each run of equal pixels, then value and size of each region."""
    width = mask.shape[1]
    if not mask.size:
        nothing = np.empty(0, np.intp)
        return (nothing, nothing), np.empty(0, np.uint8), np.empty(0, np.int64)
    begins = np.ones(mask.shape, bool)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], mask.size)
    values = mask.ravel()[starts]
    # The runs in the next row from the one below the pixel before the start to the one below the pixel after the end.
    upper = int(np.searchsorted(starts, mask.size - width))
    row = starts[:upper] // width * width
    left = np.maximum(starts[:upper] - 1, row) + width
    right = np.minimum(ends[:upper], row + width - 1) + width
    first = np.searchsorted(starts, left, "right") - 1
    count = np.searchsorted(starts, right, "right") - first
    above = np.repeat(np.arange(upper), count)
    below = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
    same = values[above] == values[below]
    root = _roots(len(starts), above[same], below[same])
    first = root == np.arange(len(root))
    number = (np.cumsum(first) - 1)[root]
    sizes = np.bincount(number, ends - starts).astype(np.int64)
    return (ends - starts, number), values[first], sizes


def _roots(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each of `count` nodes the smallest one it is linked to, through the links first[k] - second[k], first < second."""
    parent = np.arange(count)
    parent[second[::-1]] = first[::-1]  # at once to the first of those above it: most links are settled by that
    while (parent != (parent := parent[parent])).any():
        pass
    while len(first):
        a, b = parent[first], parent[second]
        apart = a != b
        first, second, a, b = first[apart], second[apart], a[apart], b[apart]
        parent[np.maximum(a, b)] = np.minimum(a, b)  # towards smaller numbers only: no circle
        while (parent != (parent := parent[parent])).any():
            pass
    return parent
