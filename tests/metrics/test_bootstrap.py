"""Intervals against SciPy's bootstrap, and what is drawn for them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seglib import metrics

NAN = float("nan")


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_scipys(grouped):
    counts = np.random.default_rng(7).integers(0, 50, (14, 4, 4))
    units = np.arange(14) // 2 if grouped else np.arange(14)
    members = [np.flatnonzero(units == u) for u in np.unique(units)]

    def statistic(drawn):
        return metrics.scores(np.concatenate([counts[members[int(u)]] for u in drawn]))["mean_iou"]

    expected = stats.bootstrap(
        (np.arange(len(members)),), statistic, vectorized=False, n_resamples=300, method="percentile",
        random_state=np.random.default_rng(5), confidence_level=0.95,
    ).confidence_interval  # fmt: skip
    found = metrics.mean_iou_interval(counts, units, resamples=300, seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert found.value == pytest.approx(metrics.scores(counts)["mean_iou"])


def test_too_little_to_draw_from():
    counts = np.random.default_rng(0).integers(0, 9, (3, 2, 2))
    for one in (counts[:1], counts):
        found = metrics.mean_iou_interval(one, np.array(["s"] * len(one)), resamples=10)
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()
    nothing = metrics.mean_iou_interval(np.zeros((2, 3, 3), int), np.arange(2), resamples=10)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_units_without_sequences_and_of_many():
    labels, text = metrics.independent_units(np.array(["", "", ""]), np.array([NAN, 1, 2]))
    assert len(set(labels)) == 3
    assert text.startswith("3 images")
    groups = np.array(list("aabbccddee"))
    labels, text = metrics.independent_units(groups, np.arange(10.0))
    assert labels.tolist() == groups.tolist()
    assert text == "5 whole sequences"


def test_units_are_blocks_of_neighbouring_frames():
    groups = np.array(["a"] * 25 + ["b"] * 10)
    frames = np.r_[np.random.default_rng(0).permutation(25) * 30.0, np.arange(10)[::-1]]
    labels, text = metrics.independent_units(groups, frames)
    assert sorted(pd.Series(labels).value_counts().tolist()) == [5, 10, 10, 10]
    for label in set(labels):
        inside = np.sort(frames[labels == label])
        others = frames[(groups == groups[labels == label][0]) & (labels != label)]
        assert not ((others > inside[0]) & (others < inside[-1])).any()  # neighbours and no other
    assert text.startswith("4 blocks of up to 10 neighbouring frames from 2 sequence(s)")
    # Frames without a number may all be neighbours: of a sequence they are one unit.
    labels, _ = metrics.independent_units(np.array(["a"] * 24), np.r_[np.full(12, NAN), np.arange(12.0)])
    assert len(set(labels[:12])) == 1
