"""Figures of the data check: the right numbers on them, nothing cut off, nothing left in pyplot."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from drawing import CLASSES, RNG, drawn, many, told, words

from seglib import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    assert not plt.get_fignums()


def shares(classes, splits=("train", "val")):
    rows = [(s, c, 10 ** RNG.uniform(-4, -0.5), RNG.random()) for s in splits for c in classes.names]
    return pd.DataFrame(rows, columns=["split", "class", "pixel_share", "image_share"])


def test_class_shares_hold_many_classes_and_name_the_absent():
    drawn(plots.class_shares(shares(many(40)), many(40)))
    table = shares(CLASSES)
    table.loc[(table["split"] == "val") & (table["class"] == "pole"), ["pixel_share", "image_share"]] = 0
    assert "absent" in told(plots.class_shares(table, CLASSES))
    assert "absent" not in told(plots.class_shares(shares(CLASSES), CLASSES))


def test_pairs_show_their_difference():
    first, second = RNG.integers(0, 256, (2, 20, 30, 3), np.uint8)
    near = np.clip(first.astype(int) + 2, 0, 255).astype(np.uint8)
    titles = [("train: a", "val: $b"), ("x", "y")]
    fig = plots.image_pairs([(first, near), (first, first[::2, ::2])], titles)
    assert f"difference: mean {np.abs(first.astype(int) - near).mean():.1f} of 255" in words(fig)
    assert fig.axes[2].images[0].get_array().min() >= 255 - 2 * 255 / 32 - 1
    assert "no images" in words(plots.image_pairs([], []))
    drawn(plots.image_pairs([(second, first)], titles[:1]))


def test_the_timeline_puts_shared_sequences_first_and_counts_the_rest():
    rows = [("train", "long", k) for k in range(30)] + [("train", "both", 1), ("val", "both", 2)]
    rows += [("train", f"g{k}", 1) for k in range(50)] + [("val", "", pd.NA), ("val", "nameless", pd.NA)]
    samples = pd.DataFrame(rows, columns=["split", "group", "frame"]).astype({"frame": "Int64"})
    ax = plots.sequence_timeline(samples)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[:2] == ["both", "long"]
    assert len(labels) == 40
    assert "(40 of 52)" in words(ax)
    assert "no sequences" in words(plots.sequence_timeline(samples[samples["group"] == ""]))


def test_shifts_of_classes_and_of_images_lie_apart():
    table = pd.DataFrame({"split": "val", "name": ["a", "b", "c"], "delta": [0.1, -0.9, np.nan]})
    fig = plots.split_shifts(table.assign(kind=["class", "class", "image"]))
    assert {"a", "b", "c", "no large difference"} < set(words(fig).split(" | "))
    points = next(dots for dots in fig.axes[0].collections if dots.get_label() == "val")
    np.testing.assert_array_equal(points.get_offsets(), [[0.1, 1], [-0.9, 0]])  # the largest shift on top
    assert [t.get_text() for t in fig.axes[1].get_yticklabels()] == ["c"]
    assert "nothing to compare" in words(plots.split_shifts(table.iloc[:0]))


def test_cooccurrence_is_measured_against_all_images():
    names = ["all", "$some", "one", "never"]
    held = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    ax = plots.cooccurrence(pd.DataFrame(held.T @ held, names, names), len(held))
    values = ax.collections[0].get_array().filled(np.nan)
    chance = held.mean(axis=0)
    expected = np.array([[held[held[:, r] > 0, c].mean() - chance[c] for c in range(4)] for r in range(3)])
    np.testing.assert_allclose(values[:3], np.where(np.eye(3, 4), np.nan, 100 * expected))
    assert np.isnan(values[3]).all()
    noted = [t.get_text() for t in ax.texts if t.get_text()]
    assert noted == ["+25", "+50"]  # what every image holds says nothing
    assert "one  25.0%" in words(ax)


def test_limits_lie_among_the_images():
    columns = ["brightness", "contrast", "entropy", "focus"]
    samples = pd.DataFrame({"split": ["train"] * 40 + ["val"] * 21} | dict.fromkeys(columns, np.arange(61.0)))
    limits = pd.DataFrame({"column": ["brightness", "brightness"], "limit": [20.0, 900.0]})
    axs = drawn(plots.image_properties(samples, limits)).axes
    dashed = [line.get_xdata()[0] for line in axs[0].lines if line.get_linestyle() == "--"]
    assert dashed == [20.0]  # a limit that no image passes is left out
    assert [ax.get_xscale() for ax in axs] == ["linear"] * 3 + ["log"]
    assert [len(line.get_xdata()) for line in axs[3].lines] == [40, 21]  # an image of focus 0 is drawn too
    drawn(plots.image_properties(samples.assign(**dict.fromkeys(columns, np.nan)), limits))
