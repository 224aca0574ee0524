"""Read image and mask files of every stored form, and write masks back: RGB bytes, class ids, or a `DatasetError`."""

import contextlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import ExifTags, Image, TiffImagePlugin

from seglib.data.classes import IGNORE, ClassMap, DatasetError, suggest

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # the only decoders that files reach, under any file name
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_ORIENTATION = ExifTags.Base.Orientation
# tags: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
# to be saved as PNG
FOREIGN = (".gif", ".npy", ".npz", ".pgm", ".ppm", ".jp2", ".heic", ".dcm", ".nii", ".mat")
_DEEP = ("RGB;16B", "RGBA;16B", "LA;16B")  # PNGs of which Pillow would keep the upper bytes alone
# How other files begin that come under such names, or, from the fifth byte on, HEIC and AVIF.
_OTHERS = {b"GIF8": "a GIF", b"ftyp": "an HEIC or AVIF image", b"{": "JSON", b"[": "JSON"}
_OTHERS |= {b"git-lfs": "a Git LFS pointer (`git lfs pull` fetches it)", b"<": "XML, SVG or a web page"}
# How TIFFs begin; Pillow's words for their pixels, and those that it reads without a loss.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MODES = {("bool", 1): "1", ("uint8", 1): "L", ("uint8", 2): "LA", ("uint8", 3): "RGB", ("uint8", 4): "RGBA"}
_MODES |= {("uint16", 1): "I;16", ("int32", 1): "I", ("float32", 1): "F"}
_PILLOW = ("1", "L", "RGB", "RGBA", "I;16")
_ROWS = 512  # of a large image that are converted at once
_ALONE = (1, 8, 32773, 32946)  # none, deflate and packbits, which tifffile decodes without imagecodecs
_ONE = "Save the one that is meant as a file of its own"
_UNPACK = ", unpack all by `seglib convert FOLDER --kind pages --to NEW`"
EXCLUDE = "or list the id under exclude in dataset.yaml"


class Stored(NamedTuple):
    """What a file says of its pixels."""

    mode: str  # Pillow's word for them ("L", "P", "I;16"), or bands and sample type ("5 x uint8")
    orientation: int = 1  # 1-8, of EXIF; 1: upright
    alpha: bool = False  # the last of several bands is transparency
    white_is_zero: bool = False  # a TIFF whose lowest value is white
    palette: bytes = b""  # red, green and blue of each index

    @property
    def deep(self) -> bool:
        """Whether a channel has more than 8 bits."""
        return self.mode[0] in "IF" or self.mode.endswith(("16", "32", "64"))


def georeference(path: Path) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """Read the tags of an upright TIFF that say where on the ground it lies (OGC GeoTIFF 1.1); None without any."""
    kept = TiffImagePlugin.ImageFileDirectory_v2()
    with contextlib.suppress(tifffile.TiffFileError), tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        for tag in tags if tags.valueof(_ORIENTATION, 1) == 1 else ():
            if tag.code in _GEOREFERENCE:
                kept[tag.code], kept.tagtype[tag.code] = tag.value, int(tag.dtype)
    return kept if len(kept) else None


@dataclass(frozen=True)
class ImageForm:
    """How dataset.yaml says that images are read; what would have to be guessed is refused."""

    channels: tuple[int, int, int] | None = None  # red, green and blue bands, from 1; None: up to three
    range: tuple[float, float] | None = None  # what becomes 0 and 255 in images of more than 8 bits a channel
    exif: bool | None = None  # turn by the EXIF orientation; None: turn, and 01 asks where it matters


PLAIN = ImageForm()


def read_image(path: str | Path, label: str = "", form: ImageForm = PLAIN) -> np.ndarray:
    """Read a PNG, JPEG, TIFF, BMP or WebP under any file name as (H, W, 3) uint8 RGB, owned and writable.

    Alpha is dropped, not multiplied in; grey and palette images are expanded. Errors name the image by `label`. A
    DatasetError has check "missing-file", "unreadable", "too-large" (Pillow's limit against decompression bombs), "pages"
    (several), "channels" (bands that `form` does not name) or "range" (more than 8 bits, and `form` has none).
    """
    return read_picture(path, label, form)[0]


