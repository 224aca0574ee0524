"""What torch does slowly on processors, done faster: the gradients of bfloat16 depthwise convolutions and of upsampling, and
freed memory."""

from __future__ import annotations

import ctypes
import platform
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


def replace_depthwise(model: nn.Module) -> None:
    """Let depthwise convolutions compute their bfloat16 gradient in float32 (oneDNN's own is several times slower)."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1 and module.padding_mode == "zeros":
            module.forward = partial(_depthwise, module)


def _depthwise(module: nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(module.padding, str) or not torch.is_autocast_enabled("cpu"):
        return module._conv_forward(x, module.weight, module.bias)
    return _Depthwise.apply(x, module.weight, module.bias, module.stride, module.padding, module.dilation)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bfloat16 whose gradient is computed in float32.

    oneDNN's bfloat16 gradient of depthwise convolutions is several times slower than its float32 one.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation):
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.settings = (stride, padding, dilation, None if bias is None else list(bias.shape))
        return F.conv2d(
            x, weight.bfloat16(), None if bias is None else bias.bfloat16(), stride, padding, dilation, x.shape[1]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, bias_shape = ctx.settings
        wanted = (ctx.needs_input_grad[0], True, bias_shape is not None)
        convolution = (bias_shape, stride, padding, dilation, False, [0, 0], x.shape[1], wanted)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight, *convolution
        )
        return None if grad_x is None else grad_x.bfloat16(), grad_weight, grad_bias, None, None, None


def replace_doubling(model: nn.Module) -> None:
    """Let upsampling to twice the size (nearest) compute its gradient by pooling: the same numbers, in channels_last in a half to
    a quarter of the time."""
    model.forward = partial(_with_doubling, model)


def _with_doubling(model: nn.Module, *inputs: Tensor) -> Tensor:
    with _Doubling():
        return type(model).forward(model, *inputs)


class _Doubling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.interpolate and args and _doubles(*args, **kwargs):
            return _Doubled.apply(args[0])
        return func(*args, **kwargs)


def _doubles(x: Tensor, size=None, scale_factor=None, mode: str = "nearest", *_, **__) -> bool:
    sizes = isinstance(size, tuple | list) and list(size) == [2 * side for side in x.shape[2:]]
    return x.ndim == 4 and mode == "nearest" and (sizes or scale_factor == 2)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return F.avg_pool2d(grad, 2, divisor_override=1)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step, instead of giving it back and faulting it in again."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for large blocks
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
