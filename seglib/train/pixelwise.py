"""Loops over the pixels of logits, compiled by numba: what `HybridLoss` adds up, and its gradient.

Each visit reads the logits once and keeps nothing of them: computing the exponentials again costs less than storing what is made
of them. Some pixels at a time are worked on side by side, one class after the other, in memory that stays in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from seglib.compiled import as_float, as_stored, compiled, pointer
from seglib.train import teams

_TILE = 128  # pixels that are worked on side by side
_BLOCK = 32  # tiles that are summed in float32, before they are added to a sum in float64
_PART = 1 << 16  # logits from which on another thread is worth its while
_JOB = 13  # numbers that describe one
_SUMS = 3  # numbers that are summed beside those of every class
# Of every class: its weight, and the slopes of the loss by everyone's softmax, by that of its own pixels, by the focal loss of
# those that are not, by -log softmax of all pixels.
_WEIGHTS, _BY_PREDICTED, _BY_INTERSECTION, _BY_REST, _BY_SPREAD = range(5)
# What is known of each pixel of a tile: whether it counts, the logarithm of the sum of its exponentials, and of its true class
# weight, logit, softmax, sigmoid, log(1 + exp(-|logit|)); then sums over tiles, or what its gradient is made of.
_SCORED, _LOG_TOTAL, _WEIGHT, _LOGIT, _SOFTMAX, _SIGMOID, _REST, _FIRST, _SECOND, _THIRD = range(10)


def sums(logits: Tensor, ids: Tensor, weights: Tensor) -> np.ndarray:
    """What a loss is made of, added up over all pixels that count.

    Args:
        logits: (B, C, H, W), which `fits`, from `laid_out`.
        ids: (B, H, W) int16, contiguous; class ids, negative where a pixel does not count.
        weights: (C,) float32, of the classes.

    Returns:
        (3 + 3 C,) float64: weight of the true class times -log of its softmax; sum of the weights times -log of the softmax; the
        focal loss (gamma 2) of all classes, weighted; then of each class its pixels, their softmax of it, everyone's softmax of it.
    """
    rates = np.zeros((5, len(weights)), np.float32)
    rates[_WEIGHTS] = weights
    return _run(logits, ids, rates, np.zeros(2, np.float32))


def gradient(
    logits: Tensor,
    ids: Tensor,
    weights: Tensor,
    by_predicted: Tensor,
    by_intersection: Tensor,
    by_focal: float,
    by_nll: float,
    by_spread: float,
) -> Tensor:
    """The slope of a loss by every logit, in the logits' type and memory format.

    Args:
        logits, ids, weights: as for `sums`.
        by_predicted, by_intersection: (C,) its slopes by everyone's softmax and by that of a class's own pixels.
        by_focal, by_nll, by_spread: its slopes by the other sums.
    """
    parts = weights, by_predicted, by_intersection, by_focal * weights, by_spread * weights
    rates = torch.stack([part.float() for part in parts]).numpy()
    result = torch.empty_like(logits)
    _run(logits, ids, rates, np.array([by_nll, by_focal], np.float32), result)
    return result


def fits(logits: Tensor) -> bool:
    """Whether the loops know such logits: of float32 or bfloat16, on a processor."""
    known = logits.is_cpu and logits.dtype in (torch.float32, torch.bfloat16)
    return known and logits.numel() > 0 and logits.shape[1] < 1 << 15


def laid_out(logits: Tensor) -> Tensor:
    """Logits that the loops can read, contiguous or in channels_last; a copy if they are neither."""
    formats = torch.contiguous_format, torch.channels_last
    ready = any(logits.is_contiguous(memory_format=each) for each in formats)
    return logits if ready else logits.contiguous()


def _run(
    logits: Tensor, ids: Tensor, rates: np.ndarray, slopes: np.ndarray, result: Tensor | None = None
) -> np.ndarray:
    """Sums over all pixels; or, where there is a result to write, the gradient."""
    images, classes, height, width = logits.shape
    tiles = images * -(-height * width // _TILE)
    parts = max(1, min(torch.get_num_threads(), tiles, logits.numel() // _PART))
    found = np.zeros((parts, _SUMS + 3 * classes))
    steps = (
        (height * width, 1) if logits.is_contiguous() else (1, classes)
    )  # from class to class, from pixel to pixel
    arrays = rates, slopes, found
    addresses = [
        *(each.data_ptr() for each in (logits, logits if result is None else result, ids)),
        *(a.ctypes.data for a in arrays),
    ]
    job = np.array([result is not None, images, classes, parts, height * width, *steps, *addresses], np.int64)
    teams.run(_part, _team, job, parts, teams.stored_as(logits))
    return found.sum(axis=0)


@cache
def _team(dtype: type) -> Callable[[int, int], None] | None:
    def member(address):
        job = carray(address, _JOB)
        for part in range(teams.place(), job[3], teams.members()):
            _part(job, part, dtype)

    return teams.gathered(member)


@compiled
def _part(job, part, dtype):
    images, classes, parts, size, of_class, of_pixel = job[1], job[2], job[3], job[4], job[5], job[6]
    logits = carray(pointer(job[7]), images * classes * size, dtype)
    result = carray(pointer(job[8]), images * classes * size, dtype)
    ids = carray(pointer(job[9]), images * size, np.int16)
    rates = carray(pointer(job[10]), (5, classes), np.float32)
    slopes = carray(pointer(job[11]), 2, np.float32)
    found = carray(pointer(job[12]), (parts, _SUMS + 3 * classes), np.float64)[part]
    by_class = found[_SUMS:].reshape(3, classes)
    tables = np.zeros((5, classes, _TILE), np.float32)
    z, softmax, sigmoid, rest, predicted = tables[0], tables[1], tables[2], tables[3], tables[4]
    true, lanes = np.zeros(_TILE, np.int64), np.zeros((10, _TILE), np.float32)
    an_image = (size + _TILE - 1) // _TILE
    begin, end = images * an_image * part // parts, images * an_image * (part + 1) // parts
    for tile in range(begin, end):
        image = tile // an_image
        first = (tile - image * an_image) * _TILE
        count = min(_TILE, size - first)
        here = image * classes * size + first * of_pixel
        _read(logits, here, of_class, of_pixel, count, z)
        _score(ids[image * size + first : image * size + first + count], true, lanes[_SCORED])
        _soften(z, softmax, lanes[_SCORED], lanes[_LOG_TOTAL])
        for c in range(classes):
            _bend(z[c], sigmoid[c], rest[c])
        _take(true, z, softmax, sigmoid, rest, rates[_WEIGHTS], lanes)
        if job[0]:
            _slant(z, softmax, sigmoid, rest, true, rates, slopes, lanes)
            _write(result, here, of_class, of_pixel, count, z)
        else:
            _tally(true, lanes[_SCORED], lanes[_SOFTMAX], by_class)
            _add(z, softmax, sigmoid, rest, rates[_WEIGHTS], lanes, predicted)
            if (tile - begin) % _BLOCK == _BLOCK - 1 or tile == end - 1:
                _settle(lanes, predicted, found, by_class[2])


@compiled
def _read(logits, here, of_class, of_pixel, count, z):
    """A tile of logits, class by class."""
    if of_pixel == 1:
        for c in range(len(z)):
            source, row = logits[here + c * of_class : here + c * of_class + count], z[c]
            for k in range(count):
                row[k] = as_float(source[k])
    else:
        source = logits[here : here + count * of_pixel]
        for c in range(len(z)):
            row = z[c]
            for k in range(count):
                row[k] = as_float(source[k * of_pixel + c])


@compiled
def _write(result, here, of_class, of_pixel, count, values):
    if of_pixel == 1:
        for c in range(len(values)):
            target, row = result[here + c * of_class : here + c * of_class + count], values[c]
            for k in range(count):
                target[k] = as_stored(target, row[k])
    else:
        target = result[here : here + count * of_pixel]
        for c in range(len(values)):
            row = values[c]
            for k in range(count):
                target[k * of_pixel + c] = as_stored(target, row[k])


@compiled
def _score(ids, true, scored):
    """Which pixels of a tile count, and their classes; 0 for those that do not."""
    for k in range(_TILE):
        inside = k < len(ids) and ids[k] >= 0
        true[k] = ids[k] if inside else 0
        scored[k] = np.float32(1) if inside else np.float32(0)


@compiled
def _soften(z, softmax, scored, log_total):
    """Softmax, 0 where pixels do not count, and the logarithm of the sum of the exponentials."""
    top, total = np.full(_TILE, -np.inf, np.float32), np.zeros(_TILE, np.float32)
    for c in range(len(z)):
        row = z[c]
        for k in range(_TILE):
            top[k] = row[k] if row[k] > top[k] else top[k]
    for c in range(len(z)):
        row, result = z[c], softmax[c]
        for k in range(_TILE):
            value = _exp(row[k] - top[k])
            result[k] = value
            total[k] += value
    for k in range(_TILE):
        log_total[k] = top[k] + (
            _log(total[k]) if total[k] < np.float32(3e38) else total[k]
        )  # NaN stays what it is
        total[k] = scored[k] / total[k]
    for c in range(len(z)):
        result = softmax[c]
        for k in range(_TILE):
            result[k] *= total[k]


@compiled
def _bend(row, sigmoid, rest):
    """Sigmoid of logits and log(1 + exp(-|logit|)), which is softplus but for its straight part."""
    for k in range(_TILE):
        small = _exp(-abs(row[k]))
        share = np.float32(1) / (np.float32(1) + small)
        sigmoid[k] = share if row[k] >= np.float32(0) else small * share
        rest[k] = _log1p(small)


@compiled
def _take(true, z, softmax, sigmoid, rest, weights, lanes):
    """What is known of each pixel's true class."""
    for k in range(_TILE):
        c = true[k]
        lanes[_WEIGHT, k] = weights[c] * lanes[_SCORED, k]
        lanes[_LOGIT, k] = z[c, k] if lanes[_SCORED, k] > np.float32(0) else np.float32(0)
        lanes[_SOFTMAX, k] = softmax[c, k]
        lanes[_SIGMOID, k] = sigmoid[c, k]
        lanes[_REST, k] = rest[c, k]


