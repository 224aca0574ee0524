"""Masks and errors drawn over images as uint8 arrays, and what masks hold: regions, classes, confusions."""

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seglib.data.classes import IGNORE, ClassMap

ERROR = (255, 122, 0)  # lighter than any dimmed pixel, so that errors stand out in greyscale and to every eye
_MOST = 2048  # pixels of a longer side: more than a figure or a screen shows
_LARGE = 1 << 28  # bytes of an image that is not copied whole, as Pillow does
_ROWS = 1024


def fitting(image: np.ndarray, *masks: np.ndarray, most: int = _MOST) -> list[np.ndarray]:
    """Shrink an image (H, W, 3), averaged, and its masks (H, W), nearest neighbour, to `most` pixels of the longer side."""
    longest = max(1, *image.shape[:2])
    if longest <= most:
        return [image, *masks]
    height, width = (max(1, round(side * most / longest)) for side in image.shape[:2])
    if image.size > _LARGE:
        image = np.asarray(reduced(image, max(1, longest // most // 2)))
    sizes = [(image, Image.Resampling.BOX), *((mask, Image.Resampling.NEAREST) for mask in masks)]
    return [np.asarray(Image.fromarray(array).resize((width, height), how)) for array, how in sizes]


def reduced(image: np.ndarray, factor: int, mode: str = "RGB") -> Image.Image:
    """Average blocks of `factor` x `factor` pixels of an image (H, W, 3), in Pillow's mode "RGB" or "L".

    As `Image.reduce` does, but some rows at a time: a large image may be a memory map.
    """
    step = factor * -(-_ROWS // factor)
    bands = [Image.fromarray(image[top : top + step]) for top in range(0, len(image), step)]
    return Image.fromarray(np.concatenate([band.convert(mode).reduce(factor) for band in bands]))


def overlay(image: np.ndarray, mask: np.ndarray, classes: ClassMap, alpha: float = 0.5) -> np.ndarray:
    """Blend the colours of an (H, W) mask over an (H, W, 3) image, ignored pixels with black; `alpha` 1: the mask alone."""
    share, colors = round(alpha * 256), classes.colorize(mask).astype(np.uint16)
    return ((image.astype(np.uint16) * (256 - share) + colors * share) >> 8).astype(np.uint8)


def error_map(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Paint wrong pixels orange over the dimmed greyscale (H, W, 3) image; ignored ones, 255 in (H, W), are hatched."""
    weights = np.array([77, 150, 29], np.uint16)  # Rec. 601 luma in 1/256
    grey = ((image.astype(np.uint16) @ weights) >> 8).astype(np.float32) * 0.5 + 8
    shown = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    shown[wrong_pixels(truth, pred)] = ERROR
    rows, columns = np.nonzero(truth == IGNORE)
    shown[rows, columns] = np.where((rows + columns) % 8 < 2, 96, 0)[:, None]
    return shown


def wrong_pixels(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Find the valid pixels whose prediction differs from the ground truth: (H, W) bool."""
    return (truth != pred) & (truth != IGNORE)


def top_confusions(truth: np.ndarray, pred: np.ndarray, classes: ClassMap) -> list[tuple]:
    """Find the three class pairs that cost most in one image: (true class, predicted class, share of valid pixels)."""
    wrong, valid = wrong_pixels(truth, pred), int((truth != IGNORE).sum())
    pairs, pixels = np.unique(truth[wrong].astype(np.uint16) * 256 + pred[wrong], return_counts=True)
    names, best = dict(enumerate(classes.names)), np.argsort(-pixels, kind="stable")[:3]
    found = zip(pairs[best].tolist(), pixels[best].tolist(), strict=True)
    return [(names.get(pair >> 8, "?"), names.get(pair & 255, "?"), n / valid) for pair, n in found]


def present(*masks: np.ndarray) -> list[int]:
    """List the ids that occur in the masks, ascending; 255 (ignored) comes last where it occurs."""
    return sorted({int(v) for mask in masks for v in np.unique(mask)})


def label_regions(mask: np.ndarray, drawn: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label the connected regions of equal values in (H, W) uint8 or bool; pixels that touch at a corner are connected.

    Rows are cut into runs of one value, and runs that touch are joined: several times faster than a labelling pixel by pixel.

    Returns:
        labels (H, W) int64, numbered from 0 in reading order (of runs alone if they are not to be `drawn`, which takes
        longest); the value of each region (R,); its pixels (R,) int64.
    """
    flat, width = np.ascontiguousarray(mask).ravel(), mask.shape[1]
    starts = np.ones(mask.shape, bool)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=starts[:, 1:])
    begin, starts = np.flatnonzero(starts), starts.ravel()
    sizes = np.diff(begin, append=flat.size)
    run = np.repeat(np.arange(len(begin), dtype=np.int32), sizes)  # (H * W,)
    # Where runs of two rows touch, one of them begins at p or above it; they meet there, or else across a corner of p.
    below = np.flatnonzero(starts[width:] | starts[:-width]) + width
    meet = flat[below] == flat[below - width]
    lower, corner = below[meet], below[~meet]
    corner, pairs = corner[corner % max(1, width) > 0], [(run[lower], run[lower - width])]
    for lower, upper in ((corner, corner - width - 1), (corner - 1, corner - width)):
        same = flat[lower] == flat[upper]
        pairs.append((run[lower[same]], run[upper[same]]))
    region = joined(len(begin), *np.concatenate(pairs, axis=1)).astype(np.int64)
    values = np.empty(region.max(initial=-1) + 1, mask.dtype)
    values[region] = flat[begin]
    labels = np.repeat(region, sizes).reshape(mask.shape) if drawn else region
    return labels, values, np.bincount(region, sizes).astype(np.int64)


def joined(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number `count` things so that all that the pairs of `first` and `second` connect have one number."""
    graph = coo_array((np.ones(len(first)), (first, second)), (count, count))
    return connected_components(graph, directed=False)[1]
