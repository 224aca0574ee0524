"""Suggest a better split: whole sequences, every class in every split in about the same share."""

from __future__ import annotations

import numpy as np
import pandas as pd

from seglib.checks.duplicates import first_alike, joined

_STARTS, _MANY = 100, 400  # random starts; two alone for more units than that, which are easier to balance
_PATIENCE = 20  # moves in a row that may bring nothing


def suggest_split(
    samples: pd.DataFrame,
    pixel_counts: np.ndarray,
    pictures: np.ndarray | None = None,
) -> pd.Series:
    """Give every sample a split: no sequence stands in two, and classes are spread evenly.

    What is minimised is the mean squared relative error of every split's share of the images and of each
    class's pixels, so that a rare class counts as much as a common one, and a small split as much as a large
    one. Seeded random starts are improved by moving units; the best is taken.

    Args:
        samples: N rows with `split`, `group` ("" for a sample of its own).
        pixel_counts: (N, C) valid pixels of each class.
        pictures: (N,) samples with equal numbers share a split as well, for example near-duplicates.

    Returns:
        the new split of each sample, indexed as `samples`.

    Raises:
        ValueError: fewer independent units than splits.

    Source: in the spirit of Sechidis et al., On the Stratification of Multi-Label Data, 2011.
    """
    shares = samples["split"].value_counts(normalize=True, sort=False)
    names, target = shares.index.to_numpy(object), shares.to_numpy(float)
    alike = [first_alike(samples["group"].where(samples["group"] != ""))]
    if pictures is not None:
        alike.append(first_alike(pd.Series(pictures)))
    unit = joined(len(samples), np.tile(np.arange(len(samples)), len(alike)), np.concatenate(alike))
    count = len(set(unit))
    if count < len(names):
        raise ValueError(
            f"{count} independent sequence{'s' * (count != 1)} cannot fill {len(names)} splits "
            f"({', '.join(names)}): whole sequences stay together. Record more, or split one at a long gap "
            "by hand."
        )
    counts = np.asarray(pixel_counts, float)
    counts = counts[:, counts.sum(axis=0) > 0]
    # (U, 1 + C) what share of all images and of each class's pixels a unit holds
    held = np.zeros((count, 1 + counts.shape[1]))
    np.add.at(held, unit, np.column_stack([np.ones(len(unit)), counts]))
    held *= np.array([1.0, *[max(1, counts.shape[1]) ** -0.5] * counts.shape[1]]) / held.sum(axis=0)
    random, best, least = np.random.default_rng(0), None, np.inf
    for _ in range(_STARTS if count <= _MANY else 2):
        place = random.choice(len(names), count, p=target)
        place[random.permutation(count)[: len(names)]] = np.arange(len(names))  # none is empty
        place, cost = _improve(held, target, place)
        if cost < least - 1e-12:
            best, least = place, cost
    return pd.Series(names[best[unit]], samples.index, dtype=object)


def _improve(held: np.ndarray, target: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, float]:
    """Move units, the best move first and each once a pass, even where a move costs; keep the best state.

    Source: Kernighan and Lin, An Efficient Heuristic Procedure for Partitioning Graphs, 1970.
    """
    goal, squares, units = target[:, None] * held.sum(axis=0), (held**2).sum(axis=1), np.arange(len(held))

    def excess(place: np.ndarray) -> np.ndarray:
        filled = np.zeros_like(goal)
        np.add.at(filled, place, held)
        return filled - goal

    def cost(over: np.ndarray) -> float:
        return float(((over / target[:, None]) ** 2).sum())

    best, least, better = place, cost(excess(place)), True
    while better:
        place, over, better, since = best.copy(), excess(best), False, 0
        free, sizes = np.ones(len(held), bool), np.bincount(best, minlength=len(target))
        while free.any() and since < _PATIENCE:
            slope = 2 * held @ over.T  # (U, S)
            change = (slope + squares[:, None]) / target**2
            change += ((squares - slope[units, place]) / target[place] ** 2)[:, None]
            change[units, place] = np.inf
            change[~free | (sizes[place] == 1)] = np.inf  # moved before, or it would leave an empty split
            unit, split = np.unravel_index(change.argmin(), change.shape)
            if change[unit, split] == np.inf:
                break
            over[place[unit]] -= held[unit]
            over[split] += held[unit]
            sizes[[place[unit], split]] += -1, 1
            place[unit], free[unit], since = split, False, since + 1
            if cost(over) < least - 1e-12:
                best, least, better, since = place.copy(), cost(over), True, 0
    return best, least


def balance(samples: pd.DataFrame, pixel_counts: np.ndarray, splits: pd.Series) -> pd.DataFrame:
    """Measure how even a split (N,) is, a row each split.

    `shared_sequences`: in another split too; `class_distance`: total variation distance between the classes'
    shares of its pixels and the whole dataset's, 0 (alike) to 1; `absent_classes`: how many.
    """
    counts = np.asarray(pixel_counts, float)
    total, rows = counts.sum(axis=0), []
    for split in samples["split"].unique():
        inside = (splits == split).to_numpy()
        own, others = (set(samples.loc[chosen, "group"]) - {""} for chosen in (inside, ~inside))
        pixels = counts[inside].sum(axis=0)
        distance = np.abs(pixels / max(1, pixels.sum()) - total / max(1, total.sum())).sum() / 2
        absent = int(((pixels == 0) & (total > 0)).sum())
        rows.append((split, int(inside.sum()), len(own), len(own & others), float(distance), absent))
    columns = ["split", "images", "sequences", "shared_sequences", "class_distance", "absent_classes"]
    return pd.DataFrame(rows, columns=columns)
