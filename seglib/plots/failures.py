"""Figures of a failure analysis: where IoU was lost, confusions, thresholds, degraded images."""

from math import floor

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglib.checks import KINDS, QUALITY_OF, Reference
from seglib.plots import style

_ERRORS = {  # hatches tell what greyscale does not
    "false_negative": (style.BLUE, "", "false negative regions"),
    "misclassified": (style.ORANGE, "////", "misclassified regions"),
    "false_positive": (style.PINK, "", "false positive regions"),
    "boundary": (style.SKY, "\\\\\\\\", "boundary"),
    "noise": ("white", "....", "noise"),
}
_DASHES = ("-", "--", "-.", ":")
_QUALITIES = {"sharpness": "sharpness", "noise": "noise, grey levels"}
_QUALITIES |= {"highlights": "grey value of the brightest 1 %", "contrast_ratio": "contrast / brightness"}


@style.apply
def lost_iou(failures: pd.DataFrame, count: int = 20, ax: Axes | None = None) -> Axes:
    """Draw where the worst failures lost their IoU: a bar an image, its length 1 - mIoU, parted by kind of error.

    Args:
        failures: columns id, miou (0-1) and lost_<kind> of every kind of error (points of IoU that add up to
            1 - miou); images without them are left out.
        count: how many, the worst first.
    """
    lost = failures.reindex(columns=["id", "miou", *(f"lost_{kind}" for kind in _ERRORS)]).dropna()
    table = lost.sort_values("miou", kind="stable").head(count)
    if table.empty:
        return style.empty(ax, "no failure of which it is known where the IoU was lost")
    title = f"Where the IoU was lost: the worst {len(table)} of {len(failures)} failures"
    names = [style.shortened(i, 34) for i in table["id"]]
    xlabel = "lost IoU (a bar's length is 1 - mean IoU of the image)"
    ax = style.rows(ax, names, title, xlabel, 0.25, width=40, xlim=(0, 1))
    start = np.zeros(len(table))
    for kind, (color, hatch, label) in _ERRORS.items():
        part = table[f"lost_{kind}"].to_numpy(float)
        # The edge of an empty part would show as a line.
        look = {"hatch": hatch, "edgecolor": style.INK, "linewidth": np.where(part > 0, 0.4, 0)}
        ax.barh(range(len(table)), part, left=start, height=0.78, color=color, label=label, **look)
        start += part
    # Rounded down: a score just below a threshold does not read as the threshold.
    style.beside(ax, [f"{floor(round(100 * miou, 6)) / 100:.2f}" for miou in table["miou"]], "mean IoU")
    return style.legend_above(ax, columns=3)


@style.apply
def costly_confusions(costs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the costliest confusions: by how much the mean IoU would rise if their pixels were right.

    Args:
        costs: columns truth, prediction, share (0-1), images, gain (points of the split's mean IoU), gain_image
            (of the images' own mIoU, on average).
    """
    if costs.empty:
        return style.empty(ax, "no confusion: every valid pixel is right")
    table, title = list(costs.itertuples()), "Confusions that cost most (ground truth → prediction)"
    names = [f"{style.shortened(r.truth, 20)} → {style.shortened(r.prediction, 20)}" for r in table]
    ax = style.rows(ax, names, title, "gain if these pixels were right (points of IoU)", width=50)
    rows, label = range(len(table)), "mean IoU of an image, on average"
    ax.barh(rows, costs["gain"], height=0.66, color=style.BLUE, label="mean IoU of the split")
    style.dots(ax, costs["gain_image"], rows, color=style.ORANGE, marker="D", label=label)
    style.beside(ax, [f"+{r.gain:.3f}, {r.share:.0%} of the true class, images: {r.images}" for r in table])
    ax.set_xlim(left=0)
    return style.legend_above(ax)


@style.apply
def threshold_curve(curve: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how many images fail at every threshold, the chosen one marked.

    `curve`: of `failures.failure_curve`: of (a line each), threshold, images, scored, share (0-1), chosen.
    """
    known = curve.dropna(subset=["share"])
    if known.empty:
        return style.empty(ax, "no image has a score")
    ax = style.axes(ax, 6.4, 3.8)
    for k, (name, line) in enumerate(known.groupby("of", sort=False)):
        at = line[line["chosen"]].iloc[0]
        failing = f"{at['images']:.0f} of {at['scored']:.0f} images ({at['share']:.0%})"
        label = f"{'mean IoU' if name == 'mIoU' else style.text(name)} below {at['threshold']:.3g}: {failing}"
        look = {"color": style.COLORS[k % 6], "linestyle": _DASHES[k % 4], "clip_on": False}
        mark = {"marker": "o", "markersize": 7, "markevery": list(np.flatnonzero(line["chosen"]))}
        ax.plot(line["threshold"], 100 * line["share"], label=label, **look, **mark)
    ax.set(xlim=(0, 1), ylim=(0, 100), title="How many images fail at which threshold")
    ax.set(xlabel="threshold: IoU in an image", ylabel="images that fail (%)")
    ax.grid()
    return style.legend_above(ax, columns=1)


@style.apply
def degradation_sheet(training: pd.DataFrame, images: pd.DataFrame, failed: np.ndarray) -> Figure:
    """Draw where the images of a split lie in the training images' distribution, for every kind of degradation.

    Args:
        training, images: `checks.qualities`, a row an image.
        failed: (N,) bool, of `images`.

    The hatched side of the limit is where an image counts as degraded.
    """
    fig, axs = style.sheet(2, 2, 10, 5.4)
    failed, entries = np.asarray(failed, bool), ()
    for kind, ax in zip(KINDS, axs.flat, strict=True):
        quality, limit = QUALITY_OF[kind], Reference.of(training).limit(kind)
        known, values = (np.maximum(table[quality].to_numpy(float), 0.01) for table in (training, images))
        if not np.isfinite(known).any():
            style.empty(ax, f"no image tells its {quality.replace('_', ' ')}")
            continue
        groups = {
            "training": (known, style.MUTED),
            f"fine ({(~failed).sum()})": (values[~failed], style.BLUE),
        }
        groups |= {f"failed ({failed.sum()})": (values[failed], style.VERMILION)}
        style.strips(ax, groups, kind.capitalize(), _QUALITIES[quality], log=True)
        if np.isfinite(limit):
            ax.axvline(limit, color=style.INK, linewidth=1, linestyle="--", label="limit")
            low, high = ax.get_xlim()
            end = low if limit < np.nanmedian(known) else high
            look = {"facecolor": "none", "edgecolor": "#d9d9d9", "hatch": "///", "linewidth": 0, "zorder": 0}
            ax.axvspan(limit, end, label="counts as degraded", **look)
            ax.set_xlim(low, high)
            entries = ax.get_legend_handles_labels()
    if entries:
        fig.legend(*entries, loc="outside upper left", ncols=2)
    return fig
