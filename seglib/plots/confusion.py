"""Confusion matrices from pixel counts."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.transforms import ScaledTranslation

from seglib.data import ClassMap
from seglib.plots import style

_NUMBERS_UP_TO = 20  # classes; beyond, only the confusions that stand out carry a number
_STANDS_OUT = 10.0  # percent of the true class (or points of difference)


@style.apply()
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
        return _nothing(ax, title)
    shares = _row_shares(counts)
    values = shares if normalize else counts
    write = "{:.0f}".format if normalize else _short
    with np.errstate(invalid="ignore"):
        numbers = np.where(_noted(shares), np.vectorize(write, otypes=[object])(values), "")
    norm = PowerNorm(0.5, 0, 100.0 if normalize else max(float(counts.max()), 1.0))
    ax = _matrix(values, numbers, counts, classes, ax, ("Blues", norm))
    label = "% of the true class" if normalize else "pixels"
    _color_bar(ax, f"{label} (square-root scale)", _short)
    ax.set_title(style.text(title) or "Confusion matrix")
    return ax


@style.apply()
def confusion_difference(
    failures: np.ndarray, full: np.ndarray, classes: ClassMap, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw what is confused more often in the failed images than in all.

    Args:
        failures, full: (C, C) pixel counts of the failed and of all images.

    The difference of the row-normalised matrices in percentage points: orange, more often in failures; purple, less
    often. Differences below 0.5 points carry no number; beyond 20 classes those below 10, and the diagonal.
    """
    failed, counts = np.asarray(failures, float), np.asarray(full, float)
    if not failed.any():
        return _nothing(ax, title)
    points = _row_shares(failed) - _row_shares(counts)
    with np.errstate(invalid="ignore"):
        numbers = np.where(
            _noted(np.abs(points)), np.vectorize("{:+.0f}".format, otypes=[object])(points), ""
        )
    limit = max(float(np.nanmax(np.abs(points))) if np.isfinite(points).any() else 0.0, 5.0)
    ax = _matrix(points, numbers, failed, classes, ax, ("PuOr_r", Normalize(-limit, limit)))
    _color_bar(ax, "points, failures minus all", "{:+g}".format)
    ax.set_title(style.text(title) or "Confused more often in failures")
    return ax


def _nothing(ax: Axes | None, title: str) -> Axes:
    return style.empty(
        style.axes(ax, 6.4, 1.2), f"{style.text(title) or 'confusion matrix'}: no valid pixel to count"
    )


def _row_shares(counts: np.ndarray) -> np.ndarray:
    """(C, C) counts -> percent of each row; NaN rows where the class does not occur."""
    totals = counts.sum(axis=1, keepdims=True)
    return 100 * np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def _noted(percent: np.ndarray) -> np.ndarray:
    """(C, C) bool: which cells carry a number."""
    if len(percent) <= _NUMBERS_UP_TO:
        return percent >= 0.5
    return (percent >= _STANDS_OUT) & ~np.eye(len(percent), dtype=bool)


def _short(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def _color_bar(ax: Axes, label: str, write) -> None:
    place = {"shrink": 0.6, "aspect": 22, "pad": 0.02}
    bar = ax.figure.colorbar(ax.collections[0], ax=ax, format=lambda v, _: write(v), **place)
    bar.outline.set_visible(False)
    bar.set_label(label)


def _matrix(
    values: np.ndarray,
    numbers: np.ndarray,
    counts: np.ndarray,
    classes: ClassMap,
    ax: Axes | None,
    scale: tuple[str, mpl.colors.Normalize],
) -> Axes:
    """Draw the cells with their numbers, the names of the classes and their shares of `counts`."""
    size, norm = len(classes), scale[1]
    many = size > _NUMBERS_UP_TO
    cell, letter = (0.24, 0.065) if many else (0.46, 0.08)  # inches
    names = [style.text(name, 24) for name in classes.names]
    side, label_width = max(cell * size, 2.4), letter * max(min(len(name), 24) for name in classes.names)
    # Rather too wide than too high: matplotlib cuts titles off where a square axes is short of width.
    ax = style.axes(ax, 1.06 * side + label_width + 1.75, side + 0.8 * label_width + 0.8)
    colors = plt.get_cmap(scale[0]).with_extremes(bad="#eeeeee")
    # No labels by seaborn: to see whether they overlap it makes a canvas a label, 10 GB at 150 classes.
    look = {"xticklabels": False, "yticklabels": False, "cbar": False, "linecolor": "white"}
    limits = {"norm": norm, "vmin": norm.vmin, "vmax": norm.vmax, "linewidths": 0 if many else 0.6}
    sns.heatmap(values, ax=ax, cmap=colors, square=True, **limits, **look)
    if many:  # lines every five classes, to follow a row to its name
        fives = np.arange(5, size, 5)
        ax.hlines(fives, 0, size, color="#cfd4da", linewidth=0.7)
        ax.vlines(fives, 0, size, color="#cfd4da", linewidth=0.7)
    for r, c in np.argwhere(numbers != ""):
        dark = np.dot(colors(norm(values[r, c]))[:3], (0.299, 0.587, 0.114)) < 0.55
        look = {"fontsize": 5.5 if many else 8, "color": "white" if dark else style.INK}
        ax.text(c + 0.5, r + 0.5, numbers[r, c], ha="center", va="center", **look)
    _name_classes(ax, names, counts.sum(axis=1) / max(counts.sum(), 1), many)
    _add_swatches(ax, classes, many)
    return ax


def _name_classes(ax: Axes, names: list[str], shares: np.ndarray, many: bool) -> None:
    told = ["absent" if not s else f"{100 * s:.1f}%" if s >= 0.001 else "<0.1%" for s in shares]
    places, small = np.arange(len(names)) + 0.5, 7 if many else 8.5
    rows = [f"{n}  {s}" for n, s in zip(names, told, strict=True)]
    ax.set_yticks(places, rows, rotation=0, fontsize=small)
    ax.set_xticks(places, names, rotation=90, fontsize=small)
    ax.set(xlabel="prediction", ylabel="ground truth (share of pixels)")
    ax.tick_params(length=0, pad=15)


def _add_swatches(ax: Axes, classes: ClassMap, many: bool) -> None:
    """Add a swatch a class between labels and cells: it ties the matrix to every other figure."""
    size, inch = len(classes), ax.figure.dpi_scale_trans
    middles, edge = np.arange(size) + 0.5, np.zeros(size)
    look = {"s": 16.0 if many else 49.0, "c": classes.colors / 255.0, "marker": "s", "clip_on": False}
    look |= {"edgecolor": style.MUTED, "linewidth": 0.5}
    left = ax.get_yaxis_transform() + ScaledTranslation(-8 / 72, 0, inch)
    below = ax.get_xaxis_transform() + ScaledTranslation(0, -8 / 72, inch)
    ax.scatter(edge, middles, transform=left, **look)
    ax.scatter(middles, edge, transform=below, **look)
