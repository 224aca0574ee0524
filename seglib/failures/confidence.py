"""How well a signal that needs no label, such as the model's confidence, tells which images fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from seglib.metrics import Interval, draw_counts, interval


@dataclass(frozen=True)
class EarlyWarning:
    """What a signal tells of failures.

    Args:
        signal: its name.
        images, failures: those that have the signal.
        auroc: the probability that a failed image has the lower signal than another, ties counting half; 0.5:
            chance. NaN where nothing or everything fails.
        aurc_random: of a signal that knows nothing: the failure rate.
        curve: for each value of the signal: `coverage` (share of the images with at least that), `risk`
            (share of those that failed), `signal`.
    """

    signal: str
    images: int
    failures: int
    auroc: Interval
    aurc_random: float
    curve: pd.DataFrame


def class_confidence(pred: np.ndarray, confidence: np.ndarray, counted: np.ndarray) -> float:
    """Average the mean confidence of each predicted class: as the mIoU, it does not forget small classes.

    Args:
        pred, confidence, counted: (H, W) uint8 ids, confidences in [0, 1], and bool: the pixels that count.
    """
    pixels = np.bincount(pred[counted], minlength=256)
    total, there = np.bincount(pred[counted], confidence[counted], minlength=256), pixels > 0
    return float((total[there] / pixels[there]).mean()) if there.any() else float("nan")


def early_warning(
    signal: np.ndarray, failed: np.ndarray, units: np.ndarray | None = None, name: str = "confidence"
) -> EarlyWarning:
    """Judge a signal that should be low where the model fails.

    Args:
        signal: (N,) of each image, such as its mean confidence; an image where it is NaN is left out.
        failed: (N,) bool.
        units: (N,) labels of what is independent (see `metrics.independent_units`); every image by default.

    Sources: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017; AUROC as
    the Mann-Whitney statistic: Hanley and McNeil, Radiology 1982. Interval: bootstrap over the units.
    """
    known = np.isfinite(signal)
    units = np.arange(len(signal))[known] if units is None else np.asarray(units)[known]
    signal, failed, (codes, found) = signal[known], failed[known], pd.factorize(units)
    auroc, draws = np.full(1, np.nan), [np.empty(0)]
    if failed.any():
        auroc = _auroc(signal, failed, np.ones((1, len(signal))))
        draws = [_auroc(signal, failed, d[:, codes]) for d in draw_counts(len(found), images=len(signal))]
    values, place, times = np.unique(-signal, return_inverse=True, return_counts=True)
    lost, kept = np.bincount(place, failed, minlength=len(values)), np.cumsum(times)
    curve = {"coverage": kept / max(1, len(signal)), "risk": np.cumsum(lost) / kept, "signal": -values}
    return EarlyWarning(
        signal=name,
        images=len(signal),
        failures=int(failed.sum()),
        auroc=interval(auroc[0], np.concatenate(draws), len(found)),
        aurc_random=float(failed.mean()) if len(failed) else float("nan"),
        curve=pd.DataFrame(curve),
    )


def _auroc(signal: np.ndarray, failed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) AUROC with image i counted weights[r, i] times; NaN where no failed or no other image counts."""
    order = np.argsort(signal, kind="stable")
    starts = np.flatnonzero(np.diff(signal[order], prepend=-np.inf))
    bad, good = (np.add.reduceat((weights * of)[:, order], starts, axis=1) for of in (failed, ~failed))
    above = good.sum(1, keepdims=True) - np.cumsum(good, axis=1)  # other images of higher signal
    pairs, won = bad.sum(1) * good.sum(1), (bad * (above + good / 2)).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def warning_sentence(found: EarlyWarning) -> str:
    """Word what it comes to, for a reader."""
    if not found.images:
        return f"No image has a {found.signal}: nothing can be said about how well it warns."
    if found.failures in (0, found.images):
        what = "Every image" if found.failures else "No image"
        return f"{what} of {found.images} failed: there is nothing for the {found.signal} to tell apart."
    told = f"AUROC of the {found.signal} for failure {found.auroc.value:.2f}"
    low, high = found.auroc.low, found.auroc.high
    if np.isnan(low):
        return f"{told}: too few independent images to say how sure that is."
    what = "warns of failures" if low > 0.5 else "may be no better than chance"
    return f"{told} (95 % interval {low:.2f} to {high:.2f}): {what}."
