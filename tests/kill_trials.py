"""Kill what the notebooks 01, 03 and 04 do at the n-th time that a file takes its place, again and again.

python tests/kill_trials.py ROOT KILLS: ROOT holds the tiny dataset and a trained run "tiny". Forks before torch computes anything,
so that a child is ready at once. Prints one line a kill; the first thing that is not whole ends it with an error.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from seglib.actions import Actions
from seglib.actions import write as write_actions
from seglib.browser.report import write_report
from seglib.checks import check as checks
from seglib.checks.check import check_dataset
from seglib.claims import in_use
from seglib.data.dataset import load_dataset
from seglib.evaluate.evaluation import open_evaluation
from seglib.evaluate.predict import evaluate_run
from seglib.evaluate.predictions import predicted_pairs
from seglib.failures.analyse import analyse
from seglib.failures.find import LAYERS, find_failures
from seglib.failures.verdicts import VerdictBook
from seglib.params import Evaluate
from seglib.runs import Run, read_json


def check(root: Path) -> None:
    checks.write(check_dataset(load_dataset("data/tiny")), root / "artifacts/data_check/tiny")


def evaluate(root: Path) -> None:
    evaluate_run(Run.open("tiny"), Evaluate(run="tiny", split="test"))


def look(root: Path) -> None:
    run = Run.open("tiny")
    evaluation = open_evaluation(run, "test")
    found = analyse(run, evaluation, find_failures(evaluation, 2.0))
    VerdictBook(found.folder / "verdicts.csv").set("0041", "label wrong", "mine")
    write_actions(found.folder / "actions.yaml", Actions())
    write_report(found.folder, evaluation.classes)


def check_is_whole(root: Path) -> bool:
    folder = root / "artifacts/data_check/tiny"
    if not (folder / "summary.json").is_file():
        return False
    assert read_json(folder / "summary.json")["samples"] == 13
    assert len(pd.read_csv(folder / "samples.csv")) == 13
    assert len(read_json(folder / "data.json")) == 4
    return True


def evaluation_is_whole(root: Path) -> bool:
    run = Run.open("tiny")
    if not (run.evaluation("test") / "metrics.json").is_file():
        return False
    evaluation = open_evaluation(run, "test")
    for i, (_, truth, pred) in enumerate(predicted_pairs(run, "test")):
        assert evaluation.confusions[i].trace() == (truth == pred).sum()
    return True


def failures_are_whole(root: Path) -> bool:
    folder = Run.open("tiny").failures("test")
    if not (folder / "failures.csv").is_file():
        return False
    table = pd.read_csv(folder / "failures.csv", dtype={"id": str}, keep_default_na=False)
    for name in LAYERS:
        assert {path.stem for path in (folder / name).glob("*.png")} == set(table["id"])
    assert len(pd.read_csv(folder / "suspects.csv")) == 4
    return True


def trial(root: Path, work, kill_at: int) -> int:
    """Do the work in a process that is killed when the `kill_at`-th file takes its place; returns how many did if it was not."""
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
        try:
            work(root)
            os.write(writer, str(count).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    os.close(writer)
    count = os.read(reader, 100)
    os.close(reader)
    if os.WIFSIGNALED(status):
        return 0
    assert status == 0, "the work failed"
    return int(count)


def main(root: Path, kills: int) -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    for work, whole in ((check, check_is_whole), (evaluate, evaluation_is_whole), (look, failures_are_whole)):
        trial(root, work, 0)  # compiles loops, once a machine: their files, too, take their place
        count = trial(root, work, 0)
        assert whole(root)
        verdicts = Run.open("tiny").failures("test") / "verdicts.csv"
        gone = 0
        for kill_at in sorted(
            random.choice(np.arange(1, count + 1), min(kills, count), replace=False).tolist()
        ):
            assert trial(root, work, kill_at) == 0
            gone += not whole(root)
            assert not any(in_use(path) for path in (root / "artifacts").rglob(".writing"))
            if work is look:
                assert VerdictBook(verdicts).get("0041").verdict == "label wrong"
            print(f"{work.__name__}: killed at {kill_at} of {count}", flush=True)
        assert trial(root, work, 0), "goes through afterwards"
        assert whole(root)
        left = [path for path in (root / "artifacts").rglob(".new-*") if path.is_dir()]
        assert not left, left
        print(f"{work.__name__}: not there, and told so, after {gone} of the kills", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