@compiled
def _tally(true, scored, softmax, by_class):
    """Add a tile to the classes' pixels and to their softmax of them."""
    for k in range(_TILE):
        by_class[0, true[k]] += scored[k]
        by_class[1, true[k]] += softmax[k]


@compiled
def _add(z, softmax, sigmoid, rest, weights, lanes, predicted):
    """Add a tile to the other sums: everyone's softmax of a class, -log softmax of true and of all classes, focal loss."""
    scored, log_total, nll, spread, focal = (
        lanes[_SCORED],
        lanes[_LOG_TOTAL],
        lanes[_FIRST],
        lanes[_SECOND],
        lanes[_THIRD],
    )
    for c in range(len(z)):
        part, total = softmax[c], predicted[c]
        for k in range(_TILE):
            total[k] += part[k]
        row, other, weight = z[c], rest[c], weights[c]
        for k in range(_TILE):
            spread[k] += weight * scored[k] * (log_total[k] - row[k])
        hit = sigmoid[c]
        for k in range(_TILE):
            focal[k] += weight * scored[k] * (hit[k] * hit[k]) * (_above(row[k]) + other[k])
    weight, row, hit, other = lanes[_WEIGHT], lanes[_LOGIT], lanes[_SIGMOID], lanes[_REST]
    for k in range(_TILE):
        nll[k] += weight[k] * (log_total[k] - row[k])
    for k in range(_TILE):
        # Of its true class a pixel is no "rest".
        missed = np.float32(1) - hit[k]
        as_true, as_rest = _above(-row[k]) + other[k], _above(row[k]) + other[k]
        focal[k] += weight[k] * (missed * missed * as_true - hit[k] * hit[k] * as_rest)


