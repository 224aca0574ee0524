"""Figures of several axes: what is in the data, what the model sees, how training went, where it fails."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from seglib.data import IGNORE, ClassMap, error_map, fitting, overlay, present, top_confusions, wrong_pixels
from seglib.plots.style import INK, MUTED, class_handles, empty, sheet, style, text


@style()
def overlay_grid(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    classes: ClassMap,
    titles: Sequence[object] = (),
    columns: int = 4,
) -> Figure:
    """Masks over their images, with a legend of the classes that occur.

    Args:
        images, masks: (H, W, 3) uint8 RGB and (H, W) uint8 ids, pair by pair; sizes may differ between pairs.
        titles: one a pair, for example the sample ids.
    """
    cells = [overlay(*fitting(i, m), classes, 0.55) for i, m in zip(images, masks, strict=True)]
    return _grid(cells, masks, classes, [text(t, 34) for t in titles], columns)


@style()
def augmentation_grid(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], classes: ClassMap, columns: int = 4
) -> Figure:
    """What the model sees: each augmented image above itself with its mask, so that a mask that did not move along shows at once.

    Args:
        images, masks: (H, W, 3) uint8 RGB and (H, W) uint8 ids, after augmentation and before normalisation.
    """
    cells = [np.concatenate([i, np.full((max(2, i.shape[0] // 50), i.shape[1], 3), 255, np.uint8), overlay(i, m, classes, 0.55)])
             for i, m in zip(images, masks, strict=True)]  # fmt: skip
    return _grid(cells, masks, classes, [], columns)


@style()
def training_curves(history: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """Losses, validation mean IoU with the best epoch marked, and the learning rate, over epochs.

    Args:
        history: history.csv, one row an epoch; columns that are missing or all empty are left out.
        fig: a figure to draw anew into, for live curves: `handle.update(training_curves(history, fig))` after every epoch.

    The figure is not pyplot's: a notebook shows it once, as a cell's value or through `display`.
    """
    if fig is None:
        fig = plt.figure(figsize=(11, 3.3), layout="constrained")
        plt.close(fig)
    fig.clear()
    losses, score, rate = fig.subplots(1, 3, width_ratios=[1.25, 1.25, 1])
    known = {c for c in history.columns if history[c].notna().any()}
    epochs = history["epoch"] if "epoch" in known else pd.Series(dtype=float)
    marker = "o" if len(epochs) < 2 else ""
    for column, label, color, line, width in (
        ("train_loss", "train", "#0072b2", "-", 1.8),
        ("val_loss", "val", "#d55e00", "-", 1.8),
        ("train_ce", "cross-entropy (train)", "#7d7d7d", "--", 1.0),
        ("train_dice", "Dice (train)", "#7d7d7d", "-.", 1.0),
        ("train_focal", "focal (train)", "#7d7d7d", ":", 1.2),
    ):
        if column in known:
            losses.plot(
                epochs,
                history[column],
                line,
                label=label,
                color=color,
                linewidth=width,
                marker=marker,
                markersize=4,
            )
    losses.set(title="Loss", ylabel="loss")
    losses.set_ylim(bottom=0)
    if losses.lines:
        losses.legend()
    score.set(title="Validation mean IoU", ylabel="mean IoU", ylim=(0, 1))
    if "val_miou" in known:
        score.plot(epochs, history["val_miou"], color="#009e73", linewidth=1.8, marker=marker, markersize=4)
        best = history.loc[history["val_miou"].idxmax()]
        score.plot(
            best["epoch"],
            best["val_miou"],
            "*",
            color="#009e73",
            markersize=13,
            markeredgecolor=INK,
            markeredgewidth=0.7,
            clip_on=False,
        )
        # In the corner that the curve leaves free, not at its end: there the words would lie over it.
        y, align = (0.04, "bottom") if best["val_miou"] > 0.2 else (0.96, "top")
        words = f"best {best['val_miou']:.3f}, epoch {int(best['epoch'])}"
        score.text(0.98, y, words, transform=score.transAxes, ha="right", va=align)
    rate.set(title="Learning rate", ylabel="learning rate")
    if "learning_rate" in known:
        # The power of ten in the label: matplotlib would write it above the axes and push the title up.
        power = int(np.floor(np.log10(max(history["learning_rate"].max(), 1e-12))))
        rate.plot(
            epochs,
            history["learning_rate"] / 10.0**power,
            color=MUTED,
            linewidth=1.8,
            marker=marker,
            markersize=4,
        )
        rate.set_ylabel(f"learning rate (1e{power})")
        rate.set_ylim(bottom=0)
    for ax in (losses, score, rate):
        last = max(int(epochs.max()), 2) if len(epochs) else 2
        ax.set(xlabel="epoch", xlim=(1 - 0.03 * last, last + 0.03 * last))
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(axis="y")
    return fig


@style()
def failure_sheet(
    image: np.ndarray,
    truth: np.ndarray,
    pred: np.ndarray,
    classes: ClassMap,
    title: object = "",
    region: np.ndarray | None = None,
) -> Figure:
    """Image | truth | prediction | error map of one sample, the classes that occur, and the confusions that cost most.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth, pred: (H, W) uint8 class ids, 255 = not scored.
        region: (H, W) bool, outlined in image and truth: where a label error is suspected.
    """
    height, width = image.shape[:2]
    # Four in a row unless the image is wide: then two by two, or nothing could be made out.
    rows, columns = (2, 2) if width > 1.7 * height else (1, 4)
    handles = class_handles(present(truth, pred), classes)
    costs = [f"{text(t)} → {text(p)} {100 * s:.1f}%" for t, p, s in top_confusions(truth, pred, classes)]
    panels_height = rows * (12.4 / columns * height / width + 0.25)
    extra = (0.3 if title else 0.05) + _legend_height(12.6, handles) + 0.2 * bool(costs)
    fig, axs = sheet(rows, columns, 12.6, panels_height + extra)
    wrong, scored = int(wrong_pixels(truth, pred).sum()), int((truth != IGNORE).sum())
    share = f"{100 * wrong / scored:.1f}% of scored pixels" if scored else "no scored pixel"
    image, truth, pred, *regions = fitting(image, truth, pred, *([] if region is None else [region]))
    height, width = image.shape[:2]
    doubted = bool(regions) and bool(regions[0].any())
    panels = [
        ("image" + "; outlined: label in doubt" * doubted, image),
        ("truth", overlay(image, truth, classes, 0.7)),
        ("prediction", overlay(image, pred, classes, 0.7)),
        (
            f"errors in orange: {share}",
            error_map(image, truth, pred),
        ),  # no swatch: it would pass for another class
    ]
    for k, (ax, (name, picture)) in enumerate(zip(axs.flat, panels, strict=True)):
        _show(ax, picture)
        ax.set_title(name, fontsize=9, fontweight="normal", pad=4)
        if doubted and k < 2:
            padded = np.pad(regions[0], 1).astype(float)  # so that what touches the image's edge is closed
            place = (-1.5, width + 0.5, -1.5, height + 0.5)
            for color, thickness in (("black", 2.6), ("white", 1.2)):
                ax.contour(padded, levels=[0.5], colors=color, linewidths=thickness, extent=place)
            ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if title:
        fig.suptitle(text(title, 120), x=0.004, ha="left", fontsize=10.5, fontweight="bold")
    legend = _legend(fig, handles)
    if costs:
        legend.set_title(
            "Costliest confusions (truth → prediction, share of the scored pixels):  " + ";  ".join(costs),
            {"size": 8.5},
        )
    return fig


def _grid(
    cells: list[np.ndarray], masks: Sequence[np.ndarray], classes: ClassMap, titles: list[str], columns: int
) -> Figure:
    if not cells:
        fig, axs = sheet(1, 1, 4, 1.2)
        empty(axs[0, 0], "no images")
        return fig
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    side = max(2.6, 3.2 if columns < 4 else 12.4 / columns)
    aspect = float(np.median([c.shape[0] / c.shape[1] for c in cells]))
    handles, width = class_handles(present(*masks), classes), max(columns * side, 5)
    height = rows * (side * aspect + (0.25 if titles else 0.06)) + _legend_height(width, handles)
    fig, axs = sheet(rows, columns, width, height)
    for k, ax in enumerate(axs.flat):
        if k < len(cells):
            _show(ax, cells[k])
            if k < len(titles):
                ax.set_title(titles[k], fontsize=8.5, fontweight="normal", pad=3)
        else:
            ax.set_axis_off()
    _legend(fig, handles)
    return fig


def _show(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _legend(fig: Figure, handles: list[Patch]) -> Legend:
    """A legend below everything, as many columns as the width holds."""
    columns = _legend_columns(fig.get_figwidth(), handles)
    return fig.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        handlelength=1.2,
        columnspacing=1.4,
        alignment="left",
    )


def _legend_columns(width: float, handles: list[Patch]) -> int:
    sizes = [0.078 * len(handle.get_label()) + 0.5 for handle in handles] or [
        1.0
    ]  # inches a letter, and a swatch
    if sum(sizes) <= width:
        return len(sizes)
    rows = -(-len(sizes) // max(1, int(width / max(sizes))))
    return -(
        -len(sizes) // rows
    )  # evenly: matplotlib fills column by column, and would leave one alone in its row


def _legend_height(width: float, handles: list[Patch]) -> float:
    return 0.2 * -(-len(handles) // _legend_columns(width, handles)) + 0.2
