"""Decode once, then slice: the packed cache of a split."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib.data import (
    FORMATS,
    Dataset,
    DatasetError,
    digests,
    map_ahead,
    read_pair,
    read_sealed,
    since_check,
    write_sealed,
)
from seglib.runs import StorageError, atomic_path, display_path, in_use, lock, project_root

_VERSION = 4
_PATIENCE = 3600.0  # seconds to wait for another process that decodes the same
_SPARE_DISK = 2 << 30  # bytes that the cache leaves free for checkpoints, predictions and everybody else


@dataclass(frozen=True)
class CachedSplit:
    """One split, decoded: images and masks one after the other in a flat array of bytes.

    Args:
        ids: N sample ids.
        key: of the content: other files, classes or `long_side` have another.
        image_sizes: (N, 2) heights and widths of the images, after shrinking to `long_side`.
        mask_sizes: (N, 2) of the masks: the images' for training, the original ones for scoring.
        pixel_counts: (N, C) scored pixels a class and sample.
        data: flat uint8, memory-mapped or in RAM; None: `read` decodes a sample whenever it is asked for.
        read: position -> image and mask.
        files: what it was made from (see `digests`).
        sums: (N,) CRC-32 of each stored sample's bytes: one that a failing disk has changed is decoded anew.
        index: of the cache that `data` is of.
    """

    ids: list[str]
    key: str
    image_sizes: np.ndarray
    mask_sizes: np.ndarray
    pixel_counts: np.ndarray
    data: np.ndarray | None
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    files: dict[str, str] = field(default_factory=dict, repr=False)
    sums: list[int] | None = field(default=None, repr=False)
    index: Path | None = None

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
        if self.data is None or not self._is_sound(i):
            return self.read(i)
        height, width = self.image_sizes[i]
        start, end = self.offsets[i], self.offsets[i + 1]
        middle = start + height * width * 3
        return self.data[start:middle].reshape(height, width, 3), self.data[middle:end].reshape(
            self.mask_sizes[i]
        )

    @cached_property
    def _checked(self) -> dict[int, bool]:
        return {}

    def _is_sound(self, i: int) -> bool:
        """Whether a stored sample's bytes are those that were written; asked once of each: 0.6 ms a megabyte or less."""
        if self.sums is None:
            return True
        if i not in self._checked:
            self._checked[i] = zlib.crc32(self.data[self.offsets[i] : self.offsets[i + 1]]) == self.sums[i]
            if not self._checked[i]:
                tqdm.write(
                    f"{self.ids[i]!r} is damaged in {display_path(self.index.parent)}: it is read from the dataset instead, and the cache "
                    "will be made anew the next time. Is that disk sound?"
                )
                self.index.unlink(missing_ok=True)
        return self._checked[i]

    def in_memory(self) -> CachedSplit:
        """The same with the bytes read into RAM."""
        return replace(self, data=np.array(self.data))


