"""The pictures of one failure, packed for the front end, and thumbnails.

Ids name the files of a failures folder and come from outside: no id and no link leads out of the folder.
"""

import io
import math
import zlib
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


def pack_layers(folder: Path, sample: str, most: int = QUICK, compact: bool = False) -> dict[str, Any]:
    """Pack everything to look at of one failure, as the front end takes it.

    Class ids, confidences and the suspect region are one deflated byte a pixel: no colour management comes
    between a pixel and its value. A picture of more than `most` pixels is reduced by a whole number: the
    image by averaging, the rest by taking every `step`-th pixel, because averaged ids would be other classes.

    Args:
        folder: failures/<split> of a run.
        sample: id of the failure.
        most: pixels of a layer, at most.
        compact: for a file that holds many failures: the image as a JPEG, confidences in steps of 1/15.

    Returns:
        width, height and step (how many pixels of the file one of them stands for), finer (whether a larger
        `most` gives more), layers (name -> bytes: image, truth, prediction, confidence, suspect) and problems
        (sentences).
    """
    layers, problems = {}, []
    try:
        image = _open(folder, "images", sample)
    except OSError as error:  # without the image, nothing has a size
        return {"width": 0, "height": 0, "step": 1, "finer": False, "layers": {}, "problems": [str(error)]}
    step = _step(image.size, most)
    if step == 1 and not compact:
        layers["image"] = (Path(folder) / "images" / f"{sample}.png").read_bytes()
    else:
        layers["image"] = _jpeg(image.convert("RGB").reduce(step))
    for name, kind in _PLANES.items():
        try:
            plane = _plane(folder, kind, sample, image.size)[::step, ::step]
        except (OSError, ValueError) as error:
            if kind in _NEEDED or not isinstance(error, FileNotFoundError):
                problems.append(str(error))
            continue
        if compact and name == "confidence":
            plane = (plane >> 4) * 17
        layers[name] = zlib.compress(np.ascontiguousarray(plane), 6 if compact else 1)
    width, height = (math.ceil(side / step) for side in image.size)
    shown = {"width": width, "height": height, "step": step, "finer": step > _step(image.size, LARGEST)}
    return shown | {"layers": layers, "problems": problems}


def thumbnail(folder: Path, kind: str, sample: str) -> bytes:
    """Make a small JPEG of `kind/<sample>.png` (images, nearest); empty if there is no such picture."""
    try:
        small = _open(folder, kind, sample).convert("RGB")
    except OSError:  # `pack_layers` says why when a person opens it
        return b""
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


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return stream.getvalue()
