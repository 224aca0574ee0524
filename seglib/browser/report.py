"""The static forms of the browser: `report.html` for colleagues, and the gallery of a saved notebook.

`report.html` is the front end with its data embedded, read-only. Names and notes come from outside: the templates
escape them, the embedded data cannot close its block, the script writes text alone, and a content security policy
allows nothing but the file's own style, script and pictures.
"""

import base64
import hashlib
import json
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seglib import failures as found
from seglib.browser.details import Details
from seglib.browser.layers import read_layers, thumbnail
from seglib.browser.table import NO_VERDICT, UNKNOWN, describe, listing, pack_row, read_failures
from seglib.data import IGNORE, ClassMap, data_uri, error_map, overlay
from seglib.failures import VerdictBook, named
from seglib.runs import display_path, read_table, write_text

LIMIT = 20_000_000  # bytes of a report
PIXELS = 640 * 480  # of a picture in it, at most
GALLERY = 12  # failures in the static gallery
ROWS = 5_000  # in it at most: more would leave no room for pictures
_TABLE_ROWS = 10  # of a table in the summary
_HEADS = {"share": "of true class", "gain": "gain, mean IoU", "gain_image": "gain, mean IoU of an image"}
_LAYERS = ("image", "ground truth", "prediction", "errors")
_SUSPECTS = ["id", "label_score", "suspect_kind", "suspect_given", "suspect_suggested"]
_HERE = Path(__file__).parent
_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
_FRONT = ("picture", "list", "filters", "charts", "map", "source", "panel", "browser")
# One module: neither a widget nor a page on the disk can import the files beside it.
SCRIPT = "\n".join((_HERE / f"{name}.js").read_text(encoding="utf-8") for name in _FRONT)
STYLE = (_HERE / "browser.css").read_text(encoding="utf-8")


def write_report(folder: str | Path, classes: ClassMap, details: Details | None = None) -> Path:
    """Write `report.html` into failures/<split> of a run, and return its path.

    The worst failures come with pictures, as many as fit into 20 MB; the others are listed without.
    FileNotFoundError, ValueError: there is no failures.csv, or it has no ids or scores.
    """
    folder = Path(folder)
    failures, book = read_failures(folder), VerdictBook(folder / "verdicts.csv")
    script, style = SCRIPT + "\nopenReport();\n", STYLE + (_HERE / "report.css").read_text(encoding="utf-8")
    about = details.about() if details else {}
    page = _worst(folder, failures, classes, book) | {
        "title": f"{about['run']}, {details.analysis.evaluation.split}" if details else "Failures",
        "about": about,
        "headline": f"{len(failures):,} images fail" + (f": {about['a failure is']}." if details else "."),
        "tables": _summary(folder, failures, book, details),
        "script": (script, _hash(script)),
        "style": (style, _hash(style)),
    }
    shown = details.add_passing(failures) if details and details.browse == "all" else failures
    page |= {"total": len(shown), "listed": min(len(shown), ROWS)}
    shown = shown.head(ROWS)
    data = listing(shown, classes, book, details=details) | {"pictures": {}, "nearest": {}}
    data["facts"] = {row["id"]: describe(row, classes) for row in shown.to_dict("records")}
    template = _PAGES.get_template("report_template.html")
    room = LIMIT - len(template.render(page, data=_block(data)).encode())
    for row in shown.to_dict("records"):
        picture = pack_row(folder, row, details, PIXELS, compact=True)
        picture["layers"] = {name: _base64(layer) for name, layer in picture["layers"].items()}
        new = set(data["facts"][row["id"]]["nearest"] or []) - set(data["nearest"])
        nearest = {name: _base64(thumbnail(folder, "nearest", name)) for name in sorted(new)}
        room -= len(_block([{row["id"]: picture}, nearest]))
        if room < 0:
            break
        data["pictures"][row["id"]] = picture
        data["nearest"] |= nearest
    return write_text(folder / "report.html", template.render(page, data=_block(data)))


