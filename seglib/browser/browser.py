"""The failure browser: look at failed images one by one, filter them, and say what each failure is.

It wires filters and front end together and holds no logic: `seglib.browser.table` chooses and describes, `seglib.browser.layers` packs
the pictures, `seglib.failures.verdicts` saves. The front end (picture.js, list.js, browser.js) draws.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import pandas as pd
import traitlets
from IPython.display import display

from seglib.browser.gallery import gallery_html
from seglib.browser.layers import Pictures, Thumbnails, pack_layers
from seglib.browser.table import (
    NO_VERDICT,
    RULES,
    SORTS,
    Choice,
    choose,
    describe,
    line,
    nearest_ids,
    offered,
    read_failures,
    suspect_box,
)
from seglib.data import ClassMap
from seglib.failures import VERDICTS, VerdictBook

_HERE = Path(__file__).parent
_PAGE = 100  # rows of the list in one answer, at most
_PATIENCE = 0.03  # seconds of making thumbnails before the next message gets its turn


class Front(anywidget.AnyWidget):
    """The list, the picture and the facts in the page. Speaks with `FailureBrowser` by messages, pictures as raw buffers."""

    # One module for the page: a widget's module cannot import files beside it.
    _esm = "\n".join(
        (_HERE / name).read_text(encoding="utf-8") for name in ("picture.js", "list.js", "browser.js")
    )
    _css = (_HERE / "browser.css").read_text(encoding="utf-8")
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    colors = traitlets.List(traitlets.Unicode()).tag(sync=True)
    verdicts = traitlets.List(traitlets.Unicode()).tag(sync=True)


class FailureBrowser:
    """Browse the failures of a run: filter, sort, step, look at layers, and record a verdict and a note for each.

    Show it as the value of a notebook cell. It displays itself twice: live, and as a static gallery of the worst failures,
    which a saved notebook shows where there is no kernel (JupyterLab, GitHub, nbconvert).

    Args:
        folder: a run's failures folder, `run.failures(split)`, as 04_failure_analysis writes it. Columns and pictures that
            an older folder lacks are shown as unknown.
        classes: the classes of the dataset.
        class_ious: per_image_class_iou.csv with its ids as text; without it, class IoUs are neither shown nor filtered.

    Attributes:
        widget: the live widget; `front`: the part of it that draws; `failures`: the table; `chosen`: the rows of it that
        pass the filters, in the order of the list; `book`: the verdicts, saved in the folder at every change.

    Raises:
        FileNotFoundError: the folder holds no failures.csv. ValueError: it has no ids or scores.
    """

    def __init__(self, folder: str | Path, classes: ClassMap, class_ious: pd.DataFrame | None = None) -> None:
        self.folder, self.classes = Path(folder), classes
        self.failures = read_failures(self.folder)
        self.class_ious = (
            class_ious.set_index("id") if class_ious is not None and "id" in class_ious else class_ious
        )
        self.book = VerdictBook(self.folder / "verdicts.csv")
        self.pictures, self.thumbnails = Pictures(self.folder), Thumbnails(self.folder)
        self.chosen, self.index, self._generation = self.failures, 0, 0
        self._lock = threading.RLock()
        self._resetting = False  # set while several filters change at once
        if not len(self.failures):
            self.widget: widgets.Widget = widgets.HTML(
                "<b>No failures.</b> Every image reaches the threshold: there is nothing to browse."
            )
            return
        colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.colors]
        self.front = Front(names=list(classes.names), colors=colors, verdicts=list(VERDICTS))
        self.front.on_msg(self._answer)
        self.widget = self._build()
        self._refill()

    def __repr__(self) -> str:
        return f"FailureBrowser({len(self.failures)} failures)"

    def _ipython_display_(self) -> None:
        # Two outputs, because JupyterLab never falls back from a widget that has lost its kernel to other forms of the same output.
        display(self.widget._repr_mimebundle_() | {"text/plain": repr(self)}, raw=True)
        if len(self.failures):
            gallery = gallery_html(self.folder, self.failures, self.classes, self.book)
            display({"text/html": gallery, "text/plain": ""}, raw=True)

    @property
    def current(self) -> str | None:
        """The id of the failure that is shown; None when no failure passes the filters."""
        return self.chosen["id"].iloc[self.index] if len(self.chosen) else None

    def _build(self) -> widgets.Widget:
        known = [name for name in self.classes.names if self.class_ious is None or name in self.class_ious]
        rules = RULES if self.class_ious is not None else dict(list(RULES.items())[:1])
        sorts = {name: column for name, column in SORTS.items() if column.removeprefix("-") in self.failures}

        def menu(*options: Any) -> widgets.Dropdown:
            return widgets.Dropdown(options=[("any", ""), *options])

        self.cause = menu(*offered(self.failures, "cause"))
        self.class_name = menu(*((name, name) for name in known))
        self.rule = widgets.Dropdown(options=rules, disabled=True)
        self.confusion = menu(*offered(self.failures, "top_confusion", "best_fix"))
        self.iou = widgets.FloatRangeSlider(
            value=(0, 1), min=0, max=1, step=0.01, readout_format=".2f", continuous_update=False
        )
        self.group = menu(*offered(self.failures, "group"))
        self.given = menu(*((v, v) for v in (NO_VERDICT, *VERDICTS)))
        self.text = widgets.Text(placeholder="words")
        self.sort = widgets.Dropdown(options=sorts)
        self.reset = widgets.Button(description="Reset", tooltip="Show all failures again")
        self.reset.style.button_color = (
            "#8882"  # as browser.css has it: the theme's may be as light as its text
        )
        self.filters = {
            "cause": self.cause,
            "class_name": self.class_name,
            "rule": self.rule,
            "confusion": self.confusion,
            "group": self.group,
            "verdict": self.given,
            "text": self.text,
            "sort": self.sort,
        }
        for control in (*self.filters.values(), self.iou):
            control.observe(self._refill, "value")
        self.reset.on_click(self._all)
        row = [
            _labelled("cause", self.cause, "160px"),
            _labelled("class", self.class_name, "105px"),
            _labelled("which", self.rule, "140px"),
            _labelled("confusion", self.confusion, "140px"),
            _labelled("mean IoU of the image", self.iou, "250px"),
            _labelled("sequence", self.group, "90px"),
            _labelled("verdict", self.given, "105px"),
            _labelled("text", self.text, "100px"),
            _labelled("sort by", self.sort, "150px"),
            _labelled("\u00a0", self.reset, "70px"),
        ]
        top = widgets.HBox(row, layout={"flex_flow": "row wrap", "grid_gap": "4px 10px"})
        problem = [widgets.HTML(html.escape(self.book.problem))] if self.book.problem else []
        return widgets.VBox([*problem, top, self.front])

    def _refill(self, _: object = None) -> None:
        """The filters changed: list what they let through, and stay on the current failure if it is among them."""
        with self._lock:  # JupyterLab may deliver the messages of different controls in different threads
            if self._resetting:
                return
            self.rule.disabled = not self.class_name.value
            low, high = self.iou.value
            choice = Choice(
                **{name: control.value for name, control in self.filters.items()}, low=low, high=high
            )
            current = self.current
            self.chosen = choose(self.failures, choice, self.book, self.class_ious)
            self._generation += 1
            ids = self.chosen["id"].tolist()
            self.index = ids.index(current) if current in ids else 0
            self._list()

    def _all(self, _: object = None) -> None:
        with self._lock:
            self._resetting = True
            for name in ("cause", "class_name", "confusion", "group", "verdict", "text"):
                self.filters[name].value = ""
            self.iou.value = (0, 1)
            self._resetting = False
            self._refill()

    def _answer(self, _: object, message: dict[str, Any], __: object) -> None:
        """A message of the front end: it is ready, or asks for rows, thumbnails or a failure, or brings a verdict."""
        answers: dict[str, Callable[[dict[str, Any]], None]] = {
            "ready": lambda _: self._list(),
            "rows": self._rows,
            "thumbs": self._thumbs,
            "go": self._go,
            "sharp": self._sharp,
            "judge": self._judge,
        }
        with self._lock:
            answers[message["type"]](message)

    def _list(self) -> None:
        total = len(self.chosen)
        self.front.send(
            {"type": "list", "generation": self._generation, "total": total, "of": len(self.failures)}
        )
        if total:
            self._show()

    def _rows(self, message: dict[str, Any]) -> None:
        start = max(0, int(message["start"]))
        part = self.chosen.iloc[start : min(int(message["stop"]), start + _PAGE)]
        rows = [line(row, self.book.get(row["id"]).verdict) for _, row in part.iterrows()]
        self.front.send({"type": "rows", "generation": self._generation, "start": start, "rows": rows})

    def _thumbs(self, message: dict[str, Any]) -> None:
        """As many as can be made in a moment; the front end asks for the others again, and steps come in between."""
        made, end = {}, time.perf_counter() + _PATIENCE
        for kind, sample in message["wanted"]:
            made[kind, sample] = self.thumbnails.get(kind, sample)
            if time.perf_counter() > end:
                break
        self.front.send({"type": "thumbs", "made": [list(name) for name in made]}, list(made.values()))

    def _go(self, message: dict[str, Any]) -> None:
        # An index into a list that the filters have since replaced means nothing; the new list's first was sent already.
        if message["generation"] == self._generation and len(self.chosen):
            before, self.index = self.index, min(max(0, int(message["index"])), len(self.chosen) - 1)
            self._show(by=self.index - before)

    def _sharp(self, message: dict[str, Any]) -> None:
        """The failure on show is looked at closely: send all of its pixels."""
        if message["id"] == self.current:
            shown, buffers = pack_layers(self.folder, message["id"], sharp=True)
            self.front.send({"type": "sharp", "id": message["id"]} | shown, buffers)

    def _show(self, by: int = 1) -> None:
        """Send the failure at `index`: its pictures, facts, verdict and note, in one message.

        Args:
            by: the step that led here; one step further the next one is expected.
        """
        row = self.chosen.iloc[self.index]
        sample = row["id"]
        ious = (
            self.class_ious.loc[sample]
            if self.class_ious is not None and sample in self.class_ious.index
            else None
        )
        given = self.book.get(sample)
        shown, buffers = self.pictures.get(sample)
        message = {
            "type": "show",
            "generation": self._generation,
            "index": self.index,
            "id": sample,
            "facts": describe(row, ious, self.classes),
            "box": suspect_box(row),
            "nearest": nearest_ids(row),
            "verdict": given.verdict,
            "note": given.note,
            "time": _clock(given.time),
        }
        self.front.send(message | shown, buffers)
        if abs(by) == 1 and 0 <= self.index + by < len(self.chosen):
            self.pictures.expect(self.chosen["id"].iloc[self.index + by])

    def _judge(self, message: dict[str, Any]) -> None:
        sample, error = str(message["id"]), ""
        try:
            self.book.set(sample, message["verdict"], message["note"].strip())
        except (OSError, ValueError) as failure:
            error = f"not saved: {failure}"
        given = self.book.get(sample)
        saved = {
            "type": "saved",
            "id": sample,
            "verdict": given.verdict,
            "time": _clock(given.time),
            "error": error,
        }
        self.front.send(saved | {"from": message.get("from")})


def _labelled(label: str, control: widgets.Widget, width: str) -> widgets.Widget:
    control.layout.width = "auto"  # as wide as the box; 100 % and the margins would be cut off
    control.tooltip = label.strip() or control.tooltip  # the name that a screen reader says
    name = widgets.Label(label, layout={"height": "16px", "margin": "0 2px"})
    name.add_class("seg-filter")
    return widgets.VBox([name, control], layout={"width": width})


def _clock(time: str) -> str:
    return time.replace("T", " ").replace("+00:00", " UTC")
