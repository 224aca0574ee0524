"""Open the dataset, start the run, and train: `fit` in this process, `launch` in several if the plan says so."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

import pandas as pd
from tqdm.auto import tqdm

from seglib import actions
from seglib.data import Dataset, DatasetError, compare_digests, load_dataset
from seglib.params import OTHERS, ParameterError, Train
from seglib.runs import Run, display_path, environment, lock, read_json, read_table, resolve_path, write_json
from seglib.train.device import DevicePlan
from seglib.train.distributed import DistributedContext
from seglib.train.loader import CachedSplit
from seglib.train.model import Segmenter
from seglib.train.trainer import Trainer

_LOCK = ".training"
_HALF_WRITTEN = ".*-????????.*"
# Parameters that say how to compute, not what: a run may go on with others, on another machine for instance.
_MAY_CHANGE = {
    *("device", "precision", "memory_format", "compile", "accelerate", "processes", "threads", "micro_batch"),
    *("cache", "workers", "resume", "replace", "track"),
}
_TAIL = 60  # lines of torchrun's output that an error shows


def open_dataset(params: Train) -> tuple[Train, Dataset]:
    """Open the dataset of 02_train and follow its actions: they change parameters, and exclude samples from the dataset."""
    return actions.follow(params, load_dataset(params.dataset, params.config))


def start_run(params: Train) -> Run:
    """Make the run folder for these parameters, with params.json in it and a copy of the actions that it follows.

    Raises:
        FileExistsError: trained already, and neither `resume` nor `replace` allows to go on.
        ParameterError: resuming with other parameters than it was started with (those that only say how to compute may differ), or
            after its actions were changed.
        InUseError: another process is training it.
    """
    with lock(Run.folder(params.run) / _LOCK, "training"):
        run = Run.create(params.run, params.resume, params.replace)
        for folder in (run.path, run.last_checkpoint.parent):  # what a killed training left
            for left in folder.glob(_HALF_WRITTEN):
                left.unlink(missing_ok=True)
        values, before = params.model_dump(), {}
        with contextlib.suppress(FileNotFoundError if params.resume else (FileNotFoundError, ValueError)):
            before = read_json(run.params)
        what = values.keys() & before.keys() - _MAY_CHANGE
        changed = [f"{n}: {before[n]!r} -> {values[n]!r}" for n in sorted(what) if before[n] != values[n]]
        if changed and params.resume and run.last_checkpoint.exists():
            raise ParameterError(
                f"run {run.name!r} was started with other parameters ({', '.join(changed)}). Resume with the same ones, or start another run."
            )
        _keep_actions(run, params)
        # What the chain has noted for the other notebooks stays.
        write_json(run.params, values | {name: before[name] for name in OTHERS if name in before})
        return run


def _keep_actions(run: Run, params: Train) -> None:
    kept, path = run.path / "actions.yaml", resolve_path(params.actions)
    if not params.actions:
        kept.unlink(missing_ok=True)
    elif params.resume and kept.exists() and not actions.read(path).trains_like(actions.read(kept)):
        raise ParameterError(
            f"{display_path(path)} was changed since run {run.name!r} began; what the run began with is in {display_path(kept)}. Resume with "
            "that, or start another run."
        )
    elif path != kept:
        shutil.copyfile(path, kept)


def fit(
    run: Run,
    model: Segmenter,
    train: CachedSplit,
    val: CachedSplit,
    params: Train,
    plan: DevicePlan,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train in this process; keep the model that is best by validation mean IoU, and the last one with all that resuming needs.

    Args:
        run: from `start_run`; receives checkpoints/best.pth and last.pth, history.csv, steps.csv, environment.json and data.json.
        model: from `build_model`; left as it is, so that a training that was stopped can begin again.
        train, val: cached splits; val with its masks at original size.
        params, plan: of 02_train, and of this machine.
        on_epoch: called with the history (one row an epoch, as in history.csv) after each epoch; the whole is returned.

    Raises:
        FileExistsError, InUseError: trained already and `params.resume` is False; another process is training it.
        NonFiniteLossError, OutOfMemoryError, DatasetError: the last where the data are others than when the run was begun.
    """
    context = DistributedContext.current()
    with contextlib.ExitStack() as stack:
        if context.is_main:
            stack.enter_context(lock(run.path / _LOCK, "training"))
        resuming = context.broadcast(lambda: _begin(run, train, val, params, plan))
        stack.enter_context(plan.applied())
        if plan.cache == "ram":
            train, val = train.in_memory(), val.in_memory()
        trainer = Trainer(run, copy.deepcopy(model), train, val, params, plan)
        history = trainer.resume() if resuming else []
        if history and context.is_main:  # a kill may have left the tables an epoch before the checkpoint
            trainer.write_tables(history)
        log, close = _tracker(params.track if context.is_main else "csv", run, params)
        stack.callback(close)
        images = {
            "initial": len(history) * len(train),
            "total": params.epochs * len(train),
            "unit": " images",
        }
        seldom = {"mininterval": 0.1 if context.size == 1 else 30}  # torchrun prints a line for every update
        bar = stack.enter_context(tqdm(**images, **seldom, leave=False, disable=not context.is_main))
        while len(history) < params.epochs and not _is_stale(history, params.patience):
            started, epoch = time.perf_counter(), len(history) + 1
            bar.set_description(f"epoch {epoch} of {params.epochs}")
            row = {"epoch": epoch} | trainer.train_epoch(epoch, bar.update) | trainer.validate()
            best = not history or row["val_miou"] > max(row["val_miou"] for row in history)
            seconds = time.perf_counter() - started
            row |= {"seconds": seconds, "seconds_left": seconds * (params.epochs - epoch), "best": bool(best)}
            history.append(row)
            context.broadcast(lambda: trainer.save(history))
            bar.set_postfix({"val mean IoU": f"{row['val_miou']:.3f}"})
            for step in trainer.steps[trainer.steps["epoch"] == epoch].to_dict("records"):
                log({f"step/{name}": value for name, value in step.items() if name != "step"}, step["step"])
            log({name: float(value) for name, value in row.items()}, step["step"])
            if on_epoch is not None:
                on_epoch(pd.DataFrame(history))
    return pd.DataFrame(history)


