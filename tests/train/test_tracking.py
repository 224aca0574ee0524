"""Trackers: what they write, and what they say when their package is missing."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from seglib.train.tracking import make_tracker

from seglib.runs import Run


@pytest.fixture
def run(tmp_path) -> Run:
    folder = tmp_path / "tiny"
    folder.mkdir()
    return Run(folder)


def test_csv_writes_nothing_of_its_own(run):
    tracker = make_tracker("csv", run, {})
    tracker.log({"train_loss": 1.0}, 1)
    tracker.close()
    assert list(run.path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("default")  # tensorboard's own imports warn
def test_tensorboard_holds_every_scalar_at_its_epoch(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = make_tracker("tensorboard", run, {})
    tracker.log({"train_loss": 2.0, "val_miou": 0.25}, 1)
    tracker.log({"train_loss": 1.0, "val_miou": 0.5}, 2)
    tracker.close()
    assert len(list((run.path / "tensorboard").glob("events.*"))) == 1
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(1, 2.0), (2, 1.0)]
    assert [(e.step, e.value) for e in events.Scalars("val_miou")] == [(1, 0.25), (2, 0.5)]


@pytest.mark.parametrize(("kind", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_names_the_extra_that_brings_it(run, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises, installed or not
    with pytest.raises(ModuleNotFoundError, match=rf"track='{kind}'.*\[{kind}\].*track='csv'"):
        make_tracker(kind, run, {})


def test_wandb_is_told_the_run_and_its_parameters(run, monkeypatch):
    told = []

    class Session:
        def log(self, values, step):
            told.append((step, values))

        def finish(self):
            told.append("finished")

    class Module:
        @staticmethod
        def init(**settings):
            told.append(settings)
            return Session()

    monkeypatch.setitem(sys.modules, "wandb", Module)
    tracker = make_tracker("wandb", run, {"epochs": 2})
    tracker.log({"val_miou": 0.5}, 1)
    tracker.close()
    assert told[0]["id"] == "tiny"
    assert told[0]["config"] == {"epochs": 2}
    assert told[1:] == [(1, {"val_miou": 0.5}), "finished"]
