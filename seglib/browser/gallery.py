"""The worst failures as a static page: what a saved notebook shows of the browser where there is no kernel.

File and class names are text from outside: all of it is escaped before it enters the page.
"""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from seglib.browser.table import number, read_layers
from seglib.data import ClassMap, data_uri, error_map, overlay, present
from seglib.failures import VerdictBook

GALLERY = 12  # failures in the static gallery of a saved notebook
_LAYERS = ("image", "truth", "prediction", "errors")

# In a live notebook the saved gallery would repeat the browser; without a kernel JupyterLab shows an error in the browser's place.
# A cell's outputs are in a .jp-OutputArea in JupyterLab, Notebook and Voila, in a .cell_container in VS Code.
_SAVED_CSS = """
:is(.jp-OutputArea, .cell_container):has(.seg-browser) .seg-saved {display: none;}
.jp-OutputArea-child:has(+ .jp-OutputArea-child .seg-saved):not(:has(.seg-browser)) {display: none;}
"""


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
        lines = [
            f"mean IoU {number(row['miou'])}",
            row["top_confusion"],
            row.get("cause", ""),
            row.get("evidence", ""),
        ]
        words = "<br>".join(
            [f"<b>{html.escape(row['id'])}</b>", *(html.escape(line) for line in lines if line)]
        )
        words += f"<br><i>{html.escape(verdict)}</i>" if verdict else ""
        cells = "".join(
            f'<td><img alt="{name}" width="180" src="{data_uri(p, 180)}"></td>'
            for name, p in zip(_LAYERS, layers, strict=True)
        )
        style = "text-align:left;vertical-align:top;width:220px;max-width:220px;white-space:normal;overflow-wrap:anywhere"
        rows.append(f'<tr><td style="{style}">{words}</td>{cells}</tr>')
    swatches = " ".join(
        f'<span style="white-space:nowrap"><span style="color:{_color(classes, c)}">&#9632;</span> '
        f"{html.escape(classes.names[c] if c < len(classes) else 'not scored')}</span>"
        for c in sorted(ids)
    )
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in ("", *_LAYERS))
    title = f"The {len(worst)} worst of {len(failures)} failures, as they were saved. Run this cell to browse all of them."
    table = f'<table class="seg-gallery"><tr>{head}</tr>{"".join(rows)}</table>'
    return f'<style>{_SAVED_CSS}</style><div class="seg-saved"><p>{title}</p>{table}<p>{swatches}</p></div>'


def _color(classes: ClassMap, c: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*classes.palette()[c])
