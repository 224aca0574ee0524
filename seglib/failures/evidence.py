"""What 04 asks of the model: probabilities and features of a split's images, and what it was trained on.

One image is in memory at a time: the probabilities of a split would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from seglib.checks import qualities
from seglib.evaluate import Evaluation, predict, read_layers, saved_prediction, scoring_plan, trained_on
from seglib.params import Evaluate
from seglib.train import DevicePlan, Segmenter, build_cache, load_checkpoint, scoring_batches

Scorer = tuple[Segmenter, DevicePlan]  # a model and the plan that it runs by
_BATCH = 8  # images that are predicted together


class Observed(NamedTuple):
    """One image (h, w, 3) uint8 RGB as the model saw it, with (H, W) uint8 ids of mask and prediction.

    Without a model there are no probabilities, (C, H, W), and no features, (D,); both are float32.
    """

    position: int
    id: str
    image: np.ndarray
    truth: np.ndarray
    pred: np.ndarray
    probabilities: np.ndarray | None = None
    features: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingImages:
    """N training images: ids and groups, features (N, D) float32, `checks.qualities`; and pixels (C,) a class."""

    samples: pd.DataFrame
    features: np.ndarray
    qualities: pd.DataFrame
    pixels: np.ndarray


def open_scorer(evaluation: Evaluation) -> Scorer | None:
    """Load the best model of the run onto its device; None for predictions of another tool."""
    if evaluation.run.external:
        return None
    model, _ = load_checkpoint(evaluation.run.best_checkpoint, evaluation.classes)
    plan = scoring_plan(evaluation.run)
    plan.place(model)
    return model, plan


def observe(evaluation: Evaluation, scorer: Scorer | None) -> Iterator[Observed]:
    """Yield every image of the split once, predicted as 03 predicted it, in no particular order."""
    dataset, split = evaluation.dataset, evaluation.split
    if scorer is None:
        for position, sample in enumerate(evaluation.per_image["id"]):
            yield Observed(position, sample, *read_layers(evaluation, sample))
        return
    model, plan = scorer
    known = {"flip_tta", "scale_tta", "tile"} & evaluation.scores.keys()
    params = Evaluate.check({name: evaluation.scores[name] for name in known})
    cached = build_cache(dataset, split, model.spec.long_side, original_masks=True)
    for index, images, masks in scoring_batches(cached, _BATCH):
        logits = predict(model, images, masks.shape[1:], plan, params.flip_tta, params.tile, params.scales)
        features = _features(images, model, plan)
        for k, position in enumerate(index):
            sample, image = cached.ids[position], cached.pair(position)[0]
            pred = saved_prediction(evaluation, sample, masks[k].shape)
            probabilities = logits[k].softmax(0).cpu().numpy()
            yield Observed(int(position), sample, image, masks[k], pred, probabilities, features[k])


def observe_training(evaluation: Evaluation, scorer: Scorer, progress: bool = False) -> TrainingImages:
    """Measure the images that the run was trained on, as its encoder sees them."""
    dataset = trained_on(evaluation.run, evaluation.dataset)
    cached = build_cache(dataset, "train", scorer[0].spec.long_side)
    features, looks = [None] * len(cached), [None] * len(cached)
    batches = scoring_batches(cached, _BATCH)
    for index, images, _ in tqdm(batches, "looking at train", leave=False, disable=not progress):
        for position, found in zip(index, _features(images, *scorer), strict=True):
            features[position], looks[position] = found, qualities(cached.pair(position)[0])
    samples = dataset.split("train")[["id", "group"]].reset_index(drop=True)
    return TrainingImages(samples, np.stack(features), pd.DataFrame(looks), cached.pixel_counts.sum(0))


@torch.inference_mode()
def _features(images: Tensor, model: Segmenter, plan: DevicePlan) -> np.ndarray:
    with plan.autocast():
        return model.features(images.to(plan.device)).cpu().numpy()
