"""How much of each class there is, where, in how many pieces; how far the splits differ; what to weigh classes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from seglib.checks.findings import Finding, finding, some
from seglib.checks.image_quality import LOOKS

CLASS_COLUMNS = [
    "split", "class_id", "class", "pixels", "pixel_share", "images", "image_share", "regions", "regions_per_image",
    "median_region",
]  # fmt: skip
SHIFT_COLUMNS = ["split", "kind", "name", "train_median", "median", "delta", "effect"]
# |delta| from which an effect is small, medium, large: Romano et al., Exploring methods for evaluating group differences
# on the NSSE and other surveys, 2006.
_EFFECTS = ((0.147, "small"), (0.33, "medium"), (0.474, "large"))
_MANY_PIECES = 1 << 18  # 2 MB of them wait to be counted
WEIGHT_KINDS = ("sqrt_inverse", "median_frequency")


class Pieces:
    """The connected regions of any number of masks: how many there are of each class and size."""

    def __init__(self) -> None:
        self._codes, self._times = np.empty(0, np.int64), np.empty(0, np.int64)
        self._waiting, self._count = [self._codes], 0

    def add(self, codes: np.ndarray) -> None:
        """Count the regions of a mask; (R,) int64, 256 x pixels + class id of each."""
        self._waiting.append(codes)
        self._count += len(codes)
        if self._count > _MANY_PIECES:
            self._merge()

    def of_class(self, class_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Their sizes in pixels, ascending, and how many there are of each."""
        self._merge()
        own = self._codes % 256 == class_id
        return self._codes[own] // 256, self._times[own]

    def _merge(self) -> None:
        codes, times = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._codes, place = np.unique(np.concatenate([self._codes, codes]), return_inverse=True)
        self._times = np.bincount(place, np.concatenate([self._times, times])).astype(np.int64)
        self._waiting, self._count = [codes[:0]], 0


def class_stats(
    names: Sequence[str], splits: pd.Series, counts: np.ndarray, pieces: Mapping[str, Pieces]
) -> pd.DataFrame:
    """One row a split and class.

    Args:
        names: the C classes.
        splits: (N,) the split of each sample, in the order in which splits are listed.
        counts: (N, C) scored pixels.
        pieces: split -> its connected regions.

    Returns:
        `pixels`; `pixel_share` of the split's scored pixels; `images` that hold it; `image_share`; `regions`: connected
        ones; `regions_per_image` that holds it, `median_region` in pixels (NaN for a class that does not occur).
    """
    tables = []
    for split in dict.fromkeys(splits):
        inside = counts[(splits == split).to_numpy()]
        pixels, images = inside.sum(axis=0), (inside > 0).sum(axis=0)
        found = [pieces[split].of_class(class_id) for class_id in range(len(names))]
        regions = np.array([times.sum() for _, times in found], np.int64)
        tables.append(
            pd.DataFrame(
                {
                    "split": split,
                    "class_id": range(len(names)),
                    "class": names,
                    "pixels": pixels,
                    "pixel_share": pixels / max(1, pixels.sum()),
                    "images": images,
                    "image_share": images / len(inside),
                    "regions": regions,
                    "regions_per_image": np.where(images > 0, regions / np.maximum(images, 1), np.nan),
                    "median_region": [_median(*sizes_and_times) for sizes_and_times in found],
                }
            )
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=CLASS_COLUMNS)


