"""The packed cache and the batches cut from it."""

import contextlib
import json
import os
import shutil
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from seglib.claims import lock

from seglib.data import fingerprint as content
from seglib.data.dataset import DatasetError, load_dataset, read_pair
from seglib.train import loader as loading
from seglib.train.loader import build_cache

SIZES = [(6, 8), (8, 6), (6, 8), (5, 12), (6, 8), (8, 6), (9, 9)]
YAML = """\
classes: [a, b, c]
splits:
  train: {images: "images/*.png", masks: "masks/*.png"}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    folder, random = tmp_path / "set", np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k, size in enumerate(SIZES):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"images/{k}.png")
        Image.fromarray(random.choice(np.array([0, 1, 2, 255], np.uint8), size)).save(
            folder / f"masks/{k}.png"
        )
    (folder / "dataset.yaml").write_text(YAML, encoding="utf-8")
    return folder


def caches(folder):
    return sorted(path for path in (folder.parent / "artifacts" / "cache").glob("*") if path.is_dir())


def test_pack_holds_what_the_files_hold(folder):
    dataset = load_dataset(folder)
    packed = build_cache(dataset, "train")
    assert len(packed) == len(SIZES)
    assert packed.nbytes == sum(4 * h * w for h, w in SIZES)
    for source in (packed, packed.in_memory()):
        assert source.ids == dataset.samples["id"].tolist()
        for i, row in enumerate(dataset.samples.itertuples()):
            image, mask = read_pair(dataset, row)
            np.testing.assert_array_equal(source.pair(i)[0], image)
            np.testing.assert_array_equal(source.pair(i)[1], mask)
            np.testing.assert_array_equal(source.pixel_counts[i], [(mask == c).sum() for c in range(3)])


def test_reopened_without_decoding_and_made_anew_after_a_change(folder, monkeypatch):
    build_cache(load_dataset(folder), "train")
    (cache,) = caches(folder)
    os.utime(folder / "images/0.png", ns=(5, 5))  # the same content at another time is the same
    with monkeypatch.context() as patch:
        patch.setattr("seglib.train.loader.read_pair", None)
        build_cache(load_dataset(folder), "train")
    assert caches(folder) == [cache]
    white = np.full((*SIZES[0], 3), 255, np.uint8)
    Image.fromarray(white).save(folder / "images/0.png")
    os.utime(folder / "images/0.png", ns=(1, 1))
    assert (build_cache(load_dataset(folder), "train").pair(0)[0] == 255).all()
    assert len(caches(folder)) == 1
    assert caches(folder) != [cache], "what no file holds any more is deleted"


DAMAGE = {
    "truncated": lambda cache: os.truncate(cache / "samples.bin", 100),
    "no bytes": lambda cache: (cache / "samples.bin").unlink(),
    "no JSON": lambda cache: (cache / "index.json").write_text('{"ids": ['),
    "another kind": lambda cache: (cache / "index.json").write_text("[1, 2]"),
    "another version": lambda cache: _edit(cache, version=2),
    "another's": lambda cache: _edit(cache, key="0" * 16),
    "other samples": lambda cache: _edit(cache, ids=["a"]),
    "a size that a disk has changed": lambda cache: _overwrite(cache, "6,", "8,"),
    "no sums": lambda cache: _edit(cache, sums=[]),
    "sizes missing": lambda cache: _edit(cache, sizes=[[6, 8, 6, 8]]),
    "huge sizes": lambda cache: _edit(cache, sizes=[[1 << 62] * 4] * len(SIZES)),
}


def _edit(cache, **values):
    content.write_sealed(cache / "index.json", content.read_sealed(cache / "index.json") | values)


def _overwrite(cache, old, new):
    path = cache / "index.json"
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_cache_is_made_anew(folder, damage):
    before = build_cache(load_dataset(folder), "train").in_memory()
    DAMAGE[damage](caches(folder)[0])
    again = build_cache(load_dataset(folder), "train")
    assert again.ids == before.ids
    np.testing.assert_array_equal(again.data, before.data)
    np.testing.assert_array_equal(again.pixel_counts, before.pixel_counts)


def test_a_sample_that_a_failing_disk_has_changed_is_decoded_anew(folder, capsys):
    dataset = load_dataset(folder)
    whole = build_cache(dataset, "train")
    bad = bytearray((caches(folder)[0] / "samples.bin").read_bytes())
    bad[int(whole.offsets[3]) - 1] ^= 4  # the last pixel of the third mask
    (caches(folder)[0] / "samples.bin").write_bytes(bad)
    packed = build_cache(dataset, "train")
    for source in (packed, packed.in_memory()):
        for i, row in enumerate(dataset.samples.itertuples()):
            for mine, other in zip(source.pair(i), read_pair(dataset, row), strict=True):
                np.testing.assert_array_equal(mine, other)
        source.pair(2)
        told = capsys.readouterr().out
        assert told.count("'2' is damaged in artifacts/cache/set-train-") == 1, "said once"
    again = build_cache(dataset, "train")
    assert zlib.crc32(again.data) != zlib.crc32(bytes(bad)), "made anew"
    assert not capsys.readouterr().out
    again.pair(2)
    assert not capsys.readouterr().out


def test_bad_samples_are_counted_and_leave_nothing(folder):
    for k in range(1, 5):
        Image.fromarray(np.full(SIZES[k], 9, np.uint8)).save(folder / f"masks/{k}.png")
    with pytest.raises(DatasetError, match="4 of 7 samples cannot be used") as caught:
        build_cache(load_dataset(folder), "train")
    assert [f"masks/{k}.png" in str(caught.value) for k in range(7)] == [
        False,
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert not [path for cache in caches(folder) for path in cache.iterdir()]


def test_long_side(folder):
    packed = build_cache(load_dataset(folder), "train", long_side=8)
    assert packed.image_sizes.tolist() == [[6, 8], [8, 6], [6, 8], [3, 8], [6, 8], [8, 6], [8, 8]]
    np.testing.assert_array_equal(packed.mask_sizes, packed.image_sizes)
    scoring = build_cache(load_dataset(folder), "train", long_side=8, original_masks=True)
    assert scoring.mask_sizes.tolist() == [list(size) for size in SIZES]
    np.testing.assert_array_equal(scoring.pair(3)[0], packed.pair(3)[0])
    assert set(np.unique(packed.pair(3)[1])) <= {0, 1, 2, 255}


def test_shrinking_averages_the_image_and_picks_from_the_mask(folder):
    """At exactly half the size each pixel stands for 2 x 2, so both can be worked out by hand."""
    packed = build_cache(load_dataset(folder), "train", long_side=4)
    for i, (height, width) in enumerate(SIZES[:3]):
        image = np.asarray(Image.open(folder / f"images/{i}.png")).reshape(height // 2, 2, width // 2, 2, 3)
        np.testing.assert_allclose(
            packed.pair(i)[0], image.mean((1, 3)), atol=1
        )  # rows, then columns are rounded
        mask = np.asarray(Image.open(folder / f"masks/{i}.png")).reshape(height // 2, 2, width // 2, 2)
        assert (packed.pair(i)[1][:, None, :, None] == mask).any((1, 3)).all()


def test_what_is_packed_says_what_it_was_made_from_and_cannot_be_written(folder):
    dataset = load_dataset(folder)
    for cache in ("disk", "none"):
        packed = build_cache(dataset, "train", cache=cache)
        assert caches(folder)[0].name == f"{dataset.name}-train-{packed.key}"
        assert packed.files == content.digests(dataset, "train")
    with pytest.raises(ValueError, match="read-only"):
        build_cache(dataset, "train").data[0] = 1


def test_only_what_no_file_holds_any_more_is_deleted(folder):
    """Other sizes of the same files, another dataset's of that name, and what cannot be read stay; so does all in a training."""
    dataset = load_dataset(folder)
    build_cache(dataset, "train", long_side=8)
    build_cache(dataset, "train")
    small, whole = sorted(
        caches(folder), key=lambda cache: json.loads((cache / "index.json").read_text())["sizes"][3]
    )
    names = {"another": "set-train-another", "odd": "set-train-odd", "empty": "set-train-empty"}
    another, odd, empty = (small.with_name(name) for name in names.values())
    shutil.copytree(whole, another)
    index = json.loads((another / "index.json").read_text())
    (another / "index.json").write_text(json.dumps(index | {"root": "elsewhere"}))
    odd.mkdir()
    (odd / "index.json").write_text("[]")
    empty.mkdir()
    for path in ("images/6.png", "masks/6.png"):
        (folder / path).unlink()
    build_cache(load_dataset(folder), "train")
    assert {small, whole, another, odd, empty} < set(caches(folder)), (
        "a file that is gone contradicts nothing"
    )

    Image.fromarray(np.zeros((*SIZES[0], 3), np.uint8)).save(folder / "images/0.png")
    with lock(folder.parent / "artifacts/runs/one/.training", "training"):
        build_cache(load_dataset(folder), "train")
        assert {small, whole, another, odd, empty} < set(caches(folder))
    Image.fromarray(np.ones((*SIZES[0], 3), np.uint8)).save(folder / "images/0.png")
    packed = build_cache(load_dataset(folder), "train")
    assert {cache.name for cache in caches(folder)} == {*names.values(), f"set-train-{packed.key}"}


