"""Digests of a dataset's files: whether they are still those that were checked, trained on or scored."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from seglib.data.dataset import Dataset
from seglib.runs import read_json

CLASSES_FILE = "dataset.yaml (classes)"  # stands among the files for how their values become class ids


def digests(dataset: Dataset, split: str) -> dict[str, str]:
    """Compute the digests of one split's files.

    Returns:
        path relative to the dataset's folder -> 16 hexadecimal digits of its SHA-256, "" where it cannot be read; and
        `CLASSES_FILE` -> those of the classes.
    """
    samples = dataset.split(split)
    paths = list(dict.fromkeys([*samples["image"], *samples["mask"]]))
    classes = json.dumps(dataset.classes.to_dict(), sort_keys=True).encode()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(_digest, [os.path.join(dataset.root, path) for path in paths])
        own = {CLASSES_FILE: hashlib.sha256(classes).hexdigest()[:16]}
        return own | dict(zip(paths, found, strict=True))


def _digest(path: str) -> str:
    try:
        stat = os.stat(path)
        # what changed a moment ago may change again within one tick of the file system's clock
        read = _read if abs(time.time_ns() - stat.st_ctime_ns) > 2e9 else _read.__wrapped__
        return read(path, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError:
        return ""


@lru_cache(maxsize=1 << 20)
def _read(path: str, state: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def compare_digests(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Put into words what became of the files: "2 files changed (a.png, b.png), 1 file gone (c.png)"; "" if nothing."""
    kinds = {
        "changed": [path for path in now if path in before and before[path] != now[path]],
        "added": [path for path in now if path not in before],
        "gone": [path for path in before if path not in now],
    }
    told = []
    for kind, paths in kinds.items():
        some = ", ".join(paths[:3]) + ", ..." * (len(paths) > 3)
        told += [f"{len(paths)} file{'s' * (len(paths) > 1)} {kind} ({some})"] if paths else []
    return ", ".join(told)


def check_record(dataset: Dataset) -> dict[str, dict[str, str]]:
    """Compute the digests of every split, by split."""
    return {split: digests(dataset, split) for split in dataset.splits}


def read_record(path: Path) -> dict[str, dict[str, str]]:
    """Read digests by split as they were written; empty where there are none or they cannot be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if all(isinstance(files, dict) for files in found.values()) else {}
