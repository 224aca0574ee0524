"""A folder of images and masks with its dataset.yaml -> a table of samples, what is wrong with it, and its digests."""

import hashlib
import json
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from seglib.data.classes import ClassMap, DatasetError, some
from seglib.data.config import FILE_NAME, dataset_name, read_config
from seglib.data.image_io import EXCLUDE, PLAIN, ImageForm, read_image, read_mask
from seglib.data.pairing import pair_files
from seglib.runs import resolve_path

CLASSES_FILE = "dataset.yaml (classes)"  # stands among digests of files for how their values become class ids


@dataclass(frozen=True)
class Dataset:
    """The samples of a dataset, and what is wrong with their files as far as names and sizes tell.

    Args:
        samples: complete pairs in the order of dataset.yaml's splits, then by name: `id` (unique, usable as a file
            name), `split`, `image` and `mask` (POSIX paths relative to `root`), `group` ("" if none), `frame` (Int64).
        problems: findings: `severity` ("error", "warning", "info"), `check`, `sample`, `split`, `detail`, `suggestion`.
    """

    root: Path
    name: str
    classes: ClassMap
    samples: pd.DataFrame
    problems: pd.DataFrame
    form: ImageForm = PLAIN

    @property
    def splits(self) -> list[str]:
        """The splits that have samples, in the order of dataset.yaml."""
        return list(dict.fromkeys(self.samples["split"]))

    def split(self, name: str) -> pd.DataFrame:
        """Select the samples of one split, indexed from 0; a DatasetError names the splits that have samples."""
        if name not in self.splits:
            there = ", ".join(self.splits) or "none"
            detail = f"no split {name!r} in dataset {self.name!r}: expected one that has samples ({there})."
            raise DatasetError(detail, "no-split", "`seglib init FOLDER --split 0.7 0.15 0.15` makes splits.")
        return self.samples[self.samples["split"] == name].reset_index(drop=True)


def load_dataset(folder: str | Path, config: str | Path = "", strict: bool = True) -> Dataset:
    """Read dataset.yaml and pair images with masks by what the wildcards of its globs matched. Opens no image.

    Args:
        folder: the dataset's folder; a relative path starts at the project root.
        config: a dataset.yaml that lies elsewhere; `<folder>/dataset.yaml` by default.
        strict: raise on faulty files. Otherwise they are left in `Dataset.problems`, and out of `Dataset.samples`.
    """
    root, path = resolve_path(folder), resolve_path(config or Path(folder) / FILE_NAME)
    if not root.is_dir():
        detail = f"dataset folder {root} is not there; expected a folder of images and masks."
        here = Path(folder).absolute()
        there = f" There is {here}: write that one in full." * here.is_dir()
        told = f"Check the path; a relative one starts at the project root.{there}"
        raise DatasetError(detail, "no-folder", told)
    if not path.is_file():
        told = f"Draft one with `seglib init {shlex.quote(str(folder))}`, or name one elsewhere as config."
        raise DatasetError(f"no {path.name} at {path}.", "no-config", told)
    settings = read_config(path)
    samples, problems = pair_files(root, settings)
    name = (settings.name or dataset_name(root)) + f"-limit{settings.limit}" * (settings.limit > 0)
    errors = problems[problems["severity"] == "error"]
    if strict and len(errors):
        raise DatasetError(f"dataset {name!r}: {explain(errors)}", errors["check"].iloc[0])
    form = ImageForm(settings.channels, settings.range, settings.exif)
    return Dataset(root, name, settings.class_map, samples, problems, form)


def read_pair(dataset: Dataset, row: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read a row of `dataset.samples`: image (H, W, 3) uint8 RGB and mask (H, W) uint8 class ids, 255 = ignored."""
    if isinstance(row, pd.Series):
        row = SimpleNamespace(**row)  # Series.mask is a method
    image = read_image(dataset.root / row.image, f"{row.id!r} ({row.image})", dataset.form)
    mask = read_mask(dataset.root / row.mask, dataset.classes, f"{row.id!r} ({row.mask})")
    check_sizes(row, image.shape[:2], mask.shape)
    return image, mask


def check_sizes(row: Any, image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Refuse a mask of another height and width than its image (`DatasetError`, check "size-mismatch")."""
    if image != mask:
        sizes = f"{mask[1]}x{mask[0]} (width x height), but its image is {image[1]}x{image[0]}"
        suggestion = f"Export the mask at the image's size (nearest neighbour), {EXCLUDE}."
        if mask == image[::-1]:
            sizes += ": one is the other turned"
            suggestion = f"If EXIF turned the image, write exif: false into {FILE_NAME}. Else turn one of them, {EXCLUDE}."
        raise DatasetError(f"mask {row.id!r} ({row.mask}) is {sizes}.", "size-mismatch", suggestion)


def explain(findings: pd.DataFrame) -> str:
    """Put findings into sentences: of each check in each split the first with its suggestion, and how many there are."""
    lines = []
    for (_, split), group in findings.groupby(["check", "split"], sort=False):
        ids, first = [*dict.fromkeys(i for i in group["sample"] if i)], group.iloc[0]
        named = f" ({some(ids)})" if ids else ""
        more = f" {len(group)} such in {split or 'all'}{named}." * (len(group) > 1)
        lines.append(f"{first['detail']}{more} {first['suggestion']}".rstrip())
    return lines[0] if len(lines) == 1 else "\n" + "\n".join(f"- {line}" for line in lines)


def map_ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int = 16) -> Iterator:
    """Map like `pool.map`, in order, with a bounded number of results waiting, so that memory stays flat."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def digests(dataset: Dataset, split: str) -> dict[str, str]:
    """Map each path of one split, and `CLASSES_FILE`, to 16 hexadecimal digits of its SHA-256 ("" if unreadable)."""
    samples = dataset.split(split)
    paths = list(dict.fromkeys([*samples["image"], *samples["mask"]]))

    def digest(path: str) -> str:
        with suppress(OSError):
            return hashlib.sha256((dataset.root / path).read_bytes()).hexdigest()[:16]
        return ""

    form = {} if dataset.form == PLAIN else {"images": asdict(dataset.form)}
    classes = json.dumps(dataset.classes.to_dict() | form, sort_keys=True).encode()
    with ThreadPoolExecutor() as pool:
        files = dict(zip(paths, pool.map(digest, paths), strict=True))
    return {CLASSES_FILE: hashlib.sha256(classes).hexdigest()[:16]} | files


def compare_digests(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Put into words what became of the files: "2 files changed (a.png, b.png), 1 file gone (c.png)"; "" if nothing."""
    kinds = {"changed": [path for path in now if before.get(path, now[path]) != now[path]]}
    kinds |= {"added": [path for path in now if path not in before]}
    kinds |= {"gone": [path for path in before if path not in now]}
    told = [f"{len(p)} file{'s' * (len(p) > 1)} {kind} ({some(p)})" for kind, p in kinds.items() if p]
    return ", ".join(told)
