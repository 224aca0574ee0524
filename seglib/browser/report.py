"""The static forms of the browser: `report.html` for colleagues, and the picture in a saved notebook.

`report.html` is the front end with its data embedded, read-only. Names and notes come from outside: the templates
escape them, the embedded data cannot close its block, the script writes text alone, and a content security policy
allows nothing but the file's own style, script and pictures.
"""

import base64
import hashlib
import textwrap
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from matplotlib.figure import Figure

from seglib import evaluate, plots
from seglib import failures as found
from seglib.browser.details import NO_VERDICT, Details, describe, listing, thumbnail
from seglib.data import error_map, fitting, overlay
from seglib.failures import VerdictBook
from seglib.runs import display_path, write_text

LIMIT = 20_000_000  # bytes of a report
PIXELS = 640 * 480  # of a picture in it, at most
GALLERY, PICTURED = 12, 6  # failures in the report when it is printed, and in the picture
ROWS = 5_000  # in it at most: more would leave no room for pictures
_TABLE_ROWS = 10  # of a table in the summary
_HEADS = {"share": "of true class", "gain": "gain, mean IoU", "gain_image": "gain, mean IoU of an image"}
_HEADS |= {"truth": "ground truth", "miou": "mean IoU"}
_LAYERS = ("image", "ground truth", "prediction", "errors")
_SUSPECTS = ["id", "label_score", "suspect_kind", "suspect_given", "suspect_suggested"]
_HERE = Path(__file__).parent
_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
_FRONT = ("picture", "list", "filters", "charts", "map", "source", "panel", "browser")
# Writes JSON that no text in it can turn into markup: "</script" and "<!--" never occur.
_block = partial(htmlsafe_json_dumps, allow_nan=False, separators=(",", ":"))
# One module: neither a widget nor a page on the disk can import the files beside it.
SCRIPT = "\n".join((_HERE / f"{name}.js").read_text(encoding="utf-8") for name in _FRONT)
STYLE = (_HERE / "browser.css").read_text(encoding="utf-8")


def write_report(details: Details) -> Path:
    """Write `report.html` into failures/<split> of a run, and return its path.

    The worst failures come with pictures, as many as fit into 20 MB; the others are listed without.
    """
    book, about = VerdictBook(details.folder / "verdicts.csv"), details.about()
    script, style = SCRIPT + "\nopenReport();\n", STYLE + (_HERE / "report.css").read_text(encoding="utf-8")
    table, failed = details.table, len(details.analysis.failures)
    table = table if details.browse == "all" else table.head(failed)
    shown = table.head(ROWS)
    data, ious = listing(details, book, len(shown)) | {"pictures": {}, "nearest": {}}, details.class_ious
    data["facts"] = {sample: describe(row, ious.loc[sample]) for sample, row in shown.iterrows()}
    page = _worst(details, book, data) | {
        "title": f"{about['run']}, {details.evaluation.split}", "about": about,
        "headline": f"{failed:,} of {len(details.analysis.images):,} images fail: {about['a failure is']}.", "tables": _summary(details, book),
        "script": (script, _hash(script)), "style": (style, _hash(style)), "total": len(table), "listed": len(shown),
    }  # fmt: skip
    template = _PAGES.get_template("report_template.html")
    room = LIMIT - len(template.render(page, data=_block(data)).encode())
    for sample in shown.index:
        picture = details.pack(sample, False, PIXELS, compact=True)
        picture["layers"] = {name: _base64(layer) for name, layer in picture["layers"].items()}
        new = set(data["facts"][sample]["nearest"]) - set(data["nearest"])
        nearest = {name: _base64(details.thumbnail(name, True)) for name in sorted(new)}
        room -= len(_block([{sample: picture}, nearest]))
        if room < 0:
            break
        data["pictures"][sample] = picture
        data["nearest"] |= nearest
    return write_text(details.folder / "report.html", template.render(page, data=_block(data)))


