"""Bad datasets, one by one: each error names the file, what was expected and the suggestion, and comes before any training."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seglib.checks.check import check_dataset, require_sound
from seglib.data.dataset import DatasetError, load_dataset
from seglib.data.demo import make_demo, planted

RNG = np.random.default_rng(0)
GOOD = """\
classes: [road, car, person]
splits:
  train: {images: "train/images/*", masks: "train/masks/*"}
  val: {images: "val/images/*", masks: "val/masks/*"}
"""


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for side in ("images", "masks"):
            (tmp_path / split / side).mkdir(parents=True)
        for k in range(4):
            Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).save(
                tmp_path / f"{split}/images/s{k}.png"
            )
            Image.fromarray(RNG.integers(0, 3, (6, 8), np.uint8)).save(tmp_path / f"{split}/masks/s{k}.png")
    (tmp_path / "dataset.yaml").write_text(GOOD)
    return tmp_path


def refused(root, check, *told):
    """The way that the notebooks go: load, check, stop. Returns the error's text."""
    with pytest.raises(DatasetError) as error:
        require_sound(check_dataset(load_dataset(root)))
    text = str(error.value)
    assert error.value.check == check, text
    for part in told:
        assert part in text
    assert re.search(r"[.?]$", text), text
    return text


def test_the_good_one_passes(root):
    require_sound(check_dataset(load_dataset(root)))


# ---- folders and files


def test_no_such_folder(tmp_path):
    refused(tmp_path / "nowhere", "no-folder", "nowhere is not there", "expected a folder", "Check the path")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "no-folder", "is a file")


def test_no_dataset_yaml(root):
    (root / "dataset.yaml").unlink()
    refused(root, "no-config", "dataset.yaml", f"`seglib init {root}`")


def test_empty_split(root):
    for path in (root / "val").rglob("*.png"):
        path.unlink()
    refused(root, "empty-split", "'val' has no files", "val/images/*", "correct the globs")


def test_image_without_mask(root):
    for k in (0, 2):
        (root / f"train/masks/s{k}.png").unlink()
    for k in (1, 3):
        (root / f"val/masks/s{k}.png").unlink()
    text = refused(
        root,
        "missing-mask",
        "no mask for image 'train-s0'",
        "train/masks/s0",
        "2 such in train (train-s0, train-s2)",
    )
    assert "2 such in val (val-s1, val-s3)" in text
    assert "exclude in dataset.yaml" in text


def test_mask_without_image(root):
    (root / "val/images/s1.png").unlink()
    refused(
        root,
        "missing-image",
        "no image for mask 'val-s1'",
        "val/masks/s1.png: expected val/images/s1",
        "Add it",
    )


@pytest.mark.parametrize("side", ["images", "masks"])
@pytest.mark.parametrize("fault", ["truncated", "text", "garbage", "empty", "gone"])
def test_unreadable_files(root, side, fault):
    path = root / f"train/{side}/s2.png"
    data = path.read_bytes()
    broken = {
        "truncated": data[:-30],
        "text": b"hello",
        "garbage": data[:40] + bytes(40) + data[80:],
        "empty": b"",
    }
    if fault != "gone":
        path.write_bytes(broken[fault])
        check = "empty-file" if fault == "empty" else "unreadable"
        refused(root, check, f"'train-s2' (train/{side}/s2.png)", "exclude")
    else:
        dataset = load_dataset(root)
        path.unlink()
        with pytest.raises(DatasetError, match=f"'train-s2' .train/{side}/s2.png. is gone"):
            require_sound(check_dataset(dataset))


