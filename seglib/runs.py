"""Project root and run folders; files that are written whole, locked, and read safely."""

import json
import os
import platform
import re
import reprlib
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from seglib import __version__

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"(?!(?i:con|prn|aux|nul|(com|lpt)[1-9])(\.|$))[A-Za-z0-9][A-Za-z0-9._-]{0,79}(?<!\.)")
_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PACKAGES = "torch torchvision segmentation-models-pytorch timm numpy scipy pandas pillow"
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 2, 4, 200, 200
brief = _SHORT.repr  # a short repr(): a few lines of YAML with aliases can stand for a billion items
_AGAIN = "Delete it and run the notebook that writes it again."


class UnreadableError(ValueError):
    """A file or a text is not what it should be; says what is wrong with it."""


def project_root() -> Path:
    """Find the project: SEGLIB_ROOT, else where the notebooks lie at or above the cwd, else the checkout."""
    if root := os.environ.get("SEGLIB_ROOT"):
        return Path(root).resolve()
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parent.parent):
        if (folder / "notebooks" / "01_data_check.ipynb").is_file():
            return folder
    told = "Make one with `seglib new FOLDER`, or set SEGLIB_ROOT."
    raise FileNotFoundError(f"no notebooks/01_data_check.ipynb at or above {Path.cwd()}. {told}")


def resolve_path(path: str | Path) -> Path:
    """Return a relative path below the project root, not the cwd, and an absolute one as it is."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


def display_path(path: str | Path) -> str:
    """Write `path` for people: relative to the project root, or its last two parts if it lies elsewhere."""
    stored = stored_path(Path(path).absolute())
    return "/".join(("...", *stored.split("/")[-2:])) if Path(stored).is_absolute() else stored


def stored_path(path: str | Path) -> str:
    """Write `path` for a file: relative to the project root if it lies in it, so that the root can move."""
    full, root = resolve_path(path).resolve(), project_root()
    return (full.relative_to(root) if full.is_relative_to(root) else full).as_posix()


def check_name(name: str, what: str = "run") -> str:
    """Return `name` if it can name a folder on every platform; raise a ValueError otherwise."""
    if not _NAME.fullmatch(name):
        expected = "1-80 of A-Z a-z 0-9 . _ -, not a path, such as 'street_v2'"
        raise ValueError(f"{what} name {brief(name)}: expected {expected}.")
    return name


def is_plain(text: str) -> bool:
    """Tell whether a name can stand in a table, a page and a terminal: UTF-8 without control characters."""
    return not _NOT_PLAIN.search(text)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if not path.is_dir():
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `folder`, which is missing or empty."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        yield temporary
        if Path(folder).is_dir():  # Windows does not rename onto an empty folder
            Path(folder).rmdir()


@contextmanager
def replace_folder(folder: str | Path, replaced: Iterable[str], last: str) -> Iterator[Path]:
    """Yield a temporary folder for a new result; its files replace those in `folder` when all are written.

    The names in `replaced` go even if the new result lacks them; other files stay, all of them on failure. `last`
    goes first and comes last: it marks a whole result. Other processes are locked out.
    """
    folder, new = Path(folder), Path(folder) / ".new"
    with lock(folder / ".writing", "writing"):
        _remove(new)  # left by a process that was killed
        new.mkdir()
        try:
            yield new
            written = os.listdir(new)
            for name in sorted({*replaced, *written, last}, key=lambda name: name != last):
                _remove(folder / name)
            for name in sorted(written, key=lambda name: name == last):
                os.replace(new / name, folder / name)
        finally:
            _remove(new)


@contextmanager
def lock(path: str | Path, doing: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a system's lock, which ends with its process; another gets a TimeoutError after `wait` seconds."""
    from filelock import FileLock, Timeout

    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(path).acquire(timeout=wait)
    except Timeout:
        told = f"{display_path(folder)} is in use: another process is {doing} there. Wait for its end."
        raise TimeoutError(told) from None
    with held:
        yield


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically, with "\\n" line ends on every platform."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())
    return Path(path)


def read_written(path: str | Path) -> str:
    """Read text that a person wrote: UTF-8, or UTF-16 as PowerShell does; UnicodeDecodeError otherwise."""
    data = Path(path).read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    return text.replace("\r\n", "\n")


