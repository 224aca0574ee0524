"""What notebooks show in a way of their own: curves that grow while it trains, photographs that keep them small, texts in full."""

from __future__ import annotations

import io
import time

import pandas as pd
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from PIL import Image as Pillow

from seglib.plots.samples import training_curves

_PAUSE = 15.0  # seconds between two drawings: each takes a good part of one
_PALETTE = (
    Pillow.Quantize.MAXCOVERAGE
)  # median cut gives all colours to the photographs: two classes would get one


def show_small(figure: Figure) -> None:
    """Show a figure full of photographs in 256 colours: a third of the bytes, so that the notebook stays small."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=figure.dpi)
    picture = Pillow.open(full).convert("RGB").quantize(256, _PALETTE, 2, dither=Pillow.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    display(Image(small.getvalue()))


def in_full(table: pd.DataFrame) -> Styler:
    """A table with its texts whole, which pandas cuts at 50 characters; what is in them does not become HTML."""
    left = table.style.format(precision=3, escape="html").format_index(escape="html")
    return left.set_properties(**{"text-align": "left", "white-space": "normal"})


class LiveCurves:
    """Draws the history anew every few epochs, in the place where it drew first: `fit(..., on_epoch=LiveCurves())`."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._figure = None
        self._drawn = float("-inf")

    def __call__(self, history: pd.DataFrame) -> None:
        last = not history["seconds_left"].iloc[-1]
        if not last and time.monotonic() < self._drawn + _PAUSE:
            return
        self._drawn = time.monotonic()
        self._figure = training_curves(history, self._figure)
        if self._handle is None:
            self._handle = display(self._figure, display_id=True)
        else:
            self._handle.update(self._figure)
