"""Runs beside each other and beside baselines: made by hand, SciPy, simulated; what cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import made_evaluation, raised, write_dataset
from PIL import Image
from scipy import stats

from seglib import data, evaluate, metrics
from seglib.data import load_dataset, read_mask
from seglib.evaluate import Evaluation, compare_runs, comparison_sentence, open_evaluation, write_comparison
from seglib.evaluate.compare import CHANGES, welch
from seglib.params import Evaluate
from seglib.runs import Run, read_json

PLAIN = np.tile(np.array([[60, 5], [20, 80]]), (12, 1, 1))
BETTER = PLAIN + np.arange(1, 13)[:, None, None] % 3 * np.array([[1, -1], [-1, 1]])  # in most images


def made(counts: np.ndarray, name: str = "made") -> Evaluation:
    return made_evaluation(counts, [f"c{k}" for k in range(counts.shape[1])], run=name)


def noisy(random: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Counts of another training: some pixels of the first class more or less are right in all images."""
    moved = np.clip(np.round(random.normal(0, 4)) + random.integers(-2, 3, len(counts)), -20, 5)
    return counts + moved[:, None, None].astype(int) * np.array([[1, -1], [0, 0]])


def told(first, second) -> str:
    return comparison_sentence(compare_runs(first, second))


def test_two_runs_are_compared_by_the_paired_jackknife():
    found = compare_runs(made(PLAIN), made(BETTER))
    expected = metrics.jackknife(BETTER, np.arange(12), minus=PLAIN)
    summary = found.summary
    np.testing.assert_allclose([summary[name] for name in ("difference", "low", "high")], expected[:, 0])
    per_class = found.per_class.sort_values("class")[["difference", "low", "high"]]
    np.testing.assert_allclose(per_class.to_numpy().T, expected[:, 1:])
    interval = f"(95 % interval {100 * summary['low']:+.1f} to "
    assert f"these two models differ {interval}" in told(made(PLAIN), made(BETTER))
    assert "these two models differ (95 % interval -" in told(made(BETTER), made(PLAIN))
    mixed = PLAIN + np.array([[[2, -2], [0, 0]], [[-2, 2], [0, 0]]])[np.arange(12) % 2]
    assert "these two models cannot be told apart (95 % interval -" in told(made(PLAIN), made(mixed))
    same = told(made(PLAIN), made(PLAIN))
    assert "cannot be told apart (95 % interval +0.0 to +0.0 over 12 images" in same
    assert "One training a side cannot tell the change from the seed" in same
    assert "no interval: too little is independent (4 images" in told(made(PLAIN[:4]), made(BETTER[:4]))


def test_repeated_trainings_are_compared_by_welch():
    random = np.random.default_rng(0)
    sides = [[made(noisy(random, PLAIN), f"{s}{k}") for k in range(n)] for s, n in (("a", 3), ("b", 4))]
    means = [[metrics.scores(e.confusions)["mean_iou"] for e in side] for side in sides]
    found = compare_runs(*sides).summary
    expected = stats.ttest_ind(*means[::-1], equal_var=False).confidence_interval()
    assert [found["low"], found["high"]] == pytest.approx([*expected])
    assert found["difference"] == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert "b0, b1, b2, b3 against a0, a1, a2 on test" in told(*sides)
    assert "over 3 and 4 trainings" in told(*sides)
    helped = [made(noisy(random, BETTER), f"c{k}") for k in range(3)]
    better = [made(noisy(random, PLAIN + np.array([[5, -5], [-19, 19]])), f"d{k}") for k in range(3)]
    assert "the change helps (95 % interval +" in told(helped, better)
    assert "the change hurts (95 % interval -" in told(better, helped)
    assert "too little is independent (1 and 3 trainings). One training a" in told(sides[0][0], better)
    assert np.isnan(welch(np.ones((2, 1)), np.ones((3, 1)))[1:]).all()


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_other_seeds_alone_are_seldom_called_a_change(runs):
    """Of 4,000 pairs of sides that differ by their seeds alone 2.5 % are said to help, as many to hurt."""
    _, low, high = welch(*np.random.default_rng(0).normal(0.6, 0.01, (2, runs, 4000)))
    assert (low > 0).mean() <= 0.03
    assert (high < 0).mean() <= 0.03


def evaluated(name: str, wrong: dict[str, float]) -> Evaluation:
    """A run without a model whose predictions of tiny's test split are the truth, but for a share of an image's rows."""
    dataset = load_dataset("data/tiny")
    for row in dataset.split("test").itertuples():
        truth = read_mask(dataset.root / row.mask, dataset.classes)
        pred = np.where(truth == 255, 0, truth).astype(np.uint8)
        rows = round(wrong.get(row.id, 0) * len(pred))
        pred[:rows] = (pred[:rows] + 1) % 3
        evaluate.save_ids(dataset.root.parent / name / f"{row.id}.png", pred, dataset.classes)
    return evaluate.evaluate_predictions(dataset.root.parent / name, Evaluate(run=name, dataset="data/tiny"))


