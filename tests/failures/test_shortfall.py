"""What an image did worse than usual, against a plain computation and on cases in which it is known."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest

from seglib.failures import shortfall as module
from seglib.failures.shortfall import shortfall, unsaid

metrics = importlib.import_module("seglib.metrics.scores")

NAMES = ("sky", "road", "sign")
RARE = np.array([False, False, True])


def split(count: int = 9, seed: int = 0) -> np.ndarray:
    """(N, 3, 3) counts of images that are all nearly alike."""
    sound = np.array([[900, 50, 0], [40, 800, 0], [10, 10, 40]])
    return sound + np.random.default_rng(seed).integers(0, 5, (count, 3, 3))


def test_one_class_that_fails_in_one_image_is_named():
    counts = split()
    counts[4, 2] = (50, 10, 0)
    found = shortfall(counts, np.array([4]), NAMES, RARE).iloc[0]
    assert (found["drop_class"], found["drop_fix"]) == ("sign", "sign -> sky")
    assert found["drop_rare"] / found["drop_vs_median"] > 0.9
    assert found["drop_class_iou"] == pytest.approx(np.median(metrics.image_class_iou(counts, "truth")[:, 2]))


def test_it_is_that_of_counting_by_hand():
    counts = split(7)
    counts[2, 0] = (700, 250, 0)
    iou = metrics.image_class_iou(counts, "truth")
    usual = np.median(iou, axis=0)
    for place, row in shortfall(counts, np.arange(7), NAMES, RARE).iterrows():
        lost = np.maximum(usual - iou[place], 0) / 3
        assert row["drop_vs_median"] == pytest.approx(lost.sum())
        assert row["drop_rare"] == pytest.approx(lost[2])
    gains = np.array([[_gain(one, t, p) for t in range(3) for p in range(3)] for one in counts])
    more = (gains - np.median(gains, axis=0))[2]
    row = shortfall(counts, np.array([2]), NAMES, RARE).iloc[0]
    assert row["drop_fix"] == "sky -> road"
    assert row["drop_fix_gain"] == pytest.approx(more[1])


def _gain(counts: np.ndarray, t: int, p: int) -> float:
    """The mean IoU with one confusion put right, less that as it is."""
    if t == p:
        return 0.0
    mended = counts.copy()
    mended[t, t] += mended[t, p]
    mended[t, p] = 0
    return float(np.subtract(*(metrics.image_miou(one[None], "truth")[0] for one in (mended, counts))))


def test_what_is_weak_everywhere_is_usual():
    counts = split()
    counts[:, 2] = (50, 6, 4)
    found = shortfall(counts, np.arange(len(counts)), NAMES, RARE)
    assert found["drop_vs_median"].max() < 0.02
    same = np.repeat(counts[:1], 5, axis=0)
    assert (
        shortfall(same, np.arange(5), NAMES, RARE)[["drop_vs_median", "drop_fix_gain"]].to_numpy().max() == 0
    )
    assert set(shortfall(same, np.arange(5), NAMES, RARE)["drop_fix"]) == {""}


def test_a_rare_class_that_is_said_nowhere_is_no_standard():
    counts = split()
    counts[:, 2] = (50, 8, 2)  # a thirtieth found; in one image nothing
    counts[4, 2] = (60, 0, 0)
    assert unsaid(counts).tolist() == [False, False, True]
    found, places = shortfall(counts, np.arange(9), NAMES, RARE), np.arange(9)
    iou = metrics.image_class_iou(counts, "truth")
    usual = np.median(np.median(iou, axis=0)[:2])
    np.testing.assert_allclose(found["drop_rare"], (usual - iou[:, 2]) / 3)
    assert (found["drop_rare"] / found["drop_vs_median"]).min() > 0.9
    # A class that is not rare keeps its own usual, and of one that two images hold nothing is said.
    assert shortfall(counts, places, NAMES, np.zeros(3, bool))["drop_vs_median"].max() < 0.02
    counts[2:, 2] = 0
    assert not unsaid(counts).any()
    nothing = np.zeros((4, 3, 3), np.int64)
    nothing[:, :, 0] = 5  # one class is said, whatever is there; the others count, and none has a usual
    assert unsaid(nothing).tolist() == [False, True, True]
    assert np.isfinite(shortfall(nothing, np.arange(4), NAMES, RARE)["drop_vs_median"]).all()


def test_images_without_anything_and_nothing_asked():
    counts = split()
    counts[3] = 0
    row = shortfall(counts, np.array([3]), NAMES, RARE).iloc[0]
    assert (row["drop_vs_median"], row["drop_class"], row["drop_fix"]) == (0.0, "", "")
    assert shortfall(counts, np.array([], int), NAMES, RARE).columns.tolist() == module.COLUMNS
    absent = np.zeros((3, 3, 3), np.int64)
    absent[:, 0, 0] = 5
    assert shortfall(absent, np.arange(3), NAMES, RARE)["drop_vs_median"].tolist() == [0, 0, 0]


def test_many_images_are_gone_through_in_parts(monkeypatch):
    counts = split(40)
    whole = shortfall(counts, np.arange(40), NAMES, RARE)
    monkeypatch.setattr(module, "_CHUNK", 9 * 40)
    monkeypatch.setattr("seglib.failures.error_types._CHUNK", 9)
    parts = shortfall(counts, np.arange(40), NAMES, RARE)
    pd.testing.assert_frame_equal(whole, parts)
