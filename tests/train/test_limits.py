"""Limits of control groups, read from trees as kernels, containers and batch systems lay them out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from seglib.train import limits

GB = 1 << 30


def tree(root: Path, own: str, files: dict[str, object]) -> tuple[Path, Path]:
    for name, value in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (root / "own").write_text(own, encoding="latin-1")
    return root / "cgroup", root / "own"


def test_the_narrowest_group_counts(tmp_path):
    found = tree(
        tmp_path,
        "0::/slurm/job_7/step_0\n",
        {
            "slurm/memory.max": 64 * GB,
            "slurm/memory.current": 10 * GB,
            "slurm/job_7/memory.max": 16 * GB,
            "slurm/job_7/memory.current": 6 * GB,
            "slurm/job_7/memory.stat": f"anon {2 * GB}\ninactive_file {2 * GB}\nactive_file {GB}",
            "slurm/job_7/step_0/memory.max": "max",
            "slurm/job_7/step_0/memory.current": 6 * GB,
            "slurm/job_7/cpu.max": "250000 100000",
            "slurm/job_7/step_0/cpu.max": "max 100000",
        },
    )
    assert limits.memory_left(*found) == 13 * GB
    assert limits.processors(*found) == 2.5


def test_a_container_sees_its_group_as_the_root(tmp_path):
    files = {"memory.max": 4 * GB, "memory.current": GB, "cpu.max": "50000 100000"}
    for own in ("0::/\n", "0::/docker/0123456789abcdef\n"):  # with a namespace of its own, and without
        found = tree(tmp_path, own, files)
        assert limits.memory_left(*found) == 3 * GB
        assert limits.processors(*found) == 0.5


def test_version_one_keeps_a_tree_for_each_controller(tmp_path):
    found = tree(
        tmp_path,
        "9:name=systemd:/\n5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n",
        {
            "memory/memory.limit_in_bytes": 9223372036854771712,
            "memory/memory.usage_in_bytes": 20 * GB,
            "memory/box/memory.limit_in_bytes": 8 * GB,
            "memory/box/memory.usage_in_bytes": 5 * GB,
            "memory/box/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB // 2}\ntotal_active_file {GB // 2}",
            "cpu/cpu.cfs_quota_us": -1,
            "cpu/box/cpu.cfs_quota_us": 300000,
            "cpu/box/cpu.cfs_period_us": 200000,
        },
    )
    assert limits.memory_left(*found) == 4 * GB
    assert limits.processors(*found) == 1.5


@pytest.mark.parametrize("own", ["", "0::/\n", "0::/gone/away\n", "0::/Prüfung\n"])
def test_without_a_limit_there_is_none(tmp_path, own):
    found = tree(tmp_path, own, {"cgroup.procs": 1})
    assert (limits.memory_left(*found), limits.processors(*found)) == (math.inf, math.inf)
    missing = tmp_path / "nowhere"
    assert (limits.memory_left(missing, missing), limits.processors(missing, missing)) == (math.inf, math.inf)


def test_a_group_that_is_full_leaves_nothing(tmp_path):
    found = tree(tmp_path, "0::/\n", {"memory.max": GB, "memory.current": 2 * GB})
    assert limits.memory_left(*found) == 0


def test_this_process_has_some_left():
    assert limits.memory_left() > 1e8
    assert limits.processors() > 0
