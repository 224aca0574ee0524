"""Tables and arrays -> figures. Each function takes `ax` (or makes a figure), returns it and writes nothing.

style: the common look; data: 01; training: 02; evaluation: 03 and 04; samples: images.
"""

from seglib.plots.data import class_shares, image_properties, sequence_timeline, split_shifts
from seglib.plots.evaluation import (
    class_ious, confusion_matrix, costly_confusions, iou_distribution, lost_iou,
    per_class_image_iou, region_ious, reliability, run_comparison, threshold_curve,
)
from seglib.plots.samples import augmentation_grid, failure_sheet, image_grid, image_pairs, label_sheet, overlay_grid
from seglib.plots.style import save_figure
from seglib.plots.training import LiveCurves, class_curves, in_full, series, show_small, training_curves

__all__ = [
    "LiveCurves", "augmentation_grid", "class_curves", "class_ious", "class_shares", "confusion_matrix",
    "costly_confusions", "failure_sheet", "image_grid", "image_pairs", "image_properties",
    "in_full", "iou_distribution", "label_sheet", "lost_iou", "overlay_grid", "per_class_image_iou", "region_ious",
    "reliability", "run_comparison", "save_figure", "sequence_timeline", "series", "show_small", "split_shifts",
    "threshold_curve", "training_curves",
]
