"""Whether masks and images are what they seem: ids that are shifted, smeared or numbers; ranges; EXIF; masks beside
their edges or of another image.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd
from PIL import Image
from scipy import fft

from seglib import data
from seglib.checks.duplicates import alike, repeated
from seglib.data import IGNORE, Dataset, some

_FEWEST = 10  # masks from which an absent first class is no chance
_SOFT = 0.15  # of the steps between ids two or more apart; sharp masks: below 0.05
# such steps without which a mask says nothing; a share of the pixels that is noise
_STEPS, _CROWDED = 20, 0.2
_NUMBERS = 5  # instances in one image at most, below which ids may be classes
_SAMPLED = 50  # images from which a range is proposed
_LEVELS = 64  # of 256 that a range should leave
SUSPECT = ("mask-beside-edges", "mask-of-another-image")  # the checks of `judge_masks`
_LONG = 128  # pixels of the longer side at which they are compared, at most
_REACH = 0.1  # shifts tried, as a share of the longer side
_SURE = 5.0  # standard deviations of chance that the best place must reach, or nothing is said
_CLEAR = 0.5  # and above the mean of the edges, in their own deviations; sound masks meet 0.7 to 1.3
_FEWEST_EDGES = 20  # outline pixels without which nothing is said
# Of the edges that it meets elsewhere, a sound mask of the demo or of CamVid meets more than 0.73 where it
# lies; one shifted by 7 pixels or more in 128, less than 0.4.
_BESIDE = 0.65
# masks beside the edges, and their share: beyond both, it is the edges that are elsewhere
_FEW, _MOST = 2, 0.1


def soft_share(mask: np.ndarray) -> float:
    """Share of the steps between ids two or more apart that pass through an id between them; NaN if there are few, or only such."""
    far = between = 0
    for ids in (mask, mask.T):
        a, b, c = ids[:, :-2], ids[:, 1:-1], ids[:, 2:]
        low, high = np.minimum(a, c), np.maximum(a, c)
        steps = (high - low >= 2) & (high != IGNORE)
        far += np.count_nonzero(steps)
        between += np.count_nonzero(steps & (low < b) & (b < high))
    return between / far if _STEPS <= far <= _CROWDED * mask.size else float("nan")


def numbered(values: np.ndarray) -> float:
    """Highest id of a mask whose regions' ids (R,) number them, 1, 2, 3, ...; 0 if they do not, NaN if it is empty."""
    own = np.sort(values[(values != 0) & (values != IGNORE)])
    if not len(own):
        return float("nan")
    return float(own[-1]) if len(np.unique(own)) == own[-1] >= len(own) / 1.1 else 0.0


def undecided(image: data.Stored, mask: data.Stored, size: tuple[int, int]) -> bool:
    """Tell whether an image is turned by EXIF, its mask is not, and their sizes do not say how the mask lies."""
    sides = (2, 3, 4, 5, 6, 7, 8) if size[0] == size[1] else (2, 3, 4)
    return mask.orientation == 1 and image.orientation in sides


def propose_range(dataset: Dataset, lacking: list[tuple]) -> Iterator[tuple[str, ...]]:
    """Make one finding of those of all images without a range, with the line of dataset.yaml that gives them one."""
    if lacking:
        low, high = _robust_range(dataset, [one[2] for one in lacking])
        told = f"Write range: [{low:.6g}, {high:.6g}] into dataset.yaml: between them lie 99.8 % of the pixels that hold data."
        yield "range", lacking[0][2], "", f"{len(lacking)} images have no range: {lacking[0][4]}", told


