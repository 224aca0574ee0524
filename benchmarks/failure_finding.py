"""Does the debugging find what was planted? `python benchmarks/failure_finding.py --run demo` prints tables, writes JSON.

Label faults are planted in memory in the masks of a split, several times with different seeds; the run's probabilities stay as
they are, since the images do. Each seed gives a fifth of the images one fault, swapped classes, missing objects, shifted masks
and masks of other images evenly often. Masks that the dataset's planted.csv records as faulty are replaced by their sound ones
first. Beside `seglib.failures.label_errors` stand the segmentation scores of cleanlab (softmin, and num_pixel_issues by confident learning:
Lad and Mueller, Estimating label quality and errors in semantic segmentation data via any model, 2023), on the same
probabilities, computed here by their definition image by image, ignored pixels left out; on data without ignored pixels they
equal those of the package (cleanlab 2.9; up to the width of a bin). Further the plain IoU of each image, and the model's mean confidence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from seglib import metrics, runs, train
from seglib.data import IGNORE, Dataset, load_dataset, read_mask
from seglib.data.inject import LABEL_FAULTS, Fault, bounding_box, plan_faults
from seglib.evaluate import predict
from seglib.failures.label_errors import Look, judge, look
from seglib.runs import Run

BINS = 4096  # of a probability, where cleanlab would sort all pixels of the split
STATED = {
    "swapped_classes": "swapped class",
    "missing_object": "missing object",
    "shifted_mask": "shifted mask",
    "wrong_mask": "mask of another image",
}
OURS = "label_errors"


@dataclass(frozen=True)
class Measured:
    """One mask beside the probabilities of its image: what each score is made of."""

    look: Look
    miou: float
    softmin: float
    # For confident learning: of each class the sum of its probability over the pixels labelled so, and their number; of the
    # pixels in dispute the predicted class by confidence; all pixels and those in dispute by the probability of their label.
    sums: np.ndarray
    counts: np.ndarray
    confident: np.ndarray
    quality: np.ndarray
    disputed: np.ndarray


def measure(truth: np.ndarray, probabilities: np.ndarray) -> Measured:
    """Everything that the scores need of one mask, (H, W), and its image's probabilities, (C, H, W) float32."""
    classes = len(probabilities)
    scored = truth != IGNORE
    p, given = probabilities[:, scored], truth[scored]
    pred, of_label = p.argmax(0), p[given, np.arange(p.shape[1])]
    apart = pred != given
    weight = np.exp((1 - of_label.astype(np.float64)) / 0.1)

    def binned(values: np.ndarray) -> np.ndarray:
        return np.minimum((values * BINS).astype(np.intp), BINS - 1)

    confusion = metrics.confusion_matrix(truth, probabilities.argmax(0).astype(np.uint8), classes)
    where = pred[apart] * BINS + binned(p[pred[apart], np.flatnonzero(apart)])
    return Measured(
        look(truth, probabilities),
        float(metrics.nanmean(metrics.image_class_iou(confusion[None], "truth"), axis=1)[0]),
        float((of_label * weight).sum() / weight.sum()),
        np.bincount(given, of_label, minlength=classes),
        np.bincount(given, minlength=classes),
        np.bincount(where, minlength=classes * BINS).reshape(classes, BINS).astype(np.int32),
        np.bincount(binned(of_label), minlength=BINS),
        np.bincount(binned(of_label[apart]), minlength=BINS),
    )


def pixel_issues(measured: list[Measured]) -> np.ndarray:
    """(N,) share of each image's pixels that confident learning calls mislabelled (cleanlab's num_pixel_issues).

    Of all pixels of the split, the k with the least probability of their label, less those on which the model agrees with it; k:
    pixels whose predicted class is another, with at least the mean probability of that class where it is the label.
    """
    sums, counts = sum(m.sums for m in measured), sum(m.counts for m in measured)
    threshold = np.where(counts > 0, sums / np.maximum(counts, 1), 2.0)
    above = np.arange(BINS) >= np.floor(threshold * BINS)[:, None]
    k = sum(int(m.confident[above].sum()) for m in measured)
    quality = np.cumsum(sum(m.quality for m in measured))
    last = int(np.searchsorted(quality, k))
    return np.array([m.disputed[: last + 1].sum() / max(m.look.pixels, 1) for m in measured])


def run_dataset(run: Run) -> Dataset:
    """The dataset that a run was trained on."""
    stored = runs.read_json(run.params)
    return load_dataset(stored["dataset"], stored["config"])


@torch.inference_mode()
def probabilities(run: Run, dataset: Dataset, split: str) -> Iterator[tuple[int, np.ndarray]]:
    """Position and (C, H, W) float32 probabilities of every image of a split, one at a time, at the mask's size."""
    model, _ = train.load_checkpoint(run.best_checkpoint, dataset.classes)
    plan = train.make_plan()
    plan.place(model)
    packed = train.build_cache(dataset, split, model.spec.long_side, original_masks=True)
    for index, images, masks in train.scoring_batches(packed, 1):
        logits = predict(model, images, masks.shape[1:], plan)
        yield int(index[0]), logits[0].float().softmax(0).cpu().numpy()


def sound(dataset: Dataset) -> Dataset:
    """The dataset with the sound masks of what its planted.csv records as label faults."""
    clean = [f"clean_masks/{name}.png" for name in dataset.samples["id"]]
    masks = [
        c if (dataset.root / c).is_file() else m for c, m in zip(clean, dataset.samples["mask"], strict=True)
    ]
    return replace(dataset, samples=dataset.samples.assign(mask=masks))


