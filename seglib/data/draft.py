"""A draft dataset.yaml from what a folder holds, for a person to complete."""

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import partial
from itertools import chain, product, takewhile
from pathlib import Path
from typing import NamedTuple

from seglib.data.class_tables import TABLES, Named, draft_classes, read_table
from seglib.data.classes import DatasetError, some
from seglib.data.config import dataset_name
from seglib.data.image_io import FOREIGN, SUFFIXES, read_stored
from seglib.data.pairing import find_files, listed_ids, literal, walk

_SPLITS = {"train": "train|training", "val": "val|valid|validation", "test": "test|testing"}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words.split("|")}
_IMAGE = "images?|imgs?|jpegimages|leftimg8bit|rgb|photos"
_SURE = "masks?|annot|gt|gtfine|label(?:train)?ids|manual1?|groundtruth"  # also beside words that say nothing
_MASK = rf"{_SURE}|labels?|annotations?|ann|segmentationclass(?:png)?|segmentations?|seg|truth"
_OTHER = "colou?r|overlay|viz?|.*visualization|segmentationobject|instances?|instance(?:train)?ids|polygons"
_ROLES = {"other": _OTHER, "mask": _MASK, "image": _IMAGE}  # the first that a word tells
_ROLES["aside"] = "depth|disparity|normals"  # neither, beside color
# for folders in which no surer words are found
_WEAK_ROLES = _ROLES | {"mask": rf"{_MASK}|semantic|segmentationclass\w+", "image": f"{_IMAGE}|inputs?"}
_GAP = r"[_\-. ]+"
_EDGE = rf"{_GAP}|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])"
_Files = dict[tuple[str, ...], Path]  # by the parts of their paths below the dataset's folder
_Group = tuple[tuple, _Files]  # and what all paths have in common
_quoted = partial(json.dumps, ensure_ascii=False)
_JOIN = "`seglib convert FOLDER --kind classes (or instances) --to FOLDER/class_masks`"
_TELL = '--images "photos/*.jpg" --masks "truth/*.png", or "*/image.png" and "*/mask.png" ({split} may stand in both)'


class _Side(NamedTuple):
    glob: str
    files: dict[str, Path]  # by what the glob's wildcards match ("aachen/0001")


class _Pair(NamedTuple):
    split: str  # "" if no name tells it
    images: _Side
    masks: _Side

    @property
    def both(self) -> list[str]:
        return [text for text in self.images.files if text in self.masks.files]


