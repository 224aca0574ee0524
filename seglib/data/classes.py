"""Class names, colours and the ignored id; stored mask values <-> class ids <-> colours."""

import colorsys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd

IGNORE = 255  # the id of ignored pixels everywhere inside seglib
APART = 16  # grey values between named ids, where others are read as the nearest: JPEG's noise is below half of it
MANY = 24  # values beyond which masks may hold no classes but numbers of objects, or noise
_NOISE = 8  # grey values by which the neighbours in a flat place of a smeared mask differ, at most
_LEAST = 0.005  # share of the pixels in flat places below which they are no class
# Okabe and Ito's colour-blind-safe palette, then Paul Tol's "muted" scheme.
_SAFE_COLORS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (136, 34, 85), (51, 34, 136), (153, 153, 51), (136, 204, 238), (68, 170, 153), (204, 102, 119), (17, 119, 51),
    (221, 204, 119), (170, 68, 153),
)  # fmt: skip


def some(names: Sequence[str], most: int = 3) -> str:
    """Join the first `most` names for a message, with "..." where there are more."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


class ClassError(ValueError):
    """The classes of a dataset contradict themselves, or a mask holds values they do not name."""


def pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Write (..., 3) colours as one number each, red first: (...) int64."""
    return colors.astype(np.int64) @ [65536, 256, 1]