def read_picture(path: str | Path, label: str = "", form: ImageForm = PLAIN) -> tuple[np.ndarray, Stored]:
    """Read an image as `read_image` does, and how the file stores it."""
    label = f"image {label or repr(Path(path).name)}"
    pixels, stored = read_values(Path(path), form, label)
    return np.array(np.broadcast_to(_scale(pixels, form, label), (*pixels.shape[:2], 3)), order="C"), stored


def read_large(path: Path, form: ImageForm = PLAIN) -> np.ndarray:
    """Read a TIFF as `read_image` does, beyond Pillow's limit too: a memory map (H, W, 3) of a temporary file, uint8 RGB."""
    label = f"image {path.name!r}"
    pixels, stored = _decode(path, label, form.exif is not False, shown=True, large=True)
    with tempfile.TemporaryFile() as file:
        image = np.memmap(file, np.uint8, "w+", shape=(*pixels.shape[:2], 3))
    for top in range(0, len(pixels), _ROWS):
        rows = slice(top, top + _ROWS)
        image[rows] = _scale(_chosen(pixels[rows], stored, form, label), form, label)
    return image


def read_values(path: Path, form: ImageForm = PLAIN, label: str = "") -> tuple[np.ndarray, Stored]:
    """Read an image's bands, (H, W, 1 or 3) of any sample type, light as high values, before `form.range`; and how stored."""
    label = label or f"image {path.name!r}"
    pixels, stored = _decode(path, label, form.exif is not False, shown=True)
    return _chosen(pixels, stored, form, label), stored


def _chosen(pixels: np.ndarray, stored: Stored, form: ImageForm, label: str) -> np.ndarray:
    if stored.white_is_zero and pixels.dtype.kind in "bu":
        pixels = ~pixels
    count, chosen = pixels.shape[2], form.channels
    what = f"{label} has {count} bands ({stored.mode})"
    if chosen and max(chosen) > count:
        told = f"{what}, but dataset.yaml names {[*chosen]}."
        raise DatasetError(told, "channels", f"Name bands that it has as channels, {EXCLUDE}.")
    if chosen:
        return pixels[..., [c - 1 for c in chosen]]
    shown = count - (stored.alpha and count > 1)
    if shown not in (1, 3):
        line = "channels: [3, 2, 1]" if count > 2 else "channels: [1, 1, 1]"
        raise DatasetError(f"{what}.", "channels", f"Name red, green and blue in dataset.yaml, as in {line}.")
    return pixels[..., :shown]


