"""What Windows, macOS and Linux do differently, as far as one of them can tell: encodings, names, what `os` has."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglib import evaluate, failures
from seglib.browser import write_report
from seglib.data import load_dataset
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json

ROOT = Path(__file__).parent.parent
SOURCES = [*(ROOT / "seglib").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
# What CPython has on POSIX systems alone (docs.python.org, "Availability: Unix" and "not Windows").
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "posix"} | {
    *("os.fork", "os.statvfs", "os.getuid", "os.geteuid", "os.setsid", "os.killpg", "os.nice", "os.uname", "os.sysconf"),
    *("os.sched_getaffinity", "os.chown", "os.mkfifo", "os.getloadavg", "os.pread", "os.posix_fallocate", "os.umask"),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.SIGUSR1", "signal.SIGALRM", "signal.alarm", "signal.setitimer"),
}  # fmt: skip


def calls_without_encoding(tree: ast.AST) -> list[int]:
    """Lines that read or write text in the system's encoding: UTF-8 here, code page 1252 on a European Windows."""
    lines = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, owner = getattr(call.func, "attr", getattr(call.func, "id", "")), ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        modes = [
            a.value
            for a in call.args
            if isinstance(a, ast.Constant) and re.fullmatch(r"[rwax][bt+]*", str(a.value))
        ]
        text = name == "open" and (modes or owner == "open") and not any("b" in mode for mode in modes)
        text |= (
            given.get("text") == "True"
            or name == "read_text"
            or (name == "write_text" and owner.startswith("path"))
        )
        lines += [call.lineno] * (text and "encoding" not in given)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_sources_name_encodings_and_ask_for_nothing_that_windows_lacks(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not calls_without_encoding(tree)
    asked = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & POSIX
    asked = {name for name in asked if f'hasattr({name.split(".")[0]}, "{name.split(".")[1]}")' not in text}
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} & POSIX
    assert not asked | modules or "benchmarks" in path.parts


def make(folder: Path, names: list[str], split: str = "train") -> Path:
    for kind, shape in (("images", (4, 4, 3)), ("masks", (4, 4))):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(np.zeros(shape, np.uint8)).save(folder / split / kind / f"{name}.png")
    splits = [f"{s}: {{images: {s}/images/*.png, masks: {s}/masks/*.png}}" for s in sorted({split, "train"})]
    text = f"classes: [a, b]\nsplits: {{{', '.join(splits)}}}\n"
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="such files cannot be there")
def test_ids_may_be_file_names_everywhere(tmp_path):
    names = ["con", "NUL", "com1.left", "aux ", "console", "a:b", 'q"<>|?*', "dot.", "space "]
    ids = ["_con", "_NUL", "_com1.left", "_aux ", "console", "a_b", "q______", "dot.", "space "]
    assert sorted(load_dataset(make(tmp_path, names)).samples["id"]) == sorted(ids)


@pytest.mark.skipif(sys.platform != "linux", reason="one file on Windows and macOS")
def test_ids_that_differ_by_case_or_accents_alone(tmp_path):
    make(tmp_path, ["street"])
    ids = load_dataset(make(tmp_path, ["Street"], "val")).samples["id"].tolist()
    assert len({name.lower() for name in ids}) == len(ids) == 2
    apart, together = (unicodedata.normalize(form, "Straße é") for form in ("NFD", "NFC"))
    folder = make(tmp_path / "accents", [together, "b"])
    (folder / f"train/masks/{together}.png").rename(folder / f"train/masks/{apart}.png")
    assert load_dataset(folder).samples["id"].tolist() == ["b", together]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")  # fonts without these characters
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
    evaluation = evaluate.evaluate_run(Evaluate(run="tiny", split="test", device="cpu"), False)
    assert set(evaluation.per_image["id"]) == {"Bild ä 1", "交差点", "100% #1 [x] & 'y'", "0042"}
    result = failures.analyse(evaluation, failures.find_failures(evaluation, 1.0))
    assert set(result.failures["id"]) == {path.stem for path in (result.folder / "images").glob("*.png")}
    assert "交差点" in write_report(result.folder, evaluation.classes).read_text(encoding="utf-8")
