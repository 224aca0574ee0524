"""Matrices of classes: what is taken for what, and which classes come together."""

from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.ticker import EngFormatter, MaxNLocator

from seglib.data import ClassMap
from seglib.plots import style

_FEW = 20  # classes; with more, only the cells that stand out carry a number
_NOTHING = "confusion matrix: no valid pixel to count"
_WORDS = {"xlabel": "prediction", "ylabel": "ground truth (share of pixels)"}


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
        return style.empty(ax, _NOTHING)
    percent = _percent(counts, counts.sum(axis=1))
    values, limit, write, label = percent, 100, "{:.0f}".format, "% of the true class"
    if not normalize:
        values, limit, write, label = counts, counts.max(), EngFormatter(places=0, sep=""), "pixels"
    scale = ("Blues", PowerNorm(0.5, 0, limit), write, f"{label}, colours by square root")
    table = _labelled(values, classes.names, counts.sum(axis=1) / counts.sum())
    return _matrix(ax, table, percent, scale, _WORDS | {"title": title or "Confusion matrix"})


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
    failed, full = np.asarray(failures, float), np.asarray(full, float)
    if not failed.any():
        return style.empty(ax, _NOTHING)
    points = _percent(failed, failed.sum(axis=1)) - _percent(full, full.sum(axis=1))
    table = _labelled(points, classes.names, failed.sum(axis=1) / failed.sum())
    scale = _signed(points, "points, failures minus all")
    return _matrix(ax, table, points, scale, _WORDS | {"title": title or "Confused more often in failures"})


@style.apply
def cooccurrence(table: pd.DataFrame, images: int, ax: Axes | None = None) -> Axes:
    """Draw which classes come together more (orange) or less often (purple) than their frequencies alone explain.

    Args:
        table: (C, C) counts of the images that hold both classes.
        images: how many images there are.

    A cell is P(column | row) - P(column) in percentage points: 0 for a class that every image holds. The diagonal and
    the rows of classes that do not occur are grey.
    """
    counts = table.to_numpy(float)
    held = counts.diagonal()
    points = _percent(counts, held) - 100 * held / max(images, 1)
    np.fill_diagonal(points, np.nan)
    table = _labelled(points, table.columns, held / max(images, 1))
    words = {
        "title": "Which classes come together",
        "xlabel": "also hold",
        "ylabel": "images that hold (share)",
    }
    return _matrix(ax, table, points, _signed(points, "points, against all images"), words)


def _percent(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """(C, C) counts -> percent of each row's total; NaN rows where the class does not occur."""
    return np.where(totals > 0, 100 * counts.T / np.maximum(totals, 1), np.nan).T


def _labelled(values: np.ndarray, names: Iterable[str], shares: np.ndarray) -> pd.DataFrame:
    """Name the columns, and the rows with the share (0-1) of each class."""
    names = [style.text(name, 24) for name in names]
    told = [f"{share:.1%}" if share >= 0.001 else "<0.1%" if share else "absent" for share in shares]
    return pd.DataFrame(values, [f"{name}  {share}" for name, share in zip(names, told, strict=True)], names)


def _signed(points: np.ndarray, label: str) -> tuple:
    """Make the scale of differences in percentage points."""
    limit = max(10.0, np.abs(np.nan_to_num(points)).max())
    return "PuOr_r", Normalize(-limit, limit), "{:+.0f}".format, label


def _matrix(ax: Axes | None, values: pd.DataFrame, percent: np.ndarray, scale: tuple, words: dict) -> Axes:
    """Draw a (C, C) matrix with its labels and a colour bar, and numbers where `percent` stands out.

    `scale`: colour map, norm, number -> text, and label; `words`: title and labels of the axes.
    """
    cmap, norm, write, label = scale
    cells, size, few = values.to_numpy(), len(values), len(values) <= _FEW
    cell, letter, small = (0.46, 0.08, 8.5) if few else (0.24, 0.065, 7)  # inches, inches, points
    longest = max(len(line) for name in values.columns for line in name.split("\n"))
    side, label_width = max(cell * size, 2.4), letter * longest
    # Rather too wide than too high: matplotlib cuts titles off where a square axes is short of width.
    ax = style.axes(ax, 1.06 * side + label_width + 1.75, side + 0.8 * label_width + 0.8)
    colors = mpl.colormaps[cmap].with_extremes(bad="#eeeeee")
    noted = abs(percent) >= 0.5 if few else (abs(percent) >= 10) & ~np.eye(size, dtype=bool)
    told = np.vectorize(write, otypes=[object])(np.nan_to_num(cells))
    bar = {"shrink": 0.6, "aspect": 22, "pad": 0.02, "ticks": MaxNLocator(5, integer=True), "label": label}
    look = {"linewidths": 0.6 if few else 0, "annot_kws": {"fontsize": small - 1}, "square": True}
    look |= {"annot": np.where(noted, told, ""), "fmt": "", "xticklabels": True, "yticklabels": True}
    sns.heatmap(
        values, cmap=colors, norm=norm, ax=ax, cbar_kws=bar | {"format": lambda v, _: write(v)}, **look
    )
    ax.set(**words | {"title": style.text(words["title"], 80)})
    for line in () if few else (ax.hlines, ax.vlines):  # every five classes, to follow a row to its name
        line(np.arange(5, size, 5), 0, size, color="#cfd4da", linewidth=0.7)
    ax.tick_params(length=0, labelsize=small)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=90)
    return ax