def default_colors(count: int) -> np.ndarray:
    """Choose (count, 3) uint8 RGB colours, all different, none black: colour-blind-safe up to 16, then spread hues."""
    colors = list(_SAFE_COLORS[:count])
    for k in range(count - len(colors)):  # golden-ratio steps of hue, cycling lightness and saturation
        rgb = colorsys.hsv_to_rgb(k * 0.618034 % 1, (0.6, 0.45)[k // 3 % 2], (1, 0.8, 0.6)[k % 3])
        colors.append(tuple(round(255 * value) for value in rgb))
    return np.array(colors, dtype=np.uint8).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes of a dataset and how its mask files write them; a ClassError says where they contradict."""

    names: tuple[str, ...]  # class `c` has id `c` inside seglib
    # (C, 3) uint8 RGB; `default_colors` when empty
    colors: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.uint8), repr=False)
    ignore_ids: tuple[int, ...] = ()  # stored values of ignored pixels, beside 255
    # stored value, or (r, g, b), -> class id (255: ignored); empty: stored values are class ids
    id_map: Mapping[int | tuple[int, int, int], int] = field(default_factory=dict, repr=False)
    snap: bool = False  # read other values as the nearest named one: JPEG, soft edges
    colors_named: bool = field(init=False, default=True, repr=False)  # False: seglib chose the colours

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 0 < count <= IGNORE:
            raise ClassError(f"{count} classes: expected 1 and at most {IGNORE}; merge classes with id_map.")
        if twice := sorted({n for n in self.names if self.names.count(n) > 1}):
            raise ClassError(f"class names must differ, but {twice} stand more than once.")
        if "id" in self.names:
            raise ClassError("a class is named 'id', as the column of ids in tables. Choose another name.")
        object.__setattr__(self, "colors_named", len(self.colors) > 0)
        colors = np.asarray(self.colors if self.colors_named else default_colors(count))
        if colors.shape != (count, 3) or colors.min() < 0 or colors.max() > 255:
            raise ClassError(f"colors must be {count} triples of 0-255, one a class; got {colors.shape}.")
        object.__setattr__(self, "colors", colors.astype(np.uint8))
        if wrong := sorted({*self.id_map.values()} - {*range(count), IGNORE}):
            raise ClassError(f"id_map leads to ids {wrong}; there are {count} classes (0-{count - 1}).")
        near = np.diff(sorted(self.stored_values(color=False))).min(initial=APART)
        if self.snap and not self.by_color and near < APART:
            told = f"snap needs stored values at least {APART} apart; two of these differ by {near}"
            raise ClassError(f"{told}. Name them all, as in id_map: {{0: 0, 255: 1}}.")

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassMap) and self.to_dict() == other.to_dict()

    @property
    def by_color(self) -> bool:
        """Whether RGB masks are read by their colours: dataset.yaml names some."""
        return any(isinstance(key, tuple) for key in self.id_map) if self.id_map else self.colors_named

    def stored_values(self, color: bool) -> dict[int | tuple[int, ...], int]:
        """List which stored values (or which colours) stand for which class id, 255 for ignored pixels."""
        ignored = {} if color else dict.fromkeys(self.ignore_ids, IGNORE)
        if self.id_map:
            return {key: c for key, c in self.id_map.items() if isinstance(key, tuple) == color} | ignored
        if color:  # black is ignored unless a class claims it
            return {(0, 0, 0): IGNORE} | {tuple(rgb): c for c, rgb in enumerate(self.colors.tolist())}
        return {c: c for c in range(len(self))} | ignored | {IGNORE: IGNORE}

    def encode(self, stored: np.ndarray) -> np.ndarray:
        """Turn stored values, (H, W) integers or (H, W, 3) uint8 colours, into (H, W) uint8 class ids, 255 = ignored.

        A ClassError names values or colours that dataset.yaml does not name.
        """
        color = stored.ndim == 3
        if color and not self.by_color:
            hint = "Give every class one under colors, or map them: id_map: {[128, 64, 128]: 0}."
            raise ClassError(f"is an RGB image, but dataset.yaml names no colours. {hint}")
        if self.by_color and self.id_map and not color:
            raise ClassError("holds single-channel ids, but id_map in dataset.yaml names colours.")
        values, flat = self.stored_values(color), _spread(stored) <= _NOISE if self.snap else None
        if color:
            values = {r << 16 | g << 8 | b: c for (r, g, b), c in values.items()}
            stored = pack_rgb(stored)  # (H, W, 3) -> (H, W)
        keys = np.array(sorted(values))
        if self.snap:
            stored = _snap(stored, keys, color, flat)
        elif stored.dtype == np.uint8:  # the usual case, several times faster as bytes
            ids = stored.tobytes().translate(bytes(values.get(v, len(self)) for v in range(256)))
            if len(self) not in ids:  # no value is unknown
                return np.frombuffer(bytearray(ids), np.uint8).reshape(stored.shape)
        place = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
        if (wrong := keys[place] != stored).any():
            unknown = some([f"#{v:06x}" if color else str(v) for v in np.unique(stored[wrong]).tolist()], 8)
            if color:
                hint = "Name them under id_map or colors, or export the mask without interpolation."
                raise ClassError(f"is an RGB image with unknown colours ({unknown}). {hint}")
            classes = f"{len(self)} classes (0-{len(self) - 1})"
            named = f"{len(self.id_map)} stored values in id_map" if self.id_map else classes
            raise ClassError(f"holds ids {{{unknown}}}; dataset.yaml names {named}.")
        return np.array([values[key] for key in keys.tolist()], np.uint8)[place]

    def colorize(self, mask: np.ndarray) -> np.ndarray:
        """Colour (..., H, W) class ids: (..., H, W, 3) uint8 RGB; ignored pixels are black."""
        return self.palette()[mask]

    def palette(self) -> np.ndarray:
        """List the colour of every possible id, (256, 3) uint8, black where there is no class. For palette PNGs."""
        return np.pad(self.colors, ((0, 256 - len(self)), (0, 0)))

    def to_dict(self) -> dict:
        """Turn it into plain data for checkpoints and JSON; `from_dict` reads it back."""
        id_map = [[list(k) if isinstance(k, tuple) else int(k), int(v)] for k, v in self.id_map.items()]
        colors, ignored = self.colors.tolist(), list(self.ignore_ids)
        data = {"names": list(self.names), "colors": colors, "ignore_ids": ignored, "id_map": id_map}
        return data | ({"snap": True} if self.snap else {})

    @classmethod
    def from_dict(cls, data: Mapping) -> Self:
        """Invert `to_dict`."""
        id_map = {tuple(k) if isinstance(k, Sequence) else int(k): int(v) for k, v in data.get("id_map", [])}
        colors, ignored = np.array(data["colors"], np.uint8), tuple(data.get("ignore_ids", ()))
        return cls(tuple(data["names"]), colors, ignored, id_map, bool(data.get("snap")))


def nearest(values: np.ndarray, keys: np.ndarray, color: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest key of each value (V,), colours as 24 bits, and how far it is; from 1 on they are two classes."""
    if not color:
        distance = np.abs(values[:, None] - keys) / APART
    else:
        channels = [(values >> k & 255)[:, None] - (keys >> k & 255) for k in (16, 8, 0)]
        distance = np.linalg.norm(channels, axis=0) / (2 * APART)
    return keys[distance.argmin(axis=1)], distance.min(axis=1)


def _snap(stored: np.ndarray, keys: np.ndarray, color: bool, flat: np.ndarray) -> np.ndarray:
    """Replace every value by the nearest key; a ClassError names one that covers `flat` places far from all keys."""
    values, where = np.unique(stored.astype(np.int64), return_inverse=True)
    near, distance = nearest(values, keys, color)
    where = where.reshape(stored.shape)
    lost = flat & (distance >= 1)[where]
    if lost.mean() > _LEAST:
        most = values[np.bincount(where[lost]).argmax()]
        told = f"holds {f'#{most:06x}' if color else most} or the like in {lost.mean():.1%} of its pixels, inside regions"
        raise ClassError(f"{told}; dataset.yaml names no value near it.")
    return near[where]


def _spread(stored: np.ndarray) -> np.ndarray:
    """How much the values within 3x3 pixels differ, (H, W); of colours, in the channel where they differ most."""
    low = high = np.pad(stored, [(1, 1), (1, 1), (0, 0)][: stored.ndim], "edge")
    for _ in range(2):  # rows, then columns
        low = np.minimum(np.minimum(low[:-2], low[1:-1]), low[2:]).swapaxes(0, 1)
        high = np.maximum(np.maximum(high[:-2], high[1:-1]), high[2:]).swapaxes(0, 1)
    return high - low if stored.ndim == 2 else (high - low).max(axis=2)


def tally(stored: np.ndarray) -> pd.DataFrame:
    """Count a mask's values, colours as 24 bits: `pixels`, those whose 3x3 are `equal`, and `flat`: nearly equal."""
    values, where = np.unique(pack_rgb(stored) if stored.ndim == 3 else stored * 1, return_inverse=True)
    spread, most = _spread(stored * 1).ravel(), {"pixels": np.inf, "equal": 0, "flat": _NOISE}
    counts = {name: np.bincount(where.ravel(), spread <= n, len(values)) for name, n in most.items()}
    return pd.DataFrame(counts, values.astype(np.int64), dtype=int)


def levels(counts: pd.DataFrame, color: bool, lossy: bool = False) -> list[int] | None:
    """Tell what smeared masks held before JPEG or smooth edges, commonest first: [] if that is unclear, as in photographs.

    None if the `tally` is of sharp masks, and `lossy` does not say otherwise.
    """
    values, (pixels, equal, flat) = counts.index.to_numpy(), counts.to_numpy().T
    specks = equal < 0.05 * pixels  # a class has an inside
    ids = not color and len(values) <= MANY / 2 and np.diff(values).min(initial=0) < APART
    if not flat.any() or (not lossy and (ids or len(values) < 5 or specks.mean() < 0.5)):
        return None
    kept, left = [], flat.copy()
    while left.sum() > _LEAST * flat.sum():
        kept.append(int(values[left.argmax()]))
        left[nearest(values, np.array(kept[-1:]), color)[1] < 1] = 0
    close = flat[nearest(values, np.array(kept), color)[1] < 0.25].sum()
    if close < 0.8 * flat.sum() or flat.sum() < 0.3 * pixels.sum():
        return []
    if len(kept) == 1 and not color and kept[0] < APART and 255 - APART < values[-1] <= 255:
        kept.append(255)  # lines too thin for an inside
    return kept


def palette_conflict(palettes: Iterable[Mapping[int, tuple[int, ...]]]) -> str:
    """Say which colour has two indices, if several have, and an index has several colours; "" if palettes agree."""
    pairs = {pair for palette in palettes for pair in palette.items()}
    indices, colors = (Counter(side) for side in zip(*pairs, strict=True)) if pairs else ({}, {})
    twice = sorted(rgb for rgb, count in colors.items() if count > 1)
    if len(twice) < 2 or max(indices.values()) < 2:
        return ""
    one, two, *_ = sorted(index for index, rgb in pairs if rgb == twice[0])
    return f"palettes differ: {twice[0]} is index {one} in one and {two} in another, and so are others."


def suggest(stored: np.ndarray, classes: ClassMap) -> str:
    """Suggest what to write into dataset.yaml for a mask with unknown values, (H, W) ids or (H, W, 3) colours."""
    color, count, counts = stored.ndim == 3, len(classes), tally(stored)
    ids = counts.index.tolist()
    if classes.snap:
        return "Name it there: a class, or 255 if it is to be ignored."
    if kept := levels(counts, color):
        named = "" if classes.id_map or color or len(kept) < 2 else f" and {_id_map(sorted(kept))}"
        told = "Its values are smeared, by JPEG or smooth edges: export it as PNG without smoothing, or write"
        return f"{told} snap: true{named} into dataset.yaml: pixels are read as the nearest named value."
    found, suggestion = [v for v in ids if v not in (0, IGNORE)], "Correct the mask, or dataset.yaml."
    if color:
        return suggestion
    if ids[0] < 0:
        return f"If they are ignored, write ignore_ids: {[v for v in ids if v < 0]} into dataset.yaml."
    if ids in ([0, 65535], [65535]):
        return f"If 65535 is a class, write {_id_map([0, 65535])} into dataset.yaml."
    if found and min(found) >= 1000:
        return "They look like instance numbers (class x 1000 + number): name masks of class ids (labelIds)."
    in_order = f"If they are the classes in this order, write {_id_map(ids)} into dataset.yaml."
    in_order *= not classes.id_map and 1 < len(ids) <= count
    if found == list(range(1, count + 1)) or (not classes.id_map and found and found[-1] == count):
        line = _id_map(list(range(1, count + 1)), [0] * (ids[0] == 0))
        told = f"If ids begin at 1, write {line} into dataset.yaml ({IGNORE}: ignored)."
        return f"{told} {in_order * (0 in ids)}".rstrip()
    if len(found) > count and found == list(range(1, len(found) + 1)):
        return "Are they instance numbers? Export class ids; or, if all are of one class, id_map: {0: 0, 1: 1, 2: 1, ...}."
    return in_order or suggestion


def _id_map(values: list[int], ignored: Sequence[int] = ()) -> str:
    return f"id_map: {dict.fromkeys(ignored, IGNORE) | {value: c for c, value in enumerate(values)}}"
