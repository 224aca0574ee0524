"""Decode once, then slice: the packed cache of a split."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib.ahead import map_ahead
from seglib.dataset import Dataset, DatasetError, read_pair
from seglib.runs import atomic_path, project_root, read_json, write_json

_VERSION = 3
_SPARE_DISK = 2 << 30  # bytes that the cache leaves free for checkpoints, predictions and everybody else


@dataclass(frozen=True)
class Packed:
    """One split, decoded: images and masks one after the other in a flat array of bytes.

    Args:
        ids: N sample ids.
        key: of the content: other files, classes or `long_side` have another.
        image_sizes: (N, 2) heights and widths of the images, after shrinking to `long_side`.
        mask_sizes: (N, 2) of the masks: the images' for training, the original ones for scoring.
        pixel_counts: (N, C) scored pixels a class and sample.
        data: flat uint8, memory-mapped or in RAM; None: `read` decodes a sample whenever it is asked for.
        read: position -> image and mask.
        content: digest of ids, sizes and decoded bytes: equal wherever the split decodes to the same.
    """

    ids: list[str]
    key: str
    image_sizes: np.ndarray
    mask_sizes: np.ndarray
    pixel_counts: np.ndarray
    data: np.ndarray | None
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    content: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,) where each sample begins: its image, then its mask."""
        sizes = 3 * self.image_sizes.prod(1) + self.mask_sizes.prod(1)
        return np.concatenate([[0], np.cumsum(sizes)])

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded split."""
        return int(self.offsets[-1])

    @property
    def stored(self) -> bool:
        """Whether the split lies decoded on disk or in RAM."""
        return self.data is not None

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """image (H, W, 3) and mask (H, W), uint8; views where the split is stored."""
        if self.data is None:
            return self.read(i)
        height, width = self.image_sizes[i]
        start, end = self.offsets[i], self.offsets[i + 1]
        middle = start + height * width * 3
        return self.data[start:middle].reshape(height, width, 3), self.data[middle:end].reshape(self.mask_sizes[i])

    def in_memory(self) -> Packed:
        """The same with the bytes read into RAM."""
        return replace(self, data=np.array(self.data))


def pack(
    dataset: Dataset,
    split: str,
    long_side: int = 0,
    original_masks: bool = False,
    cache: str = "auto",
    progress: bool = False,
) -> Packed:
    """Decode a split into the cache `artifacts/cache`, or open what is there and still true.

    The cache is known by the content it was made from: names, sizes and times of the files, the classes and `long_side`.

    Args:
        dataset: what to read.
        split: which split of it.
        long_side: shrink images whose longer side is larger, masks with them; 0: never.
        original_masks: keep masks at their own size, for scoring.
        cache: "none": every file is decoded once to check it, and again whenever it is needed; "auto": the same where the disk
            has no room for the decoded split; anything else: stored.
        progress: show a bar while decoding.

    Raises:
        DatasetError: some samples cannot be used: names the first three, counts all, says the remedy.
    """
    samples = dataset.split(split)
    key = _key(dataset, samples, long_side, original_masks)
    folder = project_root() / "artifacts" / "cache" / f"{dataset.name}-{split}-{key}"
    rows = list(samples.itertuples(index=False))

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        return _read(dataset, rows[i], long_side, original_masks)

    there = (folder / "index.json").is_file()
    if cache == "auto" and not (folder / "samples.bin").is_file():
        cache = "disk" if _decoded_bytes(dataset, rows, long_side) < _free_disk(folder) else "none"
    if not there or (cache != "none" and not (folder / "samples.bin").is_file()):
        index = {"ids": samples["id"].tolist()} | _decode(
            folder, read, samples["id"].tolist(), len(dataset.classes), cache != "none", progress
        )
        write_json(folder / "index.json", index)
    index = read_json(folder / "index.json")
    sizes, counts = (np.array(index[key], np.int64) for key in ("sizes", "pixel_counts"))
    sizes = sizes.reshape(-1, 4)
    packed = Packed(index["ids"], key, sizes[:, :2], sizes[:, 2:], counts, None, read, index["content"])
    if cache == "none":
        return packed
    data = np.memmap(folder / "samples.bin", np.uint8, mode="r")
    if len(data) != packed.nbytes:
        raise DatasetError(
            f"the cache {folder.name} is damaged: {len(data)} bytes instead of {packed.nbytes}. Delete artifacts/cache and run again."
        )
    return replace(packed, data=data)


def _key(dataset: Dataset, samples: pd.DataFrame, *settings: object) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, dataset.classes.to_dict(), settings]).encode())
    for sample in samples.itertuples():
        for path in (sample.image, sample.mask):
            try:
                stat = (dataset.root / path).stat()
            except FileNotFoundError:
                raise DatasetError(
                    f"{sample.id!r} ({path}) is gone: expected a file there.",
                    "missing-file",
                    "Restore it, or load the dataset anew.",
                ) from None
            digest.update(f"{sample.id}\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _read(dataset: Dataset, sample: NamedTuple, long_side: int, original_mask: bool) -> tuple[np.ndarray, np.ndarray]:
    image, mask = read_pair(dataset, sample)
    small = _shrunk_size(image.shape[:2], long_side)
    if small != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX))
        if not original_mask:
            # nearest: interpolating ids would invent classes along every boundary
            mask = np.asarray(Image.fromarray(mask).resize(small[::-1], Image.Resampling.NEAREST))
    return image, mask


def _decoded_bytes(dataset: Dataset, rows: list[NamedTuple], long_side: int) -> int:
    """What the decoded split will take, from the files' headers; a damaged header counts nothing, it is named later."""
    total = 0
    for row in rows:
        with contextlib.suppress(OSError, Image.DecompressionBombError), Image.open(dataset.root / row.image) as image:
            total += 4 * math.prod(_shrunk_size(image.size, long_side))
    return total


