"""`predict` and `evaluate_run`: predictions at the masks' original resolution, and every score of a split from them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from seglib import metrics
from seglib.batches import scoring_batches
from seglib.classes import ClassMap
from seglib.dataset import Dataset, load_dataset, read_mask
from seglib.hardware import HardwarePlan, make_plan
from seglib.loading import pack
from seglib.models import Segmenter, load_checkpoint
from seglib.params import Evaluate
from seglib.runs import Run, atomic_path, read_json, write_csv, write_json


@dataclass(frozen=True)
class Evaluation:
    """What 03 found out about one split.

    Args:
        split: its name.
        classes: of the dataset.
        scores: metrics.json.
        per_image, per_class, per_image_class_iou: the tables of the same names.
        confusions: (N, C, C) counts, in the order of `per_image`.
    """

    split: str
    classes: ClassMap
    scores: dict
    per_image: pd.DataFrame
    per_class: pd.DataFrame
    per_image_class_iou: pd.DataFrame
    confusions: np.ndarray


@torch.inference_mode()
def predict(
    model: Segmenter, images: Tensor, size: tuple[int, int], plan: HardwarePlan, flip: bool = False, tile: int = 0
) -> Tensor:
    """Class scores for a batch of images of one size.

    Args:
        model: in eval mode, on the plan's device.
        images: (B, 3, H, W) uint8 RGB.
        size: (height, width) of the result.
        plan: device and precision.
        flip: average with the prediction of the mirrored images.
        tile: largest side in pixels that is predicted at once; larger images are cut into tiles that overlap by half and
            are blended. 0: whole images.

    Returns:
        (B, C, *size) float32 logits (with `flip`: log of the mean probability) on the plan's device.
    """
    images = images.to(plan.device)

    def logits(part: Tensor, part_size: tuple[int, int]) -> Tensor:
        with plan.autocast():
            result = model.logits(part, part_size)
            if not flip:
                return result
            mirrored = model.logits(part.flip(-1), part_size).flip(-1)
        return torch.logaddexp(result.log_softmax(1), mirrored.log_softmax(1)) - np.log(2)

    height, width = images.shape[-2:]
    if not tile or max(height, width) <= tile:
        return logits(images, size)
    total = images.new_zeros(len(images), len(model.spec.classes), height, width, dtype=torch.float32)
    weight = images.new_zeros(height, width, dtype=torch.float32)
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            part = images[..., top : top + tile, left : left + tile]
            window = _ramp(part.shape[-2]).outer(_ramp(part.shape[-1])).to(plan.device)
            total[..., top : top + tile, left : left + tile] += window * logits(part, part.shape[-2:])
            weight[top : top + tile, left : left + tile] += window
    blended = total / weight
    return (
        blended
        if size == (height, width)
        else torch.nn.functional.interpolate(blended, size=size, mode="bilinear", align_corners=False)
    )


def _starts(size: int, tile: int) -> list[int]:
    """Where tiles begin: overlapping by half, the last one flush with the end."""
    return sorted({min(start, max(0, size - tile)) for start in range(0, size, max(1, tile // 2))})


def _ramp(size: int) -> Tensor:
    """Weights that fall towards a tile's ends, where the network sees least around a pixel."""
    steps = torch.arange(1, size + 1, dtype=torch.float32)
    return torch.minimum(steps, steps.flip(0))


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
    samples = dataset.split(params.split)
    model, facts = load_checkpoint(run.best_checkpoint, dataset.classes)
    plan = _plan(params.device, read_json(run.params)["precision"])
    plan.place(model)
    packed = pack(dataset, params.split, model.spec.long_side, original_masks=True, progress=progress)
    folder = run.evaluation(params.split)
    predictions = folder / "predictions"
    # Written last and removed first: whoever finds metrics.json finds a whole evaluation.
    (folder / "metrics.json").unlink(missing_ok=True)
    shutil.rmtree(predictions, ignore_errors=True)
    confusions = np.zeros((len(packed), len(dataset.classes), len(dataset.classes)), np.int64)
    started = time.perf_counter()
    bar = tqdm(total=len(packed), desc=f"predicting {params.split}", unit="image", leave=False, disable=not progress)
    for index, images, masks in scoring_batches(packed, params.batch_size):
        scores = predict(model, images, masks.shape[1:], plan, params.flip_tta, params.tile)
        preds = scores.argmax(1).to(torch.uint8).cpu().numpy()
        for i, mask, pred in zip(index, masks, preds, strict=True):
            confusions[i] = metrics.confusion_matrix(mask, pred, len(dataset.classes))
            save_ids(predictions / f"{packed.ids[i]}.png", pred, dataset.classes)
        bar.update(len(index))
    bar.close()
    seconds = time.perf_counter() - started
    per_image_iou = metrics.image_class_iou(confusions, params.absent)
    units, basis = metrics.independent_units(
        samples["group"].to_numpy(str), samples["frame"].to_numpy(float, na_value=np.nan)
    )
    low, high = metrics.bootstrap(confusions, metrics.mean_iou, units, seed=params.seed)
    result = {
        "run": run.name,
        "dataset": dataset.name,
        "split": params.split,
        "images": len(packed),
        "epoch": facts["epoch"],
        "absent": params.absent,
        "flip_tta": params.flip_tta,
        "tile": params.tile,
        "precision": plan.precision,
        **metrics.scores(confusions, params.absent),
        "mean_iou_interval": {"low": low, "high": high, "level": 0.95, "basis": basis},
        "classes_absent": [
            n for n, pixels in zip(dataset.classes.names, confusions.sum((0, 2)), strict=True) if pixels == 0
        ],
        "images_unscored": [packed.ids[i] for i in np.flatnonzero(confusions.sum((1, 2)) == 0)],
        "images_per_second": len(packed) / seconds,
    }
    names = dataset.classes.names
    class_iou = pd.DataFrame(per_image_iou, columns=list(names))
    class_iou.insert(0, "id", packed.ids)
    write_csv(folder / "per_image.csv", _per_image(samples, packed.mask_sizes, confusions, per_image_iou, names))
    write_csv(folder / "per_class.csv", metrics.per_class_table(confusions, names, params.absent))
    write_csv(folder / "per_image_class_iou.csv", class_iou)
    with atomic_path(folder / "confusions.npz") as temporary:
        np.savez_compressed(temporary, ids=np.array(packed.ids), confusions=confusions, classes=np.array(names))
    write_json(folder / "metrics.json", result)
    return open_evaluation(run, params.split)


