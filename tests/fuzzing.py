"""What the fuzz tests share: how many cases, and damaged files.

`FUZZ=5000 pytest tests/test_fuzz_*.py` tries that many cases of each kind; without it, a few that are the same every time.
"""

from __future__ import annotations

import os

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ", "0"))


def cases(few: int) -> hypothesis.settings:
    """So many cases, the same every time; or as many as FUZZ says, new ones every time."""
    return hypothesis.settings(
        max_examples=CASES or few,
        derandomize=not CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, *wholes: bytes) -> bytes:
    """One of some files with bits turned, bytes replaced, parts cut out, doubled or swapped, or its end missing."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 5))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        kind = draw(st.sampled_from(["bit", "byte", "cut", "end", "double", "insert", "zero"]))
        if kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
        elif kind == "cut":
            del data[at : min(end, at + 64)]
        elif kind == "end":
            del data[at:]
        elif kind == "double":
            data[at:at] = data[at : min(end, at + 64)]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "zero":
            data[at : min(end, at + 16)] = bytes(min(end, at + 16) - at)
    return bytes(data)
