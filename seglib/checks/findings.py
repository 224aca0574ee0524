"""The checks of a dataset, besides errors of reading and pairing: how bad each is, and what to do."""

from __future__ import annotations

_LOOK = "Look at it; keep it if such images occur in use."
_SUGGESTIONS = {
    "error": {"nothing-scored": "Check classes, ignore_ids and id_map in dataset.yaml."},
    "warning": {
        "blank-image": "Look at it; exclude it if it shows nothing.",
        "all-ignored": "It teaches nothing and has no score: label or exclude it.",
        "single-class": "Look at it; exclude it if it was never labelled.",
        "no-train": "02_train learns from train: rename a split, or add one.",
        "class-not-in-train": "They cannot be learnt: add images of them, or drop the classes.",
        "class-not-in-split": "They have no score there; the mean is over the others.",
        "few-images": "Add images of them.",
        "small-split": "Add images, or do not rely on its scores.",
        "near-duplicate-across-splits": "Keep one: otherwise the score counts images seen in training.",
        "sequence-leakage": "Split by whole sequences (suggested_split/): the score will be too high.",
        "mask-of-another-image": "At most one image fits such a mask: correct the others.",
        "mask-beside-edges": "Look at it: was it moved, resized or drawn on another image?",
    },
    "info": {
        "near-duplicate": "Keep one, or let them share a split.",
        "sequences-guessed": "Write the pattern into dataset.yaml as group, or the true one.",
        "split-shift": "A score there speaks for such images, less for those of train.",
        "dark-image": _LOOK,
        "bright-image": _LOOK,
        "low-contrast-image": _LOOK,
        "low-entropy-image": "Look at it: is it a drawing, a screen or a broken picture?",
        "blurred-image": _LOOK,
        "grainy-image": _LOOK,
        "grey-image": "Is it from another camera? A model trained on colours may fail on it.",
        "sizes-differ": "Training scales and crops or pads them: is one a thumbnail or a collage?",
    },
}
SEVERITIES = tuple(_SUGGESTIONS)
Finding = tuple[str, str, str, str, str, str]


def finding(check: str, sample: str, split: str, detail: str) -> Finding:
    """Make a row of the findings table; `sample` and `split` are "" for all of them."""
    severity = next(name for name, checks in _SUGGESTIONS.items() if check in checks)
    return severity, check, sample, split, detail, _SUGGESTIONS[severity][check]