@compiled
def _settle(lanes, some, found, predicted):
    """Move sums over some tiles into those over all, which are float64."""
    for n in range(_SUMS):
        for k in range(_TILE):
            found[n] += lanes[_FIRST + n, k]
    lanes[_FIRST : _FIRST + _SUMS] = 0
    for c in range(len(some)):
        for k in range(_TILE):
            predicted[c] += some[c, k]
    some[:] = 0


@compiled
def _slant(z, softmax, sigmoid, rest, true, rates, slopes, lanes):
    """The gradient by a tile's logits, in their place."""
    by_nll, by_focal, two = slopes[0], slopes[1], np.float32(2)
    scored, towards, pull = lanes[_SCORED], lanes[_FIRST], lanes[_SECOND]
    for k in range(_TILE):
        towards[k] = 0
    for c in range(len(z)):
        part, by_predicted, by_spread = softmax[c], rates[_BY_PREDICTED, c], rates[_BY_SPREAD, c]
        for k in range(_TILE):
            towards[k] += by_spread - by_predicted * part[k]
    weight, row, of_true, hit, other = (
        lanes[_WEIGHT],
        lanes[_LOGIT],
        lanes[_SOFTMAX],
        lanes[_SIGMOID],
        lanes[_REST],
    )
    for k in range(_TILE):
        pull[k] = rates[_BY_INTERSECTION, true[k]] * of_true[k]
    for k in range(_TILE):
        towards[k] += weight[k] * by_nll - pull[k]
    for k in range(_TILE):
        missed = np.float32(1) - hit[k]
        as_true, as_rest = _above(-row[k]) + other[k], _above(row[k]) + other[k]
        steep = (
            two * hit[k] * missed * (missed * as_true + hit[k] * as_rest)
            + missed * missed * missed
            + hit[k] * hit[k] * hit[k]
        )
        pull[k] -= weight[k] * (by_nll + by_focal * steep)
    for c in range(len(z)):
        row, hit, other, by_rest, by_spread = (
            z[c],
            sigmoid[c],
            rest[c],
            rates[_BY_REST, c],
            rates[_BY_SPREAD, c],
        )
        for k in range(_TILE):
            steep = hit[k] * hit[k] * (two * (np.float32(1) - hit[k]) * (_above(row[k]) + other[k]) + hit[k])
            row[k] = scored[k] * (by_rest * steep - by_spread)
        part, by_predicted = softmax[c], rates[_BY_PREDICTED, c]
        for k in range(_TILE):
            row[k] += part[k] * (by_predicted + towards[k])
    for k in range(_TILE):
        z[true[k], k] += pull[k]


