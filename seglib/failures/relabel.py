"""Wrong labels to the annotation tool and back: which samples, one zip out, corrected masks in; tables.

What comes back is another person's file: no name in it becomes a path, and nothing is unpacked that is larger
than the mask it stands for.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from seglib import data
from seglib.data import IGNORE, ClassMap, Dataset, DatasetError
from seglib.evaluate import Evaluation, saved_prediction
from seglib.failures.label_errors import SURE as LABEL_SURE
from seglib.failures.verdicts import VerdictBook
from seglib.runs import atomic_path, brief, display_path, read_table, write_json, write_text

_BACKGROUND = "background"  # what CVAT calls pixels without a label
_FORMULA = (*"=+-@\t\r\n＝＋－＠'",)  # spreadsheets run what begins with these; ' hides them


def to_relabel(folder: Path, min_score: float = LABEL_SURE) -> list[str]:
    """List the samples of a failures folder whose labels should be looked at again, most suspicious first.

    The verdict "label wrong" comes first, then labels at least as suspicious as `min_score` (suspects.csv),
    and the cause "label error". Images with the verdict "model wrong" or "ignore" are left out.
    """
    verdicts = {sample: row.verdict for sample, row in VerdictBook(folder / "verdicts.csv").rows.items()}
    ids = [sample for sample, verdict in verdicts.items() if verdict == "label wrong"]
    if (folder / "suspects.csv").is_file():
        suspects = read_table(folder / "suspects.csv")  # most suspicious first
        ids += suspects.loc[pd.to_numeric(suspects["label_score"]) >= min_score, "id"].tolist()
    if (folder / "failures.csv").is_file():
        failures = read_table(folder / "failures.csv")
        ids += failures.loc[failures["cause"] == "label error", "id"].tolist()
    return [i for i in dict.fromkeys(ids) if verdicts.get(i) not in ("model wrong", "ignore")]


def export_for_relabelling(
    evaluation: Evaluation, out: str | Path, samples: Iterable[str] | None = None, masks: str = "present"
) -> Path:
    """Write a zip that CVAT and datumaro take as "Segmentation mask 1.1" (the layout of Pascal VOC 2012).

    labels.json inside holds the labels for CVAT's label editor. Ignored pixels have a label of their own, and
    survive the round trip. A class called "background" is CVAT's background, the pixels without a label.

    Args:
        out: the zip file.
        samples: ids; those of `to_relabel` by default.
        masks: to begin with: "present" or "predictions".
    """
    dataset, names = evaluation.dataset, evaluation.classes.names
    if samples is None:
        samples = to_relabel(evaluation.run.failures(evaluation.split))
    ids, rows = list(dict.fromkeys(samples)), dataset.samples.set_index("id", drop=False)
    if not ids:
        raise DatasetError("no label is in doubt, and no verdict says so: nothing to export. Name images.")
    if unknown := [i for i in ids if i not in rows.index]:
        told = f"{len(unknown)} of {len(ids)} samples to export are not in dataset {dataset.name!r}"
        raise DatasetError(f"{told}: {', '.join(map(repr, unknown[:3]))}.")
    odd = [n for n in (*names, *ids) if n != n.strip() or not n.isprintable()]
    if odd := odd or [n for n in names if ":" in n or n.startswith("#")]:
        told = f"CVAT's lists cannot hold the name {odd[0]!r}"
        raise ValueError(f"{told}. Rename it (a class: in dataset.yaml).")
    labels, table = _labels(evaluation.classes), np.zeros((256, 3), np.uint8)
    table[: len(names)] = [labels[name] for name in names]
    table[IGNORE] = labels[_ignored_name(evaluation.classes)]
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for sample in ids:
            image, mask = data.read_pair(dataset, rows.loc[sample])
            if masks == "predictions":
                mask = saved_prediction(evaluation, sample, mask.shape)
            # objects too: CVAT takes the background for one, of a label that no task has, where there are none
            kinds = ("JPEGImages", "SegmentationClass", "SegmentationObject")
            pictures = dict(zip(kinds, (image, table[mask], table[mask]), strict=True))
            for kind, picture in pictures.items():
                stream = io.BytesIO()
                Image.fromarray(picture).save(stream, "PNG")
                archive.writestr(f"{kind}/{sample}.png", stream.getvalue())
        lines = [f"{name}:{','.join(map(str, color))}::" for name, color in labels.items()]
        archive.writestr("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines, ""]))
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join([*ids, ""]))
        hexes = {name: "#{:02x}{:02x}{:02x}".format(*c) for name, c in labels.items() if name != _BACKGROUND}
        plain = [{"name": name, "color": color, "attributes": []} for name, color in hexes.items()]
        archive.writestr("labels.json", json.dumps(plain, indent=1, ensure_ascii=False))
    return Path(out)


def _ignored_name(classes: ClassMap) -> str:
    """The label of ignored pixels: "ignored", unless a class has that name."""
    names = ("ignored" + "_" * k for k in range(len(classes) + 1))
    return next(name for name in names if name not in classes.names)


def _labels(classes: ClassMap) -> dict[str, tuple[int, ...]]:
    """Label -> Pascal VOC's colour of its number: background (0, black), classes, ignored pixels.

    The bits of a number go to red, green and blue in turn, the highest first.
    """
    labels = {_BACKGROUND: (0, 0, 0)}
    for number, name in enumerate((*classes.names, _ignored_name(classes)), 1):
        bits = [(number >> (3 * bit), 7 - bit) for bit in range(3)]
        labels.setdefault(name, tuple(sum((n >> c & 1) << shift for n, shift in bits) for c in range(3)))
    return labels


def import_corrections(source: str | Path, dataset: Dataset, out: str | Path) -> pd.DataFrame:
    """Write corrected masks as mask files in the dataset's own form, in a folder of their own.

    Everything is read before anything is written: samples, labels or values that the dataset lacks, masks of
    another size, or a file that would lie on an original are a DatasetError.

    Args:
        source: a folder of `<id>.png` with class ids (255: ignored), or a zip of CVAT's "Segmentation mask
            1.1": labels are known by name, and pixels without one are of the class "background" where there
            is one, else ignored.
        out: a folder; masks lie in it as in the dataset (`train/masks/<name>.png`), to be looked at and
            copied.

    Returns:
        a row a mask, in the order of the dataset: id, mask (path in `out`; "" where nothing changed and
        nothing is written), changed (pixels), share (of all pixels).
    """
    source, out = Path(source), Path(out)
    if source.is_dir():
        masks = _of_samples([(path.stem, path) for path in source.rglob("*.png")], dataset)
        return _write_changed(dataset, out, masks, lambda path, _: _read_folder(path, dataset))
    try:
        with zipfile.ZipFile(source) as archive:
            found = [(PurePosixPath(i.filename.replace("\\", "/")), i) for i in archive.infolist()]
            found = [(p.stem, i) for p, i in found if p.suffix == ".png" and "SegmentationClass" in p.parts]
            masks, labels = _of_samples(found, dataset), _read_labelmap(archive, dataset.classes)
            return _write_changed(dataset, out, masks, lambda i, shape: _read_cvat(archive, i, labels, shape))
    except Exception as error:  # damaged archives raise BadZipFile, RuntimeError, struct.error, ...
        if isinstance(error, DatasetError):
            raise
        told = f"{display_path(source)} cannot be read as a zip ({error})"
        raise DatasetError(f"{told}: expected a folder of PNG masks or a zip of CVAT.") from None


def _of_samples(found: list[tuple[str, Any]], dataset: Dataset) -> dict[str, Any]:
    """Sample id -> its mask file. Names that came from elsewhere are only compared, never used as paths."""
    names, known = [name for name, _ in found], set(dataset.samples["id"])
    if not names:
        raise DatasetError("there are no masks: expected <id>.png (in a zip: SegmentationClass/<id>.png).")
    if odd := [name for name in names if name not in known or names.count(name) > 1]:
        told = (
            f"{len(odd)} of {len(names)} masks do not belong to one sample each of dataset {dataset.name!r}"
        )
        raise DatasetError(f"{told}: {', '.join(map(repr, odd[:3]))}. Are they of another dataset?")
    return dict(found)


def _read_folder(path: Path, dataset: Dataset) -> np.ndarray:
    ids = data.read_stored(path)
    if ids.ndim != 2 or not np.isin(ids, [*range(len(dataset.classes)), IGNORE]).all():
        raise ValueError(
            f"expected class ids from 0 to {len(dataset.classes) - 1}, or {IGNORE}, in one channel"
        )
    return ids.astype(np.uint8)


def _read_labelmap(archive: zipfile.ZipFile, classes: ClassMap) -> dict[tuple[int, ...], int]:
    """Colour -> class id of every label of labelmap.txt."""
    ids = {_BACKGROUND: IGNORE, _ignored_name(classes): IGNORE} | {n: c for c, n in enumerate(classes.names)}
    labels: dict[tuple[int, ...], int] = {}
    text = _unpack(archive, archive.getinfo("labelmap.txt"), 1 << 20).decode("utf-8", "replace")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(":")
        if name.startswith("#"):
            continue
        color = tuple(int(v) if v.isdecimal() else -1 for v in rest.split(":")[0].split(","))
        if len(color) != 3 or color in labels or name not in ids:
            told = f"labelmap.txt: {brief(line)} is not 'label:red,green,blue::' with a colour of its own and one"
            raise DatasetError(f"{told} of the classes {', '.join(classes.names)}. Rename it in CVAT.")
        labels[color] = ids[name]
    return labels


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Read an entry, but not more than `limit` bytes: its header may lie about its size."""
    with archive.open(info) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise DatasetError(f"{info.filename!r} unpacks to more than {limit:,} bytes, more than it can need.")
    return content


