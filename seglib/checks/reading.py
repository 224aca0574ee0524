"""Whether masks and images were read as they are meant: ids that are shifted, smeared or numbers; ranges; EXIF."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from seglib import data
from seglib.data import IGNORE, Dataset, some

_FEWEST = 10  # masks from which an absent first class is no chance
_SOFT = 0.15  # of the steps between ids two or more apart; sharp masks: below 0.05
# rows looked at; such steps without which a mask says nothing; a share of the pixels that is noise
_LINES, _STEPS, _CROWDED = 64, 20, 0.2
_NUMBERS = 5  # instances in one image at most, below which ids may be classes
_SAMPLED = 50  # images from which a range is proposed
_LEVELS = 64  # of 256 that a range should leave


def soft_share(mask: np.ndarray) -> float:
    """Share of the steps between ids two or more apart that pass through an id between them; NaN if there are few, or only such."""
    far, between, step = 0, 0, max(1, len(mask) // _LINES)
    rows = mask[::step]
    across, down = (rows[:, :-2], rows[:, 1:-1], rows[:, 2:]), [mask[k::step] for k in range(3)]
    for a, b, c in (across, [part[: len(down[2])] for part in down]):
        low, high = np.minimum(a, c), np.maximum(a, c)
        steps = (high - low >= 2) & (high != IGNORE)
        far += np.count_nonzero(steps)
        between += np.count_nonzero(steps & (low < b) & (b < high))
    return between / far if _STEPS <= far <= _CROWDED * rows.size else float("nan")


def numbered(values: np.ndarray) -> float:
    """Highest id of a mask whose regions' ids (R,) number them, 1, 2, 3, ...; 0 if they do not, NaN if it is empty."""
    regions = np.bincount(values, minlength=IGNORE)[1:IGNORE]  # of each id
    count = np.count_nonzero(regions)
    if not count:
        return float("nan")
    return float(count) if regions[:count].all() and count >= regions.sum() / 1.1 else 0.0


def propose_range(dataset: Dataset, lacking: list[tuple]) -> Iterator[tuple[str, ...]]:
    """Make one finding of those of all images without a range, with the line of dataset.yaml that gives them one."""
    if lacking:
        line = _range_line(dataset, [one[2] for one in lacking])
        told = f"Write {line} into dataset.yaml: between them lie 99.8 % of the pixels that hold data."
        yield "range", lacking[0][2], "", f"{len(lacking)} images have no range: {lacking[0][4]}", told


