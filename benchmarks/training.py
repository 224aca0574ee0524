"""How fast does training run here, and against what? `python benchmarks/training.py` prints the table, writes JSON.

Every figure is a ratio of two ways to do the same work on the same data, timed in turns. The other way runs in a process
of its own that does not know seglib (plain.py). It takes about a quarter of an hour on two processor cores; `--only loss,counts`
runs parts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import psutil
import torch
import torchmetrics
from PIL import Image
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seglib import channelwise, kernels, metrics, normalization, runs, views
from seglib.batches import training_batches
from seglib.dataset import load_dataset, read_pair
from seglib.loading import pack
from seglib.losses import HybridLoss
from seglib.models import ModelSpec, build
from seglib.parallel import World
from seglib.params import Train
from seglib.trainer import Trainer
from seglib.training import start_run
from seglib.trials import plan_training

IMAGES = STEPS * BATCH


def seconds_of(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def compare(ours: Callable[[], object], theirs: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Median seconds of each, taken in turns after one round to warm up. `theirs` says its seconds itself."""
    times = [(seconds_of(ours), theirs()) for _ in range(rounds + 1)][1:]
    return tuple(map(statistics.median, zip(*times, strict=True)))


def row(what: str, against: str, seconds: tuple[float, float], wanted: float, more: str = "") -> dict:
    ratio = seconds[1] / seconds[0]
    return {
        "what": what,
        "against": against,
        "seconds": round(seconds[0], 4),
        "seconds_other": round(seconds[1], 4),
        "ratio": round(ratio, 2),
        "wanted": wanted,
        "reached": ratio >= wanted,
        "more": more,
    }


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
        row(name, against, seconds, 10, f"value off by {off:.1e}, gradient by {off_gradient:.1e} (against float64)"),
        row("... peak memory (GB instead of seconds)", against, tuple(p / 1e9 for p in peaks), 1.0),
    ]


# --- steps and epochs


