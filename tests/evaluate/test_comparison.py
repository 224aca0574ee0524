"""Two runs beside each other: hand-made counts, the plain bootstrap as reference, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from seglib import metrics
from seglib.data import ClassMap, load_dataset, read_mask
from seglib.evaluate import Evaluation, compare_runs, comparison_sentence, open_evaluation, write_comparison
from seglib.evaluate.compare import CHANGES
from seglib.evaluate.evaluation import write_evaluation
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json


def made(counts: np.ndarray, group: str = "") -> Evaluation:
    """An evaluation of these counts alone."""
    ids = [f"i{k}" for k in range(len(counts))]
    names = tuple(f"c{k}" for k in range(counts.shape[1]))
    iou = metrics.image_class_iou(counts)
    images = pd.DataFrame({"id": ids, "group": group, "miou": metrics.nanmean(iou, axis=1)})
    samples = images.assign(frame=np.nan)
    dataset = SimpleNamespace(classes=ClassMap(names), split=lambda name: samples)
    run = SimpleNamespace(name="made")
    return Evaluation(run, dataset, "test", {"absent": "truth"}, images, None, None, counts)


def mean_iou(counts: np.ndarray) -> float:
    return float(metrics.nanmean(metrics.iou_per_class(counts.sum(0))))


def test_the_interval_is_that_of_the_plain_paired_bootstrap():
    first = np.random.default_rng(0).poisson(3, (23, 5, 5)) + 60 * np.eye(5, dtype=np.int64)
    first[:, 3] = first[:, :, 3] = 0  # absent everywhere
    second = first.copy()
    second[:, 0, 0] += first[:, 0, 1]
    second[:, 0, 1] = 0
    second[:9, 2] = first[:9, 2, [0, 2, 1, 3, 4]]
    found = compare_runs(made(first), made(second)).summary
    random, draws = np.random.default_rng(0), []
    for _ in range(1000):
        rows = random.integers(23, size=23)
        draws.append(mean_iou(second[rows]) - mean_iou(first[rows]))
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())
    assert found["difference"] == pytest.approx(mean_iou(second) - mean_iou(first))
    assert found["share_above"] == np.mean(np.array(draws) > 0)


def evaluated(name: str, wrong: dict[str, float]) -> Evaluation:
    """A run without a model whose predictions of tiny's test split are the truth, but for a share of an image's rows."""
    dataset, run = load_dataset("data/tiny"), Run(Run.folder(name))
    write_json(run.params, {"run": name, "dataset": "data/tiny", "config": "", "predictions": "elsewhere"})

    def predictions():
        for i, row in enumerate(dataset.split("test").itertuples()):
            truth = read_mask(dataset.root / row.mask, dataset.classes)
            pred = np.where(truth == 255, 0, truth).astype(np.uint8)
            rows = round(wrong.get(row.id, 0) * len(pred))
            pred[:rows] = (pred[:rows] + 1) % 3
            yield i, truth, pred, None

    return write_evaluation(run, dataset, Evaluate(run=name), predictions(), {}, False)


def test_what_was_fixed_and_what_broke(tiny_root):
    first = evaluated("first", {"0041": 0.9, "0042": 0.1, "1e5": 0.9})
    second = evaluated("second", {"0041": 0.1, "0042": 0.9, "1e5": 0.8})
    found = compare_runs(first, open_evaluation(Run(Run.folder("second")), "test"))
    changes = {"0041": "fixed", "0042": "regressed", "1e5": "failing in both", "null": "fine in both"}
    assert found.per_image.set_index("id")["change"].to_dict() == changes
    assert found.per_image["id"].iloc[-1] == "null"
    assert found.per_image["difference"].abs().is_monotonic_decreasing
    assert found.summary["changes"] == dict(zip(CHANGES, (1, 1, 1, 1, 0), strict=True))
    assert found.summary["difference"] == pytest.approx(second.scores["mean_iou"] - first.scores["mean_iou"])
    per_class = second.per_class.set_index("class")["iou"] - first.per_class.set_index("class")["iou"]
    got = found.per_class.set_index("class")["difference"]
    pd.testing.assert_series_equal(got.sort_index(), per_class.sort_index(), check_names=False)
    told = comparison_sentence(found)
    assert told.startswith("second against first on test: mean IoU ")
    assert "1 image fixed, 1 regressed at threshold 0.5" in told
    assert told.endswith("Drawn: 4 images, taken as independent: the dataset names no sequences.")
    folder = write_comparison(found)
    assert folder == second.run.path / "comparison" / "first-test"
    assert {path.name for path in folder.glob("[!.]*")} == {"summary.json", "per_image.csv", "per_class.csv"}
    assert read_json(folder / "summary.json")["sentence"] == told


def test_what_is_more_than_luck():
    counts = np.tile(np.array([[60, 5], [20, 80]]), (12, 1, 1))
    better = counts + np.array([[4, -4], [-3, 3]])  # in every image
    mixed = counts + np.array([[[2, -2], [0, 0]], [[-2, 2], [0, 0]]])[np.arange(12) % 2]

    def told(first, second):
        return comparison_sentence(compare_runs(made(first), made(second)))

    assert "better by more than luck (95 % interval +" in told(counts, better)
    assert "worse by more than luck" in told(better, counts)
    assert "which may be luck (95 % interval -" in told(counts, mixed)
    same = told(counts, counts)
    assert "no difference in any draw" in same
    assert "moved most" not in same
    assert "too few images to say" in told(counts[:1], better[:1])


def test_an_image_without_a_score_is_neither_fixed_nor_broken():
    counts = np.tile(np.array([[60, 5], [20, 80]]), (3, 1, 1))
    counts[1] = 0
    changes = compare_runs(made(counts), made(counts)).per_image.set_index("id")["change"]
    assert changes.to_dict() == {"i0": "fine in both", "i1": "unscored", "i2": "fine in both"}


def test_what_differs_is_named():
    counts = np.tile(np.array([[60, 5], [20, 80]]), (3, 1, 1))
    first, changed = made(counts), counts + np.array([0, 1, 0])[:, None, None]
    for second, told in (
        (replace(first, scores={"absent": "union"}), r"different policies \(1 differing: absent\)"),
        (made(changed), r"different masks \(1 differing: i1\)\. Evaluate both again"),
        (made(counts[:2]), r"different images \(1 differing: i2\)"),
        (replace(first, per_image=first.per_image[::-1]), r"different images \(2 differing: i0, i2\)"),
        (made(np.pad(counts, ((0, 0), (0, 1), (0, 1)))), r"different classes \(1 differing: c2\)"),
    ):
        with pytest.raises(ValueError, match=told):
            compare_runs(first, second)
