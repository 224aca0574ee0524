"""A notebook's kernel killed at random moments: what was there before still loads, and the next attempt comes to the same end.

`KILLS=5 pytest tests/test_faults_kernels.py` kills the kernels of 01, 03 and 04 that often each; without it nothing is run here.
What these notebooks do is killed in test_faults_runs.py without a kernel, 02 in test_launch.py.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from seglib.claims import in_use
from seglib.failures.verdicts import VerdictBook
from seglib.params import check_chain
from seglib.pipeline import ChainError, run_chain, step
from seglib.runs import Run, read_json

KILLS = int(os.environ.get("KILLS", "0"))
SHARES = check_chain(
    {"run": "tiny", "dataset": "data/tiny", "split": "test", "threshold": 0.99, "sheets": 1, "examples": 2}
)
# What a notebook leaves behind, and the file of it that is put in place last.
RESULTS = {
    "1": ("artifacts/data_check/tiny", "summary.json"),
    "3": ("artifacts/runs/tiny/evaluation/test", "metrics.json"),
    "4": ("artifacts/runs/tiny/failures/test", "failures.csv"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not KILLS, reason="set KILLS to how often each kernel is to be killed"),
]


def tables(folder: Path) -> dict[str, object]:
    """What is read back: digests of tables, counts and masks; scores but for the time they took."""
    found: dict[str, object] = {}
    for path in folder.rglob("*.*"):
        inside = path.relative_to(folder)
        if inside.name == "metrics.json":
            found[inside.name] = read_json(path) | {"latency_ms": None, "images_per_second": None}
        elif path.suffix in (".csv", ".json", ".yaml", ".npz", ".png") and "outputs" not in inside.parts:
            found[inside.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: value for name, value in found.items() if not name.startswith(".")}


def run_notebook(number: str, kill_after: float | None = None) -> str:
    """Run one notebook of the chain; its kernel is killed so many seconds after it began. Returns the notebook's error."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.02):
            kernels = [
                p for p in psutil.Process().children() if "ipykernel_launcher" in " ".join(p.cmdline())
            ]
            if kernels:
                if not over.wait(kill_after):
                    with suppress(psutil.NoSuchProcess):  # it has just ended
                        kernels[0].kill()
                return

    thread = threading.Thread(target=kill if kill_after is not None else lambda: None)
    thread.start()
    try:
        run_chain(SHARES, "tiny", number, number)
        return ""
    except ChainError as error:
        return error.error
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("number", list(RESULTS))
def test_a_killed_kernel_harms_nothing(trained_root, number):
    shutil.rmtree(trained_root / "notebooks")
    shutil.copytree(Path(__file__).parent.parent / "notebooks", trained_root / "notebooks")
    if number == "4":
        assert run_notebook("3") == ""
    folder, last = RESULTS[number]
    folder, name, chance = trained_root / folder, step(number), random.Random(int(number))
    verdicts = Run.open("tiny").failures("test") / "verdicts.csv"
    VerdictBook(verdicts).set("0041", "label wrong", "mine")
    assert run_notebook(number) == ""
    undisturbed = tables(folder)
    kills = absent = 0
    while kills < KILLS:
        began = time.monotonic()
        assert run_notebook(number) == ""
        assert tables(folder) == undisturbed
        assert not list(folder.glob(".new-*"))
        seconds = time.monotonic() - began
        after = chance.uniform(0, seconds)
        error = run_notebook(number, after)
        if not error:
            continue  # it was faster this time
        kills += 1
        print(f"{name}: killed after {after:.1f} of {seconds:.1f} s", flush=True)
        assert "the kernel died" in error
        assert read_json(trained_root / "artifacts/runs/tiny/status.json")[name]["state"] == "failed"
        assert not any(in_use(path) for path in (trained_root / "artifacts").rglob(".writing"))
        if (folder / last).is_file():
            assert tables(folder) == undisturbed
        else:
            absent += 1
    assert run_notebook(number) == ""
    assert tables(folder) == undisturbed
    assert VerdictBook(verdicts).get("0041").verdict == "label wrong"
    print(f"{name}: {kills} kills, the result was absent after {absent} of them", flush=True)
