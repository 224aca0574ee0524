"""Figures of a data check: class shares, sequences, splits, and images that need a look."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from seglib.data import ClassMap
from seglib.plots import style
from seglib.plots.confusion import matrix

_PROPERTIES = {"brightness": "mean grey value, 0-255", "contrast": "standard deviation of grey values"}
_PROPERTIES |= {"entropy": "of the grey values, bits", "focus": "variance of the Laplacian / contrast²"}


@style.apply()
def class_shares(class_stats: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw how common every class is: its share of the valid pixels and of the images, rarest first.

    `class_stats`: columns split, class, pixel_share, image_share (both 0-1); one row a class and split.
    A class that a split lacks is a red cross at the left edge.
    """
    splits, names = list(class_stats["split"].unique()), list(classes.names)
    most = class_stats.groupby("class")["pixel_share"].max().reindex(names).fillna(0)
    order, step = list(most.sort_values(kind="stable").index), max(0.28, 0.13 * len(splits))
    ax = style.rows(ax, order, "How common each class is, rarest first", "share (%, logarithmic)", step)
    percent = 100 * class_stats[["pixel_share", "image_share"]].replace(0, np.nan)
    rows = class_stats["class"].map(order.index)
    rows += (class_stats["split"].map(splits.index) - (len(splits) - 1) / 2) * 0.6 / len(splits)
    ax.hlines(rows, *percent.to_numpy().T, color="#c9c9c9", linewidth=1.2, zorder=1)
    for k, split in enumerate(splits):
        of, look = class_stats["split"] == split, style.DOT | {"marker": style.MARKERS[k % 6]}
        pixels, images = percent[of].to_numpy().T
        ax.scatter(pixels, rows[of], c=style.rgb(class_stats.loc[of, "class"], classes), **look)
        ax.scatter(images, rows[of], color="white", **look)
        ax.scatter([], [], color="#9a9a9a", label=style.text(split), **look)
    for label, color in (("of pixels", "#9a9a9a"), ("of images", "white")):
        ax.scatter([], [], color=color, label=label, **style.DOT)
    floor = 10.0 ** np.floor(np.log10(np.nanmin([*percent["pixel_share"], 1.0])) - 0.15)
    absent = rows[percent["pixel_share"].isna()]
    cross = {"marker": "x", "color": "#c1121f", "linewidth": 1.8, "label": "absent", "clip_on": False}
    ax.scatter(np.full(len(absent), floor), absent, **cross)
    ax.set(xscale="log", xlim=(floor, 100))
    ax.xaxis.set_major_formatter("{x:g}")
    style.legend_above(ax)
    return ax


@style.apply()
def image_pairs(pairs: Sequence[Sequence[np.ndarray]], titles: Sequence[Sequence[object]] = ()) -> Figure:
    """Show pairs of images and where they differ (white: not at all, black: by 32 grey levels or more).

    Args:
        pairs: (H, W, 3) uint8 RGB each; where sizes differ, the second is scaled to the first.
        titles: of both images of each pair.
    """
    cells, names = [], []
    for k, (first, second) in enumerate(pairs):
        scaled = np.asarray(Image.fromarray(second).resize(first.shape[1::-1], Image.Resampling.BOX))
        gap = np.abs(first.astype(np.int16) - scaled)
        grey = (255 - np.minimum(gap.max(axis=-1), 32) * (255 / 32)).astype(np.uint8)
        cells += [first, second, grey]
        names += [*(titles[k] if titles else ("", "")), f"difference: mean {gap.mean():.1f} of 255"]
    return style.image_rows(cells, names, 3)


@style.apply()
def image_grid(images: Sequence[np.ndarray], titles: Sequence[object] = (), columns: int = 4) -> Figure:
    """Show (H, W, 3) uint8 RGB images of any sizes in rows, each under its title."""
    return style.image_rows(images, titles, columns)


