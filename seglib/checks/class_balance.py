"""Measure how much of each class there is, how far splits differ, and what to weigh classes with."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from seglib.checks.image_quality import LOOKS
from seglib.data import some

_EFFECTS = (0.147, 0.33, 0.474)  # |delta| from which they are small, medium, large: Romano et al., 2006
_WORDS = ("negligible", "small", "medium", "large")
WEIGHT_KINDS = ("sqrt_inverse", "median_frequency")


def class_stats(names: Sequence[str], splits: pd.Series, counts: np.ndarray, regions: list) -> pd.DataFrame:
    """Describe each class of each split, a row each, by (N, C) valid pixels and each sample's (2, R) regions: ids, sizes.

    `pixel_share` is of the split's valid pixels, `regions_per_image` of the images that hold the class, `median_region`
    in pixels; both are NaN for a class without one.
    """
    tables = [pd.DataFrame(columns=["split", "class"])]
    for split, places in splits.groupby(splits, sort=False).indices.items():
        values, sizes = np.concatenate([regions[k] for k in places], axis=1)
        table = pd.DataFrame({"split": split, "class_id": range(len(names)), "class": names})
        table["pixels"] = counts[places].sum(axis=0)
        table["pixel_share"] = table["pixels"] / max(1, table["pixels"].sum())
        table["images"] = (counts[places] > 0).sum(axis=0)
        table["image_share"] = table["images"] / len(places)
        own = pd.Series(sizes).groupby(values).agg(["size", "median"]).reindex(table["class_id"])
        table["regions"] = own["size"].fillna(0).to_numpy(int)
        table["regions_per_image"] = table["regions"] / table["images"].where(table["images"] > 0)
        table["median_region"] = own["median"].to_numpy(float)
        tables.append(table)
    return pd.concat(tables[1:] or tables, ignore_index=True)


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> float:
    """Compute how often a value of `second` exceeds one of `first`, less how often smaller: -1 to 1."""
    a, b = (np.sort(x[~np.isnan(x)]) for x in (np.asarray(first, float), np.asarray(second, float)))
    larger, not_smaller = (np.searchsorted(a, b, side).sum() for side in ("left", "right"))
    return float((larger + not_smaller) / (len(a) * len(b)) - 1) if len(a) and len(b) else float("nan")


def shifts(names: Sequence[str], samples: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Compare each class's share of an image and each of `LOOKS` in every other split with train, by Cliff's delta."""
    valid = counts.sum(axis=1, keepdims=True)
    shares = pd.DataFrame(np.where(valid, counts / valid.clip(1), np.nan), samples.index, list(names))
    values, train = pd.concat({"class": shares, "image": samples[LOOKS]}, axis=1), samples["split"] == "train"
    before, rows = values[train], []
    for split, now in values[~train & train.any()].groupby(samples["split"], sort=False):
        for (kind, name), *medians in zip(values, before.median(), now.median(), strict=True):
            delta = cliffs_delta(before[kind, name], now[kind, name])
            effect = _WORDS[np.searchsorted(_EFFECTS, abs(np.nan_to_num(delta)), "right")]
            rows.append((split, kind, name, *medians, delta, effect))
    columns = ["split", "kind", "name", "train_median", "median", "delta", "effect"]
    return pd.DataFrame(rows, columns=columns)


def judge_shifts(table: pd.DataFrame, sizes: pd.Series) -> Iterator[tuple[str, ...]]:
    """Report splits in which something is largely different from train, beyond what chance would show."""
    for split, rows in table.groupby("split", sort=False):
        n, m = sizes["train"], sizes[split]
        chance = np.sqrt((n + m + 1) / (3 * n * m))  # deviation of delta if both were alike and independent
        large = rows[(rows["effect"] == "large") & (rows["delta"].abs() > 3.5 * chance)]
        if len(large):
            large = large.sort_values("delta", key=lambda d: -d.abs(), kind="stable")
            named = some([f"{row.name} ({row.delta:+.2f})" for row in large.itertuples()], 5)
            detail = f"{split} differs largely from train in {len(large)} of {len(rows)} respects "
            yield "split-shift", "", split, f"{detail}(Cliff's delta, -1 to 1): {named}."


def class_weights(pixel_counts: np.ndarray, kind: str) -> np.ndarray:
    """Compute weights that lift rare classes in a loss, from the (N, C) pixel counts of the train split.

    "sqrt_inverse": w_c = 1 / sqrt(f_c), where f_c is the class's share of all pixels; milder than the
    inverse. "median_frequency": w_c = median(f) / f_c, where f_c is the class's share of the pixels of the
    images that hold it (Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels, ICCV 2015).

    Returns:
        (C,) float32, mean 1 over the classes that occur; 1, not 0, for one that does not.
    """
    counts = np.asarray(pixel_counts, np.float64)
    whole = counts.sum(axis=1, keepdims=True)
    around = whole.sum() if kind == "sqrt_inverse" else ((counts > 0) * whole).sum(axis=0)
    share = pd.Series(counts.sum(axis=0) / np.maximum(around, 1)).replace(0, np.nan)
    weights = share**-0.5 if kind == "sqrt_inverse" else share.median() / share
    return (weights / weights.mean()).fillna(1).to_numpy(np.float32)


def weight_table(names: Sequence[str], pixel_counts: np.ndarray) -> pd.DataFrame:
    """List `class_weights` of every kind, a row a class."""
    return pd.DataFrame({"class": names} | {kind: class_weights(pixel_counts, kind) for kind in WEIGHT_KINDS})
