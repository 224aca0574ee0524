"""The per-image confusion counts as a `torchmetrics.Metric`, for training loops outside seglib."""

from __future__ import annotations

import importlib

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from seglib.data import IGNORE

metrics = importlib.import_module("seglib.metrics.scores")

HEADLINES = (
    "mean_iou",
    "mean_iou_image",
    "mean_iou_class",
    "pixel_accuracy",
    "mean_class_accuracy",
    "mean_f1",
)


class ConfusionCounts(Metric):
    """One (C, C) matrix of pixel counts an image; `compute` gives the headline scores, `confusions` the counts themselves.

    Moves between devices, works in a `MetricCollection`, and adds up over processes: each process's images are put one after
    the other, so the scores are those of all images, never means of means.

    Args:
        num_classes: C.
        ignore_index: id in the target that is not scored.
        absent: when a class counts in an image (see `metrics.image_class_iou`).
        kwargs: of `torchmetrics.Metric`.

    Memory: 8 C^2 bytes an image (150 classes, 2,000 images: 360 MB).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: list[Tensor]

    def __init__(self, num_classes: int, ignore_index: int = IGNORE, absent: str = "truth", **kwargs) -> None:
        super().__init__(**kwargs)
        if absent not in metrics.POLICIES:
            raise ValueError(
                f"absent-class policy {absent!r}: expected one of {', '.join(metrics.POLICIES)}."
            )
        self.num_classes, self.ignore_index, self.absent = num_classes, ignore_index, absent
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            preds: (B, H, W) class ids, or (B, C, H, W) floating-point logits or probabilities.
            target: (B, H, W) class ids.

        Raises:
            ValueError: shapes that differ, or an id outside the classes on a scored pixel.
        """
        if preds.is_floating_point():
            preds = preds.argmax(1)
        if preds.shape != target.shape or target.ndim != 3:
            raise ValueError(
                f"predictions are {tuple(preds.shape)}, targets {tuple(target.shape)}; expected both (B, H, W), or logits "
                "(B, C, H, W). Resize logits, never masks."
            )
        classes, scored = self.num_classes, target != self.ignore_index
        for what, ids in (("target", target[scored]), ("prediction", preds[scored])):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < classes:
                raise ValueError(
                    f"{what} holds ids {int(ids.min())}-{int(ids.max())}; expected 0-{classes - 1}."
                )
        image = torch.arange(len(target), device=target.device).view(-1, 1, 1).expand_as(target)
        cells = (image * classes + target.long()) * classes + preds.long()
        counts = torch.bincount(cells[scored], minlength=len(target) * classes**2)
        self.counts.append(counts.view(len(target), classes, classes))

    def compute(self) -> dict[str, Tensor]:
        """The headline scores of all images so far, by name, each a float64 scalar; NaN where nothing can be said."""
        found = metrics.scores(self._stacked(), self.absent)
        return {name: torch.tensor(found[name], dtype=torch.float64) for name in HEADLINES}

    def confusions(self) -> np.ndarray:
        """(N, C, C) int64 counts of all images so far, those of all processes together where there are several."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync,
            should_unsync=self._should_unsync,
        ):
            return self._stacked()

    def _stacked(self) -> np.ndarray:
        parts = (
            self.counts if isinstance(self.counts, list) else [self.counts]
        )  # one tensor once processes are in step
        if not parts:
            return np.zeros((0, self.num_classes, self.num_classes), np.int64)
        return torch.cat(parts).cpu().numpy()