def _robust_range(dataset: Dataset, deep: Sequence[str]) -> tuple[float, float]:
    """The 0.1st and 99.9th percentile of the values of images of more than 8 bits, of train if it has some.

    A lowest or highest value that lies farther from all others than these spread is no data, as -9999 or a border of 0.
    """
    samples = dataset.samples[dataset.samples["id"].isin(deep)]
    train, values = samples["split"] == "train", [np.array([0, 65535])]
    samples = samples[train if train.any() else ~train]
    for row in samples.iloc[:: -(-len(samples) // _SAMPLED)].itertuples():
        with suppress(data.DatasetError):  # a finding already
            pixels = data.read_values(dataset.root / row.image, dataset.form)
            values.append(pixels.ravel()[:: max(1, pixels.size // 20_000)])
    known = np.concatenate(values[1:] or values).astype(float)
    known = known[np.isfinite(known)] if np.isfinite(known).any() else values[0]
    for end in (known.min(), known.max()):
        rest = known[known != end]
        if len(rest) and np.abs(rest - end).min() > np.ptp(np.percentile(rest, [0.1, 99.9])):
            known = rest
    low, high = np.percentile(known, [0.1, 99.9]).tolist()
    return low, max(high, low + 1e-6 * abs(low) or 1.0)


def judge_reading(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report what whole datasets show: masks that were misread, and by what rule images were read."""
    yield from _judge_images(dataset, samples)
    classes, some_mask = dataset.classes, samples["ignore_share"].notna().to_numpy()
    if len(classes) == 1:
        yield "one-class", "", "", f"{classes.names[0]} is the only class: there is nothing to tell it from."
    if conflict := data.palette_conflict(_palettes(dataset, samples, counts)):
        yield "palettes-differ", "", "", conflict
    if classes.id_map or classes.by_color:
        return
    total, whole = counts.sum(axis=0), some_mask & (samples["mask_mode"] != "1").to_numpy()
    ignored, others = samples["ignore_share"].to_numpy() > 0, counts[:, 1:].any(axis=1)
    alone, usual = whole & ignored & ~others, others & (ignored | bool(classes.ignore_ids))
    if alone.any() and not usual.any() and IGNORE not in classes.ignore_ids:
        share, names = samples.loc[alone, "ignore_share"].mean(), samples.loc[alone, "id"].tolist()
        detail = f"{alone.sum()} masks ({some(names)}) hold 0 and 255 alone: 255 is ignored, {share:.1%} of their pixels."
        line = {c: c for c in range(len(classes) if others.any() else 1)} | {IGNORE: 1}
        told = f"Write id_map: {line} into dataset.yaml if 255 is a class, ignore_ids: [255] if it is not."
        yield "all-255", "", "", detail, told
    absent = len(total) > 1 and not total[0] and total[1:].all() and 0 not in classes.ignore_ids
    if absent and some_mask.sum() >= _FEWEST:
        first, ids = classes.names[0], range(len(total))
        detail = f"no mask holds id 0 ({first}), all hold 1 to {ids[-1]}: ids seem to begin at 1."
        less, same = {c: c - 1 for c in ids[1:]}, {c: c for c in ids}
        told = f"Remove {first!r} from classes and write id_map: {less} into dataset.yaml; if it is only absent, "
        yield "ids-from-1", "", "", detail, f"{told}id_map: {same}."
    soft = samples["_soft"].dropna().astype(float)
    if len(soft) and soft.median() > _SOFT:
        detail = f"ids between those of two classes lie at {soft.median():.0%} of their outlines: resized or smoothed masks."
        yield "soft-edges", samples.loc[soft.idxmax(), "id"], "", detail
    numbers = samples["_numbers"].dropna().astype(float)
    if len(numbers) and (numbers > 0).mean() >= 0.9 and numbers.max() >= _NUMBERS and numbers.nunique() > 1:
        detail = f"ids number the regions of each mask, 1 to {numbers.max():.0f}: they look like instances, not classes."
        yield "instance-numbers", samples.loc[numbers.idxmax(), "id"], "", detail


def _palettes(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[dict]:
    """The colours of the stored ids in each palette mask, and those that dataset.yaml gives them."""
    ids = {c: k for k, c in dataset.classes.stored_values(color=False).items() if c != IGNORE}
    for stored, held in zip(samples["_stored"], counts > 0, strict=True):
        if isinstance(stored, data.Stored) and stored.palette:
            yield {k: (*stored.palette[3 * k : 3 * k + 3],) for c, k in ids.items() if held[c]}
    if dataset.classes.colors_named:
        yield {k: (*dataset.classes.colors[c].tolist(),) for c, k in ids.items()}


def _judge_images(dataset: Dataset, samples: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    images, masks = samples["_image"].dropna(), samples["_stored"].dropna()
    if alpha := sum(stored.alpha for stored in images):
        yield "alpha-dropped", "", "", f"{alpha} images have an alpha channel, which is not read."
    if white := sum(stored.white_is_zero for stored in masks):
        yield "white-is-zero", "", "", f"{white} masks are TIFFs with white as zero, read as stored."
    if turned := sum(stored.orientation != 1 for stored in images):
        rule, which = dataset.form.exif, samples.loc[samples["_undecided"].eq(True), "id"].tolist()
        detail = f"{turned} images have an EXIF orientation and are {'not ' * (rule is False)}turned by it."
        if rule is None and which:
            told = f"{detail} Sizes of {len(which)} ({some(which)}) do not tell how their masks lie."
            yield "exif-orientation", which[0], "", told
        else:
            yield "exif-turned", "", "", detail
    deep = samples["id"][images.index[[stored.deep for stored in images]]]
    if len(deep) and dataset.form.range:
        low, high = dataset.form.range
        first, last = _robust_range(dataset, deep)
        levels = max(0, 256 * (min(high, last) - max(low, first)) / (high - low))
        detail = f"{len(deep)} images of more than 8 bits: {low:g} to {high:g} become 0-255. 99.8 % of the training pixels lie "
        detail += f"in {first:.6g} to {last:.6g}, which are {levels:.0f} grey levels."
        yield "range-taken" if levels >= _LEVELS else "range-too-wide", "", "", detail


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


def judge_masks(samples: pd.DataFrame, masks: np.ndarray, pictures: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report masks beside their image's edges, and of another: (N,) equal numbers where both are the same."""
    fits = samples["edge_fit"]
    beside = fits < _BESIDE
    if beside.sum() > max(_FEW, _MOST * fits.notna().sum()):
        detail = f"{beside.sum()} of {fits.notna().sum()} masks meet edges of their images better elsewhere"
        yield "edges-elsewhere", "", "", f"{detail}: edges say little here, or all masks are moved."
        beside &= False
    for row in samples[beside].itertuples():
        moved = f"{row.shift_x:+.0f} px to the right and {row.shift_y:+.0f} px down"
        detail = f"mask {row.id!r} meets the image's edges better moved by {moved}: where it lies, it meets "
        detail += f"{row.edge_fit:.0%} of those."
        yield "mask-beside-edges", row.id, row.split, detail
    several = np.flatnonzero(samples["classes_present"] > 1)  # an empty scene is like any other
    for places in (several[places] for places in repeated(masks[several])):
        same = samples.iloc[places]
        if len(set(pictures[places])) > 1 and not alike(same["_thumb"].dropna().tolist()):
            worst, named = same.loc[same["edge_fit"].fillna(1.0).idxmin()], same["split"] + "/" + same["id"]
            detail = f"{len(same)} images share one mask: {some([*named])}. It meets the edges of "
            detail += f"{worst['id']!r} least."
            yield "mask-of-another-image", worst["id"], worst["split"], detail
