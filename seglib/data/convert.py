"""Draw masks of class ids from COCO, labelme, YOLO, a folder of masks a class or instances; unpack stacks."""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from seglib.data.classes import IGNORE, DatasetError, some
from seglib.data.draft import meaning, splits_of
from seglib.data.image_io import ImageForm, read_stored, read_values
from seglib.data.pairing import walk
from seglib.runs import atomic_folder, load_yaml, read_written, write_text

KINDS = ("polygons", "classes", "instances", "pages")
_FIXED = {"background": 0, "_background_": 0, "__ignore__": IGNORE}  # the last two are labelme's
_SHARES = (1, 1)
_TIFF = (".tif", ".tiff")
# Source, the file; the image as it is called there, without its ending; its height and width there, _SHARES of which polygons
# are, or None; and what is drawn: an order, the lowest first, a class, and polygons (N, 2) of x and y or a function that
# gives the pixels.
_Drawn = tuple[str, str, tuple[int, int] | None, list[tuple[float, str, Any]]]
_Images = dict[str, list[PurePosixPath]]  # by their stems


def convert(root: Path, kind: str = "polygons", target: str | Path = "") -> tuple[Path, list[str], int]:
    """Write a PNG of class ids for every annotated image, at the image's place below `target`, and classes.txt.

    Where files of annotations tell splits and the images' folders do not, lists such as val.txt come with them.
    0 is background, what nothing covers. What is drawn later lies above; in COCO small objects come last. A DatasetError
    names what would be drawn wrong, such as a box, a smeared mask, or an annotation of another size than its image.

    Args:
        root: a folder of images, and annotations that name them or are named as they are.
        kind: "polygons" (COCO with RLE, labelme, YOLO), "classes" (masks a class, masks/car/x.png or masks/x_car.png) or
            "instances" (masks of numbered objects, or x_mask_1.png, ..., all of one class; 255 beside other numbers is
            ignored). "pages" unpacks TIFF stacks, of images and of masks alike: a TIFF for each page, stack_001.tif; other
            images are copied.
        target: a new folder; `masks` in `root` by default, of pages `<root>_pages`.

    Returns:
        the new folder, the names of the classes with background (none of pages), and how many files there are.
    """
    usual = root.with_name(f"{root.name}_pages") if kind == "pages" else root / "masks"
    out, drawn, names = Path(target or usual), defaultdict(list), ["background"]
    if kind not in KINDS:
        raise DatasetError(f"kind {kind!r} is none of {', '.join(KINDS)}.")
    if out.exists():
        raise DatasetError(f"{out} exists.", "folder-exists", "Name a new folder with --to.")
    files, others = walk(root)
    if kind == "pages":
        return out, [], _unpack(root, files, out)
    masks = {parts for parts in files if any(meaning(part)[1] in ("mask", "other") for part in parts[:-1])}
    images = defaultdict(list)
    for parts in (parts for parts in files if parts not in masks):
        images[PurePosixPath(parts[-1]).stem].append(PurePosixPath(*parts))
    polygons = _polygons(root, others, {*images}, names)
    for one in polygons if kind == "polygons" else _masks(root, sorted(masks), images, kind):
        drawn[_image(*one[:2], images)].append(one)
    names += [label for ones in drawn.values() for *_, shapes in ones for _, label, _ in shapes]
    names = ["background", *dict.fromkeys(name for name in names if name not in _FIXED)]
    if not drawn or len(names) > IGNORE:
        detail = f"{root}: {len(drawn)} annotated images of {len(names)} classes; expected some, and at most {IGNORE}."
        told = "Other tools than COCO, labelme and YOLO export COCO. Is it of another kind?"
        raise DatasetError(detail, "no-annotations", f"{told} --kind {', '.join(KINDS)}")
    ids, lists = {name: c for c, name in enumerate(names)} | _FIXED, defaultdict(list)
    for image, ones in drawn.items():
        told = set().union(*(splits_of(source) for source, *_ in ones))
        lists["" if len(told) != 1 or splits_of(str(image)) else told.pop()].append(f"{image}\n")
    with atomic_folder(out) as new:
        # of one folder of images, where a file of annotations for each split tells it of all
        for split, lines in lists.items() if "" not in lists and len(lists) > 1 else ():
            write_text(new / f"{split}.txt", "".join(lines))
        for image, ones in drawn.items():
            path = (new / image).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with _naming(" and ".join(dict.fromkeys(source for source, *_ in ones))):
                Image.fromarray(_draw(root / image, ones, ids)).save(path)
        write_text(new / "classes.txt", "".join(f'{c} "{name}"\n' for c, name in enumerate(names)))
    return out, names, len(drawn)


