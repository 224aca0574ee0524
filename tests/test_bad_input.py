"""Bad datasets, one by one: each error names the file, what was expected and the suggestion, before any training."""

import struct

import numpy as np
import pytest
from conftest import RNG, save
from PIL import Image

from seglib.checks import check_dataset, require_sound
from seglib.data import DatasetError, load_dataset

GOOD = """\
classes: [road, car, person]
splits:
  train: {images: "train/images/*", masks: "train/masks/*"}
  val: {images: "val/images/*", masks: "val/masks/*"}
"""


def noise(path, *shape, most=256):
    save(path, RNG.integers(0, most, shape, np.uint8))


@pytest.fixture
def root(tmp_path):
    for name in (f"{split}/{{}}/s{k}.png" for split in ("train", "val") for k in range(4)):
        noise(tmp_path / name.format("images"), 6, 8, 3)
        noise(tmp_path / name.format("masks"), 6, 8, most=3)
    (tmp_path / "dataset.yaml").write_text(GOOD)
    return tmp_path


def refused(root, check, *told):
    """The way that the notebooks go: load, check, stop."""
    with pytest.raises(DatasetError) as error:
        require_sound(check_dataset(load_dataset(root)))
    text = str(error.value)
    assert error.value.check == check, text
    assert all(part in text for part in told), text
    assert text[-1] in ".?"
    assert len(text) < 900


def bomb(path):
    Image.new("L", (1, 1)).save(path, "BMP")
    content = path.read_bytes()
    path.write_bytes(content[:18] + struct.pack("<II", 60000, 60000) + content[26:])


def gone(root, *globs):
    for path in [path for glob in globs for path in root.glob(glob)]:
        path.unlink()


def cut(path, keep=-30):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("spoil", "check", "told"),
    [(lambda r: r.rename(r.with_name("moved")), "no-folder", ["is not there", "expected a folder", "Check the path"]),
     (lambda r: gone(r, "dataset.yaml"), "no-config", ["dataset.yaml", "`seglib init "]),
     (lambda r: gone(r, "val/*/*"), "empty-split", ["'val' has no files", "val/images/*", "correct the globs"]),
     (lambda r: (r / "dataset.yaml").write_text(GOOD.replace("val/images/*", "val/images/*.{png,jpg}")), "config",
      ["splits.val.images = 'val/images/*.{png,jpg}': braces are no wildcards"]),
     (lambda r: gone(r, "train/masks/s0.png", "train/masks/s2.png", "val/masks/s1.png"), "missing-mask",
      ["no mask for image 'train-s0'", "train/masks/s0", "2 such in train (train-s0, train-s2)", "exclude in dataset.yaml"]),
     (lambda r: noise(r / "val/images/s1_mask_1.png", 6, 8, most=3), "missing-mask", ["has several masks, move all"]),
     (lambda r: gone(r, "val/images/s1.png"), "missing-image",
      ["no image for mask 'val-s1'", "val/masks/s1.png: expected val/images/s1", "Add it"]),
     (lambda r: cut(r / "train/images/s2.png"), "unreadable", ["'train-s2' (train/images/s2.png)", "truncated", "Copy it again"]),
     (lambda r: cut(r / "train/masks/s2.png", 0), "empty-file", ["'train-s2' (train/masks/s2.png)", "exclude"]),
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
     (lambda r: gone(r, "train/masks/s0.png") or noise(r / "train/masks/s0.jpg", 6, 8), "illegal-ids", ["train/masks/s0.jpg", "export masks as PNG"]),
     (lambda r: noise(r / "train/masks/s0.png", 6, 8, 3), "rgb-mask", ["is an RGB image", "id_map", "under colors"]),
     (lambda r: (r / "dataset.yaml").write_bytes(GOOD.replace("car", "stra\xdfe").encode("latin-1")), "config",
      ["not UTF-8", "Save it as UTF-8"])],
)  # fmt: skip
def test_bad_files(root, spoil, check, told):
    require_sound(check_dataset(load_dataset(root)))
    spoil(root)
    refused(root, check, *told)


@pytest.mark.parametrize(
    ("change", "check", "told"),
    [(("[road, car, person]", "[]"), "classes", "0 classes: expected 1 and at most 255"),
     (("[road, car, person]", "[a, b, a]"), "classes", "['a'] stand more than once"),
     (("[road, car, person]", "[a, id]"), "classes", "named 'id', as the column of ids in tables. Choose another"),
     (("splits:", "colors: [[0, 0, 0]]\nsplits:"), "classes", "3 triples of 0-255, one a class; got (1, 3)"),
     (("[road, car, person]", "[road, no, 3]"), "config", "classes.1 = False"),
     (("classes:", "clases:"), "config", "unknown key 'clases' (did you mean 'classes'?)"),
     (('images: "val', 'image: "val'), "config", "unknown key 'image' in splits.val (did you mean 'images'?)"),
     (("splits:", "colors: [[1, 2, 300], [1, 2], [1, 2, 3]]\nsplits:"), "config", "colors.0.2 = 300"),
     (("splits:", "id_map: {0: 3}\nsplits:"), "classes", "id_map leads to ids [3]"),
     (("splits:", "exclude: [0042]\nsplits:"), "config", "quote it"),
     (("splits:", "group: '(?P<g>.+)'\nsplits:"), "config", "(?P<group>...)"),
     (("  val:", "  ../val:"), "config", "split name '../val'"),
     (('"val/images/*"', '"/data/*"'), "config", "relative to the dataset's folder"),
     (('"val/images/*"', '"val/../../x/*"'), "config", "one '../' for a sibling"),
     (('"val/images/*"', '"val/masks/*"'), "config", "images and masks are the same files"),
     (("  val:", "  train:"), "config", "'train' stands twice"),
     (("person]", "person"), "config", "not valid YAML at line"),
     ((GOOD, ""), "config", "holds None; expected keys such as classes"),
     ((GOOD, "classes: [a]\nsplits: {train: {ids: [x]}}\n"), "config", "ids alone find no files")],
)  # fmt: skip
def test_faulty_dataset_yaml(root, change, check, told):
    (root / "dataset.yaml").write_text(GOOD.replace(*change, 1))
    refused(root, check, "dataset.yaml", told)
