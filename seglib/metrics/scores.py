"""Per-image confusion counts -> every score. Rows are truth, columns prediction; definitions follow the sources named.

Every function that scores takes `confusions` of shape (N, C, C), one matrix an image, so that no two figures can disagree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from seglib.compiled import compiled
from seglib.data import IGNORE

POLICIES = ("truth", "union")
_BLOCK = 4096  # pixels whose pairs are numbered at a time, for which the nearest cache has room
_RUN = 64  # pixels that are counted at once where all are of one pair, as inside a region
WORST_SHARES = (1, 5, 10)  # q, in percent, of the worst-case figures


def confusion_matrix(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every (true, predicted) pair of classes in one image.

    Args:
        truth: (H, W) class ids; 255 is not scored.
        pred: (H, W) class ids below `num_classes`; read only where truth is scored.
        num_classes: C.

    Returns:
        (C, C) int64.

    Raises:
        ValueError: shapes that differ, or an id outside the classes.
    """
    if truth.shape != pred.shape:
        raise ValueError(
            f"truth is {truth.shape}, prediction {pred.shape}: they must be of one size. Resize logits, never masks."
        )
    if pred.dtype != np.uint8:
        pred = np.where(truth == IGNORE, 0, pred)
    truth, pred = _bytes(truth, "truth"), _bytes(pred, "prediction")
    counts, named = _count_pairs(truth, pred, num_classes)
    if not named or counts[:num_classes, num_classes].any():
        scored = truth != IGNORE
        for what, ids in (("truth", truth[scored]), ("prediction", pred[scored])):
            if ids.max() >= num_classes:
                raise ValueError(f"{what} holds ids {ids.min()}-{ids.max()}; expected 0-{num_classes - 1}.")
    return counts[:num_classes, :num_classes].copy()


@compiled
def _count_pairs(truth, pred, num_classes):
    """(C + 1, C + 1) int64 pixels of each pair of uint8 ids, those beyond the classes last; whether truth has only classes and 255."""
    side, beyond = num_classes + 1, np.uint8(num_classes)
    # Four tables: neighbours are alike, and no sum can start before the last one to its place is done.
    tables, named = np.zeros((4, side * side), np.uint32), True
    codes = np.empty(_BLOCK, np.uint16)
    for start in range(0, truth.size, _BLOCK):
        true, found = truth[start : start + _BLOCK], pred[start : start + _BLOCK]
        for k in range(len(true)):
            codes[k] = np.uint16(min(true[k], beyond)) * np.uint16(side) + np.uint16(min(found[k], beyond))
            named &= (true[k] < beyond) | (true[k] == np.uint8(IGNORE))
        runs = len(true) // _RUN * _RUN
        for begin in range(0, runs, _RUN):
            run = codes[begin : begin + _RUN]
            differs = np.uint16(0)
            for k in range(_RUN):
                differs |= run[k] ^ run[0]
            if differs == 0:
                tables[0, run[0]] += np.uint32(_RUN)
            else:
                for k in range(0, _RUN, 4):
                    for j in range(4):
                        tables[j, run[k + j]] += np.uint32(1)
        for k in range(runs, len(true)):
            tables[0, codes[k]] += np.uint32(1)
    return tables.sum(0).astype(np.int64).reshape(side, side), named


