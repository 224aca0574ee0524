"""Pictures of masks and errors, and the regions of masks."""

import numpy as np
import pytest
from scipy import ndimage

import seglib.data as pictures
from seglib.data import IGNORE, ClassMap


def test_overlay_blends_and_error_map_marks_wrong_valid_pixels_only():
    image = np.full((2, 2, 3), 100, np.uint8)
    truth = np.array([[0, 1], [1, IGNORE]], np.uint8)
    pred = np.array([[0, 0], [1, 0]], np.uint8)
    classes = ClassMap(("a", "b"), np.array([[200, 0, 0], [0, 0, 50]]))
    assert (pictures.overlay(image, truth, classes, 0.0) == image).all()
    assert (pictures.overlay(image, truth, classes, 1.0) == classes.colorize(truth)).all()
    assert pictures.overlay(image, truth, classes, 0.5)[0, 0].tolist() == [150, 50, 50]
    errors = pictures.error_map(image, truth, pred)
    assert (errors == (255, 122, 0)).all(axis=-1).tolist() == [[False, True], [False, False]]
    assert errors[0, 0].tolist() == errors[1, 0].tolist() == [58, 58, 58]
    assert image.max() == image.min() == 100  # untouched


def test_top_confusions_count_valid_pixels():
    truth = np.array([[0, 0, 0, 1, IGNORE]], np.uint8)
    classes = ClassMap(("sky", "road", "<b>pole</b>"))
    costs = [("sky", "road", 0.5), ("sky", "<b>pole</b>", 0.25), ("road", "sky", 0.25)]
    assert pictures.top_confusions(truth, np.array([[1, 1, 2, 0, 2]], np.uint8), classes) == costs
    assert pictures.top_confusions(truth, truth, classes) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (40, 31), (0, 5), (5, 0)])
def test_regions_are_those_of_a_labelling_class_by_class(shape):
    for seed in range(20):
        random, times = np.random.default_rng(seed), 1 + seed // 4
        sides = [-(-side // times) for side in shape]
        coarse = random.integers(0, (1, 2, 3, 200)[seed % 4], sides, np.uint8)
        mask = coarse.repeat(times, 0).repeat(times, 1)[: shape[0], : shape[1]]
        mask = mask > 0 if seed % 4 == 1 else mask
        labels, values, sizes = pictures.label_regions(mask)
        np.testing.assert_array_equal(values[labels], mask)
        np.testing.assert_array_equal(np.bincount(labels.ravel(), minlength=len(sizes)), sizes)
        assert (np.diff(np.unique(labels, return_index=True)[1]) > 0).all()  # in reading order
        for value in np.unique(values):
            inside = values[labels] == value
            expected, count = ndimage.label(inside, np.ones((3, 3)))
            pairs = {*zip(expected[inside].tolist(), labels[inside].tolist(), strict=True)}
            assert len(pairs) == count == (values == value).sum()
