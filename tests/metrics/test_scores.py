"""Scores by hand, by their definitions, and against torchmetrics, SMP and scikit-learn on random cases."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import raised
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from torchmetrics import classification as theirs

from seglib import metrics

IGNORE = 255
NAN = float("nan")
# Three images of three classes. Image 0: class 1 is not in the ground truth, but two pixels are called it;
# image 1: classes 0 and 1, all right; image 2: no pixel is valid.
FIRST, SECOND = [[4, 2, 0], [0, 0, 0], [1, 0, 3]], [[5, 0, 0], [0, 5, 0], [0, 0, 0]]
HAND = np.array([FIRST, SECOND, np.zeros((3, 3), int)])
cases = settings(deadline=None, max_examples=25)


@st.composite
def batches(draw, most=5):
    """Classes, (N, H, W) truth and prediction: few or many classes used, right or wrong, ignored or not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, size = draw(st.integers(2, 6)), [draw(st.integers(1, side)) for side in (most, 6, 7)]
    used = [random.choice(classes, draw(st.integers(1, classes)), replace=False) for _ in range(2)]
    truth, pred = (random.choice(ids, size) for ids in used)
    pred = np.where(random.random(size) < draw(st.sampled_from([0, 0.5, 0.9, 1])), truth, pred)
    truth[random.random(size) < draw(st.sampled_from([0, 0.2, 0.95]))] = IGNORE
    pred[truth == IGNORE] %= classes
    return classes, truth.astype(np.uint8), pred.astype(np.uint8)


def count(classes, truth, pred):
    return np.stack([metrics.confusion_matrix(t, p, classes) for t, p in zip(truth, pred, strict=True)])


def tensors(truth, pred):
    return torch.from_numpy(pred).long(), torch.from_numpy(truth).long()


