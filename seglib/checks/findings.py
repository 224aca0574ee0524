"""The checks of a dataset, besides errors of reading and pairing: how bad each is, and what to do."""

from __future__ import annotations

SEVERITIES = ("error", "warning", "info")
LOOK = "Look at it; keep it if such images occur in use."
CHECKS = {
    "blank-image": ("warning", "Look at it; exclude it if it shows nothing."),
    "all-ignored": ("warning", "It teaches nothing and has no score: label or exclude it."),
    "single-class": ("warning", "Look at it; exclude it if it was never labelled."),
    "no-train": ("warning", "02_train learns from train: rename a split, or add one."),
    "nothing-scored": ("error", "Check classes, ignore_ids and id_map in dataset.yaml."),
    "class-not-in-train": ("warning", "They cannot be learnt: add images of them, or drop the classes."),
    "class-not-in-split": ("warning", "They have no score there; the mean is over the others."),
    "few-images": ("warning", "Add images of them."),
    "small-split": ("warning", "Add images, or do not rely on its scores."),
    "near-duplicate-across-splits": (
        "warning",
        "Keep one: otherwise the score counts images seen in training.",
    ),
    "sequence-leakage": (
        "warning",
        "Split by whole sequences (suggested_split/): the score will be too high.",
    ),
    "mask-of-another-image": ("warning", "At most one image fits such a mask: correct the others."),
    "mask-beside-edges": ("warning", "Look at it: was it moved, resized or drawn on another image?"),
    "near-duplicate": ("info", "Keep one, or let them share a split."),
    "sequences-guessed": ("info", "Write the pattern into dataset.yaml as group, or the true one."),
    "split-shift": ("info", "A score there speaks for such images, less for those of train."),
    "dark-image": ("info", LOOK),
    "bright-image": ("info", LOOK),
    "low-contrast-image": ("info", LOOK),
    "low-entropy-image": ("info", "Look at it: is it a drawing, a screen or a broken picture?"),
    "blurred-image": ("info", LOOK),
    "grainy-image": ("info", LOOK),
    "grey-image": ("info", "Is it from another camera? A model trained on colours may fail on it."),
    "sizes-differ": ("info", "Training scales and crops or pads them: is one a thumbnail or a collage?"),
}
Finding = tuple[str, str, str, str, str, str]


def finding(check: str, sample: str, split: str, detail: str) -> Finding:
    """Make a row of the findings table; `sample` and `split` are "" for all of them."""
    return CHECKS[check][0], check, sample, split, detail, CHECKS[check][1]
