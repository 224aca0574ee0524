"""Predict a folder of new images, with what warns of each prediction; and choose which of them to label next."""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from tqdm.auto import tqdm

from seglib import checks, data, evaluate, runs
from seglib.data import DatasetError, ImageForm
from seglib.evaluate import Evaluation, predict_image
from seglib.failures import novelty
from seglib.failures.analyse import class_confidence, save_png
from seglib.failures.causes import NOVEL
from seglib.failures.novelty import Scorer, TrainingImages
from seglib.failures.relabel import write_annotations
from seglib.runs import Run, display_path

_LARGEST = 2048  # pixels a side of what features are computed from
_COLUMNS = ["id", "image", "height", "width", "confidence", "class_confidence", "novelty", "disagreement"]
_COLUMNS += ["warnings", "error"]
_SIGNALS = ["confidence", "class_confidence", "novelty"]
_CHOSEN = ["rank", "id", "image", "score", "expected_miou", "novelty", "distance", "rarest_class"]
_CHOSEN += ["confidence", "warnings"]
_PRESENT = 0.001  # share of an image from which a predicted class counts as in it
_SAME = 1e-6  # distance below which an image adds nothing to one that is chosen or trained on
_UNLIKE = "unlike training: {:.0%} of the training images have a nearer neighbour than it has."


class NewImages(NamedTuple):
    """What was predicted of a folder of images."""

    table: pd.DataFrame  # predictions.csv, by file name
    features: np.ndarray  # (N, D) float32 of length 1, of the rows without an error
    training: TrainingImages | None  # None where the dataset is not there
    scorer: Scorer


def predict_folder(
    run: Run, images: str | Path, out: str | Path, against: Run | None = None, share: float = 0.0,
    progress: bool = False,
) -> NewImages:  # fmt: skip
    """Predict every image file in a folder and the folders in it, to masks/, overlays/ and predictions.csv.

    An interrupted call goes on where it was when repeated. Files that cannot be read are listed, not fatal. With
    `against`, a second run of the same classes, disagreement is measured. `share` is 03's parameter adapt_norm: the
    model is adapted to up to 64 of the images. docs/deployment.md tells the columns.

    Raises:
        DatasetError: no image in `images`, or two of one name. ValueError: `out` holds something else.
    """
    images, out = runs.resolve_path(images), Path(out)
    files = data.find_images(images)
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{display_path(out)} lies in the folder of the images. Choose a folder beside it.")
    scorer = novelty.load_scorer(run)
    spec = scorer[0].spec
    other = novelty.load_scorer(against, spec.classes) if against else None
    with runs.lock(out / ".writing", "predicting"):
        about = {"run": _digest(run), "against": _digest(against), "adapt_norm": f"{share:g}"}
        _claim(images, out, files, about)
        facts, form = {name: out / "facts" / f"{name}.json" for name in files}, ImageForm(**spec.images)
        todo = [name for name, path in facts.items() if not path.is_file()]
        done, predictor = len(files) - len(todo), scorer
        if share and todo:
            predictor = _adapted(scorer, images, files, share)
            other = other and _adapted(other, images, files, share)
        with ThreadPoolExecutor(2) as pool:
            read = data.map_ahead(pool, lambda name: (name, _read(images / files[name], form)), todo, ahead=2)
            bar = tqdm(read, "predicting", len(files), initial=done, unit="image", disable=not progress)
            for name, image in bar:
                row = {"id": name, "image": files[name], "error": image if isinstance(image, str) else ""}
                if not row["error"]:
                    row |= _predict(image, images / files[name], out, name, scorer, predictor, other)
                runs.write_json(facts[name], row)
        rows, training = [runs.read_json(path) for path in facts.values()], None
        try:
            training = novelty.observe_training(run, evaluate.run_dataset(run), scorer, progress)
        except DatasetError as error:
            tqdm.write(f"Distance from the training images and degradation stay unknown: {error}")
        table, features = _table(rows, training, spec.classes.names)
        ranked = table.sort_values("disagreement", ascending=False, kind="stable")  # NaN: the same order
        runs.write_csv(out / "predictions.csv", ranked)
    return NewImages(table, features, training, scorer)


