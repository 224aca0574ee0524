"""Distances to the nearest training images: against scikit-learn and brute force, blockwise or not."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from seglib.failures import novelty as module
from seglib.failures.novelty import novelty


def _data(seed=0, training=60, asked=15, size=12):
    random = np.random.default_rng(seed)
    train = random.standard_normal((training, size)).astype(np.float32)
    return random.standard_normal((asked, size)).astype(np.float32), train, [f"t{k}" for k in range(training)]


@pytest.mark.parametrize("blocks", [(1024, 8192), (4, 7), (1, 3)])
def test_nearest_are_scikit_learns(blocks, monkeypatch):
    monkeypatch.setattr(module, "_QUERIES", blocks[0])
    monkeypatch.setattr(module, "_TRAINING", blocks[1])
    asked, train, ids = _data()
    table = novelty(asked, train, ids)
    distances, places = (
        NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(train).kneighbors(asked)
    )
    assert table["nearest"].tolist() == [[ids[k] for k in row] for row in places]
    assert np.allclose(table["distance"], distances[:, 0], atol=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_novelty_is_the_share_by_brute_force(grouped):
    asked, train, ids = _data(1)
    groups = [f"street{k % 4}" if k < 50 else "" for k in range(60)] if grouped else None
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    own = []
    for k in range(60):
        others = [j for j in range(60) if j != k and not (grouped and groups[k] and groups[j] == groups[k])]
        own.append(min(1 - unit[k] @ unit[j] for j in others))
    table = novelty(asked, train, ids, groups)
    expected = [np.mean(np.array(own) < d) for d in table["distance"]]
    assert np.allclose(table["novelty"], expected, atol=1 / 60 + 1e-9)
    assert np.mean(table["novelty"] == expected) > 0.9  # but for rounding


def test_frames_of_one_video_do_not_make_everything_new():
    """Sequences of near copies: a new sequence like the others is nothing special, another kind of picture is."""
    random = np.random.default_rng(2)
    streets = random.standard_normal((12, 32)) + 2
    train = np.repeat(streets, 10, axis=0) + 0.01 * random.standard_normal((120, 32))
    groups = np.repeat([f"s{k}" for k in range(12)], 10)
    ids = [f"t{k}" for k in range(120)]
    like, unlike = random.standard_normal((20, 32)) + 2, random.standard_normal((20, 32)) - 2
    told = novelty(like, train, ids, groups)["novelty"]
    assert 0.2 < told.median() < 0.95
    assert (novelty(like, train, ids)["novelty"] == 1).all()
    assert (novelty(unlike, train, ids, groups)["novelty"] == 1).all()
    copies = novelty(train[[3, 77]] * 3, train, ids, groups)
    assert copies["novelty"].tolist() == [0, 0]
    assert [row[0] for row in copies["nearest"]] == ["t3", "t77"]


def test_one_sequence_is_compared_with_itself():
    asked, train, ids = _data(3)
    one = novelty(asked, train, ids, ["only"] * 60)
    assert one["novelty"].equals(novelty(asked, train, ids)["novelty"])


def test_few_and_strange_embeddings():
    asked, train, ids = _data(4)
    asked[0], asked[1, 2] = 0, np.nan
    train[5, 0] = np.inf
    table = novelty(asked, train, ids)
    assert table.loc[0, "distance"] == 1
    assert np.isnan(table.loc[1, ["distance", "novelty"]].to_numpy(float)).all()
    assert table.loc[1, "nearest"] == []
    assert not any("t5" in row for row in table["nearest"])
    alone = novelty(asked[2:], train[:1], ids[:1])
    assert alone["novelty"].isna().all()
    assert all(row == ["t0"] for row in alone["nearest"])
    assert novelty(asked, train[:0], [])["nearest"].tolist() == [[]] * len(asked)
    assert novelty(asked[:0], train, ids).empty


def test_more_training_images_than_are_compared(monkeypatch):
    asked, train, ids = _data(5, training=400)
    whole = novelty(asked, train, ids)
    monkeypatch.setattr(module, "_REFERENCES", 100)
    some = novelty(asked, train, ids)
    assert some["nearest"].tolist() == whole["nearest"].tolist()
    assert np.allclose(some["novelty"], whole["novelty"], atol=0.15)
    assert some["novelty"].equals(novelty(asked, train, ids)["novelty"])


def test_what_does_not_fit_is_named():
    asked, train, ids = _data()
    with pytest.raises(ValueError, match="of one model"):
        novelty(asked[:, :3], train, ids)
    with pytest.raises(ValueError, match="training_ids holds 59 values"):
        novelty(asked, train, ids[:-1])
    with pytest.raises(ValueError, match="groups holds 2 values"):
        novelty(asked, train, ids, ["a", "b"])
