"""The demo dataset: generated street scenes in sequences, with planted and recorded faults; and its broken twin."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglib import runs
from seglib.data.demo_faults import write_broken, write_demo
from seglib.runs import atomic_folder

# Of what `checksum` reads. Where they differ on purpose, because the drawing was changed, the error names the new ones.
DEMO_SHA256 = "788c9c4e3f24874d285c2b3e0f4cae89ea49b7bb9f6590eb66a87c21523b2329"
BROKEN_SHA256 = "c1503545034d90b4c81e8a2886de81615a9f8c2f8cf8e64cfb713d1b9466610a"


def make_demo(folder: str | Path, broken: bool = False) -> Path:
    """Write the demo dataset, or its broken twin, into `folder`; one that is there and whole is left alone.

    It is drawn in a folder beside it and renamed when done, so that `folder` is never half there.

    Writes:
        dataset.yaml; {train,val,test}/{images,masks}/<sequence>_<frame>.png, 96 x 128, masks as palette PNGs;
        clean_masks/<sample>.png, the sound masks of samples with a label fault;
        planted.csv: `sample`, `split`, `kind`, `severity` ("mild", "moderate", "severe"), `box` ("x0 y0 x1 y1" in
        pixels, x1 and y1 exclusive; empty: the whole image) and `detail`. In the broken twin `kind` is the name of the
        check that finds it, and an empty `sample` stands for a fault of the whole split.

    Raises:
        FileExistsError: `folder` holds something else, or a demo that was changed since.
        RuntimeError: the pixels drawn here are not those that are drawn elsewhere.
    """
    folder, expected = Path(folder), BROKEN_SHA256 if broken else DEMO_SHA256
    what = "broken twin of the demo dataset" if broken else "demo dataset"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if folder.is_dir() and (folder / "planted.csv").exists() and checksum(folder) == expected:
            return folder
        raise FileExistsError(
            f"{runs.shown(folder)} differs from the {what}: it was changed since, or it is another dataset. It is not "
            "overwritten: rename the folder to keep what it holds, or delete it; then make the demo again."
        )
    try:
        with atomic_folder(folder) as temporary:
            (write_broken if broken else write_demo)(temporary)
            drawn = checksum(temporary)
            if drawn != expected:
                raise RuntimeError(
                    f"the {what} came out with checksum {drawn}; expected {expected} (numpy {np.__version__}). Nothing was "
                    "kept. If seglib's drawing was changed on purpose, put the new sum into seglib/demo.py; if not, this "
                    "machine computes differently: please report it with the version of Python and the processor."
                )
    except OSError:
        if (folder / "planted.csv").exists() and checksum(folder) == expected:
            return folder  # another process was faster
        raise
    return folder


def ensure_demo(dataset: str | Path) -> None:
    """Make the demo dataset if `dataset` is data/demo, or its twin if data/demo_broken, and nothing is there yet."""
    path = runs.resolve(dataset).resolve()
    for name in ("demo", "demo_broken"):
        if path == (runs.project_root() / "data" / name).resolve() and not path.exists():
            make_demo(path, broken=name == "demo_broken")


def planted(folder: str | Path) -> pd.DataFrame:
    """planted.csv of a demo dataset: `PLANTED_COLUMNS`, all text, "" where empty."""
    return pd.read_csv(Path(folder) / "planted.csv", dtype=str, keep_default_na=False)


def clean_mask(folder: str | Path, sample: str) -> np.ndarray:
    """The sound mask of a sample of the demo, whether its stored one is at fault or not.

    Returns:
        (96, 128) uint8 stored ids: 0-7 the classes, 8 unscored.
    """
    folder = Path(folder)
    paths = [folder / "clean_masks" / f"{sample}.png", *sorted(folder.glob(f"*/masks/{sample}.png"))]
    for path in paths:
        if path.exists():
            with Image.open(path) as file:
                return np.array(file)
    raise FileNotFoundError(
        f"no sample {sample!r} in {runs.shown(folder)}: expected a name such as 'pine_0003', as in planted.csv."
    )


def checksum(folder: str | Path) -> str:
    """SHA-256 over planted.csv and every image and mask of a demo dataset, in the order of their names.

    Pictures count by their decoded pixels, since compression differs between versions of Pillow. Of a damaged PNG
    and of a JPEG only the name counts, of anything else the bytes.
    """
    folder, digest = Path(folder), hashlib.sha256()
    places = [folder / "planted.csv"]
    for place in ("*/images", "*/masks", "clean_masks"):
        places += [path for parent in folder.glob(place) for path in parent.iterdir()]
    named = {
        path.relative_to(folder).as_posix(): path for path in places if path.is_file() and not path.name.startswith(".")
    }
    for name in sorted(named):
        digest.update(f"{name}\n".encode() + _content(named[name]))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".jpg":
        return b"jpeg"
    if not data.startswith(b"\x89PNG"):
        return data.replace(b"\r\n", b"\n")
    try:
        with Image.open(io.BytesIO(data)) as file:
            pixels = np.array(file)
    except (OSError, SyntaxError, ValueError):  # Pillow's ways to say that a picture is damaged
        return b"damaged"
    return f"{pixels.shape}".encode() + pixels.tobytes()
