"""Finding the files that dataset.yaml names and pairing images with masks, without opening one of them."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import pandas as pd

from seglib.data.image_io import EXCLUDE, SUFFIXES, DatasetError
from seglib.runs import is_plain
from seglib.data.config import FILE_NAME, DatasetConfig, Split
from seglib.runs import WINDOWS_DEVICES, read_written, display_path

FINDING_COLUMNS = ["severity", "check", "sample", "split", "detail", "suggestion"]
SAMPLE_COLUMNS = ["id", "split", "image", "mask", "group", "frame"]
LINKS = "SEGLIB_LINKS"
_GAP = "\0"
_DIGITS = 18  # of a frame's number: what 64 bits hold
_LONGEST = 240  # bytes of an id: its predictions are files of that name, and file names end at 255
_WILD = re.compile(r"\*\*/|\*+|\?|\[[^\]]+\]")
_LITTER = {"thumbs.db", "desktop.ini"}  # written by file managers; hidden files are passed over as well
_UNSAFE = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # not allowed in file names everywhere


@dataclass(frozen=True)
class _Glob:
    """A glob of dataset.yaml: its fixed folder, and a pattern whose groups are what the wildcards matched.

    A wildcard in the file name's ending is no group: `a.jpg` goes with `a.png`.
    """

    folder: str
    pattern: re.Pattern
    template: str  # the glob with a gap for each wildcard, to name the file that is missing
    depth: int  # folders to descend; -1: all of them

    @classmethod
    def parse(cls, text: str) -> _Glob:
        parts = [p for p in PurePosixPath(text).parts if p != "."]
        fixed = next((k for k, part in enumerate(parts[:-1]) if _WILD.search(part)), len(parts) - 1)
        stem, dot, ending = parts[-1].rpartition(".")
        stem, ending = (stem, ending) if dot else (ending, "*")
        if stem == "**":  # a last "**" stands for every file below
            parts, stem = [*parts[:-1], "**", "*"], "*"
        folders = "/".join([*parts[fixed:-1], ""] if parts[fixed:-1] else [])
        regex = _regex(folders + stem, "({})") + r"\." + _regex(ending, "{}")
        template = "/".join([*parts[:fixed], _WILD.sub(_GAP, folders + stem) + "." + ending])
        depth = -1 if "**" in parts else len(parts) - 1 - fixed
        try:
            return cls("/".join(parts[:fixed]), re.compile(regex, re.IGNORECASE), template, depth)
        except re.error as error:
            raise DatasetError(f"glob {text!r} in {FILE_NAME}: {error}.", "config", "Correct it.") from None

    def files(self, root: Path) -> Iterator[tuple[str, tuple[str, ...] | None]]:
        """Visible files in the folders where the glob looks: POSIX path relative to root, and what its wildcards matched.

        None stands for a file that the glob passes over. Links to folders are followed, but not round in circles.
        """
        base = root / self.folder
        seen = set()
        for folder, folders, names in os.walk(base, followlinks=True):
            parts = Path(folder).relative_to(base).parts
            real = os.path.realpath(folder)
            if real in seen or len(parts) == self.depth:
                folders.clear()
            if real in seen or (self.depth >= 0 and len(parts) != self.depth):
                continue
            seen.add(real)
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            outer, inner = (f"{self.folder}/" if self.folder else ""), "".join(f"{part}/" for part in parts)
            for name in sorted(names):
                if not name.startswith(".") and name.lower() not in _LITTER:
                    match = self.pattern.fullmatch(inner + name)
                    yield outer + inner + name, match.groups() if match else None

    def expected(self, groups: tuple[str, ...]) -> str:
        """The path that the other file of a pair should have."""
        known = iter(groups if self.template.count(_GAP) == len(groups) else ())
        return re.sub(_GAP, lambda _: next(known, "*"), self.template)


def _regex(text: str, group: str) -> str:
    """A glob as a regular expression; `group` is how a wildcard's part is written."""
    out, end = "", 0
    for wild in _WILD.finditer(text):
        piece = wild.group()
        part = {"**/": "(?:[^/]+/)*", "?": "[^/]"}.get(piece) or (
            "[^/]*" if piece[0] == "*" else piece.replace("[!", "[^", 1)
        )
        out += re.escape(text[end : wild.start()]) + group.format(part)
        end = wild.end()
    return out + re.escape(text[end:])


