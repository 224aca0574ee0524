"""Figures of a data check: class shares, sequences, splits, and images that need a look."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from seglib.data import ClassMap
from seglib.plots import style

_MARKERS = "osD^vP"
_PROPERTIES = {
    "brightness": "mean grey value, 0-255",
    "contrast": "standard deviation of grey values",
    "entropy": "of the grey values, bits",
    "focus": "variance of the Laplacian / contrast²",
}


@style.apply()
def class_shares(class_stats: pd.DataFrame, classes: ClassMap, ax: Axes | None = None) -> Axes:
    """Draw how common every class is: its share of the valid pixels and of the images, rarest first.

    Args:
        class_stats: columns split, class, pixel_share, image_share (both 0-1); one row a class and split.

    A class that a split lacks is a red cross at the left edge.
    """
    splits = list(dict.fromkeys(class_stats["split"]))
    shares = class_stats.set_index(["class", "split"])[["pixel_share", "image_share"]]
    rarest = shares["pixel_share"].groupby("class").max().reindex(list(classes.names)).fillna(0.0)
    order = list(rarest.sort_values(kind="stable").index)
    ax = style.axes(ax, 7.2, 1.5 + len(order) * max(0.28, 0.13 * len(splits)))
    present = shares["pixel_share"][shares["pixel_share"] > 0]
    floor = 10.0 ** np.floor(np.log10(100 * present.min() if len(present) else 1.0) - 0.15)
    colors = style.rgb(classes)
    cross = {"marker": "x", "color": "#c1121f", "markeredgewidth": 1.8, "linestyle": "none"}
    for (name, split), row in shares.iterrows():
        k = splits.index(split)
        y = order.index(name) + (k - (len(splits) - 1) / 2) * 0.6 / len(splits)
        pixel, image = 100 * row.to_numpy(float)
        if not pixel > 0:
            ax.plot(floor, y, markersize=6, clip_on=False, zorder=3, **cross)
            continue
        ax.plot([pixel, image], [y, y], color="#c9c9c9", linewidth=1.2, zorder=1)
        look = {"marker": _MARKERS[k % 6], "markersize": 6, "markeredgewidth": 0.9, "clip_on": False}
        look |= {"linestyle": "none", "markeredgecolor": style.INK}
        ax.plot(pixel, y, markerfacecolor=colors[name], **look)
        ax.plot(image, y, markerfacecolor="white", **look)
    ax.set(xscale="log", xlim=(floor, 100), xlabel="share (%, logarithmic)")
    ax.set_title("How common each class is, rarest first")
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    style.name_rows(ax, [style.text(name, 28) for name in order])
    legend = [
        (style.text(s), {"marker": _MARKERS[k % 6], "color": style.MUTED}) for k, s in enumerate(splits)
    ]
    for label, color in (("of pixels", "#9a9a9a"), ("of images", "white")):
        legend.append((label, {"marker": "o", "markerfacecolor": color, "markeredgecolor": style.INK}))
    if len(present) < len(shares):
        legend.append(("absent", cross))
    style.legend_above(
        ax, [Line2D([], [], label=label, **({"linestyle": "none"} | m)) for label, m in legend]
    )
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
    return _rows(cells, names, 3, "no images that occur twice")


@style.apply()
def image_grid(images: Sequence[np.ndarray], titles: Sequence[object] = (), columns: int = 4) -> Figure:
    """Show (H, W, 3) uint8 RGB images of any sizes in rows, each under its title."""
    return _rows(images, titles, columns, "no image lies apart")


def _rows(images: Sequence[np.ndarray], titles: Sequence[object], columns: int, nothing: str) -> Figure:
    if not len(images):
        return style.empty(style.axes(None, 4, 0.9), nothing).figure
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
        words = "no sequences: dataset.yaml has no group pattern, and none could be guessed"
        return style.empty(style.axes(ax, 7, 1.2), words)
    order = known.groupby("group").agg(splits=("split", "nunique"), images=("split", "size")).reset_index()
    order = order.sort_values(["splits", "images", "group"], ascending=[False, False, True], kind="stable")
    rows, splits = list(order["group"][:most]), list(dict.fromkeys(samples["split"]))
    ax = style.axes(ax, 9.6, 1.1 + 0.24 * len(rows))
    for k, split in enumerate(splits):
        part = known[(known["split"] == split) & known["group"].isin(rows)]
        y = part["group"].map(rows.index).to_numpy(float) + (k - (len(splits) - 1) / 2) * 0.22
        look = {"color": style.COLORS[k % len(style.COLORS)], "markersize": 7, "markeredgewidth": 1.3}
        ax.plot(part["frame"].to_numpy(float), y, "|", label=style.text(split), **look)
    more = f" ({len(rows)} of {len(order)})" if len(order) > len(rows) else ""
    ax.set(xlabel="frame", title=f"Sequences over the splits{more}")
    ax.set_yticks(range(len(rows)), [style.text(name, 30) for name in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.3)
    return ax


@style.apply()
def split_shifts(shift: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how other splits differ from train: Cliff's delta of each class's share and each image property.

    Args:
        shift: columns `split`, `name`, `delta`. Beyond the shaded band (0.474) a difference is called large.
    """
    if shift.empty:
        return style.empty(style.axes(ax, 7, 1.2), "nothing to compare with train")
    largest = shift.assign(size=shift["delta"].abs()).groupby("name", sort=False)["size"].max().fillna(0)
    names = list(largest.sort_values(ascending=False, kind="stable").index)
    ax = style.axes(ax, 7.6, 1.5 + 0.24 * len(names))
    ax.axvspan(-0.474, 0.474, color="#f1f1f1", zorder=0, label="no large difference")
    ax.axvline(0, color=style.MUTED, linewidth=0.8)
    for k, split in enumerate(dict.fromkeys(shift["split"])):
        part = shift[shift["split"] == split]
        look = {
            "color": style.COLORS[(k + 1) % len(style.COLORS)],
            "markeredgecolor": style.INK,
            "markeredgewidth": 0.6,
        }
        place = part["name"].map(names.index)
        ax.plot(
            part["delta"],
            place,
            "oDs^vP"[k % 6],
            label=style.text(split),
            markersize=6,
            clip_on=False,
            **look,
        )
    ax.set(xlim=(-1, 1), xlabel="Cliff's delta to train (below 0: less than there, above: more)")
    ax.set_title("How the splits differ from train, most first")
    style.name_rows(ax, [style.text(name, 28) for name in names], spine=True)
    style.legend_above(ax)
    return ax


