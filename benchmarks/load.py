"""Do time and memory stay flat as a dataset grows? `python benchmarks/load.py` prints tables and writes JSON.

The code cells of 01, 03 and 04 run one after the other in a fresh process each, on generated datasets and a network that
was never trained, so that every image fails. What a process held at its largest and how long its cells took is kept.

Sets: "images" (N in train and N in test), "classes" (150 of them), "large" (2048x1024, 19 classes), "sizes" (32x32 to
8192x8192 in one split). `--sets sizes` runs one; 02 is run on "sizes" too. What the JSON file has of other sets, notebooks
and sizes stays there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ARCHITECTURE, ENCODER = "Linknet", "tu-mobilenetv3_small_050"
DRIVE = 50  # images of one sequence
SPLITS = ("train", "val", "test")


def picture(
    random: np.random.Generator, size: tuple[int, int], classes: int
) -> tuple[Image.Image, Image.Image]:
    """A few rectangles of other classes on a ground, their colours told by the class; and noise."""
    height, width = size
    ids = np.full(size, random.integers(classes), np.uint8)
    for _ in range(8):
        top, left = random.integers(0, height), random.integers(0, width)
        ids[top : top + 1 + height // 3, left : left + 1 + width // 3] = random.integers(classes)
    table = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    noise = Image.frombytes("RGB", (32, 32), random.bytes(3072)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return Image.blend(Image.fromarray(table[ids]), noise, 0.5), Image.fromarray(ids)


def write_dataset(folder: Path, counts: dict[str, int], sizes: list[tuple[int, int]], classes: int) -> None:
    """`counts` images a split, of `sizes` in turn: JPEG and PNG, in sequences of `DRIVE`."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for k in range(count):
            image, mask = picture(random, sizes[k % len(sizes)], classes)
            name = f"{split}{k // DRIVE:04d}_{k:05d}"
            image.save(folder / split / "images" / f"{name}.jpg", quality=90)
            mask.save(folder / split / "masks" / f"{name}.png", compress_level=1)
    splits = "".join(f"  {s}: {{images: {s}/images/*.jpg, masks: {s}/masks/*.png}}\n" for s in counts)
    names = ", ".join(f"c{c}" for c in range(classes))
    recipe = (
        f"name: {folder.name}\nclasses: [{names}]\nsplits:\n{splits}group: '(?P<group>.+)_(?P<frame>\\d+)$'\n"
    )
    (folder / "dataset.yaml").write_text(recipe, encoding="utf-8")


def untrained(root: Path, name: str) -> None:
    """A run whose best checkpoint was never trained."""
    os.environ["SEGLIB_ROOT"] = str(root)
    from seglib.data.dataset import load_dataset
    from seglib.params import Train
    from seglib.train.fitting import start_run
    from seglib.train.model import ModelSpec, build, save_checkpoint

    params = Train(
        run=name, dataset=f"data/{name}", architecture=ARCHITECTURE, encoder=ENCODER, encoder_weights="none"
    )
    run = start_run(params.model_copy(update={"precision": "fp32"}))
    model = build(ModelSpec(params.architecture, params.encoder, load_dataset(params.dataset).classes))
    save_checkpoint(run.best_checkpoint, model, epoch=0)


