"""Decode once, then slice: the cache of a split, and the batches that are cut from it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from seglib.data import IGNORE, Dataset, digests, fitting, map_ahead, read_pair
from seglib.params import ParameterError, Train
from seglib.runs import atomic_folder, lock, project_root, read_json, stored_path, write_json
from seglib.train.augment import ColorJitter, CropParams, adjust_colors, draw_crop, draw_jitter, warp
from seglib.train.device import DevicePlan
from seglib.train.model import STRIDE

_VERSION = 7
_LARGEST_CROP = 512  # pixels a side, where the crop is chosen from the images' size
_LOGITS = 1 << 26  # numbers that score a batch, at most, where it has several images: 270 MB


@dataclass(frozen=True)
class CachedSplit:
    """One split, decoded: images and masks one after the other in a flat array of bytes."""

    ids: list[str]  # N sample ids
    image_sizes: np.ndarray  # (N, 2) heights and widths, after shrinking
    mask_sizes: np.ndarray  # (N, 2); of original masks before it
    pixel_counts: np.ndarray  # (N, C) valid pixels by class
    data: np.ndarray | None  # flat uint8, memory-mapped or in RAM; None: `read` decodes what is asked for
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]  # position -> image and mask
    files: dict[str, str] = field(default_factory=dict, repr=False)  # digests of what it was made from
    form: dict = field(default_factory=dict, repr=False)  # how the images were read: `data.ImageForm`

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,) where each sample begins: its image, then its mask."""
        return np.concatenate([[0], np.cumsum(3 * self.image_sizes.prod(1) + self.mask_sizes.prod(1))])

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Get image (H, W, 3) and mask (H, W), uint8; views where the split is stored."""
        if self.data is None:
            return self.read(i)
        sample = self.data[self.offsets[i] : self.offsets[i + 1]]
        image, mask = np.split(sample, [3 * self.image_sizes[i].prod()])
        return image.reshape(*self.image_sizes[i], 3), mask.reshape(self.mask_sizes[i])


def build_cache(
    dataset: Dataset,
    split: str,
    long_side: int = 0,
    original_masks: bool = False,
    cache: str = "auto",
    progress: bool = False,
) -> CachedSplit:
    """Decode a split into a folder of `artifacts/cache`, or open it if that was done of the same files.

    Images are shrunk to `long_side` (0: never), their masks too unless for scoring (`original_masks`).
    With `cache` "none" nothing is stored: files are checked, and decoded again whenever they are needed.
    A DatasetError names the first sample that cannot be used.
    """
    samples, files = list(dataset.split(split).itertuples(index=False)), digests(dataset, split)
    pairs = [[sample.id, sample.image, sample.mask] for sample in samples]
    settings = json.dumps([_VERSION, stored_path(dataset.root), long_side, original_masks, pairs])
    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    folder = project_root() / "artifacts" / "cache" / f"{dataset.name}-{split}-{key}"

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = read_pair(dataset, samples[i])
        small, small_mask = fitting(image, mask, most=long_side or max(image.shape))
        return small, mask if original_masks else small_mask

    unopened = CachedSplit([sample.id for sample in samples], *[None] * 4, read, files, asdict(dataset.form))
    with lock(folder.with_name(f".{folder.name}.lock"), "decoding", wait=3600):
        if (found := _open(folder, unopened, cache)) is not None:
            return found
        shutil.rmtree(folder, ignore_errors=True)  # damaged, of other files, or without the bytes
        with atomic_folder(folder) as new:
            index = _fill(new, read, len(samples), len(dataset.classes), cache, progress)
            write_json(new / "index.json", {"files": files, **index})
        return _open(folder, unopened, cache)


def open_splits(dataset: Dataset, params: Train, progress: bool = False) -> list[CachedSplit]:
    """Build or open the caches that `fit` takes: train, and val with its masks at original size."""
    how = {"long_side": params.long_side, "cache": params.cache, "progress": progress}
    return [build_cache(dataset, split, original_masks=split == "val", **how) for split in ("train", "val")]


def _open(folder: Path, unopened: CachedSplit, cache: str) -> CachedSplit | None:
    """Open a cache folder; None unless it is whole, of these files, with the bytes that `cache` asks for."""
    try:
        index = read_json(folder / "index.json", ["sizes", "pixel_counts"])
        sizes, counts = np.array(index["sizes"]), np.array(index["pixel_counts"])
        found = replace(unopened, image_sizes=sizes[:, :2], mask_sizes=sizes[:, 2:], pixel_counts=counts)
        if cache != "none":
            found = replace(found, data=np.memmap(folder / "samples.bin", np.uint8, mode="r"))
    except (OSError, ValueError, KeyError):
        return None
    whole = found.data is None or len(found.data) == found.offsets[-1]
    return found if whole and index["files"] == found.files else None


def _fill(folder: Path, read: Callable, count: int, classes: int, cache: str, progress: bool) -> dict:
    """Read every sample once, into samples.bin unless `cache` is "none"; return sizes and pixel counts."""

    def decoded(i: int) -> tuple:
        image, mask = map(np.ascontiguousarray, read(i))
        return image, mask, np.bincount(mask.ravel(), minlength=classes)[:classes].tolist()

    index = {"sizes": [], "pixel_counts": []}
    bar = {"total": count, "leave": False, "unit": "image", "disable": not progress}
    with ThreadPoolExecutor() as pool, (folder / "samples.bin").open("wb") as file:
        for image, mask, counts in tqdm(map_ahead(pool, decoded, range(count)), "decoding", **bar):
            index["sizes"].append([*image.shape[:2], *mask.shape])
            index["pixel_counts"].append(counts)
            if cache != "none":
                file.writelines((image.data, mask.data))
    return index


class Batch(NamedTuple):
    """Samples as they are cut from the cache, and what the augmentation will do with each."""

    index: np.ndarray  # (B,) positions in the split
    images: Tensor  # (B, 3, H, W) uint8, each image's part in the upper left corner
    masks: Tensor  # (B, H, W) uint8
    crops: list[CropParams]
    jitters: list[ColorJitter]

    def split(self, parts: int) -> list[Self]:
        """Split into micro-batches of as equal a size as can be, in order."""
        edges = pairwise(portions(len(self.index), parts))
        return [type(self)(*(values[a:b] for values in self)) for a, b in edges]


def portions(count: int, parts: int) -> np.ndarray:
    """Share `count` things as evenly as can be: (parts + 1,) edges."""
    return np.linspace(0, count, parts + 1).round().astype(int)


def batch_edges(samples: int, batch_size: int, processes: int = 1) -> list[int]:
    """Compute where the batches of an epoch begin, and its end; a rest too small to share or normalise joins the last."""
    edges = list(range(0, samples, batch_size))
    if len(edges) > 1 and samples - edges[-1] < max(2, processes):
        edges.pop()
    return [*edges, samples]


def crop_size(cached: CachedSplit, params: Train) -> tuple[int, int]:
    """Choose (height, width) of training crops: as asked for, or the median image's up to 512; by 32."""
    if params.scale_min > params.scale_max:
        raise ParameterError(f"scale_min = {params.scale_min} is larger than scale_max = {params.scale_max}.")
    asked = (-(-side // STRIDE) * STRIDE for side in (params.crop_height, params.crop_width))
    own = (np.median(cached.image_sizes, axis=0) // STRIDE * STRIDE).clip(STRIDE, _LARGEST_CROP).astype(int)
    return tuple(a or side for a, side in zip(asked, own.tolist(), strict=True))


def training_batches(
    cached: CachedSplit, params: Train, plan: DevicePlan, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Cut process `rank`'s share of one epoch; order and augmentation depend on (seed, epoch) alone."""
    random, crop = np.random.default_rng([params.seed, epoch]), crop_size(cached, params)
    pinned = plan.kind == "cuda"  # page-locked memory, from which a GPU reads while the CPU goes on

    def shares() -> Iterator[tuple]:
        order, edges = random.permutation(len(cached)), batch_edges(len(cached), params.batch_size, processes)
        for index in (order[a:b] for a, b in pairwise(edges)):
            drawn = []
            for i, size in zip(index, cached.image_sizes[index].tolist(), strict=True):
                rare = params.rare_crops and random.random() < params.rare_crops
                center = rare_pixel(cached, i, random) if rare else None
                drawn.append((draw_crop(random, params, crop, size, center), draw_jitter(random, params)))
            mine = slice(*portions(len(index), processes)[rank : rank + 2])
            yield index[mine], *map(list, zip(*drawn[mine], strict=True))

    def cut(share: tuple[np.ndarray, list[CropParams], list[ColorJitter]]) -> Batch:
        index, crops, jitters = share
        size = len(index), *np.max([crop.size for crop in crops], axis=0).tolist()
        images = torch.zeros((*size, 3), dtype=torch.uint8, pin_memory=pinned)
        masks = torch.full(size, IGNORE, dtype=torch.uint8, pin_memory=pinned)
        for k, (i, part) in enumerate(zip(index, crops, strict=True)):
            height, width = part.size
            for batch, whole in zip((images, masks), cached.pair(i), strict=True):
                batch.numpy()[k, :height, :width] = whole[part.rows, part.columns]
        return Batch(index, images.permute(0, 3, 1, 2), masks, crops, jitters)

    ahead = plan.workers + 1 if plan.workers else 0  # without workers each batch is waited for
    with ThreadPoolExecutor(max(1, plan.workers)) as pool:
        yield from map_ahead(pool, cut, shares(), ahead=ahead)


def rare_pixel(cached: CachedSplit, i: int, random: np.random.Generator) -> tuple | None:
    """Draw a class of a sample, rare ones more often; then (row, column) of one of its pixels."""
    here = np.flatnonzero(cached.pixel_counts[i])
    if not len(here):
        return None
    rarity = 1 / cached.pixel_counts.sum(0)[here]
    mask = cached.pair(i)[1]
    at = random.choice(np.flatnonzero(mask == random.choice(here, p=rarity / rarity.sum())))
    return np.unravel_index(at, mask.shape)


def augmented(batch: Batch, crop: tuple[int, int], plan: DevicePlan) -> tuple[Tensor, Tensor]:
    """Augment a batch on the plan's device: images (B, 3, *crop) float32, 0-255; masks (B, *crop) uint8."""
    at_once = plan.kind == "cuda"  # elsewhere the copy may be read after its source was freed
    images, masks = (values.to(plan.device, non_blocking=at_once) for values in batch[1:3])
    images, masks = warp(images, masks, batch.crops, crop)
    return adjust_colors(images, batch.jitters).contiguous(memory_format=plan.layout), masks


def augmented_examples(cached: CachedSplit, params: Train, plan: DevicePlan, count: int = 8) -> tuple:
    """Show what training sees of up to `count` samples: uint8 images (B, H, W, 3) and masks (B, H, W)."""
    params = params.model_copy(update={"batch_size": min(count, params.batch_size)})
    batch = next(training_batches(cached, params, plan, epoch=0))
    images, masks = augmented(batch, crop_size(cached, params), plan)
    return images.byte().permute(0, 2, 3, 1).cpu().numpy(), masks.cpu().numpy()


def scoring_batches(
    cached: CachedSplit, batch_size: int, rank: int = 0, processes: int = 1
) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Read every sample once, at most `batch_size` of one size together, and fewer of large images with many classes.

    Yields positions (B,), images (B, 3, H, W), masks (B, h, w), uint8; every `processes`-th from `rank` on.
    """
    sizes, batches = np.concatenate([cached.image_sizes, cached.mask_sizes], axis=1), []
    for size in np.unique(sizes, axis=0):
        members = np.flatnonzero((sizes == size).all(1))
        logits = cached.pixel_counts.shape[1] * int(max(size[:2].prod(), size[2:].prod()))  # of one image
        step = max(1, min(batch_size, _LOGITS // logits))
        batches += [members[start : start + step] for start in range(0, len(members), step)]
    for index in batches[rank::processes]:
        images, masks = zip(*map(cached.pair, index), strict=True)
        yield index, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), np.stack(masks)
