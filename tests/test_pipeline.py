"""The chain on four tiny notebooks in a project root of its own, and once on the real ones."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from seglib import pipeline
from seglib.data import digests, load_dataset
from seglib.params import NOTEBOOKS, ParameterError, check_chain
from seglib.pipeline import ChainError, export_page, run_chain
from seglib.runs import InUseError, Run, lock, read_json, write_json, write_text

NAMES = tuple(NOTEBOOKS)
CELLS = {
    "01_data_check": 'dataset: str = "data/demo"  # which',
    "02_train": 'run: str = "demo"  # name\nepochs: int = 30  # passes\nresume: bool = False  # go on',
    "03_evaluate": 'run: str = "demo"  # name\nsplit: str = "test"  # which',
    "04_failure_analysis": 'run: str = "demo"  # name\nthreshold: float = 0.5  # fails',
}


def put(root: Path, name: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(CELLS[name], metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / f"notebooks/{name}.ipynb")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project root whose four notebooks print their parameters."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    for name in NAMES:
        names = re.findall(r"^(\w+):", CELLS[name], re.M)
        put(tmp_path, name, f"print(dict({', '.join(f'{n}={n}' for n in names)}))")
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    """Notebooks that "run" at once, for what concerns no kernel; a name in the list fails."""
    failing = []
    how = {True: "told to", False: ""}
    monkeypatch.setattr(pipeline, "_run_notebook", lambda source, *_: how[source.stem in failing])
    monkeypatch.setattr(pipeline, "export_page", lambda notebook, page: page)
    return failing


def printed(notebook: Path) -> str:
    outputs = [o for c in nbformat.read(notebook, as_version=4).cells for o in c.get("outputs", [])]
    return "".join(o.text for o in outputs if o.output_type == "stream")


def states(root: Path, run: str = "mine") -> dict[str, str]:
    status = read_json(root / "artifacts/runs" / run / "status.json")
    return {notebook: entry["state"] for notebook, entry in status.items()}


def train(run: str) -> Path:
    """Leave what a training leaves."""
    for path in (Run(Run.folder(run)).best_checkpoint, Run(Run.folder(run)).last_checkpoint):
        write_text(path, "model")
    return path


@pytest.mark.slow
def test_the_chain_passes_parameters_and_leaves_notebooks_pages_and_states(root, capsys):
    put(root, "01_data_check", "import pathlib\nprint(dataset, pathlib.Path.cwd().name)")
    done = run_chain({"run": "mine", "epochs": 3, "split": "val", "threshold": 0.4})
    folder = root / "artifacts/runs/mine/notebooks"
    assert done == [folder / f"{name}.ipynb" for name in NAMES]
    written = {path.name for path in folder.iterdir()} - {".chain"}
    assert written == {f"{name}.{end}" for name in NAMES for end in ("html", "ipynb")}
    assert [printed(path).strip() for path in done] == [
        "data/demo notebooks",
        "{'run': 'mine', 'epochs': 3, 'resume': False}",
        "{'run': 'mine', 'split': 'val'}",
        "{'run': 'mine', 'threshold': 0.4}",
    ]
    assert states(root) == dict.fromkeys(NAMES, "done")
    *told, _, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [[name, "done"] for name in NAMES]
    assert last == "Notebooks, pages, figures and tables: artifacts/runs/mine"
    # The committed notebooks are sources: the chain never writes into them, nor sockets beside them.
    assert sorted(p.suffix for p in (root / "notebooks").iterdir()) == [".ipynb"] * 4
    assert not any(printed(path) for path in (root / "notebooks").iterdir())


@pytest.mark.slow
def test_the_first_failing_notebook_ends_the_chain_with_its_own_error(root):
    put(root, "02_train", "print('so far')", "raise ValueError('mask a: 96 x 128')", "print('never')")
    told = r"02_train stopped: ValueError: mask a: 96 x 128\n.* artifacts/runs/mine/notebooks/02_train\.ipynb"
    with pytest.raises(ChainError, match=told):
        run_chain({"run": "mine"})
    folder = root / "artifacts/runs/mine/notebooks"
    assert printed(folder / "02_train.ipynb") == "so far\n"
    assert "mask a: 96 x 128" in (folder / "02_train.html").read_text(encoding="utf-8")
    assert not (folder / "03_evaluate.ipynb").exists()
    assert states(root) == {"01_data_check": "done", "02_train": "failed"}
    put(root, "01_data_check", "import os\nos._exit(9)")
    with pytest.raises(ChainError, match="the kernel died"):
        run_chain({"run": "mine"})
    assert states(root) == {"01_data_check": "failed"}


def test_starting_later_keeps_what_ran_before_and_forgets_what_comes_after(root, no_kernel):
    run_chain({"run": "mine"})
    train("mine")
    no_kernel.append("03_evaluate")
    with pytest.raises(ChainError, match="told to"):
        run_chain({"run": "mine"}, start="03_evaluate")
    assert states(root) == {"01_data_check": "done", "02_train": "done", "03_evaluate": "failed"}


def test_what_needs_a_trained_run_or_would_lose_one_is_refused_before_anything_starts(root):
    with pytest.raises(FileNotFoundError, match="run 'mine' has no trained model"):
        run_chain({"run": "mine"}, start="3")
    train("mine")
    with pytest.raises(FileExistsError, match="run 'mine' exists"):
        run_chain({"run": "mine"})
    for stop, told in ("02", "from 03_evaluate to 02"), ("tra", "expected 1-4 or one of 01_data_check"):
        with pytest.raises(ParameterError, match=told):
            run_chain({"run": "mine"}, start="evaluate", stop=stop)
    for name, told in {
        "architecture": "Did you mean",
        "encoder": "Did you mean",
        "encoder_weights": "no file",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*'rsnet'.*{told}"):
            run_chain({"run": "new", name: "rsnet"})
    assert not (root / "artifacts/runs/mine/notebooks").exists()
    with lock(Run.open("mine").notebooks / ".chain", "running notebooks"):  # noqa: SIM117
        with pytest.raises(InUseError, match="runs/mine/notebooks is in use"):
            run_chain({"run": "mine"}, stop="1")


def test_a_moved_dataset_is_followed_and_another_one_refused(root, no_kernel):
    for name, shade in (("here", 1), ("moved", 1), ("other", 2)):
        for side in ("images", "masks"):
            path = root / name / "train" / side / "a.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (8, 8), shade if side == "images" else 0).save(path)
        text = 'classes: [a, b]\nsplits: {train: {images: "train/images/*", masks: "train/masks/*"}}\n'
        write_text(root / name / "dataset.yaml", text)
    run = Run(Run.folder("mine"))
    train("mine")
    write_json(run.params, {"dataset": "here"})
    write_json(run.data, {"train": digests(load_dataset("here"), "train")})
    with pytest.raises(ParameterError, match=r"another one than here.*changed"):
        run_chain({"run": "mine", "dataset": "other"}, "3", "3")
    run_chain({"run": "mine", "dataset": "moved"}, "3", "3")
    assert read_json(run.params)["dataset"] == "moved"


def test_a_trained_run_may_be_resumed_checked_or_replaced_by_name(root, no_kernel):
    models = [train("mine"), train("demo")]
    run_chain({"run": "mine", "resume": True}, stop="2")
    run_chain({"run": "mine"}, stop="1")
    run_chain({"run": "demo"}, stop="2")
    run_chain({"run": "mine", "replace": "mine"}, stop="2")
    with pytest.raises(FileExistsError, match="run 'demo' exists"):
        run_chain({"run": "demo", "replace": ""}, stop="2")
    assert all(path.exists() for path in models), "it is for 02 to replace a model, not for the chain"
    write_json(Run.open("mine").params, {"run": "mine", "epochs": 3})
    run_chain({"run": "mine", "epochs": 5, "split": "val", "threshold": 0.3}, start="3")
    noted = read_json(Run.open("mine").params)
    kept = {"run": "mine", "epochs": 3, "split": "val", "threshold": 0.3}
    assert noted | kept == noted, "what 02 was given stays"


def test_the_page_loads_nothing_and_holds_its_images(tmp_path):
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    (tmp_path / "dot.png").write_bytes(base64.b64decode(png))
    widget, state = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("view", "state"))
    shown = {widget: {"model_id": "x"}, "text/html": "<b>gallery</b>", "text/plain": "Box()"}
    bar = {widget: {"model_id": "y"}, "text/plain": "0%|   | 0/3"}
    outputs = [nbformat.v4.new_output("display_data", data) for data in (bar, shown, {"image/png": png})]
    words = nbformat.v4.new_markdown_cell("![dot](dot.png) Next: [02](02_train.ipynb)")
    cells = [words, nbformat.v4.new_code_cell("show()", outputs=outputs)]
    content = {"state": {"x": {}}, "version_major": 2, "version_minor": 0}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {state: content}})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    text = export_page(tmp_path / "a.ipynb", tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count(png) == 2
    assert [part in text for part in ("<b>gallery</b>", 'href="02_train.html"')] == [True, True]
    assert [part in text for part in ("0/3", "widget-state")] == [False, False]
    assert not re.search(r"<script[^>]*\bsrc=|<link\b|@import|<iframe|\bimport\(", text)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#|02_train\.html)""", text)
    assert not re.search(r"url\((?!['\"]?(?:data:|#))", text)


