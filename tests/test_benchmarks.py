"""The GPU benchmark on a processor, in small: what is seldom run, since it asks for a GPU, must run when one is at hand.

The other side's recipe too, where Lightning is installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(tiny_root, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "ENCODERS", {"small": "tu-mobilenetv3_small_050"})
    return module


def test_without_a_gpu_every_row_says_so(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = gpu.rows(gpu.Setting())
    assert len(rows) == len(gpu.PRECISIONS) * len(gpu.KINDS)
    assert {row["more"] for row in rows} == {"not measured: no GPU here"}


@pytest.mark.slow
def test_every_row_can_be_measured(gpu, monkeypatch):
    setting = gpu.Setting("cpu", size=64, batch=2, images=4, rounds=2)
    monkeypatch.setattr(gpu, "recipe_seconds", lambda *_: [1e3, 1e3])
    rows = {row["what"].removeprefix("GPU: small, "): row for row in gpu.rows(setting)}
    kinds = [kind for kind in gpu.KINDS if kind != "compiled"]  # which takes a processor minutes
    assert list(rows) == [f"{precision}: {kind}" for precision in gpu.PRECISIONS for kind in kinds]
    for precision in gpu.PRECISIONS:
        pace, efficiency, shares, limit = (rows[f"{precision}: {kind}"] for kind in kinds)
        assert pace["lowest"] / 1.01 <= 1e3 / pace["seconds"] <= pace["highest"] * 1.01
        assert pace["reached"]
        assert efficiency["ratio"] > 0
        assert shares["seconds"] > 0
        assert shares["more"].startswith("loss ")
        assert limit["ratio"] > 0


@pytest.mark.slow
def test_the_recipe_trains(gpu, monkeypatch):
    pytest.importorskip("lightning", reason="of the extra `benchmark`")
    setting = gpu.Setting("cpu", size=64, batch=2, images=4, rounds=2)
    folder = gpu.runs.project_root() / "data" / "gpu"
    gpu.write_dataset(folder, setting.images, gpu.CLASSES, (72, 72))
    seconds = gpu.recipe_seconds(gpu.ENCODERS["small"], "32-true", setting, folder)
    assert len(seconds) == setting.rounds
    assert min(seconds) > 0
