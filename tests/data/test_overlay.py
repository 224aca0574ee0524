"""Pictures of masks, errors and confidences."""

import numpy as np

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
    pred = np.array([[1, 1, 2, 0, 2]], np.uint8)
    classes = ClassMap(("sky", "road", "<b>pole</b>"))
    costs = [("sky", "road", 0.5), ("sky", "<b>pole</b>", 0.25), ("road", "sky", 0.25)]
    assert pictures.top_confusions(truth, pred, classes) == costs
    assert pictures.top_confusions(truth, truth, classes) == []