def leads_outside(root: Path, path: str) -> bool:
    """Whether links lead a file or folder out of the dataset's folder, or out of the sibling folder that `path` begins with.

    Folders that the environment variable `LINKS` names, separated as in PATH, are no outside: whoever runs seglib vouches
    for them.
    """
    allowed = [
        os.path.realpath(root),
        *map(os.path.realpath, filter(None, os.environ.get(LINKS, "").split(os.pathsep))),
    ]
    if path.startswith("../"):
        allowed[0] = os.path.normpath(os.path.join(allowed[0], *PurePosixPath(path).parts[:2]))
    real = os.path.realpath(root / path)
    return not any(real == folder or real.startswith(os.path.join(folder, "")) for folder in allowed)


@dataclass
class _Side:
    """The files of one split on one side: images or masks."""

    glob: _Glob
    found: dict[str, list[str]]  # casefolded key -> paths; more than one is a fault
    groups: dict[str, tuple[str, ...]]  # what the wildcards matched
    keys: dict[str, str]  # the key as written
    strange: list[str]  # matched, but no picture by its name
    odd: list[str]  # matched, but with a name that no table, page or terminal can hold
    outside: set[str]  # matched, but a link leads elsewhere
    passed: list[str]  # lying beside matched files

    @classmethod
    def look(cls, root: Path, glob: str) -> _Side:
        side = cls(_Glob.parse(glob), {}, {}, {}, [], [], set(), [])
        elsewhere: dict[str, bool] = {}  # folder -> whether a link leads there
        for path, groups in side.glob.files(root):
            if groups is None:
                side.passed.append(path if is_plain(path) else ascii(path))
            elif not is_plain(path):
                side.odd.append(path)
            elif not path.lower().endswith(SUFFIXES):
                side.strange.append(path)
            else:
                # macOS hands out letters and their accents apart (NFD), everybody else together (NFC)
                text = normalize("NFC", "/".join(g.strip("/") for g in groups if g.strip("/")))
                key = text.casefold()  # names that differ by case alone are one file on Windows and macOS
                side.found.setdefault(key, []).append(path)
                side.groups.setdefault(key, groups)
                side.keys.setdefault(key, text)
                folder = path.rpartition("/")[0] or "."
                if folder not in elsewhere:
                    elsewhere[folder] = leads_outside(root, folder)
                if elsewhere[folder] or (os.path.islink(root / path) and leads_outside(root, path)):
                    side.outside.add(path)
        return side


