"""Curves that grow while a notebook trains."""

from __future__ import annotations

import time

import pandas as pd
from IPython.display import DisplayHandle, display

from seglib.sheets import training_curves

_PAUSE = 15.0  # seconds between two drawings: each takes a good part of one


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
