"""Batch normalization and the activation behind it in one, on processors: a step reads and writes 8 times, where torch does 13."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seglib.train.channelwise import APPLY, GRADIENT, GRADIENT_MOMENTS, MOMENTS, each_channel


def fuse_normalization(model: nn.Module) -> None:
    """Let batch normalization compute the ReLU or ReLU6 behind it too: in channels_last, of bfloat16 or float32.

    Sums are of float32 within a block and of float64 over all blocks; what comes out is rounded once, behind the activation.
    """
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            for norm, activation in pairwise(module):
                if _plain(norm) and type(activation) in (nn.ReLU, nn.ReLU6):
                    norm.forward = partial(_normalized, norm, activation)
                    activation.forward = partial(_activated, norm, activation)
        if (
            type(module) is BatchNormAct2d
            and type(module.drop) is nn.Identity
            and type(module.act) in _BOUNDS
        ):
            module.forward = partial(_normalized, module, module.act)
        elif _plain(module):
            module.forward = partial(_normalized, module, _NOTHING)


_NOTHING = nn.Identity()
_BOUNDS = {
    nn.Identity: (-np.inf, np.inf),
    nn.ReLU: (0.0, np.inf),
    nn.ReLU6: (0.0, 6.0),
}


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and "forward" not in vars(module)


def _activated(norm: nn.BatchNorm2d, activation: nn.Module, x: Tensor) -> Tensor:
    """Nothing, unless the normalization before it was given another way since: several processes have one of their own."""
    done = getattr(norm.forward, "func", None) is _normalized
    return x if done else type(activation).forward(activation, x)


def _normalized(norm: nn.BatchNorm2d, activation: nn.Module, x: Tensor) -> Tensor:
    known = norm.affine and norm.track_running_stats and norm.momentum is not None
    fit = x.ndim == 4 and x.dtype in (torch.bfloat16, torch.float32) and x.numel() > x.shape[1] > 0
    bounds = _BOUNDS[type(activation)]
    if known and fit and x.is_contiguous(memory_format=torch.channels_last):
        if norm.training:
            norm.num_batches_tracked.add_(1)
            running = norm.running_mean, norm.running_var
            return _BatchNorm.apply(x, norm.weight, norm.bias, *running, norm.momentum, norm.eps, bounds)
        if not torch.is_grad_enabled():
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            return _applied(x, scale.numpy(), shift.numpy(), bounds)
    y = type(norm).forward(norm, x)
    return y if type(norm) is BatchNormAct2d else type(activation).forward(activation, y)


class _BatchNorm(torch.autograd.Function):
    """Batch normalization of (N, C, H, W) by the batch's own mean and variance, and what limits it to bounds behind it."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps, bounds):
        count = x.numel() // x.shape[1]
        first = x[0, :, 0, 0].double().numpy()  # near enough to the mean for squares not to lose their digits
        offset, square = each_channel(MOMENTS, [x], [first]) / count
        mean, variance = first + offset, np.maximum(square - offset**2, 0)
        running_mean.lerp_(torch.from_numpy(mean).to(running_mean), momentum)
        running_var.lerp_(torch.from_numpy(variance * (count / (count - 1))).to(running_var), momentum)
        inverse = 1 / np.sqrt(variance + eps)
        scale = weight.detach().double().numpy() * inverse
        shift = bias.detach().double().numpy() - mean * scale
        ctx.save_for_backward(x)
        ctx.channels, ctx.bounds, ctx.dtype = (mean, scale, shift, inverse), bounds, weight.dtype
        return _applied(x, scale, shift, bounds)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,), (mean, scale, shift, inverse) = ctx.saved_tensors, ctx.channels
        grad = grad.contiguous(memory_format=torch.channels_last)
        count, result = x.numel() // x.shape[1], torch.empty_like(x)
        total, product = each_channel(GRADIENT_MOMENTS, [x, grad], [mean, scale, shift], ctx.bounds)
        of_weight = product * inverse
        channels = [mean, scale, shift, total / count, of_weight * inverse / count]
        each_channel(GRADIENT, [x, grad, result], channels, ctx.bounds)
        of_parameters = (torch.from_numpy(sums).to(ctx.dtype) for sums in (of_weight, total))
        return result, *of_parameters, *[None] * 5


def _applied(x: Tensor, scale: np.ndarray, shift: np.ndarray, bounds: tuple[float, float]) -> Tensor:
    result = torch.empty_like(x)
    each_channel(APPLY, [x, result], [scale, shift], bounds)
    return result
