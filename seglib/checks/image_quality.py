"""How an image looks, in numbers, and which images lie apart from the rest of their dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from seglib.checks.findings import Finding, finding
from seglib.compiled import compiled

FLAT = 2.0  # standard deviation of the grey values below which a picture shows nothing
LOOKS = ["brightness", "contrast", "entropy", "sharpness", "focus", "colour"]
FEWEST = 20  # images without which nothing can be said to lie apart
APART = 3.5  # robust standard deviations: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993
GREY = 1.0  # colourfulness below which an image has no colours
_LINES, _BANDS = 96, 64  # rows and columns of a large image that are looked at; rows whose edges are
SIZE_APART, ASPECT_APART = 4.0, 1.8  # times the median area, or the median ratio of width to height


@dataclass(frozen=True)
class _Judged:
    """A property on one side of which images lie apart: beyond `factor` times the median, and `APART` deviations."""

    check: str
    column: str
    factor: float  # below 1: judged on the low side
    what: str


_JUDGED = (
    _Judged("dark-image", "brightness", 0.6, "is dark: mean grey value"),
    _Judged("bright-image", "brightness", 1.5, "is bright: mean grey value"),
    _Judged(
        "low-contrast-image", "contrast", 0.5, "has little contrast: standard deviation of its grey values"
    ),
    _Judged("low-entropy-image", "entropy", 0.75, "holds little: entropy of its grey values in bits"),
    _Judged("blurred-image", "focus", 0.2, "is blurred: focus"),
    _Judged("grainy-image", "focus", 3.0, "is grainy: focus"),
)


def look(image: Image.Image, grey: Image.Image) -> dict[str, float]:
    """What can be told from one image.

    Args:
        image: Pillow's "RGB".
        grey: the same as Pillow's "L" (luma of ITU-R BT.601).

    Returns:
        brightness: mean grey value, 0-255. contrast: its standard deviation. entropy: of the grey values' histogram, bits.
        sharpness: variance of the 4-neighbour Laplacian (Pech-Pacheco et al., Diatom autofocusing in brightfield
            microscopy, ICPR 2000); it grows with contrast and noise, so compare only like with like.
        focus: sharpness / contrast², which a darker or paler copy of an image shares with it; 0 for a flat image.
        colour: Hasler and Süsstrunk's colourfulness (Measuring colourfulness in natural images, SPIE 2003); 0: grey.
        r, g, b, r2, g2, b2: means of the channels and of their squares, for the dataset's mean and deviation.
    """
    mean, variance, entropy, sharpness = _grey_looks(np.asarray(grey), max(1, image.height // _BANDS))
    # All pixels of a small image, about a hundred rows and columns of a large one: means and variances want no more.
    along, down = (max(1, side // _LINES) for side in image.size)
    size = (image.width // along, image.height // down)
    some = image.resize(size, Image.Resampling.NEAREST, (0, 0, size[0] * along, size[1] * down))
    colour, r, g, b, r2, g2, b2 = _colour_looks(np.asarray(some).reshape(-1, 3))
    return {
        "brightness": mean,
        "contrast": variance**0.5,
        "entropy": entropy,
        "sharpness": sharpness,
        "focus": sharpness / variance if variance > 0 else 0.0,
        "colour": colour,
        "r": r, "g": g, "b": b, "r2": r2, "g2": g2, "b2": b2,
    }  # fmt: skip


@compiled
def _grey_looks(grey, step):
    """Mean, variance and entropy of (H, W) uint8 values, and the variance of the Laplacian in every `step`-th row."""
    height, width = grey.shape
    # Four tables: neighbours are alike, and no sum can start before the last one to its place is done.
    flat, tables = grey.ravel(), np.zeros((4, 256), np.int64)
    fourths = len(flat) // 4 * 4
    for k in range(0, fourths, 4):
        for j in range(4):
            tables[j, flat[k + j]] += 1
    for k in range(fourths, len(flat)):
        tables[0, flat[k]] += 1
    mean, entropy = 0.0, 0.0
    shares = tables.sum(0) / max(1, len(flat))
    for value in range(256):
        if shares[value] > 0:
            mean += shares[value] * value
            entropy -= shares[value] * np.log2(shares[value])
    variance = 0.0
    for value in range(256):
        variance += shares[value] * (value - mean) ** 2
    total = squares = pixels = 0
    for y in range(1, height - 1, step):
        above, row, below = grey[y - 1], grey[y], grey[y + 1]
        some, many = np.int32(0), 0
        for x in range(1, width - 1):
            edge = (
                np.int32(above[x])
                + np.int32(below[x])
                + np.int32(row[x - 1])
                + np.int32(row[x + 1])
                - 4 * np.int32(row[x])
            )
            some += edge
            many += edge * edge
        total += some
        squares += many
        pixels += max(0, width - 2)
    sharpness = squares / pixels - (total / pixels) ** 2 if pixels else 0.0
    return mean, variance, entropy, sharpness


@compiled
def _colour_looks(pixels):
    """Colourfulness of (N, 3) uint8 pixels, the means of red, green and blue, and of their squares.

    Of whole numbers until the last step: a grey image has a colourfulness of 0.
    """
    r = g = b = rr = gg = bb = oo = yy = 0
    for k in range(len(pixels)):
        red, green, blue = np.int32(pixels[k, 0]), np.int32(pixels[k, 1]), np.int32(pixels[k, 2])
        r, g, b = r + red, g + green, b + blue
        rr, gg, bb = rr + red * red, gg + green * green, bb + blue * blue
        opponent, yellow = red - green, red + green - 2 * blue  # twice the difference of yellow and blue
        oo, yy = oo + opponent * opponent, yy + yellow * yellow
    n = max(1, len(pixels))
    o, y = r - g, r + g - 2 * b
    spread = np.sqrt((n * oo - o * o) + (n * yy - y * y) / 4) / n
    colour = spread + 0.3 * np.hypot(o, y / 2) / n
    return colour, r / n, g / n, b / n, rr / n, gg / n, bb / n


def limits(samples: pd.DataFrame) -> pd.DataFrame:
    """Beyond what values an image lies apart from the rest of its dataset.

    A limit lies `APART` robust standard deviations (1.4826 x the median absolute deviation) of the logarithms from the
    median, and at least a fixed factor from it, so that in a dataset of equals nobody is picked out.

    Args:
        samples: with the columns `LOOKS`, NaN where a file could not be read.

    Returns:
        `check`, `column`, `side` ("below" or "above"), `limit`, `median`; no rows for fewer than `FEWEST` images.
    """
    rows = []
    for judged in _JUDGED:
        values = samples[judged.column].to_numpy(float)
        logs = np.log(values[values > 0])
        if len(logs) < FEWEST:
            continue
        median, sign = np.median(logs), np.sign(np.log(judged.factor))
        deviation = 1.4826 * np.median(np.abs(logs - median))
        limit = np.exp(median + sign * max(APART * deviation, abs(np.log(judged.factor))))
        rows.append(
            (
                judged.check,
                judged.column,
                "below" if sign < 0 else "above",
                float(limit),
                float(np.exp(median)),
            )
        )
    return pd.DataFrame(rows, columns=["check", "column", "side", "limit", "median"])


def judge_looks(samples: pd.DataFrame) -> Iterator[Finding]:
    """Images that lie apart from the rest: dark, bright, flat, blurred, grainy, grey among coloured ones, of odd size."""
    seen = samples[samples["brightness"].notna() & (samples["contrast"] >= FLAT)]
    words = {judged.check: judged.what for judged in _JUDGED}
    for row in limits(seen).itertuples():
        values = seen[row.column]
        apart = (values < row.limit) if row.side == "below" else (values > row.limit)
        for name, split, value in seen.loc[apart, ["id", "split", row.column]].itertuples(index=False):
            detail = (
                f"image {name!r} {words[row.check]} {value:.3g}; the dataset's median is {row.median:.3g}."
            )
            yield finding(row.check, name, split, detail)
    if len(seen) < FEWEST:
        return
    grey = seen["colour"] < GREY
    if 0 < grey.sum() < len(seen) / 2:
        for name, split in seen.loc[grey, ["id", "split"]].itertuples(index=False):
            yield finding("grey-image", name, split, f"image {name!r} is grey; most have colours.")
    height, width = seen["height"].to_numpy(float), seen["width"].to_numpy(float)
    for check, values, most, what in (
        ("odd-size", height * width, SIZE_APART, "pixels"),
        ("odd-aspect", width / height, ASPECT_APART, "of width to height"),
    ):
        times = values / np.median(values)
        for place in np.flatnonzero(np.maximum(times, 1 / times) > most):
            sample = seen.iloc[place]
            detail = f"image {sample['id']!r} is {sample['width']}x{sample['height']} (width x height): "
            detail += f"{times[place]:.2g} times the median {what}."
            yield finding(check, sample["id"], sample["split"], detail)


def mean_and_deviation(samples: pd.DataFrame, moments: pd.DataFrame) -> dict[str, list[float]]:
    """Mean and standard deviation of the dataset's channels over all pixels, in 0-1, as `Normalize` takes them.

    Args:
        samples: `height` and `width`.
        moments: `r`, `g`, `b`, `r2`, `g2`, `b2` of the same images, as `look` gives them; NaN rows are left out.
    """
    known = moments["r"].notna().to_numpy()
    if not known.any():
        return {"mean": [], "std": []}
    pixels = (samples["height"] * samples["width"]).to_numpy(float, na_value=0.0)[known]
    means = np.average(moments.loc[known, ["r", "g", "b"]].to_numpy(float), axis=0, weights=pixels)
    squares = np.average(moments.loc[known, ["r2", "g2", "b2"]].to_numpy(float), axis=0, weights=pixels)
    deviation = np.sqrt(np.maximum(squares - means**2, 0))
    return {
        "mean": [round(m / 255, 4) for m in means.tolist()],
        "std": [round(d / 255, 4) for d in deviation.tolist()],
    }
