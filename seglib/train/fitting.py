"""Open the dataset, start the run, and train, in this process or in several."""

import contextlib
import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from seglib import actions, runs
from seglib.data import Dataset, DatasetError, compare_digests, load_dataset
from seglib.params import OTHERS, ParameterError, Train
from seglib.runs import Run
from seglib.train.device import DevicePlan
from seglib.train.loader import CachedSplit
from seglib.train.model import Segmenter
from seglib.train.trainer import DistributedContext, Trainer

_LOCK = ".training"
# Parameters that say how to compute, not what: a run may go on with others, on another machine for instance.
_MAY_CHANGE = {
    *("device", "precision", "memory_format", "compile", "accelerate", "processes", "threads", "micro_batch"),
    *("cache", "workers", "resume", "replace", "track"),
}


def open_dataset(params: Train) -> tuple[Train, Dataset]:
    """Open the dataset of 02_train and follow its actions: they change parameters, and exclude samples from the dataset."""
    return actions.follow(params, load_dataset(params.dataset, params.config))


def start_run(params: Train) -> Run:
    """Make the run's folder, with params.json in it and a copy of the actions that it follows.

    Errors: it is trained already (FileExistsError), began with other parameters (ParameterError), is in training (TimeoutError).
    """
    with runs.lock(Run.folder(params.run) / _LOCK, "training"):
        run = Run.create(params.run, params.resume, params.replace)
        for folder in (run.path, run.last_checkpoint.parent):  # what a killed training left
            for left in folder.glob(".*-????????.*"):
                left.unlink(missing_ok=True)
        values, before = params.model_dump(), runs.read_json(run.params) if run.params.exists() else {}
        kept, path = run.path / "actions.yaml", runs.resolve_path(params.actions)
        if params.resume and run.last_checkpoint.exists():
            names = sorted(values.keys() & before.keys() - _MAY_CHANGE)
            changed = [f"{n}: {before[n]!r} -> {values[n]!r}" for n in names if before[n] != values[n]]
            if kept.exists() and params.actions and not actions.read(path).trains_like(actions.read(kept)):
                changed.append(f"{runs.display_path(path)} is not {runs.display_path(kept)}")
            if changed:
                told = f"run {run.name!r} was started with other parameters ({', '.join(changed)})"
                best = runs.display_path(run.best_checkpoint)
                ways = f"Resume with the same ones, or train on in another run with encoder_weights={best}"
                raise ParameterError(f"{told}. {ways}: it takes decoder and head too.")
        if not params.actions:
            kept.unlink(missing_ok=True)
        elif path != kept:
            shutil.copyfile(path, kept)
        # What the chain has noted for the other notebooks stays.
        runs.write_json(run.params, values | {name: before[name] for name in OTHERS if name in before})
        return run


