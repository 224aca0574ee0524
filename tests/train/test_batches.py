"""Batches cut from a packed split: each sample once, the same in every number of processes and threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seglib.train.batches import batch_edges, portions, scoring_batches, training_batches

from seglib.train.augment import Colour, Geometry
from seglib.train.loader import CachedSplit

SIZES = np.array([(6, 8), (8, 6), (6, 8), (5, 12), (6, 8), (8, 6), (9, 9)])
GEOMETRY, COLOUR = Geometry((4, 4)), Colour(0.3, 0.5, 0.5)


@pytest.fixture
def packed() -> CachedSplit:
    random = np.random.default_rng(0)
    data = random.integers(0, 256, int((4 * SIZES.prod(1)).sum()), np.uint8)
    ids = [str(k) for k in range(len(SIZES))]
    return CachedSplit(ids, "key", SIZES, SIZES, np.zeros((len(SIZES), 3), np.int64), data, None)


def cut(packed, batch_size, seed=0, epoch=1, **how):
    return list(training_batches(packed, GEOMETRY, COLOUR, batch_size, seed, epoch, **how))


def assert_same(first, second):
    np.testing.assert_array_equal(first.index, second.index)
    assert (first.windows, first.lights) == (second.windows, second.lights)
    height, width = (min(a, b) for a, b in zip(first.masks.shape[1:], second.masks.shape[1:], strict=True))
    for mine, other in ((first.images, second.images), (first.masks, second.masks)):
        assert torch.equal(mine[..., :height, :width], other[..., :height, :width])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7, 20])
def test_every_sample_once_in_an_order_of_seed_and_epoch_alone(packed, batch_size):
    batches = cut(packed, batch_size)
    assert sorted(np.concatenate([b.index for b in batches])) == list(range(7))
    assert [len(b.index) for b in batches] == np.diff([0, *batch_edges(7, batch_size), 7]).tolist()
    assert len(batches) == 1 or len(batches[-1].index) >= 2
    for other in (cut(packed, batch_size), cut(packed, batch_size, workers=2)):
        for first, second in zip(batches, other, strict=True):
            assert_same(first, second)
    keys = ((0, 1), (0, 2), (1, 1))
    orders = {tuple(np.concatenate([b.index for b in cut(packed, batch_size, *key)])) for key in keys}
    assert len(orders) == 3
    for batch in batches:
        for k, (i, w) in enumerate(zip(batch.index, batch.windows, strict=True)):
            image, mask = packed.pair(i)
            part = image[w.rows, w.columns].transpose(2, 0, 1)
            np.testing.assert_array_equal(batch.images[k, :, : w.height, : w.width], part)
            np.testing.assert_array_equal(batch.masks[k, : w.height, : w.width], mask[w.rows, w.columns])


@pytest.mark.parametrize(("workers", "most"), [(0, 1), (2, 5)])
def test_no_more_is_drawn_than_is_cut(packed, workers, most):
    """An epoch of a million images begins at once."""
    drawn = []

    class Counting(Colour):
        def draw(self, random):
            drawn.append(1)
            return super().draw(random)

    batches = training_batches(packed, GEOMETRY, Counting(0.3, 0.5, 0.5), 1, 0, 1, workers=workers)
    next(batches)
    assert 1 <= len(drawn) <= most
    batches.close()


@pytest.mark.parametrize("batch_size", [3, 4, 7])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_what_one_would_cut(packed, batch_size, processes):
    edges = batch_edges(7, batch_size, processes)
    shares = [cut(packed, batch_size, rank=rank, processes=processes) for rank in range(processes)]
    whole = cut(packed, batch_size) if edges == batch_edges(7, batch_size) else None
    for k, parts in enumerate(zip(*shares, strict=True)):
        assert min(len(part.index) for part in parts) >= 1
        if whole:
            assert np.concatenate([part.index for part in parts]).tolist() == whole[k].index.tolist()
            assert [light for part in parts for light in part.lights] == whole[k].lights
            assert [w.matrix for part in parts for w in part.windows] == [w.matrix for w in whole[k].windows]
    seen = np.concatenate([part.index for share in shares for part in share])
    assert sorted(seen) == list(range(7))


def test_micro_batches_are_slices(packed):
    (batch,) = cut(packed, 7)
    parts = batch.split(3)
    assert [len(part.index) for part in parts] == [2, 3, 2]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [w for part in parts for w in part.windows] == batch.windows


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (14, 4), (5, 5), (1, 1)])
def test_portions_are_even(count, parts):
    sizes = np.diff(portions(count, parts))
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_scoring_reads_every_sample_in_one_process(packed, processes):
    seen = []
    for rank in range(processes):
        for index, images, masks in scoring_batches(packed, 2, rank, processes):
            assert 1 <= len(index) <= 2
            seen.extend(index)
            for i, image, mask in zip(index, images, masks, strict=True):
                np.testing.assert_array_equal(image.permute(1, 2, 0), packed.pair(i)[0])
                np.testing.assert_array_equal(mask, packed.pair(i)[1])
    assert sorted(seen) == list(range(7))


@pytest.mark.parametrize(
    ("room", "expected"), [(3 * 144, [1, 1, 2, 3]), (2 * 144, [1, 1, 1, 2, 2]), (144, [1] * 7), (1, [1] * 7)]
)
def test_large_images_of_many_classes_are_scored_fewer_at_a_time(packed, monkeypatch, room, expected):
    monkeypatch.setattr("seglib.train.batches._LOGITS", room)  # of 3 classes: 144 numbers score 6 x 8 pixels
    batches = [index for index, _, _ in scoring_batches(packed, 7)]
    assert sorted(map(len, batches)) == expected
    assert sorted(np.concatenate(batches)) == list(range(7))
