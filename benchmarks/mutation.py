"""Would the tests notice a wrong figure? `pip install mutmut==3.8.1`, then `python benchmarks/mutation.py` prints the table behind
docs/correctness.md and writes JSON.

mutmut changes one place of a module at a time (an operator, a number, an argument, an assignment) and runs the tests that reach
it; a mutant that no test notices has survived. Each module is held to its own tests alone. Of each module's mutants a seeded
sample is tried; texts of errors (`raise ...`) are left as they are. `--again` tries the survivors once more, after new tests.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Module -> the files of its own tests.
TESTS = {
    "metrics": ("metrics", "differential"),
    "losses": ("losses", "gradients"),
    "augment": ("augment", "alignment"),
    "loading": ("loading",),
    "failures": ("failures",),
    "attribution": ("attribution",),
    "thresholds": ("thresholds",),
    "label_errors": ("label_errors",),
    "causes": ("causes",),
    "region_scores": ("region_scores",),
    "boundary": ("boundary",),
    "calibration": ("calibration", "differential"),
}
PROJECT = """
[tool.mutmut]
source_paths = ["seglib"]
only_mutate = ["seglib/{module}.py"]
do_not_mutate_patterns = ["raise \\\\w+"]
also_copy = ["conftest.py"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow"]
pytest_add_cli_args_test_selection = ["tests"]
timeout_multiplier = 2.0
timeout_constant = 5.0
use_git_change_detection = false
track_dependencies = false

[tool.pytest.ini_options]
filterwarnings = ["error"]
markers = ["browser: of a real Chromium", "slow: whole chains"]
"""
# A busy machine must not pass for a test that fails.
CONFTEST = """
from hypothesis import HealthCheck, settings

settings.register_profile("mutation", deadline=None, suppress_health_check=list(HealthCheck), database=None)
settings.load_profile("mutation")
"""
STATUS = {
    0: "survived",
    1: "killed",
    3: "killed",
    33: "no tests",
    36: "timeout",
    24: "timeout",
    -24: "timeout",
    -14: "timeout",
}


def prepare(folder: Path, module: str) -> None:
    """A project of the package and of the module's own tests."""
    for name in ("seglib", "tests"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(ROOT / "seglib", folder / "seglib", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in ("conftest", *(f"test_{name}" for name in TESTS[module])):
        shutil.copy(ROOT / "tests" / f"{name}.py", folder / "tests")
    (folder / "pyproject.toml").write_text(PROJECT.format(module=module), encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")


# mutmut's first step alone, and its "show" of many mutants at once: each start of it takes seconds.
_WRITE = """
from pathlib import Path
from mutmut import __main__ as mutmut
mutmut.set_mutant_under_test("mutant_generation")
Path("mutants").mkdir(exist_ok=True)
mutmut.copy_src_dir(), mutmut.copy_also_copy_files(), mutmut.setup_source_paths()
mutmut.store_lines_covered_by_tests(), mutmut.create_mutants(1)
"""
# Every mutant in a fork of one process that has imported and collected all; `mutmut run` starts pytest anew for each of them.
_TRY = """
import gc, json, os, resource, signal, sys, time
from pathlib import Path
import pytest
from _pytest.runner import runtestprotocol
from mutmut.state import state

def passes(item, following):
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))

class Forks:
    def pytest_runtestloop(self, session):
        os.environ["MUTANT_UNDER_TEST"] = "stats"
        reached, cost = {}, {}
        for item, following in zip(session.items, session.items[1:] + session.items[:1]):
            start = time.process_time()
            assert passes(item, following), f"{item.nodeid} fails without any mutant"
            reached[item], cost[item] = set(state()._stats), time.process_time() - start
            state()._stats.clear()
        path = Path("seglib") / f"{sys.argv[1]}.py.meta"
        known = json.loads(path.read_text(encoding="utf-8"))
        gc.freeze()  # a fork that collects garbage copies the memory it looks at
        for name in sys.argv[2:]:
            function = name.partition("__mutmut_")[0]
            tests = sorted((item for item in session.items if function in reached[item]), key=cost.get)
            limit = 10 + 5 * int(sum(cost[item] for item in tests))
            child = os.fork()
            if not child:
                os.environ["MUTANT_UNDER_TEST"] = name
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
                signal.alarm(20 * limit)  # of a busy machine
                session._setupstate.teardown_exact((tests or session.items)[0])
                os._exit(not all(passes(*pair) for pair in zip(tests, tests[1:] + tests[:1])))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            known["exit_code_by_key"][name] = status if tests else 33
            path.write_text(json.dumps(known, indent=4), encoding="utf-8")
        return True

sys.path.insert(0, "")
# A fork has none of OpenMP's threads, and waits for them: what is tested with several stays out.
pytest.main(["-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow", "-k", "not threads", "--tb=no",
             "-o", "tmp_path_retention_policy=none", "tests"], plugins=[Forks()])
"""
_SHOW = """
import json, sys
from pathlib import Path
from mutmut.__main__ import get_diff_for_mutant
module, *names = sys.argv[1:]
shown = {}
for name in names:
    lines = get_diff_for_mutant(name, path=Path("seglib") / f"{module}.py").splitlines()
    shown[name] = [line for line in lines if line[:1] in "+-" and line[:3] not in ("---", "+++")]
print(json.dumps(shown))
"""


def python(folder: Path, *arguments: str, cwd: str = ".") -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "SEGLIB_ROOT": str(folder)}
    command = [sys.executable, "-c" if "\n" in arguments[0] else "-m", *arguments]
    done = subprocess.run(
        command, cwd=folder / cwd, env=environment, encoding="utf-8", capture_output=True, errors="replace"
    )
    (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return done.stdout


def codes(folder: Path, module: str) -> dict[str, int | None]:
    """Mutant -> exit status of its tests; None: not tried."""
    meta = folder / "mutants" / "seglib" / f"{module}.py.meta"
    return json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"] if meta.is_file() else {}


def run(folder: Path, module: str, sample: int, seed: int, again: bool) -> dict:
    """Counts of one module's mutants, and the survivors as differences."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, module)
    python(folder, _WRITE)
    found = codes(folder, module)
    if not found:
        sys.exit(f"mutmut made no mutants of {module}: see {folder / 'log.txt'}")
    chosen = random.Random(seed).sample(sorted(found), min(sample or len(found), len(found)))
    chosen += [name for name in found if found[name] is not None and name not in chosen]
    todo = [name for name in chosen if found[name] is None or (again and STATUS.get(found[name]) != "killed")]
    if todo:
        python(folder, _TRY, module, *todo, cwd="mutants")
        found = codes(folder, module)
        if any(found[name] is None for name in todo):
            sys.exit(f"mutmut did not try all mutants of {module}: see {folder / 'log.txt'}")
    status = {
        name: STATUS.get(found[name], "not tried" if found[name] is None else "killed") for name in chosen
    }
    counts = Counter(status.values())
    left = {name: state for name, state in status.items() if state != "killed"}
    shown = json.loads(python(folder, _SHOW, module, *left)) if left else {}
    left = {name: {"state": state, "change": shown[name]} for name, state in left.items()}
    return {"module": module, "mutants": len(found), "tried": len(chosen), **counts, "left": left}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", default=[], help=f"of {', '.join(TESTS)}; all by default")
    parser.add_argument(
        "--sample",
        type=int,
        default=100,
        help="mutants a module, drawn at random (default 100), besides those tried before; 0: all",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="try the survivors of the last run once more")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "artifacts" / "mutation", help="kept between runs"
    )
    asked = parser.parse_args()
    path = Path(__file__).with_suffix(".json")
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for module in asked.modules or TESTS:
        row = run(asked.work / module, module, asked.sample, asked.seed, asked.again)
        rows[module] = row
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print({key: value for key, value in row.items() if key != "left"}, flush=True)


if __name__ == "__main__":
    main()
