"""The house: which module may import which, read from the sources."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "seglib"

TORCH = {"torch", "torchvision", "torchmetrics", "timm", "segmentation_models_pytorch"}
PLOTS = {"matplotlib", "seaborn"}
WIDGETS = {"ipywidgets", "IPython", "anywidget", "traitlets"}
SHOW = PLOTS | WIDGETS

# Rooms by floor: the modules of a room, then the packages that none of them may import. A module imports from floors
# below its own; within a room only to split it, and never in a circle.
HOUSE = {
    0: [
        (("classes",), TORCH | SHOW),
        (("runs", "params", "options", "reading", "storage", "claims", "limits"), TORCH | SHOW),
        (("compiled",), TORCH | SHOW),
    ],
    1: [
        (("dataset", "images", "pairing", "config", "draft", "fetch", "content"), TORCH | SHOW),
        (("regions",), TORCH | SHOW),
        (("ahead",), TORCH | SHOW | {"numpy", "pandas"}),
        (
            (
                *("hardware", "plans", "machine", "parallel"),
                *("kernels", "normalization", "teams", "channelwise", "pixelwise"),
            ),
            SHOW,
        ),
    ],
    2: [
        (
            ("demo", "demo_faults", "demo_scenes", "demo_canvas", "demo_paint", "faults", "plant"),
            TORCH | SHOW,
        ),
        (
            (
                *("checks", "inspection", "findings", "looks", "mask_checks"),
                *("leakage", "sequences", "shares", "splits"),
            ),
            TORCH | SHOW,
        ),
        (("loading", "batches", "augment", "views"), SHOW),
        (("losses",), SHOW | {"numpy", "pandas"}),
        (("models", "weight_files", "averaging", "optimizer"), SHOW),
        (("metrics", "boundary", "calibration", "intervals", "region_scores"), TORCH | SHOW),
        (("pictures",), TORCH | SHOW),
        (("actions",), TORCH | SHOW),
        (("mask_files",), TORCH | SHOW),
    ],
    3: [
        (("attribution", "shortfall"), TORCH | SHOW),
        (("verdicts",), TORCH | SHOW),
        (("degradation", "novelty", "slices", "early_warning", "label_errors"), TORCH | SHOW),
        (("training", "trainer", "trials", "tracking"), SHOW),
        (("inference", "evaluation", "predictions", "evidence"), SHOW),
        (("counts_metric",), SHOW),
    ],
    4: [
        (("failures", "thresholds", "analysis", "causes", "exports", "proposals"), SHOW),
        (("comparison",), SHOW | TORCH),
        (("baselines",), SHOW | TORCH),
        (("launch",), SHOW),
        (("annotation", "corrections", "brush"), SHOW | TORCH),
    ],
    5: [
        (
            (
                *("plots", "data_plots", "sheets", "matrices", "diagrams", "loss_plots", "cause_plots"),
                *("style", "live"),
            ),
            TORCH | {"ipywidgets", "anywidget"},
        ),
        (("browser", "gallery", "layers", "review"), TORCH),
        (("report", "report_data"), TORCH),
    ],
    6: [
        (("cli", "chain", "pages", "commands", "repeat"), TORCH | PLOTS | {"pandas"}),
    ],
}
FLOOR = {module: floor for floor, rooms in HOUSE.items() for modules, _ in rooms for module in modules}
ROOM = {module: modules for rooms in HOUSE.values() for modules, _ in rooms for module in modules}
NEVER = {module: never for rooms in HOUSE.values() for modules, never in rooms for module in modules}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@functools.cache
def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of seglib, and top-level names of other packages, that a file imports anywhere in it."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path.name}:{node.lineno}: write `from seglib.x import y`, not a relative import"
            )
            assert node.names[0].name != "*", (
                f"{path.name}:{node.lineno}: a wildcard import hides what is used"
            )
            names = [f"seglib.{a.name}" for a in node.names] if node.module == "seglib" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top != "seglib":
                outside.add(top)
            elif not rest.startswith("__"):
                inside.add(rest.split(".")[0])
    return inside, outside


def test_every_module_has_a_floor_and_every_floor_its_modules():
    assert sorted(FLOOR) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below(module):
    inside, outside = imports(PACKAGE / f"{module}.py")
    above = {m for m in inside if FLOOR[m] >= FLOOR[module] and m not in ROOM[module]}
    assert not above, f"{module} (floor {FLOOR[module]}) imports {sorted(above)}, which do not lie below it"
    assert not outside & NEVER[module], f"{module} must not import {sorted(outside & NEVER[module])}"


def test_no_circle():
    graph = {module: imports(PACKAGE / f"{module}.py")[0] for module in MODULES}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


@pytest.mark.parametrize(
    "module",
    ["seglib", "seglib.data.classes", "seglib.runs", "seglib.params", "seglib.cli", "seglib.pipeline"],
)
def test_light_modules_import_nothing_heavy(module):
    heavy = sorted(TORCH | SHOW | {"pandas", "scipy", "papermill", "nbconvert", "nbformat"})
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == []
