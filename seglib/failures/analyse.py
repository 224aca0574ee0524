"""Look at an evaluated split once more, state the cause of every failure, and write the failures folder."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib import checks, evaluate, metrics, runs, train
from seglib.data import IGNORE, overlay, read_image
from seglib.evaluate import Evaluation
from seglib.failures import causes, novelty
from seglib.failures.error_types import lost_iou, pixel_price
from seglib.failures.evidence import disagreement
from seglib.failures.label_errors import SUSPECT, Findings, LabelCheck
from seglib.failures.novelty import Scorer, TrainingImages
from seglib.params import Evaluate

_FOLDERS = ("images", "masks", "predictions", "overlays", "confidences", "suspects")  # of PNGs


class Observed(NamedTuple):
    """One image of the split as the model saw it; without a model the last two are None."""

    position: int
    id: str
    image: np.ndarray  # (h, w, 3) uint8 RGB
    truth: np.ndarray  # (H, W) uint8 ids, as those of pred
    pred: np.ndarray
    probabilities: np.ndarray | None = None  # (C, H, W) float32
    features: np.ndarray | None = None  # (D,) float32


class Analysis(NamedTuple):
    """What 04 found out about one split."""

    evaluation: Evaluation
    folder: Path  # the failures folder
    failures: pd.DataFrame  # failures.csv, worst first, with causes; `nearest` as lists
    images: pd.DataFrame  # what was measured of every image: id, group, miou, confidence, failed, ...
    suspects: pd.DataFrame  # suspects.csv, most suspicious first; empty without probabilities
    labels: Findings  # what is known of the masks, and how well injected faults were found
    training: TrainingImages | None  # None for predictions of another tool
    features: np.ndarray | None = None  # (N, D) float32 of the images; None without a model


def analyse(evaluation: Evaluation, failures: pd.DataFrame, progress: bool = False) -> Analysis:
    """Look at every image of a split again, state the cause of every failure, and write `failures/<split>/`.

    `failures` are those of `find_failures`. Without a model (predictions of another tool) what needs probabilities
    or features stays unknown. A split that is no longer what 03 scored is a DatasetError.
    """
    run, split, name = evaluation.run, evaluation.split, evaluation.name
    evaluate.check_as_scored(evaluation)
    if changed := evaluate.changed_since_training(run, evaluation.training_dataset):
        tqdm.write(changed)
    with runs.replace_folder(run.failures(name), _FOLDERS, last="failures.csv") as folder:
        scorer = None if run.external else novelty.load_scorer(run, evaluation.classes)
        source, total = evaluation.training_dataset, len(evaluation.per_image)
        training = novelty.observe_training(run, source, scorer, progress) if scorer else None
        seen = observe(evaluation, scorer)
        seen = tqdm(seen, f"looking at {split}", total, leave=False, disable=not progress)
        confidences = {sample: folder / "confidences" / f"{sample}.png" for sample in failures["id"]}
        images, labels, features = _measure(evaluation, seen, training, confidences)
        table = explain_failures(evaluation, failures, images)
        suspects = images[["id", *SUSPECT[:-2], "label_quality", "failed"]].dropna(subset="label_quality")
        order = {"ascending": [False, True], "kind": "stable", "ignore_index": True}
        suspects = suspects.sort_values(["label_score", "label_quality"], **order)
        found = Analysis(evaluation, run.failures(name), table, images, suspects, labels, training, features)
        _write(found, folder)
    return found


def observe(evaluation: Evaluation, scorer: Scorer | None) -> Iterator[Observed]:
    """Yield every image of the split once, predicted as 03 predicted it, in any order."""
    if scorer is None:
        for position, sample in enumerate(evaluation.per_image["id"]):
            yield Observed(position, sample, *evaluate.read_layers(evaluation, sample))
        return
    model, plan = scorer
    params, side = Evaluate.pick(evaluation.scores), model.spec.long_side
    cached = train.build_cache(evaluation.dataset, evaluation.split, side, original_masks=True)
    adapted = evaluate.adapted(model, cached, params, plan)
    for index, images, masks in train.scoring_batches(cached, novelty.BATCH):
        logits = evaluate.predict(adapted, images, masks.shape[1:], plan, params)
        features = novelty.image_features(images, *scorer)
        for k, position in enumerate(map(int, index)):
            sample, image = cached.ids[position], cached.pair(position)[0]
            pred = evaluate.saved_prediction(evaluation, sample, masks[k].shape)
            probabilities = logits[k].softmax(0).cpu().numpy()
            yield Observed(position, sample, image, masks[k], pred, probabilities, features[k])


def _measure(
    evaluation: Evaluation, seen: Iterable[Observed], training: TrainingImages | None, confidences: dict
) -> tuple[pd.DataFrame, Findings, np.ndarray | None]:
    """Measure every image of the split, and save the confidences of those that failed (id -> path)."""
    names, absent = evaluation.classes.names, evaluation.scores["absent"]
    images = evaluation.per_image[["id", "group", "miou", "confidence"]].reset_index(drop=True)
    images["unsure"] = (1 - images["confidence"]) / max((1 - images["confidence"]).median(), 1e-9)
    images["failed"] = images["id"].isin(confidences)
    reference = checks.Reference.of(training.qualities) if training else None
    facts, features = ([None] * len(images) for _ in range(2))
    labels = LabelCheck(evaluation.dataset, evaluation.split)
    for one in seen:
        facts[one.position] = _facts(one, reference, evaluation)
        if one.probabilities is not None:
            features[one.position] = one.features
            labels.look(one.position, one.image, one.truth, one.probabilities, one.pred)
            if one.id in confidences:
                save_png(confidences[one.id], np.round(255 * one.probabilities.max(0)))
    nearest = pd.DataFrame({"novelty": np.nan, "nearest": [[]] * len(images)})
    if training:
        nearest = novelty.compare(features := np.stack(features), training, images["id"].tolist())
    lost = causes.class_losses(evaluation.confusions, names, training.pixels if training else None, absent)
    facts, unsure = pd.DataFrame(facts), causes.is_lost(images["unsure"], nearest["novelty"])
    found = labels.judge(unsure | (facts["degradation"] != "").to_numpy())
    table = pd.concat([images, facts, found.images, nearest, lost], axis=1)
    return table, found, features if training else None


def _facts(one: Observed, reference: checks.Reference | None, evaluation: Evaluation) -> dict:
    truth, pred, absent = one.truth, one.pred, evaluation.scores["absent"]
    facts, confusion = checks.qualities(one.image), evaluation.confusions[one.position]
    degraded = checks.degradation(facts, reference) if reference else ("", np.nan, "")
    facts |= zip(("degradation", "degradation_z", "degradation_detail"), degraded, strict=True)
    price = pixel_price(confusion, absent)
    facts |= lost_iou(truth, pred, price)
    _, hits, missed, added = metrics.region_counts(truth, pred, len(confusion))  # (C, sizes) each
    pixels, wrong = (hits + missed).sum(0), (missed + added)[:, 0]
    facts["small_share"] = pixels[0] / pixels.sum() if pixels.any() else np.nan
    facts["lost_small"] = (wrong * price).sum()
    facts["class_confidence"], valid = np.nan, truth != IGNORE
    if one.probabilities is not None:
        ids, sure = pred[valid], one.probabilities.max(0)[valid]
        facts["class_confidence"] = class_confidence(np.bincount(ids), np.bincount(ids, sure))
    return facts


def class_confidence(pixels: np.ndarray, total: np.ndarray) -> float:
    """Average the mean confidence of each predicted class, (C,) pixels with a `total` of confidence: small ones count too."""
    return float((total[pixels > 0] / pixels[pixels > 0]).mean()) if pixels.any() else float("nan")


def explain_failures(evaluation: Evaluation, failures: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Add to each failure what was measured of it, and its cause."""
    known, groups = images.drop(columns=["group", "miou", "failed", "seed", "by_given"]), images["group"]
    table = failures.merge(known, on="id", how="left", validate="1:1")
    fixes = pd.Series(table["best_fix"].array, pd.Index(images["id"]).get_indexer(table["id"]))
    names = evaluation.classes.names
    table["recurs"] = causes.recurring(evaluation.confusions, groups.to_numpy(str), names, fixes)
    return pd.concat([table, causes.explain(table, len(names))], axis=1)


