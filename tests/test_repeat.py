"""The same seed on the same machine: the same history and weights, in this process and through papermill."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from seglib import cli, repeat
from seglib.data.dataset import load_dataset
from seglib.params import Train, check_chain
from seglib.runs import Run, environment, read_json, write_json
from seglib.train.fitting import fit, start_run
from seglib.train.loader import build_cache
from seglib.train.machine import Machine
from seglib.train.model import ModelSpec, build, load_checkpoint
from seglib.train.trials import plan_training

TIMES = ["seconds", "seconds_left", "images_per_second"]


def train(params: Train) -> Run:
    """What 02 does."""
    dataset = load_dataset(params.dataset)
    splits = [
        build_cache(dataset, s, params.long_side, original_masks=s == "val", cache=params.cache)
        for s in ("train", "val")
    ]
    run = start_run(params)
    torch.manual_seed(params.seed)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes, long_side=params.long_side))
    fit(run, model, *splits, params, plan_training(params, model, *splits))
    return run


def same(first: Run, second: Run) -> None:
    """Equal to the last bit: history, steps and every weight."""
    for table in ("history", "steps"):
        a, b = (
            pd.read_csv(getattr(run, table), dtype=str).drop(columns=TIMES, errors="ignore")
            for run in (first, second)
        )
        pd.testing.assert_frame_equal(a, b)
    for name in ("best_checkpoint", "last_checkpoint"):
        a, b = (load_checkpoint(getattr(run, name))[0].state_dict() for run in (first, second))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


@pytest.mark.slow
def test_a_run_repeats_to_the_last_bit_here_and_through_papermill(
    tiny_root, tiny_params, tmp_path, monkeypatch, capsys
):
    # Every random part of a training is on; precision and memory format are found by trial.
    how = {
        "precision": "auto",
        "blur": 0.5,
        "noise": 0.5,
        "darkness": 0.3,
        "haze": 0.3,
        "seed": 7,
        "epochs": 2,
    }
    first, second = train(tiny_params(**how)), train(tiny_params(run="second", **how))
    same(first, second)

    (tiny_root / "artifacts/hardware.json").unlink()  # new trials might find another plan
    shutil.rmtree(tiny_root / "notebooks")
    shutil.copytree(Path(__file__).parent.parent / "notebooks", tiny_root / "notebooks")
    elsewhere = tmp_path / "somewhere else"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    command = ["run", "--params", str(first.params), "--run", "again", "--from", "2", "--to", "2"]
    assert cli.main(command) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    same(first, Run.open("again"))
    assert "history    identical to that of run 'tiny' in all 2 epochs" in told
    assert "Not as it was" not in told
    assert not (tiny_root / "artifacts/hardware.json").exists()  # no trial was needed


@pytest.fixture
def kept(trained_root) -> Run:
    """A trained run whose params.json is as the chain leaves it."""
    run = Run.open("tiny")
    shares = check_chain(read_json(run.params) | {"split": "val", "threshold": 0.4})
    write_json(run.params, {name: value for share in shares.values() for name, value in share.items()})
    return run


def prepared(run: Run, capsys, **given) -> tuple[dict, str]:
    values = repeat.prepare(run.params, read_json(run.params), given)
    return values, capsys.readouterr().out


def change(run: Run, **facts) -> None:
    write_json(run.path / "environment.json", read_json(run.path / "environment.json") | facts)


def test_the_run_folder_holds_what_repeats_it(kept, capsys):
    facts = read_json(kept.path / "environment.json")
    assert facts["machine"] == Machine.here().name
    assert facts["packages"] == environment()["packages"]
    values, told = prepared(kept, capsys)
    assert "The same kind of machine, so the same plan: cpu, fp32" in told
    assert "Not as it was" not in told
    assert (values["split"], values["threshold"]) == ("val", 0.4)
    plan = facts["plan"]
    assert (values["device"], values["threads"], values["processes"]) == ("cpu", plan["threads"], 1)
    assert not {"auto", ""} & {
        values[name] for name in ("device", "precision", "memory_format", "compile", "cache")
    }
    assert check_chain(values)["02_train"]["micro_batch"] == plan["micro_batch"]


def test_another_machine_gets_a_plan_of_its_own_and_is_told_so(kept, capsys):
    change(kept, machine="Darwin arm, 8 cores, bf16 False, []")
    values, told = prepared(kept, capsys)
    assert "the machine was Darwin arm, 8 cores" in told
    assert "expect close numbers, not equal ones" in told
    assert values["threads"] == 0
    (kept.path / "environment.json").write_text(json.dumps(environment()))
    assert "tells no plan" in prepared(kept, capsys)[1]


def test_other_versions_are_named_and_the_plan_stays(kept, capsys):
    packages = environment()["packages"]
    change(kept, python="3.9.1", packages=packages | {"torch": "1.0", "timm": None})
    values, told = prepared(kept, capsys)
    assert "Not as it was: Python was 3.9.1 and is 3." in told
    assert f"Not as it was: torch was 1.0 and is {packages['torch']}.\n" in told
    assert "timm was absent" in told
    assert values["threads"] > 0


def test_hardware_that_is_asked_for_goes_before_the_old_plan(kept, capsys):
    values, told = prepared(kept, capsys, threads=1)
    assert "threads asked for, so the plan is chosen anew" in told
    assert values["threads"] == 0  # as the run was started; the command line has the last word


def test_other_content_is_noticed_whatever_names_and_times_say(kept, trained_root, capsys):
    path = trained_root / "data/tiny/val/images/v1.png"
    times, data = path.stat(), path.read_bytes()
    path.write_bytes(data)
    assert "Not as it was" not in prepared(kept, capsys)[1]
    Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    told = prepared(kept, capsys)[1]
    assert "Not as it was: The data changed since run 'tiny'" in told
    assert "val: 1 file changed (val/images/v1.png)" in told
    shutil.rmtree(trained_root / "data/tiny")
    prepared(kept, capsys)  # 01 tells what is missing, in its own words


def test_the_actions_are_those_that_the_run_kept_and_resume_is_dropped(kept, trained_root, capsys):
    (kept.path / "actions.yaml").write_text("exclude: [t01]\n", encoding="utf-8")
    write_json(kept.params, read_json(kept.params) | {"actions": "data/edited since.yaml", "resume": True})
    values, told = prepared(kept, capsys)
    assert values["actions"] == "artifacts/runs/tiny/actions.yaml"
    assert "resume" not in values
    assert (
        "train: 2 files are gone" in told
    )  # without t01 it is another training set than the one of environment.json


def test_only_the_parameters_of_a_run_are_repeated(kept, trained_root, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "_chain", lambda values, *steps: calls.append(values) or 0)
    assert cli.main(["run", "--params", str(kept.params), "--run", "again"]) == 0
    assert cli.main(["run", "--params", str(kept.params), "--from", "3"]) == 0  # the run itself goes on
    copy = trained_root / "mine.json"
    shutil.copy(kept.params, copy)
    assert cli.main(["run", "--params", str(copy), "--run", "again"]) == 0
    assert [values["threads"] > 0 for values in calls] == [True, False, False]
    assert [values["run"] for values in calls] == ["again", "tiny", "again"]
    assert capsys.readouterr().out.count("Repeating run 'tiny'") == 1


def test_a_history_that_is_damaged_is_not_compared(kept, capsys):
    shutil.copytree(kept.path, Run.folder("again"))
    for text in ("epoch,val_miou\n1,x\n", "epoch\n1\n", "", "\xff\n"):
        Run(Run.folder("again")).history.write_text(text, encoding="latin-1")
        repeat.compare(kept.path, "again")
        assert "history    cannot be compared: artifacts/runs/again/history.csv" in capsys.readouterr().out


def test_a_history_that_differs_is_measured(kept, capsys):
    other = Run(kept.path.parent / "other")
    shutil.copytree(kept.path, other.path)
    repeat.compare(kept.path, "other")
    assert "identical to that of run 'tiny' in all 3 epochs" in capsys.readouterr().out
    table = pd.read_csv(other.history)
    table.loc[1, "val_miou"] += 0.125
    table.to_csv(other.history, index=False)
    repeat.compare(kept.path, "other")
    assert "from epoch 2 on; val mean IoU by at most 0.1250" in capsys.readouterr().out
    table.head(1).to_csv(other.history, index=False)
    repeat.compare(kept.path, "other")
    assert "from epoch 2 on" in capsys.readouterr().out
    other.history.unlink()
    repeat.compare(kept.path, "other")
    assert capsys.readouterr().out == ""