def test_what_was_fixed_and_what_broke(tiny_root):
    first = evaluated("first", {"0041": 0.9, "0042": 0.1, "1e5": 0.9})
    second = evaluated("second", {"0041": 0.1, "0042": 0.9, "1e5": 0.8})
    found = compare_runs(first, open_evaluation(Run(Run.folder("second")), "test"))
    changes = {"0041": "fixed", "0042": "regressed", "1e5": "failing in both", "null": "passing in both"}
    assert found.per_image.set_index("id")["change"].to_dict() == changes
    assert found.per_image["id"].iloc[-1] == "null"
    assert found.per_image["difference"].abs().is_monotonic_decreasing
    assert found.summary["changes"] == dict(zip(CHANGES, (1, 1, 1, 1, 0), strict=True))
    assert found.summary["difference"] == pytest.approx(second.scores["mean_iou"] - first.scores["mean_iou"])
    words = comparison_sentence(found)
    assert words.startswith("second against first on test: mean IoU ")
    assert "1 image fixed, 1 regressed at threshold 0.5" in words
    folder = write_comparison(found)
    assert folder == second.run.path / "comparison" / "first-test"
    assert read_json(folder / "summary.json")["sentence"] == words
    third = evaluated("third", {"0041": 0.3})
    assert write_comparison(compare_runs([first, third], [second])).name == "first-2x1-test"
    for folder in ("images", "masks"):  # one image and another's mask are not what they were
        path = second.dataset.root / "test" / folder / ("0042.png" if folder == "masks" else "null.png")
        Image.fromarray(np.array(Image.open(path))[::-1].copy()).save(path)
    again = evaluated("again", {})
    for side in (again, [second, again]):
        raised(ValueError, r"\(2 differing: image 0042, image null\)", compare_runs, first, side)


def test_an_image_without_a_score_is_neither_fixed_nor_broken():
    counts = PLAIN[:3] * np.array([1, 0, 1])[:, None, None]
    changes = compare_runs(made(counts), made(counts)).per_image.set_index("id")["change"]
    assert changes.to_dict() == {"i0": "passing in both", "i1": "unscored", "i2": "passing in both"}


def test_what_cannot_be_compared_is_named():
    counts = PLAIN[:3]
    first, changed = made(counts), counts + np.array([0, 1, 0])[:, None, None]
    for second, words in (
        (replace(first, scores={"absent": "union"}), r"\(1 differing: absent\)"),
        (made(changed), r"images, masks and classes \(1 differing: image i1\)\. Run 03_evaluate for"),
        (made(counts[:2]), r"\(1 differing: image i2\)"),
        (replace(first, per_image=first.per_image[::-1]), r"\(2 differing: image i0, image i2\)"),
        (made(np.pad(counts, ((0, 0), (0, 1), (0, 1)))), r"differing: class c2"),
        ([first, made(PLAIN[:3])], "a run stands twice: made, made, made"),
        ([made(counts, "b"), made(counts, "c")], "'b' and 'c' predict the same in every image: no repeated"),
    ):
        raised(ValueError, words, compare_runs, first, second)


MASKS = {
    "train": [[[0, 1], [1, 2]], [[0, 1], [2, 2]], [[1, 1], [2, 255]]],
    "val": [np.repeat(np.repeat([[0, 1], [2, 2]], 2, 0), 2, 1), np.full((4, 4), 255)],
}


@pytest.fixture
def folder(tiny_root):
    """Three train masks of 2 x 2 and two val masks of 4 x 4, and predictions that are always right."""
    root, splits = tiny_root / "hand", {}
    for split, masks in MASKS.items():
        arrays = {f"{split}{k}": np.array(mask, np.uint8) for k, mask in enumerate(masks)}
        splits[split] = {name: (np.repeat(mask[..., None], 3, 2), mask) for name, mask in arrays.items()}
        for name, mask in arrays.items() if split == "val" else ():
            evaluate.save_ids(root / f"predictions/{name}.png", mask % 255, data.ClassMap(("a", "b", "c")))
    write_dataset(root, splits, "abc")
    return root


def scored(folder) -> evaluate.Evaluation:
    params = Evaluate(run="right", split="val", dataset=str(folder))
    return evaluate.evaluate_predictions(folder / "predictions", params)


def test_baselines_by_hand(folder):
    evaluation = scored(folder)
    table = evaluation.compare_with_baselines().set_index("predictor")
    assert list(table.index) == ["majority class (b)", "mean mask", "this model"]  # 5 of 11 pixels are b
    assert table.loc["majority class (b)", "mean_iou"] == pytest.approx(4 / 16 / 3)
    assert table.loc["majority class (b)", "pixel_accuracy"] == pytest.approx(4 / 16)
    # The mean mask of train is [[a, b], [c, c]], stretched: right everywhere in the first image of val.
    assert table.loc["mean mask", ["mean_iou", "mean_iou_image", "pixel_accuracy"]].tolist() == [1, 1, 1]
    assert evaluation.per_image["baseline_miou"].tolist() == pytest.approx([1, np.nan], nan_ok=True)


def test_without_a_training_split_there_are_none(folder):
    config = folder / "dataset.yaml"
    config.write_text("\n".join([line for line in config.read_text().splitlines() if "train" not in line]))
    evaluation = scored(folder)
    assert not (Run.open("right").evaluation("val") / "baselines.csv").exists()
    assert evaluation.compare_with_baselines()["predictor"].tolist() == ["this model"]
