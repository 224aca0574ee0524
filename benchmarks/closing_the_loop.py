"""One turn of the loop: does what 04 asks for make the next training better? `python benchmarks/closing_the_loop.py`.

The demo with sound masks everywhere gets label faults planted in its training split. A first run learns from that. 04 looks
through the training images and names masks; a person looks at these, and says of each truly whether its label is wrong (planted.csv
knows); what actions.yaml then asks for, a second run follows. Both are scored on the sound test split. The runs stay in artifacts/runs (loop_before, loop_after), so that 04 shows the two side by
side: `papermill notebooks/04_failure_analysis.ipynb after.ipynb -p run loop_after -p before loop_before`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import pandas as pd
from sklearn.metrics import roc_auc_score

from seglib import actions, runs
from seglib.data import inject_faults, load_dataset, planted
from seglib.data.inject import LABEL_FAULTS
from seglib.evaluate import compare_runs, comparison_sentence, open_evaluation
from seglib.failures import VerdictBook, named
from seglib.pipeline import run_chain
from seglib.runs import Run


def sound_demo() -> Path:
    """data/demo_sound: the demo with sound masks."""
    sound = runs.project_root() / "data" / "demo_sound"
    if not sound.exists():
        shutil.copytree(sound.with_name("demo"), sound)
        for mask in (sound / "clean_masks").glob("*.png"):
            (place,) = sound.glob(f"*/masks/{mask.name}")
            shutil.copyfile(mask, place)
    return sound


def faulty_demo(share: float, seed: int) -> Path:
    """data/demo_faulty: the demo with sound masks but for the faults planted in train, which its planted.csv tells."""
    sound, faulty = sound_demo(), runs.project_root() / "data" / "demo_faulty"
    if faulty.exists():
        shutil.rmtree(faulty)
    inject_faults(load_dataset(sound), faulty, LABEL_FAULTS, share, ("train",), seed)
    return faulty


def turn(name: str, start: str, stop: str, **values: object) -> float:
    """Run notebooks; the seconds that they took."""
    began = time.perf_counter()
    run_chain({"run": name, "dataset": "data/demo_faulty"} | values, start, stop)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--share", type=float, default=0.4, help="of the training images that get a label fault"
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/closing_the_loop.json", help="the JSON file")
    given = parser.parse_args()
    faulty = faulty_demo(given.share, given.seed)
    for name in ("loop_before", "loop_after"):
        shutil.rmtree(Run.folder(name), ignore_errors=True)
    settings = {"epochs": given.epochs, "seed": given.seed}
    seconds = {"before": turn("loop_before", "2", "3", split="test", **settings)}
    seconds["audit"] = turn("loop_before", "3", "4", split="train")
    before = Run.open("loop_before")
    faults = set(planted(faulty)["sample"])
    suspects = named(runs.read_table(before.failures("train") / "suspects.csv"))["id"]
    book = VerdictBook(before.failures("train") / "verdicts.csv")
    for sample in suspects:
        book.set(sample, "label wrong" if sample in faults else "model wrong")
    turn("loop_before", "4", "4", split="train")
    path = before.failures("train") / "actions.yaml"
    asked = actions.read(path)
    seconds["after"] = turn(
        "loop_after",
        "2",
        "4",
        split="test",
        actions=path.relative_to(runs.project_root()).as_posix(),
        before="loop_before",
        **settings,
    )
    found = compare_runs(open_evaluation(before, "test"), open_evaluation("loop_after", "test"))

    suspects = pd.read_csv(before.failures("train") / "suspects.csv", dtype={"id": str})
    excluded = {sample.id for sample in asked.exclude}
    wrong = suspects["id"].isin(faults)
    facts = {
        "training images": len(suspects),
        "planted": len(faults),
        "named": int(suspects["suspect"].sum()),
        "of them planted": len(excluded & faults),
        "AUROC of the label score": float(roc_auc_score(wrong, suspects["label_score"])),
        "changes": asked.changes,
    }
    print(pd.Series(facts).to_string())
    print(comparison_sentence(found))
    environment = runs.environment()
    summary = facts | {
        "comparison": found.summary,
        "seconds": seconds,
        "share": given.share,
        "epochs": given.epochs,
    }
    runs.write_json(Path(given.out).resolve(), {"environment": environment} | summary)


if __name__ == "__main__":
    main()