def write_json(path: str | Path, data: Any) -> Path:
    """Write JSON atomically; NaN and infinities become null, paths and NumPy values plain ones."""
    text = json.dumps(data, default=lambda v: v.tolist() if hasattr(v, "tolist") else Path(v).as_posix())
    plain = json.loads(text, parse_constant=lambda _: None)
    return write_text(path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON object that has at least `keys`; otherwise raise a ValueError that says what to do."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{display_path(path)} is not valid JSON ({error}). {_AGAIN}") from error
    if missing := [key for key in keys if key not in data]:
        raise ValueError(f"{display_path(path)} has no {', '.join(missing)}. {_AGAIN}")
    return data


def write_csv(path: str | Path, table: "pd.DataFrame") -> Path:
    """Write a table atomically as UTF-8 CSV."""
    return write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_table(path: str | Path, **options: Any) -> "pd.DataFrame":
    """Read a CSV file by pandas; without options every cell is text: an image may be called NA or 0042."""
    import pandas as pd

    try:
        table = pd.read_csv(path, **(options or {"dtype": str, "keep_default_na": False}))
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise UnreadableError(f"{display_path(path)} is no readable table ({error}). {_AGAIN}") from None
    return table if options else table.fillna("")  # the rest of a row that ends early


def load_yaml(text: str) -> Any:
    """Read YAML as plain data; no key stands twice, [r, g, b] may be one. UnreadableError: " at line 3, column 7: why"."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            pairs = [[self.construct_object(part, deep=True) for part in pair] for pair in node.value]
            keys = [tuple(key) if isinstance(key, list) else key for key, _ in pairs]
            if len(set(keys)) < len(keys):
                problem = f"key {brief(max(keys, key=keys.count))} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            return dict(zip(keys, (value for _, value in pairs), strict=True))

    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506  # a SafeLoader
    except Exception as error:  # PyYAML's constructors raise KeyError, AttributeError, ... on odd scalars
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise UnreadableError(f"{line}: {reason[:200]}") from None


def environment() -> dict[str, Any]:
    """Describe what this runs on: time, Python, platform, CPUs, package versions; no user, host or path."""
    versions = {"seglib": __version__} | {name: metadata.version(name) for name in _PACKAGES.split()}
    system = {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), **system, "packages": versions}


@dataclass(frozen=True)
class Run:
    """A run folder, `artifacts/runs/<name>`: everything that passes between the notebooks."""

    path: Path

    name = property(lambda self: self.path.name)
    params = property(lambda self: self.path / "params.json")
    status = property(lambda self: self.path / "status.json")
    data = property(lambda self: self.path / "data.json")  # the digest of every file that it was trained on
    best_checkpoint = property(lambda self: self.path / "checkpoints" / "best.pth")
    last_checkpoint = property(lambda self: self.path / "checkpoints" / "last.pth")
    history = property(lambda self: self.path / "history.csv")
    steps = property(lambda self: self.path / "steps.csv")
    outputs = property(lambda self: self.path / "outputs")
    notebooks = property(lambda self: self.path / "notebooks")
    # without a model of its own: the predictions of another tool
    external = property(lambda self: self.params.is_file() and "predictions" in read_json(self.params))

    def evaluation(self, split: str) -> Path:
        return self.path / "evaluation" / check_name(split, "split")

    def failures(self, split: str) -> Path:
        return self.path / "failures" / check_name(split, "split")

    @classmethod
    def folder(cls, name: str) -> Path:
        return project_root() / "artifacts" / "runs" / check_name(name)

    @classmethod
    def create(cls, name: str, resume: bool = False, replace: str = "") -> Self:
        """Make a run's folder; a trained run is kept, but for the one that `replace` names (not its verdicts)."""
        run = cls(cls.folder(name))
        if run.last_checkpoint.exists() and not resume:
            if name != replace:
                ways = f"another name, resume=True to continue it, or replace={name!r} to train again"
                raise FileExistsError(f"run {name!r} exists and is trained: choose {ways}.")
            for old in ("checkpoints", "evaluation", "outputs"):
                shutil.rmtree(run.path / old, ignore_errors=True)
        run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, name: str) -> Self:
        """Open a run that has a model, or holds another tool's predictions; otherwise say which runs there are."""
        run = cls(cls.folder(name))
        if run.best_checkpoint.exists() or run.external:
            return run
        there = sorted(path.parts[-3] for path in run.path.parent.glob("*/checkpoints/best.pth"))
        told = f"Train it with 02_train, or name a trained run: {', '.join(there) or 'none yet'}"
        raise FileNotFoundError(f"no trained model in {display_path(run.path)}. {told}.")
