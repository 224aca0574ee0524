"""Where IoU was lost, what costs most and how many images fail at which threshold: takes `ax`, returns it, writes nothing."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from seglib.plots.style import INK, MUTED, axes, empty, style, text

# Okabe and Ito's colours in an order whose brightness rises and falls in turn; hatches tell what greyscale does not.
_KINDS = {
    "false_negative": ("#0b3c6f", "", "false negative regions"),
    "misclassified": ("#e69f00", "////", "misclassified"),
    "false_positive": ("#a6405f", "", "false positive regions"),
    "boundary": ("#9fd0f0", "", "boundary band"),
    "noise": ("#f4f4f4", "....", "noise"),
}
_LINES = (
    ("#0b3c6f", "-"),
    ("#d55e00", "--"),
    ("#009e73", "-."),
    ("#cc79a7", ":"),
    ("#56b4e9", (0, (5, 1, 1, 1, 1, 1))),
)


@style()
def lost_iou(failures: pd.DataFrame, count: int = 20, ax: Axes | None = None) -> Axes:
    """Where the worst failures lost their IoU: a bar an image, its length 1 - mIoU, parted by kind of error.

    Args:
        failures: failures.csv: columns id, miou (0-1) and lost_boundary, lost_false_negative, lost_false_positive, lost_misclassified, lost_noise
            (points of IoU that add up to 1 - miou); images without them are left out.
        count: how many, the worst first.
    """
    columns = [f"lost_{kind}" for kind in _KINDS]
    known = failures.dropna(subset=columns) if set(columns) <= set(failures.columns) else failures.iloc[:0]
    table = known.sort_values("miou", kind="stable").head(count)
    ax = axes(ax, 7.6, 1.9 + 0.25 * len(table) if len(table) else 1.2)
    if table.empty:
        return empty(ax, "no failures" if failures.empty else "nothing is known of where the IoU was lost")
    places, start = np.arange(len(table)), np.zeros(len(table))
    for kind, (color, hatch, label) in _KINDS.items():
        part = table[f"lost_{kind}"].to_numpy(float)
        edge = np.where(part > 0, 0.4, 0)  # that of an empty part would show as a line
        look = {"color": color, "edgecolor": INK if hatch else "white", "hatch": hatch}
        ax.barh(places, part, left=start, height=0.78, linewidth=edge, label=label, **look)
        start += part
    aside = {"textcoords": "offset points", "color": MUTED}
    for place, miou in zip(places, table["miou"], strict=True):
        ax.annotate(
            f"{miou:.2f}", (1, place), (8, 0), xycoords=("axes fraction", "data"), va="center", **aside
        )
    ax.annotate("mIoU", (1, 1), (8, 1), xycoords="axes fraction", va="bottom", **aside)
    limit = min(1.0, np.ceil(start.max() * 10 + 0.2) / 10)
    ax.set(xlim=(0, limit), xlabel="lost IoU (points; a bar's length is 1 - mIoU)")
    shown = (
        f"the worst {len(table)} of {len(failures)} failures"
        if len(table) < len(failures)
        else "every failure"
    )
    _finish(ax, [_cut(i, 34) for i in table["id"]], f"Where the IoU was lost: {shown}", True)
    return ax


@style()
def costly_pairs(pairs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The confusions that cost most: by how much the mean IoU would rise if their pixels were right and all else the same.

    Args:
        pairs: `attribution.pair_costs`: truth, prediction, share (0-1), images, gain (points of the split's mean IoU), gain_image
            (of the images' own mIoUs, on average).
    """
    ax = axes(ax, 7.6, 1.7 + 0.3 * len(pairs) if len(pairs) else 1.2)
    if pairs.empty:
        return empty(ax, "no confusion: every scored pixel is right")
    places = np.arange(len(pairs))
    ax.barh(places, pairs["gain"], height=0.66, color="#0b3c6f", label="mean IoU of the split")
    dots = {"linestyle": "none", "marker": "D", "markersize": 5.5, "clip_on": False}
    ax.plot(pairs["gain_image"], places, markerfacecolor="#e69f00", markeredgecolor=INK,
            label="mIoU of an image, on average", **dots)  # fmt: skip
    most = float(max(pairs["gain"].max(), pairs["gain_image"].max()))
    for place, row in zip(places, pairs.itertuples(), strict=True):
        images = f"{row.images} image{'s' if row.images != 1 else ''}"
        for note, right, color in (
            (f"+{row.gain:.3f}", 6, INK),
            (f"{row.share:.0%} of the true class, {images}", 46, MUTED),
        ):
            ax.annotate(
                note,
                (1, place),
                (right, 0),
                ("axes fraction", "data"),
                "offset points",
                va="center",
                color=color,
            )
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set(xlim=(0, most * 1.04 or 1.0), xlabel="gain if these pixels were right (points of IoU)")
    names = [f"{_cut(row.truth, 20)} → {_cut(row.prediction, 20)}" for row in pairs.itertuples()]
    _finish(ax, names, "Confusions that cost most (truth → prediction)", False)
    return ax