def test_truncated_jpeg(root):
    (root / "train/images/s2.png").unlink()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(root / "train/images/s2.jpg")
    data = (root / "train/images/s2.jpg").read_bytes()
    (root / "train/images/s2.jpg").write_bytes(data[: len(data) // 2])
    refused(
        root, "unreadable", "'train-s2' (train/images/s2.jpg) cannot be read", "truncated", "Copy it again"
    )


def test_decompression_bomb(root):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    (root / "val/images/s0.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    refused(root, "too-large", "'val-s0' (val/images/s0.png)", "3600000000 pixels", "tiles")


@pytest.mark.parametrize(
    ("name", "data"), [("clip.mp4", b"\0\0\0\x18ftypmp42"), ("notes.txt", b"x"), ("README", b"x")]
)
def test_video_or_text_among_the_images(root, name, data):
    (root / "val/images" / name).write_bytes(data)
    if "." in name:
        refused(root, "not-an-image", f"val/images/{name}", "expected .png", "Move it out of the folder")
    else:  # no ending, so no glob matches it
        assert load_dataset(root).problems["check"].tolist() == ["unused-file"]
    (root / "dataset.yaml").write_text(GOOD.replace('images/*"', 'images/*.png"'))
    assert load_dataset(root).problems["severity"].tolist() == ["warning"]


def test_duplicate_stems(root):
    Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).save(root / "val/images/s1.jpg")
    refused(root, "duplicate-stem", "'val-s1'", "val/images/s1.jpg, val/images/s1.png", "Rename or remove")


def test_stems_that_differ_by_case_alone(root):
    Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).save(root / "val/images/S1.png")
    if len(list((root / "val/images").iterdir())) == 4:
        pytest.skip("this file system keeps one of the two")
    refused(root, "duplicate-stem", "val/images/S1.png, val/images/s1.png")


# ---- what masks hold


def test_mask_of_another_size(root):
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(root / "train/masks/s0.png")
    refused(
        root,
        "size-mismatch",
        "mask 'train-s0' (train/masks/s0.png) is 9x6",
        "its image is 8x6",
        "nearest neighbour",
    )
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(root / "train/masks/s0.png")
    refused(root, "size-mismatch", "the other turned")


def test_ids_outside_the_classes(root):
    Image.fromarray(np.array([[0, 12, 14]], np.uint8).repeat(6, 0)).save(root / "train/masks/s0.png")
    refused(
        root,
        "illegal-ids",
        "'train-s0' (train/masks/s0.png) holds ids {12, 14}",
        "3 classes (0-2)",
        "Correct the mask",
    )


def test_jpeg_mask(root):
    (root / "train/masks/s0.png").unlink()
    Image.fromarray(RNG.integers(0, 256, (6, 8), np.uint8)).save(root / "train/masks/s0.jpg")
    refused(root, "illegal-ids", "train/masks/s0.jpg", "export masks as PNG")


def test_rgb_mask_without_id_map(root):
    Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).save(root / "train/masks/s0.png")
    refused(root, "rgb-mask", "'train-s0' (train/masks/s0.png) is an RGB image", "id_map", "under colors")


def test_rgb_mask_of_other_colours(root):
    (root / "dataset.yaml").write_text(GOOD + "colors: [[1, 1, 1], [2, 2, 2], [3, 3, 3]]\n")
    for split in ("train", "val"):
        for k in range(4):
            Image.fromarray(np.full((6, 8, 3), 1 + k % 3, np.uint8)).save(root / f"{split}/masks/s{k}.png")
    Image.fromarray(np.full((6, 8, 3), (9, 8, 7), np.uint8)).save(root / "train/masks/s0.png")
    refused(root, "rgb-mask", "#090807", "id_map or colors")


# ---- the demo's broken twin


@pytest.mark.slow
def test_every_planted_fault_of_the_broken_demo_is_found(tmp_path):
    folder = make_demo(tmp_path / "broken", broken=True)
    found = check_dataset(load_dataset(folder, strict=False)).findings
    wanted = {tuple(row) for row in planted(folder)[["kind", "sample", "split"]].to_numpy()}
    assert wanted <= {tuple(row) for row in found[["check", "sample", "split"]].to_numpy()}
    errors = found[found["severity"] == "error"]
    assert {tuple(row) for row in errors[["check", "sample", "split"]].to_numpy()} <= wanted


# ---- dataset.yaml


