"""Class names, colours and the ignore id; stored mask values <-> class ids <-> colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

IGNORE = 255  # the id of pixels that are not scored, everywhere inside seglib
_BLOCK = 1 << 20  # pixels whose colours are looked up at a time: that takes 40 bytes a pixel

# Okabe and Ito's colour-blind-safe palette, then Paul Tol's "muted" scheme: told apart under the common colour deficiencies.
_SAFE_COLORS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (136, 34, 85), (51, 34, 136), (153, 153, 51), (136, 204, 238), (68, 170, 153), (204, 102, 119), (17, 119, 51),
    (221, 204, 119), (170, 68, 153),
)  # fmt: skip


class ClassError(ValueError):
    """The classes of a dataset contradict themselves, or a mask holds values they do not name."""


def default_colors(count: int) -> np.ndarray:
    """Colours for `count` classes: colour-blind-safe up to 16, then well-spread hues of varying lightness.

    Returns:
        (count, 3) uint8 RGB, all different, none of them black (black is for ignored pixels).
    """
    colors = list(_SAFE_COLORS[:count])
    # Golden-ratio hue steps with cycling lightness; integers only, so that the palette is the same everywhere.
    for k in range(count - len(colors)):
        hue, value, chroma = (k * 977) % 1536, (255, 205, 155)[k % 3], (150, 105)[k // 3 % 2]
        sector, step = divmod(hue, 256)
        rise, fall = chroma * step // 255, chroma * (255 - step) // 255
        rgb = (
            (chroma, rise, 0),
            (fall, chroma, 0),
            (0, chroma, rise),
            (0, fall, chroma),
            (rise, 0, chroma),
            (chroma, 0, fall),
        )
        colors.append(tuple(int(value - chroma + c) for c in rgb[sector]))
    return np.array(colors, dtype=np.uint8).reshape(-1, 3)


@dataclass(frozen=True)
class ClassMap:
    """The classes of a dataset and how its mask files write them.

    Args:
        names: one name a class; class `c` has id `c` inside seglib.
        colors: (C, 3) uint8 RGB; `default_colors` when empty.
        ignore_ids: stored values that are not scored; they become `IGNORE` (255).
        id_map: stored value, or (r, g, b), -> class id (255: ignore). Empty: stored values are class ids.

    Raises:
        ClassError: no class, more than 255 classes, a name twice or reserved, colours that do not match, an id_map to an unknown id.
    """

    names: tuple[str, ...]
    colors: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.uint8), repr=False)
    ignore_ids: tuple[int, ...] = ()
    id_map: Mapping[int | tuple[int, int, int], int] = field(default_factory=dict, repr=False)
    # Whether masks may be read by colour: nobody stored a mask in colours that only seglib chose.
    colors_named: bool = field(init=False, default=True, repr=False)

    def __post_init__(self) -> None:
        count = len(self.names)
        if count == 0:
            raise ClassError("0 classes: dataset.yaml must name at least one under 'classes'.")
        if count > IGNORE:
            raise ClassError(
                f"{count} classes: at most {IGNORE} fit beside the ignore id {IGNORE} in 8-bit masks. Merge classes with id_map."
            )
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            raise ClassError(f"class names must differ, but {twice} stand more than once.")
        if "id" in self.names:
            raise ClassError(
                "a class is named 'id', as is the column of sample ids in every table. Choose another name."
            )
        object.__setattr__(self, "colors_named", len(self.colors) > 0)
        if not self.colors_named:
            object.__setattr__(self, "colors", default_colors(count))
        colors = np.asarray(self.colors)
        if colors.shape != (count, 3) or colors.min() < 0 or colors.max() > 255:
            raise ClassError(f"colors must be {count} triples of 0-255, one a class; got shape {colors.shape}.")
        object.__setattr__(self, "colors", colors.astype(np.uint8))
        wrong = sorted({int(v) for v in self.id_map.values() if not (0 <= v < count or v == IGNORE)})
        if wrong:
            raise ClassError(
                f"id_map leads to ids {wrong}; there are {count} classes (0-{count - 1}) and {IGNORE} for ignore."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassMap) and self.to_dict() == other.to_dict()

    def encode(self, stored: np.ndarray) -> np.ndarray:
        """Stored mask values -> class ids.

        Args:
            stored: (H, W) integers, or (H, W, 3) uint8 colours.

        Returns:
            (H, W) uint8 class ids, 255 = ignore.

        Raises:
            ClassError: a value or colour that neither the classes, `ignore_ids` nor `id_map` name.
        """
        if stored.ndim == 3:
            rows = max(1, _BLOCK // max(1, stored.shape[1]))
            starts = range(0, max(1, len(stored)), rows)
            return np.concatenate([self._encode_colors(stored[start : start + rows]) for start in starts])
        if any(isinstance(key, tuple) for key in self.id_map):
            raise ClassError("holds single-channel ids, but id_map in dataset.yaml names colours.")
        if stored.size == 0:
            return np.zeros(stored.shape, np.uint8)
        named = self._stored_ids()
        unused = set(range(IGNORE)).difference(named.values())
        if stored.dtype == np.uint8 and unused:  # bytes are looked up several times as fast
            nameless = min(unused)
            table = bytearray([nameless]) * 256
            for value, class_id in named.items():
                if 0 <= value < 256:
                    table[value] = class_id
            found = bytearray(np.ascontiguousarray(stored)).translate(table)
            if nameless not in found:
                return np.frombuffer(found, np.uint8).reshape(stored.shape)
        low, high = int(stored.min()), int(stored.max())
        lut = np.full(max(high, 0) + 1, -1, np.int16)
        for value, class_id in named.items():
            if 0 <= value <= high:
                lut[value] = class_id
        ids = lut[stored] if low >= 0 else np.full(stored.shape, -1, np.int16)
        if (ids < 0).any():
            self._refuse(sorted(int(v) for v in np.unique(stored[ids < 0])))
        return ids.astype(np.uint8)

    def _stored_ids(self) -> dict[int, int]:
        ids = dict(self.id_map) if self.id_map else {c: c for c in range(len(self))}
        if not self.id_map:
            ids[IGNORE] = IGNORE
        return ids | dict.fromkeys(self.ignore_ids, IGNORE)

    def _refuse(self, values: list) -> None:
        held = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        named = (
            f"{len(self)} classes (0-{len(self) - 1})"
            if not self.id_map
            else f"{len(self.id_map)} stored values in id_map"
        )
        ignored = f" and ignores {{{', '.join(map(str, self.ignore_ids))}}}" if self.ignore_ids else ""
        raise ClassError(f"holds ids {{{held}}}; dataset.yaml names {named}{ignored}. Is it another dataset's palette?")

    def _encode_colors(self, stored: np.ndarray) -> np.ndarray:
        table = {key: value for key, value in self.id_map.items() if isinstance(key, tuple)}
        if not table and not self.id_map and self.colors_named:
            table = {tuple(int(v) for v in color): c for c, color in enumerate(self.colors)}
            table.setdefault((0, 0, 0), IGNORE)  # black is "not scored" unless a class claims it
        if not table:
            raise ClassError(
                "is an RGB image, but dataset.yaml names no colours. Give colors, or map them: id_map: {[r, g, b]: id}."
            )
        code = stored[..., :3].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        keys = np.array([(r << 16) | (g << 8) | b for r, g, b in table], np.uint32)
        order = np.argsort(keys)
        place = np.minimum(np.searchsorted(keys[order], code), len(keys) - 1)
        unknown = keys[order][place] != code
        if unknown.any():
            values = [f"#{int(v):06x}" for v in np.unique(code[unknown])]
            shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            raise ClassError(
                f"is an RGB image with colours that dataset.yaml does not name ({shown}). "
                "Name them under id_map or colors; smoothed or JPEG masks must be exported again without interpolation."
            )
        return np.array(list(table.values()), np.uint8)[order][place]

    def colorize(self, mask: np.ndarray) -> np.ndarray:
        """(..., H, W) class ids -> (..., H, W, 3) uint8 RGB; ignored pixels are black."""
        return self.palette()[mask]

    def palette(self) -> np.ndarray:
        """(256, 3) uint8: the colour of every possible id, black where there is no class. For palette PNGs."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        return table

    def to_dict(self) -> dict:
        """Plain data for checkpoints and JSON; `from_dict` reads it back."""
        id_map = [[list(k) if isinstance(k, tuple) else int(k), int(v)] for k, v in self.id_map.items()]
        return {
            "names": list(self.names),
            "colors": self.colors.tolist(),
            "ignore_ids": list(self.ignore_ids),
            "id_map": id_map,
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> ClassMap:
        """The inverse of `to_dict`."""
        id_map = {tuple(k) if isinstance(k, Sequence) else int(k): int(v) for k, v in data.get("id_map", [])}
        return cls(tuple(data["names"]), np.array(data["colors"], np.uint8), tuple(data.get("ignore_ids", ())), id_map)
