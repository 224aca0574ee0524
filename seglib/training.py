"""`fit`: the training loop, its schedule, its checkpoints and how it resumes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from seglib import metrics
from seglib.augment import Colour, Geometry, recolour, warp
from seglib.checks import class_weights
from seglib.hardware import HardwarePlan
from seglib.loading import Batch, Packed, scoring_batches, training_batches
from seglib.losses import HybridLoss, LossTerms
from seglib.models import Segmenter, load_checkpoint, save_checkpoint
from seglib.params import ParameterError, Train
from seglib.runs import Run, environment, read_json, write_csv, write_json
from seglib.tracking import make_tracker

_STRIDE = 32  # what SMP's encoders divide an image by
_LARGEST_CROP = 512  # pixels a side, when the crop is chosen from the images' size
_FINAL_RATE = 0.01  # share of the learning rate that the cosine ends on


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; names the epoch, the batch's samples and what to try."""


def start_run(params: Train) -> Run:
    """The run folder for these parameters, with params.json and environment.json in it.

    Raises:
        FileExistsError: trained already, and `resume` is False.
        ParameterError: resuming with other parameters than it was started with.
    """
    run = Run.create(params.run, resume=params.resume)
    values = params.model_dump()
    if params.resume and run.params.exists():
        before = read_json(run.params)
        changed = [n for n, v in values.items() if n != "resume" and before.get(n, v) != v]
        if changed:
            listed = ", ".join(f"{n}: {before[n]!r} -> {values[n]!r}" for n in changed)
            raise ParameterError(
                f"run {run.name!r} was started with other parameters ({listed}). Resume with the same ones, or start another run."
            )
    write_json(run.params, values)
    write_json(run.path / "environment.json", environment())
    return run


