"""A split of images, some of which fail, as 04 analyses it: generated, with every column, an earlier run and training images."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib import metrics
from seglib.browser import Details
from seglib.data import IGNORE, ClassMap, Dataset
from seglib.evaluate import Evaluation, save_ids
from seglib.failures import ERROR_KINDS, Analysis, Threshold
from seglib.runs import Run, write_json

EVIL = "<img src=x onerror=\"window.hacked='yes'\">"
POLE = "<b>pole</b>"
CLASSES = ClassMap(("sky", "building", "road", "car", "tree", POLE))
# Names that tables take for numbers or missing values, pages for mark-up, and lists for too wide.
ADVERSARIAL = (EVIL, "NA", "0042", 'it\'s "quoted" & 100%', "fähre_🚢_7", "very_long_" * 22, "1e5")
CAUSES = ("label error", "degraded image", "unlike training", "rare class", "class confusion", "unexplained")
TRAINING = ["train_0", "train_1", "train_2"]


def names(count: int) -> list[str]:
    """`count` ids: a few that are hard to show, then ordinary ones in sequences of 25."""
    return [*ADVERSARIAL, *(f"street{k // 25:02d}_{k:04d}" for k in range(count))][:count]


def scene(random: np.random.Generator) -> dict[str, np.ndarray]:
    """An image, its mask, prediction, confidence and suspect region: one car is labelled as building."""
    truth = np.repeat(np.uint8([0] * 18 + [1] * 15 + [2] * 27)[:, None], 80, axis=1)
    left = int(random.integers(0, 40))
    truth[27:42, left : left + 20], truth[15:33, 55:73], truth[12:42, 40:42] = 3, 4, 5
    image = CLASSES.colorize(truth) * 0.6 + 45 + random.normal(0, 9, (60, 80, 1))
    pred = np.roll(truth, int(random.integers(-3, 4)), axis=1)
    pred[truth == 5], pred[45:, :26] = 1, 3
    given = np.where(truth == 3, 1, truth)
    given[-2:] = IGNORE
    layers = {"images": image.clip(0, 255), "masks": given, "predictions": pred}
    layers |= {"suspects": (truth == 3) * 255, "confidences": random.integers(100, 240, truth.shape)}
    return {kind: array.astype(np.uint8) for kind, array in layers.items()}


def evaluation(run: Run, dataset: Dataset, miou: np.ndarray) -> Evaluation:
    """The run's scores of all images, with counts that are not theirs."""
    counts = np.random.default_rng(0).integers(0, 120, (len(miou), len(CLASSES), len(CLASSES)))
    counts += np.eye(len(CLASSES), dtype=int) * (1500 - counts.sum(2))[:, :, None]
    table = dataset.split("test")[["id", "group"]].assign(miou=miou, confidence=0.8, valid_pixels=9000)
    iou = pd.DataFrame(metrics.image_class_iou(counts), columns=list(CLASSES.names))
    table["worst_class"] = iou.idxmin(axis=1)
    scores, iou["id"] = {"absent": "truth", "mean_iou": 0.5}, table["id"]
    return Evaluation(run, dataset, "test", scores, table, pd.DataFrame(), iou, counts)


def measured(found: Evaluation, failing: int) -> pd.DataFrame:
    """What 04 measures of every image: the columns of `Analysis.images`."""
    count, random = len(found.per_image), np.random.default_rng(1)
    lost = random.dirichlet(np.ones(5), count) * (1 - found.per_image["miou"].to_numpy())[:, None]
    table = found.per_image[["id", "group", "miou", "confidence"]].assign(failed=np.arange(count) < failing)
    table = table.assign(label_score=random.uniform(0, 1, count).round(4), label_quality=0.5, suspect=False)
    table = table.assign(suspect_kind="swapped class", suspect_given="building", suspect_suggested=EVIL)
    table["degradation"] = [("", "blur", "dark")[k % 3] for k in range(count)]
    table["degradation_z"] = random.uniform(0, 9, count).round(2)
    table["novelty"] = random.uniform(0, 1, count).round(3)
    table[[f"lost_{kind}" for kind in ERROR_KINDS]] = lost
    return table.assign(pixels=9, nearest=[TRAINING[:2]] * count)


def explained(images: pd.DataFrame) -> pd.DataFrame:
    """The failures among them, with every cause in turn."""
    table = images[images["failed"]].drop(columns="failed").reset_index(drop=True)
    rank, cause = table.index, pd.Series(np.resize(CAUSES, len(table)), dtype=str)
    table["severity"] = np.where(rank < 3, "guessing", np.where(rank < 9, "clear", "near-threshold"))
    table["top_confusion"] = np.where(rank % 2, f"{POLE} -> building", "car -> road")
    table = table.assign(worst_class_iou=0.0, top_confusion_share=0.1, cause=cause, cause_strength=0.6)
    table = table.assign(best_fix=f"{POLE} -> building", best_fix_gain=0.059)
    table["evidence"] = cause + f": the model is sure of {EVIL} where the mask says building."
    return table.assign(suggestion="Look at the mask; relabel or exclude it.")


def write_split(folder: Path, count=60, failing=20, browse="failures", before=False) -> Details:
    """Write the dataset, the failures folder and the predictions of two runs; `failing` images fail, the first."""
    random, ids = np.random.default_rng(0), names(count)
    scenes = [scene(random) for _ in range(6)]
    now, old = Run(folder / "now"), Run(folder / "old")
    places = {"images": folder / "data/images", "masks": folder / "data/masks"}
    places["predictions"] = now.evaluation("test") / "predictions"
    places |= {kind: now.failures("test") / kind for kind in ("confidences", "suspects")}
    for place in (*places.values(), old.evaluation("test") / "predictions"):
        place.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate([*ids, *TRAINING]):
        for kind, array in scenes[k % 6].items():
            if kind in ("images", "masks") or (k < count if kind == "predictions" else k < failing):
                Image.fromarray(array).save(places[kind] / f"{name}.png")
        old_prediction = old.evaluation("test") / "predictions" / f"{name}.png"
        save_ids(old_prediction, np.fliplr(scenes[k % 6]["masks"]), CLASSES)
    rows = [(i, "train" if i in TRAINING else "test", f"images/{i}.png", f"masks/{i}.png",
             i.split("_")[0] if "street" in i else "", k) for k, i in enumerate([*ids, *TRAINING])]  # fmt: skip
    samples = pd.DataFrame(rows, columns=["id", "split", "image", "mask", "group", "frame"])
    dataset = Dataset(folder / "data", "made", CLASSES, samples.astype({"frame": "Int64"}), pd.DataFrame())
    miou = np.linspace(0.05, 0.95, count)
    found = evaluation(now, dataset, miou)
    earlier = evaluation(old, dataset, np.abs(miou - 0.2 * np.sin(np.arange(count))))
    write_json(now.params, {"architecture": "Unet", "encoder": "resnet18"})
    images, features = measured(found, failing), random.normal(size=(count + 3, 8)).astype(np.float32)
    training = type("Training", (), {"samples": samples[count:], "features": features[count:]})
    columns = ["id", "label_score", "suspect", "suspect_kind", "suspect_given", "suspect_suggested", "failed"]
    tables = explained(images), images, images[columns], None
    analysis = Analysis(found, now.failures("test"), *tables, training, features[:count])
    threshold = Threshold(round(miou[failing] - 0.001, 3) if failing < count else 1.0)
    return Details(analysis, threshold, browse, earlier if before else None)
