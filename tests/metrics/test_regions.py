"""IoU by region size and Boundary IoU: by hand, and against slow ways to the same, pixel by pixel."""

import numpy as np
import pytest
from scipy import ndimage

from seglib.metrics import EDGES, boundary_counts, boundary_width, region_counts, region_table


def areas(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The pixels of each connected area of one value, by SciPy."""
    found = []
    for value in np.unique(mask):
        labels, count = ndimage.label(mask == value, np.ones((3, 3)))
        found += [{*zip(*np.nonzero(labels == k), strict=True)} for k in range(1, count + 1)]
    return sorted(found, key=min)


def slowly(truth: np.ndarray, pred: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((4, classes, 3), np.int64)
    pred = np.where(truth == 255, 255, pred)
    regions = [(a, truth[min(a)]) for a in areas(truth) if truth[min(a)] != 255]
    sizes = [int(np.searchsorted(EDGES, len(a) / truth.size, side="right")) for a, _ in regions]
    for (area, c), s in zip(regions, sizes, strict=True):
        hit = sum(pred[p] == c for p in area)
        counts[:, c, s] += 1, hit, len(area) - hit, 0
    for area in areas(pred):
        c = pred[min(area)]
        overlaps = [len(area & region) if c == of else 0 for region, of in regions]
        if c != 255 and max(overlaps, default=0):
            counts[3, c, sizes[overlaps.index(max(overlaps))]] += sum(truth[p] != c for p in area)
    return counts


@pytest.mark.parametrize("size", [(1, 1), (1, 12), (9, 1), (13, 17), (24, 31)])
def test_regions_equal_the_slow_way(size):
    for seed in range(6):
        random = np.random.default_rng(seed)
        truth, pred = random.choice([0, 0, 0, 1, 2, 255], size), random.choice([0, 0, 1, 2], size)
        pred = np.where(random.random(size) < 0.5, truth, pred)
        found = region_counts(truth.astype(np.uint8), pred.astype(np.uint8), 3)
        np.testing.assert_array_equal(found, slowly(truth, pred, 3))


def test_regions_by_hand():
    truth = np.zeros((100, 100), np.uint8)
    truth[10:40, 10:50] = 1  # 12 % of the image: large
    truth[70:74, 70:74] = 1  # 0.16 %: small
    pred = truth.copy()
    pred[70:74, 70:72] = 0  # half of the small one is missed
    pred[40:44, 10:50] = 1  # the large one grows
    pred[90:95, 5:10] = 1  # out of nothing: belongs to no size
    table = region_table(region_counts(truth, pred, 3), ("ground", "hut", "cat")).set_index(["class", "size"])
    assert set(table.index) == {("ground", "large"), ("hut", "large"), ("hut", "small")}
    assert table.loc[("hut", "small")].tolist() == [1, 16, 0.5, 0.5]
    assert table.loc[("hut", "large")].tolist() == pytest.approx([1, 1200, 1200 / 1360, 1.0])
    assert table.loc[("ground", "large"), "recall"] == pytest.approx((8784 - 160 - 25) / 8784)
    # A region of exactly an edge is of the larger size.
    truth = np.zeros((100, 100), np.uint8)
    truth[:3, :11] = truth[10:13, :11] = 1  # 33 pixels are COCO's smallest medium region
    truth[20:30, :30] = truth[40:50, :30] = 2  # 300 pixels are its smallest large one
    truth[10, 0] = truth[40, 0] = 0  # 32 and 299
    assert region_counts(truth, truth, 3)[0].tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 1]]
    assert region_counts(truth[:0], truth[:0], 3).tolist() == np.zeros((4, 3, 3)).tolist()


def eroded(truth: np.ndarray, pred: np.ndarray, classes: int, width: int) -> np.ndarray:
    counts, valid = np.zeros((2, classes), np.int64), truth != 255
    for c in range(classes):
        masks = [(ids == c) & valid for ids in (truth, pred)]
        rims = [mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width) for mask in masks]
        counts[:, c] = (rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()
    return counts


def blobs(size: tuple[int, int], classes: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    ids = np.zeros(size, np.uint8)
    for _ in range(6):
        (top, left), (height, width) = random.integers(0, size), random.integers(1, np.add(size, 1))
        ids[top : top + height, left : left + width] = random.integers(0, classes)
    return ids


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (7, 5), (23, 18), (90, 120)])
@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.12, 0.5])
def test_boundaries_equal_erosion_as_it_is_defined(size, ratio):
    assert (boundary_width((300, 400), 0.02), boundary_width((2, 2), 0.02)) == (10, 1)
    for seed in range(4):
        truth, pred = blobs(size, 4, seed), blobs(size, 4, seed + 99)
        truth[seed % size[0]] = 255
        expected = eroded(truth, pred, 4, boundary_width(size, ratio))
        np.testing.assert_array_equal(boundary_counts(truth, pred, 4, ratio), expected)
