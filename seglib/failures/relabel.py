"""Wrong labels to the annotation tool and back: which samples, one zip out, corrected masks in.

What comes back is another person's file: no name in it becomes a path, and nothing is unpacked that is larger
than the mask it stands for.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from seglib import data
from seglib.data import IGNORE, ClassMap, Dataset, DatasetError
from seglib.evaluate import Evaluation, saved_prediction
from seglib.failures.label_errors import named
from seglib.failures.verdicts import VerdictBook
from seglib.runs import atomic_path, brief, display_path, read_table

_BACKGROUND = "background"  # what CVAT calls pixels without a label
_LABEL = re.compile(r"([^:]*):(\d{1,3}),(\d{1,3}),(\d{1,3})(:.*)?", re.ASCII)  # a line of labelmap.txt


def to_relabel(folder: Path) -> list[str]:
    """List the samples of a failures folder whose labels should be looked at again.

    The verdict "label wrong" comes first, then the masks that suspects.csv names, most probable first, but for
    the verdicts "model wrong" and "ignore".
    """
    verdicts = {i: row.verdict for i, row in VerdictBook(folder / "verdicts.csv").rows.items()}
    ids = [sample for sample, verdict in verdicts.items() if verdict == "label wrong"]
    if (folder / "suspects.csv").is_file():
        ids += named(read_table(folder / "suspects.csv"))["id"].tolist()
    return [i for i in dict.fromkeys(ids) if verdicts.get(i) not in ("model wrong", "ignore")]


def _labels(classes: ClassMap) -> dict[str, tuple[int, tuple[int, ...]]]:
    """CVAT's labels -> class id and colour: the background (black), the classes, ignored pixels by a free name."""
    ignored = next(name for name in ("ignored", "ignored_", "ignored__") if name not in classes.names)
    ids = {_BACKGROUND: IGNORE} | {name: c for c, name in enumerate(classes.names)} | {ignored: IGNORE}
    colors = [(0, 0, 0), *map(tuple, data.default_colors(len(ids) - 1).tolist())]
    return {name: (ids[name], color) for name, color in zip(ids, colors, strict=True)}


def export_for_relabelling(
    evaluation: Evaluation, out: str | Path, samples: Iterable[str], masks: str = "present"
) -> Path:
    """Write a zip that CVAT and datumaro take as "Segmentation mask 1.1" (the layout of Pascal VOC 2012).

    Ignored pixels have a label of their own, and survive the round trip. A class called "background" is CVAT's
    background, the pixels without a label. `samples` are ids; the masks to begin with are "present" or "predictions".
    """
    dataset, ids = evaluation.dataset, list(dict.fromkeys(samples))
    rows = dataset.samples.set_index("id", drop=False)
    if unknown := [i for i in ids if i not in rows.index]:
        told = f"{len(unknown)} of {len(ids)} samples to export are not in dataset {dataset.name!r}"
        raise DatasetError(f"{told}: {', '.join(map(repr, unknown[:3]))}.")
    pairs = (data.read_pair(dataset, rows.loc[sample]) for sample in ids)
    if masks == "predictions":
        drawn = zip(ids, pairs, strict=True)
        pairs = ((image, saved_prediction(evaluation, name, mask.shape)) for name, (image, mask) in drawn)
    return write_annotations(Path(out), evaluation.classes, ids, pairs)


