"""Figures of single samples: masks over images, augmented images, and the sheet of a failure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from seglib.data import IGNORE, ClassMap, error_map, fitting, overlay, present, top_confusions, wrong_pixels
from seglib.plots import style


@style.apply()
def overlay_grid(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    classes: ClassMap,
    titles: Sequence[object] = (),
    columns: int = 4,
) -> Figure:
    """Show masks over their images, with a legend of the classes that occur.

    Args:
        images, masks: (H, W, 3) uint8 RGB and (H, W) uint8 ids, pair by pair; sizes may differ between pairs.
    """
    cells = [overlay(*fitting(i, m), classes, 0.55) for i, m in zip(images, masks, strict=True)]
    return style.image_rows(cells, titles, columns, style.class_handles(present(*masks), classes))


@style.apply()
def augmentation_grid(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], classes: ClassMap, columns: int = 4
) -> Figure:
    """Show what the model sees: each augmented image above itself with its mask; arrays as in `overlay_grid`."""
    cells = []
    for image, mask in zip(images, masks, strict=True):
        gap = np.full((max(2, image.shape[0] // 50), image.shape[1], 3), 255, np.uint8)
        cells.append(np.concatenate([image, gap, overlay(image, mask, classes, 0.55)]))
    return style.image_rows(cells, (), columns, style.class_handles(present(*masks), classes))


@style.apply()
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
    handles = style.class_handles(present(truth, pred), classes)
    costs = [f"{style.text(t)} → {style.text(p)} {s:.1%}" for t, p, s in top_confusions(truth, pred, classes)]
    inches = rows * (12.4 / columns * height / width + 0.25) + 0.5
    fig, axs = style.sheet(rows, columns, 12.6, inches, handles)
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
        style.show_image(ax, panel, name)
    for ax in axs.flat[:2] if doubted else ():
        ax.contour(region, levels=[0.5], colors="black", linewidths=2.6)
        ax.contour(region, levels=[0.5], colors="white", linewidths=1.2)
    fig.suptitle(style.text(title, 120), x=0.004, ha="left", fontsize=10.5, fontweight="bold")
    if costs:
        what = "Costliest confusions (ground truth → prediction, share of the valid pixels):  "
        fig.legends[0].set_title(what + ";  ".join(costs), {"size": 8.5})
    return fig
