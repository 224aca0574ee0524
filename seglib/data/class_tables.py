"""The classes of a draft: what the masks hold, with the names and colours that a file beside them gives."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from seglib.data.classes import IGNORE, DatasetError, some
from seglib.data.image_io import EXCLUDE, read_form
from seglib.data.overlay import label_regions
from seglib.data.values import APART, MANY, levels, nearest, pack_rgb, tally

TABLES = ("labelmap.txt", "_classes.csv", "class_dict.csv", "class_dict_seg.csv", "classes.json")
TABLES += ("class_names.txt", "classes.txt", "codes.txt", "labels.txt", "objectinfo150.txt")
_IDS = ("id", "value", "index", "class_id")
_NO_CLASS = "void|unlabell?ed|unknown|undefined|ignored?"
_NO_DATA = (IGNORE, 65535, 2**32 - 1)  # the highest value of a type
_GAP = r"\s*[\s,;:]\s*"
_ROW = rf"(?:(\d+){_GAP})?(.*?\D.*?)(?:{_GAP}(\d+){_GAP}(\d+){_GAP}(\d+)|\s*[,;:\t]\s*(\d+))?[,;:\s]*"


class Named(NamedTuple):
    """A class as a file names it, with its stored id and its colour where the file has them."""

    name: str
    stored: int | None = None
    color: tuple[int, ...] | None = None


def read_table(path: Path) -> list[Named]:
    """Read names, ids and colours of classes: JSON, or a class a line; a DatasetError says that it is no list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _from_json(json.loads(text)) if path.suffix.lower() == ".json" else _from_lines(text)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        detail = f"{path} is no list of classes ({error}); expected a name a line, or JSON of names."
        raise DatasetError(detail, "classes", "Correct or rename it.") from None


def _from_json(found: dict | list) -> list[Named]:
    if isinstance(found, dict):
        found = next((found[key] for key in ("classes", "names", "categories") if key in found), found)
    if isinstance(found, dict) and len(found) > 1 and all(isinstance(v, dict | list) for v in found.values()):
        whole = [value if isinstance(value, dict) else {"color": value} for value in found.values()]
        ids = ({"id": key} if key.isdecimal() else {"name": key} for key in found)
        found = [own | row for own, row in zip(ids, whole, strict=True)]
    if isinstance(found, dict):  # {"road": 0} or {"0": "road"}
        return [Named(k, v) if isinstance(v, int) else Named(v, int(k)) for k, v in found.items()]
    rows = [{"name": row} if isinstance(row, str) else row for row in found]
    colors = [row.get("color") or () for row in rows]
    colors = [[*bytes.fromhex(c[1:])] if re.fullmatch(r"#[0-9a-fA-F]{6}", str(c)) else c for c in colors]
    if not all(len(c) in (0, 3) and all(isinstance(value, int) for value in c) for c in colors):
        raise ValueError("its colours are not three numbers from 0 to 255, or #rrggbb")
    names = [str(row.get("name") or row.get("label") or row["title"]) for row in rows]
    ids = [next((int(row[key]) for key in _IDS if str(row.get(key)).isdecimal()), None) for row in rows]
    return [Named(*one, (*color,) or None) for *one, color in zip(names, ids, colors, strict=True)]