def write_dataset(folder: Path, images: int, size: tuple[int, int] = (360, 480)) -> None:
    """Smooth random pictures with as many classes as CamVid, as PNG files."""
    random = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2)):
        for k in range(count):
            coarse = random.integers(0, 256, (size[0] // 24, size[1] // 24, 3), np.uint8)
            picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
            ids = Image.fromarray(random.integers(0, CLASSES, coarse.shape[:2], np.uint8))
            for kind, image in (("images", picture), ("masks", ids.resize(size[::-1], Image.Resampling.NEAREST))):
                path = folder / split / kind / f"{k:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    splits = "".join(f"  {s}: {{images: {s}/images/*.png, masks: {s}/masks/*.png}}\n" for s in ("train", "val"))
    names = ", ".join(f"c{c}" for c in range(CLASSES))
    (folder / "dataset.yaml").write_text(f"name: noise\nclasses: [{names}]\nsplits:\n{splits}", encoding="utf-8")


class Work(TorchDispatchMode):
    """Adds up the operations of convolutions, and the bytes of the tensors that operators read and write; views are free."""

    operations = bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.operations += 2 * result.numel() * args[1][0].numel()
        elif func is torch.ops.aten.convolution_backward.default:
            self.operations += 2 * args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        if not func.is_view and not func.__name__.startswith("empty"):
            tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result

    def each_channel(self, loop: int, maps: Sequence[Tensor], *args: object) -> np.ndarray:
        """The loops of batch normalization, which are no operators of torch."""
        self.bytes += sum(each.nbytes for each in maps)
        return channelwise.each_channel(loop, maps, *args)


def limit_row(step: Callable[[], object], seconds: float) -> dict:
    """How far a step is from what the processor can do: its operations at the rate of a large matrix product, then the bytes
    of its tensors at the rate of a copy."""
    square, block = torch.randn(4096, 4096).bfloat16(), torch.randn(14, 96, 176, 240).bfloat16()
    target = torch.empty_like(block)
    rounds = [(seconds_of(lambda: square @ square), seconds_of(lambda: target.copy_(block))) for _ in range(6)][1:]
    product, copy = map(statistics.median, zip(*rounds, strict=True))
    peak, bandwidth = 2 * 4096**3 / product, 2 * block.nbytes / copy
    with Work() as work, mock.patch.object(normalization, "each_channel", work.each_channel):
        step()
    limit = work.operations / peak + work.bytes / bandwidth
    return {
        "what": "the step's limit: operations / peak + bytes / bandwidth",
        "against": "the training step above",
        "seconds": round(limit, 4),
        "seconds_other": round(seconds, 4),
        "ratio": round(seconds / limit, 2),
        "more": f"{work.operations / 1e12:.2f} TFLOP at {peak / 1e12:.2f} TFLOP/s, "
        f"{work.bytes / 1e9:.0f} GB at {bandwidth / 1e9:.0f} GB/s",
    }


def step_rows(plain: Plain) -> list[dict]:
    params = Train(
        run="benchmark", dataset="data/noise", encoder=ENCODER, encoder_weights="none", batch_size=BATCH, epochs=1000,
        class_weights="sqrt_inverse", crop_height=SIZE[0], crop_width=SIZE[1],
    )  # fmt: skip
    write_dataset(runs.project_root() / "data" / "noise", IMAGES)
    dataset = load_dataset(params.dataset)
    rows = list(dataset.split("train").itertuples())

    def decode() -> None:
        for sample in rows:
            read_pair(dataset, sample)

    def first_pack() -> None:
        shutil.rmtree(runs.project_root() / "artifacts" / "cache", ignore_errors=True)
        pack(dataset, "train")

    packing = compare(first_pack, lambda: seconds_of(decode), 5)
    train = pack(dataset, "train")
    val = pack(dataset, "val", original_masks=True)
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
    efficiency = compare(epoch, lambda: seconds_of(resident_epoch), 7)  # a few per cent apart: more rounds
    # Steps in a row, as in a training: the first after another process' turn is slower.
    row_of_steps = compare(resident_epoch, partial(plain.seconds, "steps"), 3)
    step = tuple(seconds / STEPS for seconds in row_of_steps)
    whole = compare(epoch, partial(plain.seconds, "epoch"), 3)
    name = f"U-Net {params.encoder}, {SIZE[0]}x{SIZE[1]}, batch {BATCH}"
    return [
        row(f"training step, {name}, {plan.label}", "contiguous fp32, SMP's losses", step, 4),
        limit_row(resident, step[0]),
        row(
            f"whole epoch from files, {IMAGES} images",
            "PIL decode and augmentation in __getitem__, 0 workers, contiguous fp32, SMP's losses",
            whole,
            4,
            f"{IMAGES / whole[0]:.2f} against {IMAGES / whole[1]:.2f} images/s",
        ),
        row("epoch efficiency: steps on resident data / real steps", "1.0", efficiency, 0.95),
        row("first epoch: decoding into the cache", "one plain pass of decoding", packing, 1 / 1.1),
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
        ("Jaccard index, image by image, with torch's deterministic algorithms", "jaccard, deterministic", 1, 200),
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
    write_dataset(runs.project_root() / params.dataset, images, (120, 160))
    dataset = load_dataset(params.dataset)
    train, val = pack(dataset, "train"), pack(dataset, "val", original_masks=True)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    peak = 0

    def weigh(_: int) -> None:
        nonlocal peak
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = max(peak, 1024 * int(status.split("RssAnon:")[1].split()[0]))

    trainer = Trainer(start_run(params), model, train, val, params, plan_training(params, model, train, val), World())
    for epoch in range(1, params.epochs + 1):
        trainer.train_epoch(epoch, weigh)
    answer.put(peak)


def memory_rows(_: Plain) -> list[dict]:
    root = str(runs.project_root())
    # Large pages come and go by chance, tens of MB at a time: three times each, in turns.
    pairs = [[in_new_process(train_and_weigh, images, root) for images in (140, 1400)] for _ in range(3)]
    few, many = map(statistics.median, zip(*pairs, strict=True))
    what = "peak memory of 100 steps of training, 1400 images (GB instead of seconds)"
    return [row(what, "140 images, ten times", (many / 1e9, few / 1e9), 0.95)]


PARTS = {"loss": loss_rows, "steps": step_rows, "counts": count_rows, "memory": memory_rows}


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
    if not torch.cuda.is_available():
        rows.append(
            {"what": "GPU: images/s against SMP's Lightning recipe, efficiency", "more": "not measured: no GPU here"}
        )
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 250, "display.max_colwidth", 90):
        print(table.to_string(index=False))
    runs.write_json(out, {"environment": runs.environment(), "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()
