"""`fit`: train, keep the best model and the last one, resume."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable

import pandas as pd
from tqdm.auto import tqdm

from seglib import actions
from seglib.data import DatasetError, compare_digests, read_record
from seglib.params import OTHERS, ParameterError, Train
from seglib.runs import (
    Run,
    claim,
    display_path,
    environment,
    read_json,
    read_written,
    release,
    resolve_path,
    write_json,
    write_text,
)
from seglib.train.distributed import World
from seglib.train.loader import CachedSplit
from seglib.train.machine import Machine
from seglib.train.model import Segmenter
from seglib.train.plans import DevicePlan
from seglib.train.tracking import make_tracker
from seglib.train.trainer import Trainer

_LEFT = ".*-????????.*"  # files that were half written
# Parameters that say how to compute, not what: a run may go on with others, on another machine for instance.
_HOW = {
    "device",
    "precision",
    "memory_format",
    "compile",
    "processes",
    "threads",
    "micro_batch",
    "cache",
    "workers",
}
_MAY_CHANGE = _HOW | {"resume", "track"}


def start_run(params: Train) -> Run:
    """The run folder for these parameters, with params.json in it and a copy of the actions that it follows.

    Raises:
        FileExistsError: trained already, and `resume` is False.
        ParameterError: resuming with other parameters than it was started with (those that only say how to compute may differ), or
            after its actions were changed.
        InUseError: another process is training it. This one holds it from here on until `fit` has ended.
    """
    claim(Run(Run.folder(params.run)).training_claim, "training")
    try:
        return _start(params)
    except BaseException:
        release(Run(Run.folder(params.run)).training_claim)
        raise


def _start(params: Train) -> Run:
    run = Run.create(params.run, resume=params.resume)
    for left in (*run.path.glob(_LEFT), *run.path.glob(f"checkpoints/{_LEFT}")):  # when a training was killed
        left.unlink(missing_ok=True)
    values, before = params.model_dump(), {}
    with contextlib.suppress(FileNotFoundError if params.resume else (FileNotFoundError, ValueError)):
        before = read_json(run.params)
    if params.resume and run.last_checkpoint.exists():
        changed = [n for n, v in values.items() if n not in _MAY_CHANGE and before.get(n, v) != v]
        if changed:
            listed = ", ".join(f"{n}: {before[n]!r} -> {values[n]!r}" for n in changed)
            raise ParameterError(
                f"run {run.name!r} was started with other parameters ({listed}). Resume with the same ones, or start another run."
            )
    _keep_actions(run, params)
    # What the chain has noted for the other notebooks stays.
    write_json(run.params, values | {n: before[n] for n in OTHERS if n in before})
    return run


def _keep_actions(run: Run, params: Train) -> None:
    kept = run.path / "actions.yaml"
    if not params.actions:
        kept.unlink(missing_ok=True)
        return
    path = resolve_path(params.actions)
    wanted = actions.read(path)
    if params.resume and kept.exists() and not wanted.trains_like(actions.read(kept)):
        raise ParameterError(
            f"{display_path(path)} was changed since run {run.name!r} began; what the run began with is in {display_path(kept)}. Resume with "
            "that, or start another run."
        )
    write_text(kept, read_written(path))


def fit(
    run: Run,
    model: Segmenter,
    train: CachedSplit,
    val: CachedSplit,
    params: Train,
    plan: DevicePlan,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
    on_images: Callable[[int], None] | None = None,
    world: World | None = None,
) -> pd.DataFrame:
    """Train; keep the model that is best by validation mean IoU, and the last one with all that resuming needs.

    Args:
        run: from `start_run`; receives environment.json, data.json, checkpoints/best.pth, checkpoints/last.pth, history.csv, steps.csv.
        model: from `models.build`; left as it is, so that a training that was stopped can begin again.
        train: packed training split.
        val: packed validation split, with its masks at original resolution.
        params: of 02_train.
        plan: of this machine.
        on_epoch: called with the history after each epoch.
        on_images: called after each step with its number of images, at first with those of epochs that are resumed; without it a
            progress bar is shown.
        world: the processes that train together; this one alone by default.

    Returns:
        The history: one row an epoch, see history.csv.

    Raises:
        FileExistsError: the run has trained already and `params.resume` is False.
        NonFiniteLossError: the loss or its gradient became NaN or infinite.
        OutOfMemoryError: one image alone does not fit the memory.
        DatasetError: resuming with other data than it was begun with.
    """
    world = world or World(device=plan.device)
    with contextlib.ExitStack() as stack:
        stack.callback(release, run.training_claim)
        resuming = run.last_checkpoint.exists()
        if resuming and not params.resume:
            raise FileExistsError(
                f"run {run.name!r} has trained some epochs already, which would be lost. Set resume = True and start again from the "
                "parameters to go on after the last of them, or choose another run name."
            )
        data = {"train": train.files, "val": val.files}
        if resuming:
            _check_data(run, data)
        if world.leads:
            write_json(run.data, data)
            facts = {"machine": Machine.here().name, "plan": plan.to_dict()}
            write_json(run.path / "environment.json", environment() | facts)
        trainer = Trainer(run, copy.deepcopy(model), train, val, params, plan, world)
        rows = trainer.resume() if resuming else []
        if rows and on_images is not None:
            on_images(len(rows) * len(train))
        bar = tqdm(
            total=params.epochs * len(train),
            initial=len(rows) * len(train),
            unit=" images",
            leave=False,
            disable=on_images is not None,
        )
        stack.enter_context(bar)
        tracker = make_tracker(params.track if world.leads else "csv", run, params.model_dump())
        stack.callback(tracker.close)
        while len(rows) < params.epochs and not _stale(rows, params.patience):
            started, epoch = time.perf_counter(), len(rows) + 1
            bar.set_description(f"epoch {epoch} of {params.epochs}")
            row = {"epoch": epoch} | trainer.train_epoch(epoch, on_images or bar.update) | trainer.validate()
            best = not rows or row["val_miou"] > max(row["val_miou"] for row in rows)
            seconds = time.perf_counter() - started
            left = seconds * (params.epochs - epoch)
            rows.append(row | {"seconds": seconds, "seconds_left": left, "best": bool(best)})
            trainer.save(rows, best)
            bar.set_postfix({"val mean IoU": f"{row['val_miou']:.3f}"})
            if world.leads:
                tracker.log_steps(trainer.steps[-1])
                tracker.log(
                    {name: float(v) for name, v in rows[-1].items()}, int(trainer.steps[-1]["step"].iloc[-1])
                )
                if on_epoch is not None:
                    on_epoch(pd.DataFrame(rows))
    return pd.DataFrame(rows)


def _check_data(run: Run, data: dict[str, dict[str, str]]) -> None:
    before = read_record(run.data)
    changes = [
        f"{split}: {found}"
        for split in data
        if split in before and (found := compare_digests(before[split], data[split]))
    ]
    if changes:
        raise DatasetError(
            f"the data changed since run {run.name!r} was begun ({'; '.join(changes)}). Resuming would mix two trainings: restore "
            "what it was, or start another run."
        )


def _stale(rows: list[dict], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better; never with a patience of 0."""
    return 0 < patience <= len(rows) and not any(row["best"] for row in rows[-patience:])
