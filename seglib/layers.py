"""The pictures of one failure, packed for the browser's front end; and small pictures, kept only as far as a bound.

Files in a failures folder are named by ids that nobody vouches for: an id never leads out of its folder.
"""

from __future__ import annotations

import io
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 2048  # pixels a side that the front end gets; larger pictures are reduced by a whole number
_KINDS = {"truth": "masks", "prediction": "predictions", "confidence": "confidences", "suspect": "suspects"}
_NEEDED = ("truth", "prediction")
_AGAIN = "Run 04_failure_analysis again: it rebuilds this folder."


def picture_path(folder: Path, kind: str, sample: str) -> Path:
    """`folder/kind/<sample>.png`.

    Raises:
        FileNotFoundError: it is not there, or the id would lead out of `folder/kind`.
    """
    path = Path(folder) / kind / f"{sample}.png"
    if path.parent != Path(folder) / kind or not path.is_file():
        raise FileNotFoundError(f"{kind}/{sample}.png is missing. {_AGAIN}")
    return path


def read_picture(folder: Path, kind: str, sample: str, mode: str = "") -> np.ndarray:
    """A picture of a failures folder: (H, W, 3) uint8 for the mode "RGB", otherwise (H, W) uint8.

    Raises:
        OSError: missing, or cannot be read. ValueError: holds colours where ids or grey values belong.
    """
    path = picture_path(folder, kind, sample)
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            array = np.asarray(picture.convert(mode) if mode else picture)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        raise OSError(f"{kind}/{sample}.png cannot be read ({error}). {_AGAIN}") from error
    if not mode and (array.ndim != 2 or array.dtype != np.uint8):
        raise ValueError(f"{kind}/{sample}.png holds colours or more than 8 bits, not class ids. {_AGAIN}")
    return array


def pack_layers(folder: Path, sample: str) -> tuple[dict[str, Any], list[bytes]]:
    """Everything to look at of one failure, as the front end takes it.

    The image is sent as it is stored; the ids, confidences and the suspect region as one deflated byte a pixel, so that
    no colour management or resampling comes between a pixel and its value. A side beyond `LARGEST` is reduced by a whole
    number: the image by averaging, the rest by taking every `step`-th pixel, because averaged ids would be other classes.

    Returns:
        width, height (of what is sent), step (how many pixels of the file one of them stands for), layers (their names, in
        the order of the buffers: image, truth, prediction, confidence, suspect, as far as known) and problems (sentences);
        and the buffers. Confidence and suspect region may be missing without a problem.
    """
    problems: list[str] = []
    layers: dict[str, bytes] = {}
    width = height = step = 0
    try:
        path = picture_path(folder, "images", sample)
        try:
            with Image.open(path, formats=("PNG",)) as picture:
                width, height = picture.size
                step = max(1, -(-max(width, height) // LARGEST))
                layers["image"] = path.read_bytes() if step == 1 else _reduced(picture, step)
        except Exception as error:  # as above
            raise OSError(f"images/{sample}.png cannot be read ({error}). {_AGAIN}") from error
        for name, kind in _KINDS.items():
            _add_plane(layers, problems, folder, sample, name, kind, (height, width), step)
    except (OSError, ValueError) as error:  # without the image, nothing has a size
        layers, width, height = {}, 0, 0
        problems.append(str(error))
    shown = {"width": -(-width // max(1, step)), "height": -(-height // max(1, step)), "step": max(1, step)}
    return {**shown, "layers": list(layers), "problems": problems}, list(layers.values())


def _add_plane(
    layers: dict[str, bytes],
    problems: list[str],
    folder: Path,
    sample: str,
    name: str,
    kind: str,
    size: tuple[int, int],
    step: int,
) -> None:
    try:
        plane = read_picture(folder, kind, sample, "" if name in _NEEDED else "L")
    except FileNotFoundError as error:
        if name in _NEEDED:
            problems.append(str(error))
        return
    except (OSError, ValueError) as error:
        problems.append(str(error))
        return
    if plane.shape != size:
        got, expected = ("x".join(map(str, shape)) for shape in (plane.shape, size))
        problems.append(f"{kind}/{sample}.png is {got}, its image {expected}: they must lie pixel on pixel.")
        return
    # Level 1: ids deflate to a few per cent at any level, and the eye waits.
    layers[name] = zlib.compress(np.ascontiguousarray(plane[::step, ::step]).tobytes(), 1)


def _reduced(picture: Image.Image, step: int) -> bytes:
    stream = io.BytesIO()
    picture.convert("RGB").reduce(step).save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


class Thumbnails:
    """Small JPEG pictures of files in a failures folder, made when first asked for; the longest unused are forgotten.

    Args:
        folder: the failures folder.
        size: width and height they fit into, pixels.
        most: how many are kept; at about 3 kB each, 2000 are 6 MB.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (156, 117), most: int = 2000) -> None:
        self.folder, self.size, self.most = Path(folder), size, most
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, kind: str, sample: str) -> bytes:
        """The thumbnail of `kind/<sample>.png`, kind being images or nearest; empty if there is no such picture."""
        key = (kind, sample)
        if key not in self._kept:
            self._kept[key] = self._make(kind, sample)
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _make(self, kind: str, sample: str) -> bytes:
        if kind not in ("images", "nearest"):
            return b""
        try:
            with Image.open(picture_path(self.folder, kind, sample), formats=("PNG",)) as picture:
                small = picture.convert("RGB")
            small.thumbnail(self.size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        except Exception:  # damaged: the layers of the picture say so when it is opened
            return b""
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=80)
        return stream.getvalue()
