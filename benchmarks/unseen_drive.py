"""Is a label called wrong rightly, on a drive that training never saw? `python benchmarks/unseen_drive.py` prints tables, writes JSON.

CamVid's training part holds three drives. A model is trained on two of them, and 04 looks at the third:

- as it is: how many masks are named, and which causes are stated of the images below a threshold;
- with a tenth of its masks replaced by faulty ones, of each of six kinds in turn, in several draws: AUROC of the score beside cleanlab's two
  scores (softmin and num_pixel_issues, by the package itself at half the resolution; ignored pixels count as what is predicted), the disagreement,
  the image's IoU and the model's doubt; how many of the faulty masks are named, and how many of the named ones are faulty; how far the
  probability is off (ECE in ten bins);
- with a tenth of its objects left out, as in Rottmann and Reese (Automated detection of label errors in semantic segmentation datasets via deep
  learning and uncertainty quantification, WACV 2023): precision, recall and F1 of the regions that are named.

The models are those of left_out_drives.py, predicted as params/camvid.yaml says. `pip install -e ".[benchmark]"` brings cleanlab.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from cleanlab.segmentation.rank import get_label_quality_scores
from drives import DRIVES
from left_out_drives import NOW, trained
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from seglib import data, evaluate, failures, metrics, runs
from seglib.data import IGNORE, LABEL_FAULTS, Dataset, LabelFaults
from seglib.failures.analyse import observe
from seglib.failures.evidence import View
from seglib.failures.label_errors import LabelCheck
from seglib.failures.novelty import load_scorer
from seglib.params import Evaluate

HOW = {key: value for key, value in NOW.items() if key in ("flip_tta", "scale_tta", "adapt_norm")}
SHARE = 0.1
CLEANLAB = ("softmin", "num_pixel_issues")
GROUP = r"(?P<group>.+)_[A-Za-z]?(?P<frame>\d+)$"


class Kept(LabelCheck):
    """Keeps what cleanlab needs of every mask and image, at half the resolution."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        super().__init__(dataset, split)
        self.masks: list[np.ndarray] = []
        self.probabilities: dict[int, np.ndarray] = {}  # (C, H, W)

    def _add(self, position: int, kind: str, seen: View, truth: np.ndarray, mask: np.ndarray) -> None:
        super()._add(position, kind, seen, truth, mask)
        self.masks.append(np.where(mask == IGNORE, seen.pred, mask)[::2, ::2])
        self.probabilities[position] = np.exp(seen.log_p[:, ::2, ::2])


def looked_at(evaluation: evaluate.Evaluation) -> Kept:
    """Measure the masks of a split as they are and with faults: as 04 does."""
    check = Kept(evaluation.dataset, evaluation.split)
    for one in observe(evaluation, load_scorer(evaluation.run)):
        check.look(one.position, one.image, one.truth, one.probabilities, one.pred)
    return check


def with_faults(check: Kept, seed: int) -> tuple[Kept, dict[int, str]]:
    """Let a tenth of the masks be faulty ones, as if the dataset had come so; return whose they are, and of which kind."""
    rng, rows = np.random.default_rng(seed), pd.DataFrame(check.rows)
    count = len(check.samples)
    kinds = {
        p: LABEL_FAULTS[(k + seed) % len(LABEL_FAULTS)]
        for k, p in enumerate(rng.choice(count, round(SHARE * count), False))
    }
    copy = Kept(check.dataset, "test")
    copy.small, copy.sizes, planted = dict(check.small), check.sizes, {}
    for position, mine in rows.groupby("position"):
        of_kind = mine.index[mine["kind"] == kinds.get(position)]
        kept = [int(rng.choice(of_kind))] if len(of_kind) else list(mine.index)
        if len(of_kind):
            planted[position] = kinds[position]
            mask, (thumbnail, pred) = check.masks[kept[0]], check.small[position]
            grid = [
                np.linspace(0, n - 1, m).round().astype(int)
                for n, m in zip(mask.shape, thumbnail.shape, strict=True)
            ]
            copy.small[position] = mask[np.ix_(*grid)], pred
        for k in kept:
            row = check.rows[k] | ({"kind": "sound"} if len(of_kind) else {})
            regions = check.regions[k].assign(row=len(copy.rows))
            copy.regions.append(regions.assign(hit=0.0) if len(of_kind) else regions)
            copy.rows.append(row)
            copy.confusions.append(check.confusions[k])
            copy.masks.append(check.masks[k])
    return copy, planted


