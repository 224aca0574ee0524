"""Measure how images look: which lie apart from their dataset (01), and which are degraded (04)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from PIL import Image

from seglib.data import reduced

LOOKS = ["brightness", "contrast", "entropy", "sharpness", "focus", "colour"]
FLAT = 2.0  # standard deviation of the grey values below which a picture shows nothing
FEWEST = 20  # images without which nothing can be said to lie apart
APART = 3.5  # robust standard deviations: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993
_LINES, _BANDS = 96, 64  # rows and columns of an image whose colours are looked at; rows whose edges are
_OPPONENTS = np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32)  # red - green, yellow - blue
# check -> property, factor of the median beyond which an image may lie apart, and words.
OUTLIERS = {
    "dark-image": ("brightness", 0.6, "is dark: mean grey value"),
    "bright-image": ("brightness", 1.5, "is bright: mean grey value"),
    "low-contrast-image": ("contrast", 0.5, "has little contrast: standard deviation of its grey values"),
    "low-entropy-image": ("entropy", 0.75, "holds little: entropy of its grey values in bits"),
    "blurred-image": ("focus", 0.2, "is blurred: focus"),
    "grainy-image": ("focus", 3.0, "is grainy: focus"),
    "grey-image": ("colour", 0.02, "is grey: colourfulness"),
}
_SIDE = 512  # to about this longer side images are reduced: a camera's noise is grained over a few pixels
_ROUNDING = 0.5  # grey levels of measured noise that rounding alone may make
_LEFT = 0.15  # of the noise's energy that is left in at least

# kind -> the quality that tells it; -1 if degraded images have less of it; factor beyond the training images' tail, so
# that among equals none is picked out; what is added before logarithms: differences far below do not show; words.
_KINDS = {
    "blur": ("sharpness", -1, 1.4, 1e-4, "sharpness (energy of second over first differences) {:.2g}"),
    "noise": ("noise", 1, 2.0, 2.0, "noise of {:.2g} grey levels"),
    # Not the mean: at night the street is dark and its lamps are bright; if underexposed, nothing is.
    "dark": ("highlights", -1, 1.6, 1.0, "the brightest 1 % of the pixels starts at grey value {:.3g}"),
    "washed out": ("contrast_ratio", -1, 1.6, 0.01, "contrast (deviation over mean of grey values) {:.2g}"),
}


def look(image: np.ndarray, grey: Image.Image) -> dict[str, float]:
    """Measure `LOOKS` of one image, given as (H, W, 3) uint8 and as Pillow's "L".

    Mean grey value (0-255), its standard deviation, entropy in bits; variance of the 4-neighbour Laplacian
    (Pech-Pacheco et al., ICPR 2000), the same over contrast², equal in a darker or paler copy (0 for a flat image);
    colourfulness (Hasler and Süsstrunk, SPIE 2003; 0: grey).
    """
    share, mean, deviation = _levels(grey)
    known = share[share > 0]
    pixels, step = np.asarray(grey), max(1, grey.height // _BANDS)
    up, row, down = (pixels[k : grey.height - 2 + k : step].astype(np.int16) for k in range(3))
    laplacian = up[:, 1:-1] + down[:, 1:-1] + row[:, :-2] + row[:, 2:] - 4 * row[:, 1:-1]
    sharpness = max(0.0, _energy(laplacian) - float(laplacian.mean()) ** 2) if laplacian.size else 0.0
    y, x = (max(1, side // _LINES) for side in image.shape[:2])
    opponents = _OPPONENTS @ image[::y, ::x].reshape(-1, 3).T.astype(np.float32)
    colour = np.hypot(*opponents.std(axis=1)) + 0.3 * np.hypot(*opponents.mean(axis=1))
    entropy, focus = -(known * np.log2(known)).sum(), sharpness / deviation**2 if deviation > 0 else 0.0
    return dict(zip(LOOKS, map(float, (mean, deviation, entropy, sharpness, focus, colour)), strict=True))


def limits(samples: pd.DataFrame) -> pd.DataFrame:
    """Compute beyond what values an image lies apart, a row a check."""
    rows = []  # robust standard deviations of logarithms from the median, and at least a fixed factor
    for check, (column, factor, _) in OUTLIERS.items():
        values = samples[column].to_numpy(float)
        logs = np.log(values[values > 0])
        if len(logs) >= max(FEWEST, len(values) / 2):
            median, spread = np.median(logs), 1.4826 * np.median(np.abs(logs - np.median(logs)))
            limit = median + np.sign(np.log(factor)) * max(APART * spread, abs(np.log(factor)))
            rows.append((check, column, "below" if factor < 1 else "above", np.exp(limit), np.exp(median)))
    return pd.DataFrame(rows, columns=["check", "column", "side", "limit", "median"])


def judge_looks(samples: pd.DataFrame, table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Report the images that lie beyond the `limits`."""
    for row in table.itertuples():
        values = samples[row.column]
        beyond = values.gt(row.limit) if row.side == "above" else values.lt(row.limit)
        for name, split, value in samples.loc[beyond, ["id", "split", row.column]].itertuples(index=False):
            detail = f"image {name!r} {OUTLIERS[row.check][2]} {value:.3g}; the median is {row.median:.3g}."
            yield row.check, name, split, detail


