"""How unlike the training images an image is: the distance of its features to the nearest of theirs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

from seglib import checks, evaluate, train
from seglib.data import ClassMap, Dataset
from seglib.runs import Run

Scorer = tuple[train.Segmenter, train.DevicePlan]  # a model and the plan that it runs by
BATCH = 8  # images that are predicted together
_NEAREST = 5  # training images that are named
_REFERENCES = 5000  # training images whose own distances are measured: novelty is then known to 0.007


class TrainingImages(NamedTuple):
    """What the N training images are like."""

    samples: pd.DataFrame  # id, group
    features: np.ndarray  # (N, D) float32
    qualities: pd.DataFrame | None = None  # of `checks.qualities`
    pixels: np.ndarray | None = None  # (C,) of each class in all


def load_scorer(run: Run, classes: ClassMap | None = None) -> Scorer:
    """Load the best model of a run onto its device; a ModelError if it is of other classes than `classes`."""
    model, _ = train.load_checkpoint(run.best_checkpoint, classes)
    plan = evaluate.scoring_plan(run)
    return plan.place(model), plan


@torch.inference_mode()
def image_features(images: torch.Tensor, model: train.Segmenter, plan: train.DevicePlan) -> np.ndarray:
    """Compute the encoder's features (B, D) float32 of images (B, 3, H, W) uint8."""
    with plan.autocast():  # whose half precision may overflow
        return model.features(images.to(plan.device)).nan_to_num(0.0, 0.0, 0.0).cpu().numpy()


def observe_training(run: Run, dataset: Dataset, scorer: Scorer, progress: bool = False) -> TrainingImages:
    """Measure the images that the run was trained on, as its encoder sees them."""
    dataset = evaluate.trained_on(run, dataset)
    cached, features = train.build_cache(dataset, "train", scorer[0].spec.long_side), {}
    batches = train.scoring_batches(cached, BATCH)
    for index, images, _ in tqdm(batches, "looking at train", leave=False, disable=not progress):
        features |= zip(index, image_features(images, *scorer), strict=True)
    features = np.stack([features[k] for k in range(len(cached))])
    qualities = pd.DataFrame([checks.qualities(cached.pair(k)[0]) for k in range(len(cached))])
    samples, pixels = dataset.split("train")[["id", "group"]], cached.pixel_counts.sum(0)
    return TrainingImages(samples, features, qualities, pixels)


def compare(features: np.ndarray, training: TrainingImages, own: Sequence[str] = ()) -> pd.DataFrame:
    """Compare images with the training images by the cosine distance of their features, (N, D) float.

    Frames of one video are nearly equal, and compared with their distances any new scene would look unusual.
    So a training image is compared with other sequences only (with all images where there is one sequence).
    `own` are the ids of the images, where they may be training images themselves. Returns novelty, the share of the
    training images that have a nearer neighbour themselves (NaN for a training image, or where there is only one),
    and nearest, ids of up to five others, nearest first.

    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022.
    """
    ids, own, novel = training.samples["id"].to_numpy(), own or [""] * len(features), np.nan
    neighbors = NearestNeighbors(n_neighbors=min(_NEAREST + 1, len(ids)), metric="cosine")
    distances, places = neighbors.fit(training.features).kneighbors(features)
    pairs = zip(ids[places].tolist(), own, strict=True)
    nearest = [[other for other in others if other != sample][:_NEAREST] for others, sample in pairs]
    if len(ids) > 1:
        usual = np.sort(_own_distances(training.features, training.samples["group"].to_numpy(str)))
        novel = np.where(np.isin(own, ids), np.nan, np.searchsorted(usual, distances[:, 0]) / len(usual))
    return pd.DataFrame({"novelty": novel, "nearest": nearest})


def _own_distances(training: np.ndarray, groups: np.ndarray) -> np.ndarray:
    chosen = np.random.default_rng(0).permutation(len(groups))[:_REFERENCES]
    if len(set(groups)) == 1:
        groups = np.full(len(groups), "")
    found = []
    for name in set(groups[chosen]):
        asked, others = training[chosen[groups[chosen] == name]], training[(groups != name) | (name == "")]
        count = 2 if name == "" else 1  # without a sequence the nearest is the image itself
        distances, _ = NearestNeighbors(n_neighbors=count, metric="cosine").fit(others).kneighbors(asked)
        found.append(distances[:, -1])
    return np.concatenate(found)
