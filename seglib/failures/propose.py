"""What the findings of 04 ask for: verdicts, suspected labels and causes -> `Actions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from seglib.actions import TRAIN, Actions, Sample, Setting, Weights
from seglib.data import Dataset
from seglib.failures.label_errors import SURE as SUSPICIOUS
from seglib.params import Train

SURE = (
    0.8  # confidence from which a claim about a picture or a class is acted upon without a person's verdict
)
_SUPPORT = 0.1  # share of the failures, and at least two of them, that a change of the training must stand on
# What a failed image's degradation asks for, as parameters of 02_train and their least values.
_REMEDIES = {
    "blur": {"blur": 0.3, "blur_radius": 3},
    "noise": {"noise": 0.3, "noise_most": 40.0},
    "dark": {"darkness": 0.3},
    "washed out": {"haze": 0.3},
}


def propose(
    dataset: Dataset,
    failures: pd.DataFrame,
    suspects: pd.DataFrame | None = None,
    verdicts: Mapping[str, str] | None = None,
    params: Train | None = None,
    sure: float = SURE,
) -> Actions:
    """What the findings of 04 ask for.

    A person's verdict goes before any claim: "label wrong" lists an image to be relabelled, "ignore" takes it out of training,
    "model wrong" and "ambiguous" leave its label alone. Without one, a label is suspected from `label_errors.SURE` on. Samples of training are
    excluded until relabelled; those of other splits are never excluded, only listed.

    A change of the training stands on at least two failures and a tenth of those whose labels are not in doubt, each by a claim of
    at least `sure` or, where a person says "model wrong", by any; and only on what the run did not have yet.

    Args:
        dataset: that the tables are about.
        failures: failures.csv: id, and as far as known cause, cause_confidence, degradation.
        suspects: suspects.csv: id, label_score, and as far as known suspect_kind, suspect_given, suspect_suggested.
        verdicts: id -> verdict (`VerdictBook.rows`, their verdicts).
        params: that the run was trained with; the defaults if unknown.
        sure: confidence (0-1) from which a claim is acted upon.
    """
    verdicts, params = verdicts or {}, params or Train()
    splits = dict(zip(dataset.samples["id"], dataset.samples["split"], strict=True))
    exclude, relabel = [], []
    for sample, reason in _label_claims(failures, suspects, verdicts).items():
        if sample not in splits:  # of a verdict on an image that is no longer there
            continue
        ignored = verdicts.get(sample) == "ignore"
        if splits[sample] == TRAIN:
            exclude.append(Sample(id=sample, reason=reason if ignored else f"until relabelled; {reason}"))
        if splits[sample] != TRAIN or not ignored:
            kept = "" if splits[sample] == TRAIN else f"{splits[sample]}: stays in the scores; "
            relabel.append(Sample(id=sample, reason=kept + reason))
    doubted = {sample.id for sample in (*exclude, *relabel)}
    sound = failures[~failures["id"].isin(doubted)]
    augment, weights = _training_changes(sound, verdicts, params, sure)
    return Actions(exclude=exclude, relabel=relabel, augment=augment, class_weights=weights)


def _label_claims(
    failures: pd.DataFrame, suspects: pd.DataFrame | None, verdicts: Mapping[str, str]
) -> dict[str, str]:
    """id -> reason of each image whose label is in doubt: by verdict first, then by suspicion, the strongest first."""
    said = {"label wrong": "verdict: label wrong", "ignore": "verdict: ignore"}
    claims = {sample: said[verdict] for sample, verdict in verdicts.items() if verdict in said}
    for table in (suspects, failures):
        if table is None or "label_score" not in table:
            continue
        for row in (
            table[table["label_score"] >= SUSPICIOUS]
            .sort_values("label_score", ascending=False)
            .to_dict("records")
        ):
            if not verdicts.get(row["id"]):
                claims.setdefault(row["id"], _suspicion(row))
    return claims


def _suspicion(row: Mapping[str, Any]) -> str:
    kind, given, suggested = (_text(row.get(f"suspect_{part}")) for part in ("kind", "given", "suggested"))
    swap = f" ({given}, rather {suggested})" if given and suggested else ""
    return f"label suspected: {kind or 'unlike the prediction'}{swap}, score {row['label_score']:.2f}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _training_changes(
    failures: pd.DataFrame, verdicts: Mapping[str, str], params: Train, sure: float
) -> tuple[list[Setting], Weights]:
    if not {"cause", "cause_confidence"} <= set(failures.columns):
        return [], Weights()
    blamed = failures["id"].map(lambda sample: verdicts.get(sample) == "model wrong").astype(bool)
    claims = failures[blamed | (failures["cause_confidence"] >= sure)]
    needed, total = max(2.0, _SUPPORT * len(failures)), len(failures)
    settings: dict[str, Setting] = {}

    def ask(values: Mapping[str, float], count: int, what: str) -> None:
        if count >= needed:
            reason = f"{count} of {total} failures: {what}"
            for name, value in values.items():
                if value > getattr(params, name):
                    settings[name] = Setting(name=name, value=value, reason=reason)

    counts = claims["cause"].value_counts()
    if "degradation" in claims:
        degraded = claims.loc[claims["cause"] == "degraded image", "degradation"].value_counts()
        for kind, values in _REMEDIES.items():
            ask(values, int(degraded.get(kind, 0)), f"degraded image: {kind}")
    ask({"scale_max": 2.0}, int(counts.get("small objects", 0)), "small objects")
    rare, weights = int(counts.get("rare class", 0)), Weights()
    if rare >= needed and params.class_weights == "none":
        weights = Weights(value="sqrt_inverse", reason=f"{rare} of {total} failures: rare class")
    return list(settings.values()), weights
