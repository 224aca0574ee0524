"""Masks that were corrected in CVAT or Label Studio -> mask files in the dataset's own form, beside the originals.

What comes back is another person's file: nothing in it names a path that is written to, and nothing is unpacked that is
larger than the mask it stands for.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from seglib.data import IGNORE, ClassMap, Dataset, DatasetError, encode_mask, read_mask
from seglib.failures.annotation import BACKGROUND, MASK_TAG, ignored_name
from seglib.failures.brush import decode
from seglib.runs import atomic_path, brief, display_path, read_written

_LIST_LIMIT = 1 << 20  # bytes of labelmap.txt
_JSON_LIMIT = 1 << 30  # bytes of an export of Label Studio
_NAMED = 3  # faults named in an error


def import_cvat(file: str | Path, dataset: Dataset, out: str | Path) -> pd.DataFrame:
    """Masks from a zip that CVAT exported as "Segmentation mask 1.1", written to a folder of corrected masks.

    Labels are known by their names in labelmap.txt, whatever colours CVAT gave them. Pixels without a label are of the
    class "background" where the dataset has one, and not scored (255) where it has none.

    Args:
        file: the zip.
        dataset: the dataset that its images are of; a mask's file name is the sample's id.
        out: a folder; masks lie in it as in the dataset (`train/masks/<name>.png`), to be looked at and copied over it.

    Returns:
        a row a mask, in the order of the dataset: id, mask (path relative to `out`), changed (pixels whose class is not the
        dataset's), share (of all pixels). Masks without a change are not written; their `mask` is "".

    Raises:
        DatasetError: no such zip or layout, labels or samples that the dataset lacks, masks of another size, colours that
            labelmap.txt lacks, or a file that would lie on an original. Nothing is written then.
    """
    file = _there(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = _mask_entries(archive, dataset)
            labels = _labelmap(archive, dataset.classes)
            masks = ((sample, partial(_cvat_mask, archive, info, labels)) for sample, info in entries.items())
            return _write(dataset, Path(out), masks)
    except DatasetError:
        raise
    except OSError as error:
        if error.errno:  # of the disk, not of the archive
            raise
        raise DatasetError(
            f"{display_path(file)} is no zip that can be read ({error}). Export it from CVAT again."
        ) from None
    except (
        Exception
    ) as error:  # damaged, unknown and encrypted archives raise BadZipFile, RuntimeError, struct.error, ...
        raise DatasetError(
            f"{display_path(file)} is no zip that can be read ({error}). Export it from CVAT again."
        ) from None


def import_label_studio(file: str | Path, dataset: Dataset, out: str | Path) -> pd.DataFrame:
    """Masks from Label Studio's JSON export, written to a folder of corrected masks.

    Of a task with several annotations the one changed last counts, cancelled ones never; tasks that nobody annotated are
    left out. Regions lie on each other in their order: the last one wins. Pixels that nobody painted are of the class
    "background" where the dataset has one, and not scored (255) where it has none.

    Args:
        file: the JSON export (a list of tasks), of tasks that `export_label_studio` wrote.
        dataset, out: as in `import_cvat`.

    Returns:
        as `import_cvat`.

    Raises:
        DatasetError: as `import_cvat`, for what is wrong with the JSON.
    """
    path = _there(file)
    if path.stat().st_size > _JSON_LIMIT:
        raise DatasetError(
            f"{display_path(path)} is larger than {_JSON_LIMIT >> 30} GiB. Export fewer tasks at a time."
        )
    try:
        tasks = json.loads(read_written(path))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, endless digits, nested too deeply
        raise DatasetError(
            f"{display_path(path)} is no JSON ({error}). Export the project as JSON."
        ) from None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DatasetError(
            f"{display_path(path)} is no list of tasks. Export the project as JSON, not as JSON_MIN."
        )
    return _write(dataset, Path(out), _label_studio_masks(tasks, dataset))


def _there(file: str | Path) -> Path:
    if not Path(file).is_file():
        raise DatasetError(
            f"no file {display_path(file)}: expected what an annotation tool exported. Check the path."
        )
    return Path(file)


# CVAT


def _mask_entries(archive: zipfile.ZipFile, dataset: Dataset) -> dict[str, zipfile.ZipInfo]:
    """Sample id -> its entry. Names in the archive are only compared, never used as paths."""
    known, entries, unknown = set(dataset.samples["id"]), {}, []
    for info in archive.infolist():
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if "SegmentationClass" not in parts[:-1] or not parts[-1].lower().endswith(".png"):
            continue
        sample = parts[-1][: -len(".png")]
        if sample not in known:
            unknown.append(sample)
        elif sample in entries:
            raise DatasetError(
                f"two masks of the archive are of sample {sample!r}. Export one task at a time."
            )
        else:
            entries[sample] = info
    if unknown:
        raise DatasetError(
            f"{len(unknown)} of {len(unknown) + len(entries)} masks are of no sample of dataset {dataset.name!r}: "
            f"{_some(unknown)}. Is it another dataset's export?"
        )
    if not entries:
        raise DatasetError(
            "the archive holds no SegmentationClass/*.png. Export from CVAT as 'Segmentation mask 1.1'."
        )
    return entries


def _labelmap(archive: zipfile.ZipFile, classes: ClassMap) -> list[tuple[tuple[int, int, int], int]]:
    """Colour and class id of every label, in the order of labelmap.txt."""
    found = [i for i in archive.infolist() if PurePosixPath(i.filename).name == "labelmap.txt"]
    if len(found) != 1:
        raise DatasetError(
            f"the archive holds {len(found)} labelmap.txt; expected one. Export from CVAT as 'Segmentation mask 1.1'."
        )
    text = _bounded(archive, found[0], _LIST_LIMIT).decode("utf-8", "replace")
    ids, labels = _label_ids(classes), []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(v) for v in rest.split(":")[0].split(","))
        except ValueError:
            raise DatasetError(f"labelmap.txt: {brief(line)} is no 'label:red,green,blue::'.") from None
        if name not in ids:
            raise DatasetError(
                f"labelmap.txt names the label {brief(name)}, which is no class of the dataset ({', '.join(classes.names)}). "
                "Rename the label in CVAT, or add the class to dataset.yaml."
            )
        labels.append(((red, green, blue), ids[name]))
    if len({color for color, _ in labels}) < len(labels):
        raise DatasetError(
            "labelmap.txt gives two labels one colour: give them different ones in CVAT and export again."
        )
    return labels


def _bounded(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """An entry's bytes, refused when there are more than `limit`, whatever its header claims."""
    with archive.open(info) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise DatasetError(f"{info.filename!r} unpacks to more than {limit:,} bytes, more than it can need.")
    return data


def _cvat_mask(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, labels: list, shape: tuple[int, int]
) -> np.ndarray:
    """(H, W) ids of a PNG of label colours, or of one channel of positions in labelmap.txt."""
    data = _bounded(archive, info, 4 * shape[0] * shape[1] + (1 << 16))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            size, by_place = picture.size, picture.mode == "L"  # known before anything is unpacked
            if size == shape[::-1]:
                stored = np.asarray(picture if by_place else picture.convert("RGB")).astype(np.uint32)
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        raise ValueError(f"it cannot be read ({error})") from None
    if size != shape[::-1]:
        raise ValueError(_other_size(size, shape))
    keys = list(range(len(labels))) if by_place else [(r << 16) | (g << 8) | b for (r, g, b), _ in labels]
    code = stored if by_place else stored @ np.array([65536, 256, 1], np.uint32)
    values, inverse = np.unique(code, return_inverse=True)
    ids = dict(zip(keys, (c for _, c in labels), strict=True))
    if unknown := [int(v) for v in values if int(v) not in ids]:
        named = unknown[0] if by_place else f"#{unknown[0]:06x}"
        raise ValueError(f"it holds {len(unknown)} colour(s) that labelmap.txt lacks, the first {named}")
    return np.array([ids[int(v)] for v in values], np.uint8)[inverse.reshape(code.shape)]


# Label Studio


def _label_studio_masks(
    tasks: list[dict], dataset: Dataset
) -> Iterator[tuple[str, Callable[[tuple[int, int]], np.ndarray]]]:
    ids, known, seen = _label_ids(dataset.classes), set(dataset.samples["id"]), set()
    for number, task in enumerate(tasks, 1):
        data = task.get("data")
        sample = data.get("sample") if isinstance(data, dict) else None
        if not isinstance(sample, str) or sample not in known:
            raise DatasetError(
                f"task {number} of {len(tasks)} is of sample {brief(sample)}, which dataset {dataset.name!r} lacks. "
                "Import tasks.json of `seglib export`: it names every task's sample."
            )
        annotation = _last_annotation(task)
        if annotation is None:
            continue
        if sample in seen:
            raise DatasetError(f"two annotated tasks are of sample {sample!r}. Delete one of them.")
        seen.add(sample)
        yield sample, partial(_paint, annotation, ids)


def _last_annotation(task: dict) -> list | None:
    """The regions of the annotation that was changed last; None if nobody annotated."""
    given = task.get("annotations")
    done = [
        a
        for a in (given if isinstance(given, list) else [])
        if isinstance(a, dict) and not a.get("was_cancelled")
    ]
    if not done:
        return None
    last = max(done, key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))
    return last.get("result") if isinstance(last.get("result"), list) else []


