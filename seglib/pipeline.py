"""The four notebooks as a chain: executed by papermill into the run folder, stopped by the first that fails."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seglib.params import NOTEBOOKS, OTHERS, ParameterError, Train, check_chain
from seglib.runs import (
    Run,
    display_path,
    lock,
    project_root,
    read_json,
    resolve_path,
    stored_path,
    write_json,
    write_text,
)

STEPS = tuple(NOTEBOOKS)
_MODEL = ("architecture", "encoder", "encoder_weights")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SCRIPTS = ("html_head_js", "jupyter_widgets", "html_head_js_mathjax", "html_head_js_mermaidjs")
# nbconvert's page without scripts from other servers
_PAGE = "{% extends 'index.html.j2' %}" + "".join(f"{{% block {n} %}}{{% endblock %}}" for n in _SCRIPTS)


class ChainError(RuntimeError):
    """A notebook failed; the message is its own error and where the executed notebook lies."""


def _index(name: str) -> int:
    """Find the notebook that `name` means: its name, its number (`2`, `02`) or its words (`train`)."""
    for index, notebook in enumerate(STEPS):
        if name in (notebook, notebook[3:], notebook[:2], notebook[1]):
            return index
    raise ParameterError(f"no notebook {name!r}: expected 1-{len(STEPS)} or one of {', '.join(STEPS)}.")


def check_asked(names: Collection[str], start: str, stop: str) -> None:
    """Refuse parameters that none of the notebooks from `start` to `stop` takes (ParameterError)."""
    steps = STEPS[_index(start) : _index(stop) + 1]
    taken = {"run"}.union(*(NOTEBOOKS[name].model_fields for name in steps))
    others = {name: [n for n, model in NOTEBOOKS.items() if name in model.model_fields] for name in names}
    if idle := [f"{n} (of {', '.join(of)})" for n, of in others.items() if of and n not in taken]:
        raise ParameterError(f"{', '.join(idle)}: no parameter of {', '.join(steps)}. Run its notebook too.")


def run_chain(values: Mapping[str, Any], start: str = STEPS[0], stop: str = STEPS[-1]) -> list[Path]:
    """Execute the notebooks `start` to `stop`; return where they lie in the run folder, beside their HTML pages.

    `values` are parameters of all four; each notebook gets its own. `status.json` tells the state of each.
    A `ChainError` tells which one failed; the ones after it do not start.
    """
    first, last = _index(start), _index(stop)
    if last < first:
        raise ParameterError(f"the chain would end before it begins: from {STEPS[first]} to {STEPS[last]}.")
    steps = STEPS[first : last + 1]
    given, training = check_chain(values), Train.pick(values)
    if "02_train" in steps and any(getattr(training, n) != Train.model_fields[n].default for n in _MODEL):
        from seglib.train import check_model

        check_model(training)
    folder = Run(Run.folder(training.run))
    if "02_train" in steps and training.run != training.replace:  # told at once, not after 01; 02 asks again
        Run.create(training.run, training.resume)
    elif first > STEPS.index("02_train"):
        _follow_dataset(Run.open(training.run), values.get("dataset", ""))
    with lock(folder.notebooks / ".chain", "running notebooks"):
        files = (folder.params, folder.path / "status.json")
        before, status = (read_json(path) if path.is_file() else {} for path in files)
        # 02 adds its own parameters: this one file repeats the run
        noted = {n: v for name in steps for n, v in NOTEBOOKS[name].check(given[name]) if n in OTHERS}
        write_json(folder.params, before | noted)
        status = {name: state for name, state in status.items() if name not in STEPS[first:]}
        done = [_execute(name, given[name], folder, status) for name in steps]
    print(f"\nNotebooks, pages, figures and tables: {display_path(folder.path)}")
    return done


def _follow_dataset(run: Run, named: str) -> None:
    """Let params.json of a trained run name another folder, if it holds the files that the run was trained on."""
    stored = read_json(run.params) if run.params.is_file() else {}
    if not named or resolve_path(named) == resolve_path(stored.get("dataset", named)):
        return
    from seglib.data import load_dataset
    from seglib.evaluate import changed_since_training

    if changed := changed_since_training(run, load_dataset(named, stored.get("config", ""))):
        raise ParameterError(
            f"dataset={named} is another one than {stored['dataset']}. {changed} Leave it out."
        )
    write_json(run.params, stored | {"dataset": stored_path(named)})


def _execute(notebook: str, given: Mapping[str, Any], run: Run, status: dict[str, dict[str, Any]]) -> Path:
    path, started, error = run.notebooks / f"{notebook}.ipynb", datetime.now(UTC), "interrupted"
    status[notebook] = {"state": "running", "started": started.isoformat(timespec="seconds")}
    write_json(run.path / "status.json", status)
    try:
        error = _run_notebook(project_root() / "notebooks" / f"{notebook}.ipynb", path, given)
    finally:
        state, seconds = "failed" if error else "done", (datetime.now(UTC) - started).total_seconds()
        status[notebook] |= {"state": state, "seconds": round(seconds, 1), "error": error}
        write_json(run.path / "status.json", status)
        print(f"{notebook:<20}  {state:<7}  {seconds:,.0f} s", flush=True)
    export_page(path, path.with_suffix(".html"))
    if error:
        raise ChainError(f"{notebook} stopped: {error}\nAs far as it came: {display_path(path)} (and .html)")
    return path


def _run_notebook(source: Path, target: Path, given: Mapping[str, Any]) -> str:
    """Execute one notebook; return its error in words, or "" when it ran to its end."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    options = {"kernel_name": "python3", "cwd": source.parent, "progress_bar": sys.stderr.isatty()}
    options["store_widget_state"] = False  # a stored browser would come up dead, in place of its gallery
    with tempfile.TemporaryDirectory(prefix="seglib-") as folder:
        if os.name != "nt":  # sockets that no other user can reach and no other kernel takes, as TCP ports
            options["config"] = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        try:
            execute_notebook(source, target, dict(given), **options)
        except PapermillExecutionError as error:
            return f"{error.ename}: {error.evalue}".removesuffix(": ")
        except DeadKernelError:
            return "the kernel died, perhaps for want of memory. Try a smaller batch_size, crop or long_side."
    return ""


def drop_dead_widgets(notebook: Any, resources: Any) -> tuple[Any, Any]:
    """Remove widgets without an HTML form, such as progress bars (a preprocessor for nbconvert)."""
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        forms = [(output, output.get("data", {})) for output in cell.outputs]
        cell.outputs = [output for output, data in forms if _WIDGET not in data or "text/html" in data]
    return notebook, resources


def export_page(notebook: Path, page: Path) -> Path:
    """Write an executed notebook as one HTML page: pictures inside, no script from elsewhere, no server needed."""
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)
    for cell in (cell for cell in content.cells if cell.cell_type == "markdown"):
        cell.source = re.sub(r"\]\(([\w.-]+)\.ipynb\)", r"](\1.html)", cell.source)  # from page to page
    log = logging.getLogger("seglib.page")
    log.setLevel(logging.ERROR)  # nbconvert warns of every picture without a caption
    exporter = HTMLExporter(log=log, raw_template=_PAGE, preprocessors=[drop_dead_widgets], embed_images=True)
    where = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}  # pictures are relative to it
    return write_text(page, exporter.from_notebook_node(content, where)[0])
