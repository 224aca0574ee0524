"""Failures of hand-made evaluations, their export, and the closing words about them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.data.classes import ClassMap
from seglib.evaluate.predict import Evaluation, evaluate_run, read_ids
from seglib.failures import causes
from seglib.failures.error_types import best_repairs
from seglib.failures.find import class_view, export, failure_confusions, find_failures, severity, verdict
from seglib.failures.thresholds import Threshold

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.params import Evaluate
from seglib.runs import Run, write_text

CLASSES = ClassMap(("sky", "road", "car"))
GOOD = [[50, 0, 0], [0, 45, 0], [0, 0, 5]]
NEAR = [[50, 0, 0], [0, 40, 10], [0, 5, 0]]  # IoU 1, 0.73, 0 -> pulled under 0.6 below
CLEAR = [[20, 30, 0], [30, 20, 0], [0, 0, 0]]  # IoU 0.25 each
GUESS = [[0, 50, 0], [50, 0, 0], [0, 0, 0]]
BLANK = [[0, 0, 0]] * 3


def make_evaluation(confusions: list, groups: list[str] | None = None) -> Evaluation:
    counts = np.array(confusions, np.int64)
    ids = [f"i{k}" for k in range(len(counts))]
    iou = metrics.image_class_iou(counts)
    worst = ["" if np.isnan(row).all() else CLASSES.names[int(np.nanargmin(row))] for row in iou]
    per_image = pd.DataFrame(
        {
            "id": ids,
            "group": groups or [""] * len(ids),
            "miou": metrics.image_miou(counts),
            "worst_class": worst,
            "valid_pixels": counts.sum((1, 2)),
        }
    )
    per_class = metrics.per_class_table(counts, CLASSES.names)
    class_iou = pd.DataFrame(iou, columns=list(CLASSES.names))
    class_iou.insert(0, "id", ids)
    return Evaluation(
        None, SimpleNamespace(classes=CLASSES), "test", {}, per_image, per_class, class_iou, counts
    )


@pytest.mark.parametrize(
    ("miou", "threshold", "expected"),
    [
        (0.0, 0.5, "guessing"),
        (0.099, 0.5, "guessing"),
        (0.1, 0.5, "clear"),
        (0.399, 0.5, "clear"),
        (0.4, 0.5, "near-threshold"),
        (0.499, 0.5, "near-threshold"),
        (0.12, 0.15, "near-threshold"),
        (0.05, 0.15, "guessing"),
    ],
)
def test_severity(miou, threshold, expected):
    assert severity(miou, threshold) == expected


def test_failures_come_worst_first_with_their_confusions():
    evaluation = make_evaluation([GOOD, CLEAR, GUESS, BLANK, NEAR], ["", "a", "b", "", ""])
    failures = find_failures(evaluation, 0.5)
    assert failures["id"].tolist() == ["i2", "i1"]
    assert failures["severity"].tolist() == ["guessing", "clear"]
    assert failures["miou"].tolist() == pytest.approx([0, 0.25])
    assert failures["worst_class"].tolist() == ["sky", "sky"]
    assert failures["worst_class_iou"].tolist() == pytest.approx([0, 0.25])
    assert failures["top_confusion"].tolist() == ["sky -> road", "sky -> road"]
    assert failures["top_confusion_share"].tolist() == pytest.approx([0.5, 0.3])
    assert failures["group"].tolist() == ["b", "a"]
    np.testing.assert_array_equal(failure_confusions(evaluation, failures), np.add(CLEAR, GUESS))


def test_repairs_are_reckoned_by_the_policy_of_the_evaluation():
    counts = np.array(
        [[[30, 0, 20], [25, 25, 0], [0, 0, 0]]]
    )  # car is called where none is: it counts under "union" alone
    gains = []
    for absent in metrics.POLICIES:
        evaluation = replace(make_evaluation(counts), scores={"absent": absent})
        row = find_failures(evaluation, 0.6).iloc[0]
        best = best_repairs(counts, CLASSES.names, absent).iloc[0]
        assert (row["best_fix"], row["best_fix_gain"]) == (best["best_fix"], best["best_fix_gain"])
        gains.append(row["best_fix_gain"])
    assert gains[0] != gains[1]


def test_equal_failures_come_by_name():
    failures = find_failures(make_evaluation([GUESS, CLEAR, GUESS]))
    assert failures["id"].tolist() == ["i0", "i2", "i1"]
    assert failures.index.tolist() == [0, 1, 2]


def test_an_image_at_the_threshold_does_not_fail():
    assert find_failures(make_evaluation([CLEAR]), 0.25).empty


def test_no_failures_are_an_empty_table_of_the_same_columns():
    evaluation = make_evaluation([GOOD, BLANK])
    failures = find_failures(evaluation, 0.5)
    assert failures.empty
    assert list(failures.columns) == list(find_failures(make_evaluation([GUESS]), 0.5).columns)
    assert failure_confusions(evaluation, failures).sum() == 0
    view = class_view(evaluation, failures)
    assert view["iou_failures"].isna().all()
    assert (view["worst_in"] == 0).all()


def test_class_view_counts_by_hand():
    evaluation = make_evaluation([GOOD, CLEAR, GUESS])
    view = class_view(evaluation, find_failures(evaluation, 0.5)).set_index("class")
    assert view.index[0] == "sky"
    assert view.loc["sky", "worst_in"] == 2
    assert view.loc["sky", "iou"] == pytest.approx(70 / (150 + 150 - 70))
    assert view.loc["sky", "iou_failures"] == pytest.approx(20 / (100 + 100 - 20))
    assert view["failures"].to_dict() == {"sky": 2, "road": 2, "car": 0}
    assert view["mistaken_for"].to_dict() == {"sky": "road", "road": "sky", "car": ""}
    assert view.loc["car", "pixel_share"] == pytest.approx(5 / 300)


def test_classes_come_by_how_often_they_are_the_worst_then_by_their_iou():
    rows = [
        [[40, 5, 5], [10, 10, 0], [0, 30, 0]],
        [[40, 0, 0], [10, 30, 0], [20, 0, 0]],
        [[10, 40, 0], [10, 40, 0], [0] * 3],
    ]
    evaluation = make_evaluation(rows)
    view = class_view(evaluation, find_failures(evaluation, 0.9))
    assert view["class"].tolist() == ["car", "sky", "road"]
    assert view["worst_in"].tolist() == [2, 1, 0]
    assert view["failures"].tolist() == [2, 3, 3]
    assert view["mistaken_for"].tolist() == ["road", "road", "sky"]
    total = np.sum(rows, axis=0)
    np.testing.assert_allclose(view["pixel_share"], total.sum(1)[[2, 0, 1]] / total.sum())
    np.testing.assert_allclose(view["iou_failures"], view["iou"])  # all fail
    np.testing.assert_allclose(view["iou"], metrics.iou_per_class(total)[[2, 0, 1]])


def said(confusions: list, threshold: float = 0.5, groups: list[str] | None = None):
    evaluation = make_evaluation(confusions, groups)
    failures = find_failures(evaluation, threshold)
    return verdict(evaluation, pd.concat([failures, causes.explain(failures)], axis=1), threshold)


def test_words_when_nothing_fails():
    words = said([GOOD, GOOD, BLANK])
    assert (
        words.headline == "No image of 3 is below a mean IoU of 0.5: a good result. The lowest has mIoU 1.00."
    )
    assert words.points == ()
    assert words.headline in words._repr_markdown_()


def test_words_when_nothing_is_scored():
    words = said([BLANK, BLANK])
    assert "None of 2 images has a scored pixel" in words.headline
    assert "good" not in words.headline


def test_words_for_near_misses_alone():
    words = said([GOOD, NEAR], 0.65)
    assert words.headline == "1 of 2 images (50%) are below a mean IoU of 0.65: 1 near-threshold."
    assert len(words.points) == 1


def test_words_say_by_which_threshold_an_image_fails():
    words = said([GOOD, NEAR], Threshold(0.5, "percentile"))
    assert words.headline.startswith("1 of 2 images (50%) are below a mean IoU of 0.788, the lowest 50%: ")
    words = said([GOOD], Threshold(0.5, "per_class", {"sky": 0.3}))
    assert words.headline.startswith("No image of 1 is below an IoU of 0.3 in sky: ")


def test_words_name_what_cost_most_first():
    evaluation = make_evaluation([GOOD, GUESS, CLEAR, CLEAR])
    failures = find_failures(evaluation).assign(cause=["label error", "unexplained", "unexplained"])
    words = verdict(evaluation, failures, 0.5)
    assert (
        words.headline
        == "3 of 4 images (75%) are below a mean IoU of 0.5: 2 clear, 1 no better than guessing."
    )
    lost = 2 * (1 - failures["miou"].iloc[1])
    share = lost / (lost + 1 - failures["miou"].iloc[0])
    assert words.points[0].startswith(
        f"Unexplained: 2 of 3, {share:.0%} of the IoU that failures lost (i2, i3). Look"
    )
    assert words.points[1].startswith("Label error: 1 of 3, ")


@pytest.mark.slow
def test_export_holds_exactly_the_failures_and_keeps_verdicts(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    folder = run.failures("test")
    write_text(folder / "verdicts.csv", "id,verdict,note,time\n0041,ambiguous,,\n")
    failures = find_failures(evaluation, 1.0)
    assert sorted(failures["id"]) == ["0041", "0042", "1e5", "null"]
    assert export(run, evaluation, failures) == folder
    kinds = ("images", "masks", "predictions", "overlays")
    assert {p.name for p in folder.iterdir()} == {*kinds, "failures.csv", "verdicts.csv"}
    for kind in kinds:
        assert sorted(p.stem for p in (folder / kind).iterdir()) == sorted(failures["id"])
    source = trained_root / "data" / "tiny" / "test"
    for name in failures["id"]:
        original = np.array(Image.open(source / "images" / f"{name}.png"))
        np.testing.assert_array_equal(np.array(Image.open(folder / "images" / f"{name}.png")), original)
        truth = np.array(Image.open(source / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(read_ids(folder / "masks" / f"{name}.png"), truth)
        predicted = read_ids(run.evaluation("test") / "predictions" / f"{name}.png")
        np.testing.assert_array_equal(read_ids(folder / "predictions" / f"{name}.png"), predicted)
        assert np.array(Image.open(folder / "overlays" / f"{name}.png")).shape == original.shape
    table = pd.read_csv(folder / "failures.csv", dtype={"id": str}, keep_default_na=False)
    assert table["id"].tolist() == failures["id"].tolist()

    export(run, evaluation, failures.iloc[:1])
    for kind in kinds:
        assert [p.stem for p in (folder / kind).iterdir()] == [failures["id"].iloc[0]]
    export(run, evaluation, failures.iloc[:0])
    for kind in kinds:
        assert list((folder / kind).iterdir()) == []
    assert "0041,ambiguous" in (folder / "verdicts.csv").read_text()
