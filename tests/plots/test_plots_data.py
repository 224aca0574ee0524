"""Figures of the data check: the right numbers on them, nothing cut off, nothing left in pyplot."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from seglib import plots
from seglib.data import ClassMap

mpl.use("Agg")

RNG = np.random.default_rng(0)
CLASSES = ClassMap(("sky", "road $x_", "pole"))


@pytest.fixture(autouse=True)
def closed():
    yield
    assert not plt.get_fignums()


def drawn(thing):
    """Lay a figure out, draw it, and check that nothing in it reaches over its edges."""
    fig = thing if isinstance(thing, mpl.figure.Figure) else thing.figure
    fig.draw_without_rendering()
    box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert max(box.x1 - width, box.y1 - height) < 0.02
    return fig


def words(fig):
    return " | ".join(text.get_text() for text in fig.findobj(mpl.text.Text))


def shares(classes, splits=("train", "val")):
    rows = [(s, c, 10 ** RNG.uniform(-4, -0.5), RNG.random()) for s in splits for c in classes.names]
    return pd.DataFrame(rows, columns=["split", "class", "pixel_share", "image_share"])


@pytest.mark.parametrize("count", [1, 11, 40])
def test_class_shares_hold_any_number_of_classes(count):
    classes = ClassMap(tuple(f"class {k} " + "with a very long name " * (k % 9 == 0) for k in range(count)))
    drawn(plots.class_shares(shares(classes), classes))


def test_a_class_that_a_split_lacks_is_named():
    table = shares(CLASSES)
    table.loc[(table["split"] == "val") & (table["class"] == "pole"), ["pixel_share", "image_share"]] = 0
    ax = plots.class_shares(table, CLASSES)
    assert "absent" in [t.get_text() for t in ax.get_legend().get_texts()]
    drawn(plots.class_shares(table.assign(pixel_share=0.0, image_share=0.0), CLASSES))


def test_pairs_show_their_difference():
    first, second = RNG.integers(0, 256, (2, 20, 30, 3), np.uint8)
    near = np.clip(first.astype(int) + 2, 0, 255).astype(np.uint8)
    titles = [("train: a", "val: $b"), ("x", "y")]
    fig = drawn(plots.image_pairs([(first, near), (first, first[::2, ::2])], titles))
    assert f"difference: mean {np.abs(first.astype(int) - near).mean():.1f} of 255" in words(fig)
    assert fig.axes[2].images[0].get_array().min() >= 255 - 2 * 255 / 32 - 1
    assert "no images" in words(drawn(plots.image_pairs([])))
    drawn(plots.image_pairs([(second, first)]))


def test_the_timeline_puts_shared_sequences_first_and_counts_the_rest():
    rows = [("train", "long", k) for k in range(30)] + [("train", "both", 1), ("val", "both", 2)]
    rows += [("train", f"g{k}", 1) for k in range(50)] + [("val", "", pd.NA), ("val", "nameless", pd.NA)]
    samples = pd.DataFrame(rows, columns=["split", "group", "frame"]).astype({"frame": "Int64"})
    ax = plots.sequence_timeline(samples)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[:2] == ["both", "long"]
    assert len(labels) == 40
    assert "(40 of 52)" in words(drawn(ax))
    assert "no sequences" in words(drawn(plots.sequence_timeline(samples[samples["group"] == ""])))


def test_shifts_lie_where_they_are():
    table = pd.DataFrame({"split": "val", "name": ["a", "b", "c"], "delta": [0.1, -0.9, np.nan]})
    ax = plots.split_shifts(table)
    drawn(ax)
    points = next(dots for dots in ax.collections if dots.get_label() == "val")
    np.testing.assert_array_equal(points.get_offsets()[:, 0].filled(np.nan), table["delta"])
    assert ax.get_yticklabels()[0].get_text() == "b"
    assert "nothing to compare" in words(drawn(plots.split_shifts(table.iloc[:0])))


def test_cooccurrence_is_in_percent_of_the_row():
    names = ["a", "$b", "never"]
    table = pd.DataFrame([[3, 1, 0], [1, 2, 0], [0, 0, 0]], names, names)
    told = words(drawn(plots.cooccurrence(table)))
    assert all(f"| {value} |" in f"| {told} |" for value in ("100", "33", "50"))
    many = [f"class {k}" for k in range(40)]
    drawn(plots.cooccurrence(pd.DataFrame(np.full((40, 40), 2), many, many)))


def test_limits_lie_among_the_images():
    columns = ["brightness", "contrast", "entropy", "focus"]
    samples = pd.DataFrame({"split": ["train"] * 40 + ["val"] * 21} | dict.fromkeys(columns, np.arange(61.0)))
    limits = pd.DataFrame({"column": ["brightness", "brightness"], "limit": [20.0, 900.0]})
    lines = drawn(plots.image_properties(samples, limits)).axes[0].lines
    dashed = [line.get_xdata()[0] for line in lines if line.get_linestyle() == "--"]
    assert dashed == [20.0]  # a limit that no image passes is left out
    drawn(plots.image_properties(samples.assign(**dict.fromkeys(columns, np.nan)), limits))
