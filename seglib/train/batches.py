"""Batches cut from the packed cache: for training with what the augmentation will do to each sample, and for scoring."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seglib.data import IGNORE, map_ahead
from seglib.train.augment import Colour, Geometry, Light, Window
from seglib.train.loader import CachedSplit

_LOGITS = (
    1 << 26
)  # numbers that score a batch, at most, where it has several images: 270 MB, beside the network's own memory


class Batch(NamedTuple):
    """Samples as they are cut from the cache, and what the augmentation is to do with each.

    Args:
        index: (B,) positions in the packed split.
        images: (B, 3, H, W) uint8, each image's window in the upper left corner.
        masks: (B, H, W) uint8.
        windows, lights: B of each.
    """

    index: np.ndarray
    images: Tensor
    masks: Tensor
    windows: list[Window]
    lights: list[Light]

    def split(self, parts: int) -> list[Batch]:
        """Micro-batches of as equal a size as can be, in order."""
        edges = portions(len(self.index), parts)
        return [Batch(*(values[a:b] for values in self)) for a, b in pairwise(edges)]


def portions(count: int, parts: int) -> np.ndarray:
    """(parts + 1,) edges that share `count` things as evenly as can be."""
    return np.linspace(0, count, parts + 1).round().astype(int)


def training_batches(
    packed: CachedSplit,
    geometry: Geometry,
    colour: Colour,
    batch_size: int,
    seed: int,
    epoch: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    pinned: bool = False,
) -> Iterator[Batch]:
    """One epoch in random order, every sample once; order and augmentation depend on (seed, epoch) alone.

    A last batch too small to share (or of a single sample: batch normalisation needs two) is joined to the one before it.

    Args:
        geometry, colour: draw what happens to each image.
        batch_size: samples a step, over all processes.
        workers: threads that cut batches ahead of time; 0: cut when asked.
        rank, processes: the share of each batch that is cut here.
        pinned: into page-locked memory, from which a CUDA GPU reads while the processor goes on.
    """
    random = np.random.default_rng([seed, epoch])

    def shares() -> Iterator[tuple]:
        for index in np.split(
            random.permutation(len(packed)), batch_edges(len(packed), batch_size, processes)
        ):
            drawn = [(geometry.draw(random, *packed.image_sizes[i]), colour.draw(random)) for i in index]
            mine = slice(*portions(len(index), processes)[rank : rank + 2])
            yield packed, index[mine], *map(list, zip(*drawn[mine], strict=True)), pinned

    if workers == 0:
        yield from (_cut(*share) for share in shares())
    else:
        with ThreadPoolExecutor(workers) as pool:
            yield from map_ahead(pool, lambda share: _cut(*share), shares(), ahead=workers + 1)


def batch_edges(samples: int, batch_size: int, processes: int = 1) -> list[int]:
    """Where an epoch is cut into batches; one batch more than edges."""
    edges = list(range(batch_size, samples, batch_size))
    if edges and samples - edges[-1] < max(2, processes):
        edges.pop()
    return edges


def _cut(
    packed: CachedSplit, index: np.ndarray, windows: list[Window], lights: list[Light], pinned: bool
) -> Batch:
    size = len(index), max(w.height for w in windows), max(w.width for w in windows)
    images = torch.zeros((*size, 3), dtype=torch.uint8, pin_memory=pinned)
    masks = torch.full(size, IGNORE, dtype=torch.uint8, pin_memory=pinned)
    for whole, its_mask, i, window in zip(images.numpy(), masks.numpy(), index, windows, strict=True):
        image, mask = packed.pair(i)
        whole[: window.height, : window.width] = image[window.rows, window.columns]
        its_mask[: window.height, : window.width] = mask[window.rows, window.columns]
    return Batch(index, images.permute(0, 3, 1, 2), masks, windows, lights)


def scoring_batches(
    packed: CachedSplit, batch_size: int, rank: int = 0, processes: int = 1
) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Every sample once, images of one size (and masks of one size) together.

    Args:
        batch_size: the most samples at a time; of large images with many classes fewer, down to one.
        rank, processes: every `processes`-th batch from the `rank`-th on is read here, so that each sample is in one process.

    Yields:
        positions (B,), images (B, 3, H, W) uint8, masks (B, h, w) uint8
    """
    for index in _scoring_order(packed, batch_size)[rank::processes]:
        images, masks = zip(*map(packed.pair, index), strict=True)
        yield index, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), np.stack(masks)


def _scoring_order(packed: CachedSplit, batch_size: int) -> list[np.ndarray]:
    """The positions of each of `scoring_batches`."""
    sizes = np.concatenate([packed.image_sizes, packed.mask_sizes], axis=1)
    batches = []
    for size in np.unique(sizes, axis=0):
        members = np.flatnonzero((sizes == size).all(1))
        logits = packed.pixel_counts.shape[1] * int(max(size[:2].prod(), size[2:].prod()))  # of one image
        step = max(1, min(batch_size, _LOGITS // logits))
        batches += [members[start : start + step] for start in range(0, len(members), step)]
    return batches
