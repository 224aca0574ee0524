"""How fast does training run here, and against what? `python benchmarks/training.py` prints the table, writes JSON.

Every figure is a ratio of two ways to do the same work on the same data, timed in turns. The other way runs in a process
of its own that does not know seglib (plain.py). It takes about a quarter of an hour on two processor cores; `--only loss,counts`
runs parts.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import gpu
import numpy as np
import pandas as pd
import psutil
import torch
import torchmetrics
from measure import compare, limit_row, row, seconds_of, write_dataset
from plain import (
    BATCH,
    CLASSES,
    ENCODER,
    IGNORE,
    SIZE,
    STEPS,
    WEIGHTS,
    Plain,
    Separate,
    backward,
    logits_and_target,
    truth_and_pred,
)
from torch import Tensor, nn

from seglib import runs
from seglib.data.dataset import load_dataset, read_pair

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.params import Train
from seglib.train import cpu as kernels
from seglib.train import views
from seglib.train.batches import training_batches
from seglib.train.distributed import World
from seglib.train.fitting import start_run
from seglib.train.loader import build_cache
from seglib.train.loss import HybridLoss
from seglib.train.model import ModelSpec, build
from seglib.train.plans import PRECISIONS
from seglib.train.trainer import Trainer
from seglib.train.trials import plan_training

IMAGES = STEPS * BATCH


# --- the loss


def peak_memory(separate: bool, answer) -> None:
    """Highest resident memory of one loss above what the process held before, in bytes, looked at every millisecond."""
    logits, target = logits_and_target()
    loss = Separate(WEIGHTS) if separate else hybrid(WEIGHTS)
    backward(loss, logits[:1, :, :32], target[:1, :32])
    process, done, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    backward(loss, logits, target)
    done.set()
    watcher.join()
    answer.put(peak)


def hybrid(class_weights: list[float] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    module = HybridLoss(class_weights=class_weights)
    return lambda logits, target: module(logits, target).total


def in_new_process(function: Callable, *arguments: object) -> float:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=function, args=(*arguments, answer))
    process.start()
    value = answer.get()
    process.join()
    return value


def loss_rows(plain: Plain) -> list[dict]:
    kernels.keep_freed_memory()  # as every training of ours does
    logits, target = logits_and_target()
    few = slice(0, 2)
    value, gradient = backward(hybrid(), logits[few], target[few])
    exact, exact_gradient = backward(Separate(), logits[few].double(), target[few])
    off = abs(value.item() / exact.item() - 1)
    off_gradient = ((gradient - exact_gradient).norm() / exact_gradient.norm()).item()
    seconds = compare(lambda: backward(hybrid(WEIGHTS), logits, target), partial(plain.seconds, "loss"), 5)
    peaks = [in_new_process(peak_memory, separate) for separate in (False, True)]
    name = f"HybridLoss, forward and backward, {(BATCH, CLASSES, *SIZE)}"
    against = "cross-entropy + SMP's DiceLoss + SMP's FocalLoss"
    return [
        row(
            name,
            against,
            seconds,
            10,
            f"value off by {off:.1e}, gradient by {off_gradient:.1e} (against float64)",
        ),
        row("... peak memory (GB instead of seconds)", against, [tuple(p / 1e9 for p in peaks)], 1.0),
    ]


# --- steps and epochs


def step_rows(plain: Plain) -> list[dict]:
    params = Train(
        run="benchmark", dataset="data/noise", encoder=ENCODER, encoder_weights="none", batch_size=BATCH, epochs=1000,
        class_weights="sqrt_inverse", crop_height=SIZE[0], crop_width=SIZE[1], device="cpu",
    )  # fmt: skip
    write_dataset(runs.project_root() / "data" / "noise", IMAGES, CLASSES, (360, 480))
    dataset = load_dataset(params.dataset)
    train = build_cache(dataset, "train")
    val = build_cache(dataset, "val", original_masks=True)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes), params.encoder_weights)
    plan = plan_training(params, model, train, val)
    plan = replace(plan, micro_batch=BATCH, accumulation=1, cache="ram")
    trainer = Trainer(start_run(params), model, train.in_memory(), val, params, plan, World())
    trainer._wake(1)
    batch = next(training_batches(trainer.train, trainer.geometry, trainer.colour, BATCH, 0, 1))
    images, masks = views.augmented(batch, SIZE, plan)

    def resident() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        with plan.autocast():
            logits = trainer.model(images)
        trainer.loss(logits, masks).total.backward()
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()

    def epoch() -> None:
        trainer.train_epoch(2, lambda _: None)

    def resident_epoch() -> None:
        for _ in range(STEPS):
            resident()

    # The efficiency first: only after some epochs does a process take its steps at the speed that it keeps.
    efficiency = compare(epoch, lambda: seconds_of(resident_epoch), 11)  # a few per cent apart: more rounds
    # Steps in a row, as in a training: the first after another process' turn is slower.
    row_of_steps = compare(resident_epoch, partial(plain.seconds, "steps"), 5)
    step = row(
        f"training step, U-Net {params.encoder}, {SIZE[0]}x{SIZE[1]}, batch {BATCH}, {plan.label}",
        "contiguous fp32, SMP's losses",
        [(ours / STEPS, theirs / STEPS) for ours, theirs in row_of_steps],
        4,
    )
    whole = row(
        f"whole epoch from files, {IMAGES} images",
        "PIL decode and augmentation in __getitem__, 0 workers, contiguous fp32, SMP's losses",
        compare(epoch, partial(plain.seconds, "epoch"), 5),
        4,
    )
    whole["more"] = "{:.2f} against {:.2f} images/s".format(
        *(IMAGES / whole[name] for name in ("seconds", "seconds_other"))
    )
    return [
        step,
        limit_row(
            "the step's limit: operations / peak + bytes / bandwidth",
            "the training step above",
            resident,
            step["seconds"],
            "cpu",
            PRECISIONS[plan.precision],
        ),
        whole,
        row("epoch efficiency: steps on resident data / real steps", "1.0", efficiency, 0.95),
    ]


def cache_rows(_: Plain) -> list[dict]:
    write_dataset(runs.project_root() / "data" / "many", 10 * IMAGES, CLASSES, (360, 480))
    dataset = load_dataset("data/many")
    rows = list(dataset.split("train").itertuples())

    def decode() -> None:
        for sample in rows:
            read_pair(dataset, sample)

    def first_pack() -> None:
        shutil.rmtree(runs.project_root() / "artifacts" / "cache", ignore_errors=True)
        build_cache(dataset, "train")

    what = f"first epoch: decoding {len(rows)} images into the cache"
    return [
        row(what, "one plain pass of decoding", compare(first_pack, lambda: seconds_of(decode), 5), 1 / 1.1)
    ]


# --- counts


def count_rows(plain: Plain) -> list[dict]:
    truth, pred = truth_and_pred()
    metric = torchmetrics.classification.MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    for t, p in zip(truth, pred, strict=True):
        expected = metric(torch.from_numpy(p).long(), torch.from_numpy(t).long())
        assert np.array_equal(metrics.confusion_matrix(t, p, CLASSES), expected)

    def ours() -> list[np.ndarray]:
        return [metrics.confusion_matrix(t, p, CLASSES) for t, p in zip(truth, pred, strict=True)]

    what = "per-image confusion counts, 64 images 360x480, 11 classes"
    others = [
        ("confusion matrix, image by image", "confusion", 5, 30),
        ("Jaccard index, image by image", "jaccard", 5, 200),
        (
            "Jaccard index, image by image, with torch's deterministic algorithms",
            "jaccard, deterministic",
            1,
            200,
        ),
    ]
    return [
        row(what, f"torchmetrics' {against}", compare(ours, partial(plain.seconds, work), rounds), wanted)
        for against, work, rounds, wanted in others
    ]


# --- memory


def train_and_weigh(images: int, root: str, answer) -> None:
    """Peak anonymous memory of a hundred steps, in bytes (Linux); pages of the cache file belong to the system."""
    os.environ["SEGLIB_ROOT"] = root
    params = Train(
        run=f"of{images}", dataset=f"data/{images}", architecture="Linknet", encoder="tu-mobilenetv3_small_050",
        encoder_weights="none", epochs=100 * BATCH // images, cache="disk", memory_format="contiguous", precision="fp32", compile="off",
        micro_batch=BATCH, device="cpu",
    )  # fmt: skip
    write_dataset(runs.project_root() / params.dataset, images, CLASSES, (120, 160))
    dataset = load_dataset(params.dataset)
    train, val = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    peak = 0

    def weigh(_: int) -> None:
        nonlocal peak
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = max(peak, 1024 * int(status.split("RssAnon:")[1].split()[0]))

    trainer = Trainer(
        start_run(params), model, train, val, params, plan_training(params, model, train, val), World()
    )
    for epoch in range(1, params.epochs + 1):
        trainer.train_epoch(epoch, weigh)
    answer.put(peak)


def memory_rows(_: Plain) -> list[dict]:
    root = str(runs.project_root())
    # Large pages come and go by chance, tens of MB at a time: five times each, in turns.
    pairs = [[in_new_process(train_and_weigh, images, root) for images in (140, 1400)] for _ in range(5)]
    pairs = [(many / 1e9, few / 1e9) for few, many in pairs]
    return [
        row(
            "peak memory of 100 steps of training, 1400 images (GB instead of seconds)",
            "140 images, ten times",
            pairs,
            0.95,
        )
    ]


PARTS = {
    "loss": loss_rows,
    "steps": step_rows,
    "cache": cache_rows,
    "counts": count_rows,
    "memory": memory_rows,
    "gpu": lambda _: gpu.rows(gpu.Setting()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--out", default="benchmarks/training.json", help="the JSON file")
    given = parser.parse_args()
    out = Path(given.out).resolve()
    with tempfile.TemporaryDirectory() as root:
        for name in ("notebooks", "data"):
            (Path(root) / name).mkdir()
        os.environ["SEGLIB_ROOT"] = root
        plain = Plain(Path(root) / "data" / "noise")
        rows = [line for part in given.only.split(",") for line in PARTS[part](plain)]
        plain.close()
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 250, "display.max_colwidth", 90):
        print(table.to_string(index=False))
    runs.write_json(
        out, {"environment": runs.environment(), "threads": torch.get_num_threads(), "rows": rows}
    )


if __name__ == "__main__":
    main()
