"""Does 04 state the right cause? `python benchmarks/cause_finding.py --run demo` prints a table, writes JSON.

Copies of the run's dataset are planted with label faults and degradations of all kinds (`seglib.plant`), one fault an image, and go
through 03 and 04 as any dataset does. Asked is about images that pass the threshold as they are and fail with their fault: is
the primary cause "label error" for label faults and "degraded image" for degradations? Masks that the dataset's planted.csv
records as faulty are replaced by their sound ones first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
from failure_finding import probabilities, sound

from seglib import analysis, metrics, runs
from seglib.dataset import Dataset, read_mask
from seglib.failures import find_failures
from seglib.faults import DEGRADATIONS, KINDS
from seglib.inference import evaluate_run, run_dataset
from seglib.params import Evaluate
from seglib.plant import plant
from seglib.runs import Run

RIGHT = {kind: "degraded image" if kind in DEGRADATIONS else "label error" for kind in KINDS}


def moved(run: Run, dataset: Path) -> Run:
    """The run's model in the present project root, on another dataset."""
    copy = Run(Run.folder(run.name))
    copy.best_checkpoint.parent.mkdir(parents=True)
    shutil.copyfile(run.best_checkpoint, copy.best_checkpoint)
    runs.write_json(copy.params, runs.read_json(run.params) | {"dataset": str(dataset), "recipe": ""})
    return copy


def one_seed(run: Run, dataset: Dataset, split: str, share: float, threshold: float, seed: int) -> pd.DataFrame:
    """One row a planted sample: kind, severity, mIoU after, cause, confidence, evidence."""
    with project() as root:
        planted = plant(dataset, root / "data" / "planted", KINDS, share, (split,), seed)
        copy = moved(run, root / "data" / "planted")
        evaluation = evaluate_run(copy, Evaluate(run=run.name, split=split))
        found = analysis.analyse(copy, evaluation, find_failures(evaluation, threshold)).failures.set_index("id")
    after = evaluation.per_image.set_index("id")["miou"]
    table = planted[["sample", "kind", "severity"]].assign(seed=seed)
    table["after"] = after[table["sample"]].to_numpy()
    told = found.reindex(table["sample"])[["cause", "cause_confidence", "evidence"]].reset_index(drop=True)
    return pd.concat([table.reset_index(drop=True), told], axis=1)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", help="a trained run; may be repeated (default: demo)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.4, help="of the images that get a fault")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--out", default="benchmarks/cause_finding.json", help="the JSON file")
    given = parser.parse_args()
    result: dict = {"environment": runs.environment()} | {k: getattr(given, k) for k in ("share", "seeds", "threshold")}
    for name in given.run or ["demo"]:
        run = Run.open(name)
        dataset = sound(run_dataset(run))
        parts = [one_seed(run, dataset, given.split, given.share, given.threshold, seed) for seed in range(given.seeds)]
        table = pd.concat(parts, ignore_index=True)
        table["before"] = table["sample"].map(image_scores(run, dataset, given.split))
        made = table[(table["before"] >= given.threshold) & (table["after"] < given.threshold)]
        crossed = pd.crosstab(made["kind"], made["cause"])
        right = made["cause"] == made["kind"].map(RIGHT)
        wrong = ~right & (made["cause"] != "unexplained")
        print(f"\n{name}, {given.split}: {len(table)} faults, {len(made)} made an image fail\n\n{crossed.to_string()}")
        print(
            f"\nright {right.mean():.1%}, unexplained {(made['cause'] == 'unexplained').mean():.1%}, wrong {wrong.mean():.1%}"
        )
        result[f"{name}/{given.split}"] = {
            "faults": len(table),
            "failed": len(made),
            "right": float(right.mean()),
            "wrong": float(wrong.mean()),
            "stated": {kind: row.to_dict() for kind, row in crossed.iterrows()},
        }
        if wrong.any():
            print(
                made[wrong][["sample", "kind", "severity", "seed", "after", "cause", "evidence"]].to_string(index=False)
            )
    runs.write_json(Path(given.out).resolve(), result)


if __name__ == "__main__":
    main()
