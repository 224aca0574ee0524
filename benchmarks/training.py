"""How fast does training run here, and against what? `python benchmarks/training.py` prints the table and writes JSON.

Every figure is the ratio of two ways to do the same work on the same data, timed in turns. The other way runs in a
process of its own that does not know seglib (plain.py). `--only loss,counts` runs parts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchmetrics
from measure import compare, row, seconds_of, write_dataset
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

from seglib import metrics, runs, train
from seglib.params import Train

IMAGES = STEPS * BATCH
STEP = f"training step, U-Net {ENCODER}, {SIZE[0]}x{SIZE[1]}, batch {BATCH}"


def hybrid(class_weights: list[float] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    module = train.HybridLoss(class_weights=class_weights)
    return lambda logits, target: module(logits, target).total


def loss_rows(plain: Plain) -> list[dict]:
    logits, target = logits_and_target()
    few = slice(0, 2)
    value, gradient = backward(hybrid(), logits[few], target[few])
    exact, exact_gradient = backward(Separate(), logits[few].double(), target[few])
    off = abs(value.item() / exact.item() - 1)
    off_gradient = ((gradient - exact_gradient).norm() / exact_gradient.norm()).item()
    seconds = compare(lambda: backward(hybrid(WEIGHTS), logits, target), partial(plain.seconds, "loss"), 5)
    what = f"HybridLoss, forward and backward, {(BATCH, CLASSES, *SIZE)}"
    more = f"value off by {off:.1e}, gradient by {off_gradient:.1e} (against float64)"
    return [row(what, "cross-entropy + SMP's DiceLoss + SMP's FocalLoss", seconds, 4, more)]


def parameters(**changed: object) -> Train:
    crop = {"crop_height": SIZE[0], "crop_width": SIZE[1], "class_weights": "sqrt_inverse"}
    same = {"dataset": "data/noise", "encoder": ENCODER, "encoder_weights": "none", "batch_size": BATCH}
    return Train(**same | crop | {"device": "cpu", "precision": "bf16", "micro_batch": BATCH} | changed)


def make_step(accelerated: int) -> Callable[[], None]:
    """A training step on resident data; `accelerated`: how many of cpu.accelerate's changes the model gets (0-2)."""
    params, dataset = train.open_dataset(parameters())
    model = train.build_model(params, dataset.classes).train().to(memory_format=torch.channels_last)
    if accelerated:
        train.accelerate(model)
    if accelerated == 1:  # the folded upsampling alone is undone
        for module in model.modules():
            if "forward" in vars(module) and not isinstance(module, nn.Conv2d):
                del module.forward
    images = torch.randint(0, 256, (BATCH, 3, *SIZE)).float().contiguous(memory_format=torch.channels_last)
    masks, loss = logits_and_target()[1], train.HybridLoss(class_weights=WEIGHTS)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        loss(logits, masks).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def step_rows(plain: Plain) -> list[dict]:
    step = make_step(2)
    # Steps in a row, as in a training: the first after another process' turn is slower.
    steps = compare(lambda: [step() for _ in range(STEPS)], partial(plain.seconds, "steps"), 5)
    seconds = [(ours / STEPS, theirs / STEPS) for ours, theirs in steps]
    return [row(f"{STEP}, bf16 channels_last", "contiguous fp32, SMP's losses", seconds, 4)]


def ablation_rows(_: Plain) -> list[dict]:
    bare, depthwise, both = (make_step(k) for k in range(3))
    return [
        row(
            f"{STEP}: gradients of depthwise convolutions",
            "torch",
            compare(depthwise, partial(seconds_of, bare), 7),
            1.1,
        ),
        row(
            "... and folded upsampling",
            "the step above",
            compare(both, partial(seconds_of, depthwise), 7),
            1.1,
        ),
    ]


def epochs_of_ours() -> Iterator[float]:
    """Seconds of one training epoch of a real run after the other, cache, augmentation and trainer included."""
    params, dataset = train.open_dataset(parameters(run="benchmark", replace="benchmark", epochs=4))
    while True:
        caches = [train.build_cache(dataset, "train"), train.build_cache(dataset, "val", original_masks=True)]
        run, model = train.start_run(params), train.build_model(params, dataset.classes)
        plan = train.plan_training(params, model, caches[0])
        history = train.fit(run, model, *caches, params, plan)
        yield from IMAGES / history["images_per_second"].iloc[1:]


def epoch_rows(plain: Plain) -> list[dict]:
    ours = epochs_of_ours()
    pairs = [(next(ours), plain.seconds("epoch")) for _ in range(6)]
    against = "PIL decode and augmentation in __getitem__, 0 workers, contiguous fp32, SMP's losses"
    return [row(f"whole epoch from files, {IMAGES} images", against, pairs, 4)]


def count_rows(plain: Plain) -> list[dict]:
    truth, pred = truth_and_pred()
    metric = torchmetrics.classification.MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    for t, p in zip(truth, pred, strict=True):
        expected = metric(torch.from_numpy(p).long(), torch.from_numpy(t).long())
        assert np.array_equal(metrics.confusion_matrix(t, p, CLASSES), expected)

    def ours() -> list[np.ndarray]:
        return [metrics.confusion_matrix(t, p, CLASSES) for t, p in zip(truth, pred, strict=True)]

    what = "per-image confusion counts, 64 images 360x480, 11 classes"
    others = {"confusion": "confusion matrix", "jaccard": "Jaccard index"}
    return [
        row(what, f"torchmetrics' {name}, image by image", compare(ours, partial(plain.seconds, work), 5), 5)
        for work, name in others.items()
    ]


PARTS = {
    "loss": loss_rows,
    "counts": count_rows,
    "ablation": ablation_rows,
    "steps": step_rows,
    "epoch": epoch_rows,
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
        noise = Path(root) / "data" / "noise"
        write_dataset(noise, IMAGES, CLASSES, (360, 480))
        plain = Plain(noise)
        rows = [line for part in given.only.split(",") for line in PARTS[part](plain)]
        plain.close()
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 250, "display.max_colwidth", 90):
        print(table.to_string(index=False))
    about = {"environment": runs.environment(), "threads": torch.get_num_threads()}
    runs.write_json(out, about | {"rows": rows})


if __name__ == "__main__":
    main()