def _from_lines(text: str) -> list[Named]:
    """Rows such as "road", "0 road", "0, road", "road,0", "road 128 64 128" and CVAT's "road:128,64,128::"."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    lines = lines[bool(lines and re.fullmatch(r"(name|class|label)(e?s)?:?", lines[0], re.IGNORECASE)) :]
    if len(lines) == 1 and not re.search(r"\d", text):  # all in one line
        lines = [*filter(None, re.split(r"\s*[,;]\s*", lines[0]))]
    rows = []
    for first, name, *color, last in (m.groups() for m in (re.fullmatch(_ROW, line) for line in lines) if m):
        stored, name = first or last, name.split("\t")[-1].strip(' "')
        rows.append(Named(name, stored and int(stored), (*map(int, color),) if color[0] else None))
    told = [row[1:] != (None, None) for row in rows]
    rows = rows[told[0] < any(told) :]  # without a heading
    whole = all(row.color for row in rows) or len({row.stored for row in rows}) == len(rows)
    return rows if whole else [Named(line) for line in lines]


def draft_classes(files: list[Path], named: list[Named], source: str, glob: str) -> list[str]:
    """Draft the lines from `classes` to `colors`, `id_map` or `snap`, with the share of each class in the masks.

    Without names the classes are class_0, class_1, ... by stored ids, or by how much the colours cover.
    `named` are the classes that the file `source` names; "labelIds" or "labelTrainIds" in `glob` are Cityscapes' ids.
    """
    pixels, colored, smeared, palette, broken = _count(files, named)
    notes = ["snap: true  # smeared by JPEG or soft edges: other values are read as the nearest"] * smeared
    if broken:
        notes.append(f"# {len(broken)} of {len(files)} masks cannot be read ({some(broken)}); 01 names them.")
    city, id_map = re.search("label(train)?ids", glob, re.IGNORECASE), {} if smeared else {IGNORE: IGNORE}
    shown = {row.color for row in named}
    used = {rgb: k for k, rgb in palette.items() if k in pixels and (k != IGNORE or rgb in shown)}
    if colored:
        if not all(row.color for row in named):
            notes += [f"# {source} names no colours: write its names in place of class_0, ..."]
            named = []
        found = [(value >> 16, value >> 8 & 255, value & 255) for value, _ in pixels.most_common()]
        rows = named + [Named("", None, rgb) for rgb in found if rgb not in shown]
        rows = [row._replace(stored=int(pack_rgb(np.array(row.color)))) for row in rows]
    elif city and not named:
        rows = read_table(Path(__file__).with_name("cityscapes.txt"))
        rows = [row._replace(stored=c) if city[1] else row for c, row in enumerate(rows)]
        source, id_map = "Cityscapes", dict.fromkeys([*range(34), IGNORE], IGNORE)
    elif used and len({*used} & shown) > len(used) / 2:  # in any order
        rows = [row._replace(stored=used.get(row.color)) for row in named]
        rows += [Named("", k, rgb) for rgb, k in used.items() if rgb not in shown]
    else:
        no_data = [] if smeared else _no_data(sorted(pixels))
        rows = _by_id(sorted({*pixels} - {*no_data}) or [0], named)
        if 0 in pixels and all(row.stored for row in rows):
            id_map[0] = IGNORE
            notes.append(f"# 0 is not in {source} and is ignored. If it is a class (background), name it.")
        elif named and named[0].stored is None and "background" not in rows[0].name.lower():
            told = f"# By its place in {source}, {rows[0].name!r} is {rows[0].stored}."
            notes.append(f"{told} If that is a background without a line there, give it one.")
        rows = [row._replace(color=row.color or palette.get(row.stored)) for row in rows]
        no_data = [value for value in no_data if value != IGNORE]
        notes += [f"ignore_ids: {no_data}"] * bool(no_data)
    if smeared and not colored and len(rows) > 2:
        told = "# Soft outlines between two classes pass through the values of others: better export ids."
        notes.append(told)
    if odd := [row.name for row in rows if re.fullmatch(_NO_CLASS, row.name, re.IGNORECASE)]:
        told = f"# {some(odd)}: learnt and scored as a class. data/README.md tells how to ignore pixels."
        notes.append(told)
    id_map |= {row.stored: c for c, row in enumerate(rows) if row.stored is not None}
    id_map = dict(sorted(id_map.items()))
    lines = [f"classes:{f'  # of {source}' * bool(rows[0].name)}"]
    for c, row in enumerate(rows):
        name = json.dumps(row.name, ensure_ascii=False) if row.name else f"class_{c}"
        stored, share = f"#{row.stored:06x}" if colored else row.stored, pixels[row.stored] / pixels.total()
        lines.append(f"  - {name}  # stored as {stored}: {share:.1%} of the pixels")
    if all(row.color for row in rows):
        lines.append(f"colors: {[[*row.color] for row in rows]}")
    if not colored and id_map != {c: c for c in [*range(len(rows)), IGNORE]}:
        lines.append(f"id_map: {id_map}{f'  # {IGNORE}: ignored' * (id_map.get(IGNORE) == IGNORE)}")
    return [*lines, *notes]


def _no_data(found: list[int]) -> list[int]:
    """The values of missing pixels: negative ones, and the highest of a type unless it ends a scale, as in 0, 127, 255."""
    ids = [value for value in found if value >= 0]
    scales = (np.array(ids) / max([1, *ids]) * count for count in range(1, 9))
    wholes = ((scale, scale.round()) for scale in scales)
    drawn = any(len({*whole}) == len(ids) and np.allclose(scale, whole, 0, 0.04) for scale, whole in wholes)
    return [value for value in found if value < 0 or (value in _NO_DATA and not (drawn and 0 in ids))]


def _by_id(found: list[int], named: list[Named]) -> list[Named]:
    """The classes of masks of ids: those that are named, then those that are only found."""
    scale = len(found) > 1 and np.diff(found).min() >= APART
    if not named:
        nearly_all = found[0] == 0 and max(found) < 2 * len(found)  # the others may be rare
        return [Named("", k) for k in (range(max(found) + 1) if nearly_all else found)]
    if len(named) == 1 and named[0].stored is None and found[0] == 0 and len(found) == 2:
        named, scale = [Named("background"), *named], True
    start = max(found) == len(named) and "background" not in named[0].name.lower()  # the list leaves out 0
    order = found if scale and len(found) == len(named) else range(start, start + len(named))
    rows = [Named(n, k if s is None else s, rgb) for (n, s, rgb), k in zip(named, order, strict=True)]
    return rows + [Named("", k) for k in found if k and k not in {row.stored for row in rows}]


def _count(files: list[Path], named: list[Named]) -> tuple[Counter, bool, bool, dict, list[str]]:
    """Count pixels by stored id or 24 bits of colour; whether they are colours, smeared; a palette; damaged files.

    A file in a form that cannot be read raises an error, as all the others would be in that form too.
    """
    tallies, forms, regions, palette, broken = [], [], [], b"", []
    by_color = bool(named) and all(row.color for row in named)
    for file in files:
        try:
            stored, form = read_form(file, f"mask {'/'.join(file.parts[-2:])!r}")
        except DatasetError as error:
            broken.append(file.name)
            if error.check == "unreadable" and len(broken) < len(files):
                continue
            # there is no dataset.yaml yet
            way = error.suggestion.replace(f", {EXCLUDE}", "")
            raise DatasetError(error.detail, error.check, way) from None
        grey = stored.ndim == 3 and not by_color and (stored == stored[..., :1]).all()
        forms.append("grey" if grey else "RGB" if stored.ndim == 3 else "ids")
        tallies.append(tally(stored[..., 0] if grey else stored))
        if len(tallies) <= 20 and len(tallies[-1]) <= IGNORE:
            values = label_regions(pack_rgb(stored) if stored.ndim == 3 else stored)[1]
            regions += np.unique(values[values != 0], return_counts=True)[1].tolist()  # of each value
        palette = form.palette or palette
        if sum(map(len, tallies)) > 1e6:  # photographs
            break
    lossy = any(file.suffix.lower() in (".jpg", ".jpeg") for file in files)
    if color := "RGB" in forms:
        if count := forms.count("ids"):
            detail = f"{count} of {len(forms)} masks have one channel, the others are RGB."
            raise DatasetError(detail, "two-readings", "Export all in one form.")
        for counts, form in zip(tallies, forms, strict=True):
            counts.index *= 0x10101 if form == "grey" else 1
    pixels, smeared = _judge(tallies, color, lossy, named, regions.count(1) > 0.9 * len(regions))
    shown = dict(enumerate(map(tuple, np.reshape([*palette], (-1, 3)).tolist())))
    return pixels, color, smeared, shown if any(len({*rgb}) > 1 for rgb in shown.values()) else {}, broken


def _judge(tallies: list, color: bool, lossy: bool, named: list[Named], single: bool) -> tuple[Counter, bool]:
    """Pixels by value, or if smeared by the nearest class, and whether; `single`: nearly every region has its own value."""
    together = pd.concat(tallies)
    counts = together.groupby(level=0).sum()
    kept = levels(counts, color, lossy)
    if kept is not None and 2 <= len(kept) <= MANY:
        keys = [int(pack_rgb(np.array(row.color))) for row in named if color and row.color]
        keys += [k for k in kept if not keys or nearest(np.array([k]), np.array(keys), color)[1] >= 1]
        near = nearest(counts.index.to_numpy(), np.array(keys), color)[0]
        return Counter(counts["pixels"].groupby(near).sum().to_dict()), True
    if kept is not None or len(counts) > IGNORE + 1:
        detail = f"the masks hold {len(counts)} different values, which are no classes."
        suggestion = "Are they photographs, or smeared by JPEG or by resizing? Export class ids as PNG."
        raise DatasetError(detail, "illegal-ids", suggestion)
    large = counts.index[(counts.index >= 1000) & ~counts.index.isin(_NO_DATA) & (not color)]
    once = len(tallies) > 4 and together.index.value_counts().eq(1).mean() > 0.8  # values of one mask
    many = len(counts) > max(MANY, len(named)) and (once or single)
    if many or (large // 1000).duplicated().any():  # class x 1000 + number
        detail = f"the masks hold {len(counts)} values that number objects: nearly every region has its own."
        told = "Draw them as one class: `seglib convert FOLDER --kind instances --to FOLDER/class_masks`. If they are"
        raise DatasetError(detail, "instance-numbers", f"{told} classes, name them all in classes.txt.")
    return Counter(counts["pixels"].to_dict()), False
