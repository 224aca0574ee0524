"""A draft dataset.yaml from what a folder holds, for a person to complete."""

from __future__ import annotations

import json
import os
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
_TRAIN, _VAL, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing", "../testing")
_IMAGES, _MASKS = ("images", "image", "imgs"), ("masks", "mask", "annotations", "labels")


def draft_dataset(folder: str | Path) -> str:
    """Draft the text of a dataset.yaml: the layout, and the ids or colours in up to 200 masks with their shares.

    Classes are called class_0, class_1, ... in the order of the stored ids (of the colours, by how much they cover);
    masks of 0 and 255 alone become background and foreground; 255 beside other ids is ignored.

    Raises:
        DatasetError: no such folder; check "no-layout" if none of the known layouts is found, "illegal-ids" if the
            masks hold more values than there can be classes; what reading raises if a mask cannot be read.
    """
    root = Path(folder)
    found = {
        split: sides
        for split, names in (("train", _TRAIN), ("val", _VAL), ("test", _TEST))
        if (sides := _find(root, names))
    }
    if not found:
        suggestion = "Move the files so, or write dataset.yaml by hand: data/README.md shows the form."
        raise DatasetError(f"{root} has none of the known layouts:\n{LAYOUTS}\n", "no-layout", suggestion)
    splits, masks = [], []
    for split, sides in found.items():
        files = [_pictures(root / side) for side in sides]
        tails = _tails(*([file.stem for file in some] for some in files))
        globs = [
            json.dumps(_glob(root, *side), ensure_ascii=False)  # file names may hold quotes and line breaks
            for side in zip(sides, files, tails, strict=True)
        ]
        counts = f"{len(files[0])} images, {len(files[1])} masks"
        splits.append(f"  {split}: {{images: {globs[0]}, masks: {globs[1]}}}  # {counts}")
        masks += files[1]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._") or "dataset"
    lines = [
        "# A draft: name the classes, compare the counts with what you expect, then run 01_data_check.",
        f"name: {name}",
        *_classes(masks[:: -(-len(masks) // 200)]),
        "splits:",
        *splits,
        '# group: "(?P<group>.+)_(?P<frame>[0-9]+)$"  # file-name pattern of sequences, if there are any',
    ]
    return "\n".join(lines) + "\n"


def _find(root: Path, names: tuple[str, ...]) -> tuple[str, str] | None:
    """The folders of a split's images and masks, relative to `root`."""
    for name in names:
        pairs = [(f"{name}/{i}", f"{name}/{m}") for i in _IMAGES for m in _MASKS]
        if not name.startswith(".."):
            pairs += [(name, f"{name}annot")]
            pairs += [(f"{i}/{name}", f"{m}/{name}") for i in _IMAGES for m in _MASKS]
        for pair in pairs:
            if all(_pictures(root / side) for side in pair):
                return pair
    return None


def _pictures(folder: Path) -> list[Path]:
    files = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted(f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def _tails(*stems: list[str]) -> list[str]:
    """What all names of a side end in, such as "_leftImg8bit" and "_mask", where names only agree without it."""
    if set(stems[0]) & set(stems[1]):
        return ["", ""]
    ends = [os.path.commonprefix([stem[::-1] for stem in some])[::-1] for some in stems]  # noqa: RUF071
    return [end[match.start() :] if (match := re.search(r"[_.-]", end)) else "" for end in ends]


def _glob(root: Path, folder: str, files: list[Path], tail: str) -> str:
    endings = {file.suffix.lower() for file in files}
    deep = "**/" if any(file.parent != root / folder for file in files) else ""
    return f"{folder}/{deep}*{tail}{endings.pop() if len(endings) == 1 else '.*'}"


def _classes(files: list[Path]) -> list[str]:
    """The lines of dataset.yaml from `classes` to `id_map`."""
    pixels: Counter = Counter()  # by id or (r, g, b)
    images: Counter = Counter()
    for file in files:
        stored = read_stored(file)
        if stored.ndim == 3:
            codes = stored.astype(np.uint32) @ np.uint32([65536, 256, 1])
            codes, counts = np.unique(codes, return_counts=True)
            found = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
        else:
            codes, counts = np.unique(stored.astype(np.int64), return_counts=True)
            found = codes.tolist()
        pixels.update(dict(zip(found, counts.tolist(), strict=True)))
        images.update(found)
        if len(pixels) > IGNORE:
            detail = f"the masks hold more than {IGNORE} different values, {file.name} among them; expected one a class."
            suggestion = "Are they photographs, or smoothed by JPEG or by resizing? Export class ids as PNG."
            raise DatasetError(detail, "illegal-ids", suggestion)

    def line(name: str, value: int | tuple) -> str:
        shown = list(value) if isinstance(value, tuple) else value
        share = f"{pixels[value] / pixels.total():.1%} of the pixels"
        return f"  - {name}  # stored as {shown}: {share}, in {images[value]} of {len(files)} masks"

    if any(isinstance(value, tuple) for value in pixels):
        order = [value for value, _ in pixels.most_common() if isinstance(value, tuple)]
        colors = [f"  - {list(value)}  # class_{c}" for c, value in enumerate(order)]
        return ["classes:", *(line(f"class_{c}", value) for c, value in enumerate(order)), "colors:", *colors]
    if sorted(pixels) == [0, 255]:
        return ["classes:", line("background", 0), line("foreground", 255), "id_map: {0: 0, 255: 1}"]
    ids = [value for value in sorted(pixels) if value != IGNORE] or [0]
    if max(ids) < 2 * len(ids):  # nearly all ids up to the highest: the others may be rare
        return ["classes:", *(line(f"class_{value}", value) for value in range(max(ids) + 1))]
    mapped = [f"{value}: {c}" for c, value in enumerate(ids)] + ["255: 255"] * (IGNORE in pixels)
    classes = [line(f"class_{c}", value) for c, value in enumerate(ids)]
    return ["classes:", *classes, f"id_map: {{{', '.join(mapped)}}}  # stored id: class (255: ignored)"]
