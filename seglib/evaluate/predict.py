"""`predict` and `evaluate_run`: a model's predictions at the masks' original resolution, and every score of a split from them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from seglib.evaluate.evaluation import Evaluation, evaluate_predictions, open_evaluation, write_evaluation
from seglib.evaluate.predictions import (
    changed_since_training,
    predicted_pairs,
    read_ids,
    run_dataset,
    save_ids,
)
from seglib.params import Evaluate, Train
from seglib.runs import Run, read_json
from seglib.train import (
    CachedSplit,
    DevicePlan,
    Segmenter,
    build_cache,
    load_checkpoint,
    make_plan,
    scoring_batches,
)

__all__ = [
    "Evaluation",
    "evaluate_predictions",
    "evaluate_run",
    "latency",
    "open_evaluation",
    "predict",
    "predicted_pairs",
    "read_ids",
    "run_dataset",
    "save_ids",
]

_STRIDE = 32  # what SMP's encoders divide an image by
# Pixels along a tile's inner borders that are left out, since the network sees too little around them, and pixels over which
# neighbours are blended. Of larger tiles no more than that is computed twice. Measured in docs/scaling.md.
_MARGIN, _BLEND = 96, 64
_AT_ONCE = 1 << 22  # scores from which classes and confidences are taken at a time: 16 MB


@torch.inference_mode()
def predict(
    model: Segmenter,
    images: Tensor,
    size: tuple[int, int],
    plan: DevicePlan,
    flip: bool = False,
    tile: int = 0,
    scales: tuple[float, ...] = (1.0,),
) -> Tensor:
    """Class scores for a batch of images of one size.

    Args:
        model: in eval mode, on the plan's device.
        images: (B, 3, H, W) uint8 RGB.
        size: (height, width) of the result.
        plan: device and precision.
        flip: average with the prediction of the mirrored images.
        tile: largest side in pixels that is predicted at once; larger images are cut into tiles that overlap and are blended.
            0: whole images. Equal to the whole prediction where the model sees no further than tile / 6, and 96 pixels; with
            640 pixels or more, mean IoU stayed within 0.001 (docs/scaling.md).
        scales: sizes, as factors of the images', at which they are predicted; the predictions are averaged.

    Returns:
        (B, C, *size) float32 logits (of an average: log of the mean probability) on the plan's device.
    """
    images = images.to(plan.device)
    total: Tensor | None = None
    for scale in scales:
        view = _scaled(images, scale)
        for mirrored in (False, True) if flip else (False,):
            logits = _logits(model, view.flip(-1) if mirrored else view, size, plan, tile)
            logits = logits.flip(-1) if mirrored else logits
            if len(scales) == 1 and not flip:
                return logits
            probability = logits.log_softmax(1)
            total = probability if total is None else torch.logaddexp(total, probability)
    return total - np.log(len(scales) * (1 + flip))


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=scale < 1)


def _logits(model: Segmenter, images: Tensor, size: tuple[int, int], plan: DevicePlan, tile: int) -> Tensor:
    height, width = images.shape[-2:]
    if not tile or max(height, width) <= tile:
        with plan.autocast():
            return model.logits(images, size)
    total = images.new_zeros(len(images), len(model.spec.classes), height, width, dtype=torch.float32)
    weight = images.new_zeros(height, width, dtype=torch.float32)
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            part = images[..., top : top + tile, left : left + tile]
            window = _ramp(top, height, tile).outer(_ramp(left, width, tile)).to(plan.device)
            with plan.autocast():
                total[..., top : top + tile, left : left + tile] += window * model.logits(part)
            weight[top : top + tile, left : left + tile] += window
    total /= weight  # in place: of a large image a second one might not fit
    return (
        total
        if size == (height, width)
        else F.interpolate(total, size=size, mode="bilinear", align_corners=False)
    )


def _starts(size: int, tile: int) -> list[int]:
    """Where tiles begin so that they overlap by two margins and what is blended, the smaller ones by half.

    At multiples of the stride where the tile is long enough: shifted by anything else, a network that divides the image by 32
    answers differently.
    """
    unit = _STRIDE if tile >= 2 * _STRIDE else 1
    step = max(1, max(tile // 2, tile - 2 * _margin(tile) - _BLEND) // unit * unit)
    last = -(-max(0, size - tile) // unit) * unit
    return sorted({min(start, last) for start in range(0, last + step, step)})


def _ramp(start: int, size: int, tile: int) -> Tensor:
    """(length,) weights of a tile's pixels along one side: 0 in the margin, where the network sees too little around them,
    then rising inwards. At the image's own ends there is no more to see, and no other tile."""
    length = min(tile, size - start)
    place = torch.arange(1, length + 1, dtype=torch.float32)
    before = place if start > 0 else torch.full_like(place, tile)
    after = place.flip(0) if start + length < size else torch.full_like(place, tile)
    return (torch.minimum(before, after) - _margin(tile)).clamp(min=0)


