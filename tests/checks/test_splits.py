"""Sequences that train holds too, and a suggested split: whole sequences, balanced classes."""

import itertools

import numpy as np
import pandas as pd
import pytest

from seglib.checks import splits
from seglib.checks.splits import balance, guess_sequences, judge_sequences, sequence_table, suggest_split


def samples_of(groups, splits=("train", "val")):
    """`groups`: (name, images); splits alternate, so that the present one tears every sequence apart."""
    rows = [(f"{name}{k}", splits[k % len(splits)], name) for name, count in groups for k in range(count)]
    return pd.DataFrame(rows, columns=["id", "split", "group"])


def suggest(samples, counts):
    return suggest_split(samples, counts, np.arange(len(samples)))


def cost(samples, counts, splits, shares):
    total, value = counts.sum(axis=0), 0.0
    for split, share in shares.items():
        inside = (splits == split).to_numpy()
        value += ((inside.mean() - share) / share) ** 2
        value += ((((counts[inside].sum(axis=0) / total) - share) / share) ** 2).mean()
    return value


@pytest.mark.parametrize("seed", range(6))
def test_as_good_as_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    groups = [(name, int(random.integers(1, 9))) for name in "abcdefg"]
    samples = samples_of(groups, ("train", "train", "val"))
    counts = random.integers(0, 50, (len(samples), 3)) * random.integers(0, 2, (len(samples), 3))
    shares = samples["split"].value_counts(normalize=True).to_dict()
    ways = [dict(zip("abcdefg", places, strict=True)) for places in itertools.product(shares, repeat=7)]
    ways = [samples["group"].map(way) for way in ways if len({*way.values()}) == 2]
    best = min(cost(samples, counts, way, shares) for way in ways)
    assert cost(samples, counts, suggest(samples, counts), shares) == pytest.approx(best, rel=1e-6)


def test_sequences_stay_whole_and_shares_are_kept():
    random = np.random.default_rng(0)
    groups = [(f"g{k}_", int(random.integers(3, 12))) for k in range(40)]
    samples = samples_of(groups, ("train", "train", "val", "test"))
    holds = random.random((len(samples), 5)) < [1, 1, 0.6, 0.3, 0.1]
    counts = random.poisson(20, (len(samples), 5)) * holds
    found = suggest(samples, counts)
    assert found.groupby(samples["group"]).nunique().eq(1).all()
    table = balance(samples, counts, found).set_index("split")
    assert table["shared_sequences"].eq(0).all()
    assert table["absent_classes"].eq(0).all()
    for split, share in samples["split"].value_counts(normalize=True).items():
        assert table.loc[split, "images"] / len(samples) == pytest.approx(share, abs=0.01)
    assert table["class_distance"].max() < 0.02
    assert (found == suggest(samples, counts)).all()  # seeded
    assert balance(samples, counts, samples["split"])["shared_sequences"].gt(0).all()


def test_no_split_is_empty_and_too_few_sequences_are_told():
    three = samples_of([("a", 3), ("b", 3), ("c", 3)], ("train", "val", "test"))
    for counts in (np.ones((9, 2)), np.zeros((9, 2))):  # and with no valid pixel at all
        assert sorted(set(suggest(three, counts))) == ["test", "train", "val"]
    assert set(suggest(samples_of([("a", 90), ("b", 1), ("c", 1)]), np.ones((92, 1)))) == {"train", "val"}
    with pytest.raises(ValueError, match="1 independent sequences cannot fill 2 splits"):
        suggest(samples_of([("a", 4)]), np.ones((4, 2)))


def test_one_clip_inside_a_drive_of_train():
    frames = [("train", "0016E5", f) for f in (7890, 7920, 8190, 8220)]
    frames += [("val", "0016E5", f) for f in range(7959, 8160, 2)] + [("train", "other", 3)]
    samples = pd.DataFrame(frames, columns=["split", "group", "frame"]).astype({"frame": "Int64"})
    text = "1 of 1 sequences of val are in train too: 0016E5; they hold 101 of its 101 images; "
    text += "0 of them have a train frame within 30 frames."
    found = judge_sequences(sequence_table(samples, 30), samples, 30)
    assert [*found] == [("sequence-leakage", "", "val", text)]


def named(form, groups=4, frames=8):
    """Names of frames, and hashes that change by about six bits a frame."""
    names = [form.format("abcdefg"[g], f) for g in range(groups) for f in range(frames)]
    flips = np.random.default_rng(0).random((groups, frames, 64)) < 0.1
    flips[:, 0] = np.random.default_rng(1).random((groups, 64)) < 0.5
    bits = np.logical_xor.accumulate(flips, axis=1).reshape(-1, 64)
    hashes = np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
    return pd.DataFrame({"id": names, "split": ["train", "val"] * (len(names) // 2), "_bits": [*hashes]})


@pytest.mark.parametrize("form", ["_{:04d}", "_f{:05d}", "-{}", "{}", "_{:04d}_jpg.rf.9fab"])
def test_sequences_are_guessed_where_pictures_bear_the_names_out(form):
    samples = named("drive{}" + form)
    group, frame, detail = guess_sequences(samples)
    assert group.tolist() == [f"drive{g}" for g in "abcd" for _ in range(8)]
    assert frame.tolist() == list(range(8)) * 4
    assert "4 sequences (drivea, driveb, drivec, ...)" in detail
    samples["_bits"] = np.random.default_rng(0).permutation(samples["_bits"])
    assert guess_sequences(samples) is None  # numbers that mean nothing


def test_copies_of_one_image_are_a_sequence():
    samples = named("photo{}_jpg.rf.{}ab").assign(frame=None)
    assert guess_sequences(samples) is None
    samples["group"], samples["frame"], detail = splits.group_copies(samples)
    assert samples["group"].tolist() == [f"photo{g}_jpg" for g in "abcd" for _ in range(8)]
    assert "32 copies of 4 images" in detail
    ((check, *_, told),) = judge_sequences(sequence_table(samples, 30), samples, 30)
    assert (check, "4 of 4 sequences of val are in train too" in told) == ("sequence-leakage", True)
    assert splits.group_copies(samples.iloc[::8]) is None  # one of each
    names = ["val-001", "train-001_flip", "001_flip_rot90", "train-002"]
    names += ["street_day", "street", "IMG_1_a", "IMG_1", "val-002"]
    samples = pd.DataFrame({"id": names, "split": ["val", *["train"] * 7, "val"], "frame": 1})
    group, *_ = splits.group_copies(samples)
    assert group.tolist() == ["001", "001", "001", *[""] * 6]
    assert splits.group_copies(samples[3:]) is None  # numbers that begin again, words that name no copy


def test_nothing_is_guessed_from_other_names():
    samples = named("{}{}")
    assert guess_sequences(samples.assign(id=[f"{k}" for k in range(32)])) is None  # no group
    assert guess_sequences(samples.assign(id=[f"p{'ab' * k}" for k in range(32)])) is None
    assert guess_sequences(samples.assign(_bits=None)) is None
    assert guess_sequences(samples.iloc[:0]) is None
