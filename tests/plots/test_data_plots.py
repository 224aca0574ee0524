"""Figures of a data check: drawn from any table, the right numbers on them, nothing left behind."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from seglib.checks.class_balance import cooccurrence, shifts
from seglib.checks.image_quality import limits
from seglib.plots import data as data_plots
from seglib.plots import scores as plots

RNG = np.random.default_rng(0)


def drawn(thing):
    """The figure of an axes or the figure itself, laid out and drawn; pyplot must not hold it."""
    fig = getattr(thing, "figure", thing)
    fig.canvas.draw()
    assert plt.get_fignums() == []
    return fig


def words(fig):
    return " | ".join(text.get_text() for text in fig.findobj(mpl.text.Text))


def pictures(*sizes):
    return [RNG.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]


def test_pairs_of_pictures_with_their_difference():
    first, second = pictures((20, 30), (20, 30))
    near = np.clip(first.astype(int) + 2, 0, 255).astype(np.uint8)
    small = first[::2, ::2]
    fig = drawn(
        data_plots.image_pairs([(first, near), (first, small)], [("train: a", "val: $b"), ("x", "y")])
    )
    told = words(fig)
    assert "train: a" in told
    assert f"difference: mean {np.abs(first.astype(int) - near).mean():.1f} of 255" in told
    shown = fig.axes[2].images[0].get_array()
    assert shown.shape == (20, 30)
    assert shown.min() >= 255 - 2 * 255 / 32 - 1
    assert "stand twice" in words(drawn(data_plots.image_pairs([])))
    drawn(data_plots.image_pairs([(second, first)]))


@pytest.mark.slow
def test_grids_of_pictures():
    fig = drawn(
        data_plots.image_grid(pictures((20, 30), (30, 20), (9, 9), (5, 50), (20, 30)), ["a", "b" * 60, "$c"])
    )
    assert sum(bool(ax.images) for ax in fig.axes) == 5
    drawn(data_plots.image_grid(pictures((7, 7))))
    assert "no image lies apart" in words(drawn(data_plots.image_grid([])))


def test_timeline_puts_shared_sequences_first_and_counts_the_rest():
    rows = [("train", "long", k) for k in range(30)] + [
        ("train", "both", 1),
        ("val", "both", 2),
        ("val", "", pd.NA),
    ]
    rows += [("train", f"g{k}", 1) for k in range(50)] + [("val", "nameless", pd.NA)]
    samples = pd.DataFrame(rows, columns=["split", "group", "frame"]).astype({"frame": "Int64"})
    ax = data_plots.sequence_timeline(samples)
    fig = drawn(ax)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[:2] == ["both", "long"]
    assert len(labels) == 40
    assert "(40 of 52)" in words(fig)
    assert "no sequences" in words(drawn(data_plots.sequence_timeline(samples[samples["group"] == ""])))


def test_shifts_are_drawn_where_they_are():
    samples = pd.DataFrame(
        {"split": ["train"] * 5 + ["val"] * 5, **dict.fromkeys(plots_columns(), RNG.random(10))}
    )
    table = shifts(["a", "b"], samples, RNG.integers(0, 9, (10, 2)))
    ax = data_plots.split_shifts(table)
    drawn(ax)
    points = next(line for line in ax.lines if line.get_label() == "val")
    assert sorted(points.get_xdata()) == pytest.approx(sorted(table["delta"]))
    assert "nothing to compare" in words(drawn(data_plots.split_shifts(table.iloc[:0])))


def plots_columns():
    return ["brightness", "contrast", "entropy", "sharpness", "focus", "colour"]


def test_cooccurrence_in_percent_of_the_row():
    names = ["a", "$b", "never"]
    fig = drawn(
        data_plots.cooccurrence(cooccurrence(names, np.array([[1, 1, 0], [1, 0, 0], [5, 0, 0], [0, 2, 0]])))
    )
    told = words(fig)
    assert all(f"| {value} |" in f"| {told} |" for value in ("100", "33", "50"))
    many = [f"class {k}" for k in range(40)]
    drawn(data_plots.cooccurrence(cooccurrence(many, RNG.integers(0, 2, (30, 40)))))


@pytest.mark.slow
def test_limits_are_drawn_among_the_images():
    values = np.r_[RNG.normal(100, 3, 60), 20]
    samples = pd.DataFrame({"split": ["train"] * 40 + ["val"] * 21, **dict.fromkeys(plots_columns(), values)})
    table = limits(samples)
    fig = drawn(plots.image_properties(samples, table))
    (low,) = table.query("check == 'dark-image'")["limit"]
    assert any(line.get_linestyle() == "--" and line.get_xdata()[0] == low for line in fig.axes[0].lines)
    assert not [
        line for line in drawn(plots.image_properties(samples)).axes[0].lines if line.get_linestyle() == "--"
    ]
    samples[plots_columns()] = np.nan
    drawn(plots.image_properties(samples, limits(samples)))
