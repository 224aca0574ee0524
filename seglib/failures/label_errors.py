"""Suspected label errors: where the model contradicts a mask confidently, and otherwise than it usually errs.

A model disagrees with every mask somewhere: along outlines, and where it always confuses the same two
classes. Neither is evidence against the mask. `look` measures the regions of disagreement of one image,
outlines left out; `judge` asks how often the model errs as badly by the same confusion in other images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from seglib.checks import correlate_shifts
from seglib.data import IGNORE, label_regions
from seglib.metrics import boundary_width

SURE = 0.87  # score from which a label is called wrong; few correct masks of the demo and CamVid reach it
_BAND = 0.005  # of the diagonal: width along outlines in which disagreement may be a matter of drawing
_REGIONS = 16  # regions kept an image, those with the most evidence
_FLOOR = 1e-5  # probabilities below it count as equally impossible
_NOISE = 1e-3  # evidence a valid pixel that any image may hold
_KINSHIP = (1.0, 0.1, 0.1, 0.3)  # weights: the same confusion, given class, suggested class; any confusion
_COARSE, _REACH = 64, 0.15  # longer side of the grid on which shifts are tried; how far, as a share of it
_EXPLAINED = 0.5  # share of the disagreement that a shift must take away for a mask to be called shifted
_FOREIGN = 3.0  # times the usual disagreement, beyond the worst class's: the mask belongs to another image
_OBJECT = 0.05  # of the valid pixels: a larger region is not a missing object
_WHOLE, _PART = 0.6, 0.4  # rejected share of a region: above, its class is swapped; below, a part is missing
_REGION = ["given", "suggested", "mass", "pixels", "whole", "box", "seed", "by_given"]
_SUSPECT = ["suspect_kind", "suspect_given", "suspect_suggested", "suspect_box", "pixels", "seed", "by_given"]


class Look(NamedTuple):
    """What one image tells; small, however large the image.

    `regions` of disagreement, largest evidence first: given and suggested (class ids of mask and model), mass
    (evidence: sum over inner pixels of log(probability of the prediction / of the mask)^2), pixels, whole
    (share of the mask's regions it lies in that the model rejects), box ("x0 y0 x1 y1", ends exclusive), seed
    (flat index of a pixel), by_given (connected by its given class or not).
    """

    pixels: int  # valid
    agreement: float  # share of them on which prediction and mask agree; NaN without any
    doubt: float  # mean of 1 - top-1 probability over them; it does not depend on the mask
    shift: tuple[int, int, float]  # dx, dy that move the mask best, and the share of disagreement that goes
    regions: pd.DataFrame


def look(truth: np.ndarray, probabilities: np.ndarray, pred: np.ndarray) -> Look:
    """Measure the disagreement between a mask and the model.

    Args:
        truth, pred: (H, W) uint8 class ids; 255 is ignored.
        probabilities: (C, H, W) floating point, summing to 1 over classes.
    """
    valid = truth != IGNORE
    apart, ids = valid & (pred != truth), np.stack([pred, np.where(valid, truth, 0)]).astype(np.intp)
    top, of_mask = np.take_along_axis(probabilities, ids, 0).astype(np.float32)  # (H, W) each
    inner = ndimage.minimum_filter(apart, 2 * boundary_width(truth.shape, _BAND) + 1)
    # squared: the model's own errors leave the true class some probability, a wrong label has next to none
    weight = np.where(inner, np.log(np.maximum(top, _FLOOR) / np.maximum(of_mask, _FLOOR)) ** 2, 0)
    rows = [row for by_given in (True, False) for row in _regions(truth, pred, weight, by_given)]
    regions = pd.DataFrame(sorted(rows, key=lambda row: -row[2])[:_REGIONS], columns=_REGION)
    pixels, agreement, doubt = int(np.count_nonzero(valid)), np.nan, np.nan
    if pixels:
        agreement, doubt = 1 - np.count_nonzero(apart) / pixels, 1 - top[valid].mean(dtype=np.float64)
    return Look(pixels, agreement, float(doubt), _best_shift(truth, pred), regions)


def _regions(truth: np.ndarray, pred: np.ndarray, weight: np.ndarray, by_given: bool) -> Iterator[tuple]:
    """Yield what `Look` tells of the regions connected by their given (or their suggested) class."""
    labels, values, sizes = _apart(truth, pred, by_given)
    labels_given, _, sizes_given = label_regions(truth)
    other = pred if by_given else truth
    mass = np.bincount(labels.ravel(), weight.ravel(), minlength=len(values))
    for k in np.argsort(-mass, kind="stable")[: min(_REGIONS, np.count_nonzero(mass))]:
        inside = labels == k
        y, x = np.nonzero(inside)
        ids = int(values[k]), int(np.bincount(other[inside], weight[inside]).argmax())  # most of the evidence
        # of the mask's regions that the disagreement mostly lies in, how much does it cover?
        of, overlap = np.unique(labels_given[inside], return_counts=True)
        mostly = overlap >= 0.1 * sizes[k]
        whole = overlap[mostly].sum() / sizes_given[of[mostly]].sum()
        box, seed = f"{x.min()} {y[0]} {x.max() + 1} {y[-1] + 1}", y[0] * truth.shape[1] + x[0]
        yield (*ids[:: 1 if by_given else -1], mass[k], sizes[k], whole, box, seed, by_given)


def _apart(truth: np.ndarray, pred: np.ndarray, by_given: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label the connected disagreements of one given class (or one suggested class)."""
    apart = (truth != IGNORE) & (truth != pred)
    return label_regions(np.where(apart, truth if by_given else pred, IGNORE).astype(np.uint8))


def _best_shift(truth: np.ndarray, pred: np.ndarray) -> tuple[int, int, float]:
    """Find dx, dy that move the mask onto the prediction best, and the share of the disagreement that goes."""
    step = max(1, -(-max(truth.shape) // _COARSE))
    t, p = (ids[step // 2 :: step, step // 2 :: step] for ids in (truth, pred))
    valid, reach = t != IGNORE, max(1, round(_REACH * max(t.shape)))
    if not valid.any():
        return 0, 0, 0.0
    pairs = [*((p == c, t == c) for c in np.unique(t[valid])), (np.ones_like(valid), valid)]
    # the agreement at every shift is a sum over classes of cross-correlations
    *agreed, stay = (np.round(correlate_shifts(*pair, reach)).astype(np.int64) for pair in pairs)
    share = np.where(stay > 0.5 * valid.sum(), sum(agreed) / np.maximum(stay, 1), 0)  # of those that stay
    y, x = np.unravel_index(share.argmax(), share.shape)
    gone = (share[y, x] - share[reach, reach]) / max(1 - share[reach, reach], 1e-9)
    return int(x - reach) * step, int(y - reach) * step, float(gone)


def judge(looks: Sequence[Look | None], names: tuple[str, ...]) -> pd.DataFrame:
    """Score how suspicious each mask of a split is, compared with the other images.

    A region's evidence m is compared with the largest evidence a_j of the same confusion in each other image
    j, which counts min(1, a_j / m); images with only the same given class, the same suggested class or any
    confusion count for less. The share of images that err like this is the chance of an error of the model.
    The evidence of images of which the model is less sure than usual is discounted. Where a shift explains
    more of the disagreement than it usually does, the chance falls by as much.

    Returns:
        A row a look: label_score, 0-1 (NaN of None), and of its most suspicious region, if any, suspect_kind
        ("swapped class", "missing object", "shifted mask", "mask of another image" or ""), suspect_given,
        suspect_suggested, suspect_box ("x0 y0 x1 y1"), pixels, seed and by_given.
    """
    rows = [(np.nan if one is None else 0.0, "", "", "", "", 0, -1, True) for one in looks]
    found = [one.regions.assign(image=i) for i, one in enumerate(looks) if one and len(one.regions)]
    if found:
        regions = pd.concat(found, ignore_index=True)
        regions["share"] = _share_like_it(looks, regions)
        agreement = np.nanmedian([one.agreement for one in looks])
        for own in regions.loc[regions.groupby("image")["share"].idxmin()].itertuples():
            score = float(np.clip(1 - own.share, 0, 1))
            kind = _kind(looks[own.image], own, agreement) if score >= 0.5 else ""
            classes = names[own.given], names[own.suggested]
            rows[own.image] = (score, kind, *classes, own.box, own.pixels, own.seed, own.by_given)
    return pd.DataFrame(rows, columns=["label_score", *_SUSPECT])


def _share_like_it(looks: Sequence[Look], regions: pd.DataFrame) -> np.ndarray:
    """Compute the chance of each region to be the model's own error."""
    image, given, suggested = regions[["image", "given", "suggested"]].to_numpy().T
    pixels, doubts, still = np.array([(one.pixels, one.doubt, 1 - one.shift[2]) for one in looks]).T
    trust = np.divide(np.nanmedian(doubts), doubts, out=np.ones(len(looks)), where=doubts > 0)
    mass = regions["mass"].to_numpy() * np.minimum(1, trust[image]) ** 2
    alike = (given * (IGNORE + 1) + suggested, given, suggested, np.zeros_like(given))
    like = sum(weight * _others(key, image, mass) for weight, key in zip(_KINSHIP, alike, strict=True))
    # as of a rank among n others, (r + 1) / (n + 1): with few others to compare with, little can be said
    share = (like + 0.5 + 0.5 * np.minimum(1, _NOISE * pixels[image] / mass)) / (
        sum(_KINSHIP) * (len(looks) - 1) + 1
    )
    return share * np.minimum(1, still / max(np.median(still), _FLOOR))[image]


def _others(key: np.ndarray, image: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Sum, for each region, min(1, a / mass) over the other images, a: their largest mass of the same key."""
    values, place = np.unique(key, return_inverse=True)
    most = np.zeros((len(values), image.max() + 1))
    np.maximum.at(most, (place, image), mass)
    return np.array([np.minimum(1, most[k] / m).sum() - 1 for k, m in zip(place, mass, strict=True)])


def _kind(one: Look, own: Any, agreement: float) -> str:
    """Name the kind of label error that the evidence points to; `agreement` is that of the typical mask."""
    of_class = one.regions[one.regions["by_given"] & (one.regions["given"] == own.given)]
    if one.shift[2] >= _EXPLAINED:
        return "shifted mask"
    if 1 - one.agreement - of_class["pixels"].sum() / one.pixels > _FOREIGN * (1 - agreement):
        return "mask of another image"
    if own.whole >= _WHOLE or own.pixels > _OBJECT * one.pixels:
        return "swapped class"
    return "missing object" if own.whole <= _PART else ""


def suspect_region(truth: np.ndarray, pred: np.ndarray, seed: int, by_given: bool) -> np.ndarray:
    """Grow a suspicious region, (H, W) bool, again from what `judge` told and the mask and prediction."""
    labels, _, _ = _apart(truth, pred, by_given)
    return labels == labels.ravel()[seed]
