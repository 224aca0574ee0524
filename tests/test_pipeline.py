"""The chain on four tiny notebooks in a project root of its own."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from conftest import raised

from seglib import params, pipeline
from seglib.pipeline import export_page, run_chain
from seglib.runs import Run, lock, read_json, write_json, write_text

NAMES = tuple(params.NOTEBOOKS)
PARAMETERS = {
    "01_data_check": {"dataset": "data/demo"}, "02_train": {"run": "demo", "epochs": 30, "resume": False},
    "03_evaluate": {"run": "demo", "split": "test"}, "04_failure_analysis": {"run": "demo", "threshold": 0.5},
}  # fmt: skip


def put(root: Path, name: str, *sources: str) -> None:
    lines = "\n".join(f"{name} = {value!r}" for name, value in PARAMETERS[name].items())
    cells = [nbformat.v4.new_code_cell(lines, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / f"notebooks/{name}.ipynb")


@pytest.fixture
def root(tiny_root):
    """A project root whose four notebooks print their parameters."""
    for name in NAMES:
        put(tiny_root, name, f"print({', '.join(PARAMETERS[name])})")
    return tiny_root


@pytest.fixture
def no_kernel(monkeypatch):
    """Notebooks that "run" at once, for what concerns no kernel; a name in the list fails."""
    failing = []
    monkeypatch.setattr(pipeline, "_run_notebook", lambda source, *_: "told to" * (source.stem in failing))
    monkeypatch.setattr(pipeline, "export_page", lambda notebook, page: page)
    return failing


def printed(notebook: Path) -> str:
    outputs = [o for c in nbformat.read(notebook, as_version=4).cells for o in c.get("outputs", [])]
    return "".join(o.text for o in outputs if o.output_type == "stream")


def states(root: Path) -> dict[str, str]:
    status = read_json(root / "artifacts/runs/mine/status.json")
    return {notebook: entry["state"] for notebook, entry in status.items()}


def train(name: str) -> Run:
    run = Run(Run.folder(name))
    for path in (run.best_checkpoint, run.last_checkpoint):
        write_text(path, "model")
    write_json(run.params, {"run": name, "epochs": 3, "dataset": "data"})
    return run


@pytest.mark.slow
def test_the_chain_passes_parameters_and_leaves_notebooks_pages_and_states(root, capsys):
    done = run_chain({"run": "mine", "epochs": 3, "split": "val", "threshold": 0.4})
    folder = root / "artifacts/runs/mine/notebooks"
    assert done == [folder / f"{name}.ipynb" for name in NAMES]
    written = {path.name for path in folder.iterdir()} - {".chain"}
    assert written == {f"{name}.{end}" for name in NAMES for end in ("html", "ipynb")}
    assert "".join(map(printed, done)) == "data/demo\nmine 3 False\nmine val\nmine 0.4\n"
    assert states(root) == dict.fromkeys(NAMES, "done")
    assert capsys.readouterr().out.endswith("\nNotebooks, pages, figures and tables: artifacts/runs/mine\n")
    assert sorted(p.suffix for p in (root / "notebooks").iterdir()) == [".ipynb"] * 4
    assert not any(printed(path) for path in (root / "notebooks").iterdir()), "sources are not written into"


@pytest.mark.slow
def test_the_first_failing_notebook_ends_the_chain_with_its_own_error(root):
    put(root, "02_train", "print('so far')", "raise ValueError('mask a: 96 x 128')", "print('never')")
    told = r"02_train stopped: ValueError: mask a: 96 x 128\n.* artifacts/runs/mine/notebooks/02_train\.ipynb"
    raised(RuntimeError, told, run_chain, {"run": "mine"})
    folder = root / "artifacts/runs/mine/notebooks"
    assert printed(folder / "02_train.ipynb") == "so far\n"
    assert "mask a: 96 x 128" in (folder / "02_train.html").read_text(encoding="utf-8")
    assert states(root) == {"01_data_check": "done", "02_train": "failed"}
    put(root, "01_data_check", "import os\nos._exit(9)")
    raised(RuntimeError, "the kernel died", run_chain, {"run": "mine"})
    assert states(root) == {"01_data_check": "failed"}


def test_starting_later_keeps_what_ran_before_and_forgets_what_comes_after(root, no_kernel):
    run_chain({"run": "mine"})
    train("mine")
    no_kernel.append("03_evaluate")
    raised(RuntimeError, "told to", run_chain, {"run": "mine"}, start="03_evaluate")
    assert states(root) == {"01_data_check": "done", "02_train": "done", "03_evaluate": "failed"}


@pytest.mark.parametrize(
    ("values", "steps", "told"),
    [({"run": "new"}, ["3"], "no trained model in artifacts/runs/new"), ({}, [], "run 'mine' exists"),
     ({}, ["evaluate", "02"], "from 03_evaluate to 02"), ({}, ["tra"], "expected 1-4 or one of 01_data_check"),
     ({"run": "new", "architecture": "rsnet"}, [], r"'rsnet'.*Did you mean"), ({}, ["1", "1"], "notebooks is in use"),
     ({}, ["3", "3", {"epochs": 5}], r"'epochs' \(of 02_train\): no parameter of 03_evaluate")],
)  # fmt: skip
def test_what_cannot_go_well_is_refused_before_anything_starts(root, values, steps, told):
    with lock(train("mine").notebooks / ".chain", "running notebooks"):
        raised((ValueError, OSError), told, run_chain, {"run": "mine"} | values, *steps)
    assert not list(root.glob("artifacts/runs/*/notebooks/*.ipynb"))


def test_a_trained_run_may_be_resumed_checked_or_replaced_by_name_and_keeps_its_params(root, no_kernel):
    run = train("mine")
    for values, stop in (({"resume": True}, "2"), ({}, "1"), ({"replace": "mine"}, "2")):
        run_chain({"run": "mine"} | values, stop=stop)
    assert run.last_checkpoint.exists(), "it is for 02 to replace a model, not for the chain"
    run_chain({"run": "mine", "epochs": 5, "split": "val", "dataset": "notebooks"}, start="3")
    noted = {"run": "mine", "epochs": 3, "dataset": "data", "split": "val"}  # what 02 was given stays
    assert read_json(run.params) | noted == read_json(run.params)


def test_the_page_loads_nothing_and_holds_its_images(tmp_path):
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    (tmp_path / "dot.png").write_bytes(base64.b64decode(png))
    widget = "application/vnd.jupyter.widget-view+json"
    shown = {widget: {"model_id": "x"}, "text/html": "<b>gallery</b>", "text/plain": "Box()"}
    bar = {widget: {"model_id": "y"}, "text/plain": "0%|   | 0/3"}
    outputs = [nbformat.v4.new_output("display_data", data) for data in (bar, shown, {"image/png": png})]
    cells = [nbformat.v4.new_markdown_cell("![dot](dot.png)"), nbformat.v4.new_code_cell(outputs=outputs)]
    cells[1].metadata["alt"] = "a dot"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    text = export_page(tmp_path / "a.ipynb", tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count(png) == 2
    assert 'alt="a dot"' in text
    assert "<b>gallery</b>" in text
    assert "0/3" not in text
    assert not re.search(r"<script[^>]*\bsrc=|<link\b|@import|<iframe|\bimport\(", text)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\((?!['"]?(?:data:|#))""", text)
