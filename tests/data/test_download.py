"""Downloading a known dataset from a server on loopback: whole, failing, damaged, hostile."""

import functools
import gc
import hashlib
import io
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import refused, tree

from seglib.data import download, known, load_dataset

# requests leaves the sockets of failed downloads to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SIDES = ("train", "trainannot", "val", "valannot")
FILES = {f"{side}/{k}.png": b"of %s %d" % (side.encode(), k) for side in SIDES for k in (1, 2)}
UNSUMMED = {"test/9.png": b"test", "testannot/9.png": b"testannot"}
LISTED = {f"Tutorial-main/Set/{path}": data for path, data in (FILES | UNSUMMED).items()}
BESIDE = {"Tutorial-main/Set/x.txt": b"x", "Tutorial-main/Other/train/1.png": b"x"}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path, tiny_root, monkeypatch):
    """The path of the zip that a server on loopback hands out."""
    path = tmp_path / "served" / "set.zip"
    path.parent.mkdir()
    path.write_bytes(zipped(BESIDE | LISTED))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=path.parent)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    configs = tiny_root / "data/configs"
    configs.mkdir(parents=True)
    sums = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in FILES.items()]
    (configs / "set.sha256").write_text("".join(sums))
    splits = [f'  {s}: {{images: "{s}/*", masks: "{s}annot/*"}}\n' for s in ("train", "val", "test")]
    (configs / "set.yaml").write_text("classes: [a, b]\nsplits:\n" + "".join(splits))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between attempts
    pattern = r"[\w-]+/Set/((?:train|val|test)(?:annot)?/\w+\.png)"
    monkeypatch.setitem(known.KNOWN, "set", (f"http://127.0.0.1:{http.server_port}/set.zip", pattern))
    yield path
    http.shutdown()
    http.server_close()
    thread.join()
    gc.collect()


def test_a_dataset_is_unpacked_checked_and_configured(server, tmp_path):
    folder = download("set", tmp_path / "data/set")
    there = tree(folder)
    assert there.keys() == {*FILES, *UNSUMMED, "dataset.yaml"}
    assert all(there[path] == data for path, data in (FILES | UNSUMMED).items())
    assert load_dataset(folder).splits == ["train", "val", "test"]
    assert [p.name for p in folder.parent.iterdir()] == ["set"]


def test_hostile_names_lead_nowhere_and_links_are_not_made(server, tmp_path):
    inside = "Tutorial-main/Set/train"
    link = zipfile.ZipInfo(f"{inside}/link.png")
    link.external_attr = 0o120777 << 16
    evil = ["../escaped.png", "/tmp/escaped.png"]
    evil += [f"{inside}/{path}escaped.png" for path in ("../../../../", "..\\", "sub/")]
    server.write_bytes(zipped(LISTED | dict.fromkeys([*evil, link], b"../escaped.png")))
    folder = download("set", tmp_path / "data/set")
    assert len(list(folder.rglob("*.png"))) == len(LISTED) + 1
    assert not (folder / "train/link.png").is_symlink()
    assert not list(tmp_path.rglob("escaped*"))


def test_what_is_missing_damaged_or_too_large_leaves_nothing(server, tmp_path, monkeypatch):
    damaged = bytearray(zipped(LISTED))
    damaged[len(damaged) // 3] ^= 255
    monkeypatch.setattr(known, "_MOST", 1 << 20)
    lost = {name: content for name, content in LISTED.items() if "/val/" not in name}
    wrong = LISTED | {"Tutorial-main/Set/val/1.png": b"other"}
    for body, check, told in (
        (zipped({"Tutorial-main/Set/train/1.png": bytes(2 << 20)}), "download", "unpacks to 2 MB"),
        (bytes(damaged), "download", "no sound zip"),
        (b"<html>", "download", "no sound zip"),
        (zipped(wrong), "wrong-sum", "1 of 8 files.*val/1.png"),
        (zipped(lost), "wrong-sum", "2 of 8 files.*val/1.png, val/2.png"),
        (None, "download", "could not be downloaded.*404"),
    ):
        server.write_bytes(body) if body else server.unlink()
        assert refused(told, download, "set", tmp_path / "set").check == check
        assert sorted(path.name for path in tmp_path.iterdir()) == ["project", "served"]
