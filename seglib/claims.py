"""Claims: which process is at work on a folder, so that no other works on it meanwhile.

They are the system's own locks: one that a killed process held is free at once, whatever the clock says and whoever has its
number now; and on network disks they count between machines. (`filelock` keeps no owner's name in the file that it locks, and where
a disk knows no locks it may fall back on files that outlive a killed process.)
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from seglib.storage import StorageError, storing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_LOCKED_BYTE = 1 << 30  # on Windows a locked byte cannot be read: one far behind the owner's name is locked


class InUseError(StorageError):
    """Another process is at work there; says which one and since when."""


_claims: dict[Path, IO[bytes]] = {}


def claim(path: str | Path, doing: str, wait: float = 0.0) -> None:
    """Be the only process at work on something until `release`, or until this process ends; once more does no harm.

    Args:
        path: the file that stands for it; it tells who holds it.
        doing: in words, such as "training".
        wait: seconds to wait for another process.

    Raises:
        InUseError: another process holds it.
        StorageError: the file cannot be made.
    """
    path = Path(path).absolute()
    if path in _claims:
        return
    until = time.monotonic() + wait
    while True:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        if _lock(file) and _is_at(file, path):
            break
        owner = _owner(file)
        file.close()
        if time.monotonic() >= until:
            raise InUseError(
                f"{path.parent} is in use: {owner}. Wait until it is finished or end it, then run again. Nothing was changed."
            )
        time.sleep(0.02)
    _claims[path] = file
    facts = {"doing": doing, "pid": os.getpid(), "host": platform.node(), "since": _now()}
    with suppress(OSError):  # on a full disk it stays without a name
        file.truncate(0)
        file.write(json.dumps(facts).encode())
        file.flush()


def release(path: str | Path) -> None:
    """Give up a claim of this process; nothing happens without one."""
    path = Path(path).absolute()
    file = _claims.pop(path, None)
    if file is not None:
        with suppress(OSError):  # Windows deletes no open file; a left one without its lock claims nothing
            path.unlink()
        with suppress(OSError):
            file.close()


@atexit.register
def _release_all() -> None:
    for path in list(_claims):
        release(path)


@contextmanager
def lock(path: str | Path, doing: str, wait: float = 0.0) -> Iterator[None]:
    """`claim` for the time of a block."""
    claim(path, doing, wait)
    try:
        yield
    finally:
        release(path)


def in_use(path: str | Path) -> bool:
    """Whether a process holds a claim on `path`; this one counts too."""
    path = Path(path).absolute()
    if path in _claims:
        return True
    try:
        with path.open("r+b") as file:
            return not _lock(file)
    except OSError:
        return False


def _lock(file: IO[bytes]) -> bool:
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
    except OSError as error:
        return error.errno not in _BUSY  # a disk that knows no locks keeps nobody from working
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the file still lies there: its last owner deletes it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _owner(file: IO[bytes]) -> str:
    try:
        file.seek(0)
        facts = json.loads(file.read() or b"{}")
        return f"process {facts['pid']} on {facts['host']} is {facts['doing']} there since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process is at work there"


def _now() -> str:
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


@contextmanager
def replace_folder(folder: str | Path, replaced: Iterable[str], last: str) -> Iterator[Path]:
    """A temporary folder for what is to be written anew in `folder`; all of it is put in place when everything is written.

    Until then, and on failure, `folder` stays as it was. Whatever else lies in it, such as what a person wrote, stays.

    Args:
        folder: is claimed meanwhile.
        replaced: names in `folder` that go, whether they are written anew or not.
        last: the file that is taken away first and put in place last: whoever finds it finds everything.

    Raises:
        InUseError: another process is writing it.
        StorageError: see the module.
    """
    folder = Path(folder)
    with lock(folder / ".writing", "writing"), storing(folder / last):
        for left in folder.glob(".new-*"):  # of a process that was killed, since the claim is ours
            shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
        old = new / ".old"
        try:
            old.mkdir()
            yield new
            if (
                not old.is_dir()
            ):  # deleted, and made again by later writes: what was written before is missing
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            names = sorted({*replaced, *(path.name for path in new.iterdir())} - {last, old.name})
            for name in (last, *names):
                if (folder / name).exists():
                    os.replace(
                        folder / name, old / name
                    )  # deleted below: thousands of files would take a while
            for name in (*names, last):
                if (new / name).exists():
                    os.replace(new / name, folder / name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
