"""actions.yaml: what to change before the next training, proposed by 04, edited by a person, followed by 02.

It never takes anything out of the scores: samples are excluded from training alone, and what concerns other splits is a list of
masks for people to correct.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from seglib.data import Dataset, DatasetError, read_mapping
from seglib.params import ParameterError, Train
from seglib.runs import brief, display_path, resolve_path, write_text

TRAIN = "train"  # the one split of which samples may be excluded
AUGMENTATIONS = (
    *("flip", "scale_min", "scale_max", "rotation"),
    *("color", "blur", "blur_radius", "noise", "noise_most", "darkness", "haze"),
)
_FORM = "Delete it, and 04_failure_analysis writes one that shows the form."
_MARK = "# as written: "


class ActionsError(ValueError):
    """actions.yaml cannot be read, or does not fit the dataset."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sample(_Model):
    """A sample by its id, and why it is named; a bare id is taken too."""

    id: str
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"id": value}


class Setting(_Model):
    """A parameter of 02_train that augments (one of `AUGMENTATIONS`), its new value, and why."""

    name: str
    value: float
    reason: str = ""

    @model_validator(mode="after")
    def _is_one(self) -> Setting:
        if self.name not in AUGMENTATIONS:
            near = difflib.get_close_matches(self.name, AUGMENTATIONS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(AUGMENTATIONS)}"
            raise ValueError(f"no augmentation {self.name!r} ({hint})")
        _checked(self.name, self.value)
        return self


class Weights(_Model):
    """The value of 02_train's parameter class_weights, and why; "": as it is. A bare value is taken too."""

    value: str = ""
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"value": value}

    @field_validator("value")
    @classmethod
    def _is_one(cls, value: str) -> str:
        return _checked("class_weights", value) if value else value


def _checked(name: str, value: Any) -> Any:
    """`value` as 02_train takes it."""
    try:
        return getattr(Train.check({name: value}), name)
    except ParameterError as error:
        raise ValueError(str(error).removeprefix("Train: ")) from None


class Actions(_Model):
    """The keys of actions.yaml.

    Args:
        exclude: training samples that 02 leaves out.
        relabel: samples of any split whose masks a person should look at; a corrected mask counts by being there.
        augment: parameters of 02_train with new values.
        class_weights: of 02_train.
    """

    exclude: list[Sample] = []
    relabel: list[Sample] = []
    augment: list[Setting] = []
    class_weights: Weights = Weights()

    @model_validator(mode="before")
    @classmethod
    def _emptied(cls, values: Any) -> Any:
        # A key whose last entry was deleted holds None.
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _once(self) -> Actions:
        named = {"exclude": [s.id for s in self.exclude], "relabel": [s.id for s in self.relabel]}
        for key, names in (named | {"augment": [s.name for s in self.augment]}).items():
            if (
                twice := next((n for n in names if names.count(n) > 1), None)
                if len(set(names)) < len(names)
                else None
            ):
                raise ValueError(f"{key} names {twice!r} twice; keep one of them")
        return self

    @property
    def changes(self) -> dict[str, Any]:
        """Parameters of 02_train and their new values."""
        weights = {"class_weights": self.class_weights.value} if self.class_weights.value else {}
        return {s.name: _checked(s.name, s.value) for s in self.augment} | weights

    def trains_like(self, other: Actions) -> bool:
        """Whether both make the same training, whatever reasons they give and whatever is to be relabelled."""
        excluded = [{sample.id for sample in actions.exclude} for actions in (self, other)]
        return excluded[0] == excluded[1] and self.changes == other.changes


def read(path: str | Path) -> Actions:
    """Read actions.yaml.

    Args:
        path: a relative one starts at the project root.

    Raises:
        ActionsError: no such file, not YAML, an unknown key, an id that is no text, an augmentation or a value that 02 does not
            take; every fault is named.
    """
    path = resolve_path(path)
    where = display_path(path)
    if not path.is_file():
        raise ActionsError(
            f"no actions file at {where}: 04_failure_analysis writes one; check the parameter actions."
        )
    try:
        values = read_mapping(path, "keys such as exclude and augment", _FORM)
        return Actions(**{str(key): value for key, value in values.items()})
    except DatasetError as error:
        raise ActionsError(str(error)) from None
    except ValidationError as error:
        wrong = "; ".join(_explain(problem) for problem in error.errors())
        raise ActionsError(f"{where}: {wrong}.") from None


def _explain(problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part + 1) if isinstance(part, int) else part for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = Actions.model_fields if len(problem["loc"]) == 1 else ("id, reason; or name, value, reason",)
        return f"unknown key {brief(place)} (known: {', '.join(known)})"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{place}: {message}" if place else message
    quote = " (quote ids that are digits only)" if problem["type"] == "string_type" else ""
    return f"{place} = {brief(problem['input'])}: {message}{quote}"