def _free_disk(folder: Path) -> int:
    folder = next(path for path in folder.parents if path.is_dir())
    return shutil.disk_usage(folder).free - _SPARE_DISK


def _decode(folder: Path, read: Callable, ids: list[str], classes: int, store: bool, progress: bool) -> dict[str, Any]:
    """Read every sample once, and keep the bytes in samples.bin if they are to be stored."""

    def attempt(i: int) -> tuple[np.ndarray, np.ndarray] | DatasetError:
        try:
            return read(i)
        except DatasetError as error:
            return error

    count, content = len(ids), hashlib.sha256()
    sizes, counts, errors = [], [], []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        file = None
        if store:
            file = stack.enter_context(stack.enter_context(atomic_path(folder / "samples.bin")).open("wb"))
        results = map_ahead(pool, attempt, range(count))
        bar = tqdm(results, "decoding", count, leave=False, unit="image", disable=not progress)
        for name, result in zip(ids, bar, strict=True):
            if isinstance(result, DatasetError):
                errors.append(result)
            elif not errors:
                image, mask = map(np.ascontiguousarray, result)
                content.update(f"{name} {image.shape} {mask.shape}\n".encode())
                for array in (image, mask):
                    content.update(array.data)
                    if file:
                        file.write(array.data)
                sizes.append([*image.shape[:2], *mask.shape])
                counts.append(np.bincount(mask.ravel(), minlength=256)[:classes].tolist())
        if errors:
            shown = " | ".join(str(error) for error in errors[:3])
            raise DatasetError(
                f"{len(errors)} of {count} samples cannot be used: {shown}. 01_data_check lists them all with remedies."
            )
    return {"sizes": sizes, "pixel_counts": counts, "content": content.hexdigest()[:16]}


def _shrunk_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    longest = max(size)
    if not long_side or longest <= long_side:
        return size
    return tuple(max(1, round(side * long_side / longest)) for side in size)
