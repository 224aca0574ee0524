"""The first steps: a project of one's own, and a split that is proposed."""

import re
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seglib import checks, data
from seglib.runs import atomic_folder, write_text

PARTS = ("notebooks", "params", "data/README.md", "data/configs", "data/demo")
_LEFT = shutil.ignore_patterns(".*", "__pycache__")
_TRAIN = re.compile(r"(?m)^( +)train:.*\n(?:\1 .*\n)*")  # its lines in dataset.yaml


def new_project(folder: str | Path) -> Path:
    """Copy notebooks, params and the demo dataset into a new folder: from the checkout, or from the installed package."""
    source = Path(__file__).resolve().parent.parent
    if not (source / "notebooks").is_dir():
        files = (file for file in metadata.files("seglib") or () if file.name == "01_data_check.ipynb")
        source = Path(next(files).locate()).resolve().parent.parent
    with atomic_folder(folder) as new:
        for part in PARTS:
            (new / part).parent.mkdir(exist_ok=True)
            if (source / part).is_dir():
                shutil.copytree(source / part, new / part, ignore=_LEFT)
            else:
                shutil.copyfile(source / part, new / part)
    return Path(folder)


def propose_split(folder: str | Path, shares: Sequence[float]) -> pd.Series:
    """Divide train into train, val and test: whole sequences, near-duplicates together, classes balanced.

    Writes split/val.txt, split/test.txt and their lines in dataset.yaml; train keeps the rest of what its globs find.
    `shares` are those of train, val and, if wanted, test; 0 leaves one as it is. Returns the images of each split.
    A DatasetError (check "splits") tells that a split is there already, or that dataset.yaml cannot be changed.
    """
    path, wanted = Path(folder) / "dataset.yaml", dict(zip(("train", "val", "test"), shares, strict=False))
    dataset, text = data.load_dataset(folder), path.read_text(encoding="utf-8")
    train, new = _TRAIN.search(text), [name for name in wanted if name != "train" and wanted[name]]
    if not train or "ids:" in train[0] or re.search("(?m)^limit:", text):
        detail = f"{path}: expected `  train:` below splits, without ids, and no limit."
        raise data.DatasetError(detail, "splits", "Change it, or write lists of ids for the splits by hand.")
    if len(shares) not in (2, 3) or set(new) & set(dataset.splits) or not all(0 <= s < 1 for s in shares):
        detail = f"shares {wanted}: expected two or three of 0-1; there are {', '.join(dataset.splits)}."
        raise data.DatasetError(detail, "splits", "Give 0 for a split that is there, or remove it.")
    found = checks.check_dataset(dataset)
    samples = found.samples[found.train].reset_index(drop=True)
    places = pd.Series(samples.index, samples["id"])
    pairs = found.duplicates[["id_1", "id_2"]]
    pairs = pairs[pairs.isin(places.index).all(axis=1)].apply(lambda ids: ids.map(places))
    joined = coo_array((np.ones(len(pairs)), pairs.to_numpy(int).T), (len(samples),) * 2)
    counts = (np.cumsum([0, *shares]) / sum(shares) * len(samples)).round().astype(int)
    samples["split"] = np.repeat([*wanted], np.diff(counts))  # only their shares matter
    alike = connected_components(joined, directed=False)[1]
    split = checks.suggest_split(samples, found.pixel_counts[found.train], alike)
    lines = ""
    for name in new:
        ids = samples["id"][split == name]
        write_text(path.parent / "split" / f"{name}.txt", "".join(f"{i}\n" for i in ids))
        lines += f"{train[1]}{name}: {{ids: split/{name}.txt}}\n"
    write_text(path, text[: train.end()] + lines + text[train.end() :])
    return split.value_counts(sort=False)
