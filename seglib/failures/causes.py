"""Why an image failed: one primary cause with its evidence, a confidence and a suggestion, or "unexplained"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seglib.checks import APART
from seglib.failures import label_errors

CAUSES = (
    "label error",
    "degraded image",
    "unlike training",
    "rare class",
    "small objects",
    "class confusion",
    "unexplained",
)
CAUSE_COLUMNS = ["cause", "cause_confidence", "evidence", "suggestion"]
SURE = 0.5  # a claim below this confidence is not made
RARE = 0.01  # share of the training pixels under which a class is rare
DOUBTED = 0.8  # label score from which a class that did worse than usual may be the label's fault
NOVEL = 0.9  # share of the training images that have a nearer neighbour than the image has
# Times the usual doubt from which the model is lost in a picture, where most training images have a nearer neighbour (STRANGE), and
# anywhere: sound pictures of CamVid and the demo stay below 1.3.
UNSURE, STRANGE = (1.25, 1.5), 0.5
WORSE = 0.02  # points of mIoU behind the usual below which nothing is explained by them

_AUGMENTATIONS = {"blur": "blur", "noise": "noise", "dark": "darkness", "washed out": "haze"}
_LABEL_REMEDIES = {
    "swapped class": "Correct the class in its mask",
    "missing object": "Draw what its mask leaves out",
    "shifted mask": "Move its mask to where the outlines are",
    "mask of another image": "Find the mask that belongs to it",
}


_LIKE_IT = "Label more images like it and train with them."
_MORE_OF_IT = "Set class_weights='sqrt_inverse', crop closer, or add images that hold them."
_ONE_RULE = "Check that the labels of the two follow one rule; then add images that show them side by side."


class Claim(NamedTuple):
    """A cause that the evidence speaks for.

    Args:
        cause: one of `CAUSES`.
        confidence: 0-1; `SURE` or more to be stated.
        evidence, suggestion: a sentence each.
    """

    cause: str
    confidence: float
    evidence: str
    suggestion: str


UNEXPLAINED = Claim(
    "unexplained",
    0.0,
    "Neither label, image, training set nor class accounts for most of what was lost.",
    "Look at it: image, mask and prediction side by side.",
)


def explain(failures: pd.DataFrame) -> pd.DataFrame:
    """State the primary cause of each failed image.

    What lies outside of the model comes first: a wrong label, a degraded image, a scene that training lacks. Only where none of
    them is seen, the classes are blamed: what was lost on rare classes, on small objects, or to one confusion; where none of
    these holds half of it, what made the image worse than usual, or that the model is lost in it. Among several claims of one sort
    the most confident is taken. A claim that is not likelier than not is not made.

    Args:
        failures: a row a failed image with the columns of failures.csv (`label_score`, `suspect_kind`, `suspect_given`,
            `suspect_suggested`, `degradation`, `degradation_z`, `degradation_detail`, `novelty`, `nearest`, `unsure`,
            `lost_rare`, `rare_classes`, `unsaid_classes`, `lost_small`, `miou`, `best_fix`, `best_fix_gain`, those of `shortfall`).
            What is missing or NaN speaks for nothing.

    Returns:
        `CAUSE_COLUMNS`, in the order of `failures`.
    """
    claims = [primary(claims_of(row)) for row in failures.to_dict("records")]
    return pd.DataFrame(claims, columns=CAUSE_COLUMNS, index=failures.index)


def primary(claims: Iterable[tuple[Claim, int]]) -> Claim:
    """The claim to state.

    Args:
        claims: each with its rank; a higher rank goes first, whatever the confidences.
    """
    stated = [(claim, rank) for claim, rank in claims if claim.confidence >= SURE]
    return max(stated, key=lambda item: (item[1], item[0].confidence), default=(UNEXPLAINED, 0))[0]


def claims_of(row: Mapping[str, Any]) -> list[tuple[Claim, int]]:
    """All claims about one failed image, sure or not, and their ranks: outside of the model 2, half of the loss 1, else 0."""
    return [
        (_label_error(row), 2),
        (_degraded(row), 2),
        (_unlike_training(row), 2),
        (_rare_class(row), 1),
        (_small_objects(row), 1),
        (_class_confusion(row), 1),
        (_rare_class_behind(row), 0),
        (_class_confusion_behind(row), 0),
        (_doubted(row), 0),
    ]


def _label_error(row: Mapping[str, Any]) -> Claim:
    kind, given, suggested = (_text(row, f"suspect_{part}") for part in ("kind", "given", "suggested"))
    what = f"the model is sure of {suggested!r} where the mask says {given!r}" if given and suggested else ""
    what = what or "the model surely and widely disagrees with the mask"
    evidence = f"{kind[:1].upper()}{kind[1:]}: {what}." if kind else f"{what[:1].upper()}{what[1:]}."
    suggestion = _LABEL_REMEDIES.get(kind, "Compare its mask with the image and correct it")
    confidence = max(0.0, 1 - (1 - SURE) * (1 - _number(row, "label_score")) / (1 - label_errors.SURE))
    # No witness against a mask is a model that is lost in the picture, or that says the class of the mask nowhere else either.
    if _lost(row) or (given and given in _text(row, "unsaid_classes").split(", ")):
        confidence = 0.0
    return Claim("label error", confidence, evidence, f"{suggestion}, or exclude it until that is done.")


def _degraded(row: Mapping[str, Any]) -> Claim:
    kind, z = _text(row, "degradation"), _number(row, "degradation_z")
    confidence = 1 - 0.5 * (APART / z) ** 2 if kind and z >= APART else 0.0
    evidence = (
        _text(row, "degradation_detail") or f"{kind}: {z:.1f} standard deviations from the training images."
    )
    suggestion = f"Train with more of it (augmentation {_AUGMENTATIONS.get(kind, kind)!r}) if such images come in use; else exclude it."
    return Claim("degraded image", confidence, evidence[:1].upper() + evidence[1:], suggestion)


def _unlike_training(row: Mapping[str, Any]) -> Claim:
    novelty = _number(row, "novelty")
    # Distance alone is weaker evidence than a mask or a picture that is visibly wrong.
    confidence = SURE + 0.25 * (novelty - NOVEL) / (1 - NOVEL) if novelty >= NOVEL else 0.0
    evidence = f"Farther from its nearest training image than {novelty:.0%} of these are from each other.{_nearest(row)}"
    return Claim("unlike training", confidence, evidence, _LIKE_IT)


def _doubted(row: Mapping[str, Any]) -> Claim:
    """Doubt alone may as well come from one confusion, which then is the more confident claim."""
    unsure = _number(row, "unsure")
    confidence = SURE + 0.1 * min(1.0, unsure / UNSURE[0] - 1) if _lost(row) else 0.0
    evidence = f"The model is {unsure:.1f} times as unsure all over it as in the typical image of this split.{_nearest(row)}"
    return Claim("unlike training", confidence, evidence, _LIKE_IT)


def _lost(row: Mapping[str, Any]) -> bool:
    """Whether the model is lost in the picture; never in one that it was trained on, whose novelty is unknown."""
    known = not pd.isna(row.get("novelty"))
    return known and _number(row, "unsure") >= UNSURE[_number(row, "novelty") < STRANGE]


def _nearest(row: Mapping[str, Any]) -> str:
    nearest = row.get("nearest")
    return f" Nearest: {nearest[0]}." if isinstance(nearest, list) and nearest else ""


def _rare_class(row: Mapping[str, Any]) -> Claim:
    share = _lost_share(row, "lost_rare")
    return Claim("rare class", share, f"{share:.0%} of what it lost went to {_rare(row)}.", _MORE_OF_IT)


def _rare_class_behind(row: Mapping[str, Any]) -> Claim:
    share = _behind_share(row, "drop_rare")
    evidence = f"{share:.0%} of what it did worse than usual in this split is due to {_rare(row)}."
    if unsaid := _text(row, "unsaid_classes"):
        evidence += f" The model hardly says {unsaid} in any image."
    return Claim("rare class", _softer(share), evidence, _MORE_OF_IT)


def _rare(row: Mapping[str, Any]) -> str:
    return f"classes with less than {RARE:.0%} of the training pixels: {_text(row, 'rare_classes')}"


def _small_objects(row: Mapping[str, Any]) -> Claim:
    share = _lost_share(row, "lost_small")
    evidence = f"{share:.0%} of what it lost went to regions smaller than 0.33 % of the image."
    suggestion = "Train and predict at a higher resolution (long_side, tile), or crop closer."
    return Claim("small objects", share, evidence, suggestion)


def _class_confusion(row: Mapping[str, Any]) -> Claim:
    pair, share = _text(row, "best_fix"), _lost_share(row, "best_fix_gain")
    evidence = f"One confusion, {pair}, costs {_number(row, 'best_fix_gain'):.2f} of its {1 - _number(row, 'miou'):.2f} lost."
    return Claim("class confusion", share, evidence, _ONE_RULE)


def _class_confusion_behind(row: Mapping[str, Any]) -> Claim:
    more, worse, usual = (_number(row, f"behind{part}") for part in ("_swap_gain", "", "_class_iou"))
    evidence = (
        f"One confusion, {_text(row, 'drop_fix')}, costs {more:.2f} more than usual in this split; its classes below their "
        f"usual IoU cost it {worse:.2f}, {_text(row, 'drop_class')!r} (usually {usual:.2f}) the most of that."
    )
    return Claim("class confusion", _softer(_behind_share(row, "drop_fix_gain")), evidence, _ONE_RULE)


def _lost_share(row: Mapping[str, Any], column: str) -> float:
    lost = 1 - _number(row, "miou")
    return min(1.0, _number(row, column) / lost) if lost > 0 else 0.0


def _behind_share(row: Mapping[str, Any], column: str) -> float:
    """Of what the image did worse than usual; 0 where its label is in doubt, which would make a class look bad in it alone."""
    behind = _number(row, "drop_vs_median")
    if behind < WORSE or _number(row, "label_score") >= DOUBTED:
        return 0.0
    return min(1.0, _number(row, column) / behind)


def _softer(share: float) -> float:
    """The confidence in what was worse than usual: it tells why this image fails and others do not, not what was lost."""
    return SURE + 0.25 * (share - SURE) / (1 - SURE)


def _number(row: Mapping[str, Any], column: str) -> float:
    value = row.get(column)
    return 0.0 if value is None or not np.isfinite(value) else float(value)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


ADVICE = {
    "label error": "Look at the masks; mend or exclude them before anything else: no training can.",
    "degraded image": "Train with more of it if such images come in use, or keep them out.",
    "unlike training": "Label and add images like these.",
    "rare class": "Weigh the class (class_weights) or add images that hold it.",
    "small objects": "Train and predict at a higher resolution.",
    "class confusion": "Check that the labels of the two classes follow one rule; add images with both.",
    "unexplained": "Look at them one by one: near misses may only want longer training or a larger encoder.",
}


def summary(failures: pd.DataFrame) -> pd.DataFrame:
    """How many failures each cause has, the most frequent first, "unexplained" last.

    Returns:
        cause, failures, share, lost (points of mIoU that they lost together), examples (ids of up to three), advice.
    """
    rows = []
    for cause, group in failures.groupby("cause", sort=False):
        ids = group["id"].tolist()
        rows.append(
            {
                "cause": cause,
                "failures": len(group),
                "share": len(group) / len(failures),
                "lost": float((1 - group["miou"]).sum()),
                "examples": ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else ""),
                "advice": ADVICE[cause],
            }
        )
    rows.sort(key=lambda row: (row["cause"] == UNEXPLAINED.cause, -row["failures"]))
    return pd.DataFrame(rows, columns=["cause", "failures", "share", "lost", "examples", "advice"])
