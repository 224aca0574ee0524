"""Figures of a failure analysis: where IoU was lost, thresholds, degraded images, slices, confidence."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from seglib.checks import KINDS, QUALITY_OF, Reference
from seglib.plots import style

# In an order whose brightness rises and falls in turn; hatches tell what greyscale does not.
_ERRORS = {
    "false_negative": ("#0b3c6f", "", "false negative regions"),
    "misclassified": (style.ORANGE, "////", "misclassified regions"),
    "false_positive": ("#a6405f", "", "false positive regions"),
    "boundary": ("#9fd0f0", "", "boundary"),
    "noise": ("#f4f4f4", "....", "noise"),
}
_LINES = list(
    zip((style.BLUE, style.VERMILION, style.GREEN, style.PINK), ("-", "--", "-.", ":"), strict=True)
)
_QUALITIES = {  # label, and the value below which nothing differs to the eye (None: a linear axis)
    "sharpness": ("sharpness", 1e-2),
    "noise": ("noise, grey levels", 0.1),
    "highlights": ("grey value of the brightest hundredth", None),
    "contrast_ratio": ("contrast (deviation / mean of grey values)", 1e-2),
}


@style.apply()
def lost_iou(failures: pd.DataFrame, count: int = 20, ax: Axes | None = None) -> Axes:
    """Draw where the worst failures lost their IoU: a bar an image, its length 1 - mIoU, parted by kind of error.

    Args:
        failures: columns id, miou (0-1) and lost_<kind> of every kind of error (points of IoU that add up to
            1 - miou); images without them are left out.
        count: how many, the worst first.
    """
    columns = [f"lost_{kind}" for kind in _ERRORS]
    known = failures.dropna(subset=columns) if set(columns) <= set(failures.columns) else failures.iloc[:0]
    table = known.sort_values("miou", kind="stable").head(count)
    ax = style.axes(ax, 7.6, 1.9 + 0.25 * len(table) if len(table) else 1.2)
    if table.empty:
        words = "no failures" if failures.empty else "nothing is known of where the IoU was lost"
        return style.empty(ax, words)
    places, start = np.arange(len(table)), np.zeros(len(table))
    for kind, (color, hatch, label) in _ERRORS.items():
        part = table[f"lost_{kind}"].to_numpy(float)
        edge = np.where(part > 0, 0.4, 0)  # the edge of an empty part would show as a line
        look = {
            "color": color,
            "edgecolor": style.INK if hatch else "white",
            "hatch": hatch,
            "linewidth": edge,
        }
        ax.barh(places, part, left=start, height=0.78, label=label, **look)
        start += part
    aside = {"textcoords": "offset points", "color": style.MUTED}
    for place, miou in zip(places, table["miou"], strict=True):
        at = {"xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(f"{np.floor(100 * miou) / 100:.2f}", (1, place), (8, 0), **at, **aside)
    ax.annotate("mIoU", (1, 1), (8, 1), xycoords="axes fraction", va="bottom", **aside)
    limit = min(1.0, np.ceil(start.max() * 10 + 0.2) / 10)
    ax.set(xlim=(0, limit), xlabel="lost IoU (points; a bar's length is 1 - mIoU)")
    worst = f"the worst {len(table)} of {len(failures)} failures"
    ax.set_title(f"Where the IoU was lost: {worst if len(table) < len(failures) else 'every failure'}")
    style.name_rows(ax, [style.shortened(i, 34) for i in table["id"]], spine=True)
    style.legend_above(ax, columns=3)
    return ax


@style.apply()
def costly_confusions(costs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the costliest confusions: by how much the mean IoU would rise if their pixels were right.

    Args:
        costs: columns truth, prediction, share (0-1), images, gain (points of the split's mean IoU), gain_image
            (of the images' own mIoU, on average).
    """
    ax = style.axes(ax, 7.6, 1.7 + 0.3 * len(costs) if len(costs) else 1.2)
    if costs.empty:
        return style.empty(ax, "no confusion: every valid pixel is right")
    places, gain, per_image = np.arange(len(costs)), costs["gain"], costs["gain_image"]
    ax.barh(places, gain, height=0.66, color="#0b3c6f", label="mean IoU of the split")
    look = {"linestyle": "none", "marker": "D", "markersize": 5.5, "clip_on": False}
    look |= {"markerfacecolor": style.ORANGE, "markeredgecolor": style.INK}
    ax.plot(per_image, places, label="mIoU of an image, on average", **look)
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    for place, row in zip(places, costs.itertuples(), strict=True):
        images = f"{row.images} image{'s' if row.images != 1 else ''}"
        ax.annotate(f"+{row.gain:.3f}", (1, place), (6, 0), color=style.INK, **at)
        ax.annotate(
            f"{row.share:.0%} of the true class, {images}", (1, place), (46, 0), color=style.MUTED, **at
        )
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    most = float(max(gain.max(), per_image.max()))
    ax.set(xlim=(0, most * 1.04 or 1.0), xlabel="gain if these pixels were right (points of IoU)")
    ax.set_title("Confusions that cost most (ground truth → prediction)")
    style.name_rows(
        ax,
        [f"{style.shortened(r.truth, 20)} → {style.shortened(r.prediction, 20)}" for r in costs.itertuples()],
    )
    # Bars first.
    style.legend_above(ax, sorted(ax.get_legend_handles_labels()[0], key=lambda h: isinstance(h, Line2D)))
    return ax


