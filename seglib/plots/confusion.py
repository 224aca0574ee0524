"""Matrices of classes: what is taken for what."""

from collections.abc import Callable, Iterable

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
_AXES = {"xlabel": "prediction", "ylabel": "ground truth (share of pixels)"}


@style.apply
def confusion_matrix(
    counts: np.ndarray, classes: ClassMap, ax: Axes | None = None, normalize: bool = True, title: str = ""
) -> Axes:
    """Draw the confusion matrix of (C, C) pixel counts: rows ground truth, columns prediction.

    `normalize` shows each row as shares of the true class's pixels (%), numbers below 0.5 % left out.
    """
    counts = np.asarray(counts, float)
    if not counts.any():
        return style.empty(ax, _NOTHING)
    percent = _percent(counts, classes.names)
    values, limit, write, label = percent, 100, "{:.0f}".format, "% of the true class"
    if not normalize:
        values = pd.DataFrame(counts, percent.index, percent.columns)
        limit, write, label = counts.max(), EngFormatter(places=0, sep=""), "pixels"
    look = {"cmap": "Blues", "norm": PowerNorm(0.5, 0, limit)}
    ax = _matrix(ax, values, percent, look, write, f"{label}, colours by square root")
    ax.set(title=style.text(title or "Confusion matrix", 80), **_AXES)
    return ax


@style.apply
def confusion_difference(
    failures: np.ndarray, full: np.ndarray, classes: ClassMap, ax: Axes | None = None
) -> Axes:
    """Draw what is confused more often (orange) or less often (purple) in the failed images than in all.

    Of the (C, C) pixel counts of both, it is the difference of the row-normalised matrices in percentage points.
    """
    failed, full = np.asarray(failures, float), np.asarray(full, float)
    if not failed.any():
        return style.empty(ax, _NOTHING)
    points = _percent(failed, classes.names) - _percent(full, classes.names).to_numpy()
    limit = max(10.0, points.abs().max(axis=None))
    look = {"cmap": "PuOr_r", "norm": Normalize(-limit, limit)}
    ax = _matrix(ax, points, points, look, "{:+.0f}".format, "points, failures minus all")
    ax.set(title="Confused more often in failures", **_AXES)
    return ax


def _percent(counts: np.ndarray, names: Iterable[str]) -> pd.DataFrame:
    """(C, C) counts -> percent of each row's total, NaN where it is 0; rows are named with their share of all."""
    names, totals = [style.text(name, 24) for name in names], counts.sum(axis=1)
    shares = totals / counts.sum()
    told = [f"{part:.1%}" if part >= 0.001 else "<0.1%" if part else "absent" for part in shares]
    rows = [f"{name}  {share}" for name, share in zip(names, told, strict=True)]
    return pd.DataFrame(100 * counts, rows, names).div(np.where(totals > 0, totals, np.nan), axis=0)


def _matrix(
    ax: Axes | None, values: pd.DataFrame, percent: pd.DataFrame, look: dict, write: Callable, label: str
) -> Axes:
    """Draw a (C, C) matrix with a labelled colour bar, and numbers, as `write` tells them, where `percent` stands out."""
    size, few = len(values), len(values) <= _FEW
    cell, letter, small = (0.46, 0.08, 8.5) if few else (0.24, 0.065, 7)  # inches, inches, points
    longest = max(len(line) for name in values.columns for line in name.split("\n"))
    side, label_width = max(cell * size, 2.4), letter * longest
    # Rather too wide than too high: matplotlib cuts titles off where a square axes is short of width.
    ax = style.axes(ax, 1.06 * side + label_width + 1.75, side + 0.8 * label_width + 0.8)
    noted = abs(percent) >= 0.5 if few else (abs(percent) >= 10) & ~np.eye(size, dtype=bool)
    look |= {"cmap": mpl.colormaps[look["cmap"]].with_extremes(bad="#eeeeee"), "square": True, "fmt": ""}
    look |= {"annot": values.map(write).where(noted, ""), "annot_kws": {"fontsize": small - 1}}
    look |= {"linewidths": 0.6 if few else 0, "xticklabels": True, "yticklabels": True}
    bar = {"shrink": 0.6, "aspect": 22, "pad": 0.02, "ticks": MaxNLocator(5, integer=True), "label": label}
    sns.heatmap(values, ax=ax, cbar_kws=bar | {"format": lambda v, _: write(v)}, **look)
    ax.tick_params(length=0, labelsize=small)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=90)
    return ax