@style()
def threshold_curve(curve: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many images fail at every threshold, the chosen one marked: a steep curve makes the choice matter, a flat one not.

    Args:
        curve: `thresholds.curve`: of, threshold (0-1), images, scored, share (0-1), chosen; a line for each `of`.
    """
    known = curve.dropna(subset=["share"])
    lines = list(dict.fromkeys(known["of"]))
    ax = axes(ax, 6.4, 3.4 + 0.2 * len(lines))
    if known.empty:
        return empty(ax, "no image has a score")
    for k, name in enumerate(lines):
        line = known[known["of"] == name]
        color, dash = _LINES[k % len(_LINES)]
        chosen = line[line["chosen"]]
        value, images, scored = (chosen[column].iloc[0] for column in ("threshold", "images", "scored"))
        label = f"{_cut(name, 24)} below {value:.3g}: {images} of {scored} images ({images / scored:.0%})"
        ax.plot(line["threshold"], 100 * line["share"], color=color, linestyle=dash, linewidth=1.8)
        ax.plot([value, value], [0, 100 * images / scored], color=color, linewidth=0.9, clip_on=False)
        ax.plot(value, 100 * images / scored, "o", color=color, markersize=7, markeredgecolor="white", clip_on=False,
                zorder=4)  # fmt: skip
        ax.plot([], [], color=color, linestyle=dash, marker="o", markeredgecolor="white", label=label)
    what = "mIoU of an image" if lines == ["mIoU"] else "IoU of the class in an image"
    ax.set(xlim=(0, 1), ylim=(0, 100), xlabel=f"threshold: {what}", ylabel="images that fail (%)")
    scored = known["scored"].unique()
    if len(scored) == 1:  # else a percent is not the same number of images on every line
        count = int(scored[0])
        right = ax.secondary_yaxis("right", functions=(lambda y: y * count / 100, lambda n: n * 100 / count))
        right.set_ylabel("images")
        right.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        ax.spines["right"].set_visible(True)
    ax.grid()
    _legend_above(ax, "How many images fail at which threshold", 1)
    return ax


def _finish(ax: Axes, labels: list[str], title: str, fill: bool) -> None:
    """A row a label, the first on top, and the legend between title and axes, where it covers no data."""
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(fill)
    ax.grid(axis="x")
    _legend_above(ax, title, 3 if fill else 2)


def _legend_above(ax: Axes, title: str, columns: int) -> None:
    handles = sorted(
        ax.get_legend_handles_labels()[0], key=lambda drawn: isinstance(drawn, Line2D)
    )  # bars first
    lines = -(-len(handles) // columns)
    place = {
        "loc": "lower left",
        "bbox_to_anchor": (0, 1),
        "ncols": columns,
        "borderaxespad": 0.1,
        "borderpad": 0.2,
    }
    ax.legend(handles=handles, handletextpad=0.5, columnspacing=1.2, handlelength=1.7, **place)
    ax.set_title(title, pad=11 + 13 * lines)


def _cut(name: object, most: int) -> str:
    """A name of at most so many characters: its middle goes, since ids differ at their ends."""
    line = " ".join(str(name).split())
    if len(line) > most:
        line = f"{line[: most // 2 - 1]}…{line[-(most - most // 2) :]}"
    return text(line)
