"""Project root, names, files that are whole or not there, locks between processes, and run folders."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seglib import runs
from seglib.runs import (
    InUseError,
    Run,
    UnreadableError,
    atomic_folder,
    atomic_path,
    brief,
    check_name,
    display_path,
    environment,
    is_plain,
    load_yaml,
    lock,
    project_root,
    read_json,
    read_table,
    read_written,
    replace_folder,
    resolve_path,
    stored_path,
    write_csv,
    write_json,
    write_text,
)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".writing")}


# places and names


def test_the_project_root(monkeypatch, tmp_path):
    assert project_root() == tmp_path.resolve()
    monkeypatch.delenv("SEGLIB_ROOT")
    monkeypatch.chdir(tmp_path)
    assert (project_root() / "seglib" / "runs.py").exists(), "the checkout, from any folder"
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "lib" / "seglib" / "runs.py"))
    with pytest.raises(
        FileNotFoundError, match=r"no project root: expected .* notebooks/ and data/ .*SEGLIB_ROOT"
    ):
        project_root()
    for name in ("project/notebooks", "project/data/demo"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project/data/demo")
    assert project_root() == Path.cwd().parent.parent


def test_paths_for_the_program_for_files_and_for_people(root, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert resolve_path("data/demo") == root / "data/demo"
    assert resolve_path(root / "x") == root / "x"
    assert resolve_path("~/x") == Path.home() / "x"
    assert stored_path("data/demo") == stored_path(root / "data/demo") == "data/demo"
    assert display_path(root / "artifacts" / "runs" / "demo") == "artifacts/runs/demo"
    outside = root.parent / "far" / "away" / "set"
    assert (display_path(outside), stored_path(outside)) == (".../away/set", outside.as_posix())


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "/abs", "C:", "-flag", ".hidden", "ends.",
    "sp ace", "demo\n", "ümlaut", "A" * 81, "con", "NUL.txt", "com1", "Lpt9.tar.gz"])  # fmt: skip
def test_names_that_are_paths_or_break_somewhere_are_refused(name):
    for plain in ("demo", "street_v2", "2024-05-01", "a.b", "A" * 80):
        assert check_name(plain) == plain
    with pytest.raises(ValueError, match=r"run name .*not a path"):
        check_name(name)


def test_names_with_control_characters_are_not_plain():
    assert is_plain("fähre_🚢 'x'")
    assert not any(is_plain(f"a{c}") for c in "\n\r\t\0\x1b\x7f\x85\ud800")


# files


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = write_text(tmp_path / "deep" / "a.txt", "old\n")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            assert (temporary.parent, temporary.suffix) == (
                path.parent,
                ".txt",
            )  # the rename stays on one disk
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert files(tmp_path) == {"deep/a.txt": b"old\n"}


@pytest.mark.parametrize("name", [None, "other.txt"])
def test_an_error_of_the_system_names_the_file(tmp_path, name):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match=name or r"No space left on device: '.*a\.txt'"), atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    assert files(tmp_path) == {"a.txt": b"old"}


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX systems")
def test_a_disk_without_room_leaves_what_was_there(tmp_path):
    import resource

    path = write_text(tmp_path / "a.json", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"a\.json"):
            write_json(path, list(range(9999)))
        with pytest.raises(OSError, match=r"b\.csv"), replace_folder(tmp_path, (), last="a.json") as new:
            write_csv(new / "b.csv", pd.DataFrame({"x": range(9999)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == {"a.json": b"old"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # editors on Windows; PowerShell
def test_text_that_people_write_is_read(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Straße\r\nb\n".encode(encoding))
    assert read_written(tmp_path / "a.txt") == "Straße\nb\n"


def test_json_is_plain(tmp_path):
    data = {
        "iou": np.float32(0.5),
        "ids": np.arange(2),
        "nan": math.nan,
        "inf": -math.inf,
        "path": Path("a") / "b",
    }
    path = write_json(tmp_path / "a.json", data | {3: (1, {2}), "nans": np.array([1, np.nan])})
    plain = {
        "iou": 0.5,
        "ids": [0, 1],
        "nan": None,
        "inf": None,
        "path": "a/b",
        "3": [1, [2]],
        "nans": [1, None],
    }
    assert read_json(path) == plain
    assert "NaN" not in path.read_text()
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"x": object()})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "is not valid JSON .*Delete it"), ("[1]", "holds list; expected an object"), ("{}", "has no run"),
     ("[" * 99999, "is not valid JSON"), ("9" * 5000, "is not valid JSON")],
)  # fmt: skip
def test_damaged_json_is_named(root, text, told):
    (root / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"^a\.json {told}"):
        read_json(root / "a.json", ["run"])


def test_tables_come_back_as_they_were(tmp_path):
    table = pd.DataFrame({"id": ["ä", "0042", "NA", ""], "iou": ["0.1", "", "1e5", "x,y"]})
    path = write_csv(tmp_path / "a.csv", table)
    assert b"\r" not in path.read_bytes()
    pd.testing.assert_frame_equal(read_table(path), table)
    for text in (b"", b"a,b\n1,2\n1,2,3\n", b"\xff\n"):
        path.write_bytes(text)
        with pytest.raises(UnreadableError, match=r"^a\.csv is no table"):
            read_table(path)


BOMB = "\n".join(["a: &a0 [x, x]"] + [f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(12)])


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", r" at line 1, column 5: "), ("a: 1\na: 2", r" at line 2, column 1: key 'a' stands twice"),
     ("a: !!python/object/apply:os.system [id]", " at line 1"), ("? {a: b}\n: 1", "is no key"), ("a: &b {}\n<<: *b", "merge"),
     ("a: 2024-13-45", ": month must be"), ("a: " + "[" * 3000, ": maximum recursion"), ("\0", ": unacceptable")],
)  # fmt: skip
def test_yaml_that_is_none_is_told_in_few_words(text, told):
    with pytest.raises(UnreadableError, match=told) as error:
        load_yaml(text)
    assert len(str(error.value)) < 300


def test_yaml_is_plain_data_and_a_bomb_is_shown_short():
    assert load_yaml("[1, 2, 3]: road\n'0042': {a: null}") == {(1, 2, 3): "road", "0042": {"a": None}}
    assert len(brief(load_yaml(BOMB))) < 2000
    assert brief(10**5000) == "a huge int"


# folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fill(stop):
        with atomic_folder(tmp_path / "set") as new:
            write_text(new / "a.txt", "x")
            if stop:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fill(stop=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    fill(stop=False)
    assert files(tmp_path) == {"set/a.txt": b"x"}


def write_result(folder, text, stop=False):
    with replace_folder(folder, ("old.csv", "pictures"), last="done.json") as new:
        write_text(new / "pictures" / f"{text}.txt", text)
        write_text(new / "table.csv", text)
        if stop:
            raise RuntimeError("stopped")
        write_json(new / "done.json", text)


def test_a_replaced_folder_keeps_what_it_held_until_all_is_written(tmp_path):
    write_text(tmp_path / ".new" / "pictures" / "left.txt", "x")  # by a process that was killed
    write_result(tmp_path, "one")
    for name in ("old.csv", "verdicts.csv"):
        write_text(tmp_path / name, "x")
    before = files(tmp_path)
    with pytest.raises(RuntimeError, match="stopped"):
        write_result(tmp_path, "two", stop=True)
    assert files(tmp_path) == before
    write_result(tmp_path, "two")
    whole = {"pictures/two.txt": b"two", "table.csv": b"two", "done.json": b'"two"\n', "verdicts.csv": b"x"}
    assert files(tmp_path) == whole


KILLED = """
import os, sys
from pathlib import Path
from seglib.runs import replace_folder, write_text
count = 0
def counted(work):
    def call(*args, **options):
        global count
        count += 1
        if count == int(sys.argv[2]):
            os._exit(9)  # as SIGKILL: nothing is cleaned up
        return work(*args, **options)
    return call
