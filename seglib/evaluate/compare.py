"""Two runs on the same images: what changed, by how much, and whether it is more than luck."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from seglib import metrics
from seglib.evaluate.evaluation import Evaluation, open_evaluation
from seglib.evaluate.predictions import run_dataset
from seglib.metrics import draw_sums, interval, iou_of, iou_parts, mean_iou_of
from seglib.runs import Run, replace_folder, write_csv, write_json

CHANGES = ("fixed", "regressed", "failing in both", "fine in both", "unscored")
_RESAMPLES = 1000


@dataclass(frozen=True)
class Comparison:
    """A second run beside a first one, on one split.

    Args:
        first, second: names of the runs.
        split: name of the split.
        summary: mean_iou_first, mean_iou_second, difference (second minus first) with low, high and share_above (of the draws
            in which the second run won), basis (what was drawn), threshold, policy, images, and how many images of each change.
        per_image: id, group, miou_first, miou_second, difference, change (one of `CHANGES`); largest moves first.
        per_class: class, iou_first, iou_second, difference, low, high, images; largest moves first.
    """

    first: str
    second: str
    split: str
    summary: dict
    per_image: pd.DataFrame
    per_class: pd.DataFrame


def compare_runs(first: Run, second: Run, split: str, threshold: float = 0.5, seed: int = 0) -> Comparison:
    """Compare two runs that 03 has evaluated on the same split.

    The bootstrap is paired: both runs are scored on the same draws of images, so that what is hard for both cancels out. What is
    drawn (images, sequences or blocks of frames) is as for a single run's interval.

    Args:
        first, second: the difference is second minus first.
        threshold: an image whose mIoU is below it fails.
        seed: of the draws.

    Raises:
        FileNotFoundError: a run has no evaluation of the split.
        ValueError: the runs were not scored on the same images with the same classes and policy; says what differs.
    """
    old, new = open_evaluation(first, split), open_evaluation(second, split)
    _check_same(first, old, second, new)
    units, basis = _units(second, split, new)
    parts = np.stack([iou_parts(old.confusions), iou_parts(new.confusions)], axis=1)  # (N, 2 runs, 2, C)
    draws = draw_sums(parts, units, _RESAMPLES, seed)
    count = len(pd.unique(units))
    means, mean_draws = mean_iou_of(parts.sum(0)), mean_iou_of(draws)
    gain = interval(means[1] - means[0], mean_draws[:, 1] - mean_draws[:, 0], count)
    per_image = _images(old, new, threshold)
    changes = per_image["change"].value_counts()
    summary = {
        "first": first.name,
        "second": second.name,
        "split": split,
        "images": len(per_image),
        "mean_iou_first": float(means[0]),
        "mean_iou_second": float(means[1]),
        "difference": gain.value,
        "low": gain.low,
        "high": gain.high,
        "level": 0.95,
        "share_above": gain.share_above,
        "basis": basis,
        "policy": new.scores["absent"],
        "threshold": threshold,
        "changes": {change: int(changes.get(change, 0)) for change in CHANGES},
    }
    return Comparison(first.name, second.name, split, summary, per_image, _classes(new, parts, draws, count))


def comparison_sentence(comparison: Comparison) -> str:
    """What the comparison comes to, in one sentence (and one about what it stands on)."""
    found, changes = comparison.summary, comparison.summary["changes"]
    points = [100 * found[name] for name in ("difference", "low", "high")]
    if np.isnan(points[1:]).any():
        verdict = "too few images to say whether that is more than luck"
    elif points == [0, 0, 0]:
        verdict = "no difference in any draw"
    elif found["low"] > 0 or found["high"] < 0:
        verdict = f"{'better' if found['low'] > 0 else 'worse'} by more than luck (95 % interval {points[1]:+.1f} to {points[2]:+.1f})"
    else:
        verdict = f"which may be luck (95 % interval {points[1]:+.1f} to {points[2]:+.1f})"
    moved = comparison.per_class.dropna(subset=["difference"])
    most = ""
    if len(moved) and moved["difference"].iloc[0]:
        most = (
            f"; the class moved most is {moved['class'].iloc[0]} ({100 * moved['difference'].iloc[0]:+.1f})"
        )
    return (
        f"{comparison.second} against {comparison.first} on {comparison.split}: mean IoU {found['mean_iou_first']:.3f} -> "
        f"{found['mean_iou_second']:.3f} ({points[0]:+.1f} points), {verdict}; {_images_are(changes['fixed'])} fixed, "
        f"{changes['regressed']} regressed at threshold {found['threshold']:g}{most}. Drawn: {found['basis']}."
    )


def write_comparison(comparison: Comparison, second: Run) -> Path:
    """Write summary.json, per_image.csv and per_class.csv under `comparison/<first run>-<split>/` of the second run.

    Returns:
        The folder.
    """
    folder = second.path / "comparison" / f"{comparison.first}-{comparison.split}"
    with replace_folder(folder, (), last="summary.json") as new:
        write_csv(new / "per_image.csv", comparison.per_image)
        write_csv(new / "per_class.csv", comparison.per_class)
        write_json(new / "summary.json", comparison.summary | {"sentence": comparison_sentence(comparison)})
    return folder


def _check_same(first: Run, old: Evaluation, second: Run, new: Evaluation) -> None:
    names = [run.name for run in (first, second)]
    again = f"Evaluate both runs anew on split {new.split!r} of one dataset."
    if old.classes.names != new.classes.names:
        only = sorted(set(old.classes.names) ^ set(new.classes.names))
        raise ValueError(
            f"runs {names[0]!r} and {names[1]!r} know different classes ({_some(only) or 'in another order'}). {again}"
        )
    ids = [evaluation.per_image["id"].tolist() for evaluation in (old, new)]
    if ids[0] != ids[1]:
        only = [sorted(set(a) - set(b)) for a, b in (ids, ids[::-1])]
        detail = "; ".join(
            f"{len(o)} only in {n!r} ({_some(o)})" for o, n in zip(only, names, strict=True) if o
        )
        raise ValueError(
            f"runs {names[0]!r} and {names[1]!r} were scored on different images: {detail or 'in another order'}. {again}"
        )
    differing = np.flatnonzero((old.confusions.sum(-1) != new.confusions.sum(-1)).any(1))
    if len(differing):
        changed = [ids[1][i] for i in differing]
        raise ValueError(
            f"the masks changed between the evaluations of {names[0]!r} and {names[1]!r}: {len(changed)} of {len(ids[1])} images "
            f"hold other true pixels ({_some(changed)}). {again}"
        )
    if old.scores["absent"] != new.scores["absent"]:
        raise ValueError(
            f"absent classes were treated differently: {old.scores['absent']!r} in {names[0]!r}, {new.scores['absent']!r} in "
            f"{names[1]!r}. Evaluate both with the same `absent`."
        )


def _units(run: Run, split: str, evaluation: Evaluation) -> tuple[np.ndarray, str]:
    """What is drawn: by the dataset's sequences and frames, for the images that were evaluated."""
    samples = run_dataset(run).split(split).set_index("id").reindex(evaluation.per_image["id"])
    groups = samples["group"].fillna("").to_numpy(str)
    return metrics.independent_units(groups, samples["frame"].to_numpy(float, na_value=np.nan))


