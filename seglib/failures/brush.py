"""Label Studio's brush masks: run-length coded RGBA pictures, to and from boolean masks.

Format (as Label Studio's editor reads and writes it; it is thi.ng's rle-pack): a stream of bits, most significant first.
A header holds the number of values (32 bits), the size of a value less one (5 bits) and four sizes of run lengths less
one (4 bits each). Then chunk after chunk: one bit (1 a run, 0 literal values), the index of the length's size (2 bits),
the length less one, and one value for a run or as many values as the length says. The values are the bytes of an RGBA
picture, row by row; what is painted is read off its alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SIZES = (3, 4, 8, 16)  # bits of a run's length: the editor's own choice
_LONGEST = 1 << _SIZES[-1]  # values in one chunk
_HEADER = 32 + 5 + 4 * 4
_PAINTED = 128  # brush strokes have soft edges: a pixel belongs to what covers at least half of it


def encode(mask: np.ndarray) -> list[int]:
    """A boolean mask as Label Studio's `rle`.

    Args:
        mask: (H, W) bool; True is painted.

    Returns:
        bytes as integers 0-255: what a region's value holds under "rle".

    Raises:
        ValueError: not two-dimensional, empty, or 2^30 pixels and more: their RGBA values are counted in 32 bits.
    """
    flat = np.asarray(mask, bool)
    if flat.ndim != 2 or not 0 < flat.size < 1 << 30:
        raise ValueError(f"a mask of shape {flat.shape}: expected (H, W) with 1 to 2^30 - 1 pixels.")
    flat = flat.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=flat.size) * 4
    # A run longer than a chunk may be is cut into full chunks and a rest.
    chunks = -(-lengths // _LONGEST)
    values = np.repeat(flat[starts], chunks)
    parts = np.full(chunks.sum(), _LONGEST, np.int64)
    parts[np.cumsum(chunks) - 1] = lengths - (chunks - 1) * _LONGEST
    which = np.searchsorted([1 << size for size in _SIZES], parts)  # the smallest size that holds the length
    width = np.array(_SIZES)[which]
    # run bit, size index, length - 1, value: at most 27 bits, laid out at the upper end of 32
    code = ((4 | which) << width | (parts - 1)) << 8 | np.where(values, 255, 0)
    bits = 3 + width + 8
    code <<= 32 - bits
    table = np.unpackbits(code.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    body = table[np.arange(32) < bits[:, None]]
    header = f"{flat.size * 4:032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in _SIZES)
    return np.packbits(np.concatenate([np.array([*header], np.uint8), body])).tolist()


def decode(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """The painted pixels of Label Studio's `rle`.

    Args:
        rle: bytes as integers 0-255.
        height, width: of the image; more or fewer values than its RGBA picture has are refused before anything is
            unpacked, so that a few bytes cannot claim gigabytes.

    Returns:
        (H, W) bool; True where the alpha is at least one half.

    Raises:
        ValueError: no bytes, another size, values that are not of 8 bits, or an end before the last pixel.
    """
    # A lone number would be taken for a count of zeros to make.
    if not isinstance(rle, (list, tuple, bytes)) or not all(
        isinstance(v, int) and 0 <= v <= 255 for v in rle
    ):
        raise ValueError("an rle that is no list of bytes (integers 0-255).")
    data = bytes(rle)
    if len(data) * 8 < _HEADER:
        raise ValueError(f"an rle of {len(data)} bytes: expected a header of 7 and more.")
    stream = _Bits(data)
    count, word, sizes = stream.read(32), stream.read(5) + 1, [stream.read(4) + 1 for _ in range(4)]
    if count != height * width * 4:
        raise ValueError(
            f"an rle of {count} values; a mask of {width}x{height} (width x height) has {height * width * 4}."
        )
    if word != 8:
        raise ValueError(f"an rle of values of {word} bits; expected 8, the bytes of an RGBA picture.")
    out = np.empty(count, np.uint8)
    at = 0
    while at < count:
        run = stream.read(1)
        end = at + 1 + stream.read(sizes[stream.read(2)])
        if end > count:
            raise ValueError(f"an rle whose runs go beyond its {count} values.")
        out[at:end] = stream.read(8) if run else stream.bytes(end - at)
        at = end
    return out.reshape(height, width, 4)[..., 3] >= _PAINTED


class _Bits:
    """Reads a stream of bits, most significant first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, count: int) -> int:
        first, self.at = self.at, self.at + count
        if self.at > len(self.data) * 8:
            raise ValueError("an rle that ends before its last pixel.")
        window = self.data[first >> 3 : (self.at + 7) >> 3]
        return int.from_bytes(window, "big") >> (-self.at & 7) & ((1 << count) - 1)

    def bytes(self, count: int) -> np.ndarray:
        """(count,) uint8."""
        first, self.at = self.at, self.at + 8 * count
        if self.at > len(self.data) * 8:
            raise ValueError("an rle that ends before its last pixel.")
        window = np.frombuffer(self.data[first >> 3 : (self.at + 7) >> 3], np.uint8)
        return np.packbits(np.unpackbits(window)[first & 7 :][: 8 * count])
