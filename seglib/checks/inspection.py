"""What one image and its mask tell: the facts of a pair, and the findings that it shows alone."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from seglib.checks.duplicates import Small, difference_hash, thumbnail
from seglib.checks.findings import finding
from seglib.checks.image_quality import FLAT, LOOKS, look
from seglib.checks.masks import edge_shift, shrunk, speck_size
from seglib.data import (
    IGNORE,
    Dataset,
    DatasetError,
    check_sizes,
    label_regions,
    read_mask_and_mode,
    read_picture,
)

MUCH_IGNORED = 0.9  # of a mask's pixels
_SHORT = 48  # pixels of the shorter side from which on a picture shrunk for its edges serves for hash and thumbnail
MOMENTS = ["r", "g", "b", "r2", "g2", "b2"]
FACTS = [
    "height", "width", "mode", "mask_mode", *LOOKS,
    "ignore_share", "classes_present", "specks", "pinholes", "edge_fit", "shift_x", "shift_y",
]  # fmt: skip
_ODD = np.random.default_rng(0).integers(0, 2**63, 64, np.uint64) * np.uint64(2) + np.uint64(1)
# By which pairs are compared with each other. Equal pictures have an equal `_hash`; whether those that have are equal, only
# their pixels tell.
KEYS = ["_hash", "_mask_hash", "_bits", "_thumb"]


def inspect_pair(dataset: Dataset, row: Any) -> dict[str, Any]:
    """Read one pair and measure it; what cannot be read becomes a finding.

    Args:
        dataset: the dataset.
        row: a row of its samples, as a named tuple.

    Returns:
        `id`, `split`, `group`, `frame`; of `FACTS`, `MOMENTS` and `KEYS` what could be read; `counts`: (C,) int64 scored
        pixels of each class; `pieces`: (R,) int64, 256 x pixels + class id of each connected region; `findings`: rows of the findings table.
    """
    facts: dict[str, Any] = {"id": row.id, "split": row.split, "group": row.group, "frame": row.frame}
    findings = facts["findings"] = []

    def attempt(read: Callable, *args: Any) -> Any:
        try:
            return read(*args)
        except DatasetError as error:
            findings.append(("error", error.check, row.id, row.split, error.detail, error.suggestion))

    picture = attempt(read_picture, dataset.root / row.image, f"{row.id!r} ({row.image})")
    ids = attempt(read_mask_and_mode, dataset.root / row.mask, dataset.classes, f"{row.id!r} ({row.mask})")
    facts["counts"], facts["pieces"] = np.zeros(len(dataset.classes), np.int64), np.empty(0, np.int64)
    if picture is not None:
        grey, facts["mode"] = picture.grey(), picture.mode
        facts["width"], facts["height"] = grey.size
        looks = look(picture.rgb, grey)
        facts |= looks
        reduced = shrunk(grey)
        small = Small.of(reduced if min(reduced.size) >= _SHORT else grey)
        bits, facts["_thumb"] = difference_hash(small), thumbnail(small)
        facts["_bits"] = bits.to_bytes(8, "big")  # as a number it would lose digits in a column that has gaps
        told = np.array([*grey.size, *looks.values()]).tobytes() + facts["_bits"] + facts["_thumb"].tobytes()
        facts["_hash"] = hashlib.sha256(told).digest()
        if facts["contrast"] < FLAT:
            detail = f"image {row.id!r} ({row.image}) is one flat colour."
            findings.append(finding("blank-image", row.id, row.split, detail))
    if ids is not None:
        mask, facts["mask_mode"] = ids
        facts |= _mask_facts(mask, len(dataset.classes))
        check, what = _poor(facts, dataset.classes.names)
        if check:
            findings.append(finding(check, row.id, row.split, f"mask {row.id!r} ({row.mask}) {what}."))
    if picture is not None and ids is not None:
        attempt(check_sizes, row, grey.size[::-1], mask.shape)
        if grey.size[::-1] == mask.shape and (shift := edge_shift(reduced, mask)):
            facts["shift_x"], facts["shift_y"], facts["edge_fit"] = shift
    return facts


def _key(array: np.ndarray, *more: int) -> bytes:
    """Alike for equal pixels. A checksum and what else is known of them tell pictures apart at a tenth of SHA-256's cost.

    Blocks of 64 words are summed with odd weights, so that none changes unseen, and the checksum is taken of the sums.
    """
    data = np.ascontiguousarray(array).reshape(-1)
    words = data[: data.size // 512 * 512].view(np.uint64).reshape(-1, 64)
    checksum = zlib.crc32(data[words.size * 8 :], zlib.crc32(np.einsum("ij,j->i", words, _ODD)))
    return repr((array.shape, checksum, more)).encode()


def _mask_facts(mask: np.ndarray, classes: int) -> dict[str, Any]:
    _, values, sizes = label_regions(mask)
    count = np.bincount(values, sizes, minlength=256).astype(np.int64)
    small = sizes < speck_size(mask.shape)
    return {
        "counts": count[:classes],
        "classes_present": int((count[:classes] > 0).sum()),
        "ignore_share": float(count[IGNORE] / max(1, mask.size)),
        "specks": int((small & (values != IGNORE)).sum()),
        "pinholes": int((small & (values == IGNORE)).sum()),
        "pieces": 256 * sizes + values,
        "_mask_hash": _key(mask, *sizes[:32].tolist()),
    }


def _poor(facts: dict[str, Any], names: tuple[str, ...]) -> tuple[str, str]:
    """The check that a mask fails for what it holds, and in words; two empty strings if none."""
    share = facts["ignore_share"]
    if share == 1:
        return "all-ignored", "has no scored pixel"
    if share > MUCH_IGNORED:
        return "much-ignored", f"ignores {share:.0%} of its pixels"
    if facts["classes_present"] == 1 and len(names) > 2:  # of two, one alone is an empty scene
        return "single-class", f"holds nothing but {names[int(facts['counts'].argmax())]!r}"
    return "", ""
