"""Project root, names, atomic files and run folders."""

import json
import math
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seglib import runs
from seglib.runs import (
    Run,
    atomic_path,
    check_name,
    display_path,
    environment,
    project_root,
    read_json,
    resolve_path,
    write_csv,
    write_json,
    write_text,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    return tmp_path


def trained(name: str) -> Run:
    run = Run(Run.folder(name))
    for path in (
        run.best_checkpoint,
        run.last_checkpoint,
        run.evaluation("val") / "metrics.json",
        run.outputs / "a.png",
    ):
        write_text(path, "x")
    return run


# project root


def test_the_variable_wins(root):
    assert project_root() == root.resolve()


def test_without_it_the_checkout_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SEGLIB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert (project_root() / "seglib" / "runs.py").exists()


def test_an_installed_package_finds_the_folder_above_the_caller(monkeypatch, tmp_path):
    monkeypatch.delenv("SEGLIB_ROOT", raising=False)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "lib" / "seglib" / "runs.py"))
    for name in ("project/notebooks", "project/data/demo"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project/data/demo")
    assert project_root() == Path.cwd().parent.parent

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no project root: expected a folder with notebooks/ and data/ .*SEGLIB_ROOT"
    ):
        project_root()


def test_relative_paths_stand_on_the_root_and_absolute_ones_alone(root, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert resolve_path("data/demo") == root / "data/demo"
    assert resolve_path(root / "x") == root / "x"
    assert resolve_path("~/x") == Path.home() / "x"


def test_shown_paths_tell_nothing_of_the_machine(root):
    assert display_path(root / "artifacts" / "runs" / "demo") == "artifacts/runs/demo"
    outside = root.parent / "far" / "away" / "set"
    assert display_path(outside) == ".../away/set"


# names


@pytest.mark.parametrize("name", ["demo", "street_v2", "2024-05-01", "a", "a.b", "A" * 80])
def test_plain_names_pass(name):
    assert check_name(name) == name


PATHS = [
    "",
    ".",
    "..",
    "../up",
    "a/b",
    "a\\b",
    "/abs",
    "C:",
    "-flag",
    ".hidden",
    "ends.",
    "sp ace",
    "new\nline",
    "demo\n",
]


@pytest.mark.parametrize("name", [*PATHS, "ümlaut", "A" * 81, "con", "NUL.txt", "com1", "Lpt9.tar.gz"])
def test_names_that_are_paths_or_break_somewhere_are_refused(name):
    with pytest.raises(ValueError, match=r"run name .*not a path"):
        check_name(name)


# files


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = write_text(tmp_path / "deep" / "a.txt", "old\n")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            assert temporary.parent == path.parent  # the same file system, or the rename would not be atomic
            assert temporary.suffix == ".txt"
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX")
def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    (tmp_path / "plain").touch()
    ours = write_text(tmp_path / "ours", "x")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_text_is_utf8_with_plain_line_ends(tmp_path):
    assert write_text(tmp_path / "a.txt", "Straße\n").read_bytes() == "Straße\n".encode()


def test_json_is_plain_whatever_went_in(tmp_path):
    data = {
        "iou": np.float32(0.5),
        "ids": np.arange(2),
        "nan": math.nan,
        "inf": -math.inf,
        "path": Path("a") / "b",
        3: (1, {2}),
    }
    path = write_json(tmp_path / "a.json", data)
    assert read_json(path) == {
        "iou": 0.5,
        "ids": [0, 1],
        "nan": None,
        "inf": None,
        "path": "a/b",
        "3": [1, [2]],
    }
    assert "NaN" not in path.read_text()


def test_json_that_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_damaged_json_is_named(root):
    (root / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON .*Delete it"):
        read_json(root / "a.json")
    (root / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"a\.json holds list; expected an object\. Delete it"):
        read_json(root / "a.json")


def test_tables_come_back_as_they_were(tmp_path):
    table = pd.DataFrame({"id": ["ä", "b,c"], "iou": [0.1, math.nan]})
    path = write_csv(tmp_path / "a.csv", table)
    assert b"\r" not in path.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(path), table)


def test_the_environment_names_versions_and_nobody(monkeypatch):
    found = environment()
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["torch"]
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text if hasattr(os, "uname") else True


# run folders


def test_a_run_is_its_folder(root):
    run = Run.create("street")
    assert run.path == root / "artifacts/runs/street"
    assert run.path.is_dir()
    assert run.name == "street"
    assert run.best_checkpoint == run.path / "checkpoints/best.pth"
    assert run.evaluation("val") == run.path / "evaluation/val"
    assert run.failures("val") == run.path / "failures/val"
    with pytest.raises(ValueError, match="split name"):
        run.evaluation("../val")


def test_an_untrained_run_may_be_created_again(root):
    Run.create("street")
    write_text(Run.folder("street") / "note.txt", "x")
    assert (Run.create("street").path / "note.txt").exists()


def test_a_trained_run_is_kept(root):
    run = trained("street")
    with pytest.raises(
        FileExistsError, match=r"'street' exists .*artifacts/runs/street.*another run name, set resume=True"
    ):
        Run.create("street")
    assert Run.create("street", resume=True) == run
    assert run.best_checkpoint.exists()


def test_the_demo_is_made_anew_but_verdicts_stay(root):
    run = trained("demo")
    verdicts = write_text(run.failures("val") / "verdicts.csv", "id,verdict\n")
    Run.create("demo")
    assert not run.best_checkpoint.exists()
    assert not run.evaluation("val").exists()
    assert not run.outputs.exists()
    assert verdicts.exists()


def test_only_a_trained_run_opens(root):
    with pytest.raises(FileNotFoundError, match=r"'street' has no trained model.*Trained runs: none yet"):
        Run.open("street")
    trained("alley")
    with pytest.raises(FileNotFoundError, match=r"Trained runs: alley\. Train it with 02_train"):
        Run.open("street")
    assert Run.open("alley").name == "alley"
    with pytest.raises(ValueError, match="not a path"):
        Run.open("../alley")


class Figure:
    """What `save_figure` needs of a figure."""

    def savefig(self, path, **options):
        if options["format"] != "png":
            raise ValueError("only PNG")
        Path(path).write_bytes(b"png")


class Broken:
    def savefig(self, path, **options):
        Path(path).write_bytes(b"p")
        raise ValueError("half drawn")


def test_a_figure_or_that_of_an_axes_is_saved_whole(tmp_path):
    figure = Figure()
    axes = type("Axes", (), {"get_figure": lambda self: figure})()
    assert runs.save_figure(tmp_path / "deep/a.png", figure) is figure
    assert runs.save_figure(tmp_path / "b.png", axes) is figure
    assert (tmp_path / "deep/a.png").read_bytes() == (tmp_path / "b.png").read_bytes() == b"png"
    with pytest.raises(ValueError, match="half drawn"):
        runs.save_figure(tmp_path / "c.png", Broken())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.png", "deep"]
