"""Class names, colours and the ignored id; stored mask values <-> class ids <-> colours."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Self

import numpy as np

from seglib.data.values import APART, levels, pack_rgb, snap, tally

IGNORE = 255  # the id of ignored pixels everywhere inside seglib
# Okabe and Ito's colour-blind-safe palette, then Paul Tol's "muted" scheme.
_SAFE_COLORS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (136, 34, 85), (51, 34, 136), (153, 153, 51), (136, 204, 238), (68, 170, 153), (204, 102, 119), (17, 119, 51),
    (221, 204, 119), (170, 68, 153),
)  # fmt: skip


def some(names: Sequence[str], most: int = 3) -> str:
    """Join the first `most` names for a message, with "..." where there are more."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


class DatasetError(ValueError):
    """Something in a dataset is not as expected: what (`detail`), as which finding (`check`), and what to do about it."""

    def __init__(self, detail: str, check: str = "", suggestion: str = "") -> None:
        super().__init__(f"{detail} {suggestion}".rstrip())
        self.detail, self.check, self.suggestion = detail, check, suggestion


def default_colors(count: int) -> np.ndarray:
    """Choose (count, 3) uint8 RGB colours, all different, none black: colour-blind-safe up to 16, then spread hues."""
    colors = list(_SAFE_COLORS[:count])
    for k in range(count - len(colors)):  # golden-ratio steps of hue, cycling lightness and saturation
        rgb = colorsys.hsv_to_rgb(k * 0.618034 % 1, (0.6, 0.45)[k // 3 % 2], (1, 0.8, 0.6)[k % 3])
        colors.append(tuple(round(255 * value) for value in rgb))
    return np.array(colors, dtype=np.uint8).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes of a dataset and how its mask files write them; a DatasetError says where they contradict."""

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
            raise DatasetError(f"{count} classes: expected 1 and at most {IGNORE}; merge some with id_map.")
        if twice := sorted({n for n in self.names if self.names.count(n) > 1}):
            raise DatasetError(f"class names must differ, but {twice} stand more than once.")
        if "id" in self.names:
            raise DatasetError("a class is named 'id', as the column of ids in tables. Choose another name.")
        object.__setattr__(self, "colors_named", len(self.colors) > 0)
        colors = np.asarray(self.colors if self.colors_named else default_colors(count))
        if colors.shape != (count, 3) or colors.min() < 0 or colors.max() > 255:
            raise DatasetError(f"colors must be {count} triples of 0-255, one a class; got {colors.shape}.")
        object.__setattr__(self, "colors", colors.astype(np.uint8))
        if wrong := sorted({*self.id_map.values()} - {*range(count), IGNORE}):
            raise DatasetError(f"id_map leads to ids {wrong}; there are {count} classes (0-{count - 1}).")
        near = np.diff(sorted(self.stored_values(color=False))).min(initial=APART)
        if self.snap and not self.by_color and near < APART:
            told = f"snap needs stored values at least {APART} apart; two of these differ by {near}"
            raise DatasetError(f"{told}. Name them all, as in id_map: {{0: 0, 255: 1}}.")

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

        A DatasetError names values or colours that dataset.yaml does not name.
        """
        color = stored.ndim == 3
        if color and not self.by_color:
            hint = "Give every class one under colors, or map them: id_map: {[128, 64, 128]: 0}."
            raise DatasetError(f"is an RGB image, but dataset.yaml names no colours. {hint}")
        if color and not self.id_map and len(np.unique(self.colors, axis=0)) < len(self):
            raise DatasetError("is an RGB image, but two classes have one colour in dataset.yaml.")
        if self.by_color and self.id_map and not color:
            raise DatasetError("holds single-channel ids, but id_map in dataset.yaml names colours.")
        values = self.stored_values(color)
        if color:
            values = {r << 16 | g << 8 | b: c for (r, g, b), c in values.items()}
        keys = np.array(sorted(values))
        if self.snap:
            stored, far = snap(stored, keys, color)
            if far:
                raise DatasetError(f"holds {far}, inside regions; dataset.yaml names no value near it.")
        elif color:
            stored = pack_rgb(stored)  # (H, W, 3) -> (H, W)
        elif stored.dtype == np.uint8:  # the usual case, several times faster as bytes
            ids = stored.tobytes().translate(bytes(map(values.get, range(256), repeat(len(self)))))
            if len(self) not in ids:  # no value is unknown
                return np.frombuffer(bytearray(ids), np.uint8).reshape(stored.shape)
        place = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
        if (wrong := keys[place] != stored).any():
            unknown = some([f"#{v:06x}" if color else str(v) for v in np.unique(stored[wrong]).tolist()], 8)
            if color:
                hint = "Name them under id_map or colors, or export the mask without interpolation."
                raise DatasetError(f"is an RGB image with unknown colours ({unknown}). {hint}")
            classes = f"{len(self)} classes (0-{len(self) - 1})"
            named = f"{len(self.id_map)} stored values in id_map" if self.id_map else classes
            raise DatasetError(f"holds ids {{{unknown}}}; dataset.yaml names {named}.")
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
    if color or (classes.by_color and classes.id_map):
        return "Correct the mask, or dataset.yaml."
    found = [v for v in ids if v not in (0, IGNORE)]
    if ids[0] < 0:
        return f"If they are ignored, write ignore_ids: {[v for v in ids if v < 0]} into dataset.yaml."
    if found and min(found) >= 1000 and found != [65535]:
        return "They look like instance numbers (class x 1000 + number): name masks of class ids (labelIds)."
    if found == [65535]:
        return f"If 65535 is a class, write {_id_map([0, 65535])} into dataset.yaml."
    in_order = f"If they are the classes in this order, write {_id_map(ids)} into dataset.yaml."
    in_order *= not classes.id_map and 1 < len(ids) <= count
    if found == list(range(1, count + 1)) or (not classes.id_map and found and found[-1] == count):
        line = _id_map(list(range(1, count + 1)), [0] * (ids[0] == 0))
        told = f"If ids begin at 1, write {line} into dataset.yaml ({IGNORE}: ignored)."
        return f"{told} {in_order * (0 in ids)}".rstrip()
    if len(found) > count and found == list(range(1, len(found) + 1)):
        return "Are they instance numbers? Export class ids; or, if all are of one class, id_map: {0: 0, 1: 1, 2: 1, ...}."
    unknown = [v for v in ids if v not in classes.stored_values(color)][:8]
    told = f"If they are ignored, write ignore_ids: {unknown} into dataset.yaml; if they are classes, name those."
    return in_order or f"Correct the mask. {told}"


def _id_map(values: list[int], ignored: Sequence[int] = ()) -> str:
    return f"id_map: {dict.fromkeys(ignored, IGNORE) | {value: c for c, value in enumerate(values)}}"
