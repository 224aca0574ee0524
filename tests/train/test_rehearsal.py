"""A training step on a pretended GPU: everything it needs lies there, and the processor never waits for it."""

from __future__ import annotations

import pytest
import torch
from seglib.train.batches import training_batches
from seglib.train.plans import DevicePlan
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from seglib.data.dataset import load_dataset
from seglib.train.distributed import World
from seglib.train.fitting import start_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelSpec, build
from seglib.train.trainer import Trainer


class Transfers(TorchDispatchMode):
    """Counts copies between processor and GPU, and names those for which torch would wait."""

    def __init__(self):
        super().__init__()
        self.count, self.blocking = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        source = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}.get(func)
        if source is not None and args[source].device != result.device:
            self.count += 1
            if not (kwargs or {}).get("non_blocking") and not args[2:]:
                self.blocking.append(tuple(result.shape))
        return result


@pytest.fixture
def pretended(tiny_root, tiny_params, monkeypatch):
    """What makes a trainer on a pretended GPU and its first batch: parameters -> (trainer, batch), for use in a fake mode."""
    # It is made there: tensors cannot be moved there.
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)

    def tensor(
        *args, pin_memory=False, _tensor=torch.tensor, **kwargs
    ):  # there is no memory that a driver could pin
        return _tensor(*args, **kwargs)

    monkeypatch.setattr(torch, "tensor", tensor)

    def make(mode, **changed):
        params = tiny_params(device="cuda", batch_size=4, **changed)
        dataset = load_dataset(params.dataset)
        splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
        run = start_run(params)
        plan = DevicePlan("cuda", channels_last=True, micro_batch=params.micro_batch)
        with mode, torch.device("cuda"):
            model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
            trainer = Trainer(run, model, *splits, params, plan, World(device="cuda"))
        batch = next(training_batches(splits[0], trainer.geometry, trainer.colour, params.batch_size, 0, 1))
        return trainer, batch._replace(
            images=mode.from_tensor(batch.images), masks=mode.from_tensor(batch.masks)
        )

    return make


def can_pretend() -> bool:
    """Whether this torch makes layers on a GPU that is not there; 2.5 does not."""
    try:
        with FakeTensorMode(), torch.device("cuda"):
            nn.Conv2d(1, 1, 1)
    except RuntimeError:
        return False
    return True


@pytest.mark.skipif(not can_pretend(), reason="this torch cannot pretend a GPU")
@pytest.mark.parametrize(
    "changed", [{"noise": 0.0}, {"noise": 0.0, "micro_batch": 3, "label_smoothing": 0.1}], ids=str
)
def test_a_step_waits_for_nothing(pretended, changed, monkeypatch):
    mode = FakeTensorMode()
    trainer, batch = pretended(mode, **changed)

    def backward(loss):  # torch's own asks for a real device; the loss has made its gradient by now
        assert loss.is_cuda
        for weight in trainer.model.parameters():
            weight.grad = torch.ones_like(weight)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with mode, Transfers() as transfers:
        trainer._wake(1)
        values = trainer._gradient(batch, len(batch.index))
        trainer._update(0)
    assert values.is_cuda
    assert values.shape == (5,)
    assert transfers.count >= 4, "images, masks, and what the augmentation is told"
    assert transfers.blocking == []
    with mode, pytest.raises(DataDependentOutputException):  # what the test rests on: asking is noticed
        values[0].item()


def test_what_a_step_came_to_is_fetched_without_the_steps_behind_it(monkeypatch):
    asked = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def record_event(self):
            asked.append(("recorded", str(self.device)))
            return self

        def synchronize(self):
            asked.append("waited")

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    with FakeTensorMode(), Transfers():
        values = torch.ones(5, device="cuda:0")
        fetched = DevicePlan("cuda").fetch(values)
        assert asked == [("recorded", "cuda:0")]
        assert fetched().is_cpu
        assert asked[1:] == ["waited"]
    here = torch.ones(5)
    assert DevicePlan("cpu").fetch(here)() is here


def test_only_steps_that_repeat_are_timed_by_cudnn(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    within = []

    def fail():
        with DevicePlan("cuda").repeating():
            within.append(torch.backends.cudnn.benchmark)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert within == [True]
    assert not torch.backends.cudnn.benchmark