@pytest.mark.parametrize(
    ("change", "check", "told"),
    [
        (("[road, car, person]", "[]"), "classes", ["0 classes", "name at least"]),
        (
            ("[road, car, person]", str([f"c{k}" for k in range(256)])),
            "classes",
            ["256 classes", "at most 255"],
        ),
        (("[road, car, person]", "[road, car, road]"), "classes", ["['road']"]),
        (
            ("[road, car, person]", "[road, no, 3]"),
            "config",
            ["classes.1 = False", "classes.2 = 3", "quote it"],
        ),
        (
            ("classes:", "clases:"),
            "config",
            ["unknown key 'clases' (did you mean 'classes'?)", "no key 'classes'"],
        ),
        (
            ('images: "val', 'image: "val'),
            "config",
            ["unknown key 'image' in splits.val (did you mean 'images'?)"],
        ),
        (("splits:", "colors: [[1, 2, 3]]\nsplits:"), "classes", ["colors must be 3 triples"]),
        (
            ("splits:", "colors: [[1, 2, 300], [1, 2], [1, 2, 3]]\nsplits:"),
            "config",
            ["colors.0.2 = 300", "colors.1"],
        ),
        (("splits:", "id_map: {0: 3}\nsplits:"), "classes", ["id_map leads to ids [3]"]),
        (("splits:", "id_map: {a: 0}\nsplits:"), "config", ["id_map.a"]),
        (("splits:", "exclude: [0042]\nsplits:"), "config", ["exclude.0", "quote it"]),
        (("splits:", "group: '(?P<g>.+)'\nsplits:"), "config", ["group = ", "(?P<group>...)"]),
        (("splits:", "group: '(?P<group>.+'\nsplits:"), "config", ["not a regular expression"]),
        (("splits:", "name: a/b\nsplits:"), "config", ["name = 'a/b'", "not a path"]),
        (("  val:", "  ../val:"), "config", ["split name '../val'"]),
        (
            ('"val/images/*"', '"/data/*"'),
            "config",
            ["splits.val.images = '/data/*'", "relative to the dataset's folder"],
        ),
        (
            ('"val/images/*"', '"C:\\\\data\\\\*"'),
            "config",
            ["splits.val.images", "relative to the dataset's folder"],
        ),
        (('"val/images/*"', '"../../data/*"'), "config", ["one '../' for a sibling"]),
        (('"val/images/*"', '"val/../../x/*"'), "config", ["one '../' for a sibling"]),
        (
            ('"val/images/*"', '"val/masks/*"'),
            "config",
            ["splits.val", "images and masks are the same files"],
        ),
        (('"val/images/*"', '"val/images/[b-a]*"'), "config", ["'val/images/[b-a]*'"]),
        (("  val:", "  train:"), "config", ["line 4", "'train' stands twice"]),
        (("person]", "person"), "config", ["not valid YAML at line"]),
        (("classes", "\tclasses"), "config", ["not valid YAML at line 1"]),
        ((GOOD, ""), "config", ["is empty", "classes and splits"]),
        ((GOOD, "- a\n"), "config", ["no mapping"]),
    ],
)
def test_faulty_dataset_yaml(root, change, check, told):
    assert change[0] in GOOD
    (root / "dataset.yaml").write_text(GOOD.replace(*change, 1))
    text = refused(root, check, "dataset.yaml", *told)
    assert len(text) < 700


def test_dataset_yaml_in_another_encoding(root):
    (root / "dataset.yaml").write_bytes(GOOD.replace("car", "stra\xdfe").encode("latin-1"))
    refused(root, "config", "not UTF-8", "Save it as UTF-8")


def test_one_class_is_allowed_with_a_warning(root):
    (root / "dataset.yaml").write_text(GOOD.replace("[road, car, person]", "[road]") + "ignore_ids: [1, 2]\n")
    dataset = load_dataset(root)
    assert dataset.problems["check"].tolist() == ["one-class"]
    require_sound(check_dataset(dataset))


def test_two_names_that_would_be_one_id(root):
    for side in ("images", "masks"):
        (root / "train" / side / "a").mkdir()
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(root / f"train/{side}/a/s0.png")
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(root / f"train/{side}/train-s0.png")
    (root / "dataset.yaml").write_text(GOOD.replace("/*", "/**/*"))
    refused(root, "duplicate-id", "same sample id", "Rename")
