"""Which images fail: by each kind of threshold, worst first, with their confusions, and the closing words about them."""

import numpy as np
import pytest
from conftest import made_evaluation, raised

from seglib import failures
from seglib.evaluate import Evaluation
from seglib.failures import Threshold, failing, find_failures, read_threshold

NAMES, NAN = ("sky", "traffic sign", "level 2"), float("nan")
GOOD = [[50, 0, 0], [0, 45, 0], [0, 0, 5]]
NEAR = [[50, 0, 0], [0, 40, 10], [0, 5, 0]]  # IoU 1, 0.73, 0
CLEAR = [[20, 30, 0], [30, 20, 0], [0, 0, 0]]  # IoU 0.25 each
GUESS = [[0, 50, 0], [50, 0, 0], [0, 0, 0]]
BLANK = [[0, 0, 0]] * 3
REFUSED = [
    ((0.5, "per_class", " , ", NAMES), r"per_class needs classes such as 'person 0\.5'"),
    ((0.5, "absolute", "sky 0.3", NAMES), r"'absolute' with class_thresholds 'sky 0\.3'"),
    ((0.5, "per_class", "traffic sing 0.3", NAMES), r"'traffic sing 0\.3': expected a class"),
    ((0.5, "per_class", "sky 30", NAMES), r"class threshold 'sky 30': .* an IoU from 0 to 1"),
    ((0.5, "per_class", "sky 0.3, sky", NAMES), r"class threshold 'sky': expected a class, once"),
]


def of_ious(iou) -> Evaluation:
    """An evaluation whose classes have the IoUs asked for; NaN: the class is not in the image."""
    iou = np.array(iou)
    return made_evaluation(np.where(np.isnan(iou), 0, 1000)[:, :, None] * np.eye(3), NAMES, iou)


# mIoU 0.7, 0.4, 0.2, NaN, 1
EVALUATION = of_ious([[0.9, 0.5, NAN], [0.8, 0.1, 0.3], [0.2, NAN, NAN], [NAN] * 3, [1.0, 1.0, 1.0]])


def failed(threshold: Threshold, evaluation: Evaluation = EVALUATION) -> list[int]:
    return np.flatnonzero(failing(evaluation, threshold)).tolist()


def test_absolute_thresholds_and_percentiles():
    half = read_threshold(0.5, "percentile")
    assert failed(read_threshold(0.5)) == failed(half) == [1, 2]
    assert failed(read_threshold(0.2)) == []  # at the threshold is not below it
    assert failed(read_threshold(1)) == [0, 1, 2]
    assert failures.cutoff(EVALUATION, read_threshold(0.3)) == 0.3
    assert failures.cutoff(EVALUATION, half) == pytest.approx(0.55)
    assert failures.describe(EVALUATION, read_threshold(0.5)) == "below a mean IoU of 0.5"
    assert failures.describe(EVALUATION, half) == "below a mean IoU of 0.55, the lowest 50%"
    assert failed(read_threshold(0, "percentile")) == []
    assert failed(half, of_ious(np.full((7, 3), 0.4))) == failed(half, of_ious(np.full((2, 3), NAN))) == []


def test_thresholds_of_classes():
    threshold = read_threshold(0.5, "per_class", "traffic sign 0.2, sky", NAMES)
    assert threshold.classes == {"traffic sign": 0.2, "sky": 0.5}
    assert failed(threshold) == [1, 2]
    assert failures.describe(EVALUATION, threshold) == "below an IoU of 0.2 in traffic sign or 0.5 in sky"
    assert failures.cutoff(EVALUATION, threshold) == 0.5
    for text in ("sky 0.3,traffic sign 0.2", " sky 0.3 , traffic sign .2 ,"):
        assert read_threshold(0.5, "per_class", text, NAMES).classes == {"sky": 0.3, "traffic sign": 0.2}
    assert failed(read_threshold(0.5, "per_class", "level 2 0.3", NAMES)) == []
    assert failed(read_threshold(0.5, "per_class", "level 2", NAMES)) == [1]
    threshold = read_threshold(0.5, "per_class", "traffic sign 0.6, level 2 0.95", NAMES)
    found = find_failures(EVALUATION, threshold)
    assert found["id"].tolist() == ["i1", "i0"]
    assert found["severity"].tolist() == ["clear", "near-threshold"]  # 0.3 of 0.95; 0.5 of 0.6


