"""Boundary IoU against erosion as it is defined: pixel by pixel, iteration by iteration, class by class."""

import numpy as np
import pytest
from scipy import ndimage

from seglib.metrics import boundary_counts, boundary_iou, boundary_width


def definition(truth: np.ndarray, pred: np.ndarray, classes: int, width: int) -> np.ndarray:
    counts, valid = np.zeros((2, classes), np.int64), truth != 255
    for c in range(classes):
        masks = [(ids == c) & valid for ids in (truth, pred)]
        rims = [mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width) for mask in masks]
        counts[:, c] = (rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()
    return counts


def blobs(size: tuple[int, int], classes: int, seed: int) -> np.ndarray:
    """Rectangles over one another."""
    random = np.random.default_rng(seed)
    ids = np.zeros(size, np.uint8)
    for _ in range(6):
        top, left = random.integers(0, size[0]), random.integers(0, size[1])
        bottom, right = top + random.integers(1, size[0] + 1), left + random.integers(1, size[1] + 1)
        ids[top:bottom, left:right] = random.integers(0, classes)
    return ids


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (7, 5), (23, 18), (90, 120)])
@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.12, 0.5])
def test_equal_to_the_definition(size, ratio):
    for seed in range(4):
        truth, pred = blobs(size, 4, seed), blobs(size, 4, seed + 99)
        truth[seed % size[0]] = 255
        expected = definition(truth, pred, 4, boundary_width(size, ratio))
        np.testing.assert_array_equal(boundary_counts(truth, pred, 4, ratio), expected)


def test_by_hand():
    assert (boundary_width((300, 400), 0.02), boundary_width((2, 2), 0.02)) == (10, 1)
    truth, pred = np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8)
    truth[1:4, 1:4], pred[1:4, 2:5] = 1, 1
    # Width 1: class 1 is a rim of 8 pixels in both, of which two columns overlap but for the centres' row.
    counts = boundary_counts(truth, pred, 3, 0.01)
    assert counts[:, 1].tolist() == [4, 12]
    assert counts[:, 2].tolist() == [0, 0]
    assert boundary_iou(counts)[1] == pytest.approx(4 / 12)
    assert np.isnan(boundary_iou(counts)[2])
