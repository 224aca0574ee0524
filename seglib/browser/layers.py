"""The pictures of one failure, packed for the front end, and thumbnails.

Ids name the files of a failures folder and come from outside: no id and no link leads out of the folder.
"""

import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 2048 * 1024  # pixels of a picture that the browser gets at most
_AGAIN = "Run 04_failure_analysis again: it rebuilds this folder."
_PLANES = {"truth": "masks", "prediction": "predictions", "confidence": "confidences", "suspect": "suspects"}
_NEEDED = ("masks", "predictions")  # the others may be missing: not every model tells its confidence


def read_layers(folder: Path, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read image (H, W, 3) uint8, ground truth and prediction (H, W) uint8; OSError, ValueError: one cannot be read."""
    image = _open(folder, "images", sample)
    return np.asarray(image.convert("RGB")), *(_plane(folder, kind, sample, image.size) for kind in _NEEDED)


def pack_layers(
    folder: Path, sample: str, most: int, compact: bool = False, more: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Pack everything to look at of one failure, as `pack_arrays` does; `more` layers are (H, W) uint8."""
    planes, problems = dict(more or {}), []
    try:
        image = _open(folder, "images", sample)
    except OSError as error:
        return {"layers": {}, "problems": [str(error)]}
    for name, kind in _PLANES.items():
        try:
            planes[name] = _plane(folder, kind, sample, image.size)
        except (OSError, ValueError) as error:
            if kind in _NEEDED or not isinstance(error, FileNotFoundError):
                problems.append(str(error))
    return pack_arrays(image, planes, most, compact) | {"problems": problems}


def pack_arrays(
    image: Image.Image, planes: Mapping[str, np.ndarray], most: int, compact: bool = False
) -> dict[str, Any]:
    """Pack an image and its planes, name -> (H, W) uint8, as the front end takes them.

    Planes are one deflated byte a pixel: no colour management comes between a pixel and its value. A picture of
    more than `most` pixels is reduced by a whole number, `step`: averaged ids would be other classes. `compact`, for
    a file of many failures, gives confidences in steps of 1/15.
    """
    step = max(1, math.ceil(math.sqrt(image.width * image.height / most)))
    layers = {"image": _jpeg(image.convert("RGB").reduce(step), 80 if compact else 95)}
    for name, plane in planes.items():
        coarse = plane[::step, ::step]
        if compact and name == "confidence":
            coarse = (coarse >> 4) * 17
        layers[name] = zlib.compress(np.ascontiguousarray(coarse), 6 if compact else 1)
    width, height = (math.ceil(side / step) for side in image.size)
    return {"width": width, "height": height, "step": step, "layers": layers, "problems": []}


def thumbnail(folder: Path, kind: str, sample: str) -> bytes:
    """Make a small JPEG of `kind/<sample>.png` (images, nearest); empty if there is no such picture."""
    try:
        return shrink(_open(folder, kind, sample))
    except OSError:  # `pack_layers` says why when a person opens it
        return b""


def shrink(picture: Image.Image) -> bytes:
    """Make a small JPEG."""
    picture.thumbnail((156, 117), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _jpeg(picture.convert("RGB"), 80)


def _open(folder: Path, kind: str, sample: str) -> Image.Image:
    name, path = f"{kind}/{sample}.png", folder / kind / f"{sample}.png"
    try:
        inside = path.parent == folder / kind and path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, ValueError):  # missing, too long, or with a null byte
        inside = False
    if not inside:
        raise FileNotFoundError(f"{name} is missing. {_AGAIN}")
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
            return picture
    except Exception as error:  # decoders raise SyntaxError, struct.error, zlib.error, ... on damaged files
        raise OSError(f"{name} cannot be read ({error}). {_AGAIN}") from error


def _plane(folder: Path, kind: str, sample: str, size: tuple[int, int]) -> np.ndarray:
    """Read one byte a pixel, (H, W) uint8, of an image of this width and height."""
    array = np.asarray(_open(folder, kind, sample))
    if array.shape != size[::-1] or array.dtype != np.uint8:
        told = f"{kind}/{sample}.png is {array.shape} {array.dtype}, expected {size[::-1]} uint8"
        raise ValueError(f"{told}. {_AGAIN}")
    return array


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, subsampling=0 if quality > 90 else -1)
    return stream.getvalue()
