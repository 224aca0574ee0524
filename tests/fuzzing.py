"""What the fuzz tests share: how many cases, damaged files, and what counts as an answer of ours.

`FUZZ=5000 pytest tests/test_fuzz_*.py` tries that many cases of each kind; without it, a few that are the same every time.
"""

from __future__ import annotations

import linecache
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

import seglib

CASES = int(os.environ.get("FUZZ", "0"))
# Text that tables, pages, shells and spreadsheets take for something else.
NASTY = (
    "", " ", "NA", "null", "0042", "1e5", "-1", "=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "a\rb", "a\nb", "a,b", 'a"b',
    "'", "`id`", "$(id)", "; rm -rf x", "<script>evil()</script>", "<img src=x onerror=evil()>", "{{ 7 * 7 }}", "../up",
    "..", ".", "/abs", "C:\\x", "~root", "~nobody-at-all/x", "\0", "\x1b[2J", "\udcff", "\ud800", "\u202eabc", "fähre_🚢", "$\\frac$",
    "x" * 300, "9" * 5000, "nan", "inf", "None", "id", "car", "%s%n", "a:b", "#a", "[x](javascript:evil())", "\ufeff",
)  # fmt: skip
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(NASTY), st.text(max_size=8),
        st.builds(lambda: 10**5000), st.just(2**63),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NASTY) | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def cases(few: int) -> hypothesis.settings:
    """So many cases, the same every time; or as many as FUZZ says, new ones every time."""
    return hypothesis.settings(
        max_examples=CASES or few,
        derandomize=not CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def is_ours(error: BaseException) -> bool:
    """Whether seglib itself raised it, in words, as an error that the command line shows without a traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    inside = Path(last.filename).parent == Path(seglib.__file__).parent
    said = linecache.getline(last.filename, last.lineno or 0).strip().startswith("raise")
    return (
        inside
        and said
        and isinstance(error, (ValueError, OSError, RuntimeError))
        and 20 < len(str(error)) < 20_000
    )


@contextmanager
def works_or_refuses() -> Iterator[None]:
    """Whatever happens inside ends well or in an error of ours; warnings stay warnings, as for a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            if not is_ours(error):
                raise


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