@style.apply()
def cooccurrence(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw of the images that hold the class of a row, how many percent hold that of the column too.

    Args:
        table: (C, C) counts of images. Rows of classes that do not occur stay empty.
    """
    counts = table.to_numpy(float)
    own = counts.diagonal()[:, None]
    percent = np.where(own > 0, 100 * counts / np.maximum(own, 1), np.nan)
    few = len(table) <= 20
    side, small = 2.2 + (0.38 if few else 0.24) * len(table), 8.5 if few else 7
    ax = style.axes(ax, side + 1.0, side)
    mesh = ax.imshow(np.ma.masked_invalid(percent), cmap=mpl.colormaps["cividis_r"], vmin=0, vmax=100)
    labels = [style.text(name, 24) for name in table.columns]
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=small)
    ax.set_yticks(range(len(labels)), labels, fontsize=small)
    ax.set(title="Which classes come together", xlabel="also hold", ylabel="of the images that hold")
    for (row, column), value in np.ndenumerate(percent) if few else ():
        if np.isfinite(value):
            look = {"color": "white" if value > 55 else style.INK, "fontsize": 7.5}
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", **look)
    ax.figure.colorbar(mesh, ax=ax, shrink=0.7, label="% of the images")
    return ax


@style.apply()
def image_properties(samples: pd.DataFrame, limits: pd.DataFrame | None = None) -> Figure:
    """Draw brightness, contrast, entropy and focus of every image, one row a split.

    Args:
        samples: columns `split` and the four properties, NaN where a file was unreadable.
        limits: columns `column` and `limit`, drawn as lines beyond which an image lies apart from the rest.
    """
    splits, drawn = list(dict.fromkeys(samples["split"])), []
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
                drawn.append(ax.axvline(limit, color=style.VERMILION, linestyle="--", linewidth=1.2))
    if drawn:
        words = ["beyond it an image lies apart from the rest"]
        fig.legend(handles=drawn[:1], labels=words, loc="outside lower left")
    return fig
