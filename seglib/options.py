"""Parameters as a person gives them at a terminal: `name=value`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def read_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts -> values, read as YAML does (3, 0.1, true), except that a text parameter stays as written.

    Raises:
        ParameterError: no "=" in one of them, or a value that is not YAML.
    """
    from seglib.params import NOTEBOOKS, ParameterError
    from seglib.runs import UnreadableError, load_yaml

    texts = {
        n
        for model in NOTEBOOKS.values()
        for n, field in model.model_fields.items()
        if field.annotation is str
    }
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