def build_cache(
    dataset: Dataset,
    split: str,
    long_side: int = 0,
    original_masks: bool = False,
    cache: str = "auto",
    progress: bool = False,
) -> CachedSplit:
    """Decode a split into the cache `artifacts/cache`, or open what is there and still true.

    The cache is known by the content it was made from: the files' digests, the classes and `long_side`. One that is damaged, or
    another's, is made anew; one of files that have changed since is deleted. What changed since 01 checked it is said.

    Args:
        dataset: what to read.
        split: which split of it.
        long_side: shrink images whose longer side is larger, masks with them; 0: never.
        original_masks: keep masks at their own size, for scoring.
        cache: "none": every file is decoded once to check it, and again whenever it is needed; "auto": the same where the disk
            has no room for the decoded split; anything else: stored.
        progress: show a bar while decoding.

    Raises:
        DatasetError: some samples cannot be used: names the first three, counts all, says the suggestion. Or files changed
            while they were read.
        StorageError: no room, and `cache` asks for it.
    """
    samples = dataset.split(split)
    settings = [long_side, original_masks]
    files, key = _files(dataset, samples, split, settings)
    name = f"{dataset.name}-{split}"
    folder = project_root() / "artifacts" / "cache" / f"{name}-{key}"
    rows = list(samples.itertuples(index=False))

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        return _read(dataset, rows[i], long_side, original_masks)

    def opened() -> CachedSplit | None:
        return _opened(
            folder, key, samples["id"].tolist(), len(dataset.classes), read, files, cache == "none"
        )

    if changed := since_check(dataset, split, files):
        tqdm.write(changed)
    packed = None if cache == "auto" and not (folder / "samples.bin").is_file() else opened()
    if packed is not None:
        return packed
    needed = _decoded_bytes(dataset, rows, long_side, original_masks)
    if cache == "auto" and needed >= _free_disk(folder):
        cache = "none"
    with lock(folder / ".decoding", "decoding", wait=_PATIENCE):
        packed = opened()  # another process may have made it meanwhile
        if packed is not None:
            return packed
        for left in folder.glob(".*-????????.*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        (folder / "index.json").unlink(missing_ok=True)  # written last: it tells that the rest is whole
        decode = partial(_decode, folder, read, len(samples), len(dataset.classes), progress)
        try:
            index = decode(0 if cache == "none" else needed)
        except StorageError:
            if cache != "auto":
                raise
            cache = "none"  # the room went to somebody else while it was decoded
            index = decode(0)
        if _files(dataset, samples, split, settings)[1] != key:
            raise DatasetError(
                f"files of split {split!r} changed while they were read. Wait until nothing writes to them, then run again."
            )
        about = {"version": _VERSION, "key": key, "root": str(dataset.root), "files": files}
        write_sealed(folder / "index.json", about | {"ids": samples["id"].tolist()} | index)
        _drop_stale(dataset, folder, name, files)
        packed = opened()
    if packed is None:
        raise StorageError(
            f"the cache {folder} cannot be read back as it was written. Is that disk sound? Try another."
        )
    return packed


def _files(dataset: Dataset, samples: pd.DataFrame, split: str, settings: list) -> tuple[dict[str, str], str]:
    """Digests of a split's files, and the key of all that its decoded form depends on."""
    files = digests(dataset, split)
    for sample in samples.itertuples():
        for path in (sample.image, sample.mask):
            if not files[path] and not (dataset.root / path).is_file():
                raise DatasetError(
                    f"{sample.id!r} ({path}) is gone: expected a file there.",
                    "missing-file",
                    "Restore it, or load the dataset anew.",
                )
    pairs = [(sample.id, files[sample.image], files[sample.mask]) for sample in samples.itertuples()]
    told = json.dumps([_VERSION, dataset.classes.to_dict(), settings, pairs])
    return files, hashlib.sha256(told.encode()).hexdigest()[:16]


def _opened(
    folder: Path,
    key: str,
    ids: list[str],
    classes: int,
    read: Callable,
    files: dict[str, str],
    streamed: bool,
) -> CachedSplit | None:
    """What lies in a cache folder; None if it is not there, or not what it ought to be."""
    try:
        index = read_sealed(folder / "index.json")
        if (index["version"], index["key"], index["ids"]) != (_VERSION, key, ids):
            return None
        sizes = np.array(index["sizes"], np.int64).reshape(len(ids), 4)
        counts = np.array(index["pixel_counts"], np.int64).reshape(len(ids), classes)
        packed = CachedSplit(ids, key, sizes[:, :2], sizes[:, 2:], counts, None, read, files)
        if streamed:
            return packed
        data = np.memmap(folder / "samples.bin", np.uint8, mode="r")
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    if len(data) != packed.nbytes or len(index["sums"]) != len(ids):
        return None
    return replace(packed, data=data, sums=index["sums"], index=folder / "index.json")


def _drop_stale(dataset: Dataset, folder: Path, name: str, files: dict[str, str]) -> None:
    """Delete caches of the same split that hold what one of its files no longer holds.

    Not while a training is under way anywhere in the project: it may read one of them.
    """
    if any(in_use(claim) for claim in folder.parent.parent.glob("runs/*/.training")):
        return
    for other in folder.parent.glob(f"{name}-*"):
        try:
            index = read_sealed(other / "index.json")
            if other == folder or index["root"] != str(dataset.root):
                continue
            stale = any(files.get(path, digest) != digest for path, digest in index["files"].items())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
        if stale:
            shutil.rmtree(other, ignore_errors=True)  # Windows keeps what somebody has mapped


def _read(
    dataset: Dataset, sample: NamedTuple, long_side: int, original_mask: bool
) -> tuple[np.ndarray, np.ndarray]:
    image, mask = read_pair(dataset, sample)
    small = _shrunk_size(image.shape[:2], long_side)
    if small != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX))
        if not original_mask:
            # nearest: interpolating ids would invent classes along every boundary
            mask = np.asarray(Image.fromarray(mask).resize(small[::-1], Image.Resampling.NEAREST))
    return image, mask


def _decoded_bytes(dataset: Dataset, rows: list[NamedTuple], long_side: int, original_masks: bool) -> int:
    """What the decoded split will take, from the files' headers; a damaged header counts nothing, it is named later."""
    total = 0
    for row in rows:
        # Decoders raise many things on damaged headers.
        with contextlib.suppress(Exception), Image.open(dataset.root / row.image, formats=FORMATS) as image:
            small = math.prod(_shrunk_size(image.size, long_side))
            total += 3 * small + (math.prod(image.size) if original_masks else small)
    return total


def _free_disk(folder: Path) -> int:
    folder = next(path for path in folder.parents if path.is_dir())
    return shutil.disk_usage(folder).free - _SPARE_DISK


def _decode(
    folder: Path, read: Callable, count: int, classes: int, progress: bool, store: int
) -> dict[str, list]:
    """Read every sample once, and keep the bytes in samples.bin if they are to be stored: about `store` bytes, or 0."""

    def attempt(i: int) -> tuple[list[np.ndarray], list[int], int] | DatasetError:
        try:
            image, mask = map(np.ascontiguousarray, read(i))
        except DatasetError as error:
            return error
        pixel_counts = Image.fromarray(mask).histogram()[:classes]
        return [image, mask], pixel_counts, zlib.crc32(mask, zlib.crc32(image))

    sizes, counts, sums, errors = [], [], [], []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        file = None
        if store:
            file = stack.enter_context(
                stack.enter_context(atomic_path(folder / "samples.bin", store)).open("wb")
            )
        results = map_ahead(pool, attempt, range(count))
        for result in tqdm(results, "decoding", count, leave=False, unit="image", disable=not progress):
            if isinstance(result, DatasetError):
                errors.append(result)
            elif not errors:
                parts, pixel_counts, checksum = result
                if file:
                    file.writelines(part.data for part in parts)
                    sums.append(checksum)
                sizes.append([side for part in parts for side in part.shape[:2]])
                counts.append(pixel_counts)
        if errors:
            some = " | ".join(str(error) for error in errors[:3])
            raise DatasetError(
                f"{len(errors)} of {count} samples cannot be used: {some}. 01_data_check lists them all with suggestions."
            )
    return {"sizes": sizes, "pixel_counts": counts, "sums": sums}


def _shrunk_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    longest = max(size)
    if not long_side or longest <= long_side:
        return size
    return tuple(max(1, round(side * long_side / longest)) for side in size)
