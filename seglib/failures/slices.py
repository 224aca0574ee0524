"""Slices of a split on which the model is worse than elsewhere, and how far that may be trusted after looking at many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seglib.data import IGNORE, label_regions
from seglib.metrics import EDGES, draw_sums, interval

SLICE_COLUMNS = [
    *("slice", "about", "images", "units", "failures", "miou", "elsewhere", "difference"),
    *("low", "high", "p", "claimed", "cost"),
]
FEWEST_IMAGES, FEWEST_UNITS = (
    5,
    3,
)  # of a slice and of the rest: below them neither a mean nor its spread says much
_SHARES = {"third": 1 / 3, "tenth": 0.1}
_ENTRIES = 1 << 22  # numbers held at a time while shuffling: 32 MB


@dataclass(frozen=True)
class _Family:
    """Slices that stand on the same units.

    Args:
        words: what is said of each.
        about: the property that each belongs to.
        members: (N, J) bool.
        units: (N,) labels.
    """

    words: list[str]
    about: list[str]
    members: np.ndarray
    units: np.ndarray


def find_slices(
    miou: np.ndarray,
    properties: Mapping[str, np.ndarray] | pd.DataFrame,
    groups: np.ndarray | None = None,
    units: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    failed: np.ndarray | None = None,
    level: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the images of each slice with all others.

    A number is cut into its lowest and highest third and tenth (below and above which values, the words say); of a bool, the
    images that have it are a slice; so is each sequence. Of each property only the slice that stands out most is kept.

    Having looked at so many, one would find something in pure chance: `p` is corrected for all that were looked at by the
    permutation distribution of the largest deviation (Westfall and Young, Resampling-Based Multiple Testing, 1993), each
    slice's deviation measured in its own standard deviations. Scores are shuffled in whole units laid end to end, so that what
    neighbouring frames share does not count as evidence. Properties and classes are tested over `units`; a sequence, which is
    one unit, over short blocks of frames (as many as the cube root of its length: Hall, Horowitz and Jing, On Blocking Rules
    for the Bootstrap with Dependent Data, Biometrika 1995): a claim about it holds for that sequence, not for ones like it.

    Args:
        miou: (N,) of each image; NaN leaves an image out.
        properties: name -> (N,) numbers (NaN: unknown, in no slice) or bools.
        groups: (N,) sequence of each image, "" for none; None: no sequences.
        units: (N,) labels of what is independent (see `metrics.independent_units`); every image by default.
        frames: (N,) numbers within the sequence; in the given order where None or NaN.
        failed: (N,) bool, which images failed; by default those with mIoU below 0.5.
        level: chance of claiming anything where there is nothing to claim.

    Returns:
        A row a slice with at least `FEWEST_IMAGES` images and `FEWEST_UNITS` units, and as many elsewhere; the claimed ones
        first, and of them the costliest:
        slice: in words; about: its property; images, units, failures: in it; miou, elsewhere: means over images; difference:
        the first less the second, with low and high, its 95 % percentile bootstrap interval over the units (for this slice
        alone); p: corrected, one-sided; claimed: p <= level and difference < 0; cost: points of the mean over all images that
        the difference makes (0-1).

    Raises:
        ValueError: the arrays differ in length.
    """
    miou = np.asarray(miou, np.float64)
    groups = np.full(len(miou), "") if groups is None else np.asarray(groups, str)
    units = np.arange(len(miou)) if units is None else np.asarray(units)
    frames = np.full(len(miou), np.nan) if frames is None else np.asarray(frames, np.float64)
    failed = miou < 0.5 if failed is None else np.asarray(failed, bool)
    columns = {str(name): np.asarray(values) for name, values in properties.items()}
    for name, values in {
        "groups": groups,
        "units": units,
        "frames": frames,
        "failed": failed,
        **columns,
    }.items():
        if len(values) != len(miou):
            raise ValueError(
                f"{name} holds {len(values)} values; expected one for each of {len(miou)} images."
            )
    table = pd.DataFrame(columns, index=range(len(miou)))
    # In order of time within each sequence: units are shuffled as runs of neighbours.
    order = np.lexsort((frames, pd.factorize(groups)[0]))
    order = order[np.isfinite(miou[order])]
    miou, failed, groups, units = miou[order], failed[order], groups[order], units[order]
    table = table.iloc[order].reset_index(drop=True)
    families = [family for family in (_of_properties(table, units), _of_sequences(groups)) if family.words]
    parts = [_judge(family, miou, failed, level, len(families), resamples, seed) for family in families]
    if not parts:
        return pd.DataFrame(columns=SLICE_COLUMNS)
    return pd.concat(parts).sort_values(
        ["claimed", "cost"], ascending=False, kind="stable", ignore_index=True
    )[SLICE_COLUMNS]


