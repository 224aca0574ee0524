"""CamVid's training part holds three drives: the configuration that leaves one of them out."""

import re
from pathlib import Path

import yaml

from seglib import runs

DRIVES = ("0001TP", "0006R0", "0016E5")


def config_without(drive: str, root: Path, base: Path) -> Path:
    """Write a dataset.yaml whose test split is one drive, and whose val is the last eighth of each other one."""
    values = yaml.safe_load(base.read_text(encoding="utf-8"))
    names = [path.stem for path in (root / "train").glob("*.png")]
    frames = {name: (name.split("_")[0], int(re.sub(r"\D", "", name.split("_")[1]))) for name in names}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for own in DRIVES:
        ordered = sorted((name for name in names if frames[name][0] == own), key=frames.__getitem__)
        cut = round(0.88 * len(ordered))
        splits["test" if own == drive else "train"] += ordered if own == drive else ordered[:cut]
        splits["val"] += [] if own == drive else ordered[cut:]
    files = {"images": "train/*.png", "masks": "trainannot/*.png"}
    values |= {"name": f"unseen_{drive}", "splits": {s: {"ids": ids} for s, ids in splits.items()}}
    values["splits"]["train"] |= files
    path = runs.resolve_path(f"artifacts/unseen_drive/{drive}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    return runs.write_text(path, yaml.safe_dump(values, sort_keys=False))
