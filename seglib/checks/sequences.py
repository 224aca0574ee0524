"""Sequences of neighbouring frames: how far val and test stand apart from what train has seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seglib.checks.duplicates import hamming
from seglib.checks.findings import Finding, finding, some

SEQUENCE_COLUMNS = [
    "split", "group", "images", "first", "last", "clips", "train_images", "train_before", "train_after",
    "nearest", "nearest_median", "near",
]  # fmt: skip
PATTERN = (
    r"(?P<group>.*?)(?:[_. -]+[A-Za-z]?)?(?P<frame>\d+)$"  # drive_0012, 0006R0_f00930, clip 3-0007, frame0001
)
NEAR_FRAMES = 30  # one second of video
SMALL_SPLIT = 10  # a score on fewer images than this says little
_ALIKE = 0.6  # of the distance of strangers, below which neighbours look like neighbours
_FEWEST_NEIGHBOURS = 8


@dataclass(frozen=True)
class Guess:
    """Sequences read from the names of files.

    Args:
        group: the sequence of each sample, "" for none.
        frame: its number in it, Int64.
        detail: the pattern and why it is believed, in words.
    """

    group: pd.Series
    frame: pd.Series
    detail: str


def guess_sequences(samples: pd.DataFrame, hashes: np.ndarray, known: np.ndarray) -> Guess | None:
    """Sequences by `PATTERN`, if pictures bear it out: consecutive frames must look more alike than any two images.

    Numbers at the end of names mean frames in one dataset and nothing in the next, which names alone cannot tell.

    Args:
        samples: N rows with `id` and `split`.
        hashes: (N,) uint64 difference hashes.
        known: (N,) bool, whether there is a hash.

    Returns:
        None if the names have no such form, or the pictures say otherwise.
    """
    names = [
        name.removeprefix(f"{split}-") for name, split in zip(samples["id"], samples["split"], strict=True)
    ]
    matches = [re.search(PATTERN, name) for name in names]
    group = pd.Series([m["group"] if m else "" for m in matches], samples.index, dtype=object)
    number = [int(m["frame"]) if m and m["group"] and len(m["frame"]) < 18 else pd.NA for m in matches]
    frame = pd.Series(number, samples.index, dtype="Int64")
    group[frame.isna()] = ""
    if not len(samples) or (group != "").mean() < 0.9:
        return None
    table = pd.DataFrame({"group": group, "frame": frame, "place": np.arange(len(samples))})
    table = table[known & (group != "").to_numpy()].sort_values(["group", "frame"], kind="stable")
    place, follows = table["place"].to_numpy(), (table["group"] == table["group"].shift(-1)).to_numpy()
    if follows.sum() < _FEWEST_NEIGHBOURS:
        return None
    first, second = place[follows], place[np.flatnonzero(follows) + 1]
    random = np.random.default_rng(0)
    one, other = random.permutation(place), random.permutation(place)
    apart = one != other
    neighbours = float(np.median(hamming(hashes[first], hashes[second])))
    strangers = float(np.median(hamming(hashes[one[apart]], hashes[other[apart]])))
    if neighbours > _ALIKE * strangers:
        return None
    found = sorted(set(group) - {""})
    detail = f"no group pattern is given; the names read as {len(found)} sequence{'s' * (len(found) > 1)} "
    detail += f"({some(found)}) by the pattern '{PATTERN}', and consecutive frames look alike: their hashes differ in "
    detail += f"{neighbours:g} of 64 bits, those of any two images in {strangers:g}."
    return Guess(group, frame, detail)


def sequence_table(samples: pd.DataFrame, near_frames: int = NEAR_FRAMES) -> pd.DataFrame:
    """The sequences of every split, and how far their frames lie from those that train holds of the same sequence.

    Args:
        samples: `split`, `group` ("" for none: left out), `frame` (Int64, NA if none).
        near_frames: frames within which an image counts as near a train frame.

    Returns:
        one row a split and sequence: `images`; `first`, `last` frame; `clips`: runs of frames that no train frame parts;
        `train_images` of the sequence; `train_before`, `train_after`: the last train frame before `first`, the first
        after `last`; `nearest`, `nearest_median`: frames to the nearest train frame; `near`: images with one within
        `near_frames`. NA where it does not apply, as in train itself.
    """
    rows = []
    train = samples[samples["split"] == "train"]
    held = {
        group: part["frame"].dropna().astype(int).sort_values().to_numpy()
        for group, part in train.groupby("group")
    }
    count = train["group"].value_counts().to_dict()
    for (split, group), part in samples[samples["group"] != ""].groupby(["split", "group"], sort=False):
        frames = np.sort(part["frame"].dropna().to_numpy(int))
        row = dict.fromkeys(SEQUENCE_COLUMNS, pd.NA)
        row |= {"split": split, "group": group, "images": len(part)}
        if len(frames):
            row |= {"first": int(frames[0]), "last": int(frames[-1])}
        if split != "train":
            row["train_images"] = count.get(group, 0)
            other = held.get(group, np.empty(0, int))
            if len(frames):
                row["clips"] = len(np.unique(np.searchsorted(other, frames)))
            if len(frames) and len(other):
                row |= _distances(frames, other, near_frames)
        rows.append(row)
    table = pd.DataFrame(rows, columns=SEQUENCE_COLUMNS)
    return table.astype(
        {c: "Int64" for c in SEQUENCE_COLUMNS[2:] if c != "nearest_median"} | {"nearest_median": "Float64"}
    )


def _distances(frames: np.ndarray, train: np.ndarray, near_frames: int) -> dict[str, float]:
    after = np.searchsorted(train, frames)
    far = np.iinfo(np.int64).max
    up = np.where(after < len(train), train[np.minimum(after, len(train) - 1)] - frames, far)
    down = np.where(after > 0, frames - train[np.maximum(after - 1, 0)], far)
    nearest = np.minimum(up, down)
    row = {"nearest": int(nearest.min()), "nearest_median": float(np.median(nearest))}
    row["near"] = int((nearest <= near_frames).sum())
    before, behind = train[train < frames[0]], train[train > frames[-1]]
    row["train_before"] = int(before[-1]) if len(before) else pd.NA
    row["train_after"] = int(behind[0]) if len(behind) else pd.NA
    return row


def judge_sequences(
    table: pd.DataFrame, samples: pd.DataFrame, near_frames: int = NEAR_FRAMES
) -> Iterator[Finding]:
    """Splits whose sequences train holds too, and splits that are one sequence."""
    for split, images in samples.groupby("split", sort=False):
        rows = table[table["split"] == split]
        if split == "train" or rows.empty:
            continue
        shared, alone = rows[rows["train_images"] > 0], int((images["group"] == "").sum())
        one = len(rows) == 1 and not alone
        if len(shared):
            words = _one_clip(split, shared.iloc[0]) if one else _shared(split, shared, rows, len(images))
            yield finding(
                "sequence-leakage", "", split, " ".join(w for w in (*words, *_near(shared, near_frames)) if w)
            )
        elif one and len(images) >= SMALL_SPLIT:
            row = rows.iloc[0]
            detail = f"all {len(images)} images of {split} are one sequence ({row['group']}{_frames(row)})."
            yield finding("few-sequences", "", split, detail)


def _one_clip(split: str, row: pd.Series) -> tuple[str, ...]:
    before, after = row["train_before"], row["train_after"]
    what = "clip" if not pd.isna(row["clips"]) and row["clips"] == 1 else "sequence"
    between = ""
    if what == "sequence" and not pd.isna(row["first"]):
        between = ", parted by train frames"
    elif not pd.isna(before) and not pd.isna(after):
        between = f", between its train frames {before} and {after}"
    elif not pd.isna(before) or not pd.isna(after):
        between = (
            f", after its train frame {before}" if pd.isna(after) else f", before its train frame {after}"
        )
    return (
        f"all {row['images']} images of {split} are one {what} ({row['group']}{_frames(row)}) of a sequence that train "
        f"holds{between}.",
        f"No sequence of {split} is independent of train.",
    )


def _shared(split: str, shared: pd.DataFrame, rows: pd.DataFrame, total: int) -> tuple[str, ...]:
    own, images = len(rows) - len(shared), int(shared["images"].sum())
    own_words = f"{own} sequence{'s' * (own != 1)}" if own else "no sequence"
    return (
        f"{len(shared)} of {len(rows)} sequences of {split} are in train too: {some(shared['group'].tolist())}; they "
        f"hold {images} of its {total} images.",
        f"{own_words.capitalize()} of {split} {'are' if own > 1 else 'is'} independent of train.",
    )


def _near(shared: pd.DataFrame, near_frames: int) -> tuple[str, ...]:
    known = shared.dropna(subset=["nearest"])
    if known.empty:
        return ()
    near, images = int(known["near"].sum()), int(known["images"].sum())
    middle = f", {known['nearest_median'].iloc[0]:g} in the median" if len(known) == 1 else ""
    return (
        f"The nearest train frame is {int(known['nearest'].min())} frames away{middle}; {near} of {images} images have "
        f"one within {near_frames} frames.",
    )


def _frames(row: pd.Series) -> str:
    return "" if pd.isna(row["first"]) else f", frames {row['first']}-{row['last']}"
