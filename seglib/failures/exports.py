"""Failures as tables for other programs and for people's spreadsheets, and which samples go back to the annotators."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd

from seglib.failures import label_errors
from seglib.failures.verdicts import VerdictBook
from seglib.runs import read_table, write_json, write_text

_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "＝",
    "＋",
    "－",
    "＠",
)  # spreadsheets run what begins with these


def write_records(path: str | Path, table: pd.DataFrame) -> Path:
    """A table (failures.csv, suspects.csv) as a JSON list of one object a row.

    What is missing or not a number is null; `nearest` becomes a list of ids and `suspect_box` a list of four integers.
    """
    plain = table.astype(object).where(table.notna(), None)
    records = plain.to_dict("records")
    for record in records:
        if "nearest" in record:
            record["nearest"] = json.loads(record["nearest"] or "[]")
        if "suspect_box" in record:
            record["suspect_box"] = [int(v) for v in (record["suspect_box"] or "").split()] or None
    return write_json(path, records)


def write_spreadsheet(path: str | Path, table: pd.DataFrame) -> Path:
    """A copy of a table for people who open it in a spreadsheet: no cell of it is run as a formula.

    The CSV files of a run are read by programs and keyed by id, so ids and notes stand in them as they are. Spreadsheets
    take text that begins with = + - @ or white space for a formula, which a file name may well do. In this copy such text
    gets an apostrophe in front, and so does text that begins with one: `read_spreadsheet` takes exactly one away, and
    every cell comes back unharmed. Numbers are left alone. UTF-8 with a byte order mark, which spreadsheets want.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow([_guarded(str(name)) for name in table.columns])
    plain = table.astype(object).where(table.notna(), "")
    writer.writerows(
        [_guarded(v) if isinstance(v, str) else v for v in row] for row in plain.itertuples(index=False)
    )
    return write_text(path, "\ufeff" + stream.getvalue())


def read_spreadsheet(path: str | Path) -> pd.DataFrame:
    """A table that `write_spreadsheet` wrote, every cell as text, as it was before."""
    lines = list(csv.reader(io.StringIO(Path(path).read_text(encoding="utf-8-sig"), newline="")))
    rows = [[cell[1:] if cell.startswith("'") else cell for cell in line] for line in lines]
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=object)


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def to_relabel(folder: Path, min_score: float = label_errors.SURE) -> list[str]:
    """The samples of a failures folder whose labels should be looked at again, most suspicious first.

    Args:
        folder: failures/<split>; files that are missing there count as empty.
        min_score: labels at least this suspicious (suspects.csv, `label_score` in 0-1).

    Returns:
        ids: the verdict "label wrong" first, in the order given; then images with `min_score` or the cause "label error".
        What a person called "model wrong" or "ignore" is left out: the person has looked.
    """
    book = VerdictBook(Path(folder) / "verdicts.csv")
    ids = [sample for sample, row in book.rows.items() if row.verdict == "label wrong"]
    suspects, failures = (_table(Path(folder) / f"{name}.csv") for name in ("suspects", "failures"))
    if "label_score" in suspects:
        scores = pd.to_numeric(suspects["label_score"], errors="coerce")
        order = scores[scores >= min_score].sort_values(ascending=False, kind="stable").index
        ids += suspects.loc[order, "id"].tolist()
    if "cause" in failures:
        ids += failures.loc[failures["cause"] == "label error", "id"].tolist()
    settled = {i for i, row in book.rows.items() if row.verdict in ("model wrong", "ignore")}
    return [i for i in dict.fromkeys(ids) if i not in settled]


def _table(path: Path) -> pd.DataFrame:
    return read_table(path) if path.is_file() else pd.DataFrame({"id": []})
