"""What notebooks show in a way of their own: their series, curves that grow, smaller photographs, whole texts."""

import io
import time
from pathlib import Path

import pandas as pd
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.io.formats.style import Styler
from PIL import Image as Pillow

from seglib.plots import style

_PAUSE = 15.0  # seconds between two drawings: each takes a good part of one
_LOSSES = {"train_loss": ("train", style.BLUE, "-", 1.8), "val_loss": ("val", style.VERMILION, "-", 1.8)}
_LOSSES |= {"train_ce": ("cross-entropy (train)", style.MUTED, "--", 1.0)}
_LOSSES |= {"train_dice": ("Dice (train)", style.MUTED, "-.", 1.0)}
_LOSSES |= {"train_focal": ("focal (train)", style.MUTED, ":", 1.2)}


def series() -> Image:
    """Show how the four notebooks belong together: a drawing, 1667 x 392 pixels, that never changes."""
    return Image(Path(__file__).with_name("series.png"), width=1111)


@style.apply
def training_curves(history: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """Draw losses, learning rate and validation mean IoU of history.csv over epochs, into `fig` if it is given."""
    fig = fig or style.sheet(1, 1, 11, 4)[0]
    fig.clear()
    axs = fig.subplot_mosaic([["losses", "score"], ["rate", "score"]], height_ratios=[4, 1])
    losses, score, rate = axs.values()
    known, epochs = history.loc[:, history.notna().any()], history["epoch"]
    look = {"marker": "o" if len(epochs) < 2 else "", "markersize": 4}
    for column, (label, color, line, width) in _LOSSES.items():
        if column in known:
            losses.plot(epochs, known[column], line, label=label, color=color, linewidth=width, **look)
    losses.set(title="Loss", ylabel="loss", ylim=(0, None))
    if losses.lines:
        losses.legend()
    score.set(title="Validation mean IoU", ylabel="mean IoU", ylim=(0, 1))
    if "val_miou" in known:
        best = known.loc[known["val_miou"].idxmax()]
        score.plot(epochs, known["val_miou"], color=style.GREEN, linewidth=1.8, **look)
        style.dots(score, best["epoch"], best["val_miou"], s=170, marker="*", color=style.GREEN)
        score.set_title(f"Validation mean IoU: best {best['val_miou']:.3f}, epoch {int(best['epoch'])}")
    rate.yaxis.set_major_formatter("{x:g}")  # no power of ten above the axes: it would push the title up
    if "learning_rate" in known:
        rate.plot(epochs, known["learning_rate"], color=style.MUTED, linewidth=1.8, **look)
    rate.set(ylim=(0, None))
    rate.set_title("Learning rate", fontsize=9, fontweight="normal", pad=3)
    last = max([2, *epochs])
    for ax in (losses, score, rate):
        ax.set(xlabel="" if ax is losses else "epoch", xlim=(1 - 0.03 * last, last + 0.03 * last))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(axis="y")
    return fig


@style.apply
def class_curves(history: pd.DataFrame) -> Figure:
    """Draw the validation IoU of each class (history.csv: val_iou_<class>) over epochs, the lowest at the end first."""
    columns = history.filter(regex="^val_iou_").dropna(axis=1, how="all")
    if columns.empty:
        return style.empty(None, "no IoU by class").figure
    order, across = columns.ffill().iloc[-1].sort_values(kind="stable"), min(6, columns.shape[1])
    rows = -(-len(order) // across)
    fig, axs = style.sheet(rows, across, 12.6, 1.5 * rows + 0.4)
    for ax in axs.flat[len(order) :]:
        ax.set_axis_off()
    for ax, (name, last) in zip(axs.flat, order.items(), strict=False):
        ax.plot(history["epoch"], columns[name], color=style.GREEN, marker="o" if len(history) < 2 else "")
        title = f"{style.text(name.removeprefix('val_iou_'), 20)} {last:.2f}"
        ax.set(title=title, ylim=(0, 1), xlabel="epoch", ylabel="IoU")
        ax.label_outer()
    return fig


class LiveCurves:
    """Draw the history again while it grows, in one place: `fit(..., on_epoch=LiveCurves())`."""

    def __init__(self) -> None:
        self._handle, self._figure, self._next = DisplayHandle(), None, 0.0

    def __call__(self, history: pd.DataFrame) -> None:
        last = not history["seconds_left"].iloc[-1]
        if not last and time.monotonic() < self._next:
            return
        show = self._handle.update if self._figure else self._handle.display
        self._figure, self._next = training_curves(history, self._figure), time.monotonic() + _PAUSE
        show(self._figure)


def show_small(figure: Figure) -> None:
    """Show a figure full of photographs in 256 colours: a third of the bytes, so that the notebook stays small."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=figure.dpi)
    # Median cut would give all colours to the photographs, and two classes one colour.
    palette = Pillow.Quantize.MAXCOVERAGE
    image = Pillow.open(full).convert("RGB").quantize(256, palette, 2, dither=Pillow.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    display(Image(small.getvalue()))


def in_full(table: pd.DataFrame) -> Styler:
    """Show a table with its texts whole, which pandas cuts at 50 characters; no text becomes HTML."""
    left = table.style.format(precision=3, escape="html").format_index(escape="html")
    return left.set_properties(**{"text-align": "left", "white-space": "normal"})
