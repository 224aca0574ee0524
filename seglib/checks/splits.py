"""A better split: whole sequences, every class in every split in about the same share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

_STARTS = (
    32  # of which every other one is random; fewer where there are many units, which are easier to balance
)
_MOST_STEPS = 2000
_SWAPPED = 400  # units up to which pairs are exchanged too


def suggest_split(
    samples: pd.DataFrame,
    pixel_counts: np.ndarray,
    together: Iterable[Iterable[tuple[str, str]]] = (),
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
) -> pd.Series:
    """Give every sample a split so that no sequence stands in two, and classes and images are spread as `shares` say.

    What is minimised is the mean squared relative error of every split's share of the images and of each class's pixels
    against its target, so that a rare class counts as much as a common one, and a small split as much as a large one.
    Several seeded starts, greedy and random, are each improved by moving and exchanging units until nothing helps; the best is taken.

    Args:
        samples: N rows with `id` (unique), `split`, `group` ("" for a sample of its own).
        pixel_counts: (N, C) scored pixels of each class.
        together: sets of (split, id) that must share a split as well, for example near-duplicates.
        shares: split -> share of the images, summing to 1; the present ones by default.
        seed: of the starts.

    Returns:
        the new split of each sample, indexed as `samples`.

    Raises:
        ValueError: fewer independent units than splits, or shares that are not positive or do not sum to 1.

    Source: in the spirit of iterative stratification: Sechidis et al., On the Stratification of Multi-Label Data, 2011.
    """
    if shares is None:
        shares = samples["split"].value_counts(normalize=True, sort=False).to_dict()
    names, target = list(shares), np.array(list(shares.values()), float)
    if not len(target) or (target <= 0).any() or abs(target.sum() - 1) > 1e-6:
        raise ValueError(f"shares {dict(shares)}: expected positive numbers that sum to 1.")
    unit = _units(samples, together)
    count = int(unit.max()) + 1 if len(unit) else 0
    if count < len(names):
        raise ValueError(
            f"{count} independent sequence{'s' * (count != 1)} cannot fill {len(names)} splits ({', '.join(names)}): "
            "whole sequences stay together. Record more, or split one at a long gap by hand."
        )
    counts = np.asarray(pixel_counts, float)
    counts = counts[:, counts.sum(axis=0) > 0]
    # (U, 1 + C) what share of all images and of each class's pixels a unit holds
    held = np.zeros((count, 1 + counts.shape[1]))
    np.add.at(held, unit, np.column_stack([np.ones(len(unit)), counts]))
    held /= held.sum(axis=0)
    weight = np.array([1.0, *[1.0 / max(1, counts.shape[1])] * counts.shape[1]])
    random = np.random.default_rng(seed)
    best, least = None, np.inf
    for start in range(_STARTS if count <= _SWAPPED else 2):
        place = (
            _random(count, len(names), random)
            if start % 2
            else _greedy(held, weight, target, random, start > 0)
        )
        cost = _improve(held, weight, target, place)
        if cost < least - 1e-12:
            best, least = place, cost
    return pd.Series([names[k] for k in best[unit]], samples.index, dtype=object)


def balance(samples: pd.DataFrame, pixel_counts: np.ndarray, splits: pd.Series) -> pd.DataFrame:
    """How even a split is: one row each of `splits`.

    Args:
        samples: `group`, and `split` for the order of the rows.
        pixel_counts: (N, C).
        splits: the split of each sample, for example of `suggest_split`.

    Returns:
        `split`, `images`, `sequences`, `shared_sequences` (in another split too), `class_distance`: total variation
        distance between the classes' shares of its pixels and the whole dataset's, 0 (alike) to 1; `absent_classes`.
    """
    counts = np.asarray(pixel_counts, float)
    total = counts.sum(axis=0)
    groups = {
        split: set(samples.loc[splits == split, "group"]) - {""} for split in dict.fromkeys(samples["split"])
    }
    rows = []
    for split, own in groups.items():
        inside = counts[(splits == split).to_numpy()].sum(axis=0)
        others = set().union(*(theirs for name, theirs in groups.items() if name != split))
        distance = np.abs(inside / max(1, inside.sum()) - total / max(1, total.sum())).sum() / 2
        absent = int(((inside == 0) & (total > 0)).sum())
        rows.append(
            (split, int((splits == split).sum()), len(own), len(own & others), float(distance), absent)
        )
    columns = ["split", "images", "sequences", "shared_sequences", "class_distance", "absent_classes"]
    return pd.DataFrame(rows, columns=columns)


def _units(samples: pd.DataFrame, together: Iterable[Iterable[tuple[str, str]]]) -> np.ndarray:
    """(N,) the unit of each sample, counted from 0: its sequence, joined with those that must stay with it."""
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    pairs = list(zip(samples["split"], samples["id"], strict=True))
    for pair, group in zip(pairs, samples["group"], strict=True):
        if group:
            parent[root(pair)] = root(("", group))
    for members in together:
        first, *rest = list(members)
        for other in rest:
            parent[root(other)] = root(first)
    number: dict[object, int] = {}
    return np.array([number.setdefault(root(pair), len(number)) for pair in pairs], int)


def _random(units: int, splits: int, random: np.random.Generator) -> np.ndarray:
    place = random.integers(0, splits, units)
    place[random.permutation(units)[:splits]] = np.arange(splits)  # none is empty
    return place


def _greedy(
    held: np.ndarray, weight: np.ndarray, target: np.ndarray, random: np.random.Generator, shuffle: bool
):
    """Units one by one, the largest first, each to where it costs least; every split gets one."""
    size = (held * weight).sum(axis=1) * (random.uniform(0.5, 1.5, len(held)) if shuffle else 1.0)
    place = np.full(len(held), -1)
    filled = np.zeros((len(target), held.shape[1]))
    for left, unit in zip(range(len(held) - 1, -1, -1), np.argsort(-size, kind="stable"), strict=True):
        gain = (held[unit] * (held[unit] + 2 * (filled - target[:, None])) * weight).sum(axis=1) / target**2
        empty = np.bincount(place[place >= 0], minlength=len(target)) == 0
        if empty.sum() > left:  # as many units left as splits without one
            gain[~empty] = np.inf
        place[unit] = gain.argmin()
        filled[place[unit]] += held[unit]
    return place


def _improve(held: np.ndarray, weight: np.ndarray, target: np.ndarray, place: np.ndarray) -> float:
    """Move or exchange units while that lowers the cost; changes `place`, returns the cost."""
    squares = (held**2 * weight).sum(axis=1)
    inner = (held * weight) @ held.T if len(held) <= _SWAPPED else None
    everyone = np.arange(len(held))
    for _ in range(_MOST_STEPS):
        filled = np.zeros((len(target), held.shape[1]))
        np.add.at(filled, place, held)
        slope = 2 * (held * weight) @ (filled - target[:, None]).T  # (U, S)
        into = (slope + squares[:, None]) / target**2
        out = (squares - slope[everyone, place]) / target[place] ** 2
        change = into + out[:, None]
        change[everyone, place] = 0
        change[np.bincount(place, minlength=len(target))[place] == 1] = (
            np.inf
        )  # it would leave an empty split
        unit, split = np.unravel_index(change.argmin(), change.shape)
        swap = None
        if inner is not None:
            # u to v's split and v to u's: f = held[u] - held[v] leaves one and enters the other
            both = squares[:, None] + squares[None] - 2 * inner
            there = slope[:, place]  # (u, v) slope of u in v's split
            own = slope[everyone, place]
            exchange = (there - own[None] + both) / target[place][None] ** 2
            exchange += (there.T - own[:, None] + both) / target[place][:, None] ** 2
            exchange[place[:, None] == place[None]] = 0
            u, v = np.unravel_index(exchange.argmin(), exchange.shape)
            if exchange[u, v] < min(change[unit, split], 0) - 1e-12:
                swap = (u, v)
        if swap:
            place[list(swap)] = place[list(swap[::-1])]
        elif change[unit, split] < -1e-12:
            place[unit] = split
        else:
            break
    filled = np.zeros((len(target), held.shape[1]))
    np.add.at(filled, place, held)
    return float(((((filled - target[:, None]) / target[:, None]) ** 2) * weight).sum())
