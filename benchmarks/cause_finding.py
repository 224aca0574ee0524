"""Does 04 state the right cause? `python benchmarks/cause_finding.py --run demo` prints tables, writes JSON.

A copy of the run's dataset gets faults, one an image, and goes through 03 and 04 as any dataset does:

- label faults and degradations of all kinds (`seglib.data.inject`): "label error" and "degraded image" are right;
- pictures unlike those of training, in place of others: inverted colours, and scenes from elsewhere, with their masks as far as
  the classes' names agree: the demo's streets, painted at the size of the picture that they replace; in the demo, the pictures of
  another run's dataset, reduced. "Unlike training" is right;
- faults of the model, for there are no others with that name: its logits are changed before anything else sees them. In some images
  it overlooks every region below 0.33 % of the image ("small objects" is right), in some it takes one common class for another,
  unsurely ("class confusion"). It never says a rare class ("rare class"): never means in no image, so the copy goes through 03 and
  04 once more with a model that says it nowhere, and as many images are counted as of any other fault.

Asked is about images that pass a threshold as they are and fail with their fault. Masks that the dataset's planted.csv records as
faulty are replaced by their sound ones first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage

from seglib import metrics, runs, train
from seglib.data import (
    FAULT_KINDS,
    IGNORE,
    Dataset,
    inject_faults,
    label_regions,
    load_dataset,
    read_mask,
    read_pair,
)
from seglib.data.inject import DEGRADATIONS
from seglib.evaluate import evaluate_run, predict
from seglib.failures import analyse, find_failures
from seglib.metrics import EDGES
from seglib.params import Evaluate
from seglib.runs import Run
from seglib.train import Segmenter

sys.path.insert(0, str(Path(__file__).parent / "demo_painter"))
import scenes as demo_scenes
from things import render

RARE = 0.01  # share of the pixels below which failures calls a class rare

MODEL_FAULTS = {"never_rare": "rare class", "never_small": "small objects", "torn": "class confusion"}
STRANGE = {"inverted": "unlike training", "elsewhere": "unlike training"}
RIGHT = (
    {kind: "degraded image" if kind in DEGRADATIONS else "label error" for kind in FAULT_KINDS}
    | STRANGE
    | MODEL_FAULTS
)
SAME = {
    "person": "pedestrian",
    "pedestrian": "person",
}  # classes of demo and CamVid that differ in name alone
NEVER, TORN = 12.0, 0.5  # logits: below all others; between the class that is said and the one that is there

Change = Callable[[torch.Tensor], torch.Tensor]


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


def moved(run: Run, dataset: Path) -> Run:
    """The run's model in the present project root, on another dataset."""
    copy = Run(Run.folder(run.name))
    copy.best_checkpoint.parent.mkdir(parents=True)
    shutil.copyfile(run.best_checkpoint, copy.best_checkpoint)
    runs.write_json(copy.params, runs.read_json(run.params) | {"dataset": str(dataset), "config": ""})
    return copy


def is_demo(dataset: Dataset) -> bool:
    return dataset.classes.names == demo_scenes.CLASSES


def one_seed(
    run: Run, dataset: Dataset, split: str, share: float, seed: int, other: Dataset | None
) -> pd.DataFrame:
    """One row a faulty image: sample, kind, mIoU after, cause, confidence, evidence."""
    rng = np.random.default_rng(seed)
    with project() as root:
        table = inject_faults(dataset, root / "data" / "planted", FAULT_KINDS, share, (split,), seed)[
            ["sample", "kind"]
        ]
        copy = load_dataset(root / "data" / "planted")
        left = rng.permutation(sorted(set(copy.split(split)["id"]) - set(table["sample"])))
        kinds = [
            kind
            for kind in (*STRANGE, *MODEL_FAULTS)
            if kind != "elsewhere" or other is not None or not is_demo(dataset)
        ]
        chosen = {
            str(name): kinds[k % len(kinds)]
            for k, name in enumerate(left[: round(share * len(copy.split(split)))])
        }
        rows = copy.split(split).set_index("id", drop=False)
        for name, kind in chosen.items():
            if kind == "inverted":
                image = read_pair(copy, rows.loc[name])[0]
                Image.fromarray(255 - image).save(copy.root / rows.loc[name, "image"], "PNG")
            elif kind == "elsewhere":
                place_scene(copy, rows.loc[name], other, split, rng)
        changes, never_rare = model_faults(copy, rows, chosen, rng)
        record = moved(run, copy.root)
        found = stated(record, split, faulty_model(changes))
        of_habit = [name for name, kind in chosen.items() if kind == "never_rare"]
        found.loc[of_habit] = stated(record, split, faulty_model({}, never_rare)).loc[of_habit]
    planted = pd.DataFrame(chosen.items(), columns=["sample", "kind"])
    table = pd.concat([table, planted], ignore_index=True).assign(seed=seed)
    return pd.concat([table, found.loc[table["sample"]].reset_index(drop=True)], axis=1)


