"""Two runs beside each other: hand-made counts, the plain bootstrap as reference, and what cannot be compared."""

from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from seglib.data.dataset import load_dataset
from seglib.evaluate.compare import CHANGES, compare_runs, comparison_sentence, write_comparison
from seglib.evaluate.evaluation import open_evaluation, write_evaluation

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.metrics.bootstrap import draw_sums, interval, iou_parts, mean_iou_interval, mean_iou_of
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json


def counts_of(random: np.random.Generator, images: int, classes: int, right: float) -> np.ndarray:
    """(N, C, C) counts whose images differ in how much is right."""
    counts = random.poisson(3, (images, classes, classes))
    counts[:, range(classes), range(classes)] += random.poisson(60 * right, (images, classes))
    return counts.astype(np.int64)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_is_that_of_the_plain_bootstrap(grouped):
    counts = counts_of(np.random.default_rng(0), 23, 5, 0.5)
    counts[:, 3] = counts[:, :, 3] = 0  # absent everywhere
    counts[:20, 4] = counts[:20, :, 4] = 0  # missing in some draws
    groups = np.array([f"g{k % 6}" for k in range(23)]) if grouped else np.arange(23)
    expected = metrics.bootstrap(counts, metrics.mean_iou, groups, resamples=200, seed=3)
    found = mean_iou_interval(counts, groups, resamples=200, seed=3)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(metrics.mean_iou(counts))


def test_one_unit_says_nothing():
    counts = counts_of(np.random.default_rng(0), 4, 3, 0.5)
    found = mean_iou_interval(counts, np.zeros(4), resamples=20)
    assert found.value == pytest.approx(metrics.mean_iou(counts))
    assert np.isnan([found.low, found.high, found.share_above]).all()
    assert np.isnan(interval(0.5, np.full(3, np.nan), 4).low)


def test_draws_are_paired():
    random = np.random.default_rng(1)
    first = counts_of(random, 40, 4, 0.5)
    second = first.copy()
    second[:, 0, 0] += 5  # a little better in every image
    parts = np.stack([iou_parts(first), iou_parts(second)], axis=1)
    draws = mean_iou_of(draw_sums(parts, np.arange(40), 300))
    # Whatever is drawn, the second is better, although either alone moves more than the two are apart.
    assert (draws[:, 1] > draws[:, 0]).all()
    assert draws[:, 0].max() > draws[:, 1].min()


def test_many_classes_and_images_stay_small():
    parts = np.ones((2000, 2, 150))
    sums = draw_sums(parts, np.arange(2000), resamples=50)
    assert sums.shape == (50, 2, 150)
    assert (sums == 2000).all()


def evaluated(name: str, wrong: dict[str, float], absent: str = "truth") -> Run:
    """A run without a model whose predictions of tiny's test split are the truth, but for a share of each image's rows."""
    dataset = load_dataset("data/tiny")
    run = Run(Run.folder(name))
    write_json(run.params, {"run": name, "dataset": "data/tiny", "config": "", "predictions": "elsewhere"})
    from seglib.data.image_io import read_mask

    def predictions():
        for i, row in enumerate(dataset.split("test").itertuples()):
            truth = read_mask(dataset.root / row.mask, dataset.classes)
            pred = np.where(truth == 255, 0, truth).astype(np.uint8)
            rows = round(wrong.get(row.id, 0) * len(pred))
            pred[:rows] = (pred[:rows] + 1) % 3
            yield i, truth, pred, None

    write_evaluation(run, dataset, Evaluate(run=name, absent=absent), predictions(), {})
    return run


