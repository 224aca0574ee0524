"""Compiled loops in the threads that torch itself works with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from llvmlite import binding
from numba import cfunc, types
from torch import Tensor

from seglib.compiled import compiled

place = types.ExternalFunction("omp_get_thread_num", types.int32())
members = types.ExternalFunction("omp_get_num_threads", types.int32())


def run(
    part: Callable, team: Callable[[type], Callable | None], job: np.ndarray, parts: int, dtype: type
) -> None:
    """Run the parts of a job at the same time.

    Args:
        part: compiled; (job, number of the part, dtype).
        team: dtype -> what `gathered` makes of a function that runs the parts that fall to a member. Each module has its own:
            numba keeps no function that is made of another one.
        job: int64 numbers and addresses, of what must stay alive meanwhile; `team` has to find `parts` in it.
        parts: how many there are.
        dtype: as `stored_as` tells.
    """
    if parts == 1:
        part(job, 0, dtype)
    elif together := team(dtype):
        together(job.ctypes.data, parts)
    else:
        list(_helpers(parts).map(partial(part, job, dtype=dtype), range(parts)))


def gathered(member: Callable[[int], None]) -> Callable[[int, int], None] | None:
    """What runs `member`, given a job's address, in each of so many threads of torch's own OpenMP; None where that is not GNU's.

    Behind every operation those threads wait for the next one for some milliseconds, and keep those of another pool from the
    processor meanwhile.
    """
    library = _openmp()
    if library is None:
        return None
    callback = compiled(member, partial(cfunc, types.void(types.CPointer(types.int64))))
    return lambda job, parts: library.GOMP_parallel(callback.address, job, parts, 0)


@cache
def _openmp() -> ctypes.CDLL | None:
    found = list(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    if len(found) != 1:
        return None
    library = ctypes.CDLL(str(found[0]))
    for name in ("omp_get_thread_num", "omp_get_num_threads"):
        binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    library.GOMP_parallel.restype = None
    return library


@cache
def _helpers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "seglib-loops")


def stored_as(values: Tensor) -> type:
    """As what the loops see the values of a tensor: NumPy knows no bfloat16, the upper half of a float32."""
    return {torch.bfloat16: np.uint16, torch.float32: np.float32}[values.dtype]
