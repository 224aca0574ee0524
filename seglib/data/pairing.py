"""Find the files that dataset.yaml names and pair images with masks, without opening one of them."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

import pandas as pd

from seglib.data.config import FILE_NAME, DatasetConfig, Split
from seglib.data.image_io import EXCLUDE, SUFFIXES, DatasetError
from seglib.runs import WINDOWS_DEVICES, display_path, is_plain, read_written

FINDING_COLUMNS = ["severity", "check", "sample", "split", "detail", "suggestion"]
SAMPLE_COLUMNS = ["id", "split", "image", "mask", "group", "frame"]
LINKS = "SEGLIB_LINKS"
_WILD = re.compile(r"(\*\*/|\*\*?|\?|\[[^\]]+\])")
_LITTER = ("thumbs.db", "desktop.ini")  # written by file managers; hidden files are passed over as well
_UNSAFE = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # not allowed in file names everywhere


class _File(NamedTuple):
    path: str  # relative to the dataset's folder
    groups: tuple[str, ...]  # what the wildcards matched
    text: str  # the same in one, with "/" between


_Found = dict[str, list[_File]]  # by text in lower case: one file on Windows and macOS


def pair_files(root: Path, config: DatasetConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look for every split's files and pair them by what the wildcards matched.

    Returns:
        samples (`SAMPLE_COLUMNS`), complete and sound pairs only, and problems (`FINDING_COLUMNS`).

    Raises:
        DatasetError: two samples would have the same id ("duplicate-id"), or a split's list of ids is wrong
            ("split-ids").
    """
    sides, problems = _look(root, config.splits)
    ids = _name_samples(sides)
    chosen = _chosen(root, config.splits, set(ids.values()))
    excluded = {normalize("NFC", name) for name in config.exclude}
    for name in sorted(excluded - set(ids.values())):
        detail = f"exclude names {name!r}, but there is no such sample{_meant(name, ids.values())}."
        problems.append(("warning", "exclude", name, "", detail, "Correct or remove it."))
    rows = []
    for (split, key), name in ids.items():
        held = chosen.get(name, "" if config.splits[split].ids else split)
        if name in excluded or not held:
            continue
        image, mask = (found.get(key, []) for found in sides[split])
        faults = [*_faults(root, name, config.splits[split], image, mask)]
        problems += [("error", check, name, held, *words) for check, *words in faults]
        if not faults:
            group = _group(config.group, image[0].text)
            rows.append((name, held, image[0].path, mask[0].path, *group))
    order = list(config.splits)
    rows.sort(key=lambda row: (order.index(row[1]), row[0] if chosen else ""))
    samples = pd.DataFrame(rows, columns=SAMPLE_COLUMNS).astype({"frame": "Int64"})
    lost = samples.loc[samples["group"] == "", "id"].tolist() if config.group else []
    if lost:
        detail = f"group does not match {len(lost)} of {len(samples)} names ({_some(lost)})."
        suggestion = "Widen the pattern; these samples count as independent."
        problems.append(("warning", "group-pattern", "", "", detail, suggestion))
    return samples, pd.DataFrame(problems, columns=FINDING_COLUMNS)


def _look(root: Path, splits: dict[str, Split]) -> tuple[dict[str, tuple[_Found, _Found]], list[tuple]]:
    """Images and masks by split, and problems. Splits with lists of ids may share globs: once is enough."""
    sides: dict[str, tuple[_Found, _Found]] = {}
    problems, seen, listed = [], set(), any(split.ids for split in splits.values())
    for name, split in splits.items():
        globs = (split.images, split.masks)
        if not split.images or (listed and globs in seen):
            continue
        seen.add(globs)
        images, masks = ([*_walk(root, glob)] for glob in globs)
        # both in one folder, as in *.png and *_mask.png: a file that both globs match is of the narrower one
        both = {file.path for file in images} & {file.path for file in masks}
        wide = max(images, masks, key=len)
        wide[:] = [file for file in wide if file.path not in both]
        sides[name] = ({}, {})
        for what, files, found in zip(("image", "mask"), (images, masks), sides[name], strict=True):
            for file in files:
                if not is_plain(file.path):
                    detail = f"{what} {file.path!a} has a control character or no UTF-8 in its name."
                    problems.append(("error", "file-name", "", name, detail, "Rename it."))
                elif not file.path.lower().endswith(SUFFIXES):
                    detail = f"{file.path} is matched by the {what}s glob; expected {', '.join(SUFFIXES)}."
                    suggestion = f"Move it out of the folder, or narrow the glob in {FILE_NAME}."
                    problems.append(("error", "not-an-image", "", name, detail, suggestion))
                else:
                    found.setdefault(file.text.casefold(), []).append(file)
        if not any(sides[name]) and not split.optional:
            detail = f"split {name!r} has no files: expected images at {globs[0]} and masks at {globs[1]}."
            suggestion = f"Add them, correct the globs, or remove the split from {FILE_NAME}."
            problems.append(("error", "empty-split", "", name, detail, suggestion))
    return sides, problems