def _median(values: np.ndarray, times: np.ndarray) -> float:
    """The median of sorted `values`, each of which stands `times` times."""
    if not len(values):
        return float("nan")
    ends = np.cumsum(times)
    middle = [values[np.searchsorted(ends, k, "right")] for k in ((ends[-1] - 1) // 2, ends[-1] // 2)]
    return float(np.mean(middle))


def cooccurrence(names: Sequence[str], counts: np.ndarray) -> pd.DataFrame:
    """(C, C) images that hold both classes; on the diagonal those that hold the one. `counts` as for `class_stats`."""
    holds = (np.asarray(counts) > 0).astype(np.int64)
    return pd.DataFrame(holds.T @ holds, index=pd.Index(names, name="class"), columns=list(names))


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> float:
    """How often a value of `second` is larger than one of `first`, less how often it is smaller: -1 to 1, 0 for alike.

    It asks for no distribution and no unit, and outliers do not move it. NaN values are left out; NaN if none is left.

    Source: Cliff, Dominance statistics: ordinal analyses to answer ordinal questions, Psychological Bulletin 1993.
    """
    a, b = (np.sort(x[~np.isnan(x)]) for x in (np.asarray(first, float), np.asarray(second, float)))
    if not len(a) or not len(b):
        return float("nan")
    larger = np.searchsorted(a, b, "left").sum()
    smaller = (len(a) - np.searchsorted(a, b, "right")).sum()
    return float((larger - smaller) / (len(a) * len(b)))


def shifts(names: Sequence[str], samples: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """How the images of every other split differ from those of train.

    Args:
        names: the C classes.
        samples: N rows with `split` and the columns `LOOKS`.
        counts: (N, C) scored pixels; an image's share of a class is taken of its scored pixels.

    Returns:
        `split`, `kind` ("class" or "image"), `name`, `train_median` and `median` (of the shares, or of the property),
        `delta` (Cliff's; positive: more than in train), `effect` ("negligible", "small", "medium", "large").
    """
    total = counts.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    values = {("class", name): shares[:, k] for k, name in enumerate(names)}
    values |= {("image", name): samples[name].to_numpy(float, na_value=np.nan) for name in LOOKS}
    train, rows = (samples["split"] == "train").to_numpy(), []
    for split in dict.fromkeys(samples["split"]):
        inside = (samples["split"] == split).to_numpy()
        if split == "train" or not train.any():
            continue
        for (kind, name), column in values.items():
            delta = cliffs_delta(column[train], column[inside])
            effect = next((word for least, word in reversed(_EFFECTS) if abs(delta) >= least), "negligible")
            rows.append((split, kind, name, _middle(column[train]), _middle(column[inside]), delta, effect))
    return pd.DataFrame(rows, columns=SHIFT_COLUMNS)


def _middle(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def judge_shifts(table: pd.DataFrame, sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Splits in which something is largely different from train, beyond what so few images would show by chance.

    Args:
        table: of `shifts`.
        sizes: split -> images.
    """
    for split, rows in table.groupby("split", sort=False):
        n, m = sizes["train"], sizes[split]
        chance = np.sqrt(
            (n + m + 1) / (3 * n * m)
        )  # standard deviation of delta if both were alike and independent
        large = rows[(rows["effect"] == "large") & (rows["delta"].abs() > 3.5 * chance)]
        if len(large):
            large = large.sort_values("delta", key=lambda d: -d.abs(), kind="stable")
            named = some(
                [f"{r.name_} ({r.delta:+.2f})" for r in large.rename(columns={"name": "name_"}).itertuples()],
                5,
            )
            detail = f"{split} differs largely from train in {len(large)} of {len(rows)} respects "
            yield finding("split-shift", "", split, f"{detail}(Cliff's delta, -1 to 1): {named}.")


def class_weights(pixel_counts: np.ndarray, kind: str) -> np.ndarray:
    """Weights that lift rare classes in a loss, from the train split's pixel counts.

    "sqrt_inverse": w_c = 1 / sqrt(f_c), where f_c is the class's share of all pixels; milder than the plain inverse.
    "median_frequency": w_c = median(f) / f_c, where f_c is the class's share of the pixels of those images that hold it.

    Args:
        pixel_counts: (N, C) scored pixels of each class in each train image.
        kind: one of the two.

    Returns:
        (C,) float32, mean 1 over the classes that occur. A class that never occurs gets 1: training never uses it, and
        a zero would turn the loss of a validation batch that holds nothing else into 0 / 0.

    Source: median frequency balancing: Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels, ICCV 2015.
    """
    counts = np.asarray(pixel_counts, np.float64)
    pixels, present = counts.sum(axis=0), counts.sum(axis=0) > 0
    weights = np.ones(counts.shape[1])
    if kind == "sqrt_inverse":
        weights[present] = np.sqrt(pixels.sum() / pixels[present])
    elif kind == "median_frequency" and present.any():
        around = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
        share = pixels[present] / around[present]
        weights[present] = np.median(share) / share
    elif kind not in WEIGHT_KINDS:
        raise ValueError(f"class weights {kind!r}: expected 'sqrt_inverse' or 'median_frequency'.")
    if present.any():
        weights[present] /= weights[present].mean()
    return weights.astype(np.float32)


def weight_table(names: Sequence[str], pixel_counts: np.ndarray) -> pd.DataFrame:
    """`class_weights` of every kind, a row a class: what 02_train takes as its parameter `class_weights`."""
    return pd.DataFrame(
        {"class": list(names)} | {kind: class_weights(pixel_counts, kind) for kind in WEIGHT_KINDS}
    )
