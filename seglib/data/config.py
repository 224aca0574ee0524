"""dataset.yaml: where a dataset's images and masks lie and what its classes are, validated key by key."""

import hashlib
import os
import re
from contextlib import suppress
from datetime import date
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pydantic
from pydantic import AfterValidator, BaseModel, Field, StrictInt

from seglib.data.classes import ClassMap, DatasetError
from seglib.params import ParameterError, meant, read_file
from seglib.runs import brief, check_name, display_path, is_plain

FILE_NAME = "dataset.yaml"
_GENERAL = "images?|imgs|data|datasets?|train(ing)?|masks|labels|export|new"
_Byte = Annotated[StrictInt, Field(ge=0, le=255)]
_Band = Annotated[StrictInt, Field(ge=1)]  # counted from 1, as GIS tools do
_Stored = Annotated[StrictInt, Field(ge=-(2**31), lt=2**32)]  # what a mask file can hold


class Split(BaseModel):
    """Where the files of a split lie, or which of all samples it holds."""

    model_config: ClassVar = {"extra": "forbid", "frozen": True}
    images: str = ""  # globs relative to the dataset's folder; both may be missing where `ids` is given
    masks: str = ""
    ids: list[str] | str = ""  # or a text file with one a line; "": what no other split's `ids` name
    optional: bool = False  # may have no files at all

    @pydantic.field_validator("images", "masks", "ids")
    @classmethod
    def _is_relative(cls, value: str | list[str]) -> str | list[str]:
        if value == []:
            raise ValueError("expected a text file or a list of ids")
        if not isinstance(value, str) or not value:
            return value
        inside = PurePosixPath(re.sub(r"^\.\./(?!\.\./)[^/*?[]+/", "", value)).parts
        if not inside or ".." in inside or not is_plain(value) or re.match(r".*\\|[A-Za-z]:|/|~", value):
            raise ValueError("expected a path relative to the dataset's folder, or one '../' for a sibling")
        if re.search(r"\{.*,.*}", value):
            raise ValueError("braces are no wildcards; expected * in their place")
        return value

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if self.images and self.images == self.masks:
            raise ValueError("images and masks are the same files")
        missing = [key for key in ("images", "masks") if not getattr(self, key)]
        if len(missing) == 1 or (missing and not self.ids):
            raise ValueError(f"no key {missing[0]!r}")
        return self


def _are_names(classes: list[str]) -> list[str]:
    for name in classes:  # they become columns of tables and labels of figures
        if not name or name != name.strip() or not is_plain(name):
            raise ValueError(f"{brief(name)} is no name: expected text without control characters")
    return classes


def _are_splits(splits: dict[str, Split]) -> dict[str, Split]:
    if len({name.lower() for name in splits}) < len(splits):
        raise ValueError(f"{list(splits)} differ in case alone; on Windows and macOS they are one folder")
    if not any(split.images for split in splits.values()):
        raise ValueError("expected images and masks for at least one split: ids alone find no files")
    return {check_name(name, "split"): split for name, split in splits.items()}


def _is_a_pattern(group: str) -> str:
    try:
        named = re.compile(group).groupindex
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from None
    if group and "group" not in named:
        raise ValueError("expected a pattern with (?P<group>...), and (?P<frame>...) for frame numbers")
    return group


def _rises(ends: tuple[float, float]) -> tuple[float, float]:
    if not -np.inf < ends[0] < ends[1] < np.inf:
        raise ValueError("expected [lowest, highest]: the values that become 0 and 255")
    return ends


class DatasetConfig(BaseModel):
    """The keys of dataset.yaml; data/README.md explains them."""

    model_config: ClassVar = {"extra": "forbid", "frozen": True}
    name: Annotated[str, AfterValidator(lambda name: name and check_name(name, "dataset"))] = ""
    classes: Annotated[list[str], AfterValidator(_are_names)]
    colors: list[tuple[_Byte, _Byte, _Byte]] = []
    ignore_ids: list[_Stored] = []
    id_map: dict[_Stored | tuple[_Byte, _Byte, _Byte], StrictInt] = {}
    splits: Annotated[dict[str, Split], Field(min_length=1), AfterValidator(_are_splits)]
    group: Annotated[str, AfterValidator(_is_a_pattern)] = ""
    exclude: list[str] = []
    limit: Annotated[StrictInt, Field(ge=0)] = 0
    channels: tuple[_Band, _Band, _Band] | None = None
    range: Annotated[tuple[float, float], AfterValidator(_rises)] | None = None
    exif: bool | None = None
    snap: bool = False

    @cached_property
    def class_map(self) -> ClassMap:
        """The classes and how mask files write them."""
        colors = np.array(self.colors, np.uint8).reshape(-1, 3)
        return ClassMap(tuple(self.classes), colors, tuple(self.ignore_ids), self.id_map, self.snap)


def dataset_name(root: Path) -> str:
    """Derive a name for folders of results from a dataset's folder, and from its parent's too where it says little.

    What a name cannot have becomes "-"; where that loses letters, digits of a digest tell such names apart.
    """
    folder = root.resolve()
    text = f"{folder.parent.name}-{folder.name}" if re.fullmatch(_GENERAL, folder.name, re.I) else folder.name
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text[:70]).strip("-._")
    with suppress(ValueError):
        if text.isascii() and len(text) <= 70:
            return check_name(name)
    return f"dataset-{name}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:4]}".replace("--", "-")


def read_config(path: Path) -> DatasetConfig:
    """Read dataset.yaml; a `DatasetError` (check "config" or "classes") names every wrong key."""
    name, check = display_path(path), "config"
    try:
        config = DatasetConfig(**read_file(path, "keys such as classes and splits"))
        _ = config.class_map
        return config
    except ParameterError as error:
        told = str(error)
    except DatasetError as error:
        told, check = f"{name}: {error}", "classes"
    except pydantic.ValidationError as error:
        wrong: dict[str, str] = {}
        for problem in error.errors():  # those of a union's members differ in the end of their places
            place = ".".join(map(str, problem["loc"]))
            place = re.sub(r"\.(int|str|list\[|constrained|tuple\[|\[key]).*", "", place)
            wrong.setdefault(place, _explain(problem, place))
        told = f"{name}: {'; '.join(wrong.values())}."
    raise DatasetError(told, check, "data/README.md shows the form.")


def _explain(problem: Any, place: str) -> str:
    if problem["type"] == "missing":
        return f"no key {place!r}"
    if problem["type"] == "extra_forbidden":
        inside, _, last = place.rpartition(".")
        known = list(Split.model_fields if inside else DatasetConfig.model_fields)
        hint = meant(last, known) or f" (known: {', '.join(known)})"
        return f"unknown key {brief(last)}{f' in {inside}' * bool(inside)}{hint}"
    bent = problem["type"] == "string_type" and isinstance(problem["input"], int | float | date)
    return f"{place} = {brief(problem['input'])}: {problem['msg'].removeprefix('Value error, ')}{'; quote it' * bent}"
