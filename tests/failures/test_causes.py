"""Which cause is stated on which evidence, and what images lose to rare classes against counting by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seglib import metrics
from seglib.checks import APART
from seglib.failures.causes import ADVICE, class_losses, explain, summarise_causes

PLAIN = {
    "id": "a", "miou": 0.4, "label_score": 0.3, "suspect_kind": "", "suspect_given": "", "suspect_suggested": "",
    "degradation": "", "degradation_z": 0.4, "degradation_detail": "", "novelty": 0.5, "nearest": ["t1", "t2"],
    "lost_rare": 0.1, "rare_classes": "pole", "lost_small": 0.1, "best_fix": "tree -> sky", "best_fix_gain": 0.1,
}  # fmt: skip
WRONG = {"label_score": 0.95, "suspect_given": "pole", "suspect_suggested": "road"}
LABEL, IMAGE, SCENE = "label error", "degraded image", "unlike training"
RARE, SMALL, PAIR, NONE = "rare class", "small objects", "class confusion", "unexplained"


@pytest.mark.parametrize(
    ("changed", "cause", "told"),
    [
        ({"label_score": 0.97, "suspect_kind": "missing object", "suspect_given": "road", "suspect_suggested": "car"},
         LABEL, "Missing object: the model is sure of 'car' where the mask says 'road'."),
        ({"label_score": 1.0}, LABEL, "The model disagrees with the mask confidently"),
        ({"degradation": "blur", "degradation_z": 9.0, "degradation_detail": "blur: 0.1 of 0.5."}, IMAGE, "Blur: 0.1 of 0.5."),
        ({"novelty": 0.99}, SCENE, "than 99% of training images are from theirs. Nearest: t1."),
        ({"unsure": 2.5}, SCENE, "The model is 2.5 times as unsure all over it as in the typical image"),
        ({"lost_rare": 0.5}, RARE, "83% of the lost IoU is due to classes with less than 1% of the training pixels: pole."),
        ({"lost_small": 0.45}, SMALL, "75% of the lost IoU is due to regions below 0.33 %"),
        ({"best_fix_gain": 0.4}, PAIR, "One confusion, tree -> sky, costs 0.40 of the lost 0.60."),
        ({}, NONE, "Neither label, image, training set nor class"),
    ],
)  # fmt: skip
def test_each_cause_on_its_evidence(changed, cause, told):
    row = explain(pd.DataFrame([PLAIN | changed])).iloc[0]
    assert row["cause"] == cause
    assert told in row["evidence"]
    assert row["cause_confidence"] == 0 if cause == NONE else 0.5 <= row["cause_confidence"] <= 1
    assert row["suggestion"] == ADVICE[cause]


@pytest.mark.parametrize(
    ("changed", "confidence"),
    [
        ({"label_score": 0.87}, 0.5), ({"label_score": 0.97}, 1 - 0.5 * 3 / 13), ({"label_score": 1.0}, 1.0),
        ({"degradation": "blur", "degradation_z": APART}, 0.5), ({"degradation": "blur", "degradation_z": 2 * APART}, 0.875),
        ({"novelty": 0.9}, 0.5), ({"novelty": 0.95}, 0.625), ({"novelty": 1.0}, 0.75), ({"unsure": 2.5}, 0.6),
        ({"lost_rare": 0.3}, 0.5), ({"lost_rare": 0.9}, 1.0), ({"lost_small": 0.45}, 0.75), ({"best_fix_gain": 0.42}, 0.7),
        # too little evidence states nothing
        ({"label_score": 0.869}, 0), ({"degradation": "blur", "degradation_z": APART - 0.01}, 0), ({"degradation_z": 9.0}, 0),
        ({"novelty": 0.899}, 0), ({"lost_rare": 0.299}, 0), ({"lost_small": 0.299}, 0), ({"best_fix_gain": 0.299}, 0),
        ({"miou": 1.0, "lost_rare": 0.0}, 0), ({"unsure": 2.5, "novelty": np.nan}, 0),
        (WRONG | {"never_predicted": "sign, pole"}, 0),  # the model's own fault, not the label's
    ],
)  # fmt: skip
def test_confidence_grows_with_the_evidence(changed, confidence):
    row = explain(pd.DataFrame([PLAIN | changed])).iloc[0]
    assert row["cause_confidence"] == pytest.approx(confidence)
    assert (row["cause"] == NONE) == (confidence == 0)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"degradation": "dark", "degradation_z": 4.0, "lost_rare": 0.6}, IMAGE),
        ({"label_score": 0.95, "best_fix_gain": 0.6}, LABEL),
        ({"degradation": "dark", "degradation_z": 12.0, "novelty": 1.0}, IMAGE),
        (WRONG | {"never_predicted": "sign, tree"}, LABEL),
        # a model that is lost in an image is no evidence against its mask; in a training image it never is
        *[({"label_score": 0.95, "unsure": unsure, "novelty": novelty}, cause) for unsure, novelty, cause in [
            (2.5, 0.1, SCENE), (1.3, 0.49, LABEL), (1.3, 0.5, SCENE), (1.24, 0.5, LABEL), (1.5, 0.49, SCENE),
            (2.5, np.nan, LABEL), (2.5, None, LABEL)]],
        ({"unsure": 2.4, "novelty": 0.1, "degradation": "dark", "degradation_z": 5.0}, IMAGE),
        ({"unsure": 2.4, "best_fix_gain": 0.31}, PAIR),
    ],
)  # fmt: skip
def test_what_lies_outside_the_model_goes_first_then_half_of_the_loss(changed, cause):
    assert explain(pd.DataFrame([PLAIN | changed])).iloc[0]["cause"] == cause


def test_what_is_unknown_is_no_evidence():
    table = pd.DataFrame([{"id": "a", "miou": 0.2}, {"id": "b", "miou": np.nan}], index=[7, 3])
    assert explain(table)["cause"].to_dict() == {7: NONE, 3: NONE}


def test_the_summary_counts_and_puts_the_unexplained_last():
    table = pd.DataFrame({"id": list("abcdef"), "miou": [0.1] * 6, "cause": [NONE] * 4 + [RARE] * 2})
    found = summarise_causes(table)
    told = [[RARE, 2, "e, f"], [NONE, 4, "a, b, c, ..."]]
    assert found[["cause", "failures", "examples"]].to_numpy().tolist() == told
    assert found["lost"].tolist() == pytest.approx([1.8, 3.6])
    assert summarise_causes(table.iloc[:0]).empty


def test_losses_are_those_of_counting_by_hand():
    names, pixels = ("sky", "road", "sign"), np.array([5000, 5000, 10])
    counts = np.random.default_rng(0).integers(1, 90, (7, 3, 3))
    counts[3], counts[4, 2] = 0, (50, 10, 0)  # no valid pixel; a class that is not found
    found = class_losses(counts, names, pixels, "truth")
    sign = metrics.image_class_iou(counts, "truth")[:, 2]
    np.testing.assert_allclose(found["lost_rare"], np.nan_to_num((1 - sign) / 3))
    assert found["rare_classes"].tolist() == ["sign" if k != 3 else "" for k in range(7)]
    assert class_losses(counts, names, None, "truth")["lost_rare"].max() == 0
    for images, never in ((7, "sign"), (3, "sign"), (2, "")):  # in two alone the labels may be at fault
        counts[:images, 2], counts[images:, 2] = (50, 8, 2), 0  # a thirtieth found
        assert set(class_losses(counts, names, pixels, "truth")["never_predicted"]) == {never}