@pytest.mark.parametrize(("arguments", "told"), REFUSED)
def test_thresholds_that_are_refused(arguments, told):
    raised(ValueError, told, read_threshold, *arguments)


def test_failures_come_worst_first_with_their_confusions():
    evaluation = made_evaluation([GOOD, CLEAR, GUESS, BLANK, NEAR, GUESS], NAMES)
    found = find_failures(evaluation, 0.5)
    assert found["id"].tolist() == ["i2", "i5", "i1"]  # equal ones by name
    assert found["miou"].tolist() == pytest.approx([0, 0, 0.25])
    assert found["worst_class"].tolist() == ["sky", "sky", "sky"]
    assert found["worst_class_iou"].tolist() == pytest.approx([0, 0, 0.25])
    assert found["top_confusion"].tolist() == ["sky -> traffic sign"] * 3
    assert found["top_confusion_share"].tolist() == pytest.approx([0.5, 0.5, 0.3])
    none = find_failures(made_evaluation([CLEAR], NAMES), 0.25)
    assert none.empty
    assert none.columns.equals(found.columns)
    assert failures.class_view(evaluation, none)["iou_failures"].isna().all()


@pytest.mark.parametrize("baseline", [0.1, 0.45, None])
def test_severity(baseline):
    for miou in (0.09, 0.399, 0.4, 0.45, 0.46):
        evaluation = of_ious([[miou] * 3])
        expected = "near-threshold" if miou >= 0.4 else "clear"
        if baseline:  # a model is no better than what never looks at the image
            evaluation.per_image["baseline_miou"] = baseline
            expected = "guessing" if miou <= baseline else expected
        assert find_failures(evaluation)["severity"].tolist() == [expected]


def test_class_view_by_hand():
    evaluation = made_evaluation([GOOD, CLEAR, GUESS], NAMES)
    view = failures.class_view(evaluation, find_failures(evaluation, 0.5)).set_index("class")
    assert view.index[0] == "sky"
    assert view.loc["sky", ["worst_in", "failures", "mistaken_for"]].tolist() == [2, 2, "traffic sign"]
    assert view.loc["sky", "iou"] == pytest.approx(70 / (150 + 150 - 70))
    assert view.loc["sky", "iou_failures"] == pytest.approx(20 / (100 + 100 - 20))
    assert view.loc["level 2", "pixel_share"] == pytest.approx(5 / 300)
    assert view.loc["level 2", ["failures", "mistaken_for"]].tolist() == [0, ""]


def test_the_closing_words():
    def said(confusions, mode="absolute", limit=0.5, **columns):
        evaluation, threshold = made_evaluation(confusions, NAMES), Threshold(limit, mode)
        evaluation.per_image["baseline_miou"] = 0.1
        found = find_failures(evaluation, threshold)
        columns = columns or {"cause": "unexplained"}
        return failures.conclusion(evaluation, found.assign(**columns), threshold).data.splitlines()

    assert said([GOOD, BLANK]) == ["**No image of 2 is below a mean IoU of 0.5**: the lowest has mIoU 1.00."]
    words = said([GOOD, NEAR], "percentile")
    assert words[0].startswith("**1 of 2 images (50%) are below a mean IoU of 0.788, the lowest 50%: ")
    told = "1 of 3 classes nearly lost, which the mean hides (IoU below 1/3): level 2 0.25 (2 images)"
    assert words[5:] == ["", told]
    words = said([GOOD, GUESS, CLEAR, CLEAR], cause=["label error", "unexplained", "unexplained"])
    told = "3 of 4 images (75%) are below a mean IoU of 0.5: label error 1, unexplained 2."
    assert words[0] == f"**{told}**"
    assert words[2] == "How badly: 2 clear, 1 no better than guessing. What to do, by cause:"
    assert words[4].startswith("- Unexplained: 2 of 3, 60% of the IoU that failures lost (i2, i3). Look")
    assert words[5].startswith("- Label error: 1 of 3, ")
