"""The failure browser: look at failed images one by one, filter them, and say what each failure is.

It wires controls together and holds no logic: `seglib.review` chooses and describes, `seglib.pictures` draws,
`seglib.verdicts` saves.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import display

from seglib.classes import ClassMap
from seglib.pictures import VIEWS, compose, png, present
from seglib.review import (
    NO_VERDICT,
    RULES,
    SORTS,
    Choice,
    choose,
    facts_html,
    gallery_html,
    legend_html,
    read_failures,
    read_layers,
)
from seglib.verdicts import VERDICTS, VerdictBook

_CSS = """
.seg-browser {max-width: 1360px; padding: 4px 2px; --seg-faint: var(--jp-border-color2, #ddd); --seg-muted: var(--jp-ui-font-color2, #666);
  font-family: var(--jp-ui-font-family, sans-serif); font-size: 13px;}
.seg-browser .widget-inline-hbox, .seg-browser .jupyter-widgets {margin: 0;}
.seg-browser .widget-html-content {line-height: 1.4;}
.seg-label .widget-html-content {color: var(--seg-muted); font-size: 11px; line-height: 15px;}
.seg-browser .widget-select select {font-family: var(--jp-code-font-family, monospace); font-size: 12px; padding: 2px 0;}
.seg-browser .widget-select option {padding: 2px 6px;}
.seg-browser .widget-toggle-buttons .widget-toggle-button {width: auto; padding: 0 12px; margin: 0 4px 4px 0;}
.seg-browser .seg-side .widget-toggle-button {padding: 0 8px;}
.seg-picture img, img.seg-picture {max-width: 100%; height: auto;}
.seg-browser h4 {margin: 6px 0 4px; font-size: 14px; overflow-wrap: anywhere;}
.seg-browser table.seg-facts, .seg-browser table.seg-ious {border-collapse: collapse; margin: 0 0 8px; font-size: 12px; width: 100%;}
.seg-browser .seg-facts th, .seg-browser .seg-ious th {font-weight: normal; text-align: left; color: var(--seg-muted); padding: 1px 10px 1px 0;
  vertical-align: top; overflow-wrap: anywhere;}
.seg-browser .seg-facts th {white-space: nowrap; width: 1%;}
.seg-browser .seg-facts td, .seg-browser .seg-ious td {padding: 1px 0; text-align: left; overflow-wrap: anywhere;}
.seg-browser .seg-ious caption {text-align: left; color: var(--seg-muted); font-size: 11px; padding-bottom: 2px;}
.seg-browser .seg-ious td:last-child {text-align: right; width: 34px; font-variant-numeric: tabular-nums;}
.seg-bar {width: 92px; height: 9px; background: var(--seg-faint);} .seg-bar i {display: block; height: 100%; outline: 1px solid #8888;}
.seg-legend {display: flex; flex-wrap: wrap; gap: 3px 16px; padding: 2px 0 6px;}
.seg-key i {display: inline-block; width: 13px; height: 13px; margin-right: 5px; vertical-align: -2px; outline: 1px solid #8888;}
.seg-status {color: var(--seg-muted); font-size: 12px;} .seg-problem {color: #b3261e;}
"""


class FailureBrowser:
    """Browse the failures of a run: filter, sort, step, look at layers, and record a verdict and a note for each.

    Show it as the value of a notebook cell. It displays itself twice: live, and as a static gallery of the worst failures,
    which a saved notebook shows where there is no kernel (JupyterLab, GitHub, nbconvert).

    Args:
        folder: a run's failures folder, `run.failures(split)`, as 04_failure_analysis writes it.
        classes: the classes of the dataset.
        class_ious: per_image_class_iou.csv with its ids as text; without it, class IoUs are neither shown nor filtered.

    Attributes:
        widget: the live widget; `failures`: the table; `book`: the verdicts, saved in the folder at every change.

    Raises:
        FileNotFoundError: the folder holds no failures.csv.
    """

    def __init__(self, folder: str | Path, classes: ClassMap, class_ious: pd.DataFrame | None = None) -> None:
        self.folder, self.classes = Path(folder), classes
        self.failures = read_failures(self.folder)
        self.class_ious = class_ious.set_index("id") if class_ious is not None and "id" in class_ious else class_ious
        self.book = VerdictBook(self.folder / "verdicts.csv")
        self._lock = threading.RLock()
        self._filling = False  # set while the controls follow the data, so that they do not answer
        self._layers: tuple[str, Any] = ("", None)
        self.widget = (
            self._build()
            if len(self.failures)
            else widgets.HTML("<b>No failures.</b> Every image reaches the threshold: there is nothing to browse.")
        )
        self.widget.add_class("seg-browser")
        if len(self.failures):
            self._refill()

    def __repr__(self) -> str:
        return f"FailureBrowser({len(self.failures)} failures)"

    def _ipython_display_(self) -> None:
        # Two outputs, because JupyterLab never falls back from a widget that has lost its kernel to other forms of the same output.
        display(self.widget._repr_mimebundle_() | {"text/plain": repr(self)}, raw=True)
        if len(self.failures):
            gallery = gallery_html(self.folder, self.failures, self.classes, self.book)
            display({"text/html": gallery, "text/plain": ""}, raw=True)

    def _build(self) -> widgets.Widget:
        names = [name for name in self.classes.names if self.class_ious is None or name in self.class_ious]
        severities = list(dict.fromkeys(self.failures.sort_values("miou")["severity"]))
        self.class_name = widgets.Dropdown(options=[("any class", ""), *((n, n) for n in names)])
        self.rule = widgets.Dropdown(
            options=RULES if self.class_ious is not None else list(RULES.items())[:1], disabled=True
        )
        self.iou = widgets.FloatRangeSlider(
            value=(0, 1), min=0, max=1, step=0.01, readout_format=".2f", continuous_update=False
        )
        self.severity = widgets.Dropdown(options=[("any", ""), *((s, s) for s in severities)])
        self.given = widgets.Dropdown(options=[("any", ""), *((v, v) for v in (NO_VERDICT, *VERDICTS))])
        self.sort = widgets.Dropdown(options=SORTS)
        self.reset = widgets.Button(description="Reset", tooltip="Show all failures again")
        self.list = widgets.Select(rows=9, layout={"width": "100%"})
        self.count = widgets.HTML()
        self.previous, self.next = (
            widgets.Button(description=d, layout={"width": "50%"}) for d in ("‹ Previous", "Next ›")
        )
        self.facts = widgets.HTML(layout={"width": "100%"})
        self.view = widgets.ToggleButtons(options=[(v if v != "all" else "all four", v) for v in VIEWS])
        self.opacity = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, readout_format=".2f", layout={"width": "220px"}
        )
        self.picture = widgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        self.picture.add_class("seg-picture")
        self.legend = widgets.HTML(layout={"width": "100%"})
        self.verdict = widgets.ToggleButtons(options=[("none", ""), *((v, v) for v in VERDICTS)])
        self.note = widgets.Text(placeholder="a note; Enter saves it", continuous_update=False)
        self.status = widgets.HTML()

        for control in (self.class_name, self.rule, self.iou, self.severity, self.given, self.sort):
            control.observe(self._alone(self._refill), "value")
        self.list.observe(self._alone(self._show), "value")
        for control in (self.view, self.opacity):
            control.observe(self._alone(self._draw), "value")
        for control in (self.verdict, self.note):
            control.observe(self._alone(self._save), "value")
        self.previous.on_click(self._alone(lambda _: self._step(-1)))
        self.next.on_click(self._alone(lambda _: self._step(1)))
        self.reset.on_click(self._alone(lambda _: self._all()))

        filters = [
            _labelled("class", self.class_name, "150px"),
            _labelled("which", self.rule, "150px"),
            _labelled("mean IoU of the image", self.iou, "230px"),
            _labelled("severity", self.severity, "125px"),
            _labelled("verdict", self.given, "115px"),
            _labelled("sort by", self.sort, "140px"),
            _labelled("&nbsp;", self.reset, "70px"),
        ]
        top = widgets.HBox(filters, layout={"flex_flow": "row wrap", "grid_gap": "4px 12px"})
        steps = widgets.HBox([self.previous, self.next], layout={"grid_gap": "6px"})
        self.judging = widgets.VBox(
            [_labelled("your verdict", self.verdict, "100%"), _labelled("note", self.note, "100%"), self.status],
            layout={"grid_gap": "4px"},
        )
        side = widgets.VBox(
            [self.count, self.list, steps, self.judging, self.facts], layout={"flex": "0 0 280px", "grid_gap": "6px"}
        )
        layers = widgets.HBox(
            [self.view, _labelled("opacity", self.opacity, "230px")],
            layout={"flex_flow": "row wrap", "grid_gap": "4px 16px", "align_items": "flex-end"},
        )
        side.add_class("seg-side")
        self.detail = widgets.VBox(
            [layers, self.picture, self.legend], layout={"flex": "1 1 480px", "min_width": "0", "grid_gap": "6px"}
        )
        body = widgets.HBox(
            [side, self.detail], layout={"grid_gap": "18px", "margin": "10px 0 0", "align_items": "flex-start"}
        )
        head = [widgets.HTML(f"<style>{_CSS}</style>", layout={"display": "none"})]
        if self.book.problem:
            head.append(widgets.HTML(f'<div class="seg-problem">{html.escape(self.book.problem)}</div>'))
        return widgets.VBox([*head, top, body])

    def _alone(self, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """JupyterLab may deliver the messages of different controls in different threads: answer them one at a time."""

        def locked(change: Any) -> None:
            with self._lock:
                answer(change)

        return locked

    @property
    def current(self) -> str | None:
        """The id of the failure that is shown; None when no failure passes the filters."""
        return self.list.value

    def _refill(self, _: object = None) -> None:
        """The filters changed: list what they let through, and stay on the current failure if it is among them."""
        if self._filling:
            return
        self.rule.disabled = not self.class_name.value
        choice = Choice(
            self.class_name.value,
            self.rule.value,
            *self.iou.value,
            self.severity.value,
            self.given.value,
            self.sort.value,
        )
        self._list(choose(self.failures, choice, self.book, self.class_ious)["id"].tolist())
        self._show()

    def _list(self, ids: list[str]) -> None:
        current, self._filling = self.list.value, True
        rows = self.failures.set_index("id")
        self.list.options = [(_line(i, rows.loc[i], bool(self.book.get(i).verdict)), i) for i in ids]
        self.list.value = current if current in ids else (ids[0] if ids else None)
        self._filling = False

    def _all(self) -> None:
        self._filling = True
        self.class_name.value = self.severity.value = self.given.value = ""
        self.iou.value = (0, 1)
        self._filling = False
        self._refill()

    def _step(self, by: int) -> None:
        if self.list.index is not None:
            self.list.index = min(max(self.list.index + by, 0), len(self.list.options) - 1)

    def _show(self, _: object = None) -> None:
        """Another failure: its picture, facts, verdict and note."""
        if self._filling:
            return
        sample, total = self.current, len(self.failures)
        for part in (self.detail, self.judging):
            part.layout.visibility = "visible" if sample is not None else "hidden"
        listed = len(self.list.options)
        self.previous.disabled = not self.list.index
        self.next.disabled = sample is None or self.list.index == listed - 1
        if sample is None:
            self.count.value, self.facts.value = (
                f"<b>0</b> of {total} failures",
                "No failure passes these filters. Widen them, or press Reset.",
            )
            return
        rest = "failures" if listed == total else f"chosen ({total} failures in all)"
        self.count.value = f"<b>{self.list.index + 1}</b> of {listed} {rest}"
        row = self.failures.set_index("id", drop=False).loc[sample]
        ious = self.class_ious.loc[sample] if self.class_ious is not None and sample in self.class_ious.index else None
        self.facts.value = facts_html(row, ious, self.classes)
        self._filling = True
        verdict = self.book.get(sample)
        self.verdict.value, self.note.value = verdict.verdict, verdict.note
        self._filling = False
        self.status.value = _status("given", verdict.time) if verdict.time else ""
        self._draw()

    def _draw(self, _: object = None) -> None:
        if self.current is None:
            return
        try:
            if self._layers[0] != self.current:
                self._layers = (self.current, read_layers(self.folder, self.current))
            image, truth, pred = self._layers[1]
            self.picture.value = png(compose(image, truth, pred, self.classes, self.view.value, self.opacity.value))
            self.legend.value = legend_html(present(truth, pred), self.classes)
        except (OSError, ValueError) as error:
            self._layers, self.picture.value = ("", None), b""
            self.legend.value = f'<div class="seg-problem">{html.escape(str(error))}</div>'
        self.picture.layout.display = None if self.picture.value else "none"

    def _save(self, _: object = None) -> None:
        if self._filling or self.current is None:
            return
        try:
            self.book.set(self.current, self.verdict.value, self.note.value.strip())
        except OSError as error:
            self.status.value = f'<div class="seg-problem">{html.escape(f"not saved: {error}")}</div>'
            return
        given = self.book.get(self.current)
        self.status.value = _status("saved", given.time) if given.time else _status("verdict removed")
        self._list([sample for _, sample in self.list.options])


def _labelled(label: str, control: widgets.Widget, width: str) -> widgets.Widget:
    control.layout.width = "100%"
    name = widgets.HTML(label)
    name.add_class("seg-label")
    return widgets.VBox([name, control], layout={"width": width})


def _line(sample: str, row: pd.Series, judged: bool) -> str:
    # No-break spaces: list entries collapse ordinary ones, and the columns would not align.
    score = "  –  " if pd.isna(row["miou"]) else f"{row['miou']:.3f}"
    return f"{'✓' if judged else ' '} {score}  {sample}  {row['worst_class']}".replace(" ", "\u00a0")


def _status(what: str, time: str = "") -> str:
    when = time.replace("T", " ").replace("+00:00", " UTC")
    return f'<div class="seg-status">{html.escape(f"{what} {when}")}</div>'
