"""`plant`: a copy of any dataset with recorded faults, so that what finds faults can be measured on one's own data."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from seglib.data.classes import ClassMap
from seglib.data.dataset import Dataset, DatasetError, read_pair
from seglib.data.faults import KINDS, LABEL_FAULTS, LEVELS, PLANTED_COLUMNS, ClassUse, LabelFault, degrade, film_grain, label_fault
from seglib.data.image_io import read_mask
from seglib.data.config import FILE_NAME
from seglib.runs import resolve_path, display_path, write_csv, write_text
from seglib.runs import atomic_folder

# Ways to write a sequence and a frame into a file's name; tried in turn. They are searched for, so ids stay as they are.
_PATTERNS = (r"(?P<group>.+)_[A-Za-z]?(?P<frame>\d+)$", r"(?P<group>.+?)[-_. ]?(?P<frame>\d+)$", r"(?P<group>.+)$")
_IN_FOLDERS = r"^(?P<group>[^/]+)/(?:(?P<frame>\d+)|-)/"


def plant(
    dataset: Dataset,
    out: str | Path,
    kinds: Sequence[str] = KINDS,
    share: float = 0.2,
    splits: Sequence[str] = ("val",),
    seed: int = 0,
) -> pd.DataFrame:
    """Copy a dataset and plant faults in it: each chosen sample gets one, the kinds evenly often.

    Images are copied byte for byte, but for degraded ones (PNG). Masks are written anew as palette PNGs of class ids, 255 =
    ignore, whatever form they were stored in. Ids, splits, sequences and frames stay as they are; what dataset.yaml excluded
    is left out. It is written in a folder beside `out` and renamed when done, so that `out` is never half there.

    Args:
        dataset: what to copy.
        out: a folder that does not exist yet; a relative path starts at the project root.
        kinds: of `KINDS`.
        share: of the samples of each of `splits` that get a fault, in (0, 1]; at least one sample.
        splits: which get faults; all are copied.
        seed: the same seed plants the same faults, whatever the other splits hold.

    Returns:
        planted.csv: `sample`, `split`, `kind`, `severity` ("mild", "moderate", "severe"; of a label fault by the share of the
        scored pixels that it changes: up to 0.02, up to 0.1, beyond), `box` ("x0 y0 x1 y1" in pixels, x1 and y1 exclusive;
        empty: the whole image), `detail`. Also in `out`: dataset.yaml, <split>/{images,masks}, and clean_masks/<sample>.png,
        the sound masks of samples with a label fault.

    Raises:
        FileExistsError: `out` holds something.
        DatasetError: a file cannot be read, a split is not there, or a kind fits no sample that is left.
        ValueError: an unknown kind, a share outside (0, 1], or `out` inside the dataset.
    """
    out = resolve_path(out)
    _check(dataset, out, kinds, share, splits)
    with atomic_folder(out) as temporary:
        return _write(dataset, temporary, kinds, share, splits, seed)


def _check(dataset: Dataset, out: Path, kinds: Sequence[str], share: float, splits: Sequence[str]) -> None:
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise ValueError(f"kinds {', '.join(unknown) or '(none)'}: expected some of {', '.join(KINDS)}.")
    if not 0 < share <= 1:
        raise ValueError(f"share {share}: expected a share of the samples above 0 and at most 1, such as 0.2.")
    if not splits:
        raise ValueError(f"no split to plant in: expected one of {', '.join(dataset.splits)}.")
    for split in splits:
        dataset.split(split)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{display_path(out)} exists and is left as it is. Name another folder, or delete it.")
    if out.resolve().is_relative_to(dataset.root.resolve()):
        raise ValueError(f"{display_path(out)} lies in the dataset that is copied; name a folder outside it.")


def _write(
    dataset: Dataset, folder: Path, kinds: Sequence[str], share: float, splits: Sequence[str], seed: int
) -> pd.DataFrame:
    pattern, places = _places(dataset.samples)
    palette, rows = dataset.classes.palette().tobytes(), []
    for split in dataset.splits:
        samples = dataset.split(split)
        faults = plan_faults(dataset, split, kinds, share, seed) if split in splits else {}
        for row in samples.itertuples():
            kind, level, fault = faults.get(row.id, ("", 0, None))
            target = folder / split / "images" / f"{places[row.id]}{Path(row.image).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            image, mask = read_pair(dataset, row)  # of sound samples as well: no copy of what cannot be read
            if kind and not fault:
                rng = np.random.default_rng([seed, zlib.crc32(row.id.encode())])
                worse = degrade(image, kind, level, film_grain(image.shape, rng))
                Image.fromarray(worse).save(target.with_name(f"{row.id}.png"))
                rows.append((row.id, split, kind, LEVELS[level - 1], "", ""))
            else:
                shutil.copyfile(dataset.root / row.image, target)
            if fault:
                _save_ids(folder / "clean_masks" / f"{row.id}.png", mask, palette)
                box = " ".join(map(str, fault.box)) if fault.box else ""
                rows.append((row.id, split, kind, fault.severity, box, fault.detail))
            _save_ids(folder / split / "masks" / f"{places[row.id]}.png", fault.mask if fault else mask, palette)
    table = pd.DataFrame(rows, columns=PLANTED_COLUMNS)
    write_csv(folder / "planted.csv", table)
    write_text(folder / FILE_NAME, _recipe(dataset.name, dataset.classes, dataset.splits, pattern))
    return table


def plan_faults(
    dataset: Dataset, split: str, kinds: Sequence[str], share: float, seed: int
) -> dict[str, tuple[str, int, LabelFault | None]]:
    """Which samples of a split get which fault, as `plant` writes them.

    Returns:
        sample -> kind, level (1-3, of a degradation), fault (of a label; None for a degradation).

    Raises:
        DatasetError: a kind fits no sample that is left, or a mask cannot be read.
    """
    samples, kinds = dataset.split(split), list(dict.fromkeys(kinds))
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    left = [samples.iloc[k] for k in rng.permutation(len(samples))]
    count = max(1, round(share * len(samples)))
    offset, chosen, used = int(rng.integers(len(kinds))), {}, dict.fromkeys(kinds, 0)
    wanted = [kinds[(offset + k) % len(kinds)] for k in range(count)]
    use = None
    if set(wanted) & set(LABEL_FAULTS):
        use = ClassUse.survey((_mask(dataset, row) for row in samples.itertuples()), dataset.classes.names)
    for kind in wanted:
        for k, row in enumerate(left):
            fault = None
            if kind in LABEL_FAULTS:
                other = _other(dataset, samples, row, rng) if kind == "wrong_mask" else None
                fault = label_fault(kind, _mask(dataset, row), use, rng, other)
                if fault is None:
                    continue
            chosen[row["id"]] = (kind, used[kind] % len(LEVELS) + 1, fault)
            used[kind] += 1
            del left[k]
            break
        else:
            detail = f"{kind} fits none of the {len(left)} samples left in split {split!r}"
            raise DatasetError(f"{detail} of {len(samples)}.", "plant", "Plant fewer faults, or leave this kind out.")
    return chosen


def _other(
    dataset: Dataset, samples: pd.DataFrame, row: Any, rng: np.random.Generator
) -> tuple[str, np.ndarray] | None:
    """Id and mask of another sample of the split: of another sequence, or else of the farther half of its own.

    A neighbour's mask would be almost right.
    """
    others = samples[samples["id"] != row["id"]]
    elsewhere = others[(others["group"] != row["group"]) | (others["group"] == "")]
    if len(elsewhere):
        others = elsewhere
    elif len(others) and others["frame"].notna().all() and pd.notna(row["frame"]):
        away = (others["frame"] - row["frame"]).abs()
        others = others[away >= away.median()]
    if others.empty:
        return None
    other = others.iloc[int(rng.integers(len(others)))]
    return other["id"], _mask(dataset, other)


def _mask(dataset: Dataset, row: Any) -> np.ndarray:
    path, name = (row["mask"], row["id"]) if isinstance(row, pd.Series) else (row.mask, row.id)
    return read_mask(dataset.root / path, dataset.classes, f"{name!r} ({path})")


def _places(samples: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """The pattern of sequences, and of each sample its path in images/ and masks/ without its ending.

    Where no usual pattern reads the sequences off the ids, folders named <sequence>/<frame> say them.
    """
    flat = {name: name for name in samples["id"]}
    known = [(row.group, None if pd.isna(row.frame) else int(row.frame)) for row in samples.itertuples()]
    if not any(group for group, _ in known):
        return "", flat
    for pattern in _PATTERNS:
        found = []
        for name in samples["id"]:
            parts = (match := re.search(pattern, name)) and match.groupdict()
            frame = (parts or {}).get("frame")
            found.append((parts["group"] if parts else "", int(frame) if frame else None))
        if found == known:
            return pattern, flat
    folders: dict[str, str] = {}
    for group, _ in known:
        safe = re.sub(r"[^\w-]", "_", group) or "_"
        taken = {folder.casefold() for other, folder in folders.items() if other != group}
        while safe.casefold() in taken:
            safe += "_"
        folders.setdefault(group, safe)
    named = zip(samples["id"], known, strict=True)
    return _IN_FOLDERS, {
        name: f"{folders[group]}/{'-' if frame is None else frame}/{name}" if group else name
        for name, (group, frame) in named
    }


def _save_ids(path: Path, ids: np.ndarray, palette: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids)
    picture.putpalette(palette)
    picture.save(path)


def _recipe(name: str, classes: ClassMap, splits: Sequence[str], pattern: str) -> str:
    safe = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "_", name[:64]).lstrip("_") or "dataset"
    values: dict[str, Any] = {"name": f"{safe}_planted", "classes": list(classes.names)}
    if classes.colors_named:
        values["colors"] = classes.colors.tolist()
    values["splits"] = {
        split: {"images": f"{split}/images/**/*.*", "masks": f"{split}/masks/**/*.png"} for split in splits
    }
    if pattern:
        values["group"] = pattern
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
