"""Trial steps: what a few of them cost on this machine, remembered, and the plan that follows from them."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from seglib.params import Train
from seglib.runs import project_root, write_json
from seglib.train.batches import batch_edges
from seglib.train.device import make_plan, out_of_memory
from seglib.train.loader import CachedSplit
from seglib.train.loss import HybridLoss
from seglib.train.machine import Machine
from seglib.train.model import ModelError, Segmenter, enough_images
from seglib.train.plans import DevicePlan, Job, Trial
from seglib.train.views import crop_size

_PIXELS = {
    "cpu": 1 << 18,
    "mps": 1 << 19,
    "cuda": 1 << 22,
}  # of a trial step: seconds on a processor, and a GPU is filled
_STEPS, _SECONDS = 6, 2.0  # the most of a trial, after one step to warm up; at least two steps


def plan_training(
    params: Train, model: Segmenter, train: CachedSplit, val: CachedSplit, machine: Machine | None = None
) -> DevicePlan:
    """The plan for training `model` on this machine.

    Where capabilities do not decide, candidates are tried for a few steps; the times are remembered in
    artifacts/hardware.json, so that the next training like this one starts at once.

    Args:
        params: of 02_train; what is not "auto" or 0 there is taken as it is.
        model: from `models.build`; left as it is.
        train, val: what will be read.
        machine: what is known of this machine; found out by default.

    Raises:
        ValueError: a device or precision that this machine does not have; more processes than images a step.
    """
    machine = machine or Machine.here()
    job = Job(
        batch_size=min(params.batch_size, len(train)),
        steps=params.epochs * (len(batch_edges(len(train), params.batch_size)) + 1),
        cache_bytes=train.nbytes + val.nbytes,
        stored=train.stored and val.stored,
        weights=sum(weight.numel() for weight in model.parameters()),
    )
    crop = crop_size(train, params.crop_height, params.crop_width)
    memory = Memory(
        project_root() / "artifacts" / "hardware.json",
        machine.signature,
        f"{params.architecture}, {params.encoder}, {len(model.spec.classes)} classes, {crop[0]} x {crop[1]} pixels",
    )

    def trial(candidate: DevicePlan) -> Trial:
        tried = f"{candidate.label}, {candidate.device}, {candidate.threads} threads"
        found = memory.get(tried)
        images = min(job.batch_size, max(2, _PIXELS[candidate.kind] // (crop[0] * crop[1])))
        shortage = None
        while found is None:
            try:
                found = measure(candidate, model, crop, images)
            except (
                ModelError
            ) as error:  # one image is too few for this network; there may be no memory for two
                raise (shortage or error) from None
            except RuntimeError as error:
                if images == 1 or not out_of_memory(error):
                    raise
                shortage = error
                images //= 2
        memory.put(tried, found)
        return found

    return make_plan(
        params.device,
        params.precision,
        memory_format=params.memory_format,
        compile=params.compile,
        processes=params.processes,
        threads=params.threads,
        micro_batch=params.micro_batch,
        cache=params.cache,
        workers=params.workers,
        job=job,
        machine=machine,
        trial=trial,
    )


def measure(plan: DevicePlan, model: Segmenter, crop: tuple[int, int], images: int) -> Trial:
    """Seconds an image of the fastest of a few training steps, and the bytes that a step keeps for it.

    Args:
        plan: how to compute.
        model: copied; left as it is.
        crop: (height, width) of the images, pixels.
        images: a step.
    """
    model = plan.place(copy.deepcopy(model)).train()
    loss = HybridLoss().to(plan.device)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (images, 3, *crop), generator=generator).float().to(plan.device)
    pictures = pictures.contiguous(memory_format=plan.memory_format)
    masks = torch.randint(
        0, len(model.spec.classes), (len(pictures), *crop), generator=generator, dtype=torch.uint8
    )
    masks = masks.to(plan.device)

    def step() -> float:
        _finish(plan)
        started = time.perf_counter()
        with plan.autocast(), enough_images(model.spec, pictures):
            logits = model(pictures)
        loss(logits, masks).total.backward()
        _finish(plan)
        return time.perf_counter() - started

    with _state_kept(), plan.repeating():
        with _kept_bytes() as kept:
            step()
        taken = []
        while len(taken) < 2 or (len(taken) < _STEPS and sum(taken) < _SECONDS):
            taken.append(step())
    # The fastest: whatever else runs here can only slow a step down.
    return Trial(min(taken) / len(pictures), sum(kept.values()) // len(pictures))


def _finish(plan: DevicePlan) -> None:
    if plan.kind == "cuda":
        torch.cuda.synchronize(plan.device)
    elif plan.kind == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def _state_kept():
    """Whatever is drawn at random inside (dropout) leaves what is drawn afterwards unchanged."""
    with torch.random.fork_rng():
        yield


@contextlib.contextmanager
def _kept_bytes():
    """Bytes that autograd keeps for the backward pass, by the address of the memory."""
    kept: dict[int, int] = {}

    def build_cache(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(build_cache, lambda tensor: tensor):
        yield kept


class Memory:
    """Trials of one kind of training on one machine, kept in a JSON file.

    Args:
        path: the file; one that cannot be read counts as empty.
        machine, job: what the trials hold for.
    """

    def __init__(self, path: Path, machine: str, job: str) -> None:
        self.path, self.keys = path, (machine, job)

    def get(self, candidate: str) -> Trial | None:
        entry = self._all().get(self.keys[0], {}).get(self.keys[1], {}).get(candidate)
        try:
            trial = Trial(float(entry["seconds"]), int(entry["image_bytes"]))
        except (TypeError, KeyError, ValueError, OverflowError):
            return None
        return trial if trial.seconds > 0 else None

    def put(self, candidate: str, trial: Trial) -> None:
        stored = self._all()
        job = stored.setdefault(self.keys[0], {}).setdefault(self.keys[1], {})
        job[candidate] = {"seconds": trial.seconds, "image_bytes": trial.image_bytes}
        write_json(self.path, stored)

    def _all(self) -> dict:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        fits = isinstance(stored, dict) and all(
            isinstance(jobs, dict) and all(isinstance(job, dict) for job in jobs.values())
            for jobs in stored.values()
        )
        return stored if fits else {}
