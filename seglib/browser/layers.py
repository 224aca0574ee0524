"""The layers of one image, packed for the front end, and thumbnails."""

import io
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 2048 * 1024  # pixels of a picture that the browser gets at most


def pack_layers(
    image: np.ndarray, planes: Mapping[str, np.ndarray], most: int, compact: bool = False
) -> dict[str, Any]:
    """Pack an image (H, W, 3) uint8 and its planes, name -> (H, W) uint8, as the front end takes them.

    Planes are one deflated byte a pixel: no colour management comes between a pixel and its value. A picture of
    more than `most` pixels is reduced by a whole number, `step`: averaged ids would be other classes. `compact`, for
    a file of many failures, gives confidences in steps of 1/15.
    """
    step = max(1, math.ceil(math.sqrt(image.shape[0] * image.shape[1] / most)))
    picture = Image.fromarray(image).reduce(step)
    layers = {"image": _jpeg(picture, 80, -1) if compact else _jpeg(picture, 95)}
    for name, plane in planes.items():
        coarse = plane[::step, ::step]
        if compact and name == "confidence":
            coarse = (coarse >> 4) * 17
        layers[name] = zlib.compress(np.ascontiguousarray(coarse), 6 if compact else 1)
    return {"width": picture.width, "height": picture.height, "step": step, "layers": layers}


def thumbnail(image: np.ndarray, width: int = 156) -> bytes:
    """Make a small JPEG of an image (H, W, 3) uint8."""
    picture = Image.fromarray(image)
    picture.thumbnail((width, 3 * width // 4), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _jpeg(picture, 80)


def _jpeg(picture: Image.Image, quality: int, subsampling: int = 0) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return stream.getvalue()
