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
from seglib.browser.layers import LARGEST, QUICK, thumbnail
from seglib.browser.report import SCRIPT, STYLE, gallery, write_findings
from seglib.browser.table import VIEWS, describe, listing, pack_row, read_failures, read_views
from seglib.data import ClassMap
from seglib.failures import VerdictBook

# Hides the gallery beside a live browser, and JupyterLab's error of a widget without its kernel. Outputs are
# in a .jp-OutputArea in JupyterLab, Notebook and Voila, in a .cell_container in VS Code.
_SAVED = """
:is(.jp-OutputArea, .cell_container):has(.seg-browser) .seg-saved {display: none;}
.jp-OutputArea-child:has(+ .jp-OutputArea-child .seg-saved):not(:has(.seg-browser)) {display: none;}
"""
_NONE = "<b>No failures.</b> Every image reaches the threshold: there is nothing to browse."
_Answer = tuple[dict[str, Any], list[bytes]]  # a message and its raw buffers


class Front(anywidget.AnyWidget):
    """The front end in the page. It asks by messages, each with a number that its answer carries."""

    _esm = SCRIPT
    _css = STYLE
    filters = traitlets.Unicode("").tag(
        sync=True
    )  # what is listed, as one string: "cause=label+error&class=car"


class FailureBrowser:
    """Browse the failures of a run: filter, sort, step, look at layers, record verdicts and notes.

    Show it as the value of a notebook cell. It displays itself twice: live, and as a static gallery of the
    worst failures, which a saved notebook shows where there is no kernel.

    Args:
        folder: failures/<split> of a run. What an older folder lacks is shown as unknown.
        classes: of the dataset.
        class_ious: per_image_class_iou.csv, ids as text; without it class IoUs are not shown.
        details: what the analysis knows beyond the folder: passing images, confusions of pixels, sequences,
            similar and training images, the map, an earlier run.

    Attributes:
        widget: the live widget.
        failures: the table.
        book: the verdicts, saved in the folder at every change.

    Raises:
        FileNotFoundError: the folder holds no failures.csv.
        ValueError: failures.csv has no ids or scores.
    """

    def __init__(
        self, folder: str | Path, classes: ClassMap, class_ious: pd.DataFrame | None = None,
        details: Details | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.classes = Path(folder), classes
        self.failures, self.details = read_failures(self.folder), details
        self.book = VerdictBook(self.folder / "verdicts.csv")
        self._ious = None if class_ious is None else class_ious.drop_duplicates("id").set_index("id")
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
        content, buffers = answers[message["type"]](message)
        widget.send(content | {"ask": message["ask"]}, buffers)

    def _open(self, _: dict[str, Any]) -> _Answer:
        self.book.reload()
        data = listing(self._table, self.classes, self.book, self._ious, self.details)
        data |= {"folder": str(self.folder.resolve()), "views": read_views(self.folder)}
        return {}, [zlib.compress(json.dumps(data).encode(), 1)]  # 10,000 failures: a tenth of some megabytes

    def _show(self, message: dict[str, Any]) -> _Answer:
        sample = message["id"]
        known = self._ious is not None and sample in self._ious.index
        row = self._rows.get(sample, {"id": sample, "cause": "a training image", "nearest": "[]"})
        facts = describe(row, self.classes, self._ious.loc[sample] if known else None)
        facts |= {} if sample in self._rows else {"rows": []}
        most = LARGEST if message["sharp"] else QUICK
        packed = pack_row(self.folder, row, self.details, most)
        if self.details:
            facts["similar"] = self.details.similar(sample)
        layers = packed.pop("layers")
        return packed | {"facts": facts, "names": list(layers)}, list(layers.values())

    def _thumb(self, message: dict[str, Any]) -> _Answer:
        small = thumbnail(self.folder, message["kind"], message["id"])
        return {}, [small or (self.details.thumbnail(message["id"]) if self.details else b"")]

    def _keep(self, message: dict[str, Any]) -> _Answer:
        runs.write_json(self.folder / VIEWS, message["views"])
        return {}, []

    def _write(self, _: dict[str, Any]) -> _Answer:
        try:
            return {"text": write_findings(self.details)}, []
        except (OSError, ValueError) as failure:
            return {"text": f"not written: {failure}"}, []

    def _judge(self, message: dict[str, Any]) -> _Answer:
        error = ""
        try:
            self.book.set(message["id"], message["verdict"], message["note"].strip())
        except (OSError, ValueError) as failure:
            error = f"not saved: {failure}"
        given = self.book.get(message["id"])
        return {"verdict": given.verdict, "time": given.time, "error": error}, []
