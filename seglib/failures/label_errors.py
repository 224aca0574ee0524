"""Suspected label errors: where the model contradicts a mask confidently, and otherwise than it usually errs.

A model disagrees with every mask somewhere: along outlines, and where it always confuses the same two
classes. Neither is evidence against the mask. `look` measures the regions of disagreement of one image,
outlines left out; `judge` asks how often the model errs as badly by the same confusion in other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage, signal

from seglib.data import IGNORE, label_regions
from seglib.metrics import boundary_width

SURE = 0.87  # score from which a label is called wrong; few correct masks of the demo and CamVid reach it
KINDS = ("swapped class", "missing object", "shifted mask", "mask of another image")

_BAND = 0.005  # of the diagonal: width along outlines in which disagreement may be a matter of drawing
_REGIONS = 16  # regions kept an image, those with the most evidence
_FLOOR = 1e-5  # probabilities below it count as equally impossible
_NOISE = 1e-3  # evidence a valid pixel that any image may hold
_KINSHIP = (
    1.0,
    0.1,
    0.1,
    0.3,
)  # weights: same confusion, same given class, same suggested class, any confusion
_COARSE = 64  # longer side of the grid on which shifts are tried
_REACH = 0.15  # farthest shift that is tried, of the longer side
_EXPLAINED = 0.5  # share of the disagreement that a shift must take away for a mask to be called shifted
_FOREIGN = 3.0  # times the usual disagreement, beyond the worst class's: the mask belongs to another image
_OBJECT = 0.05  # of the valid pixels: a larger region is not a missing object
_WHOLE, _PART = 0.6, 0.4  # rejected share of a region: above, its class is swapped; below, a part is missing


@dataclass(frozen=True)
class Look:
    """What one image tells; small, however large the image.

    Args:
        pixels: valid pixels.
        agreement: share of them on which prediction and mask agree; NaN without any.
        doubt: mean of 1 - top-1 probability over them; it does not depend on the mask.
        shift: dx, dy in pixels by which the mask agrees best with the prediction, and the share of the
            disagreement that goes.
        regions: of disagreement, largest evidence first: given and suggested (class ids of mask and model),
            mass (evidence: sum over inner pixels of log(probability of the prediction / of the mask)^2),
            pixels, whole (share of the mask's regions it lies in that the model rejects), box (x0, y0, x1, y1,
            ends exclusive), seed (flat index of a pixel), by_given (connected by its given class or not).
    """

    pixels: int
    agreement: float
    doubt: float
    shift: tuple[int, int, float]
    regions: pd.DataFrame


def look(truth: np.ndarray, probabilities: np.ndarray, pred: np.ndarray | None = None) -> Look:
    """Measure the disagreement between a mask and the model.

    Args:
        truth: (H, W) uint8 class ids; 255 is ignored.
        probabilities: (C, H, W) floating point, summing to 1 over classes.
        pred: (H, W) uint8 class ids; by default those of the highest probability.
    """
    valid = truth != IGNORE
    pixels = int(np.count_nonzero(valid))
    pred = probabilities.argmax(0).astype(np.uint8) if pred is None else pred
    top, of_mask = (
        np.take_along_axis(probabilities, ids[None].astype(np.intp), 0)[0].astype(np.float32)
        for ids in (pred, np.where(valid, truth, 0))
    )
    apart = valid & (pred != truth)
    inner = ndimage.minimum_filter(apart, 2 * boundary_width(truth.shape, _BAND) + 1)
    # squared: the model's own errors leave the true class some probability, a wrong label has next to none
    weight = np.where(inner, np.log(np.maximum(top, _FLOOR) / np.maximum(of_mask, _FLOOR)) ** 2, 0)
    found = [_regions(truth, pred, weight, by_given) for by_given in (True, False)]
    regions = pd.concat([part for part in found if len(part)] or found[:1])
    regions = regions.sort_values("mass", ascending=False, kind="stable", ignore_index=True).head(_REGIONS)
    agreement = 1 - np.count_nonzero(apart) / pixels if pixels else np.nan
    doubt = float(1 - top[valid].mean(dtype=np.float64)) if pixels else np.nan
    return Look(pixels, agreement, doubt, _best_shift(truth, pred), regions)


def _regions(truth: np.ndarray, pred: np.ndarray, weight: np.ndarray, by_given: bool) -> pd.DataFrame:
    labels, value, size = _apart(truth, pred, by_given)
    labels, weight, other = labels.ravel(), weight.ravel(), (pred if by_given else truth).ravel()
    mass = np.bincount(labels, weight, minlength=len(value))
    labels_given, _, size_given = label_regions(truth)
    rows = []
    for k in np.argsort(-mass, kind="stable")[:_REGIONS]:
        if mass[k] == 0:
            break
        inside = np.flatnonzero(labels == k)
        y, x = np.divmod(inside, truth.shape[1])
        ids = int(value[k]), int(np.bincount(other[inside], weight[inside]).argmax())  # most of the evidence
        # of the mask's regions that the disagreement mostly lies in, how much does it cover?
        of, overlap = np.unique(labels_given.ravel()[inside], return_counts=True)
        mostly = overlap >= 0.1 * size[k]
        whole = overlap[mostly].sum() / size_given[of[mostly]].sum()
        box = int(x.min()), int(y[0]), int(x.max()) + 1, int(y[-1]) + 1
        rows.append((*ids[:: 1 if by_given else -1], mass[k], size[k], whole, box, inside[0], by_given))
    columns = ["given", "suggested", "mass", "pixels", "whole", "box", "seed", "by_given"]
    return pd.DataFrame(rows, columns=columns)


def _apart(truth: np.ndarray, pred: np.ndarray, by_given: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label the connected disagreements of one given class (or one suggested class)."""
    apart = (truth != IGNORE) & (truth != pred)
    return label_regions(np.where(apart, truth if by_given else pred, IGNORE).astype(np.uint8))


