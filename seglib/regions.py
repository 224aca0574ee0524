"""Connected regions of a mask, all classes in one pass."""

from __future__ import annotations

import numpy as np

from seglib.compiled import compiled

_FEW_RUNS = 4096  # for which there is room at first


def regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected regions of equal values; pixels that touch at a corner are connected (8-neighbourhood).

    Runs of equal pixels in a row are joined with those they touch in the row above, so that beyond finding the runs the
    work grows with the outlines and not with the pixels, and not with the classes, as labelling one class after the other
    would.

    Args:
        mask: (H, W) uint8 or bool.

    Returns:
        values: (R,) of the mask's type, the value of each region, in reading order of their first pixels.
        sizes: (R,) int64, its pixels.

    Raises:
        TypeError: a mask of another type.

    Source: run-based labelling: He et al., A Run-Based Two-Scan Labeling Algorithm, IEEE Trans. Image Processing 2008.
    """
    _, _, values, sizes = _joined(mask)
    return values, sizes


def labelled_regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`regions`, and which pixel belongs to which.

    Returns:
        labels: (H, W) intp, the region of each pixel, numbered from 0 in reading order of their first pixels.
        values, sizes: (R,) as of `regions`.
    """
    starts, number, values, sizes = _joined(mask)
    return np.repeat(number, np.diff(starts)).reshape(mask.shape), values, sizes


def _joined(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First pixel of each run of equal pixels, and where the last one ends; its region; value and size of each region."""
    if mask.dtype not in (np.uint8, bool):
        raise TypeError(f"regions are those of a uint8 or bool mask, not of {mask.dtype}.")
    starts, number, first, sizes = _join(np.ascontiguousarray(mask).view(np.uint8))
    return starts, number, mask.ravel()[first], sizes


@compiled
def _join(mask):
    width, pixels = mask.shape[1], mask.ravel()
    starts = _runs(pixels, width)
    root = _roots(pixels, width, starts)
    number, count = np.empty(len(root), np.intp), 0
    for run in range(len(root)):
        number[run] = count if root[run] == run else number[root[run]]
        count += root[run] == run
    first, sizes = np.empty(count, np.intp), np.zeros(count, np.int64)
    for run in range(len(root)):
        if root[run] == run:
            first[number[run]] = starts[run]
        sizes[number[run]] += starts[run + 1] - starts[run]
    return starts, number, first, sizes


@compiled
def _runs(pixels, width):
    """Where each run of equal pixels in a row starts, and the end of the last one."""
    words = (width + 7) // 8
    # Of each pixel of a row whether a run begins there; looked through by eights.
    begins = np.zeros(8 * words, np.uint8)
    eights, inner = begins.view(np.uint64), begins[1:width]
    starts, count = np.empty(_FEW_RUNS, np.intp), 0
    for begin in range(0, len(pixels), max(1, width)):
        if count + width >= len(starts):
            starts = np.concatenate((starts[:count], np.empty(len(starts) + width, np.intp)))
        row = pixels[begin : begin + width]
        begins[0], after, before = 1, row[1:], row[:-1]
        for x in range(width - 1):
            inner[x] = after[x] != before[x]
        for word in range(words):
            if eights[word]:
                for x in range(8 * word, 8 * word + 8):
                    starts[count] = begin + x
                    count += begins[x]
    starts[count] = len(pixels)
    return starts[: count + 1]


@compiled
def _roots(pixels, width, starts):
    """Of each run the first one of its region, or one before itself that leads there; of a region's first, itself."""
    root = np.arange(len(starts) - 1)
    above = run = 0
    while run < len(root):
        row = run
        end = (starts[run] // width + 1) * width
        while run < len(root) and starts[run] < end:
            left, right = starts[run] - width, starts[run + 1] - width
            while above < row and starts[above + 1] < left:
                above += 1
            other = above
            while other < row and starts[other] <= right:  # those that it touches, at a corner at least
                if pixels[starts[other]] == pixels[starts[run]]:
                    a, b = _root(root, other), _root(root, run)
                    root[max(a, b)] = min(a, b)
                other += 1
            run += 1
        above = row
    return root


@compiled
def _root(root, run):
    while root[run] != run:
        root[run] = root[root[run]]
        run = root[run]
    return run
