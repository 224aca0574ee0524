"""The per-image confusion counts as a `torchmetrics.Metric`, for training loops of your own."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from seglib import metrics


class ConfusionCounts(Metric):
    """Count a (C, C) confusion matrix an image, over all processes; `compute` gives every scalar score.

    `absent` is as in `metrics.image_class_iou`. Memory: 8 C^2 bytes an image.
    """

    is_differentiable, higher_is_better, full_state_update = False, True, False

    def __init__(self, num_classes: int, absent: str = "truth", **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.absent = num_classes, absent
        self.add_state("counts", default=[], dist_reduce_fx="cat")  # (1, C, C) an image

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch: ids (B, H, W) or float logits (B, C, H, W) against ids (B, H, W); 255 is ignored."""
        preds = preds.argmax(1) if preds.is_floating_point() else preds
        for truth, pred in zip(target.cpu().numpy(), preds.cpu().numpy(), strict=True):
            counts = metrics.confusion_matrix(truth, pred, self.num_classes)
            self.counts.append(torch.from_numpy(counts[None]).to(target.device))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all images so far by the names of `metrics.scores`, each a float64 scalar or NaN."""
        found = metrics.scores(dim_zero_cat(self.counts).cpu().numpy(), self.absent)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
