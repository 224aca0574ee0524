"""Find images that show the same image, exactly or nearly."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from PIL import Image

from seglib.data import IGNORE, some

RADIUS = 6  # bits of 64; a JPEG of quality 40, half the size or noise of 5 grey values change no more
THUMBNAIL = (32, 24)  # width and height in cells
_LARGEST = 16.0  # grey values by which a cell of a copy may differ, once a change of light is taken out
_MEAN = 0.08  # of the cells' standard deviation, by which they may differ in the mean
_GAINS = (0.5, 2.0)  # beyond, it is no change of light
_CROWD = 16  # images with which one is compared, nearest hashes first: a fixed camera gives many
_DISAGREE = 0.05  # share of cells, from which masks of one image contradict each other
_ALIKE = 0.6  # correlation of the steps between cells, which two scenes do not reach


def difference_hash(grey: Image.Image) -> np.uint64:
    """Hash a grey picture by dHash: 64 bits, whether cells are brighter than their left neighbours."""
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return np.packbits(cells[:, 1:] > cells[:, :-1]).view(">u8")[0].astype(np.uint64)


def thumbnail(picture: Image.Image, how: int = Image.Resampling.BOX) -> np.ndarray:
    """Average a grey picture over 32 x 24 cells, or by NEAREST take the pixel in the middle of each: (24, 32) uint8."""
    return np.asarray(picture.resize(THUMBNAIL, how))


def same_picture(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tell which of (P, 24, 32) thumbnails are copies of `one`: scaled, noisy, brighter or paler: (P,) bool."""
    a, b = (t.reshape(-1, THUMBNAIL[0] * THUMBNAIL[1]).astype(np.float32) for t in (one, others))
    a, b = (cells - cells.mean(axis=1, keepdims=True) for cells in (a, b))
    gain = (a * b).sum(axis=1, keepdims=True) / np.maximum((b * b).sum(axis=1, keepdims=True), 1e-6)
    spread, apart = a.std(), np.abs(a - np.clip(gain, *_GAINS) * b)
    return (spread > 0) & (apart.max(axis=1) <= _LARGEST) & (apart.mean(axis=1) <= _MEAN * spread)


def alike(thumbs: list[np.ndarray]) -> bool:
    """Tell whether thumbnails may be copies of one scene in other light, colours, noise or sharpness."""
    return len(thumbs) < 2 or bool(np.abs(np.corrcoef(steps(thumbs))[0]).min() >= _ALIKE)


def steps(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the differences between neighbouring cells of thumbnails, rightwards and downwards: (N, S) float32."""
    cells = np.array(cells, np.float32).reshape(-1, *THUMBNAIL[::-1])
    return np.hstack([np.diff(cells, axis=axis).reshape(len(cells), -1) for axis in (1, 2)])


def near_duplicates(samples: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Find pairs of images that show the same image, by their hashes and then by their thumbnails.

    Returns a row a pair (`distance` in bits; mean absolute `difference` of the thumbnails), and (2, P) positions.
    """
    hashes, rows, pairs = samples["_bits"].to_numpy(np.uint64), [], []
    thumbs = np.array(samples["_thumb"].tolist(), np.uint8).reshape(-1, *THUMBNAIL[::-1])
    named = samples[["split", "id"]].to_numpy()
    for place in range(len(samples) - 1):
        distance = np.bitwise_count(hashes[place] ^ hashes[place + 1 :])
        near = np.flatnonzero(distance <= RADIUS)
        near = near[np.argsort(distance[near], kind="stable")[:_CROWD]]
        if len(near):
            near = near[same_picture(thumbs[place], thumbs[place + 1 + near])]
        for bits, other in zip(distance[near], place + 1 + near, strict=True):
            difference = np.abs(thumbs[other].astype(int) - thumbs[place]).mean().round(3)
            rows.append((*named[place], *named[other], bits, difference))
            pairs.append((place, other))
    columns = ["split_1", "id_1", "split_2", "id_2", "distance", "difference"]
    return pd.DataFrame(rows, columns=columns), np.array(pairs, int).reshape(-1, 2).T


def first_alike(values: pd.Series) -> np.ndarray:
    """Give every value the position of the first one that equals it; a missing one has its own."""
    places = pd.Series(np.arange(len(values)), values.index)
    return places.groupby(values).transform("first").fillna(places).to_numpy(int)


def repeated(numbers: np.ndarray) -> list[np.ndarray]:
    """List the positions of each number that stands more than once."""
    return [places for places in pd.Series(numbers).groupby(numbers).indices.values() if len(places) > 1]


def judge_duplicates(samples: pd.DataFrame, pictures: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report every set of images that show the same image: (N,) equal numbers."""
    for same in (samples.iloc[places] for places in repeated(pictures)):
        splits, names = same["split"].unique(), (same["split"] + "/" + same["id"]).tolist()
        check = "near-duplicate" + "-across-splits" * (len(splits) > 1)
        detail = f"{len(names)} files show (almost) the same image: {some(names)}."
        masks = np.array(same["_cells"].dropna().tolist()).reshape(-1, THUMBNAIL[0] * THUMBNAIL[1])
        valid = (masks[:1] != IGNORE) & (masks != IGNORE)
        differ = ((masks[:1] != masks) & valid).sum(axis=1) / valid.sum(axis=1).clip(1)
        if (apart := differ.max(initial=0)) > _DISAGREE:
            told = f"{detail} Their masks differ in {apart:.0%} of the area."
            yield "duplicate-masks-differ", same["id"].iloc[-1], splits[-1], told
        yield check, same["id"].iloc[-1], splits[-1], detail