def draft_range(dataset: Dataset) -> str:
    """Draft the line of dataset.yaml that gives a range to images of more than 8 bits; "" if there seem to be none."""
    deep, samples = [], dataset.samples
    for row in samples.iloc[:: -(-len(samples) // _SAMPLED)].itertuples():
        with suppress(data.DatasetError):  # 01 names it
            deep += [row.id] * data.read_values(dataset.root / row.image, dataset.form)[1].deep
    told = "of images of more than 8 bits, what becomes 0 and 255: between them lie 99.8 % of the pixels"
    return f"{_range_line(dataset, deep)}  # {told}\n" if deep else ""


def _range_line(dataset: Dataset, deep: Sequence[str]) -> str:
    low, _, high = _robust_range(dataset, deep)
    return f"range: [{low:.6g}, {high:.6g}]"


def _robust_range(dataset: Dataset, deep: Sequence[str]) -> tuple[float, float, float]:
    """The 0.1st, 50th and 99.9th percentile of the values of images of more than 8 bits, of train if it has some."""
    samples = dataset.samples[dataset.samples["id"].isin(deep)]
    train, values = samples["split"] == "train", [np.array([0, 65535])]
    samples = samples[train if train.any() else ~train]
    for row in samples.iloc[:: -(-len(samples) // _SAMPLED)].itertuples():
        with suppress(data.DatasetError):  # a finding already
            pixels, _ = data.read_values(dataset.root / row.image, dataset.form)
            values.append(pixels.ravel()[:: max(1, pixels.size // 20_000)])
    known = np.concatenate(values[1:] or values).astype(float)
    known = known[np.isfinite(known)] if np.isfinite(known).any() else values[0]
    for end in (known.min(), known.max()):  # no data, as -9999 or a border of 0, lies far from all others
        rest = known[known != end]
        if len(rest) and np.abs(rest - end).min() > np.ptp(np.percentile(rest, [0.1, 99.9])):
            known = rest
    low, middle, high = np.percentile(known, [0.1, 50, 99.9]).tolist()
    return low, middle, max(high, low + 1e-6 * abs(low) or 1.0)


def judge_reading(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report what whole datasets show: masks that were misread, and by what rule images were read."""
    yield from _judge_images(dataset, samples)
    classes, some_mask = dataset.classes, samples["ignore_share"].notna().to_numpy()
    if len(classes) == 1:
        yield "one-class", "", "", f"{classes.names[0]} is the only class: there is nothing to tell it from."
    yield from _judge_palettes(dataset, samples, counts)
    numbers = samples["_numbers"].dropna().astype(float)
    values = classes.stored_values(color=False).items()
    as_stored = not classes.by_color and all(stored == c for stored, c in values if c != IGNORE)
    many = len(numbers) and (numbers > 0).mean() >= 0.9 and numbers.max() >= _NUMBERS
    if as_stored and many and numbers.nunique() > 1:
        detail = f"ids number the regions of each mask, 1 to {numbers.max():.0f}: they look like instances, not classes."
        yield "instance-numbers", samples.loc[numbers.idxmax(), "id"], "", detail
    if classes.id_map or classes.by_color:
        return
    total, whole = counts.sum(axis=0), some_mask & (samples["mask_mode"] != "1").to_numpy()
    ignored, others = samples["ignore_share"].to_numpy() > 0, counts[:, 1:].any(axis=1)
    alone, usual = whole & ignored & ~others, others & (ignored | bool(classes.ignore_ids))
    if alone.any() and not usual.any() and IGNORE not in classes.ignore_ids:
        share, names = samples.loc[alone, "ignore_share"].mean(), samples.loc[alone, "id"].tolist()
        detail = f"{alone.sum()} masks ({some(names)}) hold 0 and 255 alone: 255 is ignored, {share:.1%} of their pixels."
        line = {c: c for c in range(len(classes) if others.any() else 1)} | {IGNORE: 1}
        told = f"Write id_map: {line} into dataset.yaml if 255 is a class, ignore_ids: [255] if it is not."
        yield "all-255", "", "", detail, told
    held = np.flatnonzero(total).tolist()
    absent = held == [*range(1, len(held) + 1)] and 0 not in classes.ignore_ids
    absent = absent and len(held) >= min(2, len(total) - 1)
    if absent and some_mask.sum() >= _FEWEST:
        first, ids = classes.names[0], range(len(total))
        detail = f"no mask holds id 0 ({first}), all hold 1 to {held[-1]}: ids seem to begin at 1."
        border = {IGNORE: IGNORE} if ignored.any() else {}
        less, same = {c: c - 1 for c in ids[1:]} | border, {c: c for c in ids} | border
        told = f"Write id_map: {less} into dataset.yaml, and remove {first!r} from classes unless it is 1 and the last is "
        yield "ids-from-1", "", "", detail, f"{told}absent. If {first!r} is absent, write id_map: {same}."
    soft = samples["_soft"].dropna().astype(float)
    if len(soft) and soft.median() > _SOFT:
        detail = f"ids between those of two classes lie at {soft.median():.0%} of their outlines: resized or smoothed masks."
        yield "soft-edges", samples.loc[soft.idxmax(), "id"], "", detail


def last_as_255(classes: data.ClassMap, ignored: pd.Series, counts: np.ndarray) -> str:
    """Ask whether 255 stands for the last class, which no mask holds, where most masks ignore some of their pixels."""
    plain = not (classes.id_map or classes.by_color or IGNORE in classes.ignore_ids)
    if not plain or counts[:, -1].any() or not (ignored[ignored < 1] > 0).mean() > 0.5:
        return ""
    line = {c: c for c in range(len(classes) - 1)} | {IGNORE: len(classes) - 1}
    return f" Most masks hold 255, which is ignored: if it is {classes.names[-1]}, write id_map: {line}."


def _judge_palettes(dataset: Dataset, samples: pd.DataFrame, counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Report indices that have several colours, and these several indices, in palettes and dataset.yaml."""
    classes, files = dataset.classes, set()
    ids = {c: k for k, c in classes.stored_values(color=False).items() if c != IGNORE}
    config = {(k, tuple(classes.colors[c].tolist())) for c, k in ids.items() if classes.colors_named}
    for stored, held in zip(samples["_stored"], counts > 0, strict=True):
        if isinstance(stored, data.Stored) and stored.palette:
            shown = {k: tuple(stored.palette[3 * k : 3 * k + 3]) for c, k in ids.items() if held[c]}
            if len({*shown.values()}) == len(shown):  # else it leaves some black
                files |= {*shown.items()}
    # one colour may agree by chance; those in dataset.yaml may be chosen freely
    for named, chance, check in (files | config, 1, "palettes-differ"), (files, 0, "palettes-doubtful"):
        indices, colors = Counter(k for k, _ in named), Counter(color for _, color in named)
        several = [color for color, count in colors.items() if count > 1]
        if len(several) > chance and max(indices.values()) > 1:
            told = f"palettes differ; colours with several indices: {some([*map(str, several)])}."
            yield check, "", "", told
            return


def _judge_images(dataset: Dataset, samples: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    images, masks = samples["_image"].dropna(), samples["_stored"].dropna()
    if alpha := sum(stored.alpha for stored in images):
        yield "alpha-dropped", "", "", f"{alpha} images have an alpha channel, which is not read."
    if white := sum(stored.white_is_zero for stored in masks):
        check = "white-is-zero" + "-in-some" * (white < len(masks))
        yield check, "", "", f"{white} of {len(masks)} masks are TIFFs with white as zero, read as stored."
    if turned := sum(stored.orientation != 1 for stored in images):
        which = samples.loc[samples["_undecided"].eq(True), "id"].tolist()
        detail = f"{turned} images have an EXIF orientation and are {'not ' * (dataset.form.exif is False)}turned by it."
        if dataset.form.exif is None and which:
            told = f"{detail} Sizes of {len(which)} ({some(which)}) do not tell how their masks lie."
            yield "exif-orientation", which[0], "", told
        else:
            yield "exif-turned", "", "", detail
    deep = samples["id"][images.index[[stored.deep for stored in images]]]
    if len(deep) and dataset.form.range:
        low, high = dataset.form.range
        first, middle, last = _robust_range(dataset, deep)
        levels = max(0, 256 * (min(high, last) - max(low, first)) / (high - low))
        detail = f"{len(deep)} images of more than 8 bits: {low:g} to {high:g} become 0-255. 99.8 % of the training pixels lie "
        detail += f"in {first:.6g} to {last:.6g}, which are {levels:.0f} grey levels."
        wide, narrow = levels < _LEVELS, middle >= high and last > high
        yield "range-too-wide" if wide else "range-too-narrow" if narrow else "range-taken", "", "", detail
        if rest := len(images) - len(deep):
            told = f"{len(deep)} images have more than 8 bits, {rest} have 8, which stay as they are."
            yield "depths-differ", "", "", told