def _bytes(ids: np.ndarray, what: str) -> np.ndarray:
    """The ids as uint8, one after the other; of those that are no bytes, only what fits in one may be."""
    if ids.dtype != np.uint8 and ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= 255:
        raise ValueError(
            f"{what} holds ids {int(ids.min())}-{int(ids.max())}; expected class ids, 255 where not scored."
        )
    return np.ascontiguousarray(ids, np.uint8).ravel()


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class.

    Args:
        confusion: (..., C, C) pixel counts; rows are truth, columns prediction.

    Returns:
        (..., C) float64 in [0, 1]; NaN where a class is in neither truth nor prediction.

    Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010.
    """
    hit, true, predicted = _margins(confusion)
    return _ratio(hit, true + predicted - hit)


def image_class_iou(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """IoU(i, c) of every image and class.

    Args:
        confusions: (N, C, C).
        absent: "truth": a class counts in the images whose truth has it; "union": in those whose truth or prediction has it.

    Returns:
        (N, C) float64; NaN where the class does not count.

    Source: Wang et al., Revisiting Evaluation Metrics for Semantic Segmentation, NeurIPS 2023 Datasets and Benchmarks.
    """
    if absent not in POLICIES:
        raise ValueError(f"absent-class policy {absent!r}: expected one of {', '.join(POLICIES)}.")
    iou = iou_per_class(confusions)
    if absent == "truth":
        iou[confusions.sum(-1) == 0] = np.nan
    return iou


def image_miou(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """(N,) mean of IoU(i, c) over the classes that count in the image; NaN for an image without a scored pixel."""
    return nanmean(image_class_iou(confusions, absent), axis=1)


def scores(confusions: np.ndarray, absent: str = "truth") -> dict[str, float]:
    """Every scalar score of a set of images, by name; NaN where nothing can be said.

    `mean_iou` is mIoU^D: equal to torchmetrics' multiclass Jaccard index, macro over the classes present.

    Args:
        confusions: (N, C, C).
        absent: see `image_class_iou`.
    """
    total = confusions.sum(0)
    hit, true, predicted = _margins(total)
    iou = iou_per_class(total)
    per_image_class = image_class_iou(confusions, absent)
    per_image = nanmean(per_image_class, axis=1)
    result = {
        "mean_iou": nanmean(iou),
        "mean_iou_image": nanmean(per_image),
        "mean_iou_class": nanmean(nanmean(per_image_class, axis=0)),
        "pixel_accuracy": _ratio(hit.sum(), total.sum()),
        "mean_class_accuracy": nanmean(_ratio(hit, true)),
        "frequency_weighted_iou": _ratio(np.nansum(true * np.nan_to_num(iou)), true.sum()),
        "mean_precision": nanmean(_ratio(hit, predicted)),
        "mean_recall": nanmean(_ratio(hit, true)),
        "mean_f1": nanmean(_ratio(2 * hit, true + predicted)),
    }
    for q in WORST_SHARES:
        result[f"mean_iou_image_worst_{q}"] = worst_mean(per_image, q)
        result[f"mean_iou_class_worst_{q}"] = nanmean([worst_mean(column, q) for column in per_image_class.T])
    tenths = range(10, 101, 10)
    result["mean_iou_image_qbar"] = nanmean([worst_mean(per_image, q) for q in tenths])
    result["mean_iou_class_qbar"] = nanmean(
        [nanmean([worst_mean(c, q) for c in per_image_class.T]) for q in tenths]
    )
    return {name: float(value) for name, value in result.items()}


def worst_mean(values: np.ndarray, q: float) -> float:
    """Mean of the lowest max(1, floor(q n / 100)) of the n values that are not NaN; NaN when there are none."""
    values = np.sort(values[~np.isnan(values)])
    return float(values[: max(1, int(q * len(values) / 100))].mean()) if len(values) else float("nan")


def per_class_table(confusions: np.ndarray, names: tuple[str, ...], absent: str = "truth") -> pd.DataFrame:
    """One row a class: class_id, class, iou, precision, recall, f1, images, pixels, pixel_share, miou_c, absent_false_positives.

    `images` and `pixels` count the truth; `miou_c` is the mean over the images in which the class counts;
    `absent_false_positives` counts pixels predicted as the class in images whose truth lacks it.
    """
    total = confusions.sum(0)
    hit, true, predicted = _margins(total)
    in_truth = confusions.sum(-1) > 0
    return pd.DataFrame(
        {
            "class_id": range(len(names)),
            "class": names,
            "iou": iou_per_class(total),
            "precision": _ratio(hit, predicted),
            "recall": _ratio(hit, true),
            "f1": _ratio(2 * hit, true + predicted),
            "images": in_truth.sum(0),
            "pixels": true,
            "pixel_share": _ratio(true, true.sum()),
            "miou_c": nanmean(image_class_iou(confusions, absent), axis=0),
            "absent_false_positives": (confusions.sum(-2) * ~in_truth).sum(0),
        }
    )


def bootstrap(
    confusions: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over images, or over whole groups of images.

    Args:
        confusions: (N, C, C).
        statistic: (M, C, C) -> float, such as `mean_iou`.
        groups: (N,) labels; images of one group (a sequence) are drawn together, since neighbours are not independent.
        level: of confidence.

    Returns:
        (low, high); NaN when there are fewer than two units to draw, or the statistic is NaN in every draw.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    labels = np.arange(len(confusions)) if groups is None else np.asarray(groups)
    units = [np.flatnonzero(labels == label) for label in pd.unique(labels)]
    if len(units) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    draws = [
        statistic(
            confusions[np.concatenate([units[u] for u in random.integers(len(units), size=len(units))])]
        )
        for _ in range(resamples)
    ]
    if np.isnan(draws).all():
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    return float(np.nanpercentile(draws, tail)), float(np.nanpercentile(draws, 100 - tail))


def independent_units(groups: np.ndarray, frames: np.ndarray, block: int = 10) -> tuple[np.ndarray, str]:
    """What may be resampled as if it were independent: whole sequences, or blocks of neighbouring frames inside them.

    Args:
        groups: (N,) sequence names; all "" when there are none.
        frames: (N,) frame numbers, NaN where unknown; neighbours by number are neighbours in time.
        block: frames a block, when there are fewer than five sequences.

    Returns:
        ((N,) labels for `bootstrap`, a sentence that says what they are)

    Source: Carlstein, The Use of Subseries Values for Estimating the Variance, Annals of Statistics 1986.
    """
    sequences = pd.unique(groups)
    if len(sequences) == 1 and sequences[0] == "":
        return np.arange(
            len(groups)
        ), f"{len(groups)} images, taken as independent: the dataset names no sequences"
    if len(sequences) >= 5:
        return groups, f"{len(sequences)} whole sequences"
    order = pd.Series(frames).groupby(groups).rank(method="first").sub(1).fillna(-1).to_numpy(np.int64)
    labels = np.array([f"{g}/{r // block}" for g, r in zip(groups, order, strict=True)])
    count = len(pd.unique(labels))
    return (
        labels,
        f"{count} blocks of up to {block} neighbouring frames from {len(sequences)} sequence(s): says nothing about other sequences",
    )


def mean_iou(confusions: np.ndarray) -> float:
    """mIoU^D of (N, C, C) counts: the mean over classes of the IoU of all images' pixels together."""
    return float(nanmean(iou_per_class(confusions.sum(0))))


def top_confusions(confusion: np.ndarray, names: tuple[str, ...], count: int = 5) -> pd.DataFrame:
    """The pairs of classes that cost the most pixels: truth, prediction, pixels, share (of the true class's pixels)."""
    wrong = confusion * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(k), len(names)) for k in order if wrong.flat[k] > 0]
    rows = [(names[t], names[p], int(wrong[t, p]), wrong[t, p] / confusion[t].sum()) for t, p in pairs]
    return pd.DataFrame(rows, columns=["truth", "prediction", "pixels", "share"])


def _margins(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def nanmean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """`np.nanmean` without its warning: NaN where there is nothing to average."""
    values = np.asarray(values, np.float64)
    return _ratio(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))
