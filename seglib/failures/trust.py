"""How far to trust it: does the model's own confidence warn of failures, and were planted faults found?"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from seglib.data import LABEL_FAULTS, planted
from seglib.evaluate import units_of
from seglib.failures.analyse import Analysis, explain_failures
from seglib.failures.find import find_failures

FEWEST = 10  # failed images, and sound ones, below which nothing is said
LEVEL = 0.025  # chance of a claim where there is nothing to claim: 5 % for the two signals together
_EXPECTED = dict.fromkeys(LABEL_FAULTS, "label error")
_EXPECTED |= dict.fromkeys(("blur", "noise", "dark", "washed_out"), "degraded image")
_EXPECTED |= {"unseen_condition": "unlike training", "far_tiny": "small objects", "rare_class": "rare class"}
_OF_THE_MODEL = ("rare class", "small objects", "systematic confusion", "class confusion")


class EarlyWarning(NamedTuple):
    """What a signal tells of failures; below ten failed or ten sound images auroc and p are NaN."""

    signal: str
    images: int  # that have the signal, as those of failures
    failures: int
    auroc: float = float("nan")  # chance that a failed image has the lower signal; 0.5: nothing is known
    p: float = float("nan")  # chance of an AUROC as high where the signal knows nothing


def warnings_of(analysis: Analysis) -> dict[str, EarlyWarning]:
    """Judge how well the mean confidence over pixels, and over classes, warns of failures."""
    images, evaluation = analysis.images, analysis.evaluation
    units, _ = units_of(evaluation.dataset.split(evaluation.split), images["miou"])
    signals = {"confidence": images["confidence"], "confidence by class": images["class_confidence"]}
    failed = images["failed"].to_numpy()
    return {name: early_warning(one.to_numpy(float), failed, units, name) for name, one in signals.items()}


def early_warning(
    signal: np.ndarray, failed: np.ndarray, units: np.ndarray, name: str = "confidence", draws: int = 1000
) -> EarlyWarning:
    """Test a signal that should be low where the model fails, by permutations of whole units.

    `signal` (N,) is such as the mean confidence of each image; where NaN, it is left out. `units` (N,) label what is
    independent (`evaluate.units_of`). In each draw a unit gets the signals of another one, in their order, repeated
    where that one is shorter. AUROC is the Mann-Whitney statistic: Hanley and McNeil, Radiology 1982.
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
    auroc = f"{found.auroc:.2f} (permutation p {found.p:.3f})"
    return f"AUROC of the {found.signal} for failure {auroc}: it {what}."


def was_it_right(analysis: Analysis, threshold: float = 0.65) -> pd.DataFrame | None:
    """Compare what is stated of the images below a threshold with the faults that planted.csv records.

    Returns a row a kind of fault of this split, and one of the images without: planted (images), found (by the right
    cause, or as a named mask; without a fault, by a cause that lies in the model), passed (above the threshold),
    unexplained, blamed_wrongly, and stated, the causes with their numbers. None without a planted.csv.
    """
    evaluation, images = analysis.evaluation, analysis.images.set_index("id")
    if not (evaluation.dataset.root / "planted.csv").is_file():
        return None
    faults = planted(evaluation.dataset.root).drop_duplicates("sample").set_index("sample")["kind"]
    kind = faults.where(faults.isin(list(_EXPECTED))).reindex(images.index).fillna("no fault")
    failed = explain_failures(evaluation, find_failures(evaluation, threshold), analysis.images)
    stated = failed.set_index("id")["cause"].reindex(images.index, fill_value="passed")
    stated = stated.mask(images["suspect"], "label error")
    right = (stated == kind.map(_EXPECTED)) | ((kind == "no fault") & stated.isin(_OF_THE_MODEL))
    result = stated.where(stated.isin(["passed", "unexplained"]), "blamed_wrongly").mask(right, "found")
    columns = ["found", "passed", "unexplained", "blamed_wrongly"]
    table = pd.crosstab(kind, result).reindex(columns=columns, fill_value=0).rename_axis(columns=None)
    table.insert(0, "planted", kind.value_counts())
    for name, causes in stated[stated != "passed"].groupby(kind):
        table.loc[name, "stated"] = ", ".join(f"{cause} {n}" for cause, n in causes.value_counts().items())
    table = table.reindex(columns=["planted", *columns, "stated"]).fillna({"stated": ""})
    return table.rename_axis("fault").reset_index()