def write_findings(details: Details) -> str:
    """Write actions.yaml and report.html into the failures folder, and return what to do as text."""
    path, text = found.write_actions(details.analysis)
    # no page breaks words
    lines = [textwrap.fill(line, 100, subsequent_indent="    ") for line in text.splitlines()]
    return "\n".join(lines) + f"\n\nWritten: {display_path(path)}, {display_path(write_report(details))}"


def worst_failures(details: Details) -> Figure:
    """Draw image, ground truth, prediction and errors of the worst failures, for a notebook without a kernel."""
    cells, titles, failures = [], [], details.analysis.failures.head(PICTURED)
    for row in failures.itertuples():
        cells += _layers(details, row.id)
        titles += [f"{row.id}: {row.miou:.2f}, {row.cause}", *_LAYERS[1:]]
    return plots.image_grid([fitting(cell, most=480)[0] for cell in cells], titles)


def _layers(details: Details, sample: str) -> list[np.ndarray]:
    """Draw the `_LAYERS` of an image, (H, W, 3) uint8 each."""
    image, truth, pred = evaluate.read_layers(details.evaluation, sample)
    masks = [overlay(image, mask, details.classes, 0.6) for mask in (truth, pred)]
    return [image, *masks, error_map(image, truth, pred)]


def _worst(details: Details, book: VerdictBook, data: dict) -> dict[str, Any]:
    """Collect what gallery.html shows of the `data` that is embedded."""
    entries, count = [], len(details.analysis.failures)
    for sample in details.table.index[: min(count, GALLERY, len(data["rows"]))]:
        pictures, problem = {}, ""
        try:
            shown = zip(_LAYERS, _layers(details, sample), strict=True)
            pictures = {n: f"data:image/jpeg;base64,{_base64(thumbnail(p, 180))}" for n, p in shown}
        except (OSError, ValueError) as error:
            problem = str(error)
        told = {"id": sample, "facts": data["facts"][sample], "given": book.get(sample)}
        entries.append(told | {"pictures": pictures, "problem": problem})
    legend = [*zip(data["colors"], data["names"], strict=True), ("#000000", "ignored")]
    return {"layers": _LAYERS, "entries": entries, "legend": legend, "of": count}


def _summary(details: Details, book: VerdictBook) -> list[dict]:
    """Tabulate what is counted, suspicious labels of images that did not fail, sequences and confusions."""
    failures, suspects = details.analysis.failures, found.named(details.analysis.suspects)
    counted = failures.assign(verdict=[book.get(i).verdict or NO_VERDICT for i in failures["id"]])
    tables = {}
    for name in ("cause", "severity", "verdict"):
        tables[f"By {name}"] = counted[name].value_counts().reset_index(name="images")
    tables["Suspected labels of images that did not fail"] = suspects.loc[~suspects["failed"], _SUSPECTS]
    tables["By sequence"] = found.sequence_means(details.analysis)
    tables["Costliest confusions"] = found.error_costs(details.evaluation)
    return [_table(title, table) for title, table in tables.items()]


def _table(title: str, table: pd.DataFrame) -> dict[str, Any]:
    """Write a table of the summary as text: rows of (cell, whether it is a number)."""
    rows = [[_cell(value) for value in row] for row in table.head(_TABLE_ROWS).itertuples(index=False)]
    heads = [_HEADS.get(name, name.replace("_", " ")) for name in table.columns]
    more = f"The first {_TABLE_ROWS} of {len(table)}." if len(table) > _TABLE_ROWS else ""
    return {"title": title, "columns": heads, "rows": rows, "more": more if rows else "None."}


def _cell(value: object) -> tuple[str, bool]:
    if not isinstance(value, Real):
        return str(value) or "none", False
    return (f"{value:,d}" if isinstance(value, Integral) else f"{value:,.3f}".replace("nan", "–")), True


def _hash(text: str) -> str:
    """Name this very text, and no other, in a content security policy."""
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
