"""Class ids -> a mask file in the dataset's own form: its ids, indices or colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from seglib.data.classes import IGNORE, ClassError, ClassMap
from seglib.data.image_io import FORMATS, DatasetError, read_mask, read_stored


def encode_mask(path: str | Path, classes: ClassMap, mask: np.ndarray) -> bytes:
    """A PNG that `read_mask` reads as `mask`, in the form of the mask file at `path`.

    Pixels whose class stays keep the very value that they had, even where several values stand for one class. The palette
    stays, too.

    Args:
        path: the mask file that this one is to stand for.
        classes: how stored values become class ids.
        mask: (H, W) uint8 class ids, 255 = ignore.

    Raises:
        DatasetError: another size, or a class for which dataset.yaml names no stored value; as `read_mask`.
    """
    original, stored = read_mask(path, classes), read_stored(path)
    if mask.shape != original.shape:
        raise DatasetError(
            f"a mask of {mask.shape} for {Path(path).name!r}, which is {original.shape} (height, width)."
        )
    changed = mask != original
    if stored.dtype == bool:
        stored = stored.astype(np.uint8) * np.uint8(255 if 255 in classes.id_map and 1 not in classes.id_map else 1)
    colors = stored.ndim == 3 and _by_color(classes)
    out = stored if stored.ndim == 2 or colors else stored[..., 0].copy()
    values = _stored_values(classes, colors)
    for c in np.unique(mask[changed]).tolist():
        if c not in values:
            what = (
                "pixels that are not scored"
                if c == IGNORE
                else f"class {classes.names[c]!r}"
                if c < len(classes)
                else f"id {c}"
            )
            raise DatasetError(
                f"no stored value stands for {what}.", "", "Name one in dataset.yaml (ignore_ids or id_map)."
            )
        out[changed & (mask == c)] = values[c]
    _check(out, classes, mask, path)
    picture = Image.fromarray(out)
    if out.dtype == np.uint8 and out.ndim == 2 and (palette := _palette(path)):
        picture.putpalette(palette)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _check(stored: np.ndarray, classes: ClassMap, mask: np.ndarray, path: str | Path) -> None:
    try:
        same = np.array_equal(classes.encode(stored), mask)
    except ClassError:
        same = False
    if not same:
        raise DatasetError(
            f"{Path(path).name!r}: these classes cannot be told apart in the dataset's form (two of one colour or value?)."
        )


def _palette(path: str | Path) -> bytes:
    with Image.open(path, formats=FORMATS) as picture:
        return bytes(picture.getpalette("RGB") or b"") if picture.mode == "P" else b""


def _by_color(classes: ClassMap) -> bool:
    return any(isinstance(key, tuple) for key in classes.id_map) if classes.id_map else classes.colors_named


def _stored_values(classes: ClassMap, colors: bool) -> dict[int, int | tuple[int, ...]]:
    """Class id (255: ignore) -> the first stored value or colour that stands for it."""
    pairs: list[tuple] = []
    if classes.id_map:
        pairs = [(v, c) for v, c in classes.id_map.items() if isinstance(v, tuple) == colors]
    elif colors:
        pairs = [(tuple(color), c) for c, color in enumerate(classes.colors.tolist())]
        pairs += [((0, 0, 0), IGNORE)]  # unless a class claims black
    else:
        pairs = [(c, c) for c in range(len(classes)) if c not in classes.ignore_ids]
    if not colors:
        pairs += [(v, IGNORE) for v in classes.ignore_ids] + ([] if classes.id_map else [(IGNORE, IGNORE)])
    return {c: v for v, c in reversed(pairs)}
