"""Does it pay to label what `seglib label-next` lists? `python benchmarks/label_next.py` prints a table and writes JSON.

The demo with sound masks. For each seed a model learns from all frames of a few training streets; the frames of the others are the
unlabelled pool. Three ways choose the same number of them: the list, the least confident images by that model, and chance. With
each choice the same training is done again, on the first images and the chosen ones, and is scored on the sound test split. Differences
are to chance, over the seeds; with three of them no interval would mean much, so all values are printed.

`--camvid` does the same on CamVid at half its size: the first half of every drive is labelled at first, the second half is the pool,
and val, on which the best epoch is chosen too, is scored.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from closing_the_loop import sound_demo

from seglib import runs, train
from seglib.data import load_dataset
from seglib.evaluate import evaluate_run, open_evaluation
from seglib.failures import label_next, predict_folder
from seglib.params import Evaluate, Train, read_file
from seglib.runs import Run

CAMVID = read_file(runs.resolve_path("params/camvid.yaml")) | {"crop_height": 160, "crop_width": 208}
CAMVID = {k: v for k, v in CAMVID.items() if k in Train.model_fields} | {"long_side": 240}


def trained(name: str, root: Path, left_out: list[str], given: argparse.Namespace, seed: int) -> Run:
    """Train on the training images that are not left out, and evaluate on val and the split that is scored."""
    config = root.parent / f"{name}.yaml"
    lies = runs.resolve_path(CAMVID["config"]) if given.camvid else root / "dataset.yaml"
    settings = yaml.safe_load(lies.read_text(encoding="utf-8"))
    runs.write_text(config, yaml.safe_dump(settings | {"exclude": left_out}))
    own = {"run": name, "dataset": str(root), "config": str(config), "replace": name}
    values = (CAMVID if given.camvid else {}) | own | {"epochs": given.epochs, "seed": seed}
    params, dataset = train.open_dataset(Train.check(values))
    run, model = train.start_run(params), train.build_model(params, dataset.classes)
    splits = train.open_splits(dataset, params)
    train.fit(run, model, *splits, params, train.make_plan(params.device, params.precision))
    for split in {"val", given.scored}:
        evaluate_run(Evaluate(run=name, split=split))
    return run


def choices(run: Run, images: Path, out: Path, count: int, seed: int) -> dict[str, list[str]]:
    """The images that each way chooses."""
    for folder in ("list", "confidence"):
        shutil.rmtree(out / folder, ignore_errors=True)
    listed = label_next(open_evaluation(run, "val"), images, out / "list", count)["id"].tolist()
    table = predict_folder(run, images, out / "confidence").table
    chance = np.random.default_rng(seed).permutation(table["id"])[:count].tolist()
    return {
        "list": listed,
        "confidence": table.nsmallest(count, "confidence")["id"].tolist(),
        "chance": chance,
    }


def labelled_first(
    samples: pd.DataFrame, given: argparse.Namespace, random: np.random.Generator
) -> pd.Series:
    """Which samples are labelled at first: those of a few streets, or the first half of every drive."""
    if given.camvid:
        return samples.groupby("group")["frame"].rank(pct=True) <= 0.5
    return samples["group"].isin(random.permutation(sorted(set(samples["group"])))[: given.streets])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--streets", type=int, default=3, help="whose frames are labelled at first")
    parser.add_argument("--count", type=int, default=24, help="images that each way may choose")
    parser.add_argument(
        "--pool", type=int, default=0, help="frames in the pool at most; 0: all, fewer to try it out"
    )
    parser.add_argument("--camvid", action="store_true", help="CamVid in place of the demo")
    parser.add_argument("--out", default="benchmarks/label_next.json", help="the JSON file")
    given = parser.parse_args()
    given.scored = "val" if given.camvid else "test"
    root = runs.resolve_path(CAMVID["dataset"]) if given.camvid else sound_demo()
    work, rows = runs.project_root() / "artifacts" / "label_next", []
    samples = load_dataset(root, CAMVID["config"] if given.camvid else "").split("train")
    for seed in range(given.seeds):
        random = np.random.default_rng(seed)
        pool = samples[~labelled_first(samples, given, random)]
        others = set(pool["id"])
        pool = pool.sample(min(given.pool or len(pool), len(pool)), random_state=seed)
        images = work / f"pool{seed}"
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True)
        for path in pool["image"]:
            shutil.copy(root / path, images)
        start = trained(f"label_next_start{seed}", root, sorted(others), given, seed)
        for way, chosen in choices(start, images, work / f"seed{seed}", given.count, seed).items():
            run = trained(f"label_next_{way}{seed}", root, sorted(others - set(chosen)), given, seed)
            scores, before = (open_evaluation(r, given.scored).scores for r in (run, start))
            names = ("mean_iou", "mean_iou_image", "mean_iou_class")
            row = {"seed": seed, "way": way, "images": len(chosen), "before": before["mean_iou"]}
            streets = samples.loc[samples["id"].isin(chosen), "group"].nunique()
            rows.append(row | {"streets": streets} | {name: scores[name] for name in names})
            print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)
    table = pd.DataFrame(rows).pivot(index="seed", columns="way", values="mean_iou")
    gain = table.sub(table["chance"], axis=0).drop(columns="chance")
    print(
        f"\nmean IoU above that of chance, by seed:\n{gain.round(4).to_string()}\nmean: {gain.mean().round(4).to_dict()}"
    )
    about = {
        "environment": runs.environment(),
        "settings": vars(given),
        "rows": rows,
        "gain": gain.to_dict("list"),
    }
    runs.write_json(Path(given.out).resolve(), about)


if __name__ == "__main__":
    main()
