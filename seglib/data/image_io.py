"""Reading image and mask files: every stored form -> RGB bytes and class ids, or an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from seglib.data.classes import ClassError, ClassMap

# The only decoders that files reach, whatever they are named. Naming the plugins registers them, which `Image.open`
# with `formats` does not.
_PLUGINS = (PngImagePlugin, JpegImagePlugin, TiffImagePlugin, BmpImagePlugin, WebPImagePlugin)
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
EXCLUDE = "or list the id under exclude in dataset.yaml"
_AGAIN = f"Copy it again, {EXCLUDE}."


class DatasetError(ValueError):
    """Something in a dataset is not as expected.

    Args:
        detail: names the thing and what was expected.
        check: the name of the check that it fails, as in the findings table ("unreadable", "size-mismatch", ...).
        suggestion: what to do about it; the error's text is the detail and the suggestion.
        sample: the sample's id, "" where it concerns more than one.
    """

    def __init__(self, detail: str, check: str = "", suggestion: str = "", sample: str = "") -> None:
        super().__init__(f"{detail} {suggestion}".rstrip())
        self.detail = detail
        self.check = check
        self.suggestion = suggestion
        self.sample = sample


@dataclass(frozen=True)
class Picture:
    """A decoded image file.

    Args:
        rgb: its pixels as Pillow's "RGB".
        mode: as what the file stores it, in Pillow's words ("RGB", "L", "P", "I;16", ...).
    """

    rgb: Image.Image
    mode: str

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, owned and writable; copied anew whenever asked for."""
        return np.array(self.rgb)

    def grey(self) -> Image.Image:
        """As Pillow's "L": luma of ITU-R BT.601."""
        return self.rgb.convert("L")


def read_image(path: str | Path, label: str = "") -> np.ndarray:
    """Any supported image file as RGB.

    Alpha is dropped, not multiplied in; grey and palette images are expanded; 16 bits a channel become 8 by their upper
    byte; the EXIF orientation is applied; of a file with several pages the first is taken.

    Args:
        path: PNG, JPEG, TIFF, BMP or WebP, recognised by content and not by name.
        label: how errors name the image; its file name by default.

    Returns:
        (H, W, 3) uint8 RGB, owned and writable.

    Raises:
        DatasetError: check "missing-file", "empty-file", "unreadable" (truncated, another kind of file), "too-large"
            (Pillow's limit against decompression bombs) or "channels" (floating-point or 32-bit values).
    """
    return read_picture(path, label).pixels


def read_picture(path: str | Path, label: str = "") -> Picture:
    """`read_image`, and what else the file tells, for whom decoding it once more would cost too much."""
    label = f"image {label or repr(Path(path).name)}"
    image, mode = _decode(Path(path), label)
    if image.mode == "RGB":
        return Picture(image, mode)
    with _refusing(Path(path), label):
        return Picture(Image.fromarray(_rgb(image, label)), mode)


def _rgb(image: Image.Image, label: str) -> np.ndarray:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # not "RGB": palette transparency would be blended or warned about
    elif image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    pixels = np.array(image)
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 65535:
            raise DatasetError(
                f"{label} holds {image.mode!r} values (32-bit or floating-point); expected 8 or 16 bits a channel.",
                "channels",
                "Scale it to 8 or 16 bits and save it again.",
            )
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] < 3:  # grey, or grey and alpha
        return np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_mask(path: str | Path, classes: ClassMap, label: str = "") -> np.ndarray:
    """Any supported mask file as class ids.

    Palette files give their indices, never their colours. Alpha is dropped. RGB files are read by the colours that
    dataset.yaml names; where it names none, three equal channels are read as one channel of ids and anything else is
    refused. 1-bit files hold 0 and 1, or 0 and 255 if id_map names 255 and not 1. EXIF orientation is applied.

    Args:
        path: the mask file.
        classes: how stored values become class ids.
        label: how errors name the mask; its file name by default.

    Returns:
        (H, W) uint8 class ids, 255 = ignore.

    Raises:
        DatasetError: as `read_image`; also "illegal-ids" (values that dataset.yaml does not name) and "rgb-mask" (colours
            that it does not name).
    """
    return read_mask_and_mode(path, classes, label)[0]


