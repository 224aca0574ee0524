"""A few training steps on this machine, for what cannot be known before: an image's memory, and whether half precision is slow."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from seglib.params import Train
from seglib.train.cpu import accelerate
from seglib.train.device import DevicePlan, Job, Machine, choose_micro_batch, choose_plan, out_of_memory
from seglib.train.loader import CachedSplit, crop_size
from seglib.train.loss import HybridLoss
from seglib.train.model import Segmenter, enough_images

# Pixels of a trial step: seconds on a CPU, and a GPU is filled.
_PIXELS = {"cpu": 1 << 18, "mps": 1 << 19, "cuda": 1 << 22}
_ROUNDS = 3
_CLEARLY_SLOWER = 1.15


def plan_training(
    params: Train, model: Segmenter, train: CachedSplit, val: CachedSplit, machine: Machine | None = None
) -> DevicePlan:
    """Choose how to train `model` on this machine. Every parameter that is not "auto" or 0 is taken as asked for.

    Precision follows from what the device can do, so that a run repeats; only half precision that a trial finds clearly slower
    than float32 is not used. The trial tells how much memory an image takes, too.

    Raises:
        ValueError: a device or precision that this machine does not have; more processes than images a step.
    """
    machine = machine or Machine.find(params.device)
    job = Job(
        batch_size=min(params.batch_size, len(train)),
        cache_bytes=train.nbytes + val.nbytes,
        stored=train.stored and val.stored,
        weights=sum(weight.numel() for weight in model.parameters()),
        accelerations=tuple(accelerate(copy.deepcopy(model))),
    )
    plan, image_bytes = choose_plan(params, job, machine), [0]
    half = params.precision == "auto" and plan.precision in ("bf16", "fp16")
    if half or not params.micro_batch:
        plans = [plan, replace(plan, precision="fp32")] if half else [plan]
        crop = crop_size(train, params)
        images = min(job.batch_size, max(2, _PIXELS[plan.kind] // (crop[0] * crop[1])))
        seconds, image_bytes = measure(plans, model, crop, images)
        if seconds[0] > _CLEARLY_SLOWER * seconds[-1]:
            slow = f"{plan.precision} took {seconds[0] / seconds[1]:.1f} times as long as fp32 in a trial"
            plan = replace(plans[1], reasons=plan.reasons | {"precision": slow})
    return choose_micro_batch(plan, params, job, machine, max(image_bytes))


def measure(
    plans: list[DevicePlan], model: Segmenter, crop: tuple[int, int], images: int
) -> tuple[list[float], list[int]]:
    """Take a few training steps with each plan, in turns, so that other work on this machine slows all of them down.

    Returns the seconds of the fastest step with each plan, and the bytes that a step keeps for each image. A step has `images` of
    the size `crop`, or fewer where they do not fit the memory. The model is copied.
    """
    try:
        with torch.random.fork_rng():  # dropout must not change what the training draws
            steps = [_training_step(plan, model, crop, images) for plan in plans]
            sizes = [_kept_bytes(step) // images for step in steps]
            rounds = [[step() for step in steps] for _ in range(_ROUNDS)]
        return np.min(rounds, axis=0).tolist(), sizes
    except RuntimeError as error:
        if images == 1 or not out_of_memory(error):
            raise
    return measure(plans, model, crop, images // 2)


def _training_step(
    plan: DevicePlan, model: Segmenter, crop: tuple[int, int], images: int
) -> Callable[[], float]:
    """Return a function that computes a gradient and returns its seconds."""
    model, loss = plan.place(copy.deepcopy(model)).train(), HybridLoss().to(plan.device)
    if plan.accelerate:
        accelerate(model)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, *crop), generator=random).float().to(plan.device)
    pixels = pixels.contiguous(memory_format=plan.memory_format)
    masks = torch.randint(0, len(model.spec.classes), (images, *crop), generator=random)
    masks = masks.byte().to(plan.device)

    def step() -> float:
        started = time.perf_counter()
        with plan.applied():
            with plan.autocast(), enough_images(model.spec, pixels):
                logits = model(pixels)
            total = loss(logits, masks).total
            total.backward()
            total.item()  # waits for a GPU
        model.zero_grad()
        return time.perf_counter() - started

    return step


def _kept_bytes(step: Callable[[], float]) -> int:
    """Take a step and add up what autograd keeps for the backward pass."""
    kept: dict[int, int] = {}  # by the address of the memory

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())
