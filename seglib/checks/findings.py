"""The checks of a dataset, besides errors of reading and pairing: how bad each is, and what to do."""

from __future__ import annotations

from typing import NamedTuple

SEVERITIES = ("error", "warning", "info")
_LOOK = "Look at it; keep it if such images occur in use."


class Check(NamedTuple):
    """How bad a finding is, what to do, and what shows it: the "image", the "mask" over it, or neither ("")."""

    severity: str
    suggestion: str
    shown_by: str = ""


CHECKS = {
    "blank-image": Check("warning", "Look at it; exclude it if it shows nothing."),
    "all-ignored": Check("warning", "It teaches nothing and has no score: label or exclude it."),
    "single-class": Check("warning", "Look at it; exclude it if it was never labelled."),
    "no-train": Check("warning", "02_train learns from train: rename a split, or add one."),
    "nothing-scored": Check("error", "Check classes, ignore_ids and id_map in dataset.yaml."),
    "class-not-in-train": Check("warning", "They cannot be learnt: add images of them, or drop the classes."),
    "class-not-in-split": Check("warning", "They have no score there; the mean is over the others."),
    "few-images": Check("warning", "Add images of them."),
    "small-split": Check("warning", "Add images, or do not rely on its scores."),
    "near-duplicate-across-splits": Check(
        "warning",
        "Keep one: otherwise the score counts images seen in training.",
    ),
    "sequence-leakage": Check(
        "warning",
        "Split by whole sequences (suggested_split/): the score will be too high.",
    ),
    "mask-of-another-image": Check(
        "warning",
        "At most one image fits such a mask: correct the others.",
        "mask",
    ),
    "mask-beside-edges": Check(
        "warning",
        "Look at it: was it moved, resized or drawn on another image?",
        "mask",
    ),
    "near-duplicate": Check("info", "Keep one, or let them share a split."),
    "sequences-guessed": Check("info", "Write the pattern into dataset.yaml as group, or the true one."),
    "split-shift": Check("info", "A score there speaks for such images, less for those of train."),
    "dark-image": Check("info", _LOOK, "image"),
    "bright-image": Check("info", _LOOK, "image"),
    "low-contrast-image": Check("info", _LOOK, "image"),
    "low-entropy-image": Check("info", "Look at it: is it a drawing, a screen or a broken picture?", "image"),
    "blurred-image": Check("info", _LOOK, "image"),
    "grainy-image": Check("info", _LOOK, "image"),
    "grey-image": Check(
        "info",
        "Is it from another camera? A model trained on colours may fail on it.",
        "image",
    ),
    "sizes-differ": Check("info", "Training scales and crops or pads them: is one a thumbnail or a collage?"),
}
Finding = tuple[str, str, str, str, str, str]


def finding(check: str, sample: str, split: str, detail: str) -> Finding:
    """Make a row of the findings table; `sample` and `split` are "" for all of them."""
    return CHECKS[check].severity, check, sample, split, detail, CHECKS[check].suggestion


def shown_by(what: str) -> list[str]:
    """List the checks whose findings an "image", or a "mask" over it, shows."""
    return [name for name, check in CHECKS.items() if check.shown_by == what]
