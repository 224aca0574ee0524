"""How do time, memory and disk grow? `python benchmarks/growth.py` prints the table behind docs/scaling.md, writes JSON.

Images, pixels, classes and processes are enlarged one at a time; each figure is the fastest of three.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from measure import write_dataset

from seglib import runs
from seglib.data.dataset import load_dataset

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.params import Train
from seglib.train import launch
from seglib.train.fitting import start_run
from seglib.train.loader import CachedSplit, build_cache
from seglib.train.loss import HybridLoss
from seglib.train.model import ModelSpec, build
from seglib.train.plans import DevicePlan
from seglib.train.trials import measure

SMALL = {
    "architecture": "Linknet",
    "encoder": "tu-mobilenetv3_small_050",
    "encoder_weights": "none",
    "epochs": 2,
}


def fastest(work: Callable[[], object], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def by_images() -> list[dict]:
    rows = []
    for images in (250, 500, 1000, 2000):
        name = f"images{images}"
        write_dataset(runs.project_root() / "data" / name, images, 11, (120, 160))
        dataset = load_dataset(f"data/{name}")
        started = time.perf_counter()
        packed = build_cache(dataset, "train")
        first = time.perf_counter() - started
        rows.append(
            {
                "grows": "images (120x160)",
                "to": images,
                "decoding into the cache (s)": first,
                "opening the cache (s)": fastest(lambda dataset=dataset: build_cache(dataset, "train")),
                "cache (MB)": packed.nbytes / 1e6,
            }
        )
    return rows


def by_pixels() -> list[dict]:
    dataset = load_dataset("data/images250")
    model = build(ModelSpec("Unet", "timm-tf_efficientnet_lite0", dataset.classes))
    plan = DevicePlan("cpu", "fp32", channels_last=True, threads=torch.get_num_threads())
    rows = []
    for side in (128, 256, 512):
        trial = measure(plan, model, (side, side), 2)
        rows.append(
            {
                "grows": "pixels a side (U-Net lite0, fp32)",
                "to": side,
                "step (s/image)": trial.seconds,
                "kept for the gradient (MB/image)": trial.image_bytes / 1e6,
            }
        )
    return rows


def by_classes() -> list[dict]:
    rows, generator = [], torch.Generator().manual_seed(0)
    for classes in (2, 11, 50, 150):
        logits = torch.randn(2, classes, 256, 256, generator=generator).requires_grad_()
        target = torch.randint(0, classes, (2, 256, 256), generator=generator)
        ids = target.numpy().astype("uint8")
        loss = HybridLoss()
        rows.append(
            {
                "grows": "classes (2 images of 256x256)",
                "to": classes,
                "loss and gradient (s)": fastest(
                    lambda z=logits, t=target, loss=loss: loss(z, t).total.backward()
                ),
                "confusion counts (s)": fastest(
                    lambda ids=ids, classes=classes: [
                        metrics.confusion_matrix(mask, mask, classes) for mask in ids
                    ]
                ),
            }
        )
    return rows


def by_processes() -> list[dict]:
    dataset = load_dataset("data/images500")
    splits: tuple[CachedSplit, CachedSplit] = (
        build_cache(dataset, "train"),
        build_cache(dataset, "val", original_masks=True),
    )
    rows = []
    for processes in (1, 2):
        params = Train(run=f"of{processes}", dataset="data/images500", **SMALL)
        run = start_run(params)
        torch.manual_seed(0)
        model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
        plan = DevicePlan("cpu", "fp32", channels_last=True, processes=processes, threads=1)
        history = launch.train(run, model, *splits, params, plan)
        rows.append(
            {
                "grows": "processes of one thread (gloo)",
                "to": processes,
                "training (images/s)": history["images_per_second"].iloc[-1],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/growth.json", help="the JSON file")
    out = Path(parser.parse_args().out).resolve()
    tables = []
    with tempfile.TemporaryDirectory() as root:
        for name in ("notebooks", "data"):
            (Path(root) / name).mkdir()
        os.environ["SEGLIB_ROOT"] = root
        for part in (by_images, by_pixels, by_classes, by_processes):
            tables.append(part())
            print(pd.DataFrame(tables[-1]).round(4).to_string(index=False), "\n")
    runs.write_json(
        out, {"environment": runs.environment(), "rows": [row for table in tables for row in table]}
    )


if __name__ == "__main__":
    main()