def _best_shift(truth: np.ndarray, pred: np.ndarray) -> tuple[int, int, float]:
    """Find dx, dy that move the mask onto the prediction best, and the share of the disagreement that goes.

    The agreement at every shift on a coarse grid is a sum over classes of cross-correlations.
    """
    step = max(1, -(-max(truth.shape) // _COARSE))
    t, p = (ids[step // 2 :: step, step // 2 :: step] for ids in (truth, pred))
    valid, reach = t != IGNORE, max(1, round(_REACH * max(t.shape)))
    if not valid.any():
        return 0, 0, 0.0
    pairs = [*((p == c, t == c) for c in np.union1d(t[valid], p)), (np.ones_like(valid), valid)]
    start = np.maximum(np.array(t.shape) - 1 - reach, 0)
    window = tuple(slice(first, side + reach) for first, side in zip(start, t.shape, strict=True))
    *agreed, total = (signal.correlate(1.0 * a, 1.0 * b, method="fft")[window] for a, b in pairs)
    # of the mask's pixels that stay in the image
    share = np.where(total > 0.5 * valid.sum(), sum(agreed) / np.maximum(total, 1), 0)
    center, best = tuple(np.array(t.shape) - 1 - start), np.unravel_index(share.argmax(), share.shape)
    gone = (share[best] - share[center]) / max(1 - share[center], 1e-9)
    dy, dx = (np.array(best) - center) * step
    return int(dx), int(dy), float(np.clip(gone, 0, 1))


def judge(looks: Sequence[Look | None], names: tuple[str, ...]) -> pd.DataFrame:
    """Score how suspicious each mask of a split is, compared with the other images.

    A region's evidence m is compared with the largest evidence a_j of the same confusion in each other image
    j, which counts min(1, a_j / m); images with only the same given class, the same suggested class or any
    confusion count for less. The share of images that err like this is the chance of an error of the model.
    The evidence of images of which the model is less sure than usual is discounted. Where a shift explains
    more of the disagreement than it usually does, the chance falls by as much.

    Args:
        looks: of every image of the split; without others to compare with, scores stay below 0.5.
        names: of the classes.

    Returns:
        A row a look: label_score, 0-1 (NaN of None), and of its most suspicious region suspect_kind (one of
        `KINDS` or ""), suspect_given, suspect_suggested, suspect_box ("x0 y0 x1 y1"), pixels, seed and
        by_given; empty where there is none.
    """
    rows = [(np.nan if one is None else 0.0, "", "", "", "", 0, -1, True) for one in looks]
    found = [one.regions.assign(image=i) for i, one in enumerate(looks) if one and len(one.regions)]
    if found:
        regions = pd.concat(found, ignore_index=True)
        regions["share"] = _share_like_it(looks, regions)
        agreement = np.nanmedian([one.agreement for one in looks])
        for i, own in regions.groupby("image"):
            row = own.loc[own["share"].idxmin()]
            score = float(np.clip(1 - row["share"], 0, 1))
            kind = _kind(looks[i], row, agreement) if score >= 0.5 else ""
            where = " ".join(map(str, row["box"])), row["pixels"], row["seed"], row["by_given"]
            rows[i] = (score, kind, names[row["given"]], names[row["suggested"]], *where)
    suspect = ["suspect_kind", "suspect_given", "suspect_suggested", "suspect_box"]
    return pd.DataFrame(rows, columns=["label_score", *suspect, "pixels", "seed", "by_given"])


def _share_like_it(looks: Sequence[Look], regions: pd.DataFrame) -> np.ndarray:
    """Compute the chance of each region to be the model's own error."""
    image, given, suggested = (regions[name].to_numpy() for name in ("image", "given", "suggested"))
    doubts = np.array([one.doubt for one in looks])
    trust = np.divide(np.nanmedian(doubts), doubts, out=np.ones(len(looks)), where=doubts > 0)
    mass = regions["mass"].to_numpy() * np.minimum(1, trust[image]) ** 2
    alike = (given * (IGNORE + 1) + suggested, given, suggested, np.zeros_like(given))
    like = sum(weight * _others(key, image, mass) for weight, key in zip(_KINSHIP, alike, strict=True))
    noise = _NOISE * np.array([one.pixels for one in looks])[image]
    # as of a rank among n others, (r + 1) / (n + 1): with few others to compare with, little can be said
    share = (like + 0.5 + 0.5 * np.minimum(1, noise / mass)) / (sum(_KINSHIP) * (len(looks) - 1) + 1)
    still = np.array([1 - one.shift[2] for one in looks])
    return share * np.minimum(1, still / max(np.median(still), _FLOOR))[image]


def _others(key: np.ndarray, image: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Sum, for each region, min(1, a / mass) over the other images, a: their largest mass of the same key."""
    result = np.zeros(len(mass))
    for value in np.unique(key):
        where = np.flatnonzero(key == value)
        images, place = np.unique(image[where], return_inverse=True)
        most = np.zeros(len(images))
        np.maximum.at(most, place, mass[where])
        ranked = np.sort(most)
        at = np.searchsorted(ranked, mass[where])
        total = len(ranked) - at + np.concatenate([[0], np.cumsum(ranked)])[at] / mass[where]
        result[where] = total - np.minimum(1, most[place] / mass[where])
    return result


def _kind(one: Look, region: pd.Series, agreement: float) -> str:
    """Name the kind of label error that the evidence points to; `agreement` is that of the typical mask."""
    dx, dy, gone = one.shift
    alike = one.regions["by_given"] & (one.regions["given"] == region["given"])
    if gone >= _EXPLAINED and (dx or dy):
        return "shifted mask"
    if 1 - one.agreement - one.regions.loc[alike, "pixels"].sum() / one.pixels > _FOREIGN * (1 - agreement):
        return "mask of another image"
    if region["whole"] >= _WHOLE or region["pixels"] > _OBJECT * one.pixels:
        return "swapped class"
    return "missing object" if region["whole"] <= _PART else ""


def suspect_region(truth: np.ndarray, pred: np.ndarray, seed: int, by_given: bool) -> np.ndarray:
    """Grow a suspicious region, (H, W) bool, again from what `judge` told and the mask and prediction."""
    labels, _, _ = _apart(truth, pred, by_given)
    return labels == labels.ravel()[seed]
