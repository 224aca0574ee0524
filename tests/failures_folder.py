"""A failures folder as 04 writes it, with every column and picture, generated: what the browser's tests browse."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib.data import IGNORE, ClassMap
from seglib.failures import ERROR_KINDS

EVIL = "<img src=x onerror=\"window.hacked='yes'\">"
POLE = "<b>pole</b>"
CLASSES = ClassMap(("sky", "building", "road", "car", "tree", POLE))
LONG = "very_long_" * 22
# Names that tables take for numbers or missing values, pages for mark-up, and lists for too wide.
ADVERSARIAL = (EVIL, "NA", "0042", 'it\'s "quoted" & 100%', "fähre_🚢_7", LONG, "1e5", "../outside")
_CAUSES = ("label error", "degraded image", "unlike training", "rare class", "class confusion", "unexplained")
_KINDS = ("swapped class", "missing object", "shifted mask", "")


def names(count: int) -> list[str]:
    """`count` ids: a few that are hard to show, then ordinary ones in sequences of 25."""
    hard = [name for name in ADVERSARIAL if "/" not in name]
    return [*hard, *(f"street{k // 25:02d}_{k:04d}" for k in range(count))][:count]


def scene(random: np.random.Generator, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """An image and its truth, prediction, confidence and suspect region: one car labelled as building, edges frayed."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    truth = np.where(rows < height * 0.3, 0, np.where(rows < height * 0.55, 1, 2)).astype(np.uint8)
    left = int(random.integers(0, width // 2))
    truth[int(height * 0.45) : int(height * 0.7), left : left + width // 4] = 3
    truth[(rows - height * 0.4) ** 2 + (columns - width * 0.8) ** 2 < (height * 0.15) ** 2] = 4
    truth[int(height * 0.2) : int(height * 0.7), width // 2 : width // 2 + max(1, width // 40)] = 5
    light = random.normal(0, 9, (height, width, 1)) + 40 * (rows / height)[..., None]
    image = (CLASSES.colorize(truth) * 0.6 + 45 + light).clip(0, 255).astype(np.uint8)
    pred = np.roll(truth, int(random.integers(-3, 4)), axis=1)
    pred[truth == 5] = 1
    pred[int(height * 0.75) :, : width // 3] = 3
    suspect = truth == 3
    given = truth.copy()
    given[suspect] = 1
    given[-max(1, height // 30) :] = IGNORE
    edge = (np.roll(pred, 2, 0) != pred) | (np.roll(pred, 2, 1) != pred)
    confidence = np.where(edge, 120, 235) - random.integers(0, 20, (height, width))
    layers = {"images": image, "masks": given, "predictions": pred, "confidences": confidence}
    return {kind: array.astype(np.uint8) for kind, array in (layers | {"suspects": suspect * 255}).items()}


def table(ids: list[str]) -> pd.DataFrame:
    """failures.csv for these ids, worst first, with every column."""
    count = len(ids)
    random = np.random.default_rng(1)
    miou = np.sort(random.uniform(0.03, 0.5, count)).round(4)
    cause = [_CAUSES[k % len(_CAUSES)] for k in range(count)]
    lost = random.dirichlet(np.ones(5), count) * (1 - miou[:, None])
    columns = {
        "id": ids,
        "miou": miou,
        "severity": np.where(miou < 0.1, "guessing", np.where(miou < 0.4, "clear", "near-threshold")),
        "worst_class": [POLE if k % 3 else EVIL for k in range(count)],
        "worst_class_iou": 0.0,
        "top_confusion": [f"{POLE} -> building" if k % 2 else "car -> road" for k in range(count)],
        "top_confusion_share": random.uniform(0, 0.3, count).round(3),
        "group": [i.split("_")[0] if i.startswith("street") else "" for i in ids],
        **{f"lost_{kind}": lost[:, k] for k, kind in enumerate(ERROR_KINDS)},
        "best_fix": f"{POLE} -> building",
        "best_fix_gain": random.uniform(0, 0.2, count).round(4),
        "confidence": random.uniform(0.5, 1, count).round(4),
        "label_score": random.uniform(0, 1, count).round(4),
        "suspect_kind": [_KINDS[k % 4] for k in range(count)],
        "suspect_given": "building",
        "suspect_suggested": EVIL,
        "suspect_box": ["20 27 52 42" if k % 4 != 3 else "" for k in range(count)],
        "degradation": [("", "blur", "dark")[k % 3] for k in range(count)],
        "degradation_z": random.uniform(0, 9, count).round(2),
        "novelty": random.uniform(0, 1, count).round(3),
        "nearest": [json.dumps(["train_0", EVIL, "../outside", "train_1"])] * count,
        "cause": cause,
        "cause_strength": random.uniform(0.3, 1, count).round(2),
        "evidence": [f"{c}: the model is sure of {EVIL} where the mask says building." for c in cause],
        "suggestion": "Look at the mask; relabel or exclude it.",
    }
    return pd.DataFrame(columns)


def class_ious(ids: list[str]) -> pd.DataFrame:
    random = np.random.default_rng(2)
    ious = pd.DataFrame({name: random.uniform(0, 1, len(ids)).round(3) for name in CLASSES.names})
    ious.loc[ious["car"] < 0.2, "car"] = np.nan  # not in the image
    return ious.assign(id=ids)[["id", *CLASSES.names]]


def write_folder(folder: Path, ids: list[str], size: tuple[int, int] = (60, 80)) -> Path:
    """Write the folder; six scenes take turns."""
    random = np.random.default_rng(0)
    scenes = [scene(random, size) for _ in range(6)]
    pictures = [(kind, name, array) for k, name in enumerate(ids) for kind, array in scenes[k % 6].items()]
    pictures += [("nearest", name, scenes[0]["images"]) for name in ("train_0", "train_1", EVIL)]
    for kind, name, array in pictures:
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(array)
        if kind in ("masks", "predictions"):
            picture.putpalette(CLASSES.palette().tobytes())
        picture.save(path)
    table(ids).to_csv(folder / "failures.csv", index=False)
    class_ious(ids).to_csv(folder / "class_ious.csv", index=False)
    return folder
