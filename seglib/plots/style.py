"""The look that every figure shares."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seglib.data import IGNORE, ClassMap

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
# Darker is worse, so that the order survives in greyscale.
SEVERITY = {"guessing": "#5b1247", "clear": "#d1495b", "near-threshold": "#f2b872"}
_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "image.interpolation": "nearest",  # interpolated ids and pixels would show what is not there
}


def style() -> AbstractContextManager[None]:
    """The settings of every figure, for `with style(): ...` or as a decorator; matplotlib's own come back afterwards."""
    return mpl.rc_context(_RC)


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the axes of a new figure (see `sheet`) of that size in inches, laid out so that no label is cut off."""
    if ax is None:
        ax = sheet(1, 1, width, height)[1][0, 0]
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    return ax


def sheet(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with (rows, columns) axes, in inches.

    pyplot forgets it at once: a notebook shows it once, as a cell's value or through `display`, and a loop over
    hundreds of samples does not pile them up in memory.
    """
    fig, axs = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    plt.close(fig)
    return fig, axs


def text(value: object, width: int = 0) -> str:
    """Text from a dataset, safe to draw: one line (or wrapped at `width` characters), and "$" is no formula."""
    line = " ".join(str(value).split()).replace("$", r"\$")
    return textwrap.fill(line, width) if width else line


def rgb(classes: ClassMap) -> np.ndarray:
    """(C, 3) float64 class colours in [0, 1]."""
    return classes.colors / 255.0


def class_handles(ids: Iterable[int], classes: ClassMap) -> list[Patch]:
    """Legend entries for class ids; 255 is "not scored", hatched as error maps show it. Every swatch has an edge, so that pale colours show."""
    colors = rgb(classes)
    known = [c for c in ids if c < len(classes)]
    handles = [
        Patch(facecolor=colors[c], edgecolor=MUTED, linewidth=0.6, label=text(classes.names[c], 28))
        for c in known
    ]
    if IGNORE in ids:
        handles.append(
            Patch(facecolor="black", edgecolor=MUTED, linewidth=0.6, hatch="///", label="not scored")
        )
    return handles


def empty(ax: Axes, message: str) -> Axes:
    """Axes that say why there is nothing to draw."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, transform=ax.transAxes)
    return ax
