"""What the failure browser shows: failures read back, filtered and sorted, and described in HTML. Needs no kernel.

File and class names are text from outside: all of it is escaped before it enters a page.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from seglib.classes import IGNORE, ClassMap
from seglib.pictures import VIEWS, data_uri, error_map, overlay, present
from seglib.runs import shown
from seglib.verdicts import VerdictBook

LOW_IOU = 0.5  # a class below it counts as low
GALLERY = 12  # failures in the static gallery of a saved notebook
SORTS = {"IoU, worst first": "worst", "IoU, best first": "best", "id": "id", "worst class": "class"}
RULES = {"is the worst class": "worst", f"has IoU below {LOW_IOU:g}": "low"}
NO_VERDICT = "none yet"

# In a live notebook the saved gallery would repeat the browser; without a kernel JupyterLab shows an error in the browser's place.
_SAVED_CSS = """
.jp-OutputArea:has(.seg-browser) .seg-saved {display: none;}
.jp-OutputArea-child:has(+ .jp-OutputArea-child .seg-saved):not(:has(.seg-browser)) {display: none;}
"""


@dataclass(frozen=True)
class Choice:
    """Which failures to show, and in what order.

    Args:
        class_name: "" for any class; otherwise the class that `rule` speaks of.
        rule: "worst" (it is the image's worst class) or "low" (its IoU in the image is below `LOW_IOU`).
        low, high: the mean IoU of the image lies between them, both included; an image without a score always passes.
        severity: "" for any.
        verdict: "" for any, "none yet", or one of `VERDICTS`.
        sort: "worst", "best", "id" or "class" (the worst class's name, worst image first).
    """

    class_name: str = ""
    rule: str = "worst"
    low: float = 0.0
    high: float = 1.0
    severity: str = ""
    verdict: str = ""
    sort: str = "worst"


def choose(
    failures: pd.DataFrame, choice: Choice, book: VerdictBook, class_ious: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The failures that `choice` lets through, in its order.

    Args:
        failures: failures.csv.
        class_ious: per_image_class_iou.csv indexed by id; without it, the rule "low" lets nothing through.
    """
    keep = failures["miou"].between(choice.low - 1e-9, choice.high + 1e-9) | failures["miou"].isna()
    if choice.severity:
        keep &= failures["severity"] == choice.severity
    if choice.verdict:
        given = failures["id"].map(lambda i: book.get(i).verdict or NO_VERDICT)
        keep &= given == choice.verdict
    if choice.class_name and choice.rule == "worst":
        keep &= failures["worst_class"] == choice.class_name
    elif choice.class_name:
        known = class_ious is not None and choice.class_name in class_ious
        low = class_ious.index[class_ious[choice.class_name] < LOW_IOU] if known else []
        keep &= failures["id"].isin(low)
    columns = {"worst": ["miou"], "best": ["miou"], "id": ["id"], "class": ["worst_class", "miou"]}[choice.sort]
    return failures[keep].sort_values(columns, ascending=choice.sort != "best", kind="stable")


def read_failures(folder: Path) -> pd.DataFrame:
    """failures.csv of a failures folder, ids and names as text.

    Raises:
        FileNotFoundError: there is none; says which notebook writes it.
    """
    path = Path(folder) / "failures.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"no {shown(path)}: 04_failure_analysis writes it. Run that notebook first, or name another run or split."
        )
    words = ["id", "severity", "worst_class", "top_confusion", "group"]
    numbers = ["miou", "worst_class_iou", "top_confusion_share"]
    # Only numbers may be missing: an image may well be called "NA" or "0042".
    return pd.read_csv(
        path, dtype=dict.fromkeys(words, str), keep_default_na=False, na_values={name: ["", "nan"] for name in numbers}
    )


def read_layers(folder: Path, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8, truth and prediction (H, W) uint8 class ids of one failure.

    Raises:
        OSError, ValueError: a picture is missing or cannot be read; the message names it.
    """
    layers = []
    for kind, mode in (("images", "RGB"), ("masks", ""), ("predictions", "")):
        path = Path(folder) / kind / f"{sample}.png"
        if path.parent != Path(folder) / kind or not path.is_file():
            raise FileNotFoundError(
                f"{kind}/{sample}.png is missing. Run 04_failure_analysis again: it rebuilds this folder."
            )
        try:
            with Image.open(path) as picture:
                layers.append(np.asarray(picture.convert(mode) if mode else picture))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise OSError(
                f"{kind}/{sample}.png cannot be read ({error}). Run 04_failure_analysis again: it rebuilds this folder."
            ) from error
    image, truth, pred = layers
    for kind, mask in (("masks", truth), ("predictions", pred)):
        if mask.ndim != 2:
            raise ValueError(f"{kind}/{sample}.png holds colours, not class ids.")
    return image, truth.astype(np.uint8), pred.astype(np.uint8)


def legend_html(ids: list[int], classes: ClassMap) -> str:
    """A colour swatch and the name of every class id; 255 is "not scored"."""
    entries = []
    for c in ids:
        name = classes.names[c] if c < len(classes) else "not scored" if c == IGNORE else f"unknown id {c}"
        entries.append(
            f'<span class="seg-key"><i style="background:{_color(classes, c)}"></i>{html.escape(name)}</span>'
        )
    return f'<div class="seg-legend">{"".join(entries)}</div>'


def facts_html(row: pd.Series, ious: pd.Series | None, classes: ClassMap) -> str:
    """What is known about one failure: scores, the costliest confusion, and the IoU of every class that counts in it, worst first."""
    lines = [("mean IoU", f"<b>{_number(row['miou'])}</b> ({html.escape(row['severity'])})")]
    if row["worst_class"]:
        lines.append(("worst class", f"{html.escape(row['worst_class'])} {_number(row['worst_class_iou'])}"))
    if row["top_confusion"]:
        lines.append(("top confusion", f"{html.escape(row['top_confusion'])}, {100 * row['top_confusion_share']:.1f}%"))
    if row["group"]:
        lines.append(("group", html.escape(row["group"])))
    facts = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in lines)
    bars = ""
    if ious is not None:
        scored = ious.reindex(list(classes.names)).dropna().sort_values(kind="stable")
        for name, value in scored.items():
            color = _color(classes, classes.names.index(name))
            bars += (
                f'<tr><th>{html.escape(name)}</th><td><div class="seg-bar"><i style="width:{100 * value:.0f}%;background:{color}"></i></div></td>'
                f"<td>{value:.2f}</td></tr>"
            )
        bars = f'<table class="seg-ious"><caption>IoU of the classes here</caption>{bars}</table>' if bars else ""
    return f'<h4 title="{html.escape(row["id"])}">{html.escape(row["id"])}</h4><table class="seg-facts">{facts}</table>{bars}'


def gallery_html(folder: Path, failures: pd.DataFrame, classes: ClassMap, book: VerdictBook) -> str:
    """The worst failures as a page that needs no kernel: image, truth, prediction and errors as embedded thumbnails."""
    worst = failures.sort_values("miou", kind="stable").head(GALLERY)
    rows, ids = [], set()
    for _, row in worst.iterrows():
        try:
            image, truth, pred = read_layers(folder, row["id"])
            layers = (
                image,
                overlay(image, truth, classes, 0.6),
                overlay(image, pred, classes, 0.6),
                error_map(image, truth, pred),
            )
            ids |= set(present(truth, pred))
        except (OSError, ValueError) as error:
            rows.append(f'<tr><td colspan="5">{html.escape(str(error))}</td></tr>')
            continue
        verdict = book.get(row["id"]).verdict
        words = (
            f"<b>{html.escape(row['id'])}</b><br>mean IoU {_number(row['miou'])}<br>{html.escape(row['top_confusion'])}"
        )
        words += f"<br><i>{html.escape(verdict)}</i>" if verdict else ""
        cells = "".join(
            f'<td><img alt="{name}" width="180" src="{data_uri(p, 180)}"></td>'
            for name, p in zip(VIEWS[1:], layers, strict=True)
        )
        rows.append(f'<tr><td style="text-align:left;vertical-align:top;white-space:nowrap">{words}</td>{cells}</tr>')
    swatches = " ".join(
        f'<span style="white-space:nowrap"><span style="color:{_color(classes, c)}">&#9632;</span> '
        f"{html.escape(classes.names[c] if c < len(classes) else 'not scored')}</span>"
        for c in sorted(ids)
    )
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in ("", *VIEWS[1:]))
    title = (
        f"The {len(worst)} worst of {len(failures)} failures, as they were saved. Run this cell to browse all of them."
    )
    table = f'<table class="seg-gallery"><tr>{head}</tr>{"".join(rows)}</table>'
    return f'<style>{_SAVED_CSS}</style><div class="seg-saved"><p>{title}</p>{table}<p>{swatches}</p></div>'


def _color(classes: ClassMap, c: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*classes.palette()[c])


def _number(value: Any) -> str:
    return "no score" if pd.isna(value) else f"{value:.3f}"
