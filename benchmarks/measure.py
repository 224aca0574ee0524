"""What the benchmarks of training share: ways timed in turns, rows of the table, generated files, and what a step has to do."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seglib.train import normalization, pixelwise


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


class Work(TorchDispatchMode):
    """Adds up the operations of convolutions, and the bytes of the tensors that operators read and write; views are free."""

    operations = bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.operations += 2 * result.numel() * args[1][0].numel()
        elif func is torch.ops.aten.convolution_backward.default:
            self.operations += 2 * args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        if not func.is_view and not func.__name__.startswith("empty"):
            tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result

    def of_loop(self, loop: Callable) -> Callable:
        """A compiled loop, which is no operator of torch's, counted too."""

        def counted(*args: object) -> object:
            self.bytes += sum(value.nbytes for value in tree_leaves(args) if isinstance(value, Tensor))
            return loop(*args)

        return counted


def limit_row(
    what: str, against: str, step: Callable[[], object], seconds: float, device: str, dtype: torch.dtype
) -> dict:
    """How far a step is from what the device can do: its operations at the rate of a large matrix product, then the bytes of
    its tensors at the rate of a copy.

    Args:
        what, against: names of the limit and of the step.
        step: a training step.
        seconds: that it takes.
        device: torch device name.
        dtype: of the matrices.
    """
    side = 1 << (14 if device == "cuda" else 12)
    square = torch.randn(side, side, device=device, dtype=dtype)
    block = torch.randn(14, 96, 176, 240, device=device, dtype=dtype)
    target = torch.empty_like(block)
    copies = 20  # a single one is over before a GPU has been asked whether it is
    rounds = [
        (
            seconds_of(lambda: square @ square),
            seconds_of(lambda: [target.copy_(block) for _ in range(copies)]) / copies,
        )
        for _ in range(6)
    ][1:]
    product, copy = map(statistics.median, zip(*rounds, strict=True))
    peak, bandwidth = 2 * side**3 / product, 2 * block.nbytes / copy
    work = Work()
    loops = [(normalization, "each_channel"), (pixelwise, "_run")]
    with work, contextlib.ExitStack() as patches:
        for module, name in loops:
            patches.enter_context(mock.patch.object(module, name, work.of_loop(getattr(module, name))))
        step()
    limit = work.operations / peak + work.bytes / bandwidth
    return {
        "what": what,
        "against": against,
        "seconds": round(limit, 4),
        "seconds_other": round(seconds, 4),
        "ratio": round(seconds / limit, 2),
        "more": f"{work.operations / 1e12:.2f} TFLOP at {peak / 1e12:.2f} TFLOP/s, "
        f"{work.bytes / 1e9:.0f} GB at {bandwidth / 1e9:.0f} GB/s",
    }
