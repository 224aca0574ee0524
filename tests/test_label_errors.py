"""Suspected label errors: hand-made cases in which the right order and the right words are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from seglib.label_errors import Look, Suspicion, _best_shift, _others, judge, look, suspect_region

SIZE = (60, 80)


def scene(shift: int = 0) -> np.ndarray:
    """Sky (0) over road (1), a car (2) and a person (3), a strip that is not scored."""
    truth = np.zeros(SIZE, np.uint8)
    truth[30:] = 1
    truth[30:42, 10 + shift : 30 + shift] = 2
    truth[20:40, 50 + shift : 58 + shift] = 3
    truth[57:] = 255
    return truth


def believing(ids: np.ndarray, sure: float = 0.97, classes: int = 4) -> np.ndarray:
    """Probabilities of a model that sees `ids`; what it does not see shares the rest evenly."""
    rest = (1 - sure) / max(classes - 1, 1)
    return np.where(np.arange(classes)[:, None, None] == np.where(ids == 255, 0, ids), sure, rest).astype(np.float32)


def noisy(truth: np.ndarray, seed: int) -> np.ndarray:
    """What a sound model sees: the outlines wander by a pixel."""
    dy, dx = np.random.default_rng(seed).integers(-1, 2, 2)
    return np.roll(np.where(truth == 255, 1, truth), (dy, dx), (0, 1))


def sound(count: int = 12) -> list[Look]:
    return [look(scene(k), believing(noisy(scene(k), k))) for k in range(count)]


def swapped(truth: np.ndarray) -> np.ndarray:
    return np.where(truth == 2, 3, truth).astype(np.uint8)


def missing(truth: np.ndarray) -> np.ndarray:
    where = truth == 3
    rows = np.arange(len(truth))[:, None] < 33
    return np.where(where, np.where(rows, 0, 1), truth).astype(np.uint8)


def test_a_perfect_image_is_above_suspicion():
    found = look(scene(), believing(scene()))
    assert found.agreement == 1
    assert found.doubt == pytest.approx(0.03, abs=1e-5)
    assert found.pixels == 57 * 80
    assert len(found.mass) == 0
    assert judge([found, *sound()])[0] == Suspicion(0.0)


def test_outlines_are_no_evidence():
    assert all(len(one.mass) == 0 for one in sound())


@pytest.mark.parametrize(
    ("spoil", "kind", "given", "suggested", "box"),
    [
        (swapped, "swapped class", 3, 2, (10, 30, 30, 42)),
        (missing, "missing object", 0, 3, None),
    ],
)
def test_an_object_at_fault_is_found_and_named(spoil, kind, given, suggested, box):
    truth = scene()
    mask, pred = spoil(truth), np.where(truth == 255, 1, truth)
    found = judge([look(mask, believing(truth)), *sound()])[0]
    assert found.score > 0.95
    assert found.kind == kind
    assert (found.given, found.suggested) == (given, suggested)
    if box:
        assert found.box == box
    region = suspect_region(mask, pred, found)
    assert region.sum() == found.pixels
    assert (region <= (mask != truth)).all()
    x0, y0, x1, y1 = found.box
    assert region[y0:y1, x0:x1].sum() == found.pixels
    assert region.any(axis=1)[[y0, y1 - 1]].all()
    assert region.any(axis=0)[[x0, x1 - 1]].all()


@pytest.mark.parametrize(("dx", "dy"), [(7, 0), (-8, 4), (3, -6)])
def test_a_shifted_mask_is_told_by_moving_it_back(dx, dy):
    truth = scene(5)
    rows = np.clip(np.arange(SIZE[0]) - dy, 0, SIZE[0] - 1)[:, None]
    mask = truth[rows, np.clip(np.arange(SIZE[1]) - dx, 0, SIZE[1] - 1)[None]]
    seen = look(mask, believing(truth))
    assert abs(seen.shift[0] + dx) <= 2
    assert abs(seen.shift[1] + dy) <= 2
    found = judge([seen, *sound()])[0]
    assert found.score > 0.9
    assert found.kind == "shifted mask"


def test_the_best_shift_is_that_of_trying_them_all():
    rng = np.random.default_rng(1)
    truth = ndimage.zoom(rng.integers(0, 3, (6, 8)), 5, order=0).astype(np.uint8)
    truth[:3, :3] = 255
    pred = np.roll(truth, (2, -3), (0, 1))
    pred = np.where(pred == 255, 0, pred)
    best = (0.0, 0, 0)
    height, width = truth.shape
    for dy in range(-6, 7):
        for dx in range(-6, 7):
            ys, xs = np.nonzero(truth != 255)
            inside = (ys + dy >= 0) & (ys + dy < height) & (xs + dx >= 0) & (xs + dx < width)
            ys, xs = ys[inside], xs[inside]
            best = max(best, ((pred[ys + dy, xs + dx] == truth[ys, xs]).mean(), dx, dy))
    still = (pred == truth)[truth != 255].mean()
    dx, dy, gone = _best_shift(truth, pred, 3)
    assert (dx, dy) == best[1:] == (-3, 2)
    assert gone == pytest.approx((best[0] - still) / (1 - still), abs=1e-5)


def test_a_mask_of_another_image_is_told_by_how_little_agrees():
    other = np.random.default_rng(0).integers(0, 4, (6, 8)).repeat(10, axis=0).repeat(10, axis=1).astype(np.uint8)
    found = judge([look(other, believing(scene())), *sound()])[0]
    assert found.score > 0.95
    assert found.kind == "mask of another image"


def test_usual_errors_excuse_and_an_image_never_excuses_itself():
    # The model takes every person for a car, in each image; in one a car is labelled a person beside that.
    def usual(truth: np.ndarray) -> np.ndarray:
        return believing(np.where(truth == 3, 2, truth))

    looks = [look(scene(k), usual(scene(k))) for k in range(12)]
    assert max(one.score for one in judge(looks)) < 0.5
    looks[4] = look(missing(swapped(scene(4))), believing(scene(4)))
    scores = np.array([one.score for one in judge(looks)])
    assert scores.argmax() == 4
    alone = judge([looks[4]])[0]
    assert alone.score < 0.5  # nobody to compare with
    assert judge([]) == []


def test_confidence_and_size_weigh():
    truth = scene()
    looks = sound()
    sure, unsure = (look(swapped(truth), believing(truth, p)) for p in (0.97, 0.4))
    assert sure.mass[0] > unsure.mass[0]
    small = truth.copy()
    small[45:50, 60:65] = 3
    assert sure.mass[0] > look(small, believing(truth)).mass[0] > 0
    order = [judge([one, *looks])[0].score for one in (sure, look(small, believing(truth)), looks[0])]
    assert order[0] > order[1] > order[2] == 0


def test_an_image_that_confuses_the_model_is_discounted():
    truth = scene()
    clear = look(swapped(truth), believing(truth))
    dark = replace(clear, doubt=10 * clear.doubt)
    looks = [*sound(), *[replace(clear, mass=clear.mass / 50, given=clear.given[::-1]) for _ in range(2)]]
    assert judge([clear, *looks])[0].score > judge([dark, *looks])[0].score


@pytest.mark.parametrize("seed", range(3))
def test_names_of_classes_do_not_matter(seed):
    truth = scene()
    masks = [scene(k) for k in range(5)] + [swapped(truth), missing(truth)]
    believed = [believing(scene(k), 0.9) for k in range(5)] + [believing(truth, 0.9)] * 2
    order = np.random.default_rng(seed).permutation(4)
    table = np.append(order, np.full(252, 255)).astype(np.uint8)
    first = judge([look(m, p) for m, p in zip(masks, believed, strict=True)])
    turned = [(table[m], p[np.argsort(order)]) for m, p in zip(masks, believed, strict=True)]
    second = judge([look(m, p) for m, p in turned])
    for a, b in zip(first, second, strict=True):
        assert b.score == pytest.approx(a.score)
        assert b.box == a.box
        if a.box:
            assert (b.given, b.suggested) == (order[a.given], order[a.suggested])


def test_nothing_scored_one_class_and_odd_sizes():
    ignored = np.full(SIZE, 255, np.uint8)
    empty = look(ignored, believing(ignored))
    assert empty.pixels == 0
    assert np.isnan(empty.agreement)
    assert [one.score for one in judge([empty, empty])] == [0, 0]
    assert judge([empty, *sound()])[0] == Suspicion(0.0)
    plain = np.zeros(SIZE, np.uint8)
    assert len(look(plain, believing(plain, 1.0, 1)).mass) == 0
    for size in ((1, 1), (1, 9), (7, 3), (33, 2)):
        truth = np.zeros(size, np.uint8)
        found = look(truth, believing(np.ones(size, np.uint8)))
        assert found.agreement == 0
        judge([found, *sound()])
    absent = look(scene(), believing(np.zeros(SIZE, np.uint8), 0.97, 9))  # classes in neither
    assert set(absent.suggested.tolist()) <= {0}
    assert not suspect_region(ignored, plain, Suspicion(0.0)).any()


def test_ignored_pixels_are_no_evidence():
    truth = scene()
    wrong = swapped(truth)
    wrong[truth == 2] = 255
    assert len(look(wrong, believing(truth)).mass) == 0


def test_shapes_and_ids_must_fit():
    with pytest.raises(ValueError, match=r"expected \(C, H, W\) of its size"):
        look(scene(), np.ones((4, 5, 5), np.float32))
    with pytest.raises(ValueError, match="truth holds id 3; there are probabilities of 2 classes"):
        look(scene(), np.full((2, *SIZE), 0.5, np.float32))


def test_others_count_as_by_hand():
    key, image = np.array([0, 0, 0, 1, 0]), np.array([0, 0, 1, 1, 2])
    mass = np.array([4.0, 1.0, 2.0, 8.0, 16.0])
    by_hand = []
    for k in range(5):
        total = 0.0
        for j in {0, 1, 2} - {int(image[k])}:
            there = mass[(image == j) & (key == key[k])]
            total += min(1.0, there.max() / mass[k]) if len(there) else 0.0
        by_hand.append(total)
    assert _others(key, image, mass) == pytest.approx(by_hand)


def test_what_moving_the_mask_mends_is_not_the_models_error():
    clear, others = look(swapped(scene()), believing(scene())), [replace(one, shift=(0, 0, 0.0)) for one in sound()]
    plain, moved = (judge([replace(clear, shift=(4, 0, gone)), *others])[0].score for gone in (0.0, 0.6))
    assert 1 - moved == pytest.approx((1 - plain) * 0.4)
    off = [
        replace(one, shift=(1, 0, 0.6)) for one in others
    ]  # all masks are a little beside their place: that is usual
    assert judge([replace(clear, shift=(1, 0, 0.6)), *off])[0].score == pytest.approx(plain)
