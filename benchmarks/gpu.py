"""How fast is training on a GPU, against SMP's own recipe? `python benchmarks/gpu.py` prints the table; training.py has it too.

Both sides train the same network on the same files, at the same batch and precision. The other side runs in a process of its
own (recipe.py) and needs Lightning: `pip install -e ".[benchmark]"`. Without a GPU the rows say that nothing was measured;
`--device cpu --size 64 --batch 2 --images 8` tries whether all of it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import count, product
from pathlib import Path

import pandas as pd
import torch
from measure import limit_row, row, seconds_of, write_dataset
from torch import nn

from seglib import runs
from seglib.data.dataset import load_dataset
from seglib.params import Train
from seglib.train import views
from seglib.train.batches import Batch, training_batches
from seglib.train.device import make_plan
from seglib.train.distributed import World
from seglib.train.fitting import start_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelSpec, build
from seglib.train.plans import PRECISIONS as DTYPES
from seglib.train.trainer import Trainer

ENCODERS = {"U-Net lite0": "timm-tf_efficientnet_lite0", "U-Net ResNet-34": "resnet34"}
CLASSES = 11
# Of the plan and of Lightning. torch computes convolutions of float32 in TF32 unless told otherwise, as the recipe does.
PRECISIONS = {"fp32 as tf32": ("tf32", "32-true"), "bf16": ("bf16", "bf16-mixed")}


@dataclass(frozen=True)
class Setting:
    """What is trained, and where.

    Args:
        device: torch device name.
        size: of the crops, pixels a side.
        batch: images a step.
        images: of the dataset.
        rounds: epochs that count, after one to warm up.
    """

    device: str = "cuda"
    size: int = 512
    batch: int = 32
    images: int = 1280
    rounds: int = 3


KINDS = (
    "against SMP's Lightning example",
    "efficiency, 0 workers",
    "shares of a step",
    "the step's limit",
    "compiled",
)


def rows(setting: Setting) -> list[dict]:
    """The table; rows without a figure where the device is missing."""
    names = list(product(ENCODERS, PRECISIONS))
    if setting.device == "cuda" and not torch.cuda.is_available():
        return [
            {"what": f"GPU: {name}, {precision}: {kind}", "more": "not measured: no GPU here"}
            for name, precision in names
            for kind in KINDS
        ]
    folder = runs.project_root() / "data" / "gpu"
    write_dataset(folder, setting.images, CLASSES, (setting.size * 9 // 8,) * 2)
    return [line for name, precision in names for line in _of_network(name, precision, setting, folder)]


def _of_network(name: str, precision: str, setting: Setting, folder: Path) -> list[dict]:
    ours, theirs = PRECISIONS[precision]
    if setting.device == "cpu":
        ours = ours.replace("tf32", "fp32")
    about = f"GPU: {name}, {precision}: "
    against, efficiency, shares, limit, compiled = (about + kind for kind in KINDS)
    their_epochs = recipe_seconds(ENCODERS[name], theirs, setting, folder)
    job = Job(ENCODERS[name], ours, False, setting)
    lines = [_against(against, job.epochs(), their_epochs, 3, setting)]
    pairs = [(job.epoch(), job.resident_epoch()) for _ in range(setting.rounds + 1)][1:]
    parts = job.parts()
    told = ", ".join(f"{part} {parts[part] / parts['step']:.1%}" for part in ("loss", "augmentation"))
    lines += [
        row(efficiency, "steps on resident data", pairs, 0.90),
        {"what": shares, "seconds": round(parts["step"], 5), "more": told},
        limit_row(limit, "a step on resident data", job.step, parts["step"], setting.device, DTYPES[ours]),
    ]
    if setting.device == "cuda":
        try:
            epochs = Job(ENCODERS[name], ours, True, setting).epochs()
            lines.append(_against(compiled, epochs, their_epochs, None, setting))
        except Exception as error:  # torch.compile wants a C compiler, Triton, ...
            lines.append({"what": compiled, "more": f"failed: {str(error).splitlines()[0]}"})
    return lines


def _against(
    what: str, ours: list[float], theirs: list[float], wanted: float | None, setting: Setting
) -> dict:
    """A row of the epochs' medians: they were not taken in turns."""
    pair = statistics.median(ours), statistics.median(theirs)
    pace = "{:.0f} against {:.0f} images/s".format(*(setting.images / seconds for seconds in pair))
    return row(what, "the recipe's epoch", [pair], wanted, pace)


