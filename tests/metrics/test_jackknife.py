"""Intervals by their definition, how often they cover the truth in simulations, and what counts as independent."""

import numpy as np
import pandas as pd
import pytest
from scipy import signal, special, stats

from seglib import metrics

NAN = float("nan")


def test_intervals_leave_each_unit_out_in_turn():
    counts, others = np.random.default_rng(7).integers(0, 50, (2, 14, 4, 4))
    units = np.repeat(list("abcdef"), [1, 2, 3, 2, 2, 4])

    def values(chosen):
        return np.append(metrics.scores(chosen)["mean_iou"], metrics.iou_per_class(chosen.sum(0)))

    def parts(of):
        kept = np.stack([of(units != unit) for unit in "abcdef"])
        variance = 5 / 6 * ((kept - kept.mean(0)) ** 2).sum(0)
        return of(np.ones(14, bool)), stats.t.ppf(0.975, 5) * np.sqrt(variance)

    value, spread = parts(lambda rows: values(counts[rows]))
    limits = [special.expit(special.logit(value) + sign * spread / (value * (1 - value))) for sign in (-1, 1)]
    np.testing.assert_allclose(metrics.jackknife(counts, units), [value, *limits])
    value, spread = parts(lambda rows: values(counts[rows]) - values(others[rows]))
    found = metrics.jackknife(counts, units, minus=others)
    np.testing.assert_allclose(found, [value, value - spread, value + spread])


def test_where_there_is_no_interval():
    counts = np.random.default_rng(0).integers(1, 9, (5, 2, 2))
    assert np.isfinite(metrics.jackknife(counts, np.arange(5))).all()
    for rows, units in ((4, np.arange(4)), (5, np.zeros(5)), (5, np.array(list("aabcd")))):
        value, low, high = metrics.jackknife(counts[:rows], units)
        assert np.isfinite(value).all()
        assert np.isnan([low, high]).all()
    assert np.isnan(metrics.jackknife(np.zeros((6, 3, 3), int), np.arange(6))).all()
    right = np.tile(np.eye(2, dtype=int), (6, 1, 1))
    assert (metrics.jackknife(right, np.arange(6)) == 1).all()
    right[1:, 1] = 0  # a single image holds the class
    assert np.isnan(metrics.jackknife(right, np.arange(6))[:, 2]).tolist() == [False, True, True]


def images(random, shared):
    """Counts (N, 3, 3) of images with large and small classes; `shared` (N, 1) is how easy an image is."""
    pixels = np.exp(random.normal(0, 0.7, (len(shared), 3))) * [2000, 700, 200]
    own = 0.5 * random.standard_normal((len(shared), 3))
    recall = special.expit(1.5 + 0.8 * shared + own - [0, 0.4, 0.8])
    counts = (pixels * (1 - recall) / 2)[..., None] * np.ones(3)
    counts[..., range(3), range(3)] = pixels * recall
    return np.round(counts).astype(np.int64)


def sequences(random, count, length):
    street = np.repeat(random.standard_normal((count, 1)), length, axis=0)
    return images(random, street + 0.5 * random.standard_normal((count * length, 1)))


def drive(random, count, length):
    """Many drives in a row: their frames are as alike as 0.8 ** distance."""
    steps = random.standard_normal((count * length, 1))
    return images(random, signal.lfilter([0.6], [1, -0.8], steps, axis=0))


@pytest.mark.parametrize(
    ("make", "count", "length"),
    [(sequences, 5, 12), (sequences, 10, 12), (sequences, 30, 1), (drive, 1, 500)],
)
def test_intervals_cover_the_truth_in_95_percent(make, count, length):
    random, size, draws = np.random.default_rng(2), count * length, 400
    truth = metrics.scores(make(random, 100_000 // length, length))["mean_iou"]
    drawn = make(random, draws * count, length).reshape(draws, size, 3, 3)
    groups = np.repeat(np.arange(count).astype(str), length) if length > 1 else np.full(size, "")
    limits = []
    for counts in drawn:
        units, _ = metrics.independent_units(groups, np.arange(size), metrics.image_miou(counts))
        limits.append(metrics.jackknife(counts, units)[1:, 0])
    low, high = np.array(limits).T
    given = ~np.isnan(low)
    assert given.mean() > 0.98
    assert 0.93 <= ((low <= truth) & (truth <= high))[given].mean() <= 0.97


def test_units_and_blocks():
    frames, scores = np.arange(10.0), np.random.default_rng(0).random(10)
    labels, told = metrics.independent_units(np.full(3, ""), np.array([NAN, 1, 2]), scores[:3])
    assert (len(set(labels)), told) == (3, "3 images, taken as independent: the dataset names no sequences")
    groups = np.array(list("aabbccddee"))
    labels, told = metrics.independent_units(groups, frames, scores)
    assert pd.Series(labels).groupby(groups).nunique().eq(1).all()
    assert (len(set(labels)), told) == (5, "5 whole sequences")
    groups[-4:] = ""
    labels, told = metrics.independent_units(np.append(groups, "9"), np.arange(11.0), np.append(scores, 0))
    assert (len(set(labels)), told) == (3 + 1 + 4, "4 whole sequences and 4 images without one")
    # Blocks are as long as their scores are alike.
    random, one = np.random.default_rng(0), np.full(200, "s")
    frames, noise = random.permutation(200) * 30.0, random.random(200)
    labels, told = metrics.independent_units(one, frames, noise)
    assert told.startswith("10 blocks of 20 neighbouring frames of one sequence: says nothing about other")
    assert (np.diff(labels[np.argsort(frames)]) >= 0).all()
    labels, told = metrics.independent_units(one, frames, np.sin(frames / 200))  # a few slow waves
    assert len(set(labels)) < 5
    assert len(set(metrics.independent_units(one, frames, np.full(200, 0.5))[0])) == 10
    labels, told = metrics.independent_units(one, np.append(frames[1:], NAN), noise)
    assert (len(set(labels)), told) == (1, "one sequence whose frames are not all numbered")