@compiled
def _above(x):
    return x if x > np.float32(0) else np.float32(0)


# All within two units in the last place of float32. Loops around them work on many values at a time, those around the system's
# own do not.


@compiled
def _exp(x):
    """exp(x) of x <= 0; below -87, where float32 ends, that of -87. By the polynomial of Moshier's Cephes library."""
    x = np.float32(-87) if x < np.float32(-87) else x
    power = np.floor(x * np.float32(1.44269504089) + np.float32(0.5))
    x -= power * np.float32(0.693359375)
    x -= power * np.float32(-2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * x + np.float32(1.3981999507e-3)
    y = y * x + np.float32(8.3334519073e-3)
    y = y * x + np.float32(4.1665795894e-2)
    y = y * x + np.float32(1.6666665459e-1)
    y = y * x + np.float32(5.0000001201e-1)
    y = y * (x * x) + x + np.float32(1)
    return y * np.uint32(np.uint32(np.int32(power) + np.int32(127)) << np.uint32(23)).view(np.float32)


@compiled
def _log1p(x):
    """log(1 + x) of x in [0, 1], by Chebyshev interpolation of log(1 + x) / x."""
    y = np.float32(-0.0031760570127516985)
    y = y * x + np.float32(0.019542528316378593)
    y = y * x + np.float32(-0.05637361481785774)
    y = y * x + np.float32(0.10543623566627502)
    y = y * x + np.float32(-0.1526966691017151)
    y = y * x + np.float32(0.1966327428817749)
    y = y * x + np.float32(-0.24951615929603577)
    y = y * x + np.float32(0.33329710364341736)
    y = y * x + np.float32(-0.49999892711639404)
    return (y * x + np.float32(1)) * x


@compiled
def _log(x):
    """log(x) of x >= 1."""
    bits = np.float32(x).view(np.uint32)
    power = np.int32(np.uint32(bits >> np.uint32(23))) - np.int32(127)
    mantissa = np.uint32((bits & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)).view(np.float32)
    return np.float32(power) * np.float32(0.69314718056) + _log1p(mantissa - np.float32(1))
