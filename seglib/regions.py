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
    pixels = mask.ravel()
    begins = np.ones(mask.size, bool)
    np.not_equal(pixels[1:], pixels[:-1], out=begins[1:])
    begins[::width] = True
    starts = np.flatnonzero(begins)
    lengths = np.append(starts[1:], mask.size) - starts
    values = pixels[starts]
    # A run hangs on the one above its first pixel, if that is of its value: a forest, and most of all that touches.
    lower, upper = (int(n) for n in starts.searchsorted([width, mask.size - width]))
    across = starts[lower:] - width
    above = starts.searchsorted(across, "right") - 1
    parent = np.arange(len(starts))
    parent[lower:] = np.where(values.take(above) == values[lower:], above, parent[lower:])
    # The rest: runs above one that began before them, and those that meet at a corner between two pairs of runs.
    below = starts[:upper] + width
    wide = np.flatnonzero((pixels.take(below) == values[:upper]) & ~begins.take(below))
    corner = np.flatnonzero(begins.take(across))
    corner = corner[across[corner] % width > 0]
    first = np.concatenate([wide, above[corner] - 1, above[corner]])
    second = np.concatenate([starts.searchsorted(below[wide]) - 1, corner + lower, corner + lower - 1])
    same = np.flatnonzero(values[first] == values[second])
    number, begin = _sets(parent, first[same], second[same])
    sizes = np.bincount(number, lengths).astype(np.int64)
    return (lengths, number), values[begin], sizes


def _sets(parent: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which set each node is in, numbered in the order of their first nodes; and those.

    Nodes are joined with their parents, which come before them, and by the links first[k] - second[k]. Links join trees:
    those are few beside the nodes.
    """
    root = _root(parent)
    top = root == np.arange(len(root))
    tree = (top.cumsum() - 1).take(root)
    a, b = tree[first], tree[second]
    joined = np.arange(np.count_nonzero(top))
    while len(a):
        np.minimum.at(joined, np.maximum(a, b), np.minimum(a, b))  # towards smaller numbers only: no circle
        joined = _root(joined)
        a, b = joined[a], joined[b]
        apart = np.flatnonzero(a != b)
        a, b = a[apart], b[apart]
    begin = joined == np.arange(len(joined))
    return (begin.cumsum() - 1)[joined].take(tree), np.flatnonzero(top)[begin]


def _root(parent: np.ndarray) -> np.ndarray:
    while (parent != (parent := parent.take(parent))).any():
        pass
    return parent