def with_classes(confusions: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Properties for `find_slices`: which images hold each class.

    Args:
        confusions: (N, C, C) counts; rows are truth.

    Returns:
        "with <class>" -> (N,) bool.
    """
    there = confusions.sum(-1) > 0
    return {f"with {name}": there[:, c] for c, name in enumerate(names)}


def small_share(mask: np.ndarray) -> float:
    """Share of the scored pixels that belong to small regions (`region_scores.EDGES`), 0-1; NaN where none is scored.

    Args:
        mask: (H, W) uint8 ids, 255 = ignore.
    """
    _, values, sizes = label_regions(mask)
    sizes = sizes[values != IGNORE]
    return float(sizes[sizes < EDGES[0] * mask.size].sum() / sizes.sum()) if len(sizes) else float("nan")


def sentence(row: Mapping) -> str:
    """A slice in words, for a reader."""
    known = np.isfinite(row["low"])
    told = f" (95 % interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f})" if known else ""
    return (
        f"{row['slice']}: mIoU {row['miou']:.2f} over {row['images']} images against {row['elsewhere']:.2f} elsewhere, "
        f"{100 * row['difference']:+.1f} points{told}; {row['failures']} of them fail."
    )


def _of_properties(table: pd.DataFrame, units: np.ndarray) -> _Family:
    words, about, members = [], [], []
    for name in table.columns:
        values = table[name]
        if values.dtype == bool:
            words.append(str(name))
            about.append(str(name))
            members.append(values.to_numpy())
            continue
        for said, chosen in _tails(str(name), values.to_numpy(np.float64)):
            words.append(said)
            about.append(str(name))
            members.append(chosen)
    return _supported(words, about, members, units)


def _tails(name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    found, known = [], values[np.isfinite(values)]
    if not len(known) or known.min() == known.max():
        return found
    for share, part in _SHARES.items():
        low, high = np.quantile(known, [part, 1 - part])
        ends = (("or less (lowest", low, values <= low), ("or more (highest", high, values >= high))
        for words, edge, chosen in ends:
            # Where many are equal, the edge may hold more than was asked for: such a slice is no tail.
            if chosen.sum() <= 1.5 * part * len(known) + 1:
                found.append((f"{name.replace('_', ' ')} of {edge:.3g} {words} {share})", chosen))
    return found


def _of_sequences(groups: np.ndarray) -> _Family:
    names = [name for name in pd.unique(groups) if name]
    blocks = np.arange(len(groups)).astype(object)
    for name in names:
        places = np.flatnonzero(groups == name)
        length = max(1, round(len(places) ** (1 / 3)))
        blocks[places] = [f"{name}/{k // length}" for k in range(len(places))]
    return _supported(
        [f"sequence {n}" for n in names], ["sequence"] * len(names), [groups == n for n in names], blocks
    )


def _supported(words: list[str], about: list[str], members: list[np.ndarray], units: np.ndarray) -> _Family:
    """The slices that hold enough, and leave enough elsewhere, to be compared; of equal ones the first."""
    kept, seen = [], set()
    for k, chosen in enumerate(members):
        enough = all(
            side.sum() >= FEWEST_IMAGES and len(pd.unique(units[side])) >= FEWEST_UNITS
            for side in (chosen, ~chosen)
        )
        key = (about[k], chosen.tobytes())
        if enough and key not in seen:
            kept.append(k)
            seen.add(key)
    columns = np.stack([members[k] for k in kept], axis=1) if kept else np.empty((len(units), 0), bool)
    return _Family([words[k] for k in kept], [about[k] for k in kept], columns, units)


def _judge(
    family: _Family,
    miou: np.ndarray,
    failed: np.ndarray,
    level: float,
    families: int,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    inside = family.members.sum(0)
    means = miou @ family.members / inside
    elsewhere = miou @ ~family.members / (len(miou) - inside)
    adjusted, deviation = _corrected(family, miou, resamples, seed)
    p = np.minimum(1, families * adjusted)  # Bonferroni over the few families
    low, high = _intervals(family, miou, min(resamples, 1000), seed)
    table = pd.DataFrame(
        {
            "slice": family.words,
            "about": family.about,
            "images": inside,
            "units": [len(pd.unique(family.units[chosen])) for chosen in family.members.T],
            "failures": failed @ family.members.astype(np.int64),
            "miou": means,
            "elsewhere": elsewhere,
            "difference": means - elsewhere,
            "low": low,
            "high": high,
            "p": p,
            "claimed": (p <= level) & (means < elsewhere),
            "cost": (elsewhere - means) * inside / len(miou),
            "deviation": deviation,
        }
    )
    # A property's tenths and thirds tell of the same thing; every sequence is its own.
    best = table.sort_values("deviation", ascending=False, kind="stable")
    nested = best["about"].ne("sequence") & best.duplicated("about")
    return best[~nested].sort_index()


def _corrected(family: _Family, miou: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(J,) p values: the chance that any slice lies as far below the rest; and how many standard deviations this one does."""
    inside = family.members.sum(0)
    weights = np.where(family.members, -1 / inside, 1 / (len(miou) - inside))  # (N, J): elsewhere less inside
    codes, _ = pd.factorize(family.units)
    base, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    scores, weights = miou[base], weights[base]  # unit by unit
    starts, random, places = np.cumsum(sizes) - sizes, np.random.default_rng(seed), np.arange(len(miou))
    found = np.empty((resamples + 1, len(inside)))
    found[0] = scores @ weights
    step = max(1, _ENTRIES // len(miou))
    for first in range(1, resamples + 1, step):
        shuffled = np.empty((min(step, resamples + 1 - first), len(miou)))
        for row in shuffled:
            order = random.permutation(len(sizes))
            ends = np.cumsum(sizes[order])
            row[:] = scores[np.repeat(starts[order] - ends + sizes[order], sizes[order]) + places]
        found[first : first + len(shuffled)] = shuffled @ weights
    # The order at hand is one of all orders, and counts as such: without it p could be 0, and the test would claim too much.
    spread = found.std(0)
    deviations = np.divide(found - found.mean(0), spread, out=np.zeros_like(found), where=spread > 1e-12)
    as_far = (
        deviations.max(1)[:, None] >= deviations[0] - 1e-9
    )  # less what adding up in another order may change
    return as_far.mean(0), deviations[0]


def _intervals(family: _Family, miou: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(J,) lower and upper ends of each slice's difference."""
    units, ends = len(pd.unique(family.units)), []
    step = max(1, _ENTRIES // (4 * len(miou)))
    for first in range(0, family.members.shape[1], step):
        member = family.members[:, first : first + step].astype(np.float64)
        parts = np.stack(
            [member * miou[:, None], member, (1 - member) * miou[:, None], 1 - member], axis=1
        )  # (N, 4, J)
        total, count, rest, others = np.moveaxis(draw_sums(parts, family.units, resamples, seed), 1, 0)
        both = (count > 0) & (others > 0)
        draws = np.where(both, total / np.where(both, count, 1) - rest / np.where(both, others, 1), np.nan)
        ends += [interval(0.0, draws[:, j], units) for j in range(draws.shape[1])]
    return np.array([end.low for end in ends]), np.array([end.high for end in ends])