def draws(check: Kept, seeds: range) -> pd.DataFrame:
    """A row an image and draw: its fault ("" for none), the score, whether it is named, and the baselines."""
    tables = []
    for seed in seeds:
        copy, planted = with_faults(check, seed)
        found = copy.judge(np.zeros(len(check.samples), bool)).images
        own = pd.DataFrame(copy.rows).query("kind == 'sound'").sort_values("position")
        places, own = own.index, own.set_index("position")
        side = len(check.dataset.classes)
        counts = [copy.confusions[k].toarray().reshape(side, side) for k in places]
        table = found[["label_score", "suspect"]].assign(
            seed=seed, fault=pd.Series(planted).reindex(found.index).fillna("")
        )
        table["softmin"], table["disagreement"], table["doubt"] = -own["softmin"], own["apart"], own["doubt"]
        table["1 - IoU"] = pd.Series(1 - metrics.image_miou(np.stack(counts)), own.index)
        labels = np.stack([copy.masks[k] for k in places]).astype(int)
        chances = np.stack([check.probabilities[k] for k in own.index])
        for method in CLEANLAB:
            scores, _ = get_label_quality_scores(labels, chances, method=method, n_jobs=1, verbose=False)
            table[f"cleanlab's {method}"] = pd.Series(-scores, own.index)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame) -> dict:
    """AUROC of each score by kind, and what is named."""
    bad, scores = table["fault"] != "", ["label_score", *(f"cleanlab's {method}" for method in CLEANLAB)]
    scores += ["softmin", "disagreement", "1 - IoU", "doubt"]
    auroc = {}
    for kind in ("all", *LABEL_FAULTS):
        part = table[~bad | (table["fault"] == kind) | (kind == "all")]
        auroc[kind] = {name: round(roc_auc_score(part["fault"] != "", part[name]), 3) for name in scores}
        auroc[kind]["named"] = round(
            float(table.loc[bad & ((table["fault"] == kind) | (kind == "all")), "suspect"].mean()), 3
        )
    bins = table.groupby((10 * table["label_score"]).clip(upper=9).astype(int))
    off = sum(len(b) * abs(b["label_score"].mean() - (b["fault"] != "").mean()) for _, b in bins) / len(table)
    named = table[table["suspect"]]
    precision = float((named["fault"] != "").mean()) if len(named) else float("nan")
    return {
        "auroc": auroc,
        "named": len(named),
        "precision": precision,
        "sound masks named": float(table.loc[~bad, "suspect"].mean()),
        "calibration error": float(off),
    }


def objects_left_out(evaluation: evaluate.Evaluation, seed: int = 0) -> dict:
    """Leave a tenth of the objects out of the masks, on disk, and let 04 look: are the regions found that it names?

    A named region is right if its box and that of an object that was left out overlap by an IoU of a quarter.
    """
    dataset, rng = evaluation.dataset, np.random.default_rng(seed)
    samples, folder = (
        dataset.split(evaluation.split),
        runs.resolve_path(f"artifacts/unseen_drive/left_out_{seed}"),
    )
    faults, left_out, count = LabelFaults(dataset, samples, rng), {}, 0
    shutil.rmtree(folder, ignore_errors=True)
    for _, sample in samples.iterrows():
        mask, boxes = faults.mask(sample), []
        objects = faults.objects(mask)
        for where in objects:
            if rng.random() < SHARE:
                mask, count = fill(mask, where), count + 1
                boxes.append([edge for side in np.nonzero(where) for edge in (side.min(), side.max() + 1)])
        left_out[sample["id"]] = boxes
        for path, pixels in (
            (sample["image"], data.read_image(dataset.root / sample["image"])),
            (sample["mask"], mask),
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / path)
    globs = {"images": "train/*.png", "masks": "trainannot/*.png", "ids": samples["id"].tolist()}
    values = {"name": f"left_out_{seed}", "classes": [*dataset.classes.names], "splits": {"test": globs}}
    runs.write_text(folder / "dataset.yaml", yaml.safe_dump(values | {"group": GROUP}))
    where = Evaluate(run=evaluation.run.name, split="test", dataset=str(folder), **HOW)
    found = evaluate.evaluate_run(where)
    named = failures.named(failures.analyse(found, failures.find_failures(found, 0.0)).suspects)
    regions = named[named["suspect_box"] != ""]
    hits = [
        overlap([*map(int, box.split())], left_out[i])
        for i, box in zip(regions["id"], regions["suspect_box"], strict=True)
    ]
    right = sum(hit >= 0.25 for hit in hits)
    precision, recall = right / max(1, len(regions)), right / max(1, count)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    masks = sum(map(bool, left_out.values()))
    facts = {"objects": count, "masks": masks, "named masks": len(named), "named regions": len(regions)}
    return facts | {"precision": precision, "recall": recall, "f1": f1}


def fill(mask: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Give an object's pixels the labels that lie nearest."""
    unknown = where | (mask == IGNORE)
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return np.where(where, mask[tuple(nearest)], mask)


def overlap(box: list[int], others: list[list[int]]) -> float:
    """Compute the largest IoU of a box x0, y0, x1, y1 with boxes y0, y1, x0, x1."""
    x0, y0, x1, y1 = box
    best = 0.0
    for top, bottom, left, right in others:
        both = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
        best = max(best, both / ((x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - both))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drives", default=",".join(DRIVES), help="those left out, one after the other")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--long-side", type=int, default=480)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--threshold", type=float, default=0.4, help="an image below it fails")
    parser.add_argument("--out", default="benchmarks/unseen_drive.json", help="the JSON file")
    given = parser.parse_args()
    result: dict = {"environment": runs.environment(), "epochs": given.epochs, "long_side": given.long_side}
    for drive in given.drives.split(","):
        name = trained("now", drive, 0, given.epochs, given.long_side)
        evaluation = evaluate.evaluate_run(Evaluate(run=name, split="test", **HOW), progress=True)
        analysis = failures.analyse(evaluation, failures.find_failures(evaluation, given.threshold))
        sound = {"mean IoU": evaluation.scores["mean_iou"], "images": len(analysis.images)}
        sound |= {
            "named": failures.named(analysis.suspects)["id"].tolist(),
            "failures": len(analysis.failures),
        }
        sound["causes"] = analysis.failures["cause"].value_counts().to_dict()
        found = summary(draws(looked_at(evaluation), range(given.draws)))
        print(
            f"\n{drive}, as it is: {sound}\nwith faults in a tenth: { ({k: v for k, v in found.items() if k != 'auroc'}) }"
        )
        print(pd.DataFrame(found["auroc"]).T.to_string(), flush=True)
        left_out = objects_left_out(evaluation)
        print(f"objects left out: {left_out}", flush=True)
        result[drive] = {"sound": sound, "faulty": found, "objects left out": left_out}
    runs.write_json(Path(given.out).resolve(), result)


if __name__ == "__main__":
    main()
