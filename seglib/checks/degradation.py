"""Is an image degraded? Blur, noise, darkness and washed-out contrast, judged against the images that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from seglib.checks.image_quality import APART, FEWEST

KINDS = ("blur", "noise", "dark", "washed out")
QUALITIES = ("brightness", "highlights", "contrast_ratio", "noise", "sharpness")
_SIDE = 512  # to about this longer side images are reduced: noise and blur finer than that do not show
_ROUNDING = 0.5  # grey levels of measured noise that rounding alone may make
_LEFT = 0.15  # of the noise's energy that is left in at least
_LAPLACIAN_GAIN = 36  # sum of the squared weights of the mask whose response is taken for noise


@dataclass(frozen=True)
class _Judged:
    """A kind of degradation: the quality that tells it, and on which side of the training images' values.

    Args:
        sign: of the logarithm's deviation that counts; -1: degraded images have less.
        factor: beyond the training images' tail that an image must be, so that in a set of equals nobody is picked out.
        invisible: added to every value before logarithms are taken: differences far below it do not count.
    """

    quality: str
    sign: int
    factor: float
    invisible: float
    words: str


_JUDGED = {
    "blur": _Judged("sharpness", -1, 1.4, 1e-4, "sharpness (energy of second over first differences) {:.2g}"),
    "noise": _Judged("noise", 1, 2.0, 2.0, "noise of {:.2g} grey levels"),
    # Not the mean: a street at night is dark and its lamps are bright; in a picture that got too little light, nothing is.
    "dark": _Judged("highlights", -1, 1.6, 1.0, "brightest hundredth from grey value {:.3g} on"),
    "washed out": _Judged(
        "contrast_ratio", -1, 1.6, 0.01, "contrast (deviation over mean of the grey values) {:.2g}"
    ),
}
QUALITY_OF = {kind: judged.quality for kind, judged in _JUDGED.items()}


def qualities(image: np.ndarray) -> dict[str, float]:
    """Properties of an image that degradations change: light, contrast, noise and blur one each, and little else.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        brightness: mean grey value, 0-255 (luma of ITU-R BT.601).
        highlights: 99th percentile of the grey values.
        contrast_ratio: standard deviation of the grey values over their mean; less light alone leaves it as it is.
        noise: standard deviation of white noise, in grey levels: Immerkaer's mask, whose response to edges and slopes is small
            (Fast Noise Variance Estimation, CVIU 1996), here with the median of its absolute response (Donoho and Johnstone,
            Ideal Spatial Adaptation by Wavelet Shrinkage, Biometrika 1994), so that texture in less than half of the image
            does not count. Pixels at 0 and 255 are left out: clipping hides noise.
        sharpness: energy of the second differences over that of the first, less what the noise contributes to both; the
            mean squared spatial frequency. Neither light nor contrast changes it. NaN for a flat image and one of fewer than
            3 x 3 pixels; where noise drowns all else, it tends to 3, which is sharp: then only the noise can be told.

    Images whose longer side is beyond 768 pixels are reduced to about 512 first, by whole pixels' means: a camera's noise is
    grained over a few pixels, and what an image shows at that size is near to what a model sees of it.

    A 480 x 360 image takes about 5 ms. Sharpness and noise are per pixel: compare images of like size.
    """
    picture = Image.fromarray(image).convert("L")
    grey = np.asarray(picture.reduce(max(1, round(max(picture.size) / _SIDE))))
    levels = np.arange(256.0)
    share = np.bincount(grey.ravel(), minlength=256) / max(1, grey.size)
    mean = float(share @ levels)
    deviation = max(0.0, float(share @ (levels - mean) ** 2)) ** 0.5
    highlights = float(np.searchsorted(np.cumsum(share), 0.99))
    noise, sharpness = _fine_structure(grey)
    return {
        "brightness": mean,
        "highlights": highlights,
        "contrast_ratio": deviation / max(mean, 1.0),
        "noise": noise,
        "sharpness": sharpness,
    }


def _fine_structure(grey: np.ndarray) -> tuple[float, float]:
    """Noise and sharpness of (H, W) uint8."""
    if min(grey.shape) < 3:
        return 0.0, float("nan")
    above, own, below = (grey[k : grey.shape[0] - 2 + k].astype(np.int16) for k in range(3))
    down = above - 2 * own + below  # second differences down the columns
    both = down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]  # and then along the rows: Immerkaer's mask
    inner = own[:, 1:-1]
    response = np.abs(both[(inner > 0) & (inner < 255)])
    noise = float(np.median(response)) / 0.6745 / _LAPLACIAN_GAIN**0.5 if response.size else 0.0
    along = own[:, :-2] - 2 * inner + own[:, 2:]
    first = _energy(below - own) + _energy(np.diff(own, axis=1))
    second = _energy(down) + _energy(along)
    # White noise of variance v adds 2v to the energy of first differences and 6v to that of second ones, in each direction.
    # The noise is known to a few percent of it, so no less of it is left: of nothing but noise the sharpness is noise's own, 3.
    # What rounding to whole grey levels is measured as is left in: taken off, it would be all there is in a very blurred picture.
    variance = max(0.0, noise**2 - _ROUNDING**2)
    first = max(first - 4 * variance, _LEFT * 4 * variance)
    second = max(second - 12 * variance, _LEFT * 12 * variance)
    return noise, second / first if first > 0 else float("nan")


def _energy(differences: np.ndarray) -> float:
    flat = differences.astype(np.float32).ravel()
    return float(np.dot(flat, flat)) / flat.size


@dataclass(frozen=True)
class Reference:
    """Where the training images' qualities lie.

    Args:
        table: a row a kind of `KINDS`: `median`, `low` and `high` (5th and 95th percentile) of its quality, and `scale`: one
            robust standard deviation of its logarithm towards the degraded side.
        images: how many they are.
    """

    table: pd.DataFrame
    images: int

    @classmethod
    def of(cls, training: pd.DataFrame) -> Reference:
        """Learn from a table of `qualities`, a row a training image.

        The scale is such that `APART` of it reach at least 3.5 times 1.4826 x the median absolute deviation, and at least a
        factor beyond the last 5 %. A few degraded images among the training images thus change nothing, and sequences in fog
        or at dusk, which the median absolute deviation alone would call degraded, make room for others like them and no more.

        Raises:
            ValueError: a quality is missing from the table.
        """
        if missing := sorted(set(QUALITIES) - set(training.columns)):
            raise ValueError(
                f"the training images' table lacks {missing}; expected the columns {list(QUALITIES)}."
            )
        rows = {}
        for kind, judged in _JUDGED.items():
            values = training[judged.quality].to_numpy(float)
            values = values[np.isfinite(values)]
            if len(values) < FEWEST:
                rows[kind] = (np.nan,) * 4
                continue
            logs = judged.sign * np.log(values + judged.invisible)
            median, tail = np.percentile(logs, [50, 95])
            spread = 1.4826 * np.median(np.abs(logs - median))
            scale = max(spread, (tail - median + np.log(judged.factor)) / APART)
            rows[kind] = (*np.percentile(values, [50, 5, 95]), scale)
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["median", "low", "high", "scale"])
        return cls(table, len(training))

    def limit(self, kind: str) -> float:
        """The value of the kind's quality (`QUALITY_OF`) from which an image counts as degraded; NaN if unknown."""
        row, judged = self.table.loc[kind], _JUDGED[kind]
        start = row["median"] + judged.invisible
        return float(start * np.exp(judged.sign * APART * row["scale"]) - judged.invisible)


