"""Class names, colours and the ignored id; stored mask values <-> class ids <-> colours."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

IGNORE = 255  # the id of ignored pixels everywhere inside seglib
APART = 16  # grey values between named ids, where others are read as the nearest: JPEG's noise is below half of it
_MANY, _RARE = 12, 0.2  # values in a smeared mask, and the share of the pixels that the rare ones cover
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
        values = self.stored_values(color)
        if color:
            values = {r << 16 | g << 8 | b: c for (r, g, b), c in values.items()}
            stored = pack_rgb(stored)  # (H, W, 3) -> (H, W)
        keys = np.array(sorted(values))
        if self.snap:
            stored = _nearest(stored, keys, color)
        elif stored.dtype == np.uint8:  # the usual case, several times faster as bytes
            raw, lut = stored.tobytes(), bytes(values.get(v, 0) for v in range(256))
            if not raw.translate(None, bytes(v for v in values if 0 <= v < 256)):  # no unknown value is left
                return np.frombuffer(bytearray(raw.translate(lut)), np.uint8).reshape(stored.shape)
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


def _nearest(stored: np.ndarray, keys: np.ndarray, color: bool) -> np.ndarray:
    """Replace every value by the nearest key; colours, as 24 bits, by the one that differs least in RGB."""
    if not color:
        return keys[np.searchsorted((keys[1:] + keys[:-1]) / 2, stored)]
    values, where = np.unique(stored, return_inverse=True)
    rgb, named = (np.stack([v >> 16, v >> 8 & 255, v & 255], -1) for v in (values, keys))
    return keys[((rgb[:, None] - named) ** 2).sum(-1).argmin(1)][where].reshape(stored.shape)


def suggest(stored: np.ndarray, classes: ClassMap) -> str:
    """Suggest what to write into dataset.yaml for a mask with unknown values, (H, W) ids or (H, W, 3) colours."""
    color, count = stored.ndim == 3, len(classes)
    values, counts = np.unique(pack_rgb(stored) if color else stored, return_counts=True)
    ids = values.tolist()
    common = values[counts > 0.02 * counts.sum()].tolist()
    rare = counts[~np.isin(values, common)].sum() / counts.sum()
    if len(ids) > max(_MANY, 2 * len(common)) and rare < _RARE:
        kept: list[int] = []
        for value in values[np.argsort(-counts)][: len(common)].tolist():  # noise lies about a common value
            kept += [value] if all(abs(value - other) >= APART for other in kept) else []
        named = "" if classes.id_map or color else f" and {_id_map(sorted(kept))}"
        told = "Its values are smeared, by JPEG or smooth edges: export it as PNG without smoothing, or write"
        return f"{told} snap: true{named} into dataset.yaml: pixels are read as the nearest named value."
    found, suggestion = [v for v in ids if v not in (0, IGNORE)], "Correct the mask, or dataset.yaml."
    if color:
        return suggestion
    if ids[0] < 0:
        return f"If they are ignored, write ignore_ids: {[v for v in ids if v < 0]} into dataset.yaml."
    if found and min(found) >= 1000:
        return "They look like instance numbers (class x 1000 + number): name masks of class ids (labelIds)."
    if found == list(range(1, count + 1)) or (not classes.id_map and found and found[-1] == count):
        line = _id_map(list(range(1, count + 1)), [0] * (ids[0] == 0))
        return f"If ids begin at 1, write {line} into dataset.yaml ({IGNORE}: ignored)."
    if len(found) > count and found == list(range(1, len(found) + 1)):
        return "Are they instance numbers? Export class ids; or, if all are of one class, id_map: {0: 0, 1: 1, 2: 1, ...}."
    if not classes.id_map and 1 < len(ids) <= count:
        return f"If they are the classes in this order, write {_id_map(ids)} into dataset.yaml."
    return suggestion


def _id_map(values: list[int], ignored: Sequence[int] = ()) -> str:
    return f"id_map: {dict.fromkeys(ignored, IGNORE) | {value: c for c, value in enumerate(values)}}"
