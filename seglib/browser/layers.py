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

QUICK = 1024 * 1024  # pixels of a picture that the browser gets at first
LARGEST = 2048 * 2048  # and at most, once a person zooms in
_AGAIN = "Run 04_failure_analysis again: it rebuilds this folder."
_PLANES = {"truth": "masks", "prediction": "predictions", "confidence": "confidences", "suspect": "suspects"}
_NEEDED = ("masks", "predictions")  # the others may be missing: not every model tells its confidence


def read_layers(folder: Path, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the image (H, W, 3) uint8, and ground truth and prediction (H, W) uint8 class ids, of one failure.

    Raises:
        OSError, ValueError: a picture is missing or cannot be read; the message names it.
    """
    image = _open(folder, "images", sample)
    return np.asarray(image.convert("RGB")), *(_plane(folder, kind, sample, image.size) for kind in _NEEDED)


def pack_layers(
    folder: Path,
    sample: str,
    most: int = QUICK,
    compact: bool = False,
    more: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Pack everything to look at of one failure, as the front end takes it.

    Class ids, confidences and the suspect region are one deflated byte a pixel: no colour management comes
    between a pixel and its value. A picture of more than `most` pixels is reduced by a whole number: the
    image by averaging, the rest by taking every `step`-th pixel, because averaged ids would be other classes.

    Args:
        folder: failures/<split> of a run.
        sample: id of the failure.
        most: pixels of a layer, at most.
        compact: for a file that holds many failures: the image as a JPEG, confidences in steps of 1/15.
        more: layers besides those of the folder, (H, W) uint8 as the image.

    Returns:
        width, height and step (how many pixels of the file one of them stands for), finer (whether a larger
        `most` gives more), layers (name -> bytes: image, truth, prediction, confidence, suspect) and problems
        (sentences).
    """
    planes, problems = dict(more or {}), []
    try:
        image = _open(folder, "images", sample)
    except OSError as error:
        return pack_problem(error)
    for name, kind in _PLANES.items():
        try:
            planes[name] = _plane(folder, kind, sample, image.size)
        except (OSError, ValueError) as error:
            if kind in _NEEDED or not isinstance(error, FileNotFoundError):
                problems.append(str(error))
    packed = pack_arrays(image, planes, most, compact)
    if packed["step"] == 1 and not compact:
        packed["layers"]["image"] = (Path(folder) / "images" / f"{sample}.png").read_bytes()
    return packed | {"problems": problems}


def pack_arrays(
    image: Image.Image, planes: Mapping[str, np.ndarray], most: int = QUICK, compact: bool = False
) -> dict[str, Any]:
    """Pack an image and its planes, name -> (H, W) uint8, as `pack_layers` does."""
    step = _step(image.size, most)
    layers = {"image": _jpeg(image.convert("RGB").reduce(step), 80 if compact or step > 1 else 95)}
    for name, plane in planes.items():
        coarse = plane[::step, ::step]
        if compact and name == "confidence":
            coarse = (coarse >> 4) * 17
        layers[name] = zlib.compress(np.ascontiguousarray(coarse), 6 if compact else 1)
    width, height = (math.ceil(side / step) for side in image.size)
    shown = {"width": width, "height": height, "step": step, "finer": step > _step(image.size, LARGEST)}
    return shown | {"layers": layers, "problems": []}


def pack_problem(error: Exception) -> dict[str, Any]:
    """Pack an image that cannot be read: without it, nothing has a size."""
    return {"width": 0, "height": 0, "step": 1, "finer": False, "layers": {}, "problems": [str(error)]}


def thumbnail(folder: Path, kind: str, sample: str) -> bytes:
    """Make a small JPEG of `kind/<sample>.png` (images, nearest); empty if there is no such picture."""
    try:
        return shrink(_open(folder, kind, sample))
    except OSError:  # `pack_layers` says why when a person opens it
        return b""


def shrink(picture: Image.Image) -> bytes:
    """Make a small JPEG."""
    small = picture.convert("RGB")
    small.thumbnail((156, 117), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _jpeg(small)


def _open(folder: Path, kind: str, sample: str) -> Image.Image:
    """Decode `folder/kind/<sample>.png`; FileNotFoundError if it is not there or leads out of the folder."""
    name, path = f"{kind}/{sample}.png", Path(folder) / kind / f"{sample}.png"
    try:
        real = path.resolve(strict=True)
        inside = path.parent == Path(folder) / kind and real.is_relative_to(Path(folder).resolve())
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
    picture = _open(folder, kind, sample)
    array = np.asarray(picture if kind in _NEEDED else picture.convert("L"))
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ValueError(f"{kind}/{sample}.png holds colours or more than 8 bits, not class ids. {_AGAIN}")
    if picture.size != size:
        got, expected = ("{1}x{0}".format(*sides) for sides in (picture.size, size))
        raise ValueError(f"{kind}/{sample}.png is {got}, its image {expected}: they must lie pixel on pixel.")
    return array


def _step(size: tuple[int, int], most: int) -> int:
    """Return the smallest whole number by which a picture is reduced to at most `most` pixels."""
    return max(1, math.ceil(math.sqrt(size[0] * size[1] / most)))


def _jpeg(picture: Image.Image, quality: int = 80) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
