"""Coverage-guided fuzzing of the readers that are pure Python: `pip install atheris`, then `python benchmarks/fuzz.py yaml -runs=100000`.

Targets: yaml (dataset.yaml), rle (Label Studio's run lengths), verdicts (verdicts.csv), parameters (`-p name=value`). It stops
at the first input that ends in anything but a result or an error of seglib's own, and writes it beside.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
with atheris.instrument_imports(include=["seglib", "yaml"]):
    from seglib.data.config import read_config
    from seglib.failures import brush, verdicts
    from seglib.options import read_parameters
    from seglib.params import check_chain

from fuzzing import works_or_refuses

FOLDER = Path(tempfile.mkdtemp())


def yaml(data: bytes) -> None:
    (FOLDER / "dataset.yaml").write_bytes(data)
    with works_or_refuses():
        _ = read_config(FOLDER / "dataset.yaml").class_map


def rle(data: bytes) -> None:
    with works_or_refuses():
        assert brush.decode(list(data), 3, 5).shape == (3, 5)


def parameters(data: bytes) -> None:
    with works_or_refuses():
        check_chain(read_parameters([data.decode("utf-8", "surrogateescape")]))


def read_verdicts(data: bytes) -> None:
    rows, unread = verdicts._parse(data)
    assert unread or all(sample and row.verdict in ("", *verdicts.VERDICTS) for sample, row in rows.items())


if __name__ == "__main__":
    target = {"yaml": yaml, "rle": rle, "parameters": parameters, "verdicts": read_verdicts}[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