@pytest.mark.slow
def test_the_real_notebooks_with_parameters_other_than_the_defaults(tmp_path):
    """Every notebook must hold with other parameters too: another model, run, split, policy and threshold."""
    for name in ("notebooks", "data/demo"):
        shutil.copytree(Path(__file__).parent.parent / name, tmp_path / name)
    values = {
        **{"run": "other", "architecture": "FPN", "encoder_weights": "none", "epochs": 2, "batch_size": 8},
        **{"class_weights": "sqrt_inverse", "crop_height": 64, "crop_width": 96, "split": "val", "sheets": 2},
        **{"absent": "union", "flip_tta": True, "threshold": 0.8, "examples": 3, "seed": 1},
    }
    (tmp_path / "other.json").write_text(json.dumps(values))
    line = "-m seglib.cli run --params other.json -p learning_rate=2e-3"
    environment = os.environ | {"SEGLIB_ROOT": str(tmp_path)}
    subprocess.run([sys.executable, *line.split()], cwd=tmp_path, env=environment, check=True)
    assert states(tmp_path, "other") == dict.fromkeys(NAMES, "done")
    run = tmp_path / "artifacts/runs/other"
    used = read_json(run / "params.json")
    again = check_chain(used)  # as `seglib run --params .../params.json --run again` does
    assert {name: value for share in again.values() for name, value in share.items()} == used
    assert (values | {"learning_rate": 2e-3}).items() <= used.items()
    for name in ("checkpoints/best.pth", "evaluation/val/metrics.json", "failures/val/failures.csv"):
        assert (run / name).exists()
