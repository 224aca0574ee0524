"""Figures of calibration, of two runs and of regions by size: whole, labelled, and honest about what there is to draw."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from seglib.data.classes import ClassMap
from seglib.metrics.calibration import calibration_counts, reliability_table
from seglib.plots.diagrams import region_ious, reliability, run_comparison

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    assert not plt.get_fignums()


def told(ax) -> set[str]:
    return {t.get_text() for t in ax.get_legend().get_texts()}


def calibration(accuracy: float) -> pd.DataFrame:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.55, 1, (50, 60)).astype(np.float32)
    pred = (random.random((50, 60)) > accuracy).astype(np.uint8)
    return reliability_table(calibration_counts(np.zeros((50, 60), np.uint8), pred, confidence))


@pytest.mark.parametrize(("accuracy", "expected"), [(0.3, "too sure"), (1.0, "not sure enough")])
def test_reliability_says_in_which_direction(accuracy, expected):
    ax = reliability(calibration(accuracy), 0.123)
    assert expected in told(ax)
    assert ax.get_title(loc="left") == "Reliability, ECE 0.123"
    assert "confidence" in ax.get_xlabel()
    ax.figure.canvas.draw()


def test_reliability_without_pixels():
    ax = reliability(reliability_table(np.zeros((3, 10))))
    assert "no pixel has a confidence" in [t.get_text() for t in ax.texts]


def moves(before: list[float], after: list[float], change: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(
        {"id": [f"i${k}" for k in range(len(before))], "miou_first": before, "miou_second": after}
    )
    return table.assign(difference=table["miou_second"] - table["miou_first"], change=change)


def test_two_runs_count_what_changed_and_name_the_largest_moves():
    table = moves(
        [0.2, 0.9, 0.8, 0.3, np.nan],
        [0.8, 0.1, 0.8, 0.3, 0.5],
        ["fixed", "regressed", "fine in both", "failing in both", "unscored"],
    )
    given = plt.figure().add_subplot()
    ax = run_comparison(table, "a", "b", 0.5, given)
    assert ax is given
    assert told(ax) == {"fine in both (1)", "failing in both (1)", "fixed (1)", "regressed (1)"}
    assert {t.get_text() for t in ax.texts} == {r"i\$0", r"i\$1"}
    assert ax.get_xlabel().endswith(", a")
    ax.figure.canvas.draw()
    plt.close(ax.figure)


def test_two_runs_without_a_common_score():
    ax = run_comparison(moves([np.nan], [0.5], ["unscored"]), "a", "b")
    assert "no image has a score" in ax.texts[0].get_text()


@pytest.mark.parametrize("count", [1, 3, 40])
def test_regions_stand_worst_first(count):
    classes = ClassMap(tuple(f"class {k}" for k in range(count)))
    rows = [(name, "small", 3, 0.9 - k / 100) for k, name in enumerate(classes.names)]
    rows += [(name, "large", 1, 0.95) for name in classes.names]
    ax = region_ious(pd.DataFrame(rows, columns=["class", "size", "regions", "iou"]), classes)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(classes.names[::-1])
    assert told(ax) == {"small", "medium", "large"}
    assert ax.texts[0].get_text() == "3 / 0 / 1"
    ax.figure.canvas.draw()


def test_no_region():
    empty = pd.DataFrame(columns=["class", "size", "regions", "iou"])
    assert "no region" in region_ious(empty, ClassMap(("a",))).texts[0].get_text()