def draft_dataset(folder: str | Path, images: str = "", masks: str = "") -> str:
    """Draft the text of a dataset.yaml: splits, names of classes from a file, and what up to 200 masks hold.

    Names of folders ("images", "trainannot") or files ("x_mask.png") tell images from masks.
    They are paired by names that are equal but for a beginning and an ending that all of them have.
    `images` and `masks` are globs where it must be told; "{split}" in them stands for train, val, test, ...
    A DatasetError has check "no-layout", "two-readings" (with the globs that choose each), "polygons" or "illegal-ids".
    """
    root = Path(folder)
    files, others = walk(root)
    pairs = _told(root, images, masks) if images or masks else _read_names(root, files)
    if not pairs:
        raise _no_layout(root, files, others)
    # what `convert` has drawn, with its list of classes, goes before what it was drawn from
    lists = [path for path in others if path.name == "classes.txt"]
    ours = [path for path in lists if (root / path).read_bytes().startswith(b'0 "background"')]
    drawn = tuple(f"{path.parent.as_posix()}/" for path in ours)
    pairs = _one_a_split([pair for pair in pairs if pair.masks.glob.startswith(drawn)] or pairs)
    truth = [pair.masks.files[text] for pair in pairs for text in pair.both]
    table, named = _table(root, pairs, others)
    classes = draft_classes(truth[:: -(-len(truth) // 200)], named, table, pairs[0].masks.glob)
    tail = r"(?:_(?:jpe?g|png))?\.rf\..+" * any(".rf." in text for text in pairs[0].images.files)
    head = "# A draft: name the classes, compare the counts with what you expect, then run 01_data_check."
    group = f"# group: '(?P<group>.+)_(?P<frame>[0-9]+){tail}$'  # sequences, if there are any"
    if all(re.search(r"_\d+_\d+$", text) for text in pairs[0].both):
        group += "; of tiles: '(?P<group>.+)_[0-9]+_[0-9]+$'"
    lines = [head, f"name: {dataset_name(root)}", *classes, *_splits(root, pairs, others), group]
    return "\n".join([*lines, ""])


def _table(root: Path, pairs: list[_Pair], others: list[Path]) -> tuple[str, list[Named]]:
    """The file nearest to the masks that names classes, and what it names."""

    def far(path: Path) -> tuple[bool, int, int]:
        beside = any(pair.masks.glob.startswith(f"{literal(path.parent.as_posix())}/") for pair in pairs)
        return not beside, len(path.parts), TABLES.index(path.name.lower())

    tables = sorted((path for path in others if path.name.lower() in TABLES), key=far)
    named = read_table(root / tables[0]) if tables else []
    for other in (path for path in tables[1:] if far(path) == far(tables[0])):
        if read_table(root / other) != named:
            detail = f"{tables[0]} and {other} name different classes."
            raise DatasetError(detail, "two-readings", "Correct or remove one.")
    return tables[0].as_posix() if tables else "", named


def meaning(name: str, weak: bool = False) -> tuple[str, str]:
    """The split, and "image", "mask", "other" or "aside", that a folder's name or a word of a file's tells; "" if none.

    If `weak`, numbers say nothing ("train2017"), other words may come before a split ("paris_train"), and more words count.
    """
    if weak and name.lower() in ("target", "targets"):  # beside other words a domain: target_test
        return "", "mask"
    roles, gap = (_WEAK_ROLES, rf"\d*(?:{_GAP}|$)") if weak else (_ROLES, _GAP)
    known = "|".join([*_SPLIT_OF, *roles.values(), "dir", "ground"])
    joined = re.fullmatch(rf"({'|'.join(_SPLIT_OF)})({_IMAGE}|{_MASK})", name.lower())
    words = [*filter(None, joined.groups() if joined else re.split(gap, name.lower()))]
    last = [*takewhile(partial(re.fullmatch, known), words[::-1])][::-1]
    if len(last) < len(words):  # "leaf_masks", but not "segmentation of cars"
        words = [word for word in words if re.fullmatch(f"{_SURE}|{_OTHER}|images", word)]
        last = last if weak else []
    role = next((role for role, form in roles.items() if any(re.fullmatch(form, word) for word in words)), "")
    return next((_SPLIT_OF[word] for word in last if word in _SPLIT_OF), ""), role


def splits_of(path: str) -> set[str]:
    """The splits that are words of a path."""
    return {_SPLIT_OF[word] for word in re.findall("[a-z]+", path.lower()) if word in _SPLIT_OF}


def _read_names(root: Path, files: _Files) -> list[_Pair]:
    """Pair by what words tell for sure; by weak ones where there are none, or where they alone tell splits."""
    pairs = _find_pairs(root, files, weak=False)
    if any(pair.split for pair in pairs):
        return pairs
    others = _find_pairs(root, files, weak=True)
    splits = {pair.split for pair in others}
    divided = "train" in splits and 1 < len(splits) == len(others)
    return others if divided or not pairs else pairs


def _find_pairs(root: Path, files: _Files, weak: bool) -> list[_Pair]:
    """Tell masks from images by folders' names, else by files', and pair what fits together."""
    for by_files in (False, True):
        groups: dict[tuple, _Files] = defaultdict(dict)
        for parts, file in files.items():
            said, words = [meaning(part, weak) for part in parts[:-1]], re.split(_EDGE, file.stem)
            length = 1 + max((k for k, told in enumerate(said) if any(told)), default=-1)
            split, roles = next((split for split, _ in said[::-1] if split), ""), {role for _, role in said}
            if by_files and len(words) > 1:
                roles = {meaning(word)[1] for word in (words[-1], "".join(words[-2:]), words[0])}
            role = next((role for role in _ROLES if role in roles), "")
            shape = tuple(p if any(told) else "*" for p, told in zip(parts, said[:length], strict=False))
            groups[split, role, shape][parts] = file
        pairs = []
        for (split, _, shape), group in ((key, group) for key, group in groups.items() if key[1] == "mask"):
            # what no word calls images may be them: train, trainannot
            for wanted, wild in product(("image", ""), (False, True)):
                mates = [(key[2], mate) for key, mate in groups.items() if key[:2] == (split, wanted)]
                fits = (_fit(root, split, mate, (shape, group), wild) for mate in mates)
                if found := [*chain.from_iterable(fits)]:
                    pairs += found
                    break
        if pairs:
            return pairs
    return []


def _fit(root: Path, split: str, images: _Group, masks: _Group, wild: bool) -> list[_Pair]:
    """Pair two groups whose names are equal less what all begin and end with: a pair for every kind of mask."""
    (a_base, a), (b_base, b) = _names(root, *images, wild), _names(root, *masks, wild)
    for before, after in _cuts([stem for _, stem in a]):
        cores = [(place, stem[len(before) : len(stem) - len(after)]) for place, stem in a]
        sample = cores[:: -(-len(a) // 30)]
        kinds = _kinds(sample, b)
        least = max(len(sample) * min(1, len(b) / len(a)) / 4, 0.9 * max(kinds.values(), default=1))
        if best := [kind for kind, count in kinds.items() if count >= least]:
            taken = {(place, first + core + last) for place, core in cores for first, last in best}
            # further masks that some of the images have, of other classes or objects; 01 names those that a glob matches
            rest = _kinds(sample, [name for name in b if name not in taken])
            more = [kind for kind, count in rest.items() if count >= max(2, len(sample) / 10)]
            best += [(x, y) for x, y in more if not any(x.startswith(p) and y.endswith(q) for p, q in best)]
            clear = [kind for kind in best if not any(meaning(word)[1] == "other" for word in kind)]
            ids = [kind for kind in best if kind[1].lower().endswith("labeltrainids")]
            one = _side(root, _glob(a_base, images[1], before, after))
            globs = [_glob(b_base, masks[1], *kind) for kind in ids or clear or best]
            pairs = [_Pair(split, one, _side(root, glob)) for glob in globs]
            return [pair for pair in pairs if pair.both]
    return []


def _kinds(cores: list[tuple[str, str]], masks: list[tuple[str, str]]) -> Counter:
    """Count what stands around the cores of images in the names of masks in the same place."""
    inside = defaultdict(list)
    for place, stem in masks:
        inside[place].append(stem)
    return Counter(kind for place, core in cores for kind in _around(core, inside[place]))


def _names(root: Path, shape: tuple, group: _Files, wild: bool) -> tuple[str, list[tuple[str, str]]]:
    """The folders of a group's glob; of each file what they match, and its stem.

    A folder that all share stands by its name, but as "*" if `wild` and no word tells what it is: one side may have more.
    """
    levels = [{*names} for names in zip(*(parts[:-1] for parts in group), strict=False)]
    least = max([len(shape), *(k for k, names in enumerate(levels, 1) if len(names) == 1)])
    words = [*(shape if wild else ""), *("*" if wild else "_") * least]
    plain = (len(names) == 1 and word != "*" for names, word in zip(levels[:least], words, strict=False))
    folders = [literal(min(names)) if one else "*" for one, names in zip(plain, levels, strict=False)]
    deeper = any(len(parts) - 1 > len(folders) for parts in group)
    base = "".join(f"{name}/" for name in folders) + "**/" * deeper
    found = (text for path, text in find_files(root, base + "*") if tuple(path.split("/")) in group)
    return base, [text.rpartition("/")[::2] for text in found]


def _glob(base: str, group: _Files, before: str, after: str) -> str:
    """The glob of the files of a group whose names begin and end so."""
    stems = ((file.stem, file.suffix.lower()) for file in group.values())
    endings = {ending for stem, ending in stems if stem.startswith(before) and stem.endswith(after)}
    return f"{base}{literal(before)}*{literal(after)}{endings.pop() if len(endings) == 1 else '.*'}"


def _side(root: Path, glob: str) -> _Side:
    found = ((text, root / path) for path, text in find_files(root, glob) if path.lower().endswith(SUFFIXES))
    return _Side(glob, dict(found))


def _cuts(stems: list[str]) -> Iterator[tuple[str, str]]:
    """What all stems begin and end with, from nothing to everything, cut between words and at numbers."""
    edges = [*re.finditer(_EDGE, stems[0])]
    befores = ["", *(stems[0][: edge.end()] for edge in edges)]
    afters = ["", *(stems[0][edge.start() :] for edge in edges)]
    befores = [before for before in befores if all(stem.startswith(before) for stem in stems)]
    afters = [after for after in afters if all(stem.endswith(after) for stem in stems)]
    for both in sorted(product(befores, afters), key=lambda both: len("".join(both))):
        if len("".join(both)) < min(map(len, stems)):
            yield both


def _around(core: str, stems: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What stands before and after `core` in the names that hold it as whole words."""
    for before, found, after in (stem.partition(core) for stem in stems):
        starts = not before[-1:].isalnum() or (before[-1].isalpha() and core[0].isdigit())
        ends = not after[:1].isalnum() or (after[0].isalpha() and core[-1].isdigit())
        if found and starts and ends:
            yield before, after


def _told(root: Path, *globs: str) -> list[_Pair]:
    """The pairs that two globs name, a split for each word that "{split}" can stand for."""
    if not all(globs) or len({"{split}" in glob for glob in globs}) > 1:
        told = "images and masks are told together, with {split} in both or in none."
        raise DatasetError(told, "no-layout", f"For example: {_TELL}.")
    pairs = []
    for word, split in _SPLIT_OF.items() if "{split}" in globs[0] else [("", "")]:
        for form in (word, word.capitalize(), word.upper()):
            pair = _Pair(split, *(_side(root, glob.replace("{split}", form)) for glob in globs))
            if pair.both:
                pairs.append(pair)
                break
    if not pairs:
        counts = [len(_side(root, glob.replace("{split}", "*")).files) for glob in globs]
        told = f"{globs[0]} matches {counts[0]} files and {globs[1]} {counts[1]}"
        detail = f"{told}, of which no two are alike in what their wildcards stand for."
        raise DatasetError(detail, "no-layout", f"For example: {_TELL}.")
    return pairs


def _one_a_split(pairs: list[_Pair]) -> list[_Pair]:
    """The pairs in the order of splits; what no name tells is train. Two of a split are two readings: an error."""
    named = defaultdict(list)
    for pair in pairs:
        named[pair.split or "train"].append(pair._replace(split=pair.split or "train"))
    for split, readings in ((split, found) for split, found in named.items() if len(found) > 1):
        detail = f"{split} can be read in {len(readings)} ways:"
        word = rf"(?<![A-Za-z])(?i:(?:{_SPLITS[split]})(?![a-z]))"
        for pair in readings:
            images, masks = (re.sub(word, "{split}", side.glob) for side in pair[1:])
            mask = pair.masks.files[pair.both[0]]
            values = some([*map(str, sorted({*read_stored(mask).ravel().tolist()}))], 6)
            detail += f'\n  --images "{images}" --masks "{masks}"  # {len(pair.both)} pairs; {mask.name} holds {values}'
        told = "\nRun `seglib init FOLDER` with the line whose masks hold a value for each class. "
        told += f"If each holds one class or object, join them: {_JOIN}."
        raise DatasetError(detail, "two-readings", told)
    return [named[split][0] for split in _SPLITS if split in named]


def _splits(root: Path, pairs: list[_Pair], others: list[Path]) -> list[str]:
    """The lines of the splits, by lists such as ImageSets/Segmentation/val.txt where no folder tells them."""
    known = {name for text in pairs[0].both for name in (text.rpartition("/")[2], text.replace("/", "-"))}
    lists: dict[Path, dict[str, tuple[Path, list[str]]]] = defaultdict(dict)
    lines, strange = {}, []
    for path in (path for path in others if len(pairs) == 1 and path.suffix == ".txt"):
        word = re.sub("_(list|ids|files|images|set|split)$", "", path.stem.lower())
        split = _SPLIT_OF.get(word, "")
        names = listed_ids(root / path, known) if split else []
        if known & {*names}:
            lists[path.parent].setdefault(split, (path, names))
        elif names:
            strange.append(f"  # {path.as_posix()} names none of these pairs")

    def rank(place: Path) -> tuple[bool, bool]:
        unknown = any(not {*names} <= known for _, names in lists[place].values())
        return unknown, meaning(place.name)[1] != "mask"

    first, *more = sorted(lists, key=rank) or [Path()]
    if more and rank(first) == rank(more[0]):
        detail = f"{first} and {more[0]} hold lists of splits."
        raise DatasetError(detail, "two-readings", "Remove or rename those that are not meant.")
    chosen = lists[first]
    for pair in pairs:
        globs = f"images: {_quoted(pair.images.glob)}, masks: {_quoted(pair.masks.glob)}"
        for split, (path, names) in chosen.items():
            lines[split] = f"  {split}: {{{globs}, ids: {_quoted(path.as_posix())}}}  # {len(names)} ids"
        count = f"what no list names of {len(pair.both)} pairs" if chosen else f"{len(pair.both)} pairs"
        lines.setdefault("train" if chosen else pair.split, f"  {pair.split}: {{{globs}}}  # {count}")
    no_val = f"  # no val split, which training needs; `seglib init FOLDER {split_flag(lines)}` proposes one"
    ordered = [lines[split] for split in _SPLITS if split in lines]
    return ["splits:", *ordered, *([] if chosen else strange), *[no_val] * ("val" not in lines)]


def split_flag(splits: Container[str]) -> str:
    """The option of `seglib init` that makes the splits which are missing."""
    return "--split 0.85 0.15" if "test" in splits else "--split 0.7 0.15 0.15"


def _holds_runs(table: Path) -> bool:
    with table.open("rb") as file:
        return bool(re.search(rb"rle|encod", file.readline(1000).lower()))


def _no_layout(root: Path, files: _Files, others: list[Path]) -> DatasetError:
    """Say that no masks are found, or that there are polygons or formats which are no masks yet."""
    forms = (".json", ".txt", ".xml")
    told = [path for path in others if path.suffix in forms and path.name.lower() not in TABLES]
    stems, quoted = {file.stem for file in files.values()}, shlex.quote(str(root))
    masks = [parts for parts in files if any(meaning(part)[1] == "mask" for part in parts[:-1])]
    found = [path.as_posix() for path in told if path.suffix != ".txt" or path.stem in stems]
    drawn = f"Polygons are drawn as masks first: seglib convert {quoted}"
    runs = [path.as_posix() for path in others if path.suffix == ".csv" and _holds_runs(root / path)]
    if runs and not masks:
        detail = f"{root} has no masks, but {runs[0]} seems to hold them as run lengths (RLE)."
        return DatasetError(detail, "polygons", "data/README.md has the lines of Python that draw them.")
    if found and not masks:
        detail = f"{root} has no masks, but {len(found)} annotation files ({some(found)})."
        there = f"If there are masks, say where: seglib init FOLDER {_TELL}"
        return DatasetError(detail, "polygons", f"{drawn}. {there}")
    detail = f"{root} has none of the known layouts, which data/README.md lists."
    if foreign := [path.as_posix() for path in others if path.suffix.lower() in FOREIGN]:
        detail += f" {len(foreign)} files that are not read ({some(foreign)}) have to be saved as PNG first."
    if masks:
        sides = (masks, [parts for parts in files if parts not in masks])
        names = (some(["/".join(parts) for parts in side], 1) or "none" for side in sides)
        one, other = (f"{len(side)} ({name})" for side, name in zip(sides, names, strict=True))
        detail += f" The names of its masks, {one}, do not fit those of its images, {other}."
        detail += f" Masks of one class each, or of numbered objects, become masks of all classes by {_JOIN}."
        detail += f" {drawn}." * bool(found)
    return DatasetError(detail, "no-layout", f"Say where the files are: seglib init FOLDER {_TELL}")
