"""What the fuzz tests share; `FUZZ=5000 pytest` tries that many cases of each kind, without it a few, always the same."""

import os

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ", "0"))


def cases(few: int) -> hypothesis.settings:
    """So many cases, the same every time; or as many as FUZZ says, new ones every time."""
    quiet = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    return hypothesis.settings(max_examples=CASES or few, derandomize=not CASES, **quiet)


@st.composite
def damaged(draw: st.DrawFn, *wholes: bytes) -> bytes:
    """One of some files with bits turned, parts cut out, doubled or zeroed, bytes put in, or its end missing."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 5))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        end = min(end, at + 64)
        part = bytes(data[at:end])
        new = draw(st.sampled_from([b"", part * 2, bytes(end - at), draw(st.binary(max_size=8))]))
        flip = draw(st.integers(1, 255))
        data[at:end] = draw(st.sampled_from([new, bytes(byte ^ flip for byte in part[:1]) + part[1:]]))
        del data[draw(st.sampled_from([len(data), at])) :]
    return bytes(data)
