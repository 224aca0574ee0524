"""What the failure browser chooses and says: failures read back, filtered, sorted and described as plain data. Needs no kernel."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglib.browser.layers import read_picture
from seglib.data import ClassMap
from seglib.failures import VerdictBook
from seglib.runs import display_path, read_table

LOW_IOU = 0.5  # a class below it counts as low
RULES = {"is the worst class": "worst", f"has IoU below {LOW_IOU:g}": "low"}
NO_VERDICT = "none yet"
UNKNOWN = "unknown"
LOSSES = ("boundary", "false_negative", "false_positive", "misclassified", "noise")
NEAREST = 5  # nearest training images shown
# A column to sort by; "-": the largest first.
SORTS = {
    "IoU, worst first": "miou",
    "IoU, best first": "-miou",
    "id": "id",
    "cause": "cause",
    "worst class": "worst_class",
    "most suspicious label": "-label_score",
    "largest gain by one swap": "-best_fix_gain",
    "most confident": "-confidence",
    "least like training": "-novelty",
}
_WORDS = ("id", "severity", "worst_class", "top_confusion", "group")
_NUMBERS = ("miou", "worst_class_iou", "top_confusion_share")
# Known only to folders that were written with the model's probabilities and its training images at hand.
_NEW_WORDS = (
    *("best_fix", "suspect_kind", "suspect_given", "suspect_suggested", "suspect_box"),
    *("degradation", "nearest", "cause", "evidence", "suggestion"),
)
_NEW_NUMBERS = (
    *(f"lost_{name}" for name in LOSSES),
    *("best_fix_gain", "confidence", "label_score", "degradation_z", "novelty", "cause_confidence"),
)
_SEARCHED = ("id", "group", "worst_class", "top_confusion", "best_fix", "cause", "evidence", "suspect_kind")


@dataclass(frozen=True)
class Choice:
    """Which failures to show, and in what order. "" lets everything through.

    Args:
        cause, group: the failure's cause; its sequence.
        class_name: the class that `rule` speaks of.
        rule: "worst" (it is the image's worst class) or "low" (its IoU in the image is below `LOW_IOU`).
        confusion: "pole -> building", the image's top confusion or best swap.
        low, high: the mean IoU of the image lies between them, both included; an image without a score always passes.
        verdict: "none yet", or one of `VERDICTS`.
        text: words that all occur in its id, sequence, classes, confusions, cause, evidence or note, in any case.
        sort: a column, "-" before it for the largest first; ties by mean IoU, unknown values last.
    """

    cause: str = ""
    class_name: str = ""
    rule: str = "worst"
    confusion: str = ""
    low: float = 0.0
    high: float = 1.0
    group: str = ""
    verdict: str = ""
    text: str = ""
    sort: str = "miou"


def choose(
    failures: pd.DataFrame, choice: Choice, book: VerdictBook, class_ious: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The failures that `choice` lets through, in its order.

    Args:
        failures: as `read_failures` gives them; what a missing column would say is known of no failure.
        class_ious: per_image_class_iou.csv indexed by id; without it, the rule "low" lets nothing through.
    """
    keep = failures["miou"].between(choice.low - 1e-9, choice.high + 1e-9) | failures["miou"].isna()
    if choice.cause:
        keep &= _words(failures, "cause") == choice.cause
    if choice.group:
        keep &= failures["group"] == choice.group
    if choice.confusion:
        keep &= (failures["top_confusion"] == choice.confusion) | (
            _words(failures, "best_fix") == choice.confusion
        )
    if choice.verdict:
        keep &= failures["id"].map(lambda i: book.get(i).verdict or NO_VERDICT) == choice.verdict
    if choice.class_name and choice.rule == "worst":
        keep &= failures["worst_class"] == choice.class_name
    elif choice.class_name:
        known = class_ious is not None and choice.class_name in class_ious
        low = class_ious.index[class_ious[choice.class_name] < LOW_IOU] if known else []
        keep &= failures["id"].isin(low)
    if choice.text.strip():
        keep &= _found(failures, choice.text, book)
    column, down = choice.sort.removeprefix("-"), choice.sort.startswith("-")
    order = {column: not down} if column in failures else {}
    order.setdefault("miou", True)
    return failures[keep].sort_values(list(order), ascending=list(order.values()), kind="stable")


def _found(failures: pd.DataFrame, text: str, book: VerdictBook) -> pd.Series:
    noted = {sample: given.note for sample, given in book.rows.items() if given.note}
    haystack = failures["id"].map(lambda i: noted.get(i, "")).astype(str)
    for name in _SEARCHED:
        haystack = haystack + "\n" + _words(failures, name)
    haystack = haystack.str.casefold()
    found = pd.Series(True, index=failures.index)
    for word in text.casefold().split():
        found &= haystack.str.contains(word, regex=False)
    return found


def _words(failures: pd.DataFrame, name: str) -> pd.Series:
    return failures[name] if name in failures else pd.Series("", index=failures.index)


def offered(failures: pd.DataFrame, *names: str, most: int = 100) -> list[tuple[str, str]]:
    """Values to filter by, the most frequent first: ("label error (12)", "label error"). More than `most` are left to free text.

    Args:
        names: the columns whose values are counted together; those missing and empty values are left out.
    """
    values = pd.concat([_words(failures, name) for name in names])
    counts = values[values != ""].value_counts()
    return [(f"{value} ({count})", value) for value, count in counts.head(most).items()]


def read_failures(folder: Path) -> pd.DataFrame:
    """failures.csv of a failures folder, ids and names as text, figures as float64.

    Columns that only newer folders have are missing where the file lacks them; what cannot be read as a number is NaN;
    columns that the browser does not know stay text.

    Raises:
        FileNotFoundError: there is none; says which notebook writes it.
        ValueError: it has no column id or miou.
    """
    path = Path(folder) / "failures.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"no {display_path(path)}: 04_failure_analysis writes it. Run that notebook first, or name another run or split."
        )
    numbers = [*_NUMBERS, *_NEW_NUMBERS]
    table = read_table(path)  # everything as text first
    if missing := {"id", "miou"} - set(table.columns):
        raise ValueError(
            f"{display_path(path)} has no column {' and no column '.join(sorted(missing))}: 04_failure_analysis writes both. "
            "Run that notebook again, or keep the columns when editing the file."
        )
    for name in _WORDS:
        if name not in table:
            table[name] = ""
    for name in _NUMBERS:
        if name not in table:
            table[name] = np.nan
    for name in numbers:
        if name in table:
            table[name] = pd.to_numeric(table[name], errors="coerce").astype("float64")
    return table


