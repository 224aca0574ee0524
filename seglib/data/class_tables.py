"""The classes of a draft: what the masks hold, with the names and colours that a file beside them gives."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from seglib.data.classes import IGNORE, pack_rgb
from seglib.data.image_io import DatasetError, read_stored

TABLES = ("labelmap.txt", "_classes.csv", "class_dict.csv", "classes.json", "class_names.txt", "classes.txt")
TABLES += ("codes.txt", "labels.txt", "objectinfo150.txt")
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
    if isinstance(found, dict):  # {"road": 0} or {"0": "road"}
        return [Named(k, v) if isinstance(v, int) else Named(v, int(k)) for k, v in found.items()]
    rows = [{"name": row} if isinstance(row, str) else row for row in found]
    colors = [row.get("color") or None for row in rows]
    colors = [(*bytes.fromhex(c[1:]),) if isinstance(c, str) else c and (*c,) for c in colors]
    return [Named(r.get("name") or r["title"], r.get("id"), c) for r, c in zip(rows, colors, strict=True)]


def _from_lines(text: str) -> list[Named]:
    """Rows such as "road", "0 road", "0, road", "road,0", "road 128 64 128" and CVAT's "road:128,64,128::"."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    rows = []
    for first, name, *color, last in (m.groups() for m in (re.fullmatch(_ROW, line) for line in lines) if m):
        stored, name = first or last, name.split("\t")[-1].strip(' "')
        rows.append(Named(name, stored and int(stored), (*map(int, color),) if color[0] else None))
    rows = rows[any(rows[0][1:]) < any(any(row[1:]) for row in rows) :]  # without a heading
    whole = all(row.color for row in rows) or len({row.stored for row in rows}) == len(rows)
    return rows if whole else [Named(line) for line in lines]


def draft_classes(files: list[Path], named: list[Named], source: str, glob: str) -> list[str]:
    """Draft the lines from `classes` to `colors`, `id_map` or `snap`, with the share of each class in the masks.

    Without names the classes are class_0, class_1, ... by stored ids, or by how much the colours cover.
    `named` are the classes that the file `source` names; "labelIds" or "labelTrainIds" in `glob` are Cityscapes' ids.
    """
    pixels, colored, palette, notes = _count(files)
    city, id_map = re.search("label(train)?ids", glob, re.IGNORECASE), {IGNORE: IGNORE}
    if colored:
        if not all(row.color for row in named):
            notes, named = [f"# {source} names no colours: write its names in place of class_0, ..."], []
        found = [(value >> 16, value >> 8 & 255, value & 255) for value, _ in pixels.most_common()]
        rows = named + [Named("", None, rgb) for rgb in found if rgb not in {row.color for row in named}]
        rows = [row._replace(stored=int(pack_rgb(np.array(row.color)))) for row in rows]
    elif city and not named:
        rows = read_table(Path(__file__).with_name("cityscapes.txt"))
        rows = [row._replace(stored=c) if city[1] else row for c, row in enumerate(rows)]
        source, id_map = "Cityscapes", dict.fromkeys([*range(34), IGNORE], IGNORE)
    else:
        rows = _by_id(pixels, named)
        if 0 in pixels and all(row.stored for row in rows):
            id_map[0] = IGNORE
            notes.append(f"# 0 is not in {source} and is ignored. If it is a class (background), name it.")
        rows = [row._replace(color=row.color or palette.get(row.stored)) for row in rows]
    id_map |= {row.stored: c for c, row in enumerate(rows)}
    lines = [f"classes:{f'  # of {source}' * bool(rows[0].name)}"]
    for c, row in enumerate(rows):
        name = json.dumps(row.name, ensure_ascii=False) if row.name else f"class_{c}"
        stored, share = f"#{row.stored:06x}" if colored else row.stored, pixels[row.stored] / pixels.total()
        lines.append(f"  - {name}  # stored as {stored}: {share:.1%} of the pixels")
    if all(row.color for row in rows):
        lines.append(f"colors: {[[*row.color] for row in rows]}")
    if not colored and [*id_map] != [IGNORE, *range(len(rows))]:
        lines.append(f"id_map: {id_map}{f'  # {IGNORE}: ignored' * (id_map[IGNORE] == IGNORE)}")
    return [*lines, *notes]


def _by_id(pixels: Counter, named: list[Named]) -> list[Named]:
    """The classes of masks of ids: those that are named, then those that are only found."""
    found, binary = sorted({*pixels} - {IGNORE}) or [0], {*pixels} == {0, IGNORE}
    if not named:
        nearly_all = found[0] == 0 and max(found) < 2 * len(found)  # the others may be rare
        ids = [0, IGNORE] if binary else range(max(found) + 1) if nearly_all else found
        return [Named("", k) for k in ids]
    start = max(found) == len(named)  # the list leaves out 0
    order = [0, IGNORE] if binary and len(named) == 2 else range(start, start + len(named))
    rows = [Named(n, k if s is None else s, rgb) for (n, s, rgb), k in zip(named, order, strict=True)]
    return rows + [Named("", k) for k in found if k and k not in {row.stored for row in rows}]


def _count(files: list[Path]) -> tuple[Counter, bool, dict[int, tuple[int, ...]], list[str]]:
    """Pixels by stored id, or by the 24 bits of a colour; whether they are colours; a palette; a line if smeared."""
    pixels: Counter = Counter()
    for file in files:
        stored = read_stored(file)
        color = stored.ndim == 3
        values, counts = np.unique(pack_rgb(stored) if color else stored * 1, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(pixels) > IGNORE + 1:
            detail = f"the masks hold more than {IGNORE} different values, {file.name} among them."
            suggestion = "Are they photographs, or smoothed by JPEG or by resizing? Export class ids as PNG."
            raise DatasetError(detail, "illegal-ids", suggestion)
    between = [value for value in pixels if 8 <= value < 248]
    grey = not color and len(between) > 8 and max(between) >= 128 and max(pixels) <= IGNORE
    if grey and sum(pixels[value] for value in between) < 0.4 * pixels.total():
        line = f"snap: true  # {len(pixels)} values, most near 0 or 255: smeared by JPEG or soft edges"
        white = sum(count for value, count in pixels.items() if value >= 128)
        return Counter({0: pixels.total() - white, IGNORE: white}), False, {}, [line]
    with Image.open(file, formats=["PNG", "TIFF", "BMP"]) as image:
        table = np.reshape(image.getpalette("RGB") if image.mode == "P" else [], (-1, 3)).astype(int)
    palette = {k: (*rgb,) for k, rgb in enumerate(table.tolist())}
    return pixels, color, palette if np.ptp(table, axis=1).any() else {}, []
