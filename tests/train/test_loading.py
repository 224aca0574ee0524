"""The cache of decoded images, and the batches that are cut from it: each sample once, the same in any number of processes."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seglib.data import DatasetError, digests, load_dataset, read_pair
from seglib.params import ParameterError, Train
from seglib.train import CachedSplit, DevicePlan, build_cache, loader, scoring_batches
from seglib.train.loader import augmented, batch_edges, crop_size, rare_pixel, training_batches

SIZES = [(6, 8), (8, 6), (6, 8), (5, 12), (6, 8), (8, 6), (9, 9)]
pytestmark = pytest.mark.usefixtures("tiny_root")
DAMAGES = {
    "truncated": lambda cache: os.truncate(cache / "samples.bin", 100),
    "no bytes": lambda cache: (cache / "samples.bin").unlink(),
    "not stored": lambda cache: (shutil.rmtree(cache), build(cache="none")),
    "no JSON": lambda cache: (cache / "index.json").write_text('{"sizes": ['),
    "another kind": lambda cache: (cache / "index.json").write_text("[1, 2]"),
}


def build(**how) -> CachedSplit:
    return build_cache(load_dataset("data/tiny"), "train", **how)


def caches(root):
    return sorted(path for path in (root / "artifacts" / "cache").glob("*") if path.is_dir())


def repaint(root, kind: str, value: int) -> None:
    """Fill the second image or mask with a value."""
    path = root / f"data/tiny/train/{kind}/t01.png"
    Image.fromarray(np.full_like(Image.open(path), value)).save(path)


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_cache_holds_what_the_files_hold(tiny_root, cache):
    dataset, cached = load_dataset("data/tiny"), build(cache=cache)
    assert cached.ids == dataset.split("train")["id"].tolist()
    assert (cached.data is not None) == (cache != "none")
    assert cached.files == digests(dataset, "train")
    assert len(caches(tiny_root)) == 1
    for i, row in enumerate(dataset.split("train").itertuples()):
        image, mask = read_pair(dataset, row)
        np.testing.assert_array_equal(cached.pair(i)[0], image)
        np.testing.assert_array_equal(cached.pair(i)[1], mask)
        np.testing.assert_array_equal(cached.pixel_counts[i], [(mask == c).sum() for c in range(3)])
    if cache != "none":
        with pytest.raises(ValueError, match="read-only"):
            cached.data[0] = 1


def test_it_is_decoded_once_and_again_after_a_change(tiny_root, monkeypatch):
    first = build()
    (cache,) = caches(tiny_root)
    os.utime(tiny_root / "data/tiny/train/images/t00.png", ns=(5, 5))  # the same content at another time
    with monkeypatch.context() as patch:
        patch.setattr(loader, "read_pair", None)
        build()
    build(long_side=8)
    both = caches(tiny_root)
    assert len(both) == 2
    assert cache in both
    repaint(tiny_root, "images", 255)
    assert (build().pair(1)[0] == 255).all()
    assert caches(tiny_root) == both, "what no file holds any more is replaced"
    dataset = load_dataset("data/tiny")
    rows = dataset.samples.index[dataset.samples["split"] == "train"][:2]
    dataset.samples.loc[rows, "mask"] = dataset.samples.loc[rows, "mask"].to_numpy()[::-1]
    others = build_cache(dataset, "train")  # the same files in other pairs
    np.testing.assert_array_equal(others.pair(0)[1], first.pair(1)[1])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cache_that_is_not_whole_is_made_again(tiny_root, damage):
    before = build()
    before = replace(before, data=np.array(before.data))
    DAMAGES[damage](caches(tiny_root)[0])
    again = build()
    np.testing.assert_array_equal(again.data, before.data)
    np.testing.assert_array_equal(again.pixel_counts, before.pixel_counts)


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_bad_sample_is_named_and_leaves_nothing(tiny_root, cache):
    repaint(tiny_root, "masks", 9)
    with pytest.raises(DatasetError, match=r"masks/t01\.png"):
        build(cache=cache)
    assert not caches(tiny_root)


@pytest.fixture
def cached() -> CachedSplit:
    random, sizes = np.random.default_rng(0), np.array(SIZES)
    data = random.integers(0, 256, int((4 * sizes.prod(1)).sum()), np.uint8)
    counts = np.zeros((len(SIZES), 3), np.int64)
    return CachedSplit([str(k) for k in range(7)], sizes, sizes, counts, data, None)


def cut(cached, batch_size, seed=0, epoch=1, workers=0, **how):
    params = Train(batch_size=batch_size, seed=seed, blur=0.5, noise=0.5)
    return list(training_batches(cached, params, DevicePlan(workers=workers), epoch, **how))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7, 20])
def test_every_sample_once_in_an_order_of_seed_and_epoch_alone(cached, batch_size):
    batches = cut(cached, batch_size)
    assert sorted(np.concatenate([b.index for b in batches])) == list(range(7))
    assert [len(b.index) for b in batches] == np.diff(batch_edges(7, batch_size)).tolist()
    assert len(batches) == 1 or len(batches[-1].index) >= 2
    for other in (cut(cached, batch_size), cut(cached, batch_size, workers=2)):
        for first, second in zip(batches, other, strict=True):
            assert (first.crops, first.jitters) == (second.crops, second.jitters)
            for field in ("index", "images", "masks"):
                np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    keys = ((0, 1), (0, 2), (1, 1))
    orders = {tuple(np.concatenate([b.index for b in cut(cached, batch_size, *key)])) for key in keys}
    assert len(orders) == 3
    for batch in batches:
        for k, (i, crop) in enumerate(zip(batch.index, batch.crops, strict=True)):
            image, mask = cached.pair(i)
            height, width = crop.size
            part = image[crop.rows, crop.columns].transpose(2, 0, 1)
            np.testing.assert_array_equal(batch.images[k, :, :height, :width], part)
            np.testing.assert_array_equal(batch.masks[k, :height, :width], mask[crop.rows, crop.columns])


@pytest.mark.parametrize("batch_size", [3, 4, 7])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_what_one_would_cut(cached, batch_size, processes):
    shares = [cut(cached, batch_size, rank=rank, processes=processes) for rank in range(processes)]
    same = batch_edges(7, batch_size, processes) == batch_edges(7, batch_size)
    for k, parts in enumerate(zip(*shares, strict=True)):
        assert min(len(part.index) for part in parts) >= 1
        for field in ("index", "jitters", "crops") if same else ():
            together = [value for part in parts for value in getattr(part, field)]
            assert together == list(getattr(cut(cached, batch_size)[k], field))
    assert sorted(np.concatenate([part.index for share in shares for part in share])) == list(range(7))


def test_crop_sizes(cached):
    large = CachedSplit([], np.array([(400, 700), (360, 480), (300, 1200)]), None, None, None, None)
    assert crop_size(large, Train()) == (352, 512)
    assert crop_size(large, Train(crop_height=33)) == (64, 512)
    assert crop_size(cached, Train(crop_width=640)) == (32, 640)
    with pytest.raises(ParameterError, match=r"scale_min = 2\.0 is larger than scale_max"):
        crop_size(large, Train(scale_min=2, scale_max=1))


@pytest.mark.parametrize(("room", "expected"), [(432, [1, 1, 2, 3]), (288, [1, 1, 1, 2, 2]), (1, [1] * 7)])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_scoring_reads_every_sample_in_one_process(cached, monkeypatch, processes, room, expected):
    """And fewer large images of many classes at a time."""
    monkeypatch.setattr(loader, "_LOGITS", room)  # of 3 classes: 144 numbers score 6 x 8 pixels
    seen = []
    for rank in range(processes):
        for index, images, masks in scoring_batches(cached, 7, rank, processes):
            seen.append(index)
            for i, image, mask in zip(index, images, masks, strict=True):
                np.testing.assert_array_equal(image.permute(1, 2, 0), cached.pair(i)[0])
                np.testing.assert_array_equal(mask, cached.pair(i)[1])
    assert sorted(map(len, seen)) == expected
    assert sorted(np.concatenate(seen)) == list(range(7))


def test_rare_crops_show_the_rare_class_more_often(tiny_params):
    """A class is drawn the likelier the fewer pixels it has, then one of its pixels; 0 leaves the training as it was."""
    cached, random, plan = build(), np.random.default_rng(0), DevicePlan()
    drawn = [cached.pair(i)[1][rare_pixel(cached, i, random)] for i in range(6) for _ in range(50)]
    counts, share = cached.pixel_counts.sum(0), 1 / cached.pixel_counts.sum(0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 300, share / share.sum(), atol=0.1)

    def of_rare(share):
        params = tiny_params(rare_crops=share, crop_height=32, crop_width=32, batch_size=6)
        batches = [b for epoch in range(20) for b in training_batches(cached, params, plan, epoch)]
        masks = np.concatenate([augmented(batch, (32, 32), plan)[1] for batch in batches])
        return (masks == counts.argmin()).mean()

    assert of_rare(1.0) > 1.1 * of_rare(0.0)
    assert rare_pixel(replace(cached, pixel_counts=np.zeros_like(cached.pixel_counts)), 0, random) is None
