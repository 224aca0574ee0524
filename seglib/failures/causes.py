"""Why an image failed: one primary cause with evidence, its strength and a suggestion, or "unexplained"."""

from typing import Any

import numpy as np
import pandas as pd

from seglib import metrics
from seglib.checks import APART
from seglib.data import some
from seglib.failures.error_types import confusion_names

ADVICE = {  # each cause and what it asks for
    "label error": "Look at the mask, and correct it before anything else: no training can make up for it.",
    "degraded image": "If you expect such images in use, train with the matching augmentation; otherwise leave them out of the evaluation.",
    "unlike training": "Label more images like it and train with them; until then, try adapt_norm=0.5 in 03.",
    "rare class": "Set class_weights='sqrt_inverse', or add images that show the class.",
    "small objects": "Train and predict at a higher resolution (long_side, tile), or use smaller crops.",
    "systematic confusion": "Add and label images like these: the model makes this mistake on most of them. If the class is nearly lost, set class_weights='sqrt_inverse'.",
    "class confusion": "Check that the labels of the two classes follow one rule; add images that show both.",
    "unexplained": "Look at image, mask and prediction; near the threshold, longer training may help.",
}
CAUSES = tuple(ADVICE)
SURE = 0.5  # a cause with weaker evidence is not stated
RARE = 0.01  # share of the training pixels below which a class is rare
NOVEL = 0.99  # novelty that one in a hundred images of a new sequence like those of training reaches
# Times the uncertainty of the typical image from which the model is lost in an image: at a novelty of
# _STRANGE or more, and below it. Correct images of CamVid and the demo stay below 1.3.
_UNSURE, _STRANGE = (1.25, 1.5), 0.5
_LOST = 2.0  # times from which that goes before what accounts for the loss
_RECURS = 0.2  # share of a class's pixels that an image confuses alike
_ALIKE, _OFTEN = 3, 0.3  # other images, and share of those with the class, in which a confusion recurs
_THIRD = 1 / 3  # share of the lost IoU that such a confusion must cost
_NUMBERS = ["miou", "label_score", "degradation_z", "novelty", "unsure"]
_NUMBERS += ["lost_rare", "lost_small", "best_fix_gain"]
_Claim = tuple[str, float, str]  # a cause, the strength of its evidence (0-1), and a sentence of evidence
_WHY = "neither label, image, training set nor class accounts for most of the lost IoU."


def explain(failures: pd.DataFrame, classes: int) -> pd.DataFrame:
    """State the primary cause of each failed image; with two `classes`, which have one confusion alone, never that.

    What lies outside of the model comes first: a wrong label (column `suspect`), a degraded image, an image unlike
    training, or in which the model is twice as unsure as usual. Next come causes that account for half of the lost IoU:
    rare classes, small objects, one confusion, of which a third is enough where it recurs in other images. Last comes a
    model that is less unsure all over the image. Within a rank the cause with the strongest evidence is stated; NaN is no
    evidence. cause_strength is 0-1, a label error's a probability.
    """
    numbers, claims = failures[_NUMBERS].astype(float), []
    lost = is_lost(numbers["unsure"], numbers["novelty"])
    known = failures.assign(is_lost=lost, several=classes > 2, **numbers.fillna(0.0))
    known["nearest"] = [f" Nearest: {ids[0]}." if ids else "" for ids in known["nearest"]]
    for row in known.itertuples():
        best = (max(rank, key=lambda claim: claim[1]) for rank in _ranks(row))
        sure = [claim for claim in best if claim[1] >= SURE]
        cause, strength, told = sure[0] if sure else ("unexplained", 0.0, _WHY)
        claims.append((cause, strength, told[:1].upper() + told[1:], ADVICE[cause]))
    return pd.DataFrame(claims, failures.index, ["cause", "cause_strength", "evidence", "suggestion"])


def is_lost(unsure: pd.Series, novelty: pd.Series) -> np.ndarray:
    """Tell of N images whether the model is unsure all over; never of training images, of unknown novelty."""
    least = np.where(novelty < _STRANGE, _UNSURE[1], _UNSURE[0])
    return ((unsure >= least) & novelty.notna()).to_numpy()


