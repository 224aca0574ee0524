"""The counts as a torchmetrics metric, alone and in a collection."""

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from seglib import metrics
from seglib.train import ConfusionCounts


def draw(count: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    target = random.integers(0, classes, (count, 9, 11))
    pred = np.where(random.random(target.shape) < 0.6, target, random.integers(0, classes, target.shape))
    target[random.random(target.shape) < 0.1] = 255
    return torch.from_numpy(pred), torch.from_numpy(target)


def test_scores_are_those_of_metrics_from_ids_bytes_and_logits():
    pred, target = draw()
    metric, logits = ConfusionCounts(4), ConfusionCounts(4)
    for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
        metric.update(pred[part], target[part])
    logits.update(torch.nn.functional.one_hot(pred, 4).permute(0, 3, 1, 2).float(), target)
    pairs = zip(target.numpy(), pred.numpy(), strict=True)
    expected = metrics.scores(np.stack([metrics.confusion_matrix(t, p, 4) for t, p in pairs]))
    batch = ConfusionCounts(4)(pred.to(torch.uint8), target.to(torch.uint8))
    for found in (metric.compute(), logits.compute(), batch):
        assert {name: value.item() for name, value in found.items()} == expected


@pytest.mark.parametrize("absent", metrics.POLICIES)
def test_it_stands_in_a_collection_with_torchmetrics(absent):
    jaccard = MulticlassJaccardIndex(4, ignore_index=255)
    collection = MetricCollection({"counts": ConfusionCounts(4, absent), "jaccard": jaccard})
    collection.update(*draw(seed=1))
    found = collection.compute()
    assert found["mean_iou"].item() == pytest.approx(found["jaccard"].item(), abs=1e-6)
