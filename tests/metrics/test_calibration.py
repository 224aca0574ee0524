"""Calibration against torchmetrics and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from seglib.metrics import calibration_counts, expected_calibration_error, mean_confidence, reliability_table


def draw(seed: int = 0, count: int = 5, classes: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    """(N, C, H, W) probabilities and (N, H, W) truth with ignored pixels."""
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, 2, (count, classes, 12, 17)).astype(np.float32))
    truth = logits.argmax(1).numpy().astype(np.uint8)
    wrong = random.random(truth.shape)
    truth = np.where(wrong < 0.3, random.integers(0, classes, truth.shape), truth).astype(np.uint8)
    truth[wrong > 0.95] = 255
    return logits.softmax(1), truth


@pytest.mark.parametrize("seed", range(3))
def test_ece_is_torchmetrics(seed):
    probabilities, truth = draw(seed)
    reference = MulticlassCalibrationError(4, n_bins=10, norm="l1", ignore_index=255)
    reference.update(probabilities, torch.from_numpy(truth.astype(np.int64)))
    confidence, pred = (part.numpy() for part in probabilities.max(1))
    counts = np.stack([calibration_counts(*arrays) for arrays in zip(truth, pred, confidence, strict=True)])
    error = expected_calibration_error(counts.sum(0))
    assert error == pytest.approx(reference.compute().item(), abs=1e-6)
    assert counts[:, 0].sum() == (truth != 255).sum()
    table = reliability_table(counts.sum(0)).dropna()
    assert (table["share"] * table["gap"].abs()).sum() == pytest.approx(error)
    expected = [c[t != 255].mean() for c, t in zip(confidence, truth, strict=True)]
    np.testing.assert_allclose(mean_confidence(counts), expected, rtol=1e-6)


def test_by_hand():
    truth, pred = np.array([[0, 1, 1, 255]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    counts = calibration_counts(truth, pred, np.array([[0.95, 0.85, 1.0, 0.1]], np.float32))
    table = reliability_table(counts)
    assert table["pixels"].tolist() == [0] * 8 + [1, 2]
    assert table.loc[9, ["share", "confidence", "accuracy"]].tolist() == pytest.approx([2 / 3, 0.975, 1.0])
    assert table.loc[8, "gap"] == pytest.approx(0.85)
    assert table.loc[0, ["confidence", "accuracy", "gap"]].isna().all()
    assert expected_calibration_error(counts) == pytest.approx((2 * 0.025 + 0.85) / 3)
    assert table["confidence_from"].tolist() == pytest.approx([k / 10 for k in range(10)])


def test_nothing_valid_and_the_ends_of_the_range():
    blank = np.full((3, 4), 255, np.uint8)
    counts = calibration_counts(blank, np.zeros((3, 4), np.uint8), np.ones((3, 4), np.float32))
    assert np.isnan(expected_calibration_error(counts))
    assert np.isnan(mean_confidence(counts))
    assert reliability_table(counts)["share"].isna().all()
    values, ids = np.array([[-5e-5, 0.0, 1.0, 1 + 5e-5]], np.float32), np.zeros((1, 4), np.uint8)
    assert calibration_counts(ids, ids, values)[0].tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("value", [1.7, np.nan, 1.0002, -0.0002])
def test_what_is_no_probability_is_refused(value):
    ids = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="expected probabilities"):
        calibration_counts(ids, ids, np.full((2, 2), value, np.float32))
    with pytest.raises(ValueError, match="one size"):
        calibration_counts(ids, ids, np.ones((2, 3), np.float32))
