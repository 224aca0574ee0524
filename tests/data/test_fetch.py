"""Fetching a known dataset from a server on loopback: whole, interrupted, damaged, hostile."""

import functools
import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from seglib.data import download as module
from seglib.data.dataset import DatasetError, load_dataset
from seglib.data.download import KNOWN, Source, fetch


def png(seed, mask=False):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 2, (8, 8), np.uint8) if mask else rng.integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    f"{split}{part}/{name}.png": png(name, bool(part))
    for split in ("train", "val")
    for part in ("", "annot")
    for name in (1, 2)
}
UNSUMMED = {"test/9.png": png(9), "testannot/9.png": png(9, True)}
LISTED = {f"Tutorial-main/Set/{path}": data for path, data in (FILES | UNSUMMED).items()}
BESIDE = {"Tutorial-main/README.md": b"x", "Tutorial-main/Set/train.txt": b"x", "Tutorial-main/Other/train/1.png": b"x"}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Serves `body`; `drop` bytes after which a connection is cut (once each), ranges or none, an ETag."""

    protocol_version = "HTTP/1.1"
    body, ranges, sized, etag, status = b"", True, True, '"1"', 200
    drops: list
    asked: list

    def do_GET(self):
        cls = type(self)
        cls.asked.append(self.headers.get("Range"))
        start, status = 0, cls.status
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and cls.ranges and self.headers.get("If-Range", cls.etag) == cls.etag:
            start, status = int(match[1]), 206
            if start >= len(cls.body):
                status = 416
        data = cls.body[start:] if status in (200, 206) else b""
        self.send_response(status)
        if cls.sized:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", cls.etag)
        if status in (206, 416):
            span = f"{start}-{len(cls.body) - 1}" if status == 206 else "*"
            self.send_header("Content-Range", f"bytes {span}/{len(cls.body)}")
        self.end_headers()
        cut = cls.drops.pop(0) if cls.drops else None
        self.wfile.write(data if cut is None else data[:cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    handler = type("Handler", (Server,), {"body": zipped(BESIDE | LISTED), "drops": [], "asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=functools.partial(http.serve_forever, 0.01))
    thread.start()
    handler.url = f"http://127.0.0.1:{http.server_port}/set.zip"
    recipes = tmp_path / "project/data/configs"
    recipes.mkdir(parents=True)
    (recipes / "set.sha256").write_text("".join(f"{hashlib.sha256(d).hexdigest()}  {p}\n" for p, d in FILES.items()))
    (recipes / "set.yaml").write_text(
        "classes: [a, b]\nsplits:\n"
        + "".join(f'  {s}: {{images: "{s}/*", masks: "{s}annot/*"}}\n' for s in ("train", "val", "test"))
    )
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSE", 0)
    folders = ("train", "trainannot", "val", "valannot", "test", "testannot")
    monkeypatch.setitem(KNOWN, "set", Source(handler.url, "Set", folders, 1 << 20))
    yield handler
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def said():
    return []


def nothing_left(folder):
    return not folder.exists() and not [p for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}")]


def test_fetch_unpacks_checks_and_adds_the_recipe(server, tmp_path, said):
    folder = fetch("set", tmp_path / "data/set", report=said.append)
    there = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert there.keys() == {*FILES, *UNSUMMED, "dataset.yaml"}
    assert all(there[path] == data for path, data in (FILES | UNSUMMED).items())
    assert load_dataset(folder).splits == ["train", "val", "test"]
    assert "10 files" in said[0]
    assert "8 match" in said[0]
    assert "Unverified" in said[1]
    assert "test (1), testannot (1)" in said[1]
    assert [p.name for p in folder.parent.iterdir()] == ["set"]  # no archive, no part, no temporary folder


def test_tar_works_too(server, tmp_path, said):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in LISTED.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    server.body = buffer.getvalue()
    assert len(load_dataset(fetch("set", tmp_path / "set", report=said.append)).samples) == 5


def test_cut_connections_are_continued(server, tmp_path, said):
    server.drops = [700, 500]
    fetch("set", tmp_path / "set", report=said.append)
    assert server.asked == [None, "bytes=700-", "bytes=1200-"]


def test_a_server_without_ranges_starts_anew(server, tmp_path, said):
    server.drops, server.ranges = [700], False
    fetch("set", tmp_path / "set", report=said.append)
    assert server.asked == [None, "bytes=700-"]
    assert any("anew" in line for line in said)


def test_another_archive_meanwhile_starts_anew(server, tmp_path, said):
    server.drops = [700] + [0] * module.ATTEMPTS
    with pytest.raises(DatasetError, match=r"0\.0 MB are here. Call it again to go on") as error:
        fetch("set", tmp_path / "set", report=said.append)
    assert error.value.check == "download"
    server.drops, server.etag, server.body = [], '"2"', zipped(LISTED)
    fetch("set", tmp_path / "set", report=said.append)
    assert server.asked[-1] == "bytes=700-"


def test_a_complete_part_needs_no_byte_more(server, tmp_path, said):
    (tmp_path / ".set.archive.part").write_bytes(server.body)
    fetch("set", tmp_path / "set", report=said.append)
    (tmp_path / ".again.archive.part").write_bytes(server.body + b"too much")
    fetch("set", tmp_path / "again", report=said.append)
    assert server.asked[-1] is None


def test_missing_page_and_no_server(server, tmp_path, said):
    server.status = 404
    with pytest.raises(DatasetError, match="HTTP 404"):
        fetch("set", tmp_path / "set", report=said.append)
    assert len(server.asked) == 1
    with pytest.raises(DatasetError, match="could not be downloaded"):
        fetch("set", tmp_path / "set", "http://127.0.0.1:9/", report=said.append)
    with pytest.raises(DatasetError, match="no address on the web"):
        fetch("set", tmp_path / "set", "file:///etc/passwd", report=said.append)
    assert nothing_left(tmp_path / "set")


def test_a_wrong_sum_leaves_nothing(server, tmp_path, said):
    server.body = zipped(LISTED | {"Tutorial-main/Set/val/1.png": png(5)})
    with pytest.raises(DatasetError, match=r"1 of 8 files.*val/1.png") as error:
        fetch("set", tmp_path / "set", report=said.append)
    assert error.value.check == "wrong-sum"
    assert nothing_left(tmp_path / "set")
    server.body = zipped({name: data for name, data in LISTED.items() if "/val/" not in name})
    with pytest.raises(DatasetError, match=r"2 of 8 files.*val/1.png, val/2.png"):
        fetch("set", tmp_path / "set", report=said.append)


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info, target


@pytest.mark.parametrize(
    "evil",
    [
        ("Tutorial-main/Set/train/../../../../escaped.png", b"x"),
        ("../escaped.png", b"x"),
        ("/tmp/escaped.png", b"x"),
        ("Tutorial-main/Set/train/..\\..\\escaped.png", b"x"),
        link("Tutorial-main/Set/train/1.png", "../../../escaped.png"),
    ],
)
def test_hostile_zip_is_refused(server, tmp_path, said, evil):
    buffer = io.BytesIO(server.body if isinstance(evil[0], str) else zipped({}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(*evil)
    server.body = buffer.getvalue()
    with pytest.raises(DatasetError) as error:
        fetch("set", tmp_path / "data/set", report=said.append)
    assert error.value.check == "unsafe-archive"
    assert nothing_left(tmp_path / "data/set")
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_hostile_tar_is_refused(server, tmp_path, said, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("Tutorial-main/Set/train/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    server.body = buffer.getvalue()
    with pytest.raises(DatasetError, match="a link or device"):
        fetch("set", tmp_path / "set", report=said.append)
    assert nothing_left(tmp_path / "set")


def test_bombs_damaged_and_other_files_are_refused(server, tmp_path, said, monkeypatch):
    bomb = zipped({"Tutorial-main/Set/train/1.png": bytes(2 << 20)})
    damaged = bytearray(zipped(LISTED))
    damaged[len(damaged) // 3] ^= 255
    for body, told in ((bomb, "unpacks to over"), (bytes(damaged), "damaged"), (b"<html>", "neither zip nor tar")):
        server.body = body
        with pytest.raises(DatasetError, match=told) as error:
            fetch("set", tmp_path / "set", report=said.append)
        assert error.value.check == "unsafe-archive"
        assert nothing_left(tmp_path / "set")
    server.body = bytes(2 << 20)
    for server.sized, told in ((True, "expected at most 1"), (False, "goes beyond 1 MB")):
        with pytest.raises(DatasetError, match=told):
            fetch("set", tmp_path / "set", report=said.append)
    assert not list(tmp_path.glob("*.part"))


def test_existing_folder_and_unknown_name(server, tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="exists and is left as it is"):
        fetch("set", tmp_path / "set")
    with pytest.raises(DatasetError, match=r"no known dataset 'camvidd'.*camvid"):
        fetch("camvidd", tmp_path / "other")
    assert server.asked == []


def test_shipped_sums_cover_the_recipe():
    from seglib.runs import project_root

    recipes = project_root() / "data/configs"
    for name in KNOWN:
        lines = (recipes / f"{name}.sha256").read_text().splitlines()
        assert (recipes / f"{name}.yaml").is_file()
        assert len({line.split()[1] for line in lines}) == len(lines) == {"camvid": 936}[name]
        assert all(re.fullmatch(r"[0-9a-f]{64}  \w+/\w+\.png", line) for line in lines)
