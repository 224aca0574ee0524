"""verdicts.csv: saved at every change, read back to the last character, never lost."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from seglib.failures import VERDICTS, VerdictBook

HEAD = b"id,verdict,note,time\n"
DAMAGED = {
    HEAD + b"a,ignore,x,t\nb,nonsense,,\n,ignore,,\n": ["a"],
    HEAD + b"a,ignore,x,t\na,ambiguous,,\n": ["a"],
    HEAD + b"a,ignore,x,t\nb,ignore,a, comma,t\nc,ambiguous,,\n": ["a", "c"],
    HEAD + b"a,ignore,,\nx,label wrong,caf\xe9,\nb,ambiguous,,\n": ["a", "x", "b"],
    b"id;verdict;note;time\na;ignore;;\n": [],
    b"\xff\xfe\x00broken": [],
    b"": [],
    HEAD + b'a,"ignore': [],
}


def test_verdicts_come_back_to_the_last_character(tmp_path):
    path = tmp_path / "verdicts.csv"
    notes = ["", 'a "b", c', "two\r\nlines", "=1+1", "fähre 🚢 \ufffd", "x" * 200_000]
    book, given = VerdictBook(path), [VERDICTS[k % 4] for k in range(len(notes))]
    for k, note in enumerate(notes):
        book.set(f"id {k}", given[k], note)
    book.set("gone", "ignore")
    book.set("gone", "", "")
    again = VerdictBook(path)
    assert [(row.verdict, row.note) for row in again.rows.values()] == list(zip(given, notes, strict=True))
    assert (again.get("id 1").time[-6:], again.problem) == ("+00:00", "")
    assert again.get("never") == ("", "", "")
    (tmp_path / "v.csv").write_bytes("\ufeffid,verdict,note,time\r\nstraße,ignore,ö,\r\n".encode())
    book = VerdictBook(tmp_path / "v.csv")  # a spreadsheet's byte order mark is no fault
    assert (book.get("straße").note, book.problem) == ("ö", "")


@pytest.mark.parametrize(("verdict", "note"), [("fine", ""), ("ignore", "\ud800")])
def test_what_cannot_be_saved_is_not_recorded(tmp_path, verdict, note):
    book = VerdictBook(tmp_path / "v.csv")
    book.set("a", "ambiguous", "mine")
    with pytest.raises(ValueError, match=r"expected|surrogates"):
        book.set("a", verdict, note)
    assert book.get("a").note == VerdictBook(tmp_path / "v.csv").get("a").note == "mine"


@pytest.mark.parametrize(("text", "kept"), DAMAGED.items())
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


def test_verdicts_of_two_browsers_are_both_kept(tmp_path):
    def save(name):
        book = VerdictBook(tmp_path / "verdicts.csv")
        for k in range(8):
            book.set(f"{name}{k}", "label wrong")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, "ab"))
    assert len(VerdictBook(tmp_path / "verdicts.csv").rows) == 16


def test_verdicts_survive_a_folder_that_vanishes_under_an_open_browser(tmp_path):
    book = VerdictBook(tmp_path / "failures" / "verdicts.csv")
    book.set("a", "label wrong", "mine")
    shutil.rmtree(tmp_path / "failures")
    book.set("b", "model wrong")
    assert list(VerdictBook(book.path).rows) == ["a", "b"]
