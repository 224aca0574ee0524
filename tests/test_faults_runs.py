"""Two at once, killed in the middle, folders that vanish: an error that says so or the same result, and nothing lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seglib import cli
from seglib import pipeline as chain
from seglib.claims import InUseError
from seglib.data.dataset import DatasetError, load_dataset
from seglib.evaluate.predict import evaluate_run
from seglib.failures.find import export, find_failures
from seglib.failures.verdicts import VerdictBook
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_text
from seglib.storage import StorageError
from seglib.train.device import make_plan
from seglib.train.fitting import fit, start_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelSpec, build, load_checkpoint

pytestmark = pytest.mark.slow

HOLD = "import sys, time; from seglib.claims import claim; claim(sys.argv[1], sys.argv[2]); print(); time.sleep(60)"


@pytest.fixture
def busy():
    """A function: another process claims a path."""
    processes = []

    def hold(path: Path, doing: str) -> None:
        processes.append(subprocess.Popen([sys.executable, "-c", HOLD, path, doing], stdout=subprocess.PIPE))
        processes[-1].stdout.readline()

    yield hold
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def model_of(params):
    return build(ModelSpec(params.architecture, params.encoder, load_dataset(params.dataset).classes))


# two at once


def test_a_run_that_another_process_trains(trained_root, tiny_params, busy):
    run = Run.open("tiny")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    busy(run.training_claim, "training")
    with pytest.raises(InUseError, match=r"runs/tiny is in use: process \d+ on .* is training there since"):
        start_run(tiny_params(resume=True))
    assert {path: path.read_bytes() for path in before} == before


def test_a_training_holds_its_run_from_the_start_to_the_end(tiny_root, tiny_params):
    params = tiny_params(epochs=1)
    run = start_run(params)
    take = "import sys; from seglib.claims import claim; claim(sys.argv[1], 'training')"
    command = [sys.executable, "-c", take, run.training_claim]
    held = subprocess.run(command, capture_output=True, text=True)
    assert f"process {os.getpid()} on" in held.stderr
    splits = (
        build_cache(load_dataset("data/tiny"), "train"),
        build_cache(load_dataset("data/tiny"), "val", original_masks=True),
    )
    fit(run, model_of(params), *splits, params, make_plan("cpu", "fp32"))
    assert not run.training_claim.exists()
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_two_chains_of_one_run(trained_root, busy):
    folder = Run.open("tiny").notebooks
    write_text(folder / "04_failure_analysis.ipynb", "kept")
    for name in chain.STEPS:
        shutil.copy(Path(__file__).parent.parent / "notebooks" / f"{name}.ipynb", trained_root / "notebooks")
    busy(folder / ".chain", "running notebooks")
    with pytest.raises(InUseError, match="is running notebooks there since"):
        chain.run_chain({}, "tiny", start="4")
    assert (folder / "04_failure_analysis.ipynb").read_text() == "kept"


def test_two_evaluations_of_one_split(trained_root, busy):
    run = Run.open("tiny")
    busy(run.evaluation("test") / ".writing", "writing")
    with pytest.raises(InUseError, match="evaluation/test is in use"):
        evaluate_run(run, Evaluate(run="tiny", split="test"))


def test_verdicts_of_two_browsers_are_both_kept(tmp_path):
    """Each of two processes saves 20 verdicts as fast as it can."""
    path = tmp_path / "verdicts.csv"
    save = """
import sys
from seglib.verdicts import VerdictBook
book = VerdictBook(sys.argv[1])
for k in range(20):
    book.set(f"{sys.argv[2]}{k}", "label wrong")
"""
    workers = [subprocess.Popen([sys.executable, "-c", save, path, name]) for name in "ab"]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(VerdictBook(path).rows) == 40


# killed


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the trials fork")
def test_killed_in_01_03_and_04(trained_root):
    """One kill each; set KILLS for a longer trial. What 02 does is killed in test_launch.py."""
    command = [
        sys.executable,
        Path(__file__).parent / "kill_trials.py",
        trained_root,
        os.environ.get("KILLS", "1"),
    ]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed at") >= 3


# gone


def test_a_run_folder_that_vanishes_while_it_is_trained(tiny_root, tiny_params):
    params = tiny_params(epochs=3)
    splits = (
        build_cache(load_dataset("data/tiny"), "train"),
        build_cache(load_dataset("data/tiny"), "val", original_masks=True),
    )
    run = start_run(params)

    def move(history):
        run.path.rename(run.path.with_name("moved"))

    with pytest.raises(
        StorageError, match=r"run folder artifacts/runs/tiny vanished .*Epoch 2 was not kept.*resume=True"
    ):
        fit(run, model_of(params), *splits, params, make_plan("cpu", "fp32"), move)
    assert not run.path.exists(), "no run without a beginning is made"
    run.path.with_name("moved").rename(run.path)
    assert load_checkpoint(run.last_checkpoint)[1]["epoch"] == 1
    history = fit(start_run(tiny_params(epochs=3, resume=True)), model_of(params), *splits,
                  tiny_params(epochs=3, resume=True), make_plan("cpu", "fp32"))  # fmt: skip
    assert len(history) == 3


def test_a_failures_folder_that_vanishes_under_an_open_browser(tmp_path):
    folder = tmp_path / "failures" / "test"
    book = VerdictBook(folder / "verdicts.csv")
    book.set("a", "label wrong", "mine")
    folder.rename(tmp_path / "moved")
    with pytest.raises(StorageError, match=r"failures/test vanished .*Its 1 verdicts are still in memory"):
        book.set("b", "model wrong")
    assert not folder.exists()
    assert list(book.rows) == ["a"]
    (tmp_path / "moved").rename(folder)
    book.set("b", "model wrong")
    assert list(VerdictBook(folder / "verdicts.csv").rows) == ["a", "b"]


def test_a_dataset_that_vanishes_before_03_and_04(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", split="test"))
    (trained_root / "data/tiny").rename(trained_root / "data/away")
    for work in (
        lambda: evaluate_run(run, Evaluate(run="tiny", split="test")),
        lambda: export(run, evaluation, find_failures(evaluation, 2.0)),
    ):
        with pytest.raises(DatasetError, match=r"data/tiny is not there; expected a folder"):
            work()
    assert read_json(run.evaluation("test") / "metrics.json")["images"] == 4


def test_artifacts_that_vanish_leave_an_error_that_names_the_run(trained_root):
    shutil.rmtree(trained_root / "artifacts")
    with pytest.raises(FileNotFoundError, match=r"run 'tiny' has no trained model.*Trained runs: none yet"):
        Run.open("tiny")


# clocks that jump


def test_what_was_written_under_a_clock_that_went_back_is_new_all_the_same(tiny_root, capsys):
    path = tiny_root / "artifacts/data_check/tiny/findings.csv"
    text = "severity,check,sample,split,detail,suggestion\nerror,unreadable,a,train,{},Copy it again.\n"
    write_text(path, text.format("old"))
    before = cli._findings()
    assert not cli._print_new_findings(before)
    write_text(path, text.format("new"))
    os.utime(path, (0, 0))
    assert cli._print_new_findings(before)
    assert "new" in capsys.readouterr().out


def test_the_progress_of_a_training_under_a_clock_that_went_back(trained_root):
    run = Run.open("tiny")
    before = chain._written(run.history)
    assert chain._last_epoch(run, before, {"epochs": 3}) == "", "another training's"
    write_text(run.history, run.history.read_text())
    os.utime(run.history, (0, 0))
    assert chain._last_epoch(run, before, {"epochs": 3}).startswith("epoch 3 of 3")
