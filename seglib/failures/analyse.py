"""Look at an evaluated split once more, state the cause of every failure, and write the failures folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib import metrics
from seglib.checks import Reference, degradation, qualities
from seglib.data import IGNORE, label_regions, read_image
from seglib.evaluate import Evaluation, changed_since_training, check_as_scored, read_ids, read_layers
from seglib.failures import causes, label_errors
from seglib.failures.confidence import EarlyWarning, class_confidence, early_warning
from seglib.failures.error_types import lost_iou
from seglib.failures.evidence import Observed, TrainingImages, observe, observe_training, open_scorer
from seglib.failures.find import FINDINGS, LAYERS, copy_layers
from seglib.failures.novelty import novelty
from seglib.failures.relabel import write_records, write_spreadsheet
from seglib.metrics import EDGES, SIZES, region_counts
from seglib.runs import atomic_path, replace_folder, write_csv

_THUMBNAIL = 256  # pixels, longer side of the copies of the nearest training images
_SUSPECT = ["label_score", "suspect_kind", "suspect_given", "suspect_suggested", "suspect_box", "pixels"]


@dataclass(frozen=True)
class Analysis:
    """What 04 found out about one split.

    Args:
        evaluation: of the split.
        folder: the failures folder.
        failures: failures.csv, worst first, with causes; `nearest` as lists.
        images: what was measured of every image of the split: id, group, miou, confidence, failed, ...
        suspects: suspects.csv, most suspicious first; empty without probabilities.
        training: what the training images are like; None for predictions of another tool.
    """

    evaluation: Evaluation
    folder: Path
    failures: pd.DataFrame
    images: pd.DataFrame
    suspects: pd.DataFrame
    training: TrainingImages | None


def analyse(evaluation: Evaluation, failures: pd.DataFrame, progress: bool = False) -> Analysis:
    """Look at every image of a split again, state the cause of every failure, and write `failures/<split>/`.

    Without a model (predictions of another tool) what needs probabilities or features stays unknown.
    `failures` are those of `find_failures`; `progress` shows bars.

    Raises:
        DatasetError: the split is no longer what 03 scored.

    Writes:
        images/, masks/, predictions/, overlays/, confidences/, suspects/ and nearest/ (PNG); suspects.csv;
        failures.csv, also for spreadsheets and as JSON. What an earlier analysis left is replaced when all of
        it is written; verdicts stay.
    """
    run, dataset, split = evaluation.run, evaluation.dataset, evaluation.split
    check_as_scored(evaluation)
    if changed := changed_since_training(run, dataset):
        tqdm.write(changed)
    with replace_folder(run.failures(split), (*LAYERS, *FINDINGS), last="failures.csv") as folder:
        copy_layers(evaluation, failures, folder)
        scorer = open_scorer(evaluation)
        training = observe_training(evaluation, scorer, progress) if scorer else None
        bar = {"leave": False, "unit": "image", "disable": not progress}
        seen = tqdm(observe(evaluation, scorer), f"looking at {split}", len(evaluation.per_image), **bar)
        images = _measure(evaluation, set(failures["id"]), seen, training, folder)
        known = images.drop(columns=["group", "miou", "failed", "seed", "by_given"])
        table = failures.merge(known, on="id", how="left", validate="1:1")
        table = pd.concat([table, causes.explain(table)], axis=1)
        suspects = images[["id", *_SUSPECT, "failed"]].dropna(subset="label_score")
        suspects = suspects.sort_values("label_score", ascending=False, kind="stable", ignore_index=True)
        found = Analysis(evaluation, run.failures(split), table, images, suspects, training)
        _write(found, folder)
    return found


def _measure(
    evaluation: Evaluation,
    failed: set[str],
    observed: Iterable[Observed],
    training: TrainingImages | None,
    folder: Path,
) -> pd.DataFrame:
    """Measure every image of the split, and save the confidences of those that failed."""
    images = evaluation.per_image[["id", "group", "miou", "confidence"]].reset_index(drop=True)
    images["unsure"] = (1 - images["confidence"]) / max((1 - images["confidence"]).median(), 1e-9)
    images["failed"] = images["id"].isin(failed)
    reference, pixels = (Reference.of(training.qualities), training.pixels) if training else (None, None)
    facts, features, looks = ([None] * len(images) for _ in range(3))
    for seen in observed:
        k = seen.position
        facts[k] = _facts(seen, reference, evaluation)
        if seen.probabilities is not None:
            features[k] = seen.features
            looks[k] = label_errors.look(seen.truth, seen.probabilities, seen.pred)
            if seen.id in failed:
                _save(folder / "confidences" / f"{seen.id}.png", np.round(255 * seen.probabilities.max(0)))
    names, absent = evaluation.classes.names, evaluation.scores["absent"]
    labels, nearest = label_errors.judge(looks, names), _novelty(evaluation, features, training)
    losses = causes.class_losses(evaluation.confusions, names, pixels, absent)
    return pd.concat([images, pd.DataFrame(facts), labels, nearest, losses], axis=1)


def _facts(seen: Observed, reference: Reference | None, evaluation: Evaluation) -> dict:
    """Measure what one image tells by itself."""
    measured, absent = qualities(seen.image), evaluation.scores["absent"]
    facts = degradation(measured, reference) if reference else ("", np.nan, "")
    names = ("degradation", "degradation_z", "degradation_detail")
    facts = measured | dict(zip(names, facts, strict=True))
    facts |= lost_iou(seen.truth, seen.pred, len(evaluation.classes), absent)
    _, values, sizes = label_regions(seen.truth)
    sizes = sizes[values != IGNORE]
    small = sizes[sizes < EDGES[0] * seen.truth.size].sum()
    facts["small_share"] = small / sizes.sum() if len(sizes) else np.nan
    facts["lost_small"] = _lost_small(seen, evaluation.confusions[seen.position], absent)
    facts["class_confidence"] = np.nan
    if seen.probabilities is not None:
        top, valid = seen.probabilities.max(0), seen.truth != IGNORE
        facts["class_confidence"] = class_confidence(seen.pred, top, valid)
    return facts


def _lost_small(seen: Observed, confusion: np.ndarray, absent: str) -> float:
    """Measure the points of mIoU that an image lost on its small regions."""
    _, _, missed, added = region_counts(seen.truth, seen.pred, len(confusion))[..., SIZES.index("small")]
    counted = ~np.isnan(metrics.image_class_iou(confusion[None], absent)[0])
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return float(((missed + added)[counted] / union[counted]).sum() / max(1, counted.sum()))


def _novelty(evaluation: Evaluation, features: list, training: TrainingImages | None) -> pd.DataFrame:
    """Compare every image with the training images; a training image is not its own neighbour."""
    own = evaluation.per_image["id"]
    if training is None:
        return pd.DataFrame({"novelty": np.nan, "nearest": [[] for _ in own]})
    ids, groups = training.samples["id"], training.samples["group"]
    found = novelty(np.stack(features), training.features, ids, groups, count=6)[["novelty", "nearest"]]
    found["nearest"] = [
        [i for i in near if i != me][:5] for near, me in zip(found["nearest"], own, strict=True)
    ]
    if evaluation.split == "train":  # the distances would be those to themselves
        found["novelty"] = np.nan
    return found


def _write(found: Analysis, folder: Path) -> None:
    """Write the tables, the suspect regions, and small copies of the nearest training images."""
    images, dataset = found.images, found.evaluation.dataset
    doubted = images["failed"] | (images["label_score"] >= label_errors.SURE)
    for row in images[doubted & (images["pixels"] > 0)].itertuples():
        _, truth, pred = read_layers(found.evaluation, row.id)
        region = label_errors.suspect_region(truth, pred, row.seed, row.by_given)
        _save(folder / "suspects" / f"{row.id}.png", 255 * region)
    paths = dataset.samples.set_index("id")["image"]
    for name in {name for names in found.failures["nearest"] for name in names}:
        image = Image.fromarray(read_image(dataset.root / paths[name]))
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        _save(folder / "nearest" / f"{name}.png", np.asarray(image))
    flat = found.failures.assign(nearest=found.failures["nearest"].map(json.dumps))
    write_csv(folder / "suspects.csv", found.suspects)
    write_records(folder / "failures.json", flat)
    write_spreadsheet(folder / "failures_spreadsheet.csv", flat)
    write_csv(folder / "failures.csv", flat)


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels.astype(np.uint8)).save(temporary, format="PNG")


def suspect_region(evaluation: Evaluation, sample: str) -> np.ndarray | None:
    """Read where the label of an image is in doubt, (H, W) bool; None where nowhere."""
    path = evaluation.run.failures(evaluation.split) / "suspects" / f"{sample}.png"
    return read_ids(path) > 0 if path.is_file() else None


def beside_nearest(analysis: Analysis, failures: pd.DataFrame, count: int = 4) -> tuple[list, list[str]]:
    """Read images and titles, row by row: a failure, then the `count` training images nearest to it."""
    dataset = analysis.evaluation.dataset
    paths, images, titles = dataset.samples.set_index("id")["image"], [], []
    for row in failures[failures["nearest"].map(bool)].itertuples():
        near = row.nearest[:count]
        images += [read_image(dataset.root / paths[name]) for name in (row.id, *near)]
        titles += [f"{row.id}: novelty {row.novelty:.0%}", *(f"train: {name}" for name in near)]
    return images, titles


def warnings_of(analysis: Analysis) -> dict[str, EarlyWarning]:
    """Judge how well the mean confidence over pixels, and over classes, warns of failures."""
    images, units = analysis.images, independent_parts(analysis.evaluation)
    columns = {"confidence": "confidence", "confidence by class": "class_confidence"}
    return {
        name: early_warning(images[column].to_numpy(float), images["failed"].to_numpy(), units, name)
        for name, column in columns.items()
    }


def independent_parts(evaluation: Evaluation) -> np.ndarray:
    """Label what of the split is independent, (N,), see `metrics.independent_units`."""
    samples = evaluation.dataset.split(evaluation.split)
    frames = samples["frame"].to_numpy(float, na_value=np.nan)
    return metrics.independent_units(samples["group"].to_numpy(str), frames)[0]
