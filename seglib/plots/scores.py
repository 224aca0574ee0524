"""Tables of shares and scores -> one axes each: takes `ax` (or makes a figure of the right size), returns it, writes nothing."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from seglib.data import ClassMap
from seglib.plots.style import INK, MUTED, SEVERITY, axes, empty, rgb, sheet, style, text


@style()
def class_shares(class_stats: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """How common every class is: its share of the scored pixels and of the images, a row a class, rarest first.

    Args:
        class_stats: columns split, class, pixel_share, image_share (both 0-1); one row a class and split.

    A class that a split lacks is drawn at the left edge, in red.
    """
    splits = list(dict.fromkeys(class_stats["split"]))
    shares = class_stats.set_index(["class", "split"])[["pixel_share", "image_share"]]
    rarest = shares["pixel_share"].groupby("class").max().reindex(list(classes.names)).fillna(0.0)
    order = list(rarest.sort_values(kind="stable").index)
    ax = axes(ax, 7.2, 1.5 + len(order) * max(0.28, 0.13 * len(splits)))
    present = shares["pixel_share"][shares["pixel_share"] > 0]
    floor = 10.0 ** np.floor(np.log10(100 * present.min() if len(present) else 1.0) - 0.15)
    colors, markers = dict(zip(classes.names, rgb(classes), strict=True)), "osD^vP"
    for row, name in enumerate(order):
        for k, split in enumerate(splits):
            if (name, split) not in shares.index:
                continue
            y = row + (k - (len(splits) - 1) / 2) * 0.6 / max(len(splits), 1)
            pixel, image = 100 * shares.loc[(name, split)].to_numpy(float)
            if not pixel > 0:
                ax.plot(
                    floor, y, "x", color="#c1121f", markersize=6, markeredgewidth=1.8, clip_on=False, zorder=3
                )
                continue
            ax.plot([pixel, image], [y, y], color="#c9c9c9", linewidth=1.2, zorder=1)
            look = {
                "marker": markers[k % len(markers)],
                "markersize": 6,
                "markeredgewidth": 0.9,
                "linestyle": "none",
                "clip_on": False,
            }
            ax.plot(pixel, y, markerfacecolor=colors[name], markeredgecolor=INK, **look)
            ax.plot(image, y, markerfacecolor="white", markeredgecolor=INK, **look)
    ax.set(
        xscale="log",
        xlim=(floor, 100),
        xlabel="share (%, logarithmic)",
        title="How common each class is, rarest first",
    )
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    _rows(ax, [text(name, 28) for name in order])
    shape = [
        Line2D([], [], marker=markers[k % len(markers)], color=MUTED, linestyle="none", label=text(s))
        for k, s in enumerate(splits)
    ]
    fill = [Line2D([], [], marker="o", markerfacecolor=f, markeredgecolor=INK, linestyle="none", label=name)
            for f, name in (("#9a9a9a", "of pixels"), ("white", "of images"))]  # fmt: skip
    if len(present) < len(shares):
        fill.append(
            Line2D([], [], marker="x", color="#c1121f", markeredgewidth=1.8, linestyle="none", label="absent")
        )
    _legend_above(ax, [*shape, *fill])
    return ax


@style()
def class_ious(per_class: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """IoU of every class as bars, worst first, with precision and recall as markers and the mean as a line.

    Args:
        per_class: per_class.csv: columns class, iou, precision, recall (0-1, NaN for a class that does not occur).
    """
    table = (
        per_class.set_index("class")
        .reindex(list(classes.names))
        .sort_values("iou", kind="stable", na_position="last")
    )
    table.loc[table["iou"].isna(), ["precision", "recall"]] = np.nan  # 0 by convention there, and no finding
    ax = axes(ax, 7.2, 1.5 + 0.29 * len(table))
    colors = dict(zip(classes.names, rgb(classes), strict=True))
    rows = np.arange(len(table))
    ax.barh(
        rows, table["iou"], height=0.68, color=[colors[n] for n in table.index], edgecolor=INK, linewidth=0.6
    )
    look = {
        "linestyle": "none",
        "markersize": 6,
        "markeredgecolor": INK,
        "markeredgewidth": 0.8,
        "clip_on": False,
    }
    ax.plot(table["precision"], rows, marker="<", markerfacecolor="white", label="precision", **look)
    ax.plot(table["recall"], rows, marker=">", markerfacecolor=INK, label="recall", **look)
    for row, value in zip(rows, table["iou"], strict=True):
        shown = "does not occur" if np.isnan(value) else f"{value:.3f}"
        ax.text(
            1.03,
            row,
            shown,
            va="center",
            transform=ax.get_yaxis_transform(),
            color=INK if np.isfinite(value) else MUTED,
        )
    mean = table["iou"].mean()
    if np.isfinite(mean):
        ax.axvline(mean, color=INK, linestyle="--", linewidth=1, label=f"mean IoU {mean:.3f}")
    ax.set(xlim=(0, 1), xlabel="IoU, precision, recall", title="Classes, worst first")
    _rows(ax, [text(name, 28) for name in table.index])
    _legend_above(ax, ax.get_legend_handles_labels()[0])
    return ax


@style()
def iou_distribution(per_image: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """How the per-image mean IoU spreads: a histogram whose failures (below `threshold`) stand out.

    Args:
        per_image: per_image.csv: column miou (0-1; NaN for an image without a scored pixel, which is counted in the legend).
    """
    ax = axes(ax, 6.4, 3.4)
    scores = per_image["miou"].dropna().to_numpy(float)
    unscored = len(per_image) - len(scores)
    if not len(scores):
        return empty(ax, "no image has a score")
    bins = np.linspace(0, 1, 41)
    failed = scores < threshold
    ax.hist(
        scores[failed],
        bins,
        color=SEVERITY["clear"],
        edgecolor="white",
        linewidth=0.6,
        label=f"below {threshold:g}: {failed.sum()} of {len(scores)} images",
    )
    ax.hist(
        scores[~failed],
        bins,
        color="#a9c5dd",
        edgecolor="white",
        linewidth=0.6,
        label=f"at or above: {(~failed).sum()}",
    )
    ax.axvline(threshold, color=INK, linewidth=1)
    ax.axvline(
        scores.mean(),
        color=INK,
        linestyle="--",
        linewidth=1,
        label=f"mean {scores.mean():.3f}",
    )
    if unscored:
        ax.plot([], [], " ", label=f"{unscored} without a scored pixel")
    ax.set(xlim=(0, 1), xlabel="mean IoU of an image", ylabel="images", title="How the images spread")
    ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.grid(axis="y")
    _legend_above(ax, ax.get_legend_handles_labels()[0], columns=3)
    return ax


@style()
def per_class_image_iou(per_image_class_iou: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """The spread of each class's IoU over images: a dot an image, box = quartiles, line = median; lowest median first.

    Args:
        per_image_class_iou: per_image_class_iou.csv: id, then a column a class (0-1, NaN where it does not count).
    """
    values = {
        name: per_image_class_iou[name].dropna().to_numpy(float)
        for name in classes.names
        if name in per_image_class_iou
    }
    values |= {name: np.empty(0) for name in classes.names if name not in values}
    order = sorted(classes.names, key=lambda name: np.median(values[name]) if len(values[name]) else np.inf)
    ax = axes(ax, 7.2, 1.5 + 0.32 * len(order))
    colors = dict(zip(classes.names, rgb(classes), strict=True))
    jitter = np.random.default_rng(0)
    for row, name in enumerate(order):
        scores = values[name]
        if not len(scores):
            ax.text(0.01, row, "in no image", va="center", color=MUTED)
            continue
        y = row + jitter.uniform(-0.3, 0.3, len(scores))
        alpha = float(np.clip(12 / np.sqrt(len(scores) + 1), 0.25, 0.9))
        ax.scatter(
            scores,
            y,
            s=16,
            color=[colors[name]],
            edgecolor=INK,
            linewidth=0.3,
            alpha=alpha,
            rasterized=True,
            clip_on=False,
        )
        if len(scores) > 2:
            low, median, high = np.percentile(scores, [25, 50, 75])
            ax.add_patch(
                mpl.patches.Rectangle(
                    (low, row - 0.36), high - low, 0.72, fill=False, edgecolor=INK, linewidth=1.1, zorder=3
                )
            )
            ax.plot([median, median], [row - 0.36, row + 0.36], color=INK, linewidth=2.4, zorder=3)
        ax.text(1.03, row, f"{len(scores)}", va="center", transform=ax.get_yaxis_transform(), color=MUTED)
    ax.text(1.03, 1.0, "images", va="bottom", transform=ax.transAxes, color=MUTED)
    ax.set(
        xlim=(0, 1),
        xlabel="IoU of the class in one image",
        title="Classes, image by image, lowest median first",
    )
    _rows(ax, [text(name, 28) for name in order])
    return ax


@style()
def image_properties(samples: pd.DataFrame, limits: pd.DataFrame | None = None) -> Figure:
    """Brightness, contrast, entropy and focus of every image, one row a split: what lies apart from the rest.

    Args:
        samples: samples.csv of a data check: `split` and the four, NaN where a file was unreadable.
        limits: its limits.csv: `column` and `limit`, drawn as lines beyond which an image lies apart.
    """
    units = {
        "brightness": "mean grey value, 0-255",
        "contrast": "standard deviation of grey values",
        "entropy": "of the grey values, bits",
        "focus": "variance of the Laplacian / contrast²",
    }
    splits, drawn = list(dict.fromkeys(samples["split"])), []
    fig, axs = sheet(1, 4, 13, 1.4 + 0.45 * max(1, len(splits)))
    for ax, (column, unit) in zip(axs[0], units.items(), strict=True):
        known = samples.dropna(subset=[column])
        if known.empty:
            empty(ax, "no readable image")
            continue
        sns.stripplot(
            known, x=column, y="split", order=splits, color="#0072b2", alpha=0.5, size=3, jitter=0.3, ax=ax
        )
        ax.set(title=column.capitalize(), xlabel=unit, ylabel="")
        ax.grid(axis="x")
        for limit in () if limits is None else limits.loc[limits["column"] == column, "limit"]:
            if (
                known[column].min() <= limit <= known[column].max()
            ):  # one that nothing passes would only squeeze the dots
                drawn.append(ax.axvline(limit, color="#d55e00", linestyle="--", linewidth=1.2))
    if drawn:
        fig.legend(
            handles=drawn[:1],
            labels=["beyond it an image lies apart from the rest"],
            loc="outside lower left",
        )
    return fig


def _rows(ax: Axes, labels: list[str]) -> None:
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)  # the first row on top
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def _legend_above(ax: Axes, handles: list, columns: int = 0) -> None:
    """A legend between title and axes: inside, it would cover data; beside, it would squeeze them."""
    if not handles:
        return
    columns = columns or len(handles)
    lines = -(-len(handles) // columns)
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.1,
        handletextpad=0.5,
        columnspacing=1.4,
        borderpad=0.2,
    )
    ax.set_title(ax.get_title(loc="left"), pad=9 + 15 * lines)