def read_layers(folder: Path, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8, truth and prediction (H, W) uint8 class ids of one failure.

    Raises:
        OSError, ValueError: a picture is missing or cannot be read; the message names it.
    """
    image = read_picture(folder, "images", sample, "RGB")
    return image, read_picture(folder, "masks", sample), read_picture(folder, "predictions", sample)


def line(row: pd.Series, verdict: str) -> dict[str, str]:
    """A failure as an entry of the list: id, score, words (cause, and the costliest confusion or worst class) and verdict."""
    words = [row.get("cause", ""), row["top_confusion"] or row["worst_class"]]
    score = "–" if pd.isna(row["miou"]) else f"{row['miou']:.3f}"
    return {"id": row["id"], "score": score, "words": " · ".join(filter(None, words)), "verdict": verdict}


def describe(row: pd.Series, ious: pd.Series | None, classes: ClassMap) -> dict[str, Any]:
    """What is known about one failure, as plain text and figures; `UNKNOWN` where the folder does not say.

    Args:
        row: of `read_failures`. ious: its IoU by class name.

    Returns:
        cause, sureness, evidence and suggestion (text); lost: (kind, IoU points) pairs, empty if unknown; rows: (name, value)
        pairs of text; ious: (class id, IoU) pairs of the classes that count in the image, the lowest first.
    """
    sure = _figure(row, "cause_confidence")
    lost = [(name, _figure(row, f"lost_{name}")) for name in LOSSES]
    score, severity = number(row["miou"]), row["severity"]
    rows = [("mean IoU", f"{score} ({severity})" if severity else score)]
    if row["worst_class"]:
        rows.append(("worst class", f"{row['worst_class']} {number(row['worst_class_iou'])}"))
    if row["top_confusion"]:
        share = _figure(row, "top_confusion_share")
        rows.append(
            (
                "top confusion",
                row["top_confusion"] + ("" if share is None else f", {share:.1%} of the pixels"),
            )
        )
    rows += [
        ("best swap", _best_swap(row)),
        ("label", _label(row)),
        ("confidence", _known(_figure(row, "confidence"), "{:.2f}, mean over the image")),
        ("degradation", _degradation(row)),
        ("novelty", _known(_figure(row, "novelty"), "{:.2f} (1: like no training image)")),
    ]
    if row["group"]:
        rows.append(("sequence", row["group"]))
    scored = [] if ious is None else [(c, ious.get(name)) for c, name in enumerate(classes.names)]
    return {
        "cause": row.get("cause", "") or "cause unknown",
        "sureness": "" if not sure or not row.get("cause", "") else f"confidence {sure:.2f}",
        "evidence": row.get("evidence", ""),
        "suggestion": row.get("suggestion", ""),
        "lost": [] if any(points is None for _, points in lost) else lost,
        "rows": rows,
        "ious": sorted(
            ((c, float(v)) for c, v in scored if v is not None and not pd.isna(v)), key=lambda pair: pair[1]
        ),
    }


def nearest_ids(row: pd.Series) -> list[str] | None:
    """The ids of the nearest training images, nearest first, at most `NEAREST`; None where the folder does not say."""
    try:
        ids = json.loads(row.get("nearest", ""))
    except (ValueError, TypeError, RecursionError):
        return None
    return [i for i in ids if isinstance(i, str)][:NEAREST] if isinstance(ids, list) else None


def suspect_box(row: pd.Series) -> tuple[int, ...] | None:
    """x0, y0, x1, y1 of the suspect region in pixels, the ends exclusive; None where there is none or it says nothing."""
    parts = str(row.get("suspect_box", "")).split()
    if len(parts) != 4 or not all(part.isdecimal() and len(part) < 10 for part in parts):
        return None
    x0, y0, x1, y1 = map(int, parts)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def number(value: Any) -> str:
    """A score to three decimals, or "no score"."""
    return "no score" if pd.isna(value) else f"{value:.3f}"


def _figure(row: pd.Series, name: str) -> float | None:
    value = row.get(name, math.nan)
    return float(value) if math.isfinite(value) else None


def _known(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


def _best_swap(row: pd.Series) -> str:
    if "best_fix" not in row:
        return UNKNOWN
    gain = _figure(row, "best_fix_gain")
    return (
        (row["best_fix"] + ("" if gain is None else f": {gain:+.3f} mean IoU")) if row["best_fix"] else "none"
    )


def _label(row: pd.Series) -> str:
    score = _figure(row, "label_score")
    if score is None:
        return UNKNOWN
    given, suggested = row.get("suspect_given", ""), row.get("suspect_suggested", "")
    pair = f"{given} given, {suggested} suggested" if given and suggested else given or suggested
    return ", ".join(filter(None, [f"suspicion {score:.2f}", row.get("suspect_kind", ""), pair]))


def _degradation(row: pd.Series) -> str:
    if "degradation" not in row:
        return UNKNOWN
    z = _figure(row, "degradation_z")
    strength = "" if z is None else f", {z:.1f} robust sd from training"
    return row["degradation"] + strength if row["degradation"] else "none found"
