"""A person's verdicts on failed images: `verdicts.csv`, saved at every change and never lost."""

from __future__ import annotations

import csv
import io
import itertools
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from seglib.runs import atomic_path, display_path, lock

VERDICTS = ("model wrong", "label wrong", "ambiguous", "ignore")
LONGEST = 100_000  # characters of a note: CSV readers take no cell of more than 131,072
_COLUMNS = ["id", "verdict", "note", "time"]


class Verdict(NamedTuple):
    """What a person says about one image: one of `VERDICTS` or "" (none yet), a note, the time (UTC)."""

    verdict: str = ""
    note: str = ""
    time: str = ""


@dataclass
class VerdictBook:
    """The verdicts in one failures folder, id -> `Verdict`; those on images that no longer fail are kept.

    A file that cannot be read completely is renamed `verdicts.csv.bak-N`, the rows that can be read are kept,
    and `problem` says so.

    Args:
        path: the CSV file with the columns id, verdict, note, time; it need not exist.
    """

    path: Path
    problem: str = field(default="", init=False)
    rows: dict[str, Verdict] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.reload()

    def reload(self) -> None:
        """Read the file again; where it is gone, what is in memory stays and is written with the next verdict."""
        self.rows, unread = _parse(self.path.read_bytes()) if self.path.is_file() else (self.rows, "")
        if unread:
            names = (self.path.with_name(f"{self.path.name}.bak-{n}") for n in itertools.count(1))
            aside = next(name for name in names if not name.exists())
            os.replace(self.path, aside)
            self._write(self.rows)
            told = f"{display_path(self.path)} could not be read completely ({unread})"
            kept = f"It is kept as {aside.name}; {len(self.rows)} verdicts were carried over"
            self.problem = f"{told}. {kept}. Compare the two."

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
            rows = dict(self.rows)
            rows[sample] = Verdict(verdict, note, datetime.now(UTC).isoformat(timespec="seconds"))
            if not verdict and not note:
                del rows[sample]
            self._write(rows)
            self.rows = rows

    def _write(self, rows: dict[str, Verdict]) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            # All quoted: an unquoted carriage return in a note would end its row.
            writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows((sample, *row) for sample, row in rows.items())


def _parse(content: bytes) -> tuple[dict[str, Verdict], str]:
    """Return the rows that can be read, and in words what could not be."""
    text = content.decode("utf-8-sig", "replace")  # -sig: spreadsheets write a byte order mark
    rows, whole = {}, text.encode() == content.removeprefix(b"\xef\xbb\xbf")
    problem = "" if whole else "it is not UTF-8"
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if not {"id", "verdict"} <= set(reader.fieldnames or ()):
            problem = f"no header with the columns {', '.join(_COLUMNS)}"
        for line in reader:
            given = Verdict(*(line.get(name, "") for name in _COLUMNS[1:]))
            odd = None in (*line, *line.values()) or given.verdict not in ("", *VERDICTS)
            if odd or not line.get("id") or line["id"] in rows:
                problem = "not every row has an id of its own, a verdict, a note and a time"
            else:
                rows[line["id"]] = given
    except csv.Error as error:  # a cell of more than 131,072 characters
        problem = str(error)
    return rows, problem
