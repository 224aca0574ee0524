"""Is the data sound? One pass over every file of a dataset -> findings, per-sample facts, class statistics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglib.checks import class_balance as shares
from seglib.checks import duplicates as leakage
from seglib.checks import masks as mask_checks
from seglib.checks import sequences, splits
from seglib.checks.findings import SEVERITIES, Finding, finding, some
from seglib.checks.image_quality import FLAT, LOOKS, judge_looks, limits, mean_and_deviation
from seglib.checks.inspection import FACTS, KEYS, MOMENTS, inspect_pair
from seglib.data import FINDING_COLUMNS, Dataset, DatasetError, check_record, explain, map_ahead, read_image
from seglib.runs import replace_folder, write_csv, write_json, write_text

FEW_IMAGES = 5  # a class in fewer train images than this is learnt by heart, if at all
_AT_ONCE = 4  # pairs that a thread takes at a time: threads that wait for each other less often
_HIDDEN = [*MOMENTS, *KEYS]


@dataclass(frozen=True)
class DataCheck:
    """What a pass over a dataset found.

    Args:
        findings: `severity` ("error", "warning", "info", in this order), `check`, `sample`, `split`, `detail`, `suggestion`.
        samples: one row a complete pair: `id`, `split`, `group` and `frame` (guessed where dataset.yaml gives no pattern),
            `height`, `width`, `mode` and `mask_mode` (as stored), what `looks.look` measures, `ignore_share` and
            `classes_present` of the mask, its `specks` and `pinholes`, and `edge_fit`, `shift_x`, `shift_y` of
            `mask_checks.edge_shift`. Missing where a file could not be read.
        pixel_counts: (N, C) int64, scored pixels of each class in the rows of `samples`; zeros where there is no mask.
        class_stats: of `shares.class_stats`.
        duplicates: of `leakage.near_duplicates`: pairs that show almost the same picture. Exact copies are findings.
        sequences: of `sequences.sequence_table`.
        shift: of `shares.shifts`: how val and test differ from train.
        limits: of `looks.limits`: beyond what values an image lies apart.
        suggested: (N,) a better split for each sample, of `splits.suggest_split`; empty where none can be made.
        summary: the counts as plain data; `mean` and `std` of the channels in 0-1.
        files: of `check_record`: what every file held.
    """

    findings: pd.DataFrame
    samples: pd.DataFrame
    pixel_counts: np.ndarray
    class_stats: pd.DataFrame
    duplicates: pd.DataFrame
    sequences: pd.DataFrame
    shift: pd.DataFrame
    limits: pd.DataFrame
    suggested: pd.Series
    summary: dict[str, Any]
    files: dict[str, dict[str, str]]

    @property
    def train(self) -> np.ndarray:
        """(N,) bool, the rows of train."""
        return (self.samples["split"] == "train").to_numpy()


def check_dataset(
    dataset: Dataset, progress: bool = False, near_frames: int = sequences.NEAR_FRAMES
) -> DataCheck:
    """Read every image and mask once and judge them; a bad file becomes a finding and the pass goes on.

    Only what may be a copy is read again, to verify it. Of a decoded pair a few kilobytes are kept (5 kB measured).

    Args:
        dataset: best loaded with `strict=False`, so that faults of names are listed beside faults of contents.
        progress: show a bar.
        near_frames: frames within which a val or test image counts as near a train image of its sequence.
    """
    rows = list(dataset.samples.itertuples(index=False))
    # Decoding and the loops that measure release the interpreter's lock, so threads suffice; each holds one pair at a time.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        record = pool.submit(check_record, dataset)
        batches = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
        done: Iterator = chain.from_iterable(map_ahead(pool, partial(_inspect, dataset), batches))
        if progress:
            from tqdm.auto import tqdm

            done = tqdm(done, total=len(rows), desc="checking", unit="pair")
        facts, counts, found, pieces = [], [], [], {}
        for fact in done:
            counts.append(fact.pop("counts"))
            found += fact.pop("findings")
            pieces.setdefault(fact["split"], shares.Pieces()).add(fact.pop("pieces"))
            facts.append(fact)
        samples = pd.DataFrame(facts, columns=["id", "split", "group", "frame", *FACTS, *_HIDDEN])
        samples = samples.astype(
            {"height": "Int64", "width": "Int64", "frame": "Int64"} | dict.fromkeys(LOOKS, float)
        )
        run = partial(map_ahead, pool)
        _tell_apart(dataset, samples, run)
        duplicates = _near_duplicates(dataset, samples, run)
    counts = np.array(counts, np.int64).reshape(len(rows), len(dataset.classes))

    guess = _guess(samples)
    if guess:
        samples["group"] = guess.group.astype(samples["group"].dtype)
        samples["frame"] = guess.frame
        found.append(finding("sequences-guessed", "", "", guess.detail))
    sequence_table = sequences.sequence_table(samples, near_frames)
    shift = shares.shifts(dataset.classes.names, samples, counts)
    sizes = samples["split"].value_counts().to_dict()
    found += _across(dataset, samples, counts)
    found += sequences.judge_sequences(sequence_table, samples, near_frames)
    found += _exact_duplicates(samples)
    found += leakage.judge_duplicates(duplicates)
    found += mask_checks.judge_masks(samples, samples["_mask_hash"], _pictures(samples, duplicates))
    found += shares.judge_shifts(shift, sizes)
    found += judge_looks(samples)
    found += _modes_and_sizes(samples)
    findings = pd.DataFrame([*dataset.problems.itertuples(index=False), *found], columns=FINDING_COLUMNS)
    findings["rank"] = findings["severity"].map(SEVERITIES.index)
    findings = findings.sort_values("rank", kind="stable", ignore_index=True).drop(columns="rank")
    summary = {
        "dataset": dataset.name,
        "classes": list(dataset.classes.names),
        "samples": len(samples),
        "splits": {split: sizes[split] for split in dataset.splits},
        "sizes": {f"{w}x{h}": int(n) for (w, h), n in samples.groupby(["width", "height"]).size().items()},
        **mean_and_deviation(samples, samples[MOMENTS]),
        "findings": {severity: int((findings["severity"] == severity).sum()) for severity in SEVERITIES},
        "checks": {str(name): int(n) for name, n in findings.groupby("check").size().items()},
    }
    return DataCheck(
        findings,
        samples.drop(columns=_HIDDEN),
        counts,
        shares.class_stats(dataset.classes.names, samples["split"], counts, pieces),
        duplicates,
        sequence_table,
        shift,
        limits(samples[samples["contrast"] >= FLAT]),
        _suggest(samples, counts, duplicates),
        summary,
        record.result(),
    )


def _inspect(dataset: Dataset, rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [inspect_pair(dataset, row) for row in rows]


def _tell_apart(dataset: Dataset, samples: pd.DataFrame, run: Callable) -> None:
    """Where pictures share a hash, that of their pixels in its place."""
    paths = dataset.samples["image"].to_numpy()

    def digest(place: int) -> bytes:
        pixels = read_image(dataset.root / paths[place])
        return repr(pixels.shape).encode() + hashlib.sha256(pixels).digest()

    places = np.flatnonzero(samples["_hash"].notna() & samples["_hash"].duplicated(keep=False))
    samples.loc[places, "_hash"] = pd.Series(list(run(digest, places)), places, object)


def _near_duplicates(dataset: Dataset, samples: pd.DataFrame, run: Callable) -> pd.DataFrame:
    # Of exact copies one is enough; flat pictures are all alike, which the check for blank ones says.
    once = (samples["contrast"] >= FLAT) & ~samples["_hash"].duplicated()
    places = np.flatnonzero(once)
    bits = _bits(samples.loc[once, "_bits"])
    thumbs = np.array(samples.loc[once, "_thumb"].tolist(), np.uint8)
    paths = dataset.samples["image"].to_numpy()

    def read(place: int) -> np.ndarray:
        return read_image(dataset.root / paths[places[place]])

    return leakage.near_duplicates(samples.iloc[places], bits, thumbs, read, run)


def _guess(samples: pd.DataFrame) -> sequences.Guess | None:
    if (samples["group"] != "").any():
        return None
    known = ((samples["contrast"] >= FLAT) & samples["_bits"].notna()).to_numpy()
    return sequences.guess_sequences(samples, _bits(samples["_bits"].where(known, bytes(8))), known)


def _bits(hashes: pd.Series) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64)


def _pictures(samples: pd.DataFrame, duplicates: pd.DataFrame) -> np.ndarray:
    """(N,) a number for each picture: equal where samples show the same one, exactly or nearly."""
    place = {pair: k for k, pair in enumerate(zip(samples["split"], samples["id"], strict=True))}
    numbers = np.arange(len(samples))
    for same in _repeated(samples):
        numbers[same] = same[0]
    joined = np.arange(len(samples))
    for members in leakage.clusters(duplicates):
        places = [numbers[place[pair]] for pair in members]  # of exact copies the first stands for all
        joined[places] = places[0]
    return joined[numbers]


def _repeated(samples: pd.DataFrame) -> list[np.ndarray]:
    """Sets of positions whose images are exactly equal, two or more each."""
    again = samples["_hash"].notna() & samples["_hash"].duplicated(keep=False)
    places = pd.Series(np.flatnonzero(again))
    return [part.to_numpy() for _, part in places.groupby(samples["_hash"][again].to_numpy(), sort=False)]


def _suggest(samples: pd.DataFrame, counts: np.ndarray, duplicates: pd.DataFrame) -> pd.Series:
    together = [*leakage.clusters(duplicates)]
    for places in _repeated(samples):
        same = samples.iloc[places]
        together.append(list(zip(same["split"], same["id"], strict=True)))
    if samples["split"].nunique() > 1 and counts.any():
        try:
            return splits.suggest_split(samples, counts, together)
        except ValueError:
            pass  # fewer sequences than splits: there is nothing to suggest
    return pd.Series(dtype=object)


def _across(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[Finding]:
    """Findings about the classes of whole splits."""
    members = {split: (samples["split"] == split).to_numpy() for split in dataset.splits}
    if "train" not in members:
        yield finding("no-train", "", "", "no split named train has samples.")
    for split, inside in members.items():
        images, train = (counts[inside] > 0).sum(axis=0), split == "train"
        absent = [name for name, n in zip(dataset.classes.names, images, strict=True) if n == 0]
        few = [
            f"{name} ({n})"
            for name, n in zip(dataset.classes.names, images, strict=True)
            if 0 < n < FEW_IMAGES
        ]
        if samples.loc[inside, "ignore_share"].isna().all():
            pass  # no mask could be read, which is said already
        elif not images.any():
            yield finding("nothing-scored", "", split, f"no mask in {split} has a scored pixel.")
        elif absent:
            check = "class-not-in-train" if train else "class-not-in-split"
            yield finding(check, "", split, f"never in {split}: {', '.join(absent)}.")
        if train and few:
            yield finding(
                "few-images", "", split, f"in fewer than {FEW_IMAGES} train images: {', '.join(few)}."
            )
        if not train and inside.sum() < sequences.SMALL_SPLIT:
            detail = f"{split} has {inside.sum()} images; fewer than {sequences.SMALL_SPLIT} say little."
            yield finding("small-split", "", split, detail)


def _exact_duplicates(samples: pd.DataFrame) -> Iterator[Finding]:
    for places in _repeated(samples):
        same = samples.iloc[places]
        among = list(dict.fromkeys(same["split"]))
        check = "duplicate-across-splits" if len(among) > 1 else "duplicate-image"
        listed = some([f"{split}/{name}" for split, name in zip(same["split"], same["id"], strict=True)])
        yield finding(check, same["id"].iloc[-1], among[-1], f"the same picture {len(same)} times: {listed}.")


def _modes_and_sizes(samples: pd.DataFrame) -> Iterator[Finding]:
    for column, what in (("mode", "images"), ("mask_mode", "masks")):
        modes = samples[column].value_counts()
        if len(modes) > 1:
            yield finding("modes-differ", "", "", f"{what} are stored as {_counted(modes)}.")
    sizes = samples.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable")
    if len(sizes) > 1:
        sizes.index = [f"{w}x{h}" for w, h in sizes.index]
        yield finding("sizes-differ", "", "", f"{len(sizes)} sizes (width x height): {_counted(sizes)}.")


def _counted(counts: pd.Series) -> str:
    return some([f"{name} ({n})" for name, n in counts.items()], 5)


def verdict(check: DataCheck) -> str:
    """One sentence: sound or not, and how many findings of which checks stand against it."""
    parts = []
    for severity in ("error", "warning"):
        names = check.findings.loc[check.findings["severity"] == severity, "check"].value_counts(sort=False)
        listed = ", ".join(f"{n} {name}" for name, n in names.items())
        total = int(names.sum())
        parts.append(f"{total or 'no'} {severity}{'s' * (total != 1)}" + (f" ({listed})" if listed else ""))
    sound = not (check.findings["severity"] == "error").any()
    return f"{'sound' if sound else 'not sound'}: {len(check.samples)} pairs, {parts[0]}, {parts[1]}."


def require_sound(check: DataCheck) -> None:
    """Stop here if the data has errors.

    Raises:
        DatasetError: of each check in each split the first error with its suggestion, three ids and how many there are.
    """
    errors = check.findings[check.findings["severity"] == "error"]
    if len(errors):
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        detail = f"dataset {check.summary['dataset']!r} has {count}: {explain(errors)}"
        raise DatasetError(detail, str(errors["check"].iloc[0]))


def write(check: DataCheck, folder: str | Path) -> None:
    """Write every table as CSV, summary.json, and the suggested split as lists that dataset.yaml takes.

    findings.csv, samples.csv (with a `pixels <class>` column each), class_stats.csv, cooccurrence.csv, shift.csv,
    class_weights.csv (of train), duplicates.csv, sequences.csv, limits.csv; suggested_split/<split>.txt, one id a line;
    data.json, the digest of every file.
    """
    folder, names = Path(folder), check.summary["classes"]
    pixels = pd.DataFrame(check.pixel_counts, columns=[f"pixels {name}" for name in names])
    tables = {
        "findings": check.findings,
        "samples": pd.concat([check.samples, pixels], axis=1),
        "class_stats": check.class_stats,
        "cooccurrence": shares.cooccurrence(names, check.pixel_counts).reset_index(),
        "shift": check.shift,
        "class_weights": shares.weight_table(names, check.pixel_counts[check.train]),
        "duplicates": check.duplicates,
        "sequences": check.sequences,
        "limits": check.limits,
    }
    with replace_folder(folder, ("suggested_split",), last="summary.json") as new:
        for name, table in tables.items():
            write_csv(new / f"{name}.csv", table)
        for split in check.summary["splits"] if len(check.suggested) else ():
            ids = check.samples.loc[check.suggested == split, "id"]
            write_text(new / "suggested_split" / f"{split}.txt", "".join(f"{name}\n" for name in ids))
        write_json(new / "data.json", check.files)
        write_json(new / "summary.json", check.summary | {"verdict": verdict(check)})
