"""Paint the demo dataset: `python benchmarks/demo_painter/paint.py OUT` makes data/demo again, pixel for pixel.

The plan of streets and faults, and how each fault gets into the images and masks. What the folder holds:
dataset.yaml; {train,val,test}/{images,masks}/<sequence>_<frame>.png, 96 x 128 pixels, masks as palette PNGs;
clean_masks/<sample>.png, the correct masks of samples with a label fault; planted.csv, one row a fault.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from canvas import Frame, bell
from PIL import Image
from scenes import CLASSES, HEIGHT, UNSCORED, WIDTH, Street, build_street
from scipy import ndimage
from things import render

from seglib.data import ClassMap
from seglib.data.inject import LEVELS, degrade
from seglib.runs import atomic_folder, write_csv, write_text

_COLORS = (
    (86, 180, 233), (221, 204, 119), (105, 105, 115), (204, 121, 167),
    (0, 158, 115), (0, 114, 178), (213, 94, 0), (136, 34, 85),
)  # fmt: skip
_MAP = ClassMap(CLASSES, np.array(_COLORS), (UNSCORED,))

_Plan = tuple[tuple[str, int, str, int, str, str, dict[str, Any]], ...]
# split, frames, and of each street: name, seed, style, weather, options
_STREETS: _Plan = (
    ("train", 13, "alder", 1, "terrace", "sunny", {"people": 9}),
    ("train", 13, "ash", 2, "suburb", "sunny", {"people": 10, "signs": 4}),
    ("train", 13, "aspen", 3, "centre", "sunny", {"people": 11}),
    ("train", 13, "beech", 4, "avenue", "overcast", {"people": 9}),
    ("train", 13, "birch", 5, "terrace", "overcast", {"people": 10}),
    ("train", 13, "cedar", 6, "suburb", "overcast", {"people": 9}),
    ("train", 13, "cherry", 7, "centre", "rain", {"people": 10, "signs": 4}),
    ("train", 13, "elm", 8, "avenue", "rain", {"people": 9}),
    ("train", 13, "fir", 9, "suburb", "fog", {"people": 10}),
    ("train", 13, "hazel", 10, "terrace", "fog", {"people": 9}),
    ("train", 13, "holly", 11, "centre", "dusk", {"people": 10}),
    ("train", 13, "larch", 12, "avenue", "dusk", {"people": 10, "signs": 4}),
    ("val", 10, "linden", 13, "suburb", "sunny", {"people": 10, "signs": 4}),
    ("val", 10, "maple", 14, "avenue", "overcast", {"people": 9}),
    ("val", 10, "oak", 15, "terrace", "rain", {"people": 10, "signs": 4}),
    ("val", 9, "olive", 16, "centre", "dusk", {"people": 9}),
    ("test", 11, "pine", 17, "avenue", "sunny", {"people": 10, "signs": 3}),
    ("test", 11, "plane", 18, "suburb", "overcast", {"people": 0, "far": ("person", -3.0, 44.0)}),
    ("test", 11, "poplar", 19, "centre", "rain", {"people": 10}),
    ("test", 11, "rowan", 20, "terrace", "fog", {"people": 9}),
    ("test", 11, "willow", 21, "suburb", "dusk", {"people": 10, "signs": 4}),
    ("test", 6, "yew", 22, "avenue", "night", {"people": 10, "signs": 4}),
)  # fmt: skip

# sample, kind, arguments: (class, class, where), (class,), (dx, dy) in pixels or (the sample whose mask it gets)
_LABEL_FAULTS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("ash_0005", "missing_object", ("car",)),
    ("beech_0008", "shifted_mask", (8, 3)),
    ("cedar_0006", "swapped_classes", ("tree", "building", "everywhere")),
    ("elm_0004", "wrong_mask", ("hazel_0003",)),
    ("larch_0003", "swapped_classes", ("car", "person", "one thing")),
    ("maple_0004", "missing_object", ("person",)),
    ("oak_0007", "swapped_classes", ("car", "person", "one thing")),
    ("pine_0001", "missing_object", ("sign",)),
    ("pine_0003", "swapped_classes", ("tree", "building", "everywhere")),
    ("pine_0007", "shifted_mask", (9, 0)),
    ("plane_0004", "missing_object", ("car",)),
    ("plane_0008", "swapped_classes", ("car", "person", "one thing")),
    ("plane_0010", "wrong_mask", ("pine_0004",)),
    ("poplar_0001", "swapped_classes", ("person", "car", "everywhere")),
    ("poplar_0006", "shifted_mask", (-7, 4)),
    ("rowan_0005", "wrong_mask", ("willow_0003",)),
    ("rowan_0010", "shifted_mask", (12, -3)),
    ("willow_0006", "missing_object", ("car",)),
    ("willow_0008", "wrong_mask", ("poplar_0009",)),
)
_DEGRADED = (
    ("pine_0009", "blur", 1), ("willow_0010", "blur", 2), ("poplar_0008", "blur", 3),
    ("poplar_0004", "noise", 1), ("rowan_0002", "noise", 2), ("pine_0005", "noise", 3),
    ("plane_0002", "dark", 1), ("poplar_0003", "dark", 2), ("willow_0002", "dark", 3),
    ("rowan_0008", "washed_out", 1), ("plane_0001", "washed_out", 2), ("willow_0000", "washed_out", 3),
)  # fmt: skip
_FAR = ("plane_0003", "plane_0006", "plane_0009")  # the frames in which a street's `far` thing is there
_COPIES = (
    ("stray_0000", "test", "cedar_0004"),
    ("stray_0001", "test", "fir_0007"),
    ("stray_0002", "val", "larch_0006"),
)


def _draw(streets: _Plan) -> dict[str, tuple[str, Street, int, Frame]]:
    """sample -> split, street, frame number, frame."""
    drawn = {}
    for split, count, name, seed, style, weather, options in streets:
        street = build_street(seed, style, weather, **options)
        far = tuple(k for k, thing in enumerate(street.things) if thing.keep)
        for number in range(count):
            sample = f"{name}_{number:04d}"
            drawn[sample] = (split, street, number, render(street, number, () if sample in _FAR else far))
    return drawn


def write_demo(folder: Path) -> None:
    """Write the demo into an empty folder."""
    drawn = _draw(_STREETS)
    rows: list[tuple[str, ...]] = []
    masks = {sample: frame.mask for sample, (_, _, _, frame) in drawn.items()}
    images = {sample: frame.image for sample, (_, _, _, frame) in drawn.items()}
    splits = {sample: split for sample, (split, _, _, _) in drawn.items()}
    stored = dict(masks)
    for sample, kind, arguments in _LABEL_FAULTS:
        stored[sample], detail = _spoil_mask(kind, arguments, drawn[sample], masks)
        changed = stored[sample] != masks[sample]
        share = np.count_nonzero(changed) / np.count_nonzero(masks[sample] != UNSCORED)
        level = LEVELS[int(share > 0.02) + int(share > 0.1)]
        whole = kind in ("shifted_mask", "wrong_mask")
        box, detail = "" if whole else _box(changed), f"{detail}; changed {share:.3f}"
        rows.append((sample, splits[sample], kind, level, box, detail))
        _save(folder / "clean_masks" / f"{sample}.png", masks[sample], palette=True)
    for sample, kind, level in _DEGRADED:
        grain = bell(7000 + len(rows), images[sample].shape)
        image = images[sample]
        images[sample] = (
            _blur(image, (1, 2, 4)[level - 1]) if kind == "blur" else degrade(image, kind, level, grain)
        )
        rows.append((sample, splits[sample], kind, LEVELS[level - 1], "", ""))
    for sample in _FAR:
        _, street, _, frame = drawn[sample]
        where = frame.things == next(k for k, thing in enumerate(street.things) if thing.keep)
        name = CLASSES[frame.mask[where][0]]
        rows.append(
            (sample, splits[sample], "far_tiny", "moderate", _box(where), f"{name}; pixels {where.sum()}")
        )
    for sample, (split, street, _, _) in drawn.items():
        if street.weather == "night":
            rows.append((sample, split, "unseen_condition", "severe", "", "night; never in train"))
    for number, (sample, split, source) in enumerate(_COPIES):
        images[sample] = _rounded(images[source] + 2.0 * bell(9000 + number, images[source].shape))
        stored[sample], splits[sample] = masks[source], split
        rows.append((sample, split, "near_duplicate", "severe", "", f"of {source} in train"))
    train = [sample for sample, split in splits.items() if split == "train"]
    holding = sum(bool((masks[sample] == CLASSES.index("sign")).any()) for sample in train)
    rows.append(("", "train", "rare_class", "moderate", "", f"sign; in {holding} of {len(train)} images"))
    for sample, split in splits.items():
        _save(folder / split / "images" / f"{sample}.png", images[sample])
        _save(folder / split / "masks" / f"{sample}.png", stored[sample], palette=True)
    _write_tables(folder, rows)


def _spoil_mask(
    kind: str, arguments: tuple[Any, ...], drawn: tuple[str, Street, int, Frame], masks: dict[str, np.ndarray]
) -> tuple[np.ndarray, str]:
    """A mask with one label fault, and the words for planted.csv."""
    _, street, number, frame = drawn
    if kind == "wrong_mask":
        return masks[arguments[0]], f"mask of {arguments[0]}"
    if kind == "shifted_mask":
        # The unscored band stays: it belongs to the camera, so a slipped annotation would not move it.
        dx, dy = arguments
        rows = np.clip(np.arange(HEIGHT) - dy, 0, HEIGHT - 1)[:, None]
        moved = frame.mask[rows, np.clip(np.arange(WIDTH) - dx, 0, WIDTH - 1)[None, :]]
        moved = np.where(moved == UNSCORED, CLASSES.index("road"), moved)
        return np.where(frame.mask == UNSCORED, UNSCORED, moved).astype(np.uint8), f"dx {dx}; dy {dy}"
    first = CLASSES.index(arguments[0])
    inside = (frame.mask == first) & (frame.things >= 0)
    largest = int(np.bincount(frame.things[inside]).argmax())
    inside &= frame.things == largest
    if kind == "missing_object":
        without = render(street, number, (largest,)).mask
        return np.where(inside, without, frame.mask), f"{arguments[0]} left out"
    second, where = CLASSES.index(arguments[1]), arguments[2]
    if where == "one thing":
        return np.where(inside, second, frame.mask).astype(
            np.uint8
        ), f"{arguments[0]} labelled {arguments[1]}"
    swap = np.arange(256, dtype=np.uint8)
    swap[[first, second]] = second, first
    return swap[frame.mask], f"{arguments[0]} and {arguments[1]} swapped"


def _blur(image: np.ndarray, radius: int) -> np.ndarray:
    """Average over a square of 2 `radius` + 1 pixels, edges repeated; in integers: the same on every machine."""
    whole, reach = image.astype(np.int64), 2 * radius + 1
    for axis in (0, 1):
        border = [(0, 0)] * 3
        border[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(whole, border, mode="edge"), axis=axis)
        places = np.arange(image.shape[axis])
        whole = (total.take(places + reach, axis) - total.take(places, axis)) // reach
    return whole.astype(np.uint8)


def _rounded(pixels: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(pixels, 0.0, 255.0) + 0.5).astype(np.uint8)


def _box(where: np.ndarray) -> str:
    rows, columns = ndimage.find_objects(where.astype(np.uint8))[0]
    return f"{columns.start} {rows.start} {columns.stop} {rows.stop}"


def _save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:  # ids that show as colours in any picture viewer
        picture.putpalette(_MAP.palette().tobytes())
    picture.save(path)


def _write_tables(folder: Path, rows: list[tuple[str, ...]]) -> None:
    columns = ["sample", "split", "kind", "severity", "box", "detail"]
    write_csv(folder / "planted.csv", pd.DataFrame(rows, columns=columns))
    splits = "".join(
        f'  {split}: {{images: "{split}/images/*.png", masks: "{split}/masks/*.png"}}\n'
        for split in ("train", "val", "test")
    )
    write_text(
        folder / "dataset.yaml",
        f"name: demo\nclasses: [{', '.join(CLASSES)}]\ncolors: {[list(color) for color in _COLORS]}\n"
        f"ignore_ids: [{UNSCORED}]  # the bonnet of the car that carries the camera\nsplits:\n{splits}"
        'group: "(?P<group>[a-z]+)_(?P<frame>\\\\d+)$"  # sequences of neighbouring frames\n',
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder for the dataset")
    with atomic_folder(parser.parse_args().out) as temporary:
        write_demo(temporary)
