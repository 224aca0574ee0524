"""Is the failure browser quick with ten thousand failures? `python benchmarks/browser.py` prints a table and writes JSON.

Measured in the kernel, without a page: opening, filtering, the next picture after a look at the one before, any picture
picked from the list, a screen of thumbnails, and the memory before and after a thousand steps. Pictures are shared by hard links, so that the folder is small.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image

from seglib import runs
from seglib.browser.browser import FailureBrowser
from seglib.data.classes import ClassMap

CLASSES = ClassMap(tuple(f"class {k}" for k in range(11)))
LOOK = 1.0  # seconds that a person looks at a picture before stepping on, at least
CAUSES = ("label error", "degraded image", "unlike training", "rare class", "class confusion", "unexplained")


def write_failures(folder: Path, count: int, size: tuple[int, int], distinct: int = 40) -> None:
    """A failures folder with `count` failures, `distinct` of them with pictures of their own."""
    random = np.random.default_rng(0)
    ids = [f"sequence{k // 100:03d}_{k:05d}" for k in range(count)]
    for kind in ("images", "masks", "predictions", "confidences"):
        (folder / kind).mkdir(parents=True)
        for k, name in enumerate(ids):
            path = folder / kind / f"{name}.png"
            if k >= distinct:
                path.hardlink_to(folder / kind / f"{ids[k % distinct]}.png")
                continue
            coarse = random.integers(
                0, 256 if kind in ("images", "confidences") else len(CLASSES), (9, 12), np.uint8
            )
            smooth = (
                Image.Resampling.BICUBIC if kind in ("images", "confidences") else Image.Resampling.NEAREST
            )
            plane = np.asarray(Image.fromarray(coarse).resize(size[::-1], smooth))
            if kind == "images":  # camera noise: what makes a PNG large
                plane = (plane[..., None] + random.integers(-8, 9, (*size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(plane).save(path)
    miou = np.sort(random.uniform(0, 0.5, count))
    pick = random.integers(0, len(CLASSES), (2, count))
    pairs = [f"class {a} -> class {b}" for a, b in pick.T]
    table = {
        "id": ids,
        "miou": miou,
        "severity": "clear",
        "worst_class": [f"class {a}" for a in pick[0]],
        "worst_class_iou": 0.0,
        "top_confusion": pairs,
        "top_confusion_share": 0.1,
        "group": [name.split("_")[0] for name in ids],
        "best_fix": pairs,
        "best_fix_gain": random.uniform(0, 0.2, count),
        "confidence": random.uniform(0.5, 1, count),
        "label_score": random.uniform(0, 1, count),
        "cause": [CAUSES[k % len(CAUSES)] for k in range(count)],
        "evidence": "the model is sure of one class where the mask says another.",
    }
    pd.DataFrame(table).to_csv(folder / "failures.csv", index=False)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(folder: Path, steps: int) -> dict[str, float]:
    """Seconds and megabytes of one browser on `folder`."""
    browser: FailureBrowser
    random = np.random.default_rng(0)

    def opened() -> None:
        nonlocal browser
        browser = FailureBrowser(folder, CLASSES)

    result = {"open (s)": seconds(opened)}
    browser.widget.send = lambda message, buffers=(): json.dumps(message)  # as far as the kernel goes
    ids = browser.failures["id"].tolist()

    def ask(question: str, **message: object) -> None:
        browser._answer(browser.widget, {"type": question, "ask": "0"} | message, [])

    result["list (s)"] = seconds(lambda: ask("open"))

    def show(index: int) -> None:
        ask("show", id=ids[index])

    def step(index: int) -> None:
        show(index)
        for name in ids[index : index + 3]:
            ask("thumb", kind="images", id=name)

    def next_one(index: int) -> float:
        time.sleep(LOOK)
        return seconds(lambda: show(index))

    show(0)
    ways = {
        "next picture": [next_one(index) for index in range(1, 31)],
        "any picture": [seconds(lambda i=i: show(int(i))) for i in random.integers(0, len(ids), 60)],
    }
    for name, taken in ways.items():
        result[f"{name}, median (s)"] = float(np.median(taken))
        result[f"{name}, 95 % (s)"] = float(np.quantile(taken, 0.95))
    result["12 thumbnails (s)"] = seconds(
        lambda: [ask("thumb", kind="images", id=name) for name in ids[-12:]]
    )
    process = psutil.Process()
    for index in range(steps):
        if index == steps // 10:  # buffers of the allocator and of Pillow have their size by now
            gc.collect()
            result["memory early (MB)"] = process.memory_info().rss / 1e6
        step(index)
    gc.collect()
    result["memory late (MB)"] = process.memory_info().rss / 1e6
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--failures", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/browser.json"))
    arguments = parser.parse_args()
    rows = []
    for size in ((360, 480), (1024, 2048)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "failures"
            write_failures(folder, arguments.failures, size)
            rows.append({"pictures": f"{size[0]}x{size[1]}", **measure(folder, arguments.steps)})
    print(pd.DataFrame(rows).set_index("pictures").T.to_string(float_format="{:.3f}".format))
    runs.write_json(arguments.out, {"failures": arguments.failures, "steps": arguments.steps, "rows": rows})


if __name__ == "__main__":
    main()
