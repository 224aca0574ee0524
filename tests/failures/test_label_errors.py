"""Suspected label errors: hand-made cases in which the right order and the right words are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from seglib.failures import label_errors
from seglib.failures.label_errors import (
    REGIONS,
    Look,
    Suspicion,
    _best_shift,
    _kind,
    _others,
    judge,
    look,
    suspect_region,
)

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
    return np.where(np.arange(classes)[:, None, None] == np.where(ids == 255, 0, ids), sure, rest).astype(
        np.float32
    )


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


@pytest.mark.parametrize("columns", [40, 39])  # the transform is of an even and of an odd length
def test_the_best_shift_is_that_of_trying_them_all(columns):
    rng = np.random.default_rng(1)
    truth = ndimage.zoom(rng.integers(0, 3, (6, 8)), 5, order=0).astype(np.uint8)[:, :columns]
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
    dx, dy, gone = _best_shift(truth, pred)
    assert (dx, dy) == best[1:] == (-3, 2)
    assert gone == pytest.approx((best[0] - still) / (1 - still), abs=1e-5)


def test_a_mask_of_another_image_is_told_by_how_little_agrees():
    other = (
        np.random.default_rng(0).integers(0, 4, (6, 8)).repeat(10, axis=0).repeat(10, axis=1).astype(np.uint8)
    )
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
    plain[:9] = 255
    assert look(plain, believing(plain, 1.0, 1)).agreement == 1
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
    for classes in (2, 3):
        with pytest.raises(
            ValueError, match=f"truth holds id 3; there are probabilities of {classes} classes"
        ):
            look(scene(), np.full((classes, *SIZE), 0.5, np.float32))


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
    clear, others = (
        look(swapped(scene()), believing(scene())),
        [replace(one, shift=(0, 0, 0.0)) for one in sound()],
    )
    plain, moved = (judge([replace(clear, shift=(4, 0, gone)), *others])[0].score for gone in (0.0, 0.6))
    assert 1 - moved == pytest.approx((1 - plain) * 0.4)
    off = [
        replace(one, shift=(1, 0, 0.6)) for one in others
    ]  # all masks are a little beside their place: that is usual
    assert judge([replace(clear, shift=(1, 0, 0.6)), *off])[0].score == pytest.approx(plain)


def test_a_mask_that_is_wrong_everywhere_is_the_most_suspicious():
    empty = np.zeros(SIZE, np.uint8)  # as of a forgotten annotation; the model sees no pixel of class 0
    seen = look(empty, believing(np.ones(SIZE, np.uint8)))
    assert seen.agreement == 0
    found = judge([seen, *sound()])[0]
    assert found.score > 0.95
    assert found.box == (0, 0, SIZE[1], SIZE[0])
    assert suspect_region(empty, np.ones(SIZE, np.uint8), found).all()


def one_square(inside: int, around: int, rim: int = 255) -> np.ndarray:
    """A square of 20 x 20 pixels in a rim of 40 x 60 that is not scored by default."""
    truth = np.full(SIZE, around, np.uint8)
    truth[10:50, 10:70] = rim
    truth[20:40, 20:40] = inside
    return truth


@pytest.mark.parametrize(("inside", "around"), [(0, 1), (1, 0), (3, 0)])
def test_evidence_by_hand(inside, around):
    """A whole region of the mask is rejected: its 18 x 18 inner pixels count, and what is not scored belongs to no class."""
    truth = one_square(inside, around)
    seen = look(truth, believing(np.where(truth == inside, 2, truth)))
    assert seen.given.tolist() == [inside] * 2
    assert seen.suggested.tolist() == [2, 2]
    assert seen.by_given.tolist() == [True, False]
    np.testing.assert_allclose(seen.mass, 18 * 18 * np.log(0.97 / 0.01) ** 2, rtol=1e-5)
    assert seen.size.tolist() == [400, 400]
    assert seen.whole.tolist() == [1, 1]
    assert seen.box.tolist() == [[20, 20, 40, 40]] * 2
    assert seen.seed.tolist() == [20 * 80 + 20] * 2
    assert seen.agreement == pytest.approx(1 - 400 / (60 * 80 - 40 * 60 + 400))


def test_the_impossible_counts_as_one_in_a_hundred_thousand():
    truth = one_square(1, 0)
    seen = look(truth, believing(np.where(truth == 1, 2, truth), 1.0))
    np.testing.assert_allclose(seen.mass, 18 * 18 * np.log(1e5) ** 2, rtol=1e-5)
    wrong = np.where(truth == 1, 3, 0).astype(
        np.uint8
    )  # a prediction that these probabilities rule out as well
    seen = look(truth, believing(np.where(truth == 1, 2, truth), 1.0), wrong)
    assert seen.doubt == pytest.approx(400 / np.count_nonzero(truth != 255))
    assert len(seen.mass) == 0


def test_a_part_of_a_region_and_what_carries_its_evidence():
    """Of a region of 400 pixels half is rejected: three fifths of that for one class, unsurely, the rest surely for another."""
    truth = one_square(1, 0)
    pred = truth.copy()
    pred[20:32, 20:30], pred[32:40, 20:30] = 2, 3
    probabilities = believing(pred)
    probabilities[:, 20:32, 20:30] = np.array([0.05, 0.44, 0.46, 0.05])[:, None, None]
    seen = look(truth, probabilities)
    whole = np.flatnonzero(seen.by_given)
    assert (seen.given[whole], seen.suggested[whole], seen.size[whole], seen.whole[whole]) == (1, 3, 200, 0.5)
    parts = dict(zip(seen.suggested[~seen.by_given], seen.whole[~seen.by_given], strict=True))
    assert parts == {2: 120 / 400, 3: 80 / 400}
    for k in range(len(seen.mass)):
        of = Suspicion(1.0, seed=int(seen.seed[k]), by_given=bool(seen.by_given[k]))
        region = suspect_region(truth, pred, of)
        assert region.sum() == seen.size[k]
        assert not region[truth == 255].any()


@pytest.mark.parametrize(("rows", "share"), [(2, 400 / 4000), (1, 380 / 3600)])
def test_a_region_of_which_less_than_a_tenth_is_meant_is_not_asked_for(rows, share):
    truth = np.zeros(SIZE, np.uint8)
    truth[45:50] = 1
    truth[50:] = 255
    pred = truth.copy()
    pred[25 + rows : 45 + rows, 20:40] = 2  # `rows` of its 20 lie in class 1
    seen = look(truth, believing(pred))
    assert seen.whole[~seen.by_given].tolist() == [pytest.approx(share)]


def test_the_largest_evidence_is_kept():
    truth, pred = np.zeros((120, 160), np.uint8), np.zeros((120, 160), np.uint8)
    sides = np.random.default_rng(0).permutation(np.arange(20) % 10 + 4)
    for k, side in enumerate(sides):
        y, x = 30 * (k // 5), 32 * (k % 5)
        pred[y : y + side, x : x + side] = 1
    seen = look(truth, believing(pred))
    # Each is one disagreement of the given class and one of the suggested class.
    assert seen.size.tolist() == np.repeat(np.sort(sides)[::-1] ** 2, 2)[:REGIONS].tolist()
    assert seen.by_given.sum() == REGIONS / 2
    assert (np.diff(seen.mass) <= 0).all()


def test_no_shift_beyond_the_reach_is_tried():
    truth = np.zeros((30, 40), np.uint8)
    truth[10:16, 10:16] = 1
    for far, found in ((6, 6), (9, 0)):  # 15 % of the longer side: 6 pixels
        dx, _, gone = _best_shift(truth, np.roll(truth, far, 1))
        assert abs(dx) <= 6
        assert dx == found or gone < 0.5
        assert found == 0 or gone == pytest.approx(1, abs=1e-6)
    assert _best_shift(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8)) == (0, 0, 0.0)
    assert _best_shift(truth, truth) == (0, 0, 0.0)
    large = truth.repeat(4, 0).repeat(4, 1)  # 160 pixels: every third is looked at
    assert _best_shift(large, np.roll(large, 4, 1))[:2] in ((3, 0), (6, 0))


def random_look(random: np.random.Generator) -> Look:
    count = int(random.integers(0, 4))
    pixels = int(random.integers(500, 5000))
    return Look(
        pixels, random.uniform(0.5, 1), random.uniform(0.01, 0.3), random.integers(0, 3, count), random.integers(0, 3, count),
        np.sort(random.uniform(0.5, 200, count))[::-1] * random.choice([1, 0.01]), random.integers(1, 400, count), random.random(count),
        random.integers(0, 50, (count, 4)), random.integers(0, 900, count), random.random(count) < 0.5,
        (*random.integers(-3, 4, 2).tolist(), random.uniform(0, 0.6)),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_scores_by_hand(seed):
    """The docstring's sums, region by region and image by image."""
    random = np.random.default_rng(seed)
    looks = [random_look(random) for _ in range(6)]
    typical, moves = np.median([one.doubt for one in looks]), np.median([1 - one.shift[2] for one in looks])
    masses = [one.mass * min(1, typical / one.doubt) ** 2 for one in looks]
    for i, (one, suspicion) in enumerate(zip(looks, judge(looks), strict=True)):
        shares = []
        for k, m in enumerate(masses[i]):
            like = 0.0
            for j, other in enumerate(looks):
                same = other.given == one.given[k], other.suggested == one.suggested[k]
                for weight, where in (
                    (1, same[0] & same[1]),
                    (0.1, same[0]),
                    (0.1, same[1]),
                    (0.3, same[0] | True),
                ):
                    if j != i and where.any():
                        like += weight * min(1, masses[j][where].max() / m)
            shares.append((like + 0.5 + 0.5 * min(1, 1e-3 * one.pixels / m)) / (1.5 * 5 + 1))
        if not shares:
            assert suspicion == Suspicion(0.0)
            continue
        k = int(np.argmin(shares))
        assert suspicion.score == pytest.approx(1 - shares[k] * min(1, (1 - one.shift[2]) / moves))
        assert (suspicion.given, suspicion.suggested, suspicion.pixels) == (
            one.given[k],
            one.suggested[k],
            one.size[k],
        )
        assert (suspicion.box, suspicion.seed) == (tuple(one.box[k]), one.seed[k])
        assert suspicion.by_given == one.by_given[k]


