"""Matrices of classes: confusions from pixel counts, and which classes come together."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import ScaledTranslation

from seglib.data import ClassMap
from seglib.plots import style

_FEW = 20  # classes; with more, only the cells that stand out carry a number


@style.apply
def confusion_matrix(
    counts: np.ndarray, classes: ClassMap, ax: Axes | None = None, normalize: bool = True, title: str = ""
) -> Axes:
    """Draw the confusion matrix: rows ground truth, columns prediction.

    Args:
        counts: (C, C) pixel counts.
        normalize: show each row as shares of the true class's pixels (%); otherwise the counts themselves.

    Colours grow with the square root, so that small confusions show beside a strong diagonal. Numbers below 0.5 % are
    left out. Row labels carry the share of the valid pixels; a class that does not occur has an empty, grey row.
    """
    counts = np.asarray(counts, float)
    if not counts.any():
        return style.empty(ax, "confusion matrix: no valid pixel to count")
    values, limit, write, label = _row_percent(counts), 100, "{:.0f}".format, "% of the true class"
    noted = _noted(values)
    if not normalize:
        values, limit, write, label = counts, counts.max(), EngFormatter(places=0, sep=""), "pixels"
    scale = ("Blues", PowerNorm(0.5, 0, limit), write, f"{label}, colours by square root")
    ax = _confusions(ax, values, noted, counts, classes, scale)
    ax.set_title(style.text(title or "Confusion matrix", 80))
    return ax


@style.apply
def confusion_difference(
    failures: np.ndarray, full: np.ndarray, classes: ClassMap, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw what is confused more often in the failed images than in all.

    Args:
        failures, full: (C, C) pixel counts of the failed and of all images.

    The difference of the row-normalised matrices in percentage points: orange, more often in failures; purple, less
    often. Differences below 0.5 points carry no number; beyond 20 classes those below 10, and the diagonal.
    """
    failed = np.asarray(failures, float)
    if not failed.any():
        return style.empty(ax, "confusion matrix: no valid pixel to count")
    points = _row_percent(failed) - _row_percent(np.asarray(full, float))
    ax = _confusions(
        ax, points, _noted(points), failed, classes, _signed(points, "points, failures minus all")
    )
    ax.set_title(style.text(title or "Confused more often in failures", 80))
    return ax


@style.apply
def cooccurrence(table: pd.DataFrame, images: int, ax: Axes | None = None) -> Axes:
    """Draw which classes come together more often (orange) or less often (purple) than their frequency alone explains.

    Args:
        table: (C, C) counts of the images that hold both classes.
        images: how many images there are.

    A cell is P(column's class | row's class) - P(column's class), in percentage points: 0 for a class that every image
    holds. Rows of classes that do not occur are grey, as is the diagonal.
    """
    counts = table.to_numpy(float)
    own = counts.diagonal()
    points = 100 * (_row_percent(counts, own) / 100 - own / max(images, 1))
    np.fill_diagonal(points, np.nan)
    names = [style.text(name, 24) for name in table.columns]
    rows = _labels(names, own / max(images, 1))
    scale = _signed(points, "points, against all images")
    ax = _matrix(ax, pd.DataFrame(points, rows, names), _noted(points), scale)
    title = "Which classes come together more often than by chance"
    ax.set(title=title, xlabel="also hold", ylabel="images that hold (share of all)")
    return ax


def _row_percent(counts: np.ndarray, totals: np.ndarray | None = None) -> np.ndarray:
    """(C, C) counts -> percent of each row's total (by default its sum); NaN rows where the class does not occur."""
    totals = (counts.sum(axis=1) if totals is None else totals)[:, None]
    return np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)


def _noted(percent: np.ndarray) -> np.ndarray:
    """(C, C) bool: which cells carry a number."""
    size = abs(percent)
    return size >= 0.5 if len(size) <= _FEW else (size >= 10) & ~np.eye(len(size), dtype=bool)


