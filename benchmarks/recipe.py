"""The other side of gpu.py: training as SMP's own example does it, by Lightning. Prints the seconds of every epoch.

Normalisation within the model, Dice, Adam, a cosine by step, statistics of every batch, four processes that decode and augment.
The augmentation is torchvision's (plain.py), not albumentations', which is no longer maintained; there is no validation, no
logger and no checkpoint, which would only slow it down.

Source: examples/camvid_segmentation_multiclass.ipynb of segmentation_models.pytorch 0.5.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import lightning
import segmentation_models_pytorch as smp
import torch
from plain import IGNORE, Files
from torch import Tensor


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class DatasetConfig(lightning.LightningModule):
    def __init__(self, encoder: str, classes: int, steps: int) -> None:
        super().__init__()
        self.net = smp.Unet(encoder, encoder_weights=None, classes=classes)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.loss = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True, ignore_index=IGNORE)
        self.classes, self.steps = classes, steps
        self.outputs: list[tuple[Tensor, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, masks = batch
        logits = self(images)
        loss = self.loss(logits.contiguous(), masks)
        pred = logits.softmax(1).argmax(1)
        self.outputs.append(
            smp.metrics.get_stats(pred, masks, "multiclass", num_classes=self.classes, ignore_index=IGNORE)
        )
        return loss

    def on_train_epoch_end(self) -> None:
        stats = [torch.cat(parts) for parts in zip(*self.outputs, strict=True)]
        self.log("train_iou", smp.metrics.iou_score(*stats, reduction="micro"))
        self.outputs.clear()

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.parameters(), 2e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps, 1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Clock(lightning.Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        finish()
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        finish()
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the dataset")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--precision", required=True, help="Lightning's name: 32-true or bf16-mixed")
    parser.add_argument("--device", required=True, help="cuda or cpu")
    for name in ("classes", "size", "batch", "epochs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # Lightning's advice
    files = Files(given.folder, (given.size, given.size), scaled=False)
    loader = torch.utils.data.DataLoader(files, given.batch, shuffle=True, num_workers=4)
    clock = Clock()
    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(given.device, given.device), devices=1, precision=given.precision, max_epochs=given.epochs,
        log_every_n_steps=1, callbacks=[clock], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(DatasetConfig(given.encoder, given.classes, given.epochs * len(loader)), loader)
    print(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
