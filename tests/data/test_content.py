"""What a dataset's files hold: edits are noticed by content, told plainly, and never end in silently wrong numbers."""

import hashlib
import os
import time

import numpy as np
import pytest
from PIL import Image

from seglib.checks import check as checks
from seglib.data import fingerprint as content
from seglib.failures.analyse import analyse
from seglib.checks.check import check_dataset
from seglib.data.fingerprint import CLASSES, Changes, compare, digests
from seglib.data.dataset import DatasetError, load_dataset
from seglib.failures.find import find_failures
from seglib.train.device import make_plan
from seglib.evaluate.predict import evaluate_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelSpec, build
from seglib.params import Evaluate, Train
from seglib.evaluate.predictions import changed_since_training, check_as_scored
from seglib.runs import Run, project_root, read_json, write_json, write_text
from seglib.train.fitting import fit, start_run

pytestmark = pytest.mark.slow

TEST = Evaluate(run="tiny", split="test")


def tiny():
    return load_dataset("data/tiny")


def repaint(path: str, keep_time: bool = False) -> None:
    """Another mask of the same size in bytes: a file without compression; with its old time, as `cp -p` leaves it."""
    path = project_root() / "data/tiny" / path
    before = path.stat()
    with Image.open(path) as picture:
        pixels = np.array(picture)
    pixels[:5, :5] = 2
    Image.fromarray(pixels).save(path)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# digests


def test_digests_are_those_of_the_bytes(tiny_root):
    dataset = tiny()
    found = digests(dataset, "val")
    own = {name: digest for name, digest in found.items() if name != CLASSES}
    assert sorted(own) == sorted([*dataset.split("val")["image"], *dataset.split("val")["mask"]])
    for path, digest in own.items():
        assert digest == hashlib.sha256((dataset.root / path).read_bytes()).hexdigest()[:16]


def test_a_file_is_read_again_only_when_it_may_have_changed(tiny_root, monkeypatch):
    dataset = tiny()
    before = digests(dataset, "val")
    real, passed = time.time_ns, []
    monkeypatch.setattr(content.time, "time_ns", lambda: real() + 10**10)  # what was just written may change unseen
    assert digests(dataset, "val") == before
    monkeypatch.setattr(
        content.hashlib, "file_digest", lambda file, kind: passed.append(file.name) or hashlib.new(kind)
    )
    assert digests(dataset, "val") == before
    assert passed == []
    os.utime(dataset.root / "val/masks/v1.png")
    digests(dataset, "val")
    assert passed == [str(dataset.root / "val/masks/v1.png")]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of the last change of any kind")
def test_an_edit_that_keeps_size_and_time_is_noticed(tiny_root, monkeypatch):
    path = tiny_root / "data/tiny/val/masks/v1.png"
    real = time.time_ns
    monkeypatch.setattr(content.time, "time_ns", lambda: real() + 10**10)
    before, stat = digests(tiny(), "val"), path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert compare(before, digests(tiny(), "val")) == Changes(("val/masks/v1.png",))


@pytest.mark.parametrize("jump", [-(10**18), 10**18])
def test_clocks_that_jump_and_times_in_the_future_change_nothing(tiny_root, monkeypatch, jump):
    before = digests(tiny(), "val")
    real = time.time_ns
    monkeypatch.setattr(content.time, "time_ns", lambda: real() + jump)
    os.utime(tiny_root / "data/tiny/val/images/v0.png", (4e9, 4e9))
    assert digests(tiny(), "val") == before
    assert not compare(before, digests(tiny(), "val"))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"val/masks/v1.png": 3}', '{"val/masks/v1.png": "1 2 3 0000000000000000"}']
)
def test_a_damaged_table_of_digests_is_not_believed(tiny_root, text):
    before = digests(tiny(), "val")
    write_text(content._table_path(tiny()), text)
    assert digests(tiny(), "val") == before


def test_classes_count_as_content(tiny_root):
    before = digests(tiny(), "val")
    config = tiny_root / "data/tiny/dataset.yaml"
    config.write_text(config.read_text() + "ignore_ids: [255, 7]\n")
    assert compare(before, digests(tiny(), "val")) == Changes((CLASSES,))


def test_changes_in_words(tmp_path):
    (tmp_path / "kept").touch()
    before = {"a": "1", "b": "1", "c": "1", "d": "1", "kept": "1", "lost": "1"}
    now = {"a": "2", "b": "2", "c": "2", "d": "2", "new": "1"}
    assert str(compare(before, now)) == "4 files changed (a, b, c, ...), 1 was added (new), 2 are gone (kept, lost)"
    assert str(compare(before, now, tmp_path)) == "4 files changed (a, b, c, ...), 1 was added (new), 1 is gone (lost)"
    assert str(compare({"a": "1"}, {"a": "2"})) == "1 file changed (a)"
    assert str(compare({}, {"a": "1", "b": "1"})) == "2 files were added (a, b)"
    assert not compare(now, now)


# from notebook to notebook


def checked():
    found = check_dataset(tiny())
    checks.write(found, project_root() / "artifacts/data_check/tiny")


def edit() -> None:
    """One mask of train changes with its old time, one image of it is added, one pair of val goes."""
    folder = project_root() / "data/tiny"
    repaint("train/masks/t02.png", keep_time=True)
    for kind in ("images", "masks"):
        (folder / f"train/{kind}/t99.png").write_bytes((folder / f"train/{kind}/t00.png").read_bytes())
        (folder / f"val/{kind}/v2.png").unlink()


