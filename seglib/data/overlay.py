"""Pictures of images, masks and errors as plain uint8 arrays: what the plots, the failure sheets and the gallery show."""

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
CIVIDIS = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 175, 111), (254, 232, 56))  # from 0 to 1


def stored_picture(folder: Path, kind: str, sample: str) -> Path:
    """`folder/kind/<sample>.png` of a failures folder.

    Raises:
        FileNotFoundError: it is not there, or the id or a link would lead out of the folder.
    """
    path = Path(folder) / kind / f"{sample}.png"
    if path.parent != Path(folder) / kind or not path.is_file() or leads_outside(folder, f"{kind}/{path.name}"):
        raise FileNotFoundError(f"{kind}/{sample}.png is missing. {AGAIN}")
    return path


def fitting(image: np.ndarray, *masks: np.ndarray, most: int = MOST) -> list[np.ndarray]:
    """An image and its masks, small enough to be drawn: what blends them takes many times their memory.

    Args:
        image: (H, W, 3) uint8 RGB; averaged.
        masks: (H, W) uint8 or bool; nearest neighbour, since averaged ids would be other classes.
        most: pixels of the longer side. What is no larger is given back as it is.
    """
    scale = most / max(1, *image.shape[:2])
    if scale >= 1:
        return [image, *masks]
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return [small, *(_nearest(mask, *small.shape[:2]) for mask in masks)]


def overlay(image: np.ndarray, mask: np.ndarray, classes: ClassMap, alpha: float = 0.5) -> np.ndarray:
    """The mask's class colours blended over the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class ids; 255 (not scored) is blended with black.
        alpha: 0 shows the image alone, 1 the mask alone.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: image and mask differ in height or width, or alpha is outside 0-1.
    """
    _same_size(image, mask=mask)
    return _blend(image, classes.colorize(mask), alpha)


def error_map(image: np.ndarray, truth: np.ndarray, pred: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Where the prediction is wrong: strong orange over the dimmed greyscale image; pixels that are not scored are hatched.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth, pred: (H, W) uint8 class ids; a pixel counts unless its truth is 255.
        alpha: 1 paints wrong pixels fully, less lets the greyscale image shine through.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the three differ in height or width, or alpha is outside 0-1.
    """
    _same_size(image, truth=truth, prediction=pred)
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
    """How sure the prediction is: dark blue where it is not, yellow where it is (cividis, the same to most colour-blind eyes).

    Args:
        confidence: (H, W) uint8, 255 for a probability of 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Source: Nunez et al., Optimizing colormaps with consideration for color vision deficiency, PLOS ONE 2018.
    """
    ramp = [
        np.interp(np.arange(256), np.linspace(0, 256, len(CIVIDIS)), channel) for channel in zip(*CIVIDIS, strict=True)
    ]
    return np.round(np.stack(ramp, axis=1)).astype(np.uint8)[confidence]


def wrong_pixels(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """(H, W) bool: scored pixels whose prediction differs from the truth."""
    return (truth != pred) & (truth != IGNORE)


def top_confusions(
    truth: np.ndarray, pred: np.ndarray, classes: ClassMap, count: int = 3
) -> list[tuple[str, str, float]]:
    """The class pairs that cost most in one image.

    Returns:
        up to `count` of (true class, predicted class, share of the scored pixels in 0-1), largest first; empty when nothing is wrong.
    """
    wrong = wrong_pixels(truth, pred)
    scored = int((truth != IGNORE).sum())
    pairs, pixels = np.unique(truth[wrong].astype(np.uint16) * 256 + pred[wrong], return_counts=True)
    names = dict(enumerate(classes.names))
    best = np.argsort(-pixels, kind="stable")[:count]
    return [
        (names.get(int(p) >> 8, "?"), names.get(int(p) & 255, "?"), float(n / scored))
        for p, n in zip(pairs[best], pixels[best], strict=True)
    ]


def present(*masks: np.ndarray) -> list[int]:
    """The ids that occur in the masks, ascending; 255 (not scored) comes last where it occurs."""
    return sorted({int(v) for mask in masks for v in np.flatnonzero(np.bincount(np.ravel(mask), minlength=1))})


def data_uri(picture: np.ndarray, width: int) -> str:
    """A uint8 RGB picture, about `width` pixels wide, as a JPEG `data:` address to embed in a page; whole zoom steps upwards."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    zoom = width // picture.shape[1]
    small = (
        _nearest(picture, picture.shape[0] * zoom, picture.shape[1] * zoom)
        if zoom
        else _resized(picture, height, width)
    )
    stream = io.BytesIO()
    Image.fromarray(small).save(
        stream, "JPEG", quality=80, subsampling=0
    )  # full colour resolution: masks have sharp edges
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _same_size(image: np.ndarray, **masks: np.ndarray) -> None:
    for name, mask in masks.items():
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"image is {image.shape[0]}x{image.shape[1]}, but its {name} is {'x'.join(map(str, mask.shape))}. They must lie pixel on pixel."
            )


def _blend(under: np.ndarray, over: np.ndarray, alpha: float) -> np.ndarray:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha}: expected 0 (image alone) to 1 (colours alone).")
    share = round(alpha * 256)
    return ((under.astype(np.uint16) * (256 - share) + over.astype(np.uint16) * share) >> 8).astype(np.uint8)


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if height >= image.shape[0]:
        return _nearest(image, height, width)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    # Pixel centres: (k + 1/2) / new * old.
    rows = ((np.arange(height) * 2 + 1) * array.shape[0]) // (2 * height)
    columns = ((np.arange(width) * 2 + 1) * array.shape[1]) // (2 * width)
    return array[rows[:, None], columns]