def _paint(regions: list, ids: Mapping[str, int], shape: tuple[int, int]) -> np.ndarray:
    mask = np.full(shape, ids[BACKGROUND], np.uint8)
    for region in regions:
        if not isinstance(region, dict) or region.get("type") != "brushlabels":
            continue
        value = region.get("value")
        if not isinstance(value, dict) or value.get("format") != "rle":
            raise ValueError(f"a region of the tag {brief(region.get('from_name', MASK_TAG))} is no rle")
        size = region.get("original_width"), region.get("original_height")
        if size != shape[::-1]:
            raise ValueError(_other_size([brief(side) for side in size], shape))
        if region.get("image_rotation"):
            raise ValueError("its image was rotated in Label Studio: rotate it back")
        names = value.get("brushlabels")
        if (
            not isinstance(names, list)
            or len(names) != 1
            or not isinstance(names[0], str)
            or names[0] not in ids
        ):
            raise ValueError(f"a region is labelled {brief(names)}; expected one of {', '.join(ids)}")
        mask[decode(value.get("rle"), *shape)] = ids[names[0]]
    return mask


# both


def _label_ids(classes: ClassMap) -> dict[str, int]:
    """Label -> class id; what nobody labelled is "background", and not scored where no class is called so."""
    return {BACKGROUND: IGNORE, ignored_name(classes): IGNORE} | {n: c for c, n in enumerate(classes.names)}


