"""What torch does slowly on processors, done faster: the gradients of bfloat16 depthwise convolutions and of upsampling, a U-Net's
convolutions of what was upsampled, and freed memory."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from functools import cache, partial

import psutil
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_LARGE_PAGE = 1 << 21  # bytes
_PIECE = (
    1 << 21
)  # values of a piece of a batch: its copies in float32 are read while they are in the processor's cache


def replace_depthwise(model: nn.Module) -> None:
    """Let depthwise convolutions compute their bfloat16 gradient in other ways (oneDNN's own is several times slower)."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels > 1
            and module.padding_mode == "zeros"
        ):
            module.forward = partial(_depthwise, module)


def _depthwise(module: nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(module.padding, str) or not torch.is_autocast_enabled("cpu"):
        return module._conv_forward(x, module.weight, module.bias)
    return _Depthwise.apply(x, module.weight, module.bias, module.stride, module.padding, module.dilation)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bfloat16 with another gradient than oneDNN's, which is several times slower in bfloat16.

    That by the weights is computed in float32, some images at a time, that by the input as a convolution in bfloat16; of unusual
    convolutions both in float32.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation):
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.settings = (stride, padding, dilation, None if bias is None else list(bias.shape))
        return F.conv2d(
            x,
            weight.bfloat16(),
            None if bias is None else bias.bfloat16(),
            stride,
            padding,
            dilation,
            x.shape[1],
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, bias_shape = ctx.settings
        grad_x = grad_weight = grad_bias = None
        if _known(x, weight, stride, padding, dilation):
            if ctx.needs_input_grad[0]:
                grad_x = _transposed(grad, x, weight, stride[0])
            by_weight = _by_threes if weight.shape[-1] > 3 else _by_float
            images = max(1, _PIECE // x[0].numel())
            pieces = zip(grad.split(images), x.split(images), strict=True)
            grad_weight = sum(by_weight(*piece, weight, stride[0]) for piece in pieces)
            if bias_shape is not None:
                grad_bias = grad.sum((0, 2, 3), dtype=torch.float32)
        else:
            convolution = (bias_shape, stride, padding, dilation, False, [0, 0], x.shape[1])
            wanted = (ctx.needs_input_grad[0], True, bias_shape is not None)
            grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                grad.float(), x.float(), weight, *convolution, wanted
            )
        return None if grad_x is None else grad_x.bfloat16(), grad_weight, grad_bias, None, None, None


def _known(x: Tensor, weight: Tensor, stride: tuple, padding: tuple, dilation: tuple) -> bool:
    """Whether it is a convolution as encoders use them: one of 3x3 to 7x7 a channel, in channels_last, its result as large as
    the stride allows."""
    side = weight.shape[-1]
    alone = weight.shape[0] == x.shape[1] and x.is_contiguous(memory_format=torch.channels_last)
    same = weight.shape[-2] == side and tuple(padding) == (side // 2, side // 2) and tuple(dilation) == (1, 1)
    return alone and same and side in (3, 5, 7) and tuple(stride) in ((1, 1), (2, 2))


def _transposed(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient by `x`: a convolution of the gradients, apart by the stride, with the weights turned about."""
    if stride > 1:
        apart = torch.zeros_like(x)
        apart[:, :, ::stride, ::stride] = grad
        grad = apart
    return F.conv2d(grad, weight.bfloat16().flip(2, 3), None, 1, weight.shape[-1] // 2, 1, x.shape[1])


def _by_float(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient by the weights, in float32."""
    return torch.ops.aten.convolution_backward(
        grad.float(), x.float(), weight, None, [stride] * 2, [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0],
        x.shape[1], (False, True, False),
    )[1]  # fmt: skip


def _by_threes(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient by weights of 5x5 or 7x7, three columns at a time: oneDNN is several times as fast with those.

    The outer columns come from gradients that are moved by some pixels along their rows. Zeros behind every row keep what is
    moved out of it from counting in the next one.
    """
    side = weight.shape[-1]
    most = -(-(side // 2 - 1) // stride)
    rows, gradients = _with_spare(x, stride * (most + 1), 0), _with_spare(grad, most + 1, most)
    result = torch.empty_like(weight)
    for moved in (-most, most, 0):  # the middle last: its three are whole, of the others only the outermost
        piece = torch.ops.aten.convolution_backward(
            gradients(-moved), rows(0), weight[..., :3], None, [stride] * 2, [side // 2, 1], [1, 1], False, [0, 0],
            x.shape[1], (False, True, False),
        )[1]  # fmt: skip
        first = side // 2 - 1 + stride * moved
        inside = slice(max(0, first), min(side, first + 3))
        result[..., inside] = piece[..., inside.start - first : inside.stop - first]
    return result


def _with_spare(values: Tensor, spare: int, most: int) -> Callable[[int], Tensor]:
    """A float32 copy whose rows end in `spare` zeros. It is asked for with the number of pixels, at most `most` to either side,
    by which each row is to begin earlier or later."""
    batch, channels, height, width = values.shape
    wide = width + spare
    memory = torch.zeros((batch * height * wide + 2 * most) * channels)
    strides = (height * wide * channels, 1, wide * channels, channels)

    def rows(moved: int) -> Tensor:
        return memory.as_strided((batch, channels, height, wide), strides, (most + moved) * channels)

    rows(0)[..., :width] = values
    return rows


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


def fold_upsampling(model: nn.Module) -> None:
    """Let the blocks of a U-Net convolve their features before these are upsampled (nearest) to twice the size.

    A kernel of 3x3 on upsampled pixels sees 2x2 of the small ones, in one of four ways. Four kernels of 2x2 give the same sums
    by 4/9 of the products, and neither the upsampled features nor these joined to the encoder's are ever in memory.
    """
    for block in [module for module in model.modules() if type(module) is UnetDecoderBlock]:
        if block.interpolation_mode == "nearest" and type(block.attention1.attention) is nn.Identity:
            block.forward = partial(_unet_block, block)


def _unet_block(
    block: UnetDecoderBlock,
    feature_map: Tensor,
    target_height: int,
    target_width: int,
    skip_connection: Tensor | None = None,
) -> Tensor:
    channels, height, width = feature_map.shape[1:]
    if (target_height, target_width) != (2 * height, 2 * width):
        return UnetDecoderBlock.forward(block, feature_map, target_height, target_width, skip_connection)
    convolution, norm, activation = block.conv1
    x = _Interleaved.apply(
        *(F.conv2d(feature_map, w, None, 1, 1) for w in _folded(convolution.weight[:, :channels]))
    )
    if skip_connection is not None:
        x = x + F.conv2d(skip_connection, convolution.weight[:, channels:], None, 1, 1)
    if convolution.bias is not None:
        x = x + convolution.bias.to(x.dtype).view(-1, 1, 1)
    return block.attention2(block.conv2(activation(norm(x))))


def _folded(weight: Tensor) -> list[Tensor]:
    """(C, D, 3, 3) -> (2 C, D, 2, 2) for the upper and for the lower two of the pixels that a small one becomes: what the right
    one, then what the left one adds up of the small ones."""
    kernels = [torch.cat(_halves(rows, 3)[::-1]) for rows in _halves(weight, 2)]
    return [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]


def _halves(weight: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Along a side, of three weights those that fall on two small pixels: for the first pixel inside one, and for the second."""
    before, middle, behind = weight.unbind(side)
    return torch.stack([before, middle + behind], side), torch.stack([before + middle, behind], side)


class _Interleaved(torch.autograd.Function):
    """What kernels of `_folded` find around the corners of small pixels, twice (N, 2 C, H + 1, W + 1) -> (N, C, 2 H, 2 W).

    Around a corner lie the right pixel of the small one before it and the left pixel of the one behind: a row of corners holds,
    but for its ends, a row of pixels in their order.
    """

    @staticmethod
    def forward(ctx, upper, lower):
        batch, channels, height, width = ctx.shape = upper.shape
        large = _channels_last(upper, (batch, channels // 2, 2 * height - 2, 2 * width - 2))
        for corners, pixels in _rows((upper, lower), large):
            pixels.copy_(corners)
        return large

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        both = _channels_last(grad, ctx.shape).zero_(), _channels_last(grad, ctx.shape).zero_()
        for corners, pixels in _rows(both, grad):
            corners.copy_(pixels)
        return both


def _channels_last(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _rows(both: tuple[Tensor, Tensor], large: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same values in corners and in pixels, (N, H, 2 W C): of the upper rows, then of the lower ones."""
    channels, height = large.shape[1], large.shape[2] // 2
    for row, corners in enumerate(both):
        inner = corners.permute(0, 2, 3, 1).flatten(2)[:, row : row + height, channels:-channels]
        yield inner, large.permute(0, 2, 3, 1).unflatten(1, (height, 2))[:, :, row].flatten(2)


@cache
def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step, instead of giving it back and faulting it in again, and ask
    Linux for large pages, which are found and faulted in faster."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for large blocks
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Addresses alone: as long as nothing is written there, they take no memory.
    size = psutil.virtual_memory().available // 2
    block = libc.malloc(size)
    if block:
        start = -(-block // _LARGE_PAGE) * _LARGE_PAGE
        libc.madvise(start, (block + size - start) // _LARGE_PAGE * _LARGE_PAGE, 14)  # MADV_HUGEPAGE
        libc.free(block)
