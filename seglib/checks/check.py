"""Check a dataset in one pass over every file: findings, facts of every sample, statistics; and read and write them.

To add a check, add a row to findings.csv (name, severity, suggestion), and either a `_finding` in `_inspect_pair` for one
pair, or to `judged` in `check_dataset` a generator of (check, sample, split, detail). Errors of reading come by
`data.DatasetError.check` and need no row.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from seglib import data
from seglib.checks import class_balance, duplicates, image_quality, masks, reading, splits
from seglib.data import IGNORE, Dataset, some
from seglib.runs import check_name, load_yaml, project_root, replace_folder, write_csv, write_json, write_text

SEVERITIES = ("error", "warning", "info")
_CHECKS = pd.read_csv(Path(__file__).with_name("findings.csv"), index_col="check", keep_default_na=False)
FEW_IMAGES = 5  # a class in fewer train images than this is learnt by heart, if at all
# Hash, thumbnail, digest and coarse mask, by which pairs are compared; how files are stored; see `reading`.
_HIDDEN = ["_bits", "_thumb", "_mask", "_cells", "_image", "_stored", "_soft", "_numbers", "_undecided"]
_TEXTS = ["id", "split", "group", "mode", "mask_mode"]
_NUMBERS = dict.fromkeys(["frame", "height", "width"], "Int64")
_NUMBERS |= dict.fromkeys(image_quality.LOOKS, float)
_NUMBERS |= dict.fromkeys(["ignore_share", "classes_present", "edge_fit", "shift_x", "shift_y"], float)


@dataclass(frozen=True)
class CheckResult:
    """What a pass over a dataset found.

    `samples` has a row a pair: `id`, `split`, `group` and `frame` (guessed where dataset.yaml gives no pattern), sizes and
    modes as stored, how the image looks (brightness, contrast, ...), the mask's `ignore_share`, `classes_present`,
    `edge_fit`, `shift_x` and `shift_y`; NA where unreadable.
    """

    findings: pd.DataFrame  # errors first, then warnings
    samples: pd.DataFrame
    # (N, C) int64, valid pixels of each class in each sample; zeros where there is no mask
    pixel_counts: np.ndarray
    class_stats: pd.DataFrame
    duplicates: pd.DataFrame
    pictures: np.ndarray  # (N,) equal numbers for near-duplicates, which share a split
    sequences: pd.DataFrame
    shift: pd.DataFrame
    limits: pd.DataFrame
    # (N,) a better split for each sample, of `suggest_split`; empty where none can be made
    suggested: pd.Series
    summary: dict[str, Any]  # the counts
    files: dict[str, dict[str, str]]  # digests

    @property
    def train(self) -> np.ndarray:
        """Tell which rows are of train: (N,) bool."""
        return (self.samples["split"] == "train").to_numpy()

    @property
    def folder(self) -> Path:
        """artifacts/data_check/<dataset>: where `write` puts the tables."""
        return project_root() / "artifacts" / "data_check" / check_name(self.summary["dataset"], "dataset")


def check_dataset(dataset: Dataset, progress: bool = False, near_frames: int = 30) -> CheckResult:
    """Read every image and mask once and judge them; a bad file becomes a finding and the pass goes on.

    Load the dataset with `strict=False`: faults of names are then listed with faults of contents. Within `near_frames`
    (of a second of video) a val or test image counts as near a train image of its sequence.
    """
    names, rows = dataset.classes.names, list(dataset.samples.itertuples(index=False))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter's lock
        files = pool.submit(lambda: {split: data.digests(dataset, split) for split in dataset.splits})
        facts = data.map_ahead(pool, partial(_inspect_pair, dataset), rows)
        facts = list(tqdm(facts, total=len(rows), desc="checking", unit="pair", disable=not progress))
    regions = [fact.pop("regions") for fact in facts]
    counts = np.array([fact.pop("counts") for fact in facts], np.int64).reshape(len(rows), len(names))
    found = [*dataset.problems.itertuples(index=False)]
    found += [one for fact in facts for one in fact.pop("findings")]
    judged = [*reading.propose_range(dataset, [one for one in found if one[1] == "range"])]
    samples = pd.DataFrame(facts, columns=[*_TEXTS, *_NUMBERS, *_HIDDEN]).astype(_NUMBERS)
    ungrouped = (samples["group"] == "").all()
    if ungrouped and (guess := splits.guess_sequences(samples) or splits.group_copies(samples)):
        samples["group"], samples["frame"], detail = guess
        judged.append(("sequences-guessed", "", "", detail))
    shows = samples[samples["contrast"] >= image_quality.FLAT]  # flat pictures are all alike
    pairs, places = duplicates.near_duplicates(shows)
    pictures = data.joined(len(rows), *shows.index.to_numpy()[places])
    sequence_table = splits.sequence_table(samples, near_frames)
    shift, limits = class_balance.shifts(names, samples, counts), image_quality.limits(shows)
    judged += reading.judge_reading(dataset, samples, counts)
    judged += _judge_splits(dataset, samples, counts)
    judged += splits.judge_sequences(sequence_table, samples, near_frames)
    judged += duplicates.judge_duplicates(samples, pictures)
    judged += masks.judge_masks(samples, duplicates.first_alike(samples["_mask"]), pictures)
    judged += class_balance.judge_shifts(shift, samples["split"].value_counts())
    judged += image_quality.judge_looks(shows, limits)
    found = [one for one in found if one[1] != "range"] + [_finding(*one) for one in judged]
    found.sort(key=lambda row: SEVERITIES.index(row[0]))
    findings = pd.DataFrame(found, columns=data.FINDING_COLUMNS)
    stats = class_balance.class_stats(names, samples["split"], counts, regions)
    suggested = pd.Series(dtype=object)
    with suppress(ValueError):  # fewer sequences than splits: there is nothing to suggest
        suggested = splits.suggest_split(samples, counts, pictures)
    tables = (stats, pairs, pictures, sequence_table, shift, limits, suggested)
    summary = {"dataset": dataset.name, "classes": list(names), "samples": len(rows)}
    summary["splits"] = {split: int((samples["split"] == split).sum()) for split in dataset.splits}
    summary["findings"] = {name: int((findings["severity"] == name).sum()) for name in SEVERITIES}
    return CheckResult(findings, samples.drop(columns=_HIDDEN), counts, *tables, summary, files.result())


def _finding(check: str, sample: str, split: str, detail: str, suggestion: str = "") -> tuple[str, ...]:
    """Make a row of the findings table of what was judged, with the severity and the usual suggestion of its check."""
    severity, usual = _CHECKS.loc[check]
    return severity, check, sample, split, detail, suggestion or usual


def _inspect_pair(dataset: Dataset, row: Any) -> dict[str, Any]:
    """Read one pair and measure it; what cannot be read becomes a finding."""
    facts: dict[str, Any] = {"id": row.id, "split": row.split, "group": row.group, "frame": row.frame}
    names, findings = dataset.classes.names, []
    facts |= {"counts": np.zeros(len(names), np.int64), "regions": np.zeros((2, 0), np.int32)}

    def attempt(read: Callable, *args: Any) -> Any:
        try:
            return read(*args)
        except data.DatasetError as error:
            findings.append(("error", error.check, row.id, row.split, error.detail, error.suggestion))

    image, label = f"{row.id!r} ({row.image})", f"{row.id!r} ({row.mask})"
    picture = attempt(data.read_picture, dataset.root / row.image, image, dataset.form)
    stored = attempt(data.read_mask_and_mode, dataset.root / row.mask, dataset.classes, label)
    if picture is not None:
        pixels, facts["_image"] = picture
        facts["mode"] = picture[1].mode
        grey = Image.fromarray(pixels).convert("L")  # luma of ITU-R BT.601
        facts["width"], facts["height"] = grey.size
        facts |= image_quality.look(pixels, grey)
        small = grey.reduce(masks.reduction(grey.size))
        facts["_bits"], facts["_thumb"] = duplicates.difference_hash(small), duplicates.thumbnail(small)
        if facts["contrast"] < image_quality.FLAT:
            findings.append(_finding("blank-image", row.id, row.split, f"image {image} is one flat colour."))
    if stored is not None:
        mask, facts["_stored"] = stored
        facts["mask_mode"] = stored[1].mode
        _, values, sizes = data.label_regions(mask, drawn=False)
        count = np.bincount(values, sizes, minlength=256).astype(np.int64)
        facts["counts"], facts["regions"] = count[: len(names)], np.stack([values, sizes]).astype(np.int32)
        facts["classes_present"] = (facts["counts"] > 0).sum()
        facts["ignore_share"] = count[IGNORE] / max(1, mask.size)
        facts["_soft"], facts["_numbers"] = reading.soft_share(mask), reading.numbered(values)
        facts["_cells"] = duplicates.thumbnail(Image.fromarray(mask), Image.Resampling.NEAREST)
        facts["_mask"] = mask.shape, hash(mask.tobytes())
        if facts["ignore_share"] == 1:
            findings.append(_finding("all-ignored", row.id, row.split, f"mask {label} has no valid pixel."))
        elif facts["classes_present"] == 1 and len(names) > 2:  # of two, one is an empty scene
            detail = f"mask {label} holds nothing but {names[facts['counts'].argmax()]!r}."
            findings.append(_finding("single-class", row.id, row.split, detail))
    if picture is not None and stored is not None:
        attempt(data.check_sizes, row, grey.size[::-1], mask.shape)
        beyond = 9 if grey.width == grey.height else 5  # EXIF orientations from 2 on, which keep the sides
        facts["_undecided"] = stored[1].orientation == 1 < picture[1].orientation < beyond
        if grey.size[::-1] == mask.shape and (shift := masks.edge_shift(small, mask)):
            facts["shift_x"], facts["shift_y"], facts["edge_fit"] = shift
    return facts | {"findings": findings}


def _judge_splits(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report what is wrong with the classes and sizes of whole splits."""
    if "train" not in dataset.splits:
        yield "no-train", "", "", "no split named train has samples."
    last_as_255 = reading.last_as_255(dataset.classes, samples["ignore_share"], counts)
    for split in dataset.splits:
        inside, train = (samples["split"] == split).to_numpy(), split == "train"
        images = pd.Series((counts[inside] > 0).sum(axis=0), dataset.classes.names)
        absent = some([*images.index[images == 0]], 8)
        few = some([f"{name} ({n})" for name, n in images.items() if 0 < n < FEW_IMAGES], 8)
        if samples.loc[inside, "ignore_share"].isna().all():
            pass  # no mask could be read, which is said already
        elif not images.any():
            check = "nothing-scored" if split in ("train", "val") else "labels-withheld"
            yield check, "", split, f"no mask in {split} has a valid pixel."
        elif absent:
            check = "class-not-in-train" if train else "class-not-in-split"
            hint = last_as_255 * (absent == dataset.classes.names[-1])
            yield check, "", split, f"never in {split}: {absent}.{hint}"
        if train and few:
            yield "few-images", "", split, f"in fewer than {FEW_IMAGES} train images: {few}."
        elif not train and inside.sum() < splits.SMALL_SPLIT:
            detail = f"{split} has {inside.sum()} images; fewer than {splits.SMALL_SPLIT} say little."
            yield "small-split", "", split, detail
    sizes = samples.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable")
    if len(sizes) > 1:
        listed = some([f"{w}x{h} ({n})" for (w, h), n in sizes.items()], 5)
        yield "sizes-differ", "", "", f"{len(sizes)} sizes (width x height): {listed}."


