"""The images of a split as plain data for the front end: listed, and described in words."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from seglib.browser.details import Details
from seglib.failures import ERROR_KINDS, VERDICTS, VerdictBook
from seglib.runs import read_json

LOW_IOU = 0.5  # the IoU of a class below it counts as low
UNKNOWN = "unknown"
NO_VERDICT = "none yet"
VIEWS = "views.json"
# What the list can be sorted by: words, column, and whether the largest comes first.
SORTS = [["IoU, worst first", "miou", False], ["IoU, best first", "miou", True], ["id", "id", False]]
SORTS += [["cause", "cause", False], ["worst class", "worst_class", False]]
SORTS += [["most suspicious label", "label_score", True], ["largest gain by one fix", "best_fix_gain", True]]
SORTS += [["most confident", "confidence", True], ["least like training", "novelty", True]]
SORTS += [["last verdict first", "time", True], ["gained most", "gain", True], ["lost most", "gain", False]]
_LISTED = ["id", "miou", "group", "cause", "worst_class", "top_confusion", "best_fix", "suspect_kind"]
_LISTED += ["evidence", "label_score", "best_fix_gain", "confidence", "novelty", "failed", "pixels"]
_LISTED += ["x", "y", "before", "gain", "change"]
# What is said of an image: name -> columns, each with the form of its value.
_FACTS = {
    "mean IoU": {"miou": "{:.3f}", "severity": "{}"},
    "worst class": {"worst_class": "{}", "worst_class_iou": "IoU {:.3f}"},
    "top confusion": {"top_confusion": "{}", "top_confusion_share": "{:.1%} of the pixels"},
    "best fix": {"best_fix": "{}", "best_fix_gain": "{:+.3f} mean IoU"},
    "label": {"label_score": "probability {:.2f}", "suspect_kind": "{}", "suspect_given": "{} given"}
    | {"suspect_suggested": "{} suggested"},
    "confidence": {"confidence": "{:.2f}, mean over the image"},
    "degradation": {"degradation": "{}", "degradation_z": "{:.1f} robust sd from training"},
    "novelty": {"novelty": "{:.2f} (1: like no training image)"},
    "sequence": {"group": "{}"},
}
_EMPTY = {"best_fix": "none", "degradation": "none found"}  # what an empty cell says


def listing(details: Details, book: VerdictBook, most: int | None = None) -> dict[str, Any]:
    """List the images, at most so many, as the front end shows, filters and sorts them.

    Returns:
        what is the same for all images, such as the classes, and rows: one mapping an image with columns of
        `Details.table`, the verdict, and `low`, the ids of its classes with a low IoU.
    """
    classes, table = details.classes, details.table.head(most)
    try:  # filters that a person named and saved
        views = read_json(details.folder / VIEWS)
    except (OSError, ValueError):
        views = {}
    table = table[[name for name in _LISTED if name in table]]
    low = details.class_ious.loc[table["id"]].to_numpy(float) < LOW_IOU
    rows = table.to_dict("records")
    for row, under in zip(rows, low, strict=True):
        row |= book.get(row["id"])._asdict() | {"low": np.flatnonzero(under).tolist()}
    known = {"time", *table.columns[table.notna().any()]}
    return {
        "names": list(classes.names),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.colors],
        "verdicts": list(VERDICTS),
        "none": NO_VERDICT,
        "rules": ["is the worst class", f"has IoU below {LOW_IOU:g}"],
        "sorts": [sort for sort in SORTS if sort[1] in known],
        "problem": book.problem,
        "views": views,
        **details.facts,
        "rows": rows,
    }


def describe(row: Mapping, ious: Iterable[float] = ()) -> dict[str, Any]:
    """Describe an image, a row of `Details.table`, as plain text and figures; `UNKNOWN` where it does not say.

    Returns:
        cause, sureness, evidence and suggestion (text), lost [(error kind, IoU points)], rows [(name, text)], ious
        [(class id, IoU)] of the classes that count in the image, the lowest first, and nearest training images.
    """

    def told(name: str, form: str = "{}") -> str:
        value = row.get(name)
        value = _EMPTY.get(name) if value == "" else value
        return form.format(value) if isinstance(value, str) or _known(value) else ""

    rows = []
    for name, columns in _FACTS.items():
        said = ", ".join(filter(None, (told(column, form) for column, form in columns.items())))
        rows += [(name, said or UNKNOWN)] if said or name != "sequence" else []
    lost = [(kind, row.get(f"lost_{kind}")) for kind in ERROR_KINDS]
    scored = [(c, iou) for c, iou in enumerate(ious) if _known(iou)]
    return {
        "cause": told("cause") or "cause unknown",
        "sureness": told("cause_strength", "strength of the evidence {:.2f}"),
        "evidence": told("evidence"),
        "suggestion": told("suggestion"),
        "lost": lost if all(_known(points) for _, points in lost) else [],
        "rows": rows,
        "ious": sorted(scored, key=lambda pair: pair[1]),
        "nearest": row["nearest"],
    }


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
