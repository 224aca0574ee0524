"""One training's model, optimizer and data: an epoch of steps, a validation, checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from seglib import metrics
from seglib.checks import class_weights
from seglib.data import IGNORE
from seglib.params import Train
from seglib.runs import Run, write_csv
from seglib.train import loader
from seglib.train.device import DevicePlan
from seglib.train.loader import Batch, CachedSplit
from seglib.train.loss import HybridLoss, LossTerms
from seglib.train.model import Segmenter, load_checkpoint, save_checkpoint

_TERMS = ["loss", *LossTerms._fields[1:]]
_STEPS = ["epoch", "step", *_TERMS, "grad_norm", "learning_rate", "images_per_second"]  # columns of steps.csv
_LOOK = 50  # steps between two looks at the losses, for which the CPU waits for a GPU


@dataclass(frozen=True)
class DistributedContext:
    """The processes of one training, of which this is number `rank` of `size`. Alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """Return the processes that this one has joined; this one alone if none."""
        joined = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size()) if joined else cls()

    is_main = property(lambda self: self.rank == 0)  # the process that writes the files

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the main process while the others wait; return its result in all of them."""
        made = [make() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(made, src=0)
        return made[0]


class Trainer:
    """One training; the arguments are those of `fit`. Trains `model` itself."""

    def __init__(
        self, model: Segmenter, train: CachedSplit, val: CachedSplit, params: Train, plan: DevicePlan
    ) -> None:
        model.spec = replace(model.spec, images=train.form)  # new images are read as those of the training
        self.train, self.val, self.params, self.plan = train, val, params, plan
        self.context = context = DistributedContext.current()
        if context.size > 1 and plan.kind == "cuda":
            model = convert_sync_batchnorm(model)  # on CPUs each process normalizes its own images
        self.model = self.wrapped = plan.place(model)
        if plan.compile == "on":
            self.model.compile()
        if context.size > 1:  # some encoders have weights that take no part, as the layer before a classifier
            self.wrapped = DistributedDataParallel(self.model, find_unused_parameters=True)
        self.crop = loader.crop_size(train, params)
        kind = params.class_weights
        of_classes = None if kind == "none" else class_weights(train.pixel_counts, kind)
        weights = params.ce_weight, params.dice_weight, params.focal_weight, of_classes
        self.scoring_loss = HybridLoss(*weights).to(plan.device)
        self.loss = HybridLoss(*weights, params.label_smoothing, context.all_reduce).to(plan.device)
        self.optimizer = make_optimizer(self.model, params)
        self.scaler = torch.amp.GradScaler(enabled=plan.precision == "fp16")
        self.average = moving_average(self.model, params.ema_decay) if params.ema_decay else None
        self.scored_model = self.average.module if self.average else self.model  # validated, kept as best
        parts = {"optimizer": self.optimizer, "scaler": self.scaler, "average": self.average}
        self.parts = {name: part for name, part in parts.items() if part}  # resumed beside the model
        self.micro_batch = plan.micro_batch or params.batch_size
        self.sizes = np.diff(loader.batch_edges(len(train), params.batch_size, context.size))
        self.steps = np.empty((0, len(_STEPS)))

    def train_epoch(self, epoch: int, on_images: Callable[[int], Any]) -> dict[str, float]:
        """Train on every sample once; return the columns of history.csv that tell of it.

        Randomness depends on seed and `epoch` (from 1 on) alone, so that a run resumes exactly. `on_images`
        is called with each step's number of images.
        """
        params, context = self.params, self.context
        torch.manual_seed(params.seed * 100_003 + epoch)
        torch.backends.cudnn.benchmark = True  # crops have one size, for which cuDNN may try its algorithms
        self.model.train()
        batches = loader.training_batches(self.train, params, self.plan, epoch, context.rank, context.size)
        count = len(self.sizes)
        first, warmup = (epoch - 1) * count, round(params.warmup_epochs * count)
        shares = np.array([rate(first + k, params.epochs * count, warmup) for k in range(count)])
        values, samples, times = [], [], [time.perf_counter()]
        for k, (batch, size) in enumerate(zip(batches, self.sizes.tolist(), strict=True)):
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * float(shares[k])
            values.append(self._step(batch, size))
            samples.append(batch.index)
            if k % _LOOK == 0 or k == count - 1:
                self._check_finite(torch.stack(values).cpu(), samples, epoch)
            times.append(time.perf_counter())
            on_images(size)
        values, rates = torch.stack(values).double().cpu().numpy(), params.learning_rate * shares
        numbers = np.full(count, epoch), first + 1 + np.arange(count)
        rows = np.column_stack([*numbers, values, rates, self.sizes / np.diff(times)])
        self.steps = np.concatenate([self.steps, rows])
        means = np.average(values, axis=0, weights=self.sizes).tolist()
        return {f"train_{name}": mean for name, mean in zip(_TERMS, means, strict=False)} | {
            "grad_norm": float(values[:, -1].mean()),
            "learning_rate": float(rates[-1]),
            "skipped_steps": int((~np.isfinite(values[:, -1])).sum()),  # by the fp16 scaler
            "micro_batch": self.micro_batch,
            "images_per_second": len(self.train) / (times[-1] - times[0]),
        }

    def _step(self, batch: Batch, size: int) -> Tensor:
        """Take a step of `size` images over all processes: [*terms, norm of the gradient]."""
        processes, model, scaler = self.context.size, self.model, self.scaler
        shares = np.diff(loader.portions(size, processes))
        # Some networks normalize averages over whole images and cannot be trained on one: a rest of one joins the others.
        most = shares.min() if self.micro_batch == 1 else max(1, shares.min() // 2)
        parts = min(math.ceil(shares.max() / self.micro_batch), most)
        self.optimizer.zero_grad()
        sums, valid = torch.zeros(len(_TERMS), device=self.plan.device), 0.0
        for k, part in enumerate(batch.split(parts)):
            images, masks = loader.augmented(part, self.crop, self.plan)
            waits = processes > 1 and k < parts - 1  # gradients are exchanged once a step
            with self.wrapped.no_sync() if waits else contextlib.nullcontext():
                with self.plan.autocast():
                    logits = self.wrapped(images)
                terms = self.loss(logits, masks)
                # Its share of the step's pixels, over all processes; how many of those are valid is known at the end.
                weight = self.context.all_reduce((masks != IGNORE).sum(dtype=torch.float32))
                weight = weight / (size * math.prod(self.crop)) if parts > 1 else 1.0
                # Every process knows the loss of the whole batch; their gradients are to be added, not averaged.
                scaler.scale(terms.total * (weight * processes)).backward()
            sums += weight * torch.stack([term.detach() for term in terms])
            valid += weight
        if parts > 1:
            sums /= (valid := valid.clamp_min(1e-9))
            torch._foreach_div_([p.grad for p in model.parameters() if p.grad is not None], valid)
        scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.params.clip_norm).detach()
        scale = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        if self.average and scaler.get_scale() >= scale:  # else it skipped the step
            self.average.update_parameters(model)
        return torch.cat([sums, norm[None]])

    def _check_finite(self, values: Tensor, samples: list[np.ndarray], epoch: int) -> None:
        """Refuse values (N, 5) of an epoch's first N steps that are not finite (FloatingPointError)."""
        # With a scaler an infinite gradient is a skipped step, not the end.
        odd = ~values[:, : 1 if self.scaler.is_enabled() else None].isfinite().all(1)
        if odd.any():
            k = int(odd.int().argmax())
            ids, (loss, norm) = ", ".join(self.train.ids[i] for i in samples[k]), values[k, [0, -1]].tolist()
            told = f"the loss is {loss:.4g} and the gradient's norm {norm:.4g} in epoch {epoch}, step {k + 1}"
            tried = "Try a lower learning_rate or clip_norm, or precision='fp32'"
            raise FloatingPointError(f"{told}, on the samples {ids}. {tried}; look at these samples in 01.")

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return val_loss, val_miou, val_pixel_accuracy and val_iou_<class> at the masks' original size."""
        torch.backends.cudnn.benchmark = False  # images may have any size
        model, context, device = self.scored_model.eval(), self.context, self.plan.device
        for buffer in model.buffers() if context.size > 1 else ():
            dist.broadcast(buffer, src=0)  # all score the model that the main process saves
        classes, loss = len(model.spec.classes), 0.0
        counts = np.zeros((classes, classes), np.int64)
        batches = loader.scoring_batches(self.val, self.micro_batch, context.rank, context.size)
        for index, images, truth in batches:
            with self.plan.autocast():
                logits = model.logits(images.to(device), truth.shape[1:])
            loss += self.scoring_loss(logits, torch.from_numpy(truth).to(device)).total.item() * len(index)
            for mask, pred in zip(truth, logits.argmax(1).to(torch.uint8).cpu().numpy(), strict=True):
                counts += metrics.confusion_matrix(mask, pred, classes)
        sums = torch.tensor([*counts.ravel(), loss], dtype=torch.float64)  # on the CPU: some GPUs lack it
        *pixels, loss = context.all_reduce(sums).tolist()
        total = np.array(pixels, np.int64).reshape(counts.shape)
        scores, ious = metrics.scores(total[None]), metrics.iou_per_class(total).tolist()
        row = {f"val_iou_{name}": iou for name, iou in zip(model.spec.classes.names, ious, strict=True)}
        row |= {"val_miou": scores["mean_iou"], "val_pixel_accuracy": scores["pixel_accuracy"]}
        return {"val_loss": loss / len(self.val)} | row

    def save(self, run: Run, history: list[dict[str, Any]]) -> None:
        """Write history.csv, steps.csv and checkpoints, each whole or not at all; what resuming reads comes last."""
        steps = pd.DataFrame(self.steps, columns=_STEPS).astype({"epoch": int, "step": int})
        write_csv(run.history, pd.DataFrame(history))
        write_csv(run.steps, steps)
        facts = {name: history[-1][name] for name in ("epoch", "val_miou")}
        if history[-1]["best"]:
            save_checkpoint(run.best_checkpoint, self.scored_model, **facts)
        facts |= {name: part.state_dict() for name, part in self.parts.items()}
        facts |= {"micro_batch": self.micro_batch, "processes": self.context.size, "history": history}
        save_checkpoint(run.last_checkpoint, self.model, steps=torch.from_numpy(self.steps), **facts)

    def resume(self, run: Run) -> list[dict[str, Any]]:
        """Go back to the last finished epoch; return the history so far."""
        model, extra = load_checkpoint(run.last_checkpoint, self.model.spec.classes)
        self.model.load_state_dict(model.state_dict())
        for name, part in self.parts.items():
            if name != "scaler" or extra[name]:  # empty from a run in another precision
                part.load_state_dict(extra[name])
        self.steps = extra["steps"].numpy()
        # As it was, since normalization depends on it; but for another number of processes it says nothing.
        if not self.params.micro_batch and extra["processes"] == self.context.size:
            self.micro_batch = min(self.micro_batch, extra["micro_batch"])
        return extra["history"]


def make_optimizer(model: Segmenter, params: Train) -> torch.optim.AdamW:
    """Make an AdamW (Loshchilov and Hutter, ICLR 2019) that decays neither biases nor normalization."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        lr = params.learning_rate * (params.encoder_lr_factor if name.startswith("net.encoder.") else 1.0)
        decay = params.weight_decay if weight.ndim > 1 else 0.0
        group = {"params": [], "lr": lr, "initial_lr": lr, "weight_decay": decay}
        groups.setdefault((lr, decay), group)["params"].append(weight)
    return torch.optim.AdamW(list(groups.values()))


def rate(step: int, steps: int, warmup: int) -> float:
    """Compute the share of the learning rate at a step (0-based): warm-up, then a half cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Copy a model to an exponential moving average of weights and statistics, faster early on."""

    def update(average: Tensor, now: Tensor, updates: Tensor) -> Tensor:
        keep = ((1 + updates) / (10 + updates)).clamp(max=decay)
        return now.lerp(average, keep) if now.is_floating_point() else now

    return AveragedModel(model, avg_fn=update, use_buffers=True)
