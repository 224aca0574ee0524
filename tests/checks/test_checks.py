"""The data check on whole datasets: findings, class statistics, what is written."""

import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from conftest import palette, refused, save
from PIL import Image, ImageFilter

from seglib import checks
from seglib.checks.class_balance import class_weights, cliffs_delta
from seglib.checks.masks import edge_shift, reduction
from seglib.data import label_regions, load_dataset, read_pair

NAMES = ["road", "car", "person"]
H, W = 12, 16
CONFIG = """\
name: tiny
classes: [road, car, person]
ignore_ids: [9]
splits:
  train: {images: "train/images/*", masks: "train/masks/*"}
  val: {images: "val/images/*", masks: "val/masks/*"}
"""
BLUR = ImageFilter.GaussianBlur(2)
SPOILT = {
    "dark-image": lambda image, mask: (image // 4, mask),
    "bright-image": lambda image, mask: (255 - (255 - image) // 5, mask),
    "low-contrast-image": lambda image, mask: (90 + image // 8, mask),
    "blurred-image": lambda image, mask: (np.array(Image.fromarray(image).filter(BLUR)), mask),
    "grey-image": lambda image, mask: (np.repeat(image[..., :1], 3, axis=2), mask),
    "mask-beside-edges": lambda image, mask: (image, np.roll(mask, (4, -5), (0, 1))),
}


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)


def ids(seed):
    return np.random.default_rng(seed).integers(0, 3, (H, W), np.uint8)


def put(root, split, name, image=None, mask=None):
    seed = zlib.crc32((split + name).encode())
    save(root / split / "images" / f"{name}.png", picture(seed) if image is None else image)
    save(root / split / "masks" / f"{name}.png", ids(seed) if mask is None else mask)


@pytest.fixture
def root(tmp_path):
    """10 train and 11 val pairs without a fault."""
    (tmp_path / "dataset.yaml").write_text(CONFIG + "group: '(?P<group>[a-z]+)(?P<frame>[0-9])$'\n")
    for k in range(10):
        put(tmp_path, "train", f"a{k}")
        put(tmp_path, "val", f"b{k}")
    put(tmp_path, "val", "c0")
    return tmp_path


def check(root):
    return checks.check_dataset(load_dataset(root, strict=False))


def test_sound_data_has_no_findings(root, capsys):
    result = check(root)
    assert result.findings.empty
    assert checks.conclusion(result) == "sound: 21 pairs, no errors, no warnings."
    checks.require_sound(result)
    checks.check_dataset(load_dataset(root), progress=True)
    assert "21/21" in capsys.readouterr().err


def test_counts_and_statistics_match_a_plain_count(root):
    put(root, "train", "a0", mask=np.where(ids(5) == 2, 9, ids(5)).astype(np.uint8))
    result = check(root)
    samples, stats = result.samples, result.class_stats
    sizes = {c: [] for c in (0, 1, 2, 9)}
    for row, counts in zip(samples.itertuples(), result.pixel_counts, strict=True):
        stored = np.array(Image.open(root / row.split / "masks" / f"{row.id}.png"))
        assert counts.tolist() == [(stored == c).sum() for c in range(3)]
        assert row.ignore_share == pytest.approx((stored == 9).mean())
        assert row.classes_present == len(set(stored.ravel()) - {9})
        for value, size in zip(*label_regions(stored)[1:], strict=True) if row.split == "train" else ():
            sizes[value].append(size)
    assert stats["class"].tolist() == NAMES * 2
    train = stats[stats["split"] == "train"]
    assert train["pixels"].tolist() == result.pixel_counts[result.train].sum(axis=0).tolist()
    assert train["images"].tolist() == [10, 10, 9]
    assert train["image_share"].tolist() == [1, 1, 0.9]
    regions = [len(sizes[c]) for c in range(3)]
    assert train["regions"].tolist() == regions
    assert train["median_region"].tolist() == [np.median(sizes[c]) for c in range(3)]
    assert train["regions_per_image"].tolist() == (np.array(regions) / [10, 10, 9]).tolist()


NOTHING = np.full((H, W), 9, np.uint8)
SMOOTH = np.tile(np.uint8([0] * 6 + [1, 3] + [4] * 8), (H, 1))
FAULTS = {
    "unreadable": {},
    "illegal-ids": {"mask": np.full((H, W), 77, np.uint8)},
    "all-ignored": {"mask": NOTHING},
    "single-class": {"mask": np.ones((H, W), np.uint8)},
    "blank-image": {"image": np.full((H, W, 3), 80, np.uint8)},
    "grey-image": {"image": picture(3)[..., 0]},
}


def test_each_fault_of_a_pair_is_found(root):
    names = {f"b{k}": found for k, found in enumerate(FAULTS)}
    for name, found in names.items():
        put(root, "val", name, **FAULTS[found])
    (root / "val/images/b0.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for name in ("c1", "c2", "c3"):
        put(root, "val", name)
    result = check(root)
    assert dict(zip(result.findings["sample"], result.findings["check"], strict=True)) == names
    assert result.findings["severity"].tolist() == ["error"] * 2 + ["warning"] * 3 + ["info"]
    assert result.findings["suggestion"].all()
    told = checks.conclusion(result)
    assert told.startswith("not sound: 24 pairs, 2 errors (1 unreadable, 1 illegal-ids), 3 warnings (")
    assert refused("'b0'", checks.require_sound, result).check == "unreadable"


def test_faults_of_whole_splits(root):
    for k in range(10):
        put(root, "train", f"a{k}", mask=np.minimum(ids(k), 1) if k else ids(0))
        put(root, "val", f"b{k}", mask=np.minimum(ids(50 + k), 1))
        for side in ("images", "masks") if k > 3 else ():
            (root / "val" / side / f"b{k}.png").unlink()
    put(root, "val", "c0", mask=np.minimum(ids(54), 1))
    put(root, "val", "a7", image=picture(1)[:, :9], mask=ids(1)[:, :9] % 2)
    found = check(root).findings.set_index("check")["detail"]
    kinds = ["class-not-in-split", "few-images", "sequence-leakage", "sizes-differ", "small-split"]
    assert sorted(found.index) == kinds
    assert "person (1)" in found["few-images"]
    assert "never in val: person" in found["class-not-in-split"]
    assert "val has 6 images" in found["small-split"]
    assert "1 of 3 sequences of val are in train too: a; they hold 1 of its 6" in found["sequence-leakage"]
    assert "2 sizes (width x height): 16x12 (15), 9x12 (1)." in found["sizes-differ"]


def test_class_that_train_never_shows_and_split_without_scores(root):
    for k in range(10):
        put(root, "train", f"a{k}", mask=ids(k) % 2)
        put(root, "val", f"b{k}", mask=NOTHING)
    put(root, "val", "c0", mask=NOTHING)
    result = check(root)
    found = result.findings
    told = found.set_index("check").loc["class-not-in-train", "detail"]
    assert told == "never in train: person."
    for k in range(6):
        put(root, "train", f"a{k}", mask=np.where(ids(k) == 1, np.uint8(255), ids(k) // 2))
    told = check(root).findings.set_index("check").loc["class-not-in-train", "detail"]
    assert told.endswith("255, which is ignored: if it is person, write id_map: {0: 0, 1: 1, 255: 2}.")
    assert found.iloc[0][["severity", "check", "split"]].tolist() == ["error", "nothing-scored", "val"]
    (root / "dataset.yaml").write_text((root / "dataset.yaml").read_text().replace("val: {", "test: {"))
    assert "labels-withheld" in check(root).findings["check"].tolist()
    row = result.class_stats.query("split == 'train' and class_id == 2").iloc[0]
    assert row["regions"] == row["images"] == 0
    assert row[["regions_per_image", "median_region"]].isna().all()


def test_same_picture_twice(root):
    put(root, "train", "a1", image=picture(99))
    put(root, "val", "b5", image=picture(99))
    Image.fromarray(picture(98)).save(root / "train/images/a2.png")
    Image.fromarray(picture(98)).save(root / "train/images/a3.png", compress_level=0)  # other bytes
    result = check(root)
    found = result.findings.set_index("check")["detail"]
    assert "train/a1, val/b5" in found["near-duplicate-across-splits"]
    assert "train/a2, train/a3" in found["near-duplicate"]
    assert result.duplicates[["distance", "difference"]].to_numpy().tolist() == [[0, 0], [0, 0]]


def test_no_train_split_and_no_sample_at_all(tmp_path):
    (tmp_path / "dataset.yaml").write_text('classes: [a, b]\nsplits: {val: {images: "i/*", masks: "m/*"}}\n')
    result = check(tmp_path)
    assert result.findings["check"].tolist() == ["empty-split", "no-train"]
    assert result.pixel_counts.shape == (0, 2)
    checks.write(result, tmp_path / "out")


def test_written_files_read_back(root, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(root))
    (root / "val/images/b3.png").write_bytes(b"")
    result = check(root)
    folder = checks.write(result)
    assert folder == result.folder == root / "artifacts/data_check/tiny"
    findings = pd.read_csv(folder / "findings.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(findings, result.findings, check_dtype=False)
    samples = pd.read_csv(folder / "samples.csv")
    np.testing.assert_array_equal(samples[[f"pixels {name}" for name in NAMES]], result.pixel_counts)
    weights = pd.read_csv(folder / "class_weights.csv")
    for kind in ("sqrt_inverse", "median_frequency"):
        np.testing.assert_allclose(weights[kind], class_weights(result.pixel_counts[:10], kind), rtol=1e-6)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["findings"] == {"error": 1, "warning": 0, "info": 0}
    for split in ("train", "val"):
        listed = (folder / "suggested_split" / f"{split}.txt").read_text().split()
        assert listed == samples["id"][result.suggested == split].tolist()
    assert yaml.safe_load((folder / "exclude.yaml").read_text()) == {"exclude": ["b3"]}
    assert (summary["splits"], summary["conclusion"]) == ({"train": 10, "val": 10}, checks.conclusion(result))


def test_class_weights_by_hand():
    counts = np.array([[90, 10, 0, 0], [60, 20, 20, 0]])
    share = np.array([150 / 200, 30 / 200, 20 / 100])  # the third class is in the second image only
    found = {"sqrt_inverse": np.array([150, 30, 20]) ** -0.5, "median_frequency": 1 / share}
    for kind, expected in found.items():
        weights = class_weights(counts, kind)
        np.testing.assert_allclose(weights, [*(expected / expected.mean()), 1], rtol=1e-6)
        assert weights.dtype == np.float32
    np.testing.assert_array_equal(class_weights(np.zeros((2, 3)), "sqrt_inverse"), [1, 1, 1])


def test_cliffs_delta_matches_every_pair():
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 6, n).astype(float) for n in (30, 11))
    assert cliffs_delta(a, b) == pytest.approx(np.sign(b[None] - a[:, None]).mean())
    assert cliffs_delta([1, 2], [3, np.nan]) == 1
    assert np.isnan(cliffs_delta([np.nan], [1]))


def test_a_split_of_another_world_is_told(root):
    for k in range(10):
        put(root, "val", f"b{k}", image=picture(k) // 3, mask=np.minimum(ids(k), 1))
    put(root, "val", "c0", image=picture(70) // 3)
    result = check(root)
    shift = result.shift.set_index("name")
    assert shift.loc["brightness", ["delta", "effect"]].tolist() == [-1, "large"]
    assert shift.loc["person", "delta"] < -0.8
    assert "brightness (-1.00)" in result.findings.set_index("check").loc["split-shift", "detail"]


def photograph(seed, height=48, width=64):
    """A scene of blocks and its mask, both of the same outlines."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for value in (1, 2):
        y, x = random.integers(4, height - 28), random.integers(4, width - 34)
        mask[y : y + 20, x : x + 26] = value
    colors = np.array([[60, 90, 130], [150, 130, 110], [210, 190, 60]])
    return np.clip(colors[mask] + random.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8), mask


@pytest.fixture
def photographs(tmp_path):
    """30 train and 12 val pairs whose outlines fit."""
    for split, count, first in (("train", 30, 0), ("val", 12, 1000)):
        for k in range(count):
            put(tmp_path, split, f"{split}-{k:02d}x", *photograph(first + k))
    (tmp_path / "dataset.yaml").write_text(CONFIG)
    return tmp_path


def test_each_spoilt_pair_is_told_from_the_rest(photographs):
    names = {f"train-{3 * k:02d}x": found for k, found in enumerate(SPOILT)}
    for k, found in enumerate(SPOILT.values()):
        put(photographs, "train", f"train-{3 * k:02d}x", *found(*photograph(3 * k)))
    result = check(photographs)
    found = set(result.findings[["sample", "check"]].itertuples(index=False, name=None))
    assert {*names.items()} <= found, found
    assert {sample for sample, _ in found} <= {*names, ""}
    assert all(names[name].removesuffix("-image") in kinds for name, kinds in checks.apart(result).items())
    assert len({row["id"] for row in checks.examples(result, load_dataset(photographs), 6, seed=1)}) == 6
    suspects = {row["id"]: row["check"] for row in checks.suspect_masks(result, load_dataset(photographs))}
    assert suspects == {name: kinds for name, kinds in names.items() if kinds.startswith("mask-")}
    assert checks.split_comparison(result).xs("suggested", level="which")["images"].sum() == 42


def test_edge_shift_says_where_the_mask_belongs():
    image, mask = photograph(3, 96, 128)
    grey = Image.fromarray(image).convert("L")
    assert edge_shift(grey, mask) == (0, 0, 1.0)
    for dy, dx in ((6, 0), (-5, 8), (0, -9)):
        x, y, fit = edge_shift(grey, np.roll(mask, (dy, dx), (0, 1)))
        assert (x, y) == (-dx, -dy)
        assert fit < 0.65
    large = np.roll(mask.repeat(4, 0).repeat(4, 1), (24, -32), (0, 1))
    x, y, fit = edge_shift(grey.resize((512, 384), 0).reduce(reduction(large.shape)), large)
    assert (abs(x - 32) <= 4, abs(y + 24) <= 4, fit < 0.65) == (True, True, True)
    assert edge_shift(grey, np.zeros_like(mask)) is None  # no outline
    assert edge_shift(Image.new("L", (128, 96), 40), mask) is None  # no edge


def rewrite(root, *lines, masks=None, images=None, classes="[road, car, person]"):
    """Check with other lines in dataset.yaml, and every mask and image written again as a function of the old one."""
    text = re.sub("(?s).*(splits.*)", rf"classes: {classes}\n\1", (root / "dataset.yaml").read_text())
    (root / "dataset.yaml").write_text("\n".join([*lines, text]))
    for side, change in (("masks", masks), ("images", images)):
        for file in sorted(root.glob(f"*/{side}/*.png")) if change else ():
            Image.fromarray(change(np.array(Image.open(file)))).save(file)
    return check(root)


def numbered(mask):
    numbers = np.arange(16, dtype=np.uint8) // 2 + 1
    return np.tile(numbers * (numbers <= 3 + mask.sum() % 4), (H, 1))


def mixed(mask):
    return (mask > 0) * np.uint8(255 if mask[0, 0] else 1)


@pytest.mark.parametrize(
    ("found", "classes", "masks", "line"),
    [("all-255", "[road, car]", lambda m: (m > 0) * np.uint8(255), "id_map: {0: 0, 255: 1}"),
     ("all-255", "[road, car]", mixed, "id_map: {0: 0, 1: 1, 255: 1}"),
     ("one-class", "[road]", lambda m: m * 0, "background"),
     ("ids-from-1", "[road, car, person, sky]", lambda m: m + np.uint8(1), "id_map: {1: 0, 2: 1, 3: 2}"),
     ("ids-from-1", "[road, car, person, sky, tree]", lambda m: m + np.uint8(1), "id_map: {1: 0, 2: 1, 3: 2, 4: 3}"),
     ("instance-numbers", "[a, b, c, d, e, f, g]", numbered, "id_map"),
     ("soft-edges", "[a, b, c, d, e]", lambda m: SMOOTH, "nearest neighbour")],
)  # fmt: skip
def test_masks_that_were_misread_are_errors_with_the_line_to_write(root, found, classes, masks, line):
    findings = rewrite(root, masks=masks, classes=classes).findings
    errors = findings[findings["severity"] == "error"]
    assert errors["check"].tolist() == [found], findings[["check", "detail"]].to_string()
    if found == "instance-numbers":  # an id_map hides nothing
        same = f"id_map: {dict(zip(range(7), range(7), strict=True))}"
        assert found in rewrite(root, same, classes=classes).findings["check"].tolist()
        told = f"id_map: { {40 * k: k for k in range(7)} }"  # classes, stored far apart
        meant = rewrite(root, told, masks=lambda m: m * np.uint8(40), classes=classes)
        assert found not in meant.findings["check"].tolist()
    assert line in errors["suggestion"].iloc[0]
    if found in ("all-255", "ids-from-1"):  # the line that is named mends it
        mended = rewrite(root, line, classes=classes.replace(", sky", "")).findings
        assert "error" not in set(mended["severity"])


def test_palettes_that_change_places_are_an_error(root):
    first, *others = sorted(root.glob("*/masks/*.png"))
    mask = np.array(Image.open(first))
    for file in others:
        palette(np.array(Image.open(file)), [9, 9, 9, 200, 0, 0, 0, 200, 0]).save(file)
    palette(mask, [9, 9, 9, 0, 200, 0, 200, 0, 0]).save(first)
    assert check(root).findings["check"].tolist() == ["palettes-differ"]
    palette(np.uint8(mask == 2), [9, 9, 9, 0, 200, 0, 0, 0, 0]).save(first)  # made with the colours it needs
    assert check(root).findings["check"].tolist() == ["palettes-doubtful"]


@pytest.mark.parametrize("border", [0, 5])  # rows of 0, no data
def test_sixteen_bits_ask_for_a_range_and_tell_which_was_taken(root, border):
    def deep(image):
        image = image[..., 0].astype(np.uint16) * 2 + 5000
        image[:border] = 0
        return image

    findings = rewrite(root, images=deep).findings
    assert findings["check"].tolist() == ["range"]
    line = findings["suggestion"].iloc[0].split(" into ")[0].removeprefix("Write ")
    low, high = json.loads(line.removeprefix("range: "))
    assert 5000 <= low < 5010 < 5500 < high <= 5510
    assert rewrite(root, line).findings[["severity", "check"]].values.tolist() == [["info", "range-taken"]]
    wide = rewrite(root, "range: [0, 65535]").findings.set_index("check")
    assert "are 2 grey levels" in wide.loc["range-too-wide", "detail"]
    narrow = rewrite(root, "range: [5000, 5150]").findings
    assert narrow["check"].tolist() == ["range-too-narrow"]
    Image.fromarray(picture(3)).save(root / "train/images/a1.png")
    found = rewrite(root, line).findings
    assert found.loc[found["severity"] == "warning", "check"].tolist() == ["depths-differ"]


def test_orientation_is_asked_for_where_sizes_do_not_tell(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    for file in root.glob("*/images/*.png"):
        Image.open(file).save(file, exif=exif)
    assert check(root).findings[["severity", "check"]].values.tolist() == [["error", "exif-orientation"]]
    pixels = {}
    for rule in ("true", "false"):
        assert rewrite(root, f"exif: {rule}").findings["check"].tolist() == ["exif-turned"]
        dataset = load_dataset(root)
        pixels[rule] = read_pair(dataset, dataset.samples.iloc[0])[0]
    np.testing.assert_array_equal(pixels["true"], pixels["false"][::-1, ::-1])


def test_what_is_not_read_is_told(root):
    put(root, "train", "a1", image=np.dstack([picture(1), picture(1)[..., 0]]))
    (root / "val/masks/b1.png").unlink()
    tifffile.imwrite(root / "val/masks/b1.tif", ids(8), photometric="miniswhite")
    found = check(root).findings.set_index("check")
    assert found["severity"].to_dict() == {"alpha-dropped": "info", "white-is-zero-in-some": "warning"}


def test_copies_in_other_light_share_a_mask_rightly_and_copies_with_another_mask_are_told(photographs):
    image, mask = photograph(7)
    for k, other in enumerate((image // 2, 255 - image // 3, image[..., ::-1])):
        put(photographs, "train", f"train-{k:02d}x", other, mask)
    put(photographs, "train", "train-20x", image, np.roll(mask, 30, 1))
    found = check(photographs).findings
    assert "mask-of-another-image" not in set(found["check"])
    differ = found[found["check"] == "duplicate-masks-differ"]
    assert differ["severity"].tolist() == ["warning"]
    assert "train-20x" in differ["detail"].iloc[0]
    put(photographs, "train", "train-21x", photograph(21)[0], photograph(22)[1])
    assert "mask-of-another-image" in set(check(photographs).findings["check"])


def test_masks_that_nearly_all_lie_beside_edges_are_no_warnings(photographs):
    for k in range(8):
        image, mask = photograph(k)
        put(photographs, "train", f"train-{k:02d}x", image, np.roll(mask, (4, -5), (0, 1)))
    found = check(photographs).findings
    assert "mask-beside-edges" not in set(found["check"])
    assert "8 of 42 masks" in found.set_index("check").loc["edges-elsewhere", "detail"]


def test_masks_of_the_next_images_are_told_of_a_whole_split_but_not_where_a_camera_stands_still(photographs):
    def told(pair, count=30):
        for k in range(count):
            put(photographs, "train", f"train-{k:02d}x", *pair(k))
        found = check(photographs).findings
        return found.loc[found["check"] == "masks-mixed-up", "split"].tolist()

    image, mask = photograph(3)
    noise = np.random.default_rng(0).integers(0, 9, (30, *image.shape), np.uint8)
    assert told(photograph) == []
    assert told(lambda k: (photograph(k)[0], photograph(k + 1)[1]), 28) == ["train"]
    assert told(lambda k: (image + noise[k], mask)) == []
