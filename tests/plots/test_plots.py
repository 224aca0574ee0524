"""Figures: what they show, that nothing is cut off, and that odd data does not break them."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Patch
from PIL import Image

from seglib.data.classes import IGNORE, ClassMap
from seglib.plots import confusion as matrices
from seglib.plots import samples as sheets
from seglib.plots import scores as plots
from seglib.plots import training as live
from seglib.plots.style import style

mpl.use("Agg")

CLASSES = ClassMap(("sky", "road $x_", "pole"))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def many(count: int) -> ClassMap:
    return ClassMap(tuple(f"class {k} " + "with a very long name " * (k % 9 == 0) for k in range(count)))


def drawn(fig):
    """Draw a figure and check that nothing in it, labels above all, reaches over its edges."""
    fig.draw_without_rendering()
    box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert box.x0 > -0.02, "cut off on the left"
    assert box.y0 > -0.02, "cut off at the bottom"
    assert box.x1 < width + 0.02, "cut off on the right"
    assert box.y1 < height + 0.02, "cut off at the top"
    return fig


def per_class(classes: ClassMap, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"class": classes.names, **{c: rng.random(len(classes)) for c in ("iou", "precision", "recall")}}
    )


def shares(classes: ClassMap, splits=("train", "val")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [(s, c, 10 ** rng.uniform(-4, -0.5), rng.random()) for s in splits for c in classes.names]
    return pd.DataFrame(rows, columns=["split", "class", "pixel_share", "image_share"])


def failures(count: int) -> pd.DataFrame:
    miou = np.linspace(0.49, 0.01, count) if count else []
    names = ["guessing" if m < 0.1 else "clear" if m < 0.4 else "near-threshold" for m in miou]
    return pd.DataFrame({"id": [f"street_{k:04d}" for k in range(count)], "miou": miou, "severity": names})


def labels(axis) -> list[str]:
    return [tick.get_text() for tick in axis.get_ticklabels()]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 11, pytest.param(40, marks=pytest.mark.slow)])
def test_every_figure_of_classes_is_whole_from_1_to_40_classes(count):
    classes = many(count)
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 1000, (count, count))
    images = pd.DataFrame(rng.random((9, count)), columns=list(classes.names)).assign(id="x")
    for ax in (
        plots.class_shares(shares(classes), classes),
        plots.class_ious(per_class(classes), classes),
        plots.per_class_image_iou(images, classes),
        matrices.confusion(counts, classes),
        matrices.confusion(counts, classes, normalize=False, title="counts"),
        matrices.confusion_difference(counts, counts.T, classes),
    ):
        drawn(ax.figure)


def test_settings_are_left_as_they_were():
    before = dict(mpl.rcParams)
    plots.class_ious(per_class(CLASSES), CLASSES)
    assert dict(mpl.rcParams) == before
    with style():
        assert mpl.rcParams["axes.titleweight"] == "bold"


def test_given_axes_are_used_and_returned():
    fig, ax = plt.subplots()
    assert plots.class_ious(per_class(CLASSES), CLASSES, ax) is ax
    assert plt.get_fignums() == [fig.number]


def test_classes_stand_worst_first_in_their_colours_and_absent_ones_last():
    table = pd.DataFrame({"class": CLASSES.names, "iou": [0.9, np.nan, 0.2], "precision": 0.9, "recall": 0.8})
    ax = plots.class_ious(table, CLASSES)
    assert labels(ax.yaxis) == ["pole", "sky", r"road \$x_"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top
    assert ax.patches[0].get_facecolor()[:3] == tuple(CLASSES.colors[2] / 255)
    assert "does not occur" in [t.get_text() for t in ax.texts]
    assert "mean IoU 0.550" in [t.get_text() for t in ax.get_legend().get_texts()]


@pytest.mark.slow
def test_a_class_that_a_split_lacks_is_said():
    table = shares(CLASSES)
    table.loc[(table["split"] == "val") & (table["class"] == "pole"), ["pixel_share", "image_share"]] = 0
    ax = plots.class_shares(table, CLASSES)
    assert "absent" in [t.get_text() for t in ax.get_legend().get_texts()]
    table[["pixel_share", "image_share"]] = 0.0
    drawn(plots.class_shares(table, CLASSES).figure)
    drawn(plots.class_shares(table[:0], CLASSES).figure)


def test_confusion_rows_are_shares_and_small_numbers_are_left_out():
    counts = np.array([[996, 4, 0], [50, 150, 0], [0, 0, 0]])
    ax = matrices.confusion(counts, CLASSES)
    assert [t.get_text() for t in ax.texts] == ["100", "25", "75"]
    assert labels(ax.yaxis) == ["sky  83.3%", r"road \$x_  16.7%", "pole  absent"]
    assert labels(ax.xaxis) == ["sky", r"road \$x_", "pole"]
    values = ax.collections[0].get_array().reshape(3, 3)
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[2].all()
    np.testing.assert_allclose(values[:2], [[99.6, 0.4, 0], [25, 75, 0]])
    assert [t.get_text() for t in matrices.confusion(counts * 1000, CLASSES, normalize=False).texts] == [
        "996k",
        "50k",
        "150k",
    ]
    assert labels(matrices.confusion(np.diag([9999, 1, 0]), CLASSES).yaxis)[1:] == [
        r"road \$x_  <0.1%",
        "pole  absent",
    ]
    assert not matrices.confusion(np.eye(21), many(21)).texts


@pytest.mark.slow
@pytest.mark.parametrize("count", [21, 40, pytest.param(80, marks=pytest.mark.slow)])
def test_many_classes_number_only_the_confusions_that_stand_out(count):
    counts = 100 * np.eye(count, dtype=int)
    counts[3, :2] = 12, 5
    classes = ClassMap(tuple(f"c{k}" for k in range(count)))
    ax = drawn(matrices.confusion(counts, classes).figure).axes[0]
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [("10", (0.5, 3.5))]
    ax = drawn(matrices.confusion_difference(counts, 100 * np.eye(count), classes).figure).axes[0]
    assert [t.get_text() for t in ax.texts] == ["+10"]
    assert min(t.get_fontsize() for t in (*ax.texts, *ax.get_yticklabels())) >= 5.5


def test_the_difference_is_in_points_and_signed():
    full, failed = np.array([[90, 10], [0, 100]]), np.array([[4, 6], [0, 0]])
    ax = matrices.confusion_difference(failed, full, ClassMap(("a", "b")))
    assert [t.get_text() for t in ax.texts] == ["-50", "+50"]
    drawn(matrices.confusion_difference(np.zeros((2, 2)), np.zeros((2, 2)), ClassMap(("a", "b"))).figure)


@pytest.mark.parametrize("scores", [[], [0.5], [np.nan], [0.2, 0.5, np.nan, 1.0]])
def test_the_distribution_counts_failures(scores):
    ax = plots.iou_distribution(pd.DataFrame({"miou": np.array(scores, float)}), 0.5)
    drawn(ax.figure)
    if len(scores) == 4:
        words = " ".join(t.get_text() for t in ax.get_legend().get_texts())
        assert "below 0.5: 1 of 3 images" in words
        assert "1 without a scored pixel" in words


def test_one_image_and_none_are_enough_for_the_spread():
    table = pd.DataFrame({"id": ["a"], "sky": [0.5], "pole": [np.nan]})
    drawn(plots.per_class_image_iou(table, CLASSES).figure)
    drawn(plots.per_class_image_iou(table[:0], CLASSES).figure)


def history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    columns = dict.fromkeys(("train_loss", "train_ce", "train_dice", "val_loss"), 1.0 / epoch)
    return pd.DataFrame(
        {
            "epoch": epoch,
            **columns,
            "val_miou": 0.7 - 0.1 * (epoch - 2) ** 2 / 30,
            "learning_rate": 1e-3 / epoch,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [0, 1, 2, 30])
def test_training_curves_mark_the_best_epoch_and_redraw(epochs):
    fig = sheets.training_curves(history(epochs))
    assert plt.get_fignums() == []  # or a notebook would show it twice
    assert sheets.training_curves(history(epochs), fig) is fig
    drawn(fig)
    assert len(fig.axes) == 3
    marks = [t.get_text() for t in fig.axes[1].texts]
    assert marks == ([f"best 0.{'697' if epochs == 1 else '700'}, epoch {min(epochs, 2)}"] if epochs else [])


@pytest.mark.slow
def test_training_curves_do_without_validation():
    table = history(3).drop(columns=["val_loss", "train_dice"]).assign(val_miou=np.nan)
    fig = drawn(sheets.training_curves(table))
    assert [t.get_text() for t in fig.axes[0].get_legend().get_texts()] == ["train", "cross-entropy (train)"]


@pytest.mark.parametrize(("height", "width"), [(12, 16), (12, 40), (30, 10), (1, 1)])
@pytest.mark.parametrize("count", [2, 40])
def test_a_sheet_has_four_panels_and_a_legend_of_what_occurs(height, width, count):
    classes = many(count)
    truth = (np.arange(height * width) % count).reshape(height, width).astype(np.uint8)
    pred = np.roll(truth, 1, axis=1)
    truth[0, 0] = IGNORE
    fig = sheets.failure_sheet(np.full((height, width, 3), 90, np.uint8), truth, pred, classes, "a $title_")
    drawn(fig)
    assert len(fig.axes) == 4
    shown = {t.get_text().replace("\n", " ").strip() for t in fig.legends[0].get_texts()}
    occurring = {
        classes.names[c].strip() for c in np.unique(np.r_[truth.ravel(), pred.ravel()]) if c != IGNORE
    }
    assert shown == occurring | {"not scored"}
    assert plt.get_fignums() == []


def test_a_sheet_says_what_is_wrong():
    truth = np.array([[0, 0, 0, 1, IGNORE]], np.uint8)
    pred = np.array([[1, 0, 0, 1, 0]], np.uint8)
    fig = sheets.failure_sheet(np.zeros((1, 5, 3), np.uint8), truth, pred, ClassMap(("sky", "road")))
    assert fig.axes[3].get_title(loc="left") == "errors in orange: 25.0% of scored pixels"
    assert fig.legends[0].get_title().get_text().endswith("sky → road 25.0%")
    outlined = sheets.failure_sheet(
        np.zeros((1, 5, 3), np.uint8), truth, pred, ClassMap(("sky", "road")), "", pred == 1
    )
    assert outlined.axes[0].get_title(loc="left") == "image; outlined: label in doubt"
    assert fig.axes[0].get_title(loc="left") == "image"  # no region, and no promise of one
    nothing = np.full((1, 5), IGNORE, np.uint8)
    fig = drawn(sheets.failure_sheet(np.zeros((1, 5, 3), np.uint8), nothing, pred, ClassMap(("sky", "road"))))
    assert fig.axes[3].get_title(loc="left") == "errors in orange: no scored pixel"


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_grids_take_any_number_of_images_of_any_sizes(count):
    images = [np.full((6 + k, 8, 3), 40 * k, np.uint8) for k in range(count)]
    masks = [np.full((6 + k, 8), k % 3, np.uint8) for k in range(count)]
    for fig in (
        sheets.overlay_grid(images, masks, CLASSES, [f"id {k}" for k in range(count)]),
        sheets.augmentation_grid(images, masks, CLASSES, columns=2),
    ):
        drawn(fig)
        assert sum(bool(ax.images) for ax in fig.axes) == count
    with pytest.raises(ValueError, match="argument 2 is longer"):
        sheets.overlay_grid(images, [*masks, masks or 0], CLASSES)


def test_the_entries_of_a_legend_fill_its_rows():
    names = ["sky", "building", "road", "pavement", "tree", "car", "person", "sign", "not scored", "wrong"]
    short = [Patch(label=name) for name in names]
    assert sheets._legend_columns(11, short) == 10  # one row
    assert sheets._legend_columns(8, short) == 5  # 6 at most: 5 and 5, not 6 and 4 in columns of two
    assert sheets._legend_columns(1, short) == 1
    assert sheets._legend_columns(11, []) == 1


def test_a_small_picture_shows_the_same(monkeypatch):
    shown = []
    monkeypatch.setattr(live, "display", shown.append)
    random = np.random.default_rng(0)
    photograph = np.cumsum(random.normal(0, 4, (60, 80, 3)), axis=1).clip(-120, 120).astype(np.int16) + 128
    mask = np.zeros((60, 80), np.uint8)
    mask[:3, :3] = 1
    near = ClassMap(
        ("person", "wrong"), ((213, 94, 0), (255, 122, 0))
    )  # colours that a palette might take for one
    figure = sheets.overlay_grid([photograph.astype(np.uint8)], [mask], near)
    live.show_small(figure)
    full, small = io.BytesIO(), shown[0].data
    figure.savefig(full, format="png", dpi=figure.dpi)
    assert len(small) < 0.6 * len(full.getvalue())
    one, other = (np.asarray(Image.open(data).convert("RGB"), float) for data in (full, io.BytesIO(small)))
    assert one.shape == other.shape
    assert np.abs(one - other).mean() < 4
    for color in near.colors:
        assert (other[(one == color).all(axis=2)] == color).all()
        assert (one == color).all(axis=2).sum() > 20  # its swatch