def deviations(measured: Mapping[str, float], reference: Reference) -> dict[str, float]:
    """How far an image lies from the training images towards each of `KINDS`, in robust standard deviations.

    Negative: on the sound side. NaN: the image or the training images do not tell (fewer than `FEWEST` of them).
    """
    found = {}
    for kind, judged in _JUDGED.items():
        row, value = reference.table.loc[kind], measured[judged.quality]
        away = np.log(value + judged.invisible) - np.log(row["median"] + judged.invisible)
        found[kind] = float(judged.sign * away / row["scale"])
    return found


def degradation(measured: Mapping[str, float], reference: Reference) -> tuple[str, float, str]:
    """The degradation that stands out most, if any does.

    Args:
        measured: `qualities` of the image.

    Returns:
        kind: one of `KINDS`, "" if none lies `APART` robust standard deviations from the training images.
        z: how many, of the kind that stands out most; also where none is stated. NaN if nothing can be said.
        detail: a sentence with the image's value and the training images'; "" if none.
    """
    known = {kind: z for kind, z in deviations(measured, reference).items() if np.isfinite(z)}
    if not known:
        return "", float("nan"), ""
    kind = max(known, key=known.__getitem__)
    if known[kind] < APART:
        return "", known[kind], ""
    row, judged = reference.table.loc[kind], _JUDGED[kind]
    detail = (
        f"{kind}: {judged.words.format(measured[judged.quality])}; of the {reference.images} training images nine in ten have "
        f"{row['low']:.3g} to {row['high']:.3g}."
    )
    return kind, known[kind], detail
