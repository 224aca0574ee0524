"""Confusion counts -> confusion matrices: takes `ax` (or makes a figure of the right size), returns it, writes nothing."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.transforms import ScaledTranslation

from seglib.data import ClassMap
from seglib.plots.style import INK, MUTED, axes, empty, rgb, style, text

_NUMBERS_UP_TO = 20  # classes; beyond, a confusion matrix numbers only the confusions that stand out
_STANDS_OUT = 10.0  # percent of the true class (or points of difference)


@style()
def confusion(
    counts: np.ndarray, classes: ClassMap, ax: Axes | None = None, normalize: bool = True, title: str = ""
) -> Axes:
    """The confusion matrix: rows truth, columns prediction.

    Args:
        counts: (C, C) pixel counts.
        normalize: show each row as shares of the true class's pixels (%); otherwise the counts themselves.

    Colours grow with the square root, so that small confusions show beside a strong diagonal. Numbers below 0.5 % are left out;
    beyond 20 classes only confusions of 10 % and more carry one. Row labels carry the share of the scored pixels; a class that does not occur has an empty, grey row.
    """
    counts = np.asarray(counts, float)
    if not counts.any():
        return _nothing(ax, title)
    shown = _row_shares(counts) if normalize else counts
    top = 100.0 if normalize else max(float(counts.max()), 1.0)
    label = "% of the true class" if normalize else "pixels"
    with np.errstate(invalid="ignore"):
        notes = _noted(_row_shares(counts))
    numbers = [
        [(f"{v:.0f}" if normalize else _short(v)) if seen else "" for v, seen in zip(*row, strict=True)]
        for row in zip(shown, notes, strict=True)
    ]
    ax = _matrix(shown, numbers, counts, classes, ax, cmap="Blues", norm=PowerNorm(0.5, 0, top), label=label)
    ax.set_title(text(title) or "Confusion matrix")
    return ax


@style()
def confusion_difference(
    failures: np.ndarray, full: np.ndarray, classes: ClassMap, ax: Axes | None = None, title: str = ""
) -> Axes:
    """What is confused more often in the failed images than in all: difference of the row-normalised matrices.

    Args:
        failures, full: (C, C) pixel counts of the failed and of all images.

    In percentage points: orange, more often in failures; purple, less often. Differences below 0.5 points carry no number; beyond
    20 classes those below 10, and the diagonal.
    """
    failed, counts = np.asarray(failures, float), np.asarray(full, float)
    if not failed.any():
        return _nothing(ax, title)
    shown = _row_shares(failed) - _row_shares(counts)
    with np.errstate(invalid="ignore"):
        notes = _noted(np.abs(shown))
    numbers = [
        [f"{v:+.0f}" if seen else "" for v, seen in zip(*row, strict=True)]
        for row in zip(shown, notes, strict=True)
    ]
    limit = max(float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 0.0, 5.0)
    norm = mpl.colors.Normalize(-limit, limit)
    ax = _matrix(
        shown, numbers, failed, classes, ax, cmap="PuOr_r", norm=norm, label="points, failures minus all"
    )
    ax.set_title(text(title) or "Confused more often in failures")
    return ax


def _nothing(ax: Axes | None, title: str) -> Axes:
    return empty(axes(ax, 6.4, 1.2), f"{text(title) or 'confusion matrix'}: no scored pixel to count")


def _row_shares(counts: np.ndarray) -> np.ndarray:
    """(C, C) counts -> percent of each row; NaN rows where the class does not occur."""
    totals = counts.sum(axis=1, keepdims=True)
    return 100 * np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def _noted(percent: np.ndarray) -> np.ndarray:
    """(C, C) bool: which cells carry a number; with many classes only what stands out off the diagonal."""
    if len(percent) <= _NUMBERS_UP_TO:
        return percent >= 0.5
    return (percent >= _STANDS_OUT) & ~np.eye(len(percent), dtype=bool)


def _support(share: float) -> str:
    return "absent" if not share else f"{100 * share:.1f}%" if share >= 0.001 else "<0.1%"


def _short(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def _matrix(
    shown: np.ndarray,
    numbers: list[list[str]],
    counts: np.ndarray,
    classes: ClassMap,
    ax: Axes | None,
    cmap: str,
    norm: mpl.colors.Normalize,
    label: str,
) -> Axes:
    size = len(classes)
    many = size > _NUMBERS_UP_TO
    cell, letter = (0.24, 0.065) if many else (0.46, 0.08)  # inches
    names = [text(name, 24) for name in classes.names]
    side, label_width = max(cell * size, 2.4), letter * max(min(len(name), 24) for name in classes.names)
    # Rather too wide than too high: matplotlib's layout cuts titles off where a square axes is short of width.
    ax = axes(ax, 1.06 * side + label_width + 1.75, side + 0.8 * label_width + 0.8)
    colors = plt.get_cmap(cmap).with_extremes(bad="#eeeeee")
    sns.heatmap(
        shown,
        ax=ax,
        cmap=colors,
        norm=norm,
        vmin=norm.vmin,
        vmax=norm.vmax,
        square=True,
        linewidths=0.6 if not many else 0,
        linecolor="white",
        cbar=False,
        # Ours are set below. To see whether its own overlap, seaborn makes each a canvas of the figure's size: 10 GB at 150 classes.
        xticklabels=False,
        yticklabels=False,
    )
    if many:  # lines every five classes, to follow a row to its name by
        fives = np.arange(5, size, 5)
        ax.hlines(fives, 0, size, color="#cfd4da", linewidth=0.7)
        ax.vlines(fives, 0, size, color="#cfd4da", linewidth=0.7)
    for r, c in np.ndindex(size, size):
        if numbers[r][c]:
            dark = np.dot(colors(norm(shown[r, c]))[:3], (0.299, 0.587, 0.114)) < 0.55
            ax.text(
                c + 0.5,
                r + 0.5,
                numbers[r][c],
                ha="center",
                va="center",
                fontsize=5.5 if many else 8,
                color="white" if dark else INK,
            )
    total = max(counts.sum(), 1)
    support = [_support(n / total) for n in counts.sum(axis=1)]
    small = 7 if many else 8.5
    ax.set_yticks(
        np.arange(size) + 0.5,
        [f"{n}  {s}" for n, s in zip(names, support, strict=True)],
        rotation=0,
        fontsize=small,
    )
    ax.set_xticks(np.arange(size) + 0.5, names, rotation=90, fontsize=small)
    ax.set(xlabel="prediction", ylabel="truth (share of pixels)")
    scale = ax.figure.colorbar(
        ax.collections[0],
        ax=ax,
        shrink=0.6,
        aspect=22,
        pad=0.02,
        format=lambda v, _: f"{v:+g}" if norm.vmin < 0 else _short(v),
    )
    scale.outline.set_visible(False)
    scale.set_label(label)
    # A swatch a class, between labels and cells, ties the matrix to every other figure; its size is in points.
    inch, middles = ax.figure.dpi_scale_trans, np.arange(size) + 0.5
    look = {
        "s": 4.0**2 if many else 7.0**2,
        "c": rgb(classes),
        "marker": "s",
        "clip_on": False,
        "edgecolor": MUTED,
        "linewidth": 0.5,
    }
    ax.scatter(
        np.zeros(size),
        middles,
        transform=ax.get_yaxis_transform() + ScaledTranslation(-8 / 72, 0, inch),
        **look,
    )
    ax.scatter(
        middles,
        np.zeros(size),
        transform=ax.get_xaxis_transform() + ScaledTranslation(0, -8 / 72, inch),
        **look,
    )
    ax.tick_params(length=0, pad=15)
    return ax
