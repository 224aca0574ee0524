"""Read what COCO's and labelme's JSON and YOLO's text files draw on images."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seglib.data.image_io import DatasetError
from seglib.runs import load_yaml, read_written

SHARES = (1, 1)
_TOOLS = {"regions": "VIA", "classTitle": "Supervisely", "imgHeight": "Cityscapes"}  # by a key of their JSON
# Source, the file; the image as it is called there; its height and width there, SHARES of which polygons are, or None; and
# what is drawn: an order, the lowest first, a class, and polygons (N, 2) of x and y or a function that gives the pixels.
Drawn = tuple[str, str, tuple[int, int] | None, list[tuple[float, str, Any]]]


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Name the file that makes no sense in a DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        detail = f"{source} is no annotation that can be drawn ({reason})."
        way = "Correct it, export outlines for the images as they are, or move it away."
        raise DatasetError(detail, "no-annotations", way) from error


def read_polygons(root: Path, others: list[Path], images: set[str], names: list[str]) -> Iterator[Drawn]:
    """Yield what the files `others` draw; `images` are stems. Names of classes that have an order go to `names`."""
    listed = None
    for path in others:
        source, stem = path.as_posix(), path.with_suffix("").as_posix()
        with naming(source):
            if path.suffix.lower() == ".json":
                yield from _from_json(read_written(root / path), source, stem, names)
            elif path.suffix.lower() == ".txt" and path.stem in images:
                if listed is None:
                    listed = _yolo_names(root, others)
                    names += listed.values()
                rows = [line.split() for line in read_written(root / path).splitlines() if line.strip()]
                objects = [(listed.get(int(c), f"class_{c}"), _corners(xy, 1.1)) for c, *xy in rows]
                yield source, stem, SHARES, [(0, label, [corners]) for label, corners in objects]


def _yolo_names(root: Path, others: list[Path]) -> dict[int, str]:
    """The names of YOLO's classes by number: of the YAML file that has `names`, else of classes.txt or obj.names."""
    listed: Any = []
    for path in others:
        with naming(path.as_posix()):
            if path.suffix.lower() in (".yaml", ".yml"):
                held = load_yaml(read_written(root / path))
                listed = (isinstance(held, dict) and held.get("names")) or listed
            elif path.name.lower() in ("classes.txt", "obj.names") and path.parts[0] != "masks":  # ours
                listed = listed or read_written(root / path).split("\n")
    listed = [listed] if isinstance(listed, str) else listed
    rows = listed.items() if isinstance(listed, dict) else enumerate(listed)
    return {int(c): str(name).strip() for c, name in rows if str(name).strip()}


def _from_json(text: str, source: str, stem: str, names: list[str]) -> Iterator[Drawn]:
    """COCO's images and annotations, or labelme's shapes; other JSON draws nothing, but for that of tools that draw."""
    found, shapes = json.loads(text), defaultdict(list)
    keys = found if isinstance(found, dict) else ()
    if "annotations" in keys:
        categories = {one["id"]: str(one["name"]) for one in found["categories"]}
        names += [name for _, name in sorted(categories.items())]
        for one in found["annotations"]:
            label, form = categories[one["category_id"]], one.get("segmentation")
            if not form:
                raise ValueError(f"annotation {one.get('id')} is a box without a polygon")
            form = partial(_runs, form) if isinstance(form, dict) else [_corners(xy) for xy in form]
            shapes[one["image_id"]].append((-one.get("area", 0), label, form))
        for one in found["images"]:
            size, name = (one.get("height"), one.get("width")), one["file_name"].replace("\\", "/")
            yield source, f"{stem}/{name}", size if all(size) else None, shapes[one["id"]]
    elif "shapes" in keys:
        for one in found["shapes"]:
            points, kind = np.array(one["points"], float), one.get("shape_type") or "polygon"
            if kind == "rectangle":
                (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
                points = np.array([left, top, right, top, right, bottom, left, bottom])
            elif kind != "polygon":
                raise ValueError(f"{one['label']!r} is a {kind}, not a polygon")
            shapes[stem].append((0, str(one["label"]), [_corners(points.ravel())]))
        size = found.get("imageHeight"), found.get("imageWidth")
        yield source, stem, size if all(size) else None, shapes[stem]
    elif tool := next((tool for key, tool in _TOOLS.items() if f'"{key}"' in text), ""):
        raise ValueError(f"it looks like JSON of {tool}, which is not read: export COCO there")


def _corners(numbers: Any, most: float = np.inf) -> np.ndarray:
    """The corners (N, 2) of x, y, x, y, ..., in pixels or, up to `most`, in shares of the sides."""
    points = np.array(numbers, float)
    size = points.size
    if size < 6 or size % 2 or not np.abs(points).max() <= most:
        what = "a box or a line" if size == 4 else f"{size} numbers up to {points.max(initial=0):g}"
        raise ValueError(f"{what}, not x and y of three corners{' in shares of the sides' * (most < 2)}")
    return points.reshape(-1, 2)


def _runs(code: dict) -> np.ndarray:
    """The pixels of COCO's run lengths, which go down the columns: (H, W) bool."""
    counts = _counts(code["counts"]) if isinstance(code["counts"], str) else code["counts"]
    return np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(code["size"][::-1]).T


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
