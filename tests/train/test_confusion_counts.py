"""The counts as a torchmetrics metric: alone, in a collection and over processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_counts_and_scores_are_those_of_metrics_from_ids_bytes_and_logits():
    pred, target = draw()
    metric, bytes_, logits = ConfusionCounts(4), ConfusionCounts(4), ConfusionCounts(4)
    for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
        metric.update(pred[part], target[part])
    pairs = zip(target.numpy(), pred.numpy(), strict=True)
    expected = np.stack([metrics.confusion_matrix(t, p, 4) for t, p in pairs])
    batch = bytes_(pred.to(torch.uint8), target.to(torch.uint8))
    logits.update(torch.nn.functional.one_hot(pred, 4).permute(0, 3, 1, 2).float(), target)
    for found in (metric, bytes_, logits):
        np.testing.assert_array_equal(found.confusions(), expected)
    for found in (metric.compute(), batch):
        assert {name: value.item() for name, value in found.items()} == metrics.scores(expected)


@pytest.mark.parametrize("absent", metrics.POLICIES)
def test_it_stands_in_a_collection_with_torchmetrics(absent):
    jaccard = MulticlassJaccardIndex(4, ignore_index=255)
    collection = MetricCollection({"counts": ConfusionCounts(4, absent), "jaccard": jaccard})
    collection.update(*draw(seed=1))
    found = collection.compute()
    assert found["mean_iou"].item() == pytest.approx(found["jaccard"].item(), abs=1e-6)


ZEROS = torch.zeros(1, 2, 2, dtype=torch.long)


def test_faults_are_named():
    metric = ConfusionCounts(4)
    with pytest.raises(ValueError, match="prediction holds ids 4-4; expected 0-3"):
        metric.update(ZEROS + 4, ZEROS)
    with pytest.raises(ValueError, match="truth holds ids -1--1"):
        metric.update(ZEROS, ZEROS - 1)
    for pred, target in ((ZEROS, torch.zeros(1, 2, 3, dtype=torch.long)), (ZEROS[0], ZEROS[0])):
        with pytest.raises(ValueError, match=r"expected both \(B, H, W\)"):
            metric.update(pred, target)
    metric.update(ZEROS + 4, ZEROS + 255)
    assert metric.confusions().sum() == 0
    with pytest.raises(ValueError, match="policy 'zero'"):
        ConfusionCounts(4, "zero")


_PROCESS = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_confusion_counts import ConfusionCounts, draw
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://{file}", rank=rank, world_size=2)
pred, target = draw(5)
mine, metric = [slice(0, 3), slice(3, 5)][rank], ConfusionCounts(4)
metric.update(pred[mine], target[mine])
torch.save(dict(metric.compute(), all=torch.from_numpy(metric.confusions())), "{file}.%d" % rank)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_know_the_images_of_both(tmp_path):
    code = _PROCESS.format(tests=str(Path(__file__).parent), file=(tmp_path / "meet").as_posix())
    started = [subprocess.Popen([sys.executable, "-c", code, str(rank)]) for rank in range(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    alone = ConfusionCounts(4)
    alone.update(*draw(5))
    for rank in range(2):
        found = torch.load(tmp_path / f"meet.{rank}", weights_only=True)
        np.testing.assert_array_equal(found["all"], alone.confusions())
        assert all(found[name] == value for name, value in alone.compute().items())
