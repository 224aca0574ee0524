"""What must not grow: memory and work beside the number of images, and what large sets must not change."""

import numpy as np
import pytest
from PIL import Image
from seglib.checks.inspection import _key

from seglib.checks.check import check_dataset
from seglib.checks.duplicates import Small, difference_hash, thumbnail
from seglib.data.classes import ClassError, ClassMap
from seglib.data.dataset import load_dataset, read_image, read_mask
from seglib.data.image_io import read_mask_and_mode, read_picture
from seglib.data.overlay import fitting
from seglib.evaluate.predict import evaluate_run
from seglib.failures import analyse as analysis
from seglib.failures.find import find_failures
from seglib.metrics import bootstrap as intervals
from seglib.params import Evaluate
from seglib.plots.confusion import confusion
from seglib.runs import Run

pytestmark = pytest.mark.slow


def test_an_analysis_reads_the_dataset_as_often_for_one_failure_as_for_all(trained_root, monkeypatch):
    run, calls = Run.open("tiny"), []
    evaluation = evaluate_run(Evaluate(run="tiny", device="cpu"))
    read = analysis.run_dataset
    monkeypatch.setattr(analysis, "run_dataset", lambda run: calls.append(run) or read(run))
    analysis.analyse(run, evaluation, find_failures(evaluation, 2.0))
    assert len(calls) == 1


def test_draws_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch):
    random = np.random.default_rng(0)
    parts, units = random.random((40, 2, 3)), random.integers(0, 9, 40)
    whole = intervals.draw_sums(parts, units, 50, seed=3)
    blocks = list(intervals.draw_counts(9, 50, 3))
    assert len(blocks) == 1
    monkeypatch.setattr(intervals, "_ENTRIES", 64)
    np.testing.assert_allclose(intervals.draw_sums(parts, units, 50, seed=3), whole, rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate(list(intervals.draw_counts(9, 50, 3))), blocks[0])
    assert max(map(len, intervals.draw_counts(9, 50, 3, images=40))) == 1


