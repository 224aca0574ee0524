"""Pictures that stand twice: near-duplicates within and across splits, found by hashes and verified on the pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from seglib.checks.findings import Finding, finding, some

DUPLICATE_COLUMNS = ["split_1", "id_1", "split_2", "id_2", "distance", "difference"]
RADIUS = 6  # bits of 64: a copy saved as JPEG of quality 40, scaled by half or with noise of 5 grey values stays within
_THUMB = (32, 24)  # kept of every image: 768 bytes
_GRID = (32, 24)  # cells of the verification, at most; of small images fewer, so that a cell has 3 x 3 pixels
# In grey values, after a change of light is taken out: the largest difference of a cell, of 2 x 2 pixels of a thumbnail, and
# of one. Noise and compression average out within a cell; what moved between neighbouring frames does not.
_CELL, _ROUGH, _FINE = 16.0, 16.0, 20.0
_RELATIVE = 0.08  # mean difference of the cells over their standard deviation
_GAINS = (0.5, 2.0)  # beyond, it is no change of light
_CROWD = 1000  # images that share a piece of their hashes, beyond which each is compared with so many only
_MATES = 8  # candidates that are verified for one image, nearest hashes first


@dataclass(frozen=True)
class Small:
    """A grey picture small enough to be shrunk further at no cost: of each pixel of a thumbnail 2 x 2, or more.

    Args:
        picture: Pillow's "L".
        box: left, upper, right, lower of what it shows, in its pixels; the last ones of a row or column may be cut.
    """

    picture: Image.Image
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, grey: Image.Image) -> Small:
        along, down = (max(1, side // cells // 2) for side, cells in zip(grey.size, _THUMB, strict=True))
        return cls(grey.reduce((along, down)), (0, 0, grey.width / along, grey.height / down))

    def cells(self, size: tuple[int, int]) -> np.ndarray:
        """(height, width) uint8: the mean grey values of that many cells, `size` in Pillow's order."""
        return np.array(self.picture.resize(size, Image.Resampling.BOX, self.box))


def difference_hash(grey: Image.Image | Small) -> int:
    """64 bits: whether each of 8 x 8 cells is brighter than its left neighbour.

    Args:
        grey: a picture as Pillow's "L", any size, or shrunk once for this and the thumbnail. Where it is flat, noise decides, so that a noisy copy of a drawing with
            large flat areas may lie beyond the radius.

    Source: Krawetz, Kind of Like That, 2013 (dHash).
    """
    cells = _small(grey).cells((9, 8))
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def thumbnail(grey: Image.Image | Small) -> np.ndarray:
    """(24, 32) uint8 grey values: enough to reject most pairs that only their hashes make alike."""
    return _small(grey).cells(_THUMB)


def _small(grey: Image.Image | Small) -> Small:
    return grey if isinstance(grey, Small) else Small.of(grey)


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which two arrays of uint64 differ, element by element."""
    parts = np.ascontiguousarray(a ^ b).view(np.uint16).reshape(-1, 4)
    return _BITS[parts].sum(axis=1, dtype=np.int64)


_BITS = np.array([n.bit_count() for n in range(1 << 16)], np.uint8)


def candidates(hashes: np.ndarray, radius: int = RADIUS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs whose hashes differ in at most `radius` bits, without comparing every pair.

    Cut into `radius` + 1 pieces, two such hashes agree in at least one of them (pigeonhole), so only images that share a
    piece are compared. Where more than a thousand share one, as the frames of a camera that stands still, each is compared
    with the next thousand in the order of their hashes.

    Args:
        hashes: (N,) uint64.
        radius: bits, 0-63.

    Returns:
        first, second: (P,) int64 positions, first < second, in order. distance: (P,) int64 bits.

    Source: Norouzi et al., Fast Search in Hamming Space with Multi-Index Hashing, CVPR 2012.
    """
    hashes = np.asarray(hashes, np.uint64)
    count = len(hashes)
    found = [np.empty(0, np.int64)]
    cuts = np.linspace(0, 64, radius + 2).astype(int)
    for low, high in itertools.pairwise(cuts):
        piece = hashes >> np.uint64(low) & np.uint64((1 << int(high - low)) - 1)
        order = np.lexsort((hashes, piece))
        piece = piece[order]
        alive = np.arange(count)
        for step in range(1, _CROWD):
            alive = alive[alive + step < count]
            alive = alive[piece[alive] == piece[alive + step]]
            if not len(alive):
                break
            a, b = order[alive], order[alive + step]
            near = hamming(hashes[a], hashes[b]) <= radius
            found.append(np.minimum(a, b)[near] * count + np.maximum(a, b)[near])
    pairs = np.unique(np.concatenate(found))
    first, second = pairs // max(1, count), pairs % max(1, count)
    return first, second, hamming(hashes[first], hashes[second])


