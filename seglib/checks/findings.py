"""The checks of a dataset, besides errors of reading and pairing: how bad each is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

SEVERITIES = ("error", "warning", "info")
_LOOK = "Look at it; keep it if such images occur in use."
_FLATTERS = "Keep one: a score on pictures seen in training flatters."
CHECKS = {
    "blank-image": ("warning", "Look at it; exclude it if it shows nothing."),
    "all-ignored": ("warning", "It teaches nothing and has no score: label or exclude it."),
    "much-ignored": ("warning", "Is an id missing from the classes?"),
    "single-class": ("warning", "Look at it; exclude it if it was never labelled."),
    "no-train": ("warning", "02_train learns from train: rename a split, or add one."),
    "nothing-scored": ("error", "Check classes, ignore_ids and id_map in dataset.yaml."),
    "class-not-in-train": ("warning", "They cannot be learnt: add images of them, or drop the classes."),
    "class-not-in-split": ("warning", "They have no score there; the mean is over the others."),
    "few-images": ("warning", "Add images of them."),
    "small-split": ("warning", "Add images, or read its scores as anecdotes."),
    "duplicate-across-splits": ("warning", _FLATTERS),
    "near-duplicate-across-splits": ("warning", _FLATTERS),
    "sequence-leakage": (
        "warning",
        "Such a score flatters: split by whole sequences (see suggested_split/).",
    ),
    "few-sequences": (
        "warning",
        "Its images are not independent: read its score as one drive's, or add others.",
    ),
    "mask-of-another-image": ("warning", "At most one image fits such a mask: correct the others."),
    "mask-beside-edges": ("warning", "Look at it: was it moved, resized or drawn on another picture?"),
    "duplicate-image": ("warning", "Keep one."),
    "near-duplicate": ("info", "Keep one, or let them share a split."),
    "specks": ("info", "Look at the worst: tiny regions are mostly slips of the brush."),
    "pinholes": ("info", "Look at the worst: fill the holes with the class around them."),
    "sequences-guessed": (
        "info",
        "If so, write it into dataset.yaml as group; if not, give the true pattern.",
    ),
    "split-shift": ("info", "A score there speaks for such images, less for those of train."),
    "dark-image": ("info", _LOOK),
    "bright-image": ("info", _LOOK),
    "low-contrast-image": ("info", _LOOK),
    "low-entropy-image": ("info", "Look at it: is it a drawing, a screen or a broken picture?"),
    "blurred-image": ("info", _LOOK),
    "grainy-image": ("info", _LOOK),
    "grey-image": ("info", "Is it from another camera? A model trained on colours may fail on it."),
    "odd-size": ("info", "Training scales and crops or pads it; is it a thumbnail or a collage?"),
    "odd-aspect": ("info", "Is it turned, cropped or a panorama?"),
    "modes-differ": ("info", "All are read alike."),
    "sizes-differ": ("info", "Training scales and crops or pads them."),
}

Finding = tuple[str, str, str, str, str, str]


def finding(check: str, sample: str, split: str, detail: str) -> Finding:
    """Make a row of the findings table; `sample` and `split` are "" for all of them."""
    severity, suggestion = CHECKS[check]
    return severity, check, sample, split, detail, suggestion


def some(names: Sequence[str], most: int = 3) -> str:
    """Join the first `most` names, with "..." where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
