"""The committed notebooks: executed, clean, small, in step with `seglib.params`; 04 opens everything once."""

import ast
import json
import re
import typing
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from papermill import inspect_notebook
from PIL import Image

from seglib import data, evaluate, runs, train
from seglib.params import NOTEBOOKS, Evaluate, check_chain

FOLDER = Path(__file__).parent.parent / "notebooks"
TAGS = {"parameters", "nbval-ignore-output"}
DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
# A POSIX path of two parts or more that nothing precedes, or a Windows one; `a/b`, `</td>` and addresses are none.
ABSOLUTE = re.compile(r"(?<![\w.:/<~\\-])/(?!/)[\w.@-]+/[\w.@-]|\b[A-Za-z]:\\\\?[\w.]|~/\w|file:/")
OTHER = {
    "architecture": "FPN", "class_weights": "sqrt_inverse", "crop_height": 64, "crop_width": 96, "examples": 3, "seed": 1,
    "split": "val", "absent": "union", "flip_tta": True, "threshold": 0.8, "sheets": 2,
}  # fmt: skip


@pytest.fixture(scope="module", params=list(NOTEBOOKS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(cell) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(cell.source))


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_its_form(name, notebook):
    nbformat.validate(notebook)
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NOTEBOOKS)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_500_000
    words = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert 15 <= len(notebook.cells) <= 32
    assert [text for text in words if re.match(r"# \S", text)] == words[:1], "one title"
    links = re.findall(r"\]\((?!https?:|#|attachment:|\.\./artifacts/)([^)#\s]+)", "\n".join(words))
    assert not [link for link in links if not (FOLDER / link).exists()]


def test_its_parameters_are_those_of_the_model(name, code):
    """papermill knows no Literal: the cell says str there; every parameter has a trailing comment for its help."""
    (cell,) = [cell for cell in code if "parameters" in tags(cell)]
    assigned = [(n.target.id, ast.unparse(n.annotation), ast.literal_eval(n.value)) for n in tree(cell).body]
    fields = NOTEBOOKS[name].model_fields
    literal = {n for n, field in fields.items() if typing.get_origin(field.annotation) is typing.Literal}
    kinds = {n: str if n in literal else field.annotation for n, field in fields.items()}
    assert assigned == [(n, kinds[n].__name__, field.default) for n, field in fields.items()]
    assert all(type(value) is kinds[n] for n, _, value in assigned)
    seen = inspect_notebook(FOLDER / f"{name}.ipynb")
    assert list(seen) == list(kinds)
    assert all(info["help"].strip() and info["inferred_type_name"] != "None" for info in seen.values())


def test_it_was_executed_in_order_without_errors_and_leaves_no_trace_of_that(notebook, code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert notebook.metadata.kernelspec.name == "python3"
    figures = [cell for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert all(cell.metadata.get("alt") for cell in figures), "a picture without a text for the blind"
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert set(tags(cell)) <= TAGS, "a misspelt tag does nothing"
        assert not {"papermill", "execution"} & set(cell.metadata), "use `make notebooks`"


def test_it_defines_nothing_and_its_cells_are_short(code):
    nodes = [node for cell in code for node in ast.walk(tree(cell))]
    assert any(isinstance(node, ast.Assert) for node in nodes), "checks its claims"
    assert not [node for node in nodes if isinstance(node, DEFINITIONS)]
    for cell in code:
        assert 0 < len(cell.source.splitlines()) <= 15 or "parameters" in tags(cell), cell.source


def test_it_tells_nothing_of_the_machine(notebook):
    pieces = [cell.source for cell in notebook.cells]
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        texts = {kind: d for kind, d in output.get("data", {}).items() if not kind.startswith("image/")}
        pieces += [output.get("text", ""), *map(json.dumps, texts.values())]
    text = re.sub(r"data:[\w/+.-]+;base64,[\w/+=\s]+", "", "\n".join(pieces))
    assert not [text[max(0, m.start() - 40) : m.end() + 40] for m in ABSOLUTE.finditer(text)]
    assert str(Path.home()) not in text


def run_cells(name: str, **given) -> None:
    names = {"display": lambda *_: None}
    for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names |= given if "parameters" in tags(cell) else {}


@pytest.mark.slow
def test_04_pairs_the_dataset_once_and_loads_the_model_once(trained_root, monkeypatch):
    evaluate.evaluate_run(Evaluate(run="tiny"))
    opened = []

    def count(room, name):
        work = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *args, **how: opened.append(name) or work(*args, **how))

    count(data, "load_dataset")
    count(train, "load_checkpoint")
    run_cells("04_failure_analysis", run="tiny")
    assert opened == ["load_dataset", "load_checkpoint"]
    assert (trained_root / "artifacts/runs/tiny/failures/test/report.html").exists()


def _one_class_one_image(folder: Path) -> None:
    path = folder / "dataset.yaml"
    path.write_text(path.read_text().replace("[sky, road, car]", "[all]"))
    for path in folder.glob("*/*/*.png"):
        if path.stem not in ("t00", "v0", "0041"):
            path.unlink()
        elif path.parent.name == "masks":
            Image.fromarray(np.asarray(Image.open(path)) // 255 * np.uint8(255)).save(path)


def _nothing_valid(folder: Path) -> None:
    for mask in [path for split in ("val", "test") for path in (folder / split / "masks").glob("*.png")]:
        Image.fromarray(np.full((40, 56), 255, np.uint8)).save(mask)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_one_class_one_image, _nothing_valid, None])
def test_the_notebooks_hold_with_other_parameters_and_next_to_no_data(change, tiny_root, tiny_params):
    if change:
        change(tiny_root / "data" / "tiny")
    small = tiny_params(run="little", epochs=1, crop_height=64, crop_width=64).model_dump()
    given = check_chain(small | ({} if change else OTHER))
    for name in list(NOTEBOOKS)[1 if change else 0 :]:
        run_cells(name, **given[name])
    evaluation = evaluate.open_evaluation("little", "test" if change else "val")
    assert np.isnan(evaluation.per_image["miou"]).all() == (change is _nothing_valid)
    kept = runs.read_json(evaluation.run.params)
    assert check_chain(kept)["02_train"] == kept, "seglib run --params .../params.json --run again repeats it"