def _margin(tile: int) -> int:
    return min(_MARGIN, tile // 6)


def evaluate_run(run: Run, params: Evaluate, progress: bool = False) -> Evaluation:
    """Predict a split with the run's best model, score it, and write `evaluation/<split>/`.

    Args:
        run: a trained run.
        params: of 03_evaluate.
        progress: show a bar.

    Raises:
        ModelError: the checkpoint is damaged or of other classes.
        DatasetError: the split is missing or its files cannot be used.
    """
    dataset = run_dataset(run)
    dataset.split(params.split)  # a split that is not there is told before anything is loaded
    model, facts = load_checkpoint(run.best_checkpoint, dataset.classes)
    plan = scoring_plan(run, params.device)
    plan.place(model)
    packed = build_cache(dataset, params.split, model.spec.long_side, original_masks=True, progress=progress)
    if changed := changed_since_training(run, dataset):
        tqdm.write(changed)
    about = {
        "data_changed": changed,
        "epoch": facts["epoch"],
        "flip_tta": params.flip_tta,
        "scale_tta": params.scale_tta,
        "tile": params.tile,
        "precision": plan.precision,
        "device": plan.kind,
        "latency_ms": latency(model, packed, params, plan),
    }
    return write_evaluation(run, dataset, params, _predictions(model, packed, params, plan), about, progress)


def _predictions(
    model: Segmenter, packed: CachedSplit, params: Evaluate, plan: DevicePlan
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Position, truth, prediction and confidence of every image, (H, W) each, in the order of the batches."""
    for index, images, masks in scoring_batches(packed, params.batch_size):
        logits = predict(model, images, masks.shape[1:], plan, params.flip_tta, params.tile, params.scales)
        for position, mask, scores in zip(index, masks, logits, strict=True):
            yield position, mask, *_classes(scores)


def _classes(scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(C, H, W) logits -> class ids (H, W) uint8 and their probabilities (H, W) float32.

    Some rows at a time, and the winner's softmax without that of the others: a second (C, H, W) might not fit.
    """
    parts = []
    for rows in scores.split(max(1, _AT_ONCE // (len(scores) * scores.shape[2])), dim=1):
        top, ids = rows.max(0)
        parts.append((ids.to(torch.uint8).cpu(), (top - rows.logsumexp(0)).exp().cpu()))
    ids, confidence = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return ids, confidence


def latency(
    model: Segmenter,
    packed: CachedSplit,
    params: Evaluate,
    plan: DevicePlan,
    repeats: int = 10,
    seconds: float = 2.0,
) -> float:
    """Milliseconds from one image's bytes to its class ids, alone: the median after a first one that is not counted.

    Args:
        packed: whose first image is taken.
        repeats, seconds: the most of both.
    """
    image, mask = packed.pair(0)
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    times: list[float] = []
    while len(times) < 2 or (len(times) <= repeats and sum(times[1:]) < seconds):
        started = time.perf_counter()
        logits = predict(model, images, mask.shape, plan, params.flip_tta, params.tile, params.scales)
        logits.argmax(1).to(torch.uint8).cpu()  # waits for the device
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[1:]))


def scoring_plan(run: Run, device: str = "auto") -> DevicePlan:
    """On what, and in which precision, a trained run's model predicts: as it was trained, where that is possible."""
    stored = read_json(run.params, ["precision"])
    plan, trained_in = make_plan(device), Train.check({"precision": stored["precision"]}).precision
    if trained_in == "auto":
        with contextlib.suppress(FileNotFoundError, KeyError, TypeError):  # what was found to be fastest then
            found = read_json(run.path / "environment.json")["plan"]["precision"]
            trained_in = Train.check({"precision": found}).precision
    # fp16 and tf32 are for CUDA GPUs alone, but what was trained on one may be evaluated anywhere
    off_gpu = trained_in in ("fp16", "tf32") and not plan.device.startswith("cuda")
    return plan if off_gpu else make_plan(device, trained_in)
