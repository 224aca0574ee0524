"""The loss plots show what they are given, and say so when there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seglib.failures.error_types import KINDS, pair_costs
from seglib.plots.losses import costly_pairs, lost_iou, threshold_curve

NAMES = ("sky", "road", "a class of a very long name indeed $")


def failures(count: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    parts = random.dirichlet(np.ones(5), count) * random.uniform(0.5, 1, (count, 1))
    table = pd.DataFrame(parts, columns=[f"lost_{kind}" for kind in KINDS])
    table.insert(0, "id", [f"a_very_long_name_of_a_sequence_$_{k:04d}" for k in range(count)])
    return table.assign(miou=1 - parts.sum(1))


def drawn(ax) -> list[str]:
    ax.figure.canvas.draw()
    return [text.get_text() for text in ax.texts]


def test_bars_are_as_long_as_what_was_lost():
    table = failures(30)
    ax = lost_iou(table, 12)
    worst = table.sort_values("miou").head(12)
    ends = [max(bar.get_x() + bar.get_width() for bar in row) for row in zip(*ax.containers, strict=True)]
    np.testing.assert_allclose(ends, 1 - worst["miou"])
    assert len(ax.containers) == 5
    assert ax.get_title(loc="left").endswith("the worst 12 of 30 failures")
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0].endswith(worst["id"].iloc[0][-5:])
    assert all("…" in label and len(label) <= 36 for label in labels)
    assert drawn(ax)[:2] == [f"{miou:.2f}" for miou in worst["miou"].head(2)]


def test_failures_of_which_nothing_is_known():
    assert drawn(lost_iou(failures(0))) == ["no failures"]
    assert drawn(lost_iou(failures(3)[["id", "miou"]])) == ["nothing is known of where the IoU was lost"]
    half = failures(4)
    half.loc[:1, "lost_false_negative"] = np.nan
    assert len(lost_iou(half).containers[0]) == 2


def test_pairs_show_their_gain():
    counts = np.array([[[90, 10, 0], [0, 50, 5], [1, 20, 30]]], np.int64)
    pairs = pair_costs(counts, NAMES)
    ax = costly_pairs(pairs)
    np.testing.assert_allclose([bar.get_width() for bar in ax.containers[0]], pairs["gain"])
    assert drawn(ax)[:2] == [f"+{pairs['gain'].iloc[0]:.3f}", "39% of the true class, 1 image"]
    assert ax.get_yticklabels()[0].get_text().startswith("a class")
    assert drawn(costly_pairs(pairs.iloc[:0])) == ["no confusion: every scored pixel is right"]


@pytest.mark.parametrize("lines", [("mIoU",), ("sky", "road")])
def test_curve_marks_what_was_chosen(lines):
    parts = [
        pd.DataFrame(
            {"of": name, "threshold": [0, 0.5, 1], "images": [0, 2, 8], "scored": 8, "share": [0, 0.25, 1]}
        )
        for name in lines
    ]
    ax = threshold_curve(pd.concat(parts).assign(chosen=lambda t: t["threshold"] == 0.5))
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [f"{name} below 0.5: 2 of 8 images (25%)" for name in lines]
    assert ax.get_xlabel().startswith(
        "threshold: mIoU" if lines == ("mIoU",) else "threshold: IoU of the class"
    )
    nothing = pd.DataFrame(
        {
            "of": ["mIoU"],
            "threshold": [0.5],
            "images": [0],
            "scored": [0],
            "share": [np.nan],
            "chosen": [True],
        }
    )
    assert drawn(threshold_curve(nothing)) == ["no image has a score"]
    drawn(ax)
