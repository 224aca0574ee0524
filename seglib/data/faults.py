"""Faults to plant in a dataset: label faults of a mask and degradations of a picture, as pure functions.

Every label fault changes a stated share of the mask, or is not planted at all: a fault that nobody could measure proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seglib.data.classes import IGNORE
from seglib.data.regions import label_regions

LABEL_FAULTS = ("swapped_classes", "missing_object", "shifted_mask", "wrong_mask")
DEGRADATIONS = ("blur", "noise", "dark", "washed_out")
KINDS = LABEL_FAULTS + DEGRADATIONS
LEVELS = ("mild", "moderate", "severe")
PLANTED_COLUMNS = ["sample", "split", "kind", "severity", "box", "detail"]

MIN_CHANGE = 0.002  # share of the scored pixels that a label fault changes at least: 19 x 19 pixels of 480 x 360
MIN_WIDTH = 0.015  # an object holds a square of this share of the longer side: what is thinner drowns in the outlines
SHIFT = (0.04, 0.10)  # how far a mask slips, as a share of the longer side
_SEVERE, _MODERATE = 0.1, 0.02  # changed shares from which a label fault is called so
_THING = 0.05  # a class that covers less of the images that show it is of things, not of background
_DEMO_SIDE = 128  # the longer side of the pictures for which the degradations were drawn up
_GRAIN_SIDE = 512  # up to this longer side grain is one pixel wide; noise finer than the scene would average out


@dataclass(frozen=True)
class LabelFault:
    """A mask at fault.

    Args:
        mask: (H, W) uint8 ids, 255 = ignore.
        kind: one of `LABEL_FAULTS`.
        share: of the scored pixels, how many it changes.
        box: x0, y0, x1, y1 in pixels around the change, x1 and y1 exclusive; None: the whole image.
        detail: what was done, in words.
    """

    mask: np.ndarray
    kind: str
    share: float
    box: tuple[int, int, int, int] | None
    detail: str

    @property
    def severity(self) -> str:
        return LEVELS[int(self.share > _MODERATE) + int(self.share > _SEVERE)]


@dataclass(frozen=True)
class ClassUse:
    """What a dataset's masks show of its classes.

    Args:
        names: of the classes.
        occurring: (C,) bool, in any of the masks.
        things: (C,) bool, classes of objects: they cover on average under a twentieth of the images that show them. All that
            occur where there are none such.
    """

    names: tuple[str, ...]
    occurring: np.ndarray
    things: np.ndarray

    @classmethod
    def survey(cls, masks: Iterable[np.ndarray], names: tuple[str, ...]) -> ClassUse:
        """Look at masks (H, W) one by one."""
        shares, images = np.zeros(len(names)), np.zeros(len(names))
        for mask in masks:
            counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(names)]
            shares += counts / max(mask.size, 1)
            images += counts > 0
        occurring = images > 0
        things = occurring & (shares < _THING * images)
        return cls(tuple(names), occurring, things if things.any() else occurring)


def label_fault(
    kind: str, mask: np.ndarray, use: ClassUse, rng: np.random.Generator, other: tuple[str, np.ndarray] | None = None
) -> LabelFault | None:
    """A label fault of one of `LABEL_FAULTS`; None where this mask cannot have it. `other`: name and mask of another image."""
    if kind == "swapped_classes":
        return swap_class(mask, use, rng)
    if kind == "missing_object":
        return miss_object(mask, use, rng)
    if kind == "shifted_mask":
        return slip_mask(mask, rng)
    if kind == "wrong_mask":
        return foreign_mask(mask, *other) if other else None
    raise ValueError(f"no label fault {kind!r}; expected one of {', '.join(LABEL_FAULTS)}.")


def swap_class(mask: np.ndarray, use: ClassUse, rng: np.random.Generator) -> LabelFault | None:
    """One object, or all that is of a class (evenly often, where there are both), labelled as another class that occurs.

    Objects are of the classes of things and large enough (`MIN_CHANGE`, `MIN_WIDTH`); a whole class changes `MIN_CHANGE` or more.
    """
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(use.names)]
    whole = np.flatnonzero((counts > 0) & (counts >= MIN_CHANGE * counts.sum()))
    objects = _objects(mask, use)
    if use.occurring.sum() < 2 or not (len(whole) or objects):
        return None
    if objects and (not len(whole) or rng.random() < 0.5):
        where = objects[rng.integers(len(objects))]
        given, what = int(mask[where][0]), "one "
    else:
        given, what = int(rng.choice(whole)), "all "
        where = mask == given
    others = np.flatnonzero(use.occurring & (np.arange(len(use.names)) != given))
    if not len(others):
        return None
    wrong = int(rng.choice(others))
    changed = np.where(where, np.uint8(wrong), mask)
    return _fault("swapped_classes", mask, changed, f"{what}{use.names[given]} labelled {use.names[wrong]}")


def miss_object(mask: np.ndarray, use: ClassUse, rng: np.random.Generator) -> LabelFault | None:
    """One object left out: every pixel of it gets the label of the nearest scored pixel around it."""
    objects = _objects(mask, use)
    if not objects:
        return None
    where = objects[rng.integers(len(objects))]
    unknown = where | (mask == IGNORE)
    if unknown.all():
        return None
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    changed = np.where(where, mask[tuple(nearest)], mask)
    return _fault("missing_object", mask, changed, f"{use.names[int(mask[where][0])]} left out")


def slip_mask(mask: np.ndarray, rng: np.random.Generator) -> LabelFault | None:
    """The whole mask moved in any direction by `SHIFT` of the longer side; what enters repeats the edge.

    So it looks when a crop or an export is off: labels everywhere, none of them where it belongs.
    """
    height, width = mask.shape
    far, angle = rng.uniform(*SHIFT) * max(mask.shape), rng.uniform(0, 2 * math.pi)
    dx, dy = round(far * math.cos(angle)), round(far * math.sin(angle))
    rows = np.clip(np.arange(height) - dy, 0, height - 1)[:, None]
    changed = mask[rows, np.clip(np.arange(width) - dx, 0, width - 1)[None, :]]
    return _fault("shifted_mask", mask, changed, f"dx {dx}; dy {dy}")


def foreign_mask(mask: np.ndarray, name: str, other: np.ndarray) -> LabelFault | None:
    """The mask of another image, `name`; None where the two differ in size, or hardly at all."""
    return _fault("wrong_mask", mask, other, f"mask of {name}") if other.shape == mask.shape else None


def _fault(kind: str, mask: np.ndarray, changed: np.ndarray, detail: str) -> LabelFault | None:
    differs, scored = mask != changed, mask != IGNORE
    share = np.count_nonzero(differs & scored) / max(np.count_nonzero(scored), 1)
    if share < MIN_CHANGE or (changed == IGNORE).all():
        return None
    box = None if kind in ("shifted_mask", "wrong_mask") else bounding_box(differs)
    return LabelFault(changed.astype(np.uint8), kind, share, box, f"{detail}; changed {share:.3f}")


def _objects(mask: np.ndarray, use: ClassUse) -> list[np.ndarray]:
    """Connected regions of the classes of things, large and wide enough to be missed: (H, W) bool each."""
    labels, values, sizes = label_regions(mask)
    things = np.append(use.things, np.zeros(IGNORE + 1 - len(use.things), bool))
    scored = np.count_nonzero(mask != IGNORE)
    large = np.flatnonzero(things[values] & (sizes >= MIN_CHANGE * scored) & (sizes < 0.5 * scored))
    side = max(1, round(MIN_WIDTH * max(mask.shape)))
    found = []
    for region in large:
        where = labels == region
        x0, y0, x1, y1 = bounding_box(where)
        inside = where[y0:y1, x0:x1].astype(np.uint8)
        if ndimage.minimum_filter(inside, size=side, mode="constant", cval=0).any():
            found.append(where)
    return found


def bounding_box(where: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around what is true in (H, W) bool, x1 and y1 exclusive; some of it must be."""
    rows, cols = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def degrade(image: np.ndarray, kind: str, level: int, grain: np.ndarray) -> np.ndarray:
    """A picture taken badly.

    Args:
        image: (H, W, 3) uint8 RGB.
        kind: one of `DEGRADATIONS`; blur grows with the picture's longer side.
        level: 1 (mild), 2 or 3 (severe).
        grain: (H, W, 3) float32 noise of mean 0 and deviation 1, as of `film_grain`.

    Returns:
        (H, W, 3) uint8.
    """
    pixels = image.astype(np.float32)
    if kind == "blur":
        return _box_blur(image, max(level, round((1, 2, 4)[level - 1] * max(image.shape[:2]) / _DEMO_SIDE)))
    if kind == "noise":
        return rounded(pixels + (14.0, 28.0, 50.0)[level - 1] * grain)
    if kind == "dark":
        return rounded(pixels * (0.36, 0.22, 0.13)[level - 1] + 2.5 * grain)
    if kind == "washed_out":
        return rounded(205.0 + (pixels - 128.0) * (0.45, 0.3, 0.18)[level - 1] + 1.5 * grain)
    raise ValueError(f"no degradation {kind!r}; expected one of {', '.join(DEGRADATIONS)}.")


def film_grain(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 normal noise whose grains grow with the picture, so that it is as visible in a large one."""
    size = max(1, round(max(shape[:2]) / _GRAIN_SIDE))
    coarse = rng.standard_normal((-(-shape[0] // size), -(-shape[1] // size), 3), dtype=np.float32)
    return coarse.repeat(size, axis=0).repeat(size, axis=1)[: shape[0], : shape[1]]


def _box_blur(image: np.ndarray, radius: int) -> np.ndarray:
    """The mean over a square of 2 `radius` + 1 pixels, edges repeated; in integers, so that it is the same everywhere."""
    whole = image.astype(np.int64)
    for axis in (0, 1):
        border = [(0, 0)] * 3
        border[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(whole, border, mode="edge"), axis=axis)
        length = image.shape[axis]
        reach = 2 * radius + 1
        ahead = total.take(np.arange(reach, reach + length), axis)
        whole = (ahead - total.take(np.arange(length), axis)) // reach
    return whole.astype(np.uint8)


def rounded(pixels: np.ndarray) -> np.ndarray:
    """float32 colours -> uint8, clipped and rounded half up."""
    return np.floor(np.clip(pixels, 0.0, 255.0) + 0.5).astype(np.uint8)