# Of a mask of 1000 pixels: agreement, whole, size, shift -> kind, where the usual agreement is 0.9.
KINDS = [
    (0.90, 0.60, 20, (0, 0, 0.0), "swapped class"),
    (0.90, 0.59, 20, (0, 0, 0.0), ""),
    (0.90, 0.41, 50, (0, 0, 0.0), ""),
    (0.90, 0.40, 50, (0, 0, 0.0), "missing object"),
    (0.90, 0.10, 51, (0, 0, 0.0), "swapped class"),
    (0.90, 0.10, 20, (1, 0, 0.5), "shifted mask"),
    (0.90, 0.10, 20, (0, 1, 0.5), "shifted mask"),
    (0.90, 0.10, 20, (0, 0, 0.5), "missing object"),
    (0.90, 0.10, 20, (1, 1, 0.49), "missing object"),
    (
        0.61,
        0.10,
        40,
        (0, 0, 0.0),
        "mask of another image",
    ),  # 0.39 - two regions of 0.04: not the worst class's fault
    (0.63, 0.10, 40, (0, 0, 0.0), "missing object"),
]


@pytest.mark.parametrize(("agreement", "whole", "size", "shift", "kind"), KINDS)
def test_kinds_by_hand(agreement, whole, size, shift, kind):
    zeros = np.zeros(4, np.int64)
    sizes, given = np.array([size, 20, 30, 40]), np.array([1, 0, 1, 1])
    sizes[3] = 40 if size == 40 else 0
    one = Look(
        1000, agreement, 0.1, given, zeros, np.ones(4), sizes, np.full(4, whole), np.zeros((4, 4), int), zeros,
        np.array([True, True, False, True]), shift,
    )  # fmt: skip
    assert _kind(one, 0, 0.5, 0.9) == kind
    assert _kind(one, 0, 0.499, 0.9) == ""
    assert kind in ("", *label_errors.KINDS)