def qualities(image: np.ndarray) -> dict[str, float]:
    """Measure the properties of a (H, W, 3) uint8 image that degradations change: light, noise, blur.

    Returns:
        brightness, highlights, contrast_ratio: mean, 99th percentile, and deviation over mean of the grey values, 0-255.
        noise: standard deviation of white noise, in grey levels: the median absolute response (Donoho and
            Johnstone, Biometrika 1994) of Immerkaer's mask (CVIU 1996), where pixels are not clipped.
        sharpness: energy of the second differences over that of the first, less what noise contributes.
            NaN for a flat image and one of fewer than 3 x 3 pixels.
    """
    picture = reduced(image, max(1, round(max(image.shape) / _SIDE)), "L")
    share, mean, deviation = _levels(picture)
    noise, sharpness = _fine_structure(np.asarray(picture))
    found = {"brightness": mean, "highlights": float(np.searchsorted(np.cumsum(share), 0.99))}
    return found | {"contrast_ratio": deviation / max(mean, 1.0), "noise": noise, "sharpness": sharpness}


def _levels(grey: Image.Image) -> tuple[np.ndarray, float, float]:
    """The histogram as shares, the mean and the standard deviation."""
    share, levels = np.array(grey.histogram()) / (grey.width * grey.height), np.arange(256.0)
    mean = float(share @ levels)
    return share, mean, float(share @ (levels - mean) ** 2) ** 0.5


def _fine_structure(grey: np.ndarray) -> tuple[float, float]:
    """Noise and sharpness of (H, W) uint8."""
    if min(grey.shape) < 3:
        return 0.0, float("nan")
    above, own, below = (grey[k : len(grey) - 2 + k].astype(np.int16) for k in range(3))
    down, inner = above - 2 * own + below, own[:, 1:-1]  # second differences down the columns
    both = down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]  # and then along the rows: Immerkaer's mask
    response = np.abs(both[(inner > 0) & (inner < 255)])
    # The squared weights of the mask add up to 36.
    noise = float(np.median(response)) / 0.6745 / 6 if response.size else 0.0
    first = _energy(below - own) + _energy(np.diff(own, axis=1))
    second = _energy(down) + _energy(own[:, :-2] - 2 * inner + own[:, 2:])
    # White noise of variance v adds 2v to the energy of first and 6v to that of second differences, in each
    # direction. Some of it is left in, since it is known to a few percent only.
    variance = max(0.0, noise**2 - _ROUNDING**2)
    first = max(first - 4 * variance, _LEFT * 4 * variance)
    second = max(second - 12 * variance, _LEFT * 12 * variance)
    return noise, second / first if first > 0 else float("nan")


def _energy(differences: np.ndarray) -> float:
    flat = differences.astype(np.float32).ravel()
    return float(np.dot(flat, flat)) / flat.size


@dataclass(frozen=True)
class Reference:
    """Where the qualities of a number of training images lie."""

    # a row a kind: `median`, `low` and `high` (5th and 95th percentile), `scale`: a robust deviation of logs
    table: pd.DataFrame
    images: int

    @classmethod
    def of(cls, training: pd.DataFrame) -> Self:
        """Learn from a table of `qualities`, a row a training image; a few degraded ones change nothing."""
        rows = dict.fromkeys(_KINDS, (np.nan,) * 4)
        for kind, (quality, sign, factor, invisible, _) in _KINDS.items():
            values = training[quality].to_numpy(float)
            values = values[np.isfinite(values)]
            if len(values) >= FEWEST:
                logs = sign * np.log(values + invisible)
                median, tail = np.percentile(logs, [50, 95])
                spread = 1.4826 * np.median(np.abs(logs - median))
                # Room beyond the last 5 %: sequences in fog make room for others like them.
                scale = max(spread, (tail - median + np.log(factor)) / APART)
                rows[kind] = (*np.percentile(values, [50, 5, 95]), scale)
        columns = ["median", "low", "high", "scale"]
        return cls(pd.DataFrame.from_dict(rows, orient="index", columns=columns), len(training))


def degradation(measured: Mapping[str, float], reference: Reference) -> tuple[str, float, str]:
    """Name the degradation that stands out most in the `qualities` of an image, if any does.

    Returns:
        a kind of `_KINDS`, "" if none lies `APART` robust standard deviations from the training images; how many (NaN if
            nothing can be said); a sentence with the image's value and the training images'.
    """
    table, away = reference.table, {}
    for kind, (quality, sign, _, invisible, _) in _KINDS.items():
        ratio = (measured[quality] + invisible) / (table.loc[kind, "median"] + invisible)
        away[kind] = float(sign * np.log(ratio) / table.loc[kind, "scale"])
    kind = max(away, key=lambda kind: np.nan_to_num(away[kind], nan=-np.inf))
    if not away[kind] >= APART:
        return "", away[kind], ""
    row, (quality, *_, words) = table.loc[kind], _KINDS[kind]
    detail = f"{kind}: {words.format(measured[quality])}; in 90 % of the {reference.images} training images "
    return kind, away[kind], f"{detail}it is {row['low']:.3g} to {row['high']:.3g}."
