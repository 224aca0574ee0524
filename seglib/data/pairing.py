"""Find the files that dataset.yaml names and pair images with masks, without opening one of them."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
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
_LONGEST = 240  # bytes of an id: files are named by it, and file names end at 255
_WILD = re.compile(r"\*\*/|\*\*?|\?|\[[^\]]+\]")
_LITTER = ("thumbs.db", "desktop.ini")  # written by file managers; hidden files are passed over as well
_UNSAFE = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # not allowed in file names everywhere


class _Glob:
    """A glob of dataset.yaml: its fixed folder, and a pattern whose groups are what the wildcards matched.

    A wildcard in the file name's ending is no group: `a.jpg` goes with `a.png`.
    """

    def __init__(self, text: str) -> None:
        self.text, parts = text, [p for p in PurePosixPath(text).parts if p != "."]
        if parts[-1] == "**":  # stands for every file below
            parts.append("*")
        fixed = next((k for k, part in enumerate(parts[:-1]) if _WILD.search(part)), len(parts) - 1)
        stem, dot, ending = parts[-1].rpartition(".")
        stem, ending = (stem, ending) if dot else (ending, "*")
        self.folder = "/".join(parts[:fixed])
        self.depth = -1 if "**" in parts else len(parts) - 1 - fixed  # folders to descend; -1: all of them
        regex = _regex("/".join([*parts[fixed:-1], stem]), "({})") + r"\." + _regex(ending, "{}")
        try:
            self.pattern = re.compile(regex, re.IGNORECASE)
        except re.error as error:
            raise DatasetError(f"glob {text!r} in {FILE_NAME}: {error}.", "config", "Correct it.") from None

    def files(self, root: Path) -> Iterator[tuple[str, tuple[str, ...] | None]]:
        """Walk the visible files where the glob looks: path relative to root, what its wildcards matched or None.

        Links to folders are followed, but not round in circles.
        """
        base, seen = root / self.folder, set()
        for folder, folders, names in os.walk(base, followlinks=True):
            parts, real = Path(folder).relative_to(base).parts, os.path.realpath(folder)
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            if real in seen or len(parts) == self.depth:
                folders.clear()
            if real in seen or self.depth not in (-1, len(parts)):
                continue
            seen.add(real)
            for name in sorted(names):
                if not name.startswith(".") and name.lower() not in _LITTER:
                    match = self.pattern.fullmatch("/".join([*parts, name]))
                    path = PurePosixPath(self.folder, *parts, name).as_posix()
                    yield path, match.groups() if match else None

    def expected(self, groups: tuple[str, ...]) -> str:
        """Name the path that the other file of a pair should have."""
        known = iter(groups)
        return _WILD.sub(lambda _: next(known, "*"), self.text)


def _regex(text: str, group: str) -> str:
    """Turn a glob into a regular expression; `group` is how a wildcard's part is written."""
    out, end = "", 0
    for wild in _WILD.finditer(text):
        piece = wild.group()
        known = {"**/": "(?:[^/]+/)*", "?": "[^/]", "*": "[^/]*", "**": "[^/]*"}
        part = known.get(piece) or piece.replace("[!", "[^", 1)
        out += re.escape(text[end : wild.start()]) + group.format(part)
        end = wild.end()
    return out + re.escape(text[end:])


def leads_outside(root: Path, path: str) -> bool:
    """Tell whether links lead a file out of the dataset's folder, or out of the sibling folder that `path` begins with.

    Folders that the environment variable `LINKS` names, separated as in PATH, are allowed: their owner vouches for them.
    """
    home = os.path.realpath(root)
    if path.startswith("../"):
        home = os.path.normpath(os.path.join(home, *PurePosixPath(path).parts[:2]))
    named = [os.path.realpath(folder) for folder in os.environ.get(LINKS, "").split(os.pathsep) if folder]
    real = os.path.realpath(root / path)
    return not any(real == folder or real.startswith(os.path.join(folder, "")) for folder in (home, *named))


