"""How far the mean IoU may be trusted: bootstrap intervals from sums of counts, of one model or of two on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

_ENTRIES = 1 << 21  # float64 numbers of draws held at a time: 16 MB, however many images there are


@dataclass(frozen=True)
class Interval:
    """A figure and where it may as well lie.

    Args:
        value: of the images at hand.
        low, high: percentile bootstrap interval; NaN where fewer than two units can be drawn.
        share_above: of the draws, those above 0: for a difference, how often the second model won.
    """

    value: float
    low: float
    high: float
    share_above: float


def iou_parts(confusions: np.ndarray) -> np.ndarray:
    """(N, C, C) counts -> (N, 2, C) float64: intersections and unions, all that a mean IoU needs and far less to draw from."""
    hit = np.diagonal(confusions, axis1=-2, axis2=-1)
    return np.stack([hit, confusions.sum(-1) + confusions.sum(-2) - hit], axis=-2).astype(np.float64)


def draw_sums(parts: np.ndarray, units: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Add up per-image counts over bootstrap draws of whole units.

    A draw is a number of times that each unit counts, so all draws are one matrix product: 150 classes, 2,000 images and
    1,000 draws take a second.

    Args:
        parts: (N, ...) counts that may be added.
        units: (N,) labels; images of one unit (a sequence, a block of frames) are drawn together.

    Returns:
        (resamples, ...) float64. The draws are those of `metrics.bootstrap` with the same seed.
    """
    codes, found = pd.factorize(np.asarray(units))
    count = len(found)
    flat = parts.reshape(len(parts), -1)
    by_unit = np.zeros((count, flat.shape[1]))
    np.add.at(by_unit, codes, flat)
    sums = np.concatenate([times @ by_unit for times in draw_counts(count, resamples, seed)])
    return sums.reshape(resamples, *parts.shape[1:])


def draw_counts(units: int, resamples: int = 1000, seed: int = 0, images: int = 0) -> Iterator[np.ndarray]:
    """How often each unit was drawn in each bootstrap draw: (R, units) float64, as many draws at a time as memory should hold.

    Args:
        images: numbers that each draw is going to be spread to; that of the units by default.
    """
    random = np.random.default_rng(seed)
    step = max(1, _ENTRIES // max(1, units, images))
    for first in range(0, resamples, step):
        draws = (random.integers(units, size=units) for _ in range(min(step, resamples - first)))
        yield np.stack([np.bincount(drawn, minlength=units) for drawn in draws]).astype(np.float64)


def mean_iou_of(parts: np.ndarray) -> np.ndarray:
    """(..., 2, C) intersections and unions -> (...) mean over the classes that occur."""
    return _mean(iou_of(parts))


def iou_of(parts: np.ndarray) -> np.ndarray:
    """(..., 2, C) intersections and unions -> (..., C) IoU; NaN where the union is empty."""
    both, either = np.moveaxis(parts, -2, 0)
    return np.divide(both, either, out=np.full(either.shape, np.nan), where=either > 0)


def interval(value: float, draws: np.ndarray, units: int, level: float = 0.95) -> Interval:
    """The percentile interval of a figure from its values in the draws.

    Args:
        value: of the images at hand.
        draws: (R,) its value in each draw; NaN where it has none.
        units: how many units were drawn from; fewer than two say nothing.
    """
    draws = draws[~np.isnan(draws)]
    if units < 2 or not len(draws):
        return Interval(float(value), float("nan"), float("nan"), float("nan"))
    tail = 50 * (1 - level)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high), float((draws > 0).mean()))


def mean_iou_interval(
    confusions: np.ndarray, units: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The mean IoU (mIoU^D) of (N, C, C) counts with its 95 % interval; equal to `metrics.bootstrap` of it, and fast.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    parts = iou_parts(confusions)
    draws = mean_iou_of(draw_sums(parts, units, resamples, seed))
    return interval(float(mean_iou_of(parts.sum(0))), draws, len(pd.unique(np.asarray(units))))


def _mean(values: np.ndarray) -> np.ndarray:
    counted = ~np.isnan(values)
    return np.divide(
        np.nansum(values, -1), counted.sum(-1), out=np.full(values.shape[:-1], np.nan), where=counted.any(-1)
    )
