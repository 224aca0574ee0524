"""How unlike the training images an image is: the distance of its features to the nearest of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

_REFERENCES = 5000  # training images whose own distances are measured: novelty is then known to 0.007


def novelty(
    features: np.ndarray, training: np.ndarray, ids: Sequence[str], groups: Sequence[str], count: int = 5
) -> pd.DataFrame:
    """Compare images with the training images by the cosine distance of their features.

    Frames of one video are nearly equal, and compared with their distances any new scene would look unusual.
    So a training image is compared with other sequences only (with all images where there is one sequence).

    Args:
        features: (N, D) float of the images asked about.
        training: (M, D) float of the training images.
        ids, groups: (M,) ids and sequences of the training images, "" for none.
        count: how many of the nearest training images are named.

    Returns:
        N rows: distance to the nearest training image, 0-2; novelty: share of the training images that have a
        nearer neighbour themselves, 0-1; nearest: list of up to `count` ids, nearest first. NaN and [] where
        features are not finite; novelty is NaN with fewer than two training images.

    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022.
    """
    known, asked = np.isfinite(training).all(1), np.flatnonzero(np.isfinite(features).all(1))
    ids, groups, training = np.asarray(ids)[known], np.asarray(groups)[known], training[known]
    table = pd.DataFrame({"distance": np.nan, "novelty": np.nan}, index=range(len(features)))
    table["nearest"] = [[] for _ in range(len(features))]
    if not len(ids) or not len(asked):
        return table
    distances, places = _nearest(training, features[asked], min(count, len(ids)))
    table.loc[asked, "distance"] = distances[:, 0]
    table.loc[asked, "nearest"] = pd.Series(ids[places].tolist(), index=asked)
    if len(ids) > 1:
        own = np.sort(_own_distances(training, groups))
        table.loc[asked, "novelty"] = np.searchsorted(own, distances[:, 0]) / len(own)
    return table


def _own_distances(training: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Measure how far training images (5,000 at most) are from the nearest one of another sequence."""
    chosen = np.random.default_rng(0).permutation(len(groups))[:_REFERENCES]
    alone = groups[chosen] == "" if len(set(groups)) > 1 else np.ones(len(chosen), bool)
    found = []
    if alone.any():  # the nearest is the image itself
        found.append(_nearest(training, training[chosen[alone]], 2)[0][:, 1])
    for name in set(groups[chosen[~alone]]):
        asked = training[chosen[groups[chosen] == name]]
        found.append(_nearest(training[groups != name], asked, 1)[0][:, 0])
    return np.concatenate(found)


def _nearest(training: np.ndarray, asked: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    return NearestNeighbors(n_neighbors=count, metric="cosine").fit(training).kneighbors(asked)
