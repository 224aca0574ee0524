"""A small image and its mask."""

import numpy as np
from conftest import save as save

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
IDS = RNG.integers(0, 3, (6, 8), np.uint8)
