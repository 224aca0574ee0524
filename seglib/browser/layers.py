"""The pictures of one failure, packed for the browser's front end; and small pictures, kept only as far as a bound.

Files in a failures folder are named by ids that nobody vouches for: neither an id nor a link leads out of it.
"""

from __future__ import annotations

import io
import math
import zlib
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seglib.data import AGAIN, stored_picture

QUICK = 1024 * 1024  # pixels of a picture that the front end gets at first
LARGEST = 2048 * 2048  # and at most, when it is zoomed
_KINDS = {"truth": "masks", "prediction": "predictions", "confidence": "confidences", "suspect": "suspects"}
_NEEDED = ("truth", "prediction")


def read_picture(folder: Path, kind: str, sample: str, mode: str = "") -> np.ndarray:
    """A picture of a failures folder: (H, W, 3) uint8 for the mode "RGB", otherwise (H, W) uint8.

    Raises:
        OSError: missing, or cannot be read. ValueError: holds colours where ids or grey values belong.
    """
    path = stored_picture(folder, kind, sample)
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            array = np.asarray(picture.convert(mode) if mode else picture)
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        raise _unreadable(path, error) from error
    if not mode and (array.ndim != 2 or array.dtype != np.uint8):
        raise ValueError(f"{kind}/{sample}.png holds colours or more than 8 bits, not class ids. {AGAIN}")
    return array


def pack_layers(folder: Path, sample: str, sharp: bool = False) -> tuple[dict[str, Any], list[bytes]]:
    """Everything to look at of one failure, as the front end takes it.

    The image is sent as it is stored; the ids, confidences and the suspect region as one deflated byte a pixel, so that
    no colour management or resampling comes between a pixel and its value. What has more than `QUICK` pixels is reduced by
    a whole number, until it is looked at more closely: the image by averaging, the rest by taking every `step`-th pixel,
    because averaged ids would be other classes.

    Args:
        sharp: reduce only what has more than `LARGEST` pixels.

    Returns:
        width, height (of what is sent), step (how many pixels of the file one of them stands for), finer (whether `sharp`
        would give more of them), layers (their names, in the order of the buffers: image, truth, prediction, confidence,
        suspect, as far as known) and problems (sentences); and the buffers. Confidence and suspect region may be missing
        without a problem.
    """
    try:
        path = stored_picture(folder, "images", sample)
        width, height = _size(path)
        step = _step(width, height, LARGEST if sharp else QUICK)
        # Decoders leave the interpreter's lock to others: together the pictures take as long as the slowest.
        with ThreadPoolExecutor(1 + len(_KINDS)) as pool:
            photo = pool.submit(_image, path, step)
            planes = pool.map(lambda name: _plane(folder, sample, name, (height, width), step), _KINDS)
            layers, problems = {"image": photo.result()}, []
            for name, (plane, problem) in zip(_KINDS, planes, strict=True):
                layers |= {name: plane} if plane else {}
                problems += [problem] if problem else []
    except (OSError, ValueError) as error:  # without the image, nothing has a size
        layers, problems, width, height, step = {}, [str(error)], 0, 0, 1
    shown = {"width": -(-width // step), "height": -(-height // step), "step": step}
    finer = step > _step(width, height, LARGEST)
    return {**shown, "finer": finer, "layers": list(layers), "problems": problems}, list(layers.values())


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.size
    except Exception as error:  # as in `read_picture`
        raise _unreadable(path, error) from error


def _step(width: int, height: int, most: int) -> int:
    """The smallest whole number by which a picture is reduced to at most `most` pixels."""
    return max(1, math.ceil(math.sqrt(width * height / most)))


def _image(path: Path, step: int) -> bytes:
    if step == 1:
        return path.read_bytes()
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return _reduced(picture, step)
    except Exception as error:  # as in `read_picture`
        raise _unreadable(path, error) from error


def _plane(folder: Path, sample: str, name: str, size: tuple[int, int], step: int) -> tuple[bytes, str]:
    """The deflated bytes of one layer, empty where there is none; and what is wrong with it."""
    kind = _KINDS[name]
    try:
        plane = read_picture(folder, kind, sample, "" if name in _NEEDED else "L")
    except FileNotFoundError as error:
        return b"", str(error) if name in _NEEDED else ""
    except (OSError, ValueError) as error:
        return b"", str(error)
    if plane.shape != size:
        got, expected = ("x".join(map(str, shape)) for shape in (plane.shape, size))
        return b"", f"{kind}/{sample}.png is {got}, its image {expected}: they must lie pixel on pixel."
    # Level 1: ids deflate to a few per cent at any level, and the eye waits.
    return zlib.compress(np.ascontiguousarray(plane[::step, ::step]).tobytes(), 1), ""


def _unreadable(path: Path, error: Exception) -> OSError:
    return OSError(f"{path.parent.name}/{path.name} cannot be read ({error}). {AGAIN}")


class Pictures:
    """`pack_layers` of a folder's failures, with the one that is likely to be asked for next packed in the background.

    Args:
        folder: the failures folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="seglib-next-picture")
        self._next: tuple[str, Future] | None = None

    def expect(self, sample: str) -> None:
        """Pack this one while nobody waits."""
        self._next = sample, self._pool.submit(pack_layers, self.folder, sample)

    def get(self, sample: str) -> tuple[dict[str, Any], list[bytes]]:
        """As `pack_layers` gives it."""
        expected, self._next = self._next, None
        if expected and expected[0] == sample:
            return expected[1].result()
        if expected:
            expected[1].cancel()
        return pack_layers(self.folder, sample)


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
            with Image.open(stored_picture(self.folder, kind, sample), formats=("PNG",)) as picture:
                small = picture.convert("RGB")
            small.thumbnail(self.size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        except Exception:  # damaged: the layers of the picture say so when it is opened
            return b""
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=80)
        return stream.getvalue()