def _images(old: Evaluation, new: Evaluation, threshold: float) -> pd.DataFrame:
    before, after = (evaluation.per_image["miou"].to_numpy(float) for evaluation in (old, new))
    failed, fails = before < threshold, after < threshold
    unscored = np.isnan(before) | np.isnan(after)
    table = new.per_image[["id", "group"]].assign(
        miou_first=before,
        miou_second=after,
        difference=after - before,
        change=np.select(
            [unscored, failed & ~fails, ~failed & fails, failed & fails],
            ["unscored", "fixed", "regressed", "failing in both"],
            "fine in both",
        ),
    )
    return _largest_first(table)


def _classes(new: Evaluation, parts: np.ndarray, draws: np.ndarray, units: int) -> pd.DataFrame:
    iou, iou_draws = iou_of(parts.sum(0)), iou_of(draws)  # (2, C), (R, 2, C)
    moves = [
        interval(iou[1, c] - iou[0, c], iou_draws[:, 1, c] - iou_draws[:, 0, c], units)
        for c in range(iou.shape[1])
    ]
    table = pd.DataFrame(
        {
            "class": new.classes.names,
            "iou_first": iou[0],
            "iou_second": iou[1],
            "difference": [move.value for move in moves],
            "low": [move.low for move in moves],
            "high": [move.high for move in moves],
            "images": (new.confusions.sum(-1) > 0).sum(0),
        }
    )
    return _largest_first(table)


def _largest_first(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(
        "difference", key=lambda d: -d.abs(), kind="stable", na_position="last", ignore_index=True
    )


def _images_are(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
