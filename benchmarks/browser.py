"""Is the failure browser quick with ten thousand failures? `python benchmarks/browser.py` prints a table and writes JSON.

In a real Chromium: from the key to the next picture on the screen after a look at the one before, and a filter with
its charts. In the kernel alone: the list, any picture, a screen of thumbnails, and the memory before and after some
hundred steps. Pictures are shared by hard links, so that the folder is small. It takes about two minutes.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
from chromium_page import live

CLASSES = ClassMap(tuple(f"class {k}" for k in range(11)))
LOOKS = 15  # pictures that are looked at
PIXELS = 360 * 480  # of the smaller pictures; of larger ones fewer are stepped through
# Milliseconds from the key to the next picture drawn, each after a look; and of a filter with all charts, drawn.
NEXT = """async ([count, look]) => {
  const root = document.querySelector(".seg-browser"), taken = [];
  for (let k = 0; k < count; k++) {
    await new Promise((done) => setTimeout(done, look));
    const started = performance.now();
    await new Promise((done) => {
      new MutationObserver((_, seen) => { seen.disconnect(); requestAnimationFrame(done); })
        .observe(root, { attributeFilter: ["data-shown"] });
      root.dispatchEvent(new KeyboardEvent("keydown", { key: "j" }));
    });
    taken.push(performance.now() - started);
  }
  return taken;
}"""
FILTER = """async () => {
  const menu = document.querySelector(".seg-filter [aria-label='cause']"), started = performance.now();
  menu.selectedIndex = 1;
  menu.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((done) => setTimeout(() => requestAnimationFrame(done)));
  return performance.now() - started;
}"""
CAUSES = ("label error", "degraded image", "unlike training", "rare class", "class confusion", "unexplained")


def write_pictures(folder: Path, ids: list[str], kind: str, size: tuple[int, int], distinct: int = 8) -> None:
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
    features = random.normal(size=(count, 320)).astype(np.float32)
    training = SimpleNamespace(samples=samples[:0], features=features[:0])
    tables = failures, images, pd.DataFrame(), None
    return Details(Analysis(found, run.failures("test"), *tables, training, features), Threshold())


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def look(folder: Path, details: Details, pause: float) -> dict[str, float]:
    """Milliseconds in a page whose kernel is this process."""
    with live(folder, FailureBrowser(details), SimpleNamespace(setattr=setattr)) as page:
        taken = page.evaluate(NEXT, [LOOKS, 1000 * pause])
        filtered = page.evaluate(FILTER)
    quantiles = np.quantile(taken, [0.5, 0.95])
    names = "next picture, median (ms)", "next picture, 95 % (ms)", "filter (ms)"
    return dict(zip(names, [*quantiles.tolist(), filtered], strict=True))


def measure(details: Details, steps: int) -> dict[str, float]:
    """Milliseconds and megabytes of the kernel of one browser."""
    random, browser = np.random.default_rng(0), FailureBrowser(details)
    browser.widget.send = lambda message, buffers=(): json.dumps(message)  # as far as the kernel goes
    ids = details.analysis.failures["id"].tolist()

    def ask(question: str, **message: object) -> None:
        browser._answer(browser.widget, {"type": question, "ask": "0", "training": False} | message, [])

    result = {"list (ms)": milliseconds(lambda: ask("open"))}

    def show(index: int) -> None:
        ask("show", id=ids[index])

    def step(index: int) -> None:
        show(index)
        for name in ids[index : index + 3]:
            ask("thumb", id=name)

    show(0)
    taken = [milliseconds(lambda i=i: show(int(i))) for i in random.integers(0, len(ids), 30)]
    result["any picture, median (ms)"] = float(np.median(taken))
    result["12 thumbnails (ms)"] = milliseconds(lambda: [ask("thumb", id=name) for name in ids[-12:]])
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
    parser.add_argument("--steps", type=int, default=300)
    told = "seconds of a look, in which the next picture is fetched"
    parser.add_argument("--look", type=float, default=1.0, help=told)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/browser.json"))
    arguments = parser.parse_args()
    rows = []
    for size in ((360, 480), (1024, 2048)):
        with tempfile.TemporaryDirectory() as temporary:
            details = write_split(Path(temporary), arguments.failures, size)
            steps = max(20, arguments.steps * PIXELS // (size[0] * size[1]))
            row = {"pictures": f"{size[0]}x{size[1]}", "steps": steps}
            row |= look(Path(temporary), details, arguments.look)
            rows.append(row | measure(details, steps))
            print(pd.Series(rows[-1]).to_string(), flush=True)
    runs.write_json(arguments.out, {"failures": arguments.failures, "look": arguments.look, "rows": rows})


if __name__ == "__main__":
    main()
