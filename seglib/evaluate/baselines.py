"""What a prediction without looking at the image scores: the floor under every number.

- **majority class**: the class with the most pixels in the training split, everywhere.
- **mean mask**: at each place the class that is most often there in the training split.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from seglib import metrics
from seglib.data import IGNORE, Dataset, read_mask
from seglib.evaluate.evaluation import Evaluation
from seglib.train import map_ahead

GRID = (128, 128)  # common size of the mean mask; finer, and rare classes would be a matter of single masks
SCORES = ("mean_iou", "mean_iou_image", "mean_iou_class", "pixel_accuracy")


@dataclass(frozen=True)
class Prior:
    """What is known before an image is seen.

    Args:
        pixels: (C,) scored pixels of each class in the training split.
        mean_mask: (h, w) uint8: the most frequent class at each place; the majority class where nothing was ever labelled.
    """

    pixels: np.ndarray
    mean_mask: np.ndarray

    @property
    def majority(self) -> int:
        """The class with the most pixels, the first of those that tie."""
        return int(self.pixels.argmax())


def learn_prior(dataset: Dataset, split: str = "train", grid: tuple[int, int] = GRID) -> Prior:
    """Count the classes of a split, altogether and at each place of a grid that all masks are brought to.

    Args:
        grid: (height, width) of the mean mask. Every mask is stretched to it (nearest), whatever its shape.

    Raises:
        DatasetError: no such split.
    """
    classes = len(dataset.classes)
    pixels, places = np.zeros(classes, np.int64), np.zeros((classes, *grid), np.int64)
    rows, columns = np.indices(grid)
    for mask in _masks(dataset, split):
        pixels += np.bincount(mask.ravel(), minlength=256)[:classes]
        small = _stretch(mask, grid)
        seen = small != IGNORE
        places[small[seen], rows[seen], columns[seen]] += 1
    mean_mask = np.where(places.any(0), places.argmax(0), pixels.argmax()).astype(np.uint8)
    return Prior(pixels, mean_mask)


def baseline_confusions(dataset: Dataset, split: str, prior: Prior) -> dict[str, np.ndarray]:
    """The (N, C, C) counts of each baseline on a split, by its name."""
    classes = len(dataset.classes)
    counts = [
        metrics.confusion_matrix(m, _stretch(prior.mean_mask, m.shape), classes)
        for m in _masks(dataset, split)
    ]
    mean_mask = np.stack(counts)
    majority = np.zeros_like(mean_mask)
    majority[:, :, prior.majority] = mean_mask.sum(-1)
    return {f"majority class ({dataset.classes.names[prior.majority]})": majority, "mean mask": mean_mask}


def compare_with_baselines(
    evaluation: Evaluation, dataset: Dataset, learn_from: str = "train"
) -> pd.DataFrame:
    """The model beside the baselines, scored by the same counts and the same policy, the best last.

    Args:
        learn_from: the split that the baselines know.

    Returns:
        predictor, mean_iou, mean_iou_image, mean_iou_class, pixel_accuracy; a row each.
    """
    counts = baseline_confusions(dataset, evaluation.split, learn_prior(dataset, learn_from))
    absent = evaluation.scores["absent"]
    rows = [{"predictor": name} | metrics.scores(confusions, absent) for name, confusions in counts.items()]
    rows.append({"predictor": "this model"} | metrics.scores(evaluation.confusions, absent))
    return pd.DataFrame(rows)[["predictor", *SCORES]].sort_values(
        "mean_iou", kind="stable", ignore_index=True
    )


def _masks(dataset: Dataset, split: str) -> Iterator[np.ndarray]:
    """The masks of a split in order, (H, W) uint8 each, decoded a few ahead."""
    rows = dataset.split(split).itertuples()
    with ThreadPoolExecutor() as pool:
        yield from map_ahead(pool, lambda row: read_mask(dataset.root / row.mask, dataset.classes), rows)


def _stretch(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # nearest: interpolating ids would invent classes along every boundary
    return np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
