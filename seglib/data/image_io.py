"""Read image and mask files of every stored form, and write masks back: RGB bytes, class ids, or a `DatasetError`."""

import contextlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from seglib.data.classes import IGNORE, ClassError, ClassMap
from seglib.data.misread import suggest
from seglib.data.tiff import MAGIC, PagesError, Stored, read_tiff, upright
from seglib.runs import display_path, is_plain

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # the only decoders that files reach, under any file name
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_ORIENTATION = 274
# tags: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
_DEEP = ("RGB;16B", "RGBA;16B", "LA;16B")  # PNGs of which Pillow keeps the upper bytes
# How other files begin that come under such names, or, from the fifth byte on, HEIC and AVIF.
_OTHERS = {b"GIF8": "a GIF", b"ftyp": "an HEIC or AVIF image", b"%PDF": "a PDF", b"NUMPY": "a NumPy array"}
_OTHERS |= {b"git-lfs": "a Git LFS pointer (`git lfs pull` fetches the file)", b"<": "XML, SVG or a web page"}
_OTHERS |= {
    b"{": "JSON",
    b"[": "JSON",
    b"PK\3\4": "a zip",
    b"8BPS": "a Photoshop file",
    b"\x89HDF": "HDF5 or MATLAB",
}
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


@dataclass(frozen=True)
class ImageForm:
    """How dataset.yaml says that images are read; what would have to be guessed is refused.

    Args:
        channels: the bands that are red, green and blue, counted from 1; None: all there are, at most three.
        range: the values that become 0 and 255 in images of more than 8 bits a channel; those of 8 bits stay.
        exif: whether images are turned by their EXIF orientation. None: they are, and 01 asks where it matters.
    """

    channels: tuple[int, int, int] | None = None
    range: tuple[float, float] | None = None
    exif: bool | None = None


PLAIN = ImageForm()


