"""The parameters of the four notebooks: one validated model each, whose defaults are the demo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from seglib.runs import UnreadableError, brief, check_name, load_yaml, read_written

_MOST = 2**31 - 1  # what every library takes for a count, a size in pixels or a seed


class ParameterError(ValueError):
    """A parameter is unknown, ill-typed or out of range."""


class Params(BaseModel):
    """Base of the notebooks' parameters: unknown names are refused, values are checked and never changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Validate a notebook's namespace (`globals()`) right after its parameters cell; other names are passed over."""
        return cls.check({name: values[name] for name in cls.model_fields if name in values})

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """Validate a mapping.

        Raises:
            ParameterError: names every wrong parameter, its value and what was expected.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            wrong = "; ".join(_explain(cls, problem) for problem in error.errors())
            raise ParameterError(f"{cls.__name__}: {wrong}") from None

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_truths(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1: `epochs: yes` would train for one epoch.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("expected a number")
        return value

    @field_validator("run", check_fields=False)
    @classmethod
    def _run_is_a_name(cls, value: str) -> str:
        return check_name(value)


def _explain(model: type[Params], problem: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "values"
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {brief(name)} (known: {', '.join(model.model_fields)})"
    return f"{name} = {brief(problem['input'])}: {problem['msg']}"


class DataCheck(Params):
    """01_data_check."""

    dataset: str = "data/demo"
    config: str = ""
    examples: int = Field(8, ge=1, le=64)
    seed: int = Field(0, ge=0, le=_MOST)
    near_frames: int = Field(30, ge=0, le=_MOST)


class Train(Params):
    """02_train."""

    run: str = "demo"
    dataset: str = "data/demo"
    config: str = ""
    actions: str = ""
    resume: bool = False
    architecture: str = "Unet"
    encoder: str = "timm-tf_efficientnet_lite0"
    encoder_weights: str = "imagenet"
    epochs: int = Field(30, ge=1, le=_MOST)
    batch_size: int = Field(14, ge=1, le=_MOST)
    learning_rate: float = Field(1e-3, gt=0)
    encoder_lr_factor: float = Field(1.0, ge=0)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    freeze_epochs: int = Field(0, ge=0, le=_MOST)
    patience: int = Field(0, ge=0, le=_MOST)
    ce_weight: float = Field(1.0, ge=0)
    dice_weight: float = Field(1.0, ge=0)
    focal_weight: float = Field(1.0, ge=0)
    class_weights: Literal["none", "sqrt_inverse", "median_frequency"] = "none"
    long_side: int = Field(1024, ge=0, le=_MOST)
    crop_height: int = Field(0, ge=0, le=_MOST)
    crop_width: int = Field(0, ge=0, le=_MOST)
    flip: float = Field(0.5, ge=0, le=1)
    scale_min: float = Field(0.75, gt=0, le=8)
    scale_max: float = Field(1.5, gt=0, le=8)
    rotation: float = Field(5.0, ge=0, le=180)
    color: float = Field(0.3, ge=0, le=1)
    blur: float = Field(0.1, ge=0, le=1)
    blur_radius: int = Field(1, ge=1, le=32)
    noise: float = Field(0.1, ge=0, le=1)
    noise_most: float = Field(12.0, ge=2, le=128)
    darkness: float = Field(0.0, ge=0, le=1)
    haze: float = Field(0.0, ge=0, le=1)
    device: str = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    processes: int = Field(0, ge=0, le=4096)
    threads: int = Field(0, ge=0, le=4096)
    micro_batch: int = Field(0, ge=0, le=_MOST)
    cache: Literal["auto", "ram", "disk", "none"] = "auto"
    workers: int = Field(0, ge=0, le=4096)
    track: Literal["csv", "tensorboard", "wandb"] = "csv"
    seed: int = Field(0, ge=0, le=_MOST)


class Evaluate(Params):
    """03_evaluate."""

    run: str = "demo"
    split: str = "test"
    absent: Literal["truth", "union"] = "truth"
    boundary_ratio: float = Field(0.02, ge=0, le=0.5)
    flip_tta: bool = False
    scale_tta: str = ""
    tile: int = Field(0, ge=0, le=_MOST)
    batch_size: int = Field(14, ge=1, le=_MOST)
    device: str = "auto"
    seed: int = Field(0, ge=0, le=_MOST)

    @field_validator("scale_tta")
    @classmethod
    def _scales_are_numbers(cls, value: str) -> str:
        for part in value.replace(",", " ").split():
            try:
                fine = 0.1 <= float(part) <= 4
            except ValueError:
                fine = False
            if not fine:
                raise ValueError(
                    f"{part!r} is no scale; expected numbers from 0.1 to 4 such as '0.75, 1.25', or nothing"
                )
        return value

    @property
    def scales(self) -> tuple[float, ...]:
        """The sizes at which each image is predicted: 1 and those of `scale_tta`, each once."""
        return tuple(dict.fromkeys([1.0, *map(float, self.scale_tta.replace(",", " ").split())]))


class Failures(Params):
    """04_failure_analysis."""

    run: str = "demo"
    split: str = "test"
    threshold: float = Field(0.5, ge=0, le=1)
    threshold_mode: Literal["absolute", "percentile", "per_class"] = "absolute"
    class_thresholds: str = ""
    before: str = ""
    sheets: int = Field(3, ge=1, le=50)


NOTEBOOKS: dict[str, type[Params]] = {
    "01_data_check": DataCheck,
    "02_train": Train,
    "03_evaluate": Evaluate,
    "04_failure_analysis": Failures,
}

# Parameters that 02 does not know.
OTHERS = tuple(
    dict.fromkeys(
        n for model in NOTEBOOKS.values() for n in model.model_fields if n not in Train.model_fields
    )
)


def read_file(path: Path) -> dict[str, Any]:
    """The parameters in a YAML or JSON file: one flat mapping of names to values.

    Raises:
        FileNotFoundError: no such file.
        ParameterError: not YAML, a name twice, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no parameter file {path}. It is YAML or JSON, such as params/camvid.yaml.")
    try:
        text = read_written(path)
    except UnicodeDecodeError:
        raise ParameterError(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    try:
        values = json.loads(text)  # YAML would take 1e-05 for text, and an emoji's escape for two characters
    except (ValueError, RecursionError):
        try:
            values = load_yaml(text)
        except UnreadableError as error:
            raise ParameterError(f"{path} is not YAML{error}.") from None
    if not isinstance(values, dict):
        raise ParameterError(
            f"{path} holds {'nothing' if values is None else type(values).__name__}; expected lines `parameter: value`."
        )
    return {str(name): value for name, value in values.items()}


def check_chain(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """One flat mapping of parameters -> the share of each notebook, all validated before anything starts.

    Raises:
        ParameterError: a name that no notebook knows, or a value that one refuses.
    """
    known = {name for model in NOTEBOOKS.values() for name in model.model_fields}
    unknown = sorted(set(values) - known)
    if unknown:
        import difflib

        hints = [
            brief(n) + "".join(f" (did you mean {m!r}?)" for m in difflib.get_close_matches(n, known, 1))
            for n in unknown
        ]
        raise ParameterError(f"unknown parameters: {', '.join(hints)}. Known: {', '.join(sorted(known))}.")
    shares = {}
    for notebook, model in NOTEBOOKS.items():
        given = {name: values[name] for name in model.model_fields if name in values}
        checked = model.check(given)
        shares[notebook] = {name: getattr(checked, name) for name in given}
    return shares
