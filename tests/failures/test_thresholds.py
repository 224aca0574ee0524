"""What counts as a failure, by each mode, and what is refused in which words."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from seglib.data.classes import ClassMap
from seglib.evaluate.evaluation import Evaluation
from seglib.failures.find import find_failures
from seglib.failures.thresholds import (
    Threshold,
    ThresholdError,
    cutoff,
    describe,
    failing,
    failure_curve,
    judged,
    read_threshold,
)

metrics = importlib.import_module("seglib.metrics.scores")

NAMES = ("sky", "traffic sign", "level 2")
NAN = float("nan")
IOU = np.array([[0.9, 0.5, NAN], [0.8, 0.1, 0.3], [0.2, NAN, NAN], [NAN, NAN, NAN], [1.0, 1.0, 1.0]])


def evaluation_of(iou: np.ndarray) -> Evaluation:
    """An evaluation in which each class of each image has 1000 pixels and the IoU asked for; NaN: none."""
    counts = np.zeros((len(iou), 3, 3), np.int64)
    for i, c in np.argwhere(~np.isnan(iou)):
        counts[i, c, c] = 1000  # not used for the IoU, only so that pixels are scored
    ids = [f"i{k}" for k in range(len(iou))]
    known = ~np.isnan(iou).all(1)
    worst = np.full(len(iou), "", object)
    worst[known] = np.array(NAMES, object)[np.nanargmin(iou[known], axis=1)]
    per_image = pd.DataFrame(
        {
            "id": ids,
            "group": "",
            "miou": metrics.nanmean(iou, axis=1),
            "worst_class": worst,
            "valid_pixels": counts.sum((1, 2)),
        }
    )
    table = pd.DataFrame(iou, columns=list(NAMES))
    table.insert(0, "id", ids)
    return Evaluation(
        None, SimpleNamespace(classes=ClassMap(NAMES)), "test", {}, per_image, pd.DataFrame(), table, counts
    )


EVALUATION = evaluation_of(IOU)  # mIoU 0.7, 0.4, 0.2, none, 1


def failed(threshold: Threshold, evaluation: Evaluation = EVALUATION) -> list[int]:
    assert failing(evaluation, threshold).dtype == bool
    return np.flatnonzero(failing(evaluation, threshold)).tolist()


def test_absolute():
    assert failed(read_threshold(0.5)) == [1, 2]
    assert failed(read_threshold(0.2)) == []  # at the threshold is not below it
    assert failed(read_threshold(1)) == [0, 1, 2]
    assert describe(EVALUATION, read_threshold(0.5)) == "below a mean IoU of 0.5"


def test_percentile():
    half = read_threshold(0.5, "percentile")
    assert failed(half) == [1, 2]
    np.testing.assert_allclose(judged(EVALUATION, half)[1], [0.55, 0.55, 0.55, NAN, 0.55])
    assert describe(EVALUATION, half) == "below a mean IoU of 0.55, the lowest 50%"
    assert failed(read_threshold(0, "percentile")) == []
    random = evaluation_of(np.random.default_rng(0).random((200, 3)))
    for share in (0.01, 0.05, 0.1, 0.33):
        count = len(failed(Threshold(share, "percentile"), random))
        assert abs(count - 200 * share) <= 1
    alike = evaluation_of(np.full((7, 3), 0.4))
    assert failed(Threshold(0.5, "percentile"), alike) == []
    assert failed(Threshold(0.5, "percentile"), evaluation_of(np.full((2, 3), NAN))) == []


def test_per_class():
    threshold = read_threshold(0.5, "per_class", "traffic sign 0.2, sky", NAMES)
    assert threshold.classes == {"traffic sign": 0.2, "sky": 0.5}
    assert failed(threshold) == [1, 2]
    score, limit = judged(EVALUATION, threshold)
    np.testing.assert_allclose(score, [0.5, 0.1, 0.2, NAN, 1.0])
    np.testing.assert_allclose(limit, [0.2, 0.2, 0.5, NAN, 0.5])
    assert describe(EVALUATION, threshold) == "below an IoU of 0.2 in traffic sign or 0.5 in sky"
    assert failed(read_threshold(0.5, "per_class", "level 2 0.3", NAMES)) == []
    assert failed(read_threshold(0.5, "per_class", "level 2", NAMES)) == [1]


@pytest.mark.parametrize(
    "text", ["sky 0.3,traffic sign=0.2", " sky: 0.3 , traffic  sign : .2 ,", "sky=0.3, traffic sign 0.20"]
)
def test_ways_of_writing(text):
    assert read_threshold(0.5, "per_class", text, NAMES).classes == {"sky": 0.3, "traffic sign": 0.2}


def test_both_ends_are_thresholds():
    assert read_threshold(0.5, "per_class", "sky 0, traffic sign 1", NAMES).classes == {
        "sky": 0,
        "traffic sign": 1,
    }
    assert [read_threshold(value).value for value in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0.5, "relative"), r"threshold_mode 'relative': expected one of absolute, percentile, per_class\."),
        ((1.5,), r"threshold = 1\.5: expected a number from 0 to 1"),
        ((NAN,), r"threshold = nan: expected a number"),
        ((0.5, "per_class", " , ", NAMES), r"needs classes: expected text such as 'sky 0\.5'"),
        (
            (0.5, "absolute", "sky 0.3", NAMES),
            r"'sky 0\.3' mean nothing in mode 'absolute': set threshold_mode='per_class'",
        ),
        (
            (0.5, "per_class", "traffic sing 0.3", NAMES),
            r"no class 'traffic sing' \(did you mean 'traffic sign'\?\)\. Classes: sky, traffic sign",
        ),
        ((0.5, "per_class", "0.3", NAMES), r"class threshold '0\.3': no class '0\.3'"),
        ((0.5, "per_class", "=", NAMES), r"class threshold '=': no class '='"),
        ((0.5, "per_class", "zebra 0.3", NAMES), r"no class 'zebra'\. Classes: sky"),
        ((0.5, "per_class", "sky 30", NAMES), r"class threshold 'sky 30': expected an IoU from 0 to 1"),
        ((0.5, "per_class", "sky 1.01", NAMES), r"class threshold 'sky 1\.01': expected an IoU from 0 to 1"),
        ((0.5, "per_class", "sky nan", NAMES), r"expected an IoU from 0 to 1"),
        ((0.5, "per_class", "sky 0.3, sky", NAMES), r"class 'sky' stands twice"),
    ],
)
def test_refused(arguments, told):
    with pytest.raises(ThresholdError, match=told):
        read_threshold(*arguments)


@pytest.mark.parametrize(
    "threshold",
    [
        Threshold(0.437),
        Threshold(0.3),
        Threshold(0.25, "percentile"),
        Threshold(0.5, "per_class", {"sky": 0.21, "level 2": 0.3}),
    ],
    ids=lambda t: f"{t.mode} {t.value}",
)
def test_the_curve_counts_what_would_fail(threshold):
    random = np.random.default_rng(1).random((50, 3)).round(2)
    random[random < 0.1] = NAN
    evaluation = evaluation_of(random)
    table = failure_curve(evaluation, threshold)
    for row in table.itertuples():
        single = (
            Threshold(row.threshold)
            if row.of == "mIoU"
            else Threshold(0, "per_class", {row.of: row.threshold})
        )
        assert row.images == failing(evaluation, single).sum()
        assert row.share == pytest.approx(row.images / row.scored)
    chosen = table[table["chosen"]]
    assert len(chosen) == table["of"].nunique()
    if threshold.mode != "per_class":
        assert chosen["images"].item() == failing(evaluation, threshold).sum()
    assert table["of"].unique().tolist() == (list(threshold.classes) or ["mIoU"])
    for _, part in table.groupby("of"):
        hundredths = part.loc[~part["chosen"] | part["threshold"].isin(np.arange(101) / 100), "threshold"]
        np.testing.assert_allclose(hundredths, np.arange(101) / 100)
    assert table.index.tolist() == list(range(len(table)))
    nothing = failure_curve(evaluation_of(np.full((2, 3), NAN)), threshold)
    assert nothing["share"].isna().all()


def test_failures_are_found_by_the_same_rule_and_judged_by_what_fails():
    threshold = read_threshold(0.5, "per_class", "traffic sign 0.6, level 2 0.95", NAMES)
    found = find_failures(EVALUATION, threshold)
    assert found["id"].tolist() == ["i1", "i0"]
    assert found["severity"].tolist() == [
        "clear",
        "near-threshold",
    ]  # level 2 at 0.3 of 0.95, traffic sign at 0.5 of 0.6
    assert found["worst_class"].tolist() == ["traffic sign", "traffic sign"]
    pd.testing.assert_frame_equal(
        find_failures(EVALUATION, 0.5), find_failures(EVALUATION, read_threshold(0.5))
    )


def test_the_cut_in_mean_iou():
    assert cutoff(EVALUATION, read_threshold(0.3)) == 0.3
    assert cutoff(EVALUATION, read_threshold(0.5, "percentile")) == pytest.approx(0.55)
    assert cutoff(EVALUATION, read_threshold(0.4, "per_class", "sky 0.9", NAMES)) == 0.4
