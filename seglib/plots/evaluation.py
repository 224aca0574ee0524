"""Figures of 03 and 04: classes, images, regions, calibration, two runs, and where and why images fail."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from seglib.data import ClassMap
from seglib.plots import style

_SIZES = {"small": 22, "medium": 70, "large": 170}  # of regions, as points^2
_FEW_CLASSES = 20  # with more, only the cells of a matrix that stand out carry a number
_FEW_REGIONS = 5  # fewer say little about their size
_CHANGES = {"passing in both": ("o", "white"), "failing in both": ("X", style.GREY)}
_CHANGES |= {"fixed": ("^", style.BLUE), "regressed": ("v", style.VERMILION)}
_ERRORS = {  # hatches tell what greyscale does not
    "false_negative": (style.BLUE, "", "false negative regions"),
    "misclassified": (style.ORANGE, "////", "misclassified regions"),
    "false_positive": (style.PINK, "", "false positive regions"),
    "boundary": (style.SKY, "\\\\\\\\", "boundary"),
    "noise": ("white", "....", "noise"),
}


@style.apply
def class_ious(per_class: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the IoU of every class as bars, worst first, with precision, recall and the mean.

    `per_class`: columns class, iou, precision, recall (0-1; IoU NaN for a class that does not occur).
    """
    table = per_class.sort_values("iou", kind="stable").reset_index()
    ax = style.rows(ax, table["class"], "Classes, worst first", "IoU, precision, recall", xlim=(0, 1))
    look = {"color": style.rgb(table["class"], classes), "edgecolor": style.INK, "linewidth": 0.6}
    ax.barh(table.index, table["iou"], height=0.68, **look)
    known = table[table["iou"].notna()]  # precision and recall of the others are 0 by convention: no finding
    # One above the other: where they are equal, neither hides the other.
    for name, marker, color, place in ("precision", "v", "white", -0.19), ("recall", "^", style.INK, 0.19):
        style.dots(ax, known[name], known.index + place, marker=marker, color=color, s=26, label=name)
    style.beside(ax, ["does not occur" if np.isnan(iou) else f"{iou:.3f}" for iou in table["iou"]], "IoU")
    mean = table["iou"].mean()
    ax.axvline(mean, color=style.INK, linestyle="--", linewidth=1, label=f"mean IoU {mean:.3f}")
    return style.legend_above(ax)


