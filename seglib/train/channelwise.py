"""Loops over the pixels and channels of feature maps, compiled by numba and run by the threads that torch itself works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from seglib.compiled import as_float, as_stored, compiled, pointer
from seglib.train import teams

_WIDTH = 512  # values that are worked on side by side: as many whole pixels as they hold
_BLOCK = 64  # times as many are summed in float32, before they are added to a sum in float64
_PART = 1 << 16  # values from which on another thread is worth its while
MOMENTS, APPLY, GRADIENT_MOMENTS, GRADIENT = range(4)
_JOB = 10  # numbers that describe one


def each_channel(
    loop: int,
    maps: Sequence[Tensor],
    channels: Sequence[np.ndarray],
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> np.ndarray:
    """Run a loop over all pixels.

    Args:
        loop: MOMENTS, APPLY, GRADIENT_MOMENTS or GRADIENT.
        maps: those that it reads and writes, in its order: (N, C, H, W) each, of bfloat16 or float32, all of one type and
            contiguous in channels_last.
        channels: (C,) each, what it takes of every channel, in its order.
        bounds: the least and the largest value that the activation lets through.

    Returns:
        (2, C) float64: the two sums of every channel; zeros from a loop that makes none.
    """
    x = maps[0]
    times = max(1, _WIDTH // x.shape[1])
    width = times * x.shape[1]
    lanes = np.zeros((5, width), np.float32)
    for lane, values in zip(lanes, channels, strict=False):
        lane.reshape(times, -1)[:] = values
    parts = max(1, min(torch.get_num_threads(), x.numel() // _PART))
    sums = np.zeros((parts, 2, width))
    limits = np.array(bounds, np.float32)
    addresses = [*(each.data_ptr() for each in maps), 0, 0][:3] + [
        array.ctypes.data for array in (lanes, sums, limits)
    ]
    job = np.array([loop, x.numel(), width, parts, *addresses], np.int64)
    teams.run(_part, _team, job, parts, teams.stored_as(x))
    return sums.sum(axis=0).reshape(2, times, -1).sum(axis=1)


@cache
def _team(dtype: type) -> Callable[[int, int], None] | None:
    def member(address):
        job = carray(address, _JOB)
        for part in range(teams.place(), job[3], teams.members()):
            _part(job, part, dtype)

    return teams.gathered(member)


@compiled
def _part(job, part, dtype):
    loop, size, width, parts = job[0], job[1], job[2], job[3]
    rows = (size + width - 1) // width
    begin, end = rows * part // parts * width, min(size, rows * (part + 1) // parts * width)
    lanes = carray(pointer(job[7]), (5, width), np.float32)
    sums = carray(pointer(job[8]), (parts, 2, width), np.float64)[part]
    bounds = carray(pointer(job[9]), 2, np.float32)
    low, high = bounds[0], bounds[1]
    x = carray(pointer(job[4]), size, dtype)[begin:end]
    second = carray(pointer(job[5]), size, dtype)[begin:end]
    third = carray(pointer(job[6]), size, dtype)[begin:end]
    if loop == MOMENTS:
        _moments(x, lanes[0], sums)
    elif loop == APPLY:
        _apply(x, second, lanes[0], lanes[1], low, high)
    elif loop == GRADIENT_MOMENTS:
        _gradient_moments(x, second, lanes[0], lanes[1], lanes[2], sums, low, high)
    else:
        _gradient(x, second, third, lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], low, high)


# Sums are made of blocks, so that float32 keeps its digits and no lane waits for a conversion.


@compiled
def _moments(x, middle, sums):
    """Of what x is above `middle`: its sum and that of its squares."""
    width = len(middle)
    some = np.zeros((2, width), np.float32)
    first, second = some[0], some[1]
    for begin in range(0, len(x), width * _BLOCK):
        some[:] = 0
        for start in range(begin, min(len(x), begin + width * _BLOCK), width):
            row = x[start : start + width]
            for k in range(len(row)):
                value = as_float(row[k]) - middle[k]
                first[k] += value
                second[k] += value * value
        sums += some


@compiled
def _apply(x, result, scale, shift, low, high):
    """x * scale + shift, limited to low and high."""
    width = len(scale)
    for start in range(0, len(x), width):
        row, out = x[start : start + width], result[start : start + width]
        for k in range(len(row)):
            value = as_float(row[k]) * scale[k] + shift[k]
            value = low if value < low else value
            value = high if value > high else value
            out[k] = as_stored(out, value)


@compiled
def _gradient_moments(x, gradient, mean, scale, shift, sums, low, high):
    """Of the gradient where the activation lets it through: its sum and that of its products with x - mean."""
    width = len(scale)
    some = np.zeros((2, width), np.float32)
    first, second = some[0], some[1]
    for begin in range(0, len(x), width * _BLOCK):
        some[:] = 0
        for start in range(begin, min(len(x), begin + width * _BLOCK), width):
            row, slope = x[start : start + width], gradient[start : start + width]
            for k in range(len(row)):
                value = as_float(row[k])
                passed = as_float(slope[k]) if low < value * scale[k] + shift[k] < high else np.float32(0)
                first[k] += passed
                second[k] += passed * (value - mean[k])
        sums += some


@compiled
def _gradient(x, gradient, result, mean, scale, shift, average, slant, low, high):
    """The gradient by x, of `average` and `slant` from the sums of the loop above."""
    width = len(scale)
    for start in range(0, len(x), width):
        row, slope = x[start : start + width], gradient[start : start + width]
        out = result[start : start + width]
        for k in range(len(row)):
            value = as_float(row[k])
            passed = as_float(slope[k]) if low < value * scale[k] + shift[k] < high else np.float32(0)
            out[k] = as_stored(out, scale[k] * (passed - average[k] - (value - mean[k]) * slant[k]))
