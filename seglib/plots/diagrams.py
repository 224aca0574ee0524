"""Calibration, two runs beside each other, regions by size: takes `ax` (or makes a figure), returns it, writes nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from seglib.data import ClassMap
from seglib.plots.style import INK, MUTED, axes, empty, rgb, style, text

_BETTER, _WORSE = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion; the marks differ in shape too


@style()
def reliability(calibration: pd.DataFrame, ece: float = float("nan"), ax: Axes | None = None) -> Axes:
    """Reliability diagram: how often the model is right at each confidence. On the diagonal it is as sure as it ought to be.

    Args:
        calibration: calibration.csv: a row a bin of confidence_from, confidence_to, share, confidence, accuracy (0-1).
        ece: expected calibration error, for the title.

    Bars: accuracy; the hatched part is what the confidence promises beyond it (or the dark part, what it leaves out). The thin
    bars at the bottom are each bin's share of the pixels.
    """
    ax = axes(ax, 4.6, 5.5)
    table = calibration[calibration["pixels"] > 0]
    if not len(table):
        return empty(ax, "no pixel has a confidence")
    left, width = table["confidence_from"], table["confidence_to"] - table["confidence_from"]
    low, high = table[["accuracy", "confidence"]].min(axis=1), table[["accuracy", "confidence"]].max(axis=1)
    look = {"align": "edge", "width": width, "edgecolor": INK, "linewidth": 0.6}
    ax.bar(left, table["accuracy"], color="#9ecae1", label="accuracy", **look)
    over = table["confidence"] > table["accuracy"]
    for chosen, color, hatch, name in (
        (over, "none", "////", "too sure"),
        (~over, "#3182bd", "", "not sure enough"),
    ):
        if (chosen & (high - low > 0.002)).any():
            part = {
                "align": "edge",
                "width": width[chosen],
                "edgecolor": _WORSE if hatch else INK,
                "linewidth": 0.6,
            }
            ax.bar(
                left[chosen],
                (high - low)[chosen],
                bottom=low[chosen],
                color=color,
                hatch=hatch,
                label=name,
                **part,
            )
    ax.bar(
        left + 0.36 * width,
        0.25 * table["share"],
        width=0.28 * width,
        align="edge",
        color=INK,
        label="share of pixels",
    )
    for x, share in zip(left + width / 2, table["share"], strict=True):
        if share >= 0.01:
            ax.text(x, 0.25 * share + 0.012, f"{100 * share:.0f}%", ha="center", fontsize=7.5, color=INK)
    ax.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1, label="calibrated")
    told = f", ECE {ece:.3f}" if np.isfinite(ece) else ""
    ax.set(
        xlim=(0, 1), ylim=(0, 1.0), aspect="equal", xlabel="confidence of the predicted class", ylabel="share of pixels right",
        title=f"Reliability{told}",
    )  # fmt: skip
    ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=2)  # inside, it could lie over bars
    return ax


@style()
def run_comparison(
    per_image: pd.DataFrame, first: str, second: str, threshold: float = 0.5, ax: Axes | None = None
) -> Axes:
    """Two runs, a point an image: above the diagonal the second run is better. The crossed corners: fixed and regressed.

    Args:
        per_image: of a `Comparison`: id, miou_first, miou_second (0-1), change.
        first, second: names of the runs.

    The three largest moves either way carry the image's id, unless it would lie over another's.
    """
    ax = axes(ax, 5.2, 5.0)
    table = per_image.dropna(subset=["miou_first", "miou_second"])
    if not len(table):
        return empty(ax, "no image has a score in both runs")
    ax.axhspan(threshold, 1, xmax=threshold, color=_BETTER, alpha=0.07, linewidth=0)
    ax.axhspan(0, threshold, xmin=threshold, color=_WORSE, alpha=0.07, linewidth=0)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
    for line in (ax.axhline, ax.axvline):
        line(threshold, color=MUTED, linewidth=0.8, linestyle=":")
    looks = {
        "fine in both": ("o", "white", MUTED),
        "failing in both": ("X", "#9a9a9a", INK),
        "fixed": ("^", _BETTER, INK),
        "regressed": ("v", _WORSE, INK),
    }
    for change, (marker, face, edge) in looks.items():
        part = table[table["change"] == change]
        label = f"{change} ({len(part)})"
        ax.scatter(
            part["miou_first"], part["miou_second"], s=30, marker=marker, facecolor=face, edgecolor=edge, linewidth=0.7,
            label=label, clip_on=False, zorder=3,
        )  # fmt: skip
    ordered = table.sort_values("difference", kind="stable")
    named = pd.concat(
        [ordered[ordered["difference"] < -0.01].head(3), ordered[ordered["difference"] > 0.01].tail(3)]
    )
    placed: list[tuple[float, float]] = []
    for row in named.sort_values("difference", key=abs, ascending=False, kind="stable").itertuples():
        # Away from the crowd on the diagonal: beside the point, or above or below it where the edge is near.
        long = 0.016 * len(str(row.id))  # of an axis
        if any(abs(row.miou_first - x) < long and abs(row.miou_second - y) < 0.035 for x, y in placed):
            continue
        placed.append((row.miou_first, row.miou_second))
        if row.difference > 0:
            place, align = ((-6, -3), "right") if row.miou_first >= long else ((0, 7), "left")
        else:
            place, align = ((6, -3), "left") if row.miou_first <= 1.02 - long else ((0, -13), "right")
        ax.annotate(
            text(row.id), (row.miou_first, row.miou_second), xytext=place, textcoords="offset points",
            ha=align, fontsize=7.5, color=INK,
        )  # fmt: skip
    ax.set(
        xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=f"mIoU of the image, {text(first)}",
        ylabel=f"mIoU of the image, {text(second)}", title="A point an image: above the line is better",
    )  # fmt: skip
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    return ax


@style()
def region_ious(region_sizes: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """IoU of every class on its small, medium and large regions, the class with the worst of them first.

    Args:
        region_sizes: region_sizes.csv: a row a class and size that occurs; columns class, size, regions, iou (0-1).

    A class has a point for each size at which it occurs, as large as the regions; how many there are stands to the right.
    """
    sizes = {"small": 22, "medium": 70, "large": 170}  # points^2
    iou, regions = (
        region_sizes.pivot(index="class", columns="size", values=column).reindex(columns=list(sizes))
        for column in ("iou", "regions")
    )
    order = (
        iou.min(axis=1)
        .reindex([name for name in classes.names if name in iou.index])
        .sort_values(kind="stable")
        .index
    )
    ax = axes(ax, 7.2, 1.5 + 0.3 * len(order))
    if not len(order):
        return empty(ax, "no region to be found")
    colors = dict(zip(classes.names, rgb(classes), strict=True))
    rows = np.arange(len(order))
    ax.hlines(
        rows, iou.loc[order].min(axis=1), iou.loc[order].max(axis=1), color="#c9c9c9", linewidth=1.2, zorder=1
    )
    for size, area in sizes.items():
        ax.scatter(
            iou.loc[order, size], rows, s=area, c=[colors[name] for name in order], edgecolor=INK, linewidth=0.8,
            clip_on=False, zorder=4 - list(sizes).index(size),
        )  # fmt: skip
        ax.scatter([], [], s=area, color="#b0b0b0", edgecolor=INK, linewidth=0.8, label=size)
    for row, name in zip(rows, order, strict=True):
        told = " / ".join(f"{n:.0f}" for n in regions.loc[name].fillna(0))
        ax.text(1.04, row, told, va="center", fontsize=8, transform=ax.get_yaxis_transform())
    ax.text(
        1.04,
        -1.1,
        "how many of each",
        va="center",
        fontsize=8,
        color=MUTED,
        transform=ax.get_yaxis_transform(),
    )
    ax.set_yticks(rows, [text(name, 28) for name in order])
    ax.set(
        xlim=(0, 1),
        ylim=(len(order) - 0.4, -0.8),
        xlabel="IoU",
        title="Classes by size of their regions, worst first",
    )
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1, handletextpad=0.5, borderpad=0.2
    )
    ax.set_title(ax.get_title(loc="left"), pad=26)
    return ax
