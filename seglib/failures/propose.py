"""What the findings of 04 ask for: verdicts, suspected labels and causes become actions.yaml."""

from pathlib import Path

import pandas as pd

from seglib import actions
from seglib.actions import TRAIN, Actions, Sample, Setting, Weights
from seglib.failures.analyse import Analysis
from seglib.failures.label_errors import named
from seglib.failures.verdicts import VerdictBook
from seglib.params import Train
from seglib.runs import read_json

_SURE = 0.8  # strength of the evidence from which a cause is acted upon without a person's verdict
_SUPPORT = 0.1  # share of the failures, and at least two of them, that a change of the training needs
_AUGMENT = {  # parameters of 02_train that a cause asks for, with their least values
    "degraded image, blur": {"blur": 0.3, "blur_radius": 3},
    "degraded image, noise": {"noise": 0.3, "noise_most": 40.0},
    "degraded image, dark": {"darkness": 0.3},
    "degraded image, washed out": {"haze": 0.3},
    "small objects": {"scale_max": 2.0},
}


def write_actions(analysis: Analysis) -> tuple[Path, str]:
    """Write actions.yaml into the failures folder; return its path and text. An edited file is kept."""
    path = actions.write(analysis.folder / "actions.yaml", propose_actions(analysis))
    return path, path.read_text(encoding="utf-8")


def propose_actions(analysis: Analysis) -> Actions:
    """Propose what to change before the next training.

    A verdict goes first: "label wrong" lists an image to be relabelled and takes it out of training until then,
    "ignore" takes it out of training, "model wrong" and "ambiguous" leave its label alone. Without one, the masks
    that the analysis names are listed under `relabel`. A change of the training needs two failures and a tenth of
    those whose labels are not in doubt, by a cause that is sure or, after the verdict "model wrong", by any.
    """
    evaluation, failures = analysis.evaluation, analysis.failures
    own = evaluation.name == evaluation.split  # 02 knows no samples of another dataset
    splits = evaluation.dataset.samples.set_index("id")["split"].to_dict() if own else {}
    verdicts = {i: row.verdict for i, row in VerdictBook(analysis.folder / "verdicts.csv").rows.items()}
    reasons = {i: f"verdict: {said}" for i, said in verdicts.items() if said in ("label wrong", "ignore")}
    for row in named(analysis.suspects).itertuples():
        if not verdicts.get(row.id):
            what = f"{row.suspect_kind}, {row.suspect_detail}".removesuffix(", ")
            if row.suspect_given:  # a fault of one region has no detail
                what += f" (labelled {row.suspect_given}, probably {row.suspect_suggested})"
            reasons[row.id] = f"label suspected: {what}; probability {row.label_score:.2f}"
    exclude, relabel = [], []
    for sample, reason in reasons.items():
        split, said = splits.get(sample), verdicts.get(sample)
        if split == TRAIN and said:
            until = "" if said == "ignore" else "until relabelled; "
            exclude.append(Sample(id=sample, reason=until + reason))
        if split and (split, said) != (TRAIN, "ignore"):  # no split: the image is gone
            stays = "" if split == TRAIN else f"{split}: stays in the scores; "
            relabel.append(Sample(id=sample, reason=stays + reason))
    sure = (failures["id"].map(verdicts) == "model wrong") | (failures["cause_strength"] >= _SURE)
    clean = failures.assign(sure=sure)[~failures["id"].isin(reasons)]
    settings, weights = _training_changes(clean, Train.pick(read_json(evaluation.run.params, ["run"])))
    return Actions(exclude=exclude, relabel=relabel, augment=settings, class_weights=weights)


def _training_changes(failures: pd.DataFrame, params: Train) -> tuple[list[Setting], Weights]:
    kinds = "degraded image, " + failures["degradation"].astype(str)
    what = failures["cause"].where(failures["cause"] != "degraded image", kinds)
    counts, total = what[failures["sure"]].value_counts(), len(failures)
    counts = counts[counts >= max(2.0, _SUPPORT * total)]
    told = f"of the {total} failures whose labels are not in doubt"
    reasons = {cause: f"{count} {told}: {cause}" for cause, count in counts.items()}
    wanted = [(cause, *one) for cause in _AUGMENT if cause in reasons for one in _AUGMENT[cause].items()]
    raised = [one for one in wanted if one[2] > getattr(params, one[1])]
    settings = [Setting(name=name, value=value, reason=reasons[cause]) for cause, name, value in raised]
    weigh = "rare class" in reasons and params.class_weights == "none"
    return settings, Weights(value="sqrt_inverse", reason=reasons["rare class"]) if weigh else Weights()
