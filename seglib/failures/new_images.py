"""Predict a folder of new images: masks, overlays, and a table with what warns of each prediction."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from seglib import checks, data, evaluate, runs
from seglib.data import DatasetError, ImageForm
from seglib.evaluate import predict_image
from seglib.failures import novelty
from seglib.failures.analyse import class_confidence
from seglib.failures.causes import NOVEL
from seglib.failures.novelty import Scorer, TrainingImages
from seglib.runs import Run, display_path

_LARGEST = 2048  # pixels a side of what features are computed from
_COLUMNS = ["id", "image", "height", "width", "confidence", "class_confidence", "novelty", "disagreement"]
_COLUMNS += ["warnings", "error"]
_UNLIKE = "unlike training: {:.0%} of the training images have a nearer neighbour than it has."


class NewImages(NamedTuple):
    """What was predicted of a folder of images."""

    table: pd.DataFrame  # predictions.csv, by file name
    features: np.ndarray  # (N, D) float32 of length 1, of the rows without an error
    training: TrainingImages | None  # None where the dataset is not there
    scorer: Scorer


def predict_folder(
    run: Run, images: str | Path, out: str | Path, against: Run | None = None, progress: bool = False
) -> NewImages:
    """Predict every image file in a folder and the folders in it, to masks/, overlays/ and predictions.csv.

    An interrupted call goes on where it was when repeated. Files that cannot be read are listed, not fatal. With
    `against`, a second run of the same classes, disagreement is measured. docs/deployment.md tells the columns.

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
        _claim(images, out, files, {"run": _digest(run), "against": _digest(against)})
        done, form = _measured(out), ImageForm(**spec.images)
        todo = [name for name in files if name not in done]
        bar = {"total": len(files), "initial": len(done), "unit": "image", "disable": not progress}
        with (out / "images.jsonl").open("a", encoding="utf-8") as lines, ThreadPoolExecutor(2) as pool:
            lines.write("\n")  # what a killed process left of a line stays a line of its own
            read = data.map_ahead(pool, lambda name: (name, _read(images / files[name], form)), todo, ahead=2)
            for name, image in tqdm(read, "predicting", **bar):
                row = {"id": name, "image": files[name], "error": image if isinstance(image, str) else ""}
                if not row["error"]:
                    row |= _predict(image, images / files[name], out, name, scorer, other)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
        rows, training = _measured(out), None
        try:
            training = novelty.observe_training(run, evaluate.run_dataset(run), scorer, progress)
        except DatasetError as error:
            tqdm.write(f"Distance from the training images and degradation stay unknown: {error}")
        table, features = _table([rows[name] for name in files], training, spec.classes.names)
        ranked = table.sort_values("disagreement", ascending=False, kind="stable")  # NaN: the same order
        runs.write_csv(out / "predictions.csv", ranked)
    return NewImages(table, features, training, scorer)


def _claim(images: Path, out: Path, files: dict[str, str], about: dict[str, str]) -> None:
    """Write predict.json; raise ValueError where `out` holds something else."""
    stats, path = ((name, (images / name).stat()) for name in files.values()), out / "predict.json"
    sizes = {name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats}
    about = about | {"images": runs.stored_path(images), "files": sizes}
    before = runs.read_json(path) if path.is_file() else {}
    if before != about and any(not other.name.startswith(".") for other in out.iterdir()):
        odd = ", ".join(key for key in about if about[key] != before.get(key))
        raise ValueError(f"{display_path(out)} holds other results (other {odd}). Choose a new folder.")
    runs.write_json(path, about)


def _digest(run: Run | None) -> str:
    return f"{run.name} {hashlib.sha256(run.best_checkpoint.read_bytes()).hexdigest()[:16]}" if run else ""


def _measured(out: Path) -> dict[str, dict[str, Any]]:
    """Read images.jsonl, by id, without a line that a killed process did not finish."""
    rows, path = {}, out / "images.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            row = json.loads(line)
            rows[row["id"]] = row
    return rows


def _read(path: Path, form: ImageForm) -> np.ndarray | str:
    try:
        return data.read_image(path, form=form)
    except DatasetError as error:  # its own advice may be about dataset.yaml
        advice = "Cut it into tiles." if error.check == "too-large" else "Save it again, or leave it out."
        return f"{error.detail} {advice}"


def _predict(
    image: np.ndarray,
    source: Path,
    out: Path,
    name: str,
    scorer: Scorer,
    other: Scorer | None,
) -> dict[str, Any]:
    ids, confidence = predict_image(scorer[0], image, scorer[1])
    classes = scorer[0].spec.classes
    evaluate.save_ids(out / "masks" / f"{name}.png", ids, classes)
    if tags := data.georeference(source):
        how = {"format": "TIFF", "compression": "tiff_deflate", "tiffinfo": tags}
        evaluate.save_ids(out / "masks" / f"{name}.tif", ids, classes, **how)
    with runs.atomic_path(out / "overlays" / f"{name}.png") as temporary:
        Image.fromarray(data.overlay(*data.fitting(image, ids), classes)).save(temporary, format="PNG")
    facts, vector = measure(image, ids, confidence, scorer)
    if other:
        facts["disagreement"] = float((ids != predict_image(other[0], image, other[1])[0]).mean())
    return facts | {"features": base64.b64encode(vector.astype(np.float16).tobytes()).decode()}


def measure(
    image: np.ndarray, ids: np.ndarray, confidence: np.ndarray, scorer: Scorer
) -> tuple[dict[str, Any], np.ndarray]:
    """Measure a predicted image: size, confidences, qualities, the share of each class; and its features (D,)."""
    spec = scorer[0].spec
    (small,) = data.fitting(image, most=min(spec.long_side or _LARGEST, _LARGEST))
    (vector,) = novelty.image_features(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None], *scorer)
    facts = {"height": ids.shape[0], "width": ids.shape[1], "confidence": float(confidence.mean())}
    facts["class_confidence"] = class_confidence(ids.ravel(), confidence.ravel())
    shares = np.bincount(ids.ravel(), minlength=len(spec.classes)) / ids.size
    facts |= {f"share_{name}": share for name, share in zip(spec.classes.names, shares.tolist(), strict=True)}
    return facts | {"qualities": checks.qualities(image)}, vector / max(float(np.linalg.norm(vector)), 1e-9)


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
            detail = checks.degradation(rows[k]["qualities"], reference)[2]
            found = [f"degraded, {detail}" if detail else "", _UNLIKE.format(share) if share >= NOVEL else ""]
            told[k] = " ".join(filter(None, found))
    kinds = {"height": "Int64", "width": "Int64", "novelty": float, "disagreement": float}
    return table.assign(warnings=told).astype(kinds), features
