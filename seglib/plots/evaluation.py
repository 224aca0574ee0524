"""Figures of an evaluation: classes, images, regions, calibration, and two runs."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from seglib.data import ClassMap
from seglib.plots import style

_SIZES = {"small": 22, "medium": 70, "large": 170}  # of regions, as points^2
_CHANGES = {
    "fine in both": ("o", "white", style.MUTED),
    "failing in both": ("X", "#9a9a9a", style.INK),
    "fixed": ("^", style.BLUE, style.INK),
    "regressed": ("v", style.VERMILION, style.INK),
}


@style.apply()
def class_ious(per_class: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the IoU of every class as bars, worst first, with precision, recall and the mean.

    Args:
        per_class: columns class, iou, precision, recall (0-1, NaN for a class that does not occur).
    """
    table = per_class.set_index("class").reindex(list(classes.names))
    table = table.sort_values("iou", kind="stable", na_position="last")
    table.loc[table["iou"].isna(), ["precision", "recall"]] = np.nan  # 0 by convention there: no finding
    ax = style.axes(ax, 7.2, 1.5 + 0.29 * len(table))
    colors, rows = style.rgb(classes), np.arange(len(table))
    bars = {"color": [colors[n] for n in table.index], "edgecolor": style.INK, "linewidth": 0.6}
    ax.barh(rows, table["iou"], height=0.68, **bars)
    look = {"linestyle": "none", "markersize": 6, "markeredgecolor": style.INK, "markeredgewidth": 0.8}
    for column, marker, color in (("precision", "<", "white"), ("recall", ">", style.INK)):
        ax.plot(
            table[column], rows, marker=marker, markerfacecolor=color, label=column, clip_on=False, **look
        )
    for row, value in zip(rows, table["iou"], strict=True):
        words, color = ("does not occur", style.MUTED) if np.isnan(value) else (f"{value:.3f}", style.INK)
        ax.text(1.03, row, words, va="center", transform=ax.get_yaxis_transform(), color=color)
    mean = table["iou"].mean()
    if np.isfinite(mean):
        ax.axvline(mean, color=style.INK, linestyle="--", linewidth=1, label=f"mean IoU {mean:.3f}")
    ax.set(xlim=(0, 1), xlabel="IoU, precision, recall", title="Classes, worst first")
    style.name_rows(ax, [style.text(name, 28) for name in table.index])
    style.legend_above(ax)
    return ax


