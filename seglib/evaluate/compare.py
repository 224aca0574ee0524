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

    The bootstrap is paired: both are scored on the same draws, so that what is hard for both cancels out.

    Args:
        threshold: an image whose mIoU is below it fails.

    Raises:
        ValueError: they were not scored on the same images, masks, classes and policy; says what differs.
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
    per_class = pd.DataFrame(
        {
            "class": second.classes.names,
            "iou_first": iou[0],
            "iou_second": iou[1],
            "difference": difference,
            "low": [move.low for move in moves],
            "high": [move.high for move in moves],
            "images": (second.confusions.sum(-1) > 0).sum(0),
        }
    )
    per_image = _compare_images(first, second, threshold)
    changes = per_image["change"].value_counts()
    summary = {
        "first": first.run.name,
        "second": second.run.name,
        "split": second.split,
        "images": len(per_image),
        "mean_iou_first": float(means[0]),
        "mean_iou_second": float(means[1]),
        "difference": gain.value,
        "low": gain.low,
        "high": gain.high,
        "level": 0.95,
        "share_above": gain.share_above,
        "basis": basis,
        "policy": second.scores["absent"],
        "threshold": threshold,
        "changes": {change: int(changes.get(change, 0)) for change in CHANGES},
    }
    return Comparison(first, second, summary, per_image, _largest_first(per_class))


def _check_same(first: Evaluation, second: Evaluation) -> None:
    """Raise ValueError where the counts of two evaluations cannot be compared."""
    ids, others = first.per_image["id"].tolist(), second.per_image["id"].tolist()
    if first.classes.names != second.classes.names:
        what, only = "classes", set(first.classes.names) ^ set(second.classes.names)
    elif ids != others:
        what, only = "images", set(ids) ^ set(others)
    elif first.scores["absent"] != second.scores["absent"]:
        what, only = "policies for absent classes", {first.scores["absent"], second.scores["absent"]}
    else:
        moved = (first.confusions.sum(-1) != second.confusions.sum(-1)).any(1)
        what, only = "masks", set(second.per_image.loc[moved, "id"])
        if not only:
            return
    differing = f"{len(only)} differing: {', '.join(sorted(only)[:3])}{', ...' * (len(only) > 3)}"
    raise ValueError(
        f"runs {first.run.name!r} and {second.run.name!r} were scored on different {what} "
        f"({differing if only else 'in another order'}). Evaluate both again on split {second.split!r}."
    )


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
    folder = comparison.second.run.path / "comparison"
    folder = folder / f"{comparison.first.run.name}-{comparison.second.split}"
    with runs.replace_folder(folder, (), last="summary.json") as new:
        runs.write_csv(new / "per_image.csv", comparison.per_image)
        runs.write_csv(new / "per_class.csv", comparison.per_class)
        sentence = comparison_sentence(comparison)
        runs.write_json(new / "summary.json", comparison.summary | {"sentence": sentence})
    return folder
