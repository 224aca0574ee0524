"""Decode once, then slice: the cache of a split, and the batches that are cut from it."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from seglib.data import IGNORE, Dataset, DatasetError, compare_digests, digests, map_ahead, read_pair
from seglib.params import ParameterError, Train
from seglib.runs import atomic_folder, lock, project_root, read_json, write_json
from seglib.train.augment import ColorJitter, CropParams, adjust_colors, draw_crop, draw_jitter, warp
from seglib.train.device import DevicePlan
from seglib.train.model import STRIDE

_VERSION = 6
_SPARE_DISK = 2 << 30  # bytes that cache="auto" leaves free for checkpoints, predictions and everybody else
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

    nbytes = property(lambda self: int(self.offsets[-1]))  # of the decoded split

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Get image (H, W, 3) and mask (H, W), uint8; views where the split is stored."""
        if self.data is None:
            return self.read(i)
        sample = self.data[self.offsets[i] : self.offsets[i + 1]]
        image, mask = np.split(sample, [3 * self.image_sizes[i].prod()])
        return image.reshape(*self.image_sizes[i], 3), mask.reshape(self.mask_sizes[i])

    def in_memory(self) -> Self:
        """Read the bytes into RAM."""
        return replace(self, data=np.array(self.data))


def build_cache(
    dataset: Dataset,
    split: str,
    long_side: int = 0,
    original_masks: bool = False,
    cache: str = "auto",
    progress: bool = False,
) -> CachedSplit:
    """Decode a split into a folder of `artifacts/cache`, or open it where that was done before.

    The folder is named by the files' digests, the classes and the settings. Folders of files that have changed
    since are deleted. What changed since 01 saw the split is said.

    Args:
        dataset, split: what to read.
        long_side: shrink images whose longer side is larger, masks with them; 0: never.
        original_masks: keep masks at their own size, for scoring.
        cache: "none": check every file, and decode it again whenever it is needed; "auto": the same where the
            disk has no room for the decoded split; "disk" or "ram": store it.
        progress: show a bar while decoding.

    Raises:
        DatasetError: samples that cannot be used (names the first three), or files that changed meanwhile.
    """
    samples, files = list(dataset.split(split).itertuples(index=False)), digests(dataset, split)
    artifacts = project_root() / "artifacts"
    with contextlib.suppress(OSError, ValueError, KeyError):  # 01 has not seen the split
        seen = read_json(artifacts / "data_check" / dataset.name / "data.json")[split]
        if changes := compare_digests(seen, files):
            tqdm.write(f"Split {split!r} changed since 01_data_check saw it: {changes}. Run it again.")
    form = asdict(dataset.form)
    settings = [_VERSION, dataset.classes.to_dict(), form, long_side, original_masks]
    content = [(sample.id, files[sample.image], files[sample.mask]) for sample in samples]
    key = hashlib.sha256(json.dumps([settings, content]).encode()).hexdigest()[:16]
    folder = artifacts / "cache" / f"{dataset.name}-{split}-{key}"
    read = partial(_read, dataset, samples, long_side, original_masks)
    known = partial(CachedSplit, ids=[sample.id for sample in samples], read=read, files=files, form=form)
    with lock(folder.with_name(f".{folder.name}.lock"), "decoding", wait=3600):
        if (found := _open(folder, known, cache)) is not None:
            return found
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or without the bytes
        with atomic_folder(folder) as new:
            index = _decode(new, read, len(samples), len(dataset.classes), cache, progress)
            if digests(dataset, split) != files:
                raise DatasetError(f"files of {split!r} changed while they were read. Wait, then run again.")
            write_json(new / "index.json", {"root": str(dataset.root), "files": files, "form": form, **index})
        for other in folder.parent.glob(f"{dataset.name}-{split}-*"):
            with contextlib.suppress(OSError, ValueError, KeyError):  # one that cannot be read stays
                index = read_json(other / "index.json")
                changed = any(files.get(path, digest) != digest for path, digest in index["files"].items())
                if changed and index["root"] == str(dataset.root):
                    shutil.rmtree(other)
        return _open(folder, known, cache)


def _read(dataset: Dataset, samples: list, long_side: int, original_masks: bool, i: int) -> tuple:
    image, mask = read_pair(dataset, samples[i])
    size = image.shape[1::-1]  # width and height
    if long_side and max(size) > long_side:
        small = [max(1, round(side * long_side / max(size))) for side in size]
        image = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BOX))
        if not original_masks:  # nearest: interpolating ids would invent classes along every boundary
            mask = np.asarray(Image.fromarray(mask).resize(small, Image.Resampling.NEAREST))
    return image, mask


def _open(folder: Path, known: Callable[..., CachedSplit], cache: str) -> CachedSplit | None:
    """Open a cache folder; None if it is not there, damaged, or without the bytes that `cache` asks for."""
    try:
        index = read_json(folder / "index.json")
        sizes, counts = np.array(index["sizes"]), np.array(index["pixel_counts"])
        cached = known(image_sizes=sizes[:, :2], mask_sizes=sizes[:, 2:], pixel_counts=counts, data=None)
        if cache == "none" or (cache == "auto" and index["disk_full"]):
            return cached
        data = np.memmap(folder / "samples.bin", np.uint8, mode="r")
    except (OSError, ValueError, KeyError):
        return None
    return replace(cached, data=data) if len(data) == cached.nbytes else None


