"""What seglib writes and reads back, damaged: the cache, digests, a run's history and facts. Rightly read, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import ANYTHING, cases, damaged, works_or_refuses
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_texts import as_json, changed

from seglib import pipeline as chain
from seglib import repeat
from seglib.data import fingerprint as content
from seglib.data.dataset import load_dataset, read_pair
from seglib.evaluate.predict import scoring_plan
from seglib.evaluate.predictions import changed_since_training, run_dataset
from seglib.runs import Run, read_json, write_json
from seglib.train import fitting as training
from seglib.train.loader import build_cache
from seglib.train.plans import PRECISIONS
from seglib.train.trainer import read_steps
from seglib.train.trials import Memory, Trial

pytestmark = pytest.mark.slow


def harm(data, path: Path) -> bytes:
    """Write something else into a file; returns what it held."""
    whole = path.read_bytes()
    harmed = [damaged(whole)]
    if path.suffix == ".json":
        harmed.append(changed(json.loads(whole), ANYTHING).map(as_json))
    path.write_bytes(data.draw(st.one_of(harmed)))
    return whole


@cases(8)
@given(data=st.data())
def test_caches(trained_root, data):
    """Whatever became of its files: every sample is what the dataset holds."""
    dataset = load_dataset("data/tiny")
    build_cache(dataset, "train")
    (folder,) = (trained_root / "artifacts/cache").glob("tiny-train-*")
    harm(data, folder / data.draw(st.sampled_from(["index.json", "samples.bin"])))
    packed = build_cache(dataset, "train")
    assert packed.ids == dataset.split("train")["id"].tolist()
    for i, row in enumerate(dataset.split("train").itertuples()):
        image, mask = read_pair(dataset, row)
        assert np.array_equal(packed.pair(i)[0], image)
        assert np.array_equal(packed.pair(i)[1], mask)
        assert packed.pixel_counts[i].tolist() == np.bincount(mask.ravel(), minlength=256)[:3].tolist()


@cases(20)
@given(data=st.data())
def test_digests(trained_root, data):
    """Kept so that no file is read twice: they are those of the files, or read again."""
    dataset = load_dataset("data/tiny")
    path = content._table_path(dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "_FRESH", 0)  # keep those of files as new as these too
        path.unlink(missing_ok=True)
        expected = content.digests(dataset, "train")
        harm(data, path)
        assert content.digests(dataset, "train") == expected


@cases(40)
@given(data=st.data())
def test_histories(trained_root, data):
    run = Run.open("tiny")
    whole = harm(data, run.history)
    try:
        with works_or_refuses():
            chain._last_epoch(run, None, {"epochs": 3})
        (run.path / "before").mkdir(exist_ok=True)
        (run.path / "before/history.csv").write_bytes(whole)
        said = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.print", said.append)
            repeat.compare(run.path / "before", "tiny")
        if any("identical" in line for line in said):
            now, then = (pd.read_csv(p, dtype=str) for p in (run.history, run.path / "before/history.csv"))
            pd.testing.assert_frame_equal(
                *(t.drop(columns=list(repeat._TIMES), errors="ignore") for t in (now, then))
            )
        assert all("by at most" not in line or float(line.split()[-1]) >= 0 for line in said)
    finally:
        run.history.write_bytes(whole)


@cases(30)
@given(data=st.data())
def test_steps(trained_root, data):
    path = Run.open("tiny").steps
    whole = harm(data, path)
    try:
        with works_or_refuses():
            assert (read_steps(path, 2)["epoch"] <= 2).all()
    finally:
        path.write_bytes(whole)


@cases(20)
@given(data=st.data())
def test_facts_of_a_run(trained_root, tiny_params, data):
    run = Run.open("tiny")
    status = write_json(run.path / "status.json", {"02_train": {"state": "done", "seconds": 3.0}})
    path = data.draw(st.sampled_from([run.params, run.path / "environment.json", run.data, status]))
    kept = {file: file.read_bytes() for file in (run.params, path)}
    harm(data, path)
    dataset = load_dataset("data/tiny")
    for read in (
        lambda: Run.open("tiny").external,
        lambda: run_dataset(run),
        lambda: scoring_plan(run, "cpu").precision in PRECISIONS or pytest.fail("no such precision"),
        lambda: repeat.prepare(run.params, read_json(run.params), {}),
        lambda: changed_since_training(run, dataset),
        lambda: chain._Status(status).forget(["03_evaluate"]),
        lambda: training._start(tiny_params(resume=True)),
        lambda: chain._note_parameters(run, {}, {"03_evaluate": {"run": "tiny"}}),
    ):
        with works_or_refuses():
            read()
    for file, whole in kept.items():
        file.write_bytes(whole)


@cases(30)
@given(data=st.data())
def test_trials_that_are_remembered(tmp_path, data):
    path = tmp_path / "hardware.json"
    path.unlink(missing_ok=True)
    memory = Memory(path, "here", "job")
    memory.put("a", Trial(0.5, 1000))
    harm(data, path)
    found = memory.get("a")
    assert found is None or found.seconds > 0
    memory.put("b", Trial(0.25, 10))
    assert memory.get("b") == Trial(0.25, 10)
