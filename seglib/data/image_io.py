"""Read image and mask files of every stored form, and write masks back: RGB bytes, class ids, or a `DatasetError`."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from seglib.data.classes import IGNORE, ClassError, ClassMap
from seglib.runs import display_path, is_plain

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # the only decoders that files reach, under any file name
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_ORIENTATION = 274
# tags: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
EXCLUDE = "or list the id under exclude in dataset.yaml"


class DatasetError(ValueError):
    """Something in a dataset is not as expected.

    Args:
        detail: names the thing and what was expected.
        check: the check that it fails, as in the findings table ("unreadable", "size-mismatch", ...).
        suggestion: what to do about it; the error's text is both.
    """

    def __init__(self, detail: str, check: str = "", suggestion: str = "") -> None:
        super().__init__(f"{detail} {suggestion}".rstrip())
        self.detail, self.check, self.suggestion = detail, check, suggestion


def find_images(folder: Path) -> dict[str, str]:
    """Name the image files in a folder and the folders in it: id -> path relative to `folder`, by name.

    An id is the path without the ending, with "-" for "/". A DatasetError says that there is no image, that two
    have one id, or that a name cannot stand in a table.
    """
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    paths = [path for path in found if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not paths:
        told = f"no image in {display_path(folder)}: expected files that end in {', '.join(SUFFIXES)}"
        raise DatasetError(f"{told}; there are {len(found)} others.")
    if odd := [str(path) for path in paths if not is_plain(str(path))]:
        raise DatasetError(
            f"{odd[0]!a} holds a control character or is no UTF-8 ({len(odd)} such). Rename it."
        )
    ids = ["-".join(path.with_suffix("").parts) for path in paths]
    times = Counter(map(str.casefold, ids))  # one file on Windows and macOS
    if twice := [str(path) for i, path in zip(ids, paths, strict=True) if times[i.casefold()] > 1]:
        raise DatasetError(f"{' and '.join(twice[:2])} would have one id. Rename one, or move it elsewhere.")
    return {i: path.as_posix() for i, path in zip(ids, paths, strict=True)}


def georeference(path: Path) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """Read the tags of a TIFF that say where on the ground it lies (OGC GeoTIFF 1.1), to be written with its mask.

    None: there are none, or Pillow does not know the file, or it is to be turned, so that they are of other pixels.
    """
    with contextlib.suppress(UnidentifiedImageError), Image.open(path, formats=("TIFF",)) as image:
        kept, tags = TiffImagePlugin.ImageFileDirectory_v2(), image.tag_v2
        for tag in (tag for tag in _GEOREFERENCE if tag in tags and tags.get(_ORIENTATION, 1) == 1):
            kept[tag], kept.tagtype[tag] = tags[tag], tags.tagtype[tag]
        return kept if len(kept) else None
    return None


def read_image(path: str | Path, label: str = "") -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, owned and writable.

    Alpha is dropped, not multiplied in; grey and palette images are expanded; 16 bits a channel become 8 by their
    upper byte; the EXIF orientation is applied; of several pages the first is taken.

    Args:
        path: PNG, JPEG, TIFF, BMP or WebP, recognised by content and not by name.
        label: how errors name the image; its file name by default.

    Raises:
        DatasetError: check "missing-file", "unreadable", "too-large" (Pillow's limit against decompression bombs) or
            "channels" (floating-point or 32-bit values).
    """
    return np.array(read_picture(path, label)[0])


def read_picture(path: str | Path, label: str = "") -> tuple[Image.Image, str]:
    """Read an image as `read_image` does, as Pillow's "RGB", and the mode in which it is stored ("L", "P", "I;16")."""
    label = f"image {label or repr(Path(path).name)}"
    with _decoded(Path(path), label) as (image, mode):
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # not "RGB": palette transparency would be blended
        if image.mode[0] in "IF":
            pixels = np.asarray(image)
            if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 65535:
                detail = f"{label} holds 32-bit or floating-point values ({image.mode})."
                raise DatasetError(detail, "channels", "Scale it to 8 or 16 bits and save it again.")
            image = Image.fromarray((pixels >> 8).astype(np.uint8))
        return image if image.mode == "RGB" else image.convert("RGB"), mode  # no needless copy


def read_mask(path: str | Path, classes: ClassMap, label: str = "") -> np.ndarray:
    """Read a mask file as (H, W) uint8 class ids, 255 = ignored.

    Palette files give their indices. RGB files are read by the colours that dataset.yaml names; where it names none,
    three equal channels are one channel of ids. 1-bit files hold 0 and 1, or 0 and 255 if id_map names 255 and not 1.
    A DatasetError is as of `read_image`, or "illegal-ids" or "rgb-mask": values that dataset.yaml does not name.
    """
    return read_mask_and_mode(path, classes, label)[0]