def _write(found: Analysis, folder: Path) -> None:
    """Write the pictures of failures and suspects, and all tables."""
    images, classes = found.images, found.evaluation.classes
    for row in images[images["failed"] | images["suspect"]].itertuples():
        (image, truth, pred), name = evaluate.read_layers(found.evaluation, row.id), f"{row.id}.png"
        if row.failed:
            save_png(folder / "images" / name, image)
            save_png(folder / "overlays" / name, overlay(image, pred, classes))
            evaluate.save_ids(folder / "masks" / name, truth, classes)
            evaluate.save_ids(folder / "predictions" / name, pred, classes)
        if row.pixels > 0:
            labels, _, _ = disagreement(truth, pred, row.by_given)
            save_png(folder / "suspects" / name, 255 * (labels == labels.ravel()[row.seed]))
    table = found.failures
    boxes = [[int(v) for v in box.split()] or None for box in table["suspect_box"]]
    runs.write_csv(folder / "suspects.csv", found.suspects)
    runs.write_csv(folder / "label_check.csv", found.labels.kinds)
    runs.write_json(folder / "failures.json", table.assign(suspect_box=boxes).to_dict("records"))
    runs.write_csv(folder / "failures.csv", table.assign(nearest=table["nearest"].map(json.dumps)))


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) values 0-255 as a PNG."""
    with runs.atomic_path(path) as temporary:
        Image.fromarray(pixels.astype(np.uint8)).save(temporary, format="PNG")


def sequence_means(analysis: Analysis) -> pd.DataFrame:
    """Tabulate the sequences ("" for none) of the split, the lowest mean first: images, failures, mean miou."""
    groups = analysis.images.groupby("group", sort=True)
    table = groups.agg(images=("id", "size"), failures=("failed", "sum"), miou=("miou", "mean"))
    return table.rename_axis("sequence").sort_values("miou", kind="stable").reset_index()


def suspect_region(evaluation: Evaluation, sample: str) -> np.ndarray | None:
    """Read where the label of an image is in doubt, (H, W) bool; None where nowhere."""
    path = evaluation.run.failures(evaluation.name) / "suspects" / f"{sample}.png"
    return evaluate.read_ids(path) > 0 if path.is_file() else None


def beside_nearest(analysis: Analysis, failures: pd.DataFrame, count: int = 4) -> tuple[list, list[str]]:
    """Read images and titles, row by row: a failure, then the `count` training images nearest to it."""
    scored, training = analysis.evaluation.dataset, analysis.evaluation.training_dataset
    own, paths = (dataset.samples.set_index("id")["image"] for dataset in (scored, training))
    images, titles = [], []
    for row in failures[failures["nearest"].map(bool)].itertuples():
        near = row.nearest[:count]
        images.append(read_image(scored.root / own[row.id], form=scored.form))
        images += [read_image(training.root / paths[name], form=training.form) for name in near]
        titles += [f"{row.id}: novelty {row.novelty:.0%}", *(f"train: {name}" for name in near)]
    return images, titles
