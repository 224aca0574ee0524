"""What the stored values of masks tell before anybody names them: smeared classes, the nearest one."""

import numpy as np
import pandas as pd

APART = 16  # grey values between named ids, where others are read as the nearest: JPEG's noise is below half of it
MANY = 24  # values beyond which masks may hold no classes but numbers of objects, or noise
_NOISE = 8  # grey values by which the neighbours in a flat place of a smeared mask differ, at most
_LEAST = 0.005  # share of the pixels in flat places below which they are no class


def pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Write (..., 3) colours as one number each, red first: (...) int64."""
    return colors.astype(np.int64) @ [65536, 256, 1]


def nearest(values: np.ndarray, keys: np.ndarray, color: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest key of each value (V,), colours as 24 bits, and how far it is; from 1 on they are two classes."""
    if not color:
        distance = np.abs(values[:, None] - keys) / APART
    else:
        channels = [(values >> k & 255)[:, None] - (keys >> k & 255) for k in (16, 8, 0)]
        distance = np.linalg.norm(channels, axis=0) / (2 * APART)
    return keys[distance.argmin(axis=1)], distance.min(axis=1)


def snap(stored: np.ndarray, keys: np.ndarray, color: bool) -> tuple[np.ndarray, str]:
    """Replace every value of a mask by the nearest key; name in words one that covers flat places far from all keys."""
    flat, stored = _spread(stored) <= _NOISE, pack_rgb(stored) if color else stored
    values, where = np.unique(stored.astype(np.int64), return_inverse=True)
    near, distance = nearest(values, keys, color)
    where = where.reshape(stored.shape)
    lost, told = flat & (distance >= 1)[where], ""
    if lost.mean() > _LEAST:
        most = values[np.bincount(where[lost]).argmax()]
        told = f"{f'#{most:06x}' if color else most} or the like in {lost.mean():.1%} of its pixels"
    return near[where], told


def _spread(stored: np.ndarray) -> np.ndarray:
    """How much the values within 3x3 pixels differ, (H, W); of colours, in the channel where they differ most."""
    low = high = np.pad(stored, [(1, 1), (1, 1), (0, 0)][: stored.ndim], "edge")
    for _ in range(2):  # rows, then columns
        low = np.minimum(np.minimum(low[:-2], low[1:-1]), low[2:]).swapaxes(0, 1)
        high = np.maximum(np.maximum(high[:-2], high[1:-1]), high[2:]).swapaxes(0, 1)
    return high - low if stored.ndim == 2 else (high - low).max(axis=2)


def tally(stored: np.ndarray) -> pd.DataFrame:
    """Count a mask's values, colours as 24 bits: `pixels`, those whose 3x3 are `equal`, and `flat`: nearly equal."""
    values, where = np.unique(pack_rgb(stored) if stored.ndim == 3 else stored * 1, return_inverse=True)
    spread, most = _spread(stored * 1).ravel(), {"pixels": np.inf, "equal": 0, "flat": _NOISE}
    counts = {name: np.bincount(where.ravel(), spread <= n, len(values)) for name, n in most.items()}
    return pd.DataFrame(counts, values.astype(np.int64), dtype=int)


def levels(counts: pd.DataFrame, color: bool, lossy: bool = False) -> list[int] | None:
    """Tell what smeared masks held before JPEG or smooth edges, commonest first: [] if that is unclear, as in photographs.

    None if the `tally` is of sharp masks, and `lossy` does not say otherwise.
    """
    values, (pixels, equal, flat) = counts.index.to_numpy(), counts.to_numpy().T
    specks = equal < 0.05 * pixels  # a class has an inside
    ids = not color and len(values) <= MANY / 2 and np.diff(values).min(initial=0) < APART
    if not flat.any() or (not lossy and (ids or len(values) < 5 or specks.mean() < 0.5)):
        return None
    kept, left = [], flat.copy()
    while left.sum() > _LEAST * flat.sum():
        kept.append(int(values[left.argmax()]))
        left[nearest(values, np.array(kept[-1:]), color)[1] < 1] = 0
    close = flat[nearest(values, np.array(kept), color)[1] < 0.25].sum()
    if close < 0.8 * flat.sum() or flat.sum() < 0.3 * pixels.sum():
        return []
    if len(kept) == 1 and not color and kept[0] < APART and 255 - APART < values[-1] <= 255:
        kept.append(255)  # lines too thin for an inside
    return kept
