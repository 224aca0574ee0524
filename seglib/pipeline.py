"""The four notebooks as a chain: executed by papermill into the run folder, stopped by the first that fails."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from seglib.params import NOTEBOOKS, OTHERS, ParameterError, Train
from seglib.runs import (
    REPLACEABLE,
    Run,
    StorageError,
    display_path,
    lock,
    project_root,
    read_json,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from traitlets.config import Config

STEPS = tuple(NOTEBOOKS)
TICK = 1.0  # seconds between two updates of the line on a terminal


class ChainError(RuntimeError):
    """A notebook of the chain failed; the message is its own error and where the executed notebook lies."""

    def __init__(self, notebook: str, error: str, saved: Path) -> None:
        super().__init__(f"{notebook} stopped: {error}\nAs far as it came: {display_path(saved)} (and .html)")
        self.notebook, self.error, self.saved = notebook, error, saved


@dataclass(frozen=True)
class Executed:
    """One notebook that ran to its end: the executed copy, the same as one HTML page, and how long it took."""

    notebook: str
    path: Path
    page: Path
    seconds: float


def step(name: str | int) -> str:
    """The notebook that `name` means: its name, its number (`2`, `02`) or the words behind it (`train`).

    Raises:
        ParameterError: none of the four.
    """
    text = str(name).removesuffix(".ipynb")
    for number, notebook in enumerate(STEPS, start=1):
        if text in (notebook, notebook[3:], str(number), f"{number:02d}"):
            return notebook
    raise ParameterError(f"no notebook {name!r}: expected 1-{len(STEPS)} or one of {', '.join(STEPS)}.")


def run_chain(
    shares: Mapping[str, Mapping[str, Any]],
    run: str,
    start: str | int = STEPS[0],
    stop: str | int = STEPS[-1],
    out: TextIO | None = None,
) -> list[Executed]:
    """Execute the notebooks `start` to `stop`, in order, into `artifacts/runs/<run>/notebooks`.

    Each notebook runs in a kernel of its own, with `notebooks/` as its working directory, and is saved after every
    cell; an HTML page beside it holds its pictures and loads nothing from elsewhere. `status.json` in the run folder
    tells the state of each: running, done or failed. What a notebook left there before is replaced when it runs
    again, and the states of those after it are forgotten.

    Args:
        shares: notebook -> the parameters that differ from its own defaults (`seglib.params.check_chain`).
        run: the run's name; it is passed to every notebook that has the parameter `run`.
        start, stop: first and last notebook, in any form that `step` understands.
        out: where progress goes; standard output by default.

    Returns:
        One `Executed` a notebook.

    Raises:
        ParameterError: `stop` before `start`, or a parameter that a notebook's parameters cell does not have.
        FileExistsError: the run is trained and 02 was not told to resume it (the run `demo` is made anew).
        FileNotFoundError: no such notebook; or the chain starts behind 02 and the run has no trained model.
        ChainError: a notebook failed. It and its page are saved, and the ones after it did not start.
        InUseError: another chain is running notebooks of this run.
    """
    first, last = STEPS.index(step(start)), STEPS.index(step(stop))
    if last < first:
        raise ParameterError(f"the chain would end before it begins: from {STEPS[first]} to {STEPS[last]}.")
    steps = STEPS[first : last + 1]
    given = {notebook: dict(shares.get(notebook, {})) for notebook in steps}
    for notebook in steps:
        if "run" in NOTEBOOKS[notebook].model_fields:
            given[notebook]["run"] = run
        _check_cell(notebook, given[notebook])
    folder = _open_run(run, steps, given)
    with lock(folder.notebooks / ".chain", "running notebooks"):
        _note_parameters(folder, shares, given)
        status = _Status(folder.path / "status.json")
        status.forget(STEPS[first:])
        return [_execute(notebook, given[notebook], folder, status, out or sys.stdout) for notebook in steps]


def _source(notebook: str) -> Path:
    path = project_root() / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise FileNotFoundError(
            f"no notebook {display_path(path)}. Work inside the checkout, or set SEGLIB_ROOT to it."
        )
    return path


def _check_cell(notebook: str, given: Mapping[str, Any]) -> None:
    # papermill only warns of a name that the parameters cell does not have, and then runs with the default.
    from papermill import inspect_notebook

    cell = inspect_notebook(_source(notebook))
    missing = sorted(set(given) - set(cell))
    if missing:
        raise ParameterError(
            f"the parameters cell of {notebook} has no {', '.join(missing)} (it has {', '.join(cell) or 'none'}). "
            "Give the cell a line `name: type = default  # meaning` for each."
        )


def _open_run(name: str, steps: Sequence[str], given: Mapping[str, Mapping[str, Any]]) -> Run:
    # Asked here so that nobody waits for 01 to be told that 02 will refuse; 02 asks again when it runs alone.
    if "02_train" in steps and name != REPLACEABLE:
        return Run.create(name, resume=bool(given["02_train"].get("resume", False)))
    if steps[0] > "02_train":
        return Run.open(name)
    return Run(Run.folder(name))


def _note_parameters(
    run: Run, shares: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]
) -> None:
    """Let params.json tell what every notebook is given, so that this one file repeats the run (`seglib.repeat`)."""
    if run.external:
        return
    noted: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError):  # absent or damaged
        noted = read_json(run.params)
    # Parameters of a model that is there are for 02 to replace, together with the model.
    trained = run.best_checkpoint.exists() or run.last_checkpoint.exists()
    for notebook in sorted(
        given if trained else STEPS, key=lambda name: name == "02_train"
    ):  # 02 has the last word
        values = (
            NOTEBOOKS[notebook].check({**shares.get(notebook, {}), **given.get(notebook, {})}).model_dump()
        )
        noted |= {name: value for name, value in values.items() if not trained or name in OTHERS}
    write_json(run.params, noted if trained else noted | {"run": run.name})


class _Status:
    """`status.json`: what became of each notebook. Papermill marks one whose kernel was killed as completed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: dict[str, dict[str, Any]] = {}
        with suppress(FileNotFoundError, ValueError):  # absent or damaged: the run begins with an empty one
            self.states = dict(read_json(path))

    def forget(self, steps: Sequence[str]) -> None:
        self.states = {notebook: state for notebook, state in self.states.items() if notebook not in steps}
        write_json(self.path, self.states)

    def write(self, notebook: str, state: str, **facts: Any) -> None:
        self.states[notebook] = {"state": state, **facts}
        write_json(self.path, self.states)