class _File(NamedTuple):
    path: str  # relative to the dataset's folder
    groups: tuple[str, ...]  # what the wildcards matched
    text: str  # the same in one, with '/' between

    @classmethod
    def of(cls, path: str, groups: tuple[str, ...]) -> _File:
        # macOS writes letters and accents apart (NFD), others together (NFC)
        return cls(path, groups, normalize("NFC", "/".join(g.strip("/") for g in groups if g.strip("/"))))


class _Side:
    """The images or the masks of one split."""

    def __init__(self, root: Path, split: str, what: str, glob: str) -> None:
        self.what, self.glob = what, _Glob(glob)
        self.found: dict[str, list[_File]] = {}  # by casefolded text: one file on Windows and macOS
        self.passed: list[str] = []  # files beside them that the glob passes over
        self.problems: list[tuple[str, ...]] = []
        for path, groups in self.glob.files(root):
            if groups is None:
                self.passed.append(path if is_plain(path) else ascii(path))
            elif not is_plain(path):
                detail = f"{what} {path!a} has a control character or no UTF-8 in its name, which no table can hold."
                self.problems.append(("error", "file-name", "", split, detail, "Rename it."))
            elif not path.lower().endswith(SUFFIXES):
                detail = f"{path} is matched by the {what}s glob, but is no {what}; expected {', '.join(SUFFIXES)}."
                suggestion = f"Move it out of the folder, or narrow the glob in {FILE_NAME}."
                self.problems.append(("error", "not-an-image", "", split, detail, suggestion))
            else:
                file = _File.of(path, groups)
                self.found.setdefault(file.text.casefold(), []).append(file)

    @property
    def paths(self) -> set[str]:
        return {file.path for files in self.found.values() for file in files}

    def unused(self, split: str, used: set[str]) -> list[tuple[str, ...]]:
        passed = [path for path in self.passed if path not in used]
        if not passed or not self.found:
            return []
        detail = f"{len(passed)} beside the {self.what}s not matched by their glob: {_some(passed)}."
        suggestion = f"Widen the glob in {FILE_NAME} if they belong to the dataset."
        return [("warning", "unused-file", "", split, detail, suggestion)]


