"""dataset.yaml: where a dataset's images and masks lie and what its classes are, validated key by key."""

from __future__ import annotations

import difflib
import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator, model_validator

from seglib.data.classes import ClassError, ClassMap
from seglib.data.image_io import DatasetError
from seglib.runs import UnreadableError, brief, is_plain, load_yaml
from seglib.runs import check_name, read_written, display_path

FILE_NAME = "dataset.yaml"
_MOST = 16 << 20  # bytes of a YAML file that a person wrote


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Model):
    """Where the files of a split lie, or which of the samples that are found anywhere it holds.

    Args:
        images, masks: globs relative to the dataset's folder. Both may be missing where `ids` is given.
        ids: the ids of the samples that the split holds, whichever split's globs find them: a list, or a text file in the
            dataset's folder with one id a line. "": what its own globs find, less what the `ids` of others name.
        optional: may have no files at all.
    """

    images: str = ""
    masks: str = ""
    ids: str | list[str] = ""
    optional: bool = False

    @field_validator("images", "masks")
    @classmethod
    def _stays_near(cls, value: str) -> str:
        parts = PurePosixPath(_near(value)).parts if value else ()
        if parts[:1] == ("..",) and (len(parts) < 3 or re.search(r"[*?[]", parts[1])):
            raise ValueError("expected the name of a sibling folder after '../', and the files in it")
        return value

    @field_validator("ids", mode="plain")
    @classmethod
    def _file_or_list(cls, value: Any) -> str | list[str]:
        if isinstance(value, str):
            return _near(value)
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise ValueError("expected a text file or a list of ids; quote ids that are digits only")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Split:
        if self.images and self.images == self.masks:
            raise ValueError("images and masks are the same files")
        missing = [key for key in ("images", "masks") if not getattr(self, key)]
        if len(missing) == 1 or (missing and not self.ids):
            raise ValueError(f"no key {missing[0]!r}")
        return self


def _near(value: str) -> str:
    """`value` if it is a path that stays in the dataset's folder or a sibling of it."""
    parts = PurePosixPath(value).parts
    if not is_plain(value):
        raise ValueError("holds a control character, or text that UTF-8 cannot write")
    if "\\" in value or re.match(r"[A-Za-z]:", value) or value.startswith(("/", "~")):
        raise ValueError("expected a path relative to the dataset's folder, with '/' between folders")
    if ".." in parts[1:] or not parts:
        raise ValueError("expected files in the dataset's folder, or one '../' for a sibling of it")
    return value


_Byte = Annotated[StrictInt, Field(ge=0, le=255)]
_Stored = Annotated[StrictInt, Field(ge=-(2**31), lt=2**32)]  # what a picture can hold


class DatasetConfig(_Model):
    """The keys of dataset.yaml; data/README.md explains them."""

    name: str = ""
    classes: list[str]
    colors: list[tuple[_Byte, _Byte, _Byte]] = []
    ignore_ids: list[_Stored] = []
    id_map: dict[_Stored | tuple[_Byte, _Byte, _Byte], StrictInt] = {}
    splits: dict[str, Split] = Field(min_length=1)
    group: str = ""
    exclude: list[str] = []

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        return check_name(value, "dataset") if value else value

    @field_validator("classes")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        # Names become columns of tables, labels of figures and of annotation tools.
        for name in value:
            if not name or name != name.strip() or not is_plain(name):
                raise ValueError(
                    f"{brief(name)} is no name: expected text without control characters or spaces around it"
                )
        return value

    @field_validator("splits")
    @classmethod
    def _split_names(cls, value: dict[str, Split]) -> dict[str, Split]:
        if len({name.lower() for name in value}) < len(value):
            raise ValueError(f"{', '.join(value)} differ in case alone; on Windows and macOS they are one folder")
        return {check_name(name, "split"): split for name, split in value.items()}

    @field_validator("splits")
    @classmethod
    def _someone_has_files(cls, value: dict[str, Split]) -> dict[str, Split]:
        if not any(split.images for split in value.values()):
            raise ValueError("expected images and masks for at least one split: ids alone find no files")
        return value

    @field_validator("group")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            if value and "group" not in re.compile(value).groupindex:
                raise ValueError(
                    "expected a regular expression with a part (?P<group>...), and (?P<frame>...) if frames are numbered"
                )
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return value

    @cached_property
    def class_map(self) -> ClassMap:
        colors = np.array(self.colors, np.uint8).reshape(-1, 3)
        return ClassMap(tuple(self.classes), colors, tuple(self.ignore_ids), self.id_map)


def read_mapping(path: Path, expected: str, suggestion: str) -> dict:
    """The keys and values of a YAML file that a person wrote, in safe YAML without doubled keys.

    Args:
        path: of the file.
        expected: what it should hold, for errors: "keys such as classes and splits".
        suggestion: where its form is explained, a sentence.

    Raises:
        DatasetError: check "config": not UTF-8, not YAML (with line and column), no mapping.
    """
    where = display_path(path)
    if path.stat().st_size > _MOST:
        detail = f"{where} is larger than {_MOST >> 20} MiB; expected {expected}."
        raise DatasetError(detail, "config", f"Put long lists of ids into text files. {suggestion}")
    try:
        values = load_yaml(read_written(path))
    except UnicodeDecodeError:
        raise DatasetError(f"{where} is not UTF-8 text. Save it as UTF-8.", "config") from None
    except UnreadableError as error:
        raise DatasetError(f"{where} is not valid YAML{error}. Correct it; {suggestion}", "config") from None
    if not isinstance(values, dict):
        what = "empty" if values is None else "no mapping"
        raise DatasetError(f"{where} is {what}; expected {expected}. {suggestion}", "config")
    return values


def read_config(path: Path) -> DatasetConfig:
    where = display_path(path)
    values = read_mapping(path, "keys such as classes and splits", "data/README.md shows the form.")
    if values.get("classes") == []:
        raise DatasetError(f"{where}: 0 classes; name at least two under classes.", "classes")
    try:
        config = DatasetConfig(**{str(key): value for key, value in values.items()})
        _ = config.class_map
    except ClassError as error:
        raise DatasetError(f"{where}: {error}", "classes") from None
    except ValidationError as error:
        # A union reports each of its members; one line a place is enough.
        wrong = {_place(p["loc"]): _explain_key(p) for p in reversed(error.errors())}
        raise DatasetError(
            f"{where}: {'; '.join(reversed(wrong.values()))}. Correct it; data/README.md shows the form.", "config"
        ) from None
    return config


def _place(loc: tuple) -> str:
    return ".".join(
        str(part)
        for part in loc
        if not str(part).startswith(("constrained", "tuple[")) and part not in ("int", "[key]")
    )


def _explain_key(problem: Any) -> str:
    loc, known = problem["loc"], list(DatasetConfig.model_fields)
    if problem["type"] in ("extra_forbidden", "missing"):
        inside = ".".join(map(str, loc[:-1]))
        known = list(Split.model_fields) if inside else known
        of = f" in {inside}" if inside else ""
        if problem["type"] == "missing":
            return f"no key {loc[-1]!r}{of}"
        loc = (*loc[:-1], brief(loc[-1]).strip("'"))
        near = difflib.get_close_matches(str(loc[-1]), known, 1)
        return f"unknown key {loc[-1]!r}{of}" + (
            f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(known)})"
        )
    quote = (
        "; quote it"
        if problem["type"] == "string_type" and not isinstance(problem["input"], (list, dict, type(None)))
        else ""
    )
    return f"{_place(loc)} = {brief(problem['input'])}: {problem['msg'].removeprefix('Value error, ')}{quote}"
