"""Say how far a mean IoU may be trusted: the delete-one jackknife over what is independent."""

import numpy as np
import pandas as pd
from scipy import special, stats

from seglib.metrics.scores import nanmean, ratio

_MOST_BLOCKS, _LENGTHS = 10, 4  # blocks of a sequence, each at least so many autocorrelation times long


def jackknife(confusions: np.ndarray, units: np.ndarray, minus: np.ndarray | None = None) -> np.ndarray:
    """Compute the mean IoU (mIoU^D) and the IoU of each class with their 95 % intervals, t(G - 1).

    On the logit scale, so that limits stay in [0, 1] and cover skewed scores. Source: Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 11.

    Args:
        confusions: (N, C, C) counts of the images.
        units: (N,) labels of the G units that are independent (see `independent_units`).
        minus: (N, C, C) counts of another model on the same images: takes the differences, on their own scale.

    Returns:
        (3, 1 + C) float64: value, low and high, first of the mean, then of each class. Limits are NaN below
            five units, and for a class that one unit alone holds.
    """
    codes, names = pd.factorize(np.asarray(units))
    values, count = _left_out(confusions, codes, len(names)), len(names)
    if minus is not None:
        values = values - _left_out(minus, codes, count)
    value = values[0]
    spread = np.sqrt((count - 1) * np.var(values[1:], axis=0)) * stats.t.ppf(0.975, count - 1)
    if count < 5:  # too few to tell a spread from
        spread[:] = np.nan
    if minus is not None:
        return np.stack([value, value - spread, value + spread])
    slope = value * (1 - value)  # of the logit's inverse; 0 where all units agree on 0 or on 1
    limits = (special.expit(special.logit(value) + x) for x in (-ratio(spread, slope), ratio(spread, slope)))
    return np.stack([value, *(np.where(slope > 0, limit, value + 0 * spread) for limit in limits)])


def _left_out(confusions: np.ndarray, codes: np.ndarray, units: int) -> np.ndarray:
    """(1 + G, 1 + C): mean IoU and IoU of the classes, of all units, then with each of them left out."""
    hit = np.diagonal(confusions, axis1=1, axis2=2)
    sums = np.zeros((units, 2, confusions.shape[-1]))
    np.add.at(sums, codes, np.stack([hit, confusions.sum(2) + confusions.sum(1) - hit], axis=1))
    total = sums.sum(0)
    iou = ratio(*np.moveaxis(np.concatenate([total[None], total - sums]), 1, 0))
    return np.column_stack([nanmean(iou, axis=1), iou])


def independent_units(groups: np.ndarray, frames: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, str]:
    """Choose what is independent: whole sequences, blocks inside a single one, or images without sequences.

    Blocks are those of Schmeiser, Batch Size Effects in the Analysis of Simulation Output, 1982.

    `groups`: (N,) names of sequences; an image without one ("") is a unit of its own. `frames`: (N,), or NaN.
    `scores`: (N,) of the images, whose measured autocorrelation sets the length of blocks; NaN is left out.
    Returns (N,) labels, and a sentence that says what they are.
    """
    named = groups != ""
    sequences, alone = len(pd.unique(groups[named])), int((~named).sum())
    if not sequences:
        return np.arange(alone), f"{alone} images, taken as independent: the dataset names no sequences"
    if sequences > 1 or alone:
        labels = np.where(named, np.char.add("/", groups.astype(str)), np.arange(len(groups)).astype(str))
        rest = f" and {alone} images without one" if alone else ""
        return labels, f"{sequences} whole sequence{'s' * (sequences > 1)}{rest}"
    if np.isnan(frames).any():
        return groups, "one sequence whose frames are not all numbered"
    order = np.argsort(frames, kind="stable")
    length = _LENGTHS * _autocorrelation_time(scores[order])
    blocks = max(1, min(_MOST_BLOCKS, int(len(order) / length)))
    labels = np.argsort(order, kind="stable") * blocks // len(order)
    told = f"{blocks} block{'s' * (blocks > 1)} of {len(order) // blocks} neighbouring frames of one sequence"
    return labels, f"{told}: says nothing about other sequences"


def _autocorrelation_time(scores: np.ndarray) -> float:
    """1 + 2 x the autocorrelations up to the first that is not positive: frames that tell as much as one."""
    x = scores[~np.isnan(scores)]
    x = x - x.mean() if len(x) else np.zeros(1)
    by_lag = np.correlate(x, x, "full")[len(x) - 1 :]
    return 1 + 2 * by_lag[1 : np.argmax(by_lag <= 1e-12)].sum() / by_lag[0] if by_lag[0] > 1e-12 else 1.0
