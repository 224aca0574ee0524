"""Draw masks of class ids from other annotations: COCO, labelme, YOLO, a folder of masks a class, instances."""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageDraw

from seglib.data.annotations import SHARES, Drawn, naming, read_polygons
from seglib.data.classes import IGNORE, some
from seglib.data.draft import meaning, walk
from seglib.data.image_io import DatasetError, read_size, read_stored
from seglib.runs import atomic_folder, write_text

KINDS = ("polygons", "classes", "instances")
_FIXED = {"background": 0, "_background_": 0, "__ignore__": IGNORE}  # the last two are labelme's


def convert(root: Path, kind: str = "polygons", target: str | Path = "") -> tuple[Path, list[str], int]:
    """Write a PNG of class ids for every annotated image, at the image's place below `target`, and classes.txt.

    0 is background, what nothing covers. What is drawn later lies above; in COCO small objects come last. A DatasetError
    names what would be drawn wrong, such as a box, a smeared mask, or an annotation of another size than its image.

    Args:
        root: a folder of images, and annotations that name them or are named as they are.
        kind: "polygons" (COCO with RLE, labelme, YOLO), "classes" (a folder of masks a class, masks/car/x.png) or
            "instances" (masks of numbered objects, all of one class; 255 beside other numbers is ignored).
        target: a new folder; `masks` in `root` by default.

    Returns:
        the new folder, the names of the classes with background, and how many masks there are.
    """
    out, drawn, names = Path(target or root / "masks"), defaultdict(list), ["background"]
    if kind not in KINDS:
        raise DatasetError(f"kind {kind!r} is none of {', '.join(KINDS)}.")
    if out.exists():
        raise DatasetError(f"{out} exists.", "folder-exists", "Name a new folder with --to.")
    files, others = walk(root)
    masks = {parts for parts in files if any(meaning(part)[1] in ("mask", "other") for part in parts[:-1])}
    images = defaultdict(list)
    for parts in (parts for parts in files if parts not in masks and parts[0] != ".."):
        images[PurePosixPath(parts[-1]).stem].append(PurePosixPath(*parts))
    polygons = read_polygons(root, others, {*images}, names)
    for one in polygons if kind == "polygons" else _masks(root, sorted(masks), kind):
        drawn[_image(*one[:2], images)].append(one)
    names += [label for ones in drawn.values() for *_, shapes in ones for _, label, _ in shapes]
    names = ["background", *dict.fromkeys(name for name in names if name not in _FIXED)]
    if not drawn or len(names) > IGNORE:
        detail = f"{root}: {len(drawn)} annotated images of {len(names)} classes; expected some, and at most {IGNORE}."
        raise DatasetError(detail, "no-annotations", f"Is it of another kind? --kind {', '.join(KINDS)}")
    ids = {name: c for c, name in enumerate(names)} | _FIXED
    with atomic_folder(out) as new:
        for image, ones in drawn.items():
            path = (new / image).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with naming(" and ".join(dict.fromkeys(source for source, *_ in ones))):
                Image.fromarray(_draw(root / image, ones, ids)).save(path)
        write_text(new / "classes.txt", "".join(f'{c} "{name}"\n' for c, name in enumerate(names)))
    return out, names, len(drawn)


def _masks(root: Path, masks: list[tuple[str, ...]], kind: str) -> Iterator[Drawn]:
    """The masks of each image: of its classes, by the folders that they lie in, or of its instances."""
    found = defaultdict(list)
    for *place, name in masks:
        path, label = root.joinpath(*place, name), place.pop() if kind == "classes" else "object"
        if any(meaning(label)):
            detail = f"{path} lies in no folder of a class, such as masks/train/car/x.png."
            raise DatasetError(detail, "no-annotations", "Are they masks of classes already?")
        found["/".join([*place, path.stem])].append((0, label, partial(_marked, path, kind)))
    yield from ((name, name, None, shapes) for name, shapes in found.items())


def _marked(path: Path, kind: str) -> np.ndarray:
    """Where a mask shows its class, or numbered objects: (H, W), 0, 1, or 255 for ignored."""
    stored, jpeg = read_stored(path), path.suffix.lower() in (".jpg", ".jpeg")
    values = np.atleast_3d(stored).max(axis=2) * 1
    if jpeg and values.max() >= 128:  # smeared
        values = np.where(values > values.max() / 2, values.max(), 0)
    found = np.unique(values).tolist()
    if (kind == "classes" and len(found) > 1 + (found[0] == 0)) or (kind == "instances" and jpeg):
        told = "smeared, or not one class; export black and white, or numbers for --kind instances, as PNG"
        raise ValueError(f"{path.name} holds {some([*map(str, found)])}: {told}")
    border = stored.ndim == 2 and len(found) > 2 and found[-1] == IGNORE and IGNORE - 1 not in found
    return np.where((values == IGNORE) & border, IGNORE, values != 0)


def _image(source: str, called: str, images: dict[str, list[PurePosixPath]]) -> PurePosixPath:
    """The image of that stem; of several, the one whose folders are called most alike."""
    name = PurePosixPath(called)
    same = images.get(name.stem, [])
    words = [{*re.split(r"[/_. -]+", str(path.parent))} for path in (name, *same)]
    alike = [len(words[0] & others) for others in words[1:]]
    best = [image for image, score in zip(same, alike, strict=True) if score == max(alike)]
    if len(best) != 1:
        detail = f"{len(best) or 'no'} images ({some([*map(str, best)])}) have the stem of annotation {source}, {name.stem!r}."
        raise DatasetError(detail, "missing-image", "Rename the annotation, or move it away.")
    return best[0]


def _draw(path: Path, ones: list[Drawn], ids: dict[str, int]) -> np.ndarray:
    """Draw the mask of an image, upright as images are read: (H, W) uint8. A ValueError says what does not fit."""
    per_image = [PurePosixPath(name).name == PurePosixPath(source).stem for source, name, *_ in ones]
    if len(ones) > 1 and any(per_image):  # COCO may have a file a class
        raise ValueError("both are of one image: move one away")
    (size, turn), shapes = read_size(path), [(*one, told) for *_, told, shapes in ones for one in shapes]
    mask = np.zeros(size, np.uint8)
    for _, label, shape, told in sorted(shapes, key=itemgetter(0)):
        if callable(shape):
            covered = shape()
            told = covered.shape
        else:
            picture = Image.new("1", size[::-1])
            for polygon in shape:
                corners = polygon * size[::-1] if told == SHARES else polygon
                if told is None and (corners > 1.1 * np.array(size[::-1])).any():
                    raise ValueError(f"it tells no size, and reaches beyond {path.name}")
                ImageDraw.Draw(picture).polygon(corners.ravel().tolist(), fill=1)
            covered = np.array(picture)
        if told not in (SHARES, None, size):
            has = f"{path.name} has {size[1]} x {size[0]}{' once EXIF has turned it' * (turn > 1)}"
            raise ValueError(f"it is of {told[1]} x {told[0]} pixels, {has}")
        if turn > 1 and (turn < 5 or told != size or size == size[::-1]):
            raise ValueError(f"EXIF turns {path.name}, before or after it was annotated: save it upright")
        mask[covered > 0] = ids[label]
        mask[covered == IGNORE] = IGNORE
    return mask
