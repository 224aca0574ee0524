"""Per-image counts -> every score, in NumPy alone.

scores: the one counter, and scores and tables of its counts. boundary, calibration, regions: counts and
scores of outlines, of confidence and of regions by size. jackknife: intervals.
"""

from seglib.metrics.boundary import boundary_counts, boundary_iou, boundary_width
from seglib.metrics.calibration import (
    BINS, calibration_counts, expected_calibration_error, mean_confidence, reliability_table,
)
from seglib.metrics.jackknife import independent_units, jackknife
from seglib.metrics.regions import EDGES, SIZES, region_counts, region_iou, region_table
from seglib.metrics.scores import (
    POLICIES, confusion_matrix, image_class_iou, image_miou, iou_per_class, nanmean, per_class_table, ratio,
    scores,
)

__all__ = [
    "BINS", "EDGES", "POLICIES", "SIZES", "boundary_counts", "boundary_iou", "boundary_width",
    "calibration_counts", "confusion_matrix", "expected_calibration_error", "image_class_iou", "image_miou",
    "independent_units", "iou_per_class", "jackknife", "mean_confidence", "nanmean", "per_class_table",
    "ratio", "region_counts", "region_iou", "region_table", "reliability_table", "scores",
]
