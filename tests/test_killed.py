"""Kill what 01, 03 and 04 do when the n-th file takes its place: what is there afterwards is whole, or it is not there.

The file is a script too: it forks before torch computes anything, so that a child is ready at once. KILLS=50 tries longer.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seglib.runs import Run, read_json, read_table


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the trials fork")
def test_killed_in_01_03_and_04(trained_root):
    command = [sys.executable, __file__, trained_root, os.environ.get("KILLS", "2")]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed at") >= 6


def check(root: Path) -> None:
    checks.write(checks.check_dataset(load_dataset("data/tiny")), root / "artifacts/data_check/tiny")


def evaluate(root: Path) -> None:
    evaluation.evaluate_run(Evaluate(run="tiny", split="test"), False)


def analyse(root: Path) -> None:
    opened = evaluation.open_evaluation(Run.open("tiny"), "test")
    found = failures.analyse(opened, failures.find_failures(opened, 2.0))
    failures.VerdictBook(found.folder / "verdicts.csv").set("0041", "label wrong", "mine")
    actions.write(found.folder / "actions.yaml", actions.Actions())
    write_report(found.folder, opened.classes)


def is_whole(root: Path, work) -> bool:
    """Whether the result is there; whatever is there agrees with itself."""
    if work is check:
        folder, last = root / "artifacts/data_check/tiny", "summary.json"
    else:
        run = Run.open("tiny")
        folder, last = (
            (run.evaluation("test"), "metrics.json")
            if work is evaluate
            else (run.failures("test"), "failures.csv")
        )
    if not (folder / last).is_file():
        return False
    if work is check:
        assert read_json(folder / last)["samples"] == len(read_table(folder / "samples.csv")) == 13
    elif work is evaluate:
        opened = evaluation.open_evaluation(Run.open("tiny"), "test")
        for counts, (_, truth, pred) in zip(
            opened.confusions, evaluation.predicted_pairs(opened), strict=True
        ):
            assert counts.trace() == (truth == pred).sum()
    else:
        ids = set(read_table(folder / last)["id"])
        for name in ("images", "masks", "predictions", "confidences"):
            assert {path.stem for path in (folder / name).glob("*.png")} == ids
        assert len(read_table(folder / "suspects.csv")) == 4
    return True


def trial(root: Path, work, kill_at: int) -> int:
    """Do the work in a process that is killed at the `kill_at`-th file; how many there were if it was not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count, replace = 0, os.replace

        def counted(*args, **options):
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(*args, **options)

        os.replace = counted
        work(root)
        os.write(writer, str(count).encode())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    os.close(writer)
    count = int(os.read(reader, 100) or 0)
    os.close(reader)
    assert status in (0, signal.SIGKILL), "the work failed"
    return count


def main(root: Path, kills: int) -> None:
    random = np.random.default_rng(0)
    for work in (check, evaluate, analyse):
        count = trial(root, work, 0)
        assert is_whole(root, work)
        for kill_at in sorted(
            random.choice(np.arange(1, count + 1), min(kills, count), replace=False).tolist()
        ):
            assert trial(root, work, kill_at) == 0
            is_whole(root, work)
            if work is analyse:
                verdicts = failures.VerdictBook(Run.open("tiny").failures("test") / "verdicts.csv")
                assert verdicts.get("0041").verdict == "label wrong"
            print(f"{work.__name__}: killed at {kill_at} of {count}", flush=True)
        assert trial(root, work, 0), "goes through afterwards"
        assert is_whole(root, work)
        assert not list((root / "artifacts").rglob(".new")), "nothing half-written stays"


if __name__ == "__main__":
    from seglib import actions, checks, failures
    from seglib import evaluate as evaluation
    from seglib.browser import write_report
    from seglib.data import load_dataset
    from seglib.params import Evaluate

    main(Path(sys.argv[1]), int(sys.argv[2]))
