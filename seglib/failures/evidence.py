"""Evidence for and against one mask: what the model says, what the image shows, how mask and prediction differ.

`view` holds what does not depend on the mask, so that many masks of one image cost little; `measure` tells a
dozen numbers of a mask, and of each larger region in which it contradicts the prediction.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from seglib import metrics
from seglib.checks import correlate_shifts
from seglib.data import IGNORE, label_regions

LONG = 512  # pixels of the longer side at which masks are compared
REGIONS = 12  # kept of each image, by given and by suggested class: those with most evidence
_FLOOR = 1e-5  # probabilities below it count as equally impossible
_UNIT = 480  # distances are measured in 1/480 of the longer side: pixels of CamVid
_BAND = 2.5  # units on both sides of an outline in which disagreement may be a matter of drawing
_BESIDE = (3.0, 6.0)  # units from an outline: what its edge strength is compared with
_COARSE, _REACH = 64, 0.15  # longer side of the grid on which shifts are tried; how far, as a share of it
_FLAT = 0.05  # edge strength, as a share of the image's mean, below which an area is flat
_COLUMNS = ["given", "suggested", "by_given", "pixels", "y", "x", "box", "hit", "size", "contradicted"]
_COLUMNS += ["mass", "own", "of_mask", "of_pred", "color", "edge", "edge_own", "edge_mask"]


class View(NamedTuple):
    """What of an image does not depend on its mask; arrays are (H, W)."""

    pred: np.ndarray  # uint8 class ids
    log_p: np.ndarray  # (C, H, W) float32
    log_top: np.ndarray  # of the predicted class
    edges: np.ndarray  # float32 strength of the image's edges, 1 on average
    color: np.ndarray  # (H, W, 3) float32
    outline: np.ndarray  # bool, of the prediction
    distance: np.ndarray  # units to that outline
    regions: tuple[np.ndarray, np.ndarray, np.ndarray]  # of the prediction, see `label_regions`


class Evidence(NamedTuple):
    """What one mask tells, small however large the image."""

    numbers: dict[str, float]
    confusion: np.ndarray  # (C, C) pixel counts; rows are the mask
    regions: pd.DataFrame  # of disagreement, see `_regions`
    shift: tuple[int, int]  # dx, dy in pixels that move the mask onto the prediction best


def view(image: np.ndarray, probabilities: np.ndarray, pred: np.ndarray) -> View:
    """Prepare an image (H, W, 3) uint8 RGB, its probabilities (C, H, W) and its prediction (H, W) uint8 ids."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (1, 1, 0))
    slopes = (ndimage.sobel(smooth, axis) for axis in (0, 1))
    edges = np.sqrt(np.hypot(*slopes).max(2))  # so that a few strong edges do not outvote the rest
    log_p = np.log(np.maximum(probabilities, _FLOOR), dtype=np.float32)
    log_top = np.take_along_axis(log_p, pred[None].astype(np.intp), 0)[0]
    edges, lines = edges / max(edges.mean(), 1e-6), outlines(pred)
    return View(pred, log_p, log_top, edges, smooth, lines, _far(lines), label_regions(pred))


def outlines(ids: np.ndarray) -> np.ndarray:
    """Mark the pixels on both sides of a border between two classes: (H, W) bool; 255 has no borders."""
    found, valid = np.zeros(ids.shape, bool), ids != IGNORE
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        border = (ids[one] != ids[other]) & valid[one] & valid[other]
        found[one] |= border
        found[other] |= border
    return found


def _far(lines: np.ndarray) -> np.ndarray:
    """Measure how many units each pixel lies from the nearest line: (H, W); all are far where there is none."""
    if not lines.any():
        return np.full(lines.shape, float(_UNIT))
    return ndimage.distance_transform_edt(~lines) * (_UNIT / max(lines.shape))


def measure(seen: View, truth: np.ndarray, changed: np.ndarray) -> Evidence:
    """Compare a mask (H, W) uint8 with what model and image say; a fault `changed` it there, (H, W) bool."""
    pred, valid = seen.pred, truth != IGNORE
    pixels, apart, lines = max(1, np.count_nonzero(valid)), valid & (truth != pred), outlines(truth)
    ids = np.where(valid, truth, 0)[None].astype(np.intp)
    log_mask = np.take_along_axis(seen.log_p, ids, 0)[0]
    ratio = np.where(valid, seen.log_top - log_mask, 0)  # log(probability of the prediction / of the mask)
    distance = _far(lines)
    band = valid & (distance <= _BAND)
    inner = apart & ~band
    doubt, given = 1 - np.exp(seen.log_top[valid]).sum() / pixels, np.exp(log_mask[valid])
    low = np.exp(-given / 0.1)
    contrast, on = _contrast(seen.edges, lines, distance)
    other, on_other = _contrast(seen.edges, seen.outline, seen.distance)
    dx, dy, gone = _best_shift(truth, pred)
    numbers = {
        # Lad and Mueller, Estimating label quality and errors in semantic segmentation data, 2023
        "softmin": (low * given).sum() / max(low.sum(), 1e-9),
        "apart": np.log(apart.sum() / pixels + 1e-3),
        "apart_expected": np.log((apart.sum() / pixels + 1e-3) / (doubt + 1e-3)),
        "apart_band": np.log((apart & band).sum() / max(1, band.sum()) + 1e-2),
        "apart_inside": np.log(inner.sum() / pixels + 1e-4),
        "contradicted": np.log(ratio.sum() / pixels + 1e-3),
        "contradicted_inside": np.log((ratio * inner).sum() / pixels + 1e-4),
        "contrast": contrast,
        "contrast_missed": other - contrast,
        "edge_missed": on_other - on,
        "length": np.log((lines.sum() + 1) / (seen.outline.sum() + 1)),
        "doubt": np.log(doubt + 1e-3),
        "shift": gone,
    }
    for name, away in (("away", seen.distance[lines]), ("back", distance[seen.outline & valid])):
        half, most = np.percentile(away, [50, 90]) if len(away) else (0.0, 0.0)
        numbers |= {f"{name}_50": np.log1p(half), f"{name}_90": np.log1p(most)}
    confusion = metrics.confusion_matrix(truth, pred, len(seen.log_p))
    table = pd.DataFrame(_regions(seen, truth, ratio, inner, lines, changed), columns=_COLUMNS)
    return Evidence({k: float(v) for k, v in numbers.items()}, confusion, table, (dx, dy))


