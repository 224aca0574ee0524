"""Files and folders that appear whole or not at all.

Whatever the system refuses (a full disk, a read-only or vanished folder) ends in a `StorageError` that says what to do,
and leaves what was there before as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.ENOENT, getattr(errno, "ESTALE", errno.ENOENT)}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_NOTHING_LEFT = 1 << 20  # bytes: with less than this free, a writer that names no reason had no room


class StorageError(OSError):
    """A file could not be written for a reason outside of the program: names it, the reason and the suggestion."""


@contextmanager
def atomic_path(path: str | Path, needed: int = 0) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it takes `path`'s place, on failure it is removed.

    Args:
        path: its folder is made if it is not there.
        needed: bytes that will be written, where they are known: refused at once if they are not free.

    Raises:
        StorageError: see the module.
    """
    path = Path(path)
    with _told(path, path.parent, needed) as watch:
        path.parent.mkdir(parents=True, exist_ok=True)
        if needed > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            with watch():
                yield temporary
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would lock colleagues out
            _replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """`os.replace`; on Windows it waits for a moment, since a file that somebody reads cannot be replaced there."""
    for wait in (0.02, 0.1, 0.5) if sys.platform == "win32" else ():
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(wait)
    return os.replace(temporary, path)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to fill; on success it becomes `folder`, on failure it is removed.

    Args:
        folder: not there, or empty.

    Raises:
        StorageError: see the module.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    with _told(folder, folder.parent) as watch:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with watch():
                temporary.mkdir()
                yield temporary
            if folder.is_dir():  # empty: Windows renames onto nothing
                folder.rmdir()
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def storing(path: str | Path) -> Iterator[None]:
    """Whatever the system refuses inside becomes a `StorageError` about `path`."""
    with _told(Path(path), Path(path).parent) as watch, watch():
        yield


@contextmanager
def _told(path: Path, folder: Path, needed: int = 0) -> Iterator:
    """Explain errors; `watch` notes how full the disk was when the error came, before what was written is removed."""
    free_then = None

    @contextmanager
    def watch() -> Iterator[None]:
        nonlocal free_then
        try:
            yield
        except (OSError, RuntimeError):
            free_then = _free(folder)
            raise

    try:
        yield watch
    except (OSError, RuntimeError) as error:
        while not getattr(error, "errno", None) and isinstance(error.__context__, (OSError, RuntimeError)):
            error = error.__context__  # torch closes its archive while it reports, and fails again
        text = "" if isinstance(error, StorageError) else _explained(error, path, folder, needed, free_then)
        if not text:
            raise
        told = StorageError(text)
        told.errno = getattr(error, "errno", None) or errno.ENOSPC
        raise told from error


def _explained(error: Exception, path: Path, folder: Path, needed: int, free_then: int | None) -> str:
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if isinstance(file, str) and not _related(Path(file).absolute(), folder.absolute()):
        return ""  # of another file, which was read meanwhile
    if number in _FULL or (number is None and free_then is not None and free_then < _NOTHING_LEFT):
        free = _free(folder) or 0
        wanted = f"{_bytes(needed)} are needed" if needed else "more is needed"
        return (
            f"{path} could not be written: the disk is full ({_bytes(free)} are free there, {wanted}). What was there before "
            "is unharmed. Make room (artifacts/cache may be deleted at any time), then run again."
        )
    if number == errno.EFBIG:
        return (
            f"{path} could not be written: it grew beyond what this disk or a limit of the system allows (4 GB on FAT32; "
            "`ulimit -f`). What was there before is unharmed. Work on another disk, then run again."
        )
    if number in _FORBIDDEN:
        return (
            f"{path} may not be written ({error.strerror}). What was there before is unharmed. Make {folder} writable, close "
            "the program that has the file open, or work on a copy of the project (SEGLIB_ROOT names its folder)."
        )
    if number in _GONE:
        return (
            f"{path} could not be written: its folder vanished meanwhile (deleted, moved, or on a disk that is gone). "
            "Bring it back, then run again."
        )
    if number in _IN_THE_WAY:
        return f"{path} could not be written: a file stands where a folder is needed ({file or folder}). Move it away."
    return (
        f"{path} could not be written ({error.strerror}). What was there before is unharmed."
        if number
        else ""
    )


def _related(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _free(folder: Path) -> int | None:
    """Bytes free where `folder` lies or would lie."""
    for place in (folder, *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
