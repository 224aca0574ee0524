"""Augmentation of whole batches on the training device; one map moves an image and its mask."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seglib.data import IGNORE
from seglib.params import Train


class CropParams(NamedTuple):
    """The part of one image that a training crop shows; its (x, y) shows (a x + b y + c, d x + e y + f)."""

    rows: slice  # the part, in pixels of the image
    columns: slice
    matrix: tuple[float, ...]  # a to f, in pixels of the part

    size = property(lambda self: tuple(side.stop - side.start for side in self[:2]))  # height and width


def draw_crop(
    random: np.random.Generator, params: Train, crop: tuple, size: tuple, center: tuple | None = None
) -> CropParams:
    """Draw how an image of `size` (height, width) is flipped, scaled, rotated and cropped to `crop`.

    Crops reach beyond smaller images only; `center`: (row, column) to crop around, as far as possible.
    """
    zoom = math.exp(random.uniform(math.log(params.scale_min), math.log(params.scale_max)))
    angle = math.radians(random.uniform(-params.rotation, params.rotation))
    mirror = -1.0 if random.random() < params.flip else 1.0
    reach = [side / zoom / 2 for side in crop]
    ranges = [sorted((r, n - r)) for r, n in zip(reach, size, strict=True)]
    y, x = (random.uniform(*ends) - 0.5 for ends in ranges)
    if center is not None:
        y, x = (np.clip(at, ends[0] - 0.5, ends[1] - 0.5) for at, ends in zip(center, ranges, strict=True))
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    a, b, d, e = cos * mirror, -sin, sin * mirror, cos
    # Pixel centres stand at whole numbers: the middle, which shows (x, y), is at ((w - 1) / 2, (h - 1) / 2).
    last_v, last_u = crop[0] - 1, crop[1] - 1
    c, f = x - a * last_u / 2 - b * last_v / 2, y - d * last_u / 2 - e * last_v / 2
    corners = [(u, v) for u in (0, last_u) for v in (0, last_v)]
    rows = _touched([d * u + e * v + f for u, v in corners], size[0])
    columns = _touched([a * u + b * v + c for u, v in corners], size[1])
    return CropParams(rows, columns, (a, b, c - columns.start, d, e, f - rows.start))


def _touched(values: list[float], size: int) -> slice:
    """The pixels that bilinear sampling at `values` touches, at least one, within the image."""
    low = min(max(math.floor(min(values)), 0), size - 1)
    return slice(low, max(min(math.ceil(max(values)) + 1, size), low + 1))


class ColorJitter(NamedTuple):
    """How the light and sharpness of one image change."""

    brightness: float = 1.0  # a factor, as the next two
    contrast: float = 1.0
    saturation: float = 1.0
    blur: int = 0  # radius in pixels of two means over (2 blur + 1)^2 pixels, close to a Gaussian
    noise: float = 0.0  # standard deviation of Gaussian noise, grey levels
    seed: int = 0  # of the noise


def draw_jitter(random: np.random.Generator, params: Train) -> ColorJitter:
    """Draw how the light and sharpness of an image change, as params.color to params.haze say."""
    brightness, contrast, saturation = random.uniform(1 - params.color, 1 + params.color, 3).tolist()
    blur = int(random.random() < params.blur)
    noise = random.uniform(2, params.noise_most) if random.random() < params.noise else 0.0
    seed = int(random.integers(1 << 31))
    # What is off draws nothing, so that the rest of a training does not change with the options there are.
    if blur and params.blur_radius > 1:
        blur = int(random.integers(1, params.blur_radius, endpoint=True))
    if params.darkness and random.random() < params.darkness:
        brightness *= random.uniform(0.15, 0.7)
    if params.haze and random.random() < params.haze:
        contrast *= random.uniform(0.2, 0.7)
    return ColorJitter(brightness, contrast, saturation, blur, noise, seed)


def warp(images: Tensor, masks: Tensor, crops: list[CropParams], size: tuple[int, int]) -> tuple:
    """Map images (B, 3, H, W) bilinearly, masks (B, H, W) to the nearest; uint8, parts in the upper left.

    Returns (B, 3, *size) float32 in 0-255, edges repeated outwards, and (B, *size) uint8, 255 outside.
    """
    device, (height, width) = images.device, masks.shape[1:]
    rows = [(*crop.matrix, crop.size[1] - 1, crop.size[0] - 1) for crop in crops]
    a, b, c, d, e, f, right, bottom = _on_device(rows, device).T[..., None, None]
    y, x = (torch.arange(side, dtype=torch.float32, device=device) for side in size)
    y = y[:, None]
    gx, gy = a * x + (b * y + c), d * x + (e * y + f)  # (B, h, w): where each pixel of the crop lies
    outside = (gx < -0.5) | (gy < -0.5) | (gx > right + 0.5) | (gy > bottom + 0.5)
    gx, gy = gx.clamp_(min=0).minimum(right), gy.clamp_(min=0).minimum(bottom)
    nearest = (gy.round() * width + gx.round()).long().flatten(1)
    new_masks = masks.flatten(1).gather(1, nearest).view(-1, *size).masked_fill_(outside, IGNORE)
    grid = torch.stack((gx * (2 / max(width - 1, 1)) - 1, gy * (2 / max(height - 1, 1)) - 1), dim=-1)
    source = images.to(torch.float32, memory_format=torch.contiguous_format)
    return F.grid_sample(source, grid, padding_mode="border", align_corners=True), new_masks


def adjust_colors(images: Tensor, jitters: list[ColorJitter]) -> Tensor:
    """Change light and sharpness of (B, 3, H, W) float images in 0-255, in place, each on its own."""
    device = images.device
    factors = _on_device([jitter[:3] for jitter in jitters], device).to(images.dtype)
    brightness, contrast, saturation = factors.T[..., None, None, None]
    images.lerp_(images.mean(1, keepdim=True), 1 - saturation)
    middle = images.mean((1, 2, 3), keepdim=True)
    images.mul_(brightness * contrast).add_(middle * brightness * (1 - contrast))
    for image, jitter in zip(images, jitters, strict=True):
        if jitter.blur:
            side = 2 * jitter.blur + 1
            padded = F.pad(image[None], (2 * jitter.blur,) * 4, mode="replicate")
            image.copy_(F.avg_pool2d(F.avg_pool2d(padded, side, 1), side, 1)[0])
        if jitter.noise:
            generator = torch.Generator(device).manual_seed(jitter.seed)
            image.add_(torch.randn(image.shape, device=device, generator=generator), alpha=jitter.noise)
    return images.clamp_(0, 255)


def _on_device(rows: list[tuple[float, ...]], device: torch.device) -> Tensor:
    on_gpu = device.type == "cuda"  # which reads page-locked memory while the CPU goes on
    return torch.tensor(rows, dtype=torch.float32, pin_memory=on_gpu).to(device, non_blocking=on_gpu)
