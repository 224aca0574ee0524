"""Figures of images: as they are, in pairs, under their masks, augmented, and the sheet of a failure."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from seglib import data
from seglib.data import IGNORE, ClassMap, error_map, fitting, overlay, present, top_confusions, wrong_pixels
from seglib.plots import style

Arrays = Sequence[np.ndarray]


@style.apply
def image_grid(
    images: Arrays, titles: Sequence[object] = (), columns: int = 4, legend: Sequence[Patch] = (),
    side: float = 0,
) -> Figure:  # fmt: skip
    """Show (H, W, 3) uint8 RGB images of any sizes in rows, `side` inches wide, each under its title."""
    if not len(images):
        return style.empty(None, "no images").figure
    columns = min(columns, len(images))
    rows, side = -(-len(images) // columns), side or max(2.6, 12.4 / max(columns, 4))
    names = [style.text(title, 34) for title in titles]
    aspect = np.median([image.shape[0] / image.shape[1] for image in images])
    height = rows * (side * aspect + 0.24 + 0.16 * max((name.count("\n") for name in names), default=0))
    fig, axs = style.sheet(rows, columns, max(columns * side, 5 if legend else 0), height, legend)
    for ax, image, name in zip_longest(axs.flat, images, names):
        ax.set_axis_off()
        if image is not None:
            ax.imshow(fitting(image)[0], cmap="gray", vmin=0, vmax=255)
            ax.set_title(name or "", fontsize=8.5, fontweight="normal", pad=3)
    return fig


def image_pairs(pairs: Sequence[Arrays], titles: Sequence[Sequence[object]]) -> Figure:
    """Show pairs of (H, W, 3) uint8 RGB and where they differ (white: not at all, black: by 32 grey levels or more).

    `titles`: of both images of each pair. Where sizes differ, the second is scaled to the first.
    """
    cells, names = [], []
    for (first, second), both in zip(pairs, titles, strict=True):
        scaled = np.asarray(Image.fromarray(second).resize(first.shape[1::-1], Image.Resampling.BOX))
        gap = np.abs(first.astype(np.int16) - scaled)
        cells += [first, second, (255 - np.minimum(gap.max(axis=-1), 32) * (255 / 32)).astype(np.uint8)]
        names += [*both, f"mean difference {gap.mean():.1f} at full size"]
    return image_grid(cells, names, 3)


def overlay_grid(
    pairs: Sequence[Arrays], classes: ClassMap, titles: Sequence[object] = (), columns: int = 4
) -> Figure:
    """Show masks (H, W) uint8 ids over their images (H, W, 3) uint8 RGB, with a legend of the classes that occur."""
    cells = [overlay(*fitting(*pair), classes, 0.55) for pair in pairs]
    return image_grid(cells, titles, columns, _handles(present(*(mask for _, mask in pairs)), classes))


def augmentation_grid(images: Arrays, masks: Arrays, classes: ClassMap, columns: int = 4) -> Figure:
    """Show what the model sees: each augmented image above itself with its mask; images (H, W, 3), masks (H, W) uint8."""
    cells = []
    for image, mask in zip(images, masks, strict=True):
        gap = np.full((max(2, image.shape[0] // 50), image.shape[1], 3), 255, np.uint8)
        cells.append(np.concatenate([image, gap, overlay(image, mask, classes, 0.55)]))
    return image_grid(cells, (), columns, _handles(present(*masks), classes))


@style.apply
def failure_sheet(
    image: np.ndarray, truth: np.ndarray, pred: np.ndarray, classes: ClassMap, title: object = "",
    region: np.ndarray | None = None,
) -> Figure:  # fmt: skip
    """Show image (H, W, 3) uint8 RGB, ground truth, prediction (H, W) uint8 class ids, errors and costliest confusions.

    `region`, (H, W) bool, is outlined in image and ground truth: where a label error is suspected.
    """
    legend = _handles(present(truth, pred), classes)
    costs = [f"{style.text(t)} → {style.text(p)} {s:.1%}" for t, p, s in top_confusions(truth, pred, classes)]
    valid = (truth != IGNORE).sum()
    share = f"{wrong_pixels(truth, pred).sum() / valid:.1%} of valid pixels" if valid else "no valid pixel"
    region = np.zeros(truth.shape, bool) if region is None else region
    image, truth, pred, region = fitting(image, truth, pred, region)
    doubted = bool(0 < region.mean() < 1)  # no contour lies around all or nothing
    panels = {
        "image" + "; outlined: label in doubt" * doubted: image,
        "ground truth": overlay(image, truth, classes, 0.7),
        "prediction": overlay(image, pred, classes, 0.7),
        f"errors: {share}": error_map(image, truth, pred),
    }
    columns = 2 if image.shape[1] > 1.7 * image.shape[0] else 4  # four wide images in a row would be tiny
    fig = image_grid(list(panels.values()), list(panels), columns, legend, 12.4 / columns)
    for ax in fig.axes[:2] if doubted else ():
        ax.contour(region, levels=[0.5], colors="black", linewidths=2.6)
        ax.contour(region, levels=[0.5], colors="white", linewidths=1.2)
    fig.suptitle(style.text(title, 120), x=0.004, ha="left", fontsize=10.5, fontweight="bold")
    if costs:
        what = "Most frequent confusions (ground truth → prediction, share of the valid pixels):  "
        fig.legends[0].set_title(what + ";  ".join(costs), {"size": 8.5})
    return fig


def label_sheet(folder: str | Path, chosen: pd.DataFrame) -> Figure:
    """Show the overlays that `failures.label_next` wrote into `folder`; `chosen` is its label_next.csv."""
    pictures = (data.read_image(Path(folder) / "overlays" / f"{name}.png") for name in chosen["id"])
    titles = [f"{row.rank}. {row.id}: mIoU {row.expected_miou:.2f}?" for row in chosen.itertuples()]
    return image_grid([fitting(picture, most=480)[0] for picture in pictures], titles, 4)


def _handles(ids: Sequence[int], classes: ClassMap) -> list[Patch]:
    """Make the legend entries of class ids; 255 is "ignored", hatched as in error maps."""
    look = {"edgecolor": style.MUTED, "linewidth": 0.6}  # an edge, so that pale colours show
    colors, names = classes.colors / 255, classes.names
    handles = [Patch(facecolor=colors[c], label=style.text(names[c]), **look) for c in ids if c < len(names)]
    return handles + [Patch(facecolor="black", hatch="///", label="ignored", **look)] * (IGNORE in ids)
