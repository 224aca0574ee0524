"""Decode once, then slice: the packed cache of a split, and batches cut from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from seglib.augment import Geometry, Window
from seglib.classes import IGNORE
from seglib.dataset import Dataset, DatasetError, read_pair
from seglib.runs import atomic_path, project_root, write_json

_VERSION = 1


@dataclass(frozen=True)
class Packed:
    """One split, decoded: images and masks one after the other in a flat array of bytes.

    Args:
        ids: N sample ids.
        image_sizes: (N, 2) heights and widths of the images, after shrinking to `long_side`.
        mask_sizes: (N, 2) of the masks: the images' for training, the original ones for scoring.
        offsets: (N + 1,) where each sample begins: its image, then its mask.
        data: flat uint8, memory-mapped or in RAM.
        pixel_counts: (N, C) scored pixels a class and sample.
    """

    ids: list[str]
    image_sizes: np.ndarray
    mask_sizes: np.ndarray
    offsets: np.ndarray
    data: np.ndarray
    pixel_counts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return int(self.offsets[-1])

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8, a view."""
        height, width = self.image_sizes[i]
        return self.data[self.offsets[i] :][: height * width * 3].reshape(height, width, 3)

    def mask(self, i: int) -> np.ndarray:
        """(H, W) uint8, a view."""
        height, width = self.mask_sizes[i]
        return self.data[self.offsets[i + 1] - height * width :][: height * width].reshape(height, width)

    def in_memory(self) -> Packed:
        """The same with the bytes read into RAM."""
        return Packed(self.ids, self.image_sizes, self.mask_sizes, self.offsets, np.array(self.data), self.pixel_counts)


def pack(
    dataset: Dataset,
    split: str,
    long_side: int = 0,
    original_masks: bool = False,
    progress: bool = False,
) -> Packed:
    """Decode a split into the cache `artifacts/cache`, or open what is there and still true.

    The cache is known by the content it was made from: names, sizes and times of the files, the classes and `long_side`.

    Args:
        dataset: what to read.
        split: which split of it.
        long_side: shrink images whose longer side is larger, masks with them; 0: never.
        original_masks: keep masks at their own size, for scoring.
        progress: show a bar while decoding.

    Raises:
        DatasetError: some samples cannot be used: names the first three, counts all, says the remedy.
    """
    samples = dataset.split(split)
    folder = (
        project_root()
        / "artifacts"
        / "cache"
        / f"{dataset.name}-{split}-{_key(dataset, samples, long_side, original_masks)}"
    )
    if not ((folder / "index.json").is_file() and (folder / "samples.bin").is_file()):
        _write(folder, dataset, samples, long_side, original_masks, progress)
    return _open(folder)


def _key(dataset: Dataset, samples: pd.DataFrame, *settings: object) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, dataset.classes.to_dict(), settings]).encode())
    for sample in samples.itertuples():
        for path in (sample.image, sample.mask):
            stat = (dataset.root / path).stat()
            digest.update(f"{sample.id}\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _open(folder: Path) -> Packed:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    sizes = np.array(index["sizes"], np.int64).reshape(-1, 4)
    offsets = np.concatenate([[0], np.cumsum(sizes[:, 0] * sizes[:, 1] * 3 + sizes[:, 2] * sizes[:, 3])])
    data = np.memmap(folder / "samples.bin", np.uint8, mode="r")
    if len(data) != offsets[-1]:
        raise DatasetError(
            f"the cache {folder.name} is damaged: {len(data)} bytes instead of {offsets[-1]}. Delete artifacts/cache and run again."
        )
    return Packed(index["ids"], sizes[:, :2], sizes[:, 2:], offsets, data, np.array(index["pixel_counts"], np.int64))


def _write(
    folder: Path, dataset: Dataset, samples: pd.DataFrame, long_side: int, original_masks: bool, progress: bool
) -> None:
    def read(sample: NamedTuple) -> tuple[np.ndarray, np.ndarray] | DatasetError:
        try:
            image, mask = read_pair(dataset, sample)
        except DatasetError as error:
            return error
        small = _shrunk_size(image.shape[:2], long_side)
        if small != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX))
            if not original_masks:
                # nearest: interpolating ids would invent classes along every boundary
                mask = np.asarray(Image.fromarray(mask).resize(small[::-1], Image.Resampling.NEAREST))
        return image, mask

    sizes, counts, errors = [], [], []
    with atomic_path(folder / "samples.bin") as temporary, temporary.open("wb") as file, ThreadPoolExecutor() as pool:
        results = _map_ahead(pool, read, samples.itertuples(index=False))
        for result in tqdm(results, "decoding", len(samples), leave=False, unit="image", disable=not progress):
            if isinstance(result, DatasetError):
                errors.append(result)
            elif not errors:
                image, mask = result
                file.write(image.tobytes())
                file.write(mask.tobytes())
                sizes.append([*image.shape[:2], *mask.shape])
                counts.append(np.bincount(mask.ravel(), minlength=256)[: len(dataset.classes)].tolist())
        if errors:
            shown = " | ".join(str(error) for error in errors[:3])
            raise DatasetError(
                f"{len(errors)} of {len(samples)} samples cannot be used: {shown}. 01_data_check lists them all with remedies."
            )
    write_json(folder / "index.json", {"ids": samples["id"].tolist(), "sizes": sizes, "pixel_counts": counts})


