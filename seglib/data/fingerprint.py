"""Digests of a dataset's files: whether they are still those that were checked, trained on or scored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seglib.data.classes import some
from seglib.data.dataset import Dataset

CLASSES_FILE = "dataset.yaml (classes)"  # stands among the files for how their values become class ids


def digests(dataset: Dataset, split: str) -> dict[str, str]:
    """Map each path of one split, and `CLASSES_FILE`, to 16 hexadecimal digits of its SHA-256 ("" if unreadable)."""
    samples = dataset.split(split)
    paths = list(dict.fromkeys([*samples["image"], *samples["mask"]]))
    classes = json.dumps(dataset.classes.to_dict(), sort_keys=True).encode()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(_digest, (dataset.root / path for path in paths))
        own = {CLASSES_FILE: hashlib.sha256(classes).hexdigest()[:16]}
        return own | dict(zip(paths, found, strict=True))


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def compare_digests(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Put into words what became of the files: "2 files changed (a.png, b.png), 1 file gone (c.png)"; "" if nothing."""
    changed = [path for path in now if path in before and before[path] != now[path]]
    added, gone = ([path for path in a if path not in b] for a, b in ((now, before), (before, now)))
    told = []
    for kind, paths in (("changed", changed), ("added", added), ("gone", gone)):
        told += [f"{len(paths)} file{'s' * (len(paths) > 1)} {kind} ({some(paths)})"] if paths else []
    return ", ".join(told)


def check_record(dataset: Dataset) -> dict[str, dict[str, str]]:
    """Compute the digests of every split, by split."""
    return {split: digests(dataset, split) for split in dataset.splits}
