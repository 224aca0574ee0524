"""Faults of masks that show without a model: edges beside the image's, specks, pinholes, another image's mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image

from seglib.classes import IGNORE
from seglib.compiled import compiled
from seglib.findings import Finding, finding, some

_LONG = 128  # pixels of the longer side at which outlines and edges are compared: shifts of 2 % of it are seen
_REACH = 0.1  # shifts tried, as a share of the longer side
_SURE = 5.0  # standard deviations of chance that the best place must reach, or nothing is said
_CLEAR = 0.5  # and above the mean of the edges, in their own deviations; sound masks meet 0.7 to 1.3 in the median
_FEWEST_EDGES = 20  # outline pixels without which nothing is said
# An outline that meets less than this share of the edges it meets elsewhere lies beside them. Sound masks of the demo and
# of CamVid stay above 0.73, of masks that were shifted by 7 pixels or more in 128 none reaches 0.4.
_BESIDE = 0.65
SPECK_SHARE = 1e-4  # of the image's pixels, below which a region is a speck; at least 4 pixels, at most 64
_MANY = 5  # specks or pinholes below which an image is no case


def edge_shift(grey: Image.Image, mask: np.ndarray) -> tuple[int, int, float] | None:
    """Where a mask's outlines meet the image's edges best.

    The outlines (of scored against scored) are moved over the image's gradient in all directions, by cross-correlation.

    Args:
        grey: the image as Pillow's "L"; or what `shrunk` made of it.
        mask: (H, W) uint8 ids, 255 = ignore.

    Returns:
        dx, dy: pixels of the image by which the mask would have to move (right, down) to meet the edges best.
        fit: what it meets where it lies over what it would meet there; 1: it lies best where it is, 0: it meets no more
            than chance. None: too few outlines, or no place where they meet clearly more edges than chance.
    """
    times = _times(max(mask.shape))
    pixels = np.asarray(shrunk(grey))
    small = mask[times // 2 :: times, times // 2 :: times]
    h, w = min(pixels.shape[0], small.shape[0]), min(pixels.shape[1], small.shape[1])
    pixels, small = pixels[:h, :w], np.ascontiguousarray(small[:h, :w])
    reach = max(2, round(_REACH * max(h, w)))
    edges, outlines = np.zeros((h + 2 * reach, w + 2 * reach), np.float32), np.empty((h * w, 2), np.intp)
    count, deviation = _trace(pixels, small, edges[reach:, reach:], outlines)
    if count < _FEWEST_EDGES or not deviation:
        return None
    meets = _meet(edges, outlines[:count], reach)
    shifts = np.arange(-reach, reach + 1)
    y, x = np.unravel_index(meets.argmax(), meets.shape)
    if meets[y, x] < deviation * max(_SURE * np.sqrt(count), _CLEAR * count):
        return None
    if max(abs(shifts[y]), abs(shifts[x])) < 2:  # one pixel there is within drawing accuracy
        return 0, 0, 1.0
    return int(shifts[x]) * times, int(shifts[y]) * times, float(max(0.0, meets[reach, reach] / meets[y, x]))


@compiled
def _trace(pixels, mask, edges, outlines):
    """Fill in where two scored pixels of different classes are neighbours, and how much edge above the mean each pixel has.

    Of an edge counts the root, so that a few strong ones do not outvote the rest. Returns the number of outline pixels and
    the standard deviation of the edges.
    """
    height, width = mask.shape
    count, total, squares = 0, 0.0, 0.0
    for y in range(height):
        for x in range(width):
            here, own = np.int32(pixels[y, x]), mask[y, x]
            strongest, outline = np.int32(0), False
            if x + 1 < width:
                strongest = abs(np.int32(pixels[y, x + 1]) - here)
                outline = mask[y, x + 1] != own and mask[y, x + 1] != IGNORE
            if y + 1 < height:
                strongest = max(strongest, abs(np.int32(pixels[y + 1, x]) - here))
                outline |= mask[y + 1, x] != own and mask[y + 1, x] != IGNORE
            if outline and own != IGNORE:
                outlines[count, 0], outlines[count, 1] = y, x
                count += 1
            edges[y, x] = np.sqrt(np.float32(strongest))
            total += edges[y, x]
            squares += strongest
    mean = total / mask.size
    edges[:height, :width] -= np.float32(mean)
    return count, np.sqrt(max(0.0, squares / mask.size - mean**2))


@compiled
def _meet(edges, outlines, reach):
    """(2 reach + 1, 2 reach + 1): the edges that the outlines meet, moved by -reach to reach rows and columns.

    Args:
        edges: with a margin of `reach` zeros on all sides.
        outlines: (N, 2), row and column without the margin.
    """
    side, width = 2 * reach + 1, edges.shape[1]
    flat, meets = edges.ravel(), np.zeros(side * width, np.float32)
    for k in range(len(outlines)):
        first = outlines[k, 0] * width + outlines[k, 1]
        # Whole rows, not only those columns that a shift reaches: one long loop is faster than many short ones.
        met = flat[first : first + 2 * reach * width + side]
        for j in range(len(met)):
            meets[j] += met[j]
    return meets.reshape((side, width))[:, :side]


def shrunk(grey: Image.Image) -> Image.Image:
    """A picture with at most 128 pixels on its longer side, each the mean of a block; a smaller one as it is."""
    times = _times(max(grey.size))
    return grey.reduce(times) if times > 1 else grey


def _times(side: int) -> int:
    return max(1, -(-side // _LONG))


def speck_size(shape: tuple[int, int]) -> int:
    """Pixels below which a region of a mask of that height and width counts as a speck or a pinhole."""
    return min(max(round(SPECK_SHARE * shape[0] * shape[1]), 4), 64)


def judge_masks(samples: pd.DataFrame, hashes: pd.Series, pictures: np.ndarray) -> Iterator[Finding]:
    """Findings about masks that need no model.

    Args:
        samples: a data check's, with `shift_x`, `shift_y`, `edge_fit`, `specks`, `pinholes`, `classes_present`.
        hashes: of each mask's ids, aligned with `samples`; missing: not readable.
        pictures: (N,) equal numbers where the images are the same picture: those may share a mask.
    """
    beside = samples["edge_fit"] < _BESIDE
    for row in samples[beside].itertuples():
        detail = f"mask {row.id!r} meets the image's edges better moved by {_direction(row.shift_x, row.shift_y)}: "
        detail += f"as it lies, it meets {row.edge_fit:.0%} of what it meets there."
        yield finding("mask-beside-edges", row.id, row.split, detail)
    several = samples["classes_present"].fillna(0) > 1  # an empty scene is like any other
    shared = several & hashes.notna()
    shared &= hashes.where(shared).duplicated(keep=False)
    for _, same in samples[shared].groupby(hashes, sort=False):
        if len(set(pictures[same.index])) == 1:
            continue
        listed = some([f"{row.split}/{row.id}" for row in same.itertuples()])
        worst = same.loc[same["edge_fit"].fillna(1.0).idxmin()]
        detail = f"{len(same)} images share one mask, though they are not the same picture: {listed}."
        if worst["edge_fit"] < _BESIDE:
            detail += f" It meets the edges of {worst['id']!r} least."
        yield finding("mask-of-another-image", worst["id"], worst["split"], detail)
    for check, what in (("specks", "regions of a class"), ("pinholes", "unscored holes")):
        counts = samples[check].astype(float)
        usual = counts.median()
        for split, many in samples[counts >= max(_MANY, 4 * np.nan_to_num(usual))].groupby("split", sort=False):
            worst = many.sort_values(check, ascending=False, kind="stable")
            named = some([f"{row.id} ({int(getattr(row, check))})" for row in worst.itertuples()])
            detail = f"{len(many)} masks of {split} have many tiny {what} (less than 0.01 % of the image; at least "
            detail += f"{max(_MANY, 4 * usual):.0f} of them, where the median mask has {usual:g}): {named}."
            yield finding(check, worst["id"].iloc[0], split, detail)


def _direction(dx: float, dy: float) -> str:
    parts = [(dx, ("right", "left")), (dy, ("down", "up"))]
    return " and ".join(f"{abs(int(d))} px {words[d < 0]}" for d, words in parts if d)
