"""Planted faults: they change what they say, where they say, in any form of dataset, and the same with the same seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from seglib.data.dataset import DatasetError, load_dataset, read_pair
from seglib.data.faults import DEGRADATIONS, KINDS, LABEL_FAULTS, MIN_CHANGE, SHIFT, ClassUse, bounding_box, degrade, film_grain, foreign_mask, label_fault, miss_object, slip_mask, swap_class
from seglib.data.inject import plant

NAMES = ("sky", "road", "car", "person")


def street(seed: int = 0, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Sky over road, two cars, one person, a speck of a person, a strip that is not scored."""
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


USE = ClassUse.survey((street(k) for k in range(5)), NAMES)


def test_things_are_the_classes_that_cover_little():
    assert USE.occurring.tolist() == [True] * 4
    assert USE.things.tolist() == [False, False, True, True]
    assert ClassUse.survey([np.zeros((4, 4), np.uint8)], NAMES).things.tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", LABEL_FAULTS)
@pytest.mark.parametrize("seed", range(8))
def test_label_faults_change_what_they_say(kind, seed):
    mask = street(seed)
    before = mask.copy()
    fault = label_fault(kind, mask, USE, np.random.default_rng(seed), ("other", street(seed + 20)[:, ::-1].copy()))
    assert (mask == before).all()
    assert fault.mask.dtype == np.uint8
    assert fault.kind == kind
    changed = fault.mask != mask
    scored = mask != 255
    assert fault.share == pytest.approx((changed & scored).sum() / scored.sum())
    assert fault.share >= MIN_CHANGE
    if kind in ("swapped_classes", "missing_object"):
        assert fault.box == bounding_box(changed)
        assert (fault.mask[mask == 255] == 255).all()
        assert len(np.unique(mask[changed])) == 1  # of one class
    else:
        assert fault.box is None


@pytest.mark.parametrize("seed", range(8))
def test_a_missing_object_is_one_whole_region_and_never_a_speck(seed):
    mask = street()
    fault = miss_object(mask, USE, np.random.default_rng(seed))
    changed = fault.mask != mask
    labels, count = ndimage.label(mask == mask[changed][0], np.ones((3, 3)))
    assert any((changed == (labels == k)).all() for k in range(1, count + 1))
    assert changed.sum() >= 40
    assert set(np.unique(fault.mask[changed])) <= {0, 1}  # its surroundings


def test_swapped_classes_are_now_an_object_and_now_a_whole_class():
    mask, seen = street(), set()
    for seed in range(20):
        fault = swap_class(mask, USE, np.random.default_rng(seed))
        changed = fault.mask != mask
        assert len(np.unique(fault.mask[changed])) == 1
        whole = (changed == (mask == mask[changed][0])).all()
        assert fault.detail.startswith("all ") == whole
        seen.add(whole)
    assert seen == {True, False}


def test_a_slipped_mask_agrees_when_moved_back():
    mask = street()
    for seed in range(5):
        fault = slip_mask(mask, np.random.default_rng(seed))
        dx, dy = (int(part.split()[1]) for part in fault.detail.split("; ")[:2])
        assert SHIFT[0] * 80 - 1 <= np.hypot(dx, dy) <= SHIFT[1] * 80 + 1
        back = np.roll(fault.mask, (-dy, -dx), (0, 1))
        inside = np.s_[8:-8, 8:-8]
        assert (back[inside] == mask[inside]).all()


def test_what_cannot_have_a_fault_gets_none():
    rng = np.random.default_rng(0)
    empty, plain = np.full((20, 20), 255, np.uint8), np.zeros((20, 20), np.uint8)
    for mask in (empty, plain):
        use = ClassUse.survey([mask], NAMES)
        for kind in LABEL_FAULTS:
            assert label_fault(kind, mask, use, rng, ("same", mask)) is None
    assert foreign_mask(plain, "larger", np.zeros((30, 20), np.uint8)) is None
    with pytest.raises(ValueError, match="no label fault 'upside_down'"):
        label_fault("upside_down", plain, USE, rng)


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("size", [(48, 64), (301, 640)])
def test_degradations_grow_with_their_level(kind, size):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    grain = film_grain(image.shape, rng)
    assert grain.shape == image.shape
    off = []
    for level in (1, 2, 3):
        worse = degrade(image, kind, level, grain)
        assert worse.shape == image.shape
        assert worse.dtype == np.uint8
        off.append(np.abs(worse.astype(int) - image).mean())
    assert off[0] > 3
    assert off[0] < off[1] < off[2]


def test_blur_is_a_mean_over_a_square_of_a_share_of_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (70, 128, 3)).astype(np.uint8)
    worse = degrade(image, "blur", 3, np.zeros(image.shape, np.float32)).astype(float)
    expected = ndimage.uniform_filter(image.astype(float), size=(9, 9, 1), mode="nearest")
    assert np.abs(worse - expected).max() < 2  # rounded down once an axis
    large = image.repeat(4, axis=0).repeat(4, axis=1)
    scaled = degrade(large, "blur", 3, np.zeros(large.shape, np.float32)).astype(float)
    assert np.abs(scaled - ndimage.uniform_filter(large.astype(float), (33, 33, 1), mode="nearest")).max() < 2