def recipe_seconds(encoder: str, precision: str, setting: Setting, folder: Path) -> list[float]:
    """Seconds of the recipe's epochs, but for the first."""
    options = {
        "encoder": encoder, "precision": precision, "device": setting.device, "classes": CLASSES, "size": setting.size,
        "batch": setting.batch, "epochs": setting.rounds + 1,
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).with_name("recipe.py")), str(folder)]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"the recipe failed; it needs `pip install -e '.[benchmark]'`.\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])[1:]


class Job:
    """A training of ours whose epochs and steps can be timed.

    Args:
        encoder: of the U-Net.
        precision: of the plan.
        compiled: whether by torch.compile.
        setting: what is trained, and where.
    """

    _numbers = count()

    def __init__(self, encoder: str, precision: str, compiled: bool, setting: Setting) -> None:
        params = Train(
            run=f"gpu{next(self._numbers)}", dataset="data/gpu", encoder=encoder, encoder_weights="none", batch_size=setting.batch, epochs=1000,
            crop_height=setting.size, crop_width=setting.size,
        )  # fmt: skip
        dataset = load_dataset(params.dataset)
        train, val = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
        plan = make_plan(
            setting.device, precision, memory_format="channels_last", compile="on" if compiled else "off"
        )
        self.plan = replace(plan, micro_batch=setting.batch, cache="ram")
        model = build(ModelSpec(params.architecture, encoder, dataset.classes))
        self.trainer = Trainer(
            start_run(params), model, train.in_memory(), val, params, self.plan, World(device=setting.device)
        )
        self.trainer._wake(1)
        self.setting, self.number = setting, 0
        self.batch: Batch = next(
            training_batches(
                self.trainer.train,
                self.trainer.geometry,
                self.trainer.colour,
                setting.batch,
                0,
                1,
                pinned=self.plan.kind == "cuda",
            )
        )
        self.images, self.masks = self.augmented()

    def augmented(self) -> tuple[torch.Tensor, torch.Tensor]:
        return views.augmented(self.batch, self.trainer.geometry.crop, self.plan)

    def epoch(self) -> float:
        """Seconds of an epoch as it is."""
        self.number += 1
        return seconds_of(lambda: self.trainer.train_epoch(self.number, lambda _: None))

    def epochs(self) -> list[float]:
        """Seconds of several, after one to warm up."""
        return [self.epoch() for _ in range(self.setting.rounds + 1)][1:]

    def step(self) -> None:
        """A step on images that lie on the device already augmented."""
        trainer = self.trainer
        trainer.optimizer.zero_grad(set_to_none=True)
        with self.plan.autocast():
            logits = trainer.model(self.images)
        trainer.loss(logits, self.masks).total.backward()
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()

    def resident_epoch(self) -> float:
        """Seconds of as many such steps as an epoch has."""
        steps = -(-self.setting.images // self.setting.batch)

        def every_step() -> None:
            with self.plan.repeating():
                for _ in range(steps):
                    self.step()

        return seconds_of(every_step)

    def parts(self) -> dict[str, float]:
        """Seconds of a step, of its loss with its gradient, and of augmenting its images."""
        with torch.no_grad(), self.plan.autocast():
            logits = self.trainer.model(self.images)

        def loss() -> None:
            self.trainer.loss(logits.detach().requires_grad_(), self.masks).total.backward()

        ways: dict[str, Callable[[], object]] = {"loss": loss, "augmentation": self.augmented}
        times = 10

        def repeated(way: Callable[[], object]) -> float:
            return statistics.median(
                seconds_of(lambda: [way() for _ in range(times)]) / times for _ in range(3)
            )

        steps = -(-self.setting.images // self.setting.batch)
        return {name: repeated(way) for name, way in ways.items()} | {"step": self.resident_epoch() / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    setting = Setting(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as root:
        for name in ("notebooks", "data"):
            (Path(root) / name).mkdir()
        os.environ["SEGLIB_ROOT"] = root
        found = rows(setting)
    with pd.option_context("display.width", 250, "display.max_colwidth", 110):
        print(pd.DataFrame(found).to_string(index=False))


if __name__ == "__main__":
    main()
