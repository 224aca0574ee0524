"""What 02 does, in its order: open the dataset, start the run, plan, and train, in this process or in several."""

import contextlib
import copy
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from seglib import actions, runs
from seglib.data import Dataset, DatasetError, compare_digests, load_dataset
from seglib.params import OTHERS, ParameterError, Train
from seglib.runs import Run
from seglib.train.cpu import accelerate
from seglib.train.device import DevicePlan, Machine, make_plan
from seglib.train.loader import CachedSplit, crop_size
from seglib.train.loss import HybridLoss
from seglib.train.model import ModelError, Segmenter
from seglib.train.trainer import DistributedContext, Trainer

_LOCK = ".training"
_STEP_SHARE = {"cpu": 0.5, "mps": 0.5, "cuda": 0.85}  # of the device's free memory, for one training step
_SLACK = 1.3  # memory of a step over what autograd keeps: gradients on their way, work space
# Parameters that say how to compute, not what: a run may go on with others, on another machine for instance.
_MAY_CHANGE = {"resume", "replace", *(choice.name for choice in fields(DevicePlan))}


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


def plan_training(
    params: Train, model: Segmenter, train: CachedSplit, machine: Machine | None = None
) -> DevicePlan:
    """Choose how to train `model` on this machine. Every parameter that is not "auto" or 0 is taken as asked for.

    The rest follows from what the machine can do, so that a run repeats. A ValueError names what it cannot do.
    """
    machine, batch_size = machine or Machine.find(params.device), min(params.batch_size, len(train))
    plan = make_plan(params.device, params.precision, machine)
    chosen, reasons = {}, {"encoder_weights": model.origin} | plan.reasons

    def choose(name: str, value: Any, why: str) -> Any:
        asked = getattr(params, name)
        chosen[name], reasons[name] = (value, why) if asked in ("auto", 0) else (asked, "asked for")
        return chosen[name]

    layout, why = plan.memory_format, reasons["memory_format"]
    if plan.kind == "cpu" and any(_breaks_channels_last(module) for module in model.modules()):
        layout, why = "contiguous", "PyTorch 2.14 crashes in channels_last on one of its convolutions"
    layout = choose("memory_format", layout, why)
    compiled = choose("compile", "off", "takes a minute or more; try it for long trainings on a GPU")
    done = accelerate(copy.deepcopy(model))
    fast = params.accelerate and (plan.kind, layout, compiled) == ("cpu", "channels_last", "off")
    chosen["accelerate"] = fast and bool(done)
    told = "; ".join(done) or "nothing in this model is slow on a CPU"
    reasons["accelerate"] = told if fast else "for CPUs in channels_last, without torch.compile"
    several = plan.device == "cuda" and 1 < machine.gpus <= batch_size
    processes = choose("processes", machine.gpus if several else 1, "one for each device")
    if processes > batch_size:
        told = f"{processes} processes cannot share a batch of {batch_size} images"
        raise ValueError(f"{told}. Enlarge batch_size (or the dataset), or ask for fewer processes.")
    threads = choose("threads", max(1, machine.threads // processes), "all, shared by the processes")
    cache = choose("cache", "disk", "mapped: the system keeps in memory what it has room for")
    workers = threads if cache == "none" else 2 * (plan.kind == "cuda")
    choose("workers", workers, "what cutting or decoding batches beside the training needs")
    fits, why, share = params.micro_batch, "asked for", math.ceil(batch_size / processes)
    if not fits:
        image_bytes = measure(replace(plan, **chosen), model, crop_size(train, params), min(2, batch_size))
        # Weights, their gradients and AdamW's two moments take 4 bytes each.
        memory = machine.memory - 16 * sum(weight.numel() for weight in model.parameters())
        budget = _STEP_SHARE[plan.kind] * memory / (processes if plan.kind == "cpu" else 1)
        fits = max(1, int(budget / (_SLACK * image_bytes)))
        why = f"an image takes {image_bytes / 1e6:,.0f} MB in a step; {budget / 1e9:,.1f} GB may be used"
    parts = math.ceil(share / min(share, fits))  # the batch is shared evenly
    why += f"; {parts} make a step, and normalization and Dice see one at a time" * (parts > 1)
    reasons["micro_batch"] = why
    return replace(plan, micro_batch=math.ceil(share / parts), reasons=reasons, **chosen)


def _breaks_channels_last(module: nn.Module) -> bool:
    """Tell a convolution (of FastViT, MobileOne) whose gradient writes beyond its memory on a CPU."""
    strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and max(module.stride) > 1
    return strided and module.in_channels < 16  # tried: 2 to 12 crash, 16 and more do not


def measure(plan: DevicePlan, model: Segmenter, crop: tuple[int, int], images: int) -> float:
    """Try a step of some crops on a copy of `model`: the bytes that autograd keeps of each for the backward pass."""
    model, kept = plan.place(copy.deepcopy(model)).train(), {}  # bytes by the address of the memory
    pixels = torch.zeros(images, 3, *crop, device=plan.device).contiguous(memory_format=plan.layout)
    masks = torch.zeros(images, *crop, dtype=torch.uint8, device=plan.device)

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        try:
            with plan.autocast():
                logits = model(pixels)
        except ValueError as error:  # of torch: a norm of one value has no variance
            if images > 1:
                raise
            told = f"{model.spec.architecture} cannot be trained on one image at a time ({error})"
            raise ModelError(f"{told}. Set batch_size to 2 or more, or add training images.") from None
        HybridLoss()(logits, masks)
    return sum(kept.values()) / images


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
        trainer = Trainer(copy.deepcopy(model), train, val, params, plan)
        history = trainer.resume(run) if resuming else []
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
        told = f"exit code {processes.returncode} in one of {plan.processes} processes"
        said = "".join(lines[-60:])
        raise RuntimeError(f"{told}. Go on with resume=True. What they said last:\n{said}")
    return pd.read_csv(run.history)
