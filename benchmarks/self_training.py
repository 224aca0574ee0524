"""Does a model gain from its own predictions on unlabelled images of another drive? `python benchmarks/self_training.py`

As docs/training.md says: a model of two of CamVid's training drives predicts the third (`seglib predict --adapt-norm 0.5`),
and trains on for some epochs with these masks beside its own ("predicted"), or with its own alone ("longer"). The drive's
true masks only score it. Prints a table, writes a JSON; what it holds of other drives and sizes stays.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd
import yaml
from drives import DRIVES, config_without
from left_out_drives import NOW, SCORED, train_run, trained

from seglib import data, evaluate, failures, runs
from seglib.params import Evaluate, Train, read_file
from seglib.runs import Run

ROOT = runs.resolve_path(NOW["dataset"])
MORE = {"epochs": 6, "learning_rate": 3e-4, "warmup_epochs": 0.5}


def with_predictions(run: Run, config: Path) -> Path:
    """Make a dataset of the run's training images and, with predicted masks, the images of the drive that was left out."""
    dataset, folder = data.load_dataset(ROOT, config), config.with_name(f"{run.name}_predicted")
    shutil.rmtree(folder, ignore_errors=True)
    for split in ("train", "val", "test"):
        for row in dataset.split(split).itertuples():
            for side, source in {"images": row.image, "masks": row.mask}.items():
                target = folder / split / side / f"{row.id}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / source, target)
    failures.predict_folder(run, folder / "test" / "images", folder / "predicted", share=0.5, progress=True)
    for path in (folder / "predicted" / "masks").glob("*.png"):
        shutil.copyfile(path, folder / "train" / "masks" / path.name)
        shutil.copyfile(folder / "test" / "images" / path.name, folder / "train" / "images" / path.name)
    splits = {s: {k: f"{s}/{k}/*.png" for k in ("images", "masks")} for s in ("train", "val")}
    values = read_file(config) | {"name": folder.name, "splits": splits}
    runs.write_text(folder / "dataset.yaml", yaml.safe_dump(values, sort_keys=False))
    return folder


def train_on(run: Run, what: str, changed: dict) -> str:
    """Train the run's model on, with its own dataset if none is `changed`; return the new run's name."""
    name, values = f"{run.name}_{what}", runs.read_json(run.params)
    shutil.rmtree(Run.folder(name), ignore_errors=True)
    own = {key: value for key, value in values.items() if key in Train.model_fields} | MORE
    return train_run(own | {"run": name, "encoder_weights": str(run.best_checkpoint)} | changed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drives", nargs="+", default=DRIVES)
    parser.add_argument("--epochs", type=int, default=30, help="of the first training")
    parser.add_argument("--side", type=int, default=480, help="longer side of the images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/self_training.json"))
    given = parser.parse_args()
    rows = read_file(given.out)["rows"] if given.out.exists() else []
    for drive in given.drives:
        asked = {"drive": drive, "epochs": given.epochs, "side": given.side}
        rows = [row for row in rows if not asked.items() <= row.items()]
        run = Run.open(trained("now", drive, 0, given.epochs, given.side))
        config = config_without(drive, ROOT, runs.resolve_path(NOW["config"]))
        where, more = {"dataset": str(ROOT), "config": str(config)}, {"config": ""}
        more["dataset"] = str(with_predictions(run, config))
        models = {"before": {"run": run.name}, "longer": {"run": train_on(run, "longer", {})}}
        models["predicted"] = {"run": train_on(run, "predicted", more), **where}
        for way, how in SCORED.items():
            for model, scored in models.items():
                found = evaluate.evaluate_run(Evaluate(split="test", **scored, **how))
                rows.append(asked | {"predicted": way, "model": model, "miou": found.scores["mean_iou"]})
                shutil.rmtree(found.run.evaluation(found.name))
            runs.write_json(given.out, {"rows": rows})
    table = pd.DataFrame(rows).assign(miou=lambda t: 100 * t["miou"])
    columns = ["drive", "model"]
    print(table.pivot_table("miou", ["side", "epochs", "predicted"], columns).round(1).to_string())


if __name__ == "__main__":
    main()