def _scale(pixels: np.ndarray, form: ImageForm, label: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if form.range is None:
        kind = f"{8 * pixels.dtype.itemsize}-bit{' floating-point' * (pixels.dtype.kind == 'f')} values"
        detail = f"{label} holds {kind}, {np.nanmin(pixels):g} to {np.nanmax(pixels):g}; expected 8 bits, or a range."
        suggestion = "Write range: [lowest, highest] into dataset.yaml; `seglib check` proposes the line."
        raise DatasetError(detail, "range", suggestion)
    low, high = form.range  # NaN, as no data, becomes 0
    scaled = (pixels.astype(np.float64) - low) * (255 / (high - low))
    return np.nan_to_num(scaled, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)


def read_mask(path: str | Path, classes: ClassMap, label: str = "") -> np.ndarray:
    """Read a mask file as (H, W) uint8 class ids, 255 = ignored.

    Palette files give their indices, white-is-zero TIFFs what they store, RGB files ids by their colours, or without
    named colours by three equal channels. 1-bit files hold 0 and 1, or 0 and 255 if id_map names 255 and not 1. A
    DatasetError is as of `read_image`, or "illegal-ids" or "rgb-mask": values that dataset.yaml does not name.
    """
    return read_mask_and_mode(path, classes, label)[0]


def read_mask_and_mode(path: str | Path, classes: ClassMap, label: str = "") -> tuple[np.ndarray, Stored]:
    """Read a mask as `read_mask` does, and how the file stores it."""
    label = f"mask {label or repr(Path(path).name)}"
    values, stored = read_form(Path(path), label)
    values = _as_values(values, classes)
    try:
        return classes.encode(values), stored
    except DatasetError as error:
        check = "illegal-ids" if values.ndim == 2 else "rgb-mask"
        smeared = " JPEG smears ids: export masks as PNG." * (Path(path).suffix.lower() in (".jpg", ".jpeg"))
        raise DatasetError(f"{label} {error}", check, suggest(values, classes) + smeared) from None


def read_stored(path: str | Path, label: str = "") -> np.ndarray:
    """Read a mask file's values as they are stored: (H, W) integers or bool, or (H, W, 3) uint8 colours."""
    return np.array(read_form(Path(path), label or f"mask {Path(path).name!r}")[0])


def _as_values(stored: np.ndarray, classes: ClassMap) -> np.ndarray:
    """Bool masks as integers, three equal channels as one where no colours are named."""
    if stored.dtype == bool:
        return stored * np.uint8(255 if 255 in classes.id_map and 1 not in classes.id_map else 1)
    grey = stored.ndim == 3 and not classes.by_color and (stored == stored[..., :1]).all()
    return stored[..., 0] if grey else stored


def encode_mask(path: str | Path, classes: ClassMap, mask: np.ndarray) -> bytes:
    """Write a PNG that `read_mask` reads as `mask`, uint8 class ids, in the form and size of the mask file at `path`.

    Pixels whose class stays keep their stored value, even where several stand for one class; the palette stays.
    """
    original, (out, form) = read_mask(path, classes), read_form(Path(path), f"mask {Path(path).name!r}")
    out = _as_values(out, classes).copy()
    values = {c: value for value, c in reversed(classes.stored_values(color=out.ndim == 3).items())}
    for c in np.unique(mask[mask != original]).tolist():
        if c not in values:
            what = "ignored pixels" if c == IGNORE else f"class {classes.names[c]!r}"
            raise DatasetError(f"no stored value stands for {what}.", "", "Name one in ignore_ids or id_map.")
        out[(mask != original) & (mask == c)] = values[c]
    if out.dtype != np.uint8:
        if out.min() < 0 or out.max() > 65535:
            raise DatasetError(f"mask {Path(path).name!r} stores ids that no PNG holds. Map it to 0-65535.")
        out = out.astype(np.uint16)
    picture, stream = Image.fromarray(out), io.BytesIO()
    if form.mode == "P":  # 256 colours: with fewer, Pillow would write fewer bits than ids need
        picture.putpalette(form.palette.ljust(768, b"\0"))
    picture.save(stream, "PNG")
    return stream.getvalue()


def read_form(path: Path, label: str) -> tuple[np.ndarray, Stored]:
    """Read a mask's values, of one band or of three uint8 ones, and how the file stores them."""
    (values, stored), suggestion = _decode(path, label), "Save the band of the ids alone, as PNG."
    if stored.alpha and values.shape[2] > 1:
        alpha, values = values[..., -1], values[..., :-1]
        if alpha.min() < alpha.max() and (values == values[:1, :1]).all():
            detail = f"{label} is one colour ({stored.mode}); what differs is its alpha, {alpha.min()} to {alpha.max()}."
            suggestion += " For example: Image.open(path).getchannel('A')."
            raise DatasetError(detail, "channels", suggestion)
    if values.dtype != np.uint8 and (values == values[..., :1]).all():
        values = values[..., :1]
    if values.shape[2] not in (1, 3) or (values.shape[2] == 3 and values.dtype != np.uint8):
        detail = f"{label} has {values.shape[2]} bands ({stored.mode}); expected one, or RGB of 8 bits."
        raise DatasetError(detail, "channels", suggestion)
    if values.dtype.kind == "f":
        whole = np.nan_to_num(values, posinf=0, neginf=0).astype(np.int64)
        if (whole != values).any():
            detail = f"{label} holds fractions or NaN ({stored.mode}); expected whole numbers, the ids."
            suggestion = "Export ids, not probabilities; give missing pixels a number, named in ignore_ids."
            raise DatasetError(detail, "channels", suggestion)
        values = whole
    return values if values.shape[2] == 3 else values[..., 0], stored


def _decode(
    path: Path, label: str, exif: bool = True, shown: bool = False, large: bool = False
) -> tuple[np.ndarray, Stored]:
    """The file's values (H, W, bands), upright, palettes as colours if `shown`. What decoders raise is a DatasetError."""
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(32)
            tiff = head[:4] in _MAGIC and _read_tiff(file, large)
            pixels, stored = tiff or _decode_by_pillow(file, shown)
            return np.atleast_3d(_upright(pixels, stored.orientation) if exif else pixels), stored
    except DatasetError as error:
        check, told, suggestion = error.check, error.detail, error.suggestion
    except FileNotFoundError:
        check, told, suggestion = "missing-file", f"is gone: expected a file at {path}.", "Restore it"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        check, told = "too-large", f"claims more pixels than is safe to open ({error})."
        suggestion = "Cut it into tiles"
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        found = (words for magic, words in _OTHERS.items() if magic in head[: 32 * (len(magic) > 1) or 1])
        known = next(found, "") if head else "empty (0 bytes)"
        reason = " ".join(str(error).replace(str(path), path.name).split())[:300] or type(error).__name__
        told = f"is {known}" if known else f"cannot be read ({reason})"
        check, told = "unreadable", f"{told}; expected PNG, JPEG, TIFF, BMP or WebP."
        suggestion = "Save it as PNG" if head and (known or head[:4] in _MAGIC) else "Copy it again"
        suggestion = "Run that" if "LFS" in known else suggestion
        suggestion = "Run `pip install imagecodecs`" if "imagecodecs" in reason else suggestion
    raise DatasetError(f"{label} {told}", check, f"{suggestion}, {EXCLUDE}.")


def _decode_by_pillow(file: BinaryIO, shown: bool) -> tuple[np.ndarray, Stored]:
    file.seek(0)
    with Image.open(file, formats=_FORMATS) as image:
        mode, raw = image.mode, image.tile[0][3] if image.format == "PNG" and image.tile else ""
        if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
            raise DatasetError(f"holds {image.n_frames} frames; expected one.", "pages", _ONE)
        if raw in _DEEP:
            told = f"is a PNG of 16 bits in {raw.split(';')[0]}; expected 8 bits, or one channel."
            raise DatasetError(told, "channels", "Save it as TIFF, which is read with all its bits")
        image.load()
        turned = image.getexif().get(_ORIENTATION, 1)
        alpha = mode in ("LA", "RGBA") or (mode == "PA" and not shown)
        palette = image.getpalette("RGB") if mode == "P" else []
        if shown and mode[0] == "P":
            image = image.convert("RGBA")  # not "RGB": palette transparency would be blended
        if shown and mode not in ("1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B"):
            image = image.convert("RGB")
        return np.asarray(image), Stored(mode, turned, alpha, palette=bytes(palette))


def _read_tiff(file: BinaryIO, large: bool) -> tuple[np.ndarray, Stored] | None:
    """The values of a TIFF as stored; None where Pillow has to: palettes, CMYK, YCbCr and Lab, LZW and JPEG.

    A `large` one lies on the disk, whose free space is its limit.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tif:
        # neither thumbnails nor masks of transparency
        pages = [page for page in tif.pages if not page.subfiletype & 5] or [tif.pages[0]]
        stack = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
        if (count := max(len(pages), stack)) > 1:
            raise DatasetError(f"holds {count} pages; expected one.", "pages", _ONE + _UNPACK)
        page, limit = pages[0], 2 * (Image.MAX_IMAGE_PIXELS or 0)
        area = page.imagewidth * page.imagelength
        room = shutil.disk_usage(tempfile.gettempdir()).free / 4 if large else 0  # others are read meanwhile
        bands, dtype = page.samplesperpixel, str(page.dtype)
        alpha = len(page.extrasamples) > 0 and page.extrasamples[-1] in (1, 2)
        if limit and area > limit and page.nbytes + 3 * area > room:
            raise Image.DecompressionBombError(f"{page.imagewidth}x{page.imagelength} pixels")
        mode = _MODES.get((dtype, bands), f"{bands} x {dtype}" if bands > 1 else dtype)
        mode = "RGBX" if mode == "RGBA" and not alpha else mode
        whole = mode in _PILLOW and page.photometric and page.compression not in _ALONE
        if whole or page.photometric not in (0, 1, 2):
            return None
        if page.axes not in ("YX", "YXS", "SYX"):
            raise ValueError(f"its axes are {page.axes}, not height, width and bands")
        ends = [at + length for at, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if max(ends, default=0) > file.seek(0, 2):
            raise ValueError("it ends before its pixels do")
        if not (pixels := page.asarray(out="memmap" if large else None)).size:
            raise ValueError("it has no pixels")
        orientation = page.tags.valueof(_ORIENTATION, 1)
    pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    return pixels, Stored(mode, int(orientation), alpha, page.photometric == 0)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, ...) pixels as the EXIF orientation 1-8 says, like `ImageOps.exif_transpose`."""
    pixels = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
