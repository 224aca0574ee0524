"""How well a signal tells failures beforehand: against scikit-learn, brute force and by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from seglib.failures.confidence import (
    area_under,
    auroc,
    class_confidence,
    early_warning,
    risk_coverage,
    sentence,
)


def _case(seed: int, ties: bool, images: int = 60):
    random = np.random.default_rng(seed)
    failed = random.random(images) < 0.3
    signal = random.random(images) - 0.3 * failed
    return (np.round(signal, 1) if ties else signal), failed


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_scikit_learns(seed, ties):
    signal, failed = _case(seed, ties)
    assert auroc(signal, failed) == pytest.approx(roc_auc_score(failed, -signal), abs=1e-12)


@pytest.mark.slow
def test_interval_is_that_of_drawing_and_scoring_anew():
    signal, failed = _case(0, True)
    units = np.repeat(np.arange(20), 3)
    found = early_warning(signal, failed, units, resamples=200, seed=4)
    random, draws = np.random.default_rng(4), []
    for _ in range(200):
        rows = np.concatenate([np.flatnonzero(units == u) for u in random.integers(20, size=20)])
        draws.append(roc_auc_score(failed[rows], -signal[rows]))
    assert [found.auroc.low, found.auroc.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())


@pytest.mark.slow
def test_interval_holds_the_truth_about_as_often_as_it_says():
    """Two normals a deviation apart: AUROC = Phi(1 / sqrt 2) = 0.760."""
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        failed = np.arange(120) < 40
        found = early_warning(random.standard_normal(120) - failed, failed, resamples=200, seed=seed).auroc
        held += found.low <= 0.7602 <= found.high
    assert 88 <= held <= 99


def test_curve_by_hand():
    signal, failed = np.array([0.9, 0.8, 0.8, 0.5, 0.2]), np.array([False, False, True, False, True])
    curve = risk_coverage(signal, failed)
    assert curve["coverage"].tolist() == pytest.approx([0.2, 0.6, 0.8, 1.0])
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])
    assert curve["signal"].tolist() == [0.9, 0.8, 0.5, 0.2]
    # The two of 0.8 count as half a failure each: risks 0, 1/4, 1/3, 1/4, 2/5.
    assert area_under(signal, failed) == pytest.approx((0 + 1 / 4 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert early_warning(signal, failed).half_coverage == pytest.approx(0.2)


def test_area_is_the_mean_over_all_orders_of_equals():
    random = np.random.default_rng(1)
    signal, failed = random.integers(0, 4, 30) / 4, random.random(30) < 0.4
    areas = []
    for _ in range(4000):
        order = np.lexsort((random.random(30), -signal))
        areas.append((np.cumsum(failed[order]) / np.arange(1, 31)).mean())
    assert area_under(signal, failed) == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / 4000**0.5)


def test_area_of_a_signal_that_knows_everything_or_nothing():
    signal, failed = _case(2, False, 200)
    found = early_warning(signal, failed)
    assert found.aurc_best < found.aurc < found.aurc_random == pytest.approx(failed.mean())
    knowing = early_warning(-failed.astype(float), failed)
    assert knowing.aurc == found.aurc_best
    assert knowing.auroc.value == 1
    assert knowing.half_coverage == pytest.approx(1 - failed.mean())
    blind = early_warning(np.ones(200), failed)
    assert blind.auroc.value == 0.5
    assert blind.aurc == pytest.approx(blind.aurc_random)
    assert np.isnan(blind.half_coverage)
    # In closed form: no failure among the sound, then one more a step.
    bad, sound = failed.sum(), (~failed).sum()
    assert found.aurc_best == pytest.approx(sum(k / (sound + k) for k in range(1, bad + 1)) / 200)


@pytest.mark.parametrize("failed", [np.zeros(8, bool), np.ones(8, bool)])
def test_nothing_or_everything_fails(failed):
    found = early_warning(np.linspace(0, 1, 8), failed)
    assert np.isnan(found.auroc.value)
    assert np.isnan(found.half_coverage)
    assert found.aurc == failed[0]
    assert "nothing for the confidence to tell apart" in sentence(found)


def test_no_image_one_image_and_unknown_values():
    none = early_warning(np.full(3, np.nan), np.array([True, False, True]))
    assert (none.images, none.missing) == (0, 3)
    assert np.isnan(none.aurc)
    assert np.isnan(none.auroc.value)
    assert "nothing can be said" in sentence(none)
    one = early_warning(np.array([0.5]), np.array([True]))
    assert (one.aurc, one.failures) == (1, 1)
    signal, failed = _case(3, False)
    more = early_warning(np.append(signal, [np.nan, np.nan]), np.append(failed, [True, False]))
    assert more.missing == 2
    assert more.auroc.value == auroc(signal, failed)
    # One unit says nothing about others.
    assert np.isnan(early_warning(signal, failed, np.zeros(60)).auroc.low)
    with pytest.raises(ValueError, match="3, 2 and 3 values"):
        early_warning(np.ones(3), np.ones(2, bool))


def test_class_confidence_by_hand():
    pred = np.array([[0, 0, 0, 3], [0, 0, 0, 200]], np.uint8)
    confidence = np.array([[1, 1, 1, 0.4], [1, 1, 0.4, 0.7]], np.float32)
    assert class_confidence(pred, confidence) == pytest.approx((0.9 + 0.4 + 0.7) / 3)
    assert class_confidence(pred, confidence, pred != 200) == pytest.approx((0.9 + 0.4) / 2)
    assert np.isnan(class_confidence(pred, confidence, np.zeros_like(pred, bool)))


def test_sentence_says_what_was_found():
    signal, failed = _case(6, False, 200)
    found = early_warning(signal, failed)
    text = sentence(found)
    assert f"{found.auroc.value:.2f}" in text
    assert ("warns of failures" in text) == (found.auroc.low > 0.5)
    assert isinstance(found.curve, pd.DataFrame)