def _signed(points: np.ndarray, label: str) -> tuple:
    """The scale of differences, in percentage points."""
    limit = max(5.0, np.abs(np.nan_to_num(points)).max())
    return "PuOr_r", Normalize(-limit, limit), "{:+.0f}".format, label


def _labels(names: list[str], shares: np.ndarray) -> list[str]:
    told = [f"{share:.1%}" if share >= 0.001 else "<0.1%" if share else "absent" for share in shares]
    return [f"{name}  {share}" for name, share in zip(names, told, strict=True)]


def _confusions(
    ax: Axes | None,
    values: np.ndarray,
    noted: np.ndarray,
    counts: np.ndarray,
    classes: ClassMap,
    scale: tuple,
) -> Axes:
    """Draw a matrix of confusions with the classes' shares of `counts`, and swatches."""
    size, names = len(classes), [style.text(name, 24) for name in classes.names]
    rows = _labels(names, counts.sum(axis=1) / counts.sum())
    ax = _matrix(ax, pd.DataFrame(values, rows, names), noted, scale)
    ax.set(xlabel="prediction", ylabel="ground truth (share of pixels)")
    # A swatch a class between labels and cells ties the matrix to every other figure.
    ax.tick_params(length=0, pad=15)
    middles, edge, inch = np.arange(size) + 0.5, [0] * size, ax.figure.dpi_scale_trans
    look = {"s": 49 if size <= _FEW else 16, "marker": "s", "c": classes.colors / 255}
    left = ax.get_yaxis_transform() + ScaledTranslation(-8 / 72, 0, inch)
    below = ax.get_xaxis_transform() + ScaledTranslation(0, -8 / 72, inch)
    style.dots(ax, edge, middles, transform=left, **look)
    style.dots(ax, middles, edge, transform=below, **look)
    return ax


def _matrix(ax: Axes | None, values: pd.DataFrame, noted: np.ndarray, scale: tuple) -> Axes:
    """Draw a (C, C) matrix with its labels, numbers where `noted`, and a colour bar.

    `scale`: colour map, norm, number -> text, and label.
    """
    cmap, norm, write, label = scale
    cells, size, few = values.to_numpy(), len(values), len(values) <= _FEW
    cell, letter, small = (0.46, 0.08, 8.5) if few else (0.24, 0.065, 7)  # inches, inches, points
    longest = max(len(line) for name in values.columns for line in name.split("\n"))
    side, label_width = max(cell * size, 2.4), letter * longest
    # Rather too wide than too high: matplotlib cuts titles off where a square axes is short of width.
    ax = style.axes(ax, 1.06 * side + label_width + 1.75, side + 0.8 * label_width + 0.8)
    colors = mpl.colormaps[cmap].with_extremes(bad="#eeeeee")
    mesh = ax.pcolormesh(cells, cmap=colors, norm=norm, edgecolors="white" if few else "face", linewidth=0.6)
    ax.set(aspect="equal", ylim=(size, 0))
    ax.spines[:].set_visible(False)
    for line in () if few else (ax.hlines, ax.vlines):  # every five classes, to follow a row to its name
        line(np.arange(5, size, 5), 0, size, color="#cfd4da", linewidth=0.7)
    for r, c in np.argwhere(noted):
        dark = np.dot(colors(norm(cells[r, c]))[:3], (0.299, 0.587, 0.114)) < 0.55
        look = {"fontsize": small - 1, "color": "white" if dark else style.INK}
        ax.text(c + 0.5, r + 0.5, write(cells[r, c]), ha="center", va="center", **look)
    ax.set_yticks(np.arange(size) + 0.5, values.index, fontsize=small)
    ax.set_xticks(np.arange(size) + 0.5, values.columns, fontsize=small, rotation=90)
    place = {"shrink": 0.6, "aspect": 22, "pad": 0.02}
    bar = ax.figure.colorbar(mesh, ax=ax, format=lambda value, _: write(value), label=label, **place)
    bar.outline.set_visible(False)
    return ax