def same_picture(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one picture is a copy of the other: compressed, scaled, noisy, brighter or paler, but of the same instant.

    Both are averaged over up to 32 x 24 cells and the second is brought to the light of the first (one gain and offset a
    channel). Copies then differ by a few grey values everywhere; neighbouring frames differ by tens where something
    moved.

    Args:
        first, second: (H, W, 3) uint8; sizes may differ.
    """
    smaller = np.minimum(first.shape, second.shape)
    grid = (int(np.clip(smaller[1] // 3, 1, _GRID[0])), int(np.clip(smaller[0] // 3, 1, _GRID[1])))
    a, b = (_cells(Image.fromarray(image), grid) for image in (first, second))
    spread = a.std()
    difference = np.abs(a - _relit(b, a)).mean(axis=-1)
    return bool(spread > 0 and difference.max() <= _CELL and difference.mean() <= _RELATIVE * spread)


def near_duplicates(
    samples: pd.DataFrame,
    hashes: np.ndarray,
    thumbs: np.ndarray,
    read: Callable[[int], np.ndarray],
    run: Callable[[Callable, list], Iterator] = map,
    radius: int = RADIUS,
) -> pd.DataFrame:
    """Pairs of images that show the same picture, each verified on the decoded pixels.

    Args:
        samples: N rows with `id`, `split`, `height` and `width`.
        hashes: (N,) uint64 of `difference_hash`. Pass each picture once: of exact copies one, and none that is flat.
        thumbs: (N, 24, 32) uint8 of `thumbnail`.
        read: position -> image (H, W, 3) uint8.
        run: how to map a function over pairs; `map_ahead` with a pool to use threads.
        radius: bits in which the hashes of a pair may differ.

    Returns:
        `split_1`, `id_1`, `split_2`, `id_2`, `distance` (bits), `difference` (mean absolute difference of the pixels,
        0-255, at the smaller one's size). Of an image at most 8 candidates are read, nearest first.
    """
    first, second, distance = candidates(hashes, radius)
    thumbs = thumbs.reshape(-1, *_THUMB[::-1])
    rows = thumbs[:, ::2].astype(np.float32) + thumbs[:, 1::2]
    cells = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
    rough = _alike(cells, first, second, _ROUGH)
    first, second, distance = first[rough], second[rough], distance[rough]
    splits, sizes = samples["split"].to_numpy(), samples[["width", "height"]].to_numpy(int)
    mates = np.zeros(len(samples), int)
    pairs = []
    for k in np.lexsort((splits[first] == splits[second], distance)):
        i, j = int(first[k]), int(second[k])
        if mates[i] < _MATES or mates[j] < _MATES:
            mates[[i, j]] += 1
            pairs.append((i, j, int(distance[k])))

    # The thumbnails of two pictures of one size are their cells: what those tell apart need not be read again.
    one, other = np.array(pairs, int).reshape(-1, 3)[:, :2].T
    comparable = (sizes[one] == sizes[other]).all(axis=1) & (sizes[one] >= 3 * np.array(_GRID)).all(axis=1)
    unlike = comparable & ~_alike(thumbs, one, other, _FINE)
    pairs = [pair for pair, known in zip(pairs, unlike.tolist(), strict=True) if not known]

    def verify(pair: tuple[int, int, int]) -> tuple | None:
        i, j, bits = pair
        a, b = read(i), read(j)
        if not same_picture(a, b):
            return None
        names = (samples[column].iloc[place] for place in (i, j) for column in ("split", "id"))
        return (*names, bits, round(_difference(a, b), 3), i, j)

    rows = sorted((row for row in run(verify, pairs) if row is not None), key=lambda row: row[-2:])
    return pd.DataFrame([row[:-2] for row in rows], columns=DUPLICATE_COLUMNS)


def judge_duplicates(duplicates: pd.DataFrame) -> Iterator[Finding]:
    """One finding for every set of images that show the same picture."""
    for members in clusters(duplicates):
        splits = list(dict.fromkeys(split for split, _ in members))
        check = "near-duplicate-across-splits" if len(splits) > 1 else "near-duplicate"
        listed = some([f"{split}/{name}" for split, name in members])
        yield finding(
            check, members[-1][1], members[-1][0], f"almost the same picture {len(members)} times: {listed}."
        )


def clusters(duplicates: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """Sets of (split, id) that the pairs of `near_duplicates` join, each in the order of the table."""
    place: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in duplicates.itertuples():
        one, other = (row.split_1, row.id_1), (row.split_2, row.id_2)
        a, b = place.setdefault(one, [one]), place.setdefault(other, [other])
        if a is not b:
            a.extend(b)
            place |= dict.fromkeys(b, a)
    return list({id(members): members for members in place.values()}.values())


def _cells(picture: Image.Image, grid: tuple[int, int]) -> np.ndarray:
    return np.asarray(picture.resize(grid, Image.Resampling.BOX), np.float32)


def _relit(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`values` with one gain and one offset a channel, so that they come closest to `like`; (h, w, c) both."""
    mean, goal = values.mean(axis=(0, 1)), like.mean(axis=(0, 1))
    moved = values - mean
    power = (moved**2).sum(axis=(0, 1))
    gain = ((like - goal) * moved).sum(axis=(0, 1)) / np.maximum(power, 1e-6)
    return np.clip(gain, *_GAINS) * moved + goal


def _alike(
    thumbs: np.ndarray, first: np.ndarray, second: np.ndarray, most: float, at_once: int = 4096
) -> np.ndarray:
    """(P,) bool: pairs whose thumbnails differ by `most` at most, once a gain and an offset are taken out."""
    alike = np.zeros(len(first), bool)
    for k in range(0, len(first), at_once):
        part = slice(k, k + at_once)
        a, b = (
            thumbs[places[part]].reshape(-1, thumbs[0].size).astype(np.float32) for places in (first, second)
        )
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        gain = (a * b).sum(axis=1, keepdims=True) / np.maximum((b**2).sum(axis=1, keepdims=True), 1e-6)
        alike[part] = np.abs(a - np.clip(gain, *_GAINS) * b).max(axis=1) <= most
    return alike


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        size = (min(a.shape[1], b.shape[1]), min(a.shape[0], b.shape[0]))
        a, b = (np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BOX)) for x in (a, b))
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())