def _unpack(root: Path, files: dict[tuple[str, ...], Path], out: Path) -> int:
    """Write every page of the TIFFs, as it is stored, to a file of its own, beside other images; return how many there are."""
    if not any(path.suffix.lower() in _TIFF for path in files.values()):
        raise DatasetError(f"{root} has no TIFF to unpack.", "no-annotations")
    count = 0
    with atomic_folder(out) as new:
        for parts, path in files.items():
            place = new.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in _TIFF:
                for k, (page, form) in enumerate(_pages(path), 1):
                    tifffile.imwrite(place.with_stem(f"{place.stem}_{k:03d}"), page, **form)
                    count += 1
            elif path.resolve().is_relative_to(root.resolve()):  # no link leads out
                shutil.copyfile(path, place)
    return count


def _pages(path: Path) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """The pages of a TIFF, each with the form that it is stored in, without thumbnails."""
    pages = []
    try:
        with tifffile.TiffFile(path) as tif:
            for part in tif.series:
                first = part.keyframe
                form = {"photometric": first.photometric, "colormap": first.colormap}
                form |= {"planarconfig": first.planarconfig} if first.samplesperpixel > 1 else {}
                if not first.subfiletype & 1:
                    pages += [(page, form) for page in part.asarray().reshape(-1, *first.shape)]
    except Exception as error:  # tifffile raises TiffFileError, ValueError, struct.error, ...
        told = "Save it again without compression, or `pip install imagecodecs`."
        raise DatasetError(f"{path} cannot be unpacked ({error}).", "unreadable", told) from error
    return pages


def _masks(root: Path, masks: list[tuple[str, ...]], images: _Images, kind: str) -> Iterator[_Drawn]:
    """The masks of each image: of its classes, by the folders that they lie in or their names' ends, or of its instances.

    Instances may lie, as in DSB 2018, beside the only image of a folder that is called as the image.
    """
    found, around = defaultdict(list), defaultdict(list)
    known = {PurePosixPath(name).stem for *_, name in masks}
    for image in (image for same in images.values() for image in same):
        for folder in image.parents:
            around[folder.parts].append(image.with_suffix("").as_posix())
    for *place, name in masks:
        of_class = kind == "classes" and not any(meaning(place[-1]))  # the folder's name
        path, label = root.joinpath(*place, name), place.pop() if of_class else "object"
        stem, tail = _cut(path.stem, images, {*images} if of_class else known)
        label = tail if kind == "classes" and not of_class else label
        if any(meaning(label)) or not label:
            told = f"{path} lies in no folder of a class, such as masks/train/car/x.png."
            raise DatasetError(told, "no-annotations", "Are they masks of classes already?")
        only = around[tuple(place[:-1])]
        alone = len(only) == 1 and PurePosixPath(only[0]).name in place[-2:-1]
        called = only[0] if alone else "/".join([*place, stem])
        found[called].append((0, label, partial(_marked, path, kind)))
    yield from ((name, name, None, shapes) for name, shapes in found.items())


def _cut(stem: str, images: Container[str], whole: Container[str]) -> tuple[str, str]:
    """Cut the name of one of an image's masks, x_car or x_mask_2, into the image's and the rest.

    No number is cut off where a mask has the `whole` name too: it is of an image that is not there.
    """
    for cut in [] if stem in images else reversed([*re.finditer(r"[_. -]+", stem)]):
        name, tail = stem[: cut.start()], stem[cut.end() :]
        if name in images and not (tail.isdecimal() and name in whole):
            return name, tail
    return stem, ""


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


def _image(source: str, called: str, images: _Images) -> PurePosixPath:
    """The image of that name and of no other split; of several, the one whose folders are called most alike."""
    name = PurePosixPath(called)
    told, same = splits_of(str(name.parent)), images.get(name.name, [])
    if told:
        same = [image for image in same if (found := splits_of(str(image.parent))) & told or not found]
    words = [{*re.split(r"[/_. -]+", str(path.parent))} for path in (name, *same)]
    alike = [len(words[0] & others) for others in words[1:]]
    best = [image for image, score in zip(same, alike, strict=True) if score == max(alike)]
    if len(best) != 1:
        which = f"{len(best)} images ({some([*map(str, best)])}) have" if best else "no image has"
        detail = f"{which} the name of annotation {source}, {name.name!r}, in its split."
        raise DatasetError(detail, "missing-image", "Rename the annotation, or move it away.")
    return best[0]