def _contrast(edges: np.ndarray, lines: np.ndarray, distance: np.ndarray) -> tuple[float, float]:
    """Compare the image's edges on the outlines with those beside: log ratio, and the strength on them."""
    beside = (distance >= _BESIDE[0]) & (distance <= _BESIDE[1])
    if not lines.any() or not beside.any():
        return 0.0, 1.0
    on = float(edges[lines].mean())
    return float(np.log((on + _FLAT) / (edges[beside].mean() + _FLAT))), on


def disagreement(truth: np.ndarray, pred: np.ndarray, by_given: bool) -> tuple[np.ndarray, ...]:
    """Label the connected disagreements of one given class (or one suggested class), see `label_regions`."""
    apart = (truth != IGNORE) & (truth != pred)
    return label_regions(np.where(apart, truth if by_given else pred, IGNORE).astype(np.uint8))


def _regions(
    seen: View, truth: np.ndarray, ratio: np.ndarray, inner: np.ndarray, lines: np.ndarray,
    changed: np.ndarray,
) -> Iterator[dict]:  # fmt: skip
    """Yield what the regions with most evidence tell.

    given, suggested: class ids of mask and model. y, x: one of its pixels. by_given: connected by its given
    class or not. box: y0, x0, y1, x1. hit: share of it that is `changed`. The rest are numbers: size, how surely
    the model contradicts the mask, how much of the mask's and of the prediction's regions it covers, whether its
    contour is the prediction's own, and whether image and colours change where it ends.
    """
    (of_mask, _, mask_sizes), (of_pred, _, pred_sizes) = label_regions(truth), seen.regions
    weight = np.where(inner, ratio**2, 0)
    for by_given, other in ((True, seen.pred), (False, truth)):
        labels, values, sizes = disagreement(truth, seen.pred, by_given)
        mass = np.bincount(labels.ravel(), weight.ravel(), minlength=len(values))
        boxes = ndimage.find_objects(labels + 1)
        for k in np.argsort(-mass, kind="stable")[: min(REGIONS, np.count_nonzero(mass))]:
            (y0, y1), (x0, x1) = ((side.start, side.stop) for side in boxes[k])
            place = np.s_[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4]
            inside, color = labels[place] == k, seen.color[place]
            pair = int(values[k]), int(np.bincount(other[place][inside], weight[place][inside]).argmax())
            edge = inside & ~ndimage.binary_erosion(inside)
            around = ndimage.binary_dilation(inside, iterations=4) & ~inside
            ring = around & (truth[place] == pair[not by_given])
            own = edge & seen.outline[place] & ~lines[place]
            shared = edge & lines[place] & ~seen.outline[place]
            edges, core, parts = seen.edges[place], inside & ~edge, {"": edge, "_own": own, "_mask": shared}
            within = edges[core if core.any() else inside].mean() + _FLAT
            on = {name: edges[part].mean() + _FLAT if part.any() else within for name, part in parts.items()}
            change = np.abs(color[inside].mean(0) - color[ring].mean(0)).mean() if ring.any() else 0.0
            yield {
                "given": pair[not by_given], "suggested": pair[by_given], "by_given": by_given,
                "pixels": int(sizes[k]), "y": y0, "x": x0 + int(np.flatnonzero(labels[y0, x0:x1] == k)[0]),
                "box": (y0, x0, y1, x1), "hit": changed[place][inside].mean(),
                "size": np.log(sizes[k] / labels.size), "contradicted": ratio[place][inside].mean(),
                "mass": np.log(mass[k] / sizes[k] + 1e-2), "own": own.sum() / edge.sum(),
                "of_mask": _covered(of_mask[place][inside], mask_sizes, sizes[k]),
                "of_pred": _covered(of_pred[place][inside], pred_sizes, sizes[k]),
                "color": np.log(change + 2.0),
                **{f"edge{name}": np.log(strength / within) for name, strength in on.items()},
            }  # fmt: skip


def _covered(labels: np.ndarray, sizes: np.ndarray, pixels: int) -> float:
    """Compute the share of the regions under (K,) labels that they cover; slivers are left out."""
    of, overlap = np.unique(labels, return_counts=True)
    mostly = overlap >= 0.1 * pixels
    return float(overlap[mostly].sum() / max(1, sizes[of[mostly]].sum()))


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
