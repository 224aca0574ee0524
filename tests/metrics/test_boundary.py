"""Boundary IoU against erosion as it is defined: pixel by pixel, iteration by iteration, class by class."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seglib.metrics.boundary import boundary_counts, boundary_iou, boundary_width


def eroded(mask: np.ndarray, iterations: int) -> np.ndarray:
    """`iterations` erosions by a 3 x 3 square, the border counted as background: the definition, written out."""
    for _ in range(iterations):
        padded = np.pad(mask, 1)
        height, width = mask.shape
        mask = np.array([[padded[y : y + 3, x : x + 3].all() for x in range(width)] for y in range(height)])
    return mask


def brute_force(truth: np.ndarray, pred: np.ndarray, classes: int, width: int) -> np.ndarray:
    counts = np.zeros((2, classes), np.int64)
    scored = truth != 255
    for c in range(classes):
        masks = [(truth == c) & scored, (pred == c) & scored]
        true_rim, pred_rim = (mask & ~eroded(mask, width) for mask in masks)
        counts[:, c] = (true_rim & pred_rim).sum(), (true_rim | pred_rim).sum()
    return counts


def blobs(size: tuple[int, int], classes: int, seed: int, ignored: bool = True) -> np.ndarray:
    """Rectangles over one another, some of them without a label."""
    random = np.random.default_rng(seed)
    ids = np.zeros(size, np.uint8)
    for _ in range(6):
        top, left = random.integers(0, size[0]), random.integers(0, size[1])
        bottom, right = top + random.integers(1, size[0] + 1), left + random.integers(1, size[1] + 1)
        ids[top:bottom, left:right] = random.integers(0, classes)
    if ignored:
        ids[random.integers(0, size[0]), :] = 255
    return ids


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (7, 5), (16, 21), (23, 18)])
@pytest.mark.parametrize("ratio", [0.001, 0.06, 0.12, 0.5])
def test_equal_to_the_definition(size, ratio):
    for seed in range(4):
        truth, pred = blobs(size, 4, seed), blobs(size, 4, seed + 99, ignored=False)
        width = boundary_width(size, ratio)
        np.testing.assert_array_equal(
            boundary_counts(truth, pred, 4, ratio), brute_force(truth, pred, 4, width)
        )


ids = hnp.arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 0, 0, 1, 2, 255]))


@settings(deadline=None, max_examples=40)
@given(ids, hnp.arrays(np.uint8, (9, 11), elements=st.integers(0, 2)))
def test_equal_to_the_definition_for_any_masks(truth, pred):
    np.testing.assert_array_equal(boundary_counts(truth, pred, 3, 0.1), brute_force(truth, pred, 3, 1))
    swapped = np.where(truth == 255, 255, pred), np.where(truth == 255, 255, truth)
    np.testing.assert_array_equal(boundary_counts(*swapped, 3, 0.1), boundary_counts(truth, pred, 3, 0.1))


def test_equal_to_another_erosion():
    ndimage = pytest.importorskip("scipy.ndimage")
    truth, pred = blobs((90, 120), 5, 3), blobs((90, 120), 5, 4, ignored=False)
    counts, scored = boundary_counts(truth, pred, 5), truth != 255
    for c in range(5):
        masks = [(ids == c) & scored for ids in (truth, pred)]
        rims = [
            m & ~ndimage.binary_erosion(m, np.ones((3, 3)), iterations=3) for m in masks
        ]  # 0.02 x 150 = 3
        assert counts[:, c].tolist() == [(rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()]


@pytest.mark.parametrize(
    ("size", "ratio", "width"),
    [((300, 400), 0.02, 10), ((1024, 2048), 0.005, 11), ((2, 2), 0.02, 1), ((30, 40), 1, 50)],
)
def test_width(size, ratio, width):
    assert boundary_width(size, ratio) == width


def test_by_hand():
    truth = np.zeros((5, 5), np.uint8)
    truth[1:4, 1:4] = 1
    pred = np.zeros((5, 5), np.uint8)
    pred[1:4, 2:5] = 1
    # Width 1: class 1 is a rim of 8 pixels on both sides, of which two columns overlap but for the two centres' own row.
    counts = boundary_counts(truth, pred, 3, 0.01)
    assert counts[:, 1].tolist() == [4, 12]
    assert counts[:, 2].tolist() == [0, 0]
    assert boundary_iou(counts)[1] == pytest.approx(4 / 12)
    assert np.isnan(boundary_iou(counts)[2])


def test_a_perfect_prediction_is_one_and_nothing_scored_is_nothing():
    truth = blobs((40, 50), 3, 1)
    assert np.nanmin(boundary_iou(boundary_counts(truth, np.where(truth == 255, 0, truth), 3))) == 1
    counts = boundary_counts(np.full((40, 50), 255, np.uint8), truth, 3)
    assert counts.sum() == 0
    assert np.isnan(boundary_iou(counts)).all()


def test_ignored_pixels_do_not_matter():
    truth, pred = blobs((40, 50), 3, 1), blobs((40, 50), 3, 2, ignored=False)
    other = np.where(truth == 255, 77, pred).astype(np.uint8)
    np.testing.assert_array_equal(boundary_counts(truth, pred, 3), boundary_counts(truth, other, 3))


def test_classes_change_places_and_images_add_up():
    truth, pred = blobs((40, 50), 3, 1), blobs((40, 50), 3, 2, ignored=False)
    order = np.arange(256)
    order[:3] = [2, 0, 1]
    turned = boundary_counts(order[truth].astype(np.uint8), order[pred].astype(np.uint8), 3)
    counts = boundary_counts(truth, pred, 3)
    np.testing.assert_array_equal(turned[:, [2, 0, 1]], counts)
    np.testing.assert_allclose(boundary_iou(np.stack([counts, counts]).sum(0)), boundary_iou(counts))


@pytest.mark.parametrize(
    ("truth", "pred", "ratio", "told"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 0.02, "must be of one size"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8), 0.02, "holds id 7; expected 0-2"),
        (np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), 0.02, "holds id 3; expected 0-2"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 0.0, "boundary ratio 0.0"),
    ],
)
def test_what_is_wrong_is_named(truth, pred, ratio, told):
    with pytest.raises(ValueError, match=told):
        boundary_counts(truth, pred, 3, ratio)


def test_many_classes_and_pixels_stay_practical():
    truth = np.repeat(
        np.repeat(np.random.default_rng(0).integers(0, 150, (32, 64), dtype=np.uint8), 32, 0), 32, 1
    )
    started = time.perf_counter()
    counts = boundary_counts(truth, np.roll(truth, 3, 1), 150, 0.005)  # 1024 x 2048
    assert counts.shape == (2, 150)
    assert time.perf_counter() - started < 60  # a third of a second on an idle machine