def read_image(path: str | Path, label: str = "", form: ImageForm = PLAIN) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, owned and writable.

    Alpha is dropped, not multiplied in; grey and palette images are expanded; the EXIF orientation is applied.

    Args:
        path: PNG, JPEG, TIFF, BMP or WebP, recognised by content and not by name.
        label: how errors name the image; its file name by default.
        form: bands, range and orientation: `Dataset.form`.

    Raises:
        DatasetError: check "missing-file", "unreadable", "too-large" (Pillow's limit against decompression bombs),
            "pages" (several), "channels" (bands that `form` does not name) or "range" (more than 8 bits, and `form` has no range).
    """
    return np.array(read_picture(path, label, form)[0])


def read_picture(path: str | Path, label: str = "", form: ImageForm = PLAIN) -> tuple[Image.Image, Stored]:
    """Read an image as `read_image` does, as Pillow's "RGB", and how the file stores it."""
    label = f"image {label or repr(Path(path).name)}"
    image, stored = _decode(Path(path), label, form.exif is not False)
    if form.channels or not isinstance(image, Image.Image):
        pixels = _bands(image, stored, form, label)
        if pixels.dtype == bool:
            pixels = pixels * np.uint8(255)
        elif pixels.dtype != np.uint8:
            pixels = _scale(pixels, form, label)
        image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # not "RGB": palette transparency would be blended
    return image if image.mode == "RGB" else image.convert("RGB"), stored  # no needless copy


def read_values(path: str | Path, label: str = "", form: ImageForm = PLAIN) -> np.ndarray:
    """Read an image's bands as they are stored, (H, W) or (H, W, 3) of any sample type, before `form.range`."""
    label = f"image {label or repr(Path(path).name)}"
    return _bands(*_decode(Path(path), label, form.exif is not False), form, label)


def _bands(image: Image.Image | np.ndarray, stored: Stored, form: ImageForm, label: str) -> np.ndarray:
    """The one or three bands that are shown, light as high values."""
    if isinstance(image, Image.Image):
        known = ("1", "L", "LA", "RGB", "RGBA")
        image = image.convert("RGBA") if image.mode[0] == "P" else image  # not "RGB": see `read_picture`
        image = image.convert("RGB") if image.mode not in known or stored.mode[0] == "P" else image
    pixels = np.asarray(image)
    if stored.white_is_zero and pixels.dtype.kind in "bu":
        pixels = ~pixels
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    if form.channels and max(form.channels) > count:
        detail = f"{label} has {count} band{'s' * (count > 1)} ({stored.mode}), but dataset.yaml names {[*form.channels]}."
        raise DatasetError(detail, "channels", f"Name bands that it has as channels, {EXCLUDE}.")
    if form.channels:
        return pixels.reshape(*pixels.shape[:2], count)[..., [c - 1 for c in form.channels]]
    shown = count - (stored.alpha and count > 1)
    if shown not in (1, 3):
        line = "channels: [3, 2, 1]" if count > 2 else "channels: [1, 1, 1]"
        suggestion = f"Name those that are red, green and blue in dataset.yaml, counted from 1, as in {line}."
        raise DatasetError(f"{label} has {count} bands ({stored.mode}).", "channels", suggestion)
    return pixels[..., :3] if shown == 3 else pixels.reshape(*pixels.shape[:2], -1)[..., 0]


def _scale(pixels: np.ndarray, form: ImageForm, label: str) -> np.ndarray:
    if form.range is None:
        low, high = np.nanmin(pixels), np.nanmax(pixels)
        kind = f"{8 * pixels.dtype.itemsize}-bit{' floating-point' * (pixels.dtype.kind == 'f')}"
        detail = f"{label} holds {kind} values, {low:g} to {high:g}; expected 8-bit ones, or their range."
        suggestion = "Write range: [lowest, highest] into dataset.yaml; `seglib check` proposes the line."
        raise DatasetError(detail, "range", suggestion)
    low, high = form.range  # NaN, as no data, becomes 0
    scaled = (pixels.astype(np.float64) - low) * (255 / (high - low))
    return np.nan_to_num(scaled, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)


def read_mask(path: str | Path, classes: ClassMap, label: str = "") -> np.ndarray:
    """Read a mask file as (H, W) uint8 class ids, 255 = ignored.

    Palette files give their indices, white-is-zero TIFFs what they store. RGB files are read by the colours that
    dataset.yaml names; where it names none, three equal channels are one channel of ids. 1-bit files hold 0 and 1, or
    0 and 255 if id_map names 255 and not 1. A DatasetError is as of `read_image`, or "illegal-ids" or "rgb-mask":
    values that dataset.yaml does not name.
    """
    return read_mask_and_mode(path, classes, label)[0]


def read_mask_and_mode(path: str | Path, classes: ClassMap, label: str = "") -> tuple[np.ndarray, Stored]:
    """Read a mask as `read_mask` does, and how the file stores it."""
    label = f"mask {label or repr(Path(path).name)}"
    values, stored = _read_stored(Path(path), label)
    values = _as_values(values, classes)
    try:
        return classes.encode(values), stored
    except ClassError as error:
        check = "illegal-ids" if values.ndim == 2 else "rgb-mask"
        smeared = " JPEG smears ids: export masks as PNG." * (Path(path).suffix.lower() in (".jpg", ".jpeg"))
        raise DatasetError(f"{label} {error}", check, suggest(values, classes) + smeared) from None


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
    original, (out, form) = read_mask(path, classes), _read_stored(Path(path), f"mask {Path(path).name!r}")
    out = _as_values(out, classes).copy()
    values = {c: value for value, c in reversed(classes.stored_values(color=out.ndim == 3).items())}
    for c in np.unique(mask[mask != original]).tolist():
        if c not in values:
            what = "ignored pixels" if c == IGNORE else f"class {classes.names[c]!r}"
            raise DatasetError(f"no stored value stands for {what}.", "", "Name one in ignore_ids or id_map.")
        out[(mask != original) & (mask == c)] = values[c]
    if out.dtype.kind in "iu" and out.dtype.itemsize > 2:
        if out.min() < 0 or out.max() > 65535:
            raise DatasetError(
                f"mask {Path(path).name!r} stores ids that no PNG holds.", "", "Map it to 0-65535."
            )
        out = out.astype(np.uint16)
    picture, stream = Image.fromarray(out), io.BytesIO()
    if form.mode == "P":  # 256 colours: with fewer, Pillow would write fewer bits than ids need
        with Image.open(path, formats=_FORMATS) as stored:
            picture.putpalette((stored.getpalette("RGB") + [0] * 768)[:768])
    picture.save(stream, "PNG")
    return stream.getvalue()


def _read_stored(path: Path, label: str) -> tuple[np.ndarray, Stored]:
    image, stored = _decode(path, label)
    values = np.asarray(image)
    if isinstance(image, Image.Image) and image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        detail = f"{label} is stored as {image.mode!r}; expected ids of 8 or 16 bits, a palette or RGB."
        raise DatasetError(detail, "channels", "Export it as PNG.")
    if stored.alpha and values.ndim == 3:
        *colors, alpha = np.moveaxis(values, -1, 0)
        if alpha.min() < alpha.max() and all(band.min() == band.max() for band in colors):
            detail = f"{label} is one colour ({stored.mode}); what differs is its alpha, {alpha.min()} to {alpha.max()}."
            suggestion = (
                "If the ids are there, save that band alone as PNG: Image.open(path).getchannel('A')."
            )
            raise DatasetError(detail, "channels", suggestion)
        values = values[..., :-1] if len(colors) > 1 else values[..., 0]
    if values.ndim == 3 and (values.shape[2] != 3 or values.dtype != np.uint8):
        if values.shape[2] != 3 or (values != values[..., :1]).any():
            detail = (
                f"{label} has {values.shape[2]} bands ({stored.mode}); expected one of ids, or RGB of 8 bits."
            )
            raise DatasetError(detail, "channels", "Save the band of the ids alone, as PNG.")
        values = values[..., 0]
    if values.dtype.kind == "f":
        whole = values.astype(np.int64) if np.isfinite(values).all() else np.zeros_like(values, int)
        if (whole != values).any():
            detail = f"{label} holds fractions or NaN ({stored.mode}); expected whole numbers, the ids."
            suggestion = (
                "Export ids, not probabilities; give missing pixels a number, and name it in ignore_ids."
            )
            raise DatasetError(detail, "channels", suggestion)
        values = whole
    return values, stored


def _decode(path: Path, label: str, exif: bool = True) -> tuple[Image.Image | np.ndarray, Stored]:
    """The file's picture, upright; an array where Pillow would lose values. What decoders raise is a DatasetError."""
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(32)
            if head[:4] in MAGIC and (found := read_tiff(file)):
                pixels, stored = found
                return (upright(pixels, stored.orientation) if exif else pixels), stored
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                mode, raw = image.mode, image.tile[0][3] if image.format == "PNG" and image.tile else ""
                if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
                    raise PagesError(f"{image.n_frames} frames")
                deep = _sixteen_bits(file, image, raw) if raw in _DEEP else None
                image.load()
                turned = image.getexif().get(ExifTags.Base.Orientation, 1)
                stored = Stored(mode, turned, mode in ("LA", "PA", "La", "RGBA", "RGBa"))
                if deep is not None:
                    stored = stored._replace(mode=f"{deep.shape[2]} x uint16")
                elif image.mode[0] in "IF":  # 16 or 32 bits
                    deep = np.asarray(image)
                if deep is not None:
                    return (upright(deep, turned) if exif else deep), stored
                if exif and turned != 1:
                    ImageOps.exif_transpose(image, in_place=True)
                return image, stored
    except PagesError as error:
        detail = f"{label} holds {error}; expected one."
        raise DatasetError(
            detail, "pages", f"Save the one that is meant as a file of its own, {EXCLUDE}."
        ) from None
    except FileNotFoundError:
        detail = f"{label} is gone: expected a file at {path}."
        raise DatasetError(detail, "missing-file", f"Restore it, {EXCLUDE}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        detail = f"{label} claims more pixels than is safe to open ({error})."
        raise DatasetError(detail, "too-large", f"Cut it into tiles, {EXCLUDE}.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        known = next((w for magic, w in _OTHERS.items() if magic in head[: 32 * (len(magic) > 1) or 1]), "")
        if known:
            detail = f"{label} is {known}; expected PNG, JPEG, TIFF, BMP or WebP."
            raise DatasetError(detail, "unreadable", f"Save it as PNG, {EXCLUDE}.") from None
        reason = " ".join(str(error).replace(str(path), path.name).split())[:300] or type(error).__name__
        detail = f"{label} cannot be read ({reason}); expected PNG, JPEG, TIFF, BMP or WebP."
        advice = "Save it in another form" if head[:4] in MAGIC else "Copy it again"
        raise DatasetError(detail, "unreadable", f"{advice}, {EXCLUDE}.") from None


def _sixteen_bits(file: BinaryIO, image: Image.Image, raw: str) -> np.ndarray:
    """Read a PNG of several channels of 16 bits, (H, W, C) uint16; Pillow alone gives the upper bytes."""
    if raw == "LA;16B":  # two channels of 16 bits lie as four of 8
        image.tile = [(*image.tile[0][:3], "RGBA")]
        pixels = np.asarray(image).astype(np.uint16)
        return pixels[..., ::2] << 8 | pixels[..., 1::2]
    upper = np.asarray(image).astype(np.uint16)
    file.seek(0)
    with Image.open(file, formats=["PNG"]) as again:
        again.tile = [(*again.tile[0][:3], raw[:-1] + "L")]  # the lower bytes
        return upper << 8 | np.asarray(again)
