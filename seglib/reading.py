"""Reading what people and other programs wrote: YAML, tables, names. Whole and safe, or an error that names it.

Nothing read here runs code, and what an error shows of a value is short, however large the value is.
"""

from __future__ import annotations

import reprlib
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seglib.runs import display_path

if TYPE_CHECKING:
    import pandas as pd

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 2, 4, 200, 200


class UnreadableError(ValueError):
    """A file or a text is not what it should be; says what is wrong with it."""


def brief(value: Any) -> str:
    """`repr`, cut where it grows long: a few lines of YAML with aliases stand for a list of a billion items."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to write numbers of thousands of digits
        return f"a huge {type(value).__name__}"


def is_plain(text: str) -> bool:
    """Whether a name can stand in a table, a page and a terminal: UTF-8 can write it, and it has no control character."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which [r, g, b] may be a key and no key may stand twice; merge keys, which can grow without bound, are none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            key = tuple(key) if isinstance(key, list) else key
            if not isinstance(key, (str, int, float, tuple)) or key in mapping:
                raise yaml.MarkedYAMLError(
                    problem=f"key {brief(key)} stands twice or is no key", problem_mark=key_node.start_mark
                )
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    # JSON writes characters beyond 16 bits as two halves, which PyYAML leaves apart.
    text = loader.construct_scalar(node)
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:  # one half alone
        return text


_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def load_yaml(text: str) -> Any:
    """What a YAML (or JSON) text says, as plain data.

    Raises:
        UnreadableError: " at line 3, column 7: the reason", to stand behind the name of the thing.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # nosec B506  # a SafeLoader
    except RecursionError:
        raise UnreadableError(": nested too deeply") from None
    except (
        Exception
    ) as error:  # PyYAML's constructors raise ValueError, KeyError, AttributeError, ... on odd scalars
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise UnreadableError(f"{line}: {reason[:200]}") from None


def read_table(path: str | Path, **options: Any) -> pd.DataFrame:
    """A CSV file; by default every cell as text, nothing taken for a missing value, since an image may be called "NA" or "0042".

    Args:
        path: of the file.
        options: of `pandas.read_csv`, in place of the default.

    Raises:
        FileNotFoundError: there is none. UnreadableError: empty, no UTF-8, or rows of different lengths.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, **(options or {"dtype": str, "keep_default_na": False}))
    except (
        ValueError,
        OverflowError,
    ) as error:  # EmptyDataError, ParserError and UnicodeDecodeError are ValueErrors
        reason = " ".join(str(error).split())
        raise UnreadableError(
            f"{display_path(path)} is no table that can be read ({reason[:200]}). Run the notebook that writes it again."
        ) from None
    return table if options else table.fillna("")  # the rest of a row that ends early
