"""Figures of a data check: pictures that stand twice, pictures apart, sequences over the splits, how splits differ."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from seglib.data import fitting
from seglib.plots.style import INK, MUTED, axes, empty, sheet, style, text

SPLITS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
)  # Okabe and Ito's, told apart by every eye


@style()
def image_pairs(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], titles: Sequence[tuple[object, object]] = ()
) -> Figure:
    """Pictures side by side, a row a pair, and between which pixels they differ (white: not at all, black: by 32 or more).

    Args:
        pairs: (H, W, 3) uint8 RGB each; where sizes differ, the second is scaled to the first.
        titles: of both pictures of each pair.
    """
    if not len(pairs):
        return _nothing("no pictures that stand twice")
    aspect = float(np.median([first.shape[0] / first.shape[1] for first, _ in pairs]))
    fig, axs = sheet(len(pairs), 3, 9.6, len(pairs) * (3.0 * aspect + 0.3) + 0.05)
    for row, (first, second) in zip(axs, pairs, strict=True):
        scaled = second
        if second.shape != first.shape:
            scaled = np.asarray(Image.fromarray(second).resize(first.shape[1::-1], Image.Resampling.BOX))
        gap = np.abs(first.astype(np.int16) - scaled).max(axis=-1)
        for ax, picture in zip(
            row, (first, second, (255 - np.minimum(gap, 32) * (255 / 32)).astype(np.uint8)), strict=True
        ):
            _show(ax, picture)
        row[2].set_title(
            f"difference: mean {np.abs(first.astype(np.int16) - scaled).mean():.1f} of 255", **_SMALL
        )
    for row, names in zip(axs, titles, strict=False):
        for ax, name in zip(row, names, strict=False):
            ax.set_title(text(name, 40), **_SMALL)
    return fig


@style()
def image_grid(images: Sequence[np.ndarray], titles: Sequence[object] = (), columns: int = 4) -> Figure:
    """Pictures in rows, each under its title: (H, W, 3) uint8 RGB, of any sizes."""
    if not len(images):
        return _nothing("no image lies apart")
    columns = min(columns, len(images))
    side = 12.4 / max(columns, 4)
    aspect = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    rows = -(-len(images) // columns)
    lines = max((text(t, 34).count("\n") + 1 for t in titles), default=0)
    fig, axs = sheet(rows, columns, side * columns, rows * (side * aspect + 0.08 + 0.16 * lines))
    for k, ax in enumerate(axs.flat):
        ax.set_axis_off()
        if k < len(images):
            _show(ax, images[k])
        if k < min(len(titles), len(images)):
            ax.set_title(text(titles[k], 34), **_SMALL)
    return fig


@style()
def sequence_timeline(samples: pd.DataFrame, ax: Axes | None = None, most: int = 40) -> Axes:
    """Which split every frame of every sequence is in: a row a sequence, a mark an image, longest sequences first.

    Args:
        samples: of a data check: `split`, `group`, `frame`; images without a sequence or a number are left out.
        most: rows; what is left out is counted in the title. Sequences in several splits come first.
    """
    known = samples[(samples["group"] != "") & samples["frame"].notna()]
    if known.empty:
        return empty(
            axes(ax, 7, 1.2), "no sequences: dataset.yaml has no group pattern, and none could be guessed"
        )
    order = known.groupby("group").agg(splits=("split", "nunique"), images=("split", "size")).reset_index()
    order = order.sort_values(["splits", "images", "group"], ascending=[False, False, True], kind="stable")[
        "group"
    ]
    shown = list(order[:most])
    ax = axes(ax, 9.6, 1.1 + 0.24 * len(shown))
    splits = list(dict.fromkeys(samples["split"]))
    for k, split in enumerate(splits):
        part = known[(known["split"] == split) & known["group"].isin(shown)]
        rows = part["group"].map(shown.index).to_numpy(float) + (k - (len(splits) - 1) / 2) * 0.22
        ax.plot(part["frame"].to_numpy(float), rows, "|", color=SPLITS[k % len(SPLITS)], markersize=7,
                markeredgewidth=1.3, label=text(split))  # fmt: skip
    more = f" ({len(shown)} of {len(order)})" if len(order) > len(shown) else ""
    ax.set(xlabel="frame", title=f"Sequences over the splits{more}")
    ax.set_yticks(range(len(shown)), [text(name, 30) for name in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(axis="y")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.3)
    return ax


@style()
def split_shifts(shift: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How every other split differs from train: Cliff's delta of each class's share and each property of the images.

    Args:
        shift: of a data check: `split`, `name`, `delta`. Beyond the shaded band (0.474) a difference is called large.
    """
    if shift.empty:
        return empty(axes(ax, 7, 1.2), "nothing to compare with train")
    names = list(dict.fromkeys(shift["name"]))
    largest = shift.groupby("name")["delta"].apply(lambda d: d.abs().max()).fillna(0)
    names.sort(key=lambda name: -largest[name])
    ax = axes(ax, 7.6, 1.5 + 0.24 * len(names))
    ax.axvspan(-0.474, 0.474, color="#f1f1f1", zorder=0, label="no large difference")
    ax.axvline(0, color=MUTED, linewidth=0.8)
    for k, split in enumerate(dict.fromkeys(shift["split"])):
        part = shift[shift["split"] == split]
        ax.plot(part["delta"], part["name"].map(names.index), "oDs^vP"[k % 6], color=SPLITS[(k + 1) % len(SPLITS)],
                markeredgecolor=INK, markeredgewidth=0.6, markersize=6, label=text(split), clip_on=False)  # fmt: skip
    ax.set(xlim=(-1, 1), xlabel="Cliff's delta to train (below 0: less than there, above: more)")
    ax.set_title("How the splits differ from train, most first", pad=26)
    ax.set_yticks(range(len(names)), [text(name, 28) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="x")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=9, borderaxespad=0.1, handletextpad=0.5)
    return ax


@style()
def cooccurrence(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Of the images that hold the class of a row, how many percent hold that of the column too.

    Args:
        table: (C, C) counts of `shares.cooccurrence`. Rows of classes that do not occur stay empty.
    """
    counts = table.to_numpy(float)
    own = counts.diagonal()[:, None]
    percent = np.where(own > 0, 100 * counts / np.maximum(own, 1), np.nan)
    few = len(table) <= 20
    side = 2.2 + (0.38 if few else 0.24) * len(table)  # inches a class
    ax = axes(ax, side + 1.0, side)
    mesh = ax.imshow(np.ma.masked_invalid(percent), cmap=mpl.colormaps["cividis_r"], vmin=0, vmax=100)
    labels = [text(name, 24) for name in table.columns]
    small = 8.5 if few else 7
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=small)
    ax.set_yticks(range(len(labels)), labels, fontsize=small)
    ax.set(title="Which classes come together", xlabel="also hold", ylabel="of the images that hold")
    if few:
        for (row, column), value in np.ndenumerate(percent):
            if np.isfinite(value):
                ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7.5,
                        color="white" if value > 55 else INK)  # fmt: skip
    ax.figure.colorbar(mesh, ax=ax, shrink=0.7, label="% of the images")
    return ax


_SMALL = {"fontsize": 8.5, "fontweight": "normal", "pad": 3}


def _show(ax: Axes, picture: np.ndarray) -> None:
    (picture,) = fitting(picture)
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _nothing(words: str) -> Figure:
    fig, axs = sheet(1, 1, 4, 0.9)
    empty(axs[0, 0], words)
    return fig
