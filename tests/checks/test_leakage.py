"""Near-duplicates and sequences that train holds too: found, and nothing else taken for them."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from seglib.checks.duplicates import (
    candidates,
    clusters,
    difference_hash,
    hamming,
    near_duplicates,
    same_picture,
    thumbnail,
)
from seglib.checks.sequences import guess_sequences, judge_sequences, sequence_table

RNG = np.random.default_rng(0)


def scene(seed, size=(64, 96)):
    """A smooth random picture with one sharp thing in it, (H, W, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    pixels = np.array(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    y, x = random.integers(0, size[0] - 16), random.integers(0, size[1] - 16)
    pixels[y : y + 16, x : x + 16] = random.integers(0, 256, 3)
    return pixels


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def grey(image):
    return Image.fromarray(image).convert("L")


def find(images, splits, radius=6):
    sizes = np.array([i.shape[:2] for i in images]).reshape(-1, 2)
    samples = pd.DataFrame(
        {
            "id": [f"i{k}" for k in range(len(images))],
            "split": splits,
            "height": sizes[:, 0],
            "width": sizes[:, 1],
        }
    )
    hashes = np.array([difference_hash(grey(i)) for i in images], np.uint64)
    thumbs = np.array([thumbnail(grey(i)) for i in images])
    return near_duplicates(samples, hashes, thumbs, images.__getitem__, radius=radius)


# ---- hashes


def test_hash_by_hand():
    rising = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert difference_hash(Image.fromarray(rising)) == 2**64 - 1
    assert difference_hash(Image.fromarray(rising[:, ::-1])) == 0
    one = rising[:, ::-1].copy()
    one[0, 1] = 255  # brighter than its left neighbour, in the first row and column of differences
    assert difference_hash(Image.fromarray(one)) == 1 << 63
    assert difference_hash(Image.fromarray(rising).resize((45, 40), Image.Resampling.NEAREST)) == 2**64 - 1


def test_hamming_matches_a_plain_count():
    a, b = RNG.integers(0, 2**64, (2, 500), np.uint64)
    assert hamming(a, b).tolist() == [(int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("radius", [0, 1, 3, 6, 10])
def test_candidates_are_those_of_all_pairs(radius):
    base = RNG.integers(0, 2**64, 30, np.uint64)
    flips = [np.bitwise_or.reduce(np.uint64(1) << RNG.choice(64, k, replace=False).astype(np.uint64), initial=np.uint64(0))
             for k in RNG.integers(0, 14, 150)]  # fmt: skip
    hashes = base[RNG.integers(0, 30, 150)] ^ np.array(flips, np.uint64)
    expected = {
        (i, j): d
        for i, j in itertools.combinations(range(150), 2)
        if (d := (int(hashes[i]) ^ int(hashes[j])).bit_count()) <= radius
    }
    first, second, distance = candidates(hashes, radius)
    assert (
        dict(zip(zip(first.tolist(), second.tolist(), strict=True), distance.tolist(), strict=True))
        == expected
    )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_candidates_of_next_to_nothing(count):
    first, second, _ = candidates(np.zeros(count, np.uint64))
    assert list(zip(first, second, strict=True)) == ([(0, 1)] if count == 2 else [])


# ---- near-duplicates

CHANGES = {
    "jpeg": lambda image: jpeg(image, 70),
    "noise": lambda image: np.clip(image + np.random.default_rng(1).normal(0, 4, image.shape), 0, 255).astype(
        np.uint8
    ),
    "half": lambda image: np.array(Image.fromarray(image).resize((48, 32), Image.Resampling.BOX)),
    "larger": lambda image: np.array(Image.fromarray(image).resize((133, 91), Image.Resampling.BICUBIC)),
    "darker": lambda image: (image * 0.8).astype(np.uint8),
    "softer": lambda image: np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.7))),
}


@pytest.mark.parametrize(
    "size", [(64, 96), (120, 160)]
)  # of large pictures the thumbnails are compared first
@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_however_it_was_changed(change, size):
    images = [scene(k, size) for k in range(12)]
    found = find([*images, CHANGES[change](images[3])], ["train"] * 12 + ["val"], radius=8)
    assert found[["split_1", "id_1", "split_2", "id_2"]].values.tolist() == [["train", "i3", "val", "i12"]]
    assert 0 <= found["difference"].iloc[0] < 40


def test_another_picture_of_the_same_place_is_none():
    image = scene(1)
    moved = image.copy()
    moved[40:60, 20:40] = moved[40:60, 24:44] // 2 + 90  # something passed by
    assert not same_picture(image, moved)
    assert not same_picture(image, image[:, ::-1])
    assert not same_picture(np.full_like(image, 80), image)  # a flat picture is like nothing, even itself
    assert not same_picture(np.full_like(image, 80), np.full_like(image, 80))
    assert find([image, moved], ["train", "val"], radius=63).empty
    assert find([], []).empty


def test_neighbouring_frames_are_told_apart_without_reading_them_again():
    image, reads = scene(4, (120, 160)), []
    moved = image.copy()
    moved[50:80, 60:80] = moved[50:80, 64:84] // 2 + 90
    samples = pd.DataFrame({"id": ["a", "b", "c"], "split": "train", "height": 120, "width": 160})
    pictures = [image, moved, jpeg(image, 80)]
    thumbs = np.array([thumbnail(grey(p)) for p in pictures])
    hashes = np.full(3, difference_hash(grey(image)), np.uint64)
    found = near_duplicates(samples, hashes, thumbs, lambda k: reads.append(k) or pictures[k])
    assert found[["id_1", "id_2"]].values.tolist() == [["a", "c"]]
    assert reads == [0, 2]


def test_difference_is_the_mean_over_pixels():
    image = scene(2)
    other = np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8)
    assert find([image, other], ["a", "b"])["difference"].iloc[0] == pytest.approx(
        np.abs(image.astype(int) - other).mean(), abs=1e-3
    )


