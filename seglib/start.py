"""The first steps: a project of one's own, and a split that is proposed."""

import re
import shutil
from collections.abc import Sequence
from functools import partial
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


def new_project(folder: str | Path) -> Path:
    """Copy notebooks, params and the demo dataset into a new folder: from the checkout, or from the installed package."""
    source = Path(__file__).resolve().parent.parent
    if not (source / "notebooks").is_dir():
        files = (file for file in metadata.files("seglib") or () if file.name == "01_data_check.ipynb")
        source = Path(next(files).locate()).resolve().parent.parent
    with atomic_folder(folder) as new:
        for part in PARTS:
            copy = partial(shutil.copytree, ignore=_LEFT) if (source / part).is_dir() else shutil.copyfile
            (new / part).parent.mkdir(exist_ok=True)
            copy(source / part, new / part)
    return Path(folder)


def propose_split(folder: str | Path, shares: Sequence[float]) -> pd.Series:
    """Divide train into train, val and test: whole sequences, near-duplicates together, classes balanced.

    Writes split/val.txt, split/test.txt and their lines in dataset.yaml; train keeps the rest of what its globs find.

    Args:
        folder: a dataset with a dataset.yaml.
        shares: of train, val and, if wanted, test.

    Returns:
        images of each split.

    Raises:
        DatasetError: check "splits": a split is there already, or dataset.yaml cannot be changed; then it stays.
    """
    path, wanted = Path(folder) / "dataset.yaml", dict(zip(("train", "val", "test"), shares, strict=False))
    dataset = data.load_dataset(folder)
    if "limit" in set(dataset.problems["check"]) or len(shares) not in (2, 3):
        detail = f"{len(shares)} shares of {dataset.name}: expected two or three, and no limit in {path}."
        raise data.DatasetError(detail, "splits", "Remove limit, and give shares such as 0.7 0.15 0.15.")
    there = [name for name in dataset.splits if name != "train" and wanted.get(name)]
    if there or "train" not in dataset.splits or not all(0 <= share < 1 for share in shares):
        detail = f"shares {wanted} are for splits that are made of train; {', '.join(dataset.splits)} are there already."
        suggestion = f"Remove them from {path}, or give no share (0) to those that are there."
        raise data.DatasetError(detail, "splits", suggestion)
    found = checks.check_dataset(dataset)
    inside = found.train
    samples = found.samples[inside].reset_index(drop=True)
    places = pd.Series(samples.index, samples["id"])
    pairs = found.duplicates[found.duplicates[["id_1", "id_2"]].isin(places.index).all(axis=1)]
    joined = coo_array(
        (np.ones(len(pairs)), (places[pairs["id_1"]], places[pairs["id_2"]])), (len(samples),) * 2
    )
    counts = (np.cumsum([0, *shares]) / sum(shares) * len(samples)).round().astype(int)
    samples["split"] = np.repeat([*wanted], np.diff(counts))  # only their shares matter
    split = checks.suggest_split(
        samples, found.pixel_counts[inside], connected_components(joined, directed=False)[1]
    )
    lines = ""
    for name in (name for name in wanted if name != "train" and wanted[name]):
        write_text(
            path.parent / "split" / f"{name}.txt", "".join(f"{i}\n" for i in samples["id"][split == name])
        )
        lines += f"  {name}: {{ids: split/{name}.txt}}\n"
    text = path.read_text(encoding="utf-8")
    new, changed = re.subn(r"(?m)^( +)train:.*\n(?:\1 .*\n)*", lambda match: match[0] + lines, text, count=1)
    try:
        write_text(path, new)
        samples = data.load_dataset(folder).samples
        if changed:
            return samples["split"].value_counts(sort=False)
        raise data.DatasetError(f"{path} has no line `  train: ...`.", "splits")
    except data.DatasetError as error:
        write_text(path, text)
        raise data.DatasetError(
            f"{error} {path} stays as it was.", "splits", f"Write under splits:\n{lines}"
        ) from None
