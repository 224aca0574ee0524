"""Find sequences of neighbouring frames, and how far val and test stand apart from what train has seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seglib.checks.duplicates import hamming
from seglib.checks.findings import Finding, finding, some

SEQUENCE_COLUMNS = [
    "split", "group", "images", "first", "last", "train_images", "nearest", "nearest_median", "near",
]  # fmt: skip
# drive_0012, 0006R0_f00930, clip 3-0007, frame0001
PATTERN = r"(?P<group>.*?)(?:[_. -]+[A-Za-z]?)?(?P<frame>\d+)$"
NEAR_FRAMES = 30  # one second of video
SMALL_SPLIT = 10  # a score on fewer images than this says little
_ALIKE = 0.6  # of the distance of any two images, below which neighbours look like neighbours
_FEWEST_NEIGHBOURS = 8


@dataclass(frozen=True)
class Guess:
    """Sequences read from file names: `group` ("" for none) and `frame` (Int64) of each sample, and why."""

    group: pd.Series
    frame: pd.Series
    detail: str


def guess_sequences(samples: pd.DataFrame, hashes: np.ndarray, known: np.ndarray) -> Guess | None:
    """Read sequences by `PATTERN`, if consecutive frames look more alike than any two images.

    Numbers at the end of names mean frames in one dataset and nothing in the next: (N,) hashes tell. `known`
    is (N,) bool, whether there is one. None: the names have no such form, or the pictures say otherwise.
    """
    pairs = zip(samples["id"], samples["split"], strict=True)
    matches = [re.search(PATTERN, name.removeprefix(f"{split}-")) for name, split in pairs]
    numbered = [m if m and m["group"] and len(m["frame"]) < 18 else None for m in matches]
    group = pd.Series([m["group"] if m else "" for m in numbered], samples.index, dtype=object)
    frame = pd.Series([int(m["frame"]) if m else pd.NA for m in numbered], samples.index, dtype="Int64")
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
    any_two = float(np.median(hamming(hashes[one[apart]], hashes[other[apart]])))
    if neighbours > _ALIKE * any_two:
        return None
    found = sorted(set(group) - {""})
    detail = f"no group pattern is given; the names read as {len(found)} sequence{'s' * (len(found) > 1)} "
    detail += f"({some(found)}) by the pattern '{PATTERN}', and consecutive frames look alike: their hashes "
    detail += f"differ in {neighbours:g} of 64 bits, those of any two images in {any_two:g}."
    return Guess(group, frame, detail)


def sequence_table(samples: pd.DataFrame, near_frames: int = NEAR_FRAMES) -> pd.DataFrame:
    """List the sequences of every split, and how far their frames lie from train's of the same one.

    Returns one row a split and sequence: `images`; `first`, `last` frame; `train_images` of the sequence;
    `nearest`, `nearest_median`: frames to the nearest train frame; `near`: images with one within
    `near_frames`. NA where it does not apply, as in train itself.
    """
    rows, train = [], samples[samples["split"] == "train"]
    for (split, group), part in samples[samples["group"] != ""].groupby(["split", "group"], sort=False):
        frames = part["frame"].dropna().to_numpy(int)
        row = {"split": split, "group": group, "images": len(part)}
        if len(frames):
            row |= {"first": frames.min(), "last": frames.max()}
        if split != "train":
            seen = train[train["group"] == group]
            row["train_images"] = len(seen)
            others = np.sort(seen["frame"].dropna().to_numpy(int))
            if len(frames) and len(others):
                after = np.searchsorted(others, frames).clip(1, max(1, len(others) - 1))
                ends = others[
                    [after - 1, np.minimum(after, len(others) - 1)]
                ]  # (2, F): the frames around each
                nearest = np.abs(ends - frames).min(axis=0)
                row |= {"nearest": nearest.min(), "nearest_median": np.median(nearest)}
                row["near"] = (nearest <= near_frames).sum()
        rows.append(row)
    types = dict.fromkeys(SEQUENCE_COLUMNS[2:], "Int64") | {"nearest_median": "Float64"}
    return pd.DataFrame(rows, columns=SEQUENCE_COLUMNS).astype(types)


def judge_sequences(
    table: pd.DataFrame, samples: pd.DataFrame, near_frames: int = NEAR_FRAMES
) -> Iterator[Finding]:
    """Report splits whose sequences train holds too, and splits that are one sequence."""
    for split, images in samples[samples["split"] != "train"].groupby("split", sort=False):
        rows = table[table["split"] == split]
        shared, total = rows[rows["train_images"] > 0], len(images)
        if len(shared):
            own = len(rows) - len(shared)
            detail = f"{len(shared)} of {len(rows)} sequences of {split} are in train too: "
            detail += f"{some(shared['group'].tolist())}; they hold {shared['images'].sum()} of its {total} "
            detail += "images. "
            detail += f"{f'{own} sequence' if own else 'No sequence'}{'s' * (own > 1)} of {split} "
            detail += f"{'are' if own > 1 else 'is'} independent of train."
            yield finding("sequence-leakage", "", split, detail + _distance(shared, near_frames))
        elif len(rows) == 1 and (images["group"] != "").all() and total >= SMALL_SPLIT:
            group, first, last = rows[["group", "first", "last"]].iloc[0]
            frames = "" if pd.isna(first) else f", frames {first}-{last}"
            detail = f"all {total} images of {split} are one sequence ({group}{frames})."
            yield finding("few-sequences", "", split, detail)


def _distance(shared: pd.DataFrame, near_frames: int) -> str:
    known = shared.dropna(subset=["nearest"])
    if known.empty:
        return ""
    return (
        f" The nearest train frame is {known['nearest'].min()} frames away; {known['near'].sum()} of "
        f"{known['images'].sum()} images have one within {near_frames} frames."
    )
