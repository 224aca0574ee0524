"""The failure report: one HTML file with everything in it, for the colleague who has no Jupyter.

It opens from the disk and asks the network for nothing. Names, notes and sequences are text from outside: the template
escapes them, the data of the script cannot close its block, and the script writes text alone. A content security policy
allows this file's own style and script, and embedded pictures.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from seglib.browser.report_data import Item, Layers, number, read_cells, read_items, read_layers, read_nearest
from seglib.data import IGNORE, ClassMap
from seglib.failures import label_errors
from seglib.runs import write_text

LIMIT = 20_000_000  # bytes
SIDE = 480  # pixels of a picture's longer side
SUSPICIOUS = label_errors.SURE  # label_score from which a label is listed although the image did not fail
_ROWS = 10  # of a table in the summary
_HEADS = {
    "share": "of the true class",
    "lost": "points lost",
    "gain": "gain, mean IoU",
    "gain_image": "gain, mIoU",
}
_TEXT = 0.5  # share of the file that rows without pictures may take
_DOTS = {
    "label error": "dot-label",
    "degraded image": "dot-degraded",
    "unlike training": "dot-unlike",
    "rare class": "dot-rare",
    "small objects": "dot-small",
    "class confusion": "dot-confusion",
}


def write_report(
    folder: str | Path,
    classes: ClassMap,
    title: str = "Failures",
    below: str = "",
    images: int | None = None,
    facts: Mapping[str, object] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    limit: int = LIMIT,
    side: int = SIDE,
) -> Path:
    """Write `report.html` into a failures folder.

    The worst failures come with pictures, as many as fit into `limit`; the others are rows without, and the page says so.
    200 failures of 360x480 take 14 MB and half a minute.

    Args:
        folder: failures/<split> as 04 writes it: failures.csv, images/, masks/, predictions/, and where they are there
            suspects.csv, suspects/, nearest/, verdicts.csv. What is missing is shown as unknown.
        classes: of the dataset.
        title: for example the run and the split.
        below: what an image fails by, such as "below a mean IoU of 0.5" (see `thresholds.described`), for the summary.
        images: how many were evaluated; the rows of suspects.csv if None.
        facts: shown below the headline, name -> value: the run, the dataset, the date.
        tables: more of the summary, title -> table: slices, the costliest confusions. The first 10 rows are shown.
        limit: bytes that the file may take.
        side: pixels of a picture's longer side at most.

    Returns:
        the file.

    Raises:
        FileNotFoundError, ValueError: there is no failures.csv, or it is another table.
    """
    folder = Path(folder)
    items, suspects = read_items(folder), read_cells(folder / "suspects.csv")
    total = images if images is not None else max(len(suspects), len(items)) if len(suspects) else None
    style, script = _part("report.css"), _part("report.js")
    page = _environment().from_string(_part("report_template.html"))
    fixed = {
        "title": title,
        "headline": _headline(len(items), total, below),
        "facts": [(name, value) for name, value in (facts or {}).items()],
        "failed": len(items),
        "causes": _counts(items, "cause"),
        "severities": _counts(items, "severity"),
        "verdicts": _counts([item for item in items if item["verdict"]], "verdict"),
        "tables": [
            *_suspect_tables(suspects, items),
            *(_Table.of(name, table) for name, table in (tables or {}).items()),
        ],
        "class_name": lambda c: (
            classes.names[c] if c < len(classes) else "not scored" if c == IGNORE else f"unknown id {c}"
        ),
        "class_color": lambda c: "#{:02x}{:02x}{:02x}".format(*classes.palette()[c]),
        "dot": lambda cause: _DOTS.get(cause, ""),
        "bars": _bars,
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
    }
    thumbs: dict[str, str] = {}

    def render(pictured: list[tuple[Item, Layers | None, str]], items: list[Item]) -> bytes:
        names = list(dict.fromkeys(n for item, *_ in pictured for n in item.nearest if n in thumbs))
        data = _block(
            {"items": [_filters(item) for item in items], "thumbs": [thumbs[name] for name in names]}
        )
        places, rest = {name: place for place, name in enumerate(names)}, items[len(pictured) :]
        return page.render(
            fixed, items=items, pictured=pictured, rest=rest, thumbs=places, data=data
        ).encode()

    text = bare = render([], items)
    rows = len(bare) - len(render([], []))
    if rows > limit * _TEXT:  # the worst alone: those of all would leave no room for pictures
        items = items[: max(1, int(len(items) * limit * _TEXT / rows))]
        text = bare = render([], items)
    pictured, thumbs = _pictures(folder, items, classes, side, limit - len(bare))
    while pictured and len(text := render(pictured, items)) > limit:
        # What an article takes beside its pictures is known when it is there.
        words = (len(text) - len(bare) - sum(_bytes(layers) for _, layers, _ in pictured)) / len(pictured)
        over = len(text) - limit
        while pictured and over > 0:
            over -= _bytes(pictured.pop()[1]) + words
    return write_text(folder / "report.html", (text if pictured else bare).decode())


def _bytes(layers: Layers | None) -> int:
    return layers.bytes if layers else 0


@dataclass(frozen=True)
class _Table:
    """A table of the summary as text: rows of (cell, whether it is a number), and what was left out, or that there is nothing."""

    title: str
    columns: list[str]
    rows: list[list[tuple[str, bool]]]
    more: str

    @classmethod
    def of(cls, title: str, table: pd.DataFrame, more: str = "") -> _Table:
        rows = [[_cell(v) for v in row] for row in table.head(_ROWS).itertuples(index=False)]
        if len(table) > _ROWS:
            more = f"{more} The first {_ROWS} of {len(table)}.".strip()
        heads = [_HEADS.get(name, str(name).replace("_", " ")) for name in table.columns]
        return cls(title, heads, rows, more or ("" if rows else "None."))


def _cell(value: object) -> tuple[str, bool]:
    if isinstance(value, (bool, np.bool_)):
        return ("yes" if value else "no"), False
    if isinstance(value, (float, np.floating)):
        digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 0
        return ("–" if not np.isfinite(value) else f"{value:,.{digits}f}"), True
    if isinstance(value, (int, np.integer)):
        return f"{value:,}", True
    return ("" if value is None or value is pd.NA else str(value)), False


def _pictures(
    folder: Path, items: list[Item], classes: ClassMap, side: int, room: int
) -> tuple[list[tuple[Item, Layers | None, str]], dict[str, str]]:
    """(failure, its pictures or None, why there are none) while they fit; thumbnails of their nearest training images by id."""
    pictured, thumbs = [], {}
    for item in items:
        layers, problem = None, ""
        try:
            layers = read_layers(folder, item, classes, side)
        except (OSError, ValueError) as error:
            problem = f"{error} Run 04_failure_analysis again: it rebuilds this folder."
        new = {
            name: thumb
            for name in item.nearest
            if name not in thumbs and (thumb := read_nearest(folder, name))
        }
        room -= _bytes(layers) + sum(map(len, new.values()))
        if room < 0:
            break
        pictured.append((item, layers, problem))
        thumbs |= new
    return pictured, thumbs


def _headline(failed: int, total: int | None, below: str) -> str:
    of = f"{failed:,} of {total:,} images fail ({failed / total:.0%})" if total else f"{failed:,} images fail"
    if failed == 0:
        of = f"None of {total:,} images fails" if total else "No image fails"
    return f"{of}: {below}." if below else f"{of}."


def _counts(items: list[Item], name: str) -> list[tuple[str, int]]:
    """Values by how often they occur, the most frequent first."""
    counts = pd.Series([item[name] or "unknown" for item in items], dtype=object).value_counts(sort=False)
    return sorted(counts.items(), key=lambda pair: -pair[1])


def _suspect_tables(suspects: pd.DataFrame, items: list[Item]) -> list[_Table]:
    """Labels that are suspicious although their images did not fail: scores over them cannot be trusted either."""
    if not {"id", "label_score"} <= set(suspects):
        return []
    failed = {item["id"] for item in items}
    scores = suspects["label_score"].map(number).astype(float)
    chosen = suspects[(scores >= SUSPICIOUS) & ~suspects["id"].isin(failed)]
    chosen = chosen.assign(label_score=scores).sort_values("label_score", ascending=False, kind="stable")
    if chosen.empty:
        return []
    names = {
        "id": "id",
        "label_score": "suspicion",
        "suspect_kind": "kind",
        "suspect_given": "given",
        "suspect_suggested": "suggested",
    }
    shown = chosen[[n for n in names if n in chosen]].rename(columns=names)
    return [
        _Table.of(
            "Suspected labels of images that did not fail",
            shown,
            f"{len(shown)} with a suspicion of {SUSPICIOUS} or more.",
        )
    ]


def _bars(item: Item) -> list[tuple[str, float, float]]:
    """Kind of loss, width and left edge in hundredths of an IoU of 1."""
    bars, left = [], 0.0
    for name, value in item.losses:
        bars.append((name, round(100 * value, 2), round(left, 2)))
        left += 100 * value
    return bars


def _filters(item: Item) -> dict:
    """What the script filters and sorts by."""
    return {
        "rank": item.rank,
        "id": item["id"],
        "miou": item.number["miou"],
        "cause": item["cause"],
        "class": item["worst_class"],
        "pair": item["top_confusion"],
        "severity": item["severity"],
        "group": item["group"],
        "verdict": item["verdict"],
        "label": item.number["label_score"],
        "gain": item.number["best_fix_gain"],
        "confidence": item.number["confidence"],
    }


def _block(data: object) -> str:
    """JSON that no text in it can turn into markup: "<", ">" and "&" are written as escapes, so "</script" and "<!--" never occur."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a content security policy: this very text and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
