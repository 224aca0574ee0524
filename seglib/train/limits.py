"""What a container or a batch system leaves of the machine: the limits of Linux' control groups, which psutil does not know.

Source: the kernel's documentation, admin-guide/cgroup-v2 and cgroup-v1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_TREE, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def memory_left(tree: Path = _TREE, own: Path = _OWN) -> float:
    """Bytes that this process may still take; infinite without a limit. Cached files, which the kernel drops, count as free."""
    left = math.inf
    for folder in _groups("memory", tree, own):
        stat = dict(line.split()[:2] for line in _text(folder / "memory.stat").splitlines() if " " in line)
        for limit, used, total in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            files = sum(int(stat.get(f"{total}{kind}_file", 0)) for kind in ("active", "inactive"))
            left = min(left, _number(folder / limit, math.inf) - _number(folder / used, 0) + files)
    return max(0.0, left)


def processors(tree: Path = _TREE, own: Path = _OWN) -> float:
    """Processors' time that this process may take, such as 2.5; infinite without a limit."""
    most = math.inf
    for folder in _groups("cpu", tree, own):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit():
            most = min(most, int(quota) / float(period))
        quota = _number(folder / "cpu.cfs_quota_us", -1)
        if quota > 0:
            most = min(most, quota / _number(folder / "cpu.cfs_period_us", 100_000))
    return most


def _groups(controller: str, tree: Path, own: Path) -> Iterator[Path]:
    """The folders of this process' group and of those around it; each may have a limit. In a container only some are seen."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = tree / controller if controllers else tree
        group = root / path.strip("/")
        yield from (
            folder for folder in (group, *group.parents) if folder.is_relative_to(root) and folder.is_dir()
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path, otherwise: float) -> float:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else otherwise
