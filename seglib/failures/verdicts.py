"""A person's verdicts on failed images: `verdicts.csv`, saved at every change and never lost."""

import csv
import io
import itertools
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from seglib.runs import display_path, lock, write_text

VERDICTS = ("model wrong", "label wrong", "ambiguous", "ignore")
_COLUMNS = ["id", "verdict", "note", "time"]


class Verdict(NamedTuple):
    verdict: str = ""  # one of `VERDICTS`; "": none yet
    note: str = ""
    time: str = ""  # UTC


class VerdictBook:
    """The verdicts in one failures folder, id -> `Verdict` in `rows`; those on images that no longer fail are kept.

    A file that cannot be read completely is renamed `verdicts.csv.bak-N`, the rows that can be read are kept,
    and `problem` says so.
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
            aside = self.path.rename(next(name for name in names if not name.exists()))
            self._write(self.rows)
            kept = f"It is kept as {aside.name}; {len(self.rows)} verdicts were carried over."
            self.problem = f"{display_path(self.path)} could not be read completely. {kept}"

    def get(self, sample: str) -> Verdict:
        """Return the verdict on an image; an empty one when there is none yet."""
        return self.rows.get(sample, Verdict())

    def set(self, sample: str, verdict: str, note: str = "") -> None:
        """Set and save the verdict on an image; an empty verdict with an empty note removes it."""
        if verdict not in ("", *VERDICTS):
            raise ValueError(f"verdict {verdict!r}: expected one of {', '.join(VERDICTS)}, or an empty one.")
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
    for rows_of_too_many_cells in ("error", "skip"):
        with suppress(KeyError, ValueError):  # no such columns, or no table
            how = {"dtype": str, "keep_default_na": False, "on_bad_lines": rows_of_too_many_cells}
            table = pd.read_csv(io.StringIO(text, newline=""), **how)[_COLUMNS]
            break
    else:
        return {}, False
    good = table["verdict"].isin(["", *VERDICTS]) & (table["id"] != "") & ~table["id"].duplicated()
    whole = rows_of_too_many_cells == "error" and good.all()
    whole = whole and content in (text.encode(), text.encode("utf-8-sig"))
    return {row.id: Verdict(*row[2:]) for row in table[good].itertuples()}, whole
