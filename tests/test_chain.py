"""The chain on four tiny notebooks in a project root of its own, and once on the real ones."""

import base64
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from seglib import pages
from seglib import pipeline as chain
from seglib.pages import export_page
from seglib.params import NOTEBOOKS, ParameterError, check_chain
from seglib.pipeline import ChainError, run_chain, step
from seglib.runs import Run

NAMES = ("01_data_check", "02_train", "03_evaluate", "04_failure_analysis")
CELLS = {
    "01_data_check": 'dataset: str = "data/demo"  # which',
    "02_train": 'run: str = "demo"  # name\nepochs: int = 30  # passes\nresume: bool = False  # go on',
    "03_evaluate": 'run: str = "demo"  # name\nsplit: str = "test"  # which',
    "04_failure_analysis": 'run: str = "demo"  # name\nsplit: str = "test"  # which\nthreshold: float = 0.5  # below: failed',
}


def write_notebook(path: Path, parameters: str, *sources: str) -> None:
    cells = [nbformat.v4.new_markdown_cell(f"# {path.stem}")]
    cells += [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project root whose four notebooks print their parameters."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    for name in NAMES:
        names = re.findall(r"^(\w+):", CELLS[name], re.M)
        write_notebook(
            tmp_path / "notebooks" / f"{name}.ipynb",
            CELLS[name],
            f"print(dict({', '.join(f'{n}={n}' for n in names)}))",
        )
    return tmp_path


def put(root: Path, name: str, *sources: str) -> None:
    write_notebook(root / "notebooks" / f"{name}.ipynb", CELLS[name], *sources)


@pytest.fixture
def no_kernel(monkeypatch):
    """Notebooks that "run" at once, for what concerns no kernel; a name in the list fails."""
    failing = []

    def run_notebook(source, target, given):
        shutil.copy(source, target)
        return "ValueError: told to" if source.stem in failing else ""

    monkeypatch.setattr(chain, "_run_notebook", run_notebook)
    monkeypatch.setattr(pages, "export_page", lambda notebook, page: page)
    return failing


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(
        o.text for c in cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"
    )


def states(root: Path, run: str) -> dict[str, str]:
    status = json.loads((root / "artifacts/runs" / run / "status.json").read_text())
    return {notebook: entry["state"] for notebook, entry in status.items()}


def train(run: str) -> None:
    """Leave behind what a training leaves."""
    for path in (Run(Run.folder(run)).best_checkpoint, Run(Run.folder(run)).last_checkpoint):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"model")


@pytest.mark.slow
def test_the_chain_passes_parameters_and_leaves_notebooks_pages_and_states(root):
    out = io.StringIO()
    shares = check_chain({"epochs": 3, "split": "val", "threshold": 0.4})
    done = run_chain(shares, "mine", out=out)

    assert [step.notebook for step in done] == list(NAMES)
    folder = root / "artifacts/runs/mine/notebooks"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        f"{n}.{e}" for n in NAMES for e in ("html", "ipynb")
    )
    assert printed(folder / "01_data_check.ipynb") == "{'dataset': 'data/demo'}\n"
    assert printed(folder / "02_train.ipynb") == "{'run': 'mine', 'epochs': 3, 'resume': False}\n"
    assert printed(folder / "03_evaluate.ipynb") == "{'run': 'mine', 'split': 'val'}\n"
    assert (
        printed(folder / "04_failure_analysis.ipynb") == "{'run': 'mine', 'split': 'val', 'threshold': 0.4}\n"
    )
    assert states(root, "mine") == dict.fromkeys(NAMES, "done")
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [[n, "done"] for n in NAMES]
    # The committed notebooks are sources: the chain never writes into them.
    assert not any(
        c.get("outputs") for n in NAMES for c in nbformat.read(root / f"notebooks/{n}.ipynb", 4).cells
    )


