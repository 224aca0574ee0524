"""What the benchmarks of training share: ways timed in turns, rows of the table, generated files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def finish() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(way: Callable[[], object]) -> float:
    finish()
    started = time.perf_counter()
    way()
    finish()
    return time.perf_counter() - started


def compare(
    ours: Callable[[], object], theirs: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Seconds of both, taken in turns after one round to warm up. `theirs` says its seconds itself."""
    return [(seconds_of(ours), theirs()) for _ in range(rounds + 1)][1:]


def row(
    what: str, against: str, pairs: Sequence[tuple[float, float]], wanted: float | None, more: str = ""
) -> dict:
    """A line of the table: of pairs (ours, theirs) the medians, and the median of their ratios.

    What slows this machine down for a while slows both of a pair, so that their ratio tells more than that of the medians.
    """
    seconds, seconds_other = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    ratio = statistics.median(ratios)
    found = {
        "what": what,
        "against": against,
        "seconds": round(seconds, 4),
        "seconds_other": round(seconds_other, 4),
        "ratio": round(ratio, 2),
        "lowest": round(ratios[0], 2),
        "highest": round(ratios[-1], 2),
    }
    aim = {} if wanted is None else {"wanted": round(wanted, 3), "reached": ratio >= wanted}
    return found | aim | {"more": more}


def write_dataset(folder: Path, images: int, classes: int, size: tuple[int, int]) -> None:
    """Smooth random pictures of `size` (height, width) and masks of as many classes, as PNG files."""
    random = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2)):
        for k in range(count):
            coarse = random.integers(0, 256, (size[0] // 24, size[1] // 24, 3), np.uint8)
            picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
            ids = Image.fromarray(random.integers(0, classes, coarse.shape[:2], np.uint8))
            for kind, image in (
                ("images", picture),
                ("masks", ids.resize(size[::-1], Image.Resampling.NEAREST)),
            ):
                path = folder / split / kind / f"{k:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    splits = "".join(
        f"  {s}: {{images: {s}/images/*.png, masks: {s}/masks/*.png}}\n" for s in ("train", "val")
    )
    names = ", ".join(f"c{c}" for c in range(classes))
    (folder / "dataset.yaml").write_text(
        f"name: noise\nclasses: [{names}]\nsplits:\n{splits}", encoding="utf-8"
    )
