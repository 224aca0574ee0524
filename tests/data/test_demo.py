"""The demo dataset as it lies, and its broken twin."""

from collections import Counter

import pytest

from seglib import checks, runs
from seglib.data import ensure_demo, load_dataset, planted

DEMO = runs.project_root() / "data" / "demo"


def test_the_demo_loads_as_a_dataset():
    dataset = load_dataset(DEMO)
    assert dataset.problems.empty
    assert dataset.samples["split"].value_counts().to_dict() == {"train": 156, "test": 63, "val": 40}
    groups = dataset.samples[~dataset.samples["group"].eq("stray")].groupby("group")["split"].nunique()
    assert len(groups) == 22
    assert (groups == 1).all()  # whole sequences: no neighbour of a train frame is in val or test


@pytest.mark.slow
def test_checks_find_every_fault_of_the_broken_twin_and_no_other_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    ensure_demo("data/camvid")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(DEMO)
    ensure_demo("data/demo_broken")
    check = checks.check_dataset(load_dataset("data/demo_broken", strict=False))
    table = tmp_path / "data/demo_broken/planted.csv"
    found = Counter(map(tuple, check.findings[["sample", "split", "check"]].to_numpy()))
    wanted = Counter(map(tuple, planted(table.parent)[["sample", "split", "kind"]].to_numpy()))
    assert wanted - found == Counter()
    assert {kind for _, _, kind in found - wanted} <= {"small-split", "split-shift"}  # of a few streets
    table.write_text("mine")
    ensure_demo(table.parent)
    assert table.read_text() == "mine"  # one that is there stays
