"""What the demo dataset and its broken twin hold: the plan of sequences and faults, and how each fault is planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from seglib import runs
from seglib.data.classes import ClassMap
from seglib.data.demo_canvas import Frame, bell
from seglib.data.demo_paint import render
from seglib.data.demo_scenes import CLASSES, HEIGHT, UNSCORED, WIDTH, Street, build_street
from seglib.data.faults import DEGRADATIONS, LABEL_FAULTS, LEVELS, PLANTED_COLUMNS, bounding_box, degrade, rounded

__all__ = ["DEGRADATIONS", "LABEL_FAULTS", "PLANTED_COLUMNS", "write_broken", "write_demo"]

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

_BROKEN_STREETS: _Plan = (
    ("train", 9, "ash", 2, "suburb", "sunny", {"people": 10, "signs": 4}),
    ("train", 9, "holly", 11, "centre", "dusk", {"people": 10}),
    ("val", 6, "linden", 13, "suburb", "sunny", {"people": 0, "signs": 4}),
    ("test", 6, "poplar", 19, "centre", "rain", {"people": 10, "signs": 4}),
)
# sample ("" for the whole split), split, the check that finds it, detail; person is absent because val has no people
_BROKEN_FAULTS = (
    ("ash_0001", "train", "missing-mask", "image without mask"),
    ("ash_0003", "train", "missing-image", "mask without image"),
    ("ash_0005", "train", "unreadable", "truncated image"),
    ("ash_0007", "train", "empty-file", "image of zero bytes"),
    ("holly_0001", "train", "unreadable", "text named .png"),
    ("holly_0003", "train", "size-mismatch", "mask of half the size"),
    ("holly_0005", "train", "illegal-ids", "ids 12 and 14"),
    ("holly_0007", "train", "rgb-mask", "mask in colours that nothing names"),
    ("holly_0008", "train", "duplicate-stem", "image as .png and .jpg"),
    ("poplar_0002", "test", "all-ignored", "mask without a scored pixel"),
    ("poplar_0004", "test", "single-class", "mask of nothing but sky"),
    ("", "train", "not-an-image", "dashcam.mp4, a video by its name"),
    ("", "val", "class-not-in-split", "person"),
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
    """Write the demo into an empty folder; `seglib.data.demo.make_demo` says what lies where."""
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
        images[sample] = degrade(images[sample], kind, level, grain)
        rows.append((sample, splits[sample], kind, LEVELS[level - 1], "", ""))
    for sample in _FAR:
        _, street, _, frame = drawn[sample]
        where = frame.things == next(k for k, thing in enumerate(street.things) if thing.keep)
        name = CLASSES[frame.mask[where][0]]
        rows.append((sample, splits[sample], "far_tiny", "moderate", _box(where), f"{name}; pixels {where.sum()}"))
    for sample, (split, street, _, _) in drawn.items():
        if street.weather == "night":
            rows.append((sample, split, "unseen_condition", "severe", "", "night; never in train"))
    for number, (sample, split, source) in enumerate(_COPIES):
        images[sample] = rounded(images[source] + 2.0 * bell(9000 + number, images[source].shape))
        stored[sample], splits[sample] = masks[source], split
        rows.append((sample, split, "near_duplicate", "severe", "", f"of {source} in train"))
    train = [sample for sample, split in splits.items() if split == "train"]
    holding = sum(bool((masks[sample] == CLASSES.index("sign")).any()) for sample in train)
    rows.append(("", "train", "rare_class", "moderate", "", f"sign; in {holding} of {len(train)} images"))
    for sample, split in splits.items():
        _save(folder / split / "images" / f"{sample}.png", images[sample])
        _save(folder / split / "masks" / f"{sample}.png", stored[sample], palette=True)
    _write_tables(folder, "demo", "*.png", rows)


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
        return np.where(inside, second, frame.mask).astype(np.uint8), f"{arguments[0]} labelled {arguments[1]}"
    swap = np.arange(256, dtype=np.uint8)
    swap[[first, second]] = second, first
    return swap[frame.mask], f"{arguments[0]} and {arguments[1]} swapped"


def _box(where: np.ndarray) -> str:
    return " ".join(map(str, bounding_box(where)))


def _save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:  # ids that show as colours in any picture viewer
        picture.putpalette(_MAP.palette().tobytes())
    picture.save(path)


def _write_tables(folder: Path, name: str, files: str, rows: list[tuple[str, ...]]) -> None:
    runs.write_csv(folder / "planted.csv", pd.DataFrame(rows, columns=PLANTED_COLUMNS))
    splits = "".join(
        f'  {split}: {{images: "{split}/images/{files}", masks: "{split}/masks/{files}"}}\n'
        for split in ("train", "val", "test")
    )
    # The twin names no colours, so that an RGB mask is a fault there and not another way to write ids.
    colors = f"colors: {[list(color) for color in _COLORS]}\n" if name == "demo" else ""
    runs.write_text(
        folder / "dataset.yaml",
        f"name: {name}\nclasses: [{', '.join(CLASSES)}]\n{colors}"
        f"ignore_ids: [{UNSCORED}]  # the bonnet of the car that carries the camera\nsplits:\n{splits}"
        'group: "(?P<group>[a-z]+)_(?P<frame>\\\\d+)$"  # sequences of neighbouring frames\n',
    )


def write_broken(folder: Path) -> None:
    """Write the twin into an empty folder: sound samples, and one for each fault that a check of the data must find."""
    drawn = _draw(_BROKEN_STREETS)
    for sample, (split, _, _, frame) in drawn.items():
        _save(folder / split / "images" / f"{sample}.png", frame.image)
        _save(folder / split / "masks" / f"{sample}.png", frame.mask, palette=True)

    def image(sample: str) -> Path:
        return folder / drawn[sample][0] / "images" / f"{sample}.png"

    def mask(sample: str) -> tuple[Path, np.ndarray]:
        return folder / drawn[sample][0] / "masks" / f"{sample}.png", drawn[sample][3].mask

    mask("ash_0001")[0].unlink()
    image("ash_0003").unlink()
    whole = image("ash_0005").read_bytes()
    image("ash_0005").write_bytes(whole[: len(whole) // 2])
    image("ash_0007").write_bytes(b"")
    image("holly_0001").write_bytes(b"Not a picture: a note.\n")
    path, ids = mask("holly_0003")
    _save(path, ids[::2, ::2], palette=True)
    path, ids = mask("holly_0005")
    strange = np.where(ids == CLASSES.index("building"), 12, np.where(ids == CLASSES.index("car"), 14, ids))
    _save(path, strange.astype(np.uint8), palette=True)
    path, ids = mask("holly_0007")
    _save(path, np.array([(k * 28, 255 - k * 25, (k * 90) % 256) for k in range(UNSCORED + 1)], np.uint8)[ids])
    Image.fromarray(drawn["holly_0008"][3].image).save(image("holly_0008").with_suffix(".jpg"))
    path, ids = mask("poplar_0002")
    _save(path, np.full_like(ids, UNSCORED), palette=True)
    path, ids = mask("poplar_0004")
    _save(path, np.zeros_like(ids), palette=True)
    (folder / "train" / "images" / "dashcam.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 4)
    rows = [(sample, split, kind, "severe", "", detail) for sample, split, kind, detail in _BROKEN_FAULTS]
    _write_tables(folder, "demo_broken", "*", rows)
