"""Count the pixels of every pair of classes, and of every confidence, and turn these counts into every score."""

import numpy as np
import pandas as pd

from seglib.data import IGNORE

POLICIES = ("truth", "union")
BINS = 10  # of confidence


def confusion_matrix(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every (ground truth, predicted) pair of classes in one image.

    `truth`, `pred`: (H, W) class ids below `num_classes` (C), uint8 is fastest; ignored where `truth` is 255.
    Returns (C, C) int64; rows are ground truth, columns prediction. Counts of several images may be added.
    """
    check_shapes(truth, pred)
    pred = pred if pred.dtype == np.uint8 else np.where(truth == IGNORE, 0, pred)
    for what, ids in (("truth", truth), ("prediction", pred)):
        if ids.dtype != np.uint8 and ids.size and not 0 <= ids.min() <= ids.max() <= 255:
            told = f"{what} holds ids {ids.min()}-{ids.max()}"
            raise ValueError(f"{told}; expected class ids, 255 where ignored.")
    truth, pred = (ids.astype(np.uint8, copy=False).ravel() for ids in (truth, pred))
    # Both ids in one number: bincount reads every pixel once.
    pairs = np.bincount(truth * np.intp(256) + pred, minlength=1 << 16).reshape(256, 256)
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
            raise ValueError(f"truth is {truth.shape}, prediction {other.shape}: they must be of one size.")


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of each class.

    Args:
        confusion: (..., C, C) pixel counts; rows are ground truth, columns prediction.

    Returns:
        (..., C) float64 in [0, 1]; NaN where a class is in neither.

    Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010.
    """
    hit, true, predicted = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)
    return ratio(hit, true + predicted - hit)


def image_class_iou(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """Compute IoU(i, c) of every image and class: (N, C, C) -> (N, C), NaN where the class does not count.

    It does where the ground truth has it (`absent`: "truth"), or ground truth or prediction ("union").

    Source: Wang et al., Revisiting Evaluation Metrics for Semantic Segmentation, NeurIPS 2023.
    """
    if absent not in POLICIES:
        raise ValueError(f"absent-class policy {absent!r}: expected one of {', '.join(POLICIES)}.")
    iou = iou_per_class(confusions)
    if absent == "truth":
        iou[confusions.sum(-1) == 0] = np.nan
    return iou


def image_miou(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """Average IoU(i, c) over the classes that count in each image: (N,); NaN where there are none."""
    return nanmean(image_class_iou(confusions, absent), axis=1)


def scores(confusions: np.ndarray, absent: str = "truth") -> dict[str, float]:
    """Compute every scalar score of (N, C, C) counts, by name; NaN where nothing can be said.

    `mean_iou` is mIoU^D: equal to torchmetrics' multiclass Jaccard index, macro over the classes present.
    """
    total = confusions.sum(0)
    of_classes, per_image_class = _of_classes(total), image_class_iou(confusions, absent)
    true, per_image = total.sum(1), nanmean(per_image_class, axis=1)

    def worst_classes(q: float) -> np.ndarray:
        return nanmean([worst_mean(column, q) for column in per_image_class.T])

    result = {
        **{f"mean_{name}": nanmean(values) for name, values in of_classes.items()},
        "mean_iou_image": nanmean(per_image),
        "mean_iou_class": nanmean(nanmean(per_image_class, axis=0)),
        "pixel_accuracy": ratio(total.trace(), total.sum()),
        "mean_class_accuracy": nanmean(of_classes["recall"]),
        "frequency_weighted_iou": ratio(np.nansum(true * of_classes["iou"]), true.sum()),
    }
    for q in (1, 5, 10):  # percent
        result[f"mean_iou_image_worst_{q}"] = worst_mean(per_image, q)
        result[f"mean_iou_class_worst_{q}"] = worst_classes(q)
    result["mean_iou_image_qbar"] = nanmean([worst_mean(per_image, q) for q in range(10, 101, 10)])
    result["mean_iou_class_qbar"] = nanmean([worst_classes(q) for q in range(10, 101, 10)])
    return {name: float(value) for name, value in result.items()}


def worst_mean(values: np.ndarray, q: int) -> float:
    """Average the lowest max(1, floor(q n / 100)) of the n values that are not NaN; NaN without any."""
    values = np.sort(values[~np.isnan(values)])
    return float(values[: max(1, int(q * len(values) / 100))].mean()) if len(values) else float("nan")


def per_class_table(confusions: np.ndarray, names: tuple[str, ...], absent: str = "truth") -> pd.DataFrame:
    """Score each class, a row each; `images` and `pixels` count the ground truth.

    `miou_c` is the mean over the images in which the class counts; `absent_false_positives` counts its pixels
    in images whose ground truth lacks it. A class that is never predicted has precision 0.
    """
    total, in_truth = confusions.sum(0), confusions.sum(-1) > 0
    columns = {
        "class_id": range(len(names)),
        "class": names,
        **_of_classes(total),
        "images": in_truth.sum(0),
        "pixels": total.sum(1),
        "pixel_share": ratio(total.sum(1), total.sum()),
        "miou_c": nanmean(image_class_iou(confusions, absent), axis=0),
        "absent_false_positives": (confusions.sum(-2) * ~in_truth).sum(0),
    }
    return pd.DataFrame(columns)


def calibration_counts(truth: np.ndarray, pred: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Count the valid pixels of one image by the model's confidence (H, W), in [0, 1], in its class.

    Returns (3, BINS) float64: pixels, their summed confidences, hits. Those of several images may be added.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
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


def nanmean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Average as `np.nanmean` without its warning: NaN where there is nothing to average."""
    values = np.asarray(values, np.float64)
    return ratio(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))


def _of_classes(total: np.ndarray) -> dict[str, np.ndarray]:
    """(C,) each. Precision: 0 for a class that is never predicted, as torchmetrics' zero_division=0."""
    hit, true, predicted = np.diag(total), total.sum(1), total.sum(0)
    precision = ratio(hit, np.where(true > 0, np.maximum(predicted, 1), predicted))
    f1 = ratio(2 * hit, true + predicted)
    return {"iou": iou_per_class(total), "precision": precision, "recall": ratio(hit, true), "f1": f1}


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide element by element; NaN where `whole` is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