def conclusion(check: CheckResult) -> str:
    """Say in one sentence whether the data is sound, usable in spite of warnings, or not sound, and why."""
    parts = []
    for severity in ("error", "warning"):
        names = check.findings.loc[check.findings["severity"] == severity, "check"].value_counts(sort=False)
        listed, total = ", ".join(f"{n} {name}" for name, n in names.items()), int(names.sum())
        parts.append(f"{total or 'no'} {severity}{'s' * (total != 1)}" + (f" ({listed})" if listed else ""))
    word = "not sound" if parts[0] != "no errors" else "usable" if parts[1] != "no warnings" else "sound"
    return f"{word}: {len(check.samples)} pairs, {parts[0]}, {parts[1]}."


def require_sound(check: CheckResult) -> None:
    """Raise DatasetError if the data has errors: the first of each check in each split, and how many."""
    errors = check.findings[check.findings["severity"] == "error"]
    if len(errors):
        detail = f"dataset {check.summary['dataset']!r}: {len(errors)} errors: {data.explain(errors)}"
        raise data.DatasetError(detail, str(errors["check"].iloc[0]))


def examples(check: CheckResult, dataset: Dataset, count: int = 8, seed: int = 0) -> list[pd.Series]:
    """Choose rows of samples to look at, at random among those without an error."""
    bad = check.findings.loc[check.findings["severity"] == "error", "sample"]
    sound = dataset.samples[~dataset.samples["id"].isin(bad)]
    return [row for _, row in sound.sample(min(count, len(sound)), random_state=seed).iterrows()]