def _walk(root: Path, glob: str) -> Iterator[_File]:
    """The visible files that a glob matches, in order. Links to folders are followed, but not round in circles.

    A wildcard in a file name's ending is no group: `a.jpg` goes with `a.png`.
    """
    parts = [*PurePosixPath(glob).parts]
    parts += ["*"] * (parts[-1] == "**")  # it stands for every file below
    fixed = [*takewhile(lambda part: not _WILD.search(part), parts[:-1])]
    stem, dot, ending = parts[-1].rpartition(".")
    stem, ending = (stem, ending) if dot else (ending, "*")
    regex = _regex("/".join([*parts[len(fixed) : -1], stem]), "({})") + r"\." + _regex(ending, "{}")
    try:
        pattern = re.compile(regex, re.IGNORECASE)
    except re.error as error:
        raise DatasetError(f"glob {glob!r} in {FILE_NAME}: {error}.", "config", "Correct it.") from None
    start, seen = root.joinpath(*fixed), set()
    for folder, folders, names in os.walk(start, followlinks=True):
        real, inner = os.path.realpath(folder), Path(folder).relative_to(start)
        folders[:] = [] if real in seen else sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names) if real not in seen else []:
            match = pattern.fullmatch((inner / name).as_posix())
            if match and not name.startswith(".") and name.lower() not in _LITTER:
                # macOS writes letters and accents apart (NFD), others together (NFC)
                text = normalize("NFC", "/".join(g.strip("/") for g in match.groups() if g.strip("/")))
                yield _File(PurePosixPath(*fixed, inner, name).as_posix(), match.groups(), text)
        seen.add(real)


def _regex(glob: str, group: str) -> str:
    """Turn a glob into a regular expression; `group` is how a wildcard's part is written."""
    known = {"**/": "(?:[^/]+/)*", "?": "[^/]", "*": "[^/]*", "**": "[^/]*"}
    pieces = _WILD.split(glob)  # every second one is a wildcard
    wild = (group.format(known.get(piece) or piece.replace("[!", "[^", 1)) for piece in pieces[1::2])
    return "".join(next(wild) if k % 2 else re.escape(piece) for k, piece in enumerate(pieces))


def _name_samples(sides: dict[str, tuple[_Found, _Found]]) -> dict[tuple[str, str], str]:
    """An id for every (split, key): the stem; where that stands twice, also its folders; then also its split."""
    left, named = {}, {}
    for split, (images, masks) in sides.items():
        left |= {(split, key): files[0].text for key, files in sorted((masks | images).items())}
    places = list(left)
    for form in ("{stem}", "{path}", "{split}-{path}"):
        names = {}
        for (split, key), text in left.items():
            words = {"split": split, "path": text.replace("/", "-"), "stem": text.rpartition("/")[2]}
            name = _UNSAFE.sub("_", form.format(**words)) or "sample"
            device = name.split(".")[0].rstrip().lower() in WINDOWS_DEVICES
            names[split, key] = "_" * device + name
        count = Counter(name.casefold() for name in [*names.values(), *named.values()])
        named |= {place: name for place, name in names.items() if count[name.casefold()] == 1}
        left = {place: text for place, text in left.items() if place not in named}
    if left:
        clash = " and ".join(f"{text!r} in {split}" for (split, _), text in list(left.items())[:2])
        expected = "expected names that differ in more than case, '/' and '-'"
        raise DatasetError(
            f"{clash} lead to the same sample id; {expected}.", "duplicate-id", "Rename one of them."
        )
    return {place: named[place] for place in places}


