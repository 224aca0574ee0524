"""AdamW's groups of weights and the learning rate's schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from seglib.params import Train
from seglib.train.model import Segmenter

_FINAL_RATE = 0.01  # share of the learning rate that the cosine ends on


def make_optimizer(model: Segmenter, params: Train) -> torch.optim.AdamW:
    """AdamW; the encoder learns at `encoder_lr_factor` times the rate; biases and normalisation are not decayed.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        groups.setdefault((name.startswith("net.encoder."), weight.ndim > 1), []).append(weight)
    settings = [
        {
            "params": weights,
            "lr": params.learning_rate * (params.encoder_lr_factor if in_encoder else 1.0),
            "weight_decay": params.weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), weights in groups.items()
    ]
    # In one pass over the weights; an Apple GPU gets what torch chooses.
    fused = all(weight.device.type in ("cpu", "cuda") for weight in model.parameters())
    optimizer = torch.optim.AdamW(settings, fused=fused or None)
    for weight in model.parameters():
        # The moments that its first step would make: a lack of memory shows in the batch, which can be made smaller, not between
        # two groups of weights of which one has moved.
        moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {
            "step": torch.zeros((), device=weight.device if fused else "cpu")
        } | moments
    return optimizer


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step (0-based): linear warm-up, then a half cosine down to 1 %.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))