def suspect_masks(check: CheckResult, dataset: Dataset, count: int = 8) -> list[pd.Series]:
    """Choose rows of samples whose masks seem not to fit, with the name of the check."""
    suspect = check.findings[check.findings["check"].isin(masks.SUSPECT)].drop_duplicates("sample")
    found = dataset.samples.merge(suspect[["sample", "check"]], left_on="id", right_on="sample")
    return [row for _, row in found.head(count).iterrows()]


def apart(check: CheckResult, count: int = 8) -> pd.Series:
    """Choose images that lie apart from the rest, two of each kind: id -> what ("dark, blurred")."""
    found = check.findings[check.findings["check"].isin([*image_quality.OUTLIERS])].groupby("check").head(2)
    kinds = found["check"].str.removesuffix("-image").groupby(found["sample"], sort=False)
    return kinds.agg(", ".join).head(count)


def split_comparison(check: CheckResult) -> pd.DataFrame:
    """Compare the splits as they are with the suggested ones: two rows a split."""
    now = splits.balance(check.samples, check.pixel_counts, check.samples["split"])
    new = splits.balance(check.samples, check.pixel_counts, check.suggested) if len(check.suggested) else now
    table = pd.concat([now.assign(which="as it is"), new.assign(which="suggested")]).sort_index(kind="stable")
    return table.set_index(["split", "which"]).round(3)


