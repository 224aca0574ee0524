"""Figures of an evaluation: classes, images, regions, calibration, and two runs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from seglib.data import ClassMap
from seglib.plots import style

_SIZES = {"small": 22, "medium": 70, "large": 170}  # of regions, as points^2
_FEW_REGIONS = 5  # fewer say little about their size
_FEW_PIXELS = 0.01  # of all: a bin with fewer says little about its confidence
_CHANGES = {"fine in both": ("o", "white"), "failing in both": ("X", style.GREY)}
_CHANGES |= {"fixed": ("^", style.BLUE), "regressed": ("v", style.VERMILION)}


@style.apply
def class_ious(per_class: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the IoU of every class as bars, worst first, with precision, recall and the mean.

    `per_class`: columns class, iou, precision, recall (0-1, NaN for a class that does not occur).
    """
    table = per_class.sort_values("iou", kind="stable").reset_index()
    ax = style.rows(ax, table["class"], "Classes, worst first", "IoU, precision, recall", xlim=(0, 1))
    look = {"color": style.rgb(table["class"], classes), "edgecolor": style.INK, "linewidth": 0.6}
    ax.barh(table.index, table["iou"], height=0.68, **look)
    known = table[table["iou"].notna()]  # precision and recall of the others are 0 by convention: no finding
    # One above the other: where they are equal, neither hides the other.
    for column, marker, color, place in (
        ("precision", "v", "white", -0.19),
        ("recall", "^", style.INK, 0.19),
    ):
        style.dots(ax, known[column], known.index + place, marker=marker, color=color, s=26, label=column)
    style.beside(ax, ["does not occur" if np.isnan(iou) else f"{iou:.3f}" for iou in table["iou"]], "IoU")
    mean = table["iou"].mean()
    ax.axvline(mean, color=style.INK, linestyle="--", linewidth=1, label=f"mean IoU {mean:.3f}")
    return style.legend_above(ax)


