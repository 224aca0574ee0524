"""Per-image counts -> every score, in NumPy alone.

confusion: the one counter. scores: scores and tables of its counts. boundary, calibration, regions: counts
and scores of outlines, of confidence and of regions by size. bootstrap: intervals.
"""

from seglib.metrics.bootstrap import (
    Interval, draw_counts, draw_sums, independent_units, interval, iou_of, iou_parts,
    mean_iou_interval, mean_iou_of,
)
from seglib.metrics.boundary import boundary_counts, boundary_iou, boundary_width
from seglib.metrics.calibration import (
    BINS, calibration_counts, expected_calibration_error, mean_confidence, reliability_table,
)
from seglib.metrics.confusion import confusion_matrix
from seglib.metrics.regions import EDGES, SIZES, region_counts, region_iou, region_table
from seglib.metrics.scores import (
    POLICIES, image_class_iou, image_miou, iou_per_class, nanmean, per_class_table, scores,
)

__all__ = [
    "BINS", "EDGES", "POLICIES", "SIZES", "Interval", "boundary_counts", "boundary_iou", "boundary_width",
    "calibration_counts", "confusion_matrix", "draw_counts", "draw_sums", "expected_calibration_error",
    "image_class_iou", "image_miou", "independent_units", "interval", "iou_of", "iou_parts", "iou_per_class",
    "mean_confidence", "mean_iou_interval", "mean_iou_of", "nanmean", "per_class_table", "region_counts",
    "region_iou", "region_table", "reliability_table", "scores",
]
