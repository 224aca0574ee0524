"""ClassMap: stored values <-> class ids <-> colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglib.data import IGNORE, ClassMap, default_colors


@pytest.mark.parametrize("count", [1, 2, 16, 17, 64, 255])
def test_default_colors_differ_and_none_is_black(count):
    colors = default_colors(count)
    assert colors.shape == (count, 3)
    assert colors.dtype == np.uint8
    assert len({tuple(c) for c in colors.tolist()} | {(0, 0, 0)}) == count + 1
    np.testing.assert_array_equal(colors, default_colors(255)[:count])


@given(
    st.dictionaries(st.integers(0, 65535), st.sampled_from([0, 1, 2, IGNORE]), min_size=1, max_size=20),
    st.randoms(),
)
def test_encode_follows_id_map_value_by_value(id_map, random):
    stored = np.array(random.choices(list(id_map), k=24), np.uint16).reshape(4, 6)
    ids = ClassMap(("a", "b", "c"), id_map=id_map).encode(stored)
    assert ids.dtype == np.uint8
    assert ids.tolist() == [[id_map[int(v)] for v in row] for row in stored]


def test_colors_round_trip_and_black_is_ignored():
    classes = ClassMap(("a", "b", "c"), colors=[[10, 0, 0], [0, 20, 0], [0, 0, 30]])
    mask = np.array([[0, 1, 2, IGNORE]], np.uint8)
    assert classes.colorize(mask)[0, 3].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(classes.encode(classes.colorize(mask)), mask)
    void = ClassMap(("void", "b"), colors=[[0, 0, 0], [0, 20, 0]])
    assert void.encode(np.zeros((1, 1, 3), np.uint8)).tolist() == [[0]]
    merged = ClassMap(("a", "b"), id_map={(1, 1, 1): 0, (2, 2, 2): 0, (3, 3, 3): 1, (9, 9, 9): IGNORE})
    assert merged.encode(np.repeat(np.uint8([[[1], [2], [3], [9]]]), 3, axis=2)).tolist() == [[0, 0, 1, 255]]
