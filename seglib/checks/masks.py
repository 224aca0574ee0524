"""Faults of masks that show without a model: edges beside the image's, specks, pinholes, another image's mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image

from seglib.checks.findings import Finding, finding, some
from seglib.compiled import compiled
from seglib.data import IGNORE

_LONG = (
    128  # pixels of the longer side at which outlines and edges are compared: shifts of 2 % of it are seen
)
_REACH = 0.1  # shifts tried, as a share of the longer side
_SURE = 5.0  # standard deviations of chance that the best place must reach, or nothing is said
_CLEAR = (
    0.5  # and above the mean of the edges, in their own deviations; sound masks meet 0.7 to 1.3 in the median
)
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
    meets, count, deviation = _correlated(pixels, small, reach)
    if count < _FEWEST_EDGES or not deviation:
        return None
    shifts = np.arange(-reach, reach + 1)
    y, x = np.unravel_index(meets.argmax(), meets.shape)
    if meets[y, x] < deviation * max(_SURE * np.sqrt(count), _CLEAR * count):
        return None
    if max(abs(shifts[y]), abs(shifts[x])) < 2:  # one pixel there is within drawing accuracy
        return 0, 0, 1.0
    return int(shifts[x]) * times, int(shifts[y]) * times, float(max(0.0, meets[reach, reach] / meets[y, x]))


@compiled
def _correlated(pixels, mask, reach):
    """The edges of an image that the outlines of its mask meet, wherever these are moved.

    Args:
        pixels, mask: (H, W) uint8.
        reach: rows and columns that the outlines are moved at most.

    Returns:
        meets: (2 reach + 1, 2 reach + 1) float32, by rows and columns moved; above what the mean pixel would give.
        count: of the outlines' pixels: scored ones right of which or below which another class is scored.
        deviation: of the edges.
    """
    height, width = mask.shape
    edges = np.zeros((height + 2 * reach, width + 2 * reach), np.float32)
    deviation = _fill_edges(edges[reach : reach + height, reach : reach + width], pixels)
    # What a pixel of the outlines meets lies in whole rows from here on: one long loop is faster than many short ones.
    side, places = 2 * reach + 1, _outlines(mask, width + 2 * reach)
    length = 2 * reach * edges.shape[1] + side
    flat, meets = edges.ravel(), np.zeros(side * edges.shape[1], np.float32)
    fourths = len(places) // 4 * 4
    for k in range(0, fourths, 4):  # four at a time, for which each sum is read and written once
        a, b, c, d = (
            flat[places[k] : places[k] + length],
            flat[places[k + 1] : places[k + 1] + length],
            flat[places[k + 2] : places[k + 2] + length],
            flat[places[k + 3] : places[k + 3] + length],
        )
        for j in range(length):
            meets[j] += (a[j] + b[j]) + (c[j] + d[j])
    for place in places[fourths:]:
        a = flat[place : place + length]
        for j in range(length):
            meets[j] += a[j]
    return meets.reshape((side, edges.shape[1]))[:, :side], len(places), deviation


@compiled
def _fill_edges(edges, pixels):
    """Of each pixel the root of how far its right or lower neighbour differs, less the mean; returns their deviation.

    The root, so that a few strong edges do not outvote the rest.
    """
    height, width = pixels.shape
    sums, squares = np.zeros(width, np.float32), 0
    right, down = np.zeros(width, np.int32), np.zeros(width, np.int32)
    for y in range(height):
        row, below, edge = pixels[y], pixels[min(y + 1, height - 1)], edges[y]
        for x in range(width - 1):
            right[x] = abs(np.int32(row[x + 1]) - np.int32(row[x]))
        for x in range(width):
            down[x] = abs(np.int32(below[x]) - np.int32(row[x]))
        for x in range(width):
            strongest = max(right[x], down[x])
            edge[x] = np.sqrt(np.float32(strongest))
            sums[x] += edge[x]
            squares += strongest
    mean = sums.sum() / pixels.size
    edges -= np.float32(mean)
    return np.sqrt(max(0.0, squares / pixels.size - mean**2))


@compiled
def _outlines(mask, stride):
    """Scored pixels right of which or below which another class is scored, numbered as in rows of `stride` pixels."""
    height, width = mask.shape
    places, count = np.empty(mask.size, np.intp), 0
    found = np.zeros(width, np.bool_)
    for y in range(height):
        row, below = mask[y], mask[min(y + 1, height - 1)]
        for x in range(width):
            found[x] = (below[x] != row[x]) & (below[x] != IGNORE)
        for x in range(width - 1):
            found[x] |= (row[x + 1] != row[x]) & (row[x + 1] != IGNORE)
        for x in range(width):
            if found[x] and row[x] != IGNORE:
                places[count] = y * stride + x
                count += 1
    return places[:count]


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
    for row in samples.loc[beside, ["id", "split", "shift_x", "shift_y", "edge_fit"]].itertuples():
        detail = f"mask {row.id!r} meets the image's edges better moved by {_direction(row.shift_x, row.shift_y)}: "
        detail += f"as it lies, it meets {row.edge_fit:.0%} of what it meets there."
        yield finding("mask-beside-edges", row.id, row.split, detail)
    several = samples["classes_present"].fillna(0) > 1  # an empty scene is like any other
    shared = several & hashes.notna()
    shared &= hashes.where(shared).duplicated(keep=False)
    for _, same in samples.loc[shared, ["id", "split", "edge_fit"]].groupby(hashes, sort=False):
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
        above = samples.loc[counts >= max(_MANY, 4 * np.nan_to_num(usual)), ["id", "split", check]]
        for split, many in above.groupby("split", sort=False):
            worst = many.sort_values(check, ascending=False, kind="stable")
            named = some([f"{name} ({int(n)})" for name, n in zip(worst["id"], worst[check], strict=True)])
            detail = f"{len(many)} masks of {split} have many tiny {what} (less than 0.01 % of the image; at least "
            detail += f"{max(_MANY, 4 * usual):.0f} of them, where the median mask has {usual:g}): {named}."
            yield finding(check, worst["id"].iloc[0], split, detail)


def _direction(dx: float, dy: float) -> str:
    parts = [(dx, ("right", "left")), (dy, ("down", "up"))]
    return " and ".join(f"{abs(int(d))} px {words[d < 0]}" for d, words in parts if d)
