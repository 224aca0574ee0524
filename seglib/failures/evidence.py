"""What 04 asks of the model: every image of an evaluated split once more, with probabilities and features, and the training images.

One image is held at a time: the probabilities of a split would not fit into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from seglib.evaluate import (
    Evaluation,
    predict,
    predicted_pairs,
    run_dataset,
    saved_prediction,
    scoring_plan,
    trained_on,
)
from seglib.params import Evaluate
from seglib.runs import Run, atomic_path
from seglib.train import DevicePlan, Segmenter, build_cache, load_checkpoint, scoring_batches

_AT_ONCE = 8  # images a batch: each is handed on alone


class Seen(NamedTuple):
    """One image of the split.

    Args:
        position: in the split.
        id: of the sample.
        image: (h, w, 3) uint8 RGB, as the model saw it (shrunk to `long_side`).
        truth, pred: (H, W) uint8 class ids; the prediction is the one that 03 saved and scored.
        probabilities: (C, H, W) float32; None for predictions of another tool.
        features: (D,) float32, see `Segmenter.features`; None without a model.
    """

    position: int
    id: str
    image: np.ndarray
    truth: np.ndarray
    pred: np.ndarray
    probabilities: np.ndarray | None
    features: np.ndarray | None


@dataclass(frozen=True)
class TrainingImages:
    """What a run was trained on, in numbers.

    Args:
        samples: id and group of N images.
        features: (N, D) float32.
        qualities: N rows of what `measure` told of each image.
        pixels: (C,) scored pixels of each class in all of them.
    """

    samples: pd.DataFrame
    features: np.ndarray
    qualities: pd.DataFrame
    pixels: np.ndarray


def look_again(run: Run, evaluation: Evaluation, progress: bool = False) -> Iterator[Seen]:
    """Every image of the split once, predicted as 03 predicted it; in no particular order.

    Args:
        run: evaluated on the split.
        evaluation: what 03 wrote.
        progress: show a bar.
    """
    split, count = evaluation.split, len(evaluation.per_image)
    seen = _without_model(evaluation) if run.external else _with_model(run, evaluation)
    yield from tqdm(seen, f"looking again at {split}", count, leave=False, unit="image", disable=not progress)


def _without_model(evaluation: Evaluation) -> Iterator[Seen]:
    packed = build_cache(evaluation.dataset, evaluation.split, original_masks=True)
    for position, (sample, truth, pred) in enumerate(predicted_pairs(evaluation)):
        yield Seen(position, sample, packed.pair(position)[0], truth, pred, None, None)


def _with_model(run: Run, evaluation: Evaluation) -> Iterator[Seen]:
    model, plan = _model(run)
    known = ("flip_tta", "scale_tta", "tile")
    params = Evaluate.check({name: evaluation.scores[name] for name in known if name in evaluation.scores})
    packed = build_cache(run_dataset(run), evaluation.split, model.spec.long_side, original_masks=True)
    for index, images, masks in scoring_batches(packed, _AT_ONCE):
        logits = predict(model, images, masks.shape[1:], plan, params.flip_tta, params.tile, params.scales)
        features = _features(model, images, plan)
        for k, position in enumerate(index):
            sample = packed.ids[position]
            probabilities = logits[k].softmax(0).cpu().numpy()
            image = packed.pair(position)[0]
            pred = saved_prediction(evaluation, sample, masks[k].shape)
            yield Seen(int(position), sample, image, masks[k], pred, probabilities, features[k])


def training_images(
    run: Run, measure: Callable[[np.ndarray], Mapping[str, float]], progress: bool = False
) -> TrainingImages:
    """The images that a run was trained on, as its encoder sees them; kept in the run folder for the next time.

    Args:
        run: with a model of its own.
        measure: image (H, W, 3) uint8 -> what is to be known of how it looks.
        progress: show a bar.
    """
    dataset = trained_on(run, run_dataset(run))
    model, plan = _model(run)
    packed = build_cache(dataset, "train", model.spec.long_side)
    samples = dataset.split("train")[["id", "group"]].reset_index(drop=True)
    pixels = packed.pixel_counts.sum(0)
    with run.best_checkpoint.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest() + packed.key
    path = run.path / "checkpoints" / "training_images.npz"
    # Absent, damaged or of another training: it is made anew.
    with contextlib.suppress(Exception), path.open("rb") as file, np.load(file) as kept:
        if str(kept["key"]) == key and len(kept["features"]) == len(kept["qualities"]) == len(samples):
            names = [str(name) for name in kept["names"]]
            return TrainingImages(
                samples, kept["features"], pd.DataFrame(kept["qualities"], columns=names), pixels
            )
    features, qualities = [None] * len(packed), [None] * len(packed)
    with tqdm(
        total=len(packed), desc="looking at train", leave=False, unit="image", disable=not progress
    ) as bar:
        for index, images, _ in scoring_batches(packed, _AT_ONCE):
            for position, found in zip(index, _features(model, images, plan), strict=True):
                features[position], qualities[position] = found, measure(packed.pair(position)[0])
            bar.update(len(index))
    table = pd.DataFrame(qualities)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            key=key,
            features=np.stack(features),
            names=np.array(table.columns, str),
            qualities=table.to_numpy(),
        )
    return TrainingImages(samples, np.stack(features), table, pixels)


def _model(run: Run) -> tuple[Segmenter, DevicePlan]:
    model, _ = load_checkpoint(run.best_checkpoint, run_dataset(run).classes)
    plan = scoring_plan(run)
    plan.place(model)
    return model, plan


@torch.inference_mode()
def _features(model: Segmenter, images: Tensor, plan: DevicePlan) -> np.ndarray:
    with plan.autocast():
        return model.features(images.to(plan.device)).cpu().numpy()
