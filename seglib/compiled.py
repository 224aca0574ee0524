"""Loops that numba compiles to machine code: once a machine, kept on disk, and free of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from numba import njit

_njit = partial(njit, nogil=True, error_model="numpy", fastmath={"contract"})


def compiled(function: Callable, how: Callable = _njit) -> Callable:
    """The function in machine code, compiled for the types of its arguments when first called with them.

    Where neither the package's folder nor the user's cache folder can be written, each process compiles it anew.

    Args:
        how: numba's decorator, with its options but `cache`.
    """
    try:
        return how(cache=True)(function)
    except RuntimeError:  # there is no folder to keep it in
        return how()(function)
