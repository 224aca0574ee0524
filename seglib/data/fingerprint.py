"""What a dataset's files hold, as digests: whether they are still those that were checked, trained on or scored.

Digests are of the files' bytes. A file is read again only when its size or one of its times is another than when it was read
last: what that said is kept in `artifacts/cache`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglib.data.dataset import Dataset
from seglib.runs import check_name, project_root, read_json, display_path, write_json

CLASSES_FILE = "dataset.yaml (classes)"  # stands among the files for how their values become class ids
_SEAL = "sha256"
_AT_ONCE = 32  # files that a thread asks for at a time: handing them over one by one takes longer than asking
_FRESH = 2e9  # ns: a file changed as recently as that may change again within one tick of the file system's clock


@dataclass(frozen=True)
class Changes:
    """Files that are no longer what they were; paths relative to the dataset's folder."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.gone)

    def __str__(self) -> str:
        """Such as "2 files changed (train/masks/a.png, train/masks/b.png), 1 is gone (val/images/c.png)"."""
        kinds = (
            ("changed", "changed", self.changed),
            ("was added", "were added", self.added),
            ("is gone", "are gone", self.gone),
        )
        return ", ".join(
            f"{len(names)} {'files ' * (not k)}{many if len(names) > 1 else one} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
            for k, (one, many, names) in enumerate(kind for kind in kinds if kind[2])
        ).replace("1 files ", "1 file ", 1)


def digests(dataset: Dataset, split: str) -> dict[str, str]:
    """What the files of one split hold.

    Returns:
        path relative to the dataset's folder -> 16 hexadecimal digits of its SHA-256, "" where it cannot be read; and
        `CLASSES_FILE` -> those of the classes.
    """
    samples = dataset.split(split)
    paths = list(dict.fromkeys([*samples["image"], *samples["mask"]]))
    table = _table_path(dataset)
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # absent, damaged
        known = read_sealed(table)
    found: dict[str, str] = {}
    root = os.fspath(dataset.root)  # thousands of paths are joined faster as text

    def look(start: int) -> dict[str, str]:
        return {path: _digest(os.path.join(root, path), known.get(path)) for path in paths[start : start + _AT_ONCE]}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for part in pool.map(look, range(0, len(paths), _AT_ONCE)):
            found |= part
    settled = {path: entry for path, entry in found.items() if entry and _settled(entry)}
    if any(known.get(path) != entry for path, entry in settled.items()):
        with suppress(OSError):  # it only saves reading the files again
            write_sealed(table, known | settled)
    own = hashlib.sha256(json.dumps(dataset.classes.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
    return {CLASSES_FILE: own} | {path: entry.rpartition(" ")[2] for path, entry in found.items()}


def compare_digests(before: Mapping[str, str], now: Mapping[str, str], root: Path | None = None) -> Changes:
    """What became of the files between two `digests`.

    Args:
        root: the dataset's folder, where `now` may leave out files that are still there (as a training does that follows
            actions); None: what `now` lacks is gone.
    """
    return Changes(
        tuple(path for path, digest in now.items() if path in before and before[path] != digest),
        tuple(path for path in now if path not in before),
        tuple(path for path in before if path not in now and not (root and (root / path).is_file())),
    )


def record_path(dataset: Dataset) -> Path:
    """Where 01 keeps the digests of what it checked."""
    return project_root() / "artifacts" / "data_check" / check_name(dataset.name, "dataset") / "data.json"


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of itself, for `read_sealed`."""
    write_json(path, {**data, _SEAL: _seal(data)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote, to the last bit.

    Raises:
        OSError, ValueError: absent; damaged.
    """
    data = read_json(path, [_SEAL])
    if data.pop(_SEAL) != _seal(data):
        raise ValueError(f"{display_path(path)} does not match its checksum. Delete it: it is made anew.")
    return data


def _seal(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def read_record(path: Path) -> dict[str, dict[str, str]]:
    """Digests by split as they were written; empty where there are none or they cannot be read."""
    found = _read(path)
    return found if all(isinstance(files, dict) for files in found.values()) else {}


def since_check(dataset: Dataset, split: str, now: Mapping[str, str]) -> str:
    """In one sentence what changed in a split since 01 checked it; "" if nothing did, or 01 never saw it."""
    record = read_record(record_path(dataset))
    if record.get("root") != {"path": _root_name(dataset)} or split not in record:
        return ""
    changes = compare_digests(record[split], now, dataset.root)
    if not changes:
        return ""
    return f"Split {split!r} changed since 01_data_check saw it: {changes}. Run 01_data_check again."


def check_record(dataset: Dataset) -> dict[str, dict[str, str]]:
    """What 01 keeps: the digests of every split, and a name for the folder that they are of."""
    return {"root": {"path": _root_name(dataset)}} | {split: digests(dataset, split) for split in dataset.splits}


def _digest(path: str, known: object) -> str:
    """ "size mtime ctime digest", times in nanoseconds; "" where it cannot be read."""
    try:
        stat = os.stat(path)
        # ctime cannot be set back, as `cp -p` and `rsync -t` do with mtime.
        state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} "
        if isinstance(known, str) and known.startswith(state):
            return known
        with open(path, "rb") as file:
            return state + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""


def _settled(entry: str) -> bool:
    now = time.time_ns()
    return all(abs(now - int(moment)) > _FRESH for moment in entry.split()[1:3])


def _table_path(dataset: Dataset) -> Path:
    return project_root() / "artifacts" / "cache" / f"{dataset.name}-{_root_name(dataset)}.json"


def _root_name(dataset: Dataset) -> str:
    return hashlib.sha256(os.fsencode(dataset.root.resolve())).hexdigest()[:8]


def _read(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
