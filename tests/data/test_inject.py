"""Injected faults change what and where they say, in any form; the demo dataset and its broken twin."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import raised, save, tree
from PIL import Image
from scipy import ndimage

from seglib import checks, data, runs
from seglib.data import FAULT_KINDS, DatasetError, inject_faults, load_dataset, planted, read_mask, read_pair
from seglib.data.inject import DEGRADATIONS, LABEL_FAULTS, MIN_CHANGE, SHIFT

DEMO = runs.project_root() / "data" / "demo"
NAMES = ("sky", "road", "car", "person")


def street(seed=0, size=(60, 80)):
    """Sky over road, two cars, one person, a speck of a person, a strip that is ignored."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    mask[30:] = 1
    x = int(rng.integers(0, 20))
    mask[28:36, x : x + 8] = 2
    mask[40:50, x + 30 : x + 40] = 2
    mask[25:35, x + 50 : x + 54] = 3
    mask[55, 70] = 3
    mask[58:] = 255
    return mask


def write_dataset(root, form="ids", **config):
    """12 streets in two sequences of val and 3 in one of train; masks in the form that is named."""
    rng = np.random.default_rng(0)
    colors = np.array([(1, 2, 3), (9, 9, 9), (200, 0, 0), (0, 200, 0), *[(0, 0, 0)] * 252], np.uint8)
    for split, group, count in (("train", "a/x", 3), ("val", "b/y", 6), ("val", "c/z", 6)):
        for frame in range(count):
            mask = street(frame)
            image = rng.integers(0, 256, (*mask.shape, 3), np.uint8)
            stored = colors[mask] if form == "colours" else mask
            if form == "mapped":
                stored = np.where(mask == 255, 0, mask * 20 + 7).astype(np.uint8)
            for kind, pixels, ending in (("images", image, "jpg"), ("masks", stored, "png")):
                save(root / kind / split / group / f"{group[0]}{frame:02d}.{ending}", pixels)
    globs = {s: {"images": f"images/{s}/**/*.jpg", "masks": f"masks/{s}/**/*.png"} for s in ("train", "val")}
    values = {"classes": list(NAMES), "splits": globs} | config
    (root / "dataset.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return load_dataset(root)


GROUPED = {"group": r"(?P<group>\w)(?P<frame>\d+)$"}
GLOBS = {"images": "images/**/*.jpg", "masks": "masks/**/*.png"}
IDS = [f"{group}{k:02d}" for group in "bc" for k in range(6)]
FORMS = {
    "ids": {},
    "mapped": {"form": "mapped", "id_map": {7: 0, 27: 1, 47: 2, 67: 3}, "ignore_ids": [0]},
    "colours": {"form": "colours", "colors": [[1, 2, 3], [9, 9, 9], [200, 0, 0], [0, 200, 0]], **GROUPED},
    "lists": {
        "group": r"^(?P<group>./.)/.*?(?P<frame>\d+)$", "exclude": IDS[-1:],
        "splits": {"train": GLOBS, "val": {"ids": IDS[:-1]}},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_dataset_is_copied_with_its_faults(tmp_path, form):
    dataset = write_dataset(tmp_path / "data set!", **FORMS[form])
    table = inject_faults(dataset, tmp_path / "out", share=0.9, seed=5)
    copy = load_dataset(tmp_path / "out")
    assert table.equals(planted(tmp_path / "out"))
    assert len(table) == round(0.9 * len(dataset.split("val")))
    assert set(table["kind"]) == set(FAULT_KINDS)
    columns = ["id", "split", "frame"]
    assert copy.samples[columns].equals(dataset.samples[columns])
    assert (pd.factorize(copy.samples["group"])[0] == pd.factorize(dataset.samples["group"])[0]).all()
    assert copy.classes.names == dataset.classes.names
    faults = table.set_index("sample")
    for before, after in zip(dataset.samples.itertuples(), copy.samples.itertuples(), strict=True):
        old, new = read_pair(dataset, before), read_pair(copy, after)
        kind = faults["kind"].get(before.id, "")
        assert (old[0] == new[0]).all() == (kind not in DEGRADATIONS)
        assert (old[1] == new[1]).all() == (kind not in LABEL_FAULTS)
        clean = copy.root / "clean_masks" / f"{before.id}.png"
        assert clean.exists() == (kind in LABEL_FAULTS)
        if clean.exists():
            np.testing.assert_array_equal(np.array(Image.open(clean)), old[1])
    if form == "colours":
        assert (copy.classes.colors == dataset.classes.colors).all()


@pytest.mark.parametrize("kind", LABEL_FAULTS)
def test_label_faults_change_what_they_say(tmp_path, kind):
    dataset, out = write_dataset(tmp_path / "data", **FORMS["colours"]), tmp_path / "out"
    table = inject_faults(dataset, out, kinds=[kind], share=1.0)
    paths = load_dataset(out).samples.set_index("id")["mask"]
    assert len(table) == 12
    for row in table.itertuples():
        mask = np.array(Image.open(out / "clean_masks" / f"{row.sample}.png"))
        faulty = read_mask(out / paths[row.sample], dataset.classes)
        changed, valid = faulty != mask, mask != 255
        share = (changed & valid).sum() / valid.sum()
        assert share >= MIN_CHANGE
        assert row.detail.endswith(f"changed {share:.3f}")
        assert row.severity == ("severe" if share > 0.1 else "moderate" if share > 0.02 else "mild")
        if kind in ("swapped_classes", "missing_object"):
            (y, x) = ((np.flatnonzero(changed.any(axis=axis))[[0, -1]] + [0, 1]).tolist() for axis in (1, 0))
            assert row.box == f"{x[0]} {y[0]} {x[1]} {y[1]}"
            assert (faulty[~valid] == 255).all()
            given = np.unique(mask[changed])
            assert len(given) == 1  # of one class
            labels, count = ndimage.label(mask == given[0], np.ones((3, 3)))
            one = any((changed == (labels == k)).all() for k in range(1, count + 1))
            assert one or (row.detail.startswith("all ") and (changed == (mask == given[0])).all())
            if kind == "missing_object":
                assert changed.sum() >= 40
                assert set(np.unique(faulty[changed])) <= {0, 1}
        elif kind == "shifted_mask":
            dx, dy = (int(part.split()[1]) for part in row.detail.split("; ")[:2])
            assert SHIFT[0] * 80 - 1 <= np.hypot(dx, dy) <= SHIFT[1] * 80 + 1
            back = np.roll(faulty, (-dy, -dx), (0, 1))
            assert (back[8:-8, 8:-8] == mask[8:-8, 8:-8]).all()
        elif kind == "wrong_mask":
            assert row.sample[0] != row.detail.removeprefix("mask of ")[0]  # of another sequence
        else:  # what is changed lies near the outlines, and nothing that is ignored changes
            assert (faulty[~valid] == 255).all()
            outline = ndimage.maximum_filter(mask, 3) != ndimage.minimum_filter(mask, 3)
            assert ndimage.distance_transform_edt(~outline)[changed].max() <= 0.05 * 80 + 1
            assert row.box == ""


def test_a_seed_injects_the_same_again(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        inject_faults(dataset, tmp_path / name, seed=seed, share=0.5, splits=("val", "train"))
    assert tree(tmp_path / "one") == tree(tmp_path / "again")
    assert tree(tmp_path / "one") != tree(tmp_path / "other")


def test_what_cannot_be_done_is_said_and_leaves_nothing(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for error, told, out, options in (
        (FileExistsError, "exists", "mine", {}),
        (ValueError, "kinds swirl, .* expected some of swapped_classes", "out", {"kinds": ["swirl"]}),
        (ValueError, "share 0", "out", {"share": 0}),
        (FileExistsError, "lies in the dataset", "data/planted", {}),
        (DatasetError, "no split 'test'", "out", {"splits": ["test"]}),
    ):
        raised(error, told, inject_faults, dataset, tmp_path / out, **options)
    for path in (tmp_path / "data" / "masks").rglob("*.png"):
        Image.fromarray(np.zeros((60, 80), np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"missing_object fits none of the 12 samples left in split 'val'"):
        inject_faults(dataset, tmp_path / "out", kinds=["missing_object"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine"]


def test_the_demo_loads_as_a_dataset():
    dataset = load_dataset(DEMO)
    assert dataset.problems.empty
    assert dataset.samples["split"].value_counts().to_dict() == {"train": 156, "test": 63, "val": 40}
    groups = dataset.samples[~dataset.samples["group"].eq("stray")].groupby("group")["split"].nunique()
    assert len(groups) == 22
    assert (groups == 1).all()  # whole sequences: no neighbour of a train frame is in val or test


@pytest.mark.slow
def test_checks_find_every_fault_of_the_broken_twin_and_no_other_error(tiny_root):
    data.ensure_demo("data/camvid")
    (tiny_root / "data" / "demo").symlink_to(DEMO)
    data.ensure_demo("data/demo_broken")
    check = checks.check_dataset(load_dataset("data/demo_broken", strict=False))
    table = tiny_root / "data/demo_broken/planted.csv"
    found = Counter(map(tuple, check.findings[["sample", "split", "check"]].to_numpy()))
    wanted = Counter(map(tuple, planted(table.parent)[["sample", "split", "kind"]].to_numpy()))
    assert wanted - found == Counter()
    assert {kind for _, _, kind in found - wanted} <= {"small-split", "split-shift"}  # of a few streets
    table.write_text("mine")
    data.ensure_demo(table.parent)
    assert table.read_text() == "mine"  # one that is there stays
