"""How unlike the training images an image is: the distance of its features to the nearest of theirs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

_NEAREST = 5  # training images that are named
_REFERENCES = 5000  # training images whose own distances are measured: novelty is then known to 0.007


def novelty(
    features: np.ndarray, own: Sequence[str], training: np.ndarray, ids: Sequence[str], groups: Sequence[str]
) -> pd.DataFrame:
    """Compare images with the training images by the cosine distance of their features.

    Frames of one video are nearly equal, and compared with their distances any new scene would look unusual.
    So a training image is compared with other sequences only (with all images where there is one sequence).

    Args:
        features, own: (N, D) float and (N,) ids of the images asked about.
        training, ids, groups: (M, D) float, ids and sequences ("" for none) of the training images.

    Returns:
        N rows: novelty, the share of the training images that have a nearer neighbour themselves, 0-1 (NaN for
        a training image, or where there is only one); nearest: ids of up to five others, nearest first.

    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022.
    """
    ids, groups, novel = np.asarray(ids), np.asarray(groups), np.nan
    distances, places = _nearest(training, features, min(_NEAREST + 1, len(ids)))
    pairs = zip(ids[places].tolist(), own, strict=True)
    nearest = [[other for other in others if other != sample][:_NEAREST] for others, sample in pairs]
    if len(ids) > 1:
        usual = np.sort(_own_distances(training, groups))
        novel = np.where(np.isin(own, ids), np.nan, np.searchsorted(usual, distances[:, 0]) / len(usual))
    return pd.DataFrame({"novelty": novel, "nearest": nearest})


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
