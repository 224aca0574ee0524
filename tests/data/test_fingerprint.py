"""Digests of files: edits are noticed by content and told plainly."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from seglib.data import check_record, compare_digests, digests, load_dataset, read_record
from seglib.data.fingerprint import CLASSES_FILE
from seglib.runs import write_json


def tiny():
    return load_dataset("data/tiny")


def test_digests_are_those_of_the_bytes(tiny_root):
    dataset = tiny()
    found = digests(dataset, "val")
    own = {name: digest for name, digest in found.items() if name != CLASSES_FILE}
    assert sorted(own) == sorted([*dataset.split("val")["image"], *dataset.split("val")["mask"]])
    for path, digest in own.items():
        assert digest == hashlib.sha256((dataset.root / path).read_bytes()).hexdigest()[:16]
    (dataset.root / "val/masks/v1.png").unlink()
    assert digests(dataset, "val")["val/masks/v1.png"] == ""


def test_an_edit_that_keeps_size_and_time_is_noticed(tiny_root):
    path, before = tiny_root / "data/tiny/val/masks/v1.png", digests(tiny(), "val")
    stat = path.stat()
    with Image.open(path) as picture:
        pixels = np.array(picture)
    Image.fromarray(255 - pixels).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert compare_digests(before, digests(tiny(), "val")) == "1 file changed (val/masks/v1.png)"


def test_classes_count_as_content(tiny_root):
    before = digests(tiny(), "val")
    config = tiny_root / "data/tiny/dataset.yaml"
    config.write_text(config.read_text() + "ignore_ids: [255, 7]\n")
    assert compare_digests(before, digests(tiny(), "val")) == f"1 file changed ({CLASSES_FILE})"


def test_changes_in_words():
    before = {"a": "1", "b": "1", "c": "1", "d": "1", "kept": "1", "lost": "1"}
    now = {"a": "2", "b": "2", "c": "2", "d": "2", "new": "1"}
    told = "4 files changed (a, b, c, ...), 1 file added (new), 2 files gone (kept, lost)"
    assert compare_digests(before, now) == told
    assert compare_digests(now, now) == ""


@pytest.mark.parametrize("text", ["", "[]", '{"val": 3}', "\xff"])
def test_records_are_read_back_or_empty(tiny_root, tmp_path, text):
    path = tmp_path / "data.json"
    assert read_record(path) == {}
    record = check_record(tiny())
    assert list(record) == ["train", "val", "test"]
    write_json(path, record)
    assert read_record(path) == record
    path.write_text(text)
    assert read_record(path) == {}
