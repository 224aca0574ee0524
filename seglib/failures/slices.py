"""Slices of a split on which the model is worse than elsewhere, corrected for having looked at many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from seglib.checks import QUALITIES
from seglib.failures.analyse import Analysis, independent_parts
from seglib.metrics import draw_sums

FEWEST_IMAGES, FEWEST_UNITS = 5, 3  # of a slice and of the rest, below which they are not compared
LEVEL = 0.05  # chance of claiming anything where there is nothing to claim
COLUMNS = ["slice", "about", "images", "units", "failures", "miou", "elsewhere", "difference"]
COLUMNS += ["low", "high", "p", "claimed", "cost"]


def find_slices(analysis: Analysis) -> pd.DataFrame:
    """Call `compare_slices` for image quality, novelty, small objects and the classes present."""
    evaluation, images = analysis.evaluation, analysis.images
    properties = dict(images[[*QUALITIES, "novelty", "small_share"]].dropna(axis=1, how="all"))
    present = evaluation.confusions.sum(-1) > 0  # (N, C)
    properties |= {f"with {name}": present[:, c] for c, name in enumerate(evaluation.classes.names)}
    return compare_slices(images, properties, independent_parts(evaluation))


def compare_slices(
    images: pd.DataFrame, properties: Mapping[str, np.ndarray], units: np.ndarray, resamples: int = 2000
) -> pd.DataFrame:
    """Compare the images of each slice with all others.

    Slices are the lowest and highest third and tenth of a number, and the images for which a bool is true; of
    each property the one that stands out most is kept. `p` is corrected for all slices by the distribution of
    the largest deviation when whole units are permuted: neighbouring frames are no independent evidence.

    Args:
        images: miou (NaN leaves an image out) and failed of N images.
        properties: name -> (N,) numbers (NaN: in no slice) or bools.
        units: (N,) labels of what is independent (see `metrics.independent_units`).

    Returns:
        Of each slice that is large enough, claimed and costly ones first: slice (in words), about (property),
        images, units, failures, miou and elsewhere (means over images), their difference with its 95 %
        bootstrap interval (low, high), p (one-sided), claimed, cost (points of the mean over all images).

    Source: Westfall and Young, Resampling-Based Multiple Testing, 1993.
    """
    known = images["miou"].notna().to_numpy()
    miou, failed, units = images.loc[known, "miou"].to_numpy(), images.loc[known, "failed"], units[known]
    values = {name: np.asarray(column)[known] for name, column in properties.items()}
    found = list(_slices(values, units))
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    about, words, members = zip(*found, strict=True)
    members = np.stack(members, axis=1)  # (N, J)
    table = pd.DataFrame({"slice": words, "about": about, "images": members.sum(0)})
    table["units"] = [len(set(units[chosen])) for chosen in members.T]
    table["failures"] = failed.to_numpy(int) @ members
    table["miou"] = miou @ members / table["images"]
    table["elsewhere"] = miou @ ~members / (len(miou) - table["images"])
    table["difference"] = table["miou"] - table["elsewhere"]
    table["cost"] = -table["difference"] * table["images"] / len(miou)
    table[["p", "deviation"]] = _p_values(members, units, miou, resamples)
    inside, score = members.astype(float), miou[:, None]
    parts = np.stack([inside * score, inside, (1 - inside) * score, 1 - inside], axis=1)  # (N, 4, J)
    total, count, rest, others = np.moveaxis(draw_sums(parts, units), 1, 0)  # (draws, J) each
    with np.errstate(invalid="ignore"):  # a draw without the slice: NaN
        draws = total / count - rest / others
    table["low"], table["high"] = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    table["claimed"] = (table["p"] <= LEVEL) & (table["difference"] < 0)
    # thirds and tenths of one property tell of the same thing
    first = table.sort_values("deviation", ascending=False, kind="stable").drop_duplicates("about").index
    table = table.loc[first.sort_values(), COLUMNS]
    return table.sort_values(["claimed", "cost"], ascending=False, kind="stable", ignore_index=True)


def _slices(values: Mapping[str, np.ndarray], units: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield property, words and (N,) bool members of each slice that is large enough."""
    for name, column in values.items():
        found = [(name, column)] if column.dtype == bool else _tails(name.replace("_", " "), column)
        for words, chosen in found:
            sides = units[chosen], units[~chosen]
            if all(len(side) >= FEWEST_IMAGES and len(set(side)) >= FEWEST_UNITS for side in sides):
                yield name, words, chosen


def _tails(name: str, column: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    known = column[np.isfinite(column)]
    for part, share in (("third", 1 / 3), ("tenth", 0.1)) if len(np.unique(known)) > 1 else ():
        low, high = np.quantile(known, [share, 1 - share])
        for words, edge, chosen in (("less (low", low, column <= low), ("more (high", high, column >= high)):
            if chosen.sum() <= 1.5 * share * len(known) + 1:  # where many are equal there is no tail
                yield f"{name} of {edge:.3g} or {words}est {part})", chosen


def _p_values(members: np.ndarray, units: np.ndarray, miou: np.ndarray, resamples: int) -> np.ndarray:
    """(J, 2): chance that any slice lies as far below the rest; its deviation in its standard deviations."""
    inside = members.sum(0)
    weights = np.where(members, -1 / inside, 1 / (len(miou) - inside))  # (N, J): elsewhere less inside
    codes, names = pd.factorize(units)
    base = np.argsort(codes, kind="stable")  # unit by unit
    codes, scores, weights = codes[base], miou[base], weights[base]
    random, found = np.random.default_rng(0), [scores @ weights]  # the order at hand is one of all orders
    for _ in range(resamples):
        places = np.argsort(random.permutation(len(names)))
        found.append(scores[np.argsort(places[codes], kind="stable")] @ weights)
    found = np.stack(found)
    spread = found.std(0)
    deviations = np.divide(found - found.mean(0), spread, out=np.zeros_like(found), where=spread > 1e-12)
    as_far = deviations.max(1)[:, None] >= deviations[0] - 1e-9  # less what rounding may change
    return np.stack([as_far.mean(0), deviations[0]], axis=1)
