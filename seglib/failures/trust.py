"""How far to trust it: does the model's own confidence warn of failures, and were planted faults found?"""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from seglib.data import FAULT_KINDS, LABEL_FAULTS, planted
from seglib.evaluate import units_of
from seglib.failures.analyse import Analysis, explain_failures
from seglib.failures.find import find_failures

FEWEST = 10  # failed images, and passed ones, below which nothing is said
LEVEL = 0.025  # chance of a claim where there is nothing to claim: 5 % for the two signals together
_SIGNALS = {"confidence": "mean confidence", "class_confidence": "confidence by class"}
_EXPECTED = dict.fromkeys(FAULT_KINDS, "degraded image") | dict.fromkeys(LABEL_FAULTS, "label error")
_EXPECTED |= {"unseen_condition": "unlike training", "far_tiny": "small objects", "rare_class": "rare class"}
_OF_THE_MODEL = ("rare class", "small objects", "systematic confusion", "class confusion")


def warnings_of(analysis: Analysis) -> str:
    """Say how well the mean confidence over pixels, and over classes, warns of failures: a line each."""
    images, evaluation = analysis.images, analysis.evaluation
    units, _ = units_of(evaluation.dataset.split(evaluation.split), images["miou"])
    lines = []
    for column, name in _SIGNALS.items():
        known = images[column].notna().to_numpy()
        signal, failed = images.loc[known, column].to_numpy(float), images.loc[known, "failed"].to_numpy()
        bad, good = failed.sum(), (~failed).sum()
        if min(bad, good) < FEWEST:
            few = f"{bad} failed and {good} passed images have a {name}"
            lines.append(f"{few}: at least {FEWEST} of each are needed to say whether it warns.")
            continue
        auroc, p = early_warning(signal, failed, units[known])
        what = "it warns of failures" if p <= LEVEL else "not distinguishable from chance"
        lines.append(f"{name.capitalize()}: AUROC {auroc:.2f} for failures, permutation p {p:.3f}; {what}.")
    return "\n".join(lines)


def early_warning(
    signal: np.ndarray, failed: np.ndarray, units: np.ndarray, draws: int = 1000
) -> tuple[float, float]:
    """Test a signal (N,) that should be low where the model fails, by permutations of whole units.

    `units` (N,) label what is independent (`evaluate.units_of`). In each draw a unit gets the signals of another
    one, in their order, repeated where that one is shorter. Returns the AUROC, the chance that a failed image has
    the lower signal (Mann-Whitney statistic: Hanley and McNeil, Radiology 1982), and p, that of one as high where
    the signal knows nothing.
    """
    codes, names = pd.factorize(units)
    order = np.argsort(codes, kind="stable")  # unit by unit
    ranks, failed, codes = rankdata(signal)[order], failed[order], codes[order]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(codes)) - starts[codes]
    weights = np.where(failed, -1 / failed.sum(), 1 / (~failed).sum())
    random, found, as_high = np.random.default_rng(0), ranks @ weights, 1
    for _ in range(draws):
        source = random.permutation(len(names))[codes]
        shift = random.integers(len(codes), size=len(names))[codes]
        drawn = ranks[starts[source] + (place + shift) % sizes[source]]
        as_high += drawn @ weights >= found - 1e-9
    return float(found / len(signal) + 0.5), as_high / (draws + 1)


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
    table.insert(0, "planted", table.sum(axis=1))
    for name, causes in stated.groupby(kind):
        counts = causes[causes != "passed"].value_counts()
        table.loc[name, "stated"] = ", ".join(f"{cause} {n}" for cause, n in counts.items())
    return table.rename_axis("fault").reset_index()