@pytest.mark.slow
def test_kernels_work_in_the_notebooks_folder(root):
    put(root, "01_data_check", "import pathlib\nprint(pathlib.Path.cwd().name)")
    done = run_chain({}, "mine", stop="1")
    assert printed(done[0].path) == "notebooks\n"


@pytest.mark.slow
def test_the_first_failing_notebook_ends_the_chain_with_its_own_error(root):
    put(
        root, "02_train", "print('so far')", "raise ValueError('mask a: expected 96 x 128')", "print('never')"
    )
    with pytest.raises(ChainError) as caught:
        run_chain({}, "mine", out=io.StringIO())

    assert caught.value.notebook == "02_train"
    assert caught.value.error == "ValueError: mask a: expected 96 x 128"
    assert "artifacts/runs/mine/notebooks/02_train.ipynb" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    folder = root / "artifacts/runs/mine/notebooks"
    assert printed(folder / "02_train.ipynb") == "so far\n"
    assert "mask a: expected 96 x 128" in (folder / "02_train.html").read_text(encoding="utf-8")
    assert not (folder / "03_evaluate.ipynb").exists()
    assert states(root, "mine") == {"01_data_check": "done", "02_train": "failed"}


@pytest.mark.slow
def test_a_killed_kernel_is_a_failure(root):
    put(root, "01_data_check", "import os\nos._exit(9)")
    with pytest.raises(ChainError, match="the kernel died"):
        run_chain({}, "mine", out=io.StringIO())
    assert states(root, "mine") == {"01_data_check": "failed"}
    assert (root / "artifacts/runs/mine/notebooks/01_data_check.html").exists()


