"""The demo dataset in data/demo, and its broken twin with a sample for each fault that a check of the data must find."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib.data.image_io import DatasetError
from seglib.runs import atomic_folder, project_root, read_table, resolve_path, write_text

_STREETS = {"ash": "train", "holly": "train", "linden": "val", "cherry": "test"}
_FAULTS = """\
sample,split,kind,detail
ash_0001,train,missing-mask,image without mask
ash_0003,train,missing-image,mask without image
ash_0005,train,unreadable,truncated image
ash_0007,train,empty-file,image of zero bytes
holly_0001,train,unreadable,text named .png
holly_0003,train,size-mismatch,mask of half the size
holly_0005,train,illegal-ids,ids 12 and 14
holly_0007,train,rgb-mask,mask in colours that nothing names
holly_0008,train,duplicate-stem,image as .png and .jpg
cherry_0002,test,all-ignored,mask without a valid pixel
cherry_0004,test,single-class,mask of nothing but sky
,train,not-an-image,"dashcam.mp4, a video by its name"
,val,class-not-in-split,person
"""


def ensure_demo(dataset: str | Path) -> None:
    """Say how to get data/demo if `dataset` is that and not there; make the broken twin if it is data/demo_broken."""
    path, data = resolve_path(dataset).resolve(), (project_root() / "data").resolve()
    if path == data / "demo" and not path.exists():
        detail = "the demo dataset, which comes with the repository, is not there."
        raise DatasetError(detail, "no-folder", "Restore it with `git checkout data/demo`.")
    if path == data / "demo_broken":
        make_broken(path)


def planted(folder: str | Path) -> pd.DataFrame:
    """Read planted.csv of a dataset with recorded faults; all cells are text, "" where empty."""
    return read_table(Path(folder) / "planted.csv")


def make_broken(folder: str | Path) -> Path:
    """Write the demo's broken twin into `folder`: sound samples, and one for each fault. One that is there stays.

    planted.csv lists the faults; `kind` is the check that finds the fault, an empty `sample` stands for its whole split.
    """
    folder, demo = Path(folder), project_root() / "data" / "demo"
    if (folder / "planted.csv").exists():
        return folder
    with atomic_folder(folder) as new:
        for street, split in _STREETS.items():
            source = demo / ("val" if split == "val" else "train")
            for path in sorted(source.glob(f"*/{street}_000[0-8].png")):
                target = new / split / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        _break_images(new / "train")
        _break_masks(new)
        text = (demo / "dataset.yaml").read_text(encoding="utf-8")
        text = text.replace("name: demo", "name: demo_broken").replace("*.png", "*")
        lines = [line for line in text.splitlines() if not line.startswith("colors:")]
        write_text(new / "dataset.yaml", "\n".join(lines) + "\n")  # without colours, an RGB mask is a fault
        write_text(new / "planted.csv", _FAULTS)
    return folder


def _break_images(train: Path) -> None:
    images = train / "images"
    (train / "masks" / "ash_0001.png").unlink()
    (images / "ash_0003.png").unlink()
    half = (images / "ash_0005.png").read_bytes()[:2000]
    texts = {"ash_0005.png": half, "ash_0007.png": b"", "holly_0001.png": b"A note.", "dashcam.mp4": bytes(9)}
    for name, text in texts.items():
        (images / name).write_bytes(text)
    with Image.open(images / "holly_0008.png") as image:
        image.save(images / "holly_0008.jpg")


def _break_masks(folder: Path) -> None:
    changes = {
        "train/masks/holly_0003.png": lambda ids: ids[::2, ::2],
        "train/masks/holly_0005.png": lambda ids: np.array([0, 12, 2, 3, 4, 14, 6, 7, 8])[ids],
        "train/masks/holly_0007.png": lambda ids: np.stack([ids * 28, 255 - ids * 25, ids * 9], axis=2),
        "test/masks/cherry_0002.png": lambda ids: np.full_like(ids, 8),
        "test/masks/cherry_0004.png": np.zeros_like,
    }
    for path in (folder / "val" / "masks").iterdir():  # no person in val: labelled as pavement
        changes[f"val/masks/{path.name}"] = lambda ids: np.where(ids == 6, 3, ids)
    for path, change in changes.items():
        with Image.open(folder / path) as mask:
            changed, palette = Image.fromarray(change(np.array(mask)).astype(np.uint8)), mask.getpalette()
        if changed.mode == "L":
            changed.putpalette(palette)
        changed.save(folder / path)