def _claim(images: Path, out: Path, files: dict[str, str], about: dict[str, str]) -> None:
    """Write predict.json; raise ValueError where `out` holds something else."""
    stats, path = ((name, (images / name).stat()) for name in files.values()), out / "predict.json"
    sizes = {name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats}
    about = about | {"images": runs.stored_path(images), "files": sizes}
    before = {"adapt_norm": "0"} | (runs.read_json(path) if path.is_file() else {})
    if before != about and any(not other.name.startswith(".") for other in out.iterdir()):
        odd = ", ".join(key for key in about if about[key] != before.get(key))
        raise ValueError(f"{display_path(out)} holds other results (other {odd}). Choose a new folder.")
    runs.write_json(path, about)


def _adapted(scorer: Scorer, images: Path, files: dict[str, str], share: float) -> Scorer:
    """Adapt a model to up to 64 images of the folder that can be read."""
    model, plan = scorer
    form, side = ImageForm(**model.spec.images), model.spec.long_side
    order = np.random.default_rng(0).permutation([*files.values()])
    read = (image for path in order if not isinstance(image := _read(images / path, form), str))
    views = (data.fitting(image, most=side or max(image.shape))[0] for image in read)
    return evaluate.adapt_norm(model, islice(views, evaluate.ADAPTED), plan, share), plan


def _digest(run: Run | None) -> str:
    return f"{run.name} {hashlib.sha256(run.best_checkpoint.read_bytes()).hexdigest()[:16]}" if run else ""


def _read(path: Path, form: ImageForm) -> np.ndarray | str:
    """Read an image, one beyond Pillow's limit by way of the disk, or say why it cannot be read."""
    for read in (data.read_image, data.read_large):
        try:
            return read(path, form=form)
        except DatasetError as error:
            found = error
        if found.check != "too-large":
            break
    advice = {
        "too-large": "Cut it into tiles, or save it as TIFF, uncompressed or deflated.",
        "range": "Convert it to 8 bits, as the run's images have.",
    }  # the reader's own may be about dataset.yaml
    return f"{found.detail} {advice.get(found.check, 'Save it again, or leave it out.')}"


def _predict(image: np.ndarray, source: Path, out: Path, name: str, *models: Scorer | None) -> dict[str, Any]:
    """Write what is predicted of one image; `models`: for features, for the prediction, and to compare it with."""
    scorer, predictor, other = models
    ids, facts, vector = measure(image, scorer, predictor)
    classes = scorer[0].spec.classes
    evaluate.save_ids(out / "masks" / f"{name}.png", ids, classes)
    if tags := data.georeference(source):
        how = {"format": "TIFF", "compression": "tiff_deflate", "tiffinfo": tags}
        evaluate.save_ids(out / "masks" / f"{name}.tif", ids, classes, **how)
    save_png(out / "overlays" / f"{name}.png", data.overlay(*data.fitting(image, ids), classes))
    if other:
        facts["disagreement"] = float((ids != predict_image(other[0], image, other[1])[0]).mean())
    return facts | {"features": base64.b64encode(vector.astype(np.float16).tobytes()).decode()}


def measure(
    image: np.ndarray, scorer: Scorer, predictor: Scorer | None = None
) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    """Predict an image (H, W, 3): ids (H, W); sizes, confidences, qualities, shares of classes; the scorer's features (D,)."""
    model, plan = predictor or scorer
    spec, (ids, total) = model.spec, predict_image(model, image, plan)
    (small,) = data.fitting(image, most=min(spec.long_side or _LARGEST, _LARGEST))
    view = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]
    (vector,) = novelty.image_features(view, *scorer)
    pixels = np.array([np.count_nonzero(ids == c) for c in range(len(spec.classes))])
    facts = {"height": ids.shape[0], "width": ids.shape[1], "confidence": float(total.sum() / ids.size)}
    facts |= {"class_confidence": class_confidence(pixels, total), "qualities": checks.qualities(image)}
    shares = zip(spec.classes.names, (pixels / ids.size).tolist(), strict=True)
    facts |= {f"share_{name}": share for name, share in shares}
    return ids, facts, vector / max(float(np.linalg.norm(vector)), 1e-9)


