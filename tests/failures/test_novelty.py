"""Novelty and the nearest training images, against brute force and on cases in which the answer is known."""

import numpy as np
import pandas as pd
import pytest

from seglib.failures.novelty import TrainingImages, compare

RANDOM = np.random.default_rng(1)
TRAIN, ASKED = RANDOM.standard_normal((60, 12)), RANDOM.standard_normal((15, 12))
IDS = [f"t{k}" for k in range(60)]


def novelty(features, own, training, ids, groups):
    return compare(features, TrainingImages(pd.DataFrame({"id": ids, "group": groups}), training), own)


@pytest.mark.parametrize("grouped", [False, True])
def test_novelty_and_nearest_are_those_of_brute_force(grouped):
    groups, new = [f"street{k % 4}" if grouped and k < 50 else "" for k in range(60)], ["x"] * 15
    unit, asked_unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (TRAIN, ASKED))
    apart, own = 1 - asked_unit @ unit.T, []
    for k in range(60):
        others = [j for j in range(60) if j != k and not (groups[k] and groups[j] == groups[k])]
        own.append(min(1 - unit[k] @ unit[j] for j in others))
    table = novelty(ASKED, new, TRAIN, IDS, groups)
    assert grouped or novelty(ASKED, new, TRAIN, IDS, ["only"] * 60).equals(table)
    assert table["nearest"].tolist() == [[IDS[k] for k in row[:5]] for row in apart.argsort(axis=1)]
    expected = [np.mean(np.array(own) < d) for d in apart.min(1)]
    assert np.allclose(table["novelty"], expected, atol=1 / 60 + 1e-9)
    assert np.mean(np.isclose(table["novelty"], expected)) > 0.9  # but for rounding


def test_a_training_image_is_no_neighbour_of_its_own_and_one_image_sets_no_standard():
    own = novelty(TRAIN, IDS, TRAIN, IDS, [""] * 60)
    assert own["novelty"].isna().all()
    assert all(len(row) == 5 and name not in row for name, row in zip(IDS, own["nearest"], strict=True))
    alone = novelty(TRAIN[:3] * 0, ["a", "b", "c"], TRAIN[:1], IDS[:1], [""])
    assert alone["novelty"].isna().all()
    assert alone["nearest"].tolist() == [["t0"]] * 3


def test_frames_of_one_video_do_not_make_everything_new():
    """Sequences of near copies: a new sequence like the others is not novel, another kind of image is."""
    random = np.random.default_rng(2)
    streets = random.standard_normal((12, 32)) + 2
    train = np.repeat(streets, 10, axis=0) + 0.01 * random.standard_normal((120, 32))
    groups, ids, new = np.repeat([f"s{k}" for k in range(12)], 10), [f"t{k}" for k in range(120)], ["x"] * 20
    like, unlike = random.standard_normal((20, 32)) + 2, random.standard_normal((20, 32)) - 2
    assert 0.2 < novelty(like, new, train, ids, groups)["novelty"].median() < 0.95
    assert (novelty(like, new, train, ids, [""] * 120)["novelty"] == 1).all()
    assert (novelty(unlike, new, train, ids, groups)["novelty"] == 1).all()
    copies = novelty(train[[3, 77]] * 3, ["x", "y"], train, ids, groups)
    assert copies["novelty"].tolist() == [0, 0]
    assert [row[0] for row in copies["nearest"]] == ["t3", "t77"]