def _write(
    dataset: Dataset, out: Path, masks: Iterable[tuple[str, Callable[[tuple[int, int]], np.ndarray]]]
) -> pd.DataFrame:
    """Read every mask, then write those that changed.

    Args:
        masks: sample id and a function of the expected (height, width) that reads its (H, W) ids.
    """
    if out.resolve() == dataset.root.resolve():
        raise DatasetError(
            f"{display_path(out)} is the dataset's folder: corrected masks never lie on the originals. Choose another."
        )
    originals = {(dataset.root / mask).resolve() for mask in dataset.samples["mask"]}
    corrected, faults, written = {}, [], set()
    paths = dict(zip(dataset.samples["id"], dataset.samples["mask"], strict=True))
    for sample, read in masks:
        path = dataset.root / paths[sample]
        original = read_mask(path, dataset.classes, f"{sample!r} ({paths[sample]})")
        # A mask beside the dataset's folder ("../masks/a.png") comes to lie inside `out` like all others.
        target = Path(
            *(part for part in PurePosixPath(paths[sample]).parts if part not in ("..", "/"))
        ).with_suffix(".png")
        try:
            mask = read(original.shape)
            changed = int((mask != original).sum())
            if changed and ((out / target).resolve() in originals or target in written):
                raise ValueError(f"{target.as_posix()} would lie on another mask: choose another folder")
            data = encode_mask(path, dataset.classes, mask) if changed else b""
        except (ValueError, OSError) as error:
            faults.append(f"{sample!r}: {error}")
            continue
        written.add(target)
        corrected[sample] = (target.as_posix() if changed else "", changed, changed / original.size, data)
    if faults:
        count = len(faults) + len(corrected)
        raise DatasetError(
            f"{len(faults)} of {count} masks cannot be used: {'; '.join(faults[:_NAMED])}. Nothing was written."
        )
    left = sum(
        len(data) for *_, data in corrected.values()
    )  # asked for at once: half of the masks would mislead
    for target, changed, _, data in corrected.values():
        if changed:
            with atomic_path(out / target, needed=left) as temporary:
                temporary.write_bytes(data)
            left -= len(data)
    rows = [(sample, *corrected[sample][:3]) for sample in paths if sample in corrected]
    return pd.DataFrame(rows, columns=["id", "mask", "changed", "share"])


def _other_size(size: Any, shape: tuple[int, int]) -> str:
    return f"it is {size[0]}x{size[1]} (width x height), the dataset's mask {shape[1]}x{shape[0]}"


def _some(names: list[str]) -> str:
    return ", ".join(repr(n) for n in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