def test_what_was_fixed_and_what_broke(tiny_root):
    first = evaluated("first", {"0041": 0.9, "0042": 0.1, "1e5": 0.9})
    second = evaluated("second", {"0041": 0.1, "0042": 0.9, "1e5": 0.8})
    found = compare_runs(first, second, "test")
    images = found.per_image.set_index("id")
    assert images["change"].to_dict() == {
        "0041": "fixed",
        "0042": "regressed",
        "1e5": "failing in both",
        "null": "fine in both",
    }
    assert images.index[-1] == "null"
    assert found.per_image["difference"].abs().is_monotonic_decreasing
    assert found.summary["changes"] == dict(zip(CHANGES, (1, 1, 1, 1, 0), strict=True))
    scores = [open_evaluation(run, "test").scores["mean_iou"] for run in (first, second)]
    assert found.summary["difference"] == pytest.approx(scores[1] - scores[0])
    assert found.summary["low"] <= found.summary["difference"] <= found.summary["high"]
    per_class = [open_evaluation(run, "test").per_class.set_index("class")["iou"] for run in (first, second)]
    pd.testing.assert_series_equal(
        found.per_class.set_index("class")["difference"].sort_index(),
        (per_class[1] - per_class[0]).sort_index(),
        check_names=False,
    )
    told = comparison_sentence(found)
    assert told.startswith("second against first on test: mean IoU ")
    assert "1 image fixed, 1 regressed at threshold 0.5" in told
    assert told.endswith("Drawn: 4 images, taken as independent: the dataset names no sequences.")
    folder = write_comparison(found, second)
    assert folder == second.path / "comparison" / "first-test"
    assert {path.name for path in folder.iterdir()} == {"summary.json", "per_image.csv", "per_class.csv"}
    assert read_json(folder / "summary.json")["sentence"] == told


def test_a_run_beside_itself_has_not_moved(tiny_root):
    run = evaluated("first", {"0041": 0.9})
    found = compare_runs(run, run, "test")
    assert (found.summary["difference"], found.summary["low"], found.summary["high"]) == (0, 0, 0)
    assert "no difference in any draw" in comparison_sentence(found)
    assert "moved most" not in comparison_sentence(found)


def test_a_small_gain_may_be_luck(tiny_root):
    found = compare_runs(
        evaluated("first", {"0041": 0.3, "0042": 0.2}),
        evaluated("second", {"0041": 0.2, "0042": 0.3}),
        "test",
    )
    assert found.summary["low"] < 0 < found.summary["high"]
    assert "which may be luck (95 % interval -" in comparison_sentence(found)


def test_a_clear_gain_is_called_one(tiny_root):
    first = evaluated("first", dict.fromkeys(("0041", "0042", "1e5", "null"), 0.8))
    found = compare_runs(first, evaluated("second", {}), "test")
    assert found.summary["share_above"] == 1
    assert "better by more than luck" in comparison_sentence(found)
    assert "worse by more than luck" in comparison_sentence(
        compare_runs(Run(Run.folder("second")), first, "test")
    )


def test_what_differs_is_named(tiny_root):
    first, second = evaluated("first", {}), evaluated("second", {})
    with pytest.raises(FileNotFoundError, match="'first' has no evaluation of split 'val'"):
        compare_runs(first, second, "val")
    with pytest.raises(ValueError, match=r"treated differently: 'truth' in 'first', 'union' in 'third'"):
        compare_runs(first, evaluated("third", {}, absent="union"), "test")

    counts = np.load(second.evaluation("test") / "confusions.npz")
    changed = {name: counts[name] for name in counts.files}
    changed["confusions"] = changed["confusions"].copy()
    changed["confusions"][1, 0, 0] += 1
    np.savez(second.evaluation("test") / "confusions.npz", **changed)
    with pytest.raises(ValueError, match=r"masks changed .* 1 of 4 images hold other true pixels \(0042\)"):
        compare_runs(first, second, "test")

    for name in ("per_image.csv", "per_image_class_iou.csv"):
        path = second.evaluation("test") / name
        path.write_text(path.read_text().replace("\n0041,", "\nzebra,"))
    with pytest.raises(
        ValueError, match=r"different images: 1 only in 'first' \(0041\); 1 only in 'second' \(zebra\)"
    ):
        compare_runs(first, second, "test")

    other = tiny_root / "data" / "other"
    shutil.copytree(tiny_root / "data" / "tiny", other)
    config = other / "dataset.yaml"
    config.write_text(config.read_text().replace("car", "bus"))
    for name in ("per_class.csv", "per_image_class_iou.csv"):
        path = second.evaluation("test") / name
        path.write_text(path.read_text().replace("car", "bus"))
    params = json.loads(second.params.read_text())
    write_json(second.params, params | {"dataset": "data/other"})
    with pytest.raises(ValueError, match=r"know different classes \(bus, car\)"):
        compare_runs(first, second, "test")
