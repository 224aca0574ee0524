"""The checks of a dataset, besides errors of reading and pairing: how bad each is, and what to do."""

_LOOK = "Look at it; keep it if such images occur in use."
_SUGGESTIONS = {
    "error": {
        "all-255": "",
        "ids-from-1": "",
        "range": "",
        "nothing-scored": "Check classes, ignore_ids and id_map in dataset.yaml.",
        "exif-orientation": "Write exif: true into dataset.yaml if masks fit the upright images, exif: false if not.",
        "instance-numbers": "Export class ids; or map all instances to their class by id_map.",
        "soft-edges": "Export masks without interpolation (nearest neighbour): ids between two classes are of a third.",
    },
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
        "duplicate-masks-differ": "One of them is wrong: correct or exclude it.",
        "range-too-wide": "Narrow range in dataset.yaml, as far as the training pixels reach.",
        "mask-of-another-image": "At most one image fits such a mask: correct the others.",
        "mask-beside-edges": "Look at it: was it moved, resized or drawn on another image?",
    },
    "info": {
        "alpha-dropped": "Nothing to do, unless what counts is in it.",
        "exif-turned": "The key exif of dataset.yaml decides it: true or false.",
        "range-taken": "Nothing to do, if it holds what is to be seen.",
        "white-is-zero": "Nothing to do, if 01's overlays look right.",
        "edges-elsewhere": "Look at the overlays of 01.",
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


def finding(check: str, sample: str, split: str, detail: str, suggestion: str = "") -> Finding:
    """Make a row of the findings table; `sample` and `split` are "" for all of them, `suggestion` for the usual one."""
    severity = next(name for name, checks in _SUGGESTIONS.items() if check in checks)
    return severity, check, sample, split, detail, suggestion or _SUGGESTIONS[severity][check]