def write_annotations(
    out: Path, classes: ClassMap, ids: list[str], pairs: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Path:
    """Write the zip of `export_for_relabelling`; `pairs` are image (H, W, 3) and mask (H, W) of each id."""
    odd = [name for name in (*classes.names, *ids) if name != name.strip() or not name.isprintable()]
    if odd := odd + [name for name in classes.names if ":" in name or name.startswith("#")]:
        raise ValueError(f"CVAT's lists cannot hold the name {odd[0]!r}: rename it, a class in dataset.yaml.")
    labels, table = _labels(classes), np.zeros((256, 3), np.uint8)
    for c, color in labels.values():
        table[c] = color
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for sample, (image, mask) in zip(ids, pairs, strict=True):
            # objects too: CVAT takes the background for one, of a label that no task has, where there are none
            kinds = {"JPEGImages": image, "SegmentationClass": table[mask], "SegmentationObject": table[mask]}
            for kind, picture in kinds.items():
                with archive.open(f"{kind}/{sample}.png", "w") as file:
                    Image.fromarray(picture).save(file, "PNG")
        lines = [f"{name}:{','.join(map(str, color))}::\n" for name, (_, color) in labels.items()]
        archive.writestr("labelmap.txt", "".join(["# label:color_rgb:parts:actions\n", *lines]))
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join([*ids, ""]))
        hexes = {name: "#" + bytes(color).hex() for name, (_, color) in labels.items() if name != _BACKGROUND}
        editor = [{"name": name, "color": color, "attributes": []} for name, color in hexes.items()]
        archive.writestr("labels.json", json.dumps(editor, indent=1, ensure_ascii=False))
    return out


def import_corrections(source: str | Path, dataset: Dataset, out: str | Path) -> pd.DataFrame:
    """Write corrected masks as mask files in the dataset's own form, in a folder of their own.

    `source` is a folder of `<id>.png` with class ids (255: ignored), or a zip of CVAT's "Segmentation mask 1.1":
    pixels without a label are of the class "background" where there is one, else ignored. Everything is read before
    anything is written: samples, labels or values that the dataset lacks, masks as the dataset stores them in place of
    class ids, masks of another size, or a file that would lie on an original are a DatasetError. Returns a row a mask: id, mask (path in `out`; "" where nothing
    changed), changed (pixels), share (of all pixels).
    """
    source, out = Path(source), Path(out)
    if source.is_dir():
        found = [(path.stem, lambda _, path=path: data.read_stored(path)) for path in source.rglob("*.png")]
        table, files = _changes(dataset, out, found, partial(_class_ids, dataset.classes))
    else:
        try:
            with zipfile.ZipFile(source) as archive:
                entries = [i for i in archive.infolist() if "SegmentationClass/" in i.filename]
                entries = [(PurePosixPath(i.filename), i) for i in entries if i.filename.endswith(".png")]
                found = [(path.stem, partial(_read_colors, archive, info)) for path, info in entries]
                labels = _read_labelmap(archive, dataset.classes)
                table, files = _changes(dataset, out, found, lambda _, colors: labels.encode(colors))
        except DatasetError:
            raise
        except Exception as error:  # damaged archives raise BadZipFile, RuntimeError, struct.error, ...
            told = f"{display_path(source)} cannot be read as a zip ({error})"
            wanted = "a folder of PNG masks, or CVAT's zip of its format 'Segmentation mask 1.1'"
            raise DatasetError(f"{told}: expected {wanted}.") from None
    for target, content in files.items():
        with atomic_path(out / target) as temporary:
            temporary.write_bytes(content)
    return table


