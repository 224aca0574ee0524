"""Is the data check bound by decoding? `python benchmarks/data_check.py` prints the table and writes JSON.

The whole check of a dataset against merely decoding the same images and masks into arrays, in as many threads, in turns in
one process. Beside the rates stand those of processor time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib import runs
from seglib.checks import check_dataset
from seglib.data import Dataset, load_dataset, map_ahead


def decode(dataset: Dataset) -> None:
    """Every image and mask -> an array, and nothing else."""

    def both(row: tuple) -> None:
        for path in (row.image, row.mask):
            with Image.open(dataset.root / path) as picture:
                np.asarray(picture)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in map_ahead(pool, both, dataset.samples.itertuples(index=False)):
            pass


def taken(work: Callable[[Dataset], object], dataset: Dataset) -> tuple[float, float]:
    """Seconds, and seconds of processor time of all threads."""
    started, used = time.perf_counter(), time.process_time()
    work(dataset)
    return time.perf_counter() - started, time.process_time() - used


def compare(name: str, dataset: Dataset, rounds: int) -> dict:
    decode(dataset)  # once, so that all files come from memory
    times = [(taken(decode, dataset), taken(check_dataset, dataset)) for _ in range(rounds)]
    count = len(dataset.samples)
    (decoded, decoded_cpu), (checked, checked_cpu) = (
        [statistics.median(round_[way][kind] for round_ in times) for kind in (0, 1)] for way in (0, 1)
    )
    return {
        "dataset": name,
        "pairs": count,
        "decoding (pairs/s)": count / decoded,
        "check (pairs/s)": count / checked,
        "ratio": statistics.median(a[0] / b[0] for a, b in times),
        "decoding (CPU ms/pair)": 1000 * decoded_cpu / count,
        "check (CPU ms/pair)": 1000 * checked_cpu / count,
        "ratio of CPU time": statistics.median(a[1] / b[1] for a, b in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="*", default=["data/demo", "data/camvid:data/configs/camvid.yaml"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="benchmarks/data_check.json", help="the JSON file")
    arguments = parser.parse_args()
    rows = []
    for given in arguments.datasets:
        folder, _, recipe = given.partition(":")
        rows.append(compare(Path(folder).name, load_dataset(folder, recipe, strict=False), arguments.rounds))
    print(pd.DataFrame(rows).set_index("dataset").T.to_string(float_format="{:.3g}".format))
    runs.write_json(Path(arguments.out).resolve(), {"environment": runs.environment(), "rows": rows})


if __name__ == "__main__":
    main()
