"""Scores against scikit-learn, torchmetrics and figures worked out by hand."""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix as sklearn_matrix
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.classification import MulticlassJaccardIndex

metrics = importlib.import_module("seglib.metrics.scores")

IGNORE = 255
NAN = float("nan")
# Three images of three classes. Image 0: class 1 is not in the truth, but two pixels are predicted as it;
# image 1: classes 0 and 1, all right; image 2: nothing is scored.
HAND = np.array(
    [
        [[4, 2, 0], [0, 0, 0], [1, 0, 3]],
        [[5, 0, 0], [0, 5, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]
)


def draw(count=6, classes=5, size=(7, 9), seed=0, absent=()):
    """Truths with ignored pixels and predictions half of which are right."""
    random = np.random.default_rng(seed)
    ids = np.setdiff1d(np.arange(classes), absent)
    truth = random.choice(ids, (count, *size)).astype(np.uint8)
    pred = np.where(random.random(truth.shape) < 0.5, truth, random.choice(ids, truth.shape)).astype(np.uint8)
    truth[random.random(truth.shape) < 0.1] = IGNORE
    pred[truth == IGNORE] = random.choice(ids)
    return truth, pred


def count(truth, pred, classes):
    return np.stack([metrics.confusion_matrix(t, p, classes) for t, p in zip(truth, pred, strict=True)])


# ---- counting


@pytest.mark.parametrize("classes", [5, 15, 16, 255])  # up to 15, pairs are counted as bytes
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_confusion_matrix(dtype, classes):
    truth, pred = draw(1, classes, absent=(3,))
    ours = metrics.confusion_matrix(truth[0].astype(dtype), pred[0].astype(dtype), classes)
    scored = truth[0] != IGNORE
    np.testing.assert_array_equal(
        ours, sklearn_matrix(truth[0][scored], pred[0][scored], labels=range(classes))
    )
    brute = np.zeros((classes, classes), int)
    for t, p in zip(truth[0].ravel(), pred[0].ravel(), strict=True):
        if t != IGNORE:
            brute[t, p] += 1
    np.testing.assert_array_equal(ours, brute)
    assert ours.dtype == np.int64


def test_confusion_matrix_edges():
    one = np.zeros((1, 1), np.uint8)
    assert metrics.confusion_matrix(one, one, 1).tolist() == [[1]]
    assert metrics.confusion_matrix(one + IGNORE, one + 77, 2).tolist() == [
        [0, 0],
        [0, 0],
    ]  # prediction is not read
    for beyond in (-1, 256, 1000):  # of another type neither, whatever a byte can hold
        pred = np.array([[0, beyond]])
        assert metrics.confusion_matrix(np.array([[0, IGNORE]]), pred, 2).tolist() == [[1, 0], [0, 0]]
    last = np.full((2, 3), 254, np.uint8)  # 254 * 255 + 254 does not fit in the masks' own type
    assert metrics.confusion_matrix(last, last, 255)[254, 254] == 6
    strided = np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, ::3] % 4
    assert metrics.confusion_matrix(strided, strided, 4).trace() == 4


@pytest.mark.parametrize(
    ("truth", "pred", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "must be of one size"),
        (np.full((2, 2), 3), np.zeros((2, 2)), "truth holds ids 3-3; expected 0-2"),
        (np.zeros((2, 2)), np.full((2, 2), 7), "prediction holds ids 7-7; expected 0-2"),
        (np.zeros((2, 2)), np.full((2, 2), 3), "prediction holds ids 3-3; expected 0-2"),
        (np.full((2, 2), -1), np.zeros((2, 2)), "truth holds ids -1"),
        (np.zeros((2, 2)), np.full((2, 2), IGNORE), "prediction holds ids 255"),
        (np.zeros((2, 2)), np.full((2, 2), 300), "prediction holds ids 300-300; expected class ids"),
    ],
)
def test_confusion_matrix_refuses(truth, pred, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(truth.astype(int), pred.astype(int), 3)


# ---- against other libraries


@pytest.mark.parametrize("absent", [(), (2,), (0, 4)])
def test_mean_iou_is_torchmetrics(absent):
    truth, pred = draw(seed=1, absent=absent)
    judge = MulticlassJaccardIndex(num_classes=5, average="macro", ignore_index=IGNORE)
    expected = judge(torch.from_numpy(pred).long(), torch.from_numpy(truth).long()).item()
    confusions = count(truth, pred, 5)
    assert metrics.scores(confusions)["mean_iou"] == pytest.approx(expected, abs=1e-6)
    assert metrics.mean_iou(confusions) == pytest.approx(expected, abs=1e-6)


def test_iou_per_class_is_torchmetrics():
    truth, pred = draw(seed=2)
    judge = MulticlassJaccardIndex(num_classes=5, average="none", ignore_index=IGNORE)
    expected = judge(torch.from_numpy(pred).long(), torch.from_numpy(truth).long())
    np.testing.assert_allclose(metrics.iou_per_class(count(truth, pred, 5).sum(0)), expected, atol=1e-6)


def test_precision_recall_f1_are_sklearn():
    truth, pred = draw(seed=3, absent=(1,))
    confusions = count(truth, pred, 5)
    scored = truth != IGNORE
    precision, recall, f1, support = precision_recall_fscore_support(
        truth[scored], pred[scored], labels=range(5), zero_division=np.nan
    )
    table = metrics.per_class_table(confusions, tuple("abcde"))
    np.testing.assert_allclose(table["precision"], precision)
    np.testing.assert_allclose(table["recall"], recall)
    np.testing.assert_allclose(table["f1"], f1)
    np.testing.assert_array_equal(table["pixels"], support)
    scores = metrics.scores(confusions)
    for name, values in {"mean_precision": precision, "mean_recall": recall, "mean_f1": f1}.items():
        assert scores[name] == pytest.approx(np.nanmean(values))
    assert scores["mean_class_accuracy"] == scores["mean_recall"]
    assert scores["pixel_accuracy"] == pytest.approx((truth[scored] == pred[scored]).mean())
    assert scores["frequency_weighted_iou"] == pytest.approx(
        np.nansum(table["iou"] * table["pixels"]) / table["pixels"].sum()
    )


# ---- by hand


def test_absent_class_policies():
    truth = metrics.image_class_iou(HAND, "truth")
    np.testing.assert_allclose(truth, [[4 / 7, NAN, 3 / 4], [1, 1, NAN], [NAN] * 3])
    union = metrics.image_class_iou(HAND, "union")
    np.testing.assert_allclose(union, [[4 / 7, 0, 3 / 4], [1, 1, NAN], [NAN] * 3])
    np.testing.assert_allclose(metrics.image_miou(HAND), [(4 / 7 + 3 / 4) / 2, 1, NAN])
    np.testing.assert_allclose(metrics.image_miou(HAND, "union"), [(4 / 7 + 3 / 4) / 3, 1, NAN])
    with pytest.raises(ValueError, match=r"policy 'ones'.*truth, union"):
        metrics.image_class_iou(HAND, "ones")


def test_iou_per_class_by_hand():
    np.testing.assert_allclose(metrics.iou_per_class(HAND.sum(0)), [9 / 12, 5 / 7, 3 / 4])
    np.testing.assert_allclose(metrics.iou_per_class(HAND)[1], [1, 1, NAN])


def test_scores_by_hand():
    scores = metrics.scores(HAND)
    first = (4 / 7 + 3 / 4) / 2
    assert scores["mean_iou"] == pytest.approx((9 / 12 + 5 / 7 + 3 / 4) / 3)
    assert scores["mean_iou_image"] == pytest.approx((first + 1) / 2)
    assert scores["mean_iou_class"] == pytest.approx(((4 / 7 + 1) / 2 + 1 + 3 / 4) / 3)
    assert scores["pixel_accuracy"] == pytest.approx(17 / 20)
    assert scores["mean_class_accuracy"] == pytest.approx((9 / 11 + 1 + 3 / 4) / 3)
    assert scores["frequency_weighted_iou"] == pytest.approx((11 * 9 / 12 + 5 * 5 / 7 + 4 * 3 / 4) / 20)
    for q in (1, 5, 10):
        assert scores[f"mean_iou_image_worst_{q}"] == pytest.approx(first)
        assert scores[f"mean_iou_class_worst_{q}"] == pytest.approx((4 / 7 + 1 + 3 / 4) / 3)
    # Of two values, floor(q 2 / 100) is 0 or 1 up to q = 90, and 2 at 100.
    assert scores["mean_iou_image_qbar"] == pytest.approx((9 * first + (first + 1) / 2) / 10)
    tail, whole = (4 / 7 + 1 + 3 / 4) / 3, ((4 / 7 + 1) / 2 + 1 + 3 / 4) / 3
    assert scores["mean_iou_class_qbar"] == pytest.approx((9 * tail + whole) / 10)
    assert metrics.scores(HAND, "union")["mean_iou_image"] == pytest.approx(((4 / 7 + 3 / 4) / 3 + 1) / 2)
    assert metrics.scores(HAND, "union")["mean_iou"] == scores["mean_iou"]


def test_scores_are_plain_finite_floats():
    scores = metrics.scores(count(*draw(seed=4), 5))
    assert all(type(value) is float and np.isfinite(value) for value in scores.values())
    one = metrics.scores(np.array([[[7]]]))  # a single class is never wrong
    assert set(one.values()) == {1.0}
    assert one.keys() == scores.keys()


@pytest.mark.parametrize("confusions", [np.zeros((2, 3, 3), np.int64), np.zeros((0, 3, 3), np.int64)])
def test_nothing_scored_is_nan_throughout(confusions):
    assert all(np.isnan(value) for value in metrics.scores(confusions).values())
    assert np.isnan(metrics.mean_iou(confusions))
    assert np.isnan(metrics.image_miou(confusions)).all()


def test_worst_mean():
    values = np.array([0.5, NAN, 0.1, 0.9, 0.3])
    assert metrics.worst_mean(values, 1) == 0.1
    assert metrics.worst_mean(values, 49.9) == 0.1
    assert metrics.worst_mean(values, 50) == pytest.approx(0.2)
    assert metrics.worst_mean(values, 100) == pytest.approx(0.45)
    assert np.isnan(metrics.worst_mean(np.array([NAN]), 10))
    assert np.isnan(metrics.worst_mean(np.array([]), 10))
    hundred = np.arange(100.0)
    assert [metrics.worst_mean(hundred, q) for q in (1, 5, 10, 70)] == [0, 2, 4.5, 34.5]
    assert values[0] == 0.5  # not sorted in place


def test_per_class_table_by_hand():
    table = metrics.per_class_table(HAND, ("sky", "road", "tree"))
    assert table.columns.tolist() == [
        "class_id", "class", "iou", "precision", "recall", "f1", "images", "pixels", "pixel_share", "miou_c",
        "absent_false_positives",
    ]  # fmt: skip
    assert table["class_id"].tolist() == [0, 1, 2]
    assert table["class"].tolist() == ["sky", "road", "tree"]
    np.testing.assert_allclose(table["iou"], [9 / 12, 5 / 7, 3 / 4])
    np.testing.assert_allclose(table["precision"], [9 / 10, 5 / 7, 1])
    np.testing.assert_allclose(table["recall"], [9 / 11, 1, 3 / 4])
    np.testing.assert_allclose(table["f1"], [18 / 21, 10 / 12, 6 / 7])
    assert table["images"].tolist() == [2, 1, 1]
    assert table["pixels"].tolist() == [11, 5, 4]
    np.testing.assert_allclose(table["pixel_share"], [0.55, 0.25, 0.2])
    np.testing.assert_allclose(table["miou_c"], [(4 / 7 + 1) / 2, 1, 3 / 4])
    assert table["absent_false_positives"].tolist() == [0, 2, 0]
    union = metrics.per_class_table(HAND, ("sky", "road", "tree"), "union")
    np.testing.assert_allclose(union["miou_c"], [(4 / 7 + 1) / 2, 0.5, 3 / 4])


def test_top_confusions():
    table = metrics.top_confusions(HAND[0], ("sky", "road", "tree"))
    assert table.to_dict("records") == [
        {"truth": "sky", "prediction": "road", "pixels": 2, "share": 2 / 6},
        {"truth": "tree", "prediction": "sky", "pixels": 1, "share": 1 / 4},
    ]
    assert len(metrics.top_confusions(HAND[0], ("sky", "road", "tree"), 1)) == 1
    none = metrics.top_confusions(HAND[1], ("sky", "road", "tree"))
    assert none.empty
    assert none.columns.tolist() == ["truth", "prediction", "pixels", "share"]


# ---- intervals


def test_bootstrap_of_equal_images_is_a_point():
    same = np.repeat(HAND[:1], 8, axis=0)
    low, high = metrics.bootstrap(same, metrics.mean_iou, resamples=50)
    assert low == high == pytest.approx(metrics.mean_iou(same))


def test_bootstrap_is_seeded_and_widens_with_the_level():
    confusions = count(*draw(12, seed=5), 5)
    interval = metrics.bootstrap(confusions, metrics.mean_iou, resamples=200, seed=3)
    assert interval == metrics.bootstrap(confusions, metrics.mean_iou, resamples=200, seed=3)
    assert interval != metrics.bootstrap(confusions, metrics.mean_iou, resamples=200, seed=4)
    assert interval[0] < metrics.mean_iou(confusions) < interval[1]
    narrow = metrics.bootstrap(confusions, metrics.mean_iou, resamples=200, seed=3, level=0.5)
    assert interval[0] < narrow[0] < narrow[1] < interval[1]


def test_bootstrap_percentiles():
    """The mean of n values: the interval must be the normal one's, 1.96 standard errors to either side."""
    values = np.random.default_rng(0).integers(0, 1000, 400)
    low, high = metrics.bootstrap(values[:, None, None], lambda c: c.mean(), resamples=2000)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


@pytest.mark.parametrize("kind", [np.array, list, pd.Series], ids=["array", "list", "series"])
def test_bootstrap_draws_whole_groups(kind):
    sizes = {"a": 1, "b": 2, "c": 4}
    labels = [name for name, size in sizes.items() for _ in range(size)]
    confusions = np.array([[[ord(name)]] for name in labels])
    seen = []

    def statistic(drawn):
        seen.append({name: int((drawn == ord(name)).sum()) for name in sizes})
        return 0.0

    metrics.bootstrap(confusions, statistic, kind(labels), resamples=60)
    assert all(drawn[name] % size == 0 for drawn in seen for name, size in sizes.items())
    assert all(sum(drawn[name] // size for name, size in sizes.items()) == 3 for drawn in seen)
    assert all(any(drawn[name] for drawn in seen) for name in sizes)
    assert len(seen) == 60


def test_bootstrap_of_like_images_is_wider_by_group():
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(8), 10)
    values = random.normal(size=8)[groups] + 0.05 * random.normal(size=80)
    alone = metrics.bootstrap(values[:, None, None], lambda c: c.mean(), resamples=300)
    together = metrics.bootstrap(values[:, None, None], lambda c: c.mean(), groups, resamples=300)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_bootstrap_has_nothing_to_say():
    assert np.isnan(metrics.bootstrap(HAND[:1], metrics.mean_iou)).all()
    assert np.isnan(metrics.bootstrap(HAND, metrics.mean_iou, np.array(["s", "s", "s"]))).all()
    assert np.isnan(metrics.bootstrap(HAND[:0], metrics.mean_iou)).all()
    assert np.isnan(
        metrics.bootstrap(HAND[[2, 2]], metrics.mean_iou, resamples=10)
    ).all()  # nothing is scored


def test_independent_units_without_sequences():
    labels, text = metrics.independent_units(np.array(["", "", ""]), np.array([NAN, 1, 2]))
    assert len(set(labels)) == 3
    assert text.startswith("3 images")


def test_independent_units_many_sequences():
    groups = np.array(list("aabbccddee"))
    labels, text = metrics.independent_units(groups, np.arange(10.0))
    assert labels.tolist() == groups.tolist()
    assert text == "5 whole sequences"


def test_independent_units_blocks_of_frames():
    groups = np.array(["a"] * 25 + ["b"] * 10)
    frames = np.r_[np.random.default_rng(0).permutation(25) * 30.0, np.arange(10)[::-1]]
    labels, text = metrics.independent_units(groups, frames)
    assert sorted(pd.Series(labels).value_counts().tolist()) == [5, 10, 10, 10]
    for label in set(labels):
        members = np.flatnonzero(labels == label)
        assert len(set(groups[members])) == 1
        inside = np.sort(frames[members])
        others = frames[(groups == groups[members[0]]) & (labels != label)]
        assert not ((others > inside[0]) & (others < inside[-1])).any()  # neighbours and nobody else
    assert text.startswith("4 blocks of up to 10 neighbouring frames from 2 sequence(s)")


def test_independent_units_without_frame_numbers():
    """Frames of unknown time may all be neighbours, so a sequence of them is one unit."""
    labels, _ = metrics.independent_units(
        np.array(["a"] * 12 + ["b"] * 12), np.r_[np.full(12, NAN), np.arange(12.0)]
    )
    assert len(set(labels[:12])) == 1
    assert len(set(labels[12:])) == 2
    labels, _ = metrics.independent_units(np.array(["a"] * 24), np.r_[np.full(12, NAN), np.arange(12.0)])
    assert len(set(labels[:12])) == 1
    assert labels[0] not in labels[12:]  # nor are they neighbours of those that are known


# ---- properties

CONFUSIONS = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.int64, (shape[0], shape[1], shape[1]), elements=st.integers(0, 5))
)
POLICY = st.sampled_from(metrics.POLICIES)


