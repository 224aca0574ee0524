"""A person's verdicts on failed images: `verdicts.csv`, saved at every change and never lost."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from seglib.runs import StorageError, atomic_path, display_path, lock

VERDICTS = ("model wrong", "label wrong", "ambiguous", "ignore")
_PATIENCE = 10.0  # seconds to wait for another browser that saves
LONGEST = 100_000  # characters of a note: more than 131,072 in one cell, no CSV reader takes
_COLUMNS = ("id", "verdict", "note", "time")


@dataclass(frozen=True)
class Verdict:
    """What a person says about one image: one of `VERDICTS` or "" (none yet), a note, and when (ISO 8601, UTC)."""

    verdict: str = ""
    note: str = ""
    time: str = ""


@dataclass
class VerdictBook:
    """The verdicts in one failures folder, id -> `Verdict`. Read back when it is opened again.

    Verdicts on images that no longer fail are kept. A file that cannot be read wholly is renamed `verdicts.csv.bak-N`
    and the rows that can be read are carried over; `problem` then says so.

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
        """Read the file again; nothing is in it, nothing is known."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            if self.rows and not self.path.parent.is_dir():
                raise StorageError(
                    f"the failures folder {display_path(self.path.parent)} vanished (deleted, moved, or on a disk that is gone). Its "
                    f"{len(self.rows)} verdicts are still in memory: bring the folder back before you go on."
                ) from None
            self.rows = {}
            return
        self.rows, unread = _parse(data)
        if unread:
            aside = self._keep_aside()
            self.problem = (
                f"{display_path(self.path)} could not be read wholly ({unread}). It is kept as {aside.name}; "
                f"{len(self.rows)} verdicts were carried over. Compare the two if any are missing."
            )
            if self.rows:
                self._write()

    def get(self, sample: str) -> Verdict:
        """The verdict on an image; an empty one when there is none yet."""
        return self.rows.get(sample, Verdict())

    def set(self, sample: str, verdict: str, note: str = "") -> None:
        """Set and save the verdict on an image; an empty verdict with an empty note removes it.

        Raises:
            ValueError: an unknown verdict, a note beyond `LONGEST`, or text that UTF-8 cannot write (half a surrogate pair).
            OSError: the file cannot be written; the verdict is not recorded then.
        """
        if verdict not in ("", *VERDICTS):
            raise ValueError(f"verdict {verdict!r}: expected one of {', '.join(VERDICTS)}, or an empty one.")
        if len(note) > LONGEST:
            raise ValueError(
                f"a note of {len(note):,} characters: expected at most {LONGEST:,}. It is not saved."
            )
        if not self.path.parent.is_dir():
            self.reload()
        with lock(self.path.with_name(".verdicts"), "saving a verdict", wait=_PATIENCE):
            self._change(sample, verdict, note)

    def _change(self, sample: str, verdict: str, note: str) -> None:
        self.reload()  # another browser may have written meanwhile: change one row, keep the others
        before = dict(self.rows)
        if verdict or note:
            self.rows[sample] = Verdict(verdict, note, datetime.now(UTC).isoformat(timespec="seconds"))
        else:
            self.rows.pop(sample, None)
        try:
            self._write()
        except (OSError, ValueError):  # ValueError: a character that UTF-8 cannot write
            self.rows = before
            raise

    def _write(self) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            # All quoted: an unquoted carriage return in a note would end its row.
            writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows((sample, row.verdict, row.note, row.time) for sample, row in self.rows.items())

    def _keep_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.bak-{number}")).exists():
            number += 1
        os.replace(self.path, aside)
        return aside


def _lines(text: str) -> tuple[list[list[str]], int]:
    """The rows of a CSV text, and how many could not be told apart."""
    lines, refused = [], 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            lines.append(next(reader))
        except StopIteration:
            return lines, refused
        except csv.Error:
            refused += 1


def _parse(data: bytes) -> tuple[dict[str, Verdict], str]:
    """The rows that can be read, and what could not be ("" if all could)."""
    # utf-8-sig: spreadsheets write a byte order mark. What is no UTF-8 becomes surrogates, so that one row alone is lost.
    text = data.decode("utf-8-sig", "surrogateescape")
    lines, refused = _lines(text)
    if not lines or not {"id", "verdict"} <= set(lines[0]) or len(set(lines[0])) < len(lines[0]):
        return {}, "no header with the columns " + ", ".join(_COLUMNS)
    rows = {}
    for line in filter(None, lines[1:]):
        row = dict(zip(lines[0], line, strict=False))
        sample, verdict = row.get("id", ""), row.get("verdict", "")
        odd = len(line) != len(lines[0]) or any("\ud800" <= c <= "\udfff" for cell in line for c in cell)
        if odd or not sample or verdict not in ("", *VERDICTS) or sample in rows:
            refused += 1
            continue
        rows[sample] = Verdict(verdict, row.get("note", ""), row.get("time", ""))
    return rows, f"{refused} of {refused + len(rows)} rows" if refused else ""
