"""The house, read from the sources: the order of the rooms, their doors, and what importing seglib changes (nothing)."""

import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "seglib"
FLOORS = "runs,params,data,actions metrics,checks,train,evaluate,failures,plots,browser,pipeline,cli"
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
FLOOR = {name: floor for floor, names in enumerate(FLOORS.split(",")) for name in names.split()}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))[1:]  # without __init__
TORCH = {"torch", "torchvision", "torchmetrics", "timm", "segmentation_models_pytorch"}
HEAVY = TORCH | {"pandas", "scipy", "matplotlib", "papermill", "nbformat", "nbconvert", "IPython", "skimage"}
SHOW = {"matplotlib", "ipywidgets", "anywidget"}
NO_TORCH = ("data", "metrics", "checks", "plots")  # not even lazily
CODE = """
import importlib, json, os, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
torch = sys.modules.get("torch")
def settings():
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    values = torch.get_num_threads(), torch.initial_seed(), torch.get_default_dtype(), torch.nn.Conv2d.forward
    return dict(os.environ), cuda.allow_tf32, cudnn.benchmark, values
before = torch and settings()
for name in sys.argv[1].split(","):
    importlib.import_module(f"seglib.{name}")
print(json.dumps([sorted(sys.modules), torch and settings() == before]))
"""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(file: str) -> tuple[set[str], set[str]]:
    """Modules of seglib ("data", "data.classes"), and top names of other packages, that a file imports anywhere."""
    names, own = set(), f"seglib.{room(file)}"
    for node in ast.walk(parsed(PACKAGE / file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write `from seglib.x import y`"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            files = {name for name in whole if (PACKAGE.parent / f"{name.replace('.', '/')}.py").exists()}
            inner = files if node.module == own else {}
            names |= whole if node.module == "seglib" else inner or {node.module}
    assert "seglib" not in names or file in ("cli.py", "pipeline.py"), f"{file} imports the whole house"
    inside = {name.removeprefix("seglib.") for name in names if re.match(r"seglib\.(?!__)", name)}
    return inside, {name.split(".")[0] for name in names} - {"seglib"}


def room(module: str) -> str:
    return module.replace("/", ".").split(".")[0]


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_from_rooms_below_through_their_doors(file):
    inside, outside = imports(file)
    here = room(file)
    for module in inside:
        if room(module) == here:
            assert module != here or file.endswith(("__init__.py", "worker.py")), "its own door"
        else:
            assert FLOOR[room(module)] < FLOOR[here], f"{module} is not below {here}"
            assert "." not in module, f"the door of {module} is seglib.{room(module)}"
    refused = outside & (TORCH if here in NO_TORCH else set())
    refused |= outside & (SHOW if FLOOR[here] < FLOOR["plots"] else set())
    assert not refused, f"seglib/{file} imports {sorted(refused)}, which {here} never does"


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_a_door_hands_on_names_and_defines_nothing(name):
    tree = parsed(PACKAGE / name / "__init__.py")
    assert len(ast.get_docstring(tree) or "") > 20, "says what the room does"
    (listed,) = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)]
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert sorted(listed) == sorted({alias.asname or alias.name for node in froms for alias in node.names})
    assert len(tree.body) == 2 + len(froms)


def test_no_circle():
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    graph = {module: imports(file)[0] for module, file in modules.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


def import_all(names: str, *first: str) -> tuple[set[str], bool]:
    """Import modules in another process, `first` before: what is loaded then, and whether its settings are as before."""
    command = [sys.executable, "-c", CODE, names, *first]
    modules, same = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return set(modules), same


def test_light_modules_and_rooms_load_nothing_heavy():
    assert not import_all("runs,params,pipeline,cli")[0] & HEAVY
    assert not import_all(",".join(NO_TORCH))[0] & TORCH


@pytest.mark.slow
def test_importing_a_room_changes_nothing_in_the_process():
    first = ["torch._inductor.config", "segmentation_models_pytorch", "matplotlib", "sklearn.neighbors"]
    assert import_all(FLOORS.replace(" ", ","), *first)[1]


@pytest.mark.slow
def test_what_a_benchmark_imports_of_seglib_is_there():
    for path in (PACKAGE.parent / "benchmarks").rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seglib"):
                exec(ast.unparse(node), {})
