"""Predict one image of any size at its original size, without all its class scores in memory at that size."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib import data
from seglib.evaluate.predict import predict
from seglib.train import DevicePlan, Segmenter

_TILE = 1024  # pixels a side of the tiles that an image of more than twice that is cut into
_SCORES = 1 << 26  # class scores at original size that are held at once: 256 MiB


@torch.inference_mode()
def predict_image(model: Segmenter, image: np.ndarray, plan: DevicePlan) -> tuple[np.ndarray, np.ndarray]:
    """Predict an image (H, W, 3) uint8 as 03 does: shrunk to `long_side`, its class scores resized to its own size.

    What is then longer than 2048 pixels is predicted in overlapping tiles that are blended. It takes 4 bytes a
    class and pixel of the shrunk image beside the result.

    Returns:
        class ids (H, W) uint8, and the probability of the predicted class (H, W) float32.
    """
    size = image.shape[:2]
    (small,) = data.fitting(image, most=model.spec.long_side or max(size))
    inner = small.shape[:2]
    views = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]  # (h, w, 3) -> (1, 3, h, w)
    logits = predict(model, views, inner, plan, tile=_TILE if max(inner) > 2 * _TILE else 0)[0]
    ids, confidence = np.empty(size, np.uint8), np.empty(size, np.float32)
    step = max(1, _SCORES // (len(logits) * size[1]))
    for top in range(0, size[0], step):
        rows = slice(top, min(top + step, size[0]))
        scores = _resized_rows(logits, rows, size)
        highest, best = scores.max(0)
        ids[rows] = best.to(torch.uint8).cpu().numpy()
        confidence[rows] = (highest - scores.logsumexp(0)).exp().cpu().numpy()
    return ids, confidence


def _resized_rows(logits: Tensor, rows: slice, size: tuple[int, int]) -> Tensor:
    """Some rows (C, R, W) of (C, h, w) logits resized to `size` as `F.interpolate` does, bilinear."""
    height = logits.shape[1]
    if logits.shape[1:] == size:
        return logits[:, rows]
    place = torch.arange(rows.start, rows.stop, device=logits.device, dtype=torch.float32)
    place = ((place + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)  # in rows of the logits
    above = place.long()
    below = (above + 1).clamp(max=height - 1)
    part = torch.lerp(logits[:, above], logits[:, below], (place - above)[:, None])
    return F.interpolate(part[None], (len(place), size[1]), mode="bilinear", align_corners=False)[0]
