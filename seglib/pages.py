"""Executed notebooks for readers: as one HTML page, and without what only a kernel could show."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor

from seglib.runs import write_text

logging.getLogger("seglib.page").setLevel(logging.ERROR)  # nbconvert warns of every picture without a caption
_PAGE = """{% extends 'index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
"""


class DropDeadWidgets(Preprocessor):
    """Leaves out widgets without an HTML form, such as progress bars: their text would for ever say 0 %."""

    enabled = True

    def preprocess_cell(self, cell: Any, resources: dict, index: int) -> tuple[Any, dict]:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_dead_widget(output)]
        return cell, resources


def _is_dead_widget(output: Any) -> bool:
    kinds = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" in kinds and "text/html" not in kinds


def export_page(notebook: str | Path, page: str | Path) -> Path:
    """Write an executed notebook as one HTML page that needs no server: pictures inside, no script from elsewhere.

    A widget shows its HTML form or nothing, since a live one would need a kernel.
    """
    path, page = Path(notebook), Path(page)
    content = nbformat.read(path, as_version=4)
    content.metadata.pop("widgets", None)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([\w.-]+)\.ipynb\)", r"](\1.html)", cell.source)  # from page to page
    exporter = HTMLExporter(
        log=logging.getLogger("seglib.page"),
        raw_template=_PAGE,
        preprocessors=[DropDeadWidgets],
        embed_images=True,
    )
    where = {
        "metadata": {"name": path.stem, "path": str(path.parent)}
    }  # pictures in Markdown are relative to it
    return write_text(page, exporter.from_notebook_node(content, where)[0])
