"""Findings about a dataset, class statistics and class weights."""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage, signal

from seglib.checks.check import check_dataset, require_sound, verdict, write
from seglib.checks.class_balance import class_weights, cliffs_delta, cooccurrence
from seglib.checks.image_quality import look
from seglib.checks.masks import _correlated, edge_shift
from seglib.data.ahead import map_ahead
from seglib.data.dataset import DatasetError, load_dataset
from seglib.data.regions import label_regions

NAMES = ["road", "car", "person"]
H, W = 12, 16


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)


def ids(seed):
    return np.random.default_rng(seed).integers(0, 3, (H, W), np.uint8)


def put(root, split, name, image=None, mask=None):
    seed = zlib.crc32((split + name).encode())
    for side, array in (
        ("images", picture(seed) if image is None else image),
        ("masks", ids(seed) if mask is None else mask),
    ):
        folder = root / split / side
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(array, bytes):
            (folder / f"{name}.png").write_bytes(array)
        else:
            Image.fromarray(array).save(folder / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    """10 train and 11 val pairs without a fault."""
    (tmp_path / "dataset.yaml").write_text(
        "name: tiny\nclasses: [road, car, person]\nignore_ids: [9]\nsplits:\n"
        '  train: {images: "train/images/*", masks: "train/masks/*"}\n'
        '  val: {images: "val/images/*", masks: "val/masks/*"}\n'
        "group: '(?P<group>[a-z]+)(?P<frame>[0-9])$'\n"
    )
    for split, group in (("train", "a"), ("val", "b")):
        for k in range(10):
            put(tmp_path, split, f"{group}{k}")
    put(tmp_path, "val", "c0")
    return tmp_path


def check(root):
    return check_dataset(load_dataset(root, strict=False))


def test_sound_data_has_no_findings(root, capsys):
    result = check(root)
    assert result.findings.empty
    assert verdict(result) == "sound: 21 pairs, no errors, no warnings."
    require_sound(result)
    assert capsys.readouterr() == ("", "")


def test_counts_and_statistics_match_a_plain_count(root):
    put(root, "train", "a0", mask=np.where(ids(5) == 2, 9, ids(5)).astype(np.uint8))
    result = check(root)
    samples, stats = result.samples, result.class_stats
    for row, counts in zip(samples.itertuples(), result.pixel_counts, strict=True):
        stored = np.array(Image.open(root / row.split / "masks" / f"{row.id}.png"))
        assert counts.tolist() == [(stored == c).sum() for c in range(3)]
        assert row.ignore_share == pytest.approx((stored == 9).mean())
        assert row.classes_present == len(set(stored.ravel()) - {9})
        grey = np.array(Image.open(root / row.split / "images" / f"{row.id}.png").convert("L"), np.float64)
        assert row.brightness == pytest.approx(grey.mean(), abs=1)
        assert row.contrast == pytest.approx(grey.std(), abs=1)
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        assert row.sharpness == pytest.approx((around - 4 * grey[1:-1, 1:-1]).var(), rel=0.02)
    assert samples[["height", "width", "mode", "mask_mode"]].drop_duplicates().values.tolist() == [
        [H, W, "RGB", "L"]
    ]
    assert stats["class"].tolist() == NAMES * 2
    train = stats[stats["split"] == "train"]
    inside = result.pixel_counts[(samples["split"] == "train").to_numpy()]
    assert train["pixels"].tolist() == inside.sum(axis=0).tolist()
    assert train["pixel_share"].sum() == pytest.approx(1)
    assert train["images"].tolist() == [10, 10, 9]
    assert train["image_share"].tolist() == [1, 1, 0.9]


NOTHING = np.full((H, W), 9, np.uint8)
ALMOST = NOTHING.copy()
ALMOST[0, :2] = [0, 1]


@pytest.mark.parametrize(
    ("found", "severity", "arguments"),
    [
        ("unreadable", "error", {"image": b"\x89PNG\r\n\x1a\n and no more"}),
        ("unreadable", "error", {"mask": b"a text"}),
        ("empty-file", "error", {"image": b""}),
        ("size-mismatch", "error", {"mask": np.zeros((H, W + 1), np.uint8)}),
        ("illegal-ids", "error", {"mask": np.full((H, W), 77, np.uint8)}),
        ("rgb-mask", "error", {"mask": picture(3)}),
        ("all-ignored", "warning", {"mask": NOTHING}),
        ("much-ignored", "warning", {"mask": ALMOST}),
        ("single-class", "warning", {"mask": np.ones((H, W), np.uint8)}),
        ("blank-image", "warning", {"image": np.full((H, W, 3), 80, np.uint8)}),
        ("modes-differ", "info", {"image": picture(3)[..., 0]}),
        ("modes-differ", "info", {"mask": ids(3).astype(np.uint16)}),
    ],
)
def test_each_fault_of_a_pair_is_found_and_alone(root, found, severity, arguments):
    put(root, "val", "b3", **arguments)
    result = check(root)
    more = {"size-mismatch": "single-class", "modes-differ": "grey-image"}  # what such a fault brings along
    about = result.findings[result.findings["check"] != more.get(found)]
    assert about[["check", "severity"]].values.tolist() == [[found, severity]]
    row = about.iloc[0]
    assert row["suggestion"]
    if found != "modes-differ":
        assert (row["sample"], row["split"]) == ("b3", "val")
        assert "'b3' (val/" in row["detail"]
    assert len(result.samples) == (20 if found == "empty-file" else 21)
    if severity == "error":
        assert verdict(result).startswith(f"not sound: {len(result.samples)} pairs, 1 error (1 {found})")
        with pytest.raises(DatasetError, match="'b3'") as error:
            require_sound(result)
        assert error.value.check == found
    else:
        require_sound(result)


def test_one_pair_may_have_several_faults_and_the_pass_goes_on(root):
    put(root, "train", "a1", image=b"x", mask=np.full((H, W), 77, np.uint8))
    put(root, "train", "a2", mask=np.full((H, W), 78, np.uint8))
    (root / "val/masks/b0.png").unlink()
    result = check(root)
    assert result.findings["check"].tolist() == ["missing-mask", "unreadable", "illegal-ids", "illegal-ids"]
    with pytest.raises(DatasetError, match=r"4 errors(?s:.*)2 such in train \(a1, a2\)"):
        require_sound(result)


def test_faults_of_whole_splits(root):
    for k in range(10):
        put(root, "train", f"a{k}", mask=np.minimum(ids(k), 1))
    put(root, "train", "a0", mask=ids(0))
    for k in range(4, 10):
        for side in ("images", "masks"):
            (root / "val" / side / f"b{k}.png").unlink()
    for k in range(4):
        put(root, "val", f"b{k}", mask=np.minimum(ids(50 + k), 1))
    put(root, "val", "c0", mask=np.minimum(ids(54), 1))
    put(root, "val", "a7", image=picture(1)[:, :9], mask=ids(1)[:, :9] % 2)
    found = check(root).findings.set_index("check")
    assert set(found.index) == {
        "few-images",
        "class-not-in-split",
        "small-split",
        "sequence-leakage",
        "sizes-differ",
    }
    assert "person (1)" in found.loc["few-images", "detail"]
    assert "never in val: person" in found.loc["class-not-in-split", "detail"]
    assert "val has 6 images" in found.loc["small-split", "detail"]
    assert (
        "1 of 3 sequences of val are in train too: a; they hold 1 of its 6 images. 2 sequences of val are"
        in found.loc["sequence-leakage", "detail"]
    )
    assert "2 sizes (width x height): 16x12 (15), 9x12 (1)." in found.loc["sizes-differ", "detail"]


def test_class_that_train_never_shows_and_split_without_scores(root):
    for k in range(10):
        put(root, "train", f"a{k}", mask=ids(k) % 2)
        put(root, "val", f"b{k}", mask=NOTHING)
    put(root, "val", "c0", mask=NOTHING)
    found = check(root).findings
    assert "never in train: person" in found.set_index("check").loc["class-not-in-train", "detail"]
    assert found.iloc[0][["severity", "check", "split"]].tolist() == ["error", "nothing-scored", "val"]


def test_same_picture_twice(root):
    put(root, "train", "a1", image=picture(99))
    put(root, "val", "b5", image=picture(99))
    Image.fromarray(picture(98)).save(root / "train/images/a2.png")
    Image.fromarray(picture(98)).save(
        root / "train/images/a3.png", compress_level=0
    )  # other bytes, same pixels
    found = check(root).findings.set_index("check")
    assert "train/a1, val/b5" in found.loc["duplicate-across-splits", "detail"]
    assert "train/a2, train/a3" in found.loc["duplicate-image", "detail"]


def test_pictures_that_differ_in_one_colour_are_no_exact_copies(root):
    image = np.array(Image.fromarray(picture(97)).resize((200, 200), Image.Resampling.BICUBIC))
    image[0, 0] = 90, 90, 90
    other = image.copy()
    other[0, 0] = 89, 90, 93  # a pixel between those whose colours are looked at, as bright as it was
    assert Image.fromarray(image).convert("L") == Image.fromarray(other).convert("L")
    for name, pixels in (("a1", image), ("b5", other)):
        put(root, "train" if name == "a1" else "val", name, pixels, np.zeros((200, 200), np.uint8))
    found = set(check(root).findings["check"])
    assert "near-duplicate-across-splits" in found
    assert "duplicate-across-splits" not in found


def test_no_train_split_and_no_sample_at_all(tmp_path):
    (tmp_path / "dataset.yaml").write_text('classes: [a, b]\nsplits: {val: {images: "i/*", masks: "m/*"}}\n')
    result = check(tmp_path)
    assert result.findings["check"].tolist() == ["empty-split", "no-train"]
    assert result.pixel_counts.shape == (0, 2)
    assert result.class_stats.empty
    write(result, tmp_path / "out")


def test_written_files_read_back(root, tmp_path):
    put(root, "val", "b3", image=b"")
    result = check(root)
    write(result, tmp_path / "out")
    findings = pd.read_csv(tmp_path / "out/findings.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(findings, result.findings, check_dtype=False)
    samples = pd.read_csv(tmp_path / "out/samples.csv")
    np.testing.assert_array_equal(samples[[f"pixels {name}" for name in NAMES]], result.pixel_counts)
    assert len(pd.read_csv(tmp_path / "out/class_stats.csv")) == 6
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["findings"] == {"error": 1, "warning": 0, "info": 0}
    assert summary["splits"] == {"train": 10, "val": 10}
    assert summary["verdict"] == verdict(result)


def test_progress_counts_every_pair(root, capsys):
    check_dataset(load_dataset(root), progress=True)
    assert "21/21" in capsys.readouterr().err


def test_class_weights_by_hand():
    counts = np.array([[90, 10, 0, 0], [60, 20, 20, 0]])
    expected = 1 / np.sqrt(np.array([150, 30, 20]) / 200)
    np.testing.assert_allclose(
        class_weights(counts, "sqrt_inverse")[:3], expected / expected.mean(), rtol=1e-6
    )
    share = np.array([150 / 200, 30 / 200, 20 / 100])  # the third class is in the second image only
    expected = np.median(share) / share
    weights = class_weights(counts, "median_frequency")
    np.testing.assert_allclose(weights[:3], expected / expected.mean(), rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[3] == 1  # never seen
    np.testing.assert_array_equal(class_weights(np.zeros((2, 3)), "sqrt_inverse"), [1, 1, 1])
    with pytest.raises(ValueError, match="expected 'sqrt_inverse' or 'median_frequency'"):
        class_weights(counts, "inverse")


# ---- regions, shares, shifts


def reference_regions(mask):
    """(value, size) of every 8-connected region, class by class."""
    found = []
    for value in np.unique(mask):
        labels, count = ndimage.label(mask == value, np.ones((3, 3)))
        found += [(int(value), int(size)) for size in np.bincount(labels.ravel(), minlength=count + 1)[1:]]
    return sorted(found)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (13, 17), (40, 31), (90, 121)])
@pytest.mark.parametrize("kinds", [1, 2, 3, 200])
def test_regions_match_a_labelling_class_by_class(shape, kinds):
    for seed in range(5):
        random = np.random.default_rng(seed)
        coarse = random.integers(0, kinds, [-(-side // (1 + seed)) for side in shape], np.uint8)
        mask = np.kron(coarse, np.ones((1 + seed, 1 + seed), np.uint8))[: shape[0], : shape[1]]
        _, values, sizes = label_regions(mask)
        assert sorted(zip(values.tolist(), sizes.tolist(), strict=True)) == reference_regions(mask)


def test_regions_of_snakes_and_of_nothing():
    snake = np.zeros((9, 9), np.uint8)
    snake[::2] = 1
    snake[1::4, -1] = snake[3::4, 0] = 1  # one winding region of ones; the zeros between touch it only
    assert sorted(zip(*(a.tolist() for a in label_regions(snake)[1:]), strict=True)) == reference_regions(
        snake
    )
    for shape in ((0, 5), (5, 0), (0, 0)):
        assert [len(a) for a in label_regions(np.zeros(shape, np.uint8))[1:]] == [0, 0]
        assert label_regions(np.zeros(shape, np.uint8))[0].shape == shape


def test_regions_are_of_bytes_alone():
    with pytest.raises(TypeError, match="not of int64"):
        label_regions(np.zeros((2, 2), np.int64))


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_regions_are_numbered_in_reading_order_whatever_the_layout(dtype):
    mask = np.random.default_rng(5).integers(0, 2, (31, 17)).astype(dtype)
    for view in (mask, mask.T, mask[::2, ::-1], mask[3:4], mask[:, 3:4]):
        labels, values, sizes = label_regions(view)
        firsts = np.unique(labels, return_index=True)[1]
        assert (np.diff(firsts) > 0).all()
        assert np.array_equal(values[labels], view)
        assert values.dtype == dtype
        assert np.array_equal(sizes, np.bincount(labels.ravel()))
        for value in (0, 1):
            assert ndimage.label(view == value, np.ones((3, 3)))[1] == (values == value).sum()


@pytest.mark.parametrize("waiting", [1 << 18, 20])
def test_region_statistics_of_a_split(root, monkeypatch, waiting):
    monkeypatch.setattr("seglib.checks.class_balance._MANY_PIECES", waiting)
    sizes = {c: [] for c in range(3)}
    images = dict.fromkeys(range(3), 0)
    for k in range(10):
        for value, size in (found := reference_regions(np.array(Image.open(root / f"train/masks/a{k}.png")))):
            sizes[value].append(size)
        for c in range(3):
            images[c] += any(value == c for value, _ in found)
    stats = check(root).class_stats.query("split == 'train'").set_index("class_id")
    for c in range(3):
        assert stats.loc[c, "regions"] == len(sizes[c])
        assert stats.loc[c, "median_region"] == np.median(sizes[c])
        assert stats.loc[c, "regions_per_image"] == pytest.approx(len(sizes[c]) / images[c])


def test_absent_class_has_no_region_statistics(root):
    for k in range(10):
        put(root, "val", f"b{k}", mask=ids(k) % 2)
    put(root, "val", "c0", mask=ids(10) % 2)
    row = check(root).class_stats.query("split == 'val' and class_id == 2").iloc[0]
    assert row["regions"] == row["images"] == 0
    assert np.isnan(row["regions_per_image"])
    assert np.isnan(row["median_region"])


def test_cooccurrence_by_hand():
    counts = np.array([[5, 0, 1], [5, 2, 0], [0, 0, 9]])
    table = cooccurrence(NAMES, counts)
    assert table.to_numpy().tolist() == [[2, 1, 1], [1, 1, 0], [1, 0, 2]]
    assert table.index.tolist() == table.columns.tolist() == NAMES


def test_cliffs_delta_matches_every_pair():
    random = np.random.default_rng(0)
    for sizes in ((7, 11), (1, 5), (30, 4)):
        a, b = (random.integers(0, 6, n).astype(float) for n in sizes)
        assert cliffs_delta(a, b) == pytest.approx(np.sign(b[None] - a[:, None]).mean())
    assert cliffs_delta([1, 2], [3, np.nan]) == 1
    assert cliffs_delta([1, 1], [1]) == 0
    assert np.isnan(cliffs_delta([np.nan], [1]))


def test_a_split_of_another_world_is_told(root):
    for k in range(10):
        put(root, "val", f"b{k}", image=picture(k) // 3, mask=np.minimum(ids(k), 1))
    put(root, "val", "c0", image=picture(70) // 3)
    result = check(root)
    shift = result.shift.set_index("name")
    assert shift.loc["brightness", ["delta", "effect"]].tolist() == [-1, "large"]
    assert shift.loc["person", "delta"] < -0.8
    assert set(shift["kind"]) == {"class", "image"}
    detail = result.findings.set_index("check").loc["split-shift", "detail"]
    assert "brightness (-1.00)" in detail


def test_weight_table_is_of_class_weights(root, tmp_path):
    result = check(root)
    write(result, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/class_weights.csv")
    train = result.pixel_counts[:10]
    for kind in ("sqrt_inverse", "median_frequency"):
        np.testing.assert_allclose(table[kind], class_weights(train, kind), rtol=1e-6)


# ---- images and masks that lie apart


def photograph(seed, height=48, width=64):
    """A smooth scene of blocks, its mask, both of the same outlines."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for value in (1, 2):
        y, x = random.integers(4, height - 28), random.integers(4, width - 34)
        mask[y : y + 20, x : x + 26] = value
    colors = np.array([[60, 90, 130], [150, 130, 110], [210, 190, 60]])
    noise = random.normal(0, 6, (height, width, 3))
    return np.clip(colors[mask] + noise, 0, 255).astype(np.uint8), mask


@pytest.fixture
def photographs(tmp_path):
    """30 train and 12 val pairs whose outlines fit."""
    text = "name: blocks\nclasses: [road, car, person]\nignore_ids: [9]\nsplits:\n"
    for split, count in (("train", 30), ("val", 12)):
        text += f'  {split}: {{images: "{split}/images/*", masks: "{split}/masks/*"}}\n'
        for k in range(count):
            put(tmp_path, split, f"{split}-{k:02d}x", *photograph(1000 * (split == "val") + k))
    (tmp_path / "dataset.yaml").write_text(text)
    return tmp_path


def blurred(image):
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))


SPOILT = {
    "dark-image": lambda image, mask: (image // 4, mask),
    "bright-image": lambda image, mask: (255 - (255 - image) // 5, mask),
    "low-contrast-image": lambda image, mask: (90 + image // 8, mask),
    "blurred-image": lambda image, mask: (blurred(image), mask),
    "grey-image": lambda image, mask: (np.repeat(image[..., :1], 3, axis=2), mask),
    "odd-aspect": lambda image, mask: (image[:, :22], mask[:, :22]),
    "odd-size": lambda image, mask: (
        np.kron(image, np.ones((3, 3, 1), np.uint8)),
        np.kron(mask, np.ones((3, 3), np.uint8)),
    ),
    "mask-beside-edges": lambda image, mask: (image, np.roll(mask, (4, -5), (0, 1))),
    "specks": lambda image, mask: (image, sprinkled(mask, 1)),
    "pinholes": lambda image, mask: (image, sprinkled(mask, 9)),
}


def sprinkled(mask, value):
    mask = mask.copy()
    mask[1:-1:4, 1] = value if value == 9 else 2 - (mask[1:-1:4, 1] == 2)
    return mask


def test_sound_photographs_are_left_alone(photographs):
    assert check(photographs).findings.empty


@pytest.mark.parametrize("found", SPOILT)
def test_each_spoilt_pair_is_told_from_the_rest(photographs, found):
    put(photographs, "train", "train-07x", *SPOILT[found](*photograph(7)))
    findings = check(photographs).findings
    row = findings[findings["check"] == found]
    assert row["sample"].tolist() == ["train-07x"], findings[["check", "sample", "detail"]].to_string()
    assert "train-07x" in row["detail"].iloc[0]
    assert set(findings["sample"]) <= {"train-07x", ""}


def test_edge_shift_says_where_the_mask_belongs():
    image, mask = photograph(3, 96, 128)
    grey = Image.fromarray(image).convert("L")
    assert edge_shift(grey, mask) == (0, 0, 1.0)
    for dy, dx in ((6, 0), (-5, 8), (0, -9)):
        x, y, fit = edge_shift(grey, np.roll(mask, (dy, dx), (0, 1)))
        assert (x, y) == (-dx, -dy)
        assert fit < 0.65
    large = np.kron(mask, np.ones((4, 4), np.uint8))
    x, y, fit = edge_shift(
        grey.resize((512, 384), Image.Resampling.NEAREST), np.roll(large, (24, -32), (0, 1))
    )
    assert (abs(x - 32) <= 4, abs(y + 24) <= 4, fit < 0.65) == (True, True, True)
    assert edge_shift(grey, np.zeros_like(mask)) is None  # no outline
    assert edge_shift(grey, np.full_like(mask, 255)) is None
    assert edge_shift(Image.new("L", (128, 96), 40), mask) is None  # no edge


@pytest.mark.parametrize(("height", "width"), [(96, 128), (33, 20), (5, 3)])
def test_outlines_are_moved_over_the_edges_as_by_correlation(height, width):
    random, reach = np.random.default_rng(height), 4
    pixels = random.integers(0, 256, (height, width), np.uint8)
    mask = random.choice(np.array([0, 1, 1, 1, 255], np.uint8), (height, width))
    strongest = np.zeros((height, width))
    strongest[:, :-1] = np.abs(np.diff(pixels.astype(float), axis=1))
    strongest[:-1] = np.maximum(strongest[:-1], np.abs(np.diff(pixels.astype(float), axis=0)))
    outline = np.zeros((height, width))
    outline[:, :-1] = np.isin(mask[:, :-1].astype(int) + mask[:, 1:], [1])
    outline[:-1] = np.maximum(outline[:-1], np.isin(mask[:-1].astype(int) + mask[1:], [1]))
    expected = np.sqrt(strongest) - np.sqrt(strongest).mean()

    meets, count, deviation = _correlated(pixels, mask, reach)
    assert count == outline.sum()
    assert deviation == pytest.approx(expected.std())
    np.testing.assert_allclose(
        meets, signal.correlate2d(np.pad(expected, reach), outline, "valid"), atol=1e-2
    )


@pytest.mark.slow
def test_a_mask_that_two_pictures_share(photographs):
    put(photographs, "val", "val-03x", photograph(1003)[0], photograph(5)[1])  # train-05x has it by right
    findings = check(photographs).findings.set_index("check")
    row = findings.loc["mask-of-another-image"]
    assert "2 images share one mask" in row["detail"]
    assert "train/train-05x, val/val-03x" in row["detail"]
    put(photographs, "val", "val-03x", *photograph(5))  # a copy of the picture may have a copy of its mask
    found = set(check(photographs).findings["check"])
    assert "mask-of-another-image" not in found
    assert "duplicate-across-splits" in found


def test_mean_and_deviation_are_those_of_all_pixels(root):
    put(root, "train", "a0", image=picture(5)[:6, :5], mask=ids(5)[:6, :5])  # images count by their pixels
    pixels = [np.array(Image.open(p)).reshape(-1, 3) for p in sorted(root.glob("*/images/*.png"))]
    pixels = np.concatenate(pixels) / 255
    summary = check(root).summary
    assert summary["mean"] == pytest.approx(pixels.mean(axis=0).tolist(), abs=1e-4)
    assert summary["std"] == pytest.approx(pixels.std(axis=0).tolist(), abs=1e-4)


def test_entropy_focus_and_colour():
    image, _ = photograph(0)
    grey = Image.fromarray(image).convert("L")
    facts = look(Image.fromarray(image), grey)
    share = np.bincount(np.array(grey).ravel(), minlength=256) / (48 * 64)
    assert facts["entropy"] == pytest.approx(-(share[share > 0] * np.log2(share[share > 0])).sum())
    laplacian = ndimage.laplace(np.array(grey, float))[1:-1, 1:-1]
    assert facts["sharpness"] == pytest.approx(laplacian.var())
    pixels = image.reshape(-1, 3).astype(float)
    moments = [facts[name] for name in ("r", "g", "b", "r2", "g2", "b2")]
    assert moments == pytest.approx([*pixels.mean(axis=0), *(pixels**2).mean(axis=0)])
    opponents = np.stack([pixels[:, 0] - pixels[:, 1], (pixels[:, 0] + pixels[:, 1]) / 2 - pixels[:, 2]])
    colour = np.hypot(*opponents.std(axis=1)) + 0.3 * np.hypot(*opponents.mean(axis=1))
    assert facts["colour"] == pytest.approx(colour)
    half = Image.fromarray(image // 2)
    assert look(half, half.convert("L"))["focus"] == pytest.approx(facts["focus"], rel=0.1)
    assert look(grey.convert("RGB"), grey)["colour"] == 0
    flat = Image.new("RGB", (8, 8), (7, 7, 7))
    assert look(flat, flat.convert("L"))["focus"] == 0
    one = look(Image.fromarray(image[:1, :1]), grey.crop((0, 0, 1, 1)))
    assert (one["contrast"], one["sharpness"], one["entropy"]) == (0, 0, 0)


def test_few_results_wait():
    """As many pairs as may wait are read ahead of the one that is taken, however many there are."""
    started, taken = [], []
    items = (started.append(k) or k for k in range(200))
    with ThreadPoolExecutor(2) as pool:
        for value in map_ahead(pool, lambda k: k, items, ahead=5):
            taken.append(value)
            assert len(started) - len(taken) <= 6
    assert taken == list(range(200))


def test_a_copy_is_found_beside_files_that_cannot_be_read(photographs):
    image, mask = photograph(11)
    copy = image.copy()
    copy[20, 30] = 0
    put(photographs, "val", "val-02x", copy, mask)
    put(photographs, "train", "train-00x", b"no picture", photograph(0)[1])
    findings = check(photographs).findings.set_index("check")
    assert set(findings.index) == {"unreadable", "near-duplicate-across-splits"}
    assert "train/train-11x, val/val-02x" in findings.loc["near-duplicate-across-splits", "detail"]
