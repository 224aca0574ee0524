"""Parameters as a person gives them at a terminal: a file, or `name=value`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_file(path: Path) -> dict[str, Any]:
    """The parameters in a YAML or JSON file: one flat mapping of names to values.

    Raises:
        FileNotFoundError: no such file.
        ParameterError: not YAML, or not a mapping.
    """
    import yaml

    from seglib.params import ParameterError

    if not path.is_file():
        raise FileNotFoundError(f"no parameter file {path}. It is YAML or JSON, such as params/camvid.yaml.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParameterError(
            f"{path} holds {'nothing' if values is None else type(values).__name__}; expected lines `parameter: value`."
        )
    return {str(name): value for name, value in values.items()}


def read_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts -> values, read as YAML does (3, 0.1, true), except that a text parameter stays as written.

    Raises:
        ParameterError: no "=" in one of them, or a value that is not YAML.
    """
    import yaml

    from seglib.params import NOTEBOOKS, ParameterError

    texts = {n for model in NOTEBOOKS.values() for n, field in model.model_fields.items() if field.annotation is str}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise ParameterError(f"-p {pair}: expected NAME=VALUE, such as -p epochs=3.")
        try:
            values[name.strip()] = value if name.strip() in texts else yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParameterError(f"-p {pair}: {value!r} is not a value that YAML can read.") from None
    return values
