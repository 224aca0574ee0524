"""The failures of a folder as plain data: read, listed for the front end, and described. Needs no kernel."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglib.browser.details import Details
from seglib.browser.layers import QUICK, pack_layers
from seglib.data import ClassMap
from seglib.failures import ERROR_KINDS, VERDICTS, VerdictBook
from seglib.runs import display_path, read_table

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
# Columns of earlier versions.
_RENAMED = {"best_swap": "best_fix", "best_swap_gain": "best_fix_gain", "remedy": "suggestion"}
_RENAMED |= {"lost_missed": "lost_false_negative", "lost_invented": "lost_false_positive"}
_RENAMED |= {"lost_swapped": "lost_misclassified", "lost_specks": "lost_noise"}


def read_failures(folder: Path) -> pd.DataFrame:
    """Read failures.csv of a failures folder: text, and figures as float64.

    Columns that the file lacks are missing here too; what is no finite number is NaN.

    Raises:
        FileNotFoundError: there is none; says which notebook writes it.
        ValueError: it has no column id or miou.
    """
    path = Path(folder) / "failures.csv"
    if not path.exists():
        raise FileNotFoundError(f"no {display_path(path)}. Run 04_failure_analysis first: it writes it.")
    table = read_table(path)  # everything as text: an image may be called "NA" or "0042"
    if missing := {"id", "miou"} - set(table):
        lack = " and no column ".join(sorted(missing))
        raise ValueError(f"{display_path(path)} has no column {lack}. Run 04_failure_analysis again.")
    table = table.rename(columns={old: new for old, new in _RENAMED.items() if new not in table})
    for name in _NUMBERS:
        if name in table:
            numbers = pd.to_numeric(table[name], errors="coerce").astype("float64")
            table[name] = numbers.where(np.isfinite(numbers))
    return table


def pack_row(
    folder: Path, row: Mapping, details: Details | None = None, most: int = QUICK, compact: bool = False
) -> dict[str, Any]:
    """Pack the layers of one image as `pack_layers` does; the suspect region only where the label is doubted."""
    if details and not details.failed(row["id"]):
        return details.pack(row["id"], most, compact)
    more, problems = {}, []
    try:
        more = details.earlier(row["id"]) if details else {}
    except (OSError, ValueError) as error:
        problems = [str(error)]
    packed = pack_layers(folder, row["id"], most, compact, more)
    if str(row.get("suspect")).lower() != "true" and row.get("cause") != "label error":
        packed["layers"].pop("suspect", None)
    return packed | {"problems": packed["problems"] + problems}


def read_views(folder: Path) -> dict[str, str]:
    """Read the filters that a person named and saved: name -> filters; none where the file is not readable."""
    try:
        stored = json.loads((Path(folder) / VIEWS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    named = stored.items() if isinstance(stored, dict) else ()
    return {name: text for name, text in named if isinstance(text, str)}


def listing(
    failures: pd.DataFrame, classes: ClassMap, book: VerdictBook, class_ious: pd.DataFrame | None = None,
    details: Details | None = None,
) -> dict[str, Any]:  # fmt: skip
    """List the failures as the front end shows, filters and sorts them.

    Args:
        failures: of `read_failures`.
        classes: of the dataset.
        book: the verdicts given so far.
        class_ious: IoU by image (index: ids) and class; None where it is not known.
        details: what is known of the images beyond the failures folder.

    Returns:
        names and colors of the classes, verdicts and none (the word for no verdict), rules (what may be asked
        of a class), sorts (name, column, whether the largest comes first), problem (of verdicts.csv), the facts
        of `Details`, and rows: one mapping an image with the columns of `Details`, unknown numbers as None,
        `low` the ids of its classes with a low IoU.
    """
    low = np.zeros((len(failures), len(classes)), bool)
    if class_ious is not None:
        known = class_ious.reindex(index=failures["id"], columns=list(classes.names))
        low = known.to_numpy(float) < LOW_IOU
    columns = [name for name in _LISTED if name in failures]
    plain = failures[columns].astype(object)
    rows = plain.where(plain.notna(), None).to_dict("records")
    more = details.columns.to_dict("index") if details else {}
    for row, under in zip(rows, low, strict=True):
        given = book.get(row["id"])
        row |= {"verdict": given.verdict, "note": given.note, "time": given.time}
        row["low"] = np.flatnonzero(under).tolist()
        row |= more.get(row["id"], {"failed": True})
    known = set(columns) | {"time"} | ({"gain"} if details and details.before else set())
    return {
        "names": list(classes.names),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.colors],
        "verdicts": list(VERDICTS),
        "none": NO_VERDICT,
        "rules": ["is the worst class", *([f"has IoU below {LOW_IOU:g}"] if class_ious is not None else [])],
        "sorts": [sort for sort in SORTS if sort[1] in known],
        "problem": book.problem,
        **(details.facts if details else {"browse": "failures"}),
        "rows": rows,
    }


def describe(row: Mapping, classes: ClassMap, ious: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Describe one failure as plain text and figures; `UNKNOWN` where the folder does not say.

    Args:
        row: of `read_failures`.
        classes: of the dataset.
        ious: IoU by class name in this image.

    Returns:
        cause, sureness, evidence and suggestion (text); lost: (error kind, IoU points), empty if unknown;
        rows: (name, text); ious: (class id, IoU) of the classes that count in the image, the lowest first;
        nearest: ids of the nearest training images, None if unknown.
    """

    def told(name: str, form: str = "{}") -> str:
        value = row.get(name)
        value = _EMPTY.get(name) if value == "" else value
        return form.format(value) if isinstance(value, str) or _finite(value) is not None else ""

    rows = []
    for name, columns in _FACTS.items():
        said = ", ".join(filter(None, (told(column, form) for column, form in columns.items())))
        rows += [(name, said or UNKNOWN)] if said or name != "sequence" else []
    lost = [(kind, _finite(row.get(f"lost_{kind}"))) for kind in ERROR_KINDS]
    known = [(c, _finite(ious.get(name))) for c, name in enumerate(classes.names)] if ious is not None else []
    return {
        "cause": told("cause") or "cause unknown",
        "sureness": told("cause_strength", "strength of the evidence {:.2f}"),
        "evidence": told("evidence"),
        "suggestion": told("suggestion"),
        "lost": [] if any(points is None for _, points in lost) else lost,
        "rows": rows,
        "ious": sorted(((c, iou) for c, iou in known if iou is not None), key=lambda pair: pair[1]),
        "nearest": _nearest(row.get("nearest")),
    }


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _nearest(text: Any) -> list[str] | None:
    try:
        ids = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return [i for i in ids if isinstance(i, str)][:NEAREST] if isinstance(ids, list) else None
