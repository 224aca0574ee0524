"""The parameters of the four notebooks: one checked model each, whose defaults are the demo."""

import difflib
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from seglib.runs import UnreadableError, brief, check_name, display_path, load_yaml, read_written

Natural = Annotated[int, Field(ge=0, lt=2**31)]  # what every library takes for a size in pixels or a seed
Count = Annotated[int, Field(ge=1, lt=2**31)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
_WEIGHTS = {"none": "none", "null": "none", "imagenet": "imagenet"}  # also None of Python, null of YAML
Weights = Annotated[str, BeforeValidator(lambda v: _WEIGHTS.get(str(v).lower(), v))]
RunName = Annotated[str, AfterValidator(check_name)]
# ram and disk, of earlier versions: the system keeps of a mapped cache what memory it has room for
Cache = Annotated[Literal["auto", "none"], BeforeValidator(lambda v: "auto" if v in ("ram", "disk") else v)]
_SCALES = r"^((0?\.[1-9]\d*|[1-3](\.\d+)?|4)([, ]+|$))*$"  # numbers from 0.1 to 4: "0.75, 1.25"
_LINES = "lines `parameter: value`, as in params/camvid.yaml"
# what seglib raises, with a suggestion
EXPECTED_ERRORS = (FloatingPointError, OSError, RuntimeError, ValueError)
_EARLIER = {"recipe": "config"}  # names in earlier versions


class ParameterError(ValueError):
    """A parameter is unknown, ill-typed or out of range."""


class Params(BaseModel):
    """Base of the notebooks' parameters: unknown names are refused, values are checked and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("expected a number")  # `flip: yes` would be 1
        return value

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Check a notebook's namespace (`globals()`): its own parameters, and values that papermill put near them.

        From here on the notebook shows an error that seglib raises as one sentence, without a traceback.
        """
        if "get_ipython" in values:
            values["get_ipython"]().set_custom_exc(EXPECTED_ERRORS, _show_error)
        plain = {n for n, v in values.items() if n[:1] != "_" and isinstance(v, str | int | float | None)}
        near = {n for n in plain if difflib.get_close_matches(n, cls.model_fields, 1, 0.8)}
        asked = {*cls.model_fields, *near, *(plain & _KNOWN), *_EARLIER}
        return cls.check({name: value for name, value in values.items() if name in asked})

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> Self:
        """Check this notebook's share of a mapping that holds parameters of others too."""
        return cls.check({name: values[name] for name in cls.model_fields if name in values})

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """Check a mapping; a ParameterError names every wrong parameter, its value and what was expected."""
        try:
            return cls(**values)
        except ValidationError as error:
            told = "; ".join(map(explain, error.errors()))
            raise ParameterError(f"{cls.__name__}: {told}") from None


def _show_error(shell: Any, kind: type, error: Exception, trace: Any, tb_offset: Any = None) -> None:
    """Show an error in IPython: in one sentence if seglib raised it, else as usual."""
    if Path(traceback.extract_tb(trace)[-1].filename).is_relative_to(Path(__file__).parent):
        error._render_traceback_ = lambda: [f"{kind.__name__}: {error}"]
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def explain(fault: Mapping[str, Any]) -> str:
    """Word one of pydantic's errors: the place, the value there, and what was expected."""
    name, value, quote = ".".join(map(str, fault["loc"])), fault["input"], ""
    if fault["type"] == "extra_forbidden":
        return f"unknown name {hint(name)}"
    # YAML makes 7 of 007, and False of off
    written = {"string_type": int | float | date, "literal_error": bool}.get(fault["type"])
    if written and isinstance(value, written):
        quote = f'; quote it as you wrote it: {name}: "..." (papermill: -r {name} ...)'
    return f"{name} = {brief(value)}: {fault['msg'].removeprefix('Value error, ')}{quote}"


def hint(name: str) -> str:
    """Show a name that is no parameter here, with its new name, its notebooks, or the parameter that it is near."""
    if name in _EARLIER:
        return f"{name!r} (is called {_EARLIER[name]!r} now)"
    if of := [notebook for notebook, model in NOTEBOOKS.items() if name in model.model_fields]:
        return f"{name!r} (of {', '.join(of)})"
    initials = [known for known in sorted(_KNOWN) if name == re.sub(r"([a-z])[a-z]*_?", r"\1", known)]
    return brief(name) + (f" (did you mean {initials[0]!r}?)" if initials else meant(name, _KNOWN))


def meant(name: str, known: Iterable[str]) -> str:
    """Suggest the most similar of other names: " (did you mean 'x'?)", or "" where none is similar."""
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != name else ""


class DataCheck(Params):
    dataset: str = "data/demo"
    config: str = ""
    examples: int = Field(8, ge=1, le=64)
    seed: Natural = 0
    near_frames: Natural = 30


class Train(Params):
    run: RunName = "demo"
    dataset: str = "data/demo"
    config: str = ""
    architecture: str = "Unet"
    encoder: str = "timm-tf_efficientnet_lite0"
    encoder_weights: Weights = "imagenet"
    epochs: Count = 30
    batch_size: Count = 14
    learning_rate: Positive = 1e-3
    class_weights: Literal["none", "sqrt_inverse", "median_frequency"] = "none"
    actions: str = ""
    resume: bool = False
    replace: str = "demo"
    encoder_lr_factor: NotNegative = 1.0
    weight_decay: NotNegative = 1e-2
    warmup_epochs: NotNegative = 1.0
    clip_norm: Positive = 1.0
    ema_decay: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patience: Natural = 0
    seed: Natural = 0
    ce_weight: NotNegative = 1.0
    dice_weight: NotNegative = 1.0
    focal_weight: NotNegative = 1.0
    long_side: Natural = 1024
    crop_height: Natural = 0
    crop_width: Natural = 0
    rare_crops: Share = 0.0
    flip: Share = 0.5
    scale_min: float = Field(0.75, gt=0, le=8)
    scale_max: float = Field(1.5, gt=0, le=8)
    rotation: float = Field(5.0, ge=0, le=180)
    color: Share = 0.3
    blur: Share = 0.1
    blur_radius: int = Field(1, ge=1, le=32)
    noise: Share = 0.1
    noise_most: float = Field(12.0, ge=2, le=128)
    darkness: Share = 0.0
    haze: Share = 0.0
    device: str = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    accelerate: bool = True
    compile: Literal["auto", "on", "off"] = "auto"
    processes: int = Field(0, ge=0, le=4096)
    threads: int = Field(0, ge=0, le=4096)
    micro_batch: Natural = 0
    cache: Cache = "auto"
    workers: int = Field(0, ge=0, le=4096)


class Evaluate(Params):
    run: RunName = "demo"
    split: str = "test"
    dataset: str = ""
    config: str = ""
    absent: Literal["truth", "union"] = "truth"
    boundary_ratio: float = Field(0.02, ge=0, le=0.5)
    flip_tta: bool = False
    scale_tta: str = Field("", pattern=_SCALES)
    adapt_norm: Share = 0.0
    tile: Natural = 0
    batch_size: Count = 14
    device: str = "auto"

    @property
    def scales(self) -> tuple[float, ...]:
        """The sizes at which each image is predicted: 1 and those of `scale_tta`, each once."""
        return tuple(dict.fromkeys([1.0, *map(float, self.scale_tta.replace(",", " ").split())]))


class Failures(Params):
    run: RunName = "demo"
    split: str = "test"
    dataset: str = ""
    threshold: Share = 0.5
    threshold_mode: Literal["absolute", "percentile", "per_class"] = "absolute"
    class_thresholds: str = ""
    before: str = ""
    browse: Literal["failures", "all"] = "failures"
    images: str = ""
    sheets: int = Field(3, ge=1, le=50)


NOTEBOOKS: dict[str, type[Params]] = {
    "01_data_check": DataCheck,
    "02_train": Train,
    "03_evaluate": Evaluate,
    "04_failure_analysis": Failures,
}
_KNOWN = {name for model in NOTEBOOKS.values() for name in model.model_fields}
OTHERS = tuple(sorted(_KNOWN - set(Train.model_fields)))  # those that 02 does not have


def read_file(path: Path, expected: str = _LINES) -> dict[str, Any]:
    """Read a YAML or JSON file of one mapping; a ParameterError names the file and what is wrong with it."""
    name = display_path(path)
    try:
        values = load_yaml(read_written(path))  # JSON is YAML
    except UnicodeDecodeError:
        raise ParameterError(f"{name} is not UTF-8 text. Save it as UTF-8.") from None
    except UnreadableError as error:
        raise ParameterError(f"{name} is not valid YAML{error}.") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{name} holds {brief(values)}; expected {expected}.")
    return {str(key): value for key, value in values.items()}


def read_parameters(pairs: Sequence[str]) -> dict[str, str]:
    """Split `name=value` texts; `check_chain` makes numbers and booleans of the values."""
    if wrong := [pair for pair in pairs if not re.match(r"\w+=", pair)]:
        raise ParameterError(f"-p {wrong[0]}: expected NAME=VALUE, such as -p epochs=3.")
    return dict(pair.split("=", 1) for pair in pairs)


def check_chain(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give each notebook its share of one flat mapping; a ParameterError names what is unknown or refused."""
    if unknown := [hint(name) for name in sorted(set(values) - _KNOWN)]:
        raise ParameterError(f"unknown parameters: {', '.join(unknown)}. Known: {', '.join(sorted(_KNOWN))}.")
    return {name: model.pick(values).model_dump(exclude_unset=True) for name, model in NOTEBOOKS.items()}
