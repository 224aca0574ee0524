"""The look that every figure shares, and the parts that many figures use."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from seglib.data import IGNORE, ClassMap, fitting
from seglib.runs import atomic_path

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, VERMILION, GREEN, ORANGE, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9"
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION)
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
    "image.interpolation": "nearest",  # interpolated class ids would show classes that are not there
}


def apply() -> AbstractContextManager[None]:
    """Apply the settings of every figure, as a context or a decorator; matplotlib's own return afterwards."""
    return mpl.rc_context(_RC)


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of that size in inches."""
    if ax is None:
        ax = sheet(1, 1, width, height)[1][0, 0]
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    return ax


def sheet(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Make a figure with (rows, columns) axes; sizes in inches.

    pyplot does not keep it: a notebook shows it once, and a loop over many samples does not fill the memory.
    """
    fig, axs = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    plt.close(fig)
    return fig, axs


def save_figure(path: str | Path, drawn: Figure | Axes) -> Figure:
    """Write a figure, or the figure of an axes, as PNG at 150 dots an inch, and return the figure."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return figure


def text(value: object, width: int = 0) -> str:
    """Make text from a dataset safe to draw: one line (or wrapped at `width` characters), and "$" is no formula."""
    line = " ".join(str(value).split()).replace("$", r"\$")
    return textwrap.fill(line, width) if width else line


def shortened(name: object, most: int) -> str:
    """Cut the middle out of a long name: ids differ at their ends."""
    line = " ".join(str(name).split())
    if len(line) > most:
        line = f"{line[: most // 2 - 1]}…{line[-(most - most // 2) :]}"
    return text(line)


def rgb(classes: ClassMap) -> dict[str, np.ndarray]:
    """Return the colour of each class by name, (3,) float64 in [0, 1]."""
    return dict(zip(classes.names, classes.colors / 255.0, strict=True))


def class_handles(ids: Iterable[int], classes: ClassMap) -> list[Patch]:
    """Make the legend entries of class ids; 255 is "ignored", hatched as in error maps."""
    look = {"edgecolor": MUTED, "linewidth": 0.6}  # an edge, so that pale colours show
    colors, names = classes.colors / 255.0, classes.names
    handles = [Patch(facecolor=colors[c], label=text(names[c], 28), **look) for c in ids if c < len(names)]
    if IGNORE in ids:
        handles.append(Patch(facecolor="black", hatch="///", label="ignored", **look))
    return handles


def empty(ax: Axes, message: str) -> Axes:
    """Let axes say why there is nothing to draw."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, transform=ax.transAxes)
    return ax


def name_rows(ax: Axes, labels: Sequence[str], spine: bool = False) -> None:
    """Give each row of a horizontal chart its label, the first on top."""
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(spine)
    ax.grid(axis="x")


def legend_above(ax: Axes, handles: Sequence[Artist] | None = None, columns: int = 0) -> None:
    """Put a legend between title and axes, where it covers no data."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    columns = columns or len(handles)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1, "borderpad": 0.2}
    ax.legend(handles=handles, ncols=columns, handletextpad=0.5, columnspacing=1.4, **place)
    ax.set_title(ax.get_title(loc="left"), pad=9 + 15 * -(-len(handles) // columns))


def show_image(ax: Axes, image: np.ndarray, title: str = "") -> None:
    """Show (H, W, 3) or (H, W) uint8 without ticks and frame, under a small title."""
    ax.imshow(fitting(image)[0], cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=8.5, fontweight="normal", pad=3)


def image_rows(
    images: Sequence[np.ndarray], titles: Sequence[object], columns: int, handles: Sequence[Patch] = ()
) -> Figure:
    """Show images of any sizes in rows, each under its title, and a legend below."""
    columns = max(1, min(columns, len(images)))
    rows, side = -(-len(images) // columns), max(2.6, 12.4 / max(columns, 4))
    width, names = max(columns * side, 5 if handles else 0), [text(title, 34) for title in titles]
    aspect = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    lines = max((name.count("\n") + 1 for name in names), default=0)
    height = rows * (side * aspect + 0.08 + 0.16 * lines) + legend_height(width, handles)
    fig, axs = sheet(rows, columns, width, height)
    for k, ax in enumerate(axs.flat):
        ax.set_axis_off()
        if k < len(images):
            show_image(ax, images[k], names[k] if k < len(names) else "")
    legend_below(fig, handles)
    return fig


def legend_below(fig: Figure, handles: Sequence[Patch]) -> Legend | None:
    """Add a legend below everything, with as many columns as the width holds."""
    if not handles:
        return None
    look = {"handlelength": 1.2, "columnspacing": 1.4, "alignment": "left"}
    columns = _legend_columns(fig.get_figwidth(), handles)
    return fig.legend(handles=handles, loc="outside lower left", ncols=columns, **look)


def legend_height(width: float, handles: Sequence[Patch]) -> float:
    """Compute the inches that `legend_below` takes in a figure of this width."""
    return 0.2 * -(-len(handles) // _legend_columns(width, handles)) + 0.2 if handles else 0.0


def _legend_columns(width: float, handles: Sequence[Patch]) -> int:
    sizes = [0.078 * len(handle.get_label()) + 0.5 for handle in handles]  # inches of letters and swatch
    if sum(sizes) <= width:
        return len(sizes)
    rows = -(-len(sizes) // max(1, int(width / max(sizes))))
    return -(-len(sizes) // rows)  # evenly: matplotlib fills column by column