@style.apply()
def sequence_timeline(samples: pd.DataFrame, ax: Axes | None = None, most: int = 40) -> Axes:
    """Draw which split every frame of every sequence is in: a row a sequence, a mark an image.

    Args:
        samples: columns `split`, `group`, `frame`; images without a sequence or a frame number are left out.
        most: rows; the title counts the rest. Sequences in several splits come first, then the longest.
    """
    known = samples[(samples["group"] != "") & samples["frame"].notna()]
    if known.empty:
        return style.empty(ax, "no sequences: dataset.yaml has no group pattern, and none could be guessed")
    order = known.groupby("group").agg(splits=("split", "nunique"), images=("split", "size"))
    order = order.sort_values(["splits", "images"], ascending=False, kind="stable").index
    groups, splits = list(order[:most]), list(samples["split"].unique())
    more = f" ({len(groups)} of {len(order)})" if len(order) > len(groups) else ""
    ax = style.rows(ax, groups, f"Sequences over the splits{more}", "frame", 0.24)
    for k, split in enumerate(splits):
        part = known[(known["split"] == split) & known["group"].isin(groups)]
        y = part["group"].map(groups.index) + (k - (len(splits) - 1) / 2) * 0.22
        look = {"color": style.COLORS[k % 6], "markersize": 7, "markeredgewidth": 1.3}
        ax.plot(part["frame"].to_numpy(float), y, "|", label=style.text(split), **look)
    ax.grid(axis="y")
    style.legend_above(ax)
    return ax


@style.apply()
def split_shifts(shift: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how other splits differ from train: Cliff's delta of each class's share and each image property.

    `shift`: columns `split`, `name`, `delta`. Beyond the shaded band (0.474) a difference is called large.
    """
    if shift.empty:
        return style.empty(ax, "nothing to compare with train")
    largest = shift["delta"].abs().groupby(shift["name"], sort=False).max().fillna(0)
    names = list(largest.sort_values(ascending=False, kind="stable").index)
    title = "How the splits differ from train, most first"
    ax = style.rows(ax, names, title, "Cliff's delta (below 0: less than in train)", 0.24)
    ax.axvspan(-0.474, 0.474, color="#f1f1f1", zorder=0, label="no large difference")
    ax.axvline(0, color=style.MUTED, linewidth=0.8)
    for k, (split, part) in enumerate(shift.groupby("split", sort=False), start=1):
        look = {"color": style.COLORS[k % 6], "marker": style.MARKERS[k % 6], "label": style.text(split)}
        ax.scatter(part["delta"], part["name"].map(names.index), **style.DOT | look)
    ax.set_xlim(-1, 1)
    style.legend_above(ax)
    return ax


@style.apply()
def cooccurrence(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw of the images that hold the class of a row, how many percent hold that of the column too.

    `table`: (C, C) counts of images. Rows of classes that do not occur stay empty.
    """
    counts = table.to_numpy(float)
    own = counts.diagonal()[:, None]
    percent = np.where(own > 0, 100 * counts / np.maximum(own, 1), np.nan)
    noted = np.isfinite(percent) & (len(table) <= 20)
    scale = ("cividis_r", Normalize(0, 100), "{:.0f}".format, "% of the images")
    names = [style.text(name, 24) for name in table.columns]
    ax = matrix(ax, pd.DataFrame(percent, names, names), noted, scale)
    ax.set(title="Which classes come together", xlabel="also hold", ylabel="of the images that hold")
    return ax


@style.apply()
def image_properties(samples: pd.DataFrame, limits: pd.DataFrame | None = None) -> Figure:
    """Draw brightness, contrast, entropy and focus of every image, one row a split.

    Args:
        samples: columns `split` and the four properties, NaN where a file was unreadable.
        limits: columns `column` and `limit`, drawn as lines beyond which an image lies apart from the rest.
    """
    splits, lines = list(samples["split"].unique()), []
    fig, axs = style.sheet(1, 4, 13, 1.4 + 0.45 * max(1, len(splits)))
    for ax, (column, unit) in zip(axs[0], _PROPERTIES.items(), strict=True):
        known = samples.dropna(subset=[column])
        if known.empty:
            style.empty(ax, "no readable image")
            continue
        look = {"color": style.BLUE, "alpha": 0.5, "size": 3, "jitter": 0.3}
        sns.stripplot(known, x=column, y="split", order=splits, ax=ax, **look)
        ax.set(title=column.capitalize(), xlabel=unit, ylabel="")
        ax.grid(axis="x")
        for limit in () if limits is None else limits.loc[limits["column"] == column, "limit"]:
            if known[column].min() <= limit <= known[column].max():  # others would only squeeze the dots
                lines.append(ax.axvline(limit, color=style.VERMILION, linestyle="--", linewidth=1.2))
    if lines:
        fig.legend(lines[:1], ["beyond it an image lies apart from the rest"], loc="outside lower left")
    return fig
