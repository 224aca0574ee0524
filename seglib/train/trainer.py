"""One training's model, optimizer and data: an epoch of steps, a validation, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from seglib import metrics
from seglib.checks import class_weights
from seglib.params import Train
from seglib.runs import Run, display_path, write_csv
from seglib.train.cpu import accelerate
from seglib.train.device import DevicePlan, out_of_memory
from seglib.train.distributed import DistributedContext
from seglib.train.loader import (
    Batch,
    CachedSplit,
    augmented,
    batch_edges,
    crop_size,
    portions,
    scoring_batches,
    training_batches,
)
from seglib.train.loss import HybridLoss
from seglib.train.model import ModelError, Segmenter, enough_images, load_checkpoint, save_checkpoint

_TERMS = ["loss", "ce", "dice", "focal"]
_STEPS = ["epoch", "step", *_TERMS, "grad_norm", "learning_rate", "images_per_second"]  # columns of steps.csv
_FINAL_RATE = 0.01  # share of the learning rate that the cosine ends on
_LOOK = {"cuda": 50}  # steps between two looks at the loss, for each of which the CPU waits for the GPU


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite; names the epoch, the step, its samples and what to try."""


class OutOfMemoryError(RuntimeError):
    """A micro-batch does not fit the device's memory."""


class Trainer:
    """What stays the same through all epochs of one training; the arguments are those of `fit`. Trains `model` itself."""

    def __init__(
        self,
        run: Run,
        model: Segmenter,
        train: CachedSplit,
        val: CachedSplit,
        params: Train,
        plan: DevicePlan,
    ) -> None:
        self.run, self.train, self.val, self.params, self.plan = run, train, val, params, plan
        self.context = context = DistributedContext.current()
        if context.size > 1 and plan.kind == "cuda":
            model = convert_sync_batchnorm(model)  # on CPUs each process normalizes its own images
        self.model = plan.place(model)
        if plan.accelerate:
            accelerate(self.model)
        if plan.compile:
            self.model.compile()
        self.wrapped: nn.Module | None = None
        self.crop = crop_size(train, params)
        weights = None
        if params.class_weights != "none":
            weights = class_weights(train.pixel_counts, params.class_weights)
        terms = (params.ce_weight, params.dice_weight, params.focal_weight, weights)
        reduce = context.all_reduce if context.size > 1 else None
        self.loss = HybridLoss(*terms, label_smoothing=params.label_smoothing, reduce=reduce).to(plan.device)
        self.scoring_loss = HybridLoss(*terms).to(plan.device)
        self.optimizer = make_optimizer(self.model, params)
        self.scaler = torch.amp.GradScaler(enabled=plan.precision == "fp16")
        self.average = moving_average(self.model, params.ema_decay) if params.ema_decay else None
        # What resuming needs beside the model.
        self.parts = {"optimizer": self.optimizer, "scaler": self.scaler}
        if self.average:
            self.parts["average"] = self.average
        self.micro_batch = plan.micro_batch or params.batch_size
        self.steps = pd.DataFrame(columns=_STEPS)
        edges = [0, *batch_edges(len(train), params.batch_size, context.size), len(train)]
        self.sizes = np.diff(edges).tolist()  # of an epoch's batches

    @property
    def scored_model(self) -> Segmenter:
        """What is validated and kept as the best: the averaged weights where they are averaged."""
        return self.average.module if self.average else self.model

    def train_epoch(self, epoch: int, on_images: Callable[[int], Any]) -> dict[str, float]:
        """Train on every sample once; returns the columns of history.csv that tell of it.

        Order and augmentation depend on the seed and on `epoch` (from 1 on) alone, so that a resumed run goes on exactly as an
        uninterrupted one. `on_images` is called after each step with its number of images.
        """
        params, plan, context = self.params, self.plan, self.context
        torch.manual_seed(params.seed * 100_003 + epoch)
        torch.backends.cudnn.benchmark = True  # crops have one size, for which cuDNN may try its algorithms
        self._freeze(epoch)
        batches = training_batches(self.train, params, plan, epoch, context.rank, context.size)
        first, look, started = (epoch - 1) * len(self.sizes), _LOOK.get(plan.kind, 1), time.perf_counter()
        values, samples, rates, times, skipped = [], [], [], [started], 0
        for k, (batch, size) in enumerate(zip(batches, self.sizes, strict=True), 1):
            rates.append(self._set_rate(first + k - 1))
            values.append(self._gradient(batch, size))
            samples.append(batch.index)
            skipped += self._update()
            if k % look == 0 or k == len(self.sizes):
                self._check_finite(torch.stack(values[-look:]), samples[-look:], epoch, k)
            times.append(time.perf_counter())
            on_images(size)
        table = pd.DataFrame(torch.stack(values).double().cpu().numpy(), columns=[*_TERMS, "grad_norm"])
        table["epoch"], table["step"] = epoch, np.arange(first, first + len(table)) + 1
        table["learning_rate"], table["images_per_second"] = rates, np.array(self.sizes) / np.diff(times)
        self.steps = pd.concat([self.steps, table])[_STEPS] if first else table[_STEPS]
        means = {f"train_{name}": float(np.average(table[name], weights=self.sizes)) for name in _TERMS}
        return means | {
            "grad_norm": float(table["grad_norm"].mean()),
            "learning_rate": rates[-1],
            "skipped_steps": skipped,
            "micro_batch": self.micro_batch,
            "images_per_second": len(self.train) / (times[-1] - started),
        }

    def _freeze(self, epoch: int) -> None:
        """Go to training mode; the encoder stays as it is through the first `freeze_epochs`."""
        encoder, frozen = self.model.net.encoder, epoch <= self.params.freeze_epochs
        self.model.train()
        if frozen:
            encoder.eval()
        if self.wrapped is None or next(encoder.parameters()).requires_grad == frozen:
            encoder.requires_grad_(not frozen)
            self.wrapped = self.context.wrap(self.model)

    def _set_rate(self, step: int) -> float:
        epoch = len(self.sizes)
        share = rate(step, self.params.epochs * epoch, round(self.params.warmup_epochs * epoch))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        return self.params.learning_rate * share

    def _gradient(self, batch: Batch, size: int) -> Tensor:
        """Compute the clipped gradient of a step. Returns [*terms, norm of the gradient]."""
        try:
            terms = self._accumulate(batch, size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"out of memory with {self.micro_batch} images of {self.crop} pixels at a time on {self.plan.device}. Resume "
                f"with micro_batch={max(1, self.micro_batch // 2)}, or choose smaller crops or a smaller encoder."
            ) from error
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_norm)
        return torch.cat([terms, norm.detach()[None]])

    def _accumulate(self, batch: Batch, size: int) -> Tensor:
        """Add up the gradients of the micro-batches of a step, which has `size` images over all processes."""
        processes = self.context.size
        shares = np.diff(portions(size, processes))
        # Some networks normalize averages over whole images and cannot be trained on one: a rest of one joins the others.
        most = shares.min() if self.micro_batch == 1 else max(1, shares.min() // 2)
        parts = min(math.ceil(shares.max() / self.micro_batch), most)
        # The share of each micro-batch in the step, over all processes.
        weights = sum(np.diff(portions(share, parts)) for share in shares) / size
        self.optimizer.zero_grad()
        sums = torch.zeros(len(_TERMS), device=self.plan.device)
        for k, (part, weight) in enumerate(zip(batch.split(parts), weights.tolist(), strict=True)):
            images, masks = augmented(part, self.crop, self.plan)
            waits = processes > 1 and k < parts - 1  # gradients are exchanged once a step
            with self.wrapped.no_sync() if waits else contextlib.nullcontext():
                with self.plan.autocast(), enough_images(self.model.spec, images):
                    logits = self.wrapped(images)
                terms = self.loss(logits, masks)
                # Every process knows the loss of the whole batch; their gradients are to be added, not averaged.
                self.scaler.scale(terms.total * (weight * processes)).backward()
            sums += weight * torch.stack([term.detach() for term in terms])
        return sums

    def _update(self) -> bool:
        """Take the step; True if the fp16 scaler left it out, having chosen too large a scale."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale
        if self.average and not skipped:
            self.average.update_parameters(self.model)
        return skipped

    def _check_finite(self, values: Tensor, samples: list[np.ndarray], epoch: int, last: int) -> None:
        """Look at the values (N, 5) of the N steps up to step `last`."""
        # With a scaler an infinite gradient is a skipped step, not the end.
        finite = values[:, : 1 if self.scaler.is_enabled() else None].isfinite().all(1).tolist()
        if not all(finite):
            k = finite.index(False)
            loss, norm = values[k, [0, -1]].tolist()
            raise NonFiniteLossError(
                f"the loss is {loss:.4g} and the gradient's norm {norm:.4g} in epoch {epoch}, step {last - len(values) + k + 1}, on the "
                f"samples {', '.join(self.train.ids[i] for i in samples[k])}. Try a lower learning_rate or clip_norm, or "
                "precision='fp32'; look at these samples in 01_data_check. What was saved before is unharmed."
            )

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return val_loss, val_miou and val_pixel_accuracy at the masks' original size; each image is counted in one process."""
        torch.backends.cudnn.benchmark = False  # images may have any size
        model, context = self.scored_model.eval(), self.context
        context.share_buffers(model)
        classes, loss = len(model.spec.classes), 0.0
        counts = np.zeros((classes, classes), np.int64)
        batches = scoring_batches(self.val, self.micro_batch, context.rank, context.size)
        for index, images, truth in batches:
            with self.plan.autocast():
                logits = model.logits(images.to(self.plan.device), truth.shape[1:])
            target = torch.from_numpy(truth).to(self.plan.device)
            loss += self.scoring_loss(logits, target).total.item() * len(index)
            for mask, pred in zip(truth, logits.argmax(1).to(torch.uint8).cpu().numpy(), strict=True):
                counts += metrics.confusion_matrix(mask, pred, classes)
        totals = torch.tensor([*counts.ravel(), loss], dtype=torch.float64)
        totals = context.all_reduce(totals.to(self.plan.device) if context.size > 1 else totals)
        *pixels, loss = totals.tolist()
        result = metrics.scores(np.array(pixels, np.int64).reshape(1, classes, classes))
        row = {"val_loss": loss / len(self.val), "val_miou": result["mean_iou"]}
        return row | {"val_pixel_accuracy": result["pixel_accuracy"]}

    def save(self, history: list[dict[str, Any]]) -> None:
        """Write checkpoints and tables, each whole or not at all."""
        run, facts = self.run, {name: history[-1][name] for name in ("epoch", "val_miou")}
        if history[-1]["best"]:
            save_checkpoint(run.best_checkpoint, self.scored_model, **facts)
        facts |= {name: part.state_dict() for name, part in self.parts.items()}
        facts |= {"micro_batch": self.micro_batch, "processes": self.context.size, "history": history}
        steps = torch.from_numpy(self.steps.to_numpy(float))
        save_checkpoint(run.last_checkpoint, self.model, steps=steps, **facts)
        self.write_tables(history)

    def write_tables(self, history: list[dict[str, Any]]) -> None:
        """Write history.csv and steps.csv."""
        write_csv(self.run.history, pd.DataFrame(history))
        write_csv(self.run.steps, self.steps)

    def resume(self) -> list[dict[str, Any]]:
        """Go back to the last finished epoch; returns the history so far. Raises ModelError where the checkpoint lacks something."""
        model, extra = load_checkpoint(self.run.last_checkpoint, self.model.spec.classes)
        self.model.load_state_dict(model.state_dict())
        try:
            for name, part in self.parts.items():
                if name != "scaler" or extra[name]:  # empty from a run in another precision
                    part.load_state_dict(extra[name])
            steps = pd.DataFrame(extra["steps"].numpy(), columns=_STEPS)
            self.steps = steps.astype({"epoch": int, "step": int})
            # As it was, since normalization depends on it; but for another number of processes it says nothing.
            if not self.params.micro_batch and extra["processes"] == self.context.size:
                self.micro_batch = min(self.micro_batch, extra["micro_batch"])
            return extra["history"]
        except Exception as error:  # by what is missing, or of another training
            raise ModelError(
                f"{display_path(self.run.last_checkpoint)} does not hold what resuming needs ({type(error).__name__}: {error}). Start "
                "another run."
            ) from error


def make_optimizer(model: Segmenter, params: Train) -> torch.optim.AdamW:
    """AdamW; the encoder learns at `encoder_lr_factor` times the rate; biases and normalization are not decayed.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        lr = params.learning_rate * (params.encoder_lr_factor if name.startswith("net.encoder.") else 1.0)
        groups.setdefault((lr, params.weight_decay if weight.ndim > 1 else 0.0), []).append(weight)
    settings = [{"lr": lr, "initial_lr": lr, "weight_decay": decay} for lr, decay in groups]
    return torch.optim.AdamW(
        [how | {"params": list(own)} for how, own in zip(settings, groups.values(), strict=True)]
    )


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step (0-based): linear warm-up, then a half cosine down to 1 %.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a model whose weights and normalization statistics are an exponential moving average of the model's.

    Early on it forgets faster, min(decay, (1 + updates) / (10 + updates)), so that it does not hang on to the start.
    """

    def update(average: Tensor, now: Tensor, updates: Tensor) -> Tensor:
        keep = ((1 + updates) / (10 + updates)).clamp(max=decay)
        return now.lerp(average, keep) if now.is_floating_point() else now

    return AveragedModel(model, avg_fn=update, use_buffers=True)