def _ranks(row: Any) -> list[list[_Claim]]:
    """List what may be said of an image: outside of the model, of half of the loss, of the whole image."""
    label = row.suspect_detail or "model and image say of it what they say of masks with injected faults"
    if row.suspect_given:
        label = f"the model is sure of {row.suspect_suggested!r} where the mask says {row.suspect_given!r}"
    z, novel = row.degradation_z, row.novelty
    degraded = 1 - 0.5 * (APART / z) ** 2 if row.degradation and z >= APART else 0.0
    # distance alone is weaker evidence than a mask or an image that is visibly wrong
    unlike = SURE + 0.25 * (novel - NOVEL) / (1 - NOVEL) if novel >= NOVEL else 0.0
    far = f"farther from its nearest training image than {novel:.0%} of training images are from theirs."
    lost, parts = 1 - row.miou, (row.lost_rare, row.lost_small, row.best_fix_gain)
    rare, small, fix = (min(1.0, part / lost) if lost > 0 else 0.0 for part in parts)
    of = "of the lost IoU is due to"
    classes = f"classes with less than {RARE:.0%} of the training pixels: {row.rare_classes}."
    pair = f"one confusion, {row.best_fix}, costs {parts[2]:.2f} of the lost {lost:.2f}"
    repeated = min(1.0, SURE * fix / _THIRD) * bool(row.recurs)
    unsure = SURE + 0.1 * min(1.0, row.unsure / _UNSURE[0] - 1) if row.is_lost else 0.0
    times = f"{row.unsure:.1f} times as unsure all over it as in the typical image of this split."
    doubt = "unlike training", unsure, f"the model is {times}{row.nearest}"
    return [
        [
            ("label error", row.label_score if row.suspect else 0.0, f"{row.suspect_kind}: {label}."),
            ("degraded image", degraded, row.degradation_detail),
            ("unlike training", unlike, far + row.nearest),
            *[doubt] * (row.unsure >= _LOST),
        ],
        [
            ("rare class", rare, f"{rare:.0%} {of} {classes}"),
            ("small objects", small, f"{small:.0%} {of} regions below 0.33 % of the image."),
            ("class confusion", fix * row.several, f"{pair}."),
            ("systematic confusion", repeated * row.several, f"{pair}, and recurs {row.recurs}."),
        ],
        [doubt],
    ]


def summarise_causes(failures: pd.DataFrame) -> pd.DataFrame:
    """Count the failures of each cause, the most frequent first, "unexplained" last.

    Returns cause, failures, share, lost (points of mIoU in all), examples (up to three ids) and advice.
    """
    rows = []
    for cause, group in failures.groupby("cause", sort=False):
        share, lost = len(group) / len(failures), float((1 - group["miou"]).sum())
        rows.append((cause, len(group), share, lost, some(group["id"].tolist()), ADVICE[cause]))
    rows.sort(key=lambda row: (row[0] == "unexplained", -row[1]))
    return pd.DataFrame(rows, columns=["cause", "failures", "share", "lost", "examples", "advice"])


def recurring(confusions: np.ndarray, groups: np.ndarray, names: tuple, fixes: pd.Series) -> list[str]:
    """Tell in which images the costliest confusion of some images recurs; "" where it does not.

    An image has a confusion when it takes at least a fifth of the class's pixels for the other. It recurs when
    three others of the same sequence (of the split, for an image without one) have it, and three in ten of those
    that show the class. Images are known by position in (N, C, C) `confusions` and (N,) `groups`, the sequences
    ("" for none); `fixes` are such as "road -> pavement", or "".
    """
    told, pairs = [""] * len(fixes), confusion_names(names).tolist()
    for k, (position, fix) in enumerate(fixes.items()):
        if not fix:
            continue
        t, p = divmod(pairs.index(fix), len(names))
        pixels, where = confusions[:, t].sum(1), "sequence" if groups[position] else "split"
        shows = (groups == groups[position]) & (pixels > 0)
        has, shown = (shows & (confusions[:, t, p] >= _RECURS * pixels)).sum(), shows.sum()
        if has > _ALIKE and has >= _OFTEN * shown:
            told[k] = f"in {has} of the {shown} images of this {where} that show {names[t]!r}"
    return told


def class_losses(
    confusions: np.ndarray, names: tuple[str, ...], pixels: np.ndarray | None, absent: str
) -> pd.DataFrame:
    """Measure what each image loses to rare classes: lost_rare (points of mIoU), rare_classes (the worst first).

    `confusions` are (N, C, C) pixel counts, `pixels` (C,) those of training; None: unknown, then no class is rare.
    """
    rare = np.zeros(len(names), bool) if pixels is None else pixels / max(1, pixels.sum()) < RARE
    iou = metrics.image_class_iou(confusions, absent)  # (N, C)
    lost = np.where(rare, np.nan_to_num(1 - iou), 0) / np.maximum(1, (~np.isnan(iou)).sum(1, keepdims=True))
    worst = [", ".join(names[c] for c in np.argsort(-row, kind="stable") if row[c] > 0) for row in lost]
    return pd.DataFrame({"lost_rare": lost.sum(1), "rare_classes": worst})
