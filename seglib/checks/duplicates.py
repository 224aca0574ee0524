"""Find images that show the same picture: exact copies and near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seglib.checks.findings import Finding, finding, some

DUPLICATE_COLUMNS = ["split_1", "id_1", "split_2", "id_2", "distance", "difference"]
RADIUS = (
    6  # bits of 64: a copy saved as JPEG of quality 40, halved or with noise of 5 grey values stays within
)
THUMBNAIL = (32, 24)  # width and height in cells
# Noise and compression average out in a cell; what moved between two frames does not.
_LARGEST = 16.0  # grey values by which a cell of a copy may differ, once a change of light is taken out
_MEAN = 0.08  # of the cells' standard deviation, by which they may differ in the mean
_GAINS = (0.5, 2.0)  # beyond, it is no change of light
_CROWD = 16  # candidates of one image, nearest hashes first: there are many where a camera stands still
_BITS = np.array([n.bit_count() for n in range(1 << 16)], np.uint8)


def difference_hash(grey: Image.Image) -> np.uint64:
    """Hash a grey picture: 64 bits, whether each of 8 x 8 cells is brighter than its left neighbour.

    Source: Krawetz, Kind of Like That, 2013 (dHash).
    """
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX, reducing_gap=8.0))
    return np.packbits(cells[:, 1:] > cells[:, :-1]).view(">u8")[0].astype(np.uint64)


def thumbnail(grey: Image.Image) -> np.ndarray:
    """Average a grey picture over 32 x 24 cells: (24, 32) uint8."""
    return np.asarray(grey.resize(THUMBNAIL, Image.Resampling.BOX, reducing_gap=2.0))


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Count the bits in which two arrays of uint64 differ, element by element."""
    parts = np.ascontiguousarray(a ^ b).view(np.uint16).reshape(-1, 4)
    return _BITS[parts].sum(axis=1, dtype=np.int64)


def candidates(hashes: np.ndarray, radius: int = RADIUS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs whose hashes differ in at most `radius` bits; of an image at most the 16 nearest.

    Returns (P,) int64 each: first and second position, first < second, and the distance in bits.
    """
    found = [np.empty((3, 0), np.int64)]
    for place in range(len(hashes) - 1):
        distance = hamming(hashes[place], hashes[place + 1 :])
        near = np.flatnonzero(distance <= radius)
        near = near[np.argsort(distance[near], kind="stable")[:_CROWD]]
        found.append(np.stack([np.full(len(near), place), place + 1 + near, distance[near]]))
    first, second, distance = np.concatenate(found, axis=1)
    return first, second, distance


def same_picture(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tell which of (P, 24, 32) thumbnails are copies: scaled, noisy, brighter or paler: (P,) bool.

    The second is brought to the light of the first (one gain and offset). Copies then differ by a few grey
    values everywhere; neighbouring frames by tens where something moved. A flat picture is like none.
    """
    a, b = (t.reshape(len(t), THUMBNAIL[0] * THUMBNAIL[1]).astype(np.float32) for t in (first, second))
    a, b = (cells - cells.mean(axis=1, keepdims=True) for cells in (a, b))
    gain = (a * b).sum(axis=1, keepdims=True) / np.maximum((b * b).sum(axis=1, keepdims=True), 1e-6)
    spread, apart = a.std(axis=1), np.abs(a - np.clip(gain, *_GAINS) * b)
    return (spread > 0) & (apart.max(axis=1) <= _LARGEST) & (apart.mean(axis=1) <= _MEAN * spread)


def near_duplicates(samples: pd.DataFrame, hashes: np.ndarray, thumbs: np.ndarray) -> pd.DataFrame:
    """Find pairs of images that show the same picture.

    Args:
        samples: N rows with `id`, `split`, `width`, `height`; of exact copies one, and none that is flat.
        hashes, thumbs: (N,) uint64 and (N, 24, 32) uint8 of them.

    Returns:
        the columns `DUPLICATE_COLUMNS`; `distance` in bits, `difference`: mean absolute one of the
            thumbnails, 0-255.
    """
    first, second, distance = candidates(hashes)
    blocks = np.array_split(np.arange(len(first)), 1 + len(first) // 1024)
    # Of a small image a cell has too few pixels to average much: four are taken as one.
    small = (samples[["width", "height"]] < 3 * np.array(THUMBNAIL)).any(axis=1).to_numpy()
    coarse = thumbs.reshape(-1, 12, 2, 16, 2).mean(axis=(2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    either = (small[first] | small[second])[:, None, None]

    def taken(places: np.ndarray, k: np.ndarray) -> np.ndarray:
        return np.where(either[k], coarse[places[k]], thumbs[places[k]])

    same = np.concatenate([same_picture(taken(first, k), taken(second, k)) for k in blocks])
    first, second = first[same], second[same]
    pairs = [samples[column].to_numpy()[places] for places in (first, second) for column in ("split", "id")]
    difference = np.abs(thumbs[first].astype(np.int16) - thumbs[second]).mean(axis=(1, 2)).round(3)
    return pd.DataFrame(dict(zip(DUPLICATE_COLUMNS, [*pairs, distance[same], difference], strict=True)))


def joined(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number `count` things so that all that the pairs of `first` and `second` connect have one number."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    return connected_components(graph, directed=False)[1]


def first_alike(values: pd.Series) -> np.ndarray:
    """Give every value the position of the first one that equals it; a missing one has its own."""
    places = pd.Series(np.arange(len(values)), values.index)
    return places.groupby(values).transform("first").fillna(places).to_numpy(int)


def repeated(numbers: np.ndarray) -> list[np.ndarray]:
    """List the positions of each number that stands more than once."""
    return [places for places in pd.Series(numbers).groupby(numbers).indices.values() if len(places) > 1]


def judge_duplicates(samples: pd.DataFrame, exact: np.ndarray, pictures: np.ndarray) -> Iterator[Finding]:
    """Report every set of images that show the same picture, exact copies first.

    `exact` and `pictures` are (N,): equal numbers where images are equal to the last pixel, or nearly.
    """
    for places in repeated(exact):
        yield _judge(samples.iloc[places], "the same", "duplicate-image", "duplicate-across-splits")
    once = np.sort(np.unique(exact, return_index=True)[1])  # of exact copies the first stands for all
    for places in repeated(pictures[once]):
        same = samples.iloc[once[places]]
        yield _judge(same, "almost the same", "near-duplicate", "near-duplicate-across-splits")


def _judge(same: pd.DataFrame, words: str, inside: str, across: str) -> Finding:
    splits = list(dict.fromkeys(same["split"]))
    listed = some([f"{split}/{name}" for split, name in zip(same["split"], same["id"], strict=True)])
    check = across if len(splits) > 1 else inside
    return finding(check, same["id"].iloc[-1], splits[-1], f"{words} picture {len(same)} times: {listed}.")
