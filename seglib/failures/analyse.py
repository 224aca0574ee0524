"""`analyse`: one pass over an evaluated split that leaves the failures folder, every failure with its cause."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib import metrics
from seglib.actions import Actions
from seglib.checks import QUALITIES, Reference, degradation, qualities
from seglib.data import IGNORE, Dataset, read_image, read_mask, read_pair
from seglib.evaluate import (
    Evaluation,
    changed_since_training,
    check_as_scored,
    read_ids,
    run_dataset,
    saved_prediction,
)
from seglib.failures import causes, label_errors
from seglib.failures import error_types as attribution
from seglib.failures import propose as proposals
from seglib.failures.confidence import EarlyWarning, class_confidence, early_warning
from seglib.failures.evidence import Seen, TrainingImages, look_again, training_images
from seglib.failures.exports import write_records, write_spreadsheet
from seglib.failures.find import FINDINGS, LAYERS, copy_layers
from seglib.failures.novelty import novelty
from seglib.failures.shortfall import shortfall, unsaid
from seglib.failures.slices import find_slices, small_share, with_classes
from seglib.failures.verdicts import VerdictBook
from seglib.metrics import SIZES, region_counts
from seglib.params import Train
from seglib.runs import Run, atomic_path, read_json, replace_folder, write_csv

_THUMBNAIL = 256  # longer side of the nearest training images' copies, pixels


@dataclass(frozen=True)
class Analysis:
    """What 04 found out about one split.

    Args:
        folder: the failures folder.
        failures: failures.csv, worst first, with causes; `nearest` as lists.
        images: evidence of every image of the split: id, miou, failed and the columns of failures.csv that ask no failure.
        suspects: suspects.csv; empty without probabilities.
        training: the training images in numbers; None for predictions of another tool.
    """

    folder: Path
    failures: pd.DataFrame
    images: pd.DataFrame
    suspects: pd.DataFrame
    training: TrainingImages | None


def analyse(run: Run, evaluation: Evaluation, failures: pd.DataFrame, progress: bool = False) -> Analysis:
    """Look at every image of the split once more, state the cause of every failure, and write `failures/<split>/`.

    One image is in memory at a time, and one row of numbers of each. Without a model (predictions of another tool) what needs
    probabilities or features stays unknown.

    Args:
        run: evaluated by 03 on the split.
        evaluation: what 03 wrote.
        failures: of `find_failures`.
        progress: show bars.

    Raises:
        DatasetError: the split is no longer what 03 scored.

    Writes:
        what `failures.export` writes; confidences/, suspects/ and nearest/ (PNG); suspects.csv; failures.csv, and the same for
        spreadsheets and as JSON. What an earlier analysis left stays until all of it is written.
    """
    dataset = run_dataset(run)
    check_as_scored(run, dataset, evaluation.split)
    if changed := changed_since_training(run, dataset):
        tqdm.write(changed)
    folder = run.failures(evaluation.split)
    with replace_folder(folder, (*LAYERS, *FINDINGS), last="failures.csv") as new:
        return replace(_analyse(run, dataset, evaluation, failures, new, progress), folder=folder)


def _analyse(
    run: Run, dataset: Dataset, evaluation: Evaluation, failures: pd.DataFrame, folder: Path, progress: bool
) -> Analysis:
    copy_layers(run, evaluation, failures, folder)
    training = None if run.external else training_images(run, qualities, progress)
    reference = None if training is None else Reference.of(training.qualities)
    failed = set(failures["id"])
    rows, features, looks = [{}] * len(evaluation.per_image), {}, {}
    for seen in look_again(run, evaluation, progress):
        rows[seen.position] = _facts(seen, reference, dataset, evaluation)
        if seen.probabilities is None:
            continue
        top = seen.probabilities.max(0)
        rows[seen.position]["class_confidence"] = class_confidence(seen.pred, top, seen.truth != IGNORE)
        looks[seen.position] = label_errors.look(seen.truth, seen.probabilities, seen.pred)
        features[seen.position] = seen.features
        if seen.id in failed:
            _save_grey(folder / "confidences" / f"{seen.id}.png", np.round(255 * top))
    suspicions = label_errors.judge(list(looks.values()))
    for position, suspicion in zip(looks, suspicions, strict=True):
        rows[position] |= _suspicion(suspicion, dataset.classes.names)
    images = evaluation.per_image[["id", "group", "miou", "confidence"]].reset_index(drop=True)
    doubt = 1 - images["confidence"]
    images = images.assign(unsure=doubt / max(doubt.median(), 1e-9))  # times the doubt of the typical image
    images = pd.concat([images.assign(failed=images["id"].isin(failed)), pd.DataFrame(rows)], axis=1)
    images = pd.concat([images, _novelty(evaluation, features, training, len(images))], axis=1)
    table = failures.merge(
        images.drop(columns=["group", "miou", "failed"]), on="id", how="left", validate="1:1"
    )
    places = evaluation.per_image.reset_index(drop=True).reset_index().set_index("id")["index"][table["id"]]
    table = pd.concat([table, _class_losses(evaluation, places.to_numpy(), training)], axis=1)
    table = pd.concat([table, causes.explain(table)], axis=1)
    _save_nearest(folder, dataset, table["nearest"])
    flat = table.assign(nearest=table["nearest"].map(json.dumps))
    write_csv(folder / "failures.csv", flat)
    write_spreadsheet(folder / "failures_spreadsheet.csv", flat)
    write_records(folder / "failures.json", flat)
    columns = ["id", "label_score", *_SUSPECT, "pixels", "failed"]
    suspects = images[columns].dropna(subset=["label_score"])
    suspects = suspects.sort_values("label_score", ascending=False, kind="stable", ignore_index=True)
    write_csv(folder / "suspects.csv", suspects)
    _save_regions(run, evaluation, dataset, folder, images, dict(zip(looks, suspicions, strict=True)))
    return Analysis(folder, table, images, suspects, training)


_SUSPECT = ["suspect_kind", "suspect_given", "suspect_suggested", "suspect_box"]


def _facts(seen: Seen, reference: Reference | None, dataset: Dataset, evaluation: Evaluation) -> dict:
    """What one image tells alone."""
    measured = qualities(seen.image)
    kind, z, detail = degradation(measured, reference) if reference else ("", np.nan, "")
    classes, absent = len(dataset.classes), evaluation.scores["absent"]
    facts = measured | {"degradation": kind, "degradation_z": z, "degradation_detail": detail}
    facts |= attribution.lost_iou(seen.truth, seen.pred, classes, absent)
    facts["small_share"] = small_share(seen.truth)
    facts["lost_small"] = _lost_small(seen, classes, absent)
    return (
        facts | dict.fromkeys(_SUSPECT, "") | {"label_score": np.nan, "pixels": 0, "class_confidence": np.nan}
    )


def _suspicion(found: label_errors.Suspicion, names: tuple[str, ...]) -> dict:
    return {
        "label_score": found.score,
        "suspect_kind": found.kind,
        "suspect_given": names[found.given] if found.given >= 0 else "",
        "suspect_suggested": names[found.suggested] if found.suggested >= 0 else "",
        "suspect_box": " ".join(map(str, found.box)) if found.box else "",
        "pixels": found.pixels,
    }


def _save_regions(
    run: Run,
    evaluation: Evaluation,
    dataset: Dataset,
    folder: Path,
    images: pd.DataFrame,
    suspicions: dict[int, label_errors.Suspicion],
) -> None:
    """The suspect regions of failed images, and of those whose labels are in doubt."""
    masks, ids = dataset.split(evaluation.split).set_index("id")["mask"], images["id"].tolist()
    failed, kept = images["failed"].to_numpy(), run.evaluation(evaluation.split) / "predictions"
    for position, suspicion in suspicions.items():
        if suspicion.box and (failed[position] or suspicion.score >= label_errors.SURE):
            sample = ids[position]
            truth = read_mask(dataset.root / masks[sample], dataset.classes)
            region = label_errors.suspect_region(truth, read_ids(kept / f"{sample}.png"), suspicion)
            _save_grey(folder / "suspects" / f"{sample}.png", 255 * region)


def _lost_small(seen: Seen, classes: int, absent: str) -> float:
    """Points of mIoU that one image lost on its small regions."""
    _, _, missed, invented = region_counts(seen.truth, seen.pred, classes)[..., SIZES.index("small")]
    confusion = metrics.confusion_matrix(seen.truth, seen.pred, classes)
    counted = ~np.isnan(metrics.image_class_iou(confusion[None], absent)[0])
    union = np.maximum(confusion.sum(0) + confusion.sum(1) - confusion.diagonal(), 1)
    return float(((missed + invented) / union)[counted].sum() / max(1, counted.sum()))


def _class_losses(
    evaluation: Evaluation, places: np.ndarray, training: TrainingImages | None
) -> pd.DataFrame:
    """lost_rare, rare_classes, unsaid_classes and the shortfall of the images at `places`."""
    names, absent = evaluation.classes.names, evaluation.scores["absent"]
    iou = metrics.image_class_iou(evaluation.confusions[places], absent)
    lost = np.nan_to_num(1 - iou) / np.maximum((~np.isnan(iou)).sum(1, keepdims=True), 1)
    shares = np.ones(len(names)) if training is None else training.pixels / max(1, training.pixels.sum())
    rare = shares < causes.RARE
    worst = [np.flatnonzero(rare)[np.argsort(-row[rare])] for row in lost]
    words = [", ".join(names[c] for c in order if row[c] > 0) for order, row in zip(worst, lost, strict=True)]
    nowhere = ", ".join(names[c] for c in np.flatnonzero(unsaid(evaluation.confusions)))
    told = pd.DataFrame({"lost_rare": lost[:, rare].sum(1), "rare_classes": words, "unsaid_classes": nowhere})
    return pd.concat([told, shortfall(evaluation.confusions, places, names, rare, absent)], axis=1)


def _novelty(
    evaluation: Evaluation, features: dict[int, np.ndarray], training: TrainingImages | None, count: int
) -> pd.DataFrame:
    """`novelty` and `nearest` of every image; a training image is not its own neighbour."""
    if training is None or not features:
        return pd.DataFrame({"novelty": np.nan, "nearest": [[] for _ in range(count)]})
    ids, groups = training.samples["id"], training.samples["group"]
    asked = np.stack([features[position] for position in range(count)])
    found = novelty(asked, training.features, ids.tolist(), groups.tolist(), count=6)[["novelty", "nearest"]]
    own = evaluation.per_image["id"]
    found["nearest"] = [
        [name for name in near if name != me][:5] for near, me in zip(found["nearest"], own, strict=True)
    ]
    if evaluation.split == "train":  # the distances would be those to themselves
        found["novelty"] = np.nan
    return found


def slices_of(run: Run, evaluation: Evaluation, analysis: Analysis) -> pd.DataFrame:
    """`find_slices` over what is known of the images: how they look, how unlike training, what they hold, their sequence."""
    images = analysis.images
    properties = images[[*QUALITIES, "novelty", "small_share"]].dropna(axis=1, how="all")
    classes = pd.DataFrame(with_classes(evaluation.confusions, evaluation.classes.names))
    units, frames = _units(run, evaluation)
    groups, miou = images["group"].to_numpy(str), images["miou"].to_numpy(float)
    return find_slices(
        miou, pd.concat([properties, classes], axis=1), groups, units, frames, images["failed"]
    )


def warnings_of(run: Run, evaluation: Evaluation, analysis: Analysis) -> dict[str, EarlyWarning]:
    """`early_warning` of each image's mean confidence over its pixels, and over its classes."""
    images, units = analysis.images, _units(run, evaluation)[0]
    signals = {"confidence": "confidence", "class_confidence": "confidence by class"}
    return {
        name: early_warning(images[column].to_numpy(float), images["failed"].to_numpy(), units, name)
        for column, name in signals.items()
    }