def _begin(run: Run, train: CachedSplit, val: CachedSplit, params: Train, plan: DevicePlan) -> bool:
    """Write down data and plan; returns whether the training goes on from a checkpoint."""
    resuming = run.last_checkpoint.exists()
    if resuming and not params.resume:
        raise FileExistsError(
            f"run {run.name!r} has trained some epochs already, which would be lost. Set resume = True and start again from the "
            "parameters to go on after the last of them, or choose another run name."
        )
    data = {"train": train.files, "val": val.files}
    before = read_json(run.data) if resuming and run.data.is_file() else {}
    changes = {split: compare_digests(before[split], data[split]) for split in data if split in before}
    if told := "; ".join(f"{split}: {found}" for split, found in changes.items() if found):
        raise DatasetError(
            f"the data changed since run {run.name!r} was begun ({told}). Resuming would mix two trainings: restore what it was, or "
            "start another run."
        )
    write_json(run.data, data)
    write_json(run.path / "environment.json", environment() | {"plan": asdict(plan)})
    return resuming


def _is_stale(history: list[dict], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better; never with a patience of 0."""
    return 0 < patience <= len(history) and not any(row["best"] for row in history[-patience:])


def _tracker(kind: str, run: Run, params: Train) -> tuple[Callable[[dict, int], None], Callable[[], None]]:
    """Return what records scalars at a step in TensorBoard or Weights & Biases (or does nothing), and what ends it."""
    try:
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(run.path / "tensorboard")

            def log(values: dict, step: int) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)

            return log, writer.close
        if kind == "wandb":
            import wandb

            about = {"name": run.name, "id": run.name, "dir": run.path, "config": params.model_dump()}
            session = wandb.init(project="seglib", resume="allow", **about)
            return session.log, session.finish
    except ImportError as error:
        raise ModuleNotFoundError(
            f"track={kind!r} needs a package that is not installed: run `pip install -e '.[{kind}]'`, or set track='csv'."
        ) from error
    return lambda *_: None, lambda: None


def launch(
    run: Run,
    model: Segmenter,
    train: CachedSplit,
    val: CachedSplit,
    params: Train,
    plan: DevicePlan,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train as planned: `fit` in this process, or in `plan.processes` of torchrun's, whose output is shown here.

    Those read the run's parameters and build model and data themselves, since forking fails once CUDA is in use and does not exist
    on Windows. Arguments and result are those of `fit`.

    Raises:
        RuntimeError: a process failed or was killed; the others are ended, and the last finished epoch is kept.
    """
    if plan.processes == 1:
        return fit(run, model, train, val, params, plan, on_epoch)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.processes}"]
    worker = ["-m", "seglib.train.launch", "--params", str(run.params), "--plan", json.dumps(asdict(plan))]
    tail, epochs = deque(maxlen=_TAIL), 0
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    with subprocess.Popen([sys.executable, *torchrun, *worker], **how) as processes:
        try:
            for line in filter(str.strip, processes.stdout):
                tail.append(line)
                print(line, end="", flush=True)
                history = (
                    read_table(run.history, index_col=False) if on_epoch and run.history.exists() else ()
                )
                if len(history) > epochs:
                    epochs = len(history)
                    on_epoch(history)
        finally:
            processes.terminate()  # no process outlives an interrupted cell
    if processes.returncode:
        raise RuntimeError(
            f"training ended with exit code {processes.returncode} in one of {plan.processes} processes. The last finished epoch is "
            f"kept: resume=True goes on from there. What the processes said last:\n{''.join(tail)}"
        )
    return read_table(run.history, index_col=False)
