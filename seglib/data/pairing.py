"""Find the files that dataset.yaml names and pair images with masks, without opening one of them."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

import pandas as pd

from seglib.data.classes import DatasetError, some
from seglib.data.config import FILE_NAME, DatasetConfig, Split
from seglib.data.image_io import EXCLUDE, FOREIGN, SUFFIXES
from seglib.params import meant
from seglib.runs import display_path, is_plain, read_written

FINDING_COLUMNS = ["severity", "check", "sample", "split", "detail", "suggestion"]
LINKS = "SEGLIB_LINKS"
_SEVERAL = "If an image has several masks, move all masks into a folder masks and join them: "
_SEVERAL += "`seglib convert FOLDER --kind instances --to FOLDER/class_masks`. "
_FURTHER = re.compile(r"(?i)mask_?\d+\.\w+$")  # as x_mask_1.png beside x_mask.png
_LITTER = ("thumbs.db", "desktop.ini")  # written by file managers; hidden files are passed over as well
_WILD = re.compile(r"(\*\*/|\*\*?|\?|\[[^\]]{2,}\])")  # [x], a class of one, is that character
_CONVERT = "Polygons (JSON, YOLO's text) become masks by `seglib convert`."
_UNSAFE = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # not allowed in file names everywhere
_File = tuple[str, str]  # path relative to the dataset's folder; what the wildcards matched, with "/" between


class _Side(NamedTuple):
    what: str  # "image" or "mask"
    glob: str
    found: dict[str, list[_File]]  # by text in lower case: one file on Windows and macOS


def pair_files(root: Path, config: DatasetConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair every split's files by what the wildcards matched: complete pairs as `Dataset.samples`, and problems."""
    sides, problems, rows = {}, [], []
    for name, split in config.splits.items():
        # splits with lists of ids may share their globs: once is enough
        shared = (split.images, split.masks) in [(a.glob, b.glob) for a, b in sides.values()]
        if split.images and not (shared and any(split.ids for split in config.splits.values())):
            sides[name] = _look(root, name, split, problems)
    ids = _name_samples(sides)
    chosen = _chosen(root, config.splits, set(ids.values()))
    excluded = {normalize("NFC", name) for name in config.exclude}
    for name in sorted(excluded - set(ids.values())):
        detail = f"exclude names {name!r}, but there is no such sample{meant(name, ids.values())}."
        problems.append(("warning", "exclude", name, "", detail, "Correct or remove it."))
    for (split, key), name in ids.items():
        held = chosen.get(name, "" if config.splits[split].ids else split)
        if name in excluded or not held:
            continue
        images, masks = sides[split]
        faults = [*_faults(root, name, key, images, masks), *_faults(root, name, key, masks, images)]
        problems += [("error", check, name, held, *words) for check, *words in faults]
        if not faults:
            (image, text), (mask, _) = images.found[key][0], masks.found[key][0]
            rows.append((name, held, image, mask, *_group(config.group, text)))
    order = list(config.splits)
    rows.sort(key=lambda row: (order.index(row[1]), row[0] if chosen else ""))
    if config.limit:
        parts = [[row for row in rows if row[1] == split] for split in order]
        few = [row for part in parts for row in part[:: -(-len(part) // config.limit) or 1]]
        detail = f"limit: {config.limit} in {FILE_NAME}: {len(few)} of {len(rows)} samples, evenly spread, are used."
        problems.append(("info", "limit", "", "", detail, "A quick try; remove the line to use all."))
        rows = few
    columns = ["id", "split", "image", "mask", "group", "frame"]
    samples = pd.DataFrame(rows, columns=columns).astype({"frame": "Int64"})
    return samples, pd.DataFrame(problems, columns=FINDING_COLUMNS)


def _look(root: Path, name: str, split: Split, problems: list[tuple]) -> tuple[_Side, _Side]:
    """The images and the masks of one split; files that cannot be used go to `problems`."""
    sides = _Side("image", split.images, {}), _Side("mask", split.masks, {})
    files = [[*find_files(root, side.glob)] for side in sides]
    # both in one folder, as in *.png and *_mask.png: a file that both globs match is of the narrower one
    both, wide = {path for path, _ in files[0]} & {path for path, _ in files[1]}, max(files, key=len)
    wide[:] = [file for file in wide if file[0] not in both]

    def problem(check: str, detail: str, suggestion: str) -> None:
        problems.append(("error", check, "", name, detail, suggestion))

    for side, matched in zip(sides, files, strict=True):
        for path, text in matched:
            if not is_plain(path):
                detail = f"{path!a} has a control character or no UTF-8 in its name."
                problem("file-name", detail, "Rename it.")
            elif not path.lower().endswith(SUFFIXES):
                detail = f"{path} is matched by {side.glob}; expected {', '.join(SUFFIXES)}."
                move = f"Move it out of the folder, or narrow the glob. {_CONVERT}"
                problem("not-an-image", detail, "Save it as PNG." if path.lower().endswith(FOREIGN) else move)
            else:
                side.found.setdefault(text.casefold(), []).append((path, text))
    if files[0] and not files[1]:
        told = f"A glob matches files, as masks/*.png does. {_CONVERT}"
        problem("no-masks", f"{split.masks} matches no file.", told)
    if not any(files) and not split.optional:
        detail = f"split {name!r} has no files: expected images at {split.images} and masks at {split.masks}."
        problem("empty-split", detail, f"Add them, correct the globs, or remove the split from {FILE_NAME}.")
    return sides


def visible_files(start: Path) -> Iterator[Path]:
    """Yield the visible files of a folder, in order. Links to folders are followed, but not round in circles."""
    seen = set()
    for folder, folders, names in os.walk(start, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
        for name in [] if real in seen else sorted(names):
            if name[0] != "." and name.lower() not in _LITTER:
                yield Path(folder, name)
        seen.add(real)


def walk(root: Path) -> tuple[dict[tuple[str, ...], Path], list[Path]]:
    """Image files and other files of a folder; a DatasetError says that there is none."""
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder.", "no-folder", "Check the path.")
    below = [path.relative_to(root) for path in visible_files(root)]
    below = [path for path in below if is_plain(path.as_posix())]  # the check names the others
    images = {path.parts: root / path for path in below if path.name.lower().endswith(SUFFIXES)}
    return images, [path for path in below if path.parts not in images]


def find_images(folder: Path) -> dict[str, str]:
    """Name the image files in a folder and the folders in it: id -> path relative to `folder`, by name.

    An id is the path without the ending, with "-" for "/". A DatasetError says that there is no image, that two
    have one id, or that a name cannot stand in a table.
    """
    ids, seen = {}, {}
    for path in sorted(file.relative_to(folder) for file in visible_files(folder)):
        if path.suffix.lower() in SUFFIXES:
            name = "-".join(path.with_suffix("").parts)
            if not is_plain(name):
                raise DatasetError(f"{str(path)!a} holds a control character or is no UTF-8. Rename it.")
            if (twin := seen.setdefault(name.casefold(), path)) != path:  # one file on Windows and macOS
                raise DatasetError(f"{twin} and {path} would have one id. Rename one.")
            ids[name] = path.as_posix()
    if not ids:
        raise DatasetError(f"no image in {display_path(folder)}: expected {', '.join(SUFFIXES)}.")
    return ids


def find_files(root: Path, glob: str) -> Iterator[_File]:
    """Yield the visible files that a glob matches, in order."""
    parts = [*PurePosixPath(glob).parts]
    fixed = [_plain(part) for part in takewhile(lambda part: not _WILD.search(part), parts[:-1])]
    parts += ["*"] * (parts[-1] == "**")  # it stands for every file below
    stem, dot, ending = parts[-1].rpartition(".")
    stem, ending = (stem, ending) if dot else (ending, "*")
    # a wildcard in the ending is no group: `a.jpg` goes with `a.png`
    regex = _regex("/".join([*parts[len(fixed) : -1], stem]), "({})") + r"\." + _regex(ending, "{}")
    pattern, start = re.compile(regex, re.IGNORECASE), root.joinpath(*fixed)
    for path in visible_files(start):
        below = path.relative_to(start).as_posix()
        if match := pattern.fullmatch(below):
            # macOS writes letters and accents apart (NFD), others together (NFC)
            text = normalize("NFC", "/".join(g.strip("/") for g in match.groups() if g.strip("/")))
            yield PurePosixPath(*fixed, below).as_posix(), text


def literal(text: str) -> str:
    """Write text so that no character of it is a wildcard."""
    return re.sub(r"([\[*?])", r"[\1]", text)


def _plain(glob: str) -> str:
    return re.sub(r"\[(.)\]", r"\1", glob)


def _regex(glob: str, group: str) -> str:
    """Turn a glob into a regular expression; `group` is how a wildcard's part is written."""
    known = {"**/": "(?:[^/]+/)*", "?": "[^/]", "*": "[^/]*", "**": "[^/]*"}
    pieces = _WILD.split(glob)  # every second one is a wildcard
    wild = (group.format(known.get(piece) or piece.replace("[!", "[^", 1)) for piece in pieces[1::2])
    return "".join(next(wild) if k % 2 else re.escape(_plain(piece)) for k, piece in enumerate(pieces))


def _name_samples(sides: dict[str, tuple[_Side, _Side]]) -> dict[tuple[str, str], str]:
    """An id for every (split, key): the stem; where that stands twice, also its folders; then also its split."""
    left, ids = {}, {}
    for split, (images, masks) in sides.items():
        left |= {(split, key): files[0][1] for key, files in sorted((masks.found | images.found).items())}
    places = list(left)
    for form in ("{stem}", "{path}", "{split}-{path}"):
        names = {}
        for place, text in left.items():
            name = form.format(split=place[0], path=text.replace("/", "-"), stem=text.rpartition("/")[2])
            names[place] = _UNSAFE.sub("_", name) or "sample"
        count = Counter(name.casefold() for name in [*names.values(), *ids.values()])
        ids |= {place: name for place, name in names.items() if count[name.casefold()] == 1}
        left = {place: text for place, text in left.items() if place not in ids}
    if left:
        detail = f"{some([*left.values()])} lead to one sample id; case, '/' and '-' are alike in ids."
        raise DatasetError(detail, "duplicate-id", "Rename one of them.")
    return {place: ids[place] for place in places}


def _chosen(root: Path, splits: dict[str, Split], known: set[str]) -> dict[str, str]:
    """Sample id -> the split whose `ids` name it; every id must be known and named once."""
    chosen: dict[str, str] = {}
    for split, ids in ((split, value.ids) for split, value in splits.items() if value.ids):
        told = f"ids of split {split!r}"
        if isinstance(ids, str) and _leads_outside(root, ids):
            detail = f"{told}: {ids} is a link that leads out of the dataset's folder."
            raise DatasetError(detail, "split-ids", f"Put the list there, or allow its folder by {LINKS}.")
        try:
            names = listed_ids(root / ids if isinstance(ids, str) else ids, known)
        except (OSError, UnicodeDecodeError):
            detail = f"{told}: {ids} cannot be read; expected UTF-8 text with one id a line."
            raise DatasetError(detail, "split-ids", "Correct ids.") from None
        twice = {name for name, count in Counter([*chosen, *names]).items() if count > 1}
        if wrong := [name for name in names if name in twice or name not in known]:
            what = "there is no such sample" if wrong[0] not in known else "it is named more than once"
            detail = f"{told} name {wrong[0]!r}, but {what}{meant(wrong[0], known)}. "
            detail += f"{len(wrong)} of its {len(names)} ids are wrong."
            raise DatasetError(detail, "split-ids", "Correct it; samples.csv of 01 has all ids.")
        chosen |= dict.fromkeys(names, split)
    return chosen


def listed_ids(names: Path | list[str], known: set[str]) -> list[str]:
    """Read a list of ids, or a file with one a line, which may name the images' files ("train/images/a.jpg b.png")."""
    lines = read_written(names).splitlines() if isinstance(names, Path) else names
    ids = [normalize("NFC", line.strip()) for line in lines if line.strip()]
    return [next((form for form in _forms(name) if form in known), name) for name in ids]


def _forms(name: str) -> Iterator[str]:
    """What a line of a list may mean: an id, or a path whose last folders may be in the id."""
    yield name
    for path in (PurePosixPath(text.replace("\\", "/")) for text in (name, name.split()[0])):
        parts = [*path.parts[:-1], path.stem]
        yield from ("-".join(parts[k:]) for k in range(len(parts)))


def _group(pattern: str, text: str) -> tuple[str, int | None]:
    """Sequence ("" if none) and frame (None if there is no number of up to 18 digits)."""
    parts = match.groupdict("") if (match := re.search(pattern, text)) else {}
    frame = parts.get("frame", "")
    return parts.get("group") or "", int(frame) if frame.isdecimal() and len(frame) <= 18 else None


def _faults(root: Path, name: str, key: str, side: _Side, other: _Side) -> Iterator[tuple[str, str, str]]:
    """Check, detail and suggestion of everything that keeps one side of a pair from being complete."""
    what, paths = side.what, [path for path, _ in side.found.get(key, [])]
    if not paths:
        mate, text = other.found[key][0]
        expected = side.glob.replace("*", text) if side.glob.count("*") == 1 else side.glob
        detail = f"no {what} for {other.what} {name!r}, {mate}: expected {expected}."
        told = _SEVERAL * bool(_FURTHER.search(mate))
        yield f"missing-{what}", detail, f"{told}Add it, {EXCLUDE}."
    if len(paths) > 1:
        detail = f"{len(paths)} {what}s have the stem {name!r}: {', '.join(paths)}; expected one."
        yield "duplicate-stem", detail, f"Rename or remove the others, {EXCLUDE}."
    for path in paths:
        if not (root / path).exists() or (root / path).stat().st_size == 0:
            detail = f"{what} {name!r} ({path}) is empty (0 bytes), or a link to nothing."
            yield "empty-file", detail, f"Copy it again, {EXCLUDE}."
        elif _leads_outside(root, path):
            real = display_path(os.path.realpath(root / path))
            detail = f"{what} {name!r} ({path}) is a link that leads out of the dataset's folder, to {real}."
            yield "link-outside", detail, f"Put the file there, allow its folder by {LINKS}, {EXCLUDE}."


def _leads_outside(root: Path, path: str) -> bool:
    """Whether links lead out of the dataset's folder, of the sibling folder in `path`, and of what `LINKS` allows."""
    real, home = (root / path).resolve(), root.resolve()
    home = home.parent / path.split("/")[1] if path.startswith("../") else home
    allowed = [Path(folder).resolve() for folder in os.environ.get(LINKS, "").split(os.pathsep) if folder]
    return not any(real.is_relative_to(folder) for folder in (home, *allowed))
