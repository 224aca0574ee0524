"""The failure browser in Jupyter: look at failed images one by one, and say what each failure is."""

import json
import zlib
from pathlib import Path
from typing import Any

import anywidget
import pandas as pd
import traitlets
from IPython.display import display

from seglib import runs
from seglib.browser.details import Details
from seglib.browser.layers import LARGEST, thumbnail
from seglib.browser.report import SCRIPT, STYLE, gallery, write_findings
from seglib.browser.table import VIEWS, describe, listing, pack_row, read_failures
from seglib.data import ClassMap
from seglib.failures import VerdictBook

# Hides the gallery beside a live browser, and JupyterLab's error of a widget without its kernel. Outputs are
# in a .jp-OutputArea in JupyterLab, Notebook and Voila, in a .cell_container in VS Code.
_SAVED = """
:is(.jp-OutputArea, .cell_container):has(.seg-browser) .seg-saved {display: none;}
.jp-OutputArea-child:has(+ .jp-OutputArea-child .seg-saved):not(:has(.seg-browser)) {display: none;}
"""
_NONE = "<b>No failures.</b> Every image reaches the threshold: there is nothing to browse."


class Front(anywidget.AnyWidget):
    """The front end in the page. It asks by messages, each with a number that its answer carries."""

    _esm = SCRIPT
    _css = STYLE
    filters = traitlets.Unicode("").tag(sync=True)  # as one string: "cause=label+error&class=car"


class FailureBrowser:
    """Browse the failures of a run: filter, sort, step, look at layers, record verdicts and notes.

    Show it as the value of a notebook cell. It displays itself twice: live, and as a static gallery of the
    worst failures, which a saved notebook shows where there is no kernel.

    Args:
        folder: failures/<split> of a run. What its failures.csv lacks is shown as unknown; without it, a
            FileNotFoundError.
        class_ious: per_image_class_iou.csv, ids as text; without it class IoUs are not shown.
        details: what the analysis knows beyond the folder, such as passing images and the map.
    """

    def __init__(
        self, folder: str | Path, classes: ClassMap, class_ious: pd.DataFrame | None = None,
        details: Details | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.classes, self.details = Path(folder), classes, details
        self.failures, self.book = read_failures(self.folder), VerdictBook(self.folder / "verdicts.csv")
        self._ious = None if class_ious is None else class_ious.set_index("id")
        self._table = details.add_passing(self.failures) if details else self.failures
        self._rows = {row["id"]: row for row in self._table.to_dict("records")}
        self.widget = Front()
        self.widget.on_msg(self._answer)

    def __repr__(self) -> str:
        return f"FailureBrowser({len(self.failures)} failures)"

    def _ipython_display_(self) -> None:
        if self.failures.empty and (self.details is None or self.details.browse != "all"):
            display({"text/html": _NONE, "text/plain": repr(self)}, raw=True)
            return
        # Two outputs: JupyterLab shows no other form of an output whose widget has lost its kernel.
        live, _ = self.widget._repr_mimebundle_()
        display(live | {"text/plain": repr(self)}, raw=True)
        page = gallery(self.folder, self.failures, self.classes, self.book)
        display({"text/html": f"<style>{_SAVED}</style>{page}", "text/plain": ""}, raw=True)

    def _answer(self, widget: Front, message: dict[str, Any], _: object) -> None:
        answers = {"open": self._open, "show": self._show, "thumb": self._thumb, "judge": self._judge}
        answers |= {"keep": self._keep, "write": self._write}
        try:
            content, buffers = answers[message["type"]](message)  # a message and its raw buffers
        except (OSError, ValueError) as failure:
            content, buffers = {"error": str(failure)}, []
        widget.send(content | {"ask": message["ask"]}, buffers)

    def _open(self, _: dict[str, Any]) -> tuple:
        self.book.reload()
        data = listing(self._table, self.classes, self.book, self._ious, self.details)
        data["folder"] = str(self.folder.resolve())
        return {}, [zlib.compress(json.dumps(data).encode(), 1)]  # 10,000 failures: a tenth of some megabytes

    def _show(self, message: dict[str, Any]) -> tuple:
        sample = message["id"]
        row = self._rows.get(sample, {"id": sample, "cause": "a training image", "nearest": "[]"})
        ious = self._ious.loc[sample] if self._ious is not None and sample in self._ious.index else None
        facts = describe(row, self.classes, ious) | ({} if sample in self._rows else {"rows": []})
        if self.details:
            facts["similar"] = self.details.similar(sample)
        packed = pack_row(self.folder, row, self.details, LARGEST)
        layers = packed.pop("layers")
        return packed | {"facts": facts, "names": list(layers)}, list(layers.values())

    def _thumb(self, message: dict[str, Any]) -> tuple:
        small = thumbnail(self.folder, message["kind"], message["id"])
        return {}, [small or (self.details.thumbnail(message["id"]) if self.details else b"")]

    def _keep(self, message: dict[str, Any]) -> tuple:
        runs.write_json(self.folder / VIEWS, message["views"])
        return {}, []

    def _write(self, _: dict[str, Any]) -> tuple:
        return {"text": write_findings(self.details)}, []

    def _judge(self, message: dict[str, Any]) -> tuple:
        self.book.set(message["id"], message["verdict"], message["note"].strip())
        given = self.book.get(message["id"])
        return {"verdict": given.verdict, "time": given.time}, []
