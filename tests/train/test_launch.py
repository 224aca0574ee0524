"""Several processes: they train as one, each image is counted once, none hangs when one dies; and killed runs that resume."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from conftest import trained

from seglib import train
from seglib.runs import Run, read_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous is not tried on Windows"),
]

ENTRY = [sys.executable, "-m", "seglib.train.worker", "--params", "params.yaml"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *ENTRY[1:3]]


def test_two_processes_train_as_one_does_end_when_one_dies_and_go_on(tiny_root, tiny_params, capsys):
    """The default model, which has weights that take no part; without Dice, but for the layers that it drops at random."""
    how = {"architecture": "Unet", "encoder": "timm-tf_efficientnet_lite0", "epochs": 8, "dice_weight": 0.0}
    how |= {"batch_size": 6, "micro_batch": 3, "learning_rate": 1e-3, "crop_height": 64, "crop_width": 64}
    seen, killed, run = [], [], Run(Run.folder("tiny"))

    def kill_one(history):
        seen.append(len(history))
        workers = [p for p in psutil.Process().children(recursive=True) if not p.children()]
        if len(history) > 1 and not killed:  # the tables of an epoch are written before its checkpoint
            workers[-1].kill()
            killed.append(time.monotonic())

    with pytest.raises(RuntimeError, match=r"exit code 1 in one of 2 processes.*resume=True"):
        trained(tiny_params(**how), None, kill_one, processes=2, reasons={"precision": "for a test"})
    assert time.monotonic() - killed[0] < 60
    deadline = time.monotonic() + 20
    while left := [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]:
        assert time.monotonic() < deadline, f"processes are left: {[p.cmdline() for p in left]}"
        time.sleep(0.2)
    assert train.load_checkpoint(run.last_checkpoint)[1]["epoch"] >= 1
    assert seen[:2] == [1, 2]
    assert "epoch 2 of 8" in capsys.readouterr().out
    plan = read_json(run.path / "environment.json")["plan"]
    assert (plan["processes"], plan["reasons"]) == (2, {"precision": "for a test"})
    as_on_clusters = [*TORCHRUN, "--params", str(run.params), "-p", "resume=true"]
    subprocess.run(as_on_clusters, check=True)
    history = pd.read_csv(run.history)
    assert history["epoch"].tolist() == list(range(1, 9))
    assert history["val_miou"].iloc[-1] > history["val_miou"].iloc[0]
    plan = read_json(run.path / "environment.json")["plan"]
    assert (plan["processes"], plan["micro_batch"]) == (2, 3)
    alone = trained(tiny_params(**how | {"run": "alone", "epochs": 1}))[1]
    found, wanted = (list(table.loc[0, ["train_loss", "grad_norm"]]) for table in (history, alone))
    assert found == pytest.approx(wanted, rel=0.1)


def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(tiny_root, tiny_params):
    """Killed at random moments, while files are written too; set KILLS for a longer trial."""
    kills = int(os.environ.get("KILLS", "2"))
    options = {"epochs": 3 * kills, "ema_decay": 0.5, "memory_format": "contiguous", "threads": 1}
    straight, _ = trained(tiny_params(run="straight", **options))
    run, random = Run(Run.folder("cut")), np.random.default_rng(0)
    values, last = tiny_params(run="cut", resume=True, **options).model_dump(), run.last_checkpoint
    (tiny_root / "params.yaml").write_text(yaml.safe_dump(values))
    for _ in range(kills):
        before = last.stat().st_mtime_ns if last.exists() else 0
        worker = subprocess.Popen(ENTRY)
        while worker.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.01)  # until an epoch is finished
        time.sleep(random.uniform(0, 0.5))
        worker.kill()
        worker.wait()
        train.load_checkpoint(run.last_checkpoint)
        train.load_checkpoint(run.best_checkpoint)
    subprocess.run(ENTRY, check=True)
    left = [path for path in run.path.rglob(".*") if path.name != ".training"]
    assert not left, "half-written files are left"
    for name in ("best_checkpoint", "last_checkpoint"):
        wanted, got = (train.load_checkpoint(getattr(r, name))[0].state_dict() for r in (straight, run))
        assert all(torch.equal(wanted[key], got[key]) for key in wanted), name
    columns = ["epoch", "train_loss", "val_miou", "best"]
    pd.testing.assert_frame_equal(*[pd.read_csv(r.history)[columns] for r in (straight, run)])