def same(first, second):
    assert first.keys() == second.keys()
    np.testing.assert_allclose(list(first.values()), list(second.values()), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(CONFUSIONS, POLICY, st.randoms(use_true_random=False))
def test_order_of_images_and_classes_does_not_matter(confusions, policy, random):
    images = random.sample(range(len(confusions)), len(confusions))
    classes = random.sample(range(confusions.shape[1]), confusions.shape[1])
    scores = metrics.scores(confusions, policy)
    same(scores, metrics.scores(confusions[images], policy))
    same(scores, metrics.scores(confusions[:, classes][:, :, classes], policy))


@settings(max_examples=40, deadline=None)
@given(CONFUSIONS, POLICY)
def test_scores_lie_between_0_and_1(confusions, policy):
    scores = metrics.scores(confusions, policy)
    assert all(np.isnan(value) or 0 <= value <= 1 + 1e-12 for value in scores.values())
    assert any(np.isnan(v) for v in scores.values()) or confusions.sum()
    if confusions.sum():
        worst = [scores[f"mean_iou_image_worst_{q}"] for q in metrics.WORST_SHARES]
        assert sorted(worst) == worst
        assert worst[-1] <= scores["mean_iou_image_qbar"] + 1e-12 <= scores["mean_iou_image"] + 2e-12


@settings(max_examples=40, deadline=None)
@given(CONFUSIONS)
def test_union_never_scores_an_image_higher_than_truth(confusions):
    truth, union = metrics.image_miou(confusions, "truth"), metrics.image_miou(confusions, "union")
    np.testing.assert_array_equal(np.isnan(truth), np.isnan(union))
    assert (np.nan_to_num(union) <= np.nan_to_num(truth) + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 2, IGNORE])), arrays(np.uint8, (6, 5), elements=st.integers(0, 2)), st.integers(0, 6))  # fmt: skip
