"""The committed notebooks: executed, clean, small, and in step with `seglib.params`."""

import ast
import json
import re
import typing
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from papermill import inspect_notebook

from seglib.params import NOTEBOOKS

FOLDER = Path(__file__).parent.parent / "notebooks"
TAGS = {"parameters", "nbval-ignore-output"}
# A POSIX path of two parts or more that nothing precedes, or a Windows one; `a/b`, `</td>` and addresses are none.
ABSOLUTE = re.compile(r"(?<![\w.:/<~\\-])/(?!/)[\w.@-]+/[\w.@-]|\b[A-Za-z]:\\\\?[\w.]|~/\w|file:/")
MOST_LINES = 15
MOST_BYTES = 1_500_000


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


def parameters(code):
    return [cell for cell in code if "parameters" in tags(cell)]


def written(annotation: type) -> str:
    """How the parameters cell writes the type of a field; papermill knows no Literal."""
    return "str" if typing.get_origin(annotation) is typing.Literal else annotation.__name__


def readable(notebook) -> str:
    """Everything in a notebook that a person may read: sources and outputs, pictures apart."""
    pieces = []
    for cell in notebook.cells:
        pieces.append(cell.source)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                pieces.append(output.text)
            for kind, data in output.get("data", {}).items():
                if not kind.startswith("image/"):
                    pieces.append(data if isinstance(data, str) else json.dumps(data))
    return re.sub(r"data:[\w/+.-]+;base64,[\w/+=\s]+", "", "\n".join(pieces))


def test_there_are_these_four_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NOTEBOOKS)


def test_it_is_valid_and_small(name, notebook):
    nbformat.validate(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES
    assert 15 <= len(notebook.cells) <= 32


def test_it_opens_with_a_title_and_ends_with_words(notebook):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert re.match(r"# \S", first.source)
    assert not re.search(
        r"^# ", "\n".join(c.source for c in notebook.cells[1:] if c.cell_type == "markdown"), re.M
    )


def test_it_links_to_what_is_there(notebook):
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)", words)
    missing = [
        link for link in links if not (FOLDER / link).exists() and not link.startswith("../artifacts/")
    ]
    assert not missing


def test_its_parameters_are_those_of_the_model(name, code):
    (cell,) = parameters(code)
    assigned = {}
    for node in tree(cell).body:
        assert isinstance(node, ast.AnnAssign), (
            f"expected `name: type = default  # meaning`, got {ast.unparse(node)!r}"
        )
        assigned[node.target.id] = (ast.unparse(node.annotation), ast.literal_eval(node.value))
    fields = NOTEBOOKS[name].model_fields
    expected = {field: (written(info.annotation), info.default) for field, info in fields.items()}
    assert list(assigned) == list(expected)
    assert assigned == expected
    assert {n: type(value).__name__ for n, (_, value) in assigned.items()} == {
        n: kind for n, (kind, _) in expected.items()
    }


def test_papermill_explains_every_parameter(name):
    seen = inspect_notebook(FOLDER / f"{name}.ipynb")
    assert list(seen) == list(NOTEBOOKS[name].model_fields)
    assert not [parameter for parameter, info in seen.items() if not info["help"].strip()], (
        "without a trailing comment"
    )
    assert not [parameter for parameter, info in seen.items() if info["inferred_type_name"] == "None"]


def test_it_was_executed_in_order_and_without_errors(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not [
        output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"
    ]


def test_it_defines_nothing_and_its_cells_are_short(code):
    for cell in code:
        nodes = list(ast.walk(tree(cell)))
        assert not [
            n
            for n in nodes
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))
        ]
        assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
        assert cell.source.strip(), "an empty cell"
        if "parameters" not in tags(cell):
            assert len(cell.source.splitlines()) <= MOST_LINES, cell.source


def test_it_asserts_its_own_claims(code):
    assert any(isinstance(node, ast.Assert) for cell in code for node in ast.walk(tree(cell)))


def test_it_tells_nothing_of_the_machine(notebook):
    text = readable(notebook)
    assert not [text[max(0, m.start() - 40) : m.end() + 40] for m in ABSOLUTE.finditer(text)]
    assert str(Path.home()) not in text


def test_it_is_no_trace_of_one_execution(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert set(tags(cell)) <= TAGS, (
            f"unknown tags {sorted(set(tags(cell)) - TAGS)} (a misspelt one does nothing)"
        )
        assert not {"papermill", "execution"} & set(cell.metadata), (
            "times of one execution: use `make notebooks`"
        )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /home/me/data", True),
        ("'/srv/x'", True),
        ("C:\\Users\\me", True),
        ("C:\\\\Users", True),
        ("~/data", True),
        ("file:///tmp/x", True),
        ("artifacts/runs/demo", False),
        (".../away/set", False),
        ("../artifacts/runs", False),
        ("<b>x</b></td>", False),
        ("https://arxiv.org/abs/2310.19252", False),
        ("truth / prediction, and/or", False),
        ("1/2/3", False),
        ("a // b", False),
    ],
)
def test_absolute_paths_are_told_from_others(text, found):
    assert bool(ABSOLUTE.search(text)) == found
