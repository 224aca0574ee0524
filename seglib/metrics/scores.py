"""Turn per-image confusion counts (N, C, C) into every score."""

from __future__ import annotations

import numpy as np
import pandas as pd

POLICIES = ("truth", "union")


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of each class.

    Args:
        confusion: (..., C, C) pixel counts; rows are ground truth, columns prediction.

    Returns:
        (..., C) float64 in [0, 1]; NaN where a class is in neither.

    Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010.
    """
    hit, true, predicted = _margins(confusion)
    return ratio(hit, true + predicted - hit)


def image_class_iou(confusions: np.ndarray, absent: str = "truth") -> np.ndarray:
    """Compute IoU(i, c) of every image and class: (N, C, C) -> (N, C), NaN where the class does not count.

    `absent`: when it counts. "truth": the ground truth has it; "union": ground truth or prediction has it.

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
    hit, true, predicted = _margins(total)
    iou, per_image_class = iou_per_class(total), image_class_iou(confusions, absent)
    per_image = nanmean(per_image_class, axis=1)

    def worst_classes(q: float) -> np.ndarray:
        return nanmean([worst_mean(column, q) for column in per_image_class.T])

    result = {
        "mean_iou": nanmean(iou),
        "mean_iou_image": nanmean(per_image),
        "mean_iou_class": nanmean(nanmean(per_image_class, axis=0)),
        "pixel_accuracy": ratio(hit.sum(), total.sum()),
        "mean_class_accuracy": nanmean(ratio(hit, true)),
        "frequency_weighted_iou": ratio(np.nansum(true * np.nan_to_num(iou)), true.sum()),
        "mean_precision": nanmean(ratio(hit, predicted)),
        "mean_recall": nanmean(ratio(hit, true)),
        "mean_f1": nanmean(ratio(2 * hit, true + predicted)),
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
    """Score each class, a row each.

    `images` and `pixels` count the ground truth; `miou_c` is the mean over the images in which the class
    counts; `absent_false_positives` counts pixels of the class in images whose ground truth lacks it.
    """
    total = confusions.sum(0)
    hit, true, predicted = _margins(total)
    in_truth = confusions.sum(-1) > 0
    columns = {
        "class_id": range(len(names)),
        "class": names,
        "iou": iou_per_class(total),
        "precision": ratio(hit, predicted),
        "recall": ratio(hit, true),
        "f1": ratio(2 * hit, true + predicted),
        "images": in_truth.sum(0),
        "pixels": true,
        "pixel_share": ratio(true, true.sum()),
        "miou_c": nanmean(image_class_iou(confusions, absent), axis=0),
        "absent_false_positives": (confusions.sum(-2) * ~in_truth).sum(0),
    }
    return pd.DataFrame(columns)


def nanmean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Average as `np.nanmean` without its warning: NaN where there is nothing to average."""
    values = np.asarray(values, np.float64)
    return ratio(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))


def _margins(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide element by element; NaN where `whole` is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
