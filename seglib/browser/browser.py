"""The failure browser in Jupyter: look at failed images one by one, and say what each failure is."""

import json
import zlib
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from seglib import plots, runs
from seglib.browser.details import LARGEST, VIEWS, Details, describe, listing
from seglib.browser.report import SCRIPT, STYLE, worst_failures, write_findings
from seglib.failures import VerdictBook

# Hides the picture of the worst failures beside a live browser, and JupyterLab's error of a widget without its kernel.
# Outputs are in a .jp-OutputArea in JupyterLab, Notebook and Voila, in a .cell_container in VS Code.
_SAVED = """
:is(.jp-OutputArea, .cell_container):has(.seg-browser) .seg-saved {display: none;}
.jp-OutputArea:has(.seg-browser) .jp-RenderedImage {display: none;}
.jp-OutputArea-child:has(+ .jp-OutputArea-child .seg-saved):not(:has(.seg-browser)) {display: none;}
"""
_NONE = "<b>No failures.</b> Every image reaches the threshold: there is nothing to browse."


class Front(anywidget.AnyWidget):
    """The front end in the page. It asks by messages, each with a number that its answer carries."""

    _esm = SCRIPT
    _css = STYLE
    filters = traitlets.Unicode("").tag(sync=True)  # as one string: "cause=label+error&class=car"


class FailureBrowser:
    """Browse the images of a split: filter, sort, step, look at layers, record verdicts and notes.

    Show it as the value of a notebook cell. It displays itself twice: live, and as a picture of the worst failures,
    which a saved notebook shows where there is no kernel.
    """

    def __init__(self, details: Details) -> None:
        self.details, self.book = details, VerdictBook(details.folder / "verdicts.csv")
        self.widget = Front()
        self.widget.on_msg(self._answer)

    def __repr__(self) -> str:
        return f"FailureBrowser({len(self.details.analysis.failures)} failures)"

    def _ipython_display_(self) -> None:
        if self.details.analysis.failures.empty and self.details.browse != "all":
            display({"text/html": _NONE, "text/plain": repr(self)}, raw=True)
            return
        # More outputs: JupyterLab shows no other form of an output whose widget has lost its kernel, and GitHub no styles.
        live, _ = self.widget._repr_mimebundle_()
        display(live | {"text/plain": repr(self)}, raw=True)
        told = "Run this cell to browse. The worst failures:"
        styled = f"<style>{_SAVED}</style><p class='seg-saved'>{told}</p>"
        display({"text/html": styled, "text/plain": told}, raw=True)
        plots.show_small(worst_failures(self.details))

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
        data = listing(self.details, self.book) | {"folder": str(self.details.folder.resolve())}
        return {}, [zlib.compress(json.dumps(data).encode(), 1)]  # 10,000 failures: a tenth of some megabytes

    def _show(self, message: dict[str, Any]) -> tuple:
        sample, training = message["id"], message["training"]
        if training:
            facts = describe({"cause": "a training image", "nearest": []}) | {"rows": []}
        else:
            facts = describe(self.details.table.loc[sample], self.details.class_ious.loc[sample])
            facts["similar"] = self.details.similar(sample)
        packed = self.details.pack(sample, training, LARGEST)
        layers = packed.pop("layers")
        return packed | {"facts": facts, "names": list(layers)}, list(layers.values())

    def _thumb(self, message: dict[str, Any]) -> tuple:
        return {}, [self.details.thumbnail(message["id"], message["training"])]

    def _keep(self, message: dict[str, Any]) -> tuple:
        runs.write_json(self.details.folder / VIEWS, message["views"])
        return {}, []

    def _write(self, _: dict[str, Any]) -> tuple:
        return {"text": write_findings(self.details)}, []

    def _judge(self, message: dict[str, Any]) -> tuple:
        self.book.set(message["id"], message["verdict"], message["note"].strip())
        given = self.book.get(message["id"])
        return {"verdict": given.verdict, "time": given.time}, []
