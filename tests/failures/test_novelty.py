"""Distances to the nearest training images, against brute force and on cases in which the answer is known."""

import numpy as np
import pytest

from seglib.failures import novelty as module
from seglib.failures.novelty import novelty


def _data(seed=0, training=60, asked=15, size=12):
    random = np.random.default_rng(seed)
    train = random.standard_normal((training, size)).astype(np.float32)
    return random.standard_normal((asked, size)).astype(np.float32), train, [f"t{k}" for k in range(training)]


@pytest.mark.parametrize("grouped", [False, True])
def test_distance_novelty_and_nearest_are_those_of_brute_force(grouped):
    asked, train, ids = _data(1)
    groups = [f"street{k % 4}" if grouped and k < 50 else "" for k in range(60)]
    unit, asked_unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, asked))
    apart = 1 - asked_unit @ unit.T
    own = []
    for k in range(60):
        others = [j for j in range(60) if j != k and not (groups[k] and groups[j] == groups[k])]
        own.append(min(1 - unit[k] @ unit[j] for j in others))
    table = novelty(asked, train, ids, groups)
    one_sequence = novelty(asked, train, ids, ["only"] * 60)
    assert grouped or one_sequence.equals(table)
    assert table["nearest"].tolist() == [[ids[k] for k in row[:5]] for row in apart.argsort(axis=1)]
    assert np.allclose(table["distance"], apart.min(1), atol=1e-6)
    expected = [np.mean(np.array(own) < d) for d in table["distance"]]
    assert np.allclose(table["novelty"], expected, atol=1 / 60 + 1e-9)
    assert np.mean(table["novelty"] == expected) > 0.9  # but for rounding


def test_frames_of_one_video_do_not_make_everything_new():
    """Sequences of near copies: a new sequence like the others is not novel, another kind of image is."""
    random = np.random.default_rng(2)
    streets = random.standard_normal((12, 32)) + 2
    train = np.repeat(streets, 10, axis=0) + 0.01 * random.standard_normal((120, 32))
    groups, none = np.repeat([f"s{k}" for k in range(12)], 10), [""] * 120
    ids = [f"t{k}" for k in range(120)]
    like, unlike = random.standard_normal((20, 32)) + 2, random.standard_normal((20, 32)) - 2
    assert 0.2 < novelty(like, train, ids, groups)["novelty"].median() < 0.95
    assert (novelty(like, train, ids, none)["novelty"] == 1).all()
    assert (novelty(unlike, train, ids, groups)["novelty"] == 1).all()
    copies = novelty(train[[3, 77]] * 3, train, ids, groups)
    assert copies["novelty"].tolist() == [0, 0]
    assert [row[0] for row in copies["nearest"]] == ["t3", "t77"]


def test_few_images_and_features_that_are_zero_or_not_finite():
    asked, train, ids = _data(4)
    asked[0], asked[1, 2], none = 0, np.nan, [""] * 60
    train[5, 0] = np.inf
    table = novelty(asked, train, ids, none)
    assert table.loc[0, "distance"] == 1
    assert np.isnan(table.loc[1, ["distance", "novelty"]].to_numpy(float)).all()
    assert table.loc[1, "nearest"] == []
    assert not any("t5" in row for row in table["nearest"])
    alone = novelty(asked[2:], train[:1], ids[:1], [""])
    assert alone["novelty"].isna().all()
    assert all(row == ["t0"] for row in alone["nearest"])
    assert novelty(asked, train[:0], [], [])["nearest"].tolist() == [[]] * len(asked)
    assert novelty(asked[:0], train, ids, none).empty


def test_more_training_images_than_are_measured(monkeypatch):
    asked, train, ids = _data(5, training=400)
    groups = [f"s{k % 8}" if k < 200 else "" for k in range(400)]
    whole = novelty(asked, train, ids, groups)
    monkeypatch.setattr(module, "_REFERENCES", 100)
    some = novelty(asked, train, ids, groups)
    assert some["nearest"].tolist() == whole["nearest"].tolist()
    assert np.allclose(some["novelty"], whole["novelty"], atol=0.15)
