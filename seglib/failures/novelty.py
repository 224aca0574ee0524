"""Is an image unlike what the model was trained on? The distance of its embedding to the nearest training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

NOVELTY_COLUMNS = ["distance", "novelty", "nearest"]
_QUERIES, _TRAINING = 1024, 8192  # a block of similarities: 32 MB
_REFERENCES = 5000  # training images whose own distances are measured: the share is then known to 0.007


def novelty(
    embeddings: np.ndarray,
    training: np.ndarray,
    training_ids: Sequence[str],
    groups: Sequence[str] | None = None,
    count: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """How far images lie from the training images, and which of those are nearest.

    Distances are 1 - cosine. The length of an embedding grows with contrast and the number of things in the picture; its
    direction tells what kind of picture it is. Whitening was no better: it raises directions in which training images
    hardly differ, and with them noise.

    Args:
        embeddings: (N, D) float of the images in question, such as the encoder's last features, averaged over all places.
        training: (M, D) float of the training images.
        training_ids: (M,) their ids.
        groups: (M,) the sequence of each training image, "" for none. Neighbouring frames of a video are nearly equal: beside
            their distances, any new street would look strange. So a training image is compared with those of other sequences.
            Without groups, or with one only, it is compared with all others, and of a video `novelty` says too much.
        count: how many of the nearest training images are named.
        seed: of the choice of 5,000 training images to be compared with, where there are more.

    Returns:
        A row an image: distance: to the nearest training image, of whatever sequence (0: the same direction, 1: nothing in
        common); novelty: share of training images that have a nearer one, 0-1, so that 0.95 says that it is farther off than
        all but 5 % are from each other; nearest: list of up to `count` ids, nearest first. NaN and [] where the embedding is
        not finite; novelty is NaN where there are fewer than two training images.

    Time grows with N x M x D, memory only with (N + M) x D: 100,000 training images and 2,000 others of 512 numbers take 20 s.

    Raises:
        ValueError: the arrays do not fit each other.

    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022 (normalised embeddings).
    """
    if embeddings.ndim != 2 or training.ndim != 2 or embeddings.shape[1] != training.shape[1]:
        raise ValueError(
            f"embeddings {embeddings.shape} and training {training.shape} do not fit; expected (N, D) and (M, D) of one model."
        )
    for name, values in (("training_ids", training_ids), ("groups", groups)):
        if values is not None and len(values) != len(training):
            raise ValueError(
                f"{name} holds {len(values)} values; expected one for each of {len(training)} training images."
            )
    known = np.isfinite(training).all(1)
    ids, directions = np.asarray(training_ids, object)[known], _directions(training[known])
    kin = _kin(None if groups is None else np.asarray(groups, object)[known], len(ids))
    asked = np.isfinite(embeddings).all(1)
    distances, places = _nearest(_directions(embeddings[asked]), directions, count)
    table = pd.DataFrame(
        {
            "distance": np.full(len(embeddings), np.nan),
            "novelty": np.nan,
            "nearest": pd.Series([[] for _ in range(len(embeddings))], dtype=object),
        }
    )
    if not len(ids) or not asked.any():
        return table
    rows = np.flatnonzero(asked)
    table.loc[rows, "distance"] = distances[:, 0]
    for row, chosen in zip(rows, places, strict=True):
        table.at[row, "nearest"] = [str(name) for name in ids[chosen]]
    reference = _own_distances(directions, kin, seed)
    if len(reference):
        table.loc[rows, "novelty"] = np.searchsorted(reference, distances[:, 0]) / len(reference)
    return table


def _directions(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) float32 of length 1; zeros stay zeros, at distance 1 from everything."""
    embeddings = embeddings.astype(np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))[
        :, None
    ]  # without a second array of that size
    return np.divide(embeddings, np.where(lengths > 0, lengths, 1), out=embeddings)


def _kin(groups: np.ndarray | None, count: int) -> np.ndarray:
    """(M,) numbers; those that share one are not compared with each other."""
    if groups is None or len(set(groups)) < 2:
        return np.arange(count)
    alone = groups == ""
    return np.where(alone, -1 - np.arange(count), pd.factorize(groups)[0])


def _own_distances(directions: np.ndarray, kin: np.ndarray, seed: int) -> np.ndarray:
    """Sorted: how far training images lie from the nearest that is not kin."""
    chosen = np.arange(len(directions))
    if len(chosen) > _REFERENCES:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), _REFERENCES, replace=False))
    distances, _ = _nearest(directions[chosen], directions, 1, kin[chosen], kin)
    own = distances[:, 0] if distances.size else np.empty(0)
    return np.sort(own[np.isfinite(own)])


def _nearest(
    queries: np.ndarray,
    training: np.ndarray,
    count: int,
    kin: np.ndarray | None = None,
    training_kin: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) distances and places of the nearest training directions, nearest first, K = min(count, M); kin are at infinity."""
    kept = min(count, len(training))
    distances, places = np.empty((len(queries), kept)), np.empty((len(queries), kept), np.intp)
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        best, where = np.empty((len(block), 0), np.float32), np.empty((len(block), 0), np.intp)
        for first in range(0, len(training), _TRAINING):
            apart = np.maximum(1 - block @ training[first : first + _TRAINING].T, 0)
            if kin is not None:
                apart[kin[start : start + _QUERIES, None] == training_kin[first : first + _TRAINING]] = np.inf
            some = np.argpartition(apart, min(kept, apart.shape[1]) - 1, axis=1)[:, :kept]
            best = np.concatenate([best, np.take_along_axis(apart, some, 1)], axis=1)
            where = np.concatenate([where, some + first], axis=1)
            order = np.lexsort((where, best), axis=1)[:, :kept]  # of equally near ones, the first
            best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
        distances[start : start + _QUERIES], places[start : start + _QUERIES] = best, where
    return distances, places