@style.apply
def iou_distribution(per_image: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the images' mean IoU; failures (below `threshold`) stand out.

    `per_image`: column miou (0-1; NaN for an image without a valid pixel, which the legend counts).
    """
    scores = per_image["miou"].dropna().to_numpy(float)
    if not len(scores):
        return style.empty(ax, "no image has a score")
    ax = style.axes(ax, 6.4, 3.4)
    below, above = scores[scores < threshold], scores[scores >= threshold]
    labels = [f"below {threshold:g}: {len(below)} of {len(scores)} images", f"at or above: {len(above)}"]
    look = {"bins": np.linspace(0, 1, 41), "edgecolor": "white", "linewidth": 0.6, "stacked": True}
    ax.hist([below, above], color=[style.VERMILION, style.SKY], label=labels, **look)
    ax.axvline(threshold, color=style.INK, linewidth=1)
    ax.axvline(scores.mean(), color=style.INK, linestyle="--", linewidth=1, label=f"mean {scores.mean():.3f}")
    if unscored := len(per_image) - len(scores):
        ax.plot([], [], " ", label=f"{unscored} without a valid pixel")
    ax.set(xlim=(0, 1), xlabel="mean IoU of an image", ylabel="images", title="How the images spread")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y")
    return style.legend_above(ax, columns=3)


@style.apply
def per_class_image_iou(per_image_class_iou: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the spread of each class's IoU over images: dots, quartiles (box) and median; lowest median first.

    `per_image_class_iou`: id, then a column a class (0-1, NaN where the class does not count).
    """
    table = per_image_class_iou.reindex(columns=list(classes.names)).astype(float)
    order = list(table.median().sort_values(kind="stable").index)
    rows, jitter = np.arange(len(order)), np.random.default_rng(0)
    ax = style.rows(
        ax, order, "Classes by image, lowest median first", "IoU of the class in an image", xlim=(0, 1)
    )
    for row, name, color in zip(rows, order, style.rgb(order, classes), strict=True):
        look = {"s": 16, "color": [color], "alpha": 0.6, "linewidth": 0.3, "rasterized": True}
        style.dots(ax, table[name], row + jitter.uniform(-0.3, 0.3, len(table)), **look)
    low, median, high = table[order].quantile([0.25, 0.5, 0.75]).to_numpy()
    ax.barh(rows, high - low, 0.72, low, fill=False, edgecolor=style.INK, linewidth=1.1, zorder=4)
    ax.vlines(median, rows - 0.36, rows + 0.36, color=style.INK, linewidth=2.4, zorder=4)
    style.beside(ax, table[order].count().astype(str), "images")
    return ax


@style.apply
def region_ious(region_sizes: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the IoU of every class on its small, medium and large regions, worst class first.

    `region_sizes`: a row a class and size that occurs; columns class, size, regions, iou (0-1).
    The numbers on the right tell how many regions of each size there are. Marks of fewer than 5 regions are hollow,
    and count for the order only where a class has no others.
    """
    if not len(region_sizes):
        return style.empty(ax, "no region to be found")
    table = region_sizes.pivot(index="class", columns="size", values=["iou", "regions"])
    table = table.reindex(columns=pd.MultiIndex.from_product([("iou", "regions"), _SIZES]))
    table = table.reindex([name for name in classes.names if name in table.index])
    known = table["iou"].where(table["regions"] >= _FEW_REGIONS)
    order = known.min(axis=1).fillna(table["iou"].min(axis=1)).sort_values(kind="stable").index
    iou, regions, known = table["iou"].loc[order], table["regions"].loc[order].fillna(0), known.loc[order]
    ax = style.rows(ax, order, "Classes by size of their regions, worst first", "IoU", xlim=(0, 1))
    rows, colors = np.arange(len(order)), style.rgb(order, classes)
    ax.hlines(rows, known.min(axis=1), known.max(axis=1), color=style.GREY, linewidth=1.2, zorder=1)
    for k, (size, area) in enumerate(_SIZES.items()):
        fill = np.where(regions[[size]] < _FEW_REGIONS, 1.0, colors)
        style.dots(ax, iou[size], rows, s=area, c=fill, zorder=4 - k)
        style.dots(ax, [], [], s=area, color=style.GREY, label=size)
    style.dots(ax, [], [], color="white", label=f"fewer than {_FEW_REGIONS} regions")
    style.beside(ax, [" / ".join(f"{n:.0f}" for n in row) for row in regions.to_numpy()], "how many of each")
    return style.legend_above(ax)


@style.apply
def reliability(calibration: pd.DataFrame | None, ece: float = float("nan"), ax: Axes | None = None) -> Axes:
    """Draw a reliability diagram: how often the model is right at each confidence.

    Args:
        calibration: a row a bin: confidence_from, confidence_to, pixels, share, confidence, accuracy (0-1);
            None where no pixel has a confidence.
        ece: expected calibration error, for the title.

    Bars: accuracy; the hatched part is what the confidence promises beyond it, the dark part what it leaves out. A
    number in each bar is its share of the pixels; bars of fewer than 1 % are pale and without either.
    """
    if calibration is None or not calibration["pixels"].any():
        return style.empty(ax, "no pixel has a confidence")
    table = calibration[calibration["pixels"] > 0]
    ax = style.axes(ax, 4.6, 5.5)
    left, width = table["confidence_from"], table["confidence_to"] - table["confidence_from"]
    accuracy, few = table["accuracy"], table["share"] < _FEW_PIXELS
    gap, hatched = table["confidence"] - accuracy, {"hatch": "////", "edgecolor": style.VERMILION}
    parts = {
        "accuracy": (~few, 0 * gap, accuracy, {"color": style.SKY}),
        "below 1 % of the pixels": (few, 0 * gap, accuracy, {"color": style.SKY, "alpha": 0.2}),
        "overconfident": (~few & (gap > 0.002), accuracy, gap, {"color": "none"} | hatched),
        "underconfident": (~few & (gap < -0.002), accuracy, gap, {"color": style.BLUE}),
    }
    for label, (part, bottom, height, look) in parts.items():
        if part.any():
            look = {"edgecolor": style.INK, "linewidth": 0.6, "label": label} | look
            ax.bar(left[part], height[part], width[part], bottom[part], align="edge", **look)
    for middle, share in zip(left + width / 2, table["share"], strict=True):
        ax.text(middle, 0.012, f"{share:.0%}" if share >= 0.01 else "<1%", ha="center", fontsize=7.5)
    ax.plot([0, 1], [0, 1], color=style.INK, linestyle="--", linewidth=1, label="calibrated")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"Reliability, ECE {ece:.3f}")
    ax.set(
        xlabel="confidence of the predicted class\n(in the bars: share of all pixels)",
        ylabel="share of pixels right",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), ncols=2)  # inside, it could cover bars
    return ax


@style.apply
def run_comparison(
    per_image: pd.DataFrame, first: str, second: str, threshold: float = 0.5, ax: Axes | None = None
) -> Axes:
    """Draw two runs, a point an image: above the diagonal the second run is better.

    Args:
        per_image: columns id, miou_first, miou_second (0-1), difference, change.
        first, second: names of the runs.

    The shaded corners are fixed and regressed images. The two largest moves carry the image's id.
    """
    table = per_image.dropna(subset=["difference"]).sort_values("difference", kind="stable")
    if not len(table):
        return style.empty(ax, "no image has a score in both runs")
    ax = style.axes(ax, 5.2, 5.0)
    ax.axhspan(threshold, 1, xmax=threshold, color=style.BLUE, alpha=0.07, linewidth=0)
    ax.axhspan(0, threshold, xmin=threshold, color=style.VERMILION, alpha=0.07, linewidth=0)
    ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1)
    for change, (marker, color) in _CHANGES.items():
        part = table[table["change"] == change]
        look = {"marker": marker, "color": color, "label": f"{change} ({len(part)})"}
        style.dots(ax, part["miou_first"], part["miou_second"], **look)
    for row in table.iloc[sorted({0, len(table) - 1})].itertuples():
        place = {"ha": "left" if row.miou_first < 0.7 else "right", "textcoords": "offset points"}
        at, above = (row.miou_first, row.miou_second), (0, 7 if row.difference > 0 else -13)
        ax.annotate(style.text(row.id, 40), at, above, fontsize=7.5, **place)
    names = [f"mean IoU of the image, {style.text(name, 60)}" for name in (first, second)]
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=names[0], ylabel=names[1])
    ax.set_title("A point an image: above the line is better")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    return ax
