"""Draw masks of class ids from other annotations: COCO, labelme, YOLO, a folder of masks a class, instances."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from seglib.data.classes import IGNORE, some
from seglib.data.draft import meaning, walk
from seglib.data.image_io import DatasetError, read_image, read_stored
from seglib.runs import atomic_folder, load_yaml, write_text

KINDS = ("polygons", "classes", "instances")
_Drawn = tuple[str, list[tuple[str, Any]]]  # image; class name, and polygons, COCO's RLE or a mask file


def convert(root: Path, kind: str = "polygons", target: str | Path = "") -> tuple[Path, list[str], int]:
    """Write a PNG of class ids for every annotated image, at the image's place below `target`, and classes.txt.

    0 is background, what nothing covers. What is drawn later lies above; in COCO small objects come last.

    Args:
        root: a folder of images, and annotations that name them or are named as they are.
        kind: "polygons" (COCO with RLE, labelme, YOLO), "classes" (a folder of masks a class, masks/car/x.png) or
            "instances" (masks of numbered objects, all of one class). In masks, any value but 0 counts.
        target: a new folder; `masks` in `root` by default.

    Returns:
        the new folder, the names of the classes with background, and how many masks there are.
    """
    out, names = Path(target or root / "masks"), ["background"]
    if out.exists():
        raise DatasetError(f"{out} exists.", "folder-exists", "Name a new folder with --to.")
    files, others = walk(root)
    masks = {parts for parts in files if any(meaning(part)[1] in ("mask", "other") for part in parts[:-1])}
    images = ["/".join(parts) for parts in files if parts not in masks and parts[0] != ".."]
    drawn = [*(_polygons(root, others, names) if kind == "polygons" else _masks(root, sorted(masks), kind))]
    names = [*dict.fromkeys([*names, *(name for _, shapes in drawn for name, _ in shapes)])]
    if not drawn or len(names) > IGNORE:
        detail = f"{root}: {len(drawn)} annotated images of {len(names)} classes; expected some, and at most {IGNORE}."
        raise DatasetError(detail, "no-annotations", f"Is it of another kind? --kind {', '.join(KINDS)}")
    with atomic_folder(out) as new:
        for name, shapes in drawn:
            image = _image(PurePosixPath(name), images)
            mask = np.zeros(read_image(root / image).shape[:2], np.uint8)
            for label, shape in shapes:
                mask[_covered(shape, mask.shape)] = names.index(label)
            path = (new / image).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
        write_text(new / "classes.txt", "".join(f"{name}\n" for name in names))
    return out, names, len(drawn)


def _polygons(root: Path, others: list[Path], names: list[str]) -> Iterator[_Drawn]:
    """What COCO's and labelme's JSON and YOLO's text files draw; names that have an order go to `names`."""
    kept = [path for path in others if path.suffix in (".json", ".txt", ".yaml")]
    texts = {path: (root / path).read_text(encoding="utf-8", errors="replace") for path in kept}
    tables = {path.name: texts.pop(path) for path in kept if path.name in ("data.yaml", "classes.txt")}
    listed = load_yaml(tables["data.yaml"])["names"] if "data.yaml" in tables else []
    listed = listed or tables.get("classes.txt", "").split("\n")
    listed = listed if isinstance(listed, dict) else dict(enumerate(listed))
    for path, text in texts.items():
        try:
            if path.suffix == ".json":
                yield from _from_json(json.loads(text), path, names)
            elif path.suffix == ".txt" and re.fullmatch(r"(\d+([ \t][\d.e-]+){6,}\s*)*", text):
                names += [name for name in listed.values() if name and name not in names]
                rows = [line.split() for line in text.splitlines() if line.strip()]
                shapes = [(listed.get(int(c), f"class_{c}"), [np.array(xy, float)]) for c, *xy in rows]
                yield path.as_posix(), shapes
        except (ValueError, KeyError, TypeError) as error:
            detail = f"{path} is no annotation of polygons or run lengths ({type(error).__name__}: {error})."
            raise DatasetError(detail, "no-annotations", "Export polygons, or move it away.") from error


def _from_json(found: Any, path: Path, names: list[str]) -> Iterator[_Drawn]:
    """COCO's images and annotations, or labelme's shapes; other JSON draws nothing."""
    shapes = defaultdict(list)
    if isinstance(found, dict) and "annotations" in found:
        categories = {one["id"]: one["name"] for one in found["categories"]}
        names += [name for _, name in sorted(categories.items()) if name not in names]
        for one in sorted(found["annotations"], key=lambda one: -one.get("area", 0)):
            shapes[one["image_id"]].append((categories[one["category_id"]], one["segmentation"]))
        yield from [(path.stem + "/" + one["file_name"], shapes[one["id"]]) for one in found["images"]]
    elif isinstance(found, dict) and "shapes" in found:
        for one in found["shapes"]:
            points, kind = np.array(one["points"], float), one.get("shape_type", "polygon")
            if kind == "rectangle":
                points = np.c_[points[[0, 1, 1, 0], 0], points[[0, 0, 1, 1], 1]]
            elif kind != "polygon":
                raise ValueError(f"{one['label']!r} is a {kind}, not a polygon")
            shapes[path].append((one["label"], [points.ravel()]))
        yield path.as_posix(), shapes[path]


def _masks(root: Path, masks: list[tuple[str, ...]], kind: str) -> Iterator[_Drawn]:
    shapes = defaultdict(list)
    for parts in masks:
        *place, name = parts
        label = place.pop() if kind == "classes" else "object"
        shapes["/".join([*place, name])].append((label, root.joinpath(*parts)))
    yield from shapes.items()


def _image(name: PurePosixPath, images: list[str]) -> str:
    """The image of that stem; of several, the one whose folders are called most alike."""
    same = [PurePosixPath(image) for image in images if PurePosixPath(image).stem == name.stem]
    alike = [sum(part in str(name.parent) for part in image.parent.parts) for image in same]
    best = [str(image) for image, score in zip(same, alike, strict=True) if score == max(alike)]
    if len(best) != 1:
        detail = f"{len(best) or 'no'} images ({some(best)}) have the stem of annotation {name}, not one."
        raise DatasetError(detail, "missing-image", "Rename the annotation, or move it away.")
    return best[0]


def _covered(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """The pixels of polygons, of COCO's run-length code, or of a mask file: (H, W) bool."""
    if isinstance(shape, Path):
        covered = np.atleast_3d(read_stored(shape)).any(axis=2)
    elif isinstance(shape, dict):
        counts = _counts(shape["counts"]) if isinstance(shape["counts"], str) else shape["counts"]
        covered = np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(shape["size"][::-1]).T
    else:
        picture = Image.new("1", size[::-1])
        for polygon in (np.reshape(xy, (-1, 2)) for xy in shape):  # YOLO's are shares of width and height
            scaled = polygon * size[::-1] if polygon.max() <= 1 else polygon
            ImageDraw.Draw(picture).polygon(scaled.ravel().tolist(), fill=1)
        covered = np.array(picture)
    if covered.shape != size:
        raise DatasetError(f"annotation of {covered.shape}, but its image is {size}.", "size-mismatch")
    return covered


def _counts(text: str) -> list[int]:
    """COCO's compressed counts: five bits a letter, the sixth says that more follow; from the third on, differences."""
    counts, value, shift = [], 0, 0
    for bits in (ord(letter) - 48 for letter in text):
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
