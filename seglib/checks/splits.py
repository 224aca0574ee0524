"""Suggest a better split: whole sequences, every class in every split in about the same share."""

import numpy as np
import pandas as pd

from seglib.checks.duplicates import first_alike, joined


def suggest_split(samples: pd.DataFrame, pixel_counts: np.ndarray, pictures: np.ndarray) -> pd.Series:
    """Give every sample a split: no sequence stands in two, and classes are spread evenly.

    Minimises the mean squared relative error of each split's share of the images and of each class's pixels:
    seeded random starts, improved unit by unit.

    Args:
        samples: N rows with `split`, `group` ("" for a sample of its own).
        pixel_counts: (N, C) valid pixels of each class.
        pictures: (N,) samples with equal numbers share a split as well, for example near-duplicates.

    Source: in the spirit of Sechidis et al., On the Stratification of Multi-Label Data, 2011.
    """
    shares = samples["split"].value_counts(normalize=True, sort=False)
    names, target, places = shares.index.to_numpy(object), shares.to_numpy(float), np.arange(len(samples))
    sequence = first_alike(samples["group"].where(samples["group"] != ""))
    unit = joined(len(samples), np.r_[places, places], np.r_[sequence, first_alike(pd.Series(pictures))])
    count = len(set(unit))
    if len(names) < 2 or count < len(names):
        raise ValueError(
            f"{count} independent sequences cannot fill {len(names)} splits ({', '.join(names)})."
        )
    counts = np.asarray(pixel_counts, float)
    counts = counts[:, counts.sum(axis=0) > 0]
    held = np.zeros((count, 1 + counts.shape[1]))  # (U, 1 + C) a unit's share of the images and of each class
    np.add.at(held, unit, np.column_stack([np.ones(len(unit)), counts]))
    held /= held.sum(axis=0)
    held[:, 1:] /= max(1, counts.shape[1]) ** 0.5  # all classes together weigh as much as the images
    random, best, least = np.random.default_rng(0), None, np.inf
    for _ in range(max(2, min(400, 20_000 // count))):  # many small units are easy to balance
        place = random.choice(len(names), count, p=target)
        place[random.permutation(count)[: len(names)]] = np.arange(len(names))  # none is empty
        cost = _improve(held, target, place)
        if cost < least - 1e-12:
            best, least = place, cost
    return pd.Series(names[best[unit]], samples.index, dtype=object)


def _improve(held: np.ndarray, target: np.ndarray, place: np.ndarray) -> float:
    """Move the unit that lowers the cost most, in `place` (U,) itself, until none does; return the cost."""
    units, squares, sizes = np.arange(len(held)), (held**2).sum(axis=1), np.bincount(place)
    over = -target[:, None] * held.sum(axis=0)  # (S, 1 + C) what a split holds beyond its share
    np.add.at(over, place, held)
    while True:
        slope = 2 * held @ over.T  # (U, S)
        change = (slope + squares[:, None]) / target**2
        change += ((squares - slope[units, place]) / target[place] ** 2)[:, None]
        change[units, place] = 0
        change[sizes[place] == 1] = 0  # it would leave an empty split
        unit, split = np.unravel_index(change.argmin(), change.shape)
        if change[unit, split] > -1e-12:
            return float(((over / target[:, None]) ** 2).sum())
        np.add.at(over, [place[unit], split], [-held[unit], held[unit]])
        np.add.at(sizes, [place[unit], split], [-1, 1])
        place[unit] = split


def balance(samples: pd.DataFrame, pixel_counts: np.ndarray, splits: pd.Series) -> pd.DataFrame:
    """Measure how even a split (N,) is, a row each split.

    `class_distance`: total variation distance between its shares of pixels and the dataset's, 0 (alike) to 1.
    """
    rows, total = [], pixel_counts.sum(axis=0)
    for split in samples["split"].unique():
        inside = (splits == split).to_numpy()
        own, others = (set(samples.loc[chosen, "group"]) - {""} for chosen in (inside, ~inside))
        pixels = pixel_counts[inside].sum(axis=0)
        distance = np.abs(pixels / max(1, pixels.sum()) - total / max(1, total.sum())).sum() / 2
        absent = ((pixels == 0) & (total > 0)).sum()
        rows.append((split, inside.sum(), len(own), len(own & others), distance, absent))
    columns = ["split", "images", "sequences", "shared_sequences", "class_distance", "absent_classes"]
    return pd.DataFrame(rows, columns=columns)
