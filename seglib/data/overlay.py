"""Images, masks and errors drawn as uint8 arrays: what plots, failure sheets and the browser show."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from seglib.data.classes import IGNORE, ClassMap
from seglib.data.pairing import leads_outside

AGAIN = "Run 04_failure_analysis again: it rebuilds this folder."
MOST = 2048  # pixels of a longer side: more than a figure or a screen shows
ERROR = (255, 122, 0)  # lighter than any dimmed pixel, so that errors stand out in greyscale and to every eye
_CIVIDIS = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 175, 111), (254, 232, 56))  # from 0 to 1


def stored_picture(folder: Path, kind: str, sample: str) -> Path:
    """Find `folder/kind/<sample>.png` of a failures folder.

    A FileNotFoundError says that it is not there, or that the id or a link leads out of the folder.
    """
    path = Path(folder) / kind / f"{sample}.png"
    inside = path.parent == Path(folder) / kind and not leads_outside(folder, f"{kind}/{path.name}")
    if not inside or not path.is_file():
        raise FileNotFoundError(f"{kind}/{sample}.png is missing. {AGAIN}")
    return path


def fitting(image: np.ndarray, *masks: np.ndarray, most: int = MOST) -> list[np.ndarray]:
    """Shrink an image (H, W, 3) and its masks (H, W) to `most` pixels of the longer side; smaller ones stay as they are.

    The image is averaged, masks take the nearest neighbour: averaged ids would be other classes.
    """
    scale = most / max(1, *image.shape[:2])
    if scale >= 1:
        return [image, *masks]
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    sizes = [(image, Image.Resampling.BOX), *((mask, Image.Resampling.NEAREST) for mask in masks)]
    return [np.asarray(Image.fromarray(array).resize((width, height), how)) for array, how in sizes]


def overlay(image: np.ndarray, mask: np.ndarray, classes: ClassMap, alpha: float = 0.5) -> np.ndarray:
    """Blend the mask's class colours over the image; ignored pixels are blended with black.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class ids, 255 = ignored; a ValueError if its size differs.
        classes: with their colours.
        alpha: 0 shows the image alone, 1 the mask alone; a ValueError outside 0-1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    _check_sizes(image, mask=mask)
    return _blend(image, classes.colorize(mask), alpha)


def error_map(image: np.ndarray, truth: np.ndarray, pred: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Paint wrong pixels orange over the dimmed greyscale image; ignored pixels are hatched.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth, pred: (H, W) uint8 class ids, 255 = ignored; a ValueError if a size differs.
        alpha: 1 paints wrong pixels fully, less lets the greyscale image shine through.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    _check_sizes(image, truth=truth, prediction=pred)
    weights = np.array([77, 150, 29], np.uint16)  # Rec. 601 luma in 1/256
    grey = ((image.astype(np.uint16) @ weights) >> 8).astype(np.float32) * 0.5 + 8
    shown = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    painted = _blend(shown, np.broadcast_to(np.array(ERROR, np.uint8), shown.shape), alpha)
    wrong = wrong_pixels(truth, pred)
    shown[wrong] = painted[wrong]
    rows, columns = np.nonzero(truth == IGNORE)
    shown[rows, columns] = np.where((rows + columns) % 8 < 2, 96, 0)[:, None]
    return shown


def confidence_map(confidence: np.ndarray) -> np.ndarray:
    """Colour (H, W) uint8 confidences, 255 for a probability of 1, from dark blue to yellow: (H, W, 3) uint8.

    Source: cividis; Nunez et al., Optimizing colormaps with consideration for color vision deficiency, PLOS ONE 2018.
    """
    steps = np.linspace(0, 256, len(_CIVIDIS))
    ramp = [np.interp(np.arange(256), steps, channel) for channel in zip(*_CIVIDIS, strict=True)]
    return np.round(np.stack(ramp, axis=1)).astype(np.uint8)[confidence]


def wrong_pixels(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Find the valid pixels whose prediction differs from the ground truth: (H, W) bool."""
    return (truth != pred) & (truth != IGNORE)


def top_confusions(truth: np.ndarray, pred: np.ndarray, classes: ClassMap, count: int = 3) -> list[tuple]:
    """Find the class pairs that cost most in one image: (true class, predicted class, share of the valid pixels)."""
    wrong, valid = wrong_pixels(truth, pred), int((truth != IGNORE).sum())
    pairs, pixels = np.unique(truth[wrong].astype(np.uint16) * 256 + pred[wrong], return_counts=True)
    names = dict(enumerate(classes.names))
    best = np.argsort(-pixels, kind="stable")[:count]
    found = zip(pairs[best].tolist(), pixels[best].tolist(), strict=True)
    return [(names.get(pair >> 8, "?"), names.get(pair & 255, "?"), n / valid) for pair, n in found]


def present(*masks: np.ndarray) -> list[int]:
    """List the ids that occur in the masks, ascending; 255 (ignored) comes last where it occurs."""
    return sorted({int(v) for mask in masks for v in np.unique(mask)})


def data_uri(picture: np.ndarray, width: int) -> str:
    """Write a uint8 RGB picture, about `width` pixels wide, as a JPEG `data:` address; it grows by whole steps only."""
    height, zoom = max(1, round(picture.shape[0] * width / picture.shape[1])), width // picture.shape[1]
    if zoom:
        small = Image.fromarray(picture.repeat(zoom, axis=0).repeat(zoom, axis=1))
    else:
        small = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80, subsampling=0)  # full colour resolution: masks have sharp edges
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _check_sizes(image: np.ndarray, **masks: np.ndarray) -> None:
    for name, mask in masks.items():
        if image.shape[:2] != mask.shape:
            sizes = f"{image.shape[0]}x{image.shape[1]}, but its {name} is {'x'.join(map(str, mask.shape))}"
            raise ValueError(f"image is {sizes}. They must lie pixel on pixel.")


def _blend(under: np.ndarray, over: np.ndarray, alpha: float) -> np.ndarray:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha}: expected 0 (image alone) to 1 (colours alone).")
    share = round(alpha * 256)
    return ((under.astype(np.uint16) * (256 - share) + over.astype(np.uint16) * share) >> 8).astype(np.uint8)
