"""Runs on the same images: what changed, by how much, and whether the change helps or two models merely differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from seglib import metrics, runs
from seglib.evaluate.evaluation import Evaluation, recorded_digests, units_of
from seglib.params import Train
from seglib.runs import Run

CHANGES = ("fixed", "regressed", "failing in both", "fine in both", "unscored")


@dataclass(frozen=True)
class Comparison:
    """Runs after a change beside runs before it, on one split; differences are second minus first.

    Args:
        first, second: their evaluations; repeated trainings where there are several.
        summary: what `comparison_sentence` words.
        per_image: id, group, miou_first, miou_second (means over runs), difference, change (one of `CHANGES`).
        per_class: class, iou_first, iou_second, difference, low, high, images. Both: largest moves first.
    """

    first: list[Evaluation]
    second: list[Evaluation]
    summary: dict
    per_image: pd.DataFrame
    per_class: pd.DataFrame


def compare_runs(
    first: Evaluation | Sequence[Evaluation],
    second: Evaluation | Sequence[Evaluation],
    threshold: float = 0.5,
) -> Comparison:
    """Compare runs that 03 has evaluated on the same split: one a side, or repeated trainings of each side.

    One run a side: a paired jackknife over the images, which speaks of these two models. Two or more: Welch's t
    on their mean IoUs, which speaks of the change. An image whose mIoU is below `threshold` fails.

    Raises:
        ValueError: other images, masks, classes or policies; a run that stands twice, or copies another.
    """
    sides = [[side] if isinstance(side, Evaluation) else list(side) for side in (first, second)]
    _check_same(*sides)
    repeated, last = min(map(len, sides)) > 1, sides[1][0]
    before, after = (np.stack([_ious(e) for e in side]) for side in sides)  # (runs, 1 + C)
    per_image = _compare_images(sides, threshold)
    basis, changes = f"{len(before)} and {len(after)} trainings", per_image["change"].value_counts()
    found = np.stack([after.mean(0) - before.mean(0), *np.full((2, after.shape[1]), np.nan)])
    if repeated:
        found = welch(before, after)
    elif len(before) == len(after):
        samples = last.dataset.split(last.split).set_index("id").reindex(last.per_image["id"])
        moves = last.per_image["miou"] - sides[0][0].per_image["miou"]
        units, basis = units_of(samples.fillna({"group": ""}), moves)
        found = metrics.jackknife(last.confusions, units, minus=sides[0][0].confusions)
    per_class = pd.DataFrame({"class": last.classes.names})
    per_class["iou_first"], per_class["iou_second"] = before.mean(0)[1:], after.mean(0)[1:]
    per_class[["difference", "low", "high"]] = found[:, 1:].T
    per_class["images"] = (last.confusions.sum(-1) > 0).sum(0)
    named = [", ".join(e.run.name for e in side) for side in sides]
    summary = {"first": named[0], "second": named[1], "split": last.split, "images": len(per_image)}
    summary |= {"mean_iou_first": before[:, 0].mean(), "mean_iou_second": after[:, 0].mean()}
    summary |= dict(zip(("difference", "low", "high"), map(float, found[:, 0]), strict=True))
    summary |= {"level": 0.95, "basis": basis, "repeated": repeated}
    summary |= {"policy": last.scores["absent"], "threshold": threshold}
    summary["changes"] = {change: int(changes.get(change, 0)) for change in CHANGES}
    return Comparison(*sides, summary, per_image, _largest_first(per_class))


def welch(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Take the differences of the means of (n, K) and (m, K) values, with Welch's 95 % interval: (3, K)."""
    parts = [np.var(side, axis=0, ddof=1) / len(side) for side in (first, second)]
    rest = parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1)
    spread = stats.t.ppf(0.975, metrics.ratio(sum(parts) ** 2, rest)) * np.sqrt(sum(parts))
    difference = second.mean(0) - first.mean(0)
    return np.stack([difference, difference - spread, difference + spread])


def _ious(evaluation: Evaluation) -> np.ndarray:
    """(1 + C): the mean IoU and the IoU of each class."""
    iou = metrics.iou_per_class(evaluation.confusions.sum(0))
    return np.append(metrics.nanmean(iou), iou)


