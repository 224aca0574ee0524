"""Figures of a data check: class shares, sequences, splits, and image properties."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglib.data import ClassMap
from seglib.plots import style

_PROPERTIES = {"brightness": "mean grey value, 0-255", "contrast": "standard deviation of grey values"}
_PROPERTIES |= {"entropy": "of the grey values, bits", "focus": "variance of the Laplacian / contrast², log"}
_SHIFTS = {"class": "How the classes' shares differ from train", "image": "How the images differ from train"}
_SEQUENCES = 40  # rows of the timeline, at most; its title counts the rest
_LARGE = 0.474  # of Cliff's delta: Romano et al., 2006


@style.apply
def class_shares(class_stats: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw the share of each class of the valid pixels and of the images, rarest first.

    `class_stats`: columns split, class, pixel_share, image_share (both 0-1); one row a class and split.
    """
    splits, names = list(class_stats["split"].unique()), list(classes.names)
    most = class_stats.groupby("class")["pixel_share"].max().reindex(names).fillna(0)
    order, step = list(most.sort_values(kind="stable").index), max(0.28, 0.13 * len(splits))
    ax = style.rows(ax, order, "How common each class is, rarest first", "share (%, logarithmic)", step)
    percent = 100 * class_stats[["pixel_share", "image_share"]].replace(0, np.nan)
    rows = class_stats["class"].map(order.index)
    rows += (class_stats["split"].map(splits.index) - (len(splits) - 1) / 2) * 0.6 / len(splits)
    ax.hlines(rows, *percent.to_numpy().T, color=style.GREY, linewidth=1.2, zorder=1)
    for k, split in enumerate(splits):
        of, marker = class_stats["split"] == split, style.MARKERS[k % 6]
        pixels, images = percent[of].to_numpy().T
        style.dots(ax, pixels, rows[of], c=style.rgb(class_stats.loc[of, "class"], classes), marker=marker)
        style.dots(ax, images, rows[of], color="white", marker=marker)
        style.dots(ax, [], [], color=style.GREY, marker=marker, label=style.text(split))
    for color, label in ((style.GREY, "of pixels"), ("white", "of images")):
        style.dots(ax, [], [], color=color, label=label)
    floor = 10.0 ** np.floor(np.log10(np.nanmin([*percent["pixel_share"], 1.0])) - 0.15)
    if len(absent := rows[percent["pixel_share"].isna()]):
        cross = {"marker": "x", "color": style.VERMILION, "linewidth": 1.8, "clip_on": False}
        ax.scatter(np.full(len(absent), floor), absent, label="absent", **cross)
    ax.set(xscale="log", xlim=(floor, 100))
    ax.xaxis.set_major_formatter("{x:g}")
    return style.legend_above(ax)


@style.apply
def sequence_timeline(samples: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw which split every frame of every sequence is in: those in several splits first, then the longest.

    `samples`: columns `split`, `group`, `frame`; images without a sequence or a frame number are left out.
    """
    known = samples[(samples["group"] != "") & samples["frame"].notna()]
    if known.empty:
        return style.empty(ax, "no sequences: dataset.yaml has no group pattern, and none could be guessed")
    order = known.groupby("group").agg(splits=("split", "nunique"), images=("split", "size"))
    order = order.sort_values(["splits", "images"], ascending=False, kind="stable").index
    groups, splits = list(order[:_SEQUENCES]), list(samples["split"].unique())
    more = f" ({len(groups)} of {len(order)})" if len(order) > len(groups) else ""
    ax = style.rows(ax, groups, f"Sequences over the splits{more}", "frame", 0.24)
    for k, split in enumerate(splits):
        part = known[(known["split"] == split) & known["group"].isin(groups)]
        beside = known.groupby("group")["split"].nunique()[part["group"]].to_numpy() > 1
        y = part["group"].map(groups.index) + beside * (k - (len(splits) - 1) / 2) * 0.22
        look = {"color": style.COLORS[k % 6], "markersize": 7, "markeredgewidth": 1.3}
        ax.plot(part["frame"].to_numpy(float), y, "|", label=style.text(split), **look)
    ax.grid(axis="y")
    return style.legend_above(ax)


@style.apply
def split_shifts(shift: pd.DataFrame) -> Figure:
    """Draw how other splits differ from train: Cliff's delta of each class's share, and of each image property.

    `shift`: columns `split`, `kind` ("class" or "image"), `name`, `delta`.
    """
    if shift.empty:
        return style.empty(None, "nothing to compare with train").figure
    largest = shift["delta"].abs().fillna(0).groupby([shift["kind"], shift["name"]], sort=False).max()
    most = largest.groupby("kind").size().max()
    fig, axs = style.sheet(1, 2, 11, 1.7 + 0.24 * most)
    for ax, (kind, title) in zip(axs[0], _SHIFTS.items(), strict=True):
        part = shift[shift["kind"] == kind]
        names = list(largest[kind].sort_values(ascending=False, kind="stable").index) if len(part) else []
        style.rows(ax, names, title, "Cliff's delta (below 0: less than in train)", xlim=(-1, 1))
        ax.axvspan(-_LARGE, _LARGE, color="#f1f1f1", zorder=0, label="no large difference")
        ax.axvline(0, color=style.MUTED, linewidth=0.8)
        for k, (split, values) in enumerate(part.groupby("split", sort=False), start=1):
            look = {"color": style.COLORS[k % 6], "marker": style.MARKERS[k % 6], "label": style.text(split)}
            style.dots(ax, values["delta"], values["name"].map(names.index), **look)
        ax.set_ylim(most - 0.4, -0.6)
    fig.legend(*axs[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=9)
    return fig


@style.apply
def image_properties(samples: pd.DataFrame, limits: pd.DataFrame) -> Figure:
    """Draw brightness, contrast, entropy and focus of every image (NaN where unreadable), a row a split.

    `limits`: columns `column` and `limit`, drawn as lines beyond which an image lies apart from the rest.
    """
    splits, lines = list(samples["split"].unique()), []
    fig, axs = style.sheet(1, 4, 13, 1.4 + 0.45 * max(1, len(splits)))
    for ax, (column, unit) in zip(axs[0], _PROPERTIES.items(), strict=True):
        known = samples.dropna(subset=[column])
        groups = {split: (known.loc[known["split"] == split, column], style.BLUE) for split in splits}
        style.strips(ax, groups, column.capitalize(), unit, log=column == "focus")
        for limit in limits.loc[limits["column"] == column, "limit"]:
            if known[column].min() <= limit <= known[column].max():  # others would only squeeze the dots
                lines.append(ax.axvline(limit, color=style.VERMILION, linestyle="--", linewidth=1.2))
    if lines:
        fig.legend(lines[:1], ["beyond it an image lies apart from the rest"], loc="outside lower left")
    return fig