def _read_cvat(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, labels: Mapping[tuple, int], shape: tuple[int, int]
) -> np.ndarray:
    """Read the (H, W) ids of a PNG of label colours."""
    content = _unpack(archive, info, 4 * shape[0] * shape[1] + (1 << 16))
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            _check_size(picture.size[::-1], shape)  # known before anything is decoded
            stored = np.asarray(picture.convert("RGB"))
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ValueError(f"it cannot be read ({error})") from None
    ids, known = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    for color, c in labels.items():
        place = (stored == color).all(-1)
        ids[place], known = c, known | place
    if not known.all():
        raise ValueError(f"it holds a colour that labelmap.txt lacks: {tuple(stored[~known][0].tolist())}")
    return ids


def _check_size(size: tuple[int, ...], shape: tuple[int, int]) -> None:
    if size != shape:
        raise ValueError(f"it is {size[1]}x{size[0]} (width x height), its mask {shape[1]}x{shape[0]}")


def _write_changed(
    dataset: Dataset, out: Path, masks: Mapping[str, Any], read: Callable[[Any, tuple], np.ndarray]
) -> pd.DataFrame:
    """Read every mask, then write those that changed."""
    originals = {(dataset.root / mask).resolve() for mask in dataset.samples["mask"]}
    rows, faults, written = [], [], {}
    for row in dataset.samples[dataset.samples["id"].isin(masks)].itertuples():
        original, target, changed = data.read_mask(dataset.root / row.mask, dataset.classes), "", 0
        try:
            mask = read(masks[row.id], original.shape)
            _check_size(mask.shape, original.shape)
            changed = int((mask != original).sum())
            if changed:
                # a mask beside the dataset ("../masks/a.png") comes to lie inside `out` like all others
                parts = [part for part in PurePosixPath(row.mask).parts if part not in ("..", "/")]
                target = PurePosixPath(*parts).with_suffix(".png").as_posix()
                if target in written or (out / target).resolve() in originals:
                    raise ValueError(f"{target} would lie on another mask: choose another folder")
                written[target] = data.encode_mask(dataset.root / row.mask, dataset.classes, mask)
        except (ValueError, OSError) as error:
            faults.append(f"{row.id!r}: {error}")
        rows.append((row.id, target, changed, changed / original.size))
    if faults:
        told = f"{len(faults)} of {len(masks)} masks cannot be used: {'; '.join(faults[:3])}"
        raise DatasetError(f"{told}. Nothing was written.")
    for target, content in written.items():
        with atomic_path(out / target) as temporary:
            temporary.write_bytes(content)
    return pd.DataFrame(rows, columns=["id", "mask", "changed", "share"])


def write_records(path: str | Path, table: pd.DataFrame) -> Path:
    """Write failures.csv as a JSON list of one object a row; null for what is missing, lists as lists."""
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    for record in records:
        if "nearest" in record:
            record["nearest"] = json.loads(record["nearest"] or "[]")
        if "suspect_box" in record:
            record["suspect_box"] = [int(v) for v in (record["suspect_box"] or "").split()] or None
    return write_json(path, records)


def write_spreadsheet(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a copy of a table for spreadsheets, which run text that begins with = + - @ as a formula.

    A file's name may begin so: such text gets an apostrophe in front, and so does text that begins with one.
    """

    def guarded(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    plain = table.astype(object).where(table.notna(), "").map(guarded).rename(columns=guarded)
    text = plain.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return write_text(path, f"\ufeff{text}")
