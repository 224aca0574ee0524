"""A small image, its mask, and how they are written."""

from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
IDS = RNG.integers(0, 3, (6, 8), np.uint8)


def save(path: Path, picture, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path
