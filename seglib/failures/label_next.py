"""Which unlabelled images to label next: where the model should fail, unlike training and each other."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from tqdm.auto import tqdm

from seglib import checks, data, evaluate, runs
from seglib.data import DatasetError
from seglib.evaluate import Evaluation, predict_image
from seglib.failures import novelty
from seglib.failures.new_images import NewImages, measure, predict_folder
from seglib.failures.relabel import write_annotations

_SIGNALS = ["confidence", "class_confidence", "novelty"]
_COLUMNS = ["rank", "id", "image", "score", "expected_miou", "novelty", "distance", "rarest_class"]
_COLUMNS += ["confidence", "warnings"]
_PRESENT = 0.001  # share of an image from which a predicted class counts as in it
_SAME = 1e-6  # distance below which an image adds nothing to one that is chosen or trained on


def label_next(
    evaluation: Evaluation, images: str | Path, out: str | Path, count: int = 20, progress: bool = False
) -> pd.DataFrame:
    """Choose the images of a folder that would teach most, and write them for an annotation tool.

    The value of an image is (1 - expected mIoU) x (1 + rarity of its rarest predicted class). The expected mIoU
    is a regression on confidences and novelty, fitted on the images that 03 scored. The next image has the highest
    value x distance to its nearest neighbour among the training images and those chosen before. Beside the files
    of `predict_folder`, it writes label_next.csv, .json (how sure the expected mIoU is) and .zip (for CVAT), and
    returns label_next.csv: `count` images, fewer where the rest repeats what is chosen or trained on.

    Source: Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018
    (k-center, here weighted by the value).
    """
    evaluate.check_as_scored(evaluation)
    new = predict_folder(evaluation.run, images, out, progress=progress)
    table, out = new.table[new.table["error"] == ""].reset_index(drop=True), Path(out)
    if table.empty:
        raise DatasetError(f"none of {len(new.table)} images can be read: {new.table['error'].iloc[0]}")
    model, sure = _calibrate(evaluation, new, progress)
    names, rarity = evaluation.classes.names, checks.class_weights(new.training.pixels[None], "sqrt_inverse")
    held = table[[f"share_{name}" for name in names]].to_numpy(float) >= _PRESENT
    rare = np.where(held, rarity / rarity.max(), 0.0)  # (N, C); 1: the rarest class of all
    table["rarest_class"] = [names[k] for k in rare.argmax(1)]
    table["expected_miou"] = model.predict(_signals(table)).clip(0, 1)
    value = (1 - table["expected_miou"].to_numpy()) * (1 + rare.max(1))
    places, distances = choose(value, new.features, new.training.features, count)
    columns = {"rank": range(1, len(places) + 1), "distance": distances, "score": value[places] * distances}
    chosen = table.iloc[places].assign(**columns)[_COLUMNS].reset_index(drop=True)
    paths, form = chosen.set_index("id")["image"].to_dict(), evaluation.dataset.form

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        image = data.read_image(runs.resolve_path(images) / paths[name], form=form)
        return image, evaluate.read_ids(out / "masks" / f"{name}.png")

    write_annotations(out / "label_next.zip", evaluation.classes, list(paths), read)
    runs.write_json(out / "label_next.json", {"split": evaluation.split, "images": len(table)} | sure)
    runs.write_csv(out / "label_next.csv", chosen)
    return chosen


def _calibrate(evaluation: Evaluation, new: NewImages, progress: bool) -> tuple[LinearRegression, dict]:
    """Fit the mIoU of the evaluated images to what is known without labels; say how sure that is."""
    samples, rows, vectors = evaluation.dataset.split(evaluation.split), [], []
    for row in tqdm(samples.itertuples(), "calibrating", len(samples), leave=False, disable=not progress):
        image = data.read_image(evaluation.dataset.root / row.image, form=evaluation.dataset.form)
        facts, vector = measure(image, *predict_image(new.scorer[0], image, new.scorer[1]), new.scorer)
        rows.append(facts)
        vectors.append(vector)
    apart = novelty.compare(np.stack(vectors), new.training)
    table = pd.DataFrame(rows).assign(novelty=apart["novelty"])
    miou = evaluation.per_image.set_index("id")["miou"].reindex(samples["id"]).to_numpy(float)
    known = np.isfinite(miou)
    signals, miou, samples = _signals(table)[known], miou[known], samples[known]
    units = evaluate.units_of(samples, pd.Series(miou))[0]
    parts = min(5, len(np.unique(units)))
    if parts < 2:
        told = f"split {evaluation.split!r} has {parts} independent images that are scored"
        raise DatasetError(f"{told}; expected 2 or more. Evaluate a larger split.")
    model = LinearRegression(positive=True)  # more confidence never lowers the expected mIoU
    told = cross_val_predict(model, signals, miou, groups=units, cv=GroupKFold(parts))
    errors = {"error": np.abs(told - miou).mean(), "error_of_mean": np.abs(miou.mean() - miou).mean()}
    weights = dict(zip(_SIGNALS, model.fit(signals, miou).coef_, strict=True))
    return model, {"calibrated_on": int(known.sum()), **errors, "weights": weights}


def _signals(table: pd.DataFrame) -> np.ndarray:
    """The signals (N, 3), each higher where the model should be better."""
    return table[_SIGNALS].assign(novelty=1 - table["novelty"].fillna(0.0)).to_numpy(float)


def choose(value: np.ndarray, features: np.ndarray, seen: np.ndarray, count: int) -> tuple[list, list]:
    """Choose images one after the other by value (N,) x distance to the nearest that is seen (M, D) or chosen.

    Returns positions among the features (N, D), of length 1, and the cosine distance of each when it was chosen.
    """
    seen = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-9)
    parts = np.array_split(features, len(features) // 1000 + 1)  # (N, M) may not fit into memory
    nearest, places, distances = np.concatenate([1 - (part @ seen.T).max(1) for part in parts]), [], []
    while len(places) < count and (nearest > _SAME).any():
        k = int(np.where(nearest > _SAME, value * nearest, -1).argmax())
        places.append(k)
        distances.append(float(nearest[k]))
        nearest = np.minimum(nearest, 1 - features @ features[k])
        nearest[k] = 0
    return places, distances
