"""A disk that is full in the middle of every kind of write: an error that says so, and all that was there before still is.

Twice: with a limit on the size of files, which any POSIX system knows, and on a real file system of a few megabytes, which
only root can mount.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import numpy as np
import pytest

from seglib import cli
from seglib.browser import report
from seglib.checks import check as checks
from seglib.checks.check import check_dataset
from seglib.data import demo
from seglib.data.dataset import load_dataset
from seglib.data.download import Source, _unpack
from seglib.data.inject import plant
from seglib.evaluate import compare as comparison
from seglib.evaluate.predict import evaluate_run, open_evaluation
from seglib.failures import annotation, corrections
from seglib.failures.analyse import analyse
from seglib.failures.find import export, find_failures
from seglib.failures.verdicts import VerdictBook
from seglib.params import Evaluate
from seglib.runs import Run, read_json, save_figure, write_csv
from seglib.storage import StorageError, atomic_folder
from seglib.train.device import make_plan
from seglib.train.fitting import fit, start_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelSpec, build, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")

TEST = Evaluate(run="tiny", split="test")
SIZE = 64 << 20  # bytes of the real disk


@contextlib.contextmanager
def limited(root, room: int = 0):
    """No file may grow beyond `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room or 100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def filled(root, room: int = 0):
    """No more than `room` bytes are free on the disk of `root`."""
    filler = root.parent / "filler"
    with filler.open("wb") as file:
        file.write(bytes(shutil.disk_usage(root).free - room))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(scope="module")
def prepared(_trained_once, tmp_path_factory):
    """The tiny project with a run that went through all four notebooks' work."""
    root = tmp_path_factory.mktemp("prepared") / "project"
    shutil.copytree(_trained_once, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLIB_ROOT", str(root))
        checks.write(check_dataset(load_dataset("data/tiny")), root / "artifacts/data_check/tiny")
        run = Run.open("tiny")
        evaluation = evaluate_run(run, TEST)
        folder = analyse(run, evaluation, find_failures(evaluation, 2.0)).folder
        report.write_report(folder, evaluation.classes)
        VerdictBook(folder / "verdicts.csv").set("0041", "label wrong")
    return root


@pytest.fixture
def project(request, prepared, tmp_path, monkeypatch):
    """(root, context in which little can be written), once for each of the two ways."""
    place = tmp_path / "place"
    place.mkdir()
    real = request.param == "disk"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place]
    if real and (sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode):
        pytest.skip("no file system can be mounted here")
    root = shutil.copytree(prepared, place / "project")
    monkeypatch.setenv("SEGLIB_ROOT", str(root))
    yield root, (filled if real else limited)
    if real:
        subprocess.run(["umount", "-l", place], check=True)


def held(root) -> dict[str, bytes]:
    """All files but those that are written anew at each start, and the digests that only save time."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    passing = ("*/environment.json", "artifacts/cache/tiny-????????.json")
    return {
        name: path.read_bytes() for name, path in files.items() if not any(fnmatch(name, p) for p in passing)
    }


def failures(root):
    return Run.open("tiny").failures("test")


def with_model(work):
    def action(root):
        run = Run.open("tiny")
        model, _ = load_checkpoint(run.best_checkpoint)
        return lambda: work(run, model)

    return action


def evaluated(work):
    def action(root):
        run, evaluation = Run.open("tiny"), open_evaluation(Run.open("tiny"), "test")
        return lambda: work(run, evaluation)

    return action


def corrected(root):
    dataset = load_dataset("data/tiny")
    masks = [
        (name, lambda shape: np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 3)
        for name in ("0041", "0042")
    ]
    return lambda: corrections._write(dataset, root / "corrected", masks)


def drawn(root):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.add_subplot().plot([1, 2])
    return lambda: save_figure(root / "artifacts/runs/tiny/outputs/training_curves.png", figure)


def demo_dataset(root):
    def write(folder):
        folder.joinpath("planted.csv").write_bytes(bytes(1 << 20))

    def work():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "write_demo", write)
            patch.setattr(demo, "checksum", lambda _: demo.DEMO_SHA256)
            demo.make_demo(root / "data/demo")

    return work


def draft(root):
    (root / "data/tiny/dataset.yaml").rename(root / "data/tiny/kept.yaml")
    return lambda: cli.parse(["init", str(root / "data/tiny")]).command(
        cli.parse(["init", str(root / "data/tiny")])
    )


def verdict(root):
    # A note that no half block holds, so that the real disk, too, is full in the middle of it.
    return lambda: VerdictBook(failures(root) / "verdicts.csv").set("0042", "model wrong", "long " * 4000)


def unpacked(root):
    import zipfile

    archive = root / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Set/train/1.png", bytes(1 << 20))

    def work():
        with atomic_folder(root / "unpacked") as folder:  # as `fetch` does
            _unpack(archive, folder, Source("http://x", "Set", ("train",), 1 << 21))

    return work


def trained_on(root):
    from seglib.params import Train

    params = Train.check(read_json(Run.open("tiny").params) | {"epochs": 4})
    params = params.model_copy(update={"resume": True})
    run, dataset = Run.open("tiny"), load_dataset("data/tiny")
    splits = (
        build_cache(dataset, "train", cache="none"),
        build_cache(dataset, "val", original_masks=True, cache="none"),
    )
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    return lambda: fit(run, model, *splits, params, make_plan("cpu", "fp32"))


def planted(root):
    dataset = load_dataset("data/tiny")
    return lambda: plant(dataset, root / "data/planted", kinds=("blur",))


KINDS = {
    "checkpoint": ("last.pth", with_model(lambda run, model: save_checkpoint(run.last_checkpoint, model, epoch=9))),
    "training": ("tiny/", trained_on),
    "history": ("history.csv", lambda root: lambda: write_csv(Run.open("tiny").history, _long_table())),
    "a new run": ("params.json", lambda root: lambda: start_run(_new_params())),
    "cache": ("samples.bin", lambda root: lambda: build_cache(load_dataset("data/tiny"), "train", 30, cache="disk")),
    "data check": ("data_check", lambda root: _checked(root)),
    "evaluation": ("test/", lambda root: lambda: evaluate_run(Run.open("tiny"), TEST)),
    "failures": ("test/", evaluated(lambda run, found: export(run, found, find_failures(found, 2.0)))),
    "analysis": ("test/", evaluated(lambda run, found: analyse(run, found, find_failures(found, 2.0)))),
    "comparison": ("tiny", evaluated(lambda run, _: comparison.write(comparison.compare(run, run, "test"), run))),
    "report": ("report.html", lambda root: lambda: report.write_report(failures(root), load_dataset("data/tiny").classes)),
    "verdicts": ("verdicts.csv", verdict),
    "for CVAT": ("masks.zip", lambda root: lambda: annotation.export_cvat(["0041"], load_dataset("data/tiny"), None, root / "masks.zip")),
    "for Label Studio": ("masks.zip", lambda root: lambda: annotation.export_label_studio(["0041"], load_dataset("data/tiny"), None, root / "masks.zip")),
    "corrections": ("corrected", corrected),
    "figure": ("training_curves.png", drawn),
    "plant": ("planted", planted),
    "demo": ("demo", demo_dataset),
    "fetch": ("1.png", unpacked),
    "dataset.yaml": ("dataset.yaml", draft),
}  # fmt: skip

SMALL = (
    "a new run",
    "corrections",
    "dataset.yaml",
    "comparison",
    "data check",
    "evaluation",
)  # they would fit into a page
LONG = ("evaluation", "analysis")  # whether they go on afterwards is left to other tests
REAL = ("checkpoint", "cache", "analysis", "verdicts")  # on a real disk; FULL_DISK=1: all of them
CASES = [(kind, "limit") for kind in KINDS] + [
    (kind, "disk") for kind in KINDS if kind in REAL or os.environ.get("FULL_DISK")
]


def _long_table():
    import pandas as pd

    return pd.DataFrame({"epoch": range(5000)})


def _new_params():
    from seglib.params import Train

    return Train.check(read_json(Run.open("tiny").params) | {"run": "second"})


def _checked(root):
    found = check_dataset(load_dataset("data/tiny"))
    return lambda: checks.write(found, root / "artifacts/data_check/tiny")


@pytest.mark.parametrize(("kind", "project"), CASES, indirect=["project"])
def test_full_in_the_middle(kind, project):
    root, full = project
    named, prepare = KINDS[kind]
    work = prepare(root)
    before = held(root)
    with full(root, 0 if kind in SMALL else 4096), pytest.raises(StorageError) as caught:
        work()
    text = str(caught.value)
    assert named in text
    assert "could not be written" in text
    assert "disk" in text
    assert "run again" in text
    assert held(root) == before, "what was there stays, and nothing half lies beside it"
    if kind not in LONG:
        work()  # with room it goes on
