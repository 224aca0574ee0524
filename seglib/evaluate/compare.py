"""Runs on the same images: what changed, by how much, and whether the change helps or two models merely differ."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from seglib import metrics, runs
from seglib.evaluate.evaluation import Evaluation, recorded_digests, units_of
from seglib.params import Train

_LARGEST_FIRST = {"key": abs, "ascending": False, "kind": "stable", "ignore_index": True}
_Side = Evaluation | Sequence[Evaluation]
CHANGES = ("fixed", "regressed", "failing in both", "passing in both", "unscored")


class Comparison(NamedTuple):
    """Runs after a change beside runs before it, on one split; differences are second minus first."""

    first: list[Evaluation]  # repeated trainings where there are several
    second: list[Evaluation]
    summary: dict  # what `comparison_sentence` words
    per_image: pd.DataFrame  # mIoUs, means over runs, and change (one of `CHANGES`), largest moves first
    per_class: pd.DataFrame


def compare_runs(first: _Side, second: _Side, threshold: float = 0.5) -> Comparison:
    """Compare runs that 03 has evaluated on the same split: one a side, or repeated trainings of each side.

    One run a side: a paired jackknife over the images, which speaks of these two models. Two or more: Welch's t
    on their mean IoUs, which speaks of the change. An image whose mIoU is below `threshold` fails. Runs that were
    not scored alike, and one that stands twice or copies another, are a ValueError.
    """
    sides = [[side] if isinstance(side, Evaluation) else list(side) for side in (first, second)]
    _check_same(*sides)
    repeated, one, last = min(map(len, sides)) > 1, sides[0][0], sides[1][0]
    ious = [metrics.iou_per_class(np.stack([e.confusions.sum(0) for e in side])) for side in sides]
    before, after = (np.column_stack([metrics.nanmean(iou, axis=1), iou]) for iou in ious)  # (runs, 1 + C)
    per_image, basis = _compare_images(sides, threshold), f"{len(before)} and {len(after)} trainings"
    found = np.stack([after.mean(0) - before.mean(0), *np.full((2, after.shape[1]), np.nan)])
    if repeated:
        found = welch(before, after)
    elif len(before) == len(after):
        samples = last.dataset.split(last.split).set_index("id").reindex(last.per_image["id"])
        moves = last.per_image["miou"] - one.per_image["miou"]
        units, basis = units_of(samples.fillna({"group": ""}), moves)
        found = metrics.jackknife(last.confusions, units, minus=one.confusions)
    table = np.column_stack([before.mean(0), after.mean(0), found.T])  # (1 + C, 5)
    columns = ["iou_first", "iou_second", "difference", "low", "high"]
    per_class = pd.DataFrame(table[1:], columns=columns)
    per_class.insert(0, "class", last.classes.names)
    per_class["images"] = (last.confusions.sum(-1) > 0).sum(0)
    named = [", ".join(e.run.name for e in side) for side in sides]
    summary = {"first": named[0], "second": named[1], "split": last.split, "images": len(per_image)}
    summary |= dict(zip(("mean_iou_first", "mean_iou_second", *columns[2:]), table[0].tolist(), strict=True))
    summary |= {"level": 0.95, "basis": basis, "repeated": repeated}
    summary |= {"policy": last.scores["absent"], "threshold": threshold}
    summary["changes"] = {change: int((per_image["change"] == change).sum()) for change in CHANGES}
    return Comparison(*sides, summary, per_image, per_class.sort_values("difference", **_LARGEST_FIRST))


def welch(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Take the differences of the means of (n, K) and (m, K) values, with Welch's 95 % interval: (3, K)."""
    parts = [np.var(side, axis=0, ddof=1) / len(side) for side in (first, second)]
    rest = parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1)
    spread = stats.t.ppf(0.975, metrics.ratio(sum(parts) ** 2, rest)) * np.sqrt(sum(parts))
    difference = second.mean(0) - first.mean(0)
    return np.stack([difference, difference - spread, difference + spread])


