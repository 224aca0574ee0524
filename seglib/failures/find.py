"""The images on which the model fails: which, how badly, by which confusions, and what the figures point to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib import metrics
from seglib.data import DatasetError, overlay, read_pair
from seglib.evaluate import Evaluation, run_dataset, save_ids, saved_prediction
from seglib.failures import causes
from seglib.failures.error_types import best_repairs
from seglib.failures.thresholds import Threshold, describe, failing, judged
from seglib.runs import Run, atomic_path, replace_folder, write_csv

GUESSING = 0.1  # below this an image is no better than guessed
NEAR = 0.1  # within this of the threshold, a failure is a near miss

LAYERS = ("images", "masks", "predictions", "overlays")  # folders that hold a PNG of every failure
FINDINGS = ("confidences", "suspects", "nearest")  # folders of what an analysis adds

SEVERITIES = ("near-threshold", "clear", "guessing")


def find_failures(evaluation: Evaluation, threshold: float | Threshold = 0.5) -> pd.DataFrame:
    """The images below the threshold, worst first.

    Images without a scored pixel have no score and cannot fail; metrics.json names them.

    Args:
        threshold: of mIoU, or one of `thresholds.read_threshold`.

    Returns:
        id, miou, severity (guessing: below 0.1; near-threshold: within 0.1 of it; clear: between; of the mIoU, or of the class that
        makes the image fail), worst_class, worst_class_iou, top_confusion ("pole -> building"), top_confusion_share (of the
        image's scored pixels), group, best_fix (the confusion whose repair would raise the image's mIoU most), best_fix_gain (by
        how much).
    """
    threshold = threshold if isinstance(threshold, Threshold) else Threshold(threshold)
    names = evaluation.classes.names
    failed = np.flatnonzero(failing(evaluation, threshold))
    score, limit = judged(evaluation, threshold)
    images = evaluation.per_image.iloc[failed].reset_index(drop=True)
    counts = evaluation.confusions[failed]
    pairs = [_top_confusion(count, names) for count in counts]
    table = pd.DataFrame(
        {
            "id": images["id"],
            "miou": images["miou"],
            "severity": [severity(score[i], limit[i]) for i in failed],
            "worst_class": images["worst_class"],
            "worst_class_iou": evaluation.per_image_class_iou[list(names)]
            .iloc[failed]
            .min(axis=1)
            .to_numpy(float),
            "top_confusion": [words for words, _ in pairs],
            "top_confusion_share": [pixels for _, pixels in pairs] / images["valid_pixels"],
            "group": images["group"],
        }
    ).join(best_repairs(counts, names, evaluation.scores.get("absent", "truth")))
    return table.sort_values(["miou", "id"], ignore_index=True)


def _top_confusion(confusion: np.ndarray, names: tuple[str, ...]) -> tuple[str, int]:
    """The confusion of the most pixels in words, and those; "" and 0 where nothing is wrong."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    truth, pred = divmod(int(wrong.argmax()), len(names))
    pixels = int(wrong[truth, pred])
    return (f"{names[truth]} -> {names[pred]}" if pixels else "", pixels)


def severity(miou: float, threshold: float) -> str:
    """One of `SEVERITIES` for an image below the threshold."""
    if miou < GUESSING:
        return "guessing"
    return "near-threshold" if miou >= threshold - NEAR else "clear"


def failure_confusions(evaluation: Evaluation, failures: pd.DataFrame) -> np.ndarray:
    """(C, C) counts of the failed images together; zeros when there are none."""
    return evaluation.confusions[evaluation.per_image["id"].isin(failures["id"])].sum(0)


def export(run: Run, evaluation: Evaluation, failures: pd.DataFrame) -> Path:
    """Copy the failures into `failures/<split>/`: images, masks, predictions, overlays as PNG, and failures.csv.

    What an earlier analysis left is replaced when all is written, except what a person wrote: verdicts.csv stays.

    Returns:
        The folder.
    """
    folder = run.failures(evaluation.split)
    with replace_folder(folder, (*LAYERS, *FINDINGS), last="failures.csv") as new:
        copy_layers(run, evaluation, failures, new)
        write_csv(new / "failures.csv", failures)
    return folder


