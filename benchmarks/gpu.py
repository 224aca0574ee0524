"""How fast is training on a GPU, against SMP's own recipe? `python benchmarks/gpu.py` prints the table.

Both sides train the same network on the same files, at the same batch and precision. The other side runs in a process
of its own (recipe.py) and needs Lightning: `pip install -e ".[benchmark]"`. `--device cpu --size 64 --batch 2 --images 8`
tries on a CPU whether all of it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
from measure import row, write_dataset

from seglib import train
from seglib.params import Train

ENCODERS = {"U-Net lite0": "timm-tf_efficientnet_lite0", "U-Net ResNet-34": "resnet34"}
CLASSES = 11
# Of the plan and of Lightning. torch computes convolutions in TF32 unless told otherwise, as the recipe does.
PRECISIONS = {"fp32 as tf32": ("tf32", "32-true"), "bf16": ("bf16", "bf16-mixed")}


@dataclass(frozen=True)
class Setting:
    """What is trained, and where: crops of `size` pixels a side, `rounds` epochs that count after one to warm up."""

    device: str = "cuda"
    size: int = 512
    batch: int = 32
    images: int = 1280
    rounds: int = 3


def our_epochs(encoder: str, precision: str, setting: Setting) -> list[float]:
    """Seconds of our training epochs, but for the first."""
    params = Train(
        run="gpu", replace="gpu", dataset="data/gpu", encoder=encoder, encoder_weights="none",
        batch_size=setting.batch, epochs=setting.rounds + 1, crop_height=setting.size, crop_width=setting.size,
        device=setting.device, precision=precision,
    )  # fmt: skip
    params, dataset = train.open_dataset(params)
    caches = [train.build_cache(dataset, "train"), train.build_cache(dataset, "val", original_masks=True)]
    run, model = train.start_run(params), train.build_model(params, dataset.classes)
    history = train.fit(run, model, *caches, params, train.plan_training(params, model, caches[0]))
    return list(setting.images / history["images_per_second"].iloc[1:])


def their_epochs(encoder: str, precision: str, setting: Setting, folder: Path) -> list[float]:
    """Seconds of the recipe's epochs, but for the first."""
    options = {"encoder": encoder, "precision": precision, "device": setting.device, "classes": CLASSES}
    options |= {"size": setting.size, "batch": setting.batch, "epochs": setting.rounds + 1}
    command = [sys.executable, str(Path(__file__).with_name("recipe.py")), str(folder)]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"the recipe failed; it needs `pip install -e '.[benchmark]'`.\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    setting = Setting(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as root:
        for name in ("notebooks", "data"):
            (Path(root) / name).mkdir()
        os.environ["SEGLIB_ROOT"] = root
        folder = Path(root) / "data" / "gpu"
        write_dataset(folder, setting.images, CLASSES, (setting.size * 9 // 8,) * 2)
        rows = []
        for name, encoder in ENCODERS.items():
            for label, (ours, theirs) in PRECISIONS.items():
                ours = "fp32" if setting.device == "cpu" and ours == "tf32" else ours
                pairs = zip(
                    our_epochs(encoder, ours, setting),
                    their_epochs(encoder, theirs, setting, folder),
                    strict=True,
                )
                rows.append(row(f"{name}, {label}: an epoch", "SMP's Lightning example", list(pairs), 3))
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