def read_mask_and_mode(path: str | Path, classes: ClassMap, label: str = "") -> tuple[np.ndarray, str]:
    """Read a mask as `read_mask` does, and the mode in which the file stores it ("L", "P", "RGB", "I;16", ...)."""
    label = f"mask {label or repr(Path(path).name)}"
    stored, mode = _read_stored(Path(path), label)
    stored = _as_values(stored, classes)
    try:
        return classes.encode(stored), mode
    except ClassError as error:
        smeared = Path(path).suffix.lower() in (".jpg", ".jpeg")
        suggestion = "Correct the mask, or dataset.yaml." + " JPEG smears ids: export masks as PNG." * smeared
        check = "illegal-ids" if stored.ndim == 2 else "rgb-mask"
        raise DatasetError(f"{label} {error}", check, suggestion) from None


def read_stored(path: str | Path, label: str = "") -> np.ndarray:
    """Read a mask file's values as they are stored: (H, W) integers or bool, or (H, W, 3) uint8 colours."""
    return np.array(_read_stored(Path(path), label or f"mask {Path(path).name!r}")[0])


def _as_values(stored: np.ndarray, classes: ClassMap) -> np.ndarray:
    """Bool masks as integers, three equal channels as one where no colours are named."""
    if stored.dtype == bool:
        return stored * np.uint8(255 if 255 in classes.id_map and 1 not in classes.id_map else 1)
    grey = stored.ndim == 3 and not classes.by_color and (stored == stored[..., :1]).all()
    return stored[..., 0] if grey else stored


def encode_mask(path: str | Path, classes: ClassMap, mask: np.ndarray) -> bytes:
    """Write a PNG that `read_mask` reads as `mask`, uint8 class ids, in the form and size of the mask file at `path`.

    Pixels whose class stays keep their stored value, even where several stand for one class; the palette stays. A
    DatasetError names a class for which dataset.yaml names no stored value.
    """
    original, out = read_mask(path, classes), _as_values(read_stored(path), classes).copy()
    values = {c: value for value, c in reversed(classes.stored_values(color=out.ndim == 3).items())}
    for c in np.unique(mask[mask != original]).tolist():
        if c not in values:
            what = "ignored pixels" if c == IGNORE else f"class {classes.names[c]!r}"
            raise DatasetError(f"no stored value stands for {what}.", "", "Name one in ignore_ids or id_map.")
        out[(mask != original) & (mask == c)] = values[c]
    picture, stream = Image.fromarray(out), io.BytesIO()
    with Image.open(path, formats=_FORMATS) as stored:
        if stored.mode == "P":  # 256 colours: with fewer, Pillow would write fewer bits than ids need
            picture.putpalette((stored.getpalette("RGB") + [0] * 768)[:768])
    picture.save(stream, "PNG")
    return stream.getvalue()


def _read_stored(path: Path, label: str) -> tuple[np.ndarray, str]:
    with _decoded(path, label) as (image, mode):
        stored = np.asarray(image)
        if stored.dtype.kind not in "iub" or image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            detail = f"{label} is stored as {image.mode!r}; expected ids of 8 or 16 bits, a palette or RGB."
            raise DatasetError(detail, "channels", "Export it as PNG.")
    if stored.ndim == 3:  # less alpha
        stored = stored[..., :3] if stored.shape[2] > 2 else stored[..., 0]
    return stored, mode


@contextlib.contextmanager
def _decoded(path: Path, label: str) -> Iterator[tuple[Image.Image, str]]:
    """The file's first picture, upright, and the mode in which it is stored; what decoders raise is a DatasetError."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            mode = image.mode  # decoding may widen it
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            yield image, mode
    except DatasetError:
        raise
    except FileNotFoundError:
        detail = f"{label} is gone: expected a file at {path}."
        raise DatasetError(detail, "missing-file", f"Restore it, {EXCLUDE}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        detail = f"{label} claims more pixels than is safe to open ({error})."
        raise DatasetError(detail, "too-large", f"Cut it into tiles, {EXCLUDE}.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        reason = " ".join(str(error).replace(str(path), path.name).split())[:300] or type(error).__name__
        detail = f"{label} cannot be read ({reason}); expected PNG, JPEG, TIFF, BMP or WebP."
        raise DatasetError(detail, "unreadable", f"Copy it again, {EXCLUDE}.") from None
