"""Scores on random cases against torchmetrics, SMP, scikit-learn and SciPy, and against their definitions, read aloud."""

from __future__ import annotations

import importlib
import math
import warnings
from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from sklearn import metrics as sklearn
from sklearn.dummy import DummyClassifier
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from seglib.data.dataset import load_dataset
from seglib.evaluate.baselines import baseline_confusions, learn_prior

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.metrics.bootstrap import mean_iou_interval
from seglib.metrics.calibration import calibration_counts, expected_calibration_error, reliability_table
from seglib.metrics.confusion import ConfusionCounts

IGNORE = 255
NAN = float("nan")


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


cases = settings(deadline=None, max_examples=25)


def count(classes, truth, pred):
    return np.stack([metrics.confusion_matrix(t, p, classes) for t, p in zip(truth, pred, strict=True)])


def tensors(truth, pred):
    return torch.from_numpy(pred).long(), torch.from_numpy(truth).long()


def mean(values):
    """The mean of what is not NaN, NaN of nothing: not numpy's."""
    known = [float(v) for v in values if not math.isnan(v)]
    return fmean(known) if known else NAN


def close(found, expected, digits=1e-12):
    assert found == pytest.approx(expected, abs=digits, nan_ok=True)


@cases
@given(batches())
def test_torchmetrics(case):
    classes, truth, pred = case
    counts, scored = count(*case), truth != IGNORE
    options = {"num_classes": classes, "ignore_index": IGNORE}
    matrix = MulticlassConfusionMatrix(**options)(*tensors(truth, pred))
    np.testing.assert_array_equal(counts.sum(0), matrix)
    metric = ConfusionCounts(classes)
    for one in zip(*tensors(truth, pred), strict=True):
        metric.update(*(part[None] for part in one))
    np.testing.assert_array_equal(metric.confusions(), counts)
    if not scored.any():
        return
    scores, table = metrics.scores(counts), metrics.per_class_table(counts, tuple("abcdef"[:classes]))
    close(scores["mean_iou"], MulticlassJaccardIndex(**options)(*tensors(truth, pred)).item(), 1e-6)
    close(
        scores["pixel_accuracy"],
        MulticlassAccuracy(average="micro", **options)(*tensors(truth, pred)).item(),
        1e-6,
    )
    each = MulticlassJaccardIndex(average="none", **options)(*tensors(truth, pred))
    close(table["iou"].fillna(0).tolist(), each.tolist(), 1e-6)  # there, a class in neither is 0


