"""The other side of training.py: the same work as most repositories write it, with torch, SMP and torchmetrics alone.

It runs in a process of its own, since `seglib` changes how a process keeps memory, from which this side would gain as
well. `Plain(folder)` starts it; each call runs one piece of work there and returns its seconds.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torchmetrics
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

BATCH, SIZE, CLASSES, IGNORE = 14, (352, 480), 11, 255
STEPS = 3  # of an epoch
WEIGHTS = [1.0 + 0.1 * c for c in range(CLASSES)]
ENCODER = "timm-tf_efficientnet_lite0"


class Plain:
    """The process of this side, which waits until it is asked."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def seconds(self, work: str) -> float:
        """Run one of `works` once."""
        self.process.stdin.write(f"{work}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the plain side ended while it ran {work!r}.")
        return float(answer)

    def close(self) -> None:
        self.process.communicate()


def logits_and_target() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(BATCH, CLASSES, *SIZE, generator=generator)
    target = torch.randint(0, CLASSES, (BATCH, *SIZE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = IGNORE
    return logits, target


def truth_and_pred() -> tuple[np.ndarray, np.ndarray]:
    """64 masks and predictions, (64, 360, 480) uint8 each; a fifth of the pixels wrong, a tenth ignored."""
    random = np.random.default_rng(0)
    truth = random.integers(0, CLASSES, (64, 360, 480), np.uint8)
    pred = np.where(random.random(truth.shape) < 0.8, truth, random.integers(0, CLASSES, truth.shape)).astype(
        np.uint8
    )
    truth[random.random(truth.shape) < 0.1] = IGNORE
    return truth, pred


class Separate(nn.Module):
    """Cross-entropy, SMP's Dice and SMP's focal loss, one after the other."""

    def __init__(self, class_weights: list[float] | None = None) -> None:
        super().__init__()
        weight = None if class_weights is None else torch.tensor(class_weights)
        self.terms = nn.ModuleList(
            [
                nn.CrossEntropyLoss(weight, ignore_index=IGNORE),
                smp.losses.DiceLoss("multiclass", ignore_index=IGNORE),
                smp.losses.FocalLoss("multiclass", ignore_index=IGNORE),
            ]
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return sum(term(logits, target) for term in self.terms)


def backward(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    z = logits.detach().requires_grad_()
    value = loss(z, target)
    value.backward()
    return value.detach(), z.grad


class Files(torch.utils.data.Dataset):
    """Decode with PIL and augment in `__getitem__`.

    Args:
        folder: of the dataset.
        size: (height, width) of the crops.
        scaled: images as normalised float32; False: as uint8.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = SIZE, scaled: bool = True) -> None:
        self.images, self.masks = (
            sorted((folder / "train" / kind).glob("*.png")) for kind in ("images", "masks")
        )
        scaling = [
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomAffine(5, scale=(0.75, 1.5), fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}),
                v2.RandomCrop(size),
                v2.ColorJitter(0.3, 0.3, 0.3),
                v2.RandomApply([v2.GaussianBlur(3)], 0.1),
                *(scaling if scaled else []),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.images[k]) as picture, Image.open(self.masks[k]) as ids:
            image, mask = tv_tensors.Image(picture.convert("RGB")), tv_tensors.Mask(np.array(ids))
        image, mask = self.transform(image, mask)
        return image, mask.squeeze(0).long()


def works(folder: Path) -> dict[str, Callable[[], object]]:
    """Everything that can be asked for; what a piece needs is made when it first runs."""
    logits = functools.cache(logits_and_target)

    @functools.cache
    def training() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES).train()
        return net, torch.optim.AdamW(net.parameters(), 1e-3)

    @functools.cache
    def loader() -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(Files(folder), BATCH, shuffle=True)

    @functools.cache
    def batch() -> tuple[Tensor, Tensor]:
        return next(iter(loader()))

    @functools.cache
    def pairs() -> list[list[Tensor]]:
        return [
            [torch.from_numpy(ids)[None].long() for ids in pair]
            for pair in zip(*truth_and_pred(), strict=True)
        ]

    def epoch(batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        net, optimizer = training()
        loss = Separate(WEIGHTS)
        for images, masks in batches:
            optimizer.zero_grad()
            loss(net(images), masks).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    def score(metric: torchmetrics.Metric, deterministic: bool = False) -> None:
        torch.use_deterministic_algorithms(deterministic)
        for truth, pred in pairs():
            metric(pred, truth)
        torch.use_deterministic_algorithms(False)

    of_classes = {"num_classes": CLASSES, "ignore_index": IGNORE}
    return {
        "loss": lambda: backward(Separate(WEIGHTS), *logits()),
        "steps": lambda: epoch([batch()] * STEPS),
        "epoch": lambda: epoch(loader()),
        "confusion": lambda: score(torchmetrics.classification.MulticlassConfusionMatrix(**of_classes)),
        "jaccard": lambda: score(torchmetrics.classification.MulticlassJaccardIndex(**of_classes)),
        "jaccard, deterministic": lambda: score(
            torchmetrics.classification.MulticlassJaccardIndex(**of_classes), True
        ),
    }


def main() -> None:
    ways = works(Path(sys.argv[1]))
    for line in sys.stdin:
        started = time.perf_counter()
        ways[line.strip()]()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