def _plan(device: str, trained_in: str) -> HardwarePlan:
    plan = make_plan(device)
    # fp16 is for CUDA GPUs alone, but what was trained on one may be evaluated anywhere
    off_gpu = trained_in == "fp16" and not plan.device.startswith("cuda")
    return plan if off_gpu else make_plan(device, trained_in)


def _per_image(
    samples: pd.DataFrame, sizes: np.ndarray, confusions: np.ndarray, iou: np.ndarray, names: tuple[str, ...]
) -> pd.DataFrame:
    pixels = confusions.sum((1, 2))
    scored = ~np.isnan(iou).all(1)
    worst = np.full(len(iou), "", dtype=object)
    worst[scored] = np.array(names, object)[np.nanargmin(iou[scored], axis=1)]
    columns = samples[["id", "image", "mask", "group"]].reset_index(drop=True)
    return columns.assign(
        height=sizes[:, 0],
        width=sizes[:, 1],
        miou=[
            float(np.nanmean(row)) if any_scored else float("nan") for row, any_scored in zip(iou, scored, strict=True)
        ],
        pixel_accuracy=np.trace(confusions, axis1=1, axis2=2) / np.where(pixels, pixels, np.nan),
        worst_class=worst,
        scored_pixels=pixels,
    )


def open_evaluation(run: Run, split: str) -> Evaluation:
    """Read what `evaluate_run` wrote.

    Raises:
        FileNotFoundError: the split has not been evaluated; says which have.
    """
    folder = run.evaluation(split)
    if not (folder / "metrics.json").is_file():
        there = sorted(p.parent.name for p in folder.parent.glob("*/metrics.json"))
        raise FileNotFoundError(
            f"run {run.name!r} has no evaluation of split {split!r} (evaluated: {', '.join(there) or 'none'}). "
            f"Run 03_evaluate with run={run.name!r}, split={split!r} first."
        )
    with np.load(folder / "confusions.npz") as counts:
        confusions = counts["confusions"]
    return Evaluation(
        split,
        run_dataset(run).classes,
        read_json(folder / "metrics.json"),
        _read_table(folder / "per_image.csv", ("id", "image", "mask", "group", "worst_class")),
        _read_table(folder / "per_class.csv", ("class",)),
        _read_table(folder / "per_image_class_iou.csv", ("id",)),
        confusions,
    )


def _read_table(path: Path, text: tuple[str, ...]) -> pd.DataFrame:
    """A table whose columns `text` are taken as written: "0042", "null" and "" are names there, not numbers or gaps."""
    columns = pd.read_csv(path, nrows=0).columns
    gaps = {name: [""] for name in columns if name not in text}
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=gaps)


def run_dataset(run: Run) -> Dataset:
    """The dataset that a run was trained on, read anew.

    Raises:
        FileNotFoundError, DatasetError: it has moved or changed.
    """
    params = read_json(run.params)
    return load_dataset(params["dataset"], params["recipe"])


def save_ids(path: Path, ids: np.ndarray, classes: ClassMap) -> None:
    """Write (H, W) class ids as a palette PNG: the index is the class id, the palette its colour."""
    picture = Image.fromarray(ids)
    picture.putpalette(classes.palette().tobytes())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def read_ids(path: Path) -> np.ndarray:
    """(H, W) uint8 class ids of a palette PNG that `save_ids` wrote."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def predicted_pairs(run: Run, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The masks of an evaluated split beside its saved predictions: (id, truth (H, W), prediction (H, W)), streamed."""
    dataset = run_dataset(run)
    for sample in dataset.split(split).itertuples():
        truth = read_mask(dataset.root / sample.mask, dataset.classes)
        yield sample.id, truth, read_ids(run.evaluation(split) / "predictions" / f"{sample.id}.png")
