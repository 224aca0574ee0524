"""Files whole or not at all on disks that are full, read-only or gone; claims that outlive no process."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seglib import claims, storage
from seglib.claims import InUseError, claim, in_use, lock, release, replace_folder
from seglib.runs import write_json, write_text
from seglib.storage import StorageError, atomic_folder, atomic_path, storing


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# atomic_path


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, r"disk is full \(.* free there, more is needed\).*unharmed.*Make room"),
        (errno.EFBIG, r"FAT32.*unharmed.*another disk"),
        (errno.EROFS, r"may not be written .*unharmed.*Make .* writable"),
        (errno.EIO, r"could not be written \(.*\)\. What was there before is unharmed"),
    ],
)
def test_what_the_system_refuses_is_told(tmp_path, number, told):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(StorageError, match=rf"a\.txt {told}|a\.txt .*{told}") as caught, atomic_path(path):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number
    assert files(tmp_path) == {"a.txt": b"old"}


def test_a_writer_that_names_no_reason_had_no_room(tmp_path, monkeypatch):
    """torch.save says "unexpected pos 576 vs 534" on a full disk."""
    path = tmp_path / "a.pth"
    with pytest.raises(RuntimeError, match="unexpected pos"), atomic_path(path):
        raise RuntimeError("unexpected pos 576 vs 534")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with (
        pytest.raises(StorageError, match=r"a\.pth could not be written: the disk is full"),
        atomic_path(path),
    ):
        raise RuntimeError("unexpected pos 576 vs 534")


def test_a_need_that_is_known_is_refused_before_anything_is_written(tmp_path):
    with (
        pytest.raises(StorageError, match=r"are free there, 1,000,000,000\.0 GB are needed"),
        atomic_path(tmp_path / "a.bin", needed=10**18),
    ):
        pytest.fail("nothing is to be written")
    assert files(tmp_path) == {}


def test_errors_of_other_files_and_of_the_caller_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out" / "a.txt"):
        (tmp_path / "in" / "b.txt").read_text()
    with pytest.raises(FileExistsError, match="ours"), atomic_folder(tmp_path / "new"):
        raise FileExistsError("ours")
    with pytest.raises(ValueError, match="theirs"), storing(tmp_path):
        raise ValueError("theirs")


def test_a_folder_that_vanishes_while_it_is_written_to(tmp_path):
    path = tmp_path / "run" / "a.txt"
    with (
        pytest.raises(StorageError, match=r"a\.txt could not be written: its folder vanished"),
        atomic_path(path),
    ):
        shutil.rmtree(path.parent)


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "run" / "a.txt", "x")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that even root may not change")
def test_a_read_only_folder(tmp_path):
    path = write_text(tmp_path / "kept" / "a.txt", "old")
    if os.geteuid():
        path.parent.chmod(0o555)
        undo = lambda: path.parent.chmod(0o755)  # noqa: E731
    elif subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", path.parent], capture_output=True
    ).returncode:
        pytest.skip("root writes everywhere, and nothing can be mounted here")
    else:
        undo = lambda: subprocess.run(["umount", path.parent], check=True)  # noqa: E731
    try:
        with pytest.raises(StorageError, match=r"a\.txt may not be written .*Make .*kept writable"):
            write_text(path, "new")
    finally:
        undo()
    assert path.read_text() == "old"


# folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fill(stop):
        with atomic_folder(tmp_path / "set") as new:
            write_text(new / "a.txt", "x")
            if stop:
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="set could not be written: the disk is full"):
        fill(stop=True)
    assert list(tmp_path.iterdir()) == []
    fill(stop=False)
    assert files(tmp_path) == {"set/a.txt": b"x"}


def write_result(folder, text, stop=False):
    with replace_folder(folder, ("old.csv", "pictures"), last="done.json") as new:
        write_text(new / "pictures" / f"{text}.txt", text)
        write_text(new / "table.csv", text)
        if stop:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_json(new / "done.json", text)


def test_a_rebuilt_folder_keeps_what_it_held_until_all_is_written(tmp_path):
    write_result(tmp_path, "one")
    for name in ("old.csv", "verdicts.csv"):
        write_text(tmp_path / name, "x")
    before = files(tmp_path)
    with pytest.raises(StorageError, match="disk is full"):
        write_result(tmp_path, "two", stop=True)
    assert files(tmp_path) == before
    write_result(tmp_path, "two")
    assert files(tmp_path) == {
        "pictures/two.txt": b"two",
        "table.csv": b"two",
        "done.json": b'"two"\n',
        "verdicts.csv": b"x",
    }


def test_what_a_killed_process_left_in_a_rebuilt_folder_goes(tmp_path):
    write_text(tmp_path / ".new-dead" / "pictures" / "a.txt", "x")
    write_result(tmp_path, "one")
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_was_deleted_while_it_was_rebuilt_is_not_put_in_place(tmp_path):
    def work():
        with replace_folder(tmp_path / "run", (), last="done.json") as new:
            write_text(new / "a.txt", "x")
            shutil.rmtree(tmp_path / "run")
            write_text(new / "done.json", "x")

    with pytest.raises(StorageError, match=r"done\.json could not be written: its folder vanished"):
        work()
    assert not files(tmp_path)


# claims

HOLD = """
import sys, time
from seglib.claims import claim
claim(sys.argv[1], "training")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds a claim on tmp_path/run/.training."""
    path = tmp_path / "run" / ".training"
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, path
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_claim_keeps_others_out_and_dies_with_its_process(other):
    process, path = other
    assert in_use(path)
    with pytest.raises(
        InUseError, match=rf"run is in use: process {process.pid} on .* is training there since .* UTC\. Wait"
    ):
        claim(path, "training")
    begin = time.monotonic()
    with pytest.raises(InUseError):
        claim(path, "training", wait=0.2)
    assert time.monotonic() - begin >= 0.2
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    assert path.exists(), "left behind, and claims nothing"
    assert not in_use(path)
    with lock(path, "training"):
        assert in_use(path)
        claim(path, "training")  # once more does no harm
    assert not path.exists()
    release(path)


def test_a_claim_waits_for_another_that_ends(other):
    process, path = other
    process.terminate()
    with lock(path, "training", wait=20):
        assert in_use(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}'])
def test_a_claim_file_without_an_owner_is_taken(tmp_path, content):
    (tmp_path / ".training").write_text(content)
    with lock(tmp_path / ".training", "training"):
        assert in_use(tmp_path / ".training")


def test_a_disk_without_locks_keeps_nobody_from_working(tmp_path, monkeypatch):
    if claims.fcntl is None:
        pytest.skip("Windows always knows locks")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims.fcntl, "flock", refuse)
    with lock(tmp_path / ".training", "training"):
        pass
