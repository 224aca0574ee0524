"""Which networks train and predict here? `python benchmarks/architectures.py` writes docs/architectures.md (a quarter of an hour).

Every architecture of SMP with encoders of a dozen families, with random weights: a training step on two crops, then a
prediction at three sizes that no stride divides. `--only Unet:resnet18,DPT:tu-vit_tiny_patch16_224` tries some pairs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import segmentation_models_pytorch as smp
import torch

from seglib import train
from seglib.data import ClassMap
from seglib.params import Train

ENCODERS = {
    "ResNet": "resnet18",
    "EfficientNet": "timm-tf_efficientnet_lite0",
    "MobileNet": "tu-mobilenetv3_small_050",
    "ConvNeXt": "tu-convnext_atto",
    "MiT": "mit_b0",
    "PVT": "tu-pvt_v2_b0",
    "PoolFormer": "tu-poolformer_s12",
    "EfficientViT": "tu-efficientvit_b0",
    "FastViT": "tu-fastvit_t8",
    "EdgeNeXt": "tu-edgenext_xx_small",
    "Swin": "tu-swin_tiny_patch4_window7_224",
    "MaxViT": "tu-maxvit_tiny_rw_224",
    "Hiera": "tu-hiera_tiny_224",
    "ViT": "tu-vit_tiny_patch16_224",
}
ARCHITECTURES = [cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()]
CONTIGUOUS = {"tu-fastvit_t8"}  # as the plan chooses for it on a CPU: in channels_last PyTorch 2.14 crashes
SIZES = (40, 56), (97, 130), (240, 256)
HEAD = """# Which networks work

Written by `python benchmarks/architectures.py`: a training step on two crops of 64 x 96 pixels and a prediction at 40 x 56, 97 x 130 and
240 x 256 pixels of every pair, with random weights, on a CPU in {memory_format} (FastViT: contiguous), `train.accelerate` on. **yes**: works. A number: works, on
images padded to a multiple of that many pixels per side, or (≥) to at least that many. **-**: refused before training; see below.
"""


def attempt(architecture: str, encoder: str, plan: train.DevicePlan) -> tuple[str, str]:
    """Return what the table says of a pair, and why it was refused."""
    params = Train(architecture=architecture, encoder=encoder, encoder_weights="none")
    try:
        plan = replace(plan, memory_format="contiguous" if encoder in CONTIGUOUS else plan.memory_format)
        model = plan.place(train.build_model(params, ClassMap(("sky", "road", "car"))))
    except train.ModelError as error:
        return "-", str(error)
    images, masks = 255 * torch.rand(2, 3, 64, 96), torch.randint(3, (2, 64, 96), dtype=torch.uint8)
    total = train.HybridLoss()(model(images.contiguous(memory_format=plan.layout)), masks).total
    total.backward()
    assert total.isfinite(), f"{architecture} {encoder}: the loss is {total.item()}"
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    with torch.inference_mode():
        for size in SIZES:
            logits = model.logits(torch.zeros(1, 3, *size, dtype=torch.uint8))
            assert logits.shape == (1, 3, *size), f"{architecture} {encoder}: {tuple(logits.shape)} at {size}"
            assert logits.isfinite().all()
    odd = (
        model.stride
        if model.stride > train.STRIDE
        else f"≥ {model.least}"
        if model.least > train.STRIDE
        else "yes"
    )
    return str(odd), ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="", help="pairs ARCHITECTURE:ENCODER, separated by commas; printed only"
    )
    only, plan = parser.parse_args().only, train.DevicePlan(memory_format="channels_last", accelerate=True)
    pairs = [tuple(pair.split(":", 1)) for pair in only.split(",") if pair]
    found = {}
    for pair in pairs or [(a, e) for e in ENCODERS.values() for a in ARCHITECTURES]:
        started = time.perf_counter()
        found[pair] = attempt(*pair, plan)
        print(
            f"{':'.join(pair):<50} {time.perf_counter() - started:5.1f} s  {' '.join(found[pair])}",
            flush=True,
        )
        if not pairs and pair[0] == ARCHITECTURES[-1]:
            write(found, plan)


def write(found: dict[tuple[str, str], tuple[str, str]], plan: train.DevicePlan) -> None:
    """Write what was found of the encoders so far."""
    rows = [
        "| family | encoder | " + " | ".join(ARCHITECTURES) + " |",
        "|---" * (2 + len(ARCHITECTURES)) + "|",
    ]
    for family, encoder in ENCODERS.items():
        if (ARCHITECTURES[-1], encoder) in found:
            marks = (found[architecture, encoder][0] for architecture in ARCHITECTURES)
            rows.append(" | ".join([f"| {family}", f"`{encoder}`", *marks]) + " |")
    reasons: dict[str, list[str]] = {}
    for (architecture, encoder), (_, why) in found.items():
        if why:
            reason = why.partition(": ")[2].removesuffix(". docs/architectures.md lists pairs that work.")
            reasons.setdefault(" ".join(reason.split())[:160], []).append(f"{architecture} `{encoder}`")
    refused = [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    text = "\n".join(
        [HEAD.format(memory_format=plan.memory_format), *rows, "", "## Refused", "", *refused, ""]
    )
    (Path(__file__).parent.parent / "docs" / "architectures.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
