"""The per-image confusion counts as a `torchmetrics.Metric`, for training loops of your own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from seglib import metrics
from seglib.data import IGNORE

HEADLINES = (
    "mean_iou", "mean_iou_image", "mean_iou_class", "pixel_accuracy", "mean_class_accuracy", "mean_f1",
)  # fmt: skip


class ConfusionCounts(Metric):
    """Count one (C, C) confusion matrix an image; `compute` gives the headline scores of all of them.

    The images of several processes are put one after the other. Memory: 8 C^2 bytes an image. `absent` is as
    in `metrics.image_class_iou`.
    """

    is_differentiable, higher_is_better, full_state_update = False, True, False

    def __init__(self, num_classes: int, ignore_index: int = IGNORE, absent: str = "truth", **kwargs) -> None:
        super().__init__(**kwargs)
        if absent not in metrics.POLICIES:
            raise ValueError(f"policy {absent!r}: expected one of {', '.join(metrics.POLICIES)}.")
        self.num_classes, self.ignore_index, self.absent = num_classes, ignore_index, absent
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch: (B, H, W) ids, or (B, C, H, W) floating-point logits, against (B, H, W) ids.

        Raises:
            ValueError: shapes that differ, or an id outside the classes on a valid pixel.
        """
        if preds.is_floating_point():
            preds = preds.argmax(1)
        if preds.shape != target.shape or target.ndim != 3:
            told = f"predictions are {tuple(preds.shape)}, targets {tuple(target.shape)}"
            raise ValueError(f"{told}; expected both (B, H, W), or logits (B, C, H, W). Never resize masks.")
        valid, classes = target != self.ignore_index, self.num_classes
        truth, pred = target[valid].long(), preds[valid].long()
        for what, ids in (("truth", truth), ("prediction", pred)):
            if ids.numel() and not 0 <= ids.min() <= ids.max() < classes:
                raise ValueError(f"{what} holds ids {ids.min()}-{ids.max()}; expected 0-{classes - 1}.")
        image = torch.arange(len(target), device=target.device).view(-1, 1, 1).expand_as(target)[valid]
        pairs = (image * classes + truth) * classes + pred
        counts = torch.bincount(pairs, minlength=len(target) * classes**2)
        self.counts.append(counts.view(len(target), classes, classes))

    def compute(self) -> dict[str, Tensor]:
        """Compute the headline scores of all images so far, each a float64 scalar or NaN."""
        found = metrics.scores(self._stacked(), self.absent)
        return {name: torch.tensor(found[name], dtype=torch.float64) for name in HEADLINES}

    def confusions(self) -> np.ndarray:
        """Return the (N, C, C) int64 counts of all images so far, those of all processes together."""
        sync = {"should_sync": self._to_sync, "should_unsync": self._should_unsync}
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, **sync):
            return self._stacked()

    def _stacked(self) -> np.ndarray:
        # a list of tensors, or one tensor once synchronised
        parts = self.counts if isinstance(self.counts, list) else [self.counts]
        empty = torch.zeros(0, self.num_classes, self.num_classes, dtype=torch.long)
        return torch.cat([empty, *(part.cpu() for part in parts)]).numpy()