def _check_same(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> None:
    every = [*first, *second]
    names, wanted = [evaluation.run.name for evaluation in every], _facts(every[0])
    if len(every) > 2 and len(set(names)) < len(names):
        raise ValueError(f"a run stands twice: {', '.join(names)}. Name each training once.")
    for name, facts in zip(names[1:], map(_facts, every[1:]), strict=True):
        if odd := [key for key in sorted(wanted | facts) if wanted.get(key) != facts.get(key)]:
            what = f"images, masks and classes ({len(odd)} differing: {', '.join(odd[:3])})"
            told = f"runs {names[0]!r} and {name!r} were not scored on the same {what}"
            raise ValueError(f"{told}. Run 03_evaluate for both.")
    for one, other in [*combinations(first, 2), *combinations(second, 2)]:
        if np.array_equal(one.confusions, other.confusions):
            told = f"runs {one.run.name!r} and {other.run.name!r} predict the same in every image"
            raise ValueError(f"{told}: no repeated training. Train one again with another seed.")


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """What must be alike: classes, policy, and of each image its place, its pixels and the digests of its files."""
    facts = {f"class {name}": k for k, name in enumerate(evaluation.classes.names)}
    facts["absent"], files = evaluation.scores["absent"], recorded_digests(evaluation)
    pixels = evaluation.confusions.sum(-1).tolist()
    for k, row in enumerate(evaluation.per_image.to_dict("records")):
        digests = [files.get(row.get(kind)) for kind in ("image", "mask")]
        facts[f"image {row['id']}"] = k, pixels[k], digests
    return facts


def _compare_images(sides: Sequence[Sequence[Evaluation]], threshold: float) -> pd.DataFrame:
    before, after = (np.mean([e.per_image["miou"] for e in side], axis=0).astype(float) for side in sides)
    failed, fails, unscored = before < threshold, after < threshold, np.isnan(before + after)
    cases = [unscored, failed & ~fails, ~failed & fails, failed & fails]
    change = np.select(cases, ["unscored", "fixed", "regressed", "failing in both"], "passing in both")
    table = sides[1][0].per_image[["id", "group"]].assign(miou_first=before, miou_second=after)
    table = table.assign(difference=after - before, change=change)
    return table.sort_values("difference", **_LARGEST_FIRST)


def comparison_sentence(comparison: Comparison) -> str:
    """Word what the comparison comes to; that a change helps, of repeated trainings only."""
    found, changes = comparison.summary, comparison.summary["changes"]
    gain, low, high = (100 * found[name] for name in ("difference", "low", "high"))
    words = ["these two models differ", "these two models cannot be told apart", "these two models differ"]
    if found["repeated"]:
        words = ["the change hurts", "the spread of the trainings may explain it", "the change helps"]
    told = words[1 + (low > 0) - (high < 0)]
    told += f" (95 % interval {low:+.1f} to {high:+.1f} over {found['basis']})"
    if np.isnan(low):
        told = f"no interval: too little is independent ({found['basis']})"
    if not found["repeated"]:
        told += ". One training a side cannot tell the change from the seed: repeat both with other seeds"
    moved, most = comparison.per_class.iloc[0], ""
    if abs(moved["difference"]) > 0:
        most = f"; the class moved most is {moved['class']} ({100 * moved['difference']:+.1f})"
    means = f"mean IoU {found['mean_iou_first']:.3f} -> {found['mean_iou_second']:.3f} ({gain:+.1f} points)"
    fixed = f"{changes['fixed']} image{'' if changes['fixed'] == 1 else 's'} fixed"
    moved = f"{fixed}, {changes['regressed']} regressed at threshold {found['threshold']:g}{most}."
    return f"{found['second']} against {found['first']} on {found['split']}: {means}; {told}. {moved}"


def write_comparison(comparison: Comparison) -> Path:
    """Write summary.json and both tables to `comparison/<first>-<split>/` of the second run; return it."""
    first, second = comparison.first, comparison.second
    counts = f"-{len(first)}x{len(second)}" if len(first) + len(second) > 2 else ""
    folder = second[0].run.path / "comparison" / f"{first[0].run.name}{counts}-{second[0].split}"
    with runs.replace_folder(folder, (), last="summary.json") as new:
        runs.write_csv(new / "per_image.csv", comparison.per_image)
        runs.write_csv(new / "per_class.csv", comparison.per_class)
        summary = comparison.summary | {"sentence": comparison_sentence(comparison)}
        runs.write_json(new / "summary.json", summary)
    return folder


def list_runs() -> pd.DataFrame:
    """Tabulate the runs below artifacts/runs, the newest first; NaN or "" where something is not known.

    Returns run, date, model, data, val (best mean IoU of the training), test and worst_5 (mean IoU of split test, and
    of its worst 5 %), minutes (of training), differs (parameters that differ between runs).
    """
    known = [runs.Run(path.parent) for path in runs.project_root().glob("artifacts/runs/*/params.json")]
    # what other columns show does not stand under `differs`
    usual = Train().model_dump(exclude={"run", "dataset", "architecture", "encoder", "resume", "replace"})
    given = {run: usual | runs.read_json(run.params) for run in known}
    trained = [values for run, values in given.items() if not run.external]
    several = [name for name in usual if len({str(values[name]) for values in trained}) > 1]
    rows, none = [], pd.DataFrame(columns=["val_miou", "seconds"], dtype=float)
    for run, values in given.items():
        environment, scores = run.path / "environment.json", run.evaluation("test") / "metrics.json"
        time = runs.read_json(environment)["time"] if environment.is_file() else ""
        found = runs.read_json(scores, ["mean_iou"]) if scores.is_file() else {}
        history = runs.read_table(run.history, index_col=False) if run.history.is_file() else none
        model = "predictions" if run.external else f"{values.get('architecture')} {values.get('encoder')}"
        row = {"run": run.name, "date": time[:16].replace("T", " "), "model": model}
        row |= {"data": values.get("dataset", ""), "val": history["val_miou"].max()}
        row |= {"test": found.get("mean_iou"), "worst_5": found.get("mean_iou_image_worst_5")}
        differs = [f"{name}={values[name]}" for name in several if values[name] != usual[name]]
        rows.append(row | {"minutes": history["seconds"].sum() / 60 or None, "differs": ", ".join(differs)})
    columns = ["run", "date", "model", "data", "val", "test", "worst_5", "minutes", "differs"]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:8], float))
    return table.sort_values(["date", "run"], ascending=False, ignore_index=True)
