"""Normalisation over all processes' images, in one process: equal to torch's own, value, statistics and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from seglib.train.distributed import World, _whole_batch_norm

LAYERS = {
    "plain": lambda: nn.BatchNorm2d(4),
    "no weights": lambda: nn.BatchNorm2d(4, affine=False),
    "no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "mean over all steps": lambda: nn.BatchNorm2d(4, momentum=None),
    "vectors": lambda: nn.BatchNorm1d(4),
}


def both(layer: nn.Module, x: torch.Tensor, steps: int = 1):
    """What `_whole_batch_norm` and torch's layer give: result, gradients and state after some steps on the same input."""
    results = []
    for module, call in ((layer, _whole_batch_norm), (copy.deepcopy(layer), lambda own, _, x: own(x))):
        for _ in range(steps):
            given = x.clone().requires_grad_()
            y = call(module, World(), given)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results.append(
            [y.detach(), given.grad, *(p.grad for p in module.parameters()), *module.state_dict().values()]
        )
    return results


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_one_process_normalises_as_torch_does(name, training):
    torch.manual_seed(0)
    layer = LAYERS[name]().train(training)
    for value in layer.parameters():
        nn.init.normal_(value)
    x = torch.randn((5, 4) if name == "vectors" else (5, 4, 6, 7)) * 3 + 2
    for mine, other in zip(*both(layer, x, steps=3), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_mean_far_from_zero_costs_no_digits():
    """Values of 100 +- 0.1, as of a layer whose inputs are all on: the mean of squares alone would lose the variance."""
    torch.manual_seed(0)
    x = torch.randn(4, 4, 32, 32) * 0.1 + 100
    (mine, *_), (other, *_) = both(nn.BatchNorm2d(4), x, steps=100)
    torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-2)
