"""From a model, or another tool's files, to predictions at original resolution: of a split, or of one image."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from seglib import actions, data, runs, train
from seglib.data import IGNORE, ClassMap, Dataset, DatasetError, compare_digests, digests
from seglib.evaluate.evaluation import Evaluation, Predictions, evaluation_name, run_dataset, write_evaluation
from seglib.params import Evaluate, Train
from seglib.runs import Run, display_path
from seglib.train import STRIDE, CachedSplit, DevicePlan, ModelError, Segmenter

# Pixels left out along a tile's inner borders, where the network sees too little, and pixels of blending.
_MARGIN, _BLEND = 96, 64
_TILE = 1024  # pixels a side of the tiles that one image of more than twice that is cut into
ADAPTED = 64  # images at most that batch norms adapt to
_BATCH, _PIXELS = 8, 1 << 22  # images, and about how many pixels, that they see together
_PLAINLY = Evaluate()  # neither tiled nor averaged
_LEAST = 1e-30  # probability that has a logarithm
_SCORES = 1 << 26  # class scores of one image at original size that are held at once: 256 MiB


@torch.inference_mode()
def predict(
    model: Segmenter, images: Tensor, size: tuple[int, int], plan: DevicePlan, params: Evaluate = _PLAINLY
) -> Tensor:
    """Compute the class scores of a batch of images of one size.

    Args:
        model: in eval mode, on the plan's device.
        images: (B, 3, H, W) uint8 RGB.
        size: (height, width) of the result.
        params: `tile`, above which images are cut into tiles that overlap and are blended (0: never); and what
            predictions are averaged over: `scales`, and with `flip_tta` mirrored images.

    Returns:
        (B, C, *size) float32 logits (of an average: log of the mean probability) on the plan's device.
    """
    images, total = images.to(plan.device), None
    for scale in params.scales:
        inner, how = [max(1, round(side * scale)) for side in images.shape[-2:]], {"antialias": scale < 1}
        view = images if scale == 1 else F.interpolate(images.float(), inner, mode="bilinear", **how)
        for mirrored in (False, True) if params.flip_tta else (False,):
            logits = _logits(model, view.flip(-1) if mirrored else view, size, plan, params.tile)
            logits = logits.flip(-1) if mirrored else logits
            if len(params.scales) == 1 and not params.flip_tta:
                return logits
            probability = logits.softmax(1)
            total = probability if total is None else total.add_(probability)
    return total.div_(len(params.scales) * (1 + params.flip_tta)).clamp_(min=_LEAST).log_()


def _logits(model: Segmenter, images: Tensor, size: tuple[int, int], plan: DevicePlan, tile: int) -> Tensor:
    height, width = images.shape[-2:]
    if not tile or max(height, width) <= tile:
        with plan.autocast():
            return model.logits(images, size)
    total = torch.cat(list(_bands(model, images, plan, tile)), dim=2)
    return total if size == (height, width) else F.interpolate(total, size, mode="bilinear")


def _bands(model: Segmenter, images: Tensor, plan: DevicePlan, tile: int) -> Iterator[Tensor]:
    """Yield the class scores (B, C, rows, W) of all rows, blended from tiles; one row of tiles is held at a time."""
    height, width = images.shape[-2:]
    tops, shape = _starts(height, tile), (len(images), len(model.spec.classes), 0, width)
    total = torch.zeros(shape, device=plan.device)
    weight = total.new_zeros(0, width)
    for top, following in pairwise([*tops, height]):
        more = 0, 0, 0, min(tile, height - top) - len(weight)  # rows that the tiles above did not reach
        total, weight = F.pad(total, more), F.pad(weight, more)
        for left in _starts(width, tile):
            window = _ramp(top, height, tile).outer(_ramp(left, width, tile)).to(plan.device)
            columns = ..., slice(left, left + tile)
            part = images[..., top : top + tile, left : left + tile].to(plan.device)
            with plan.autocast():
                total[columns] += window * model.logits(part)
            weight[columns] += window
        rows = following - top  # that no later tile reaches
        yield total[:, :, :rows] / weight[:rows]
        total, weight = total[:, :, rows:], weight[rows:]


def _starts(size: int, tile: int) -> list[int]:
    """Place tiles so that they overlap by two margins and the blending, small tiles by half.

    Long tiles start at multiples of the stride: a network that divides by 32 answers differently elsewhere.
    """
    unit = STRIDE if tile >= 2 * STRIDE else 1
    step = max(1, max(tile // 2, tile - 2 * min(_MARGIN, tile // 6) - _BLEND) // unit * unit)
    last = -(-max(0, size - tile) // unit) * unit
    return sorted({min(start, last) for start in range(0, last + step, step)})


def _ramp(start: int, size: int, tile: int) -> Tensor:
    """(length,) weights along a side of a tile: 0 in the margins, rising inwards, full at the image's end."""
    length = min(tile, size - start)
    place = torch.arange(1, length + 1, dtype=torch.float32)
    before = place if start > 0 else torch.full_like(place, tile)
    after = place.flip(0) if start + length < size else torch.full_like(place, tile)
    return (torch.minimum(before, after) - min(_MARGIN, tile // 6)).clamp(min=0)


@torch.no_grad()
def adapt_norm(model: Segmenter, images: Iterable[np.ndarray], plan: DevicePlan, share: float) -> Segmenter:
    """Copy a model whose batch norms take a share of their mean and variance from images of another place or camera.

    images: (H, W, 3) uint8 as the network sees them, without labels; their middle, where a side is longer than a tile.
    A network without batch norm is a ModelError.

    Source: Schneider et al., Improving robustness against common corruptions by covariate shift adaptation, NeurIPS 2020.
    """
    model, groups, seen = copy.deepcopy(model), defaultdict(list), 0
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise ModelError("adapt_norm needs a network with batch normalisation. Leave it 0 for this one.")
    for image in images:
        top, left = (max(0, side - _TILE) // 2 for side in image.shape[:2])
        view = image[top : top + _TILE, left : left + _TILE].copy()  # the rest may go
        groups[view.shape].append(view)
    trained = [(norm.running_mean.clone(), norm.running_var.clone(), norm.train()) for norm in norms]
    for (height, width, _), views in groups.items():
        count = max(2, min(_BATCH, _PIXELS // (height * width)))
        for batch in (np.stack(views[start : start + count]) for start in range(0, len(views), count)):
            seen += len(batch)
            for norm in norms:
                norm.momentum = len(batch) / seen  # each image counts the same
            batch = batch.repeat(1 + (len(batch) == 1), axis=0)  # of one, a pooled layer has no variance
            with plan.autocast():
                model.logits(torch.from_numpy(batch).permute(0, 3, 1, 2).to(plan.device))
    for mean, var, norm in trained:
        between = share * (1 - share) * (norm.running_mean - mean) ** 2
        norm.running_mean.lerp_(mean, 1 - share)
        norm.running_var.lerp_(var, 1 - share).add_(between)
        norm.eval()
    return model


def adapted(model: Segmenter, cached: CachedSplit, params: Evaluate, plan: DevicePlan) -> Segmenter:
    """Return the model that predicts a split: with `params.adapt_norm` a copy, adapted to up to 64 of its images."""
    chosen = range(0, len(cached), -(-len(cached) // ADAPTED))
    images = (cached.pair(k)[0] for k in chosen)
    return adapt_norm(model, images, plan, params.adapt_norm) if params.adapt_norm else model


@torch.inference_mode()
def predict_image(model: Segmenter, image: np.ndarray, plan: DevicePlan) -> tuple[np.ndarray, np.ndarray]:
    """Predict an image (H, W, 3) uint8 as 03 does, without all its class scores in memory at that size.

    What is longer than 2048 pixels once shrunk to `long_side` is predicted in overlapping tiles. Returns class ids
    (H, W) uint8, and for each class (C,) float64 the sum of the probabilities of the pixels that are predicted as it.
    """
    size, classes = image.shape[:2], len(model.spec.classes)
    (small,) = data.fitting(image, most=model.spec.long_side or max(size))
    inner = small.shape[:2]
    view = torch.from_numpy(np.require(small, requirements="W")).permute(2, 0, 1)[None]  # (1, 3, h, w)
    tiled = max(inner) > 2 * _TILE
    scores = _bands(model, view, plan, _TILE) if tiled else [predict(model, view, inner, plan)]
    if inner != size:
        scores = _enlarged(torch.cat(list(scores), dim=2), size)
    ids, total, top = np.empty(size, np.uint8), np.zeros(classes), 0
    for band in scores:
        rows = slice(top, top + band.shape[2])
        ids[rows], confidence = _decided(band[0])
        total += np.bincount(ids[rows].ravel(), confidence.ravel(), classes)
        top = rows.stop
    return ids, total


def _enlarged(scores: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Enlarge class scores (1, C, h, w) to `size` (H, W) as F.interpolate does, some rows (1, C, rows, W) at a time."""
    classes, height = scores.shape[1:3]
    places = (torch.arange(size[0], device=scores.device) + 0.5) * (height / size[0]) - 0.5
    for at in places.clamp(0, height - 1).split(max(1, _SCORES // (classes * size[1]))):
        upper = at.long()
        lower, share = (upper + 1).clamp(max=height - 1), (at - upper)[:, None]
        rows = scores[:, :, upper].lerp(scores[:, :, lower], share)
        yield F.interpolate(rows, (len(at), size[1]), mode="bilinear")


def _decided(scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Class scores (C, H, W) -> predicted ids (H, W) uint8 and their probabilities (H, W)."""
    top, ids = scores.max(0)
    return ids.to(torch.uint8).cpu().numpy(), (top - scores.logsumexp(0)).exp().cpu().numpy()


def evaluate_run(params: Evaluate, progress: bool = False) -> Evaluation:
    """Predict a split with the best model of `params.run`, score it, and write `evaluation/<split>/`.

    Of another dataset than the run's own (of the same classes) it is `evaluation/<its folder>-<split>/`.
    """
    run = Run.open(params.run)
    name = evaluation_name(run, params.split, params.dataset, params.config)
    own = name == params.split
    dataset = run_dataset(run) if own else data.load_dataset(params.dataset, params.config)
    model, facts = train.load_checkpoint(run.best_checkpoint, dataset.classes)
    form = asdict(dataset.form)
    if (trained := model.spec.images or form) != form:
        told = f"run {run.name!r} was trained on images that were read otherwise ({trained}; now {form})"
        raise DatasetError(f"{told}. Restore those keys of dataset.yaml, or train again.")
    plan = scoring_plan(run, params.device)
    plan.place(model)
    side = model.spec.long_side
    cached = train.build_cache(dataset, params.split, side, original_masks=True, progress=progress)
    if changed := changed_since_training(run, dataset) if own else "":
        tqdm.write(changed)
    about = {"data_changed": changed, "epoch": facts["epoch"], "precision": plan.precision}
    about["device"] = plan.kind
    about |= params.model_dump(include={"flip_tta", "scale_tta", "adapt_norm", "tile"})
    model = adapted(model, cached, params, plan)
    if not own:
        about |= {"evaluation": name, "dataset_path": runs.stored_path(params.dataset)}
        about["config"] = params.config
    return write_evaluation(run, dataset, params, _predictions(model, cached, params, plan), about, progress)


def trained_on(run: Run, dataset: Dataset) -> Dataset:
    """Return the dataset without the samples that the run's actions left out of its training."""
    kept = run.path / "actions.yaml"
    left_out = actions.read(kept).excluded if kept.is_file() else ()
    return replace(dataset, samples=dataset.samples[~dataset.samples["id"].isin(left_out)])


def changed_since_training(run: Run, dataset: Dataset) -> str:
    """Word which files changed since the run was trained on them; "" if none did or none are known."""
    dataset, changes = trained_on(run, dataset), []
    for split, before in (runs.read_json(run.data) if run.data.is_file() else {}).items():
        if found := compare_digests(before, digests(dataset, split) if split in dataset.splits else {}):
            changes.append(f"{split}: {found}")
    told = f"The data changed since run {run.name!r} was trained on it ({'; '.join(changes)})."
    return told if changes else ""


def _predictions(model: Segmenter, cached: CachedSplit, params: Evaluate, plan: DevicePlan) -> Predictions:
    for index, images, masks in train.scoring_batches(cached, params.batch_size):
        logits = predict(model, images, masks.shape[1:], plan, params)
        for position, mask, scores in zip(index, masks, logits, strict=True):
            yield position, mask, *_decided(scores)


def scoring_plan(run: Run, device: str = "auto") -> DevicePlan:
    """Choose device, precision and memory format for a run's model: as in training, where the device can."""
    asked, record = runs.read_json(run.params, ["precision"])["precision"], run.path / "environment.json"
    trained = runs.read_json(record).get("plan", {}) if record.is_file() else {}
    if asked == "auto":
        asked = trained.get("precision", asked)  # what the training chose
    precision, plan = Train.check({"precision": asked}).precision, train.make_plan(device)
    off_gpu = precision in ("fp16", "tf32") and not plan.device.startswith("cuda")  # those need a CUDA GPU
    plan = plan if off_gpu else train.make_plan(device, precision)
    return replace(plan, memory_format=trained.get("memory_format", plan.memory_format))


def evaluate_predictions(folder: str | Path, params: Evaluate, progress: bool = False) -> Evaluation:
    """Score another tool's predictions of `params.dataset` as a checkpoint's, in a run of their own, `params.run`.

    `folder` holds `<id>.png` for every image of the split, of the mask's size: one channel or a palette, class ids
    in the order of dataset.yaml's classes. Ids at ignored pixels do not matter.
    """
    run, split = Run(Run.folder(params.run)), params.split
    dataset = data.load_dataset(params.dataset, params.config)
    record = {"run": run.name, "dataset": runs.stored_path(params.dataset)}
    record["config"] = runs.stored_path(params.config) if params.config else ""
    record["predictions"] = runs.stored_path(folder)
    trained = run.best_checkpoint.exists() or run.last_checkpoint.exists()
    known = runs.read_json(run.params, ["dataset"]) if run.params.exists() else record
    if trained or known["dataset"] != record["dataset"]:
        what = "holds a trained model" if trained else "is of another dataset"
        raise FileExistsError(f"run {run.name!r} exists and {what}. Choose another name with --run.")
    paths = [Path(folder) / f"{sample}.png" for sample in dataset.split(split)["id"]]
    if missing := [path for path in paths if not path.is_file()]:
        told = f"{len(missing)} of {len(paths)} images of split {split!r} have no prediction: expected"
        raise DatasetError(f"{told} {', '.join(map(display_path, missing[:3]))}. Name the files by the ids.")
    runs.write_json(run.params, record)
    about = {"predictions": record["predictions"]}
    return write_evaluation(run, dataset, params, _read_external(paths, dataset, split), about, progress)


def _read_external(paths: list[Path], dataset: Dataset, split: str) -> Iterator[tuple]:
    """Raise DatasetError after the last image where some could not be used: names three, counts all."""
    faults, classes = [], len(dataset.classes)
    pixels = np.zeros((classes, IGNORE + 1), np.int64)  # of each true class, by predicted value
    for i, (path, mask) in enumerate(zip(paths, dataset.split(split)["mask"], strict=True)):
        truth, what = data.read_mask(dataset.root / mask, dataset.classes), f"prediction {path.name!r}"
        try:
            pred = data.read_stored(path, what)
            if pred.shape != truth.shape:
                raise DatasetError(f"{what} is {pred.shape}, its mask {truth.shape}")
        except DatasetError as error:
            faults.append(str(error))
            continue
        known, values = truth != IGNORE, np.clip(pred, 0, IGNORE).astype(np.uint8)
        pairs = truth[known].astype(np.intp) * (IGNORE + 1) + values[known]
        pixels += np.bincount(pairs, minlength=pixels.size).reshape(pixels.shape)
        if wrong := [int(c) for c in np.unique(pred[known]) if not 0 <= c < classes]:
            faults.append(f"{what} holds ids {wrong[:8]} on valid pixels")
        else:
            yield i, truth, values, None
    _check_numbering(pixels, dataset.classes)
    if faults:
        told = f"{len(faults)} of {len(paths)} predictions cannot be scored: {' | '.join(faults[:3])}"
        wanted = f"one channel (height, width) of class ids 0-{classes - 1} in the order of dataset.yaml"
        raise DatasetError(f"{told}. Expected {wanted}. Resize the logits before the argmax, never the mask.")


def _check_numbering(pixels: np.ndarray, classes: ClassMap) -> None:
    """Refuse values that number the classes in another way, as stored ids do; `pixels` (C, 256), true class by value."""
    rows, values = linear_sum_assignment(pixels, maximize=True)
    right, best, total = np.trace(pixels), pixels[rows, values], pixels.sum()
    found = best > (pixels.sum(1)[rows] + pixels.sum(0)[values] - best) / 3  # an IoU above a third
    moved = found & (rows != values)
    renamed = moved.sum() > 1 or (values[moved] >= len(classes)).any()  # one alone may be confused
    if renamed and found.sum() > 1 and total - best.sum() < (total - right) / 2:
        meant = ", ".join(f"{values[k]} for {classes.names[k]!r}" for k in np.flatnonzero(moved))
        told = f"the predictions agree with the ground truth in {right / total:.1%} of the pixels as class ids, but"
        told += f" in {best.sum() / total:.1%} if their values stand for other classes ({meant})."
        told += f" Write class ids, 0-{len(classes) - 1}, in the order of dataset.yaml."
        raise DatasetError(told + " dataset.classes.encode(ids) maps stored ids." * bool(classes.id_map))
