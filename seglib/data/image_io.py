"""Read image and mask files of every stored form, and write masks back: RGB bytes, class ids, or a `DatasetError`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from seglib.data.classes import IGNORE, ClassError, ClassMap

# The only decoders that files reach, whatever their names. Importing the plugins registers them, which `Image.open`
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
        self.detail, self.check, self.suggestion, self.sample = detail, check, suggestion, sample


class Picture(NamedTuple):
    """A decoded image: its pixels as Pillow's "RGB", and the mode in which the file stores it ("L", "P", "I;16")."""

    rgb: Image.Image
    mode: str

    def grey(self) -> Image.Image:
        """Convert it to Pillow's "L": luma of ITU-R BT.601."""
        return self.rgb.convert("L")


def read_image(path: str | Path, label: str = "") -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, owned and writable.

    Alpha is dropped, not multiplied in; grey and palette images are expanded; 16 bits a channel become 8 by their
    upper byte; the EXIF orientation is applied; of several pages the first is taken.

    Args:
        path: PNG, JPEG, TIFF, BMP or WebP, recognised by content and not by name.
        label: how errors name the image; its file name by default.

    Raises:
        DatasetError: check "missing-file", "empty-file", "unreadable" (truncated, another kind of file), "too-large"
            (Pillow's limit against decompression bombs) or "channels" (floating-point or 32-bit values).
    """
    return np.array(read_picture(path, label).rgb)


def read_picture(path: str | Path, label: str = "") -> Picture:
    """Read an image as `read_image` does, with its stored mode, and decode it once."""
    label = f"image {label or repr(Path(path).name)}"
    image, mode = _decode(Path(path), label)
    if image.mode == "RGB":
        return Picture(image, mode)
    with _refusing(Path(path), label):
        return Picture(Image.fromarray(_rgb(image, label)), mode)


def _rgb(image: Image.Image, label: str) -> np.ndarray:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # not "RGB": palette transparency would be blended
    elif image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    pixels = np.atleast_3d(np.array(image))
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 65535:
            detail = f"{label} holds {image.mode!r} values (32-bit or floating-point); expected 8 or 16 bits a channel."
            raise DatasetError(detail, "channels", "Scale it to 8 or 16 bits and save it again.")
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] < 3:  # grey, or grey and alpha
        return np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_mask(path: str | Path, classes: ClassMap, label: str = "") -> np.ndarray:
    """Read a mask file as (H, W) uint8 class ids, 255 = ignored.

    Palette files give their indices, never their colours. RGB files are read by the colours that dataset.yaml names;
    where it names none, three equal channels are one channel of ids and anything else is refused. 1-bit files hold 0
    and 1, or 0 and 255 if id_map names 255 and not 1. Alpha is dropped, the EXIF orientation applied.

    Args:
        path: the mask file.
        classes: how stored values become class ids.
        label: how errors name the mask; its file name by default.

    Raises:
        DatasetError: as `read_image`; also "illegal-ids" (values that dataset.yaml does not name) and "rgb-mask"
            (colours that it does not name).
    """
    return read_mask_and_mode(path, classes, label)[0]


def read_mask_and_mode(path: str | Path, classes: ClassMap, label: str = "") -> tuple[np.ndarray, str]:
    """Read a mask as `read_mask` does, and the mode in which the file stores it ("L", "P", "RGB", "I;16", ...)."""
    label = f"mask {label or repr(Path(path).name)}"
    stored, mode = _stored(Path(path), label)
    stored = _no_bits(stored, classes)
    if stored.ndim == 3 and not classes.by_color:
        if (stored != stored[..., :1]).any():
            detail = f"{label} is an RGB image; expected one channel of ids: dataset.yaml names no colours."
            suggestion = "Give every class its colour under colors, or map them: id_map: {[128, 64, 128]: 0}."
            raise DatasetError(detail, "rgb-mask", suggestion)
        stored = stored[..., 0]
    try:
        return classes.encode(stored), mode
    except ClassError as error:
        check, suggestion = "illegal-ids", "Correct the mask, or dataset.yaml."
        if stored.ndim == 3:
            check = "rgb-mask"
        if Path(path).suffix.lower() in (".jpg", ".jpeg"):
            suggestion = "JPEG smears ids: export masks as PNG."
        raise DatasetError(f"{label} {error}", check, suggestion) from None


def _no_bits(stored: np.ndarray, classes: ClassMap) -> np.ndarray:
    """Bool masks as 0 and 1, or 0 and 255 if id_map names 255 and not 1."""
    if stored.dtype != bool:
        return stored
    return stored.astype(np.uint8) * np.uint8(255 if 255 in classes.id_map and 1 not in classes.id_map else 1)


def read_stored(path: str | Path, label: str = "") -> np.ndarray:
    """Read a mask file's values as they are stored: (H, W) integers or bool, or (H, W, 3) uint8 colours."""
    return np.array(_stored(Path(path), label or f"mask {Path(path).name!r}")[0])


def encode_mask(path: str | Path, classes: ClassMap, mask: np.ndarray) -> bytes:
    """Write a PNG that `read_mask` reads as `mask`, in the form of the mask file at `path`.

    Pixels whose class stays keep their stored value, even where several values stand for one class; the palette stays.

    Args:
        path: the mask file whose form is kept.
        classes: how stored values become class ids.
        mask: (H, W) uint8 class ids, 255 = ignored.

    Raises:
        DatasetError: another size, or a class for which dataset.yaml names no stored value; as `read_mask`.
    """
    name, original, out = Path(path).name, read_mask(path, classes), _no_bits(read_stored(path), classes)
    if mask.shape != original.shape:
        raise DatasetError(f"a mask of {mask.shape} for {name!r}, which is {original.shape} (height, width).")
    color = out.ndim == 3 and classes.by_color
    out = out if out.ndim == 2 or color else out[..., 0].copy()
    values: dict = {c: value for value, c in reversed(classes.stored_values(color).items())}
    for c in np.unique(mask[mask != original]).tolist():
        if c not in values:
            what = f"class {classes.names[c]!r}" if c < len(classes) else f"id {c}"
            what = "ignored pixels" if c == IGNORE else what
            suggestion = "Name one in dataset.yaml (ignore_ids or id_map)."
            raise DatasetError(f"no stored value stands for {what}.", "", suggestion)
        out[(mask != original) & (mask == c)] = values[c]
    picture, stream = Image.fromarray(out), io.BytesIO()
    with Image.open(path, formats=FORMATS) as stored:
        if stored.mode == "P" and out.ndim == 2:
            # whole: with a shorter palette, Pillow would write fewer bits than ids need
            picture.putpalette((stored.getpalette("RGB") + [0] * 768)[:768])
    picture.save(stream, "PNG")
    return stream.getvalue()


def _stored(path: Path, label: str) -> tuple[np.ndarray, str]:
    image, mode = _decode(path, label)
    with _refusing(path, label):
        stored = np.asarray(image)
    if stored.ndim == 3 and (image.mode in ("LA", "PA") or stored.shape[2] < 3):
        stored = stored[..., 0]
    if stored.dtype.kind not in "iub" or image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        detail = f"{label} is stored as {image.mode!r}; expected ids of 8 or 16 bits, a palette or RGB."
        raise DatasetError(detail, "channels", "Export it as PNG.")
    if stored.size and stored.dtype.itemsize > 2 and stored.max() > 65535:  # ids index a table
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
                raise DatasetError(f"{label} has no pixels.", "unreadable", _AGAIN)
            return image, mode


@contextmanager
def _refusing(path: Path, label: str) -> Iterator[None]:
    """Turn what decoders raise on damaged files into a `DatasetError`."""
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError:
        what = (f"{label} is gone: expected a file at {path}.", "missing-file", f"Restore it, {EXCLUDE}.")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        detail = f"{label} claims more pixels than is safe to open ({error})."
        what = (detail, "too-large", f"Cut it into tiles, {EXCLUDE}.")
    except Image.UnidentifiedImageError:
        detail = f"{label} is no picture; expected PNG, JPEG, TIFF, BMP or WebP."
        what = (detail, "unreadable", f"Replace the file, {EXCLUDE}.")
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        reason = " ".join(str(error).replace(str(path), path.name).split())[:300] or type(error).__name__
        what = (f"{label} cannot be read ({reason}).", "unreadable", _AGAIN)
    else:
        return
    raise DatasetError(*what)
