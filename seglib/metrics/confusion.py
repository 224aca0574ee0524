"""Count the pixels of every pair of classes: the counts that all scores come from."""

import numpy as np

from seglib.data import IGNORE


def confusion_matrix(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every (ground truth, predicted) pair of classes in one image.

    Args:
        truth: (H, W) class ids; 255 is ignored. uint8 is fastest.
        pred: (H, W) class ids below `num_classes` (C); read only where the ground truth is valid.

    Returns:
        (C, C) int64; rows are ground truth, columns prediction. Counts of several images may be added.
    """
    check_shapes(truth, pred)
    if pred.dtype != np.uint8:
        pred = _bytes(np.where(truth == IGNORE, 0, pred), "prediction")
    truth = _bytes(truth, "truth")
    # Both ids in one number: bincount reads every pixel once.
    pairs = np.bincount(truth.ravel() * np.intp(256) + pred.ravel(), minlength=1 << 16).reshape(256, 256)
    valid = pairs[:IGNORE]
    for what, counts in (("truth", valid.sum(1)), ("prediction", valid.sum(0))):
        ids = np.flatnonzero(counts)
        if len(ids) and ids[-1] >= num_classes:
            raise ValueError(f"{what} holds ids {ids[0]}-{ids[-1]}; expected 0-{num_classes - 1}.")
    return pairs[:num_classes, :num_classes].astype(np.int64)


def check_shapes(truth: np.ndarray, *others: np.ndarray) -> None:
    """Raise ValueError unless all arrays are of one size."""
    for other in others:
        if other.shape != truth.shape:
            told = f"truth is {truth.shape}, prediction {other.shape}: they must be of one size."
            raise ValueError(f"{told} Resize logits, never masks.")


def _bytes(ids: np.ndarray, what: str) -> np.ndarray:
    if ids.dtype != np.uint8 and ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= 255:
        raise ValueError(f"{what} holds ids {ids.min()}-{ids.max()}; expected class ids, 255 where ignored.")
    return ids.astype(np.uint8, copy=False)
