"""A person's verdicts on failed images: `verdicts.csv`, saved at every change and never lost."""

import codecs
import csv
import io
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from seglib.runs import display_path, lock, write_text

VERDICTS = ("model wrong", "label wrong", "ambiguous", "ignore")
LONGEST = 100_000  # characters of a note: CSV readers take no cell of more than 131,072
_COLUMNS = ["id", "verdict", "note", "time"]


class Verdict(NamedTuple):
    """What a person says about one image: one of `VERDICTS` or "" (none yet), a note, the time (UTC)."""

    verdict: str = ""
    note: str = ""
    time: str = ""


class VerdictBook:
    """The verdicts in one failures folder, id -> `Verdict` in `rows`; those on images that no longer fail are kept.

    A file that cannot be read completely is renamed `verdicts.csv.bak-N`, the rows that can be read are kept,
    and `problem` says so.

    Args:
        path: the CSV file with the columns id, verdict, note, time; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.problem = Path(path), ""
        self.rows: dict[str, Verdict] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again; where it is gone, what is in memory stays and is written with the next verdict."""
        if not self.path.is_file():
            return
        self.rows, whole = _parse(self.path.read_bytes())
        if not whole:
            names = (self.path.with_name(f"{self.path.name}.bak-{n}") for n in itertools.count(1))
            aside = next(name for name in names if not name.exists())
            os.replace(self.path, aside)
            self._write(self.rows)
            told = (
                f"{display_path(self.path)} could not be read completely: expected UTF-8, a row an image and"
            )
            kept = (
                f"It is kept as {aside.name}; {len(self.rows)} verdicts were carried over. Compare the two."
            )
            self.problem = f"{told} the columns {', '.join(_COLUMNS)}. {kept}"

    def get(self, sample: str) -> Verdict:
        """Return the verdict on an image; an empty one when there is none yet."""
        return self.rows.get(sample, Verdict())

    def set(self, sample: str, verdict: str, note: str = "") -> None:
        """Set and save the verdict on an image; an empty verdict with an empty note removes it."""
        if verdict not in ("", *VERDICTS):
            raise ValueError(f"verdict {verdict!r}: expected one of {', '.join(VERDICTS)}, or an empty one.")
        if len(note) > LONGEST:
            raise ValueError(f"a note of {len(note):,} characters: expected at most {LONGEST:,}.")
        with lock(self.path.with_name(".verdicts"), "saving a verdict", wait=10.0):
            self.reload()  # another browser may have written: change one row, keep the others
            now = datetime.now(UTC).isoformat(timespec="seconds")
            rows = self.rows | {sample: Verdict(verdict, note, now)}
            if not verdict and not note:
                del rows[sample]
            self._write(rows)
            self.rows = rows

    def _write(self, rows: dict[str, Verdict]) -> None:
        table = pd.DataFrame([(sample, *row) for sample, row in rows.items()], columns=_COLUMNS)
        # all quoted: an unquoted carriage return in a note would end its row
        write_text(self.path, table.to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator="\n"))


def _parse(content: bytes) -> tuple[dict[str, Verdict], bool]:
    """Return the rows that can be read, and whether that is all of them."""
    text = content.decode("utf-8-sig", "replace")  # -sig: spreadsheets write a byte order mark
    reader, rows = csv.DictReader(io.StringIO(text, newline="")), {}
    try:
        whole = text.encode() == content.removeprefix(codecs.BOM_UTF8)
        whole &= {"id", "verdict"} <= set(reader.fieldnames or ())
        for line in reader:
            given = Verdict(*(line.get(name, "") for name in _COLUMNS[1:]))
            fits = None not in (*line, *line.values()) and given.verdict in ("", *VERDICTS)
            if fits and line.get("id") and line["id"] not in rows:
                rows[line["id"]] = given
            else:
                whole = False
    except csv.Error:  # a cell of more than 131,072 characters
        whole = False
    return rows, whole
