"""Is the failure browser quick with ten thousand failures? `python benchmarks/browser.py` prints a table and writes JSON.

Measured in the kernel, without a page: opening, the next picture after a look at the one before, any picture
picked from the list, a screen of thumbnails, and the memory before and after a thousand steps. Pictures are shared by hard links, so that the folder is small.
"""

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
from seglib.browser import Details, FailureBrowser
from seglib.data import ClassMap
from seglib.data.dataset import Dataset
from seglib.evaluate import Evaluation
from seglib.failures import Analysis, Threshold

CLASSES = ClassMap(tuple(f"class {k}" for k in range(11)))
LOOK = 1.0  # seconds that a person looks at a picture before stepping on, at least
CAUSES = ("label error", "degraded image", "unlike training", "rare class", "class confusion", "unexplained")


def write_pictures(
    folder: Path, ids: list[str], kind: str, size: tuple[int, int], distinct: int = 40
) -> None:
    """A picture of every image, `distinct` of them of their own."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    smooth = kind in ("images", "confidences")
    for k, name in enumerate(ids):
        if k >= distinct:
            (folder / f"{name}.png").hardlink_to(folder / f"{ids[k % distinct]}.png")
            continue
        coarse = Image.fromarray(random.integers(0, 256 if smooth else len(CLASSES), (9, 12), np.uint8))
        how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        plane = np.asarray(coarse.resize(size[::-1], how))
        if kind == "images":  # camera noise: what makes a PNG large
            plane = (plane[..., None] + random.integers(-8, 9, (*size, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(plane).save(folder / f"{name}.png")


def write_split(folder: Path, count: int, size: tuple[int, int]) -> Details:
    """A split of `count` images, all of which fail."""
    random, run = np.random.default_rng(0), runs.Run(folder / "run")
    ids = [f"sequence{k // 100:03d}_{k:05d}" for k in range(count)]
    write_pictures(folder / "images", ids, "images", size)
    write_pictures(folder / "masks", ids, "masks", size)
    write_pictures(run.evaluation("test") / "predictions", ids, "predictions", size)
    write_pictures(run.failures("test") / "confidences", ids, "confidences", size)
    samples = pd.DataFrame({"id": ids, "split": "test", "group": [name.split("_")[0] for name in ids]})
    samples = samples.assign(image="images/" + samples["id"] + ".png", mask="masks/" + samples["id"] + ".png")
    dataset = Dataset(folder, "made", CLASSES, samples.assign(frame=range(count)), pd.DataFrame())
    confusions = random.integers(0, 1000, (count, len(CLASSES), len(CLASSES)))
    confusions *= random.random(confusions.shape) < 0.2
    table = samples[["id", "group"]].assign(miou=np.sort(random.uniform(0, 0.5, count)), confidence=0.8)
    table["worst_class"] = random.choice(CLASSES.names, count)
    ious = pd.DataFrame(random.random((count, len(CLASSES))), columns=list(CLASSES.names)).assign(id=ids)
    found = Evaluation(run, dataset, "test", {}, table, pd.DataFrame(), ious, confusions)
    images = table.assign(failed=True, suspect=False, nearest=[[]] * count)
    images["label_score"] = random.uniform(0, 1, count)
    pairs = [f"{one} -> {two}" for one, two in random.choice(CLASSES.names, (count, 2))]
    failures = images.assign(
        cause=np.resize(CAUSES, count), severity="clear", top_confusion=pairs, best_fix=pairs
    )
    failures["evidence"] = "the model is sure of one class where the mask says another."
    analysis = Analysis(found, run.failures("test"), failures, images, pd.DataFrame(), None, None)
    return Details(analysis, Threshold())


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(details: Details, steps: int) -> dict[str, float]:
    """Seconds and megabytes of one browser."""
    random, browser = np.random.default_rng(0), FailureBrowser(details)
    browser.widget.send = lambda message, buffers=(): json.dumps(message)  # as far as the kernel goes
    ids = details.analysis.failures["id"].tolist()

    def ask(question: str, **message: object) -> None:
        browser._answer(browser.widget, {"type": question, "ask": "0", "training": False} | message, [])

    result = {"list (s)": seconds(lambda: ask("open"))}

    def show(index: int) -> None:
        ask("show", id=ids[index])

    def step(index: int) -> None:
        show(index)
        for name in ids[index : index + 3]:
            ask("thumb", id=name)

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
    result["12 thumbnails (s)"] = seconds(lambda: [ask("thumb", id=name) for name in ids[-12:]])
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
            details = write_split(Path(temporary), arguments.failures, size)
            rows.append({"pictures": f"{size[0]}x{size[1]}", **measure(details, arguments.steps)})
    print(pd.DataFrame(rows).set_index("pictures").T.to_string(float_format="{:.3f}".format))
    runs.write_json(arguments.out, {"failures": arguments.failures, "steps": arguments.steps, "rows": rows})


if __name__ == "__main__":
    main()
