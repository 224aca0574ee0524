"""The counts as a torchmetrics metric: same numbers as `metrics`, alone, in a collection and over processes."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

metrics = importlib.import_module("seglib.metrics.scores")
from seglib.metrics.confusion import HEADLINES, ConfusionCounts


def draw(count: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, H, W) predictions and targets, some pixels not scored."""
    random = np.random.default_rng(seed)
    target = random.integers(0, classes, (count, 9, 11))
    pred = np.where(random.random(target.shape) < 0.6, target, random.integers(0, classes, target.shape))
    target[random.random(target.shape) < 0.1] = 255
    return torch.from_numpy(pred), torch.from_numpy(target)


def test_the_counts_are_those_of_metrics():
    pred, target = draw()
    metric = ConfusionCounts(4)
    for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
        metric.update(pred[part], target[part])
    expected = np.stack(
        [metrics.confusion_matrix(t, p, 4) for t, p in zip(target.numpy(), pred.numpy(), strict=True)]
    )
    np.testing.assert_array_equal(metric.confusions(), expected)
    found, told = metric.compute(), metrics.scores(expected)
    assert {name: value.item() for name, value in found.items()} == {name: told[name] for name in HEADLINES}


@pytest.mark.parametrize("absent", ["truth", "union"])
def test_it_stands_in_a_collection_beside_torchmetrics(absent):
    pred, target = draw(seed=1)
    settings = {"num_classes": 4, "ignore_index": 255}
    collection = MetricCollection(
        {
            "counts": ConfusionCounts(4, absent=absent),
            "jaccard": MulticlassJaccardIndex(**settings),
            "accuracy": MulticlassAccuracy(average="micro", **settings),
        }
    )
    collection.update(pred, target)
    found = collection.clone(prefix="val_").compute()
    found = {name.removeprefix("val_"): value for name, value in found.items()}
    assert found["mean_iou"].item() == pytest.approx(found["jaccard"].item(), abs=1e-6)
    assert found["pixel_accuracy"].item() == pytest.approx(found["accuracy"].item(), abs=1e-6)
    collection.reset()
    assert collection["counts"].confusions().shape == (0, 4, 4)


def test_logits_small_integers_and_a_batch_at_a_time():
    pred, target = draw(seed=2)
    logits = torch.nn.functional.one_hot(pred, 4).permute(0, 3, 1, 2).float()
    metric, other = ConfusionCounts(4), ConfusionCounts(4)
    metric.update(logits, target)
    batch = other(pred.to(torch.uint8), target.to(torch.uint8))
    np.testing.assert_array_equal(metric.confusions(), other.confusions())
    assert batch["mean_iou"] == metric.compute()["mean_iou"]


def test_nothing_scored_is_nan():
    metric = ConfusionCounts(3)
    metric.update(torch.zeros(2, 4, 4, dtype=torch.long), torch.full((2, 4, 4), 255))
    assert metric.confusions().sum() == 0
    assert all(value.isnan() for value in metric.compute().values())


def test_it_moves_and_comes_back_from_a_file(tmp_path):
    metric = ConfusionCounts(4)
    metric.persistent(True)
    metric.update(*draw())
    torch.save(metric.state_dict(), tmp_path / "metric.pt")
    other = ConfusionCounts(4).to("cpu")
    other.persistent(True)
    other.load_state_dict(torch.load(tmp_path / "metric.pt", weights_only=True))
    np.testing.assert_array_equal(other.confusions(), metric.confusions())
    if torch.cuda.is_available():
        pred, target = draw()
        metric = ConfusionCounts(4).cuda()
        metric.update(pred.cuda(), target.cuda())
        np.testing.assert_array_equal(metric.confusions(), other.confusions())


@pytest.mark.parametrize(
    ("pred", "target", "told"),
    [
        (
            torch.full((1, 2, 2), 4),
            torch.zeros(1, 2, 2, dtype=torch.long),
            "prediction holds ids 4-4; expected 0-3",
        ),
        (torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), -1), "target holds ids -1--1"),
        (
            torch.zeros(1, 2, 2, dtype=torch.long),
            torch.zeros(1, 2, 3, dtype=torch.long),
            r"expected both \(B, H, W\)",
        ),
        (
            torch.zeros(2, 2, dtype=torch.long),
            torch.zeros(2, 2, dtype=torch.long),
            r"expected both \(B, H, W\)",
        ),
    ],
)
def test_what_is_wrong_is_named(pred, target, told):
    with pytest.raises(ValueError, match=told):
        ConfusionCounts(4).update(pred, target)
    with pytest.raises(ValueError, match="policy 'zero'"):
        ConfusionCounts(4, absent="zero")


_PROCESS = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_counts_metric import draw
from seglib.counts_metric import ConfusionCounts
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://{file}", rank=rank, world_size=2)
pred, target = draw(5)
mine = slice(0, 3) if rank == 0 else slice(3, 5)
metric = ConfusionCounts(4)
metric.update(pred[mine], target[mine])
scores = metric.compute()
torch.save(dict(scores, confusions=torch.from_numpy(metric.confusions()), mine=len(metric.counts)), "{file}.%d" % rank)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_know_the_images_of_both(tmp_path):
    from pathlib import Path

    code = _PROCESS.format(tests=str(Path(__file__).parent), file=(tmp_path / "meet").as_posix())
    started = [subprocess.Popen([sys.executable, "-c", code, str(rank)]) for rank in range(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    alone = ConfusionCounts(4)
    alone.update(*draw(5))
    for rank in range(2):
        found = torch.load(tmp_path / f"meet.{rank}", weights_only=True)
        assert found["mine"] == 1  # its own state is whole again after the exchange
        np.testing.assert_array_equal(found["confusions"], alone.confusions())
        assert all(found[name] == value for name, value in alone.compute().items())
