"""Two trivial baselines that never look at the image, learnt from the masks of the training split.

- **majority class**: the class with the most pixels, everywhere.
- **mean mask**: at each place the class that is most often there.
"""

import numpy as np
import pandas as pd
from PIL import Image

from seglib import metrics
from seglib.data import IGNORE, Dataset, read_mask

COLUMNS = ["predictor", "mean_iou", "mean_iou_image", "mean_iou_class", "pixel_accuracy"]
_GRID = (128, 128)  # common size of the mean mask: a finer one would show single masks for rare classes


def learn_baselines(dataset: Dataset) -> tuple[int, np.ndarray] | None:
    """Learn the majority class and the mean mask (128, 128) uint8; None without a split "train"."""
    if "train" not in dataset.splits:
        return None
    classes = len(dataset.classes)
    pixels, places = np.zeros(classes, np.int64), np.zeros((classes, *_GRID), np.int64)
    rows, columns = np.indices(_GRID)
    for row in dataset.split("train").itertuples():
        mask = read_mask(dataset.root / row.mask, dataset.classes)
        pixels += np.bincount(mask.ravel(), minlength=256)[:classes]
        small = stretch(mask, _GRID)
        seen = small != IGNORE
        places[small[seen], rows[seen], columns[seen]] += 1
    majority = int(pixels.argmax())
    return majority, np.where(places.any(0), places.argmax(0), majority).astype(np.uint8)


def stretch(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) uint8 ids to (height, width); nearest: interpolation would invent classes along outlines."""
    return np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))


def score_baselines(
    of_mask: np.ndarray, majority: int, names: tuple[str, ...], absent: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """Score both, given the (N, C, C) counts of the mean mask: `COLUMNS`, and the mIoU (N,) of the better one."""
    of_majority = np.zeros_like(of_mask)
    of_majority[:, :, majority] = of_mask.sum(-1)
    counts = {f"majority class ({names[majority]})": of_majority, "mean mask": of_mask}
    table = pd.DataFrame([metrics.scores(n, absent) | {"predictor": p} for p, n in counts.items()])[COLUMNS]
    table = table.sort_values("mean_iou", kind="stable", ignore_index=True)
    return table, metrics.image_miou(counts[table["predictor"].iloc[-1]], absent)
