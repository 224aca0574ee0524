"""Loops in machine code, with and without a place to keep them."""

import numpy as np
from seglib.compiled import compiled

DOUBLED = """
def doubled(values):
    total = 0
    for value in values:
        total += 2 * value
    return total
"""


def test_what_cannot_be_kept_is_compiled_anew():
    namespace = {}
    exec(DOUBLED, namespace)  # of no file: numba knows no folder in which to keep it
    loop = compiled(namespace["doubled"])
    assert loop(np.arange(5)) == 20
    assert len(loop.signatures) == 1
