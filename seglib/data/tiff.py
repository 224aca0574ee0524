"""Read a TIFF as it is stored, by tifffile: one page, of any sample type and number of bands."""

from typing import BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import Image

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MODES = {("bool", 1): "1", ("uint8", 1): "L", ("uint8", 2): "LA", ("uint8", 3): "RGB", ("uint8", 4): "RGBA"}
_MODES |= {("uint16", 1): "I;16", ("int32", 1): "I", ("float32", 1): "F"}
_PILLOW = ("1", "L", "RGB", "RGBA", "I;16")  # modes that Pillow reads without a loss
_ALONE = (
    1,
    8,
    32773,
    32946,
)  # compressions that tifffile decodes without imagecodecs: none, deflate, packbits


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


class PagesError(ValueError):
    """A file holds several pages or frames; the message counts them."""


def read_tiff(file: BinaryIO) -> tuple[np.ndarray, Stored] | None:
    """Read the values of a TIFF, (H, W) or (H, W, bands), neither turned nor inverted.

    None where Pillow has to: palettes, CMYK, YCbCr and Lab, LZW and JPEG. A `PagesError` counts the pages of a stack, without
    thumbnails, overviews and transparency masks. A ValueError says what else cannot be read.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tif:
        pages = [page for page in tif.pages if not page.subfiletype & 5] or [tif.pages[0]]
        stack = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
        if (count := max(len(pages), stack)) > 1:
            raise PagesError(f"{count} pages")
        page, limit = pages[0], 2 * (Image.MAX_IMAGE_PIXELS or 0)
        bands, dtype = page.samplesperpixel, str(page.dtype)
        alpha = len(page.extrasamples) > 0 and page.extrasamples[-1] in (1, 2)
        if limit and page.imagewidth * page.imagelength > limit:
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
        if not (pixels := page.asarray()).size:
            raise ValueError("it has no pixels")
        orientation = page.tags[274].value if 274 in page.tags else 1
    pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    return pixels, Stored(mode, int(orientation), alpha, page.photometric == 0)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, ...) pixels as the EXIF orientation 1-8 says, like `ImageOps.exif_transpose`."""
    pixels = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