def _shrunk_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    longest = max(size)
    if not long_side or longest <= long_side:
        return size
    return tuple(max(1, round(side * long_side / longest)) for side in size)


def _map_ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterator, ahead: int = 16) -> Iterator:
    """`map` in order with a bounded number of results waiting, so that memory stays flat."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


class Batch(NamedTuple):
    """images (B, 3, H, W) and masks (B, H, W), both uint8; `windows`: what the augmentation needs to know of each."""

    index: np.ndarray
    images: Tensor
    masks: Tensor
    windows: list[Window]


def training_batches(
    packed: Packed, geometry: Geometry, batch_size: int, seed: int, epoch: int, workers: int = 0
) -> Iterator[Batch]:
    """One epoch in random order, every sample once; the order depends on (seed, epoch) alone.

    A last batch of a single sample is joined to the one before it: batch normalisation needs two.

    Args:
        geometry: draws the part of each image that the augmentation will look at.
        workers: threads that cut batches ahead of time; 0: cut when asked.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(packed))
    cuts = list(range(batch_size, len(packed), batch_size))
    if cuts and len(packed) - cuts[-1] == 1:
        cuts.pop()
    parts = [(index, [geometry.draw(random, *packed.image_sizes[i]) for i in index]) for index in np.split(order, cuts)]
    if workers == 0:
        yield from (_cut(packed, *part) for part in parts)
    else:
        with ThreadPoolExecutor(workers) as pool:
            yield from _map_ahead(pool, lambda part: _cut(packed, *part), iter(parts), ahead=2 * workers)


def _cut(packed: Packed, index: np.ndarray, windows: list[Window]) -> Batch:
    height, width = max(w.height for w in windows), max(w.width for w in windows)
    images = np.zeros((len(index), height, width, 3), np.uint8)
    masks = np.full((len(index), height, width), IGNORE, np.uint8)
    for place, (i, window) in enumerate(zip(index, windows, strict=True)):
        images[place, : window.height, : window.width] = packed.image(i)[window.rows, window.columns]
        masks[place, : window.height, : window.width] = packed.mask(i)[window.rows, window.columns]
    return Batch(index, torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks), windows)


def scoring_batches(packed: Packed, batch_size: int) -> Iterator[tuple[np.ndarray, Tensor, tuple[int, int]]]:
    """Every sample once, images of one size (and masks of one size) together.

    Yields:
        (positions (B,), images (B, 3, H, W) uint8, (height, width) of their masks)
    """
    sizes = np.concatenate([packed.image_sizes, packed.mask_sizes], axis=1)
    for size in np.unique(sizes, axis=0):
        members = np.flatnonzero((sizes == size).all(1))
        for start in range(0, len(members), batch_size):
            index = members[start : start + batch_size]
            images = np.stack([packed.image(i) for i in index])
            yield index, torch.from_numpy(images).permute(0, 3, 1, 2), (int(size[2]), int(size[3]))
