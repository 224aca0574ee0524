"""Digests of files: edits are noticed by content and told plainly."""

import hashlib
import os

from seglib.data import check_record, compare_digests, digests, load_dataset
from seglib.data.fingerprint import CLASSES_FILE


def test_digests_are_of_the_bytes_and_of_the_classes(tiny_root):
    dataset = load_dataset("data/tiny")
    before = digests(dataset, "val")
    assert sorted({*before} - {CLASSES_FILE}) == sorted(
        [*dataset.split("val")["image"], *dataset.split("val")["mask"]]
    )
    path = dataset.root / "val/masks/v1.png"
    stat, data = path.stat(), path.read_bytes()
    assert before["val/masks/v1.png"] == hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # an edit that keeps size and time
    assert compare_digests(before, digests(dataset, "val")) == "1 file changed (val/masks/v1.png)"
    path.unlink()
    assert digests(dataset, "val")["val/masks/v1.png"] == ""
    path.write_bytes(data)
    config = dataset.root / "dataset.yaml"
    config.write_text(config.read_text() + "ignore_ids: [255, 7]\n")
    now = digests(load_dataset("data/tiny"), "val")
    assert compare_digests(before, now) == f"1 file changed ({CLASSES_FILE})"


def test_changes_in_words():
    before = {"a": "1", "b": "1", "c": "1", "d": "1", "kept": "1", "lost": "1"}
    now = {"a": "2", "b": "2", "c": "2", "d": "2", "new": "1"}
    told = "4 files changed (a, b, c, ...), 1 file added (new), 2 files gone (kept, lost)"
    assert compare_digests(before, now) == told
    assert compare_digests(now, now) == ""


def test_the_record_holds_every_split(tiny_root):
    record = check_record(load_dataset("data/tiny"))
    assert list(record) == ["train", "val", "test"]
    assert record["val"] == digests(load_dataset("data/tiny"), "val")
