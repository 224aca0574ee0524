"""The four notebooks: in a project of one's own, and as a chain that papermill executes into the run folder."""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import seglib
from seglib import runs
from seglib.params import NOTEBOOKS, OTHERS, ParameterError, Train, check_chain, hint
from seglib.runs import Run

STEPS = tuple(NOTEBOOKS)
PARTS = ("notebooks", "params", "data/README.md", "data/configs", "data/demo")  # of a new project
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SCRIPTS = ("html_head_js", "jupyter_widgets", "html_head_js_mathjax", "html_head_js_mermaidjs")
# nbconvert's page without scripts from other servers, and with what the cells say of their pictures
_PAGE = "{% extends 'index.html.j2' %}" + "".join(f"{{% block {n} %}}{{% endblock %}}" for n in _SCRIPTS)
_PAGE += """{% block data_png scoped %}<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
alt="{{ cell.metadata.get('alt', 'figure') | escape_html }}"></div>{% endblock %}"""


def new_project(folder: str | Path) -> Path:
    """Copy notebooks, params and the demo dataset from the checkout, or the installed package, into a new folder."""
    if Path(folder).exists() and (Path(folder).is_file() or os.listdir(folder)):
        raise FileExistsError(f"{folder} exists and is not empty. Name a new folder.")
    source, hidden = Path(__file__).resolve().parent.parent, shutil.ignore_patterns(".*", "__pycache__")
    if not (source / "notebooks").is_dir():
        files = (file for file in metadata.files("seglib") or () if file.name == "01_data_check.ipynb")
        source = Path(next(files).locate()).resolve().parent.parent
    with runs.atomic_folder(folder) as new:
        for part in PARTS:
            (new / part).parent.mkdir(exist_ok=True)
            if (source / part).is_dir():
                shutil.copytree(source / part, new / part, ignore=hidden)
            else:
                shutil.copyfile(source / part, new / part)
    return Path(folder)


def _index(name: str) -> int:
    """Find the notebook that `name` means: its name, its number (`2`, `02`) or its words (`train`)."""
    for index, notebook in enumerate(STEPS):
        if name in (notebook, notebook[3:], notebook[:2], notebook[1]):
            return index
    raise ParameterError(f"no notebook {name!r}: expected 1-{len(STEPS)} or one of {', '.join(STEPS)}.")


def run_chain(
    values: Mapping[str, Any], start: str = "1", stop: str = "4", asked: Mapping[str, Any] = {}
) -> list[Path]:
    """Execute the notebooks `start` to `stop`; return where they lie in the run folder, beside their HTML pages.

    `values` are parameters of all four; each notebook gets its own. Those in `asked` go before them, and must be of
    notebooks that run. `status.json` tells the state of each. A RuntimeError names the first that failed.
    """
    first, last = _index(start), _index(stop)
    if last < first:
        raise ParameterError(f"the chain would end before it begins: from {STEPS[first]} to {STEPS[last]}.")
    steps, values = STEPS[first : last + 1], {**values, **asked}
    given, training = check_chain(values), Train.pick(values)
    run = Run(Run.folder(training.run))
    taken = {"run"}.union(*(NOTEBOOKS[name].model_fields for name in steps))
    if idle := ", ".join(hint(name) for name in asked if name not in taken):
        raise ParameterError(f"{idle}: no parameter of {', '.join(steps)}. Run its notebook too.")
    if "02_train" in steps:  # told at once, not after 01; 02 asks again
        if {"architecture", "encoder", "encoder_weights"} & set(given["02_train"]):
            seglib.train.check_model(training)
        if training.run != training.replace:
            Run.create(training.run, training.resume)
    elif first > STEPS.index("02_train"):
        Run.open(training.run)
    with runs.lock(run.notebooks / ".chain", "running notebooks"):
        before, status = (runs.read_json(p) if p.is_file() else {} for p in (run.params, run.status))
        # 02 adds its own parameters: this one file repeats the run
        noted = {n: v for name in steps for n, v in NOTEBOOKS[name].check(given[name]) if n in OTHERS}
        runs.write_json(run.params, before | noted)
        status = {name: state for name, state in status.items() if name not in STEPS[first:]}
        done = [_execute(name, given[name], run, status) for name in steps]
    print(f"\nNotebooks, pages, figures and tables: {runs.display_path(run.path)}")
    return done


def _execute(notebook: str, given: Mapping[str, Any], run: Run, status: dict[str, dict[str, Any]]) -> Path:
    path, started, error = run.notebooks / f"{notebook}.ipynb", datetime.now(UTC), "interrupted"
    status[notebook] = {"state": "running", "started": started.isoformat(timespec="seconds")}
    runs.write_json(run.status, status)
    try:
        error = _run_notebook(runs.project_root() / "notebooks" / f"{notebook}.ipynb", path, given)
    finally:
        state, seconds = "failed" if error else "done", (datetime.now(UTC) - started).total_seconds()
        status[notebook] |= {"state": state, "seconds": round(seconds, 1), "error": error}
        runs.write_json(run.status, status)
        print(f"{notebook:<20}  {state:<7}  {seconds:,.0f} s", flush=True)
    export_page(path, path.with_suffix(".html"))
    if error:
        came = f"As far as it came: {runs.display_path(path)} (and .html)"
        raise RuntimeError(f"{notebook} stopped: {error}\n{came}")
    return path


def _run_notebook(source: Path, target: Path, given: Mapping[str, Any]) -> str:
    """Execute one notebook; return its error in words, or "" when it ran to its end."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    # a stored browser would come up dead, in place of its gallery
    options = {"kernel_name": "python3", "cwd": source.parent, "store_widget_state": False}
    with tempfile.TemporaryDirectory(prefix="seglib-") as folder:
        if os.name != "nt":  # sockets that no other user can reach, and no warning about TCP
            options["config"] = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        try:
            execute_notebook(source, target, dict(given), progress_bar=sys.stderr.isatty(), **options)
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
    log = logging.getLogger("seglib.page")
    log.setLevel(logging.ERROR)  # nbconvert warns of every picture without a caption
    exporter = HTMLExporter(log=log, raw_template=_PAGE, preprocessors=[drop_dead_widgets], embed_images=True)
    where = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}  # pictures are relative to it
    return runs.write_text(page, exporter.from_notebook_node(content, where)[0])