def test_many_alike_do_not_cost_every_pair():
    image, reads = scene(3), []
    noise = [
        np.clip(image + np.random.default_rng(k).normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        for k in range(60)
    ]
    samples = pd.DataFrame({"id": [f"i{k}" for k in range(60)], "split": "train", "height": 64, "width": 96})
    hashes = np.full(60, difference_hash(grey(image)), np.uint64)
    found = near_duplicates(
        samples, hashes, np.array([thumbnail(grey(i)) for i in noise]), lambda k: reads.append(k) or noise[k]
    )
    assert len(reads) <= 2 * 8 * 60 < 60 * 59
    assert [len(members) for members in clusters(found)] == [60]  # and all of them are known to be one


def test_clusters_join_pairs():
    rows = [("a", "1", "b", "2"), ("a", "5", "a", "6"), ("b", "2", "b", "3"), ("a", "6", "b", "3")]
    table = pd.DataFrame(rows, columns=["split_1", "id_1", "split_2", "id_2"])
    assert [sorted(m) for m in clusters(table)] == [
        [("a", "1"), ("a", "5"), ("a", "6"), ("b", "2"), ("b", "3")]
    ]
    assert clusters(table.iloc[:0]) == []


# ---- sequences


def table(rows):
    samples = pd.DataFrame(rows, columns=["split", "group", "frame"])
    samples["id"] = [f"s{k}" for k in range(len(samples))]
    return samples.astype({"frame": "Int64"})


def told(samples, near=30):
    return [(row[1], row[3], row[4]) for row in judge_sequences(sequence_table(samples, near), samples, near)]


def test_one_clip_inside_a_drive_of_train():
    frames = [("train", "0016E5", f) for f in (7890, 7920, 8190, 8220)]
    frames += [("val", "0016E5", f) for f in range(7959, 8160, 2)] + [("train", "other", 3)]
    samples = table(frames)
    row = sequence_table(samples).query("split == 'val'").iloc[0]
    assert row[["images", "first", "last", "clips", "train_images"]].tolist() == [101, 7959, 8159, 1, 4]
    assert row[["train_before", "train_after", "nearest", "near"]].tolist() == [7920, 8190, 31, 0]
    assert row["nearest_median"] == np.median([min(f - 7920, 8190 - f) for f in range(7959, 8160, 2)])
    ((check, split, detail),) = told(samples)
    assert (check, split) == ("sequence-leakage", "val")
    assert detail == (
        "all 101 images of val are one clip (0016E5, frames 7959-8159) of a sequence that train holds, between its train "
        "frames 7920 and 8190. No sequence of val is independent of train. The nearest train frame is 31 frames away, "
        f"{row['nearest_median']:g} in the median; 0 of 101 images have one within 30 frames."
    )


def test_frames_that_alternate_with_those_of_train():
    samples = table([("train", "a", f) for f in range(0, 60, 2)] + [("val", "a", f) for f in range(1, 60, 2)])
    row = sequence_table(samples, near_frames=1).query("split == 'val'").iloc[0]
    assert row[["clips", "nearest", "near"]].tolist() == [30, 1, 30]
    assert pd.isna(row["train_after"])
    assert "parted by train frames" in told(samples)[0][2]


def test_distances_match_every_pair():
    train, val = RNG.choice(500, 20, replace=False), RNG.choice(500, 15, replace=False)
    samples = table([("train", "a", f) for f in train] + [("val", "a", f) for f in val])
    row = sequence_table(samples, near_frames=4).query("split == 'val'").iloc[0]
    nearest = np.abs(train[None] - val[:, None]).min(axis=1)
    assert row["nearest"] == nearest.min()
    assert row["nearest_median"] == np.median(nearest)
    assert row["near"] == (nearest <= 4).sum()


def test_some_sequences_shared_some_not_and_numbers_missing():
    rows = [
        ("train", "a", 1),
        ("train", "b", pd.NA),
        ("val", "a", 40),
        ("val", "b", pd.NA),
        ("val", "c", 1),
        ("val", "", pd.NA),
    ]
    ((check, _, detail),) = told(table(rows))
    assert check == "sequence-leakage"
    assert detail.startswith(
        "2 of 3 sequences of val are in train too: a, b; they hold 2 of its 4 images. 1 sequence of"
    )
    assert "39 frames away" in detail
    assert "0 of 1 images have one within 30 frames" in detail


def test_independent_sequences_and_none():
    assert told(table([("train", "a", 1), ("val", "b", 1), ("val", "c", 1)])) == []
    assert told(table([("train", "", pd.NA), ("val", "", pd.NA)])) == []
    assert told(table([("val", "a", 1)])) == []  # no train at all: said elsewhere
    one = [("train", "a", 1), *(("val", "b", f) for f in range(12))]
    assert told(table(one)) == [
        ("few-sequences", "val", "all 12 images of val are one sequence (b, frames 0-11).")
    ]
    assert sequence_table(table([])).empty


def walk(seed, frames):
    """Hashes that change by three bits a frame."""
    random, value, out = np.random.default_rng(seed), int(np.random.default_rng(seed).integers(2**63)), []
    for _ in range(frames):
        for bit in random.choice(64, 3, replace=False):
            value ^= 1 << int(bit)
        out.append(value)
    return out


def named(form, groups=4, frames=8):
    names = [form.format(group="abcdefg"[g], frame=f) for g in range(groups) for f in range(frames)]
    samples = pd.DataFrame({"id": names, "split": ["train", "val"] * (len(names) // 2)})
    return samples, np.array([h for g in range(groups) for h in walk(g, frames)], np.uint64)


@pytest.mark.parametrize(
    "form",
    ["drive{group}_{frame:04d}", "drive{group}_f{frame:05d}", "drive{group}-{frame}", "drive{group}{frame}"],
)
def test_sequences_are_guessed_where_pictures_bear_the_names_out(form):
    samples, hashes = named(form)
    known = np.ones(len(samples), bool)
    guess = guess_sequences(samples, hashes, known)
    assert guess.group.tolist() == [f"drive{g}" for g in "abcd" for _ in range(8)]
    assert guess.frame.tolist() == list(range(8)) * 4
    assert "4 sequences (drivea, driveb, drivec, ...)" in guess.detail
    shuffled = np.random.default_rng(0).permutation(hashes)
    assert guess_sequences(samples, shuffled, known) is None  # numbers that mean nothing


def test_nothing_is_guessed_from_other_names():
    samples, hashes = named("{group}{frame}")
    known = np.ones(len(samples), bool)
    assert guess_sequences(samples.assign(id=[f"{k}" for k in range(32)]), hashes, known) is None  # no group
    assert guess_sequences(samples.assign(id=[f"p{'ab' * k}" for k in range(32)]), hashes, known) is None
    assert guess_sequences(samples, hashes, ~known) is None
    assert guess_sequences(samples.iloc[:0], hashes[:0], known[:0]) is None