def test_counts_add_up(truth, pred, row):
    whole = metrics.confusion_matrix(truth, pred, 3)
    parts = [metrics.confusion_matrix(truth[part], pred[part], 3) for part in (slice(row), slice(row, None))]
    np.testing.assert_array_equal(whole, sum(parts))
    assert whole.sum() == (truth != IGNORE).sum()
    np.testing.assert_array_equal(whole.sum(1), [(truth == c).sum() for c in range(3)])
    assert (truth == pred).sum() == whole.trace()


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (0.4, "mean IoU 0.500, 95% interval 0.400 to 0.600; resampled: whole sequences"),
        (None, "mean IoU 0.500; too little is independent for an interval: whole sequences"),
        (float("nan"), "mean IoU 0.500; too little is independent for an interval: whole sequences"),
        (0.0, "mean IoU 0.500, 95% interval 0.000 to 0.600; resampled: whole sequences"),
    ],
)
def test_the_interval_in_words(low, expected):
    from seglib.evaluate.evaluation import interval_sentence

    interval = {"low": low, "high": 0.6, "level": 0.95, "basis": "whole sequences"}
    assert interval_sentence({"mean_iou": 0.5, "mean_iou_interval": interval}) == expected


@pytest.mark.parametrize("side", [1, 16, 64, 100])
def test_pixels_of_large_regions_are_counted_as_one_by_one(side):
    random = np.random.default_rng(side)
    blobs = [
        np.kron(random.choice([0, 1, 2, 255], (3, 3)), np.ones((side, side))).astype(np.uint8)
        for _ in range(2)
    ]
    truth, pred = blobs[0], np.minimum(np.roll(blobs[1], side // 3, axis=1), 2)
    expected = np.zeros((3, 3), np.int64)
    scored = truth != 255
    np.add.at(expected, (truth[scored], pred[scored]), 1)
    assert np.array_equal(metrics.confusion_matrix(truth, pred, 3), expected)
