"""Which cause is stated on which evidence, and what images lose to rare classes against counting by hand."""

import numpy as np
import pandas as pd
import pytest

from seglib import metrics
from seglib.checks import APART
from seglib.failures.causes import ADVICE, class_losses, explain, recurring, summarise_causes

PLAIN = {
    "id": "a", "miou": 0.4, "label_score": 0.3, "suspect": False, "suspect_kind": "", "suspect_given": "", "suspect_suggested": "",
    "suspect_detail": "", "recurs": "",
    "degradation": "", "degradation_z": 0.4, "degradation_detail": "", "novelty": 0.5, "unsure": 1.0, "nearest": ["t1", "t2"],
    "lost_rare": 0.1, "rare_classes": "pole", "lost_small": 0.1, "best_fix": "tree -> sky", "best_fix_gain": 0.1,
}  # fmt: skip
WRONG = {"label_score": 0.95, "suspect": True, "suspect_kind": "swapped class"}
OFTEN = "in 14 of the 30 images of this sequence that show 'tree'"
LABEL, IMAGE, SCENE = "label error", "degraded image", "unlike training"
RARE, SMALL, PAIR, NONE = "rare class", "small objects", "class confusion", "unexplained"
HABIT = "systematic confusion"


@pytest.mark.parametrize(
    ("changed", "cause", "told"),
    [(WRONG | {"suspect_kind": "missing object", "suspect_given": "road", "suspect_suggested": "car"}, LABEL,
      "Missing object: the model is sure of 'car' where the mask says 'road'."),
     (WRONG, LABEL, "what they say of masks with injected faults"),
     (WRONG | {"suspect_kind": "shifted mask", "suspect_detail": "it fits moved"}, LABEL, "Shifted mask: it fits moved."),
     ({"best_fix_gain": 0.2, "recurs": OFTEN}, HABIT, f"and recurs {OFTEN}."),
     ({"degradation": "blur", "degradation_z": 9.0, "degradation_detail": "blur: 0.1 of 0.5."}, IMAGE, "Blur: 0.1 of 0.5."),
     ({"novelty": 1.0}, SCENE, "than 100% of training images are from theirs. Nearest: t1."),
     ({"unsure": 2.5}, SCENE, "The model is 2.5 times as unsure all over it as in the typical image"),
     ({"lost_rare": 0.5}, RARE, "83% of the lost IoU is due to classes with less than 1% of the training pixels: pole."),
     ({"lost_small": 0.45}, SMALL, "75% of the lost IoU is due to regions below 0.33 %"),
     ({"best_fix_gain": 0.4}, PAIR, "One confusion, tree -> sky, costs 0.40 of the lost 0.60."),
     ({}, NONE, "Neither label, image, training set nor class"),
     # what lies outside the model goes first, then half of the loss
     ({"degradation": "dark", "degradation_z": 4.0, "lost_rare": 0.6}, IMAGE, ""),
     (WRONG | {"best_fix_gain": 0.6}, LABEL, ""),
     ({"degradation": "dark", "degradation_z": 12.0, "novelty": 1.0}, IMAGE, ""),
     # where the model is lost; in a training image it never is
     *[({"unsure": unsure, "novelty": novelty}, cause, "") for unsure, novelty, cause in [
         (2.5, 0.1, SCENE), (1.3, 0.49, NONE), (1.3, 0.5, SCENE), (1.24, 0.5, NONE), (1.5, 0.49, SCENE),
         (2.5, np.nan, NONE), (2.5, None, NONE)]],
     ({"unsure": 2.4, "novelty": 0.1, "degradation": "dark", "degradation_z": 5.0}, IMAGE, ""),
     ({"unsure": 1.9, "best_fix_gain": 0.31}, PAIR, ""),
     ({"unsure": 2.0, "best_fix_gain": 0.31}, SCENE, "")],
)  # fmt: skip
def test_each_cause_on_its_evidence_and_in_its_order(changed, cause, told):
    row = explain(pd.DataFrame([PLAIN | changed]), 3).iloc[0]
    assert row["cause"] == cause
    of_two = explain(pd.DataFrame([PLAIN | changed]), 2).iloc[0]["cause"]  # there is but one confusion
    assert of_two not in (PAIR, HABIT) if cause in (PAIR, HABIT) else of_two == cause
    assert told in row["evidence"]
    assert row["cause_strength"] == 0 if cause == NONE else 0.5 <= row["cause_strength"] <= 1
    assert row["suggestion"] == ADVICE[cause]


@pytest.mark.parametrize(
    ("changed", "strength"),
    [(WRONG, 0.95), (WRONG | {"label_score": 0.5}, 0.5),
     ({"degradation": "blur", "degradation_z": APART}, 0.5), ({"degradation": "blur", "degradation_z": 2 * APART}, 0.875),
     ({"novelty": 0.99}, 0.5), ({"novelty": 0.995}, 0.625), ({"novelty": 1.0}, 0.75), ({"unsure": 2.5}, 0.6),
     ({"lost_rare": 0.3}, 0.5), ({"lost_rare": 0.9}, 1.0), ({"lost_small": 0.45}, 0.75), ({"best_fix_gain": 0.42}, 0.7),
     # too little evidence states nothing
     (WRONG | {"suspect": False}, 0), ({"degradation": "blur", "degradation_z": APART - 0.01}, 0), ({"degradation_z": 9.0}, 0),
     ({"novelty": 0.989}, 0), ({"lost_rare": 0.299}, 0), ({"lost_small": 0.299}, 0), ({"best_fix_gain": 0.299}, 0),
     ({"miou": 1.0, "lost_rare": 0.0}, 0), ({"unsure": 2.5, "novelty": np.nan}, 0),
     ({"best_fix_gain": 0.19, "recurs": OFTEN}, 0), ({"best_fix_gain": 0.3, "recurs": OFTEN}, 0.75)],
)  # fmt: skip
def test_strength_grows_with_the_evidence(changed, strength):
    row = explain(pd.DataFrame([PLAIN | changed]), 3).iloc[0]
    assert row["cause_strength"] == pytest.approx(strength)
    assert (row["cause"] == NONE) == (strength == 0)


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


@pytest.mark.parametrize(("erring", "told"), [(4, "in 4 of the 6"), (3, ""), (6, "in 6 of the 6")])
def test_a_confusion_recurs_in_its_own_sequence_alone(erring, told):
    confusions = np.tile(np.diag([100, 100, 0]), (12, 1, 1))
    confusions[:erring, 0] = [70, 30, 0]  # of the first sequence; in the second, all images but one are sound
    confusions[6, 0] = [10, 90, 0]
    groups, names = np.repeat(["a", "b"], 6), ("sky", "road -> path", "sign")  # as a class may be called
    fixes = pd.Series({0: "sky -> road -> path", 6: "sky -> road -> path", 1: ""})
    found = recurring(confusions, groups, names, fixes)
    assert found[0].startswith(told)
    assert bool(found[0]) == bool(told)
    assert found[1:] == ["", ""]
