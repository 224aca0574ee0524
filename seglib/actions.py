"""actions.yaml: what to change before the next training; proposed by 04, edited by a person, followed by 02."""

import hashlib
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from seglib.data import Dataset
from seglib.params import ParameterError, Train, explain, read_file
from seglib.runs import brief, display_path, resolve_path, write_text

TRAIN = "train"  # the one split of which samples may be excluded
Augmentation = Literal[
    *("flip", "scale_min", "scale_max", "rotation", "color"),
    *("blur", "blur_radius", "noise", "noise_most", "darkness", "haze"),
]
_MARK = "# checksum as written; an edited file is never overwritten: "
_FORM = """\
# What to change before the next training. Edit it freely, then name it in 02_train's parameter `actions`.
# exclude: training samples to leave out; once the mask of one is corrected, delete its line.
# relabel: masks to look at and correct, of any split; nothing here changes the training or the scores.
# augment: parameters of 02_train and their new values, of {names}.
# class_weights: none, sqrt_inverse or median_frequency.
# An entry of exclude or relabel may be a bare id; quote an id of digits only.

{values}"""


class _Entry(BaseModel):
    """One line of actions.yaml, with the reason for people; a bare value stands for the first field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {next(iter(cls.model_fields)): value}


class Sample(_Entry):
    id: str
    reason: str = ""


class Setting(_Entry):
    name: Augmentation
    value: float
    reason: str = ""


class Weights(_Entry):
    value: str = ""  # leaves 02's parameter class_weights as it is
    reason: str = ""


class Actions(BaseModel):
    """The keys of actions.yaml: samples to exclude and to relabel, augmentation parameters, class weights."""

    model_config = _Entry.model_config
    exclude: list[Sample] = []
    relabel: list[Sample] = []
    augment: list[Setting] = []
    class_weights: Weights = Weights()

    @property
    def excluded(self) -> set[str]:
        return {sample.id for sample in self.exclude}

    @property
    def changes(self) -> dict[str, Any]:
        """Parameters of 02_train and their new values."""
        values: dict[str, Any] = {setting.name: setting.value for setting in self.augment}
        if self.class_weights.value:
            values["class_weights"] = self.class_weights.value
        return Train.check(values).model_dump(exclude_unset=True)

    def trains_like(self, other: Self) -> bool:
        """Tell whether both make the same training; masks to relabel and reasons do not matter."""
        return self.excluded == other.excluded and self.changes == other.changes


def read(path: str | Path) -> Actions:
    """Read actions.yaml, relative to the project root; a ParameterError names every fault in it."""
    path = resolve_path(path)
    values = read_file(path, "keys such as exclude and augment, as 04_failure_analysis writes them")
    try:
        actions = Actions(**{key: value for key, value in values.items() if value is not None})
        _ = actions.changes  # raises for a value that 02 does not take
        return actions
    except ValidationError as error:
        wrong = f"{'; '.join(map(explain, error.errors()))}. Quote ids that are digits only."
    except ParameterError as error:
        wrong = str(error)
    raise ParameterError(f"{display_path(path)}: {wrong}")


def check(actions: Actions, dataset: Dataset) -> None:
    """Refuse ids that the dataset lacks, and excluded samples of other splits than train."""
    named = actions.excluded | {sample.id for sample in actions.relabel}
    if unknown := sorted(named - set(dataset.samples["id"])):
        lack = f"{len(unknown)} samples that dataset {dataset.name!r} does not have: {brief(unknown)}"
        raise ParameterError(f"actions name {lack}. Correct the ids or delete the lines.")
    if others := sorted(actions.excluded - set(dataset.split(TRAIN)["id"])):
        told = f"only samples of split {TRAIN!r} can be excluded. Move the others to relabel."
        raise ParameterError(f"exclude names {brief(others)}: {told}")


def follow(params: Train, dataset: Dataset) -> tuple[Train, Dataset]:
    """Return 02's parameters and dataset as the file that the parameter `actions` names changes them."""
    if not params.actions:
        return params, dataset
    actions = read(params.actions)
    check(actions, dataset)
    left = dataset.samples[~dataset.samples["id"].isin(actions.excluded)]
    return params.model_copy(update=actions.changes), replace(dataset, samples=left.reset_index(drop=True))


def write(path: str | Path, actions: Actions) -> Path:
    """Write actions.yaml, or actions-2.yaml (-3, ...) if a person has changed the file; return the path."""
    first = target = resolve_path(path)
    numbers = count(2)
    while target.exists() and (old := target.read_text("utf-8", "replace")) != _marked(
        old.rpartition(_MARK)[0]
    ):
        target = first.with_name(f"{first.stem}-{next(numbers)}{first.suffix}")
    empty = {"exclude": [], "relabel": [], "augment": [], "class_weights": {}}
    values = empty | actions.model_dump(exclude_defaults=True)
    style = {"default_flow_style": None, "sort_keys": False, "allow_unicode": True, "width": float("inf")}
    text = _FORM.format(names=", ".join(get_args(Augmentation)), values=yaml.safe_dump(values, **style))
    return write_text(target, _marked(text))


def _marked(text: str) -> str:
    return f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()[:16]}\n"
