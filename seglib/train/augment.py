"""Augmentation of whole batches on the training device; image and mask are moved by one and the same map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seglib.data import IGNORE


@dataclass(frozen=True)
class Window:
    """The part of one image that a training crop looks at, and how.

    Args:
        top, left, height, width: the part, in pixels of the image.
        matrix: ((a, b, c), (d, e, f)): the crop's pixel (x, y) shows the part's pixel (a x + b y + c, d x + e y + f).
    """

    top: int
    left: int
    height: int
    width: int
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Geometry:
    """Random flips, scales, rotations and crops.

    Args:
        crop: (height, width) of the result, pixels.
        flip: probability of a left-right flip.
        scale: (least, most) factor by which images are enlarged, drawn log-uniformly.
        rotation: largest angle to either side, degrees.
    """

    crop: tuple[int, int]
    flip: float = 0.5
    scale: tuple[float, float] = (0.75, 1.5)
    rotation: float = 5.0

    def draw(self, random: np.random.Generator, height: int, width: int) -> Window:
        """A random map for an image of `height` x `width` pixels. Crops reach beyond images smaller than themselves only."""
        zoom = math.exp(random.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        angle = math.radians(random.uniform(-self.rotation, self.rotation))
        mirror = -1.0 if random.random() < self.flip else 1.0
        crop_h, crop_w = self.crop
        centre = [_centre(random, size, span / zoom) for size, span in ((height, crop_h), (width, crop_w))]
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        a, b, d, e = cos * mirror, -sin, sin * mirror, cos
        # Pixel centres stand at whole numbers: the crop's middle is at ((w - 1) / 2, (h - 1) / 2).
        c = centre[1] - a * (crop_w - 1) / 2 - b * (crop_h - 1) / 2
        f = centre[0] - d * (crop_w - 1) / 2 - e * (crop_h - 1) / 2
        corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, crop_w - 1) for y in (0, crop_h - 1)]
        left, right = _reach([x for x, _ in corners], width)
        top, bottom = _reach([y for _, y in corners], height)
        return Window(top, left, bottom - top, right - left, ((a, b, c - left), (d, e, f - top)))


def _centre(random: np.random.Generator, size: int, span: float) -> float:
    low, high = sorted((span / 2, size - span / 2))
    return random.uniform(low, high) - 0.5


def _reach(values: list[float], size: int) -> tuple[int, int]:
    """First and last + 1 of the pixels that bilinear sampling at `values` touches, at least one, within the image."""
    low = min(max(math.floor(min(values)), 0), size - 1)
    return low, max(min(math.ceil(max(values)) + 1, size), low + 1)


@dataclass(frozen=True)
class Light:
    """How one image's light and sharpness change.

    Args:
        brightness, contrast, saturation: factors.
        blur: radius in pixels; 0: none. Two means over (2 blur + 1)², which come near a Gaussian: 1 is one of standard deviation
            1.2, 3 of 2.8.
        noise: standard deviation of Gaussian noise, grey levels; 0: none.
        seed: of the noise.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    blur: int = 0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Colour:
    """Random changes of light and sharpness; masks stay as they are.

    Args:
        strength: brightness, contrast and saturation are multiplied by factors in [1 - strength, 1 + strength].
        blur: probability of a blur.
        noise: probability of noise.
        blur_radius: a blur's radius is drawn from 1 to this, in pixels.
        noise_most: the noise's standard deviation is drawn from 2 to this, in grey levels.
        darkness: probability of underexposure: brightness is multiplied by a factor in [0.15, 0.7] besides.
        haze: probability of washed-out light: contrast is multiplied by a factor in [0.2, 0.7] besides.
    """

    strength: float = 0.3
    blur: float = 0.1
    noise: float = 0.1
    blur_radius: int = 1
    noise_most: float = 12.0
    darkness: float = 0.0
    haze: float = 0.0

    def draw(self, random: np.random.Generator) -> Light:
        """A random change for one image."""
        brightness, contrast, saturation = random.uniform(1 - self.strength, 1 + self.strength, 3).tolist()
        blur = int(random.random() < self.blur)
        noise = random.uniform(2, self.noise_most) if random.random() < self.noise else 0.0
        seed = int(random.integers(1 << 31))
        # What is off draws nothing, so that the rest of a training does not change with the options there are.
        if blur and self.blur_radius > 1:
            blur = int(random.integers(1, self.blur_radius, endpoint=True))
        if self.darkness and random.random() < self.darkness:
            brightness *= random.uniform(0.15, 0.7)
        if self.haze and random.random() < self.haze:
            contrast *= random.uniform(0.2, 0.7)
        return Light(brightness, contrast, saturation, blur, noise, seed)


