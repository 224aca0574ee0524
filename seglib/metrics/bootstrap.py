"""Say how far the mean IoU may be trusted: bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seglib.metrics.scores import nanmean, ratio

_ENTRIES = 1 << 21  # float64 numbers of draws held at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval (NaN for fewer than two units), and the share of the draws above 0."""

    value: float
    low: float
    high: float
    share_above: float


def mean_iou_interval(
    confusions: np.ndarray, units: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Compute the mean IoU (mIoU^D) of (N, C, C) counts with its 95 % interval over (N,) labels of units."""
    parts, count = iou_parts(confusions), len(pd.unique(np.asarray(units)))
    return interval(mean_iou_of(parts.sum(0)), mean_iou_of(draw_sums(parts, units, resamples, seed)), count)


def independent_units(groups: np.ndarray, frames: np.ndarray, block: int = 10) -> tuple[np.ndarray, str]:
    """Choose what may be drawn as if it were independent: whole sequences, or blocks of frames inside them.

    `groups` are (N,) names, "" for none; `frames` (N,) numbers or NaN. Fewer than five sequences are cut into
    blocks. Returns (N,) labels, and a sentence that says what they are.

    Source: Carlstein, The Use of Subseries Values for Estimating the Variance, Annals of Statistics 1986.
    """
    sequences, images = pd.unique(groups), len(groups)
    if sequences.tolist() == [""]:
        return np.arange(images), f"{images} images, taken as independent: the dataset names no sequences"
    if len(sequences) >= 5:
        return groups, f"{len(sequences)} whole sequences"
    order = pd.Series(frames).groupby(groups).rank(method="first").sub(1).fillna(-1).to_numpy(np.int64)
    labels = np.array([f"{g}/{r // block}" for g, r in zip(groups, order, strict=True)])
    told = f"{len(pd.unique(labels))} blocks of up to {block} neighbouring frames from "
    return labels, f"{told}{len(sequences)} sequence(s): says nothing about other sequences"


def draw_sums(parts: np.ndarray, units: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Add up (N, ...) per-image counts over bootstrap draws of whole (N,) units: (resamples, ...) float64."""
    codes, found = pd.factorize(np.asarray(units))
    flat = parts.reshape(len(parts), -1)
    by_unit = np.zeros((len(found), flat.shape[1]))
    np.add.at(by_unit, codes, flat)
    # A draw is how often each unit counts, so all draws are one matrix product.
    sums = np.concatenate([times @ by_unit for times in draw_counts(len(found), resamples, seed)])
    return sums.reshape(resamples, *parts.shape[1:])


def draw_counts(units: int, resamples: int = 1000, seed: int = 0, images: int = 0) -> Iterator[np.ndarray]:
    """Draw units with replacement; yield (R, units) float64, how often each was drawn, R draws at a time.

    R is such that numbers of `images` fit into memory too.
    """
    random = np.random.default_rng(seed)
    step = max(1, _ENTRIES // max(1, units, images))
    for first in range(0, resamples, step):
        draws = (random.integers(units, size=units) for _ in range(min(step, resamples - first)))
        yield np.stack([np.bincount(drawn, minlength=units) for drawn in draws]).astype(np.float64)


def iou_parts(confusions: np.ndarray) -> np.ndarray:
    """Reduce (N, C, C) counts to (N, 2, C) float64 intersections and unions: all that a mean IoU needs."""
    hit = np.diagonal(confusions, axis1=-2, axis2=-1)
    return np.stack([hit, confusions.sum(-1) + confusions.sum(-2) - hit], axis=-2).astype(np.float64)


def iou_of(parts: np.ndarray) -> np.ndarray:
    """Divide (..., 2, C) intersections by unions: (..., C) IoU; NaN where the union is empty."""
    return ratio(*np.moveaxis(parts, -2, 0))


def mean_iou_of(parts: np.ndarray) -> np.ndarray:
    """Average the IoU of (..., 2, C) intersections and unions over the classes that occur: (...)."""
    return nanmean(iou_of(parts), axis=-1)


def interval(value: float, draws: np.ndarray, units: int) -> Interval:
    """Take the 95 % interval of a figure from its (R,) values in the draws of so many units."""
    draws, found = draws[~np.isnan(draws)], (np.nan,) * 3
    if units > 1 and len(draws):
        found = (*np.percentile(draws, [2.5, 97.5]), (draws > 0).mean())
    return Interval(*map(float, (value, *found)))