def pair_files(root: Path, config: DatasetConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look for every split's files and pair them by what the wildcards matched.

    Returns:
        samples (`SAMPLE_COLUMNS`), complete and sound pairs only, and problems (`FINDING_COLUMNS`).

    Raises:
        DatasetError: two samples would have the same id ("duplicate-id"), an id is too long ("long-id"), or a split's
            list of ids is wrong ("split-ids").
    """
    sides = _look(root, config.splits)
    ids = _name_samples(sides)
    chosen = _chosen(root, config.splits, set(ids.values()))
    excluded = {normalize("NFC", name) for name in config.exclude}
    used = {path for pair in sides.values() for side in pair for path in side.paths}
    problems = _config_problems(config, sorted(excluded - set(ids.values())), ids)
    rows: dict[str, list] = {split: [] for split in config.splits}
    for split, (images, masks) in sides.items():
        for side in (images, masks):
            problems += [*side.problems, *side.unused(split, used)]
        if not images.found and not masks.found:
            problems.append(_empty(split, config.splits[split]))
        for key in sorted({*images.found, *masks.found}):
            name = ids[split, key]
            held = chosen.get(name, "" if config.splits[split].ids else split)
            if name in excluded or not held:
                continue
            faults = [*_faults(root, name, key, images, masks), *_faults(root, name, key, masks, images)]
            problems += [("error", check, name, held, *words) for check, *words in faults]
            if not faults:
                image, mask = images.found[key][0], masks.found[key][0]
                rows[held].append((name, held, image.path, mask.path, *_group(config.group, image.text)))
    listed = [row for split in rows.values() for row in (sorted(split) if chosen else split)]
    samples = pd.DataFrame(listed, columns=SAMPLE_COLUMNS).astype({"frame": "Int64"})
    lost = samples.loc[samples["group"] == "", "id"].tolist() if config.group else []
    if lost:
        detail = f"group does not match {len(lost)} of {len(samples)} names ({_some(lost)})."
        suggestion = "Widen the pattern; these samples count as independent."
        problems.append(("warning", "group-pattern", "", "", detail, suggestion))
    return samples, pd.DataFrame(problems, columns=FINDING_COLUMNS)


def _config_problems(config: DatasetConfig, unknown: list[str], ids: dict) -> list[tuple[str, ...]]:
    problems = []
    for name in unknown:
        detail = f"exclude names {name!r}, but there is no such sample{_meant(name, ids.values())}."
        problems.append(("warning", "exclude", name, "", detail, "Correct or remove it."))
    if len(config.classes) == 1:
        detail = f"{config.classes[0]!r} is the only class: any prediction is right."
        problems.append(("warning", "one-class", "", "", detail, "Name the background as a class too."))
    return problems


def _look(root: Path, splits: dict[str, Split]) -> dict[str, tuple[_Side, _Side]]:
    """Images and masks by split. Splits with lists of ids may share one pair of globs: once is enough."""
    listed, seen, sides = any(split.ids for split in splits.values()), set(), {}
    for name, split in splits.items():
        globs = (split.images, split.masks)
        if not split.images or (listed and globs in seen):
            continue
        seen.add(globs)
        images, masks = _Side(root, name, "image", split.images), _Side(root, name, "mask", split.masks)
        # both in one folder, as in *.png and *_mask.png: a file that both globs match is of the narrower one
        if both := images.paths & masks.paths:
            wide = max(images, masks, key=lambda side: len(side.found))
            left = {key: [f for f in files if f.path not in both] for key, files in wide.found.items()}
            wide.found = {key: files for key, files in left.items() if files}
        sides[name] = (images, masks)
    return sides


def _chosen(root: Path, splits: dict[str, Split], known: set[str]) -> dict[str, str]:
    """Sample id -> the split whose `ids` name it; every id must be known and named once."""
    chosen: dict[str, str] = {}
    for split, ids in ((split, value.ids) for split, value in splits.items() if value.ids):
        names = _listed(root, split, ids)
        if unknown := [name for name in names if name not in known]:
            detail = f"ids of split {split!r} name {unknown[0]!r}, but there is no such sample{_meant(unknown[0], known)}"
            detail += f". {len(unknown)} of its {len(names)} ids are unknown ({_some(unknown)})."
            suggestion = "Correct the list; an id is as in samples.csv of `seglib check`."
            raise DatasetError(detail, "split-ids", suggestion)
        for name in names:
            if name in chosen:
                where = "twice" if chosen[name] == split else f"in {chosen[name]} and in {split}"
                detail = f"the ids of the splits name {name!r} {where}; expected once."
                raise DatasetError(detail, "split-ids", "Remove one.")
            chosen[name] = split
    return chosen


def _listed(root: Path, split: str, ids: str | list[str]) -> list[str]:
    if not isinstance(ids, str):
        return [normalize("NFC", name) for name in ids]
    try:
        lines = normalize("NFC", read_written(root / ids)).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is not UTF-8 text"
        detail = f"ids of split {split!r}: {ids} {reason}; expected a text file in the dataset's folder, one id a line."
        suggestion = f"Correct ids in {FILE_NAME}, or put the file there."
        raise DatasetError(detail, "split-ids", suggestion) from None
    return [line.strip() for line in lines if line.strip()]


def _name_samples(sides: dict[str, tuple[_Side, _Side]]) -> dict[tuple[str, str], str]:
    """An id for every (split, key): the stem; where that stands twice, also its folders; then also its split."""
    ids: dict[tuple[str, str], str] = {}
    left = {
        (split, key): files[0].text
        for split, (images, masks) in sides.items()
        for key, files in (masks.found | images.found).items()
    }
    for form in ("{stem}", "{path}", "{split}-{path}"):
        names = {}
        for (split, key), text in left.items():
            name = form.format(split=split, path=text.replace("/", "-"), stem=text.rpartition("/")[2])
            names[split, key] = _safe(name)
        count = Counter(name.casefold() for name in [*names.values(), *ids.values()])
        ids |= {place: name for place, name in names.items() if count[name.casefold()] == 1}
        left = {place: text for place, text in left.items() if place not in ids}
    if left:
        clash = " and ".join(f"{text!r} in {split}" for (split, _), text in list(left.items())[:2])
        detail = (
            f"{clash} lead to the same sample id; expected names that differ in more than case, '/' and '-'."
        )
        raise DatasetError(detail, "duplicate-id", "Rename one of them.")
    if long := next((name for name in ids.values() if len(name.encode()) > _LONGEST), ""):
        detail = f"sample {long[:60]!r}... would have an id of {len(long.encode())} bytes; expected at most {_LONGEST}."
        raise DatasetError(detail, "long-id", "Shorten the name of the file, or of its folders.")
    return ids


def _safe(name: str) -> str:
    """Make `name` one that a file may have everywhere."""
    name = _UNSAFE.sub("_", name) or "sample"
    return f"_{name}" if name.split(".")[0].rstrip().lower() in WINDOWS_DEVICES else name


def _group(pattern: str, text: str) -> tuple[str, int | None]:
    """Sequence ("" if none) and frame (None if there is no number of up to 18 digits)."""
    match = re.search(pattern, text) if pattern else None
    parts = match.groupdict() if match else {}
    frame = parts.get("frame") or ""
    return parts.get("group") or "", int(frame) if frame.isdecimal() and len(frame) <= 18 else None


def _faults(root: Path, name: str, key: str, side: _Side, other: _Side) -> Iterator[tuple[str, str, str]]:
    """Check, detail and suggestion of everything that keeps one side of a pair from being complete."""
    what, files = side.what, side.found.get(key, [])
    if not files:
        mate = other.found[key][0]
        expected = f"expected {side.glob.expected(mate.groups)}"
        detail = f"no {what} for {other.what} {name!r}, {mate.path}: {expected}."
        yield f"missing-{what}", detail, f"Add it, {EXCLUDE}."
    if len(files) > 1:
        paths = ", ".join(file.path for file in files)
        detail = f"{len(files)} {what}s have the stem {name!r}: {paths}; expected one."
        yield "duplicate-stem", detail, f"Rename or remove the others, {EXCLUDE}."
    for path, *_ in files:
        if not (root / path).exists():
            yield "missing-file", f"{path} is a link to nothing.", f"Restore the file, {EXCLUDE}."
        elif (root / path).stat().st_size == 0:
            detail = f"{what} {name!r} ({path}) is empty (0 bytes); expected a picture."
            yield "empty-file", detail, f"Copy it again, {EXCLUDE}."
        elif leads_outside(root, path):
            real = display_path(os.path.realpath(root / path))
            detail = f"{what} {name!r} ({path}) is reached by a link that leads out of the dataset's folder, to {real}."
            suggestion = f"Put the file itself there, or allow its folder by the environment variable {LINKS}"
            yield "link-outside", detail, f"{suggestion}, {EXCLUDE}."


def _empty(split: str, globs: Split) -> tuple[str, ...]:
    detail = f"split {split!r} has no files: expected images at {globs.images} and masks at {globs.masks}."
    if globs.optional:
        return "info", "absent-split", "", split, detail, "It is optional; add its files to use it."
    suggestion = f"Add them, correct the globs, or remove the split from {FILE_NAME}."
    return "error", "empty-split", "", split, detail, suggestion


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)