def divide_train(folder: Path, shares: Sequence[float]) -> pd.Series:
    """Divide train into train, val and test: whole sequences, near-duplicates together, classes balanced.

    Writes lists such as split/val.txt and names them in dataset.yaml; train keeps what the others do not list, or if it had
    a list of its own gets split/train.txt. A split that is there already stays, at a share of 0. Returns the split of each
    sample of train. A ValueError says what to change.
    """
    path, wanted = folder / "dataset.yaml", dict(zip(("train", "val", "test"), shares, strict=False))
    dataset, text = data.load_dataset(folder), path.read_text(encoding="utf-8").rstrip("\n") + "\n"
    new = [name for name in ("val", "test") if wanted.get(name)]
    if len(shares) not in (2, 3) or {*new} & {*dataset.splits} or not all(0 <= s < 1 for s in shares):
        told = f"shares {wanted}: expected two or three of 0-1; there are {', '.join(dataset.splits)}"
        raise ValueError(f"{told}. Give 0 for a split that is there, or remove it.")
    text, lists = _with_lists(text, new)
    if not lists:
        told = "`  train:` below splits in one line, or a line a key with ids in one, and no limit"
        raise ValueError(f"{path}: expected {told}. Or list the ids by hand, as data/README.md shows.")
    check = check_dataset(dataset)
    samples, counts = check.samples[check.train], check.pixel_counts[check.train]
    ends = (np.cumsum([0, *shares]) / sum(shares) * len(samples)).round().astype(int)
    samples = samples.assign(split=np.repeat([*wanted], np.diff(ends)))  # only their shares matter
    split = splits.suggest_split(samples, counts, check.pictures[check.train])
    for name in lists:
        ids = samples["id"][split == name]
        write_text(folder / "split" / f"{name}.txt", "".join(f"{i}\n" for i in ids))
    write_text(path, text)
    return split


def _with_lists(text: str, new: Sequence[str]) -> tuple[str, list[str]]:
    """Name lists of new splits in the text of a dataset.yaml, and of train if it had one; no list if it has another form."""
    train = re.search(r"(?m)^( +)train:.*\n(?:\1 .*\n)*", text)
    if not train:
        return text, []
    form = r"""\bids: *("[^"]*"|'[^']*'|\[[^]]*\]|[^\s,}#][^,}#\n]*)"""
    own, listed = re.subn(form, "ids: split/train.txt", train[0])
    lists = [*new, *["train"] * listed]
    lines = [f"{train[1]}{name}: {{ids: split/{name}.txt}}\n" for name in new]
    text = "".join([text[: train.start()], own, *lines, text[train.end() :]])
    try:  # what is edited as text may read otherwise
        config = data.DatasetConfig(**load_yaml(text))
    except ValueError:
        return text, []
    found = {name: split.ids for name, split in config.splits.items() if name in ("train", *new)}
    wanted = {"train": "split/train.txt" if listed else ""} | {name: f"split/{name}.txt" for name in new}
    return text, lists if found == wanted and not config.limit else []


def write(check: CheckResult, folder: str | Path | None = None) -> Path:
    """Write a CSV each table, summary.json, data.json (digests), suggested_split/ and exclude.yaml; return their folder.

    exclude.yaml is a line for dataset.yaml that leaves out the samples with errors.
    """
    folder, names, counts = Path(folder or check.folder), check.summary["classes"], check.pixel_counts
    listed = ("findings", "class_stats", "shift", "duplicates", "sequences", "limits")
    tables = {name: getattr(check, name) for name in listed}
    pixels = pd.DataFrame(counts, columns=[f"pixels {name}" for name in names])
    tables["samples"] = pd.concat([check.samples, pixels], axis=1)
    tables["class_weights"] = class_balance.weight_table(names, counts[check.train])
    with replace_folder(folder, ("suggested_split",), last="summary.json") as new:
        for name, table in tables.items():
            write_csv(new / f"{name}.csv", table)
        for split in check.summary["splits"] if len(check.suggested) else ():
            ids = check.samples.loc[check.suggested == split, "id"]
            write_text(new / "suggested_split" / f"{split}.txt", "".join(f"{name}\n" for name in ids))
        bad = {*check.findings.loc[check.findings["severity"] == "error", "sample"]} - {""}
        write_text(new / "exclude.yaml", f"exclude: {json.dumps(sorted(bad), ensure_ascii=False)}\n")
        write_json(new / "data.json", check.files)
        write_json(new / "summary.json", check.summary | {"conclusion": conclusion(check)})
    return folder