def test_edited_between_01_and_02(tiny_root, capsys):
    checked()
    build_cache(tiny(), "train")
    assert "changed since" not in capsys.readouterr().out
    edit()
    build_cache(tiny(), "train")
    told = capsys.readouterr().out
    assert (
        "Split 'train' changed since 01_data_check saw it: 1 file changed (train/masks/t02.png), 2 were added" in told
    )
    assert told.rstrip().endswith("Run 01_data_check again.")
    build_cache(tiny(), "val")
    assert "2 files are gone (val/images/v2.png, val/masks/v2.png)" in capsys.readouterr().out
    checked()
    build_cache(tiny(), "train")
    assert capsys.readouterr().out == ""


def test_another_dataset_of_the_same_name_was_not_the_one_that_was_checked(tiny_root, capsys):
    checked()
    (tiny_root / "data/tiny").rename(tiny_root / "data/copy")
    repaint_in = tiny_root / "data/copy/train/masks/t02.png"
    repaint_in.write_bytes((tiny_root / "data/copy/train/masks/t01.png").read_bytes())
    build_cache(load_dataset("data/copy"), "train")
    assert capsys.readouterr().out == ""


def test_a_training_that_leaves_samples_out_lacks_nothing(tiny_root, capsys):
    checked()
    dataset = tiny()
    object.__setattr__(dataset, "samples", dataset.samples[dataset.samples["id"] != "t03"])
    build_cache(dataset, "train")
    assert capsys.readouterr().out == ""


def test_edited_between_02_and_03(trained_root, capsys):
    run = Run.open("tiny")
    assert evaluate_run(run, TEST).scores["data_changed"] == ""
    assert "changed since" not in capsys.readouterr().out
    edit()
    told = evaluate_run(run, TEST).scores["data_changed"]
    assert told == (
        "The data changed since run 'tiny' was trained on it (train: 1 file changed (train/masks/t02.png), 2 were added "
        "(train/images/t99.png, train/masks/t99.png); val: 2 files are gone (val/images/v2.png, val/masks/v2.png))."
    )
    assert told in capsys.readouterr().out
    assert read_json(run.evaluation("test") / "metrics.json")["data_changed"] == told


def test_what_actions_left_out_did_not_change(trained_root):
    run = Run.open("tiny")
    kept = read_json(run.data)
    for kind in ("images", "masks"):
        del kept["train"][f"train/{kind}/t03.png"]
    write_json(run.data, kept)
    assert "t03" in changed_since_training(run, tiny())
    write_text(run.path / "actions.yaml", "exclude: [t03, long-gone]\n")
    assert changed_since_training(run, tiny()) == ""
    run.data.unlink()  # a run of an older version kept none: nothing is known
    assert changed_since_training(run, tiny()) == ""


def test_edited_between_03_and_04(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, TEST)
    repaint("test/masks/0042.png", keep_time=True)
    with pytest.raises(
        DatasetError,
        match=r"split 'test' changed since run 'tiny' was evaluated on it: 1 file changed \(test/masks/0042\.png\)\. Run 03",
    ):
        analyse(run, evaluation, find_failures(evaluation, 2.0))
    assert not run.failures("test").exists()
    (run.evaluation("test") / "data.json").unlink()
    check_as_scored(run, tiny(), "test")


def test_a_training_is_not_resumed_on_other_data(trained_root):
    run = Run.open("tiny")
    params = Train.check(read_json(run.params) | {"epochs": 3, "resume": True})
    before = run.last_checkpoint.read_bytes()
    repaint("train/masks/t02.png", keep_time=True)
    splits = build_cache(tiny(), "train"), build_cache(tiny(), "val", original_masks=True)
    model = build(ModelSpec(params.architecture, params.encoder, tiny().classes))
    with pytest.raises(
        DatasetError, match=r"run 'tiny' was begun \(train: 1 file changed .*t02\.png\)\)\. Resuming would mix"
    ):
        fit(start_run(params), model, *splits, params, make_plan("cpu", "fp32"))
    assert run.last_checkpoint.read_bytes() == before


def test_files_that_change_while_they_are_decoded(tiny_root, monkeypatch):
    from seglib.train import loader as loading

    real = loading.read_pair

    def read_and_edit(dataset, row):
        pair = real(dataset, row)
        if row.id == "t05":
            repaint("train/masks/t00.png", keep_time=True)
        return pair

    with monkeypatch.context() as patch:
        patch.setattr(loading, "read_pair", read_and_edit)
        with pytest.raises(DatasetError, match="files of split 'train' changed while they were read"):
            build_cache(tiny(), "train")
    masks = build_cache(tiny(), "train").pair(0)[1]
    assert (masks[:5, :5] == 2).all()


# stale caches


def caches() -> list[str]:
    return sorted(path.name for path in (project_root() / "artifacts/cache").iterdir() if path.is_dir())


def test_only_caches_of_files_that_changed_are_deleted(tiny_root):
    from seglib.claims import lock

    build_cache(tiny(), "train")
    build_cache(tiny(), "train", 32)
    dataset = tiny()
    object.__setattr__(dataset, "samples", dataset.samples[dataset.samples["id"] != "t03"])
    build_cache(dataset, "train")  # an excluded sample makes another cache, which is as true as the first
    before = caches()
    assert len(before) == 3
    repaint("train/masks/t03.png")
    with lock(tiny_root / "artifacts/runs/other/.training", "training"):
        build_cache(tiny(), "train")
    assert len(caches()) == 4, "a training under way may read one of them"
    mapped = build_cache(dataset, "train")
    build_cache(tiny(), "train", 24)
    assert len(caches()) == 3, "the whole split as it was has gone, with and without shrinking"
    repaint("train/masks/t00.png")
    build_cache(tiny(), "train")
    assert len(caches()) == 1
    assert mapped.pair(0)[1].max() <= 255, "what is mapped stays readable"
