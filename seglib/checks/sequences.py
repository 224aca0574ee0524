"""Find sequences of neighbouring frames, and how far val and test stand apart from what train has seen."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from seglib.checks.duplicates import hamming
from seglib.checks.findings import Finding, finding
from seglib.data import some

PATTERN = r"(?P<group>.*?)(?:[_. -]+[A-Za-z]?)?(?P<frame>\d{1,15})(?:(?:_jpe?g|_png)?\.rf\.\w+)?$"  # Roboflow's tail
SMALL_SPLIT = 10  # a score on fewer images than this says little
_ALIKE = 0.6  # of the distance of any two images, below which neighbours look like neighbours
_FEWEST_NEIGHBOURS = 8
_NUMBERS = ["images", "first", "last", "train_images", "nearest", "nearest_median", "near"]


def guess_sequences(samples: pd.DataFrame) -> tuple[pd.Series, pd.Series, str] | None:
    """Read each sample's group and frame by `PATTERN`, and say why; None if names or pictures say otherwise.

    Numbers at the end of names mean frames only where consecutive ones look alike: by the hashes `_bits`.
    """
    names = [n.removeprefix(f"{s}-") for s, n in zip(samples["split"], samples["id"], strict=True)]
    parts = pd.Series(names, samples.index, dtype=str).str.extract(PATTERN)
    group, frame = parts["group"].fillna(""), pd.to_numeric(parts["frame"]).astype("Int64")
    table = pd.DataFrame({"group": group, "frame": frame, "bits": samples["_bits"]})
    table = table[table["bits"].notna() & (group != "")].sort_values(["group", "frame"], kind="stable")
    bits, follows = table["bits"].to_numpy(np.uint64), table["group"].eq(table["group"].shift(-1)).to_numpy()
    if (group == "").sum() > len(group) / 10 or follows.sum() < _FEWEST_NEIGHBOURS:
        return None
    neighbours = np.median(hamming(bits[follows], bits[np.flatnonzero(follows) + 1]))
    any_two = np.median(hamming(bits, np.random.default_rng(0).permutation(bits)))
    if neighbours > _ALIKE * any_two:
        return None
    found = sorted(set(table["group"]))
    detail = f"no group pattern is given; by '{PATTERN}' the names read as {len(found)} sequences "
    detail += f"({some(found)}), and consecutive frames look alike: their hashes differ in {neighbours:g} "
    return group, frame, f"{detail}of 64 bits, those of any two images in {any_two:g}."


def sequence_table(samples: pd.DataFrame, near_frames: int) -> pd.DataFrame:
    """List the sequences of every split, and how far their frames lie from train's of the same one.

    Returns:
        one row a split and sequence: `images`; `first`, `last` frame; `train_images` of the sequence;
            `nearest`, `nearest_median`: frames to the nearest train frame; `near`: images with one within
            `near_frames`. NA in train.
    """
    rows, train = [], samples[samples["split"] == "train"]
    for (split, group), part in samples[samples["group"] != ""].groupby(["split", "group"], sort=False):
        frames, row = part["frame"].dropna().to_numpy(int), {"split": split, "group": group}
        row |= {"images": len(part), "first": part["frame"].min(), "last": part["frame"].max()}
        if split != "train":
            seen = train[train["group"] == group]
            others, row["train_images"] = seen["frame"].dropna().to_numpy(int), len(seen)
            if len(frames) and len(others):
                nearest = np.abs(frames[:, None] - others).min(axis=1)
                row |= {"nearest": nearest.min(), "nearest_median": np.median(nearest)}
                row["near"] = (nearest <= near_frames).sum()
        rows.append(row)
    types = dict.fromkeys(_NUMBERS, "Int64") | {"nearest_median": "Float64"}
    return pd.DataFrame(rows, columns=["split", "group", *_NUMBERS]).astype(types)


def judge_sequences(table: pd.DataFrame, samples: pd.DataFrame, near_frames: int) -> Iterator[Finding]:
    """Report splits whose sequences train holds too."""
    for split, images in samples[samples["split"] != "train"].groupby("split", sort=False):
        rows = table[table["split"] == split]
        shared = rows[rows["train_images"] > 0]
        if len(shared):
            detail = f"{len(shared)} of {len(rows)} sequences of {split} are in train too: {some(shared['group'].tolist())}; "
            detail += f"they hold {shared['images'].sum()} of its {len(images)} images; "
            detail += f"{shared['near'].sum()} of them have a train frame within {near_frames} frames."
            yield finding("sequence-leakage", "", split, detail)
