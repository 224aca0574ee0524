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
_SPLITS = {"train": ["train", "training"], "val": ["val"], "test": ["test", "testing", "../testing"]}
_MASKS = ("masks", "annotations", "labels")


def draft_dataset(folder: str | Path) -> str:
    """Draft the text of a dataset.yaml: the layout, and the ids or colours in up to 200 masks with their shares.

    Classes are called class_0, class_1, ... in the order of the stored ids (of the colours, by how much they cover);
    255 beside other ids than 0 is ignored. A DatasetError says that no layout is known, or too many values are found.
    """
    root, splits, masks = Path(folder), [], []
    for split, names in _SPLITS.items():
        sides = [(f"{name}/images", f"{name}/{mask}") for name in names for mask in _MASKS]
        sides += [(f"images/{name}", f"{mask}/{name}") for name in names for mask in _MASKS]
        sides += [(name, f"{name}annot") for name in names]
        found = ((pair, *(_pictures(root / side) for side in pair)) for pair in sides)
        for (images, truth), *files in (some for some in found if some[1] and some[2]):
            counts = f"{len(files[0])} images, {len(files[1])} masks"
            splits.append(f'  {split}: {{images: "{images}/**/*.*", masks: "{truth}/**/*.*"}}  # {counts}')
            masks += files[1]
            break
    if not splits:
        suggestion = "Move the files so, or write dataset.yaml by hand: data/README.md shows the form."
        raise DatasetError(f"{root} has none of the known layouts:\n{LAYOUTS}\n", "no-layout", suggestion)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._") or "dataset"
    head = "# A draft: name the classes, compare the counts with what you expect, then run 01_data_check."
    group = '# group: "(?P<group>.+)_(?P<frame>[0-9]+)$"  # file-name pattern of sequences, if there are any'
    classes = _classes(masks[:: -(-len(masks) // 200)])
    return "\n".join([head, f"name: {name}", *classes, "splits:", *splits, group, ""])


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def _classes(files: list[Path]) -> list[str]:
    """The lines of dataset.yaml from `classes` to `colors` or `id_map`."""
    pixels: Counter = Counter()  # by id, or by the 24 bits of a colour
    for file in files:
        stored = read_stored(file).astype(np.int64)
        color = stored.ndim == 3
        values, counts = np.unique(stored @ [65536, 256, 1] if color else stored, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(pixels) > IGNORE:
            detail = f"the masks hold more than {IGNORE} different values, {file.name} among them."
            suggestion = "Are they photographs, or smoothed by JPEG or by resizing? Export class ids as PNG."
            raise DatasetError(detail, "illegal-ids", suggestion)
    order, tail = [value for value in sorted(pixels) if value != IGNORE] or [0], []
    if color:
        order = [value for value, _ in pixels.most_common()]
        tail = [f"colors: {[[value >> 16, value >> 8 & 255, value & 255] for value in order]}"]
    elif max(order) < 2 * len(order) and set(pixels) != {0, IGNORE}:
        order = range(max(order) + 1)  # nearly all ids up to the highest: the others may be rare
    else:
        order = [0, IGNORE] if set(pixels) == {0, IGNORE} else order
        tail = [f"id_map: { {IGNORE: IGNORE} | {value: c for c, value in enumerate(order)} }  # 255: ignored"]
    shares = [f"{pixels[value] / pixels.total():.1%} of the pixels" for value in order]
    stored = [f"stored as {f'#{value:06x}' if color else value}" for value in order]
    lines = [f"  - class_{c}  # {stored[c]}: {share}" for c, share in enumerate(shares)]
    return ["classes:", *lines, *tail]