def layers(run: Run, evaluation: Evaluation, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8, truth and prediction (H, W) uint8 of any image of an evaluated split."""
    dataset = run_dataset(run)
    image, truth = read_pair(dataset, dataset.split(evaluation.split).set_index("id", drop=False).loc[sample])
    return image, truth, saved_prediction(evaluation, sample, truth.shape)


def suspect_region(run: Run, evaluation: Evaluation, sample: str) -> np.ndarray | None:
    """(H, W) bool: where the label of an image is in doubt; None where nowhere."""
    path = run.failures(evaluation.split) / "suspects" / f"{sample}.png"
    return read_ids(path) > 0 if path.is_file() else None


def beside_nearest(run: Run, failures: pd.DataFrame, count: int = 4) -> tuple[list[np.ndarray], list[str]]:
    """Pictures and titles, row by row: each image, then the `count` training images that it is nearest to."""
    dataset = run_dataset(run)
    paths, pictures, titles = dataset.samples.set_index("id")["image"], [], []
    for row in failures.itertuples():
        if row.nearest:
            near = row.nearest[:count]
            pictures += [read_image(dataset.root / paths[name]) for name in (row.id, *near)]
            titles += [f"{row.id}: novelty {row.novelty:.0%}", *(f"train: {name}" for name in near)]
    return pictures, titles


def propose(run: Run, analysis: Analysis) -> Actions:
    """`proposals.propose` from an analysis, the verdicts given so far and the parameters of the run."""
    book = VerdictBook(analysis.folder / "verdicts.csv")
    verdicts = {sample: row.verdict for sample, row in book.rows.items()}
    known = read_json(run.params, ["run"])
    params = Train.read(known)
    return proposals.propose(run_dataset(run), analysis.failures, analysis.suspects, verdicts, params)


def _units(run: Run, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """What of the split is independent, and the frame numbers."""
    samples = run_dataset(run).split(evaluation.split)
    frames = samples["frame"].to_numpy(float, na_value=np.nan)
    return metrics.independent_units(samples["group"].to_numpy(str), frames)[0], frames


def _save_grey(path: Path, values: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(values.astype(np.uint8)).save(temporary, format="PNG")


def _save_nearest(folder: Path, dataset: Dataset, nearest: Iterable[list[str]]) -> None:
    """Small copies of the training images that failures are nearest to."""
    wanted = {name for names in nearest for name in names}
    for row in dataset.split("train").itertuples():
        if row.id in wanted:
            picture = Image.fromarray(read_image(dataset.root / row.image))
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            with atomic_path(folder / "nearest" / f"{row.id}.png") as temporary:
                picture.save(temporary, format="PNG")
