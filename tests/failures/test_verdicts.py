"""verdicts.csv: saved at every change, read back to the last character, never lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from seglib.failures import VERDICTS, VerdictBook
from seglib.failures.verdicts import LONGEST


def test_verdicts_come_back_to_the_last_character(tmp_path):
    path, notes = (
        tmp_path / "verdicts.csv",
        ["", 'a "b", c', "two\r\nlines", "=1+1", "fähre 🚢", "x" * LONGEST],
    )
    book = VerdictBook(path)
    for k, note in enumerate(notes):
        book.set(f"id {k}", VERDICTS[k % 4], note)
    book.set("gone", "ignore")
    book.set("gone", "", "")
    again = VerdictBook(path)
    assert [(row.verdict, row.note) for row in again.rows.values()] == [
        (VERDICTS[k % 4], n) for k, n in enumerate(notes)
    ]
    assert again.get("id 1").time.endswith("+00:00")
    assert again.get("never") == ("", "", "")


@pytest.mark.parametrize(
    ("verdict", "note"), [("fine", ""), ("ignore", "x" * (LONGEST + 1)), ("ignore", "\ud800")]
)
def test_what_cannot_be_saved_is_not_recorded(tmp_path, verdict, note):
    book = VerdictBook(tmp_path / "v.csv")
    book.set("a", "ambiguous", "mine")
    with pytest.raises(ValueError, match=r"expected|surrogates"):
        book.set("a", verdict, note)
    assert book.get("a").note == VerdictBook(tmp_path / "v.csv").get("a").note == "mine"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"id,verdict,note,time\na,ignore,x,t\nb,nonsense,,\n", ["a"]),
        (b"id,verdict,note,time\na,ignore,x,t\na,ambiguous,,\n", ["a"]),
        (b"id,verdict,note,time\na,ignore,,\nx,label wrong,caf\xe9,\nb,ambiguous,,\n", ["a", "b"]),
        (b'id,verdict,note,time\na,ignore,,\nx,label wrong,"a"b,\nb,ambiguous,,\n', ["a", "b"]),
        (b"id,verdict,note,time\na,ignore,,\nx,ignore," + b"n" * 200_000 + b",\nb,ambiguous,,\n", ["a", "b"]),
        (b"id,verdict,note,time\na,ignore\n", []),
        (b"id;verdict;note;time\na;ignore;;\n", []),
        (b"\xff\xfe\x00broken", []),
        (b'id,verdict,note,time\na,"ignore', []),
        (b"", []),
    ],
)
def test_a_file_that_cannot_be_read_completely_is_kept_aside(tmp_path, text, kept):
    path = tmp_path / "verdicts.csv"
    (tmp_path / "verdicts.csv.bak-1").write_bytes(b"older")
    path.write_bytes(text)
    book = VerdictBook(path)
    assert list(book.rows) == kept
    assert f"kept as verdicts.csv.bak-2; {len(kept)} verdicts were carried over" in book.problem
    assert (tmp_path / "verdicts.csv.bak-2").read_bytes() == text
    assert (tmp_path / "verdicts.csv.bak-1").read_bytes() == b"older"
    book.set("z", VERDICTS[0])
    again = VerdictBook(path)
    assert (list(again.rows), again.problem) == ([*kept, "z"], "")


def test_a_spreadsheets_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "v.csv").write_bytes("\ufeffid,verdict,note,time\r\nstraße,ignore,ö,\r\n".encode())
    book = VerdictBook(tmp_path / "v.csv")
    assert (book.get("straße").note, book.problem) == ("ö", "")


def test_verdicts_of_two_browsers_are_both_kept(tmp_path):
    """Each of two processes saves 20 verdicts as fast as it can."""
    path = tmp_path / "verdicts.csv"
    save = """
import sys
from seglib.failures.verdicts import VerdictBook
book = VerdictBook(sys.argv[1])
for k in range(20):
    book.set(f"{sys.argv[2]}{k}", "label wrong")
"""
    workers = [subprocess.Popen([sys.executable, "-c", save, path, name]) for name in "ab"]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(VerdictBook(path).rows) == 40


def test_a_folder_that_vanishes_under_an_open_browser(tmp_path):
    folder = tmp_path / "failures" / "test"
    book = VerdictBook(folder / "verdicts.csv")
    book.set("a", "label wrong", "mine")
    folder.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"failures/test vanished\. Its 1 verdicts are still in memory"):
        book.set("b", "model wrong")
    assert not folder.exists()
    assert list(book.rows) == ["a"]
    (tmp_path / "moved").rename(folder)
    book.set("b", "model wrong")
    assert list(VerdictBook(folder / "verdicts.csv").rows) == ["a", "b"]
