"""Connected regions of a mask, all classes in one pass."""

from __future__ import annotations

import numpy as np

from seglib.compiled import compiled


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
    pixels, width = np.ascontiguousarray(mask).view(np.uint8).ravel(), max(1, mask.shape[1])
    starts = np.empty(_count_runs(pixels, width) + 1, np.intp)
    number = np.empty(len(starts) - 1, np.intp)
    first = _join_runs(pixels, width, starts, number)
    sizes = np.bincount(number, np.diff(starts), len(first)).astype(np.int64)
    return starts, number, mask.ravel()[first], sizes


@compiled
def _count_runs(pixels, width):
    count = 0
    for begin in range(0, len(pixels), width):
        row = pixels[begin : begin + width]
        count += 1
        for x in range(1, width):
            count += row[x] != row[x - 1]
    return count


@compiled
def _join_runs(pixels, width, starts, number):
    """Fill in where each run starts and which region it is of; returns the first pixel of each region."""
    root = np.empty(len(number), np.intp)  # of each run one before it that is of its region, or itself
    above = run = count = 0
    starts[0] = 0
    for begin in range(0, len(pixels), width):
        row, row_begin = pixels[begin : begin + width], run
        for x in range(width):
            if x == 0 or row[x] != row[x - 1]:
                starts[run] = begin + x
                root[run] = run
                run += 1
        starts[run] = begin + width
        for this in range(row_begin, run):
            left, right = starts[this] - width, starts[this + 1] - width
            while above < row_begin and starts[above + 1] < left:
                above += 1
            other = above
            while other < row_begin and starts[other] <= right:  # those that it touches, at a corner at least
                if pixels[starts[other]] == pixels[starts[this]]:
                    a, b = _root(root, other), _root(root, this)
                    root[max(a, b)] = min(a, b)
                other += 1
        above = row_begin
    for this in range(run):
        count += root[this] == this
    first = np.empty(count, np.intp)
    count = 0
    for this in range(run):
        if root[this] == this:
            first[count] = starts[this]
            number[this] = count
            count += 1
        else:
            number[this] = number[root[this]]
    return first


@compiled
def _root(root, run):
    while root[run] != run:
        root[run] = root[root[run]]
        run = root[run]
    return run