def read_mask_and_mode(path: str | Path, classes: ClassMap, label: str = "") -> tuple[np.ndarray, str]:
    """`read_mask`, and as what the file stores it, in Pillow's words ("L", "P", "RGB", "I;16", ...)."""
    label = f"mask {label or repr(Path(path).name)}"
    stored, mode = _stored(Path(path), label)
    if stored.dtype == bool:
        white = 255 if 255 in classes.id_map and 1 not in classes.id_map else 1
        stored = stored.astype(np.uint8) * np.uint8(white)
    by_color = classes.colors_named if not classes.id_map else any(isinstance(key, tuple) for key in classes.id_map)
    if stored.ndim == 3 and not by_color:
        if (stored != stored[..., :1]).any():
            raise DatasetError(
                f"{label} is an RGB image; expected one channel of ids, since dataset.yaml names no colours.",
                "rgb-mask",
                "Give every class its colour under colors, or map them: id_map: {[128, 64, 128]: 0}.",
            )
        stored = stored[..., 0]
    try:
        return classes.encode(stored), mode
    except ClassError as error:
        jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
        suggestion = "JPEG smears ids: export masks as PNG." if jpeg else "Correct the mask, or dataset.yaml."
        raise DatasetError(f"{label} {error}", "rgb-mask" if stored.ndim == 3 else "illegal-ids", suggestion) from None


def read_stored(path: str | Path, label: str = "") -> np.ndarray:
    """A mask file's values as they are stored: (H, W) integers or bool, or (H, W, 3) uint8 colours; alpha is dropped.

    Args:
        path: the mask file.
        label: how errors name it; "mask" and its file name by default.

    Raises:
        DatasetError: as `read_image`.
    """
    return np.array(_stored(Path(path), label or f"mask {Path(path).name!r}")[0])


def _stored(path: Path, label: str) -> tuple[np.ndarray, str]:
    image, mode = _decode(path, label)
    with _refusing(path, label):
        stored = np.asarray(image)
    if stored.ndim == 3 and (image.mode in ("LA", "PA") or stored.shape[2] < 3):
        stored = stored[..., 0]
    if stored.dtype.kind not in "iub" or image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        expected = "expected ids of 8 or 16 bits, a palette or RGB"
        raise DatasetError(f"{label} is stored as {image.mode!r}; {expected}.", "channels", "Export it as PNG.")
    if stored.size and stored.dtype.itemsize > 2 and stored.max() > 65535:  # no table of ids grows beyond 16 bits
        detail = f"{label} holds ids up to {stored.max()}; expected class ids of 8 or 16 bits."
        raise DatasetError(detail, "illegal-ids", "Is it a mask of instances? Export one of classes.")
    return stored[..., :3] if stored.ndim == 3 else stored, mode


def _decode(path: Path, label: str) -> tuple[Image.Image, str]:
    """The file's first picture, decoded and turned upright, and the mode in which it is stored."""
    with _refusing(path, label):
        if path.stat().st_size == 0:
            raise DatasetError(f"{label} is empty (0 bytes); expected a picture.", "empty-file", _AGAIN)
        with Image.open(path, formats=FORMATS) as image:
            mode = image.mode  # decoding may widen it
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if not all(image.size):
                raise DatasetError(f"{label} has no pixels ({image.width}x{image.height}).", "unreadable", _AGAIN)
            return image, mode


@contextmanager
def _refusing(path: Path, label: str) -> Iterator[None]:
    """What decoders raise on damaged files, as a `DatasetError`."""
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(
            f"{label} is gone: expected a file at {path}.", "missing-file", f"Restore it, {EXCLUDE}."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        suggestion = f"Cut it into tiles, {EXCLUDE}."
        reason = str(error) or "there is no memory for it"
        raise DatasetError(
            f"{label} claims more pixels than is safe to open ({reason}).", "too-large", suggestion
        ) from None
    except Image.UnidentifiedImageError:
        detail = f"{label} is no picture; expected PNG, JPEG, TIFF, BMP or WebP."
        raise DatasetError(detail, "unreadable", f"Replace the file, {EXCLUDE}.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise DatasetError(
            f"{label} cannot be read ({' '.join(reason.split())[:300]}).", "unreadable", _AGAIN
        ) from None
