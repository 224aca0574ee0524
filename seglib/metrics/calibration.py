"""Calibration: whether a prediction made with 80 % confidence is right in 80 % of the cases.

Sources: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015; Guo et al., On Calibration
of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from seglib.data import IGNORE

BINS = 10


def calibration_counts(
    truth: np.ndarray, pred: np.ndarray, confidence: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """What the scored pixels of one image say about the model's confidence, bin by bin.

    Args:
        truth: (H, W) class ids; 255 is not scored.
        pred: (H, W) class ids.
        confidence: (H, W) probability of the predicted class, in [0, 1].
        bins: of equal width over [0, 1]; the last one holds 1 itself.

    Returns:
        (3, bins) float64: pixels, their confidences added up, hits. Those of several images may be added.

    Raises:
        ValueError: shapes that differ, or a confidence outside [0, 1].
    """
    if not truth.shape == pred.shape == confidence.shape:
        raise ValueError(
            f"truth is {truth.shape}, prediction {pred.shape}, confidence {confidence.shape}: they must be of one size."
        )
    scored = truth != IGNORE
    values, hits = confidence[scored], (truth == pred)[scored]
    if values.size and not -1e-4 <= float(values.min()) <= float(values.max()) <= 1 + 1e-4:  # NaN fails too
        raise ValueError(
            f"confidences lie between {values.min():g} and {values.max():g}; expected probabilities (0-1), not logits."
        )
    place = np.minimum((values * bins).astype(np.intp), bins - 1).clip(0)
    return np.stack([np.bincount(place, weights, minlength=bins) for weights in (None, values, hits)]).astype(
        float
    )


def reliability_table(counts: np.ndarray) -> pd.DataFrame:
    """One row a bin: confidence_from, confidence_to, pixels, share (of all), confidence, accuracy (means), gap.

    Args:
        counts: (3, bins), as of `calibration_counts`, added up over images.

    `gap` is confidence - accuracy: above 0, the model is too sure. Means are NaN in an empty bin.
    """
    pixels, sums, hits = counts
    edges = np.arange(counts.shape[1] + 1) / counts.shape[1]
    confidence, accuracy = _mean(sums, pixels), _mean(hits, pixels)
    return pd.DataFrame(
        {
            "confidence_from": edges[:-1],
            "confidence_to": edges[1:],
            "pixels": pixels.astype(np.int64),
            "share": _mean(pixels, np.full_like(pixels, pixels.sum())),
            "confidence": confidence,
            "accuracy": accuracy,
            "gap": confidence - accuracy,
        }
    )


def expected_calibration_error(counts: np.ndarray) -> float:
    """ECE: the mean of |confidence - accuracy| over bins, weighted by their pixels; NaN where no pixel is scored.

    Args:
        counts: (3, bins), as of `calibration_counts`, added up over images.
    """
    pixels, sums, hits = counts
    return float(np.abs(sums - hits).sum() / pixels.sum()) if pixels.sum() else float("nan")


def mean_confidence(counts: np.ndarray) -> np.ndarray:
    """(..., 3, bins) counts -> (...) mean confidence over the scored pixels; NaN where there are none."""
    pixels, sums, _ = np.moveaxis(counts, -2, 0)
    return _mean(sums.sum(-1), pixels.sum(-1))


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=np.asarray(count) > 0)