def crop_size(packed: Packed, height: int = 0, width: int = 0) -> tuple[int, int]:
    """(height, width) of training crops: as asked (rounded up to the stride), else the median image's, at most 512."""
    median = np.median(packed.image_sizes, axis=0)
    chosen = [min(_LARGEST_CROP, max(_STRIDE, int(side) // _STRIDE * _STRIDE)) for side in median]
    asked = [-(-side // _STRIDE) * _STRIDE for side in (height, width)]
    return asked[0] or chosen[0], asked[1] or chosen[1]


def geometry(packed: Packed, params: Train) -> Geometry:
    """How `params` crops, flips, scales and rotates the images of `packed`."""
    if params.scale_min > params.scale_max:
        raise ParameterError(f"scale_min = {params.scale_min} is larger than scale_max = {params.scale_max}.")
    crop = crop_size(packed, params.crop_height, params.crop_width)
    return Geometry(crop, params.flip, (params.scale_min, params.scale_max), params.rotation)


def augmented(
    batch: Batch, crop: tuple[int, int], params: Train, plan: HardwarePlan, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch as the model sees it in training.

    Returns:
        images (B, 3, *crop) float32 in 0-255 and masks (B, *crop) uint8, on the plan's device.
    """
    images = batch.images.to(plan.device, non_blocking=True)
    images, masks = warp(images, batch.masks.to(plan.device, non_blocking=True), batch.windows, crop)
    images = recolour(images, Colour(params.color, params.blur, params.noise), generator)
    return images.contiguous(memory_format=plan.memory_format), masks


def make_optimizer(model: Segmenter, params: Train) -> torch.optim.AdamW:
    """AdamW; the encoder learns at `encoder_lr_factor` times the rate; biases and normalisation are not decayed.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        groups.setdefault((name.startswith("net.encoder."), weight.ndim > 1), []).append(weight)
    return torch.optim.AdamW(
        {
            "params": weights,
            "lr": params.learning_rate * (params.encoder_lr_factor if in_encoder else 1.0),
            "weight_decay": params.weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), weights in groups.items()
    )


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step (0-based): linear warm-up, then a half cosine down to 1 %.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def fit(
    run: Run,
    model: Segmenter,
    train: Packed,
    val: Packed,
    params: Train,
    plan: HardwarePlan,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train; keep the model that is best by validation mean IoU, and the last one with all that resuming needs.

    Args:
        run: from `start_run`; receives checkpoints/best.pth, checkpoints/last.pth, history.csv.
        model: from `models.build`.
        train: packed training split.
        val: packed validation split, with its masks at original resolution.
        params: of 02_train.
        plan: of this machine.
        on_epoch: called with the history after each epoch.

    Returns:
        The history: one row an epoch, see history.csv.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    job = _Job(run, model, train, val, params, plan)
    rows = job.resume() if params.resume and run.last_checkpoint.exists() else []
    tracker = make_tracker(params.track, run, params.model_dump())
    try:
        with tqdm(total=params.epochs, initial=len(rows), unit="epoch", desc="training", leave=False) as bar:
            for epoch in range(len(rows) + 1, params.epochs + 1):
                started = time.perf_counter()
                losses, pace = job.train_epoch(epoch, bar)
                scores = job.validate()
                best = not rows or scores["val_miou"] > max(row["val_miou"] for row in rows)
                row = {
                    "epoch": epoch,
                    **losses,
                    **scores,
                    "learning_rate": job.learning_rate,
                    "images_per_second": pace,
                }
                rows.append(row | {"seconds": time.perf_counter() - started, "best": bool(best)})
                job.save(rows, best)
                tracker.log({name: float(value) for name, value in rows[-1].items() if name != "epoch"}, epoch)
                bar.update()
                bar.set_postfix({"val mean IoU": f"{scores['val_miou']:.3f}"})
                if on_epoch is not None:
                    on_epoch(pd.DataFrame(rows))
    finally:
        tracker.close()
    return pd.DataFrame(rows)


class _Job:
    """What stays the same through all epochs of one training."""

    def __init__(
        self, run: Run, model: Segmenter, train: Packed, val: Packed, params: Train, plan: HardwarePlan
    ) -> None:
        self.run, self.train, self.val, self.params, self.plan = run, train, val, params, plan
        self.model = plan.place(model)
        self.geometry = geometry(train, params)
        weights = None if params.class_weights == "none" else class_weights(train.pixel_counts, params.class_weights)
        self.loss = HybridLoss(params.ce_weight, params.dice_weight, params.focal_weight, weights).to(plan.device)
        self.optimizer = make_optimizer(self.model, params)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(enabled=plan.precision == "fp16")
        self.generator = torch.Generator(device=plan.device)
        self.learning_rate = params.learning_rate

    def train_epoch(self, epoch: int, bar: tqdm) -> tuple[dict[str, float], float]:
        """({train_loss, train_ce, train_dice, train_focal}, images per second)."""
        params = self.params
        # Seeded anew each epoch, so that a resumed run goes on exactly as an uninterrupted one.
        torch.manual_seed(params.seed * 100_003 + epoch)
        self.generator.manual_seed(params.seed * 100_003 + epoch)
        self.model.train()
        batches = list(range(-(-len(self.train) // params.batch_size)))
        sums, started = torch.zeros(4, device=self.plan.device), time.perf_counter()
        for k, batch in enumerate(
            training_batches(self.train, self.geometry, params.batch_size, params.seed, epoch, params.workers)
        ):
            self._set_rate(
                (epoch - 1) * len(batches) + k, params.epochs * len(batches), round(params.warmup_epochs * len(batches))
            )
            terms = self._step(batch, epoch)
            sums += torch.stack([term.detach() for term in terms]) * len(batch.index)
            bar.set_description(f"epoch {epoch}, batch {k + 1}/{len(batches)}")
        losses = dict(
            zip(("train_loss", "train_ce", "train_dice", "train_focal"), (sums / len(self.train)).tolist(), strict=True)
        )
        return losses, len(self.train) / (time.perf_counter() - started)

    def _set_rate(self, step: int, steps: int, warmup: int) -> None:
        share = rate(step, steps, warmup)
        self.learning_rate = self.params.learning_rate * share
        for group, full in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = full * share

    def _step(self, batch: Batch, epoch: int) -> LossTerms:
        images, masks = augmented(batch, self.geometry.crop, self.params, self.plan, self.generator)
        with self.plan.autocast():
            logits = self.model(images)
        terms = self.loss(logits, masks)
        if not torch.isfinite(terms.total):
            ids = ", ".join(self.train.ids[i] for i in batch.index)
            raise NonFiniteLossError(
                f"the loss is {terms.total.item()} in epoch {epoch} on the samples {ids}. Try a lower learning_rate or clip_norm, "
                "or precision='fp32'; look at these samples in 01_data_check."
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms.total).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """{val_loss, val_miou, val_pixel_accuracy} at the masks' original resolution."""
        self.model.eval()
        classes = len(self.model.spec.classes)
        confusions, loss, images_seen = np.zeros((classes, classes), np.int64), 0.0, 0
        for index, images, size in scoring_batches(self.val, self.params.batch_size):
            truth = torch.from_numpy(np.stack([self.val.mask(i) for i in index]))
            with self.plan.autocast():
                logits = self.model.logits(images.to(self.plan.device), size)
            loss += self.loss(logits, truth.to(self.plan.device)).total.item() * len(index)
            pred = logits.argmax(1).to(torch.uint8).cpu().numpy()
            confusions += sum(metrics.confusion_matrix(t, p, classes) for t, p in zip(truth.numpy(), pred, strict=True))
            images_seen += len(index)
        result = metrics.scores(confusions[None])
        return {
            "val_loss": loss / images_seen,
            "val_miou": result["mean_iou"],
            "val_pixel_accuracy": result["pixel_accuracy"],
        }

    def save(self, rows: list[dict[str, Any]], best: bool) -> None:
        """History and checkpoints, each whole or not at all."""
        facts = {"epoch": rows[-1]["epoch"], "val_miou": rows[-1]["val_miou"]}
        if best:
            save_checkpoint(self.run.best_checkpoint, self.model, **facts)
        save_checkpoint(
            self.run.last_checkpoint,
            self.model,
            **facts,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            history=rows,
        )
        write_csv(self.run.history, pd.DataFrame(rows))

    def resume(self) -> list[dict[str, Any]]:
        """Take up the last finished epoch; returns the history so far."""
        model, extra = load_checkpoint(self.run.last_checkpoint, self.model.spec.classes)
        self.model.load_state_dict(model.state_dict())
        self.optimizer.load_state_dict(extra["optimizer"])
        self.scaler.load_state_dict(extra["scaler"])
        return extra["history"]