def fit(
    run: Run,
    model: Segmenter,
    train: CachedSplit,
    val: CachedSplit,
    params: Train,
    plan: DevicePlan,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train as planned; keep the model that is best by validation mean IoU, and the last one to resume from.

    `run` receives checkpoints and tables; `model` is left as it is; `val` has its masks at original size.
    `on_epoch` is called after each epoch with the history, a row an epoch, which is returned.
    """
    context, patience = DistributedContext.current(), params.patience or params.epochs
    if plan.processes > context.size:
        return _launch(run, plan, on_epoch)
    with contextlib.ExitStack() as stack:
        if context.is_main:
            stack.enter_context(runs.lock(run.path / _LOCK, "training"))
        resuming = context.broadcast(lambda: _begin(run, train, val, params, plan))
        stack.enter_context(plan.applied())
        if plan.cache == "ram":
            train, val = (replace(split, data=np.array(split.data)) for split in (train, val))
        trainer = Trainer(copy.deepcopy(model), train, val, params, plan)
        history = trainer.resume(run) if resuming else []
        log = _tracker(run, params, stack) if context.is_main else None
        count = {"initial": len(history) * len(train), "total": params.epochs * len(train)}
        seldom = 0.1 if context.size == 1 else 30  # torchrun prints a line for every update
        bar = tqdm(**count, unit=" images", mininterval=seldom, leave=False, disable=not context.is_main)
        stack.enter_context(bar)
        for epoch in range(len(history) + 1, params.epochs + 1):
            if history and not any(row["best"] for row in history[-patience:]):
                break
            started = time.perf_counter()
            bar.set_description(f"epoch {epoch} of {params.epochs}")
            row = {"epoch": epoch} | trainer.train_epoch(epoch, bar.update) | trainer.validate()
            best = not history or row["val_miou"] > max(row["val_miou"] for row in history)
            seconds = time.perf_counter() - started
            row |= {"seconds": seconds, "seconds_left": seconds * (params.epochs - epoch), "best": best}
            history.append(row)
            context.broadcast(lambda: trainer.save(run, history))
            bar.set_postfix({"val mean IoU": f"{row['val_miou']:.3f}"})
            if log:
                log({name: float(value) for name, value in row.items()}, epoch)
            if on_epoch:
                on_epoch(pd.DataFrame(history))
    return pd.DataFrame(history)


def _begin(run: Run, train: CachedSplit, val: CachedSplit, params: Train, plan: DevicePlan) -> bool:
    """Write down data and plan; return whether the training goes on from a checkpoint."""
    held = train.pixel_counts.sum(axis=0) > 0
    if held.sum() < min(2, len(held)):
        told = "the training masks hold one class alone, or none: there is nothing to tell apart. Run 01_data_check"
        raise DatasetError(f"{told}; masks of 0 and 255 need id_map: {{0: 0, 255: 1}} in dataset.yaml.")
    resuming, data = run.last_checkpoint.exists(), {"train": train.files, "val": val.files}
    if resuming and not params.resume:
        told = f"run {run.name!r} has trained some epochs already"
        raise FileExistsError(f"{told}. Set resume = True and start again, or choose another run name.")
    before = runs.read_json(run.data) if resuming else data
    changes = {split: compare_digests(before[split], files) for split, files in data.items()}
    if told := "; ".join(f"{split}: {found}" for split, found in changes.items() if found):
        told = f"the data changed since run {run.name!r} was begun ({told})"
        raise DatasetError(f"{told}. Restore what it was, or start another run.")
    runs.write_json(run.data, data)
    runs.write_json(run.path / "environment.json", runs.environment() | {"plan": asdict(plan)})
    return resuming


def _tracker(run: Run, params: Train, stack: contextlib.ExitStack) -> Callable[[dict, int], Any] | None:
    """Return what records an epoch in TensorBoard or Weights & Biases, until `stack` closes it."""
    if params.track == "wandb":
        import wandb

        about = {"name": run.name, "id": run.name, "dir": run.path, "config": params.model_dump()}
        return stack.enter_context(wandb.init(project="seglib", resume="allow", **about)).log
    if params.track == "csv":
        return None
    from torch.utils.tensorboard import SummaryWriter

    writer = stack.enter_context(SummaryWriter(run.path / "tensorboard"))
    return lambda row, epoch: [writer.add_scalar(*item, epoch) for item in row.items()]


def _launch(run: Run, plan: DevicePlan, on_epoch: Callable[[pd.DataFrame], None] | None) -> pd.DataFrame:
    """Train the run in processes of torchrun's; return the history. A RuntimeError says why one failed.

    Each reads the run's parameters and builds model and data itself: forking fails once CUDA is in use.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.processes}"]
    worker = ["-m", "seglib.train.worker", "--params", str(run.params), "--plan", json.dumps(asdict(plan))]
    lines, history = [], ()
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    with subprocess.Popen([sys.executable, *torchrun, *worker], **how) as processes:
        try:
            for line in processes.stdout:
                lines.append(line)
                print(line, end="", flush=True)
                before, history = history, pd.read_csv(run.history) if run.history.exists() else ()
                if on_epoch and len(history) > len(before):
                    on_epoch(history)
        finally:
            processes.terminate()  # no process outlives an interrupted cell
    if processes.returncode:
        told = (
            f"exit code {processes.returncode} in one of {plan.processes} processes. Go on with resume=True"
        )
        raise RuntimeError(f"{told}. What they said last:\n{''.join(lines[-60:])}")
    return pd.read_csv(run.history)
