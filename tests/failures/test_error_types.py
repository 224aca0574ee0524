"""Where the IoU was lost: exact additivity, every kind on a picture drawn for it, and repairs taken again one by one."""

from itertools import product

import numpy as np
import pytest
from conftest import made_evaluation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from seglib import metrics
from seglib.data import IGNORE
from seglib.failures import ERROR_KINDS, error_costs, find_failures
from seglib.failures.error_types import error_kinds, lost_iou, pixel_price, repair_gains

NAMES = ("road", "car", "pole", "sky")
POLICIES = st.sampled_from(("truth", "union"))
SIDES = st.integers(1, 9)
MASKS = hnp.arrays(np.uint8, st.tuples(st.just(2), SIDES, SIDES), elements=st.integers(0, 4))
COUNTS = hnp.arrays(np.int64, (3, 4, 4), elements=st.sampled_from([0, 0, 0, 1, 2, 7, 50]))


def reference(truth, pred, width):
    """The definition, read aloud, with scipy's labels and a window about every pixel."""
    eight, everywhere = np.ones((3, 3)), list(product(*map(range, truth.shape)))
    pred = np.where(truth == IGNORE, IGNORE, pred)

    def around(ids, y, x):
        return ids[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]

    def regions(ids):
        masks = [ids == value for value in np.unique(ids)]
        parts = [ndimage.label(mask, eight)[0] + 9999 * k * mask for k, mask in enumerate(masks)]
        return np.max(parts, axis=0)

    def kept(ids, other):
        labels, near = regions(ids), np.zeros(ids.shape, bool)
        for y, x in everywhere:
            near[y, x] = ids[y, x] != IGNORE and (around(other, y, x) == ids[y, x]).any()
        return {r: near[labels == r].mean() >= 0.5 for r in np.unique(labels)}, labels

    found, true_labels = kept(truth, pred)
    real, pred_labels = kept(pred, truth)
    patches = ndimage.label(truth != pred, eight)[0]
    kinds = np.full(truth.shape, IGNORE)
    for y, x in zip(*np.nonzero(truth != pred), strict=True):
        is_found, is_real = found[true_labels[y, x]], real[pred_labels[y, x]]
        if not is_found:
            kind = "false_negative" if is_real else "misclassified"
        elif is_real and (around(truth, y, x) == pred[y, x]).any():
            kind = "boundary"
        elif (patches == patches[y, x]).sum() <= max(4, round(1e-4 * truth.size)):
            kind = "noise"
        else:
            kind = "misclassified" if is_real else "false_positive"
        kinds[y, x] = ERROR_KINDS.index(kind)
    return kinds


@pytest.mark.parametrize(("classes", "grid"), [(4, (5, 6)), (90, (9, 11))])  # 90: more than there are bits
@pytest.mark.parametrize("seed", range(6))
def test_kinds_as_the_definition_reads(seed, classes, grid):
    random = np.random.default_rng(seed)
    height, width = random.integers(5, 40, 2)
    coarse, zoom = random.integers(0, classes, (2, *grid)), np.divide((height, width), grid)
    smooth = [ndimage.zoom(ids, zoom, order=0) for ids in coarse]
    truth = smooth[0].astype(np.uint8)
    pred = np.where(random.random(truth.shape) < 0.7, truth, smooth[1]).astype(np.uint8)
    pred = np.roll(pred, random.integers(-2, 3, 2), axis=(0, 1))
    truth[random.random(truth.shape) < 0.05] = IGNORE
    ratio = float(random.choice([0.01, 0.05, 0.1]))
    d = max(1, round(ratio * np.hypot(height, width)))
    np.testing.assert_array_equal(error_kinds(truth, pred, ratio), reference(truth, pred, d))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(MASKS, POLICIES)
def test_the_lost_points_add_up(masks, absent):
    masks = np.where(masks[0] == 4, IGNORE, masks[0]).astype(np.uint8), masks[1] % 4
    counts = metrics.confusion_matrix(*masks, 4)[None]
    lost = lost_iou(*masks, pixel_price(counts[0], absent))
    (expected,) = 1 - metrics.image_miou(counts, absent)
    assert list(lost) == [f"lost_{kind}" for kind in ERROR_KINDS]
    assert sum(lost.values()) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert np.isnan(expected) or all(points >= 0 for points in lost.values())


def repaired(counts: np.ndarray, t: int, p: int) -> np.ndarray:
    after = counts.copy()
    after[:, t, t] += counts[:, t, p]
    after[:, t, p] = 0
    return counts if t == p else after


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(COUNTS, POLICIES)
def test_repairs_taken_again_one_by_one(counts, absent):
    before = metrics.image_miou(counts, absent)
    expected = np.zeros(counts.shape)
    for t, p in product(range(4), range(4)):
        expected[:, t, p] = metrics.image_miou(repaired(counts, t, p), absent) - before
    expected = np.nan_to_num(expected)  # an image without a valid pixel gains nothing
    found = find_failures(made_evaluation(counts, NAMES, np.zeros((3, 4)), absent), 1.0)
    for row, one, image in zip(found.itertuples(), counts, expected, strict=True):
        np.testing.assert_allclose(repair_gains(one, absent), image, atol=1e-12)
        assert row.best_fix_gain == pytest.approx(image.max(), abs=1e-12)
        if row.best_fix:
            t, p = (NAMES.index(name) for name in row.best_fix.split(" -> "))
            assert image[t, p] == pytest.approx(image.max(), abs=1e-12)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(COUNTS, POLICIES)
def test_what_the_confusions_of_a_split_cost(counts, absent):
    total, pairs = counts.sum(0), error_costs(made_evaluation(counts, NAMES, absent=absent), None)
    before = metrics.scores(counts)["mean_iou"]
    assert len(pairs) == ((total > 0) & ~np.eye(4, dtype=bool)).sum()
    assert pairs["gain"].is_monotonic_decreasing
    for row in pairs.itertuples():
        t, p = NAMES.index(row.truth), NAMES.index(row.prediction)
        after = repaired(counts, t, p)
        assert row.gain == pytest.approx(metrics.scores(after)["mean_iou"] - before, abs=1e-12)
        risen = metrics.image_miou(after, absent) - metrics.image_miou(counts, absent)
        assert row.gain_image == pytest.approx(metrics.nanmean(risen), abs=1e-12)
        assert (row.pixels, row.images) == (total[t, p], (counts[:, t, p] > 0).sum())
        assert row.share == pytest.approx(total[t, p] / total[t].sum())