for name in ("replace", "unlink", "rmdir", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
with replace_folder(sys.argv[1], ("old.csv", "pictures"), last="done.json") as new:
    for name in ("pictures/two.txt", "table.csv", "done.json"):
        write_text(new / name, "two")
"""


def test_killed_while_a_folder_is_replaced(tmp_path):
    """The file that marks a whole result is there only with all the others of one result."""
    codes = []
    while not codes or codes[-1]:
        write_result(tmp_path, "one")
        command = [sys.executable, "-c", KILLED, tmp_path, str(len(codes) + 1)]
        codes.append(subprocess.run(command, check=False).returncode)
        if (tmp_path / "done.json").exists():
            text = (tmp_path / "table.csv").read_text()
            assert (tmp_path / f"pictures/{text}.txt").read_text() == text
            assert text in (tmp_path / "done.json").read_text()
        write_result(tmp_path, "three")
        assert [path.name for path in tmp_path.rglob(".*")] == [".writing"], "nothing half-written stays"
    assert set(codes) == {0, 9}
    assert len(codes) > 10


def test_a_folder_that_was_deleted_while_it_was_written_is_not_put_in_place(tmp_path):
    def work():
        with replace_folder(tmp_path / "run", (), last="done.json") as new:
            write_text(new / "a.txt", "x")
            shutil.rmtree(tmp_path / "run")
            write_text(new / "done.json", "x")

    with pytest.raises(FileNotFoundError, match="run was deleted while it was written"):
        work()
    assert not files(tmp_path)


# locks

HOLD = """
import sys, time
from seglib.runs import lock
with lock(sys.argv[1], "training"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock tmp_path/run/.training."""
    path = tmp_path / "run" / ".training"
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, path
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_keeps_others_out_and_ends_with_its_process(other):
    process, path = other
    told = rf"run is in use: process {process.pid} on .* is training there since .*\. Wait"
    for wait in (0, 0.2):
        with pytest.raises(InUseError, match=told if os.name != "nt" else "is in use"), lock(path, "x", wait):
            pass
    process.kill()
    with lock(path, "training", wait=20):  # noqa: SIM117
        with pytest.raises(InUseError, match=f"process {os.getpid()} "), lock(path, "training"):
            pass
    with lock(path, "training"):
        assert path.exists()


# runs


def trained(name: str) -> Run:
    run = Run(Run.folder(name))
    for path in (
        run.best_checkpoint,
        run.last_checkpoint,
        run.evaluation("val") / "metrics.json",
        run.outputs / "a",
    ):
        write_text(path, "x")
    return run


def test_a_run_is_its_folder(root):
    run = Run.create("street")
    assert (run.path, run.name, run.path.is_dir()) == (root / "artifacts/runs/street", "street", True)
    assert run.best_checkpoint == run.path / "checkpoints/best.pth"
    assert run.failures("val") == run.path / "failures/val"
    with pytest.raises(ValueError, match="split name"):
        run.evaluation("../val")
    write_text(run.path / "note.txt", "x")
    assert (Run.create("street").path / "note.txt").exists(), "untrained: created again"


def test_a_trained_run_is_kept_unless_its_name_may_be_replaced():
    run = trained("street")
    verdicts = write_text(run.failures("val") / "verdicts.csv", "id,verdict\n")
    for replace in ("", "demo"):
        with pytest.raises(
            FileExistsError, match=r"'street' exists .*another run name, set resume=True .*replace="
        ):
            Run.create("street", replace=replace)
    assert Run.create("street", resume=True, replace="street").best_checkpoint.exists()
    Run.create("street", replace="street")
    assert not any(path.exists() for path in (run.best_checkpoint, run.evaluation("val"), run.outputs))
    assert verdicts.exists()


def test_only_a_trained_run_opens():
    with pytest.raises(FileNotFoundError, match=r"'street' has no trained model.*Trained runs: none yet"):
        Run.open("street")
    trained("alley")
    with pytest.raises(FileNotFoundError, match=r"Trained runs: alley\. Train it with 02_train"):
        Run.open("street")
    assert Run.open("alley").name == "alley"
    write_json(Run.folder("theirs") / "params.json", {"predictions": "masks"})
    assert Run.open("theirs").external


def test_the_environment_names_versions_and_nobody():
    found = environment()
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["torch"]
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert not hasattr(os, "uname") or os.uname().nodename not in text