def _decode(folder: Path, read: Callable, count: int, classes: int, cache: str, progress: bool) -> dict:
    """Read every sample once, into samples.bin unless `cache` is "none"; with "auto" while there is room."""

    def attempt(i: int) -> tuple | DatasetError:
        try:
            image, mask = map(np.ascontiguousarray, read(i))
        except DatasetError as error:
            return error
        return image, mask, np.bincount(mask.ravel(), minlength=classes)[:classes].tolist()

    index = {"sizes": [], "pixel_counts": [], "disk_full": False}
    errors, bar = [], {"total": count, "leave": False, "unit": "image", "disable": not progress}
    with ThreadPoolExecutor() as pool, (folder / "samples.bin").open("wb") as file:
        for result in tqdm(map_ahead(pool, attempt, range(count)), "decoding", **bar):
            if isinstance(result, DatasetError):
                errors.append(str(result))
                continue
            image, mask, pixel_counts = result
            index["sizes"].append([*image.shape[:2], *mask.shape])
            index["pixel_counts"].append(pixel_counts)
            if cache == "auto" and shutil.disk_usage(folder).free < _SPARE_DISK:
                index["disk_full"], cache = True, "none"
                file.truncate(0)
            if cache != "none":
                file.writelines((image.data, mask.data))
    if errors:
        told = f"{len(errors)} of {count} samples cannot be used: {' | '.join(errors[:3])}"
        raise DatasetError(f"{told}. 01_data_check lists them all.")
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
    median = (int(side) // STRIDE * STRIDE for side in np.median(cached.image_sizes, axis=0))
    height, width = (a or min(_LARGEST_CROP, max(STRIDE, m)) for a, m in zip(asked, median, strict=True))
    return height, width


def training_batches(
    cached: CachedSplit, params: Train, plan: DevicePlan, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Cut one epoch in random order, every sample once; order and augmentation depend on (seed, epoch) alone.

    Of each batch of `params.batch_size` samples the share of process `rank` is cut here.
    """
    random, crop = np.random.default_rng([params.seed, epoch]), crop_size(cached, params)
    pinned = plan.kind == "cuda"  # page-locked memory, from which a GPU reads while the CPU goes on

    def shares() -> Iterator[tuple]:
        order, edges = random.permutation(len(cached)), batch_edges(len(cached), params.batch_size, processes)
        for index in (order[a:b] for a, b in pairwise(edges)):
            sizes = cached.image_sizes[index].tolist()
            drawn = []
            for i, size in zip(index, sizes, strict=True):
                rare = params.rare_crops and random.random() < params.rare_crops
                center = rare_pixel(cached, i, random) if rare else None
                drawn.append((draw_crop(random, params, crop, size, center), draw_jitter(random, params)))
            mine = slice(*portions(len(index), processes)[rank : rank + 2])
            yield cached, index[mine], *map(list, zip(*drawn[mine], strict=True)), pinned

    ahead = plan.workers + 1 if plan.workers else 0  # without workers each batch is waited for
    with ThreadPoolExecutor(max(1, plan.workers)) as pool:
        yield from map_ahead(pool, lambda share: _cut(*share), shares(), ahead=ahead)


def rare_pixel(cached: CachedSplit, i: int, random: np.random.Generator) -> tuple | None:
    """Draw a class of a sample, the fewer pixels it has in the split the likelier; then one of its pixels.

    Returns (row, column) in the image, or None where the sample has no valid pixel.
    """
    here = np.flatnonzero(cached.pixel_counts[i])
    if not len(here):
        return None
    rarity = 1 / cached.pixel_counts.sum(0)[here]
    mask = cached.pair(i)[1]
    at = random.choice(np.flatnonzero(mask == random.choice(here, p=rarity / rarity.sum())))
    return np.unravel_index(at, mask.shape)


def _cut(cached: CachedSplit, index: np.ndarray, crops: list, jitters: list, pinned: bool) -> Batch:
    size = len(index), *np.max([crop.size for crop in crops], axis=0).tolist()
    images = torch.zeros((*size, 3), dtype=torch.uint8, pin_memory=pinned)
    masks = torch.full(size, IGNORE, dtype=torch.uint8, pin_memory=pinned)
    for k, (i, crop) in enumerate(zip(index, crops, strict=True)):
        height, width = crop.size
        for batch, whole in zip((images, masks), cached.pair(i), strict=True):
            batch.numpy()[k, :height, :width] = whole[crop.rows, crop.columns]
    return Batch(index, images.permute(0, 3, 1, 2), masks, crops, jitters)


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

    Yields:
        positions (B,), images (B, 3, H, W) uint8 tensor, masks (B, h, w) uint8 array; of all batches every
        `processes`-th from the `rank`-th on.
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
