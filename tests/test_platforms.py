"""What Windows, macOS and Linux do differently: names, text, what their `os` modules have; as far as one of them can tell."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from seglib import runs, storage
from seglib.browser import report
from seglib.data.config import Split
from seglib.data.dataset import DatasetError, load_dataset
from seglib.evaluate import predict as inference
from seglib.failures import analyse as analysis
from seglib.failures.find import find_failures
from seglib.params import Evaluate
from seglib.runs import Run, read_json, read_written, write_json, write_text

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "seglib").glob("*.py"))
# What CPython has on POSIX systems alone (docs.python.org, "Availability: Unix" and "not Windows").
POSIX_MODULES = {
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "termios",
    "tty",
    "pty",
    "syslog",
    "posix",
    "crypt",
    "multiprocessing",
}
POSIX_OS = [
    "fork",
    "forkpty",
    "sync",
    "fdatasync",
    "posix_fallocate",
    "posix_fadvise",
    "statvfs",
    "fstatvfs",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getgroups",
    "setuid",
    "setsid",
    "getsid",
    "getpgid",
    "killpg",
    "nice",
    "getpriority",
    "sched_getaffinity",
    "sched_setaffinity",
    "sched_yield",
    "chown",
    "lchown",
    "fchown",
    "mkfifo",
    "mknod",
    "uname",
    "getloadavg",
    "wait",
    "wait3",
    "wait4",
    "sysconf",
    "pathconf",
    "openpty",
    "sendfile",
    "pread",
    "pwrite",
    "readv",
    "writev",
    "lockf",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "O_SYNC",
    "O_NONBLOCK",
]
POSIX_SIGNALS = [
    "SIGKILL",
    "SIGHUP",
    "SIGQUIT",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "SIGPIPE",
    "SIGCHLD",
    "SIGSTOP",
    "SIGCONT",
    "alarm",
    "setitimer",
    "pause",
]


# the sources


@functools.cache
def tree(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def nodes(path: Path, *kinds: type):
    """(place, node) of everything of these kinds in a source file."""
    return [(f"{path.name}:{node.lineno}", node) for node in tree(path) if isinstance(node, kinds)]


def test_text_is_read_and_written_in_a_named_encoding():
    """Without one it is UTF-8 here and code page 1252 on a European Windows."""
    faults = []
    for path in [*MODULES, *(ROOT / "benchmarks").glob("*.py")]:
        for place, call in nodes(path, ast.Call):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            modes = [mode for mode in texts if re.fullmatch(r"[rwax]b?t?\+?b?", mode)]
            opens = name == "open" and (modes or ast.unparse(call.func) == "open")
            text = opens and not any("b" in mode for mode in modes)
            text |= given.get("text") == "True" or name == "read_text"
            text |= (
                name == "write_text"
                and isinstance(call.func, ast.Attribute)
                and ast.unparse(call.func.value) != "runs"
            )
            faults += [place] * (text and "encoding" not in given)
    assert not faults


def test_nothing_is_asked_of_the_system_that_windows_lacks():
    faults = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        guarded = "except ImportError" in text
        for place, node in () if guarded else nodes(path, ast.Import, ast.ImportFrom):
            names = [getattr(node, "module", None) or alias.name for alias in node.names]
            faults += [place] * bool({name.split(".")[0] for name in names} & POSIX_MODULES)
        for place, node in nodes(path, ast.Attribute):
            owner = getattr(node.value, "id", "")
            lacking = {"os": POSIX_OS, "signal": POSIX_SIGNALS}.get(owner, ())
            asked = f'hasattr({owner}, "{node.attr}")' in text  # then there is a way without it
            faults += [place] * (node.attr in lacking and not asked)
    assert not faults


def test_every_module_is_imported_where_these_are_missing(monkeypatch):
    names = [path.stem for path in MODULES if path.stem != "__init__"]
    for name in names:
        importlib.import_module(f"seglib.{name}")  # and with it what others wrote, which looks after itself
    for name in POSIX_MODULES - {"multiprocessing"}:
        monkeypatch.setitem(sys.modules, name, None)
    for module, lacking in ((os, POSIX_OS), (signal, POSIX_SIGNALS)):
        for name in lacking:
            monkeypatch.delattr(module, name, raising=False)
    for name in names:
        spec = importlib.util.spec_from_file_location(f"bare_{name}", ROOT / "seglib" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    assert sys.modules["bare_machine"].Machine.here().cores >= 1


# names


def make(folder: Path, names: list[str], splits: tuple[str, ...] = ("train",), **more: dict) -> Path:
    """A dataset with these names in each split; `more` splits stand in its recipe alone."""
    for path in (
        folder / s / kind / f"{name}.png" for s in splits for kind in ("images", "masks") for name in names
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3) if path.parent.name == "images" else (4, 4), np.uint8)).save(path)
    listed = {s: {"images": f"{s}/images/*.png", "masks": f"{s}/masks/*.png"} for s in splits} | more
    (folder / "dataset.yaml").write_text(
        yaml.safe_dump({"classes": ["a", "b"], "splits": listed}), encoding="utf-8"
    )
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="such files cannot be there")
def test_ids_may_be_file_names_everywhere(tmp_path):
    names = ["con", "NUL", "com1.left", "aux ", "console", "a:b", 'q"<>|?*', "dot.", "space "]
    ids = load_dataset(make(tmp_path, names)).samples["id"].tolist()
    assert sorted(ids) == sorted(
        ["_con", "_NUL", "_com1.left", "_aux ", "console", "a_b", "q______", "dot.", "space "]
    )
    for name in ids:  # with .png behind them, as everything is that seglib names by an id
        assert not re.match(r"(?i)(con|prn|aux|nul|(com|lpt)\d) *\.", f"{name}.png")
        assert not re.search(r'[<>:"|?*\\/\x00-\x1f]|[. ]$', f"{name}.png")


@pytest.mark.skipif(sys.platform != "linux", reason="one file on Windows and macOS")
def test_ids_that_differ_by_case_alone_are_told_apart_or_refused(tmp_path):
    make(tmp_path, ["Street"], ("val",))
    make(tmp_path, ["street"], ("train",), val={"images": "val/images/*.png", "masks": "val/masks/*.png"})
    ids = load_dataset(tmp_path).samples["id"].tolist()
    assert len({name.lower() for name in ids}) == 2
    make(tmp_path / "one", ["Street", "street"])
    with pytest.raises(DatasetError, match=r"2 images have the stem '[Ss]treet'"):
        load_dataset(tmp_path / "one")


def test_splits_that_differ_by_case_alone_are_refused(tmp_path):
    other = {"images": "train/images/*.png", "masks": "train/masks/*.png"}
    with pytest.raises(DatasetError, match=r"differ in case alone; on Windows and macOS they are one folder"):
        load_dataset(make(tmp_path, ["a"], Train=other))


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system pairs them itself")
def test_accents_pair_however_a_system_writes_them(tmp_path):
    apart, together = (unicodedata.normalize(form, "Straße é") for form in ("NFD", "NFC"))
    assert apart != together
    make(tmp_path, [together, "b"])
    (tmp_path / f"train/masks/{together}.png").rename(tmp_path / f"train/masks/{apart}.png")
    assert load_dataset(tmp_path).samples["id"].tolist() == ["b", together]
    text = (tmp_path / "dataset.yaml").read_text(encoding="utf-8")
    (tmp_path / "dataset.yaml").write_text(text + f"exclude: ['{apart}']\n", encoding="utf-8")
    assert load_dataset(tmp_path).samples["id"].tolist() == ["b"]


@pytest.mark.parametrize(
    "path", ["C:/data/*.png", "c:data/*.png", "a\\b.png", "//server/share/*.png", "/data/*.png"]
)
def test_a_recipe_names_nothing_by_drive_or_server(path):
    with pytest.raises(ValueError, match="relative to the dataset's folder"):
        Split(images=path, masks="m/*.png")


@pytest.mark.parametrize(
    "name", ["C:", "a:b", "a\\b", "a/b", "con", "Lpt1.txt", "run.", "run ", ".run", "ä", ""]
)
def test_a_run_is_called_nothing_that_a_folder_cannot_be_called(name):
    with pytest.raises(ValueError, match="run name"):
        runs.check_name(name)


def test_a_run_in_folders_with_spaces_and_unicode(trained_root, tmp_path, monkeypatch):
    root = tmp_path / "Mein Projekt – 日本 🛣"
    shutil.copytree(trained_root, root)
    monkeypatch.setenv("SEGLIB_ROOT", str(root))
    dataset = root / "data/Fahrt 1 'neu' & alt"
    (root / "data/tiny").rename(dataset)
    for kind in ("images", "masks"):
        for old, new in (("0041", "Bild ä 1"), ("1e5", "交差点"), ("null", "100% #1 [x] & 'y'")):
            folder = dataset / "test" / kind
            (folder / f"{old}.png").rename(folder / f"{new}.png")
    run = Run.open("tiny")
    write_json(run.params, read_json(run.params) | {"dataset": "data/Fahrt 1 'neu' & alt"})
    params = Evaluate.check({"run": "tiny", "split": "test", "device": "cpu"})
    evaluation = inference.evaluate_run(run, params)
    found = find_failures(evaluation, 1.0)
    result = analysis.analyse(run, evaluation, found)
    ids = {"Bild ä 1", "交差点", "100% #1 [x] & 'y'", "0042"}
    assert set(evaluation.per_image["id"]) == ids
    assert (
        set(result.failures["id"])
        == {path.stem for path in (result.folder / "overlays").glob("*.png")}
        <= ids
    )
    page = report.write_report(result.folder, evaluation.classes, "x", "", 4).read_text(encoding="utf-8")
    assert "交差点" in page


# text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_what_people_write_is_read_whichever_editor_they_have(tmp_path, encoding):
    bom = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "a.txt").write_bytes(f"{bom}ä\r\nb\n".encode(encoding))
    assert read_written(tmp_path / "a.txt") == "ä\nb\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_recipes_and_lists_of_ids_are_read_as_windows_writes_them(tmp_path, encoding):
    make(tmp_path, ["ä", "b"], val={"ids": "val.txt"})
    config = (tmp_path / "dataset.yaml").read_text(encoding="utf-8")
    (tmp_path / "dataset.yaml").write_bytes(config.replace("\n", "\r\n").encode(encoding))
    (tmp_path / "val.txt").write_bytes("ä\r\n".encode(encoding))
    samples = load_dataset(tmp_path).samples
    assert dict(zip(samples["id"], samples["split"], strict=True)) == {"b": "train", "ä": "val"}


def test_a_terminal_that_lacks_a_character_ends_no_command(trained_root):
    (trained_root / "data/tiny/test/masks/0041.png").unlink()
    (trained_root / "data/tiny/test/images/0041.png").rename(
        trained_root / "data/tiny/test/images/交差点.png"
    )
    command = [sys.executable, "-m", "seglib.cli", "check", "data/tiny"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="cp1252")
    assert done.returncode == 1
    assert "no mask for image '\\u4ea4\\u5dee\\u70b9'" in done.stdout
    assert done.stderr == ""


def test_replacing_a_file_waits_for_its_reader_on_windows(tmp_path, monkeypatch):
    path, tries, replace, ready = write_text(tmp_path / "a.txt", "old"), [], os.replace, 3

    def busy(*paths):
        tries.append(paths)
        if len(tries) < ready:
            raise PermissionError(13, "Access is denied")
        replace(*paths)

    monkeypatch.setattr(storage.sys, "platform", "win32")
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(storage.os, "replace", busy)
    write_text(path, "new")
    assert (path.read_text(encoding="utf-8"), len(tries)) == ("new", 3)
    ready = 99
    with pytest.raises(storage.StorageError, match="may not be written"):
        write_text(path, "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text(encoding="utf-8") == "new"
