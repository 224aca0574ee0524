"""Inject recorded faults into a copy of any dataset, to measure on one's own data what finds faults.

Label faults change the mask (at least `MIN_CHANGE`: what cannot be measured proves nothing), degradations the image.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
import yaml
from PIL import Image, ImageFilter
from scipy import ndimage

from seglib.data.classes import IGNORE, DatasetError
from seglib.data.config import FILE_NAME
from seglib.data.dataset import Dataset, read_pair
from seglib.data.image_io import read_mask
from seglib.data.overlay import label_regions
from seglib.runs import atomic_folder, display_path, read_table, resolve_path, write_csv, write_text

LABEL_FAULTS = ("swapped_classes", "missing_object", "shifted_mask", "wrong_mask")
LABEL_FAULTS += ("crude_outline", "swollen_outline")
DEGRADATIONS = ("blur", "noise", "dark", "washed_out")
FAULT_KINDS = LABEL_FAULTS + DEGRADATIONS
LEVELS = ("mild", "moderate", "severe")
MIN_CHANGE = 0.002  # share of the valid pixels: 19 x 19 pixels of 480 x 360
MIN_WIDTH = 0.015  # an object holds a square of this share of the longer side, else it drowns in outlines
# As shares of the longer side: how far a mask shifts, the cells of a crude outline, by how much objects swell.
SHIFT, CELLS, SWELLING = (0.04, 0.10), (0.02, 0.05), (0.008, 0.02)
_GROUP = r"^(?P<group>[^/]+)/(?:(?P<frame>\d+)|-)/"


class Fault(NamedTuple):
    """Cells of planted.csv and, of a label fault, the faulty mask (H, W) uint8."""

    kind: str
    severity: str
    box: str = ""
    detail: str = ""
    mask: np.ndarray | None = None


def inject_faults(
    dataset: Dataset,
    out: str | Path,
    kinds: Sequence[str] = FAULT_KINDS,
    share: float = 0.2,
    splits: Sequence[str] = ("val",),
    seed: int = 0,
) -> pd.DataFrame:
    """Copy a dataset into the new folder `out` and inject faults, one a chosen sample, all kinds equally often.

    Images become PNGs of what was read, masks palette PNGs of class ids. Ids, splits, sequences and frames stay. The
    correct masks of label faults go to clean_masks/<sample>.png.

    Args:
        share: of the samples of each of `splits` that get a fault, in (0, 1]; at least one sample.

    Returns:
        planted.csv: `sample`, `split`, `kind`, `severity` (of a label fault by the share of valid pixels that it
        changes: "mild" up to 0.02, "moderate" up to 0.1, "severe"), `box` ("x0 y0 x1 y1" in pixels, x1 and y1
        exclusive; empty: the whole image), `detail`.
    """
    out = resolve_path(out)
    if not kinds or not set(kinds) <= set(FAULT_KINDS) or not 0 < share <= 1:
        told = f"kinds {', '.join(kinds)}, share {share}: expected some of {', '.join(FAULT_KINDS)}, and a share up to 1."
        raise ValueError(told)
    if out.exists() or out.resolve().is_relative_to(dataset.root.resolve()):
        raise FileExistsError(f"{display_path(out)} exists, or lies in the dataset. Name another folder.")
    faults: dict[str, Fault] = {}
    for split in splits:
        faults |= plan_faults(dataset, split, kinds, share, seed)
    with atomic_folder(out) as folder:
        for row in dataset.samples.itertuples():
            _write_sample(dataset, row, faults.get(row.id), folder, seed)
        rows = [(r.id, r.split, *faults[r.id][:4]) for r in dataset.samples.itertuples() if r.id in faults]
        table = pd.DataFrame(rows, columns=["sample", "split", *Fault._fields[:4]])
        write_csv(folder / "planted.csv", table)
        classes, sides = dataset.classes, ("images", "masks")
        globs = {split: {side: f"{split}/{side}/**/*.png" for side in sides} for split in dataset.splits}
        values = {"name": f"{dataset.name[:64]}_planted", "classes": list(classes.names), "group": _GROUP}
        values |= {"colors": classes.colors.tolist(), "splits": globs}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_text(folder / FILE_NAME, text)
    return table


def planted(folder: str | Path) -> pd.DataFrame:
    """Read planted.csv of a dataset with recorded faults; all cells are text, "" where empty."""
    return read_table(Path(folder) / "planted.csv")


def _write_sample(dataset: Dataset, row: Any, fault: Fault | None, folder: Path, seed: int) -> None:
    image, mask = read_pair(dataset, row)
    frame = "-" if pd.isna(row.frame) else row.frame
    place = f"{quote(row.group, safe='')}/{frame}/{row.id}" if row.group else row.id  # read back by `_GROUP`
    if fault and fault.mask is None:
        rng = np.random.default_rng([seed, zlib.crc32(row.id.encode())])
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        image = degrade(image, fault.kind, LEVELS.index(fault.severity) + 1, grain)
    files = {f"{row.split}/images/{place}.png": image, f"{row.split}/masks/{place}.png": mask}
    if fault and fault.mask is not None:
        files |= {f"{row.split}/masks/{place}.png": fault.mask, f"clean_masks/{row.id}.png": mask}
    for name, pixels in files.items():
        path, picture = folder / name, Image.fromarray(pixels)
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels.ndim == 2:
            picture.putpalette(dataset.classes.palette().tobytes())
        picture.save(path, compress_level=1)


def plan_faults(dataset: Dataset, split: str, kinds: Sequence, share: float, seed: int) -> dict[str, Fault]:
    """Choose a `Fault` for some samples of a split, by id; arguments as of `inject_faults`."""
    samples, kinds = dataset.split(split), list(dict.fromkeys(kinds))
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    left = [samples.iloc[k] for k in rng.permutation(len(samples))]
    offset, chosen = int(rng.integers(len(kinds))), {}
    labels = LabelFaults(dataset, samples, rng) if set(kinds) & set(LABEL_FAULTS) else None
    for number in range(max(1, round(share * len(samples)))):
        kind, level = kinds[(offset + number) % len(kinds)], LEVELS[number // len(kinds) % len(LEVELS)]
        for k, row in enumerate(left):
            if fault := labels.make(kind, row) if kind in LABEL_FAULTS else Fault(kind, level):
                chosen[left.pop(k)["id"]] = fault
                break
        else:
            detail = f"{kind} fits none of the {len(left)} samples left in split {split!r} of {len(samples)}."
            raise DatasetError(detail, "inject", "Inject fewer faults, or leave this kind out.")
    return chosen


class LabelFaults:
    """Make label faults for the samples of one split; each maker returns the changed mask and words, or None.

    Every `step`-th pixel of a mask is taken, in rows and columns.
    """

    def __init__(self, dataset: Dataset, samples: pd.DataFrame, rng: Any, step: int = 1) -> None:
        self.dataset, self.samples, self.rng, self.step = dataset, samples, rng, step
        self.names = dataset.classes.names
        counts = [np.bincount(self.mask(row).ravel(), minlength=IGNORE + 1) for _, row in samples.iterrows()]
        shares = np.array([count / count.sum() for count in counts])[:, : len(self.names)]  # (N, C)
        self.occurring = (shares > 0).any(axis=0)
        # Classes of objects: they cover under 5 % of the images that show them. If there are none such, all but the largest.
        total = shares.sum(axis=0)
        things = self.occurring & (total < 0.05 * (shares > 0).sum(axis=0))
        things = things if things.any() else self.occurring & (total < total.max())
        self.things = things if things.any() else self.occurring

    def mask(self, row: pd.Series) -> np.ndarray:
        mask = read_mask(self.dataset.root / row["mask"], self.dataset.classes, row["id"])
        return mask[self.step // 2 :: self.step, self.step // 2 :: self.step]

    def make(self, kind: str, row: pd.Series) -> Fault | None:
        mask = self.mask(row)
        changed, detail = getattr(self, kind)(row, mask) or (mask, "")
        differs, valid = mask != changed, mask != IGNORE
        share = np.count_nonzero(differs & valid) / max(np.count_nonzero(valid), 1)
        if share < MIN_CHANGE or (changed == IGNORE).all():
            return None
        local = kind in ("swapped_classes", "missing_object")
        rows, columns = ndimage.find_objects(differs.astype(np.uint8))[0]
        box = f"{columns.start} {rows.start} {columns.stop} {rows.stop}" if local else ""
        level = LEVELS[int(share > 0.02) + int(share > 0.1)]
        return Fault(kind, level, box, f"{detail}; changed {share:.3f}", changed)

    def swapped_classes(self, row: pd.Series, mask: np.ndarray) -> tuple[np.ndarray, str] | None:
        """One object or all of a class, equally often, labelled as another class."""
        counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(self.names)]
        whole = np.flatnonzero((counts > 0) & (counts >= MIN_CHANGE * counts.sum()))
        objects = self.objects(mask)
        if self.occurring.sum() < 2 or not len(whole):  # nothing else to call it, or no valid pixel
            return None
        one = objects and self.rng.random() < 0.5
        where = objects[self.rng.integers(len(objects))] if one else mask == self.rng.choice(whole)
        given = mask[where][0]
        wrong = self.rng.choice([c for c in np.flatnonzero(self.occurring) if c != given])
        detail = f"{'one' if one else 'all'} {self.names[given]} labelled {self.names[wrong]}"
        return np.where(where, np.uint8(wrong), mask), detail

    def missing_object(self, row: pd.Series, mask: np.ndarray) -> tuple[np.ndarray, str] | None:
        """One object with the labels around it."""
        if not (objects := self.objects(mask)):
            return None
        where = objects[self.rng.integers(len(objects))]
        unknown = where | (mask == IGNORE)
        _, nearest = ndimage.distance_transform_edt(unknown, return_indices=True)
        return np.where(where, mask[tuple(nearest)], mask), f"{self.names[int(mask[where][0])]} left out"

    def shifted_mask(self, row: pd.Series, mask: np.ndarray) -> tuple[np.ndarray, str]:
        """The mask moved by `SHIFT` in any direction; what enters repeats the edge."""
        far, angle = self.rng.uniform(*SHIFT) * max(mask.shape), self.rng.uniform(0, 2 * math.pi)
        dx, dy = round(far * math.cos(angle)), round(far * math.sin(angle))
        return ndimage.shift(mask, (dy, dx), order=0, mode="nearest"), f"dx {dx}; dy {dy}"

    def wrong_mask(self, row: pd.Series, mask: np.ndarray) -> tuple[np.ndarray, str] | None:
        """The mask of another sample, of another sequence if there is one: a neighbour's would almost fit."""
        others = self.samples[self.samples["id"] != row["id"]]
        elsewhere = others[(others["group"] != row["group"]) | (others["group"] == "")]
        others = others if elsewhere.empty else elsewhere
        if others.empty:
            return None
        other = others.iloc[int(self.rng.integers(len(others)))]
        changed = self.mask(other)
        return (changed, f"mask of {other['id']}") if changed.shape == mask.shape else None

    def crude_outline(self, row: pd.Series, mask: np.ndarray) -> tuple[np.ndarray, str]:
        """Every outline drawn in cells of `CELLS`, or rounded off as much, equally often."""
        cell = max(2, round(self.rng.uniform(*CELLS) * max(mask.shape)))
        middles = []
        for n, start in zip(mask.shape, self.rng.integers(cell, size=2), strict=True):
            middle = (np.arange(n) + start) // cell * cell + cell // 2 - start
            middles.append(middle.clip(0, n - 1))
        crude = mask[np.ix_(*middles)]
        if self.rng.random() < 0.5:
            ids = np.unique(crude)
            shares = [ndimage.uniform_filter((crude == c).astype(np.float32), cell) for c in ids]
            crude = ids[np.argmax(shares, axis=0)]
        return np.where(mask == IGNORE, IGNORE, crude).astype(np.uint8), f"cells of {cell} pixels"

    def swollen_outline(self, row: pd.Series, mask: np.ndarray) -> tuple[np.ndarray, str]:
        """All objects grown over their surroundings by `SWELLING`."""
        reach = max(1, round(self.rng.uniform(*SWELLING) * max(mask.shape)))
        outside = ~np.isin(mask, np.flatnonzero(self.things))
        if outside.all():
            return mask, ""
        distance, nearest = ndimage.distance_transform_edt(outside, return_indices=True)
        grown = (distance <= reach) & (mask != IGNORE)
        return np.where(grown, mask[tuple(nearest)], mask), f"grown by {reach} pixels"

    def objects(self, mask: np.ndarray) -> list[np.ndarray]:
        """Connected regions of things that are large and wide enough to be missed: (H, W) bool each."""
        labels, values, sizes = label_regions(mask)
        side, valid = max(1, round(MIN_WIDTH * max(mask.shape))), np.count_nonzero(mask != IGNORE)
        low = ndimage.minimum_filter(labels, side, mode="constant", cval=-1)
        wide = np.unique(low[low == ndimage.maximum_filter(labels, side)])  # they hold a square
        things = wide[np.isin(values[wide], np.flatnonzero(self.things))]
        return [labels == k for k in things if MIN_CHANGE * valid <= sizes[k] < 0.5 * valid]


def degrade(image: np.ndarray, kind: str, level: int, grain: np.ndarray) -> np.ndarray:
    """Degrade an image (H, W, 3) uint8 at level 1 (mild), 2 or 3; grain is (H, W, 3) noise of deviation 1."""
    if kind == "blur":
        radius = max(level, round((1, 2, 4)[level - 1] * max(image.shape[:2]) / 128))
        return np.asarray(Image.fromarray(image).filter(ImageFilter.BoxBlur(radius)))
    pixels = image.astype(np.float32)
    if kind == "noise":
        pixels += (14.0, 28.0, 50.0)[level - 1] * grain
    elif kind == "dark":
        pixels = pixels * (0.36, 0.22, 0.13)[level - 1] + 2.5 * grain
    else:  # washed_out
        pixels = 205.0 + (pixels - 128.0) * (0.45, 0.3, 0.18)[level - 1] + 1.5 * grain
    return np.floor(np.clip(pixels, 0.0, 255.0) + 0.5).astype(np.uint8)
