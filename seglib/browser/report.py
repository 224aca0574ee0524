"""The static forms of the browser: `report.html` for colleagues, and the gallery of a saved notebook.

`report.html` is the front end with its data embedded, read-only; it needs no network. Names and notes come
from outside: the templates escape them, the embedded data cannot close its block, the script writes text
alone, and a content security policy allows nothing but the file's own style, script and pictures.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seglib import failures as found
from seglib.browser.details import Details
from seglib.browser.layers import read_layers, thumbnail
from seglib.browser.table import NO_VERDICT, UNKNOWN, describe, listing, pack_row, read_failures, read_views
from seglib.data import IGNORE, ClassMap, data_uri, error_map, overlay
from seglib.failures import VerdictBook, named
from seglib.runs import display_path, read_table, write_text

LIMIT = 20_000_000  # bytes of a report
PIXELS = 640 * 480  # of a picture in it, at most
GALLERY = 12  # failures in the static gallery
_ROWS_SHARE = 0.5  # of the file, for rows and facts at most: else they would leave no room for pictures
_TABLE_ROWS = 10  # of a table in the summary
_HEADS = {"share": "of true class", "gain": "gain, mean IoU", "gain_image": "gain, mean IoU of an image"}
_LAYERS = ("image", "ground truth", "prediction", "errors")
_SUSPECTS = ("id", "label_score", "suspect_kind", "suspect_given", "suspect_suggested")
_HERE = Path(__file__).parent
_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
_FRONT = ("picture", "list", "filters", "charts", "map", "source", "verdicts", "facts", "browser")
# One module: neither a widget nor a page on the disk can import the files beside it.
SCRIPT = "\n".join((_HERE / f"{name}.js").read_text(encoding="utf-8") for name in _FRONT)
STYLE = (_HERE / "browser.css").read_text(encoding="utf-8")


def write_report(
    folder: str | Path,
    classes: ClassMap,
    title: str = "Failures",
    below: str = "",
    images: int | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    details: Details | None = None,
) -> Path:
    """Write `report.html` into a failures folder.

    The worst failures come with pictures, as many as fit into 20 MB; the others are listed without. Returns the
    file's path.

    Args:
        folder: failures/<split> as 04 writes it. What is missing is shown as unknown.
        classes: of the dataset.
        title: for example the run and the split.
        below: what an image fails by, such as "below a mean IoU of 0.5".
        images: how many were evaluated; None if unknown.
        tables: more of the summary, title -> table; the first 10 rows are shown.
        details: what the analysis knows beyond the folder: run, confusions, passing images, an earlier run.

    Raises:
        FileNotFoundError, ValueError: there is no failures.csv, or it has no ids or scores.
    """
    folder = Path(folder)
    failures, book = read_failures(folder), VerdictBook(folder / "verdicts.csv")
    suspects = read_table(path) if (path := folder / "suspects.csv").is_file() else pd.DataFrame()
    of, share = (f" of {images:,}", f" ({len(failures) / images:.0%})") if images else ("", "")
    script, style = SCRIPT + "\nopenReport();\n", STYLE + (_HERE / "report.css").read_text(encoding="utf-8")
    page = _worst(folder, failures, classes, book) | {
        "title": title,
        "about": details.about() if details else {},
        "headline": f"{len(failures):,}{of} images fail{share}" + (f": {below}." if below else "."),
        "tables": [*_summary(failures, book, suspects), *(_table(n, t) for n, t in (tables or {}).items())],
        "script": script,
        "style": style,
        "hashes": {"script": _hash(script), "style": _hash(style)},
    }
    shown = details.add_passing(failures) if details and details.browse == "all" else failures
    data = listing(shown, classes, book, details=details) | {"views": read_views(folder)}
    template = _PAGES.get_template("report_template.html")
    page_alone = template.render(page, data=_block(data | {"rows": []}), listed=0, total=len(shown))
    _fit(data, folder, shown, classes, LIMIT - len(page_alone.encode()), details)
    text = template.render(page, data=_block(data), listed=len(data["rows"]), total=len(shown))
    return write_text(folder / "report.html", text)


def write_findings(details: Details) -> str:
    """Write actions.yaml and report.html into the failures folder, and return what to do as text."""
    analysis, evaluation = details.analysis, details.analysis.evaluation
    path, text = found.write_actions(analysis)
    tables = {
        "By sequence": found.sequence_means(analysis),
        "Costliest confusions": found.error_costs(evaluation),
    }
    told = found.describe(evaluation, details.threshold), len(evaluation.per_image), tables, details
    report = write_report(
        analysis.folder, evaluation.classes, f"{evaluation.run.name}, {evaluation.name}", *told
    )
    return f"{text}\nWritten: {display_path(path)}, {display_path(report)}"


def _fit(data: dict, folder: Path, table: pd.DataFrame, classes: ClassMap, room: int, details: Any) -> None:
    """Leave the rows that fit into `room` bytes in `data`, the worst first, and add facts and pictures."""
    rows, data["rows"] = data["rows"], []
    data |= {"facts": {}, "pictures": {}, "nearest": {}}
    spent = len('"facts":{},"pictures":{},"nearest":{},')
    for row, record in zip(rows, records := table.to_dict("records"), strict=True):
        facts = {row["id"]: describe(record, classes)}
        spent += len(_block([row, facts]))
        if spent > room * _ROWS_SHARE:
            break
        data["rows"].append(row)
        data["facts"] |= facts
    for record, (sample, facts) in zip(records, data["facts"].items(), strict=False):
        picture = pack_row(folder, record, details, PIXELS, compact=True) | {"finer": False}
        picture["layers"] = {name: _base64(layer) for name, layer in picture["layers"].items()}
        new = [name for name in facts["nearest"] or [] if name not in data["nearest"]]
        nearest = {name: _base64(thumbnail(folder, "nearest", name)) for name in new}
        spent += len(_block([{sample: picture}, nearest]))
        if spent > room:
            break
        data["pictures"][sample] = picture
        data["nearest"] |= nearest


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


def _summary(failures: pd.DataFrame, book: VerdictBook, suspects: pd.DataFrame) -> list[dict[str, Any]]:
    """Count causes, severities and verdicts; list suspicious labels of images that did not fail."""
    counted = failures.assign(verdict=failures["id"].map(lambda i: book.get(i).verdict or NO_VERDICT))
    tables = []
    for name in ("cause", "severity", "verdict"):
        if name in counted and len(counted):
            counts = counted[name].replace("", UNKNOWN).value_counts().rename_axis(name)
            tables.append(_table(f"By {name}", counts.reset_index(name="images")))
    if {"id", "label_score"} <= set(suspects):
        suspects = named(suspects[~suspects["id"].isin(failures["id"])])
        shown = suspects[[name for name in _SUSPECTS if name in suspects]]
        tables.append(_table("Suspected labels of images that did not fail", shown))
    return tables


def _table(title: str, table: pd.DataFrame) -> dict[str, Any]:
    """Write a table of the summary as text: rows of (cell, whether it is a number)."""
    rows = [[_cell(value) for value in row] for row in table.head(_TABLE_ROWS).itertuples(index=False)]
    heads = [_HEADS.get(name, str(name).replace("_", " ")) for name in table.columns]
    more = f"The first {_TABLE_ROWS} of {len(table)}." if len(table) > _TABLE_ROWS else ""
    return {"title": title, "columns": heads, "rows": rows, "more": more if rows else "None."}


def _cell(value: object) -> tuple[str, bool]:
    if isinstance(value, (bool, np.bool_)):
        return ("yes" if value else "no"), False
    if isinstance(value, (int, float, np.number)):
        form = ",d" if isinstance(value, (int, np.integer)) else ",.3f"
        return (f"{value:{form}}" if np.isfinite(value) else "–"), True
    return ("" if value is None or value is pd.NA else str(value)), False


def _block(data: object) -> str:
    """Write JSON that no text in it can turn into markup: "</script" and "<!--" never occur."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    """Name this very text, and no other, in a content security policy."""
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
