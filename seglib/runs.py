"""Where things lie: the project root, run folders, writing and reading files, a snapshot of the environment."""

from __future__ import annotations

import codecs
import json
import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from seglib.claims import InUseError, claim, in_use, lock, release, replace_folder  # noqa: F401
from seglib.storage import StorageError, atomic_folder, atomic_path, storing  # noqa: F401

REPLACEABLE = "demo"  # the one run that may be made anew without asking
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
_PACKAGES = (
    "seglib",
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "torchmetrics",
    "timm",
    "numpy",
    "pandas",
    "pillow",
    "papermill",
    "jupyterlab",
)


def project_root() -> Path:
    """The folder that holds `data/`, `artifacts/` and `notebooks/`, from wherever the caller stands.

    `SEGLIB_ROOT` wins; then the checkout that seglib is installed from; then the nearest folder above the working
    directory with `notebooks/` and `data/` in it.

    Raises:
        FileNotFoundError: none of the three is there.
    """
    if os.environ.get("SEGLIB_ROOT"):
        return Path(os.environ["SEGLIB_ROOT"]).resolve()
    for folder in (Path(__file__).resolve().parent.parent, *(p for p in (Path.cwd(), *Path.cwd().parents))):
        if (folder / "notebooks").is_dir() and (folder / "data").is_dir():
            return folder
    raise FileNotFoundError(
        f"no project root: expected a folder with notebooks/ and data/ at or above {Path.cwd()}. "
        "Work inside the checkout, or set the environment variable SEGLIB_ROOT to it."
    )


def resolve_path(path: str | Path) -> Path:
    """`path` as it is if absolute, otherwise relative to the project root (never to the working directory)."""
    path = Path(os.path.expanduser(path))  # pathlib's own raises where there is no such user
    return path if path.is_absolute() else project_root() / path


def display_path(path: str | Path) -> str:
    """`path` as it may be printed into a notebook: relative to the project root, or its last two parts when outside."""
    path = Path(path)
    try:
        return path.resolve().relative_to(project_root()).as_posix()
    except ValueError:
        return "/".join(("...", *path.parts[-2:]))


def stored_path(path: str | Path) -> str:
    """`path` as it is written down: relative to the project root if it lies in it, so that the project can be moved."""
    full = resolve_path(path).resolve()
    return (
        full.relative_to(project_root()).as_posix()
        if full.is_relative_to(project_root())
        else full.as_posix()
    )


def check_name(name: str, what: str = "run") -> str:
    """`name` if it can be a folder's name on every platform.

    Raises:
        ValueError: a path, an empty name, a character outside A-Z a-z 0-9 . _ -, or a name that Windows reserves.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0].lower() in WINDOWS_DEVICES:
        raise ValueError(
            f"{what} name {name!r}: expected 1-80 of A-Z a-z 0-9 . _ - beginning with a letter or digit, not a path. Choose a plain name such as 'street_v2'."
        )
    return name


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically, with "\\n" line ends on every platform."""
    data = text.encode()
    with atomic_path(path, needed=len(data)) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def read_written(path: str | Path) -> str:
    """Text that a person wrote: UTF-8, or UTF-16 as the redirection of Windows PowerShell writes it; line ends become "\\n".

    Raises:
        OSError, UnicodeDecodeError: no such file; another encoding.
    """
    data = Path(path).read_bytes()
    text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    return text.replace("\r\n", "\n")


def write_json(path: str | Path, data: Any) -> Path:
    """Write JSON atomically; NaN and infinities become null, numpy values plain ones."""
    return write_text(path, json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        keys: what it must name.

    Raises:
        FileNotFoundError, ValueError: with the file's name and what to do.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, endless digits, nested too deeply
        raise ValueError(
            f"{display_path(path)} is not valid JSON ({error}). Delete it and run the notebook that writes it again."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{display_path(path)} holds {type(data).__name__}; expected an object. Delete it and run the notebook that writes it again."
        )
    if missing := [key for key in keys if key not in data]:
        raise ValueError(
            f"{display_path(path)} has no {', '.join(missing)}. Run the notebook that writes it again."
        )
    return data


def write_csv(path: str | Path, table: Any, index: bool = False) -> Path:
    """Write a DataFrame atomically as UTF-8 CSV."""
    return write_text(path, table.to_csv(index=index, lineterminator="\n"))


def save_figure(path: str | Path, drawn: Any) -> Any:
    """Write a matplotlib figure, or the figure of an axes, atomically at 150 dots an inch; returns the figure, to be shown."""
    figure = drawn.get_figure() if hasattr(drawn, "get_figure") and not hasattr(drawn, "savefig") else drawn
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return figure


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    return value


def environment() -> dict[str, Any]:
    """What this ran on: Python, platform, processor count and package versions. No user name, host name or path."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": versions,
    }


@dataclass(frozen=True)
class Run:
    """One run folder, `artifacts/runs/<name>`: everything that passes between the notebooks."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def folder(cls, name: str) -> Path:
        """Where the run `name` lies or would lie."""
        return project_root() / "artifacts" / "runs" / check_name(name)

    @classmethod
    def create(cls, name: str, resume: bool = False) -> Run:
        """A folder for a new run.

        The run named `demo` is made anew (a person's verdicts in it are kept); any other trained run is left alone.

        Raises:
            FileExistsError: the run has been trained already and `resume` is False.
        """
        run = cls(cls.folder(name))
        if run.last_checkpoint.exists() and not resume:
            if name != REPLACEABLE:
                raise FileExistsError(
                    f"run {name!r} exists and holds a trained model ({display_path(run.path)}). It is not overwritten: choose another "
                    "run name, set resume=True to continue it, or delete the folder."
                )
            for old in ("checkpoints", "evaluation", "outputs"):
                shutil.rmtree(run.path / old, ignore_errors=True)
        with storing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, name: str) -> Run:
        """A run that 02 has trained, or one that holds another tool's predictions (`seglib evaluate --predictions`).

        Raises:
            FileNotFoundError: no such run, or it has no best model yet; says which runs there are.
        """
        run = cls(cls.folder(name))
        if not run.best_checkpoint.exists() and not run.external:
            there = sorted(p.parent.parent.name for p in run.path.parent.glob("*/checkpoints/best.pth"))
            raise FileNotFoundError(
                f"run {name!r} has no trained model: expected {display_path(run.best_checkpoint)}. "
                f"Trained runs: {', '.join(there) or 'none yet'}. Train it with 02_train (run={name!r}), or name another run."
            )
        return run

    @property
    def external(self) -> bool:
        """Whether the run has no model of its own: it holds predictions that another tool made."""
        return self.params.is_file() and "predictions" in read_json(self.params)

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.pth"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.pth"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def steps(self) -> Path:
        return self.path / "steps.csv"

    @property
    def params(self) -> Path:
        return self.path / "params.json"

    @property
    def data(self) -> Path:
        """What it was trained on: the digest of every file (see `seglib.data.fingerprint`)."""
        return self.path / "data.json"

    @property
    def training_claim(self) -> Path:
        """Claimed by the process that trains it."""
        return self.path / ".training"

    def evaluation(self, split: str) -> Path:
        return self.path / "evaluation" / check_name(split, "split")

    def failures(self, split: str) -> Path:
        return self.path / "failures" / check_name(split, "split")

    @property
    def outputs(self) -> Path:
        return self.path / "outputs"

    @property
    def notebooks(self) -> Path:
        return self.path / "notebooks"


from seglib.reading import UnreadableError, brief, is_plain, load_yaml, read_table  # noqa: F401
