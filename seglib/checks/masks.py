"""Find faults of masks that show without a model: beside the edges, or of another image."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image
from scipy import fft

from seglib.checks.duplicates import alike, repeated, steps
from seglib.data import IGNORE, some

SUSPECT = ("mask-beside-edges", "mask-of-another-image")  # the checks of `judge_masks`
_LONG = 128  # pixels of the longer side at which they are compared, at most
_REACH = 0.1  # shifts tried, as a share of the longer side
_SURE = 5.0  # standard deviations of chance that the best place must reach, or nothing is said
_CLEAR = 0.5  # and above the mean of the edges, in their own deviations; sound masks meet 0.7 to 1.3
_FEWEST_EDGES = 20  # outline pixels without which nothing is said
# Of the edges that it meets elsewhere, a sound mask of the demo or of CamVid meets more than 0.73 where it
# lies; one shifted by 7 pixels or more in 128, less than 0.4.
_BESIDE = 0.65
# Masks of CamVid's and the demo's splits fit their own images better than others in 0.98 to 1 of the comparisons; moved on
# by 20 images or more, in 0.33 to 0.57; outlines that hardly show in their images in 0.5 to 0.7.
_OWN = 0.6
_FEWEST_PAIRS, _OTHERS = 20, 8  # masks of a split; images that each is compared with
# masks beside the edges, and their share: beyond both, it is the edges that are elsewhere
_FEW, _MOST = 2, 0.1


def reduction(shape: tuple[int, int]) -> int:
    """Compute by how much an image of these sides is reduced before it is compared with its mask and with others."""
    return max(1, -(-max(shape) // _LONG))


def edge_shift(small: Image.Image, mask: np.ndarray) -> tuple[int, int, float] | None:
    """Find where the outlines of a (H, W) mask meet the edges of its grey image, reduced by `reduction`, best.

    Returns:
        pixels by which the mask would have to move (right, down), and what it meets where it lies over what it would meet
            there, 0 to 1; None if nothing is clear.
    """
    times = reduction(mask.shape)
    pixels, ids = np.asarray(small, np.int16), mask[times // 2 :: times, times // 2 :: times]
    h, w = np.minimum(pixels.shape, ids.shape)
    pixels, ids = pixels[:h, :w], ids[:h, :w]
    valid, edges, outlines = ids != IGNORE, np.zeros((h, w), np.float32), np.zeros((h, w), bool)
    for one, next_one in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edges[one] = np.maximum(edges[one], np.abs(pixels[next_one] - pixels[one]))
        outlines[one] |= (ids[one] != ids[next_one]) & valid[one] & valid[next_one]
    edges = np.sqrt(edges)  # so that a few strong edges do not outvote the rest
    count, deviation = np.count_nonzero(outlines), edges.std()
    if count < _FEWEST_EDGES or not deviation:
        return None
    reach = max(2, round(_REACH * max(h, w)))
    meets = correlate_shifts(edges - edges.mean(), outlines, reach)
    y, x = np.unravel_index(meets.argmax(), meets.shape)
    if meets[y, x] < deviation * max(_SURE * count**0.5, _CLEAR * count):
        return None
    dy, dx = int(y) - reach, int(x) - reach
    if max(abs(dy), abs(dx)) < 2:  # one pixel there is within drawing accuracy
        return 0, 0, 1.0
    return dx * times, dy * times, float(max(0.0, meets[reach, reach] / meets[y, x]))


def correlate_shifts(still: np.ndarray, moving: np.ndarray, reach: int) -> np.ndarray:
    """Sum still * moving for each shift of `moving` by up to `reach` rows and columns: (2 reach + 1,) * 2 float32."""
    shifts = np.arange(-reach, reach + 1)
    size = [fft.next_fast_len(side + reach, real=True) for side in still.shape]
    first, second = fft.rfft2(np.stack([still, moving]).astype(np.float32), size)
    return fft.irfft2(first * np.conj(second), size)[np.ix_(shifts, shifts)]


def shift_words(right: float, down: float) -> str:
    """Word a shift in pixels: "12 px left and 4 px down"."""
    parts = ((right, "right", "left"), (down, "down", "up"))
    return " and ".join(f"{abs(by):.0f} px {back if by < 0 else on}" for by, on, back in parts if round(by))


def fits_own(samples: pd.DataFrame) -> float:
    """Compute how often a mask's outlines meet the edges of its own image better than those of another, 0-1.

    `samples`: thumbnails `_thumb` of the images, `_cells` of the masks. Only outlines that the other's mask lacks count: a
    field of view, or a camera that stands still, has the same in all. NaN where fewer than 20 masks have enough of them.
    """
    edges = np.sqrt(np.abs(steps(samples["_thumb"].tolist())))
    edges -= edges.mean(axis=1, keepdims=True)
    edges /= np.maximum(edges.std(axis=1, keepdims=True), 1e-6)
    cells = np.array(samples["_cells"].tolist(), np.float32)
    cells[cells == IGNORE] = np.nan
    outlines = np.abs(steps(cells)) > 0
    order = np.random.default_rng(0).permutation(len(samples))
    edges, outlines, better = edges[order], outlines[order], np.full((_OTHERS, len(order)), np.nan)
    for k in range(1, min(len(order), _OTHERS + 1)):
        own = outlines & ~np.roll(outlines, k, axis=0)
        gain = ((edges - np.roll(edges, k, axis=0)) * own).sum(axis=1)
        told = (own.sum(axis=1) >= _FEWEST_EDGES) & (gain != 0)
        better[k - 1, told] = gain[told] > 0
    known = ~np.isnan(better)
    return float(better[known].mean()) if known.any(axis=0).sum() >= _FEWEST_PAIRS else float("nan")


def judge_masks(samples: pd.DataFrame, masks: np.ndarray, pictures: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report masks beside their image's edges, and of another: (N,) equal numbers where both are the same."""
    fits = samples["edge_fit"]
    beside = fits < _BESIDE
    if beside.sum() > max(_FEW, _MOST * fits.notna().sum()):
        detail = f"{beside.sum()} of {fits.notna().sum()} masks meet edges of their images better elsewhere"
        yield "edges-elsewhere", "", "", f"{detail}: edges say little here, or all masks are moved."
        beside &= False
    for row in samples[beside].itertuples():
        fit = f"in place it matches {row.edge_fit:.0%} of those"
        detail = f"mask {row.id!r} fits its image's edges when moved {shift_words(row.shift_x, row.shift_y)}; {fit}."
        yield "mask-beside-edges", row.id, row.split, detail
    both = samples[samples["_thumb"].notna() & samples["_cells"].notna()]
    for split, rows in both.groupby("split", sort=False):
        if (own := fits_own(rows)) < _OWN:
            detail = f"masks of {split} fit the edges of their own images better than those of others in {own:.0%} of the cases;"
            yield "masks-mixed-up", "", split, f"{detail} by chance it would be 50 %."
    several = np.flatnonzero(samples["classes_present"] > 1)  # an empty scene is like any other
    for places in (several[places] for places in repeated(masks[several])):
        same = samples.iloc[places]
        if len(set(pictures[places])) > 1 and not alike(same["_thumb"].dropna().tolist()):
            worst, named = same.loc[same["edge_fit"].fillna(0.0).idxmin()], same["split"] + "/" + same["id"]
            detail = f"{len(same)} images share one mask: {some([*named])}. It fits {worst['id']!r} least."
            yield "mask-of-another-image", worst["id"], worst["split"], detail
