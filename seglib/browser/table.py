"""The failures of a folder as plain data: read, listed for the front end, and described. Needs no kernel."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglib.browser.details import Details
from seglib.browser.layers import pack_layers
from seglib.data import ClassMap
from seglib.failures import ERROR_KINDS, VERDICTS, VerdictBook
from seglib.runs import display_path, read_json, read_table

LOW_IOU = 0.5  # the IoU of a class below it counts as low
UNKNOWN = "unknown"
NO_VERDICT = "none yet"
VIEWS = "views.json"
NEAREST = 5  # nearest training images shown
# What the list can be sorted by: words, column, and whether the largest comes first.
SORTS = [["IoU, worst first", "miou", False], ["IoU, best first", "miou", True], ["id", "id", False]]
SORTS += [["cause", "cause", False], ["worst class", "worst_class", False]]
SORTS += [["most suspicious label", "label_score", True], ["largest gain by one fix", "best_fix_gain", True]]
SORTS += [["most confident", "confidence", True], ["least like training", "novelty", True]]
SORTS += [["last verdict first", "time", True], ["gained most", "gain", True], ["lost most", "gain", False]]
_LISTED = ["id", "miou", "group", "cause", "worst_class", "top_confusion", "best_fix", "suspect_kind"]
_LISTED += ["evidence", "label_score", "best_fix_gain", "confidence", "novelty"]
_NUMBERS = ["miou", "worst_class_iou", "top_confusion_share", "best_fix_gain", "confidence", "label_score"]
_NUMBERS += ["degradation_z", "novelty", "cause_strength", *(f"lost_{kind}" for kind in ERROR_KINDS)]
# What is said of a failure: name -> columns, each with the form of its value.
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


def read_failures(folder: Path) -> pd.DataFrame:
    """Read failures.csv of a failures folder: text, and figures as float64; what is no finite number is NaN.

    Raises:
        FileNotFoundError, ValueError: there is none, or it has no column id or miou.
    """
    path = folder / "failures.csv"
    if not path.exists():
        raise FileNotFoundError(f"no {display_path(path)}. Run 04_failure_analysis first: it writes it.")
    table = read_table(path)  # everything as text: an image may be called "NA" or "0042"
    if not {"id", "miou"} <= set(table):
        raise ValueError(
            f"{display_path(path)} needs the columns id and miou. Run 04_failure_analysis again."
        )
    for name in set(_NUMBERS) & set(table):
        numbers = pd.to_numeric(table[name], errors="coerce").astype("float64")
        table[name] = numbers.where(np.isfinite(numbers))
    return table


def pack_row(
    folder: Path, row: Mapping, details: Details | None, most: int, compact: bool = False
) -> dict[str, Any]:
    """Pack the layers of one image as `pack_layers` does; the suspect region only where the label is doubted."""
    if details and not details.columns["failed"].get(row["id"], False):
        return details.pack(row["id"], most, compact)
    packed = pack_layers(folder, row["id"], most, compact, details.earlier(row["id"]) if details else {})
    if str(row.get("suspect")).lower() != "true" and row.get("cause") != "label error":
        packed["layers"].pop("suspect", None)
    return packed


def listing(
    failures: pd.DataFrame, classes: ClassMap, book: VerdictBook, class_ious: pd.DataFrame | None = None,
    details: Details | None = None,
) -> dict[str, Any]:  # fmt: skip
    """List the failures, of `read_failures`, as the front end shows, filters and sorts them.

    `class_ious` are IoUs by image (index: ids) and class; None where they are not known.

    Returns:
        what is the same for all images, such as the classes, and rows: one mapping an image with the columns of
        `Details`, unknown values as None, `low` the ids of its classes with a low IoU.
    """
    try:  # filters that a person named and saved
        views = read_json(book.path.with_name(VIEWS))
    except (OSError, ValueError):
        views = {}
    low = np.zeros((len(failures), len(classes)), bool)
    if class_ious is not None:
        known = class_ious.reindex(index=failures["id"], columns=list(classes.names))
        low = known.to_numpy(float) < LOW_IOU
    plain = failures.reindex(columns=_LISTED).astype(object)
    rows = plain.where(plain.notna(), None).to_dict("records")
    more = details.columns.to_dict("index") if details else {}
    for row, under in zip(rows, low, strict=True):
        row |= book.get(row["id"])._asdict() | {"low": np.flatnonzero(under).tolist()}
        row |= more.get(row["id"], {"failed": True})
    sorted_by = {"id", "miou", "time", *plain.columns[plain.notna().any()]}
    sorted_by |= {"gain"} if details and details.before else set()
    return {
        "names": list(classes.names),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.colors],
        "verdicts": list(VERDICTS),
        "none": NO_VERDICT,
        "rules": ["is the worst class", *([f"has IoU below {LOW_IOU:g}"] if class_ious is not None else [])],
        "sorts": [sort for sort in SORTS if sort[1] in sorted_by],
        "problem": book.problem,
        "views": views,
        **(details.facts if details else {"browse": "failures"}),
        "rows": rows,
    }


def describe(row: Mapping, classes: ClassMap, ious: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Describe one failure, a row of `read_failures`, as plain text and figures; `UNKNOWN` where it does not say.

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
    scored = [(c, ({} if ious is None else ious).get(name)) for c, name in enumerate(classes.names)]
    nearest = json.loads(row.get("nearest") or "null")
    return {
        "cause": told("cause") or "cause unknown",
        "sureness": told("cause_strength", "strength of the evidence {:.2f}"),
        "evidence": told("evidence"),
        "suggestion": told("suggestion"),
        "lost": lost if all(_known(points) for _, points in lost) else [],
        "rows": rows,
        "ious": sorted((pair for pair in scored if _known(pair[1])), key=lambda pair: pair[1]),
        "nearest": nearest and nearest[:NEAREST],
    }


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
