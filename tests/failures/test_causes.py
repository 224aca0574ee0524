"""Which cause is stated on which evidence, and what images lose to classes against a plain computation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seglib import metrics
from seglib.checks import APART
from seglib.failures import causes
from seglib.failures.causes import class_losses, explain, summarise_causes

PLAIN = {
    "id": "a", "miou": 0.4, "label_score": 0.3, "suspect_kind": "", "suspect_given": "", "suspect_suggested": "",
    "degradation": "", "degradation_z": 0.4, "degradation_detail": "", "novelty": 0.5, "nearest": ["t1", "t2"],
    "lost_rare": 0.1, "rare_classes": "pole", "lost_small": 0.1, "best_fix": "tree -> sky", "best_fix_gain": 0.1,
}  # fmt: skip
DROP = {"drop_vs_median": 0.08, "drop_class": "sign", "drop_class_iou": 0.51, "drop_fix": "sign -> tree"}
WRONG = {"label_score": 0.95, "suspect_given": "pole", "suspect_suggested": "road"}
LABEL, IMAGE, SCENE = "label error", "degraded image", "unlike training"
RARE, SMALL, PAIR, NONE = "rare class", "small objects", "class confusion", "unexplained"


def stated(**changed) -> pd.Series:
    return explain(pd.DataFrame([PLAIN | changed])).iloc[0]


@pytest.mark.parametrize(
    ("changed", "cause", "told"),
    [
        ({"label_score": 0.97, "suspect_kind": "missing object", "suspect_given": "road", "suspect_suggested": "car"},
         LABEL, "Missing object: the model is sure of 'car' where the mask says 'road'."),
        ({"label_score": 1.0}, LABEL, "The model disagrees with the mask confidently"),
        ({"degradation": "blur", "degradation_z": 9.0, "degradation_detail": "blur: 0.1 of 0.5."}, IMAGE, "Blur: 0.1 of 0.5."),
        ({"degradation": "dark", "degradation_z": 8.04}, IMAGE, "Dark: 8.0 standard deviations from training images."),
        ({"novelty": 0.99}, SCENE, "than 99% of training images are from theirs. Nearest: t1."),
        ({"unsure": 2.5}, SCENE, "The model is 2.5 times as unsure all over it as in the typical image"),
        ({"lost_rare": 0.5}, RARE, "83% of the lost IoU is due to classes with less than 1% of the training pixels: pole."),
        ({"lost_small": 0.45}, SMALL, "75% of the lost IoU is due to regions below 0.33 %"),
        ({"best_fix_gain": 0.4}, PAIR, "One confusion, tree -> sky, costs 0.40 of the lost 0.60."),
        (DROP | {"drop_rare": 0.08}, RARE, "100% of its drop below the median image is due to classes"),
        (DROP | {"drop_rare": 0.08, "never_predicted": "pole"}, RARE, "The model hardly ever predicts pole."),
        (DROP | {"drop_fix_gain": 0.06}, PAIR, "sign -> tree, costs 0.06 more than in the median image. Classes below "
         "their median IoU cost 0.08 in all, 'sign' (median 0.51) the most."),
        ({}, NONE, "Neither label, image, training set nor class"),
    ],
)  # fmt: skip
def test_each_cause_on_its_evidence(changed, cause, told):
    row = stated(**changed)
    assert row["cause"] == cause
    assert told in row["evidence"]
    assert row["cause_confidence"] == 0 if cause == NONE else 0.5 <= row["cause_confidence"] <= 1
    assert row["suggestion"].endswith(".")


@pytest.mark.parametrize(
    ("changed", "confidence"),
    [
        ({"label_score": 0.87}, 0.5), ({"label_score": 0.97}, 1 - 0.5 * 3 / 13), ({"label_score": 1.0}, 1.0),
        ({"degradation": "blur", "degradation_z": APART}, 0.5), ({"degradation": "blur", "degradation_z": 2 * APART}, 0.875),
        ({"novelty": 0.9}, 0.5), ({"novelty": 0.95}, 0.625), ({"novelty": 1.0}, 0.75), ({"unsure": 2.5}, 0.6),
        ({"lost_rare": 0.3}, 0.5), ({"lost_rare": 0.9}, 1.0), ({"lost_small": 0.45}, 0.75), ({"best_fix_gain": 0.42}, 0.7),
        (DROP | {"drop_fix_gain": 0.06}, 0.625), (DROP | {"drop_rare": 0.08}, 0.75),
    ],
)  # fmt: skip
def test_confidence_grows_with_the_evidence(changed, confidence):
    assert stated(**changed)["cause_confidence"] == pytest.approx(confidence)


@pytest.mark.parametrize(
    "changed",
    [
        {"label_score": 0.869}, {"degradation": "blur", "degradation_z": APART - 0.01}, {"degradation_z": 9.0},
        {"novelty": 0.899}, {"lost_rare": 0.299}, {"lost_small": 0.299}, {"best_fix_gain": 0.299},
        {"miou": 1.0, "lost_rare": 0.0}, DROP | {"drop_fix_gain": 0.039},
        DROP | {"drop_fix_gain": 0.06, "label_score": 0.85},  # which would make a class look bad in it alone
        DROP | {"drop_vs_median": 0.019, "drop_fix_gain": 0.019}, {"unsure": 2.5, "novelty": np.nan},
        WRONG | {"never_predicted": "sign, pole"},  # its own fault, not the label's
    ],
)  # fmt: skip
def test_too_little_evidence_states_nothing(changed):
    assert stated(**changed)["cause"] == NONE


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
        (DROP | {"unsure": 2.4, "drop_fix_gain": 0.07}, PAIR), (DROP | {"unsure": 2.4, "drop_fix_gain": 0.045}, SCENE),
        ({"unsure": 2.4, "best_fix_gain": 0.31}, PAIR), (DROP | {"drop_fix_gain": 0.06, "lost_small": 0.31}, SMALL),
    ],
)  # fmt: skip
def test_what_lies_outside_the_model_goes_first_then_half_of_the_loss(changed, cause):
    assert stated(**changed)["cause"] == cause


def test_what_is_unknown_is_no_evidence():
    table = pd.DataFrame([{"id": "a", "miou": 0.2}, {"id": "b", "miou": np.nan}], index=[7, 3])
    assert explain(table)["cause"].to_dict() == {7: NONE, 3: NONE}


def test_the_summary_counts_and_puts_the_unexplained_last():
    table = pd.DataFrame({"id": list("abcdef"), "miou": [0.1] * 6, "cause": [NONE] * 4 + [RARE] * 2})
    found = summarise_causes(table)
    assert found["cause"].tolist() == [RARE, NONE]
    assert found["failures"].tolist() == [2, 4]
    assert found["examples"].tolist() == ["e, f", "a, b, c, ..."]
    assert found["lost"].tolist() == pytest.approx([1.8, 3.6])
    assert summarise_causes(table.iloc[:0]).empty
    assert set(causes.CAUSES) == {LABEL, IMAGE, SCENE, RARE, SMALL, PAIR, NONE}


NAMES, PIXELS = ("sky", "road", "sign"), np.array([5000, 5000, 10])


def split(count: int = 9) -> np.ndarray:
    """(N, 3, 3) counts of images that are all nearly alike."""
    sound = np.array([[900, 50, 0], [40, 800, 0], [10, 10, 40]])
    return sound + np.random.default_rng(0).integers(0, 5, (count, 3, 3))


def losses(counts: np.ndarray, pixels: np.ndarray | None = PIXELS) -> pd.DataFrame:
    return class_losses(counts, NAMES, pixels, "truth")


def _gain(counts: np.ndarray, t: int, p: int) -> float:
    """The mean IoU with one confusion corrected, less that as it is."""
    fixed = counts.copy()
    fixed[t, t] += fixed[t, p]
    fixed[t, p] = fixed[t, t] if t == p else 0
    return float(
        np.subtract(*(metrics.nanmean(metrics.image_class_iou(c[None], "truth")) for c in (fixed, counts)))
    )


def test_losses_are_those_of_counting_by_hand():
    counts = split(7)
    counts[2, 0], counts[4, 2] = (700, 250, 0), (50, 10, 0)
    iou = metrics.image_class_iou(counts, "truth")
    median, table = np.median(iou, axis=0), losses(counts)
    for k, row in table.iterrows():
        drop = np.maximum(median - iou[k], 0) / 3
        assert row["lost_rare"] == pytest.approx((1 - iou[k, 2]) / 3)
        assert row["drop_vs_median"] == pytest.approx(drop.sum())
        assert row["drop_rare"] == pytest.approx(drop[2])
    gains = np.array(
        [[_gain(one, t, p) if t != p else 0 for t in range(3) for p in range(3)] for one in counts]
    )
    assert table.loc[2, "drop_fix"] == "sky -> road"
    assert table.loc[2, "drop_fix_gain"] == pytest.approx((gains - np.median(gains, axis=0))[2, 1])
    assert table.loc[4, ["drop_class", "drop_fix"]].tolist() == ["sign", "sign -> sky"]
    assert table.loc[4, "drop_class_iou"] == pytest.approx(median[2])
    assert set(table["rare_classes"]) == {"sign"}
    assert losses(counts, None)[["lost_rare", "drop_rare"]].to_numpy().max() == 0


def test_what_is_weak_everywhere_is_no_drop():
    same = losses(np.repeat(split(1), 5, axis=0))
    assert same[["drop_vs_median", "drop_fix_gain"]].to_numpy().max() == 0
    assert set(same["drop_fix"]) == {""}


def test_a_rare_class_that_is_never_predicted_sets_no_standard():
    counts = split()
    counts[:, 2] = (50, 8, 2)  # a thirtieth found; in one image nothing
    counts[4, 2] = (60, 0, 0)
    found, iou = losses(counts), metrics.image_class_iou(counts, "truth")
    assert set(found["never_predicted"]) == {"sign"}
    np.testing.assert_allclose(found["drop_rare"], (np.median(np.median(iou, axis=0)[:2]) - iou[:, 2]) / 3)
    assert losses(counts, None)["drop_vs_median"].max() < 0.02  # not rare: it keeps its own median
    counts[2:, 2] = 0
    assert set(losses(counts)["never_predicted"]) == {""}  # in two images alone the labels may be at fault
    one_class = np.zeros((4, 3, 3), np.int64)
    one_class[:, :, 0] = 5
    found = losses(one_class)
    assert set(found["never_predicted"]) == {"road, sign"}
    assert np.isfinite(found["drop_vs_median"]).all()


def test_images_without_a_valid_pixel_and_classes_that_never_count():
    counts = split()
    counts[3] = 0
    assert losses(counts).loc[3, ["drop_vs_median", "drop_class", "drop_fix"]].tolist() == [0.0, "", ""]
    absent = np.zeros((3, 3, 3), np.int64)
    absent[:, 0, 0] = 5
    assert losses(absent)["drop_vs_median"].tolist() == [0, 0, 0]