def test_without_a_cache_every_file_is_decoded_when_it_is_asked_for(folder, monkeypatch):
    stored, streamed = (build_cache(load_dataset(folder), "train", cache=cache) for cache in ("disk", "none"))
    assert stored.stored
    assert not streamed.stored
    assert streamed.nbytes == stored.nbytes
    np.testing.assert_array_equal(streamed.pixel_counts, stored.pixel_counts)
    for i in range(len(SIZES)):
        for mine, other in zip(streamed.pair(i), stored.pair(i), strict=True):
            np.testing.assert_array_equal(mine, other)
    monkeypatch.setattr(
        "seglib.train.loader.read_pair", lambda *_: (np.zeros((6, 8, 3), np.uint8), np.ones((6, 8), np.uint8))
    )
    assert (streamed.pair(0)[1] == 1).all()


def test_a_split_that_does_not_fit_the_disk_is_not_stored(folder, monkeypatch):
    free = SimpleNamespace(free=loading._SPARE_DISK + sum(4 * h * w for h, w in SIZES))
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _: free)
    assert not build_cache(load_dataset(folder), "train").stored
    assert not list((folder.parent / "artifacts").rglob("samples.bin"))
    free.free += 1
    assert build_cache(load_dataset(folder), "train").stored


@pytest.mark.parametrize("original_masks", [False, True])
@pytest.mark.parametrize("long_side", [0, 8])
def test_the_room_that_is_looked_for_is_what_is_taken(folder, long_side, original_masks):
    dataset = load_dataset(folder)
    rows = list(dataset.split("train").itertuples(index=False))
    needed = loading._decoded_bytes(dataset, rows, long_side, original_masks)
    assert needed == build_cache(dataset, "train", long_side, original_masks).nbytes


def test_it_waits_for_another_process_that_decodes_and_says_what_changed(folder, monkeypatch, capsys):
    waited = []

    @contextlib.contextmanager
    def other(path, doing, wait=0.0):
        waited.append((path.name, wait))
        yield

    monkeypatch.setattr(loading, "lock", other)
    monkeypatch.setattr(content, "since_check", lambda *_: "1 file changed since 01")
    build_cache(load_dataset(folder), "train")
    assert waited == [(".decoding", 3600)]
    assert "1 file changed since 01" in capsys.readouterr().out


def test_a_bad_file_is_found_without_a_cache_too(folder):
    (folder / "images/3.png").write_bytes((folder / "images/3.png").read_bytes()[:60])
    with pytest.raises(DatasetError, match="1 of 7 samples cannot be used"):
        build_cache(load_dataset(folder), "train", cache="none")


def test_a_file_that_vanished_since_is_named(folder):
    dataset = load_dataset(folder)
    (folder / "images/2.png").unlink()
    with pytest.raises(DatasetError, match=r"'2' \(images/2\.png\) is gone"):
        build_cache(dataset, "train")