def label_scores(name: str, split: str, seeds: int, share: float) -> tuple[list[dict], list[dict], dict]:
    """Plant, measure and score: rows of scores by seed and method, rows of faults with what was said of them, timings."""
    run = Run.open(name)
    dataset = run_dataset(run)
    clean = sound(dataset)
    samples = clean.split(split)
    ids = samples["id"].tolist()
    plans = [plan_faults(clean, split, LABEL_FAULTS, share, seed) for seed in range(seeds)]
    rows: list[list[Measured]] = [[] for _ in plans]
    masks, taken, order, started = {}, [], [], time.perf_counter()
    for i, p in probabilities(run, dataset, split):
        masks[ids[i]] = read_mask(clean.root / samples["mask"][i], clean.classes)
        order.append(ids[i])
        before = time.process_time()
        look(masks[ids[i]], p)
        taken.append(time.process_time() - before)
        plain = measure(masks[ids[i]], p)
        for row, plan in zip(rows, plans, strict=True):
            row.append(measure(plan[ids[i]].mask, p) if ids[i] in plan else plain)
    spent = time.perf_counter() - started
    scores, told = [], []
    for seed, (row, plan) in enumerate(zip(rows, plans, strict=True)):
        suspicions = list(judge([m.look for m in row], clean.classes.names).itertuples())
        kinds = np.array([plan[name].kind if name in plan else "" for name in order])
        for method, values in methods(row, suspicions).items():
            scores.append({"seed": seed, "method": method} | rank_scores(values, kinds))
        told += [
            said(seed, name, plan[name], s, masks[name])
            for name, s in zip(order, suspicions, strict=True)
            if name in plan
        ]
    cost = {
        "images": len(ids),
        "planted": len(plans[0]),
        "look_ms": 1000 * float(np.median(taken)),
        "seconds": spent,
    }
    return scores, told, cost


def methods(row: list[Measured], suspicions: list) -> dict[str, np.ndarray]:
    """Score of every image by each method, more suspicious first."""
    return {
        OURS: np.array([s.label_score for s in suspicions]),
        "cleanlab softmin": np.array([1 - m.softmin for m in row]),
        "cleanlab num_pixel_issues": pixel_issues(row),
        "IoU of the image": np.array([1 - np.nan_to_num(m.miou) for m in row]),
        "mean confidence": np.array([m.look.doubt for m in row]),
    }


def rank_scores(values: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """AUROC of all faults and of each kind against the sound images, recall at the number planted, precision at 10."""
    faulty = kinds != ""
    found = {"overall": float(roc_auc_score(faulty, values))}
    for kind in LABEL_FAULTS:
        one = ~faulty | (kinds == kind)
        found[kind] = (
            float(roc_auc_score(faulty[one], values[one])) if (kinds == kind).any() else float("nan")
        )
    ranked = faulty[np.argsort(-values, kind="stable")]
    found["recall at planted"] = float(ranked[: faulty.sum()].mean())
    found["precision at 10"] = float(ranked[:10].mean())
    return found


def said(seed: int, name: str, planned: Fault, suspicion: Any, clean: np.ndarray) -> dict:
    """What was planted in one mask and what was said of it."""
    changed = bounding_box(planned.mask != clean)
    box = tuple(map(int, suspicion.suspect_box.split())) if suspicion.suspect_box else None
    return {
        "seed": seed,
        "sample": name,
        "planted": planned.kind,
        "score": suspicion.label_score,
        "stated": suspicion.suspect_kind,
        "right": suspicion.suspect_kind == STATED[planned.kind],
        "box_iou": box_iou(changed, box) if planned.box else float("nan"),
        "detail": planned.detail,
    }


def box_iou(one: tuple[int, ...], two: tuple[int, ...] | None) -> float:
    """Intersection over union of two boxes x0 y0 x1 y1."""
    if two is None:
        return 0.0
    sides = [max(0, min(one[k + 2], two[k + 2]) - max(one[k], two[k])) for k in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    both = sides[0] * sides[1]
    return both / (sum(areas) - both)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", help="a trained run; may be repeated (default: demo)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.2, help="of the images that get a label fault")
    parser.add_argument("--out", default="benchmarks/failure_finding.json", help="the JSON file")
    given = parser.parse_args()
    result: dict = {"environment": runs.environment(), "share": given.share, "seeds": given.seeds, "runs": {}}
    for name in given.run or ["demo"]:
        scores, told, cost = label_scores(name, given.split, given.seeds, given.share)
        table = pd.DataFrame(scores).drop(columns="seed").groupby("method", sort=False).agg(["mean", "std"])
        means = table.xs("mean", axis=1, level=1)
        shown = means.round(3).astype(str) + " ± " + table.xs("std", axis=1, level=1).round(3).astype(str)
        faults = pd.DataFrame(told)
        kinds = pd.crosstab(faults["planted"], faults["stated"].replace("", "(not told)"))
        boxes = faults.groupby("planted")["box_iou"].median().dropna()
        print(
            f"\n{name}, {given.split}: {cost['images']} images, {cost['planted']} faults a seed, {given.seeds} seeds"
        )
        with pd.option_context("display.width", 250):
            print(shown.to_string(), kinds.to_string(), boxes.to_string(), sep="\n\n")
        print(f"\none look: {cost['look_ms']:.1f} ms")
        result["runs"][f"{name}/{given.split}"] = {
            **cost,
            "label_faults": {m: {c: {"mean": table.loc[m, (c, "mean")], "std": table.loc[m, (c, "std")]} for c in means} for m in means.index},
            "stated": {kind: row.to_dict() for kind, row in kinds.iterrows()},
            "median_box_iou": boxes.to_dict(),
        }  # fmt: skip
    runs.write_json(Path(given.out).resolve(), result)


if __name__ == "__main__":
    main()
