"""The average of weights against its definition, written out in float64."""

from __future__ import annotations

import torch
from seglib.train.averaging import WeightAverage
from torch import nn


def test_it_is_the_moving_average_of_weights_and_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    average = WeightAverage(model, 0.6)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
        model(torch.randn(2, 3, 8, 8))  # moves the statistics and counts the batch
        now = {name: value.clone() for name, value in model.state_dict().items()}
        average.update(model, step)
        keep = min(0.6, (1 + step) / (10 + step))  # 0.1 at first, 0.6 from step 13 on
        expected = {name: keep * value + (1 - keep) * now[name].double() for name, value in expected.items()}
        for name, value in model.state_dict().items():
            assert torch.equal(value, now[name]), "the model is left as it is"
    for name, value in average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value.item() == 12
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not average.model.training
    assert not any(value.requires_grad for value in average.model.parameters())
    assert all(value.requires_grad for value in model.parameters())


def test_late_the_decay_alone_decides():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    average = WeightAverage(model, 0.9)
    nn.init.zeros_(model.weight)
    average.update(model, 1000)
    assert average.model.weight.item() == torch.tensor(0.9).item()