def _chosen(root: Path, splits: dict[str, Split], known: set[str]) -> dict[str, str]:
    """Sample id -> the split whose `ids` name it; every id must be known and named once."""
    chosen: dict[str, str] = {}
    for split, ids in ((split, value.ids) for split, value in splits.items() if value.ids):
        try:
            names = read_written(root / ids).splitlines() if isinstance(ids, str) else ids
        except (OSError, UnicodeDecodeError):
            expected = "expected a UTF-8 text file in the dataset's folder, one id a line"
            detail = f"ids of split {split!r}: {ids} cannot be read; {expected}."
            raise DatasetError(
                detail, "split-ids", f"Correct ids in {FILE_NAME}, or put the file there."
            ) from None
        names = [normalize("NFC", name.strip()) for name in names if name.strip()]
        if unknown := [name for name in names if name not in known]:
            detail = f"ids of split {split!r} name {unknown[0]!r}, but there is no such sample{_meant(unknown[0], known)}"
            detail += f". {len(unknown)} of its {len(names)} ids are unknown ({_some(unknown)})."
            raise DatasetError(
                detail, "split-ids", "Correct the list; an id is as in samples.csv of `seglib check`."
            )
        for name in names:
            if name in chosen:
                where = "twice" if chosen[name] == split else f"in {chosen[name]} and in {split}"
                detail = f"the ids of the splits name {name!r} {where}; expected once."
                raise DatasetError(detail, "split-ids", "Remove one.")
            chosen[name] = split
    return chosen


def _group(pattern: str, text: str) -> tuple[str, int | None]:
    """Sequence ("" if none) and frame (None if there is no number of up to 18 digits)."""
    match = re.search(pattern, text) if pattern else None
    parts = match.groupdict() if match else {}
    frame = parts.get("frame") or ""
    return parts.get("group") or "", int(frame) if frame.isdecimal() and len(frame) <= 18 else None


def _faults(root: Path, name: str, globs: Split, images: list[_File], masks: list[_File]) -> Iterator[tuple]:
    """Check, detail and suggestion of everything that keeps a pair from being complete."""
    for what, files, glob, mates in (
        ("image", images, globs.images, masks),
        ("mask", masks, globs.masks, images),
    ):
        if not files:
            mate, other = mates[0], "mask" if what == "image" else "image"
            detail = f"no {what} for {other} {name!r}, {mate.path}: expected {_filled(glob, mate.groups)}."
            yield f"missing-{what}", detail, f"Add it, {EXCLUDE}."
        if len(files) > 1:
            paths = ", ".join(file.path for file in files)
            detail = f"{len(files)} {what}s have the stem {name!r}: {paths}; expected one."
            yield "duplicate-stem", detail, f"Rename or remove the others, {EXCLUDE}."
        for path in (file.path for file in files):
            if not (root / path).exists():
                yield "missing-file", f"{path} is a link to nothing.", f"Restore the file, {EXCLUDE}."
            elif (root / path).stat().st_size == 0:
                yield (
                    "empty-file",
                    f"{what} {name!r} ({path}) is empty (0 bytes).",
                    f"Copy it again, {EXCLUDE}.",
                )
            elif _leads_outside(root, path):
                real = display_path(os.path.realpath(root / path))
                detail = f"{what} {name!r} ({path}) is reached by a link that leads out of the dataset's folder, to {real}."
                suggestion = (
                    f"Put the file itself there, or allow its folder by the environment variable {LINKS}"
                )
                yield "link-outside", detail, f"{suggestion}, {EXCLUDE}."


def _filled(glob: str, groups: tuple[str, ...]) -> str:
    known = iter(groups)
    return _WILD.sub(lambda _: next(known, "*"), glob)


def _leads_outside(root: Path, path: str) -> bool:
    """Whether links lead out of the dataset's folder, of the sibling folder in `path`, and of what `LINKS` allows."""
    home = os.path.realpath(root)
    if path.startswith("../"):
        home = os.path.normpath(os.path.join(home, *PurePosixPath(path).parts[:2]))
    allowed = [os.path.realpath(folder) for folder in os.environ.get(LINKS, "").split(os.pathsep) if folder]
    real = os.path.realpath(root / path)
    return not any(real.startswith(os.path.join(folder, "")) for folder in (home, *allowed))


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)
