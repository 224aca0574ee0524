"""Score two trivial baselines that never look at the image.

- **majority class**: the class with the most pixels in the training split, everywhere.
- **mean mask**: at each place the class that is most often there in the training split.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from seglib import metrics
from seglib.data import IGNORE, read_mask
from seglib.evaluate.evaluation import Evaluation

_GRID = (128, 128)  # common size of the mean mask: a finer one would show single masks for rare classes


def compare_with_baselines(evaluation: Evaluation, learn_from: str = "train") -> pd.DataFrame:
    """Score the baselines with the counts and the policy of an evaluation, beside its model.

    Returns:
        predictor, mean_iou, mean_iou_image, mean_iou_class, pixel_accuracy; one row each, the best last.
    """
    dataset, names = evaluation.dataset, evaluation.classes.names
    pixels, places = np.zeros(len(names), np.int64), np.zeros((len(names), *_GRID), np.int64)
    rows, columns = np.indices(_GRID)
    for row in dataset.split(learn_from).itertuples():
        mask = read_mask(dataset.root / row.mask, dataset.classes)
        pixels += np.bincount(mask.ravel(), minlength=256)[: len(names)]
        small = _stretch(mask, _GRID)
        seen = small != IGNORE
        places[small[seen], rows[seen], columns[seen]] += 1
    majority = int(pixels.argmax())
    mean_mask = np.where(places.any(0), places.argmax(0), majority).astype(np.uint8)
    counts = []
    for row in dataset.split(evaluation.split).itertuples():
        truth = read_mask(dataset.root / row.mask, dataset.classes)
        counts.append(metrics.confusion_matrix(truth, _stretch(mean_mask, truth.shape), len(names)))
    of_mask = np.stack(counts)
    of_majority = np.zeros_like(of_mask)
    of_majority[:, :, majority] = of_mask.sum(-1)
    predictors = {f"majority class ({names[majority]})": of_majority, "mean mask": of_mask}
    predictors["this model"] = evaluation.confusions
    found = [metrics.scores(n, evaluation.scores["absent"]) | {"predictor": p} for p, n in predictors.items()]
    columns = ["predictor", "mean_iou", "mean_iou_image", "mean_iou_class", "pixel_accuracy"]
    return pd.DataFrame(found)[columns].sort_values("mean_iou", kind="stable", ignore_index=True)


def _stretch(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # nearest: interpolating ids would invent classes along every boundary
    return np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
