"""How well the model's own confidence, which needs no label, tells which images fail."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from seglib.evaluate import units_of
from seglib.failures.analyse import Analysis

FEWEST = 10  # failed images, and sound ones, below which nothing is said
LEVEL = 0.025  # chance of a claim where there is nothing to claim: 5 % for the two signals together


@dataclass(frozen=True)
class EarlyWarning:
    """What a signal tells of failures.

    Args:
        signal: its name.
        images, failures: those that have the signal.
        auroc: the probability that a failed image has the lower signal than another, ties counting half; 0.5:
            chance. NaN below ten failed or ten sound images, as `p`.
        p: the chance of an AUROC as high where the signal knows nothing.
    """

    signal: str
    images: int
    failures: int
    auroc: float = float("nan")
    p: float = float("nan")


def warnings_of(analysis: Analysis) -> dict[str, EarlyWarning]:
    """Judge how well the mean confidence over pixels, and over classes, warns of failures."""
    images, evaluation = analysis.images, analysis.evaluation
    units, _ = units_of(evaluation.dataset.split(evaluation.split), images["miou"])
    pairs = ("confidence", "confidence"), ("confidence by class", "class_confidence")
    failed = images["failed"].to_numpy()
    return {
        name: early_warning(images[column].to_numpy(float), failed, units, name) for name, column in pairs
    }


def early_warning(
    signal: np.ndarray, failed: np.ndarray, units: np.ndarray, name: str = "confidence", draws: int = 1000
) -> EarlyWarning:
    """Test a signal that should be low where the model fails, by permutations of whole units.

    Args:
        signal: (N,) of each image, such as its mean confidence; an image where it is NaN is left out.
        failed: (N,) bool.
        units: (N,) labels of what is independent (see `evaluate.units_of`). In each draw every unit gets the
            signals of another one, in their order, repeated where that one is shorter.

    Source of the AUROC as the Mann-Whitney statistic: Hanley and McNeil, Radiology 1982.
    """
    known = np.isfinite(signal)
    signal, failed, (codes, names) = signal[known], failed[known], pd.factorize(np.asarray(units)[known])
    bad, good = int(failed.sum()), int((~failed).sum())
    if min(bad, good) < FEWEST:
        return EarlyWarning(name, len(signal), bad)
    order = np.argsort(codes, kind="stable")  # unit by unit
    ranks, failed, codes = rankdata(signal)[order], failed[order], codes[order]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    place, weights = np.arange(len(codes)) - starts[codes], np.where(failed, -1 / bad, 1 / good)
    random, found, as_high = np.random.default_rng(0), ranks @ weights, 1
    for _ in range(draws):
        source = random.permutation(len(names))[codes]
        shift = random.integers(len(codes), size=len(names))[codes]
        drawn = ranks[starts[source] + (place + shift) % sizes[source]]
        as_high += drawn @ weights >= found - 1e-9
    return EarlyWarning(name, len(signal), bad, float(found / len(signal) + 0.5), as_high / (draws + 1))


def warning_sentence(found: EarlyWarning) -> str:
    """Word what it comes to, for a reader."""
    if np.isnan(found.p):
        few = f"{found.failures} failed and {found.images - found.failures} sound images"
        return f"{few} have a {found.signal}: at least {FEWEST} of each are needed to say whether it warns."
    what = "warns of failures" if found.p <= LEVEL else "may be no better than chance"
    return (
        f"AUROC of the {found.signal} for failure {found.auroc:.2f} (permutation p {found.p:.3f}): it {what}."
    )
