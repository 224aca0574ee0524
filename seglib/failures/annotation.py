"""Samples to be labelled anew, as CVAT and Label Studio take them: images, and masks to begin with.

The way back is `seglib.failures.corrections`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr  # nosec B406  # it writes, and parses nothing

import numpy as np
from PIL import Image

from seglib.data import FORMATS, IGNORE, ClassMap, Dataset, DatasetError, default_colors, present, read_pair
from seglib.evaluate import read_ids
from seglib.failures.brush import encode
from seglib.runs import atomic_path, display_path

BACKGROUND = "background"  # what CVAT calls pixels that nobody labelled
IMAGE_TAG, MASK_TAG = "image", "mask"  # names of the tags in Label Studio's configuration
_IGNORED_COLOR = (224, 224, 192)  # VOC's colour of pixels that are not scored
_ORIENTATION = 0x0112  # EXIF tag
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same samples give the same bytes


def export_cvat(samples: Iterable[str], dataset: Dataset, masks_folder: Path | None, out: str | Path) -> Path:
    """A zip for CVAT's "Segmentation mask 1.1": images, and masks to begin with.

    labels.json inside holds the labels for the raw view of CVAT's label editor. Pixels that are not scored (255) have a
    label of their own (`ignored_name`): they survive the round trip, and can be drawn and taken away. A class called
    "background" is CVAT's background, the pixels without a label.

    Args:
        samples: ids.
        dataset: the dataset that they are of.
        masks_folder: class ids as `<id>.png` to begin with, for example a run's `evaluation/<split>/predictions`; None for
            the dataset's own masks.
        out: the zip file.

    Returns:
        `out`.

    Raises:
        DatasetError: an id that the dataset lacks; a mask that is missing, of another size or of unknown ids.
        ValueError: a class or sample name that the lists of the format cannot hold.

    Format: the segmentation layout of Pascal VOC 2012 (Everingham et al.) with CVAT's labelmap.txt.
    """
    _check_names(dataset.classes)
    labels = label_colors(dataset.classes)
    colors = np.zeros((256, 3), np.uint8)
    for c, name in enumerate((*dataset.classes.names, ignored_name(dataset.classes))):
        colors[c if c < len(dataset.classes) else IGNORE] = labels[name]
    ids = []
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for sample, path, image, mask in _pairs(samples, dataset, masks_folder):
            if sample != sample.strip() or not sample.isprintable():
                raise ValueError(f"sample {sample!r}: CVAT lists images one a line. Rename the file.")
            suffix, data = _image_bytes(path, image)
            _add(archive, f"JPEGImages/{sample}{suffix}", data)
            _add(archive, f"SegmentationClass/{sample}.png", _png(colors[mask]))
            # Without objects CVAT takes the background for an object, of a label that no task has.
            _add(archive, f"SegmentationObject/{sample}.png", _png(_objects(mask, dataset.classes)))
            ids.append(sample)
        lines = [f"{name}:{','.join(map(str, color))}::" for name, color in labels.items()]
        _add(archive, "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines, ""]).encode())
        _add(archive, "ImageSets/Segmentation/default.txt", "".join(f"{i}\n" for i in ids).encode())
        plain = [
            {"name": n, "color": _hex(c), "attributes": []} for n, c in labels.items() if n != BACKGROUND
        ]
        _add(archive, "labels.json", json.dumps(plain, indent=1, ensure_ascii=False).encode())
    return Path(out)


def label_colors(classes: ClassMap) -> dict[str, tuple[int, int, int]]:
    """Label -> colour, all different: background (black) first, the other classes, then pixels that are not scored.

    The classes' own colours, unless two are alike or one is black: the default palette then.
    """
    painted = {
        n: tuple(int(v) for v in c)
        for n, c in zip(classes.names, classes.colors, strict=True)
        if n != BACKGROUND
    }
    painted[ignored_name(classes)] = _IGNORED_COLOR
    if len({(0, 0, 0), *painted.values()}) <= len(painted):
        colors = default_colors(len(painted)).tolist()
        painted = {name: tuple(color) for name, color in zip(painted, colors, strict=True)}
    return {BACKGROUND: (0, 0, 0)} | painted


def ignored_name(classes: ClassMap) -> str:
    """The label of pixels that are not scored: "ignored", unless a class is called so."""
    name = "ignored"
    while name in classes.names:
        name += "_"
    return name


def export_label_studio(
    samples: Iterable[str],
    dataset: Dataset,
    masks_folder: Path | None,
    out: str | Path,
    images_url: str = "/data/local-files/?d=images/",
) -> Path:
    """A zip for Label Studio: tasks.json with brush masks as predictions, label_config.xml and images/.

    Labels as in `export_cvat`: one a class, one for pixels that are not scored; "background" is what nobody painted.

    Args:
        samples, dataset, masks_folder, out: as in `export_cvat`.
        images_url: what stands before an image's name in the tasks: where Label Studio finds the unpacked images/. By
            default its local files, below the folder in LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.

    Returns:
        `out`.

    Raises:
        DatasetError: as in `export_cvat`.

    Format: Label Studio's JSON of tasks with predictions; BrushLabels with format "rle" (`seglib.failures.brush`).
    """
    ignored = ignored_name(dataset.classes)
    names = dict(enumerate(dataset.classes.names)) | {IGNORE: ignored}
    tasks = []
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for sample, path, image, mask in _pairs(samples, dataset, masks_folder):
            suffix, data = _image_bytes(path, image)
            _add(archive, f"images/{sample}{suffix}", data)
            regions = [
                {
                    "id": f"region-{c}",
                    "type": "brushlabels",
                    "from_name": MASK_TAG,
                    "to_name": IMAGE_TAG,
                    "original_width": mask.shape[1],
                    "original_height": mask.shape[0],
                    "image_rotation": 0,
                    "value": {"format": "rle", "rle": encode(mask == c), "brushlabels": [names[c]]},
                }
                for c in present(mask)
                if names[c] != BACKGROUND
            ]
            model = "present masks" if masks_folder is None else "predictions"
            tasks.append(
                {
                    "data": {"image": images_url + quote(f"{sample}{suffix}"), "sample": sample},
                    "predictions": [{"model_version": model, "result": regions}],
                }
            )
        _add(archive, "tasks.json", json.dumps(tasks, ensure_ascii=False).encode())
        lines = [
            f"    <Label value={quoteattr(name)} background={quoteattr(_hex(color))}/>"
            for name, color in label_colors(dataset.classes).items()
            if name != BACKGROUND
        ]
        config = [
            "<View>",
            f'  <Image name="{IMAGE_TAG}" value="$image" zoom="true" zoomControl="true"/>',
            f'  <BrushLabels name="{MASK_TAG}" toName="{IMAGE_TAG}">',
            *lines,
            "  </BrushLabels>",
            "</View>",
            "",
        ]
        _add(archive, "label_config.xml", "\n".join(config).encode())
    return Path(out)


def _check_names(classes: ClassMap) -> None:
    wrong = [
        n for n in classes.names if ":" in n or n != n.strip() or n.startswith("#") or not n.isprintable()
    ]
    if wrong:
        raise ValueError(
            f"class {wrong[0]!r}: CVAT's labelmap.txt has no way to write ':', line breaks, spaces around a name or '#' before "
            "it. Rename the class in dataset.yaml, or export for Label Studio."
        )


def _pairs(
    samples: Iterable[str], dataset: Dataset, masks_folder: Path | None
) -> Iterator[tuple[str, Path, np.ndarray, np.ndarray]]:
    """id, image file, image (H, W, 3) and mask to begin with (H, W) of every sample, one at a time."""
    rows = dataset.samples.set_index("id", drop=False)
    samples = list(dict.fromkeys(samples))
    if unknown := [i for i in samples if i not in rows.index]:
        raise DatasetError(
            f"dataset {dataset.name!r} has no sample {unknown[0]!r} ({len(unknown)} of {len(samples)} ids are unknown). "
            "Are they of another dataset?"
        )
    for sample in samples:
        row = rows.loc[sample]
        image, mask = read_pair(dataset, row)
        if masks_folder is not None:
            mask = _ids(Path(masks_folder) / f"{sample}.png", mask.shape, dataset.classes)
        yield sample, dataset.root / row["image"], image, mask


def _ids(path: Path, shape: tuple[int, int], classes: ClassMap) -> np.ndarray:
    if not path.is_file():
        raise DatasetError(
            f"no {path.name} in {display_path(path.parent)}: expected a mask of class ids. Is it another split's?"
        )
    mask = read_ids(path)
    if mask.shape != shape:
        raise DatasetError(
            f"{display_path(path)} is of shape {mask.shape}; its image is {shape} (height, width)."
        )
    if len(wrong := [c for c in present(mask) if c >= len(classes) and c != IGNORE]):
        raise DatasetError(
            f"{display_path(path)} holds ids {wrong}; expected 0-{len(classes) - 1} and {IGNORE}."
        )
    return mask


def _image_bytes(path: Path, image: np.ndarray) -> tuple[str, bytes]:
    """An image file as it is, if every tool shows it as seglib reads it; else as PNG. Suffix and bytes."""
    with Image.open(path, formats=FORMATS) as picture:  # it was read before
        plain = (
            picture.format in ("JPEG", "PNG")
            and picture.mode in ("RGB", "L")
            and not picture.getexif().get(_ORIENTATION)
        )
        suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(picture.format or "", "")
    return (suffix, path.read_bytes()) if plain else (".png", _png(image))


def _objects(mask: np.ndarray, classes: ClassMap) -> np.ndarray:
    """(H, W, 3) uint8: the pixels of each class as one object, in VOC's colours of objects; background is black."""
    lut = np.zeros(256, np.uint8)
    for number, c in enumerate(present(mask), 1):
        lut[c] = 0 if c < len(classes) and classes.names[c] == BACKGROUND else min(number, 255)
    return _VOC_COLORS[lut[mask]]


def _voc_colors() -> np.ndarray:
    """(256, 3) uint8: VOC's colour map, the bits of the index dealt to red, green and blue in turn."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


_VOC_COLORS = _voc_colors()


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith((".png", ".jpg")) else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _hex(color: Iterable[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