def _table(rows: list, training: TrainingImages | None, names: tuple) -> tuple[pd.DataFrame, np.ndarray]:
    """Make predictions.csv of what was measured of each image; and the features of those without an error."""
    table = pd.DataFrame(rows).reindex(columns=[*_COLUMNS, *(f"share_{name}" for name in names)])
    good = [k for k, row in enumerate(rows) if "features" in row]
    vectors = [np.frombuffer(base64.b64decode(rows[k]["features"]), np.float16) for k in good]
    features, told = np.array(vectors, np.float32), [""] * len(rows)
    if training and good:
        novel = novelty.compare(features, training)["novelty"]
        reference = checks.Reference.of(training.qualities)
        table.loc[good, "novelty"] = novel.to_numpy(float)
        for k, share in zip(good, novel, strict=True):
            qualities = pd.Series(rows[k]["qualities"], dtype=float)  # null: NaN
            detail = checks.degradation(qualities, reference)[2]
            found = [f"degraded, {detail}" if detail else "", _UNLIKE.format(share) if share >= NOVEL else ""]
            told[k] = " ".join(filter(None, found))
    kinds = {"height": "Int64", "width": "Int64", "novelty": float, "disagreement": float}
    return table.assign(warnings=told).astype(kinds), features


def label_next(
    evaluation: Evaluation, images: str | Path, out: str | Path, count: int = 20, progress: bool = False
) -> pd.DataFrame:
    """Choose the images of a folder that would teach most, and write them for an annotation tool.

    The value of an image is (1 - expected mIoU) x (1 + rarity of its rarest predicted class). The expected mIoU
    is a regression on confidences and novelty, fitted on the images that 03 scored. The next image has the highest
    value x distance to its nearest neighbour among the training images and those chosen before. Beside the files
    of `predict_folder`, it writes label_next.csv, .json (how sure the expected mIoU is) and .zip (for CVAT), and
    returns label_next.csv: `count` images, fewer where the rest repeats what is chosen or trained on. Images beyond
    Pillow's limit are not chosen. The model is not adapted (03's adapt_norm).

    Source: Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018
    (k-center, here weighted by the value).
    """
    evaluate.check_as_scored(evaluation)
    new = predict_folder(evaluation.run, images, out, progress=progress)
    read, most = new.table[new.table["error"] == ""], 2 * (Image.MAX_IMAGE_PIXELS or np.inf)
    small = (read["height"] * read["width"] <= most).to_numpy(bool)
    table, features, out = read[small].reset_index(drop=True), new.features[small], Path(out)
    if table.empty:
        why = new.table["error"].iloc[0] or "they are too large."
        raise DatasetError(f"none of {len(new.table)} images can be annotated: {why}")
    model, sure = _calibrate(evaluation, new, progress)
    names, rarity = evaluation.classes.names, checks.class_weights(new.training.pixels[None], "sqrt_inverse")
    held = table[[f"share_{name}" for name in names]].to_numpy(float) >= _PRESENT
    rare = np.where(held, rarity / rarity.max(), 0.0)  # (N, C); 1: the rarest class of all
    table["rarest_class"] = [names[k] for k in rare.argmax(1)]
    table["expected_miou"] = model.predict(_signals(table)).clip(0, 1)
    value = (1 - table["expected_miou"].to_numpy()) * (1 + rare.max(1))
    places, distances = choose(value, features, new.training.features, count)
    columns = {"rank": range(1, len(places) + 1), "distance": distances, "score": value[places] * distances}
    chosen = table.iloc[places].assign(**columns)[_CHOSEN].reset_index(drop=True)
    folder, form, ids = runs.resolve_path(images), evaluation.dataset.form, chosen["id"].tolist()
    pictures = (data.read_image(folder / path, form=form) for path in chosen["image"])
    masks = (evaluate.read_ids(out / "masks" / f"{name}.png") for name in ids)
    write_annotations(out / "label_next.zip", evaluation.classes, ids, zip(pictures, masks, strict=True))
    runs.write_json(out / "label_next.json", {"split": evaluation.split, "images": len(table)} | sure)
    runs.write_csv(out / "label_next.csv", chosen)
    return chosen


def _calibrate(evaluation: Evaluation, new: NewImages, progress: bool) -> tuple[LinearRegression, dict]:
    """Fit the mIoU of the evaluated images to what is known without labels; say how sure that is."""
    dataset, samples = evaluation.dataset, evaluation.dataset.split(evaluation.split)
    paths = tqdm(samples["image"], "calibrating", leave=False, disable=not progress)
    images = (data.read_image(dataset.root / path, form=dataset.form) for path in paths)
    _, rows, vectors = zip(*(measure(image, new.scorer) for image in images), strict=True)
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