def copy_layers(run: Run, evaluation: Evaluation, failures: pd.DataFrame, folder: Path) -> None:
    """Write the `LAYERS` of every failure into `folder`."""
    dataset = run_dataset(run)
    samples = dataset.split(evaluation.split).set_index("id", drop=False)
    for name in LAYERS:
        (folder / name).mkdir(parents=True)
    for sample in failures["id"]:
        if sample not in samples.index:
            raise DatasetError(
                f"sample {sample!r} was evaluated but is no longer in split {evaluation.split!r}. Run 03_evaluate again."
            )
        image, mask = read_pair(dataset, samples.loc[sample])
        pred = saved_prediction(evaluation, sample, mask.shape)
        _save_rgb(folder / "images" / f"{sample}.png", image)
        save_ids(folder / "masks" / f"{sample}.png", mask, dataset.classes)
        save_ids(folder / "predictions" / f"{sample}.png", pred, dataset.classes)
        _save_rgb(folder / "overlays" / f"{sample}.png", overlay(image, pred, dataset.classes))


def _save_rgb(path: Path, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def class_view(evaluation: Evaluation, failures: pd.DataFrame) -> pd.DataFrame:
    """How each class fares over the whole split and within the failures, the most lost first.

    Returns:
        class, iou, iou_failures, failures (images that hold it), worst_in (failures whose worst class it is),
        pixel_share (of the split's scored pixels), mistaken_for (where most of its lost pixels of the failures went).
    """
    names = evaluation.classes.names
    failed = evaluation.per_image["id"].isin(failures["id"]).to_numpy()
    full, part = evaluation.confusions.sum(0), evaluation.confusions[failed].sum(0)
    wrong = part * (1 - np.eye(len(names), dtype=np.int64))
    table = pd.DataFrame(
        {
            "class": names,
            "iou": metrics.iou_per_class(full),
            "iou_failures": metrics.iou_per_class(part),
            "failures": (evaluation.confusions[failed].sum(2) > 0).sum(0),
            "worst_in": [int((failures["worst_class"] == name).sum()) for name in names],
            "pixel_share": full.sum(1) / max(1, full.sum()),
            "mistaken_for": [names[int(row.argmax())] if row.any() else "" for row in wrong],
        }
    )
    return table.sort_values(["worst_in", "iou_failures"], ascending=[False, True], ignore_index=True)


@dataclass(frozen=True)
class Verdict:
    """The closing words of 04.

    Args:
        headline: how many fail and how badly, one sentence.
        points: what the figures point to, the strongest first; empty when nothing fails.
    """

    headline: str
    points: tuple[str, ...]

    def _repr_markdown_(self) -> str:
        return "\n".join([f"**{self.headline}**", "", *(f"- {point}" for point in self.points)])


def verdict(evaluation: Evaluation, failures: pd.DataFrame, threshold: float | Threshold) -> Verdict:
    """Put it into words: how many fail and how badly, then what each cause asks for, the one that cost most first.

    Args:
        failures: with the columns `cause` and `miou` of an analysis.
        threshold: what they were found with: of mIoU, or one of `thresholds.read_threshold`.
    """
    below = describe(evaluation, threshold if isinstance(threshold, Threshold) else Threshold(threshold))
    total, failed = len(evaluation.per_image), len(failures)
    if failed == 0:
        lowest = evaluation.per_image["miou"].min()
        if np.isnan(lowest):
            return Verdict(
                f"None of {total} images has a scored pixel: nothing can be said. Look at the masks in 01_data_check.",
                (),
            )
        return Verdict(
            f"No image of {total} is {below}: a good result. The lowest has mIoU {lowest:.2f}.", ()
        )
    counts = failures["severity"].value_counts()
    parts = [
        f"{counts[s]} {s.replace('guessing', 'no better than guessing')}" for s in SEVERITIES if s in counts
    ]
    headline = f"{failed} of {total} images ({failed / total:.0%}) are {below}: {', '.join(parts)}."
    points = []
    for row in causes.summary(failures).sort_values("lost", ascending=False, kind="stable").itertuples():
        share = row.lost / (1 - failures["miou"]).sum()
        points.append(
            f"{row.cause[:1].upper()}{row.cause[1:]}: {row.failures} of {failed}, {share:.0%} of the IoU that failures lost "
            f"({row.examples}). {causes.ADVICE[row.cause]}"
        )
    return Verdict(headline, tuple(points))