def _draw(path: Path, ones: list[_Drawn], ids: dict[str, int]) -> np.ndarray:
    """Draw the mask of an image, upright as images are read: (H, W) uint8. A ValueError says what does not fit."""
    per_image = [PurePosixPath(name).name == PurePosixPath(source).stem for source, name, *_ in ones]
    sources = {source for source, *_ in ones}  # COCO may have a file a class
    if len(ones) > 1 and (any(per_image) or len(sources) < len(ones)):
        raise ValueError("both are of one image: move one away")
    shapes = [(*one, told) for *_, told, shapes in ones for one in shapes]
    pixels, stored = read_values(path, ImageForm((1, 1, 1)))  # of any number of bands
    size, turn = pixels.shape[:2], stored.orientation
    mask = np.zeros(size, np.uint8)
    for _, label, shape, told in sorted(shapes, key=itemgetter(0)):
        if callable(shape):
            covered = shape()
            told = covered.shape
        else:
            picture = Image.new("1", size[::-1])
            for polygon in shape:
                corners = polygon * size[::-1] if told == _SHARES else polygon
                if told is None and (corners > 1.1 * np.array(size[::-1])).any():
                    raise ValueError(f"it tells no size, and reaches beyond {path.name}")
                ImageDraw.Draw(picture).polygon(corners.ravel().tolist(), fill=1)
            covered = np.array(picture)
        if told not in (_SHARES, None, size):
            has = f"{path.name} has {size[1]} x {size[0]}{' once EXIF has turned it' * (turn > 1)}"
            raise ValueError(f"it is of {told[1]} x {told[0]} pixels, {has}")
        if turn > 1 and (turn < 5 or told != size or size == size[::-1]):
            raise ValueError(f"EXIF turns {path.name}, before or after it was annotated: save it upright")
        mask[covered > 0] = ids[label]
        mask[covered == IGNORE] = IGNORE
    return mask


@contextmanager
def _naming(source: str) -> Iterator[None]:
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


def _polygons(root: Path, others: list[Path], images: set[str], names: list[str]) -> Iterator[_Drawn]:
    """Yield what the files `others` draw; `images` are stems. Names of classes that have an order go to `names`."""
    listed = None
    for path in others:
        source, stem = path.as_posix(), path.with_suffix("").as_posix()
        with _naming(source):
            if path.suffix.lower() == ".json":
                yield from _from_json(json.loads(read_written(root / path)), source, stem, names)
            elif path.suffix.lower() == ".txt" and path.stem in images:
                if listed is None:
                    listed = _yolo_names(root, others)
                    names += listed.values()
                rows = [line.split() for line in read_written(root / path).splitlines() if line.strip()]
                objects = [(listed.get(int(c), f"class_{c}"), _corners(xy, 1.1)) for c, *xy in rows]
                yield source, stem, _SHARES, [(0, label, [corners]) for label, corners in objects]


def _yolo_names(root: Path, others: list[Path]) -> dict[int, str]:
    """The names of YOLO's classes by number: of the YAML file that has `names`, else of classes.txt or obj.names."""
    listed: Any = []
    for path in others:
        with _naming(path.as_posix()):
            if path.suffix.lower() in (".yaml", ".yml"):
                held = load_yaml(read_written(root / path))
                listed = (isinstance(held, dict) and held.get("names")) or listed
            elif path.name.lower() in ("classes.txt", "obj.names") and path.parts[0] != "masks":  # ours
                listed = listed or read_written(root / path).split("\n")
    listed = [listed] if isinstance(listed, str) else listed
    rows = listed.items() if isinstance(listed, dict) else enumerate(listed)
    return {int(c): str(name).strip() for c, name in rows if str(name).strip()}


def _from_json(found: Any, source: str, stem: str, names: list[str]) -> Iterator[_Drawn]:
    """COCO's images and annotations, or labelme's shapes; other JSON draws nothing."""
    shapes, keys = defaultdict(list), found if isinstance(found, dict) else ()
    if "annotations" in keys and "categories" in keys:  # captions have none
        categories = {one["id"]: str(one["name"]) for one in found["categories"]}
        used = {one["category_id"] for one in found["annotations"]}
        # Roboflow lists groups as categories too
        groups = {one.get("supercategory") for one in found["categories"]}
        names += [name for k, name in sorted(categories.items()) if k in used or name not in groups]
        for one in found["annotations"]:
            label, form = categories[one["category_id"]], one.get("segmentation")
            if not form:
                raise ValueError(f"annotation {one.get('id')} is a box without a polygon")
            form = partial(_runs, form) if isinstance(form, dict) else [_corners(xy) for xy in form]
            shapes[one["image_id"]].append((-one.get("area", 0), label, form))
        for one in found["images"]:
            size, name = (one.get("height"), one.get("width")), one["file_name"].replace("\\", "/")
            called = PurePosixPath(f"{stem}/{name}").with_suffix("").as_posix()
            yield source, called, size if all(size) else None, shapes[one["id"]]
    elif "shapes" in keys:
        for one in found["shapes"]:
            if (kind := one.get("shape_type") or "polygon") != "polygon":
                raise ValueError(f"{one['label']!r} is a {kind}, not a polygon")
            shapes[stem].append((0, str(one["label"]), [_corners(np.ravel(one["points"]))]))
        size = found.get("imageHeight"), found.get("imageWidth")
        yield source, stem, size if all(size) else None, shapes[stem]


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
