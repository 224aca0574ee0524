"""Sequences: which frames are neighbours, how far val and test lie from train, and a split of whole sequences."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from seglib.checks.duplicates import first_alike
from seglib.data import joined, some

PATTERN = r"(?P<group>.*?)(?:[_. -]+[A-Za-z]?)?(?P<frame>\d{1,15})(?:(?:_jpe?g|_png)?\.rf\.\w+)?$"  # Roboflow's tail
COPIES = r"(?P<group>.+)\.rf\.\w+$"
_WORDS = "[hv]?flip|mirror|rot|aug|copy|crop|blur|noise|bright|dark"
VARIANTS = rf"(?P<group>.+?)(?P<copy>[_. -]+(?i:{_WORDS})\w*)?$"
SMALL_SPLIT = 10  # a score on fewer images than this says little
_ALIKE = 0.6  # of the distance of any two images, below which neighbours look like neighbours
_FEWEST_NEIGHBOURS = 8
_NUMBERS = ["images", "first", "last", "train_images", "nearest", "nearest_median", "near"]


def guess_sequences(samples: pd.DataFrame) -> tuple[pd.Series, pd.Series, str] | None:
    """Read group and frame by `PATTERN`, and say why; None if names or pictures (the hashes `_bits`) say otherwise."""
    parts = _names(samples).str.extract(PATTERN)
    group, frame = parts["group"].fillna(""), pd.to_numeric(parts["frame"]).astype("Int64")
    table = pd.DataFrame({"group": group, "frame": frame, "bits": samples["_bits"]})
    table = table[table["bits"].notna() & (group != "")].sort_values(["group", "frame"], kind="stable")
    bits, after = table["bits"].to_numpy(np.uint64), table.shift(-1)
    follows = (table["group"].eq(after["group"]) & table["frame"].ne(after["frame"])).to_numpy()
    if (group == "").sum() > len(group) / 10 or follows.sum() < _FEWEST_NEIGHBOURS:
        return None
    neighbours = np.median(np.bitwise_count(bits[follows] ^ bits[np.flatnonzero(follows) + 1]))
    any_two = np.median(np.bitwise_count(bits ^ np.random.default_rng(0).permutation(bits)))
    if neighbours > _ALIKE * any_two:
        return None
    found = sorted(set(table["group"]))
    detail = f"by '{PATTERN}' the names read as {len(found)} sequences ({some(found)}), and consecutive frames look alike: "
    detail += f"their hashes differ in {neighbours:g} of 64 bits, those of any two images in {any_two:g}."
    return group, frame, detail


def _names(samples: pd.DataFrame) -> pd.Series:
    """The ids without the splits that they may begin with."""
    names = [n.removeprefix(f"{s}-") for s, n in zip(samples["split"], samples["id"], strict=True)]
    return pd.Series(names, samples.index, dtype=str)


def group_copies(samples: pd.DataFrame) -> tuple[pd.Series, pd.Series, str] | None:
    """Take copies of one image, such as flips, for a sequence without frames; None if there are none.

    They have Roboflow's tail, or the name of another image and a word such as in 001_flip.
    """
    form, group = COPIES, samples["id"].str.extract(COPIES)["group"].fillna("")
    if (group == "").all():
        form, names = VARIANTS, _names(samples)
        parts = names.str.extract(VARIANTS)
        copied = parts.loc[parts["copy"].notna() & parts["group"].isin(names), "group"]
        group = parts["group"].where(parts["group"].isin(copied), "")
    copies, images = (group != "").sum(), len({*group} - {""})
    detail = f"by '{form}' the names read as {copies} copies of {images} images, each a sequence."
    return (group, samples["frame"].mask(group != ""), detail) if images < copies else None


def sequence_table(samples: pd.DataFrame, near_frames: int) -> pd.DataFrame:
    """List the sequences of every split, and how far their frames lie from train's of the same one.

    `nearest`, `nearest_median`: frames to the nearest train frame; `near`: images with one within `near_frames`.
    """
    rows, train = [], samples[samples["split"] == "train"]
    for (split, group), part in samples[samples["group"] != ""].groupby(["split", "group"], sort=False):
        frames, row = part["frame"].dropna().to_numpy(int), {"split": split, "group": group}
        row |= {"images": len(part), "first": part["frame"].min(), "last": part["frame"].max()}
        if split != "train":
            seen = train[train["group"] == group]
            others, row["train_images"] = seen["frame"].dropna().to_numpy(int), len(seen)
            if len(frames) and len(others):
                after = np.searchsorted(others := np.sort(others), frames)
                around = ((after + k).clip(0, len(others) - 1) for k in (-1, 0))
                nearest = np.minimum(*(np.abs(frames - others[at]) for at in around))
                row |= {"nearest": nearest.min(), "nearest_median": np.median(nearest)}
                row["near"] = (nearest <= near_frames).sum()
        rows.append(row)
    types = dict.fromkeys(_NUMBERS, "Int64") | {"nearest_median": "Float64"}
    return pd.DataFrame(rows, columns=["split", "group", *_NUMBERS]).astype(types)


def judge_sequences(table: pd.DataFrame, samples: pd.DataFrame, near: int) -> Iterator[tuple[str, ...]]:
    """Report splits whose sequences train holds too; frames within `near` of one of train are counted."""
    for split, images in samples[samples["split"] != "train"].groupby("split", sort=False):
        rows = table[table["split"] == split]
        shared = rows[rows["train_images"] > 0]
        if len(shared):
            detail = f"{len(shared)} of {len(rows)} sequences of {split} are in train too: {some(shared['group'].tolist())}; "
            detail += f"they hold {shared['images'].sum()} of its {len(images)} images; "
            detail += f"{shared['near'].sum()} of them have a train frame within {near} frames."
            yield "sequence-leakage", "", split, detail


def suggest_split(samples: pd.DataFrame, pixel_counts: np.ndarray, pictures: np.ndarray) -> pd.Series:
    """Give every sample a split: no sequence stands in two, and classes are spread evenly.

    Minimises the mean squared relative error of each split's share of the images and of each class's pixels, by seeded
    random starts that are improved unit by unit. Samples with equal numbers in `pictures` (N,) share a split as well.

    Source: in the spirit of Sechidis et al., On the Stratification of Multi-Label Data, 2011.
    """
    shares = samples["split"].value_counts(normalize=True, sort=False)
    names, target, places = shares.index.to_numpy(object), shares.to_numpy(float), np.arange(len(samples))
    sequence = first_alike(samples["group"].where(samples["group"] != ""))
    unit = joined(len(samples), np.r_[places, places], np.r_[sequence, first_alike(pd.Series(pictures))])
    count = len(set(unit))
    if len(names) < 2 or count < len(names):
        told = f"{count} independent sequences cannot fill {len(names)} splits"
        raise ValueError(f"{told}: add some, or list the ids of each.")
    counts = np.asarray(pixel_counts, float)
    counts = counts[:, counts.sum(axis=0) > 0]
    held = np.zeros((count, 1 + counts.shape[1]))  # (U, 1 + C) a unit's share of the images and of each class
    np.add.at(held, unit, np.column_stack([np.ones(len(unit)), counts]))
    held /= held.sum(axis=0)
    held[:, 1:] /= max(1, counts.shape[1]) ** 0.5  # all classes together weigh as much as the images
    random, best, least = np.random.default_rng(0), None, np.inf
    # many small units are easy to balance, and few have few places
    for _ in range(max(2, min(400, 20_000 // count, 4 * len(names) ** count))):
        place = random.choice(len(names), count, p=target)
        place[random.permutation(count)[: len(names)]] = np.arange(len(names))  # none is empty
        cost = _improve(held, target, place)
        if cost < least - 1e-12:
            best, least = place, cost
    return pd.Series(names[best[unit]], samples.index, dtype=object)


def _improve(held: np.ndarray, target: np.ndarray, place: np.ndarray) -> float:
    """Move the unit that lowers the cost most, in `place` (U,) itself, until none does; return the cost."""
    units, splits, squares = np.arange(len(held)), np.arange(len(target)), (held**2).sum(axis=1)
    while True:
        # (S, 1 + C) what a split holds beyond its share
        over = (place == splits[:, None]) @ held - target[:, None] * held.sum(axis=0)
        slope = 2 * held @ over.T  # (U, S)
        change = (slope + squares[:, None]) / target**2
        change += ((squares - slope[units, place]) / target[place] ** 2)[:, None]
        change[units, place] = 0
        change[np.bincount(place)[place] == 1] = 0  # it would leave an empty split
        unit, split = np.unravel_index(change.argmin(), change.shape)
        if change[unit, split] > -1e-12:
            return float(((over / target[:, None]) ** 2).sum())
        place[unit] = split


def balance(samples: pd.DataFrame, pixel_counts: np.ndarray, splits: pd.Series) -> pd.DataFrame:
    """Measure each split; `class_distance`: total variation of its shares of pixels from the dataset's, 0 (alike) to 1."""
    rows, total = [], pixel_counts.sum(axis=0)
    for split in samples["split"].unique():
        inside = (splits == split).to_numpy()
        own, others = (set(samples.loc[chosen, "group"]) - {""} for chosen in (inside, ~inside))
        pixels = pixel_counts[inside].sum(axis=0)
        distance = np.abs(pixels / max(1, pixels.sum()) - total / max(1, total.sum())).sum() / 2
        absent = ((pixels == 0) & (total > 0)).sum()
        rows.append((split, inside.sum(), len(own), len(own & others), distance, absent))
    columns = ["split", "images", "sequences", "shared_sequences", "class_distance", "absent_classes"]
    return pd.DataFrame(rows, columns=columns)
