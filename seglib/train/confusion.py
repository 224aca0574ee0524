"""The per-image confusion counts as a `torchmetrics.Metric`, for training loops of your own.

seglib's own validation needs the sum over images only, and adds up `metrics.confusion_matrix` without it.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from seglib import metrics


class ConfusionCounts(Metric):
    """Count one (C, C) confusion matrix an image; `compute` gives every scalar score of all of them.

    The images of several processes are put one after the other. Memory: 8 C^2 bytes an image. `absent` is as
    in `metrics.image_class_iou`.
    """

    is_differentiable, higher_is_better, full_state_update = False, True, False

    def __init__(self, num_classes: int, absent: str = "truth", **kwargs) -> None:
        super().__init__(**kwargs)
        if absent not in metrics.POLICIES:
            raise ValueError(f"policy {absent!r}: expected one of {', '.join(metrics.POLICIES)}.")
        self.num_classes, self.absent = num_classes, absent
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch: (B, H, W) ids, or (B, C, H, W) floating-point logits, against (B, H, W) ids; 255 is ignored.

        Raises:
            ValueError: shapes that differ, or an id outside the classes on a valid pixel.
        """
        if preds.is_floating_point():
            preds = preds.argmax(1)
        if preds.shape != target.shape or target.ndim != 3:
            told = f"predictions are {tuple(preds.shape)}, targets {tuple(target.shape)}"
            raise ValueError(f"{told}; expected both (B, H, W), or logits (B, C, H, W). Never resize masks.")
        for truth, pred in zip(target.cpu().numpy(), preds.cpu().numpy(), strict=True):
            counts = metrics.confusion_matrix(truth, pred, self.num_classes)
            self.counts.append(torch.from_numpy(counts[None]).to(target.device))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all images so far by the names of `metrics.scores`, each a float64 scalar or NaN."""
        found = metrics.scores(self._stacked(), self.absent)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def confusions(self) -> np.ndarray:
        """Return the (N, C, C) int64 counts of all images so far, those of all processes together."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._stacked()

    def _stacked(self) -> np.ndarray:
        # a list of tensors, or one tensor once synchronised
        parts = self.counts if isinstance(self.counts, list) else [self.counts]
        empty = torch.zeros(0, self.num_classes, self.num_classes, dtype=torch.long)
        return torch.cat([empty, *(part.cpu() for part in parts)]).numpy()