def pair_files(root: Path, config: DatasetConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look for every split's files and pair them by what the wildcards matched.

    Returns:
        samples (`SAMPLE_COLUMNS`), complete and sound pairs only, and problems (`FINDING_COLUMNS`).

    Raises:
        DatasetError: two samples would have the same id ("duplicate-id"), or one is too long for a file's name ("long-id"); a split's list of ids is wrong ("split-ids").
    """
    problems: list[tuple[str, ...]] = []
    sides = {split: _look(root, globs) for split, globs in _sources(config.splits).items()}
    ids = _name_samples({split: {**masks.keys, **images.keys} for split, (images, masks) in sides.items()})
    if long := next((name for name in ids.values() if len(name.encode()) > _LONGEST), ""):
        detail = f"sample {long[:60]!r}... would have an id of {len(long.encode())} bytes; expected at most {_LONGEST}."
        raise DatasetError(
            detail, "long-id", "Shorten the name of the file, or of the folders that tell it from others."
        )
    chosen = _chosen(root, config.splits, ids)
    excluded = {normalize("NFC", name) for name in config.exclude}
    used = {path for pair in sides.values() for side in pair for paths in side.found.values() for path in paths}
    for name in sorted(excluded - set(ids.values())):
        near = "".join(f" Did you mean {n!r}?" for n in difflib.get_close_matches(name, ids.values(), 1))
        detail = f"exclude names {name!r}, but there is no such sample.{near}"
        problems.append(("warning", "exclude", name, "", detail, "Correct or remove it."))
    if len(config.classes) == 1:
        detail = f"{config.classes[0]!r} is the only class: any prediction is right."
        problems.append(("warning", "one-class", "", "", detail, "Name the background as a class too."))

    rows: dict[str, list] = {split: [] for split in config.splits}
    unnumbered: list[str] = []
    for split, (images, masks) in sides.items():
        problems += [*_beside(split, "image", images, used), *_beside(split, "mask", masks, used)]
        if not images.found and not masks.found:
            problems.append(_empty(split, config.splits[split]))
        for key in sorted({*images.found, *masks.found}):
            name = ids[split, key]
            held = chosen.get(name, "" if config.splits[split].ids else split)
            if name in excluded or not held:
                continue
            faults = [("error", check, name, held, *words) for check, *words in _faults(root, name, key, images, masks)]
            problems += faults
            if not faults:
                paths = images.found[key][0], masks.found[key][0]
                group, frame, beyond = _group(config.group, images.keys[key])
                rows[held].append((name, held, *paths, group, frame))
                unnumbered += [name] * beyond

    listed = [row for split in rows.values() for row in (sorted(split) if chosen else split)]
    samples = pd.DataFrame(listed, columns=SAMPLE_COLUMNS).astype({"frame": "Int64"})
    lost = samples.loc[samples["group"] == "", "id"].tolist() if config.group else []
    if lost:
        detail = f"group does not match {len(lost)} of {len(samples)} names ({_some(lost)})."
        suggestion = "Widen the pattern; these samples count as independent."
        problems.append(("warning", "group-pattern", "", "", detail, suggestion))
    if unnumbered:
        detail = (
            f"{len(unnumbered)} frame numbers have more than {_DIGITS} digits and count as none ({_some(unnumbered)})."
        )
        problems.append(("warning", "group-pattern", "", "", detail, "Let the pattern's frame be fewer digits."))
    return samples, pd.DataFrame(problems, columns=FINDING_COLUMNS)


def _sources(splits: dict[str, Split]) -> dict[str, Split]:
    """The splits whose globs are to be looked at. With lists of ids, several may share one pair of globs: once is enough."""
    listed, seen = any(split.ids for split in splits.values()), set()
    sources = {}
    for name, split in splits.items():
        globs = (split.images, split.masks)
        if split.images and not (listed and globs in seen):
            seen.add(globs)
            sources[name] = split
    return sources


def _chosen(root: Path, splits: dict[str, Split], ids: dict[tuple[str, str], str]) -> dict[str, str]:
    """Sample id -> the split whose `ids` name it.

    Raises:
        DatasetError: check "split-ids": no such file, an id that no glob finds, or one that is named twice.
    """
    chosen: dict[str, str] = {}
    known = set(ids.values())
    for split, names in ((split, _listed(root, split, value.ids)) for split, value in splits.items() if value.ids):
        unknown = [name for name in names if name not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            detail = f"ids of split {split!r} name {unknown[0]!r}, but there is no such sample{hint}. "
            detail += f"{len(unknown)} of its {len(names)} ids are unknown ({_some(unknown)})."
            raise DatasetError(detail, "split-ids", "Correct the list; an id is as in samples.csv of `seglib check`.")
        for name in names:
            if name in chosen:
                where = "twice" if chosen[name] == split else f"in {chosen[name]} and in {split}"
                raise DatasetError(
                    f"the ids of the splits name {name!r} {where}; expected once.", "split-ids", "Remove one."
                )
            chosen[name] = split
    return chosen


def _listed(root: Path, split: str, ids: str | list[str]) -> list[str]:
    if not isinstance(ids, str):
        return [normalize("NFC", name) for name in ids]
    try:
        lines = normalize("NFC", read_written(root / ids)).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "cannot be read"
        detail = f"ids of split {split!r}: {ids} {reason}; expected a text file in the dataset's folder, one id a line."
        raise DatasetError(detail, "split-ids", f"Correct ids in {FILE_NAME}, or put the file there.") from None
    return [line.strip() for line in lines if line.strip()]


def _look(root: Path, globs: Split) -> tuple[_Side, _Side]:
    images, masks = _Side.look(root, globs.images), _Side.look(root, globs.masks)
    # Both in one folder, as in *.png and *_mask.png: a file that both globs match is of the narrower one.
    both = {p for paths in images.found.values() for p in paths} & {p for paths in masks.found.values() for p in paths}
    if both:
        wide = max(images, masks, key=lambda side: len(side.found))
        wide.found = {key: rest for key, paths in wide.found.items() if (rest := [p for p in paths if p not in both])}
        wide.keys = {key: wide.keys[key] for key in wide.found}
    return images, masks


def _name_samples(keys: dict[str, dict[str, str]]) -> dict[tuple[str, str], str]:
    """An id for every (split, key): the stem; where that stands twice, also its folders; then also its split."""
    ids: dict[tuple[str, str], str] = {}
    left = [(split, key, text) for split, texts in keys.items() for key, text in texts.items()]
    for form in ("{stem}", "{path}", "{split}-{path}"):
        names = [
            form.format(split=split, path=text.replace("/", "-"), stem=text.rpartition("/")[2])
            for split, _, text in left
        ]
        names = [_safe(name) for name in names]
        count = Counter(name.casefold() for name in [*names, *ids.values()])
        ids |= {(s, k): name for (s, k, _), name in zip(left, names, strict=True) if count[name.casefold()] == 1}
        left = [place for place in left if place[:2] not in ids]
    if left:
        clash = " and ".join(f"{text!r} in {split}" for split, _, text in left[:2])
        detail = f"{clash} lead to the same sample id; expected names that differ in more than case, '/' and '-'."
        raise DatasetError(detail, "duplicate-id", "Rename one of them.")
    return ids


def _safe(name: str) -> str:
    """`name` as a file may be called everywhere."""
    name = _UNSAFE.sub("_", name) or "sample"
    return f"_{name}" if name.split(".")[0].rstrip().lower() in WINDOWS_DEVICES else name


def _group(pattern: str, key: str) -> tuple[str, int | None, bool]:
    """Sequence, frame, and whether its number is too long to be one."""
    match = re.search(pattern, key) if pattern else None
    parts = match.groupdict() if match else {}
    frame = parts.get("frame") or ""
    beyond = len(frame) > _DIGITS
    return parts.get("group") or "", int(frame) if frame.isdecimal() and not beyond else None, beyond


def _faults(root: Path, name: str, key: str, images: _Side, masks: _Side) -> Iterator[tuple[str, str, str]]:
    """Check, detail and suggestion of everything that keeps one pair from being complete."""
    for what, side, other, mate in (("image", images, masks, "mask"), ("mask", masks, images, "image")):
        paths = side.found.get(key, [])
        if not paths:
            there = f"{other.found[key][0]}: expected {side.glob.expected(other.groups[key])}"
            yield f"missing-{what}", f"no {what} for {mate} {name!r}, {there}.", f"Add it, {EXCLUDE}."
        if len(paths) > 1:
            detail = f"{len(paths)} {what}s have the stem {name!r}: {', '.join(paths)}; expected one."
            yield "duplicate-stem", detail, f"Rename or remove the others, {EXCLUDE}."
        for path in paths:
            try:
                size = os.stat(root / path).st_size
            except OSError:
                yield "missing-file", f"{path} is a link to nothing.", f"Restore the file, {EXCLUDE}."
            else:
                detail = f"{what} {name!r} ({path}) is empty (0 bytes); expected a picture."
                if size == 0:
                    yield "empty-file", detail, f"Copy it again, {EXCLUDE}."
                if path in side.outside:
                    real = Path(os.path.realpath(root / path))
                    detail = f"{what} {name!r} ({path}) is reached by a link that leads out of the dataset's folder, to {display_path(real)}."
                    suggestion = (
                        "Whoever made the link chose whose file is read and shown: put the file itself there, or vouch for the folder "
                        f"it lies in by the environment variable {LINKS}, {EXCLUDE}."
                    )
                    yield "link-outside", detail, suggestion


def _beside(split: str, what: str, side: _Side, used: set[str]) -> Iterator[tuple[str, ...]]:
    suggestion = f"Move it out of the folder, or narrow the glob in {FILE_NAME}."
    for path in side.odd:
        detail = f"{what} {path!a} has a control character or no UTF-8 in its name, which tables and pages cannot hold."
        yield "error", "file-name", "", split, detail, "Rename it."
    for path in side.strange:
        detail = f"{path} is matched by the {what}s glob, but is no {what}; expected {', '.join(SUFFIXES)}."
        yield "error", "not-an-image", "", split, detail, suggestion
    passed = [path for path in side.passed if path not in used]
    if side.found and passed:
        detail = f"{len(passed)} beside the {what}s not matched by their glob: {_some(passed)}."
        suggestion = f"Widen the glob in {FILE_NAME} if they belong to the dataset."
        yield "warning", "unused-file", "", split, detail, suggestion


def _empty(split: str, globs: Split) -> tuple[str, ...]:
    detail = f"split {split!r} has no files: expected images at {globs.images} and masks at {globs.masks}."
    if globs.optional:
        return "info", "absent-split", "", split, detail, "It is optional; add its files to use it."
    suggestion = f"Add them, correct the globs, or remove the split from {FILE_NAME}."
    return "error", "empty-split", "", split, detail, suggestion


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
