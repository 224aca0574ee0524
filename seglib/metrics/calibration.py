"""Measure calibration: whether a prediction made with 80 % confidence is right in 80 % of the cases.

Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

import numpy as np
import pandas as pd

from seglib.data import IGNORE
from seglib.metrics.scores import check_shapes, ratio

BINS = 10


def calibration_counts(truth: np.ndarray, pred: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Count the valid pixels of one image by the model's confidence (H, W), in [0, 1], in its class.

    Returns (3, BINS) float64: pixels, their summed confidences, hits. Those of several images may be added.
    """
    check_shapes(truth, pred, confidence)
    valid = truth != IGNORE
    values, hits = confidence[valid], (truth == pred)[valid]
    if values.size and not -1e-4 <= values.min() <= values.max() <= 1 + 1e-4:  # NaN fails too
        raise ValueError(f"confidences {values.min():g}-{values.max():g}: expected probabilities (0-1).")
    place = (values * BINS).astype(np.intp).clip(0, BINS - 1)
    sums = [np.bincount(place, weights, minlength=BINS) for weights in (None, values, hits)]
    return np.stack(sums).astype(np.float64)


def reliability_table(counts: np.ndarray) -> pd.DataFrame:
    """List the bins; `gap` is confidence - accuracy: above 0, the model is too sure. NaN in an empty bin."""
    pixels, sums, hits = counts
    edges = np.arange(counts.shape[1] + 1) / counts.shape[1]
    confidence, accuracy = ratio(sums, pixels), ratio(hits, pixels)
    table = pd.DataFrame({"confidence_from": edges[:-1], "confidence_to": edges[1:]})
    table["pixels"], table["share"] = pixels.astype(np.int64), ratio(pixels, pixels.sum())
    return table.assign(confidence=confidence, accuracy=accuracy, gap=confidence - accuracy)


def expected_calibration_error(counts: np.ndarray) -> float:
    """Average |confidence - accuracy| over bins by their pixels (ECE); NaN where no pixel is valid."""
    pixels, sums, hits = counts
    return float(ratio(np.abs(sums - hits).sum(), pixels.sum()))


def mean_confidence(counts: np.ndarray) -> np.ndarray:
    """Average the confidence of (..., 3, bins) counts over valid pixels: (...); NaN without one."""
    pixels, sums, _ = np.moveaxis(counts, -2, 0)
    return ratio(sums.sum(-1), pixels.sum(-1))