@style.apply()
def iou_distribution(per_image: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the images' mean IoU; failures (below `threshold`) stand out.

    Args:
        per_image: column miou (0-1; NaN for an image without a valid pixel, which the legend counts).
    """
    ax = style.axes(ax, 6.4, 3.4)
    scores = per_image["miou"].dropna().to_numpy(float)
    if not len(scores):
        return style.empty(ax, "no image has a score")
    failed, look = scores < threshold, {"bins": np.linspace(0, 1, 41), "edgecolor": "white", "linewidth": 0.6}
    below = f"below {threshold:g}: {failed.sum()} of {len(scores)} images"
    ax.hist(scores[failed], color="#d1495b", label=below, **look)
    ax.hist(scores[~failed], color="#a9c5dd", label=f"at or above: {(~failed).sum()}", **look)
    ax.axvline(threshold, color=style.INK, linewidth=1)
    mean = scores.mean()
    ax.axvline(mean, color=style.INK, linestyle="--", linewidth=1, label=f"mean {mean:.3f}")
    if unscored := len(per_image) - len(scores):
        ax.plot([], [], " ", label=f"{unscored} without a valid pixel")
    ax.set(xlim=(0, 1), xlabel="mean IoU of an image", ylabel="images", title="How the images spread")
    ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.grid(axis="y")
    style.legend_above(ax, columns=3)
    return ax


@style.apply()
def per_class_image_iou(per_image_class_iou: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the spread of each class's IoU over images: dots, quartiles (box) and median; lowest median first.

    Args:
        per_image_class_iou: id, then a column a class (0-1, NaN where the class does not count).
    """
    table = per_image_class_iou.reindex(columns=list(classes.names))
    values = {name: table[name].dropna().to_numpy(float) for name in classes.names}
    order = sorted(values, key=lambda name: np.median(values[name]) if len(values[name]) else np.inf)
    ax = style.axes(ax, 7.2, 1.5 + 0.32 * len(order))
    colors, jitter = style.rgb(classes), np.random.default_rng(0)
    for row, name in enumerate(order):
        scores = values[name]
        if not len(scores):
            ax.text(0.01, row, "in no image", va="center", color=style.MUTED)
            continue
        alpha = float(np.clip(12 / np.sqrt(len(scores) + 1), 0.25, 0.9))
        look = {"s": 16, "edgecolor": style.INK, "linewidth": 0.3, "rasterized": True, "clip_on": False}
        y = row + jitter.uniform(-0.3, 0.3, len(scores))
        ax.scatter(scores, y, color=[colors[name]], alpha=alpha, **look)
        if len(scores) > 2:
            low, median, high = np.percentile(scores, [25, 50, 75])
            box = {"fill": False, "edgecolor": style.INK, "linewidth": 1.1, "zorder": 3}
            ax.add_patch(mpl.patches.Rectangle((low, row - 0.36), high - low, 0.72, **box))
            ax.plot([median, median], [row - 0.36, row + 0.36], color=style.INK, linewidth=2.4, zorder=3)
        ax.text(
            1.03, row, f"{len(scores)}", va="center", transform=ax.get_yaxis_transform(), color=style.MUTED
        )
    ax.text(1.03, 1.0, "images", va="bottom", transform=ax.transAxes, color=style.MUTED)
    ax.set(xlim=(0, 1), xlabel="IoU of the class in one image")
    ax.set_title("Classes, image by image, lowest median first")
    style.name_rows(ax, [style.text(name, 28) for name in order])
    return ax


@style.apply()
def region_ious(region_sizes: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the IoU of every class on its small, medium and large regions, worst class first.

    Args:
        region_sizes: a row a class and size that occurs; columns class, size, regions, iou (0-1).

    The numbers on the right tell how many regions of each size there are.
    """
    iou, regions = (
        region_sizes.pivot(index="class", columns="size", values=column).reindex(columns=list(_SIZES))
        for column in ("iou", "regions")
    )
    known = [name for name in classes.names if name in iou.index]
    order = iou.min(axis=1).reindex(known).sort_values(kind="stable").index
    ax = style.axes(ax, 7.2, 1.5 + 0.3 * len(order))
    if not len(order):
        return style.empty(ax, "no region to be found")
    colors, rows, beside = style.rgb(classes), np.arange(len(order)), ax.get_yaxis_transform()
    spread = iou.loc[order]
    ax.hlines(rows, spread.min(axis=1), spread.max(axis=1), color="#c9c9c9", linewidth=1.2, zorder=1)
    look = {"edgecolor": style.INK, "linewidth": 0.8}
    for k, (size, area) in enumerate(_SIZES.items()):
        fill = [colors[name] for name in order]
        ax.scatter(spread[size], rows, s=area, c=fill, clip_on=False, zorder=4 - k, **look)
        ax.scatter([], [], s=area, color="#b0b0b0", label=size, **look)
    for row, name in zip(rows, order, strict=True):
        told = " / ".join(f"{n:.0f}" for n in regions.loc[name].fillna(0))
        ax.text(1.04, row, told, va="center", fontsize=8, transform=beside)
    ax.text(1.04, -1.1, "how many of each", va="center", fontsize=8, color=style.MUTED, transform=beside)
    ax.set(xlim=(0, 1), xlabel="IoU", title="Classes by size of their regions, worst first")
    style.name_rows(ax, [style.text(name, 28) for name in order])
    ax.set_ylim(len(order) - 0.4, -0.8)
    style.legend_above(ax)
    return ax


@style.apply()
def reliability(calibration: pd.DataFrame, ece: float = float("nan"), ax: Axes | None = None) -> Axes:
    """Draw a reliability diagram: how often the model is right at each confidence.

    Args:
        calibration: a row a bin: confidence_from, confidence_to, pixels, share, confidence, accuracy (0-1).
        ece: expected calibration error, for the title.

    Bars: accuracy; the hatched part is what the confidence promises beyond it, the dark part what it leaves out. The
    thin bars at the bottom are each bin's share of the pixels.
    """
    ax = style.axes(ax, 4.6, 5.5)
    table = calibration[calibration["pixels"] > 0]
    if not len(table):
        return style.empty(ax, "no pixel has a confidence")
    left, width = table["confidence_from"], table["confidence_to"] - table["confidence_from"]
    low, high = table[["accuracy", "confidence"]].min(axis=1), table[["accuracy", "confidence"]].max(axis=1)
    look = {"align": "edge", "linewidth": 0.6}
    ax.bar(left, table["accuracy"], width, color="#9ecae1", edgecolor=style.INK, label="accuracy", **look)
    over, gap = table["confidence"] > table["accuracy"], high - low > 0.002
    sure = {"color": "none", "hatch": "////", "edgecolor": style.VERMILION, "label": "overconfident"}
    unsure = {"color": "#3182bd", "edgecolor": style.INK, "label": "underconfident"}
    for part, fill in ((over & gap, sure), (~over & gap, unsure)):
        if part.any():
            ax.bar(left[part], (high - low)[part], width[part], bottom=low[part], **fill, **look)
    thin, share = 0.28 * width, table["share"]
    ax.bar(left + 0.36 * width, 0.25 * share, thin, align="edge", color=style.INK, label="share of pixels")
    for x, part in zip(left + width / 2, share, strict=True):
        if part >= 0.01:
            ax.text(x, 0.25 * part + 0.012, f"{100 * part:.0f}%", ha="center", fontsize=7.5, color=style.INK)
    ax.plot([0, 1], [0, 1], color=style.INK, linestyle="--", linewidth=1, label="calibrated")
    ax.set(xlim=(0, 1), ylim=(0, 1.0), aspect="equal", xlabel="confidence of the predicted class")
    ax.set_ylabel("share of pixels right")
    ax.set_title(f"Reliability, ECE {ece:.3f}" if np.isfinite(ece) else "Reliability")
    ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=2)  # inside, it could cover bars
    return ax


@style.apply()
def run_comparison(
    per_image: pd.DataFrame, first: str, second: str, threshold: float = 0.5, ax: Axes | None = None
) -> Axes:
    """Draw two runs, a point an image: above the diagonal the second run is better.

    Args:
        per_image: columns id, miou_first, miou_second (0-1), difference, change.
        first, second: names of the runs.

    The shaded corners are fixed and regressed images. The three largest moves either way carry the image's id.
    """
    ax = style.axes(ax, 5.2, 5.0)
    table = per_image.dropna(subset=["miou_first", "miou_second"])
    if not len(table):
        return style.empty(ax, "no image has a score in both runs")
    ax.axhspan(threshold, 1, xmax=threshold, color=style.BLUE, alpha=0.07, linewidth=0)
    ax.axhspan(0, threshold, xmin=threshold, color=style.VERMILION, alpha=0.07, linewidth=0)
    ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1)
    for line in (ax.axhline, ax.axvline):
        line(threshold, color=style.MUTED, linewidth=0.8, linestyle=":")
    for change, (marker, face, edge) in _CHANGES.items():
        part = table[table["change"] == change]
        look = {"s": 30, "marker": marker, "facecolor": face, "edgecolor": edge, "linewidth": 0.7}
        label = f"{change} ({len(part)})"
        ax.scatter(part["miou_first"], part["miou_second"], label=label, clip_on=False, zorder=3, **look)
    _name_moves(ax, table.sort_values("difference", kind="stable"))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=f"mIoU of the image, {style.text(first)}")
    ax.set_ylabel(f"mIoU of the image, {style.text(second)}")
    ax.set_title("A point an image: above the line is better")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    return ax


def _name_moves(ax: Axes, ordered: pd.DataFrame) -> None:
    """Write the ids of the largest moves away from the diagonal, unless one would cover another."""
    worse, better = ordered[ordered["difference"] < -0.01], ordered[ordered["difference"] > 0.01]
    named = pd.concat([worse.head(3), better.tail(3)]).sort_values("difference", key=abs, ascending=False)
    placed: list[tuple[float, float]] = []
    for row in named.itertuples():
        x, y, long = row.miou_first, row.miou_second, 0.016 * len(str(row.id))  # of an axis
        if any(abs(x - a) < long and abs(y - b) < 0.035 for a, b in placed):
            continue
        placed.append((x, y))
        if row.difference > 0:
            place, align = ((-6, -3), "right") if x >= long else ((0, 7), "left")
        else:
            place, align = ((6, -3), "left") if x <= 1.02 - long else ((0, -13), "right")
        look = {"ha": align, "fontsize": 7.5, "color": style.INK}
        ax.annotate(style.text(row.id), (x, y), xytext=place, textcoords="offset points", **look)
