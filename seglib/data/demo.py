"""The demo dataset in data/demo, and its broken twin with a sample for each fault that a check of the data must find."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib.data.image_io import DatasetError
from seglib.runs import atomic_folder, project_root, resolve_path, write_text

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
        suggestion = "Restore it with `git checkout data/demo`, or `python benchmarks/demo_painter/paint.py data/demo`."
        raise DatasetError(
            "the demo dataset, which comes with the repository, is not there.", "no-folder", suggestion
        )
    if path == data / "demo_broken":
        make_broken(path)


def planted(folder: str | Path) -> pd.DataFrame:
    """Read planted.csv of a dataset with recorded faults; all cells are text, "" where empty."""
    return pd.read_csv(Path(folder) / "planted.csv", dtype=str, keep_default_na=False)


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
        _break(new)
        text = (demo / "dataset.yaml").read_text(encoding="utf-8")
        text = text.replace("name: demo", "name: demo_broken").replace("*.png", "*")
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("colors:"))
        write_text(new / "dataset.yaml", text)  # without colours, an RGB mask is a fault
        write_text(new / "planted.csv", _FAULTS)
    return folder


def _break(folder: Path) -> None:
    images, masks = folder / "train" / "images", folder / "train" / "masks"
    (masks / "ash_0001.png").unlink()
    (images / "ash_0003.png").unlink()
    whole = (images / "ash_0005.png").read_bytes()
    (images / "ash_0005.png").write_bytes(whole[: len(whole) // 2])
    (images / "ash_0007.png").write_bytes(b"")
    (images / "holly_0001.png").write_bytes(b"Not an image: a note.\n")
    (images / "dashcam.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(1024))
    with Image.open(images / "holly_0008.png") as image:
        image.save(images / "holly_0008.jpg")
    changes = {
        masks / "holly_0003.png": lambda ids: ids[::2, ::2],
        masks / "holly_0005.png": lambda ids: np.array([0, 12, 2, 3, 4, 14, 6, 7, 8])[ids],
        masks / "holly_0007.png": lambda ids: np.stack([ids * 28, 255 - ids * 25, ids * 9], axis=2),
        folder / "test" / "masks" / "cherry_0002.png": lambda ids: np.full_like(ids, 8),
        folder / "test" / "masks" / "cherry_0004.png": np.zeros_like,
    }
    for path in (folder / "val" / "masks").iterdir():  # no person in val: labelled as pavement
        changes[path] = lambda ids: np.where(ids == 6, 3, ids)
    for path, change in changes.items():
        with Image.open(path) as mask:
            ids, palette = np.array(mask), mask.getpalette()
        changed = Image.fromarray(change(ids).astype(np.uint8))
        if changed.mode == "L":
            changed.putpalette(palette)
        changed.save(path)