def write_findings(details: Details) -> str:
    """Write actions.yaml and report.html into the failures folder, and return what to do as text."""
    path, text = found.write_actions(details.analysis)
    report = write_report(details.analysis.folder, details.analysis.evaluation.classes, details)
    return f"{text}\nWritten: {display_path(path)}, {display_path(report)}"


def gallery(folder: Path, failures: pd.DataFrame, classes: ClassMap, book: VerdictBook) -> str:
    """Render the worst failures as static HTML with embedded thumbnails of their layers."""
    page = _PAGES.get_template("gallery.html")
    return page.render(_worst(folder, failures, classes, book), title="")


def _worst(folder: Path, failures: pd.DataFrame, classes: ClassMap, book: VerdictBook) -> dict[str, Any]:
    """Collect what gallery.html shows."""
    entries, ids = [], set()
    for row in failures.sort_values("miou", kind="stable").head(GALLERY).to_dict("records"):
        facts, given = describe(row, classes), book.get(row["id"])
        lines = [f"{name} {value}" for name, value in facts["rows"] if name in ("mean IoU", "top confusion")]
        lines += [facts["cause"], facts["evidence"], facts["suggestion"]]
        pictures, problem = {}, ""
        try:
            image, truth, pred = read_layers(folder, row["id"])
            ids |= set(np.unique([truth, pred]).tolist())
            masks = (overlay(image, mask, classes, 0.6) for mask in (truth, pred))
            shown = zip(_LAYERS, (image, *masks, error_map(image, truth, pred)), strict=True)
            pictures = {name: data_uri(picture, 180) for name, picture in shown}
        except (OSError, ValueError) as error:
            problem = str(error)
        told = {"id": row["id"], "lines": lines, "given": [given.verdict, given.note]}
        entries.append(told | {"pictures": pictures, "problem": problem})
    names = dict(enumerate(classes.names)) | {IGNORE: "ignored"}
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.palette()]
    legend = [(colors[c], names.get(c, f"unknown id {c}")) for c in sorted(ids)]
    return {"layers": _LAYERS, "entries": entries, "legend": legend, "of": len(failures)}


def _summary(folder: Path, failures: pd.DataFrame, book: VerdictBook, details: Details | None) -> list[dict]:
    """Tabulate what is counted, suspicious labels of images that did not fail, sequences and confusions."""
    counted = failures.assign(verdict=failures["id"].map(lambda i: book.get(i).verdict or NO_VERDICT))
    tables = {}
    for name in [name for name in ("cause", "severity", "verdict") if name in counted]:
        counts = counted[name].replace("", UNKNOWN).value_counts().rename_axis(name)
        tables[f"By {name}"] = counts.reset_index(name="images")
    if (path := folder / "suspects.csv").is_file():
        suspects = named(read_table(path))
        fine = suspects[~suspects["id"].isin(failures["id"])].reindex(columns=_SUSPECTS, fill_value="")
        tables["Suspected labels of images that did not fail"] = fine
    if details:
        tables["By sequence"] = found.sequence_means(details.analysis)
        tables["Costliest confusions"] = found.error_costs(details.analysis.evaluation)
    return [_table(title, table) for title, table in tables.items()]


def _table(title: str, table: pd.DataFrame) -> dict[str, Any]:
    """Write a table of the summary as text: rows of (cell, whether it is a number)."""
    rows = [[_cell(value) for value in row] for row in table.head(_TABLE_ROWS).itertuples(index=False)]
    heads = [_HEADS.get(name, name.replace("_", " ")) for name in table.columns]
    more = f"The first {_TABLE_ROWS} of {len(table)}." if len(table) > _TABLE_ROWS else ""
    return {"title": title, "columns": heads, "rows": rows, "more": more if rows else "None."}


def _cell(value: object) -> tuple[str, bool]:
    if not isinstance(value, Real):
        return str(value), False
    return (f"{value:,d}" if isinstance(value, Integral) else f"{value:,.3f}".replace("nan", "–")), True


def _block(data: object) -> str:
    """Write JSON that no text in it can turn into markup: "</script" and "<!--" never occur."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    """Name this very text, and no other, in a content security policy."""
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
