"""Training in this process, or in several that torchrun starts: one entry point for a notebook's cell and for a cluster.

torchrun --standalone --nproc_per_node=8 -m seglib.train.launch --params params/camvid.yaml -p batch_size=56
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import psutil
import torch
from tqdm.auto import tqdm

from seglib import actions
from seglib.data import load_dataset
from seglib.options import read_parameters
from seglib.params import Train, check_chain, read_file
from seglib.runs import Run, claim, release, resolve_path
from seglib.train.distributed import World
from seglib.train.fitting import fit, start_run
from seglib.train.loader import CachedSplit, build_cache
from seglib.train.machine import Machine
from seglib.train.model import ModelSpec, Segmenter, build
from seglib.train.plans import DevicePlan
from seglib.train.trials import plan_training

_BEAT = 0.5  # seconds between two lines of progress
_TAIL = 40  # lines of a failed process that are shown


class WorkerError(RuntimeError):
    """A training process ended with an error; shows its last lines."""


def train(
    run: Run,
    model: Segmenter,
    train: CachedSplit,
    val: CachedSplit,
    params: Train,
    plan: DevicePlan,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train as planned: in this process, or in `plan.processes` of torchrun's, whose progress is shown here.

    The processes read the run's parameters and build model and data themselves, since forking fails once CUDA is in use
    and does not exist on Windows.

    Args:
        run, model, train, val, params, plan, on_epoch: as in `training.fit`.

    Returns:
        The history: one row an epoch.

    Raises:
        WorkerError: a process failed or was killed; the others are ended, and the last finished epoch is kept.
        InUseError: another process is training the run.
    """
    claim(run.training_claim, "training")
    if plan.processes == 1:
        return fit(run, model, train, val, params, plan, on_epoch)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={plan.processes}",
    ]
    command += ["-m", "seglib.train.launch", "--started", run.name, "--plan", json.dumps(plan.to_dict())]
    rows, errors, tail = [], [], deque(maxlen=_TAIL)
    total = params.epochs * len(train)
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as workers,
        tqdm(total=total, unit=" images", leave=False) as bar,
    ):
        try:
            for line in workers.stdout:
                news = _news(line)
                if news is None:
                    tail.append(line.rstrip())
                elif "done" in news:
                    bar.update(news["done"] - bar.n)
                elif "error" in news:
                    errors.append(news["error"])
                elif "result" in news:
                    rows = news["result"]
                elif on_epoch is not None:
                    on_epoch(pd.DataFrame(news["history"]))
        finally:
            # An interrupted cell, or a callback's error: no process outlives it.
            if workers.poll() is None:
                workers.terminate()
            release(run.training_claim)
    if workers.returncode:
        raise WorkerError(
            f"training ended with exit code {workers.returncode} in one of {plan.processes} processes. The last finished epoch is "
            "kept: resume=True goes on from there. What the processes said last:\n"
            + "\n".join(errors or tail)
        )
    return pd.DataFrame(rows)


def _news(line: str) -> dict | None:
    """What a line of the first process tells; None for anything else."""
    try:
        news = json.loads(line)
    except ValueError:
        return None
    return news if isinstance(news, dict) and news.keys() & {"done", "history", "result", "error"} else None


def _tell(**news: object) -> None:
    print(json.dumps(news), flush=True)


def work(params: Train, plan: DevicePlan | None = None) -> None:
    """What each process does.

    Args:
        params: of 02_train.
        plan: by which the run was started; None: it is still to be started, and the first process plans for all.
    """
    world = World.join(on_cpu=(plan or params).device == "cpu")
    params, dataset = actions.follow(params, load_dataset(params.dataset, params.config))

    def begin() -> None:
        if plan is None:
            start_run(params)
        _pack(dataset, params)

    world.from_first(begin)
    train, val = _pack(dataset, params)
    torch.manual_seed(params.seed)
    spec = ModelSpec(params.architecture, params.encoder, dataset.classes, long_side=params.long_side)
    model = build(spec, params.encoder_weights)
    if plan is None:
        plan = world.from_first(lambda: _plan(params, model, train, val, world))
    plan = replace(plan, device=world.device)
    if plan.cache == "ram":
        train, val = train.in_memory(), val.in_memory()
    done, told = 0, 0.0

    def on_images(count: int) -> None:
        nonlocal done, told
        done += count
        if world.leads and time.monotonic() > told + _BEAT:
            told = time.monotonic()
            _tell(done=done)

    def on_epoch(history: pd.DataFrame) -> None:
        nonlocal done
        done = len(history) * len(train)
        _tell(history=history.to_dict("records"))

    history = fit(Run(Run.folder(params.run)), model, train, val, params, plan, on_epoch, on_images, world)
    if world.leads:
        _tell(result=history.to_dict("records"))
    world.leave()


def _plan(params: Train, model: Segmenter, train: CachedSplit, val: CachedSplit, world: World) -> DevicePlan:
    """A plan for all processes, made in the first of them."""
    machine = replace(Machine.here(), sharing=world.local)
    if world.device == "cpu":
        machine = replace(machine, gpus=(), mps=False)
    if world.size > 1:
        # torchrun sets OMP_NUM_THREADS to 1 where nobody has asked for a number.
        asked_for = os.environ.get("OMP_NUM_THREADS", "1") != "1"
        cores = min(machine.cores, psutil.cpu_count(logical=False) or machine.cores)
        machine = replace(machine, threads=machine.threads * world.local if asked_for else cores)
    return plan_training(params.model_copy(update={"processes": world.size}), model, train, val, machine)


def _pack(dataset, params: Train) -> tuple[CachedSplit, CachedSplit]:
    return (
        build_cache(dataset, "train", params.long_side, cache=params.cache),
        build_cache(dataset, "val", params.long_side, original_masks=True, cache=params.cache),
    )


def main(arguments: list[str] | None = None) -> None:
    """The entry point of every process."""
    parser = argparse.ArgumentParser(
        prog="seglib.train.launch", description="Train in the processes that torchrun started."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--params", help="a parameter file of the chain, as for `seglib run`")
    source.add_argument("--started", help="a run that 02_train has prepared: its params.json")
    parser.add_argument(
        *("-p", "--parameter"),
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="goes before the file's",
    )
    parser.add_argument("--plan", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.started and not given.plan:
        parser.error(
            "a run that 02_train has prepared comes with its plan: start it from there, or use --params"
        )
    path = resolve_path(given.params) if given.params else Run(Run.folder(given.started)).params
    params = Train.check(check_chain(read_file(path) | read_parameters(given.parameters))["02_train"])
    try:
        work(params, DevicePlan(**given.plan) if given.plan else None)
    except Exception as error:
        _tell(error=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
