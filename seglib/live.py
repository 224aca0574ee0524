"""Curves that grow while a notebook trains."""

from __future__ import annotations

import pandas as pd
from IPython.display import DisplayHandle, display

from seglib.sheets import training_curves


class LiveCurves:
    """Draws the history anew after each epoch, in the place where it drew first: `fit(..., on_epoch=LiveCurves())`."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._figure = None

    def __call__(self, history: pd.DataFrame) -> None:
        self._figure = training_curves(history, self._figure)
        if self._handle is None:
            self._handle = display(self._figure, display_id=True)
        else:
            self._handle.update(self._figure)
