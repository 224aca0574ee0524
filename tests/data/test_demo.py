"""The demo dataset as it lies, every fault where it is recorded; and its broken twin."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglib.checks import check_dataset
from seglib.data import DatasetError, ensure_demo, load_dataset, make_broken, planted, read_pair
from seglib.data.inject import DEGRADATIONS, LABEL_FAULTS
from seglib.runs import project_root

DEMO = project_root() / "data" / "demo"
IGNORED = 8  # the bonnet of the car that carries the camera


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def clean_mask(sample: str) -> np.ndarray:
    """The correct mask of a sample, whether its stored one has a fault or not."""
    return read(
        next(path for path in [*DEMO.glob(f"clean_masks/{sample}.png"), *DEMO.glob(f"*/masks/{sample}.png")])
    )


def rows(*kinds: str):
    table = planted(DEMO)
    return [*table[table["kind"].isin(kinds)].itertuples()]


def inside(box: str, shape: tuple[int, int]) -> np.ndarray:
    x0, y0, x1, y1 = map(int, box.split())
    where = np.zeros(shape, bool)
    where[y0:y1, x0:x1] = True
    return where


def test_the_demo_loads_as_a_dataset():
    dataset = load_dataset(DEMO)
    assert dataset.problems.empty
    assert dataset.samples["split"].value_counts().to_dict() == {"train": 156, "test": 63, "val": 40}
    groups = dataset.samples[~dataset.samples["group"].eq("stray")].groupby("group")["split"].nunique()
    assert len(groups) == 22
    assert (groups == 1).all()  # whole sequences: no neighbour of a train frame is in val or test
    image, mask = read_pair(dataset, next(dataset.samples.itertuples()))
    assert image.shape == (96, 128, 3)
    assert set(np.unique(mask)) <= {*range(8), 255}


def test_the_plan():
    table = planted(DEMO)
    assert set(table["severity"]) == {"mild", "moderate", "severe"}
    test = table[table["split"] == "test"]
    counts = Counter(test["kind"])
    assert all(counts[kind] == 3 for kind in (*LABEL_FAULTS, *DEGRADATIONS, "far_tiny"))
    assert (counts["unseen_condition"], counts["near_duplicate"]) == (6, 2)
    assert test["sample"].is_unique
    present = Counter(c for path in DEMO.glob("train/masks/*.png") for c in np.unique(read(path)).tolist())
    assert [row.detail for row in rows("rare_class")] == [f"sign; in {present[7]} of 156 images"]


def test_label_faults_are_where_they_are_said_to_be():
    for row in rows(*LABEL_FAULTS):
        stored, clean = read(DEMO / row.split / "masks" / f"{row.sample}.png"), clean_mask(row.sample)
        changed = stored != clean
        assert not changed[clean == IGNORED].any(), row
        if row.box:
            assert not changed[~inside(row.box, changed.shape)].any(), row
        assert row.detail.endswith(f"changed {changed.sum() / (clean != IGNORED).sum():.3f}"), row
    for row in rows("wrong_mask"):
        other = row.detail.split(";")[0].removeprefix("mask of ")
        assert (read(DEMO / row.split / "masks" / f"{row.sample}.png") == clean_mask(other)).all()
    assert {path.stem for path in (DEMO / "clean_masks").iterdir()} == {
        row.sample for row in rows(*LABEL_FAULTS)
    }


def test_far_things_are_tiny_and_boxed():
    for row in rows("far_tiny"):
        kind, count = row.detail.split("; pixels ")
        where = read(DEMO / row.split / "masks" / f"{row.sample}.png") == {"person": 6}[kind]
        assert not where[~inside(row.box, where.shape)].any()  # the only one of its class in the image
        assert where.sum() == int(count) < 20


def test_near_duplicates_and_the_unseen_condition():
    for row in rows("near_duplicate"):
        source = row.detail.removeprefix("of ").removesuffix(" in train")
        first, second = (
            DEMO / "train/images" / f"{source}.png",
            DEMO / row.split / "images" / f"{row.sample}.png",
        )
        assert 0 < abs(read(first).astype(int) - read(second)).mean() < 3
    night = {row.sample for row in rows("unseen_condition")}
    dark = night | {row.sample for row in rows("dark")}
    grey = {path.stem: read(path).mean() for path in DEMO.glob("*/images/*.png")}
    assert max(grey[sample] for sample in night) < min(
        value for name, value in grey.items() if name not in dark
    )


@pytest.mark.slow
def test_checks_find_every_fault_of_the_broken_twin_and_no_other_error(tmp_path):
    folder = make_broken(tmp_path / "twin")
    check = check_dataset(load_dataset(folder, strict=False))
    found = Counter(map(tuple, check.findings[["sample", "split", "check"]].to_numpy()))
    wanted = Counter(map(tuple, planted(folder)[["sample", "split", "kind"]].to_numpy()))
    assert wanted - found == Counter()
    # it is a small dataset of few streets, and nothing else is wrong
    assert {kind for _, _, kind in found - wanted} <= {"small-split", "split-shift"}

    def sums():
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = sums()
    assert make_broken(folder) == folder
    assert sums() == before


def test_ensure_demo(tmp_path, monkeypatch):
    ensure_demo("data/demo")
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    for dataset in ("data/camvid", "elsewhere/demo", str(tmp_path / "demo")):
        ensure_demo(dataset)
    with pytest.raises(
        DatasetError, match=r"comes with the repository, is not there\. Restore it with `git checkout"
    ):
        ensure_demo("data/demo")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(DEMO)
    ensure_demo(tmp_path / "data" / "demo_broken")
    assert (tmp_path / "data" / "demo_broken" / "planted.csv").is_file()
