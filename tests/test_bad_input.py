"""Bad datasets, one by one: each error names the file, what was expected and the suggestion, before any training."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seglib.checks import check_dataset, require_sound
from seglib.data import DatasetError, load_dataset, make_broken, planted

RNG = np.random.default_rng(0)
GOOD = """\
classes: [road, car, person]
splits:
  train: {images: "train/images/*", masks: "train/masks/*"}
  val: {images: "val/images/*", masks: "val/masks/*"}
"""


def noise(path, *shape, most=256):
    Image.fromarray(RNG.integers(0, most, shape, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for side, shape, most in (("images", (6, 8, 3), 256), ("masks", (6, 8), 3)):
            (tmp_path / split / side).mkdir(parents=True)
            for k in range(4):
                noise(tmp_path / f"{split}/{side}/s{k}.png", *shape, most=most)
    (tmp_path / "dataset.yaml").write_text(GOOD)
    return tmp_path


def refused(root, check, *told):
    """The way that the notebooks go: load, check, stop."""
    with pytest.raises(DatasetError) as error:
        require_sound(check_dataset(load_dataset(root)))
    text = str(error.value)
    assert error.value.check == check, text
    for part in told:
        assert part in text
    assert re.search(r"[.?]$", text), text
    assert len(text) < 900


def test_the_good_one_passes(root):
    require_sound(check_dataset(load_dataset(root)))


def bomb(path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def gone(root, *names):
    for name in names:
        (root / name).unlink()


def half_a_jpeg(root):
    gone(root, "train/images/s2.png")
    noise(root / "train/images/s2.jpg", 64, 64, 3)
    data = (root / "train/images/s2.jpg").read_bytes()
    (root / "train/images/s2.jpg").write_bytes(data[: len(data) // 2])


def jpeg_mask(root):
    gone(root, "train/masks/s0.png")
    noise(root / "train/masks/s0.jpg", 6, 8)


def two_ids(root):
    for side, shape in (("images", (6, 8, 3)), ("masks", (6, 8))):
        (root / "train" / side / "a").mkdir()
        for name in ("a/s0", "train-s0"):
            noise(root / f"train/{side}/{name}.png", *shape, most=2)
    (root / "dataset.yaml").write_text(GOOD.replace("/*", "/**/*"))


def empty_val(root):
    gone(root, *(path.relative_to(root) for path in (root / "val").rglob("*.png")))


@pytest.mark.parametrize(
    ("spoil", "check", "told"),
    [
        (lambda r: gone(r, "dataset.yaml"), "no-config", ["dataset.yaml", "`seglib init "]),
        (empty_val, "empty-split", ["'val' has no files", "val/images/*", "correct the globs"]),
        (lambda r: gone(r, "train/masks/s0.png", "train/masks/s2.png", "val/masks/s1.png"), "missing-mask",
         ["no mask for image 'train-s0'", "train/masks/s0", "2 such in train (train-s0, train-s2)", "exclude in dataset.yaml"]),
        (lambda r: gone(r, "val/images/s1.png"), "missing-image",
         ["no image for mask 'val-s1'", "val/masks/s1.png: expected val/images/s1", "Add it"]),
        (half_a_jpeg, "unreadable", ["'train-s2' (train/images/s2.jpg) cannot be read", "truncated", "Copy it again"]),
        (lambda r: bomb(r / "val/images/s0.png"), "too-large", ["'val-s0' (val/images/s0.png)", "3600000000 pixels"]),
        (lambda r: (r / "val/images/clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42"), "not-an-image",
         ["val/images/clip.mp4", "expected .png", "Move it out of the folder"]),
        (lambda r: noise(r / "val/images/s1.jpg", 6, 8, 3), "duplicate-stem",
         ["'val-s1'", "val/images/s1.jpg, val/images/s1.png", "Rename or remove"]),
        (lambda r: noise(r / "train/masks/s0.png", 6, 9, most=3), "size-mismatch",
         ["mask 'train-s0' (train/masks/s0.png) is 9x6", "its image is 8x6", "nearest neighbour"]),
        (lambda r: noise(r / "train/masks/s0.png", 8, 6, most=3), "size-mismatch", ["the other turned"]),
        (lambda r: Image.fromarray(np.full((6, 8), 12, np.uint8)).save(r / "train/masks/s0.png"), "illegal-ids",
         ["'train-s0' (train/masks/s0.png) holds ids {12}", "3 classes (0-2)", "Correct the mask"]),
        (jpeg_mask, "illegal-ids", ["train/masks/s0.jpg", "export masks as PNG"]),
        (lambda r: noise(r / "train/masks/s0.png", 6, 8, 3), "rgb-mask", ["is an RGB image", "id_map", "under colors"]),
        (two_ids, "duplicate-id", ["same sample id", "Rename"]),
        (lambda r: (r / "dataset.yaml").write_bytes(GOOD.replace("car", "stra\xdfe").encode("latin-1")), "config",
         ["not UTF-8", "Save it as UTF-8"]),
    ],
)  # fmt: skip
def test_bad_files(root, spoil, check, told):
    spoil(root)
    refused(root, check, *told)


@pytest.mark.parametrize("side", ["images", "masks"])
@pytest.mark.parametrize("fault", ["truncated", "text", "garbage", "empty"])
def test_unreadable_files(root, side, fault):
    path = root / f"train/{side}/s2.png"
    data = path.read_bytes()
    broken = {
        "truncated": data[:-30],
        "text": b"hello",
        "garbage": data[:40] + bytes(40) + data[80:],
        "empty": b"",
    }
    path.write_bytes(broken[fault])
    refused(
        root,
        "empty-file" if fault == "empty" else "unreadable",
        f"'train-s2' (train/{side}/s2.png)",
        "exclude",
    )


def test_no_such_folder_and_files_that_vanish(root, tmp_path):
    refused(root / "nowhere", "no-folder", "nowhere is not there", "expected a folder", "Check the path")
    dataset = load_dataset(root)
    (root / "train/images/s2.png").unlink()
    with pytest.raises(DatasetError, match=r"'train-s2' .train/images/s2.png. is gone"):
        require_sound(check_dataset(dataset))


@pytest.mark.slow
def test_every_fault_of_the_broken_demo_is_found_and_no_other_error(tmp_path):
    folder = make_broken(tmp_path / "broken")
    found = check_dataset(load_dataset(folder, strict=False)).findings
    wanted = {tuple(row) for row in planted(folder)[["kind", "sample", "split"]].to_numpy()}
    errors = found[found["severity"] == "error"]
    tables = [
        {tuple(row) for row in table[["check", "sample", "split"]].to_numpy()} for table in (errors, found)
    ]
    assert tables[0] <= wanted <= tables[1]


@pytest.mark.parametrize(
    ("change", "check", "told"),
    [
        (("[road, car, person]", "[]"), "classes", "0 classes"),
        (("[road, car, person]", str([f"c{k}" for k in range(256)])), "classes", "at most 255"),
        (("[road, car, person]", "[road, car, road]"), "classes", "['road']"),
        (("[road, car, person]", "[road, no, 3]"), "config", "classes.1 = False"),
        (("classes:", "clases:"), "config", "unknown key 'clases' (did you mean 'classes'?)"),
        (
            ('images: "val', 'image: "val'),
            "config",
            "unknown key 'image' in splits.val (did you mean 'images'?)",
        ),
        (("splits:", "colors: [[1, 2, 3]]\nsplits:"), "classes", "colors must be 3 triples"),
        (("splits:", "colors: [[1, 2, 300], [1, 2], [1, 2, 3]]\nsplits:"), "config", "colors.0.2 = 300"),
        (("splits:", "id_map: {0: 3}\nsplits:"), "classes", "id_map leads to ids [3]"),
        (("splits:", "exclude: [0042]\nsplits:"), "config", "quote it"),
        (("splits:", "group: '(?P<g>.+)'\nsplits:"), "config", "(?P<group>...)"),
        (("splits:", "group: '(?P<group>.+'\nsplits:"), "config", "not a regular expression"),
        (("splits:", "name: a/b\nsplits:"), "config", "not a path"),
        (("  val:", "  ../val:"), "config", "split name '../val'"),
        (('"val/images/*"', '"/data/*"'), "config", "relative to the dataset's folder"),
        (('"val/images/*"', '"C:\\\\data\\\\*"'), "config", "relative to the dataset's folder"),
        (('"val/images/*"', '"../../data/*"'), "config", "one '../' for a sibling"),
        (('"val/images/*"', '"val/../../x/*"'), "config", "one '../' for a sibling"),
        (('"val/images/*"', '"val/masks/*"'), "config", "images and masks are the same files"),
        (("  val:", "  train:"), "config", "'train' stands twice"),
        (("  val:", "  Train:"), "config", "differ in case alone"),
        (("person]", "person"), "config", "not valid YAML at line"),
        ((GOOD, ""), "config", "is empty"),
        ((GOOD, "- a\n"), "config", "no mapping"),
    ],
)
def test_faulty_dataset_yaml(root, change, check, told):
    (root / "dataset.yaml").write_text(GOOD.replace(*change, 1))
    refused(root, check, "dataset.yaml", told)
