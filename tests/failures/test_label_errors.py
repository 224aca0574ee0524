"""Which masks are called wrong: simulated splits in which it is known which ones are, and what the model does."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from seglib.data import IGNORE, ClassMap, Dataset, LabelFaults
from seglib.failures import evidence
from seglib.failures.label_errors import FEWEST, LabelCheck, named

NAMES = ("sky", "road", "pavement", "car", "person")
SIZE = (72, 96)
COLORS = np.array([[150, 180, 220], [90, 90, 95], [160, 150, 140], [170, 40, 40], [40, 60, 120]], np.uint8)


def scene(rng: np.random.Generator) -> np.ndarray:
    """A mask: sky over a road with a pavement, cars and persons, and a strip that is ignored."""
    mask, horizon = np.zeros(SIZE, np.uint8), int(rng.integers(24, 36))
    mask[horizon:], mask[horizon:, : int(rng.integers(20, 36))], mask[-3:] = 1, 2, IGNORE
    for c, (height, width) in ((3, (12, 20)), (3, (10, 16)), (4, (20, 8)), (4, (18, 7))):
        y, x = horizon + int(rng.integers(-6, 12)), int(rng.integers(0, SIZE[1] - width))
        mask[y : y + height, x : x + width] = c
    mask[-3:] = IGNORE
    return mask


def shown(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, 6, (*SIZE, 3))
    return np.clip(COLORS[np.where(mask == IGNORE, 1, mask)] + noise, 0, 255).astype(np.uint8)


def believed(mask: np.ndarray, rng: np.random.Generator, confuses: bool) -> np.ndarray:
    """Probabilities (C, H, W) of a model that sees the scene a little off, and may take the pavement for road."""
    seen = np.where(mask == IGNORE, 1, mask)
    seen = np.where((seen == 2) & confuses, 1, seen)
    p = np.stack([ndimage.gaussian_filter((seen == c).astype(np.float32), 1.5) for c in range(len(NAMES))])
    p = np.roll(p, tuple(rng.integers(-1, 2, 2)), (1, 2)) + 0.01 + 0.04 * rng.random(p.shape, np.float32)
    return (p / p.sum(0)).astype(np.float32)


@pytest.fixture
def looked_at(tmp_path):
    """A function: how a split is made -> the check that looked at it; masks are spoiled before it looks."""

    def look(count=50, spoiled=None, seed=0, worthless=False, names=NAMES) -> LabelCheck:
        rng = np.random.default_rng(seed)
        masks = [scene(rng) for _ in range(count)]
        images = [shown(mask, rng) for mask in masks]
        # every third image shows a pavement that the model takes for road: its error, not the masks'
        beliefs = [believed(mask, rng, k % 3 == 0) for k, mask in enumerate(masks)]
        if worthless:
            beliefs = [believed(scene(rng), rng, False) for _ in range(count)]
        if len(names) == 2:  # cars and persons are objects, the rest is background
            masks = [np.where(mask == IGNORE, IGNORE, mask > 2).astype(np.uint8) for mask in masks]
            beliefs = [np.stack([p[:3].sum(0), p[3:].sum(0)]) for p in beliefs]
        for k, mask in enumerate(masks):
            Image.fromarray(mask).save(tmp_path / f"{k}.png")
        rows = [(str(k), "test", "", f"{k}.png", "", pd.NA) for k in range(count)]
        samples = pd.DataFrame(rows, columns=["id", "split", "image", "mask", "group", "frame"])
        dataset = Dataset(tmp_path, "street", ClassMap(names, ignore_ids=(IGNORE,)), samples, pd.DataFrame())
        faults, check = LabelFaults(dataset, samples, rng), LabelCheck(dataset, "test")
        for k, kind in (spoiled or {}).items():
            masks[k] = faults.make(kind, samples.iloc[k]).mask
        for k, (image, mask, p) in enumerate(zip(images, masks, beliefs, strict=True)):
            Image.fromarray(mask).save(tmp_path / f"{k}.png")
            check.look(k, image, mask, p, p.argmax(0).astype(np.uint8))
        return check

    return look


def test_sound_masks_are_not_named_though_the_model_errs_surely(looked_at):
    found = looked_at(seed=1).judge(np.zeros(50, bool))
    assert found.images["suspect"].sum() == 0
    assert len(found.images) == 50
    assert found.images["label_score"].between(0, 1).all()
    kinds = found.kinds.set_index("kind")
    assert kinds.loc["sound", "found"] <= 0.02
    assert kinds.loc[["shifted mask", "mask of another image"], "found"].min() >= 0.9


def test_wrong_masks_are_named_with_their_kind_but_where_the_model_is_lost(looked_at):
    kinds = ["shifted_mask", "wrong_mask", "swapped_classes", "missing_object", "wrong_mask", "shifted_mask"]
    spoiled = dict(zip(range(4, 50, 8), kinds, strict=True))
    check = looked_at(spoiled=spoiled, seed=3)
    images = check.judge(np.zeros(50, bool)).images
    chosen = images.index[images["suspect"]]
    assert len(set(chosen) & set(spoiled)) >= 4
    assert len(set(chosen) - set(spoiled)) <= 1
    said = images[images["suspect_kind"] == "shifted mask"]
    assert {4, 44} & set(said.index)
    assert said["suspect_detail"].str.contains("fits when moved").all()
    assert named(images)["label_score"].is_monotonic_decreasing
    assert not check.judge(np.ones(50, bool)).images["suspect"].any()


@pytest.mark.parametrize("names", [NAMES, ("background", "object")], ids=len)
def test_where_two_fifths_of_the_masks_are_wrong_many_are_named(looked_at, names):
    kinds = ["shifted_mask", "wrong_mask", "crude_outline", "swollen_outline", "swapped_classes"] * 4
    spoiled = dict(zip((k for k in range(50) if k % 5 in (1, 3)), kinds, strict=True))
    images = looked_at(spoiled=spoiled, seed=5, names=names).judge(np.zeros(50, bool)).images
    chosen = set(images.index[images["suspect"]])
    assert len(chosen & set(spoiled)) >= 8
    assert len(chosen - set(spoiled)) <= 0.2 * len(chosen)


def test_a_worthless_model_names_nothing(looked_at):
    check = looked_at(worthless=True, spoiled={5: "swapped_classes", 25: "missing_object"})
    assert not check.judge(np.zeros(50, bool)).images["suspect"].any()


def test_too_few_images_give_no_names_and_say_so(looked_at):
    found = looked_at(FEWEST - 1, {3: "wrong_mask"}).judge(np.zeros(FEWEST - 1, bool))
    assert "too few" in found.told
    assert found.kinds.empty
    assert not found.images["suspect"].any()
    assert found.images["label_score"].isna().all()


def test_the_frames_before_and_after_tell_a_missing_object_from_the_models_confusion(looked_at):
    check = looked_at(5)
    check.samples = check.samples.assign(group=["a", "a", "b", "a", ""], frame=[30, 10, 20, 20, pd.NA])
    road, car = np.full((32, 32), 1, np.uint8), np.full((32, 32), 1, np.uint8)
    car[8:16, 16:24] = 3
    check.sizes = dict.fromkeys(range(5), (2, 64, 96))  # a cell of the thumbnails: 1 row, 1.5 columns
    check.small = {0: (car, car), 1: (road, car), 2: (car, car), 3: (road, road), 4: (car, road)}
    facts = {"position": [3, 0, 1, 2, 4], "given": 1, "suggested": 3, "box": [(8, 24, 16, 36)] * 5}
    # of 10 x 10 cells, one around the box on each side, 8 x 8 show the car
    whole = check._near(pd.DataFrame(facts))
    assert whole == [(0.64, 0.64), (0, 0), (0, 0), (0, 0), (0, 0)]  # frames 10 and 30; 20; 20; none; none


def measured(truth: np.ndarray, seen: np.ndarray, image: np.ndarray | None = None) -> evidence.Evidence:
    p = np.where(np.arange(len(NAMES))[:, None, None] == seen, 0.96, 0.01).astype(np.float32)
    image = COLORS[seen] if image is None else image
    return evidence.measure(evidence.view(image, p, seen), truth, truth != seen)


def test_a_missing_object_is_one_region_that_the_image_bounds():
    seen = np.ones(SIZE, np.uint8)
    seen[20:40, 30:50] = 3
    row = measured(np.ones(SIZE, np.uint8), seen).regions.query("by_given").iloc[0]
    assert (row["given"], row["suggested"], row["pixels"], row["box"]) == (1, 3, 400, (20, 30, 40, 50))
    assert row["hit"] == 1
    assert row["of_mask"] == pytest.approx(400 / np.prod(SIZE))
    assert row["of_pred"] == 1
    assert row["own"] > 0.9  # the contour is the prediction's alone
    labels, _, _ = evidence.disagreement(np.ones(SIZE, np.uint8), seen, True)
    assert (labels == labels[row["y"], row["x"]]).sum() == 400


def test_outlines_beside_the_edges_of_the_image_are_told_from_those_on_them():
    seen = np.ones(SIZE, np.uint8)
    seen[20:50, 30:70] = 3
    on, off = measured(seen, seen), measured(np.roll(seen, (7, 7), (0, 1)), seen)
    assert on.numbers["contrast"] > off.numbers["contrast"] + 0.1
    assert on.numbers["away_90"] == 0 < off.numbers["away_90"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (65, 3)])
def test_slivers_nothing_valid_and_odd_sizes_give_finite_numbers(shape):
    noise = np.random.default_rng(0).integers(1, 5, SIZE).astype(np.uint8)
    slivers = measured(np.zeros(SIZE, np.uint8), noise).regions.drop(columns="box")
    assert np.isfinite(slivers.astype(float)).all(axis=None)
    p = np.full((2, *shape), 0.5, np.float32)
    seen = evidence.view(np.zeros((*shape, 3), np.uint8), p, np.zeros(shape, np.uint8))
    for truth in (np.full(shape, IGNORE, np.uint8), np.ones(shape, np.uint8)):
        assert np.isfinite(list(evidence.measure(seen, truth, truth > 0).numbers.values())).all()