def test_an_interrupted_notebook_is_not_left_running(root, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(chain, "_run_notebook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_chain({}, "mine", out=io.StringIO())
    assert states(root, "mine") == {"01_data_check": "failed"}


def test_starting_later_keeps_what_ran_before_and_forgets_what_comes_after(root, no_kernel):
    run_chain({}, "mine", out=io.StringIO())
    train("mine")
    no_kernel.append("03_evaluate")
    with pytest.raises(ChainError, match="told to"):
        run_chain({}, "mine", start="03_evaluate", out=io.StringIO())
    assert states(root, "mine") == {"01_data_check": "done", "02_train": "done", "03_evaluate": "failed"}


def test_starting_behind_the_training_needs_a_trained_run(root):
    with pytest.raises(FileNotFoundError, match="run 'mine' has no trained model"):
        run_chain({}, "mine", start=3)
    assert not (root / "artifacts/runs/mine/notebooks").exists()


def test_a_trained_run_is_refused_before_anything_starts(root):
    train("mine")
    with pytest.raises(FileExistsError, match="run 'mine' exists"):
        run_chain({}, "mine")
    assert not (root / "artifacts/runs/mine/notebooks").exists()
    assert Run(Run.folder("mine")).best_checkpoint.exists()


def test_a_trained_run_may_be_resumed_or_checked_again_and_demo_made_anew(root, no_kernel):
    train("mine")
    train("demo")
    run_chain(check_chain({"resume": True}), "mine", stop=2, out=io.StringIO())
    run_chain({}, "mine", stop=1, out=io.StringIO())
    run_chain({}, "demo", stop=2, out=io.StringIO())
    # What 02 replaces is for 02 to replace: the chain itself deletes no model.
    assert Run(Run.folder("demo")).best_checkpoint.exists()


def test_a_parameter_that_the_cell_lacks_is_named_before_anything_starts(root):
    with pytest.raises(ParameterError, match=r"parameters cell of 02_train has no batch_size .*epochs"):
        run_chain(check_chain({"batch_size": 2}), "mine")
    assert not (root / "artifacts").exists()


def test_a_missing_notebook_is_named(root):
    (root / "notebooks/03_evaluate.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match=r"notebooks/03_evaluate\.ipynb"):
        run_chain({}, "mine")


def test_a_damaged_status_file_does_not_stop_a_run(root, no_kernel):
    path = root / "artifacts/runs/mine/status.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    run_chain({}, "mine", stop=1, out=io.StringIO())
    assert states(root, "mine") == {"01_data_check": "done"}


def test_a_page_that_cannot_be_written_ends_nothing(root, no_kernel, monkeypatch):
    def fail(notebook, page):
        raise AttributeError("mistune")

    monkeypatch.setattr(pages, "export_page", fail)
    out = io.StringIO()
    assert len(run_chain({}, "mine", stop=2, out=out)) == 2
    assert "02_train: no HTML page (AttributeError: mistune)" in out.getvalue()
    no_kernel.append("01_data_check")
    with pytest.raises(ChainError, match="told to"):
        run_chain({}, "mine", stop=1, out=out)


def test_params_json_tells_what_every_notebook_was_given(root, no_kernel):
    def noted():
        return json.loads((root / "artifacts/runs/mine/params.json").read_text())

    def run(values, **steps):
        run_chain(check_chain(values), "mine", out=io.StringIO(), **steps)

    run({"run": "other", "epochs": 3, "split": "val", "threshold": 0.4}, stop=1)
    first = noted()
    assert first == {n: v for model in NOTEBOOKS.values() for n, v in model().model_dump().items()} | {
        "run": "mine", "epochs": 3, "split": "val", "threshold": 0.4,
    }  # fmt: skip
    assert check_chain(first)["03_evaluate"]["split"] == "val"
    train("mine")
    # What trained the model that is there stays; 04 is told another threshold than before.
    run({"epochs": 5, "split": "val", "threshold": 0.3}, start=3)
    assert noted() == first | {"threshold": 0.3}
    run({"epochs": 5, "split": "test"}, start=3, stop=3)
    assert noted() == first | {"threshold": 0.3, "split": "test"}
    external = root / "artifacts/runs/foreign/params.json"
    external.parent.mkdir(parents=True)
    external.write_text('{"predictions": "masks"}')
    run_chain({}, "foreign", start=4, out=io.StringIO())
    assert json.loads(external.read_text()) == {"predictions": "masks"}


@pytest.mark.parametrize("name", ["02_train", "02_train.ipynb", "2", "02", 2, "train"])
def test_a_notebook_has_several_names(name):
    assert step(name) == "02_train"


@pytest.mark.parametrize("name", ["", "0", "5", 0, "02_", "tra"])
def test_other_names_are_refused(name):
    with pytest.raises(ParameterError, match="expected 1-4 or one of 01_data_check"):
        step(name)


def test_a_chain_cannot_end_before_it_begins(root):
    with pytest.raises(ParameterError, match="from 03_evaluate to 02_train"):
        run_chain({}, "mine", start=3, stop=2)


def test_the_page_loads_nothing_and_holds_its_pictures(tmp_path):
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    (tmp_path / "dot.png").write_bytes(base64.b64decode(png))
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
        "text/html": "<b>gallery</b>",
        "text/plain": "Box()",
    }
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "y"}, "text/plain": "0%|   | 0/3"}
    outputs = [
        nbformat.v4.new_output("display_data", bar),
        nbformat.v4.new_output("display_data", widget),
        nbformat.v4.new_output("display_data", {"image/png": png}),
    ]
    words = "![dot](dot.png) Next: [02](02_train.ipynb)"
    cells = [nbformat.v4.new_markdown_cell(words), nbformat.v4.new_code_cell("show()", outputs=outputs)]
    state = {
        "widgets": {
            "application/vnd.jupyter.widget-state+json": {
                "state": {"x": {}},
                "version_major": 2,
                "version_minor": 0,
            }
        }
    }
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=state), tmp_path / "a.ipynb")

    text = export_page(tmp_path / "a.ipynb", tmp_path / "a.html").read_text(encoding="utf-8")

    assert text.count(png) == 2
    assert "<b>gallery</b>" in text
    assert "0/3" not in text
    assert 'href="02_train.html"' in text
    assert "widget-state" not in text
    assert not re.search(r"<script[^>]*\bsrc=|<link\b|@import|<iframe|\bimport\(", text)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#|02_train\.html)""", text)
    assert not re.search(r"url\((?!['\"]?(?:data:|#))", text)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kernels speak through TCP there")
