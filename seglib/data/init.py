"""A draft dataset.yaml from what a folder holds, for a person to complete."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from seglib.data.classes import IGNORE
from seglib.data.image_io import SUFFIXES, DatasetError, read_stored

LAYOUTS = """\
  train/images  train/masks   val/images  val/masks   [test/... or ../testing/...]
  train         trainannot    val         valannot    [test  testannot]
  images/train  masks/train   images/val  masks/val   [images/test  masks/test]"""
SAMPLE = 200  # masks that are opened
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "../testing"),
}
_IMAGES, _MASKS = ("images", "image", "imgs"), ("masks", "mask", "annotations", "labels")


def draft_dataset(folder: str | Path) -> str:
    """The text of a dataset.yaml for `folder`: its layout, the ids or colours in its masks, and how many of each.

    Classes are named class_0, class_1, ... in the order of the stored ids (of the colours, by how much they cover);
    masks of 0 and 255 alone become background and foreground; 255 beside other ids is ignored.

    Args:
        folder: the dataset's folder.

    Raises:
        DatasetError: no such folder; check "no-layout" if none of the known layouts is found, "illegal-ids" if the masks
            hold more values than there can be classes; whatever reading raises if no mask at all can be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(
            f"no folder {root.absolute()}; expected one of images and masks.", "no-folder", "Check the path."
        )
    found = {split: pair for split, names in _SPLITS.items() if (pair := _find(root, names))}
    if not found:
        raise DatasetError(
            f"{root} has none of the known layouts:\n{LAYOUTS}\n",
            "no-layout",
            "Move the files so, or write dataset.yaml by hand: data/README.md shows the form.",
        )
    splits, masks = [], []
    for split, (image_folder, mask_folder) in found.items():
        image_files, mask_files = _pictures(root / image_folder), _pictures(root / mask_folder)
        tails = _tails(image_files, mask_files)
        globs = [
            _glob(root, *side) for side in ((image_folder, image_files, tails[0]), (mask_folder, mask_files, tails[1]))
        ]
        counts = f"{len(image_files)} images, {len(mask_files)} masks"
        quoted = [json.dumps(glob, ensure_ascii=False) for glob in globs]  # file names may hold quotes and line breaks
        splits.append(f"  {split}: {{images: {quoted[0]}, masks: {quoted[1]}}}  # {counts}")
        masks += mask_files
    opened = min(SAMPLE, len(masks))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._") or "dataset"
    return "\n".join(
        (
            "# A draft: give the classes their names, compare the counts with what you expect, then run 01_data_check.",
            f"name: {name}",
            *_classes([masks[k * len(masks) // opened] for k in range(opened)]),
            "splits:",
            *splits,
            '# group: "(?P<group>.+)_(?P<frame>[0-9]+)$"  # file-name pattern of sequences, if there are any',
            "# exclude: []  # ids of samples to leave out",
            "",
        )
    )


def _find(root: Path, names: Iterable[str]) -> tuple[str, str] | None:
    """The folders of a split's images and masks, relative to `root`."""
    for n in names:
        pairs = [(f"{n}/{i}", f"{n}/{m}") for i in _IMAGES for m in _MASKS]
        if not n.startswith(".."):
            pairs += [(n, f"{n}annot"), *((f"{i}/{n}", f"{m}/{n}") for i in _IMAGES for m in _MASKS)]
        for pair in pairs:
            if all(_pictures(root / folder) for folder in pair):
                return pair
    return None


def _pictures(folder: Path) -> list[Path]:
    files = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted(f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def _tails(images: list[Path], masks: list[Path]) -> tuple[str, str]:
    """What all image names and all mask names end in, where only without it they agree: "_leftImg8bit" and "_mask"."""
    stems = [[f.stem for f in side] for side in (images, masks)]
    if len(set(stems[0]) & set(stems[1])) * 2 >= min(map(len, stems)):
        return "", ""
    return _common_end(stems[0]), _common_end(stems[1])


def _common_end(stems: list[str]) -> str:
    end = min(stems, key=len)
    while not all(stem.endswith(end) for stem in stems):
        end = end[1:]
    start = re.search(r"[_.-]", end)  # the digits before it may agree by chance
    return end[start.start() :] if start else ""


def _glob(root: Path, folder: str, files: list[Path], tail: str) -> str:
    endings = {f.suffix.lower() for f in files}
    deep = "**/" if any(f.parent != root / folder for f in files) else ""
    return f"{folder}/{deep}*{tail}{endings.pop() if len(endings) == 1 else '.*'}"


def _classes(files: list[Path]) -> list[str]:
    """The lines of dataset.yaml from `classes` to `id_map`."""
    pixels: Counter = Counter()  # by id, or by (r, g, b)
    images: Counter = Counter()
    unreadable = []
    for file in files:
        try:
            stored = read_stored(file)
        except DatasetError as error:
            unreadable.append(error)
            continue
        if stored.ndim == 3 and (stored == stored[..., :1]).all():
            stored = stored[..., 0]  # one channel of ids saved as RGB, or a colour mask of grey colours
        if stored.ndim == 3:
            codes, counts = np.unique(
                stored.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32), return_counts=True
            )
            values = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in codes]
        else:
            values, counts = np.unique(stored.astype(np.int64), return_counts=True)
            values = [int(v) for v in values]
        pixels.update(dict(zip(values, counts.tolist(), strict=True)))
        images.update(values)
        if len(pixels) > IGNORE:
            raise DatasetError(
                f"the masks hold more than {IGNORE} different values, {file.name} among them; expected one a class.",
                "illegal-ids",
                "Are they photographs, or smoothed by JPEG or by resizing? Export class ids as PNG.",
            )
    read = len(files) - len(unreadable)
    if not read:
        raise unreadable[0]
    colors = any(isinstance(v, tuple) for v in pixels)
    if colors:  # then the one-channel values are greys
        pixels, images = _as_colors(pixels), _as_colors(images)
    total = sum(pixels.values())

    def share(value: int | tuple) -> str:
        stored = f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else value
        return f"stored as {stored}: {pixels[value] / total:.1%} of the pixels, in {images[value]} of {read} masks"

    lines = []
    if unreadable:
        lines.append(
            f"# {len(unreadable)} of {len(files)} masks cannot be read: {' '.join(unreadable[0].detail.split())}"
        )
    if colors:
        order = sorted(pixels, key=lambda v: (-pixels[v], v))
        lines += ["classes:", *(f"  - class_{c}  # {share(v)}" for c, v in enumerate(order))]
        lines += ["colors:  # black is not scored if you take it out, and its class"]
        return [*lines, *(f"  - [{', '.join(map(str, v))}]  # class_{c}" for c, v in enumerate(order))]
    ids = sorted(pixels)
    if ids == [0, 255]:
        names = [f"  - background  # {share(0)}", f"  - foreground  # {share(255)}"]
        return [*lines, "classes:", *names, "id_map: {0: 0, 255: 1}"]
    scored = [v for v in ids if v != IGNORE]
    ignored = [f"# {share(IGNORE)}: not scored"] * (IGNORE in pixels)
    if not scored or max(scored) < 2 * len(scored):  # nearly all ids up to the highest: the others may be rare
        named = range(max(scored, default=0) + 1)
        lines += [
            "classes:",
            *(f"  - class_{v}  # {share(v) if v in pixels else 'in no mask that was opened'}" for v in named),
        ]
        return [*lines, *ignored, "# ignore_ids: []  # stored ids that are not scored"]
    lines += ["classes:", *(f"  - class_{c}  # {share(v)}" for c, v in enumerate(scored)), *ignored]
    mapped = [*enumerate(scored), *([(IGNORE, IGNORE)] if IGNORE in pixels else [])]
    return [*lines, f"id_map: {{{', '.join(f'{v}: {c}' for c, v in mapped)}}}  # stored id: class (255: not scored)"]


def _as_colors(counts: Counter) -> Counter:
    out: Counter = Counter()
    for value, count in counts.items():
        out[value if isinstance(value, tuple) else (value, value, value)] += count
    return out