def warp(
    images: Tensor, masks: Tensor, windows: list[Window], crop: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Apply each window's map: bilinear for images, nearest for masks.

    Args:
        images: (B, 3, H, W) uint8, each image's window in the upper left corner.
        masks: (B, H, W) uint8.
        windows: B maps.
        crop: (height, width) of the result.

    Returns:
        (B, 3, *crop) float32 in 0-255, edges repeated outwards; (B, *crop) uint8, 255 outside the image.
    """
    device = images.device
    told = [(*w.matrix[0], *w.matrix[1], w.width - 1, w.height - 1) for w in windows]
    a, b, c, d, e, f, right, bottom = _placed(told, device).T[..., None, None]
    x = torch.arange(crop[1], dtype=torch.float32, device=device)
    y = torch.arange(crop[0], dtype=torch.float32, device=device)[:, None]
    # (B, h, w): where each pixel of the crop lies in its window
    gx, gy = a * x + (b * y + c), d * x + (e * y + f)
    outside = (gx < -0.5) | (gy < -0.5) | (gx > right + 0.5) | (gy > bottom + 0.5)
    gx, gy = gx.clamp_(min=0).minimum(right), gy.clamp_(min=0).minimum(bottom)
    height, width = masks.shape[1:]
    nearest = (gy.round() * width + gx.round()).long().flatten(1)
    warped_masks = masks.flatten(1).gather(1, nearest).view(-1, *crop).masked_fill_(outside, IGNORE)
    grid = torch.stack((gx * (2 / max(width - 1, 1)) - 1, gy * (2 / max(height - 1, 1)) - 1), dim=-1)
    warped = F.grid_sample(
        images.to(torch.float32, memory_format=torch.contiguous_format),
        grid,
        padding_mode="border",
        align_corners=True,
    )
    return warped, warped_masks


def recolour(images: Tensor, lights: Sequence[Light]) -> Tensor:
    """Change light and sharpness, each image on its own.

    Args:
        images: (B, 3, H, W) float in 0-255, changed in place.
        lights: B changes.
    """
    device = images.device
    factors = [(light.brightness, light.contrast, light.saturation) for light in lights]
    brightness, contrast, saturation = _placed(factors, device).to(images.dtype).T[..., None, None, None]
    images.lerp_(images.mean(1, keepdim=True), 1 - saturation)
    middle = images.mean((1, 2, 3), keepdim=True)
    images.mul_(brightness * contrast).add_(middle * brightness * (1 - contrast))
    for image, light in zip(images, lights, strict=True):
        if light.blur:
            side = 2 * light.blur + 1
            padded = F.pad(image[None], (2 * light.blur,) * 4, mode="replicate")
            image.copy_(F.avg_pool2d(F.avg_pool2d(padded, side, 1), side, 1)[0])
        if light.noise:
            generator = torch.Generator(device).manual_seed(light.seed)
            image.add_(torch.randn(image.shape, device=device, generator=generator), alpha=light.noise)
    return images.clamp_(0, 255)


def _placed(rows: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers as float32 on the device. From page-locked memory, which a CUDA GPU reads while the processor goes on."""
    on_gpu = device.type == "cuda"
    return torch.tensor(rows, dtype=torch.float32, pin_memory=on_gpu).to(device, non_blocking=on_gpu)