@cases
@given(batches())
def test_smp(case):
    classes, truth, pred = case
    counts = count(*case)
    marked = np.where(truth == IGNORE, -1, truth.astype(int))
    parts = smp.metrics.get_stats(
        torch.from_numpy(pred).long(),
        torch.from_numpy(marked),
        "multiclass",
        ignore_index=-1,
        num_classes=classes,
    )
    hit, invented, missed = (part.numpy() for part in parts[:3])  # (N, C) each
    np.testing.assert_array_equal(hit, np.diagonal(counts, axis1=1, axis2=2))
    np.testing.assert_array_equal(hit + missed, counts.sum(2))
    np.testing.assert_array_equal(hit + invented, counts.sum(1))

    def score(of, which=slice(None), total=False):
        wanted = [part[which].sum(0, keepdim=True) if total else part[which] for part in parts]
        return of(*wanted, reduction="none", zero_division=NAN).numpy()

    union = score(smp.metrics.iou_score)
    np.testing.assert_allclose(metrics.image_class_iou(counts, "union"), union, atol=1e-6)
    in_truth = np.where((hit + missed) > 0, union, NAN)
    np.testing.assert_allclose(metrics.image_class_iou(counts, "truth"), in_truth, atol=1e-6)
    close(metrics.image_miou(counts, "union").tolist(), [mean(row) for row in union], 1e-6)
    close(metrics.image_miou(counts).tolist(), [mean(row) for row in in_truth], 1e-6)
    table = metrics.per_class_table(counts, tuple("abcdef"[:classes]))
    for column, of in (
        ("iou", "iou_score"),
        ("f1", "f1_score"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        np.testing.assert_allclose(table[column], score(getattr(smp.metrics, of), total=True)[0], atol=1e-6)
    np.testing.assert_allclose(table["miou_c"], [mean(column) for column in in_truth.T], atol=1e-6)
    assert (
        table["absent_false_positives"].tolist() == np.where(hit + missed == 0, invented, 0).sum(0).tolist()
    )
    close(metrics.scores(counts)["mean_iou"], mean(score(smp.metrics.iou_score, total=True)[0]), 1e-6)


@pytest.mark.slow
@cases
@given(batches())
def test_scikit_learn(case):
    classes, truth, pred = case
    t, p = truth[truth != IGNORE], pred[truth != IGNORE]
    scores = metrics.scores(count(*case))
    if not len(t):
        assert all(math.isnan(value) for value in scores.values())
        return
    options = {"labels": range(classes), "zero_division": np.nan, "average": "macro"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are in the prediction alone, and of zero divisions
        close(scores["mean_precision"], sklearn.precision_score(t, p, **options))
        close(scores["mean_recall"], sklearn.recall_score(t, p, **options))
        close(scores["mean_f1"], sklearn.f1_score(t, p, **options))
        close(scores["mean_class_accuracy"], sklearn.balanced_accuracy_score(t, p))
        close(scores["pixel_accuracy"], sklearn.accuracy_score(t, p))
        close(scores["mean_iou"], sklearn.jaccard_score(t, p, labels=np.union1d(t, p), average="macro"))
        close(scores["frequency_weighted_iou"], sklearn.jaccard_score(t, p, average="weighted"))


def fine_grained(counts, absent):
    """The scores of Wang et al. 2023 as their definitions read, in exact fractions, class by class and image by image."""
    images, classes = counts.shape[:2]
    table = [[None] * classes for _ in range(images)]
    for i in range(images):
        for c in range(classes):
            hit, true, called = (int(n) for n in (counts[i, c, c], counts[i, c].sum(), counts[i, :, c].sum()))
            if true > 0 or (absent == "union" and called > 0):
                table[i][c] = Fraction(hit, true + called - hit)

    def average(values):
        values = [v for v in values if v is not None]
        return sum(values, Fraction(0)) / len(values) if values else None

    def worst(values, q):
        values = sorted(v for v in values if v is not None)
        return average(values[: max(1, math.floor(Fraction(q * len(values), 100)))])

    by_image, columns = [average(row) for row in table], list(zip(*table, strict=True))
    found = {"mean_iou_image": average(by_image), "mean_iou_class": average([average(c) for c in columns])}
    for q in (1, 5, 10):
        found[f"mean_iou_image_worst_{q}"] = worst(by_image, q)
        found[f"mean_iou_class_worst_{q}"] = average([worst(c, q) for c in columns])
    tenths = range(10, 101, 10)
    found["mean_iou_image_qbar"] = average([worst(by_image, q) for q in tenths])
    found["mean_iou_class_qbar"] = average([average([worst(c, q) for c in columns]) for q in tenths])
    return {name: NAN if value is None else float(value) for name, value in found.items()}


@cases
@given(batches(most=40), st.sampled_from(metrics.POLICIES))
def test_fine_grained_scores_as_their_definitions_read(case, absent):
    counts = count(*case)
    scores = metrics.scores(counts, absent)
    for name, value in fine_grained(counts, absent).items():
        close(scores[name], value)


def test_shares_of_counts_that_floats_cannot_hold():
    """0.07 of 100 is 7.000000000000001 and 0.29 of 100 is 28.999999999999996: floor(q n / 100) is meant in whole numbers."""
    for n in range(1, 300):
        values = np.arange(n, dtype=float)
        for q in range(1, 101):
            lowest = max(1, q * n // 100)
            assert metrics.worst_mean(values, q) == (lowest - 1) / 2


@cases
@given(batches(), st.integers(1, 20))
def test_calibration(case, bins):
    classes, truth, pred = case
    random = np.random.default_rng(truth.size)
    confidence = random.uniform(1 / classes, 1, truth.shape).astype(np.float32)
    counts = sum(calibration_counts(t, p, c, bins) for t, p, c in zip(truth, pred, confidence, strict=True))
    scored = truth != IGNORE
    expected, n = 0.0, scored.sum()
    for k in range(bins):
        inside = scored & (confidence >= k / bins) & (confidence < (k + 1) / bins)
        assert counts[0, k] == inside.sum()
        expected += abs(confidence[inside].sum(dtype=float) - (truth == pred)[inside].sum()) / max(n, 1)
    close(expected_calibration_error(counts), expected if n else NAN, 1e-9)
    if n:
        rest = (1 - confidence[..., None]) / (
            classes - 1
        )  # what is left is shared, so that the predicted class is first
        one_hot = np.arange(classes) == pred[..., None]
        shares = torch.from_numpy(np.where(one_hot, confidence[..., None] + 1e-6, rest)).movedim(-1, 1)
        judge = MulticlassCalibrationError(classes, n_bins=bins, ignore_index=IGNORE)
        close(expected_calibration_error(counts), judge(shares, tensors(truth, pred)[1]).item(), 1e-5)
        table = reliability_table(counts).dropna()
        close((table["share"] * table["gap"].abs()).sum(), expected, 1e-9)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_scipys(grouped):
    random = np.random.default_rng(7)
    counts = random.integers(0, 50, (14, 4, 4))
    units = np.arange(14) // 2 if grouped else np.arange(14)
    members = [np.flatnonzero(units == u) for u in np.unique(units)]

    def statistic(drawn):
        return metrics.mean_iou(np.concatenate([counts[members[int(u)]] for u in drawn]))

    expected = stats.bootstrap(
        (np.arange(len(members)),), statistic, vectorized=False, n_resamples=300, method="percentile",
        random_state=np.random.default_rng(5), confidence_level=0.95,
    ).confidence_interval  # fmt: skip
    fast = mean_iou_interval(counts, units, resamples=300, seed=5)
    assert (fast.low, fast.high) == pytest.approx(tuple(expected), abs=1e-12)
    plain = metrics.bootstrap(counts, metrics.mean_iou, units, resamples=300, seed=5)
    assert plain == pytest.approx(tuple(expected), abs=1e-12)


def test_baselines_are_a_dummy_and_a_vote(tmp_path):
    random = np.random.default_rng(3)
    masks = {split: [random.choice([0, 1, 2, 2, IGNORE], size).astype(np.uint8) for size in sizes]
             for split, sizes in {"train": [(9, 13), (5, 5), (15, 7), (11, 9)], "val": [(7, 11), (3, 7), (13, 13)]}.items()}  # fmt: skip
    for split, ids in masks.items():
        for k, mask in enumerate(ids):
            for kind, array in (("images", np.repeat(mask[..., None], 3, 2)), ("masks", mask)):
                path = tmp_path / split / kind / f"{split}{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    splits = "".join(f"  {s}: {{images: '{s}/images/*.png', masks: '{s}/masks/*.png'}}\n" for s in masks)
    (tmp_path / "dataset.yaml").write_text(f"name: random\nclasses: [a, b, c]\nsplits:\n{splits}")
    dataset, grid = load_dataset(tmp_path), (5, 9)  # odd as all sides: no centre lies between two pixels

    def nearest(mask, size):
        """Each place shows the pixel that its centre lies in."""
        rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in zip(size, mask.shape, strict=True))
        return mask[rows.astype(int)[:, None], columns.astype(int)]

    votes = np.zeros((3, *grid))
    for mask in masks["train"]:
        votes += nearest(mask, grid) == np.arange(3)[:, None, None]
    labels = np.concatenate([mask.ravel() for mask in masks["train"]])
    labels = labels[labels != IGNORE]
    dummy = DummyClassifier(strategy="most_frequent").fit(labels[:, None], labels)
    prior = learn_prior(dataset, grid=grid)
    place = np.where(votes.any(0), votes.argmax(0), prior.majority)
    np.testing.assert_array_equal(prior.mean_mask, place)
    majority, voted = baseline_confusions(dataset, "val", prior).values()
    for k, mask in enumerate(masks["val"]):
        scored = mask != IGNORE
        for found, guess in (
            (majority[k], dummy.predict(mask.reshape(-1, 1)).reshape(mask.shape)),
            (voted[k], nearest(place, mask.shape)),
        ):
            np.testing.assert_array_equal(
                found, sklearn.confusion_matrix(mask[scored], guess[scored], labels=range(3))
            )
