"""Figures: the right numbers on them, nothing cut off, and what they say where there is nothing."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import failures, plots
from seglib.data import IGNORE, ClassMap

mpl.use("Agg")

RNG = np.random.default_rng(0)
CLASSES = ClassMap(("sky", "road $x_", "pole"))


def drawn(thing):
    """Lay a figure out, draw it, and check that nothing in it reaches over its edges."""
    fig = thing if isinstance(thing, mpl.figure.Figure) else thing.figure
    fig.draw_without_rendering()
    box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert max(box.x1 - width, box.y1 - height) < 0.02
    return thing


def words(thing) -> str:
    return " | ".join(text.get_text() for text in drawn(thing).figure.findobj(mpl.text.Text))


def told(ax) -> list[str]:
    return [t.get_text() for t in ax.get_legend().get_texts()]


def many(count: int) -> ClassMap:
    return ClassMap(tuple(f"class {k} " + "with a very long name " * (k % 9 == 0) for k in range(count)))


@pytest.fixture(autouse=True)
def closed():
    yield
    assert not plt.get_fignums()  # nothing is left in pyplot, which notebooks would show twice


def shares(classes):
    rows = [(split, name) for split in ("train", "val") for name in classes.names]
    table, share = pd.DataFrame(rows, columns=["split", "class"]), 10 ** RNG.uniform(-4, -0.5, len(rows))
    return table.assign(pixel_share=share, image_share=RNG.random(len(rows)))


def test_class_shares_hold_many_classes_and_name_the_absent():
    drawn(plots.class_shares(shares(many(40)), many(40)))
    table = shares(CLASSES)
    table.loc[(table["split"] == "val") & (table["class"] == "pole"), ["pixel_share", "image_share"]] = 0
    assert "absent" in told(plots.class_shares(table, CLASSES))
    assert "absent" not in told(plots.class_shares(shares(CLASSES), CLASSES))


def test_pairs_show_their_difference():
    first = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    near = np.clip(first.astype(int) + 2, 0, 255).astype(np.uint8)
    titles = [("train: a", "val: $b"), ("x", "y")]
    fig = plots.image_pairs([(first, near), (first, first[::2, ::2])], titles)
    assert f"mean difference {np.abs(first.astype(int) - near).mean():.1f} at full size" in words(fig)
    assert fig.axes[2].images[0].get_array().min() >= 255 - 2 * 255 / 32 - 1
    assert "no images" in words(plots.image_pairs([], []))


def test_the_timeline_puts_shared_sequences_first_and_counts_the_rest():
    rows = [("train", "long", k) for k in range(30)] + [("train", "both", 1), ("val", "both", 2)]
    rows += [("train", f"g{k}", 1) for k in range(50)] + [("val", "", pd.NA), ("val", "nameless", pd.NA)]
    samples = pd.DataFrame(rows, columns=["split", "group", "frame"]).astype({"frame": "Int64"})
    ax = plots.sequence_timeline(samples)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[:2] == ["both", "long"]
    assert len(labels) == 40
    assert "(40 of 52)" in words(ax)


def test_shifts_of_classes_and_of_images_lie_apart():
    table = pd.DataFrame({"split": "val", "name": ["a", "b", "c"], "delta": [0.1, -0.9, np.nan]})
    fig = plots.split_shifts(table.assign(kind=["class", "class", "image"]))
    assert {"a", "b", "c", "no large difference"} < set(words(fig).split(" | "))
    points = next(dots for dots in fig.axes[0].collections if dots.get_label() == "val")
    np.testing.assert_array_equal(points.get_offsets(), [[0.1, 1], [-0.9, 0]])  # the largest shift on top
    assert [t.get_text() for t in fig.axes[1].get_yticklabels()] == ["c"]


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


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_figures_of_classes_are_whole_from_1_to_40_classes(count):
    classes = many(count)
    counts = RNG.integers(0, 1000, (count, count))
    ious = pd.DataFrame(RNG.random((9, count)), columns=list(classes.names)).assign(id="x")
    table = pd.DataFrame({"class": classes.names, "iou": RNG.random(count), "precision": 0.5, "recall": 0.5})
    drawn(plots.class_ious(table, classes))
    drawn(plots.per_class_image_iou(ious.assign(**{classes.names[0]: np.nan}), classes))
    drawn(plots.confusion_matrix(counts, classes))
    drawn(plots.confusion_matrix(counts, classes, normalize=False, title="counts"))


def test_classes_stand_worst_first_in_their_colours_and_absent_ones_last():
    table = pd.DataFrame({"class": CLASSES.names, "iou": [0.9, np.nan, 0.2], "precision": 0.9, "recall": 0.8})
    before, (fig, given) = dict(mpl.rcParams), plt.subplots()
    ax = plots.class_ious(table, CLASSES, given)
    assert (ax, dict(mpl.rcParams), plt.get_fignums()) == (given, before, [fig.number])
    plt.close(fig)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["pole", "sky", r"road \$x_"]
    assert ax.patches[0].get_facecolor()[:3] == tuple(CLASSES.colors[2] / 255)
    assert "does not occur" in [t.get_text() for t in ax.texts]
    assert "mean IoU 0.550" in told(ax)
    places = [dots.get_offsets()[:, 1].tolist() for dots in ax.collections]
    assert places == [[-0.19, 0.81], [0.19, 1.19]]  # no precision or recall where a class is absent


def test_confusion_rows_are_shares_without_small_numbers():
    counts = np.array([[996, 4, 0], [50, 150, 0], [0, 0, 0]])
    ax = plots.confusion_matrix(counts, CLASSES)
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["100", "25", "75"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["sky  83.3%", r"road \$x_  16.7%", "pole  absent"]
    values = ax.collections[0].get_array().filled(np.nan)
    np.testing.assert_allclose(values, [[99.6, 0.4, 0], [25, 75, 0], [np.nan] * 3])
    thousands = plots.confusion_matrix(counts * 1000, CLASSES, normalize=False)
    assert [t.get_text() for t in thousands.texts if t.get_text()] == ["996k", "50k", "150k"]
    assert "no valid pixel" in plots.confusion_matrix(0 * counts, CLASSES).texts[0].get_text()


def test_the_distribution_counts_failures():
    ax = drawn(plots.iou_distribution(pd.DataFrame({"miou": [0.2, 0.5, np.nan, 1.0, 0.505]}), 0.502))
    assert {"below 0.502: 2 of 4 images", "1 without a valid pixel"} < set(told(ax))
    assert max(bar.get_y() + bar.get_height() for bar in ax.patches) == 2  # a failure below its neighbour


def test_regions_stand_worst_first():
    classes = ClassMap(tuple(f"class {k}" for k in range(40)))
    rows = [(name, "small", 30, 0.9 - k / 100) for k, name in enumerate(classes.names)]
    rows += [(name, "large", 1, k / 100) for k, name in enumerate(classes.names)]
    ax = drawn(plots.region_ious(pd.DataFrame(rows, columns=["class", "size", "regions", "iou"]), classes))
    assert [t.get_text() for t in ax.get_yticklabels()] == list(classes.names[::-1])
    assert ax.texts[0].get_text() == "30 / 0 / 1"
    hollow = [bool((dots.get_facecolor() == 1).all()) for dots in ax.collections[1::2]]
    assert hollow == [False, True, True, True]  # small, medium, large; the legend's


def test_reliability_says_in_which_direction():
    edges = np.linspace(0.5, 1, 6)
    table = pd.DataFrame({"confidence_from": edges[:-1], "confidence_to": edges[1:], "pixels": 10})
    table = table.assign(confidence=edges[1:] - 0.05, share=[0.009, *[0.25] * 4])
    assert "overconfident" in told(drawn(plots.reliability(table.assign(accuracy=0.3), 0.123)))
    ax = plots.reliability(table.assign(accuracy=1.0))
    assert "underconfident" in told(ax)
    assert [t.get_text() for t in ax.texts] == ["25%"] * 4  # a bin of few pixels would say little
    assert "no pixel" in plots.reliability(table.assign(pixels=0)).texts[0].get_text()


def test_two_runs_count_what_changed_and_name_the_largest_moves():
    table = pd.DataFrame({"id": [f"i${k}" for k in range(5)], "miou_first": [0.2, 0.9, 0.8, 0.3, np.nan]})
    table = table.assign(miou_second=[0.8, 0.1, 0.8, 0.3, 0.5])
    table["difference"] = table["miou_second"] - table["miou_first"]
    table["change"] = ["fixed", "regressed", "passing in both", "failing in both", "unscored"]
    ax = drawn(plots.run_comparison(table, "a", "b", 0.5))
    assert set(told(ax)) == {"passing in both (1)", "failing in both (1)", "fixed (1)", "regressed (1)"}
    assert {t.get_text() for t in ax.texts} == {r"i\$0", r"i\$1"}


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [0, 1, 30])
def test_training_curves_mark_the_best_epoch_and_draw_again(epochs):
    epoch = np.arange(1, epochs + 1)
    losses = dict.fromkeys(("train_loss", "train_ce", "train_dice", "val_loss"), 1.0 / epoch)
    history = pd.DataFrame({"epoch": epoch, **losses, "learning_rate": 1e-3 / epoch})
    history["val_miou"] = 0.7 - 0.1 * (epoch - 2) ** 2 / 30
    fig = plots.training_curves(history)
    assert plots.training_curves(history, fig) is drawn(fig)
    best = f": best 0.{'697' if epochs == 1 else '700'}, epoch {min(epochs, 2)}" if epochs else ""
    assert fig.axes[1].get_title("left") == f"Validation mean IoU{best}"
    if epochs:
        assert told(fig.axes[0]) == ["train", "val", "cross-entropy (train)", "Dice (train)"]


@pytest.mark.parametrize(("height", "width", "count"), [(12, 40, 40), (30, 10, 40), (1, 1, 2)])
def test_a_sheet_has_four_panels_and_a_legend_of_what_occurs(height, width, count):
    classes = many(count)
    truth = (np.arange(height * width) % count).reshape(height, width).astype(np.uint8)
    pred = np.roll(truth, 1, axis=1)
    truth[0, 0] = IGNORE
    image = np.full((height, width, 3), 90, np.uint8)
    fig = drawn(plots.failure_sheet(image, truth, pred, classes, "a $title_"))
    assert len(fig.axes) == 4
    legend = {t.get_text().replace("\n", " ").strip() for t in fig.legends[0].get_texts()}
    occurring = np.unique(np.r_[truth.ravel(), pred.ravel()])
    assert legend == {classes.names[c].strip() for c in occurring if c != IGNORE} | {"ignored"}


def test_a_sheet_says_what_is_wrong():
    truth, pred = np.array([[0, 0, 0, 1, IGNORE]], np.uint8), np.array([[1, 0, 0, 1, 0]], np.uint8)
    image, classes = np.zeros((1, 5, 3), np.uint8), ClassMap(("sky", "road"))
    fig = plots.failure_sheet(image, truth, pred, classes)
    assert fig.axes[3].get_title(loc="left") == "errors: 25.0% of valid pixels"
    assert fig.legends[0].get_title().get_text().endswith("sky → road 25.0%")
    assert fig.axes[0].get_title(loc="left") == "image"  # no region, and no promise of one
    twice = [np.repeat(array, 2, axis=0) for array in (image, truth, pred)]
    outlined = plots.failure_sheet(*twice, classes, "", twice[2] == 1)
    assert outlined.axes[0].get_title(loc="left") == "image; outlined: label in doubt"


def test_grids_take_images_of_any_sizes():
    images = [np.full((6 + k, 8, 3), 40 * k, np.uint8) for k in range(5)]
    masks = [np.full((6 + k, 8), k % 3, np.uint8) for k in range(5)]
    overlaid = plots.overlay_grid([*zip(images, masks, strict=True)], CLASSES, ["b" * 60, "$c"])
    for fig in overlaid, plots.augmentation_grid(images, masks, CLASSES, columns=2):
        assert sum(bool(ax.images) for ax in drawn(fig).axes) == 5
    assert "no images" in plots.image_grid([]).axes[0].texts[0].get_text()


def test_a_small_figure_shows_the_same(monkeypatch):
    shown = []
    monkeypatch.setattr("seglib.plots.training.display", shown.append)
    photograph = np.cumsum(RNG.normal(0, 4, (60, 80, 3)), axis=1).clip(-120, 120).astype(np.int16) + 128
    mask = np.zeros((60, 80), np.uint8)
    mask[:3, :3] = 1
    near = ClassMap(("person", "wrong"), ((213, 94, 0), (255, 122, 0)))  # a palette might take them for one
    figure = plots.overlay_grid([(photograph.astype(np.uint8), mask)], near)
    plots.show_small(figure)
    full, small = io.BytesIO(), shown[0].data
    figure.savefig(full, format="png", dpi=figure.dpi)
    assert len(small) < 0.6 * len(full.getvalue())
    one, other = (np.asarray(Image.open(data).convert("RGB"), float) for data in (full, io.BytesIO(small)))
    assert np.abs(one - other).mean() < 4
    for color in near.colors:
        assert (other[(one == color).all(axis=2)] == color).all()


def test_bars_are_as_long_as_what_was_lost():
    parts = RNG.dirichlet(np.ones(5), 30) * RNG.uniform(0.5, 1, (30, 1))
    names = [f"a_long_name_in_a_sequence_$_{k:06d}" for k in range(30)]
    table = pd.DataFrame(parts, columns=[f"lost_{kind}" for kind in failures.ERROR_KINDS])
    table = table.assign(id=names, miou=1 - parts.sum(1))
    ax = drawn(plots.lost_iou(table, 12))
    ends = [max(bar.get_x() + bar.get_width() for bar in row) for row in zip(*ax.containers, strict=True)]
    np.testing.assert_allclose(ends, 1 - table.sort_values("miou").head(12)["miou"])
    assert ax.get_title(loc="left").endswith("the worst 12 of 30 failures")
    texts = plots.lost_iou(table[:2].assign(miou=[0.29, 0.4994])).texts
    assert [text.get_text() for text in texts[:2]] == ["0.290", "0.499"]
    assert plots.lost_iou(table[["id", "miou"]]).texts[0].get_text().startswith("no failure")


def test_the_threshold_curve_marks_what_was_chosen():
    known = {"mean IoU": [0.1, 0.4, 0.5, *[0.9] * 5], "sky": [0.2, *[np.nan] * 7]}
    scores = pd.DataFrame(known).assign(road=np.nan)
    ax = drawn(plots.threshold_curve(scores, {"mean IoU": 0.5, "road": 0.5, "sky": 0.3}))
    assert told(ax) == ["mean IoU below 0.5: 2 of 8 images (25%)", "sky below 0.3: 1 of 1 images (100%)"]
    assert "no image has a score" in plots.threshold_curve(scores, {"road": 0.5}).texts[0].get_text()


def test_class_curves_put_the_lowest_class_first():
    columns = {"val_iou_sky": [0.1, 0.9], "val_iou_<car>": [0.5, 0.2], "val_iou_gone": np.nan}
    shown = [ax for ax in plots.class_curves(pd.DataFrame({"epoch": [1, 2], **columns})).axes if ax.axison]
    assert [ax.get_title("left") for ax in shown] == ["<car> 0.20", "sky 0.90"]
    assert shown[1].lines[0].get_ydata().tolist() == [0.1, 0.9]


def test_the_picture_of_the_series_is_there():
    with Image.open(io.BytesIO(plots.series().data)) as picture:
        assert (picture.format, picture.size) == ("PNG", (1667, 392))
