"""Baselines by hand, and beside a model."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from PIL import Image

from seglib.data.dataset import DatasetError, load_dataset
from seglib.evaluate.baselines import baseline_confusions, compare_with_baselines, learn_prior
from seglib.evaluate.predict import evaluate_run

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.params import Evaluate
from seglib.runs import Run


@pytest.fixture
def by_hand(tmp_path):
    """Three train masks of 2 x 2 and two val masks of 4 x 4, of the classes a, b and c."""
    masks = {
        "train": [[[0, 1], [1, 2]], [[0, 1], [2, 2]], [[1, 1], [2, 255]]],
        "val": [np.repeat(np.repeat([[0, 1], [2, 2]], 2, 0), 2, 1), np.full((4, 4), 255)],
    }
    for split, ids in masks.items():
        for k, mask in enumerate(ids):
            for kind in ("images", "masks"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            mask = np.array(mask, np.uint8)
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{split}{k}.png")
            Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(
                tmp_path / split / "images" / f"{split}{k}.png"
            )
    splits = "".join(f"  {s}: {{images: '{s}/images/*.png', masks: '{s}/masks/*.png'}}\n" for s in masks)
    (tmp_path / "dataset.yaml").write_text(f"name: hand\nclasses: [a, b, c]\nsplits:\n{splits}")
    return load_dataset(tmp_path)


def test_the_prior_by_hand(by_hand):
    prior = learn_prior(by_hand, grid=(2, 2))
    assert prior.pixels.tolist() == [2, 5, 4]
    assert prior.majority == 1
    assert prior.mean_mask.tolist() == [[0, 1], [2, 2]]
    counts = baseline_confusions(by_hand, "val", prior)
    assert list(counts) == ["majority class (b)", "mean mask"]
    assert counts["mean mask"][0].tolist() == np.diag([4, 4, 8]).tolist()
    assert counts["majority class (b)"][0].tolist() == [[0, 4, 0], [0, 4, 0], [0, 8, 0]]
    assert not counts["mean mask"][1].any()


def test_what_was_never_labelled_is_the_majority(by_hand):
    for path in (by_hand.root / "train" / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[1, 1] = 255
        Image.fromarray(mask).save(path)
    prior = learn_prior(by_hand, grid=(2, 2))
    assert prior.mean_mask[1, 1] == prior.majority == 1


def test_the_majority_is_what_constant_predictions_score(by_hand):
    counts = baseline_confusions(by_hand, "val", learn_prior(by_hand))["majority class (b)"]
    truth = [np.array(Image.open(by_hand.root / path)) for path in by_hand.split("val")["mask"]]
    expected = np.stack([metrics.confusion_matrix(mask, np.full_like(mask, 1), 3) for mask in truth])
    np.testing.assert_array_equal(counts, expected)


def test_a_split_that_is_not_there_is_named(by_hand):
    with pytest.raises(DatasetError, match="no split 'night'"):
        learn_prior(by_hand, "night")


@pytest.mark.slow
def test_the_model_stands_beside_them(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    table = compare_with_baselines(evaluation, load_dataset("data/tiny"))
    assert set(table["predictor"]) == {"majority class (road)", "mean mask", "this model"}
    assert table["mean_iou"].is_monotonic_increasing
    rows = table.set_index("predictor")
    assert rows.loc["this model", "mean_iou"] == pytest.approx(evaluation.scores["mean_iou"])
    assert rows.loc["majority class (road)", "mean_iou"] < rows.loc["mean mask", "mean_iou"]
