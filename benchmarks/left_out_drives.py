"""Which settings help on a drive that training never saw? `python benchmarks/left_out_drives.py` prints a table, adds to a JSON.

CamVid's training part holds three drives. Each setting trains on two of them and is scored on the third: all three ways
round, for each seed. `now` is params/camvid.yaml at a smaller size; each other setting changes what its name says.
A result that the JSON holds is not measured again, so that seeds and settings can be added one by one.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import time
from pathlib import Path

import pandas as pd
from drives import DRIVES, config_without

from seglib import evaluate, runs, train
from seglib.params import Evaluate, Train, read_file
from seglib.runs import Run

NOW = read_file(runs.resolve_path("params/camvid.yaml"))
SIDE = 240
SCORED = {"": {}, "flip_tta": {"flip_tta": True}, "scale_tta 1.5": {"scale_tta": "1.5"}}
SETTINGS: dict[str, dict] = {
    "now": {},
    "no focal loss": {"focal_weight": 0.0},
    "encoder at a tenth": {"encoder_lr_factor": 0.1},
    "encoder at full rate": {"encoder_lr_factor": 1.0},
    "scale 0.5 to 2": {"scale_min": 0.5, "scale_max": 2.0},
    "strong colour": {"color": 0.6, "blur": 0.2, "noise": 0.2, "darkness": 0.2, "haze": 0.2},
    "rare crops": {"rare_crops": 0.5},
    "plain class weights": {"class_weights": "none"},
    "lite2": {"encoder": "timm-tf_efficientnet_lite2"},
    "FPN": {"architecture": "FPN"},
    "DeepLabV3+": {"architecture": "DeepLabV3Plus"},
}


def measure(setting: dict, drive: str, seed: int, epochs: int) -> list[dict]:
    """Train one model and score the drive that was left out, in each way to predict."""
    name, root = "left_out", runs.resolve_path(NOW["dataset"])
    shutil.rmtree(Run.folder(name), ignore_errors=True)
    config = config_without(drive, root, runs.resolve_path(NOW["config"]))
    own = {key: value for key, value in NOW.items() if key in Train.model_fields}
    own |= {"run": name, "config": str(config), "epochs": epochs, "seed": seed, "long_side": SIDE}
    params = Train(**(own | {"crop_height": 160, "crop_width": 208} | setting))
    params, dataset = train.open_dataset(params)
    run, model = train.start_run(params), train.build_model(params, dataset.classes)
    cached, val = train.open_splits(dataset, params)
    started = time.perf_counter()
    train.fit(run, model, cached, val, params, train.plan_training(params, model, cached))
    rows = [{"minutes": (time.perf_counter() - started) / 60}]
    for way, how in SCORED.items():
        scored = evaluate.evaluate_run(Evaluate(run=name, split="test", **how)).scores
        rows.append(
            {"predicted": way, "miou": scored["mean_iou"], "worst_5": scored["mean_iou_image_worst_5"]}
        )
        shutil.rmtree(run.evaluation("test"))
    return [rows[0] | row for row in rows[1:]]


def table(rows: list[dict]) -> pd.DataFrame:
    """Points of mean IoU above `now` on the same drives and seeds, and the mean IoU by drive."""
    every = pd.DataFrame(rows).assign(miou=lambda t: 100 * t["miou"])
    keys = ["epochs", "drive", "seed"]
    base = every[(every["setting"] == "now") & (every["predicted"] == "")].set_index(keys)["miou"]
    every = every.join(base.rename("base"), on=keys).assign(gain=lambda t: t["miou"] - t["base"])
    found = every.groupby(["epochs", "setting", "predicted"])
    drives = every.pivot_table("miou", ["epochs", "setting", "predicted"], "drive")
    means = found.agg(
        trainings=("miou", "size"), miou=("miou", "mean"), gain=("gain", "mean"), minutes=("minutes", "mean")
    )
    return means.join(drives).sort_values(["epochs", "gain"]).round(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", nargs="+", default=list(SETTINGS), help="; names joined by ' + ' together"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/left_out_drives.json"))
    given = parser.parse_args()
    rows = read_file(given.out)["rows"] if given.out.exists() else []
    for seed, setting, drive in itertools.product(given.seeds, given.settings, DRIVES):
        key = {"setting": setting, "drive": drive, "seed": seed, "epochs": given.epochs}
        if any(key.items() <= row.items() for row in rows):
            continue
        changed = {k: v for name in setting.split(" + ") for k, v in SETTINGS[name].items()}
        rows += [key | row for row in measure(changed, drive, seed, given.epochs)]
        runs.write_json(given.out, {"rows": rows})
        print(table(rows).to_string(), flush=True)
    print(table(rows).to_string())


if __name__ == "__main__":
    main()
