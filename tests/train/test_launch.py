"""Several processes: the same result as one, each image counted once, no hang when one dies; and killed runs that resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from seglib.train.machine import Machine
from seglib.train.plans import DevicePlan

from seglib.data.dataset import load_dataset
from seglib.params import ParameterError
from seglib.runs import Run, read_json
from seglib.train import launch
from seglib.train.fitting import start_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelSpec, build, load_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous is not tried on Windows"),
]


def train(params, processes: int, on_epoch=None) -> tuple[Run, pd.DataFrame]:
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    run = start_run(params)
    torch.manual_seed(params.seed)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    reasons = {"precision": "for a test"}
    plan = DevicePlan(
        "cpu", "fp32", processes=processes, threads=1, micro_batch=params.micro_batch, reasons=reasons
    )
    return run, launch.train(run, model, *splits, params, plan, on_epoch)


WELL_CONDITIONED = {
    "architecture": "Unet", "encoder": "resnet18", "learning_rate": 1e-3, "crop_height": 64, "crop_width": 64,
    "class_weights": "sqrt_inverse", "label_smoothing": 0.05,
}  # fmt: skip


def test_two_processes_do_what_one_does(tiny_root, tiny_params):
    """The first step is equal; and what one process began, two end with the same scores as one, within 1e-3.

    In between they drift apart by more: AdamW makes steps of the rounding errors of vanishing gradients.
    """
    how = WELL_CONDITIONED | {"epochs": 14, "batch_size": 2}

    def stop_before_the_end(history):
        if len(history) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_params(run="alone", **how), 1, stop_before_the_end)
    alone = Run.open("alone")
    shutil.copytree(alone.path, Run.folder("shared"))
    (Run.folder("shared") / "params.json").unlink()  # it names the other run
    _, expected = train(tiny_params(run="alone", resume=True, **how), 1)
    seen = []
    shared, history = train(
        tiny_params(run="shared", resume=True, **how), 2, lambda table: seen.append(len(table))
    )
    assert seen == [13, 14]
    assert pd.read_csv(shared.history)["epoch"].tolist() == list(range(1, 15))
    first, second = (pd.read_csv(run.steps).query("epoch == 13").iloc[0] for run in (alone, shared))
    for name in ("loss", "ce", "dice", "focal", "grad_norm"):
        assert second[name] == pytest.approx(first[name], rel=1e-4), name
    np.testing.assert_allclose(history["val_miou"], expected["val_miou"], atol=1e-3)
    assert expected["val_miou"].iloc[-1] > 0.9


def test_normalisation_sees_all_processes_images(tiny_root, tiny_params):
    how = WELL_CONDITIONED | {"epochs": 1, "batch_size": 6, "learning_rate": 1e-12}
    states = [
        load_checkpoint(train(tiny_params(run=f"of{processes}", **how), processes)[0].last_checkpoint)[
            0
        ].state_dict()
        for processes in (1, 2)
    ]
    names = [name for name in states[0] if "running" in name]
    assert len(names) > 40
    for name in names:
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-4, atol=1e-5)


def test_micro_batches_in_processes(tiny_root, tiny_params):
    _, history = train(tiny_params(batch_size=6, micro_batch=2), 2)
    assert np.isfinite(history["train_loss"]).all()


def test_a_killed_process_ends_the_run_with_an_error(tiny_root, tiny_params):
    def kill_one(history):
        workers = [
            p
            for p in psutil.Process().children(recursive=True)
            if "seglib.train.launch" in " ".join(p.cmdline())
        ]
        workers = [p for p in workers if not p.children()]
        workers[-1].kill()

    started = time.monotonic()
    with pytest.raises(launch.WorkerError, match=r"exit code 1 in one of 2 processes.*resume=True"):
        train(tiny_params(run="killed", epochs=500), 2, kill_one)
    assert time.monotonic() - started < 90
    deadline = time.monotonic() + 20
    while left := [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]:
        assert time.monotonic() < deadline, f"processes are left: {[p.cmdline() for p in left]}"
        time.sleep(0.2)
    assert load_checkpoint(Run.open("killed").last_checkpoint)[1]["epoch"] >= 1


def test_a_finished_run_that_is_resumed_shows_its_history(tiny_root, tiny_params):
    _, history = train(tiny_params(epochs=1), 2)
    seen = []
    run, again = train(tiny_params(epochs=1, resume=True), 2, seen.append)
    assert not seen
    pd.testing.assert_frame_equal(again, history)
    plan = read_json(run.path / "environment.json")["plan"]
    assert plan["processes"] == 2
    assert plan["reasons"] == {"precision": "for a test"}


def test_an_error_in_the_processes_is_shown(tiny_root, tiny_params):
    params = tiny_params(run="faulty")
    start_run(params)
    with pytest.raises(
        launch.WorkerError, match=r"ParameterError: scale_min = 4\.0 is larger than scale_max"
    ):
        train(params.model_copy(update={"scale_min": 4.0}), 2)


def test_the_entry_point_of_clusters_takes_a_parameter_file(tiny_root, tiny_params):
    values = tiny_params(run="cluster", epochs=1, batch_size=4).model_dump() | {"split": "val"}
    (tiny_root / "params.yaml").write_text(yaml.safe_dump(values))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "seglib.train.launch",
    ]
    command += ["--params", "params.yaml"]
    environment = {
        name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"
    }  # torchrun sets it
    told = subprocess.run([*command, "-p", "batch_size=1", "-p", "run=small"], capture_output=True, text=True)
    assert told.returncode == 1
    assert "2 processes cannot share a batch of 1 images" in told.stdout
    subprocess.run(command, check=True, env=environment)
    run = Run.open("cluster")
    assert pd.read_csv(run.history)["epoch"].tolist() == [1]
    plan = read_json(run.path / "environment.json")["plan"]
    assert (plan["processes"], plan["micro_batch"]) == (2, 2)
    assert plan["threads"] == max(1, min(Machine.here().cores, psutil.cpu_count(logical=False)) // 2)
    assert all(plan["reasons"].get(name) for name in plan if name != "reasons"), plan


def test_a_parameter_file_without_parameters_is_refused(tiny_root):
    (tiny_root / "params.yaml").write_text("- 3\n")
    with pytest.raises(ParameterError, match=r"params\.yaml holds list"):
        launch.main(["--params", "params.yaml"])


def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(tiny_root, tiny_params):
    """Killed at random moments, while files are written too; set KILLS for a longer trial."""
    kills, wanted = 0, int(os.environ.get("KILLS", "3"))
    options = {"epochs": 3 * wanted, "ema_decay": 0.5, "memory_format": "contiguous", "threads": 1}
    straight, _ = train(tiny_params(run="straight", **options), 1)
    run = Run(Run.folder("cut"))
    random = np.random.default_rng(0)
    values = tiny_params(run="cut", resume=True, **options).model_dump()
    (tiny_root / "params.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "seglib.train.launch", "--params", "params.yaml"]
    while kills < wanted:
        before = run.last_checkpoint.stat().st_mtime_ns if run.last_checkpoint.exists() else 0
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        worker.stdout.readline()  # training has begun
        time.sleep(random.uniform(0, 0.5))
        worker.kill()
        worker.wait()
        worker.stdout.close()
        kills += 1
        if run.last_checkpoint.exists():
            epoch = load_checkpoint(run.last_checkpoint)[1]["epoch"]
            if epoch == options["epochs"] or run.last_checkpoint.stat().st_mtime_ns < before:
                break
        if run.best_checkpoint.exists():
            load_checkpoint(run.best_checkpoint)
    subprocess.run(command, check=True)
    assert not list(run.path.rglob(".*")), "half-written files are left"
    for name in ("best_checkpoint", "last_checkpoint"):
        wanted, got = (load_checkpoint(getattr(r, name))[0].state_dict() for r in (straight, run))
        assert all(torch.equal(wanted[key], got[key]) for key in wanted), name
    columns = ["epoch", "train_loss", "val_miou", "best"]
    pd.testing.assert_frame_equal(*[pd.read_csv(r.history)[columns] for r in (straight, run)])
