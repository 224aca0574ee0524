"""An exponential moving average of a model's weights, kept beside the model that is trained."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of weights and of normalisation statistics.

    Early on the average forgets faster, min(decay, (1 + step) / (10 + step)), so that it does not hang on to the start.

    Args:
        model: copied; left as it is.
        decay: share of the average that a step keeps, in (0, 1): about 1 / (1 - decay) steps are averaged.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 1992.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take up the model's weights after optimiser step `step` (0-based)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [(average, now) for average, now in pairs if average.is_floating_point()]
        torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), 1 - keep)
        for average, now in pairs:
            if not average.is_floating_point():
                average.copy_(now)
