"""Which cause is stated on which evidence, and when none is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seglib.checks.image_quality import APART
from seglib.failures import causes

PLAIN = {
    "id": "a", "miou": 0.4, "label_score": 0.3, "suspect_kind": "", "suspect_given": "", "suspect_suggested": "",
    "degradation": "", "degradation_z": 0.4, "degradation_detail": "", "novelty": 0.5, "nearest": ["t1", "t2"],
    "lost_rare": 0.1, "rare_classes": "pole", "lost_small": 0.1, "best_fix": "tree -> sky", "best_fix_gain": 0.1,
}  # fmt: skip


def stated(**changed) -> pd.Series:
    return causes.explain(pd.DataFrame([PLAIN | changed])).iloc[0]


@pytest.mark.parametrize(
    ("changed", "cause", "told"),
    [
        ({"label_score": 0.97, "suspect_kind": "missing object", "suspect_given": "road", "suspect_suggested": "car"},
         "label error", "Missing object: the model is sure of 'car' where the mask says 'road'."),
        ({"degradation": "blur", "degradation_z": 9.0, "degradation_detail": "blur: 0.1 of 0.5."},
         "degraded image", "Blur: 0.1 of 0.5."),
        ({"novelty": 0.99}, "unlike training", "than 99% of these are from each other. Nearest: t1."),
        ({"lost_rare": 0.5}, "rare class", "83% of what it lost went to classes with less than 1% of the training pixels: pole"),
        ({"lost_small": 0.45}, "small objects", "75% of what it lost went to regions smaller"),
        ({"best_fix_gain": 0.4}, "class confusion", "One confusion, tree -> sky, costs 0.40 of its 0.60 lost."),
    ],
)  # fmt: skip
def test_each_cause_on_its_evidence(changed, cause, told):
    row = stated(**changed)
    assert row["cause"] == cause
    assert told in row["evidence"]
    assert 0.5 <= row["cause_confidence"] <= 1
    assert row["suggestion"]


@pytest.mark.parametrize(
    ("changed", "confidence"),
    [
        ({"label_score": 0.87}, 0.5), ({"label_score": 0.97}, 1 - 0.5 * 3 / 13), ({"label_score": 1.0}, 1.0),
        ({"degradation": "blur", "degradation_z": APART}, 0.5),
        ({"degradation": "blur", "degradation_z": 2 * APART}, 0.875),
        ({"novelty": 0.9}, 0.5), ({"novelty": 0.95}, 0.625), ({"novelty": 1.0}, 0.75),
        ({"lost_rare": 0.3}, 0.5), ({"lost_rare": 0.9}, 1.0), ({"lost_small": 0.45}, 0.75), ({"best_fix_gain": 0.42}, 0.7),
    ],
)  # fmt: skip
def test_confidence_grows_with_the_evidence(changed, confidence):
    assert stated(**changed)["cause_confidence"] == pytest.approx(confidence)


@pytest.mark.parametrize(
    "changed",
    [{"label_score": 0.869}, {"degradation": "blur", "degradation_z": APART - 0.01}, {"degradation_z": 9.0},
     {"novelty": 0.899}, {"lost_rare": 0.299}, {"lost_small": 0.299}, {"best_fix_gain": 0.299},
     {"miou": 1.0, "lost_rare": 0.0}],
)  # fmt: skip
def test_what_is_not_likelier_than_not_is_not_claimed(changed):
    assert stated(**changed)["cause"] == "unexplained"


@pytest.mark.parametrize(
    ("changed", "evidence", "suggestion"),
    [
        ({"label_score": 1.0}, "The model surely and widely disagrees with the mask.",
         "Compare its mask with the image and correct it, or exclude it until that is done."),
        ({"label_score": 1.0, "suspect_kind": "shifted mask", "suspect_given": "road"},
         "Shifted mask: the model surely and widely disagrees with the mask.",
         "Move its mask to where the outlines are, or exclude it until that is done."),
        ({"degradation": "dark", "degradation_z": 8.04}, "Dark: 8.0 standard deviations from the training images.",
         "Train with more of it (augmentation 'darkness') if such images come in use; else exclude it."),
        ({"novelty": 0.97, "nearest": []}, "Farther from its nearest training image than 97% of these are from each other.",
         "Label more images like it and train with them."),
    ],
)  # fmt: skip
def test_what_is_said_where_little_is_known(changed, evidence, suggestion):
    row = stated(**changed)
    assert (row["evidence"], row["suggestion"]) == (evidence, suggestion)


def test_nothing_is_claimed_without_evidence():
    row = stated()
    assert (row["cause"], row["cause_confidence"]) == ("unexplained", 0.0)


def test_what_is_unknown_speaks_for_nothing():
    table = pd.DataFrame([{"id": "a", "miou": 0.2}, {"id": "b", "miou": np.nan}])
    assert causes.explain(table)["cause"].tolist() == ["unexplained"] * 2


def test_a_picture_or_a_label_at_fault_goes_before_the_classes():
    assert stated(degradation="dark", degradation_z=4.0, lost_rare=0.6)["cause"] == "degraded image"
    assert stated(label_score=0.95, best_fix_gain=0.6)["cause"] == "label error"
    assert stated(degradation="dark", degradation_z=12.0, novelty=1.0)["cause"] == "degraded image"


def test_the_most_confident_claim_of_a_sort_is_stated():
    assert stated(lost_rare=0.55, lost_small=0.4)["cause"] == "rare class"
    assert stated(lost_rare=0.4, lost_small=0.55)["cause"] == "small objects"


def test_rows_keep_their_order_and_index():
    table = pd.DataFrame([PLAIN | {"novelty": 1.0}, PLAIN], index=[7, 3])
    assert causes.explain(table)["cause"].to_dict() == {7: "unlike training", 3: "unexplained"}


def test_summary_counts_and_puts_the_unexplained_last():
    table = pd.DataFrame(
        {"id": list("abcdef"), "miou": [0.1] * 6, "cause": ["unexplained"] * 4 + ["rare class"] * 2}
    )
    found = causes.summary(table)
    assert found["cause"].tolist() == ["rare class", "unexplained"]
    assert found["failures"].tolist() == [2, 4]
    assert found["examples"].tolist() == ["e, f", "a, b, c, ..."]
    assert causes.summary(table.iloc[:3])["examples"].item() == "a, b, c"
    assert found["lost"].tolist() == pytest.approx([1.8, 3.6])
    assert causes.summary(table.iloc[:0]).empty
    assert set(causes.ADVICE) == set(causes.CAUSES)


WORSE = {"drop_vs_median": 0.08, "drop_class": "sign", "drop_class_iou": 0.51, "drop_fix": "sign -> tree"}


def test_what_was_worse_than_usual_is_said_where_nothing_holds_half():
    row = stated(**WORSE, drop_fix_gain=0.06)
    assert row["cause"] == "class confusion"
    assert row["cause_confidence"] == pytest.approx(0.625)
    assert "sign -> tree, costs 0.06 more than usual" in row["evidence"]
    assert "0.08, 'sign' (usually 0.51)" in row["evidence"]
    rare = stated(**WORSE, drop_rare=0.08)
    assert (rare["cause"], rare["cause_confidence"]) == ("rare class", 0.75)
    assert rare["evidence"].startswith("100% of what it did worse than usual")
    assert stated(**WORSE, drop_fix_gain=0.039)["cause"] == "unexplained"
    assert stated(**WORSE, drop_fix_gain=0.06, lost_small=0.31)["cause"] == "small objects"


def test_a_class_is_not_blamed_for_what_may_be_the_labels_fault():
    assert stated(**WORSE, drop_fix_gain=0.06, label_score=0.85)["cause"] == "unexplained"


def test_half_of_the_loss_goes_before_what_was_worse_than_usual():
    row = stated(**WORSE, drop_fix_gain=0.08, best_fix_gain=0.36)
    assert row["cause_confidence"] == pytest.approx(0.6)
    assert "tree -> sky" in row["evidence"]


def test_hardly_worse_than_usual_explains_nothing():
    little = WORSE | {"drop_vs_median": 0.019}
    assert stated(**little, drop_fix_gain=0.019)["cause"] == "unexplained"
    assert stated(**little | {"drop_vs_median": 0.02}, drop_fix_gain=0.019)["cause"] == "class confusion"


def test_a_model_that_is_lost_in_a_picture_is_no_witness_against_its_mask():
    lost = stated(unsure=2.5, label_score=0.95, novelty=0.1)
    assert lost["cause"] == "unlike training"
    assert lost["cause_confidence"] == pytest.approx(0.6)
    assert lost["evidence"].startswith("The model is 2.5 times as unsure all over it")
    assert "Nearest: t1." in lost["evidence"]
    assert stated(unsure=1.3, label_score=0.95, novelty=0.49)["cause"] == "label error"
    assert stated(unsure=1.3, label_score=0.95, novelty=0.5)["cause"] == "unlike training"
    assert stated(unsure=1.24, label_score=0.95, novelty=0.5)["cause"] == "label error"
    assert stated(unsure=1.5, label_score=0.95, novelty=0.49)["cause"] == "unlike training"
    assert stated(unsure=2.4, novelty=0.1, degradation="dark", degradation_z=5.0)["cause"] == "degraded image"
    for of_training in (
        float("nan"),
        None,
    ):  # the model knows its own training images, whatever it doubts in them
        assert stated(unsure=2.5, label_score=0.95, novelty=of_training)["cause"] == "label error"
        assert stated(unsure=2.5, novelty=of_training)["cause"] == "unexplained"
    assert stated(unsure=2.4, novelty=1.0)["evidence"].startswith("Farther from")


def test_doubt_that_comes_from_one_confusion_is_that_confusion():
    torn = WORSE | {"unsure": 2.4, "novelty": 0.1, "drop_fix_gain": 0.07}
    assert stated(**torn)["cause"] == "class confusion"
    assert stated(**torn | {"drop_fix_gain": 0.045})["cause"] == "unlike training"
    assert stated(unsure=2.4, novelty=0.1, best_fix_gain=0.31)["cause"] == "class confusion"


def test_a_class_that_the_model_says_nowhere_is_its_own_fault():
    wrong = {"label_score": 0.95, "suspect_given": "pole", "suspect_suggested": "road"}
    assert stated(**wrong, unsaid_classes="sign, tree")["cause"] == "label error"
    assert stated(**wrong, unsaid_classes="sign, pole")["cause"] == "unexplained"
    assert stated(label_score=0.95, unsaid_classes="")["cause"] == "label error"
    behind = stated(behind=0.08, drop_rare=0.07, unsaid_classes="pole")
    assert behind["cause"] == "rare class"
    assert behind["evidence"].endswith("pole. The model hardly says pole in any image.")
