"""Which settings help on a drive that training never saw? `python benchmarks/left_out_drives.py` prints a table, adds to a JSON.

CamVid's training part holds three drives. Each setting trains on two of them and is scored on the third: all three ways
round, for each seed. `now` is the training of params/camvid.yaml; each other setting changes what its name says.
A result that the JSON holds is not measured again, so that seeds and settings can be added one by one; the runs stay
in artifacts/runs/left_*.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
from pathlib import Path

import pandas as pd
from drives import DRIVES, config_without

from seglib import evaluate, runs, train
from seglib.params import Evaluate, Train, read_file
from seglib.runs import Run

NOW = read_file(runs.resolve_path("params/camvid.yaml"))
SCORED = {"": {}, "flip_tta": {"flip_tta": True}, "scale_tta 1.5": {"scale_tta": "1.5"}}
SCORED |= {"adapt_norm 0.5": {"adapt_norm": 0.5}}
SCORED |= {"all three": {"flip_tta": True, "scale_tta": "1.5", "adapt_norm": 0.5}}
SETTINGS: dict[str, dict] = {
    "now": {},
    "no focal loss": {"focal_weight": 0.0},
    "encoder at a tenth": {"encoder_lr_factor": 0.1},
    "encoder at full rate": {"encoder_lr_factor": 1.0},
    "scale 0.5 to 2": {"scale_min": 0.5, "scale_max": 2.0},
    "scale 1 to 2.5": {"scale_min": 1.0, "scale_max": 2.5},
    "strong colour": {"color": 0.6, "blur": 0.2, "noise": 0.2, "darkness": 0.2, "haze": 0.2},
    "rare crops": {"rare_crops": 0.5},
    "plain class weights": {"class_weights": "none"},
    "lite2": {"encoder": "timm-tf_efficientnet_lite2"},
    "FPN": {"architecture": "FPN"},
    "DeepLabV3+": {"architecture": "DeepLabV3Plus"},
}


def trained(setting: str, drive: str, seed: int, epochs: int, side: int) -> str:
    """Train a model that never sees the drive, unless it is there, and return the name of its run."""
    root, words = runs.resolve_path(NOW["dataset"]), re.sub(r"[^A-Za-z0-9.]+", "-", setting)
    name = f"left_{words}_{drive}_{seed}_{epochs}_{side}"
    history = Run(Run.folder(name)).history
    if history.exists() and len(pd.read_csv(history)) == epochs:
        return name
    shutil.rmtree(Run.folder(name), ignore_errors=True)  # of a training that was interrupted
    config = config_without(drive, root, runs.resolve_path(NOW["config"]))
    own = {key: value for key, value in NOW.items() if key in Train.model_fields}
    own |= {"run": name, "config": str(config), "epochs": epochs, "seed": seed, "long_side": side}
    own |= {"crop_height": side * 2 // 3 // 32 * 32, "crop_width": 16 * round(side * 13 / 15 / 16)}
    for part in setting.split(" + "):
        own |= SETTINGS[part]
    return train_run(own)


def train_run(own: dict) -> str:
    """Train as 02 does with its parameters, and return the name of the run."""
    params, dataset = train.open_dataset(Train(**own))
    run, model = train.start_run(params), train.build_model(params, dataset.classes)
    cached, val = train.open_splits(dataset, params)
    train.fit(run, model, cached, val, params, train.plan_training(params, model, cached))
    return run.name


def measure(name: str, way: str) -> dict:
    """Score the drive that was left out, predicted in one way."""
    run = Run.open(name)
    scored = evaluate.evaluate_run(Evaluate(run=name, split="test", **SCORED[way])).scores
    shutil.rmtree(run.evaluation("test"))
    minutes = pd.read_csv(run.history)["seconds"].sum() / 60
    return {"minutes": minutes, "miou": scored["mean_iou"], "worst_5": scored["mean_iou_image_worst_5"]}


def table(rows: list[dict]) -> pd.DataFrame:
    """Points of mean IoU above `now` on the same drives and seeds, and the mean IoU by drive."""
    every = pd.DataFrame(rows).assign(miou=lambda t: 100 * t["miou"])
    keys = ["side", "epochs", "drive", "seed"]
    base = every[(every["setting"] == "now") & (every["predicted"] == "")].set_index(keys)["miou"]
    every = every.join(base.rename("base"), on=keys).assign(gain=lambda t: t["miou"] - t["base"])
    ways = ["side", "epochs", "setting", "predicted"]
    found, drives = every.groupby(ways), every.pivot_table("miou", ways, "drive")
    means = found.agg(
        trainings=("miou", "size"), miou=("miou", "mean"), gain=("gain", "mean"), minutes=("minutes", "mean")
    )
    return means.join(drives).sort_values(["side", "epochs", "gain"]).round(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", nargs="+", default=list(SETTINGS), help="; names joined by ' + ' together"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--side", type=int, default=480, help="longer side of the images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/left_out_drives.json"))
    given = parser.parse_args()
    rows = read_file(given.out)["rows"] if given.out.exists() else []
    asked = itertools.product(given.seeds, given.settings, DRIVES)
    for seed, setting, drive in asked:
        key = {"setting": setting, "drive": drive, "seed": seed, "epochs": given.epochs, "side": given.side}
        for way in SCORED:
            if not any((key | {"predicted": way}).items() <= row.items() for row in rows):
                rows.append(key | {"predicted": way} | measure(trained(*key.values()), way))
                runs.write_json(given.out, {"rows": rows})
        print(table(rows).to_string(), flush=True)
    print(table(rows).to_string())


if __name__ == "__main__":
    main()
