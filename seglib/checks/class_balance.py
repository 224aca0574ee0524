"""Measure how much of each class there is, how far splits differ, and what to weigh classes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from seglib.checks.findings import Finding, finding, some
from seglib.checks.image_quality import LOOKS

SHIFT_COLUMNS = ["split", "kind", "name", "train_median", "median", "delta", "effect"]
# |delta| from which an effect is small, medium, large: Romano et al., Exploring methods for evaluating group
# differences on the NSSE and other surveys, 2006.
_EFFECTS = (0.147, 0.33, 0.474)
_EFFECT_NAMES = ("negligible", "small", "medium", "large")
WEIGHT_KINDS = ("sqrt_inverse", "median_frequency")


def class_stats(
    names: Sequence[str],
    splits: pd.Series,
    counts: np.ndarray,
    regions: Sequence[tuple[np.ndarray, np.ndarray]],
) -> pd.DataFrame:
    """Describe each class of each split, a row each.

    Args:
        names: the C classes.
        splits: (N,) the split of each sample, in the order in which splits are listed.
        counts: (N, C) valid pixels.
        regions: of each sample: class ids and sizes in pixels of its connected regions.

    Returns:
        `pixels`; `pixel_share` of the split's valid pixels; `images` that hold it; `image_share`; `regions`;
            `regions_per_image` that holds it, `median_region` in pixels (NaN for a class that does not
            occur).
    """
    tables = []
    for split, places in splits.groupby(splits, sort=False).indices.items():
        values, sizes = (np.concatenate(parts) for parts in zip(*(regions[k] for k in places), strict=True))
        found = [sizes[values == class_id] for class_id in range(len(names))]
        pixels, images = counts[places].sum(axis=0), (counts[places] > 0).sum(axis=0)
        number = np.array([len(own) for own in found])
        table = {
            "split": split,
            "class_id": range(len(names)),
            "class": names,
            "pixels": pixels,
            "pixel_share": pixels / max(1, pixels.sum()),
            "images": images,
            "image_share": images / len(places),
            "regions": number,
            "regions_per_image": np.where(images > 0, number / np.maximum(images, 1), np.nan),
            "median_region": [np.median(own) if len(own) else np.nan for own in found],
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["split", "class"])


def cooccurrence(names: Sequence[str], counts: np.ndarray) -> pd.DataFrame:
    """Count the images that hold both of two classes: (C, C) of (N, C) pixel counts."""
    holds = (np.asarray(counts) > 0).astype(np.int64)
    return pd.DataFrame(holds.T @ holds, index=pd.Index(names, name="class"), columns=list(names))


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> float:
    """Compute how often a value of `second` is larger than one of `first`, less how often smaller: -1 to 1.

    NaN values are left out; NaN if none is left.

    Source: Cliff, Dominance statistics, Psychological Bulletin 1993.
    """
    a, b = (np.sort(x[~np.isnan(x)]) for x in (np.asarray(first, float), np.asarray(second, float)))
    if not len(a) or not len(b):
        return float("nan")
    larger = np.searchsorted(a, b, "left").sum()
    smaller = (len(a) - np.searchsorted(a, b, "right")).sum()
    return float((larger - smaller) / (len(a) * len(b)))


def shifts(names: Sequence[str], samples: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Compare each class's share of an image and each of `LOOKS` in every other split with train.

    Returns:
        `split`, `kind` ("class" or "image"), `name`, `train_median` and `median`, `delta` (Cliff's; positive:
            more than in train), `effect` ("negligible", "small", "medium", "large").
    """
    total = counts.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    values = {("class", name): share for name, share in zip(names, shares.T, strict=True)}
    values |= {("image", name): samples[name].to_numpy(float) for name in LOOKS}
    train, rows = (samples["split"] == "train").to_numpy(), []
    for split in [name for name in samples["split"].unique() if name != "train" and train.any()]:
        inside = (samples["split"] == split).to_numpy()
        for (kind, name), column in values.items():
            delta = cliffs_delta(column[train], column[inside])
            effect = _EFFECT_NAMES[np.searchsorted(_EFFECTS, abs(np.nan_to_num(delta)), "right")]
            medians = (float(pd.Series(column[part]).median()) for part in (train, inside))
            rows.append((split, kind, name, *medians, delta, effect))
    return pd.DataFrame(rows, columns=SHIFT_COLUMNS)


def judge_shifts(table: pd.DataFrame, sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Report splits in which something is largely different from train, beyond what chance would show."""
    for split, rows in table.groupby("split", sort=False):
        n, m = sizes["train"], sizes[split]
        chance = np.sqrt((n + m + 1) / (3 * n * m))  # deviation of delta if both were alike and independent
        large = rows[(rows["effect"] == "large") & (rows["delta"].abs() > 3.5 * chance)]
        if len(large):
            large = large.sort_values("delta", key=lambda d: -d.abs(), kind="stable")
            named = [
                f"{name} ({delta:+.2f})" for name, delta in zip(large["name"], large["delta"], strict=True)
            ]
            detail = f"{split} differs largely from train in {len(large)} of {len(rows)} respects "
            yield finding("split-shift", "", split, f"{detail}(Cliff's delta, -1 to 1): {some(named, 5)}.")


def class_weights(pixel_counts: np.ndarray, kind: str) -> np.ndarray:
    """Compute weights that lift rare classes in a loss, from the (N, C) pixel counts of the train split.

    "sqrt_inverse": w_c = 1 / sqrt(f_c), where f_c is the class's share of all pixels; milder than the
    inverse.
    "median_frequency": w_c = median(f) / f_c, where f_c is the class's share of the pixels of the images that
    hold it (Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels, ICCV 2015).

    Returns:
        (C,) float32, mean 1 over the classes that occur. A class that never occurs gets 1: training never
            uses it, and a zero would make the loss of a validation batch that holds nothing else 0 / 0.
    """
    counts = np.asarray(pixel_counts, np.float64)
    pixels, present = counts.sum(axis=0), counts.sum(axis=0) > 0
    weights = np.ones(counts.shape[1])
    if kind not in WEIGHT_KINDS:
        raise ValueError(f"class weights {kind!r}: expected 'sqrt_inverse' or 'median_frequency'.")
    if not present.any():
        return weights.astype(np.float32)
    if kind == "sqrt_inverse":
        weights[present] = np.sqrt(pixels.sum() / pixels[present])
    else:
        around = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
        share = pixels[present] / around[present]
        weights[present] = np.median(share) / share
    weights[present] /= weights[present].mean()
    return weights.astype(np.float32)


def weight_table(names: Sequence[str], pixel_counts: np.ndarray) -> pd.DataFrame:
    """List `class_weights` of every kind, a row a class."""
    return pd.DataFrame({"class": names} | {kind: class_weights(pixel_counts, kind) for kind in WEIGHT_KINDS})