def test_a_camera_that_stands_still_gives_one_finding(tmp_path):
    """Every image is a copy of the first, exactly or but for noise; all share one mask."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (96, 72), Image.Resampling.BICUBIC
    )
    mask = np.zeros((72, 96), np.uint8)
    mask[20:50, 30:70] = 1
    for split, count in (("train", 60), ("val", 12)):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for k in range(count):
            noise = random.integers(-3, 4, (72, 96, 3)) if k % 4 == 3 else 0
            picture = (np.asarray(coarse, np.int16) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / split / "images" / f"{split}{k}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{split}{k}.png")
    splits = "".join(
        f"  {s}: {{images: {s}/images/*.png, masks: {s}/masks/*.png}}\n" for s in ("train", "val")
    )
    (tmp_path / "dataset.yaml").write_text(f"name: still\nclasses: [road, car]\nsplits:\n{splits}")
    found = check_dataset(load_dataset(tmp_path)).findings["check"].value_counts()
    assert found["duplicate-across-splits"] == 1
    assert found["near-duplicate-across-splits"] == 1
    assert "mask-of-another-image" not in found


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (24, 64, 3), (40, 512)])
def test_keys_differ_wherever_a_pixel_does(shape):
    random = np.random.default_rng(1)
    array = random.integers(0, 256, shape, np.uint8)
    key = _key(array, 5)
    assert key == _key(array.copy(), 5)
    assert key != _key(array, 6)
    assert key != _key(array.reshape(-1), 5)
    for place in random.integers(0, array.size, 50):
        other = array.copy()
        other.flat[place] ^= 1 << int(random.integers(8))
        assert _key(other, 5) != key
    moved = np.roll(array, 8)  # by a word, within what is summed
    assert np.array_equal(moved, array) or _key(moved, 5) != key


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_one_decoding_tells_pixels_mode_and_grey_values(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    picture = Image.fromarray(values)
    if mode == "I;16":
        picture = Image.fromarray(values[..., 0].astype(np.uint16) << 8)
    elif mode != "RGB":
        picture = picture.convert(mode)
    path = tmp_path / "a.png"
    picture.save(path)
    found = read_picture(path)
    np.testing.assert_array_equal(found.pixels, read_image(path))
    np.testing.assert_array_equal(found.grey(), Image.fromarray(read_image(path)).convert("L"))
    with Image.open(path) as file:
        assert found.mode == file.mode
    classes = ClassMap(tuple(f"c{k}" for k in range(254)), ignore_ids=(254,))
    if mode in ("L", "P"):
        ids, stored = read_mask_and_mode(path, classes)
        assert stored == mode
        np.testing.assert_array_equal(ids, read_mask(path, classes))


def test_a_shrunk_picture_has_the_hash_and_thumbnail_of_its_own_size():
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8))
    large = coarse.resize((905, 803), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(thumbnail(large), thumbnail(Small.of(large)))
    plain = large.resize(
        (32, 24), Image.Resampling.BOX, reducing_gap=2.0
    )  # Pillow's own way of shrinking in two steps
    np.testing.assert_array_equal(thumbnail(large), plain)
    cells = np.asarray(large.resize((9, 8), Image.Resampling.BOX), int)
    bits = np.array([int(b) for b in f"{difference_hash(large):064b}"]).reshape(8, 8)
    clear = np.abs(np.diff(cells, axis=1)) > 16
    np.testing.assert_array_equal(bits[clear], (np.diff(cells, axis=1) > 0)[clear])


def test_bytes_are_encoded_as_other_integers_are():
    classes = ClassMap(("a", "b", "c"), ignore_ids=(9,))
    stored = np.random.default_rng(0).choice(np.array([0, 1, 2, 9, 255], np.uint8), (20, 31))
    for some in (stored, stored[:, ::2], stored.T, stored[stored < 3].reshape(1, -1)):
        encoded = classes.encode(some)
        np.testing.assert_array_equal(encoded, classes.encode(some.astype(np.int64)))
        assert encoded.dtype == np.uint8
        assert encoded.flags.writeable
    stored[3, 4], stored[5, 6] = 7, 40
    told = []
    for kind in (np.uint8, np.int32):
        with pytest.raises(ClassError) as error:
            classes.encode(stored.astype(kind))
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "{7, 40}" in told[0]


@pytest.mark.parametrize("size", [(30, 40), (2048, 9), (6000, 2), (1, 5000), (2500, 2500)])
def test_what_is_drawn_is_no_larger_than_a_screen(size):
    random = np.random.default_rng(0)
    image, mask = random.integers(0, 256, (*size, 3), np.uint8), random.integers(0, 7, size, np.uint8)
    small, ids, region = fitting(image, mask, mask > 3)
    assert max(small.shape) <= 2048
    assert small.shape[:2] == ids.shape == region.shape
    assert set(np.unique(ids)) <= set(range(7))
    np.testing.assert_array_equal(region, ids > 3)
    if max(size) <= 2048:
        assert small is image
    elif min(size) > 2:
        assert small.shape[0] / small.shape[1] == pytest.approx(size[0] / size[1], rel=0.5)
        assert abs(small.mean() - image.mean()) < 2


def test_the_confusion_matrix_of_many_classes_makes_no_canvas_for_every_label(monkeypatch):
    from matplotlib.figure import Figure

    made = []
    measure = Figure._get_renderer
    monkeypatch.setattr(Figure, "_get_renderer", lambda figure: made.append(1) or measure(figure))
    classes = ClassMap(tuple(f"class {k}" for k in range(150)))
    ax = confusion(np.random.default_rng(0).integers(0, 9, (150, 150)), classes)
    assert len(made) <= 2
    assert [label.get_text() for label in ax.get_xticklabels()] == list(classes.names)
    assert len(ax.get_yticklabels()) == 150