def write_dataset(root: Path, **config) -> Path:
    """12 streets in two sequences of val and one of train; masks in the form that `recipe` names."""
    form = config.pop("form", "ids")
    rng = np.random.default_rng(0)
    for split, group, count in (("train", "a/x", 3), ("val", "b/y", 6), ("val", "c/z", 6)):
        for frame in range(count):
            mask = street(frame)
            image = np.array([(200, 220, 255), (90, 90, 90), (200, 30, 30), (20, 160, 60)], np.uint8)[mask % 4]
            image = np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)
            stored = mask
            if form == "mapped":
                stored = np.where(mask == 255, 0, mask * 20 + 7).astype(np.uint8)
            elif form == "colours":
                stored = np.array([(1, 2, 3), (9, 9, 9), (200, 0, 0), (0, 200, 0), *[(0, 0, 0)] * 252], np.uint8)[mask]
            for kind, pixels, ending in (("images", image, "jpg"), ("masks", stored, "png")):
                path = root / kind / split / group / f"{group[0]}{frame:02d}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    globs = {s: {"images": f"images/{s}/**/*.jpg", "masks": f"masks/{s}/**/*.png"} for s in ("train", "val")}
    values = {"classes": list(NAMES), "splits": globs} | config
    (root / "dataset.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return root


FORMS = {
    "ids": {},
    "mapped": {"form": "mapped", "id_map": {7: 0, 27: 1, 47: 2, 67: 3}, "ignore_ids": [0]},
    "colours": {
        "form": "colours",
        "colors": [[1, 2, 3], [9, 9, 9], [200, 0, 0], [0, 200, 0]],
        "group": r"(?P<group>\w)(?P<frame>\d+)$",
    },
    "lists": {"group": r"^(?P<group>./.)/.*?(?P<frame>\d+)$"},
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_dataset_is_copied_with_its_faults(tmp_path, form):
    config = dict(FORMS[form])
    if form == "lists":
        ids = [f"b{k:02d}" for k in range(6)] + [f"c{k:02d}" for k in range(6)]
        config["splits"] = {
            "train": {"images": "images/**/*.jpg", "masks": "masks/**/*.png"},
            "val": {"ids": ids[:-1]},
        }
        config["exclude"] = ["c05"]
    dataset = load_dataset(write_dataset(tmp_path / "data set!", **config))
    table = plant(dataset, tmp_path / "out", share=0.7, seed=5)
    copy = load_dataset(tmp_path / "out")
    assert table.equals(pd.read_csv(tmp_path / "out" / "planted.csv", dtype=str, keep_default_na=False))
    assert len(table) == round(0.7 * len(dataset.split("val")))
    assert set(table["kind"]) == set(KINDS)
    columns = ["id", "split", "frame"]
    assert copy.samples[columns].equals(dataset.samples[columns])
    same = pd.factorize(copy.samples["group"])[0] == pd.factorize(dataset.samples["group"])[0]
    assert same.all()
    assert copy.classes.names == dataset.classes.names
    faults = table.set_index("sample")
    for before, after in zip(dataset.samples.itertuples(), copy.samples.itertuples(), strict=True):
        old, new = read_pair(dataset, before), read_pair(copy, after)
        kind = faults["kind"].get(before.id, "")
        files = (dataset.root / before.image, copy.root / after.image)
        assert (files[0].read_bytes() == files[1].read_bytes()) == (kind not in DEGRADATIONS)
        assert (old[1] == new[1]).all() == (kind not in LABEL_FAULTS)
        clean = copy.root / "clean_masks" / f"{before.id}.png"
        assert clean.exists() == (kind in LABEL_FAULTS)
        if clean.exists():
            assert (np.array(Image.open(clean)) == old[1]).all()
            if faults["box"][before.id]:
                assert bounding_box(old[1] != new[1]) == tuple(map(int, faults["box"][before.id].split()))
    if form == "colours":
        assert (copy.classes.colors == dataset.classes.colors).all()


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_plants_the_same_again(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "data"))
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        plant(dataset, tmp_path / name, seed=seed, share=0.5, splits=("val", "train"))
    assert sums(tmp_path / "one") == sums(tmp_path / "again")
    assert sums(tmp_path / "one") != sums(tmp_path / "other")


def test_a_foreign_mask_is_of_another_sequence(tmp_path):
    config = FORMS["colours"] | {"form": "colours"}
    dataset = load_dataset(write_dataset(tmp_path / "data", **config))
    table = plant(dataset, tmp_path / "out", kinds=["wrong_mask"], share=1.0)
    assert len(table) == 12
    for row in table.itertuples():
        assert row.sample[0] != row.detail.removeprefix("mask of ")[0]


def test_in_a_single_sequence_a_foreign_mask_comes_from_far_away(tmp_path):
    config = FORMS["colours"] | {"form": "colours", "exclude": [f"c{k:02d}" for k in range(6)]}
    dataset = load_dataset(write_dataset(tmp_path / "data", **config))
    table = plant(dataset, tmp_path / "out", kinds=["wrong_mask"], share=1.0)
    assert len(table) == 6
    for row in table.itertuples():
        other = row.detail.removeprefix("mask of ").split(";")[0]
        assert abs(int(row.sample[1:]) - int(other[1:])) >= 2


def test_what_cannot_be_done_is_said_and_leaves_nothing(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "data"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="left as it is"):
        plant(dataset, tmp_path / "mine")
    with pytest.raises(ValueError, match="kinds swirl: expected some of swapped_classes"):
        plant(dataset, tmp_path / "out", kinds=["swirl"])
    with pytest.raises(ValueError, match="share 0"):
        plant(dataset, tmp_path / "out", share=0)
    with pytest.raises(ValueError, match="lies in the dataset"):
        plant(dataset, tmp_path / "data" / "planted")
    with pytest.raises(DatasetError, match="no split 'test'"):
        plant(dataset, tmp_path / "out", splits=["test"])
    for path in (tmp_path / "data" / "masks").rglob("*.png"):
        Image.fromarray(np.zeros((60, 80), np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"missing_object fits none of the 12 samples left in split 'val'"):
        plant(dataset, tmp_path / "out", kinds=["missing_object"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine"]
