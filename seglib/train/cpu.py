"""Faster on a CPU: depthwise convolutions' gradient in bfloat16, and convolutions of a U-Net's upsampled features."""

from functools import partial

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn

_PIECE = 1 << 21  # values of a piece of a batch: its float32 copies are read while they are in the cache


def accelerate(model: nn.Module) -> list[str]:
    """Speed up a model on a CPU, in place, but for its state dict; results stay the same up to rounding.

    Not for torch.compile. Returns what was done, one phrase each; empty where nothing of the model fits.
    """
    depthwise = "depthwise gradients in bfloat16", _is_depthwise, _depthwise
    done = []
    for what, fits, forward in (depthwise, ("folded upsampling", _can_fold, _unet_block)):
        modules = [module for module in model.modules() if fits(module)]
        for module in modules:
            module.forward = partial(forward, module)
        done += [f"{what} ({len(modules)} modules)"] if modules else []
    return done


def _is_depthwise(module: nn.Module) -> bool:
    """Whether this is a depthwise convolution as encoders use it: 3x3 to 7x7, padded to its input's size."""
    if type(module) is not nn.Conv2d or not module.groups == module.in_channels == module.out_channels > 1:
        return False
    side, stride = module.kernel_size[0], module.stride[0]
    settings = module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode
    usual = (side, side), (stride, stride), (side // 2, side // 2), (1, 1), "zeros"
    return settings == usual and side in (3, 5, 7) and stride in (1, 2)


def _depthwise(module: nn.Conv2d, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu") and x.is_contiguous(memory_format=torch.channels_last):
        return _Depthwise.apply(x, module.weight, module.bias, module.stride[0])
    return nn.Conv2d.forward(module, x)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bfloat16 whose gradient is convolutions too: oneDNN's is several times slower."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride):
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        bias = bias if bias is None else bias.bfloat16()
        return F.conv2d(x, weight.bfloat16(), bias, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():  # by create_graph=True
            raise RuntimeError("accelerate() leaves no second derivative. Set accelerate=False.")
        (x, weight), stride = ctx.saved_tensors, ctx.stride
        padding, groups = weight.shape[-1] // 2, len(weight)
        images, by_x, by_bias = max(1, _PIECE // x[0].numel()), None, None
        by_weight = sum(
            nn.grad.conv2d_weight(xs.float(), weight.shape, grads.float(), stride, padding, 1, groups)
            for xs, grads in zip(x.split(images), grad.split(images), strict=True)
        )
        if ctx.needs_input_grad[0]:
            spread = torch.zeros_like(x) if stride > 1 else grad
            if stride > 1:
                spread[:, :, ::stride, ::stride] = grad
            by_x = F.conv2d(spread, weight.bfloat16().flip(2, 3), None, 1, padding, 1, groups)
        if ctx.needs_input_grad[2]:
            by_bias = grad.sum((0, 2, 3), dtype=torch.float32)
        return by_x, by_weight, by_bias, None


def _can_fold(module: nn.Module) -> bool:
    """Whether this is a block of a U-Net that convolves what it upsampled (nearest) and nothing else."""
    nearest = type(module) is UnetDecoderBlock and module.interpolation_mode == "nearest"
    return nearest and type(module.attention1.attention) is nn.Identity


def _unet_block(block, feature_map, target_height, target_width, skip_connection=None) -> Tensor:
    """Convolve features before they are upsampled to twice the size, by 4/9 of the products."""
    channels, height, width = feature_map.shape[1:]
    if (target_height, target_width) != (2 * height, 2 * width):
        return UnetDecoderBlock.forward(block, feature_map, target_height, target_width, skip_connection)
    convolution, norm, activation = block.conv1
    x = _upsampled(feature_map, convolution.weight[:, :channels])
    if skip_connection is not None and skip_connection.shape[1]:  # some encoders' first skip has no channels
        x = x + F.conv2d(skip_connection, convolution.weight[:, channels:], None, 1, 1)
    if convolution.bias is not None:
        x = x + convolution.bias.to(x.dtype).view(-1, 1, 1)
    return block.attention2(block.conv2(activation(norm(x))))


def _upsampled(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve (N, D, H, W) by (C, D, 3, 3) as if it were upsampled to twice the size, (N, C, 2 H, 2 W).

    A kernel of 3x3 on large pixels sees 2x2 of the small ones, in one of four ways. Around a corner of small
    pixels lie the right half of the one before it and the left half of the one after it, in two rows. So a
    row of corners, but for its ends, is a row of large pixels in their order.
    """
    rows = []
    for k, kernel in enumerate(_halves(weight, 2)):  # the upper of the two rows of a small pixel, the lower
        left, right = _halves(kernel, 3)
        kernel = torch.cat([right, left]).contiguous(memory_format=torch.channels_last)
        corners = F.conv2d(x, kernel, None, 1, 1).permute(0, 2, 3, 1).flatten(2)  # (N, H + 1, (W + 1) 2 C)
        rows.append(corners[:, k : k + x.shape[2], len(weight) : -len(weight)])
    large = torch.stack(rows, 2).unflatten(3, (-1, len(weight)))  # (N, H, 2, 2 W, C)
    return large.flatten(1, 2).permute(0, 3, 1, 2)


def _halves(weight: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Add up, along a side, the two of three weights that fall on one small pixel: for either half."""
    before, middle, after = weight.unbind(side)
    return torch.stack([before, middle + after], side), torch.stack([before + middle, after], side)