def run_cells(number: str, values: dict) -> None:
    """Run the code cells of one notebook in this process; prints JSON of seconds and largest memory after each."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    space: dict = {"__name__": "notebook"}
    taken, memory = [], Memory()
    for place, cell in enumerate(cells):
        source = "".join(cell["source"])
        started = time.perf_counter()
        used = time.process_time()
        exec(compile(source, f"{path.name}, code cell {place}", "exec"), space)
        plt.close("all")
        if place == 0:
            space |= values
        taken.append(
            {
                "cell": place,
                "begins": source.strip().splitlines()[-1][:70],
                "s": time.perf_counter() - started,
                "cpu_s": time.process_time() - used,
                "peak_mb": memory.look(),
            }
        )
    print("\n" + json.dumps(taken))


class Memory:
    """The most that this process held of its own, in MB, looked at 20 times a second; of mapped files, as the packed cache, the
    system holds what it has room for."""

    def __init__(self) -> None:
        self.peak, self.process = 0.0, psutil.Process()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.05)

    def look(self) -> float:
        held = self.process.memory_info()
        self.peak = max(self.peak, (held.rss - getattr(held, "shared", 0)) / 1e6)
        return self.peak


def in_a_process(root: Path, number: str, **values: object) -> list[dict]:
    command = [sys.executable, __file__, "--cells", number, "--values", json.dumps(values)]
    environment = os.environ | {"SEGLIB_ROOT": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{number} of {values} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(
    root: Path,
    what: str,
    counts: dict[str, int],
    sizes: list[tuple[int, int]],
    classes: int,
    chosen: list[str],
) -> list[dict]:
    """Rows of the table: one a notebook of those chosen."""
    from seglib import runs

    name = f"{what}{sum(counts.values())}"
    started = time.perf_counter()
    write_dataset(root / "data" / name, counts, sizes, classes)
    print(f"{name}: written in {time.perf_counter() - started:.0f} s", flush=True)
    training = {
        "run": f"{name}_trained", "dataset": f"data/{name}", "architecture": ARCHITECTURE, "encoder": ENCODER,
        "encoder_weights": "none", "epochs": 1, "batch_size": 4, "crop_height": 96, "crop_width": 96, "device": "cpu",
        "precision": "fp32",
    }  # fmt: skip
    notebooks = {"01": {"dataset": f"data/{name}"}}
    run = name
    if what == "sizes":
        notebooks["02"], run = training, training["run"]
    elif {"03", "04"} & set(chosen):
        untrained(root, name)
    notebooks |= {"03": {"run": run, "device": "cpu"}, "04": {"run": run}}
    rows = []
    for number, values in notebooks.items():
        if number not in chosen:
            continue
        cells = in_a_process(root, number, **values)
        images = counts["test"] if number in ("03", "04") else sum(counts.values())
        slowest = max(cells, key=lambda cell: cell["cpu_s"])
        total, used = (sum(cell[key] for cell in cells) for key in ("s", "cpu_s"))
        row = {
            "set": what, "notebook": number, "time": runs.environment()["time"], "images": images, "classes": classes, "largest": max(map(max, sizes)), "s": total,
            "ms_per_image": 1000 * total / images, "cpu_ms_per_image": 1000 * used / images,
            "peak_mb": cells[-1]["peak_mb"], "start_mb": cells[1]["peak_mb"],
            "slowest_cell": slowest["begins"], "its_share": slowest["cpu_s"] / used,
        }  # fmt: skip
        if number == "04":
            failures = root / "artifacts" / "runs" / run / "failures" / "test"
            row["report_mb"] = (failures / "report.html").stat().st_size / 1e6
            row["failures_folder_kb_per_image"] = folder_bytes(failures) / 1e3 / images
        rows.append(row)
        print(pd.DataFrame([row]).round(3).T.to_string(header=False), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="images,classes,large,sizes")
    parser.add_argument(
        "--images", default="2000,20000", help="sizes of the set images, in train and in test each"
    )
    parser.add_argument("--many", type=int, default=2000, help="test images of the set classes")
    parser.add_argument("--large", type=int, default=24, help="test images of the set large")
    parser.add_argument(
        "--largest", type=int, default=8192, help="pixels a side of the largest of the set sizes"
    )
    parser.add_argument("--notebooks", default="01,02,03,04")
    parser.add_argument("--out", default="benchmarks/load.json")
    parser.add_argument("--cells", help=argparse.SUPPRESS)
    parser.add_argument("--values", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cells:
        warnings.simplefilter("ignore")
        run_cells(arguments.cells, json.loads(arguments.values))
        return
    from seglib import runs

    out = Path(arguments.out).resolve()
    rows: list[dict] = []
    chosen = arguments.notebooks.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("notebooks", "data"):
            (root / name).mkdir()
        for what in arguments.sets.split(","):
            if what == "images":
                for total in map(int, arguments.images.split(",")):
                    rows += measure(
                        root, what, {"train": total, "val": 20, "test": total}, [(96, 96)], 8, chosen
                    )
            elif what == "classes":
                rows += measure(
                    root, what, {"train": 200, "val": 20, "test": arguments.many}, [(128, 128)], 150, chosen
                )
            elif what == "large":
                rows += measure(
                    root, what, {"train": 4, "val": 2, "test": arguments.large}, [(1024, 2048)], 19, chosen
                )
            else:
                side = arguments.largest
                sizes = [(32, 32), (side, side), (33, 1500), (96, 96), (700, 40), (512, 768)]
                rows += measure(root, what, {"train": 6, "val": 6, "test": 6}, sizes, 8, chosen)
    known = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    measured = {tuple(row[key] for key in ("set", "notebook", "images")): row for row in known + rows}
    runs.write_json(out, {"environment": runs.environment(), "rows": list(measured.values())})


if __name__ == "__main__":
    main()