def test_sockets_lie_apart_and_go_with_the_kernel(root, tmp_path_factory, monkeypatch):
    with chain._kernel_sockets() as config, chain._kernel_sockets() as other:
        assert config.KernelManager.transport == "ipc"
        assert config.KernelManager.ip != other.KernelManager.ip
        folder = Path(config.KernelManager.ip).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()

    put(
        root,
        "01_data_check",
        "import ipykernel, json\nprint(json.load(open(ipykernel.get_connection_file()))['transport'])",
    )
    assert printed(run_chain({}, "mine", stop=1)[0].path) == "ipc\n"
    assert sorted(p.suffix for p in (root / "notebooks").iterdir()) == [".ipynb"] * 4

    monkeypatch.setattr(chain.tempfile, "tempdir", str(tmp_path_factory.mktemp("long" * 30)))
    with chain._kernel_sockets() as config:
        assert not config.KernelManager  # a path too long for a socket: the default, TCP


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.slow
def test_on_a_terminal_the_running_notebook_tells_its_epoch(root, monkeypatch):
    monkeypatch.setattr(chain, "TICK", 0.05)
    put(
        root,
        "02_train",
        "import pathlib, time",
        "pathlib.Path('../artifacts/runs/mine/history.csv').write_text('epoch,val_miou\\n1,0.25\\n2,0.5\\n')",
        "time.sleep(0.5)",
    )
    out = Terminal()
    run_chain(check_chain({"epochs": 7}), "mine", stop=2, out=out)
    assert "epoch 2 of 7, val mIoU 0.500" in out.getvalue()
    assert re.search(r"\r *\r02_train +done +0:0\d\n$", out.getvalue())


def test_durations_read_like_a_clock():
    assert [chain._clock(s) for s in (0, 59.6, 61, 3600, 86399)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:00:00",
        "23:59:59",
    ]


@pytest.mark.slow
def test_the_real_notebooks_with_parameters_other_than_the_defaults(tmp_path):
    """Every notebook must hold with other parameters too: another model, run, split, policy and threshold."""
    project = Path(__file__).parent.parent
    shutil.copytree(
        project / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    (tmp_path / "data").mkdir()
    values = {
        "run": "other",
        "architecture": "FPN",
        "encoder": "timm-tf_efficientnet_lite0",
        "encoder_weights": "none",
        "epochs": 2,
        "batch_size": 8,
        "class_weights": "sqrt_inverse",
        "crop_height": 64,
        "crop_width": 96,
        "split": "val",
        "absent": "union",
        "flip_tta": True,
        "threshold": 0.8,
        "sheets": 2,
        "examples": 3,
        "seed": 1,
    }
    (tmp_path / "other.json").write_text(json.dumps(values))
    command = [
        sys.executable,
        "-m",
        "seglib.cli",
        "run",
        "--params",
        "other.json",
        "-p",
        "learning_rate=2e-3",
    ]
    environment = os.environ | {"SEGLIB_ROOT": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert states(tmp_path, "other") == dict.fromkeys(NAMES, "done")
    run = tmp_path / "artifacts/runs/other"
    used = json.loads((run / "params.json").read_text())
    assert used["learning_rate"] == 2e-3
    again = check_chain(
        used
    )  # as `seglib run --params .../params.json --run again` gives it to the notebooks
    assert {name: value for share in again.values() for name, value in share.items()} == used
    assert values.items() <= used.items()
    assert (run / "checkpoints/best.pth").exists()
    assert (run / "evaluation/val/metrics.json").exists()
    assert (run / "failures/val/failures.csv").exists()
    assert not (tmp_path / "artifacts/runs/demo").exists()