def _read_labelmap(archive: zipfile.ZipFile, classes: ClassMap) -> ClassMap:
    """Read which colour stands for which class in labelmap.txt."""
    labels, ids = _labels(classes), {}
    text = _unpack(archive, archive.getinfo("labelmap.txt"), 1 << 20).decode("utf-8", "replace")
    for line in re.findall(r"^[^#\s].*$", text, re.MULTILINE):
        found = _LABEL.fullmatch(line)
        color = tuple(map(int, found.group(2, 3, 4))) if found else ()
        if not found or color in ids or found[1] not in labels:
            told = f"labelmap.txt: {brief(line)} is no 'label:red,green,blue::' with a colour of its own"
            raise DatasetError(f"{told} and one of the classes {', '.join(classes.names)}.")
        ids[color] = labels[found[1]][0]
    return ClassMap(classes.names, id_map=ids)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Read an entry of at most `limit` bytes; of one whose header lies, zipfile reads no more than it says."""
    if info.file_size > limit:
        raise DatasetError(f"{info.filename!r} unpacks to more than {limit:,} bytes, more than it can need.")
    return archive.read(info)


def _read_colors(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, int]) -> np.ndarray:
    """Read a mask in the colours of labelmap.txt, (H, W, 3) uint8."""
    content = _unpack(archive, info, 4 * shape[0] * shape[1] + (1 << 16))
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if picture.size[::-1] != shape:  # known before anything is decoded
                raise ValueError(f"it is {picture.size[::-1]}, its mask {shape}")
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ValueError(f"it cannot be read ({error})") from None


def _class_ids(classes: ClassMap, original: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Return a mask of class ids; a ValueError if it seems to hold what the dataset's own masks store."""
    wanted, known = f"expected class ids, 0-{len(classes) - 1}, and 255 for ignored", original != IGNORE
    try:
        mask = ClassMap(classes.names).encode(stored)
    except DatasetError as error:
        raise ValueError(f"it {error.detail.split(';')[0]}; {wanted}") from None
    with suppress(DatasetError):
        changed = [np.count_nonzero((ids != original)[known]) for ids in (classes.encode(stored), mask)]
        if 2 * changed[0] < changed[1]:
            raise ValueError(f"its values are those that the dataset's masks store; {wanted}")
    if len(classes) == 2 and known.all() and np.unique(mask).tolist() == [0, IGNORE]:
        raise ValueError(f"it is black and white; {wanted}. If 255 is ignored here, import a zip of CVAT")
    return mask


def _changes(
    dataset: Dataset, out: Path, found: list[tuple[str, Callable]], encode: Callable
) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """Compare masks with their originals: the table of `import_corrections`, and files to write.

    `found` are ids, and what reads a mask of a given (H, W); `encode` makes class ids of it, given the original's.
    """
    samples, masks, names = dataset.samples, dict(found), [name for name, _ in found]
    known = set(samples["id"])
    if not names:
        raise DatasetError("there are no masks: expected <id>.png (in a zip: SegmentationClass/<id>.png).")
    # names that came from elsewhere are only compared, never used as paths
    if odd := [name for name in names if names.count(name) > 1 or name not in known]:
        told = f"{len(odd)} of {len(names)} masks do not belong to one sample each of {dataset.name!r}"
        raise DatasetError(f"{told}: {', '.join(map(repr, odd[:3]))}. Are they of another dataset?")
    originals = {(dataset.root / mask).resolve() for mask in samples["mask"]}
    rows, faults, files = [], [], {}
    for row in samples[samples["id"].isin(masks)].itertuples():
        original, target, changed = data.read_mask(dataset.root / row.mask, dataset.classes), "", 0
        try:
            stored = masks[row.id](original.shape)
            if stored.shape[:2] != original.shape:
                raise ValueError(f"it is {stored.shape}, its mask {original.shape}")
            mask = encode(original, stored)
            if changed := int((mask != original).sum()):
                # a mask beside the dataset ("../masks/a.png") comes to lie inside `out` like all others
                parts = [part for part in PurePosixPath(row.mask).parts if part not in ("..", "/")]
                target = PurePosixPath(*parts).with_suffix(".png").as_posix()
                if target in files or (out / target).resolve() in originals:
                    raise ValueError(f"{target} would lie on another mask: choose another folder")
                files[target] = data.encode_mask(dataset.root / row.mask, dataset.classes, mask)
        except (ValueError, OSError) as error:
            faults.append(f"{row.id!r}: {error}")
        rows.append((row.id, target, changed, changed / original.size))
    if faults:
        told = f"{len(faults)} of {len(masks)} masks cannot be used: {'; '.join(faults[:3])}"
        raise DatasetError(f"{told}. Nothing was written.")
    return pd.DataFrame(rows, columns=["id", "mask", "changed", "share"]), files