@style.apply()
def threshold_curve(curve: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how many images fail at every threshold, the chosen one marked.

    Args:
        curve: of `failures.failure_curve`: of, threshold (0-1), images, scored, share (0-1), chosen; a line for each
            `of`.
    """
    known = curve.dropna(subset=["share"])
    lines = list(dict.fromkeys(known["of"]))
    ax = style.axes(ax, 6.4, 3.4 + 0.2 * len(lines))
    if known.empty:
        return style.empty(ax, "no image has a score")
    for k, name in enumerate(lines):
        line, (color, dash) = known[known["of"] == name], _LINES[k % len(_LINES)]
        chosen = line[line["chosen"]].iloc[0]
        value, images, scored = chosen["threshold"], int(chosen["images"]), int(chosen["scored"])
        label = f"{style.shortened(name, 24)} below {value:.3g}: {images} of {scored} images ({images / scored:.0%})"
        ax.plot(line["threshold"], 100 * line["share"], color=color, linestyle=dash, linewidth=1.8)
        percent, look = 100 * images / scored, {"color": color, "markeredgecolor": "white"}
        ax.plot([value, value], [0, percent], color=color, linewidth=0.9, clip_on=False)
        ax.plot(value, percent, "o", markersize=7, clip_on=False, zorder=4, **look)
        ax.plot([], [], linestyle=dash, marker="o", label=label, **look)
    what = "mIoU of an image" if lines == ["mIoU"] else "IoU of the class in an image"
    ax.set(xlim=(0, 1), ylim=(0, 100), xlabel=f"threshold: {what}", ylabel="images that fail (%)")
    ax.grid()
    ax.set_title("How many images fail at which threshold")
    style.legend_above(ax, columns=1)
    return ax


@style.apply()
def degradation_sheet(training: pd.DataFrame, images: pd.DataFrame, failed: np.ndarray) -> Figure:
    """Draw where the images of a split lie in the training images' distribution, for every kind of degradation.

    Args:
        training, images: `checks.qualities`, a row an image.
        failed: (N,) bool, of `images`.

    The hatched side of the limit is where an image counts as degraded.
    """
    fig, axs = style.sheet(2, 2, 9.4, 5.8)
    entries: dict[str, Artist] = {}
    for kind, ax in zip(KINDS, axs.flat, strict=True):
        _draw_quality(ax, kind, training, images, np.asarray(failed, bool))
        entries |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if entries:
        fig.legend(entries.values(), entries, loc="outside upper left", ncols=len(entries), columnspacing=1.4)
    return fig


def _draw_quality(
    ax: Axes, kind: str, training: pd.DataFrame, images: pd.DataFrame, failed: np.ndarray
) -> None:
    quality = QUALITY_OF[kind]
    label, least = _QUALITIES[quality]
    known, asked = (np.maximum(table[quality].to_numpy(float), least or 0.0) for table in (training, images))
    limit = Reference.of(training).limit(kind)
    everything = np.concatenate([known, asked, [limit]])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        style.empty(ax, f"no image tells its {quality.replace('_', ' ')}")
        return
    edges = _bins(ax, everything.min(), everything.max(), least is not None)
    low, high = edges[0], edges[-1]
    known = known[np.isfinite(known)]
    counts, _, _ = ax.hist(known, bins=edges, color="#c9d6df", label="training images")
    top = max(1.0, float(counts.max()))
    # Fine and failed images in a strip each below the axis: ticks over the bars could not be told apart.
    strips = ((~failed, -0.1, style.BLUE, "fine"), (failed, -0.22, style.VERMILION, "failed"))
    for chosen, place, color, name in strips:
        values = asked[chosen & np.isfinite(asked)]
        look = {"marker": "|", "s": 46, "color": color, "linewidth": 1.3, "clip_on": False, "zorder": 3}
        ax.scatter(values, np.full(len(values), place * top), label=f"{name} ({chosen.sum()})", **look)
    if np.isfinite(limit):
        ends = (low, limit) if limit < np.median(known) else (limit, high)
        look = {"facecolor": "none", "edgecolor": "#d9d9d9", "hatch": "///", "linewidth": 0, "zorder": 0}
        ax.axvspan(*ends, label="counts as degraded", **look)
        ax.axvline(limit, color=style.INK, linewidth=1, linestyle="--")
    ax.axhline(0, color=style.MUTED, linewidth=0.8)
    ax.set(xlim=(low, high), ylim=(-0.3 * top, 1.12 * top), xlabel=label, ylabel="training images")
    ax.set_title(kind.capitalize())
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.12 * top])


def _bins(ax: Axes, low: float, high: float, logarithmic: bool) -> np.ndarray:
    """Edges of 44 bins between two values, with a margin; a logarithmic axis gets round values."""
    if not logarithmic:
        margin = 0.03 * (high - low) or 1.0
        return np.linspace(low - margin, high + margin, 45)
    low, high = low / 1.15, high * 1.15
    ax.set_xscale("log")
    few = high / low < 10  # of less than a decade, even steps
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]) if few else LogLocator(subs=(1, 3))
    ax.xaxis.set_major_locator(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return np.geomspace(low, high, 45)


@style.apply()
def slice_plot(slices: pd.DataFrame, most: int = 15, ax: Axes | None = None) -> Axes:
    """Draw by how much lower the mean IoU of a slice's images is than elsewhere, the costliest slices on top.

    Args:
        slices: of `failures.find_slices`.
        most: how many are drawn.

    Filled: claimed after correction for all slices looked at; hollow: may be chance. Lines: 95 % intervals.
    """
    table = slices.head(most)
    ax = style.axes(ax, 7.6, 1.5 + 0.3 * max(2, len(table)))
    if not len(table):
        return style.empty(ax, "no slice holds enough images")
    rows, claimed = np.arange(len(table)), table["claimed"].to_numpy(bool)
    ax.axvline(0, color=style.INK, linewidth=0.9)
    colors = np.where(claimed, style.VERMILION, style.MUTED)
    ax.hlines(rows, 100 * table["low"], 100 * table["high"], color=colors, linewidth=1.6, zorder=2)
    sure = ("more than chance", claimed, style.VERMILION, style.INK)
    for name, chosen, face, edge in (sure, ("may be chance", ~claimed, "white", style.MUTED)):
        if chosen.any():
            look = {"s": 44, "color": face, "edgecolor": edge, "linewidth": 1, "zorder": 3}
            ax.scatter(100 * table["difference"][chosen], rows[chosen], label=name, **look)
    beside = ax.get_yaxis_transform()
    ax.text(1.02, -0.75, "images (failed)", va="bottom", fontsize=8, color=style.MUTED, transform=beside)
    for row, images, failures in zip(rows, table["images"], table["failures"], strict=True):
        ax.text(1.02, row, f"{images} ({failures})", va="center", fontsize=8, transform=beside)
    ax.set_xlabel("mean IoU of the slice's images less that of all others, points")
    ax.set_title("Slices, the costliest on top")
    style.name_rows(ax, [style.text(words, 58) for words in table["slice"]])
    ax.set_ylim(len(table) - 0.4, -0.7)
    style.legend_above(ax)
    return ax
