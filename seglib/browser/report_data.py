"""What the report shows: a failures folder read into plain text and numbers, its pictures into small `data:` addresses.

Columns and files that an older folder lacks, or that predictions of another tool cannot give, are unknown, never an error.
"""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter, features

from seglib.data import ERROR, IGNORE, ClassMap, confidence_map, present, stored_picture, wrong_pixels
from seglib.failures import VerdictBook
from seglib.runs import display_path, read_table

UNKNOWN = "unknown"
LOSSES = (
    "boundary",
    "false_negative",
    "false_positive",
    "misclassified",
    "noise",
)  # where IoU is lost: the columns lost_<name>
NEAREST = 3  # nearest training images shown with a failure
_NEAREST_SIDE = 112  # pixels
_SHARP = 480  # pixels of an outline's longer side, at least half of it
_NUMBERS = ("miou", "worst_class_iou", "top_confusion_share", "best_fix_gain", "confidence", "label_score", "degradation_z",
            "novelty", "cause_confidence", *(f"lost_{name}" for name in LOSSES))  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One failure: text by column ("" or "unknown" where nothing is known), numbers by column (None where unknown)."""

    rank: int
    text: dict[str, str]
    number: dict[str, float | None]
    nearest: tuple[str, ...]

    def __getitem__(self, name: str) -> str:
        return self.text.get(name, "")

    @property
    def losses(self) -> list[tuple[str, float]]:
        """IoU lost by kind; empty where it is not known."""
        known = [(name, self.number[f"lost_{name}"]) for name in LOSSES]
        return [(name, max(0.0, value)) for name, value in known if value is not None]


@dataclass(frozen=True)
class Layers:
    """One failure's pictures, drawn one over the other in the page.

    Args:
        size: width and height in pixels.
        photo, truth, prediction, errors, confidence, outline: `data:` addresses of the image, the class colours, what is
            wrong, how sure the prediction is, and the outline of the suspect region (the last two "" where there is none);
            all but the image are transparent or blended over it.
        ids: class ids that occur in truth or prediction.
    """

    size: tuple[int, int]
    photo: str
    truth: str
    prediction: str
    errors: str
    confidence: str = ""
    outline: str = ""
    ids: tuple[int, ...] = field(default=())

    @property
    def bytes(self) -> int:
        parts = (self.photo, self.truth, self.prediction, self.errors, self.confidence, self.outline)
        return sum(map(len, parts))


def read_cells(path: Path) -> pd.DataFrame:
    """A CSV file as text, nothing in it taken for a missing value; empty when there is no such file."""
    return read_table(path) if path.is_file() else pd.DataFrame({"id": []}, dtype=str)


def read_items(folder: Path) -> list[Item]:
    """The failures of failures.csv in its order, with what a person said of them (verdict, note).

    Raises:
        FileNotFoundError: there is no failures.csv; says which notebook writes it.
        ValueError: it has no column id or miou.
    """
    path = Path(folder) / "failures.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"no {display_path(path)}: 04_failure_analysis writes it. Run that notebook first."
        )
    table, book = read_cells(path), VerdictBook(Path(folder) / "verdicts.csv")
    if not {"id", "miou"} <= set(table):
        raise ValueError(
            f"{display_path(path)} has no column id or miou. Run 04_failure_analysis again: it writes the file anew."
        )
    items = []
    for rank, row in enumerate(table.to_dict("records"), 1):
        given = book.get(row["id"])
        row |= {"verdict": given.verdict, "note": given.note}
        row["cause"] = row.get("cause") or UNKNOWN
        numbers = {name: number(row.get(name, "")) for name in _NUMBERS}
        items.append(Item(rank, row, numbers, _nearest(row.get("nearest", ""))))
    return items


def number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _nearest(text: str) -> tuple[str, ...]:
    try:
        ids = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(i for i in ids if isinstance(i, str))[:NEAREST] if isinstance(ids, list) else ()


def read_layers(folder: Path, item: Item, classes: ClassMap, side: int) -> Layers:
    """The pictures of one failure, at most `side` pixels a side.

    Images are reduced by averaging, masks by nearest neighbour: averaging ids would invent classes.

    Raises:
        OSError, ValueError: one is missing or cannot be read; the message names it.
    """
    sample = item["id"]
    image = _open(folder, "images", sample).convert("RGB")
    size = _fit(image.size, side)
    masks = {}
    for kind in ("masks", "predictions"):
        picture = _open(folder, kind, sample)
        if picture.mode not in ("P", "L") or picture.size != image.size:
            raise ValueError(f"{kind}/{sample}.png is no mask of class ids at the image's size.")
        masks[kind] = np.asarray(picture.resize(size, Image.Resampling.NEAREST))
    truth, pred = masks.values()
    small = image.resize(size, Image.Resampling.BOX) if size != image.size else image
    return Layers(
        size, _photo(small), _colors(truth, classes), _colors(pred, classes), _errors(truth, pred), _confidence(folder, sample, size),
        _outline(folder, item, image.size, size), tuple(present(truth, pred)),
    )  # fmt: skip


def read_nearest(folder: Path, sample: str) -> str:
    """A thumbnail of a training image as a `data:` address; "" where there is none."""
    try:
        picture = _open(folder, "nearest", sample).convert("RGB")
    except (OSError, ValueError):
        return ""
    return _photo(picture.resize(_fit(picture.size, _NEAREST_SIDE), Image.Resampling.BOX))


def _open(folder: Path, kind: str, sample: str) -> Image.Image:
    path = stored_picture(folder, kind, sample)
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
            return picture
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        raise OSError(f"{kind}/{sample}.png cannot be read ({error}).") from error


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _uri(kind: str, picture: Image.Image, **options: object) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _photo(picture: Image.Image, quality: int = 78) -> str:
    kind = "WEBP" if features.check("webp") else "JPEG"
    return _uri(kind, picture, quality=quality, **({"method": 2} if kind == "WEBP" else {}))


def _confidence(folder: Path, sample: str, size: tuple[int, int]) -> str:
    """Smooth but for thin lines: looked at, not measured, so it may lose more than a photograph."""
    try:
        plane = _open(folder, "confidences", sample).convert("L")
    except (OSError, ValueError):
        return ""
    return _photo(
        Image.fromarray(confidence_map(np.asarray(plane.resize(size, Image.Resampling.BOX)))), quality=50
    )


def _indexed(index: np.ndarray, colors: list[tuple[int, ...]], transparent: bool) -> str:
    """A palette PNG: few colours take few bits a pixel, and stay exact."""
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette([v for color in colors for v in color])
    return _uri("PNG", picture, compress_level=6, **({"transparency": 0} if transparent else {}))


def _colors(mask: np.ndarray, classes: ClassMap) -> str:
    ids, palette = present(mask), classes.palette()
    place = np.zeros(256, np.uint8)
    place[ids] = np.arange(len(ids))
    return _indexed(place[mask], [tuple(palette[c].tolist()) for c in ids], transparent=False)


def _errors(truth: np.ndarray, pred: np.ndarray) -> str:
    """Orange where the prediction is wrong, hatched where nothing is scored, as `pictures.error_map` draws them."""
    index = wrong_pixels(truth, pred).astype(np.uint8)
    rows, columns = np.nonzero(truth == IGNORE)
    index[rows, columns] = np.where((rows + columns) % 8 < 2, 2, 3)
    return _indexed(index, [(0, 0, 0), ERROR, (96, 96, 96), (0, 0, 0)], transparent=True)


def _outline(folder: Path, item: Item, full: tuple[int, int], size: tuple[int, int]) -> str:
    """The outline of the suspect region, or of its box: white with a black edge, seen on any ground."""
    try:
        region = _open(folder, "suspects", item["id"]).convert("L").resize(size, Image.Resampling.NEAREST)
    except (OSError, ValueError):
        box = [number(v) for v in item["suspect_box"].split()]
        if len(box) != 4 or None in box:
            return ""
        region = Image.new("L", size)
        scale = [size[0] / full[0], size[1] / full[1]] * 2
        x0, y0, x1, y1 = (round(v * s) for v, s in zip(box, scale, strict=True))
        region.paste(
            255, (max(0, x0), max(0, y0), max(x0 + 1, min(x1, size[0])), max(y0 + 1, min(y1, size[1])))
        )
    inside = np.asarray(region) > 127
    if not inside.any():
        return ""
    zoom = max(
        1, _SHARP // max(size)
    )  # lines are pixels wide: on a small picture they would cover what they surround
    inside = inside.repeat(zoom, axis=0).repeat(zoom, axis=1)
    mask = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
    line = np.asarray(mask.filter(ImageFilter.MaxFilter(5))) > 0
    edge = np.asarray(mask.filter(ImageFilter.MaxFilter(7))) > 0
    # Drawn outside the region, which stays visible; along the picture's border there is no outside, so there inside.
    line |= inside & ~_inner(inside)
    index = np.where(line & ~_inner(inside), 1, np.where(edge & ~inside, 2, 0))
    return _indexed(index, [(0, 0, 0), (255, 255, 255), (0, 0, 0)], transparent=True)


def _inner(inside: np.ndarray) -> np.ndarray:
    """The region without what lies within two pixels of the picture's border."""
    inner = inside.copy()
    for border in (inner[:2], inner[-2:], inner[:, :2], inner[:, -2:]):
        border[...] = False
    return inner
