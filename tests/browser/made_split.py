"""A split of 60 images, 20 of which fail, as 04 analyses it: fabricated, with an earlier run and training images."""

import json
from pathlib import Path

import failures_folder as made
import numpy as np
import pandas as pd
from failures_folder import CLASSES

from seglib import metrics
from seglib.browser import Details
from seglib.data import Dataset
from seglib.evaluate import Evaluation, save_ids
from seglib.failures import Analysis, Threshold
from seglib.runs import Run

IDS, TRAINING = made.names(60), ["train_0", "train_1", "train_2"]


def evaluation(run: Run, dataset: Dataset, random: np.random.Generator, low: float) -> Evaluation:
    """Scores and counts of all images: more and more is right from the first to the last."""
    count, classes = len(IDS), len(CLASSES)
    right = np.linspace(low, 0.95, count)[:, None, None]
    wrong = random.integers(0, 120, (count, classes, classes))
    counts = np.round(1000 * right * np.eye(classes) + (1 - right) * wrong).astype(np.int64)
    counts += np.eye(classes, dtype=int) * (1500 - counts.sum(2))[:, :, None]  # the same masks in every run
    iou = pd.DataFrame(metrics.image_class_iou(counts), columns=list(CLASSES.names))
    table = dataset.split("test")[["id", "group"]].assign(miou=iou.mean(axis=1), confidence=0.8)
    table["worst_class"] = iou.idxmin(axis=1)
    scores = {"absent": "truth", "mean_iou": 0.5}
    ious = pd.concat([table["id"], iou], axis=1)
    return Evaluation(run, dataset, "test", scores, table, pd.DataFrame(), ious, counts)


def write_split(folder: Path, browse: str = "failures", before: bool = False) -> Details:
    """Write the dataset, the failures folder and the predictions of two runs; the threshold fails the first 20."""
    random = np.random.default_rng(0)
    made.write_folder(folder / "data", [*IDS, *TRAINING])
    rows = [(i, "test", f"images/{i}.png", f"masks/{i}.png", i.split("_")[0] if "street" in i else "", k)
            for k, i in enumerate(IDS)]  # fmt: skip
    rows += [(i, "train", f"images/{i}.png", f"masks/{i}.png", "", 0) for i in TRAINING]
    samples = pd.DataFrame(rows, columns=["id", "split", "image", "mask", "group", "frame"])
    dataset = Dataset(folder / "data", "made", CLASSES, samples.astype({"frame": "Int64"}), pd.DataFrame())
    found = evaluation(Run(folder / "now"), dataset, random, 0.1)
    earlier = evaluation(Run(folder / "old"), dataset, random, 0.0)
    for one in (found, earlier):
        for name in IDS:
            path = one.run.evaluation("test") / "predictions" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_ids(path, random.integers(0, 3, (60, 80), np.uint8), CLASSES)
    at = found.run.failures("test")
    made.write_folder(at, IDS[:20])
    miou = found.per_image["miou"].sort_values()
    cut = float(miou.iloc[19:21].mean())
    failed = found.per_image["miou"] < cut
    table = pd.read_csv(at / "failures.csv", dtype=str, keep_default_na=False)
    table[["id", "miou"]] = found.per_image.loc[failed, ["id", "miou"]].to_numpy()
    table.to_csv(at / "failures.csv", index=False)
    found.run.params.write_text(json.dumps({"architecture": "Unet", "encoder": "resnet18"}))
    images = found.per_image.assign(failed=failed, nearest=[["train_0"]] * 60, novelty=0.5)
    features = random.normal(size=(63, 8)).astype(np.float32)
    training = type("Training", (), {"samples": samples[60:], "features": features[60:]})
    analysis = Analysis(found, at, table, images, pd.DataFrame(), None, training, features[:60])
    return Details(analysis, Threshold(cut), browse, earlier if before else None)
