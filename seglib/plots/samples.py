"""Figures of images: as they are, in pairs, under their masks, augmented, and the sheet of a failure."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from seglib import data
from seglib.data import IGNORE, ClassMap, error_map, fitting, overlay, present, top_confusions, wrong_pixels
from seglib.plots import style

Arrays = Sequence[np.ndarray]


@style.apply
def image_grid(
    images: Arrays, titles: Sequence[object] = (), columns: int = 4, legend: Sequence[Patch] = ()
) -> Figure:
    """Show (H, W, 3) uint8 RGB images of any sizes in rows, each under its title, and a legend below."""
    if not len(images):
        return style.empty(None, "no images").figure
    columns = min(columns, len(images))
    rows, side = -(-len(images) // columns), max(2.6, 12.4 / max(columns, 4))
    names = [style.text(title, 34) for title in titles]
    aspect = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    lines = max((name.count("\n") + 1 for name in names), default=0)
    height = rows * (side * aspect + 0.08 + 0.16 * lines)
    fig, axs = style.sheet(rows, columns, max(columns * side, 5 if legend else 0), height, legend)
    for ax, image, name in zip_longest(axs.flat, images, names):
        ax.set_axis_off()
        if image is not None:
            _show(ax, image, name or "")
    return fig


def image_pairs(pairs: Sequence[Arrays], titles: Sequence[Sequence[object]] = ()) -> Figure:
    """Show pairs of images and where they differ (white: not at all, black: by 32 grey levels or more).

    Args:
        pairs: (H, W, 3) uint8 RGB each; where sizes differ, the second is scaled to the first.
        titles: of both images of each pair.
    """
    cells, names = [], []
    for k, (first, second) in enumerate(pairs):
        scaled = np.asarray(Image.fromarray(second).resize(first.shape[1::-1], Image.Resampling.BOX))
        gap = np.abs(first.astype(np.int16) - scaled)
        cells += [first, second, (255 - np.minimum(gap.max(axis=-1), 32) * (255 / 32)).astype(np.uint8)]
        names += [*(titles[k] if titles else ("", "")), f"difference: mean {gap.mean():.1f} of 255"]
    return image_grid(cells, names, 3)


def overlay_grid(
    images: Arrays, masks: Arrays, classes: ClassMap, titles: Sequence[object] = (), columns: int = 4
) -> Figure:
    """Show masks over their images, with a legend of the classes that occur.

    Args:
        images, masks: (H, W, 3) uint8 RGB and (H, W) uint8 ids, pair by pair; sizes may differ between pairs.
    """
    cells = [overlay(*fitting(i, m), classes, 0.55) for i, m in zip(images, masks, strict=True)]
    return image_grid(cells, titles, columns, _handles(present(*masks), classes))


def augmentation_grid(images: Arrays, masks: Arrays, classes: ClassMap, columns: int = 4) -> Figure:
    """Show what the model sees: each augmented image above itself with its mask; arrays as in `overlay_grid`."""
    cells = []
    for image, mask in zip(images, masks, strict=True):
        gap = np.full((max(2, image.shape[0] // 50), image.shape[1], 3), 255, np.uint8)
        cells.append(np.concatenate([image, gap, overlay(image, mask, classes, 0.55)]))
    return image_grid(cells, (), columns, _handles(present(*masks), classes))


@style.apply
def failure_sheet(
    image: np.ndarray,
    truth: np.ndarray,
    pred: np.ndarray,
    classes: ClassMap,
    title: object = "",
    region: np.ndarray | None = None,
) -> Figure:
    """Show image, ground truth, prediction and error map of one sample, and the costliest confusions.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth, pred: (H, W) uint8 class ids, 255 = ignored.
        region: (H, W) bool, outlined in image and ground truth: where a label error is suspected.
    """
    height, width = image.shape[:2]
    # Four in a row unless the image is wide: then two by two, or nothing could be made out.
    rows, columns = (2, 2) if width > 1.7 * height else (1, 4)
    inches = rows * (12.4 / columns * height / width + 0.25) + 0.5
    fig, axs = style.sheet(rows, columns, 12.6, inches, _handles(present(truth, pred), classes))
    costs = [f"{style.text(t)} → {style.text(p)} {s:.1%}" for t, p, s in top_confusions(truth, pred, classes)]
    wrong, valid = int(wrong_pixels(truth, pred).sum()), int((truth != IGNORE).sum())
    share = f"{wrong / valid:.1%} of valid pixels" if valid else "no valid pixel"
    region = np.zeros(truth.shape, bool) if region is None else region
    image, truth, pred, region = fitting(image, truth, pred, region)
    doubted = bool(0 < region.mean() < 1)  # no contour lies around all or nothing
    panels = {
        "image" + "; outlined: label in doubt" * doubted: image,
        "ground truth": overlay(image, truth, classes, 0.7),
        "prediction": overlay(image, pred, classes, 0.7),
        f"errors in orange: {share}": error_map(image, truth, pred),
    }
    for ax, (name, panel) in zip(axs.flat, panels.items(), strict=True):
        _show(ax, panel, name)
    for ax in axs.flat[:2] if doubted else ():
        ax.contour(region, levels=[0.5], colors="black", linewidths=2.6)
        ax.contour(region, levels=[0.5], colors="white", linewidths=1.2)
    fig.suptitle(style.text(title, 120), x=0.004, ha="left", fontsize=10.5, fontweight="bold")
    if costs:
        what = "Costliest confusions (ground truth → prediction, share of the valid pixels):  "
        fig.legends[0].set_title(what + ";  ".join(costs), {"size": 8.5})
    return fig


def label_sheet(folder: str | Path, chosen: pd.DataFrame) -> Figure:
    """Show the images that `failures.label_next` chose, with their predictions, the first to be labelled first.

    Args:
        folder: where it wrote them; the overlays in it are read.
        chosen: label_next.csv.
    """
    pictures = (data.read_image(Path(folder) / "overlays" / f"{name}.png") for name in chosen["id"])
    titles = [f"{row.rank}. {row.id}: mIoU {row.expected_miou:.2f}?" for row in chosen.itertuples()]
    return image_grid([fitting(picture, most=480)[0] for picture in pictures], titles, 4)


def _show(ax: Axes, image: np.ndarray, title: str) -> None:
    """Show (H, W, 3) or (H, W) uint8 without ticks and frame, under a small title."""
    ax.imshow(fitting(image)[0], cmap="gray", vmin=0, vmax=255)
    ax.set_axis_off()
    ax.set_title(title, fontsize=8.5, fontweight="normal", pad=3)


def _handles(ids: Sequence[int], classes: ClassMap) -> list[Patch]:
    """Make the legend entries of class ids; 255 is "ignored", hatched as in error maps."""
    look = {"edgecolor": style.MUTED, "linewidth": 0.6}  # an edge, so that pale colours show
    colors, names = classes.colors / 255, classes.names
    handles = [Patch(facecolor=colors[c], label=style.text(names[c]), **look) for c in ids if c < len(names)]
    return handles + [Patch(facecolor="black", hatch="///", label="ignored", **look)] * (IGNORE in ids)
