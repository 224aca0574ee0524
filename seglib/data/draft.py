"""A draft dataset.yaml from what a folder holds, for a person to complete."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from seglib.data.classes import IGNORE
from seglib.data.image_io import SUFFIXES, DatasetError, read_stored

LAYOUTS = """\
  train/images  train/masks   val/images  val/masks   [test/... or ../testing/...]
  train         trainannot    val         valannot    [test  testannot]
  images/train  masks/train   images/val  masks/val   [images/test  masks/test]"""
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation"),
    "test": ("test", "testing", "../testing"),
}
_MASKS = ("masks", "annotations", "labels")


def draft_dataset(folder: str | Path) -> str:
    """Draft the text of a dataset.yaml: the layout, and the ids or colours in up to 200 masks with their shares.

    Classes are called class_0, class_1, ... in the order of the stored ids (of the colours, by how much they cover);
    masks of 0 and 255 alone become background and foreground; 255 beside other ids is ignored.

    Raises:
        DatasetError: check "no-layout" if none of the known layouts is found, "illegal-ids" if the masks hold more
            values than there can be classes; what reading raises if a mask cannot be read.
    """
    root, splits, masks = Path(folder), [], []
    for split, names in _SPLITS.items():
        sides = [(f"{name}/images", f"{name}/{mask}") for name in names for mask in _MASKS]
        sides += [(name, f"{name}annot") for name in names]
        sides += [(f"images/{name}", f"{mask}/{name}") for name in names for mask in _MASKS]
        for pair in sides:
            images, truth = (
                [f for f in (root / side).rglob("*") if f.suffix.lower() in SUFFIXES] for side in pair
            )
            if images and truth:
                globs = [
                    f'{key}: "{side}/**/*.*"' for key, side in zip(("images", "masks"), pair, strict=True)
                ]
                splits.append(
                    f"  {split}: {{{', '.join(globs)}}}  # {len(images)} images, {len(truth)} masks"
                )
                masks += sorted(truth)
                break
    if not splits:
        suggestion = "Move the files so, or write dataset.yaml by hand: data/README.md shows the form."
        raise DatasetError(f"{root} has none of the known layouts:\n{LAYOUTS}\n", "no-layout", suggestion)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._") or "dataset"
    head = "# A draft: name the classes, compare the counts with what you expect, then run 01_data_check."
    group = '# group: "(?P<group>.+)_(?P<frame>[0-9]+)$"  # file-name pattern of sequences, if there are any'
    return "\n".join(
        [head, f"name: {name}", *_classes(masks[:: -(-len(masks) // 200)]), "splits:", *splits, group, ""]
    )


def _classes(files: list[Path]) -> list[str]:
    """The lines of dataset.yaml from `classes` to `id_map`."""
    pixels: Counter = Counter()  # by id or (r, g, b)
    for file in files:
        stored = read_stored(file)
        values = stored.reshape(-1, 3) if stored.ndim == 3 else stored.astype(np.int64).ravel()
        found, counts = np.unique(values, axis=0, return_counts=True)
        found = map(tuple, found.tolist()) if stored.ndim == 3 else found.tolist()
        pixels.update(dict(zip(found, counts.tolist(), strict=True)))
        if len(pixels) > IGNORE:
            detail = f"the masks hold more than {IGNORE} different values, {file.name} among them; expected one a class."
            suggestion = "Are they photographs, or smoothed by JPEG or by resizing? Export class ids as PNG."
            raise DatasetError(detail, "illegal-ids", suggestion)
    colors = [list(value) for value, _ in pixels.most_common() if isinstance(value, tuple)]
    ids = [value for value in sorted(pixels) if value != IGNORE] if not colors else []
    names, tail = {}, []
    if colors:
        names = {f"class_{c}": tuple(value) for c, value in enumerate(colors)}
        tail = [f"colors: {colors}"]
    elif sorted(pixels) == [0, 255]:
        names, tail = {"background": 0, "foreground": 255}, ["id_map: {0: 0, 255: 1}"]
    elif max(ids, default=0) < 2 * max(
        1, len(ids)
    ):  # nearly all ids up to the highest: the others may be rare
        names = {f"class_{value}": value for value in range(max(ids, default=0) + 1)}
    else:
        names = {f"class_{c}": value for c, value in enumerate(ids)}
        tail = [
            f"id_map: {dict(zip(ids, range(len(ids)), strict=True)) | {255: 255}}  # stored id: class (255: ignored)"
        ]
    share = {name: f"{pixels[value] / pixels.total():.1%} of the pixels" for name, value in names.items()}
    return [
        "classes:",
        *(f"  - {name}  # stored as {value}: {share[name]}" for name, value in names.items()),
        *tail,
    ]