def stated(record: Run, split: str, faults: AbstractContextManager) -> pd.DataFrame:
    """By id of every scored image: its mIoU (`after`), cause, cause_strength and evidence."""
    with faults:
        evaluation = evaluate_run(Evaluate(run=record.name, split=split))
        found = analyse(evaluation, find_failures(evaluation, 2.0)).failures
    found = found.rename(columns={"miou": "after"}).set_index("id")
    return found[["after", "cause", "cause_strength", "evidence"]]


def painted(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Picture and mask of a street of the demo's painters that no dataset holds, (H, W) of `shape` large: not enlarged, so sharp."""
    height, width = shape[:2]
    look = (
        str(rng.choice(["terrace", "suburb", "centre", "avenue"])),
        str(rng.choice(list(demo_scenes.WEATHER))),
    )
    street = demo_scenes.build_street(int(rng.integers(1 << 31)), *look, signs=4)
    scale = max(height / demo_scenes.HEIGHT, width / demo_scenes.WIDTH)
    frame = render(street, int(rng.integers(10)), scale=scale)
    y, x = (frame.mask.shape[0] - height) // 2, (frame.mask.shape[1] - width) // 2
    part = slice(y, y + height), slice(x, x + width)
    return frame.image[part], frame.mask[part]


def place_scene(
    dataset: Dataset, row: pd.Series, other: Dataset | None, split: str, rng: np.random.Generator
) -> None:
    """Put a picture from elsewhere, with its mask, in place of a sample: of the other dataset's split, or a painted one."""
    shape = read_pair(dataset, row)[0].shape
    if other is None:
        image, mask = painted(rng, shape)
        theirs = demo_scenes.CLASSES
    else:
        samples = other.split(split)
        image, mask = read_pair(other, samples.iloc[int(rng.integers(len(samples)))])
        theirs = other.classes.names
    names = list(dataset.classes.names)
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    for k, name in enumerate(theirs):
        own = name if name in names else SAME.get(name)
        table[k] = names.index(own) if own in names else IGNORE
    size = shape[1::-1]
    Image.fromarray(image).resize(size, Image.Resampling.BILINEAR).save(dataset.root / row["image"], "PNG")
    Image.fromarray(table[mask]).resize(size, Image.Resampling.NEAREST).save(dataset.root / row["mask"])


def model_faults(
    dataset: Dataset, rows: pd.DataFrame, chosen: dict[str, str], rng: np.random.Generator
) -> tuple[dict[int, Change], Change]:
    """What happens to the logits (C, H, W) of each image with a fault of the model, by its checksum; and in "never_rare" to all."""
    masks = (read_mask(dataset.root / m, dataset.classes) for m in dataset.split("train")["mask"])
    pixels = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)[: len(dataset.classes)]
    shares = pixels / pixels.sum()
    rare, common = np.flatnonzero(shares < RARE), np.flatnonzero(shares >= RARE)
    is_now, was = rng.choice(common, 2, replace=False)  # the same two in all images: a habit of the model
    changes = {}
    for name, kind in chosen.items():
        if kind in ("never_small", "torn"):
            image, mask = read_pair(dataset, rows.loc[name])
            if kind == "never_small":
                change = partial(moved_in, where=around_small(mask))
            else:
                change = partial(torn, is_now=int(is_now), was=int(was))
            changes[checksum(np.moveaxis(image, -1, 0))] = change
    return changes, partial(never, classes=rare)


def never(logits: torch.Tensor, classes: np.ndarray) -> torch.Tensor:
    changed = logits.clone()
    changed[classes] = logits.amin(0) - NEVER
    return changed


def torn(logits: torch.Tensor, is_now: int, was: int) -> torch.Tensor:
    """Wherever `was` is likelier than `is_now`, it comes second to it, by a little."""
    changed = logits.clone()
    changed[is_now] = torch.maximum(logits[is_now], logits[was])
    changed[was] = torch.where(logits[was] > logits[is_now], logits[was] - TORN, logits[was])
    return changed


def moved_in(logits: torch.Tensor, where: np.ndarray) -> torch.Tensor:
    return logits[:, where[0], where[1]]


