"""Loops that numba compiles to machine code: once a machine, kept on disk, and free of the interpreter's lock.

Below, what loops of several modules share: addresses of arrays, and values as torch stores them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numba
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

_njit = partial(njit, nogil=True, error_model="numpy", fastmath={"contract"})
# What is kept of a loop counts as long as the file that it stands in is the same. This file is part of it as well, and so is numba:
# two processes that find what another version of it has kept may mix up the files.
_STAMP = hashlib.sha256(Path(__file__).read_bytes() + numba.__version__.encode()).hexdigest()[:8]


def compiled(function: Callable, how: Callable = _njit) -> Callable:
    """The function in machine code, compiled for the types of its arguments when first called with them.

    Where neither the package's folder nor the user's cache folder can be written, each process compiles it anew.

    Args:
        how: numba's decorator, with its options but `cache`.
    """
    function.__qualname__ += f"_{_STAMP}"  # which the file's name is made of
    try:
        return how(cache=True)(function)
    except RuntimeError:  # there is no folder to keep it in
        return how()(function)


@intrinsic
def pointer(_, address):
    """An address as a pointer, for `numba.carray`."""

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


def as_float(value): ...


@overload(as_float)
def _as_float(value):
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def as_stored(row, value): ...


@overload(as_stored)
def _as_stored(row, value):
    if row.dtype != types.uint16:
        return lambda row, value: value

    def nearest(row, value):  # to even, as torch rounds
        bits = np.float32(value).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return nearest
