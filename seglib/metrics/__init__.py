"""Per-image counts -> every score, in NumPy alone.

scores: the one counter, and scores and tables of its counts; calibration. regions: counts and scores of outlines and
of regions by size. jackknife: intervals.
"""

from seglib.metrics.jackknife import independent_units, jackknife
from seglib.metrics.regions import (
    EDGES, SIZES, boundary_counts, boundary_iou, boundary_width, region_counts, region_iou, region_table,
)
from seglib.metrics.scores import (
    BINS, POLICIES, calibration_counts, confusion_matrix, expected_calibration_error, image_class_iou, image_miou,
    iou_per_class, mean_confidence, nanmean, per_class_table, ratio, reliability_table, scores,
)

__all__ = [
    "BINS", "EDGES", "POLICIES", "SIZES", "boundary_counts", "boundary_iou", "boundary_width",
    "calibration_counts", "confusion_matrix", "expected_calibration_error", "image_class_iou", "image_miou",
    "independent_units", "iou_per_class", "jackknife", "mean_confidence", "nanmean", "per_class_table",
    "ratio", "region_counts", "region_iou", "region_table", "reliability_table", "scores",
]
