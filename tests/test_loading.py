"""The packed cache and the batches cut from it."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.augment import Geometry
from seglib.dataset import DatasetError, load_dataset, read_pair
from seglib.loading import pack, scoring_batches, training_batches

SIZES = [(6, 8), (8, 6), (6, 8), (5, 12), (6, 8), (8, 6), (9, 9)]
YAML = """\
classes: [a, b, c]
splits:
  train: {images: "images/*.png", masks: "masks/*.png"}
"""
GEOMETRY = Geometry((4, 4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    folder, random = tmp_path / "set", np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k, size in enumerate(SIZES):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"images/{k}.png")
        Image.fromarray(random.choice(np.array([0, 1, 2, 255], np.uint8), size)).save(folder / f"masks/{k}.png")
    (folder / "dataset.yaml").write_text(YAML, encoding="utf-8")
    return folder


def caches(folder):
    return sorted((folder.parent / "artifacts" / "cache").glob("*"))


def test_pack_holds_what_the_files_hold(folder):
    dataset = load_dataset(folder)
    packed = pack(dataset, "train")
    assert len(packed) == len(SIZES)
    assert packed.nbytes == sum(4 * h * w for h, w in SIZES)
    for source in (packed, packed.in_memory()):
        assert source.ids == dataset.samples["id"].tolist()
        for i, row in enumerate(dataset.samples.itertuples()):
            image, mask = read_pair(dataset, row)
            np.testing.assert_array_equal(source.image(i), image)
            np.testing.assert_array_equal(source.mask(i), mask)
            np.testing.assert_array_equal(source.pixel_counts[i], [(mask == c).sum() for c in range(3)])


def test_reopened_without_decoding_and_made_anew_after_a_change(folder, monkeypatch):
    pack(load_dataset(folder), "train")
    (cache,) = caches(folder)
    with monkeypatch.context() as patch:
        patch.setattr("seglib.loading.read_pair", None)
        pack(load_dataset(folder), "train")
    assert caches(folder) == [cache]
    white = np.full((*SIZES[0], 3), 255, np.uint8)
    Image.fromarray(white).save(folder / "images/0.png")
    os.utime(folder / "images/0.png", ns=(1, 1))
    assert (pack(load_dataset(folder), "train").image(0) == 255).all()
    assert len(caches(folder)) == 2


def test_damaged_cache(folder):
    pack(load_dataset(folder), "train")
    file = caches(folder)[0] / "samples.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"damaged.*Delete artifacts/cache"):
        pack(load_dataset(folder), "train")


def test_bad_samples_are_counted_and_leave_nothing(folder):
    for k in range(1, 5):
        Image.fromarray(np.full(SIZES[k], 9, np.uint8)).save(folder / f"masks/{k}.png")
    with pytest.raises(DatasetError, match="4 of 7 samples cannot be used") as caught:
        pack(load_dataset(folder), "train")
    assert [f"masks/{k}.png" in str(caught.value) for k in range(7)] == [False, True, True, True, False, False, False]
    assert not [path for path in (folder.parent / "artifacts").rglob("*") if path.is_file()]


def test_long_side(folder):
    packed = pack(load_dataset(folder), "train", long_side=8)
    assert packed.image_sizes.tolist() == [[6, 8], [8, 6], [6, 8], [3, 8], [6, 8], [8, 6], [8, 8]]
    np.testing.assert_array_equal(packed.mask_sizes, packed.image_sizes)
    scoring = pack(load_dataset(folder), "train", long_side=8, original_masks=True)
    assert scoring.mask_sizes.tolist() == [list(size) for size in SIZES]
    np.testing.assert_array_equal(scoring.image(3), packed.image(3))
    assert set(np.unique(packed.mask(3))) <= {0, 1, 2, 255}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7, 20])
def test_training_batches(folder, batch_size):
    packed = pack(load_dataset(folder), "train")

    def epoch(seed, number, workers=0):
        return list(training_batches(packed, GEOMETRY, batch_size, seed, number, workers))

    batches = epoch(0, 1)
    assert sorted(np.concatenate([b.index for b in batches])) == list(range(7))
    assert len(batches) == 1 or len(batches[-1].index) >= 2
    for other in (epoch(0, 1), epoch(0, 1, workers=2)):
        for first, second in zip(batches, other, strict=True):
            np.testing.assert_array_equal(first.index, second.index)
            assert torch.equal(first.images, second.images)
            assert torch.equal(first.masks, second.masks)
            assert first.windows == second.windows
    orders = [tuple(np.concatenate([b.index for b in epoch(*key)])) for key in ((0, 1), (0, 2), (1, 1))]
    assert len(set(orders)) == 3
    for batch in batches:
        for k, (i, w) in enumerate(zip(batch.index, batch.windows, strict=True)):
            part = packed.image(i)[w.rows, w.columns].transpose(2, 0, 1)
            np.testing.assert_array_equal(batch.images[k, :, : w.height, : w.width], part)
            np.testing.assert_array_equal(batch.masks[k, : w.height, : w.width], packed.mask(i)[w.rows, w.columns])


def test_scoring_batches(folder):
    packed = pack(load_dataset(folder), "train")
    seen = []
    for index, images, size in scoring_batches(packed, 2):
        assert 1 <= len(index) <= 2
        seen.extend(index)
        for i, image in zip(index, images, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0), packed.image(i))
            assert size == packed.mask(i).shape == SIZES[i]
    assert sorted(seen) == list(range(7))
