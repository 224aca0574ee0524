"""Suspected label errors: hand-made cases in which the right order and the right words are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from seglib.failures import label_errors
from seglib.failures.label_errors import Look, judge, suspect_region

SIZE = (60, 80)
NAMES = ("sky", "road", "car", "person")


def scene(shift: int = 0) -> np.ndarray:
    """Sky over road, a car and a person, a strip that is ignored."""
    truth = np.zeros(SIZE, np.uint8)
    truth[30:] = 1
    truth[30:42, 10 + shift : 30 + shift] = 2
    truth[20:40, 50 + shift : 58 + shift] = 3
    truth[57:] = 255
    return truth


def believing(ids: np.ndarray, sure: float = 0.97, classes: int = 4) -> np.ndarray:
    """Probabilities of a model that sees `ids`; what it does not see shares the rest evenly."""
    seen, rest = np.where(ids == 255, 0, ids), (1 - sure) / max(classes - 1, 1)
    return np.where(np.arange(classes)[:, None, None] == seen, sure, rest).astype(np.float32)


def look(truth: np.ndarray, probabilities: np.ndarray) -> Look:
    return label_errors.look(truth, probabilities, probabilities.argmax(0).astype(np.uint8))


def sound(count: int = 12) -> list[Look]:
    """Correct masks, and a model whose outlines wander by a pixel."""
    seen = [np.where(scene(k) == 255, 1, scene(k)) for k in range(count)]
    moved = [np.roll(one, np.random.default_rng(k).integers(-1, 2, 2), (0, 1)) for k, one in enumerate(seen)]
    return [look(scene(k), believing(one)) for k, one in enumerate(moved)]


def spoiled(truth: np.ndarray, kind: str, dx: int = 0, dy: int = 0) -> np.ndarray:
    rows, columns = (np.clip(np.arange(n) - d, 0, n - 1) for n, d in zip(SIZE, (dy, dx), strict=True))
    masks = {
        "swapped class": np.where(truth == 2, 3, truth),
        "missing object": np.where(truth == 3, np.arange(len(truth))[:, None] >= 33, truth),
        "shifted mask": truth[np.ix_(rows, columns)],
        "mask of another image": np.kron(np.random.default_rng(0).integers(0, 4, (6, 8)), np.ones((10, 10))),
    }
    return masks[kind].astype(np.uint8)


def test_correct_masks_and_their_outlines_are_no_evidence():
    found = look(scene(), believing(scene()))
    assert (found.agreement, found.pixels) == (1, 57 * 80)
    assert found.doubt == pytest.approx(0.03, abs=1e-5)
    assert all(one.regions.empty for one in (found, *sound()))
    row = judge([found, *sound()], NAMES).iloc[0]
    assert (row["label_score"], row["suspect_kind"], row["pixels"]) == (0, "", 0)


@pytest.mark.parametrize(
    ("kind", "classes", "shift"),
    [
        ("swapped class", ("person", "car"), ()), ("missing object", ("sky", "person"), ()),
        *[("shifted mask", None, shift) for shift in ((7, 0), (-8, 4), (3, -6))], ("mask of another image", None, ()),
    ],
)  # fmt: skip
def test_a_wrong_mask_is_found_named_and_outlined(kind, classes, shift):
    truth = scene(5)
    mask, pred = spoiled(truth, kind, *shift), np.where(truth == 255, 1, truth)
    found = judge([look(mask, believing(pred)), *sound()], NAMES).iloc[0]
    assert found["label_score"] > 0.9
    assert found["suspect_kind"] == kind
    assert not classes or (found["suspect_given"], found["suspect_suggested"]) == classes
    region = suspect_region(mask, pred, found["seed"], found["by_given"])
    assert region.sum() == found["pixels"]
    assert (region <= ((mask != pred) & (mask != 255))).all()
    y, x = np.nonzero(region)
    assert found["suspect_box"] == f"{x.min()} {y.min()} {x.max() + 1} {y.max() + 1}"


def test_the_best_shift_is_that_of_trying_them_all():
    truth = np.kron(np.random.default_rng(1).integers(0, 3, (6, 8)), np.ones((5, 5))).astype(np.uint8)
    truth[:3, :3] = 255
    pred = np.roll(np.where(truth == 255, 0, truth), (2, -3), (0, 1))
    best = (0.0, 0, 0)
    for dx, dy in product(range(-6, 7), repeat=2):
        ys, xs = np.nonzero(truth != 255)
        inside = (ys + dy >= 0) & (ys + dy < 30) & (xs + dx >= 0) & (xs + dx < 40)
        ys, xs = ys[inside], xs[inside]
        best = max(best, ((pred[ys + dy, xs + dx] == truth[ys, xs]).mean(), dx, dy))
    still = (pred == truth)[truth != 255].mean()
    dx, dy, gone = look(truth, believing(pred, classes=3)).shift
    assert (dx, dy) == best[1:] == (-3, 2)
    assert gone == pytest.approx((best[0] - still) / (1 - still), abs=1e-5)


def test_usual_errors_excuse_and_an_image_never_excuses_itself():
    # The model takes every person for a car. In one image a car is labelled as a person besides.
    looks = [look(scene(k), believing(np.where(scene(k) == 3, 2, scene(k)))) for k in range(12)]
    assert judge(looks, NAMES)["label_score"].max() < 0.5
    looks[4] = look(spoiled(spoiled(scene(4), "swapped class"), "missing object"), believing(scene(4)))
    assert judge(looks, NAMES)["label_score"].argmax() == 4
    assert judge(looks[4:5], NAMES)["label_score"].item() < 0.5  # no other image to compare with
    assert judge([], NAMES).empty
    assert judge([None, None], NAMES)["label_score"].isna().all()


def test_nothing_valid_and_odd_sizes():
    ignored = np.full(SIZE, 255, np.uint8)
    nothing = look(ignored, believing(ignored))
    assert (nothing.pixels, nothing.regions.empty) == (0, True)
    assert np.isnan(nothing.agreement)
    assert judge([nothing, nothing], NAMES)["label_score"].tolist() == [0, 0]
    assert judge([nothing, *sound()], NAMES)["label_score"][0] == 0
    for size in ((1, 1), (1, 9), (7, 3), (33, 2)):
        found = look(np.zeros(size, np.uint8), believing(np.ones(size, np.uint8)))
        assert found.agreement == 0
        judge([found, *sound()], NAMES)
    wrong = spoiled(scene(), "swapped class")
    wrong[scene() == 2] = 255  # ignored pixels are no evidence
    assert look(wrong, believing(scene())).regions.empty


@pytest.mark.parametrize(("inside", "around"), [(0, 1), (1, 0), (3, 0)])
@pytest.mark.parametrize(("sure", "ratio"), [(0.97, 0.97 / 0.01), (1.0, 1e5)])  # the impossible: 1 in 100,000
def test_evidence_by_hand(inside, around, sure, ratio):
    """Of a rejected square of 20 x 20 pixels in an ignored rim, the 18 x 18 inner pixels count."""
    truth = np.full(SIZE, around, np.uint8)
    truth[10:50, 10:70] = 255
    truth[20:40, 20:40] = inside
    seen = look(truth, believing(np.where(truth == inside, 2, truth), sure))
    np.testing.assert_allclose(seen.regions["mass"], 18 * 18 * np.log(ratio) ** 2, rtol=1e-5)
    told = (inside, 2, 400, 1, "20 20 40 40", 20 * 80 + 20)
    rows = seen.regions.drop(columns="mass").itertuples(index=False, name=None)
    assert list(rows) == [(*told, True), (*told, False)]
    assert seen.agreement == pytest.approx(1 - 400 / (60 * 80 - 40 * 60 + 400))