def check(actions: Actions, dataset: Dataset) -> None:
    """Refuse actions that do not fit a dataset.

    Raises:
        ActionsError: samples that the dataset does not have, excluded samples of another split than train, or no training
            sample left.
    """
    splits = dict(zip(dataset.samples["id"], dataset.samples["split"], strict=True))
    for key, named in (("exclude", actions.exclude), ("relabel", actions.relabel)):
        unknown = [sample.id for sample in named if sample.id not in splits]
        if unknown:
            near = difflib.get_close_matches(unknown[0], splits, 1)
            raise ActionsError(
                f"{key} names {_some(unknown)}, which dataset {dataset.name!r} does not have"
                f"{f' (did you mean {near[0]!r}?)' if near else ''}. Correct the ids or delete the lines."
            )
    external = [f"{s.id} ({splits[s.id]})" for s in actions.exclude if splits[s.id] != TRAIN]
    if external:
        raise ActionsError(
            f"exclude names {_some(external)}: only samples of split {TRAIN!r} can be excluded, since scores without the images that "
            "fail would say nothing. Move them to relabel, or take them out of the dataset under exclude in dataset.yaml."
        )
    if actions.exclude and len(actions.exclude) == sum(split == TRAIN for split in splits.values()):
        raise ActionsError(
            f"exclude names every training sample of dataset {dataset.name!r}; none would be left."
        )


def _some(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def apply(actions: Actions, params: Train, dataset: Dataset) -> tuple[Train, Dataset]:
    """What a training that follows `actions` is given: they go before the parameters, and out go the excluded samples.

    Args:
        params: of 02_train.
        dataset: as it was loaded.

    Raises:
        ActionsError: see `check`.
    """
    check(actions, dataset)
    left = dataset.samples[~dataset.samples["id"].isin([sample.id for sample in actions.exclude])]
    return params.model_copy(update=actions.changes), replace(dataset, samples=left.reset_index(drop=True))


def follow(params: Train, dataset: Dataset) -> tuple[Train, Dataset]:
    """`apply` the file that the parameter `actions` names; without one, both as they are."""
    return apply(read(params.actions), params, dataset) if params.actions else (params, dataset)


def write(path: str | Path, actions: Actions) -> Path:
    """Write actions.yaml, with words that tell a person how to edit it.

    A file that anybody has changed since it was written is kept as it is: the new proposal then goes beside it, to actions-2.yaml
    and so on.

    Returns:
        Where it was written.
    """
    first = resolve_path(path)
    target, number = first, 1
    while target.exists() and not _untouched(target):
        number += 1
        target = first.with_name(f"{first.stem}-{number}{first.suffix}")
    text = _as_text(actions)
    return write_text(
        target, f"{text}{_MARK}{_digest(text)} (a file that no longer fits this is never overwritten)\n"
    )


def _untouched(path: Path) -> bool:
    try:
        text, mark, end = path.read_text(encoding="utf-8").rpartition(_MARK)
    except (OSError, UnicodeDecodeError):
        return False
    return bool(mark) and end.count("\n") == 1 and end.split()[0] == _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(actions: Actions) -> str:
    parts = [
        "# What to change before the next training. Edit it freely, then give its path to 02_train as the parameter `actions`.",
        "# Reasons are for people: a bare id will do. Quote ids that are digits only.",
        "",
        "# Training samples to leave out. Once the mask of one is corrected, delete its line.",
        _block("exclude", actions.exclude),
        "",
        "# Masks to look at and correct, of any split: replace the file, nothing else is needed. Nothing here changes the training,",
        "# and images of validation and test stay in the scores as they are.",
        _block("relabel", actions.relabel),
        "",
        f"# Parameters of 02_train and their new values: {', '.join(AUGMENTATIONS)}.",
        _block("augment", actions.augment),
        "",
        '# none, sqrt_inverse or median_frequency; "" leaves the parameter of 02_train as it is.',
        f"class_weights: {_flow(actions.class_weights)}",
        "",
    ]
    return "\n".join(parts)


def _block(key: str, entries: list) -> str:
    return "\n".join([f"{key}:", *(f"  - {_flow(entry)}" for entry in entries)]) if entries else f"{key}: []"


def _flow(entry: BaseModel) -> str:
    """One line, whatever the texts hold."""
    values = {k: v for k, v in entry.model_dump().items() if k != "reason" or v}
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in values.items()) + "}"


def _scalar(value: str | float) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    # Quoted always: "0042", "null" and "1e5" are names of images, and a line break in one is written as "\n".
    return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf")).strip()
