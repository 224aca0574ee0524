"""How well a signal warns of failures: against scikit-learn, brute force and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from seglib.failures import warning_sentence
from seglib.failures.confidence import class_confidence, early_warning


def case(seed: int, ties: bool, images: int = 60):
    random = np.random.default_rng(seed)
    failed = random.random(images) < 0.3
    signal = random.random(images) - 0.3 * failed
    return (np.round(signal, 1) if ties else signal), failed


def test_auroc_and_its_interval_are_those_of_drawing_and_scoring_again():
    signal, failed = case(0, ties=True)
    units = np.repeat(np.arange(20), 3)
    found = early_warning(signal, failed, units).auroc
    assert found.value == pytest.approx(roc_auc_score(failed, -signal), abs=1e-12)
    random, draws = np.random.default_rng(0), []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(units == u) for u in random.integers(20, size=20)])
        draws.append(roc_auc_score(failed[rows], -signal[rows]))
    assert [found.low, found.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())


def test_curve_by_hand():
    signal, failed = np.array([0.9, 0.8, 0.8, 0.5, 0.2]), np.array([False, False, True, False, True])
    found = early_warning(signal, failed)
    assert found.curve["coverage"].tolist() == pytest.approx([0.2, 0.6, 0.8, 1.0])
    assert found.curve["risk"].tolist() == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])
    assert found.curve["signal"].tolist() == [0.9, 0.8, 0.5, 0.2]


def test_a_signal_that_knows_everything_or_nothing():
    signal, failed = case(2, ties=False)
    found = early_warning(signal, failed)
    knowing, blind = early_warning(-failed.astype(float), failed), early_warning(np.ones(60), failed)
    assert found.aurc_random == pytest.approx(failed.mean())
    assert knowing.auroc.value == 1
    assert blind.auroc.value == 0.5
    assert "warns of failures" in warning_sentence(knowing)
    assert "0.50 (95 % interval 0.50 to 0.50): may be no better than chance" in warning_sentence(blind)


def test_nothing_or_everything_fails_or_is_unknown():
    for failed in (np.zeros(8, bool), np.ones(8, bool)):
        found = early_warning(np.linspace(0, 1, 8), failed)
        assert np.isnan(found.auroc.value)
        assert "nothing for the confidence to tell apart" in warning_sentence(found)
    none = early_warning(np.full(3, np.nan), np.array([True, False, True]))
    assert (none.images, np.isnan(none.auroc.value)) == (0, True)
    assert "nothing can be said" in warning_sentence(none)
    signal, failed = case(3, ties=False)
    more = early_warning(np.append(signal, [np.nan, np.nan]), np.append(failed, [True, False]))
    assert (more.images, more.auroc.value) == (60, early_warning(signal, failed).auroc.value)
    one_unit = early_warning(signal, failed, np.zeros(60))
    assert np.isnan(one_unit.auroc.low)
    assert "too few independent images" in warning_sentence(one_unit)


def test_class_confidence_by_hand():
    pred = np.array([[0, 0, 0, 3], [0, 0, 0, 200]], np.uint8)
    confidence = np.array([[1, 1, 1, 0.4], [1, 1, 0.4, 0.7]], np.float32)
    everywhere = np.ones_like(pred, bool)
    assert class_confidence(pred, confidence, everywhere) == pytest.approx((0.9 + 0.4 + 0.7) / 3)
    assert class_confidence(pred, confidence, pred != 200) == pytest.approx((0.9 + 0.4) / 2)
    assert np.isnan(class_confidence(pred, confidence, ~everywhere))