def around_small(mask: np.ndarray) -> np.ndarray:
    """(2, H, W) of each pixel of a small region the nearest pixel of none; of others the pixel itself."""
    labels, values, sizes = label_regions(mask)
    small = (sizes < EDGES[0] * mask.size) & (values != IGNORE)
    return ndimage.distance_transform_edt(small[labels], return_distances=False, return_indices=True)


def checksum(image: np.ndarray) -> int:
    """Of (3, H, W) uint8."""
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


@contextmanager
def faulty_model(changes: dict[int, Change], all_else: Change | None = None) -> Iterator[None]:
    """For a while, every model's logits are changed where it is shown one of these images, and in `all_else`'s way elsewhere."""
    as_it_is = Segmenter.logits

    def logits(self: Segmenter, images: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        found = as_it_is(self, images, size)
        known = [changes.get(checksum(image.to(torch.uint8).cpu().numpy()), all_else) for image in images]
        return torch.stack([change(one) if change else one for one, change in zip(found, known, strict=True)])

    Segmenter.logits = logits
    try:
        yield
    finally:
        Segmenter.logits = as_it_is


def image_scores(run: Run, dataset: Dataset, split: str) -> pd.Series:
    """mIoU of each image of the split as it is, by id."""
    samples, found = dataset.split(split), {}
    for i, p in probabilities(run, dataset, split):
        truth = read_mask(dataset.root / samples["mask"][i], dataset.classes)
        confusion = metrics.confusion_matrix(truth, p.argmax(0).astype("uint8"), len(dataset.classes))
        found[samples["id"][i]] = metrics.image_miou(confusion[None])[0]
    return pd.Series(found)


class project(tempfile.TemporaryDirectory):
    """A project root for a while."""

    def __enter__(self) -> Path:
        root = Path(super().__enter__())
        for name in ("notebooks", "data"):
            (root / name).mkdir()
        self.before = os.environ.get("SEGLIB_ROOT")
        os.environ["SEGLIB_ROOT"] = str(root)
        return root

    def __exit__(self, *error: object) -> None:
        os.environ.pop("SEGLIB_ROOT")
        if self.before is not None:
            os.environ["SEGLIB_ROOT"] = self.before
        super().__exit__(*error)


def told(table: pd.DataFrame, threshold: float) -> dict:
    """Print what was stated of the images that their fault made fail, and return it."""
    made = table[(table["before"] >= threshold) & (table["after"] < threshold)]
    crossed = pd.crosstab(made["kind"], made["cause"]).reindex(
        [kind for kind in RIGHT if kind in set(made["kind"])]
    )
    right = made["cause"] == made["kind"].map(RIGHT)
    wrong = ~right & (made["cause"] != "unexplained")
    print(
        f"\nthreshold {threshold}: {len(made)} of {len(table)} faults made an image fail\n\n{crossed.to_string()}"
    )
    print(f"\nright {right.mean():.1%}, unexplained {(~right & ~wrong).mean():.1%}, wrong {wrong.mean():.1%}")
    if wrong.any():
        shown = made[wrong][
            ["sample", "kind", "seed", "before", "after", "cause", "cause_strength", "evidence"]
        ]
        print(shown.round(2).to_string(index=False))
    return {
        "failed": len(made),
        "right": float(right.mean()),
        "wrong": float(wrong.mean()),
        "stated": {kind: row.to_dict() for kind, row in crossed.iterrows()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", help="a trained run; may be repeated (default: demo)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--share", type=float, default=0.4, help="of the images: planted faults, and as many of the others"
    )
    parser.add_argument("--thresholds", default="0.5,0.6,0.7")
    parser.add_argument("--out", default="benchmarks/cause_finding.json", help="the JSON file")
    given = parser.parse_args()
    names = given.run or ["demo"]
    datasets = {name: sound(run_dataset(Run.open(name))) for name in names}
    seeds = list(range(given.first_seed, given.first_seed + given.seeds))
    result: dict = {"environment": runs.environment(), "share": given.share}
    for name in names:
        run, dataset = Run.open(name), datasets[name]
        others = (one for theirs, one in datasets.items() if theirs != name)
        other = next(others, None) if is_demo(dataset) else None
        parts = [one_seed(run, dataset, given.split, given.share, seed, other) for seed in seeds]
        table = pd.concat(parts, ignore_index=True)
        table["before"] = table["sample"].map(image_scores(run, dataset, given.split))
        print(f"\n{name}, {given.split}")
        thresholds = {text: told(table, float(text)) for text in given.thresholds.split(",")}
        result[f"{name}/{given.split}"] = {"seeds": seeds, "faults": len(table), "thresholds": thresholds}
    runs.write_json(Path(given.out).resolve(), result)


if __name__ == "__main__":
    main()