def mean(values):
    """The mean of what is not NaN, NaN of nothing."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else NAN


def close(found, expected, digits=1e-12):
    assert found == pytest.approx(expected, abs=digits, nan_ok=True)


@pytest.mark.parametrize("classes", [2, 5, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_confusion_matrix_is_sklearns(classes, dtype):
    random = np.random.default_rng(0)
    truth, pred = random.integers(0, classes, (2, 30, 41))
    truth[random.random(truth.shape) < 0.1] = IGNORE
    valid = truth != IGNORE
    found = metrics.confusion_matrix(truth.astype(dtype), pred.astype(dtype), classes)
    expected = sklearn.confusion_matrix(truth[valid], pred[valid], labels=range(classes))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


def test_confusion_matrix_refuses():
    for truth, pred, message in (
        ([[0, 0, 0]], [[0], [0], [0]], "must be of one size"),
        ([[0, 0]], [[7, 3]], "prediction holds ids 3-7; expected 0-2"),
        ([[-1, -1]], [[0, 0]], "truth holds ids -1"),
        ([[0, 0]], [[300, 300]], "prediction holds ids 300-300; expected class ids"),
    ):
        raised(ValueError, message, metrics.confusion_matrix, np.array(truth), np.array(pred), 3)


@cases
@given(batches())
def test_torchmetrics(case):
    classes, truth, pred = case
    counts = count(*case)
    options = {"num_classes": classes, "ignore_index": IGNORE}
    matrix = theirs.MulticlassConfusionMatrix(**options)(*tensors(truth, pred))
    np.testing.assert_array_equal(counts.sum(0), matrix)
    if not (truth != IGNORE).any():
        return
    scores, table = metrics.scores(counts), metrics.per_class_table(counts, tuple("abcdef"[:classes]))
    accuracy = theirs.MulticlassAccuracy(average="micro", **options)(*tensors(truth, pred)).item()
    close(scores["mean_iou"], theirs.MulticlassJaccardIndex(**options)(*tensors(truth, pred)).item(), 1e-6)
    close(scores["pixel_accuracy"], accuracy, 1e-6)
    there = table["pixels"] > 0
    for name, other in (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1Score")):
        score = getattr(theirs, f"Multiclass{other}")(average="none", zero_division=0, **options)
        expected = score(*tensors(truth, pred)).numpy()
        np.testing.assert_allclose(table.loc[there, name], expected[there], atol=1e-6)


@cases
@given(batches())
def test_smp(case):
    classes, truth, pred = case
    counts = count(*case)
    marked = torch.from_numpy(np.where(truth == IGNORE, -1, truth.astype(int)))
    options = {"mode": "multiclass", "ignore_index": -1, "num_classes": classes}
    parts = smp.metrics.get_stats(torch.from_numpy(pred).long(), marked, **options)
    hit, false_positives, missed = (part.numpy() for part in parts[:3])  # (N, C) each
    np.testing.assert_array_equal(hit, np.diagonal(counts, axis1=1, axis2=2))

    def score(of, total=False):
        wanted = [part.sum(0, keepdim=True) if total else part for part in parts]
        return of(*wanted, reduction="none", zero_division=NAN).numpy()

    union = score(smp.metrics.iou_score)
    in_truth = np.where((hit + missed) > 0, union, NAN)
    for policy, expected in (("union", union), ("truth", in_truth)):
        np.testing.assert_allclose(metrics.image_class_iou(counts, policy), expected, atol=1e-6)
        close(metrics.image_miou(counts, policy).tolist(), [mean(row) for row in expected], 1e-6)
    table = metrics.per_class_table(counts, tuple("abcdef"[:classes]))
    np.testing.assert_allclose(table["iou"], score(smp.metrics.iou_score, total=True)[0], atol=1e-6)
    np.testing.assert_allclose(table["miou_c"], [mean(column) for column in in_truth.T], atol=1e-6)
    absent = np.where(hit + missed == 0, false_positives, 0).sum(0)
    assert table["absent_false_positives"].tolist() == absent.tolist()


def fine_grained(counts, absent):
    """The scores of Wang et al. 2023 as their definitions read."""
    hit, true, called = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    there = (true > 0) | ((called > 0) & (absent == "union"))
    table = np.where(there, hit / np.maximum(true + called - hit, 1), NAN).tolist()

    def worst(values, q):
        values = sorted(v for v in values if not math.isnan(v))
        return mean(values[: max(1, q * len(values) // 100)])

    by_image, columns = [mean(row) for row in table], list(zip(*table, strict=True))
    found = {"mean_iou_image": mean(by_image), "mean_iou_class": mean([mean(c) for c in columns])}
    for q in (1, 5, 10):
        found[f"mean_iou_image_worst_{q}"] = worst(by_image, q)
        found[f"mean_iou_class_worst_{q}"] = mean([worst(c, q) for c in columns])
    tenths = range(10, 101, 10)
    found["mean_iou_image_qbar"] = mean([worst(by_image, q) for q in tenths])
    found["mean_iou_class_qbar"] = mean([mean([worst(c, q) for c in columns]) for q in tenths])
    return found


@cases
@given(batches(most=40), st.sampled_from(metrics.POLICIES))
def test_fine_grained_scores_as_their_definitions_read(case, absent):
    counts = count(*case)
    scores = metrics.scores(counts, absent)
    for name, value in fine_grained(counts, absent).items():
        close(scores[name], value)


def test_scores_and_policies_by_hand():
    raised(ValueError, r"policy 'ones'.*truth, union", metrics.image_class_iou, HAND, "ones")
    scores = metrics.scores(HAND)
    assert scores["mean_iou"] == pytest.approx((9 / 12 + 5 / 7 + 3 / 4) / 3)
    assert scores["mean_class_accuracy"] == scores["mean_recall"] == pytest.approx((9 / 11 + 1 + 3 / 4) / 3)
    assert scores["mean_precision"] == pytest.approx((9 / 10 + 5 / 7 + 1) / 3)
    assert scores["frequency_weighted_iou"] == pytest.approx((11 * 9 / 12 + 5 * 5 / 7 + 4 * 3 / 4) / 20)
    assert metrics.scores(HAND, "union")["mean_iou"] == scores["mean_iou"]


def test_one_class_and_nothing_valid():
    one = metrics.scores(np.array([[[7]]]))  # a single class is never wrong
    assert set(one.values()) == {1.0}
    for nothing in (np.zeros((2, 3, 3), np.int64), np.zeros((0, 3, 3), np.int64)):
        scores = metrics.scores(nothing)
        assert all(type(value) is float and np.isnan(value) for value in scores.values())
        assert scores.keys() == one.keys()
        assert np.isnan(metrics.image_miou(nothing)).all()


@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_torchmetrics(seed):
    random = np.random.default_rng(seed)
    probabilities = torch.from_numpy(random.normal(0, 2, (5, 4, 12, 17)).astype(np.float32)).softmax(1)
    confidence, pred = (part.numpy() for part in probabilities.max(1))
    truth = np.where(random.random(pred.shape) < 0.3, random.integers(0, 4, pred.shape), pred)
    truth[random.random(pred.shape) < 0.1] = IGNORE
    reference = theirs.MulticlassCalibrationError(4, n_bins=10, norm="l1", ignore_index=IGNORE)
    pairs = zip(truth, pred, confidence, strict=True)
    counts = np.stack([metrics.calibration_counts(*arrays) for arrays in pairs])
    error = metrics.expected_calibration_error(counts.sum(0))
    close(error, reference(probabilities, torch.from_numpy(truth)).item(), 1e-6)
    table = metrics.reliability_table(counts.sum(0)).dropna()
    assert (table["share"] * table["gap"].abs()).sum() == pytest.approx(error)
    expected = [c[t != IGNORE].mean() for c, t in zip(confidence, truth, strict=True)]
    np.testing.assert_allclose(metrics.mean_confidence(counts), expected, rtol=1e-6)


def test_calibration_by_hand():
    truth, pred = np.array([[0, 1, 1, 255]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    counts = metrics.calibration_counts(truth, pred, np.array([[0.95, 0.85, 1.0, 0.1]], np.float32))
    table = metrics.reliability_table(counts)
    assert table["pixels"].tolist() == [0] * 8 + [1, 2]
    assert table.loc[9, ["share", "confidence", "accuracy"]].tolist() == pytest.approx([2 / 3, 0.975, 1.0])
    assert table.loc[8, "gap"] == pytest.approx(0.85)
    assert table.loc[0, ["confidence", "accuracy", "gap"]].isna().all()
    close(metrics.expected_calibration_error(counts), (2 * 0.025 + 0.85) / 3, 1e-6)
    blank = metrics.calibration_counts(np.full_like(truth, IGNORE), pred, np.ones(truth.shape))
    assert np.isnan([metrics.expected_calibration_error(blank), metrics.mean_confidence(blank)]).all()
    ends = np.array([[-5e-5, 0.0, 1.0, 1 + 5e-5]], np.float32)
    assert metrics.calibration_counts(pred, pred, ends)[0].tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("value", [1.7, NAN, 1.0002, -0.0002])
def test_what_is_no_probability_is_refused(value):
    ids, count = np.zeros((2, 2), np.uint8), metrics.calibration_counts
    raised(ValueError, "expected probabilities", count, ids, ids, np.full((2, 2), value, np.float32))
    raised(ValueError, "one size", count, ids, ids, np.ones((2, 3), np.float32))
