"""One training's model, optimiser and data: an epoch of steps, a validation, checkpoints."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from seglib import metrics
from seglib.checks import class_weights
from seglib.params import Train
from seglib.runs import Run, StorageError, display_path, read_table, write_csv
from seglib.train import views
from seglib.train.averaging import WeightAverage
from seglib.train.batches import Batch, batch_edges, portions, scoring_batches, training_batches
from seglib.train.device import out_of_memory
from seglib.train.distributed import World
from seglib.train.loader import CachedSplit
from seglib.train.loss import HybridLoss
from seglib.train.model import ModelError, Segmenter, enough_images, load_checkpoint, save_checkpoint
from seglib.train.optimizer import make_optimizer, rate
from seglib.train.plans import DevicePlan

_TERMS = ["loss", "ce", "dice", "focal"]
_SKIPS = 25  # steps in a row: the scale has fallen from 65,536 to 1/512, below which fp16 is not to blame


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite; names the epoch, the step, its samples and what to try."""


class OutOfMemoryError(RuntimeError):
    """Not even one image fits the device's memory."""


class Trainer:
    """What stays the same through all epochs of one training.

    Args:
        run, model, train, val, params, plan, world: as in `training.fit`.
    """

    def __init__(
        self,
        run: Run,
        model: Segmenter,
        train: CachedSplit,
        val: CachedSplit,
        params: Train,
        plan: DevicePlan,
        world: World,
    ) -> None:
        self.run, self.train, self.val, self.params, self.plan, self.world = (
            run,
            train,
            val,
            params,
            plan,
            world,
        )
        self.model = plan.place(model)
        self.shared: nn.Module | None = None
        self.geometry, self.colour = views.geometry(train, params), views.colour(params)
        weights = (
            None
            if params.class_weights == "none"
            else class_weights(train.pixel_counts, params.class_weights)
        )
        terms = (params.ce_weight, params.dice_weight, params.focal_weight, weights)
        reduce = world.sum if world.size > 1 else None
        self.loss = HybridLoss(*terms, label_smoothing=params.label_smoothing, reduce=reduce).to(plan.device)
        self.scoring_loss = HybridLoss(*terms).to(plan.device)
        self.optimizer = make_optimizer(self.model, params)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(enabled=plan.precision == "fp16")
        self.average = WeightAverage(self.model, params.ema_decay) if params.ema_decay else None
        self.micro_batch = plan.micro_batch or params.batch_size
        self.skips = 0  # of the fp16 scaler, in a row
        self.scoring_batch = params.batch_size
        self.steps: list[pd.DataFrame] = []

    @property
    def scored_model(self) -> Segmenter:
        """What is validated and kept as the best: the averaged weights where they are averaged."""
        return self.average.model if self.average else self.model

    def train_epoch(self, epoch: int, on_images: Callable[[int], None]) -> dict[str, float]:
        """Train on every sample once.

        Args:
            epoch: from 1 on; order and augmentation depend on the seed and on it alone, so that a resumed run goes on exactly
                as an uninterrupted one.
            on_images: called after each step with its number of images.

        Returns:
            means over the epoch's images: train_loss, train_ce, train_dice, train_focal, grad_norm; the share of the learning
            rate reached, skipped_steps of the fp16 scaler, micro_batch and images_per_second.
        """
        params, world = self.params, self.world
        torch.manual_seed(params.seed * 100_003 + epoch)
        self._wake(epoch)
        edges = [0, *batch_edges(len(self.train), params.batch_size, world.size), len(self.train)]
        sizes, first = np.diff(edges).tolist(), (epoch - 1) * (len(edges) - 1)
        batches = training_batches(
            self.train,
            self.geometry,
            self.colour,
            params.batch_size,
            params.seed,
            epoch,
            self.plan.workers,
            world.rank,
            world.size,
            pinned=self.plan.kind == "cuda",
        )
        values, rates, times, skipped, started = [], [], [], 0, time.perf_counter()

        def check(fetched: Callable[[], Tensor], index: np.ndarray) -> None:
            values.append(fetched().clone())  # page-locked memory is for the next ones
            self._check(values[-1], index, epoch, len(values))

        before = None
        with self.plan.repeating():
            for k, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
                rates.append(
                    self._set_rate(
                        first + k, params.epochs * len(sizes), round(params.warmup_epochs * len(sizes))
                    )
                )
                now = self.plan.fetch(self._gradient(batch, size)), batch.index
                skipped += self._update(first + k)
                if self.skips == _SKIPS:
                    raise self._nothing_is_finite(batch.index, epoch, k + 1)
                # A step late: asking at once would make a GPU wait for the processor. Nothing is saved in between.
                if before:
                    check(*before)
                before = now
                times.append(time.perf_counter() - started)
                on_images(size)
        check(*before)
        table = pd.DataFrame(torch.stack(values).cpu().double().numpy(), columns=[*_TERMS, "grad_norm"])
        table.insert(0, "step", range(first + 1, first + len(sizes) + 1))
        table.insert(0, "epoch", epoch)
        pace = np.array(sizes) / np.diff(times, prepend=0)
        self.steps.append(table.assign(learning_rate=rates, images_per_second=pace))
        means = {f"train_{name}": float(np.average(table[name], weights=sizes)) for name in _TERMS}
        seconds = time.perf_counter() - started
        return means | {
            "grad_norm": float(table["grad_norm"].mean()),
            "learning_rate": rates[-1],
            "skipped_steps": skipped,
            "micro_batch": self.micro_batch,
            "images_per_second": len(self.train) / seconds,
        }

    def _wake(self, epoch: int) -> None:
        """Training mode; the encoder sleeps through the first `freeze_epochs`."""
        encoder, frozen = self.model.net.encoder, epoch <= self.params.freeze_epochs
        self.model.train()
        if frozen:
            encoder.eval()
        if self.shared is None or next(encoder.parameters()).requires_grad == frozen:
            encoder.requires_grad_(not frozen)
            self.shared = self.world.share(self.model)

    def _set_rate(self, step: int, steps: int, warmup: int) -> float:
        share = rate(step, steps, warmup)
        for group, full in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = full * share
        return self.params.learning_rate * share

    def _gradient(self, batch: Batch, size: int) -> Tensor:
        """Gradients of a step, in as large micro-batches as fit. Returns [*terms, norm of the gradient]."""
        while True:
            try:
                terms = self._accumulate(batch, size)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._make_room(error)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_norm)
        return torch.cat([terms, norm.detach()[None]])

    def _accumulate(self, batch: Batch, size: int) -> Tensor:
        world = self.world
        shares = np.diff(portions(size, world.size))
        parts = min(math.ceil(shares.max() / self.micro_batch), shares.min())
        if world.size == 1 and parts > 1 and size // parts == 1 < self.micro_batch and self._needs_two:
            parts = size // 2
        # Of each micro-batch, over all processes.
        weights = sum(np.diff(portions(share, parts)) for share in shares) / size
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(_TERMS), device=self.plan.device)
        for k, (part, weight) in enumerate(zip(batch.split(parts), weights.tolist(), strict=True)):
            images, masks = views.augmented(part, self.geometry.crop, self.plan)
            waits = world.size > 1 and k < parts - 1
            with self.shared.no_sync() if waits else contextlib.nullcontext():
                with self.plan.autocast(), enough_images(self.model.spec, images):
                    logits = self.shared(images)
                terms = self.loss(logits, masks)
                # Every process knows the loss of the whole batch; their gradients are to be added, not averaged.
                self.scaler.scale(terms.total * (weight * world.size)).backward()
            sums += weight * torch.stack([term.detach() for term in terms])
        return sums

    @cached_property
    def _needs_two(self) -> bool:
        """Whether the network cannot be trained on a single image: DeepLabV3, for one, normalises averages over whole images."""
        model, image = (
            copy.deepcopy(self.model),
            torch.zeros(1, 3, *self.geometry.crop, device=self.plan.device),
        )
        try:
            with (
                torch.random.fork_rng(),
                torch.no_grad(),
                self.plan.autocast(),
                enough_images(model.spec, image),
            ):
                model(image.contiguous(memory_format=self.plan.memory_format))
        except ModelError:
            return True
        return False

    def _make_room(self, error: RuntimeError) -> None:
        if self.micro_batch == 1 or self.world.size > 1:
            suggestion = (
                "micro_batch"
                if self.world.size > 1
                else "crop_height and crop_width, or choose a smaller encoder"
            )
            raise OutOfMemoryError(
                f"out of memory with {self.micro_batch} images of {self.geometry.crop[0]}x{self.geometry.crop[1]} pixels at a time "
                f"on {self.plan.device}. Lower {suggestion}."
            ) from error
        before, self.micro_batch = self.micro_batch, math.ceil(self.micro_batch / 2)
        tqdm.write(
            f"Out of memory with {before} images at a time: going on with {self.micro_batch}, same batch size."
        )
        self._forget()

    def _forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.plan.kind == "cuda":
            torch.cuda.empty_cache()

    def _update(self, step: int) -> bool:
        """Take the step; True if the fp16 scaler left it out, having chosen too large a scale."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale
        self.skips = self.skips + 1 if skipped else 0
        if self.average and not skipped:
            self.average.update(self.model, step)
        return skipped

    def _check(self, values: Tensor, index: np.ndarray, epoch: int, step: int) -> None:
        loss, norm = values[[0, -1]].tolist()
        # With a scaler an infinite gradient is a skipped step, not the end.
        what = (
            "the loss"
            if not math.isfinite(loss)
            else ""
            if self.scaler.is_enabled()
            else "the gradient's norm"
        )
        number = loss if what == "the loss" else norm
        if what and not math.isfinite(number):
            raise NonFiniteLossError(
                f"{what} is {number} in epoch {epoch}, step {step}, on the samples {self._named(index)}. Try a lower learning_rate or clip_norm, "
                "or precision='fp32'; look at these samples in 01_data_check. What was saved before is unharmed."
            )

    def _nothing_is_finite(self, index: np.ndarray, epoch: int, step: int) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"no gradient was finite in the last {_SKIPS} steps up to epoch {epoch}, step {step} (samples {self._named(index)}), however "
            "small fp16's scaler made it: nothing is learnt. Try precision='fp32', or a lower learning_rate. What was saved before is "
            "unharmed."
        )

    def _named(self, index: np.ndarray) -> str:
        return ", ".join(self.train.ids[i] for i in index)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """{val_loss, val_miou, val_pixel_accuracy} at the masks' original resolution; each image counted in one process."""
        model = self.scored_model.eval()
        classes = len(model.spec.classes)
        confusions = np.zeros((classes, classes), np.int64)
        loss = torch.zeros((), dtype=torch.float64)
        for index, images, truth in scoring_batches(
            self.val, self.scoring_batch, self.world.rank, self.world.size
        ):
            logits = self._logits(model, images, truth.shape[1:])
            loss += self.scoring_loss(
                logits, torch.from_numpy(truth).to(self.plan.device)
            ).total.item() * len(index)
            pred = logits.argmax(1).to(torch.uint8).cpu().numpy()
            confusions += sum(
                metrics.confusion_matrix(t, p, classes) for t, p in zip(truth, pred, strict=True)
            )
        counts = self.world.sum(torch.from_numpy(confusions).to(self.world.device)).cpu().numpy()
        exact = torch.float32 if self.plan.kind == "mps" else torch.float64
        loss = self.world.sum(loss.to(self.world.device, exact)).item()
        result = metrics.scores(counts[None])
        return {
            "val_loss": loss / len(self.val),
            "val_miou": result["mean_iou"],
            "val_pixel_accuracy": result["pixel_accuracy"],
        }

    def _logits(self, model: Segmenter, images: Tensor, size: tuple[int, int]) -> Tensor:
        try:
            with self.plan.autocast():
                return model.logits(images.to(self.plan.device), size)
        except RuntimeError as error:
            if len(images) == 1 or not out_of_memory(error):
                raise
        self._forget()
        halves = images.split(math.ceil(len(images) / 2))
        return torch.cat([self._logits(model, half, size) for half in halves])

    def save(self, rows: list[dict[str, Any]], best: bool) -> None:
        """History and checkpoints, each whole or not at all, by the first process."""
        if self.world.leads:
            if not self.run.params.is_file():  # what is written now would be a run without a beginning
                raise StorageError(
                    f"the run folder {display_path(self.run.path)} vanished while it was trained (deleted, moved, or on a disk that is "
                    f"gone). Epoch {rows[-1]['epoch']} was not kept. Bring it back and set resume=True, or train anew."
                )
            facts = {"epoch": rows[-1]["epoch"], "val_miou": rows[-1]["val_miou"]}
            if best:
                save_checkpoint(self.run.best_checkpoint, self.scored_model, **facts)
            save_checkpoint(
                self.run.last_checkpoint,
                self.model,
                **facts,
                optimizer=self.optimizer.state_dict(),
                scaler=self.scaler.state_dict(),
                average=self.average.model.state_dict() if self.average else {},
                micro_batch=self.micro_batch,
                processes=self.world.size,
                history=rows,
                steps=self.steps[-1].to_dict("list"),
            )
            self._write_tables(rows)
        self.world.wait()

    def _write_tables(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.run.history, pd.DataFrame(rows))
        write_csv(self.run.steps, pd.concat(self.steps, ignore_index=True))

    def resume(self) -> list[dict[str, Any]]:
        """Take up the last finished epoch; returns the history so far."""
        model, extra = load_checkpoint(self.run.last_checkpoint, self.model.spec.classes)
        self.model.load_state_dict(model.state_dict())
        try:
            for kept, own in zip(
                extra["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True
            ):
                kept["fused"] = own["fused"]  # how steps are computed is this machine's to say
            self.optimizer.load_state_dict(extra["optimizer"])
            if extra["scaler"]:  # empty from a run that had none, in another precision
                self.scaler.load_state_dict(extra["scaler"])
            if self.average:
                self.average.model.load_state_dict(extra["average"])
            epoch, rows, last = extra["epoch"], extra["history"], pd.DataFrame(extra["steps"])
            fitted, planned = extra["micro_batch"], self.micro_batch
            # As it was, since normalisation depends on it; but for another number of processes it says nothing.
            if not self.params.micro_batch and extra["processes"] == self.world.size:
                self.micro_batch = min(planned, fitted)
        except (
            Exception
        ) as error:  # KeyError, ValueError, TypeError, ... by what is missing or of another training
            raise ModelError(
                f"{display_path(self.run.last_checkpoint)} does not hold what resuming needs ({type(error).__name__}: {error}). Start "
                "another run."
            ) from error
        if self.micro_batch < planned:
            tqdm.write(
                f"Going on with {self.micro_batch} images at a time, as before; micro_batch can say otherwise."
            )
        self.steps = [last]
        if self.run.steps.exists():
            self.steps.insert(0, read_steps(self.run.steps, epoch - 1))
        if self.world.leads:  # they may be an epoch behind the checkpoint
            self._write_tables(rows)
        return rows


def read_steps(path: Path, last: int) -> pd.DataFrame:
    """steps.csv up to the epoch `last`.

    Raises:
        ValueError: it does not tell the epoch of every step.
    """
    steps = read_table(path, index_col=False)
    if (
        "epoch" not in steps
        or not pd.api.types.is_numeric_dtype(steps["epoch"])
        or steps["epoch"].isna().any()
    ):
        raise ValueError(
            f"{display_path(path)} does not tell the epoch of every step. Move it away to resume without it."
        )
    return steps[steps["epoch"] <= last]