def _check_same(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> None:
    """Raise ValueError where evaluations cannot be compared, or where repeated trainings are none."""
    every = [*first, *second]
    names = [evaluation.run.name for evaluation in every]
    if len(every) > 2 and len(set(names)) < len(names):
        raise ValueError(f"a run stands twice: {', '.join(names)}. Name each training once.")
    facts = [_facts(evaluation) for evaluation in every]
    for one, other in combinations(range(len(every)), 2):
        for what in [what for what in facts[one] if what in facts[other]]:
            before, after = facts[one][what], facts[other][what]
            if odd := [k for k in before | after if before.get(k) != after.get(k)]:
                told = f"runs {names[one]!r} and {names[other]!r} were scored on different {what}"
                told += f" ({len(odd)} differing: {', '.join(odd[:3])}). Run 03_evaluate for both"
                raise ValueError(f"{told} on the same files, split {every[one].split!r}.")
    for one, other in (pair for side in (first, second) for pair in combinations(side, 2)):
        if np.array_equal(one.confusions, other.confusions):
            told = f"runs {one.run.name!r} and {other.run.name!r} predict the same in every image"
            raise ValueError(f"{told}: no repeated training. Train one again with another seed.")


def _facts(evaluation: Evaluation) -> dict[str, dict]:
    """What must be alike, by name: positions of classes and images, policy, files and pixels of each image."""
    images, files = evaluation.per_image, recorded_digests(evaluation)
    ids, pixels = images["id"].tolist(), map(tuple, evaluation.confusions.sum(-1).tolist())
    facts = {
        "classes": {name: k for k, name in enumerate(evaluation.classes.names)},
        "policies": {"absent": evaluation.scores["absent"]},
        "images": {name: k for k, name in enumerate(ids)},
        "masks": dict(zip(ids, pixels, strict=True)),
    }
    for kind in ("image", "mask") if files else ():
        facts[f"{kind} files"] = {i: files.get(path, "") for i, path in zip(ids, images[kind], strict=True)}
    return facts


def _compare_images(sides: Sequence[Sequence[Evaluation]], threshold: float) -> pd.DataFrame:
    before, after = (np.mean([e.per_image["miou"] for e in side], axis=0).astype(float) for side in sides)
    failed, fails, unscored = before < threshold, after < threshold, np.isnan(before + after)
    cases = [unscored, failed & ~fails, ~failed & fails, failed & fails]
    change = np.select(cases, ["unscored", "fixed", "regressed", "failing in both"], "fine in both")
    table = sides[1][0].per_image[["id", "group"]].assign(miou_first=before, miou_second=after)
    return _largest_first(table.assign(difference=after - before, change=change))


def _largest_first(table: pd.DataFrame) -> pd.DataFrame:
    order = np.argsort(-table["difference"].abs().to_numpy(float), kind="stable")  # NaN comes last
    return table.iloc[order].reset_index(drop=True)


def comparison_sentence(comparison: Comparison) -> str:
    """Word what the comparison comes to, and what it stands on; that a change helps, of repeated trainings only."""
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
    if moved["difference"] and not np.isnan(moved["difference"]):
        most = f"; the class moved most is {moved['class']} ({100 * moved['difference']:+.1f})"
    means = f"mean IoU {found['mean_iou_first']:.3f} -> {found['mean_iou_second']:.3f} ({gain:+.1f} points)"
    fixed = f"{changes['fixed']} image{'' if changes['fixed'] == 1 else 's'} fixed"
    return (
        f"{found['second']} against {found['first']} on {found['split']}: {means}; {told}. {fixed}, "
        f"{changes['regressed']} regressed at threshold {found['threshold']:g}{most}."
    )


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
    """Tabulate the runs below artifacts/runs, the newest first.

    Returns:
        run, date, model, data, val (best mean IoU of the training), test and worst_5 (mean IoU of split test, and of
        its worst 5 % of images), minutes (of training), differs (parameters that are not alike in all runs and not
        the default). What a run lacks is NaN or "".
    """
    known = [Run(path.parent) for path in runs.project_root().glob("artifacts/runs/*/params.json")]
    given, usual = {run: runs.read_json(run.params) for run in known}, Train().model_dump()
    shown = {"run", "dataset", "architecture", "encoder", "resume", "replace"}
    several = [
        n for n in usual if len({str(g.get(n, usual[n])) for r, g in given.items() if not r.external}) > 1
    ]
    rows = []
    for run, values in given.items():
        environment, scores = run.path / "environment.json", run.evaluation("test") / "metrics.json"
        time = runs.read_json(environment)["time"] if environment.is_file() else ""
        found = runs.read_json(scores, ["mean_iou"]) if scores.is_file() else {}
        history = pd.DataFrame(columns=["val_miou", "seconds"], dtype=float)
        history = runs.read_table(run.history, index_col=False) if run.history.is_file() else history
        model = "predictions" if run.external else f"{values.get('architecture')} {values.get('encoder')}"
        row = [
            run.name,
            time[:16].replace("T", " "),
            model,
            values.get("dataset", ""),
            history["val_miou"].max(),
        ]
        row += [
            found.get("mean_iou"),
            found.get("mean_iou_image_worst_5"),
            history["seconds"].sum() / 60 or None,
        ]
        told = {name: values.get(name, usual[name]) for name in several if name not in shown}
        rows.append([*row, ", ".join(f"{name}={v}" for name, v in told.items() if v != usual[name])])
    columns = ["run", "date", "model", "data", "val", "test", "worst_5", "minutes", "differs"]
    table = pd.DataFrame(rows, columns=columns).sort_values(
        ["date", "run"], ascending=False, ignore_index=True
    )
    return table.astype(dict.fromkeys(columns[4:8], float))