@style.apply
def iou_distribution(per_image: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the images' mean IoU (column miou; 0-1 or NaN); failures (below `threshold`) stand out."""
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

    `per_image_class_iou`: a column a class (0-1, NaN where the class does not count).
    """
    table = per_image_class_iou.reindex(columns=list(classes.names)).astype(float)
    order = list(table.median().sort_values(kind="stable").index)
    colors = zip(order, style.rgb(order, classes), strict=True)
    groups = {name: (table[name], color) for name, color in colors}
    title = "Classes by image, lowest median first"
    ax = style.strips(ax, groups, title, "IoU of the class in an image", xlim=(0, 1))
    rows = np.arange(len(order))
    low, median, high = table[order].quantile([0.25, 0.5, 0.75]).to_numpy()
    ax.barh(rows, high - low, 0.72, low, fill=False, edgecolor=style.INK, linewidth=1.1, zorder=4)
    ax.vlines(median, rows - 0.36, rows + 0.36, color=style.INK, linewidth=2.4, zorder=4)
    style.beside(ax, table[order].count().astype(str), "images")
    return ax


@style.apply
def region_ious(region_sizes: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the IoU of every class on its small, medium and large regions, worst class first.

    `region_sizes`: a row a class and size that occurs; columns class, size, regions, iou (0-1). Marks of fewer than
    5 regions are hollow, and count for the order only where a class has no others.
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
    """Draw a reliability diagram: how often the model is right at each confidence, and its calibration error.

    `calibration`: a row a bin: confidence_from, confidence_to, pixels, share, confidence, accuracy (0-1); None where
    no pixel has a confidence. A number in each bar is its share of the pixels; bins of fewer than 1 % are left out.
    """
    if calibration is None or not calibration["pixels"].any():
        return style.empty(ax, "no pixel has a confidence")
    table = calibration[calibration["share"] >= 0.01]
    ax = style.axes(ax, 4.6, 5.5)
    left, width = table["confidence_from"], table["confidence_to"] - table["confidence_from"]
    accuracy, gap = table["accuracy"], table["confidence"] - table["accuracy"]
    edge = {"align": "edge", "edgecolor": style.INK, "linewidth": 0.6}
    ax.bar(left, accuracy, width, color=style.SKY, label="accuracy", **edge)
    over = {"color": "none", "hatch": "////", "edgecolor": style.VERMILION, "label": "overconfident"}
    under = {"color": style.BLUE, "label": "underconfident"}
    for part, look in (gap > 0.002, over), (gap < -0.002, under):
        if part.any():
            ax.bar(left[part], gap[part], width[part], accuracy[part], **edge | look)
    for middle, share in zip(left + width / 2, table["share"], strict=True):
        ax.text(middle, 0.012, f"{share:.0%}", ha="center", fontsize=7.5)
    ax.plot([0, 1], [0, 1], color=style.INK, linestyle="--", linewidth=1, label="calibrated")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"Reliability, ECE {ece:.3f}")
    ax.set_xlabel("confidence of the predicted class\n(in the bars: share of all pixels)")
    ax.set_ylabel("share of pixels right")
    ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), ncols=2)  # inside, it could cover bars
    return ax


@style.apply
def run_comparison(
    per_image: pd.DataFrame, first: str, second: str, threshold: float = 0.5, ax: Axes | None = None
) -> Axes:
    """Draw two runs, a point an image; the corners are fixed and regressed images, the largest moves carry their id.

    `per_image`: columns id, miou_first, miou_second (0-1), difference, change.
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


@style.apply
def lost_iou(failures: pd.DataFrame, count: int = 20, ax: Axes | None = None) -> Axes:
    """Draw where the `count` worst failures lost their IoU: a bar an image, its length 1 - mIoU, by kind of error.

    `failures`: columns id, miou (0-1) and lost_<kind> of every kind of error, points of IoU that add up to 1 - miou.
    """
    lost = failures.reindex(columns=["id", "miou", *(f"lost_{kind}" for kind in _ERRORS)]).dropna()
    table = lost.sort_values("miou", kind="stable").head(count)
    if table.empty:
        return style.empty(ax, "no failure of which it is known where the IoU was lost")
    title = f"Where the IoU was lost: the worst {len(table)} of {len(failures)} failures"
    xlabel = "lost IoU (1 - mean IoU of the image)"
    ax = style.rows(ax, table["id"], title, xlabel, 0.25, width=50, xlim=(0, 1))
    start = np.zeros(len(table))
    for kind, (color, hatch, label) in _ERRORS.items():
        part = table[f"lost_{kind}"].to_numpy(float)
        # The edge of an empty part would show as a line.
        look = {"hatch": hatch, "edgecolor": style.INK, "linewidth": np.where(part > 0, 0.4, 0)}
        ax.barh(range(len(table)), part, left=start, height=0.78, color=color, label=label, **look)
        start += part
    style.beside(ax, [f"{miou:.3f}" for miou in table["miou"]], "mean IoU")
    return style.legend_above(ax, columns=3)


@style.apply
def costly_confusions(costs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the costliest confusions: by how much the mean IoU would rise if their pixels were right.

    `costs`: columns of `failures.error_costs`.
    """
    if costs.empty:
        return style.empty(ax, "no confusion: every valid pixel is right")
    table, title = list(costs.itertuples()), "Confusions that cost most (ground truth → prediction)"
    names = [f"{r.truth} → {r.prediction}" for r in table]
    ax = style.rows(ax, names, title, "gain if these pixels were right (points of IoU)", width=50)
    rows, label = range(len(table)), "mean IoU of an image, on average"
    ax.barh(rows, costs["gain"], height=0.66, color=style.BLUE, label="mean IoU of the split")
    style.dots(ax, costs["gain_image"], rows, color=style.ORANGE, marker="D", label=label)
    style.beside(ax, [f"+{r.gain:.3f}, {r.share:.0%} of the true class, images: {r.images}" for r in table])
    ax.set_xlim(left=0)
    return style.legend_above(ax)


@style.apply
def threshold_curve(scores: pd.DataFrame, limits: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """Draw how many images fail at every threshold, the chosen one marked: a line a column of `scores`.

    `scores`: IoUs, a row an image (0-1 or NaN); `limits`: the thresholds of the columns that are drawn.
    """
    known = {name: scores[name].dropna().to_numpy(float) for name in limits}
    if not any(len(values) for values in known.values()):
        return style.empty(ax, "no image has a score")
    ax = style.axes(ax, 6.4, 3.8)
    for k, (name, values) in enumerate((name, values) for name, values in known.items() if len(values)):
        below = np.count_nonzero(values < limits[name])
        share, color = below / len(values), style.COLORS[k % 6]
        label = f"{style.text(name)} below {limits[name]:.3g}: {below} of {len(values)} images ({share:.0%})"
        ax.ecdf(values, label=label, color=color, linestyle=("-", "--", "-.", ":")[k % 4])
        ax.plot(limits[name], share, "o", color=color, markersize=7, clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1), title="How many images fail at which threshold")
    ax.set(xlabel="threshold: IoU in an image", ylabel="images that fail")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid()
    return style.legend_above(ax, columns=1)


@style.apply
def confusion_matrix(
    counts: np.ndarray, classes: ClassMap, ax: Axes | None = None, normalize: bool = True, title: str = ""
) -> Axes:
    """Draw the confusion matrix of (C, C) pixel counts: rows ground truth, columns prediction.

    `normalize` shows each row as shares of the true class's pixels (%), numbers below 0.5 % left out.
    """
    counts = np.asarray(counts, float)
    if not counts.any():
        return style.empty(ax, "confusion matrix: no valid pixel to count")
    names, totals = [style.text(name, 24) for name in classes.names], counts.sum(axis=1)
    shares = totals / counts.sum()
    told = [f"{part:.1%}" if part >= 0.001 else "<0.1%" if part else "absent" for part in shares]
    rows = [f"{name}  {share}" for name, share in zip(names, told, strict=True)]
    percent = pd.DataFrame(100 * counts, rows, names).div(np.where(totals > 0, totals, np.nan), axis=0)
    values, limit, write, label = percent, 100, "{:.0f}".format, "% of the true class"
    if not normalize:
        values = pd.DataFrame(counts, rows, names)
        limit, write, label = counts.max(), EngFormatter(places=0, sep=""), "pixels"
    size, few = len(values), len(values) <= _FEW_CLASSES
    cell, letter, small = (0.46, 0.08, 8.5) if few else (0.24, 0.065, 7)  # inches, inches, points
    longest = max(len(line) for name in names for line in name.split("\n"))
    side, label_width = max(cell * size, 2.4), letter * longest
    # Rather too wide than too high: matplotlib cuts titles off where a square axes is short of width.
    ax = style.axes(ax, 1.06 * side + label_width + 1.75, side + 0.8 * label_width + 0.8)
    noted = percent >= 0.5 if few else (percent >= 10) & ~np.eye(size, dtype=bool)
    look = {"cmap": mpl.colormaps["Blues"].with_extremes(bad="#eeeeee"), "norm": PowerNorm(0.5, 0, limit)}
    look |= {"annot": values.map(write).where(noted, ""), "annot_kws": {"fontsize": small - 1}, "fmt": ""}
    look |= {"linewidths": 0.6 * few, "square": True, "xticklabels": True, "yticklabels": True}
    bar = {"shrink": 0.6, "aspect": 22, "pad": 0.02, "ticks": MaxNLocator(5, integer=True)}
    bar |= {"label": f"{label}, colours by square root", "format": lambda value, _: write(value)}
    sns.heatmap(values, ax=ax, cbar_kws=bar, **look)
    ax.tick_params(length=0, labelsize=small)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=90)
    ax.set(xlabel="prediction", ylabel="ground truth (share of pixels)")
    ax.set_title(style.text(title or "Confusion matrix", 80))
    return ax
