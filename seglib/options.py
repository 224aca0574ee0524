"""Parameters as a person gives them at a terminal: a file, or `name=value`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_file(path: Path) -> dict[str, Any]:
    """The parameters in a YAML or JSON file: one flat mapping of names to values.

    Raises:
        FileNotFoundError: no such file.
        ParameterError: not YAML, a name twice, or not a mapping.
    """
    from seglib.params import ParameterError
    from seglib.reading import UnreadableError, load_yaml

    if not path.is_file():
        raise FileNotFoundError(f"no parameter file {path}. It is YAML or JSON, such as params/camvid.yaml.")
    try:
        values = load_yaml(path.read_text(encoding="utf-8-sig"))  # JSON is YAML too
    except UnicodeDecodeError:
        raise ParameterError(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    except UnreadableError as error:
        raise ParameterError(f"{path} is not YAML{error}.") from None
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
    from seglib.params import NOTEBOOKS, ParameterError
    from seglib.reading import UnreadableError, load_yaml

    texts = {n for model in NOTEBOOKS.values() for n, field in model.model_fields.items() if field.annotation is str}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise ParameterError(f"-p {pair}: expected NAME=VALUE, such as -p epochs=3.")
        try:
            values[name.strip()] = value if name.strip() in texts else load_yaml(value)
        except UnreadableError:
            raise ParameterError(f"-p {pair}: {value!r} is not a value that YAML can read.") from None
    return values
