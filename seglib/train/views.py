"""What the model sees in training: crops of augmented images, cut and changed as the parameters say."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from seglib.params import ParameterError, Train
from seglib.train.augment import Colour, Geometry, recolour, warp
from seglib.train.batches import Batch
from seglib.train.loader import CachedSplit
from seglib.train.plans import DevicePlan

_STRIDE = 32  # what SMP's encoders divide an image by
_LARGEST_CROP = 512  # pixels a side, when the crop is chosen from the images' size


def crop_size(packed: CachedSplit, height: int = 0, width: int = 0) -> tuple[int, int]:
    """(height, width) of training crops: as asked (rounded up to the stride), else the median image's, at most 512."""
    median = np.median(packed.image_sizes, axis=0)
    chosen = [min(_LARGEST_CROP, max(_STRIDE, int(side) // _STRIDE * _STRIDE)) for side in median]
    asked = [-(-side // _STRIDE) * _STRIDE for side in (height, width)]
    return asked[0] or chosen[0], asked[1] or chosen[1]


def geometry(packed: CachedSplit, params: Train) -> Geometry:
    """How `params` crops, flips, scales and rotates the images of `packed`."""
    if params.scale_min > params.scale_max:
        raise ParameterError(f"scale_min = {params.scale_min} is larger than scale_max = {params.scale_max}.")
    crop = crop_size(packed, params.crop_height, params.crop_width)
    return Geometry(crop, params.flip, (params.scale_min, params.scale_max), params.rotation)


def colour(params: Train) -> Colour:
    """How `params` changes light and sharpness."""
    return Colour(
        params.color,
        params.blur,
        params.noise,
        params.blur_radius,
        params.noise_most,
        params.darkness,
        params.haze,
    )


def augmented(batch: Batch, crop: tuple[int, int], plan: DevicePlan) -> tuple[Tensor, Tensor]:
    """A batch as the model sees it in training.

    Returns:
        images (B, 3, *crop) float32 in 0-255 and masks (B, *crop) uint8, on the plan's device.
    """
    # Elsewhere than on CUDA the copy may be read after its source was freed.
    at_once = plan.kind == "cuda"
    images, masks = (tensor.to(plan.device, non_blocking=at_once) for tensor in (batch.images, batch.masks))
    images, masks = warp(images, masks, batch.windows, crop)
    return recolour(images, batch.lights).contiguous(memory_format=plan.memory_format), masks
