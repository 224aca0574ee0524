"""How well a signal that needs no label, such as the model's confidence, tells beforehand which images fail."""

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
        images, failures: those that have both a score and the signal.
        missing: images left out for want of the signal.
        auroc: the probability that a failed image has the lower signal than a sound one, ties counting half, with its interval;
            0.5: no better than chance. NaN where nothing or everything fails.
        aurc: area under the risk-coverage curve: the failure rate, averaged over all coverages. Lower is better.
        aurc_random, aurc_best: of a signal that knows nothing, and of one that knows the failures.
        half_coverage: the largest share of the images, most confident first, among which at most half the failure rate of all
            is left; NaN if no share does.
        curve: `coverage` and `risk` (both 0-1), `signal` (the lowest that is kept), a row for each value of the signal.
    """

    signal: str
    images: int
    failures: int
    missing: int
    auroc: Interval
    aurc: float
    aurc_random: float
    aurc_best: float
    half_coverage: float
    curve: pd.DataFrame


def class_confidence(pred: np.ndarray, confidence: np.ndarray, counted: np.ndarray | None = None) -> float:
    """The mean confidence of each predicted class, averaged over the classes: as the mIoU, it does not forget small ones.

    Most pixels are road, sky and walls, about which the model is always sure. On CamVid's validation images the rank correlation
    with the mIoU was 0.69, that of the mean over pixels 0.36 and of the lowest tenth of the pixels 0.41; but the mean foretold
    better which degraded images fail. 04 shows both.

    Args:
        pred: (H, W) uint8 ids.
        confidence: (H, W) in [0, 1].
        counted: (H, W) bool, the pixels that count; all by default.

    Returns:
        0-1; NaN where no pixel counts.
    """
    if counted is not None:
        pred, confidence = pred[counted], confidence[counted]
    pixels = np.bincount(pred.ravel(), minlength=256)
    total = np.bincount(pred.ravel(), confidence.ravel(), minlength=256)
    there = pixels > 0
    return float((total[there] / pixels[there]).mean()) if there.any() else float("nan")


def early_warning(
    signal: np.ndarray,
    failed: np.ndarray,
    units: np.ndarray | None = None,
    name: str = "confidence",
    resamples: int = 1000,
    seed: int = 0,
) -> EarlyWarning:
    """Judge a signal that ought to be low where the model fails.

    Args:
        signal: (N,) of each image, such as its mean confidence; NaN where unknown, which leaves the image out.
        failed: (N,) bool.
        units: (N,) labels of what may be drawn as independent (see `metrics.independent_units`); every image by default.
        name: of the signal.

    Raises:
        ValueError: the arrays differ in length.

    Sources: risk-coverage: El-Yaniv and Wiener, On the Foundations of Noise-free Selective Classification, JMLR 2010; Geifman
    and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017. AUROC as the Mann-Whitney statistic: Hanley
    and McNeil, Radiology 1982; its interval from a percentile bootstrap over the units.
    """
    signal, failed = np.asarray(signal, np.float64), np.asarray(failed, bool)
    units = np.arange(len(signal)) if units is None else np.asarray(units)
    if not len(signal) == len(failed) == len(units):
        raise ValueError(
            f"signal, failed and units hold {len(signal)}, {len(failed)} and {len(units)} values; expected one of each an image."
        )
    known = np.isfinite(signal)
    signal, failed, units = signal[known], failed[known], units[known]
    curve = risk_coverage(signal, failed)
    rate = float(failed.mean()) if len(failed) else float("nan")
    half = curve.loc[curve["risk"] <= rate / 2, "coverage"].max() if rate > 0 else float("nan")
    return EarlyWarning(
        signal=name,
        images=len(signal),
        failures=int(failed.sum()),
        missing=int((~known).sum()),
        auroc=_auroc_interval(signal, failed, units, resamples, seed),
        aurc=area_under(signal, failed),
        aurc_random=rate,
        aurc_best=area_under(-failed.astype(float), failed),
        half_coverage=float(half),
        curve=curve,
    )


def auroc(signal: np.ndarray, failed: np.ndarray) -> float:
    """The probability that a failed image has the lower signal than one that did not fail; ties count half.

    Args:
        signal: (N,) finite.
        failed: (N,) bool; NaN comes back where all are equal.
    """
    return float(
        _weighted_auroc(np.asarray(signal, float), np.asarray(failed, bool), np.ones((1, len(failed))))[0]
    )


def risk_coverage(signal: np.ndarray, failed: np.ndarray) -> pd.DataFrame:
    """The failure rate among the images whose signal is at least so high, for every value of the signal, highest first.

    Args:
        signal: (N,) finite; images of equal signal are kept or left together, since nothing puts one before the other.
        failed: (N,) bool.

    Returns:
        `coverage` (share of the images kept), `risk` (share of those that failed), `signal` (the lowest kept).
    """
    values, place = np.unique(-np.asarray(signal, float), return_inverse=True)
    kept = np.cumsum(np.bincount(place, minlength=len(values)))
    lost = np.cumsum(np.bincount(place, np.asarray(failed, float), minlength=len(values)))
    return pd.DataFrame({"coverage": kept / max(1, len(signal)), "risk": lost / kept, "signal": -values})


def area_under(signal: np.ndarray, failed: np.ndarray) -> float:
    """AURC: the failure rate among the k images of highest signal, averaged over k = 1 ... N.

    Images of equal signal count as if each had failed by the share that did: the average over all their orders.
    """
    if not len(signal):
        return float("nan")
    values, place, times = np.unique(-np.asarray(signal, float), return_inverse=True, return_counts=True)
    share = np.bincount(place, np.asarray(failed, float), minlength=len(values)) / times
    return float((np.cumsum(np.repeat(share, times)) / np.arange(1, len(place) + 1)).mean())


def sentence(found: EarlyWarning) -> str:
    """What it comes to, for a reader."""
    if not found.images:
        return f"No image has a {found.signal}: nothing can be said of how well it warns."
    if found.failures in (0, found.images):
        what = "No image" if not found.failures else "Every image"
        return f"{what} of {found.images} failed: there is nothing for the {found.signal} to tell apart."
    interval_told = ""
    if np.isfinite(found.auroc.low):
        interval_told = f" (95 % interval {found.auroc.low:.2f} to {found.auroc.high:.2f})"
        verdict = "warns of failures" if found.auroc.low > 0.5 else "may be no better than chance"
    else:
        verdict = "too few independent images to say how sure that is"
    told = f"AUROC of the {found.signal} for failure {found.auroc.value:.2f}{interval_told}: {verdict}."
    if np.isnan(found.half_coverage):
        return f"{told} No share of the most confident images has half the failure rate."
    return (
        f"{told} Among the most confident {found.half_coverage:.0%} the failure rate is at most half of "
        f"{found.aurc_random:.0%}."
    )


def _auroc_interval(
    signal: np.ndarray, failed: np.ndarray, units: np.ndarray, resamples: int, seed: int
) -> Interval:
    codes, found = pd.factorize(units)
    value = auroc(signal, failed)
    if np.isnan(value):
        return Interval(value, float("nan"), float("nan"), float("nan"))
    blocks = draw_counts(len(found), resamples, seed, len(signal))
    draws = [_weighted_auroc(signal, failed, times[:, codes]) for times in blocks]
    return interval(value, np.concatenate(draws), len(found))


def _weighted_auroc(signal: np.ndarray, failed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) AUROC with image i counted weights[r, i] times; NaN where no failed or no sound image counts."""
    values, place = np.unique(signal, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    if not len(values):
        return np.full(len(weights), np.nan)
    ordered = weights[:, order]
    bad, good = (np.add.reduceat(ordered * chosen[order], starts, axis=1) for chosen in (failed, ~failed))
    above = good.sum(1, keepdims=True) - np.cumsum(
        good, axis=1
    )  # sound images with a higher signal than each value
    pairs = bad.sum(1) * good.sum(1)
    won = (bad * (above + good / 2)).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
