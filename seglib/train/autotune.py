"""Take a few training steps on this machine: how much memory an image takes, and whether half precision is slow."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from seglib.params import Train
from seglib.train.cpu import accelerate
from seglib.train.device import DevicePlan, Machine, choose_plan
from seglib.train.loader import CachedSplit, crop_size
from seglib.train.loss import HybridLoss
from seglib.train.model import Segmenter

_PIXELS = {"cpu": 1 << 18, "mps": 1 << 19, "cuda": 1 << 22}  # of a trial step: enough to fill the device
_STEP_SHARE = {"cpu": 0.5, "mps": 0.5, "cuda": 0.85}  # of the device's free memory, for one training step
_SLACK = 1.3  # memory of a step over what autograd keeps: gradients on their way, work space
_ROUNDS = 4
_CLEARLY_SLOWER = 1.15


def plan_training(
    params: Train, model: Segmenter, train: CachedSplit, machine: Machine | None = None
) -> DevicePlan:
    """Choose how to train `model` on this machine. Every parameter that is not "auto" or 0 is taken as asked for.

    Precision follows from what the device can do, so that a run repeats, unless a trial finds half precision clearly slower
    than float32. A ValueError names what this machine cannot do.
    """
    machine, batch_size = machine or Machine.find(params.device), min(params.batch_size, len(train))
    plan = choose_plan(params, machine, batch_size, accelerate(copy.deepcopy(model)))
    half = params.precision == "auto" and plan.precision in ("bf16", "fp16")
    plans, crop = [plan, replace(plan, precision="fp32")] if half else [plan], crop_size(train, params)
    images = min(batch_size, max(2, _PIXELS[plan.kind] // math.prod(crop)))
    opened = half or not params.micro_batch
    found = measure(plans, model, crop, images) if opened else np.ones((1, 2))
    if (ratio := found[0, 0] / found[-1, 0]) > _CLEARLY_SLOWER:
        slow = f"{plan.precision} took {ratio:.1f} times as long as fp32 in a trial"
        plan = replace(plan, precision="fp32", reasons=plan.reasons | {"precision": slow})
    # Weights, their gradients and AdamW's two moments take 4 bytes each.
    memory = machine.memory - 16 * sum(weight.numel() for weight in model.parameters())
    budget = _STEP_SHARE[plan.kind] * memory / (plan.processes if plan.kind == "cpu" else 1)
    image_bytes, share = found[:, 1].max(), math.ceil(batch_size / plan.processes)
    fits = params.micro_batch or max(1, int(budget / (_SLACK * image_bytes)))
    parts = math.ceil(share / min(share, fits))  # the batch is shared evenly
    why = f"an image takes {image_bytes / 1e6:,.0f} MB in a step; {budget / 1e9:,.1f} GB may be used"
    why = "asked for" if params.micro_batch else why
    why += f"; {parts} make a step, and normalization and Dice see one at a time" * (parts > 1)
    reasons = {"encoder_weights": model.origin} | plan.reasons | {"micro_batch": why}
    return replace(plan, micro_batch=math.ceil(share / parts), reasons=reasons)


def measure(plans: list[DevicePlan], model: Segmenter, crop: tuple[int, int], images: int) -> np.ndarray:
    """Take a few steps of `images` crops, or fewer where memory lacks, with each plan, in turns.

    Returns (P, 2) for each plan: the seconds of its fastest step, and the bytes that it keeps for an image.
    """
    try:
        steps = [_training_step(plan, model, crop, images) for plan in plans]
        return np.min([[step() for step in steps] for _ in range(_ROUNDS)], axis=0) / [1, images]
    except torch.OutOfMemoryError:
        if images == 1:
            raise
    return measure(plans, model, crop, images // 2)


def _training_step(plan: DevicePlan, model: Segmenter, crop: tuple[int, int], images: int) -> Callable:
    """Return a function that computes a gradient of a copy: its seconds, and the bytes kept for the backward pass."""
    model, loss = plan.place(copy.deepcopy(model)).train(), HybridLoss()
    pixels = 255 * torch.rand(images, 3, *crop, device=plan.device).contiguous(memory_format=plan.layout)
    masks = torch.randint(len(model.spec.classes), (images, *crop), dtype=torch.uint8, device=plan.device)
    kept: dict[int, int] = {}  # bytes by the address of the memory

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def step() -> tuple[float, int]:
        kept.clear()
        started = time.perf_counter()
        with plan.applied(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with plan.autocast():
                logits = model(pixels)
            total = loss(logits, masks).total
            total.backward()
            total.item()  # waits for a GPU
        model.zero_grad()
        return time.perf_counter() - started, sum(kept.values())

    return step
