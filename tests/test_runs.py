"""Project root, names, files that are whole or not there, locks between processes, and run folders."""

import json
import math
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import raised, tree

from seglib import runs
from seglib.runs import Run, lock, read_json, write_json, write_text

WORK = """
import os, sys
from seglib.runs import replace_folder, write_text
folder, text, last_call = sys.argv[1:]
calls = 0
def counted(work):
    def call(*args, **options):
        global calls
        calls += 1
        if calls == int(last_call):
            os._exit(9)  # as SIGKILL: nothing is cleaned up
        return work(*args, **options)
    return call
for name in ("replace", "unlink", "rmdir", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
with replace_folder(folder, ("old.csv", "pictures"), last="done.json") as new:
    for name in (f"pictures/{text}.txt", "table.csv", "done.json"):
        write_text(new / name, text)
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if not name.endswith(".writing")}


def test_the_project_root(monkeypatch, tmp_path):
    assert runs.project_root() == tmp_path.resolve()
    monkeypatch.delenv("SEGLIB_ROOT")
    below = tmp_path / "project/data/demo"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert (runs.project_root() / "seglib" / "runs.py").exists(), "the checkout, from any folder"
    write_text(tmp_path / "project/notebooks/01_data_check.ipynb", "")
    assert runs.project_root() == tmp_path / "project"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "lib" / "seglib" / "runs.py"))
    raised(FileNotFoundError, r"no notebooks/01_data_check\.ipynb at .*SEGLIB_ROOT", runs.project_root)


def test_paths_for_the_program_for_files_and_for_people(root):
    assert runs.resolve_path("data/demo") == root / "data/demo"
    assert runs.resolve_path("~/x") == Path.home() / "x"
    assert runs.stored_path("data/demo") == runs.stored_path(root / "data/demo") == "data/demo"
    assert runs.display_path(root / "artifacts" / "runs" / "demo") == "artifacts/runs/demo"
    outside = root.parent / "far" / "away" / "set"
    assert (runs.display_path(outside), runs.stored_path(outside)) == (".../away/set", outside.as_posix())


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "/abs", "C:", "-flag", ".hidden", "ends.",
    "sp ace", "demo\n", "ümlaut", "A" * 81, "con", "NUL.txt", "com1", "Lpt9.tar.gz"])  # fmt: skip
def test_names_that_are_paths_or_break_somewhere_are_refused(name):
    for plain in ("demo", "street_v2", "2024-05-01", "a.b", "A" * 80):
        assert runs.check_name(plain) == plain
    raised(ValueError, r"run name .*not a path", runs.check_name, name)


def test_a_file_and_a_folder_appear_whole_or_not_at_all(tmp_path):
    path = write_text(tmp_path / "deep" / "a.txt", "old\n")
    (tmp_path / "set").mkdir()
    with suppress(RuntimeError), runs.atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    for stop in (True, False):
        with suppress(RuntimeError), runs.atomic_folder(tmp_path / "set") as new:
            write_text(new / "b.txt", "x")
            if stop:
                raise RuntimeError
        assert files(tmp_path) == {"deep/a.txt": b"old\n"} | ({} if stop else {"set/b.txt": b"x"})


def test_json_is_plain_and_damage_is_named(tmp_path):
    data = {"iou": np.float32(0.5), "nans": np.array([1, np.nan]), "inf": -math.inf, "path": Path("a/b")}
    path = write_json(tmp_path / "a.json", data | {3: (1, 2)})
    assert read_json(path) == {"iou": 0.5, "nans": [1, None], "inf": None, "path": "a/b", "3": [1, 2]}
    for text, told in (("{", "is not valid JSON .*Delete it"), ("{}", "has no run"), ("[" * 99999, "is not")):
        path.write_text(text)
        raised(ValueError, rf"^a\.json {told}", read_json, path, ["run"])


def test_tables_come_back_as_they_were(tmp_path):
    table = pd.DataFrame({"id": ["ä", "0042", "NA", ""], "iou": ["0.1", "", "1e5", "x,y"]})
    path = runs.write_csv(tmp_path / "a.csv", table)
    assert b"\r" not in path.read_bytes()
    pd.testing.assert_frame_equal(runs.read_table(path), table)
    path.write_bytes(b"a,b\n1,2\n1,2,3\n")
    raised(runs.UnreadableError, r"^a\.csv is no readable table", runs.read_table, path)


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", r" at line 1, column 5: "), ("b: 3\na: 1\na: 2", r" at line 1, column 1: key 'a' stands twice"),
     ("a: !!python/object/apply:os.system [id]", " at line 1"), ("? {a: b}\n: 1", "unhashable"), ("a: &b {}\n<<: *b", "merge"),
     ("a: 2024-13-45", ": month must be"), ("a: " + "[" * 500, ": maximum recursion"), ("\0", ": unacceptable")],
)  # fmt: skip
def test_yaml_is_plain_data_and_what_is_none_is_told_in_few_words(text, told):
    assert runs.load_yaml("[1, 2, 3]: road\n'0042': {a: null}") == {(1, 2, 3): "road", "0042": {"a": None}}
    assert len(str(raised(runs.UnreadableError, told, runs.load_yaml, text))) < 300
    bomb = ["a: &a0 [x, x]"] + [f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(12)]
    assert len(runs.brief(runs.load_yaml("\n".join(bomb)))) < 2000


def write_result(folder: Path, text: str, last_call: int = 0) -> int:
    """Write a result in another process, which is killed before so many changes of the disk."""
    command = [sys.executable, "-c", WORK, folder, text, str(last_call)]
    return subprocess.run(command, check=False).returncode


def test_a_result_is_replaced_as_a_whole_even_if_killed_and_what_people_wrote_stays(tmp_path):
    """The file that marks a whole result is there only with all the others of one result."""
    for name in ("old.csv", "verdicts.csv"):
        write_text(tmp_path / name, "x")
    assert write_result(tmp_path, "one") == 0
    whole = {"pictures/one.txt": b"one", "table.csv": b"one", "done.json": b"one", "verdicts.csv": b"x"}
    assert files(tmp_path) == whole
    codes = [9]
    while codes[-1]:
        codes.append(write_result(tmp_path, "two" if len(codes) % 2 else "one", len(codes)))
        if (tmp_path / "done.json").exists():
            text = (tmp_path / "table.csv").read_text()
            assert (tmp_path / f"pictures/{text}.txt").read_text() == text
            assert text in (tmp_path / "done.json").read_text()
    assert set(codes) == {0, 9}
    assert len(codes) > 10
    assert [path.name for path in tmp_path.rglob(".*")] == [".writing"], "nothing half-written stays"


def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path):
    path = tmp_path / "run" / ".training"
    code = "import sys, time; from seglib.runs import lock\nwith lock(sys.argv[1], 'x'): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        told = r"run is in use: another process is training there"
        with pytest.raises(TimeoutError, match=told), lock(path, "training", 0.2):
            pass
        process.kill()
    with lock(path, "training", wait=20):
        assert path.exists()


def trained(name: str) -> Run:
    run = Run(Run.folder(name))
    for path in (run.best_checkpoint, run.last_checkpoint, run.evaluation("val") / "a", run.outputs / "a"):
        write_text(path, "x")
    return run


def test_a_trained_run_is_kept_unless_its_name_may_be_replaced(root):
    assert Run.create("street").path == root / "artifacts/runs/street"
    run = trained("street")
    verdicts = write_text(run.failures("val") / "verdicts.csv", "id,verdict\n")
    with pytest.raises(FileExistsError, match=r"'street' exists .*another name, resume=True"):
        Run.create("street", replace="demo")
    assert Run.create("street", resume=True, replace="street").best_checkpoint.exists()
    Run.create("street", replace="street")
    assert not any(path.exists() for path in (run.best_checkpoint, run.evaluation("val"), run.outputs))
    assert verdicts.exists()


def test_only_a_trained_run_opens():
    assert trained("alley") == Run.open("alley")
    raised(FileNotFoundError, r"no trained model in .*/street\. .* a trained run: alley", Run.open, "street")
    write_json(Run.folder("theirs") / "params.json", {"predictions": "masks"})
    assert Run.open("theirs").external
    raised(ValueError, "split name", Run.open("alley").evaluation, "../val")


def test_the_environment_names_versions_and_no_person():
    text = json.dumps(runs.environment())
    assert '"torch": "' in text
    assert str(Path.home()) not in text
    assert platform.node() not in text
