"""Two runs on the same images: what changed, by how much, and whether it is more than luck."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from seglib import metrics, runs
from seglib.evaluate.evaluation import Evaluation, units_of

CHANGES = ("fixed", "regressed", "failing in both", "fine in both", "unscored")


@dataclass(frozen=True)
class Comparison:
    """A second run beside a first one, on one split; differences are second minus first.

    Args:
        first, second: their evaluations.
        summary: what `comparison_sentence` words, and the share of the draws that the second run won.
        per_image: id, group, miou_first, miou_second, difference, change (one of `CHANGES`).
        per_class: class, iou_first, iou_second, difference, low, high, images. Both: largest moves first.
    """

    first: Evaluation
    second: Evaluation
    summary: dict
    per_image: pd.DataFrame
    per_class: pd.DataFrame


def compare_runs(first: Evaluation, second: Evaluation, threshold: float = 0.5) -> Comparison:
    """Compare two runs that 03 has evaluated on the same split.

    The bootstrap is paired: both are scored on the same draws, so that what is hard for both cancels out. An
    image whose mIoU is below `threshold` fails. Other images, masks, classes or policies are a ValueError.
    """
    _check_same(first, second)
    samples = second.dataset.split(second.split).set_index("id").reindex(second.per_image["id"])
    units, basis = units_of(samples.fillna({"group": ""}))
    parts = np.stack([metrics.iou_parts(e.confusions) for e in (first, second)], axis=1)  # (N, 2 runs, 2, C)
    draws, count = metrics.draw_sums(parts, units), len(pd.unique(units))
    means, mean_draws = metrics.mean_iou_of(parts.sum(0)), metrics.mean_iou_of(draws)
    gain = metrics.interval(means[1] - means[0], mean_draws[:, 1] - mean_draws[:, 0], count)
    iou, iou_draws = metrics.iou_of(parts.sum(0)), metrics.iou_of(draws)  # (2, C), (R, 2, C)
    difference, class_draws = iou[1] - iou[0], iou_draws[:, 1] - iou_draws[:, 0]
    moves = [metrics.interval(d, class_draws[:, c], count) for c, d in enumerate(difference)]
    per_class = pd.DataFrame({"class": second.classes.names, "iou_first": iou[0], "iou_second": iou[1]})
    per_class["difference"] = difference
    per_class[["low", "high"]] = [(move.low, move.high) for move in moves]
    per_class["images"] = (second.confusions.sum(-1) > 0).sum(0)
    per_image = _compare_images(first, second, threshold)
    changes, names = per_image["change"].value_counts(), {"first": first.run.name, "second": second.run.name}
    scores = {"mean_iou_first": float(means[0]), "mean_iou_second": float(means[1]), "difference": gain.value}
    interval = {"low": gain.low, "high": gain.high, "level": 0.95, "share_above": gain.share_above}
    summary = names | {"split": second.split, "images": len(per_image)} | scores | interval
    summary |= {"basis": basis, "policy": second.scores["absent"], "threshold": threshold}
    summary["changes"] = {change: int(changes.get(change, 0)) for change in CHANGES}
    return Comparison(first, second, summary, per_image, _largest_first(per_class))


def _check_same(first: Evaluation, second: Evaluation) -> None:
    """Raise ValueError where the counts of two evaluations cannot be compared."""
    (one, other), runs_named = map(_facts, (first, second)), f"{first.run.name!r} and {second.run.name!r}"
    for what in one:
        names = sorted(one[what].keys() | other[what].keys())
        if names := [name for name in names if one[what].get(name) != other[what].get(name)]:
            differing = f"{len(names)} differing: {', '.join(names[:3])}"
            told = f"runs {runs_named} were scored on different {what} ({differing})"
            raise ValueError(f"{told}. Evaluate both again on split {second.split!r}.")


def _facts(evaluation: Evaluation) -> dict[str, dict]:
    """What must be alike, by name: positions of classes and images, policy, pixels of each mask."""
    ids, masks = evaluation.per_image["id"], evaluation.confusions.sum(-1).tolist()
    classes = {name: k for k, name in enumerate(evaluation.classes.names)}
    images = {name: k for k, name in enumerate(ids)}
    policy = {"absent": evaluation.scores["absent"]}
    return {
        "classes": classes,
        "images": images,
        "policies": policy,
        "masks": dict(zip(ids, masks, strict=True)),
    }


def _compare_images(first: Evaluation, second: Evaluation, threshold: float) -> pd.DataFrame:
    before, after = (evaluation.per_image["miou"].to_numpy(float) for evaluation in (first, second))
    failed, fails, unscored = before < threshold, after < threshold, np.isnan(before + after)
    cases = [unscored, failed & ~fails, ~failed & fails, failed & fails]
    change = np.select(cases, ["unscored", "fixed", "regressed", "failing in both"], "fine in both")
    table = second.per_image[["id", "group"]].assign(miou_first=before, miou_second=after)
    return _largest_first(table.assign(difference=after - before, change=change))


def _largest_first(table: pd.DataFrame) -> pd.DataFrame:
    order = np.argsort(-table["difference"].abs().to_numpy(float), kind="stable")  # NaN comes last
    return table.iloc[order].reset_index(drop=True)


def comparison_sentence(comparison: Comparison) -> str:
    """Word what the comparison comes to, and what it stands on."""
    found, changes = comparison.summary, comparison.summary["changes"]
    gain, low, high = (100 * found[name] for name in ("difference", "low", "high"))
    limits = f"(95 % interval {low:+.1f} to {high:+.1f})"
    if np.isnan(low):
        verdict = "too few images to say whether that is more than luck"
    elif gain == low == high == 0:
        verdict = "no difference in any draw"
    elif low > 0 or high < 0:
        verdict = f"{'better' if low > 0 else 'worse'} by more than luck {limits}"
    else:
        verdict = f"which may be luck {limits}"
    moved, most = comparison.per_class.iloc[0], ""
    if moved["difference"] and not np.isnan(moved["difference"]):
        most = f"; the class moved most is {moved['class']} ({100 * moved['difference']:+.1f})"
    means = f"mean IoU {found['mean_iou_first']:.3f} -> {found['mean_iou_second']:.3f} ({gain:+.1f} points)"
    fixed = f"{changes['fixed']} image{'' if changes['fixed'] == 1 else 's'} fixed"
    return (
        f"{found['second']} against {found['first']} on {found['split']}: {means}, {verdict}; {fixed}, "
        f"{changes['regressed']} regressed at threshold {found['threshold']:g}{most}. "
        f"Drawn: {found['basis']}."
    )


def write_comparison(comparison: Comparison) -> Path:
    """Write summary.json and both tables to `comparison/<first>-<split>/` of the second run; return it."""
    name = f"{comparison.first.run.name}-{comparison.second.split}"
    folder = comparison.second.run.path / "comparison" / name
    with runs.replace_folder(folder, (), last="summary.json") as new:
        runs.write_csv(new / "per_image.csv", comparison.per_image)
        runs.write_csv(new / "per_class.csv", comparison.per_class)
        summary = comparison.summary | {"sentence": comparison_sentence(comparison)}
        runs.write_json(new / "summary.json", summary)
    return folder
