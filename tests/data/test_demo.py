"""The demo dataset as it lies, every fault where it is recorded; and its broken twin."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from seglib.checks import check_dataset
from seglib.data import ensure_demo, load_dataset, make_broken, planted, read_pair
from seglib.data.inject import LABEL_FAULTS
from seglib.runs import project_root

DEMO = project_root() / "data" / "demo"
IGNORED = 8  # the bonnet of the car that carries the camera


def read(path):
    with Image.open(path) as file:
        return np.array(file)


def clean_mask(sample):
    """The correct mask of a sample, whether its stored one has a fault or not."""
    return read([*DEMO.glob(f"clean_masks/{sample}.png"), *DEMO.glob(f"*/masks/{sample}.png")][0])


def rows(*kinds):
    table = planted(DEMO)
    return [*table[table["kind"].isin(kinds)].itertuples()]


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


def test_label_faults_are_where_they_are_said_to_be():
    for row in rows(*LABEL_FAULTS):
        stored, clean = read(DEMO / row.split / "masks" / f"{row.sample}.png"), clean_mask(row.sample)
        changed = stored != clean
        assert not changed[clean == IGNORED].any(), row
        assert row.detail.endswith(f"changed {changed.sum() / (clean != IGNORED).sum():.3f}"), row
        if row.box:
            x0, y0, x1, y1 = map(int, row.box.split())
            changed[y0:y1, x0:x1] = False
            assert not changed.any(), row
        if row.kind == "wrong_mask":
            assert (stored == clean_mask(row.detail.split(";")[0].removeprefix("mask of "))).all()
    faulty = {row.sample for row in rows(*LABEL_FAULTS)}
    assert {path.stem for path in (DEMO / "clean_masks").iterdir()} == faulty


@pytest.mark.slow
def test_checks_find_every_fault_of_the_broken_twin_and_no_other_error(tmp_path):
    folder = make_broken(tmp_path / "twin")
    check = check_dataset(load_dataset(folder, strict=False))
    found = Counter(map(tuple, check.findings[["sample", "split", "check"]].to_numpy()))
    wanted = Counter(map(tuple, planted(folder)[["sample", "split", "kind"]].to_numpy()))
    assert wanted - found == Counter()
    # it is a small dataset of few streets, and nothing else is wrong
    assert {kind for _, _, kind in found - wanted} <= {"small-split", "split-shift"}


def test_ensure_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    for dataset in ("data/camvid", "elsewhere/demo", str(tmp_path / "demo")):
        ensure_demo(dataset)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(DEMO)
    table = tmp_path / "data" / "demo_broken" / "planted.csv"
    ensure_demo(table.parent)
    assert table.stat().st_size > 100
    table.write_text("mine")
    ensure_demo(table.parent)
    assert table.read_text() == "mine"  # one that is there stays
