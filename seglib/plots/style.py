"""The look that every figure shares, and the parts that many figures use."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from seglib.data import ClassMap
from seglib.runs import atomic_path

INK, MUTED, GREY, FAINT = "#222222", "#6b6b6b", "#b0b0b0", "#e4e4e4"
# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, VERMILION, GREEN, ORANGE, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9"
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION)
MARKERS = "osD^vP"
_DOT = {"s": 36, "edgecolor": INK, "linewidth": 0.8, "clip_on": False, "zorder": 3}

_RC = {"font.size": 9, "text.color": INK, "grid.color": FAINT, "axes.edgecolor": MUTED}
_RC |= {"axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9}
_RC |= {"axes.axisbelow": True, "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False}
_RC |= {"xtick.color": MUTED, "xtick.labelcolor": INK, "ytick.color": MUTED, "ytick.labelcolor": INK}
_RC |= {"xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "legend.frameon": False}
_RC |= {"image.interpolation": "nearest"}  # interpolated class ids would show classes that are not there

apply = mpl.rc_context(_RC)  # decorates what draws; matplotlib's own settings return afterwards


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of that size in inches."""
    return sheet(1, 1, width, height)[1][0, 0] if ax is None else ax


def rows(
    ax: Axes | None, names: Iterable, title: str, xlabel: str, step: float = 0.3, width: int = 28, **more: Any
) -> Axes:
    """Make the axes of a horizontal chart: a row of `step` inches for each name, wrapped at `width`, first on top."""
    labels = [text(name, width) for name in names]
    ax = axes(ax, 7.4, 1.5 + step * max(2, len(labels)))
    ax.set(title=title, xlabel=xlabel, ylim=(len(labels) - 0.4, -0.6), **more)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(axis="y", length=0, pad=8)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    return ax


def dots(ax: Axes, x: ArrayLike, y: ArrayLike, **look: Any) -> None:
    """Scatter outlined marks."""
    ax.scatter(x, y, **_DOT | look)


def strips(ax: Axes | None, groups: Mapping, title: str, xlabel: str, log: bool = False, **more: Any) -> Axes:
    """Draw values as dots, a row a group: name -> (values, colour). On a logarithmic axis the least is 0.01."""
    ax = rows(ax, groups, title, xlabel, **more)
    jitter = np.random.default_rng(0)
    for row, (values, color) in enumerate(groups.values()):
        values = np.maximum(values, 0.01) if log else np.asarray(values)
        look = {"color": color, "alpha": 0.6, "markersize": 5, "markeredgewidth": 0}
        ax.plot(values, row + jitter.uniform(-0.3, 0.3, len(values)), "o", **look)
    if log:
        ax.set_xscale("log", subs=[])
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_major_formatter("{x:g}")
    return ax


def beside(ax: Axes, words: Iterable[str], header: str = "") -> None:
    """Write a text to the right of each row of a horizontal chart, and a header above them."""
    place = {"xytext": (9, 0), "textcoords": "offset points"}
    for row, word in enumerate(words):
        ax.annotate(word, (1, row), xycoords=("axes fraction", "data"), va="center", **place)
    ax.annotate(header, (1, 1), xycoords="axes fraction", va="bottom", color=MUTED, **place)


def sheet(
    rows: int, columns: int, width: float, height: float, handles: Sequence[Artist] = ()
) -> tuple[Figure, np.ndarray]:
    """Make a figure with (rows, columns) axes and a legend below them; sizes in inches."""
    longest = max((min(28, len(handle.get_label())) for handle in handles), default=0)  # letters
    across = max(1, int(width / (0.078 * longest + 0.5)))
    height += 0.2 * -(-len(handles) // across) + 0.2 * bool(handles)
    fig, axs = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    plt.close(fig)  # pyplot would show it twice in notebooks, and keep it in memory
    if handles:
        look = {"handlelength": 1.2, "columnspacing": 1.4, "alignment": "left"}
        fig.legend(handles=handles, loc="outside lower left", ncols=across, **look)
    return fig, axs


def save_figure(path: str | Path, drawn: Figure | Axes) -> Figure:
    """Write a figure, or the figure of an axes, as PNG at 150 dots an inch, and return the figure."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return figure


def text(value: object, width: int = 28) -> str:
    """Make text from a dataset safe to draw: wrapped at `width` characters, and "$" is no formula."""
    words = " ".join(str(value).split()).replace("$", r"\$")
    return textwrap.fill(words, width, break_on_hyphens=False)


def rgb(names: Iterable[str], classes: ClassMap) -> np.ndarray:
    """Return the colours of the named classes, (N, 3) float64 in [0, 1]."""
    return classes.colors[[classes.names.index(name) for name in names]] / 255.0


def empty(ax: Axes | None, message: str) -> Axes:
    """Let axes say why there is nothing to draw."""
    ax = axes(ax, 6.4, 1.2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, transform=ax.transAxes)
    return ax


def legend_above(ax: Axes, columns: int = 9) -> Axes:
    """Put a legend between title and axes, where it covers no data, and return the axes."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1, "borderpad": 0.2}
    entries = ax.legend(ncols=columns, handletextpad=0.5, columnspacing=1.4, **place).get_texts()
    ax.set_title(ax.get_title(loc="left"), pad=9 + 15 * -(-len(entries) // columns))
    return ax