def _execute(notebook: str, given: Mapping[str, Any], run: Run, status: _Status, out: TextIO) -> Executed:
    path = run.notebooks / f"{notebook}.ipynb"
    page = path.with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.unlink(missing_ok=True)  # an old page beside a new notebook would tell of another execution
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    status.write(notebook, "running", started=started)
    error = "interrupted"
    try:
        with _ticking(notebook, given, run, out):
            error = _run_notebook(_source(notebook), path, given)
    finally:
        seconds = round(time.monotonic() - begin, 1)
        state = "failed" if error else "done"
        status.write(notebook, state, started=started, seconds=seconds, **({"error": error} if error else {}))
        print(f"{notebook:<20}  {state:<7}  {_clock(seconds):>7}", file=out, flush=True)
    try:
        from seglib.pages import export_page

        export_page(path, page)
    except (
        Exception
    ) as problem:  # a page is a convenience: it must neither end a chain nor hide a notebook's own error
        print(f"{notebook}: no HTML page ({type(problem).__name__}: {problem})", file=out, flush=True)
    if error:
        raise ChainError(notebook, error, path)
    return Executed(notebook, path, page, seconds)


def _run_notebook(source: Path, target: Path, given: Mapping[str, Any]) -> str:
    """Execute one notebook; returns its error in words, or "" when it ran to its end."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from papermill.iorw import LocalHandler, papermill_io

    class Whole(LocalHandler):
        """papermill writes over the file after every cell: killed meanwhile, it would leave half a notebook."""

        def write(self, buf: str, path: str) -> None:
            write_text(path, buf)

    papermill_io.register(str(target), Whole())
    kernel = {"kernel_name": "python3", "cwd": source.parent, "progress_bar": False}
    kernel["store_widget_state"] = False  # a stored browser would come up dead, in place of its gallery
    try:
        with _kernel_sockets() as config:
            execute_notebook(source, target, parameters=dict(given), config=config, **kernel)
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".removesuffix(": ")
    except StorageError as error:  # of the executed notebook itself
        return str(error)
    except DeadKernelError:
        return (
            "the kernel died; the system ends one that wants more memory than there is. "
            "Try a smaller batch_size, crop or long_side, and start again from this notebook."
        )
    return ""


@contextmanager
def _kernel_sockets() -> Iterator[Config]:
    """Configuration of a kernel that is spoken to through files in a folder of its own.

    Unlike TCP ports, those are neither open to other users nor snatched by a kernel that starts at the same time.
    Windows has none, and a path to one holds about 100 bytes at most.
    """
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="seglib-") as folder:
        # What a notebook says is in the notebook; a kernel's own log tells of its inner workings, and only disturbs.
        config = Config({"NotebookClient": {"extra_arguments": ["--IPKernelApp.log_level=CRITICAL"]}})
        if os.name != "nt" and len(os.fsencode(folder)) < 80:
            config.KernelManager = Config({"transport": "ipc", "ip": f"{folder}/kernel"})
        yield config


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def _ticking(notebook: str, given: Mapping[str, Any], run: Run, out: TextIO) -> Iterator[None]:
    """On a terminal, a line that tells the time and, while 02 trains, the epoch; elsewhere nothing."""
    if not out.isatty():
        yield
        return
    over, begin, before = threading.Event(), time.monotonic(), _written(run.history)
    width = shutil.get_terminal_size().columns - 1

    def tick() -> None:
        while not over.wait(TICK):
            epoch = _last_epoch(run, before, given) if notebook == "02_train" else ""
            line = f"{notebook:<20}  running  {_clock(time.monotonic() - begin):>7}  {epoch}"
            print(f"\r{line[:width]:<{width}}", end="", file=out, flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        print(f"\r{'':<{width}}\r", end="", file=out, flush=True)


def _written(path: Path) -> tuple[int, int] | None:
    """Tells whether a file was written anew; clocks jump, so its time is compared with no other."""
    with suppress(OSError):
        return path.stat().st_ino, path.stat().st_mtime_ns
    return None


def _last_epoch(run: Run, before: tuple[int, int] | None, given: Mapping[str, Any]) -> str:
    try:
        if _written(run.history) == before:  # another training's, not yet replaced
            return ""
        last = list(csv.DictReader(run.history.read_text(encoding="utf-8").splitlines()))[-1]
        return f"epoch {last['epoch']} of {Train.check(given).epochs}, val mIoU {float(last['val_miou']):.3f}"
    except (
        OSError,
        IndexError,
        KeyError,
        ValueError,
        TypeError,
        csv.Error,
    ):  # damaged: only a line on a terminal
        return ""
