"""The command line: what it prints, where that goes, the exit codes, and the first steps with own data."""

import re
import shutil

import numpy as np
import pytest
import yaml
from conftest import raised, save
from PIL import Image

from seglib import cli, evaluate
from seglib.cli import main
from seglib.data import load_dataset
from seglib.params import Evaluate, check_chain
from seglib.runs import Run, project_root, read_json, write_json, write_text

COMMANDS = "demo run runs check evaluate compare plant predict label-next export import init convert new lab"


@pytest.fixture
def root(tiny_root, monkeypatch):
    monkeypatch.chdir(tiny_root)
    return tiny_root


@pytest.fixture
def calls(root, monkeypatch):
    """The calls of `run_chain`, which only checks the parameters here."""
    made = []

    def run_chain(values, start, stop, asked):
        made.append((check_chain(values | asked), start, stop))

    monkeypatch.setattr(cli, "run_chain", run_chain)
    return made


@pytest.mark.parametrize("name", ["", *COMMANDS.split()])
def test_help_of_the_program_and_of_every_command(name, capsys):
    raised(SystemExit, "0", main, [name, "--help"] if name else ["--help"])
    assert f"usage: seglib {name}" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "dmeo", "compare one", "run --para x", "demo left", "export --to x"])
def test_wrong_usage_is_exit_code_2(line, capsys):
    raised(SystemExit, "2", main, line.split())
    assert "usage: seglib" in capsys.readouterr().err


def test_an_error_is_one_message_and_debug_shows_more(root, monkeypatch, capsys):
    write_text(root / "p.yaml", "- a")
    assert main(["run", "--params", "p.yaml"]) == 1
    told = "p.yaml holds ['a']; expected lines `parameter: value`, as in params/camvid.yaml."
    assert capsys.readouterr() == ("", f"seglib: {told}\n")
    raised(ValueError, "holds", main, ["--debug", "run", "--params", "p.yaml"])
    monkeypatch.setattr(cli, "run_chain", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "seglib: interrupted.\n"


def test_run_gives_file_and_options_to_the_chain(root, calls):
    (root / "mine.yaml").write_text("dataset: data/mine\nepochs: 50\nlearning_rate: 3e-4\n")
    line = "run --params mine.yaml -p epochs=2 -p split=val --from 02_train --to 3"
    assert main(line.split()) == main(["demo"]) == 0
    values = {"dataset": "data/mine", "epochs": 2, "learning_rate": 3e-4, "split": "val", "run": "mine"}
    assert calls[0] == (check_chain(values), "02_train", "3")
    assert calls[1] == (check_chain({"run": "demo", "dataset": "data/demo"}), "1", "4")


@pytest.mark.parametrize(
    ("text", "options", "run"),
    [("epochs: 1", "", "street"), ("run: night", "", "night"), ("run: night", "--run day", "day"), ("run: a", "-p run=b", "b"),
     ("epoch: 3", "", None), ("epochs: x", "", None), ("run: ../a", "", None), ("", "-p flip=2", None), ("run: a", "-p flip", None)],
)  # fmt: skip
def test_the_run_is_named_and_a_wrong_parameter_starts_nothing(root, calls, capsys, text, options, run):
    write_text(root / "params/street.yaml", text)
    assert main(["run", "--params", "params/street.yaml", *options.split()]) == (0 if run else 1)
    assert [call[0]["02_train"]["run"] for call in calls] == ([run] if run else [])
    assert bool(run) or capsys.readouterr().err.startswith("seglib: ")


def test_a_run_is_repeated(root, calls, capsys):
    run = Run.create("first")
    values = {"run": "first", "actions": "data/edited since.yaml", "resume": True, "seed": 3}
    write_json(run.params, values)
    write_json(run.path / "environment.json", {"python": "2.7", "packages": {}})
    write_text(run.path / "actions.yaml", "{}")
    assert main(["run", "--params", str(run.params), "--run", "again", "-p", "epochs=2"]) == 0
    assert "Not as it was for run 'first': Python was 2.7 and is" in capsys.readouterr().out
    kept = {"actions": "artifacts/runs/first/actions.yaml", "resume": False, "epochs": 2, "run": "again"}
    assert calls.pop()[0]["02_train"] == values | kept
    assert main(["run", "--params", str(run.params), "--from", "3"]) == 0, "the run itself goes on"
    assert calls.pop()[0]["02_train"] == values


def test_runs_lists_them_and_what_differs(run, capsys):
    second = Run.create("second")
    write_json(second.params, read_json(run.params) | {"run": "second", "epochs": 5, "seed": 1})
    write_json(second.path / "environment.json", {"time": "2030-01-02T03:04:05+00:00"})
    write_json(second.evaluation("test") / "metrics.json", {"mean_iou": 0.5, "mean_iou_image_worst_5": None})
    write_json(Run.create("other_tool").params, {"run": "other_tool", "dataset": "d", "predictions": "p"})
    assert main(["runs"]) == 0
    head, top, old, tool = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "date", "model", "data", "val", "test", "worst_5", "minutes", "differs"]
    assert top.strip().startswith("second 2030-01-02 03:04 Linknet tu-mobilenetv3_small_050 data/tiny")
    assert top.split()[-3:] == ["0.500", "epochs=5,", "seed=1"]
    assert re.search(r"^ *tiny .* data/tiny +0\.\d{3} +\d+\.\d{3} +epochs=3", old)
    assert tool.split() == ["other_tool", "predictions", "d"]


def test_check_tells_the_verdict_and_exits_by_it(root, capsys):
    (root / "data/tiny/dataset.yaml").rename(root / "tiny.yaml")
    assert main(["check", "data/tiny"]) == 1
    assert "seglib init" in capsys.readouterr().err
    assert main(["check", "data/tiny", "--config", "tiny.yaml"]) == 0
    assert "tiny: usable: 13 pairs, no errors" in capsys.readouterr().out
    assert (root / "artifacts/data_check/tiny/findings.csv").exists()
    for path in (root / "data/tiny/train/masks").iterdir():
        Image.new("L", (56, 40), 7).save(path)
    assert main(f"check {root}/data/tiny --config tiny.yaml".split()) == 1
    out = capsys.readouterr().out
    assert re.search(r"(?s)error +illegal-ids \(6\)\n +mask .*\n +\.\.\. and 3 more\n +-> .*: not sound", out)


@pytest.mark.slow
def test_predictions_are_scored_and_runs_compared(root, capsys):
    for name, size in {"worse": (56, 40), "worst": (56, 30), "better": (0, 0), "best": (30, 20)}.items():
        shutil.copytree(root / "data/tiny/val/masks", root / name)
        for path in (root / name).iterdir():
            mask = Image.open(path)
            mask.paste(0, (0, 0, *size))
            mask.save(path)
        assert main(f"evaluate --predictions {name} --dataset data/tiny --split val".split()) == 0
        first, *_, last = capsys.readouterr().out.splitlines()
        assert first.startswith("3 images of val: mean IoU ")
        assert last == f"scores   artifacts/runs/{name}/evaluation/val"
    for sides, names in (("worse better", "better against worse"),
                         ("worse,worst better,best", "better, best against worse, worst")):  # fmt: skip
        assert main(["compare", *sides.split(), "--split", "val"]) == 0
        assert f"\n{names} on val: mean IoU 0." in capsys.readouterr().out
    written = {path.name for path in (root / "artifacts/runs/better/comparison/worse-val").iterdir()}
    assert written - {".writing"} == {"images.png", "per_class.csv", "per_image.csv", "summary.json"}


def test_init_writes_a_draft_that_check_understands_and_never_overwrites(root, capsys):
    path = root / "data/tiny/dataset.yaml"
    path.unlink()
    assert main(["init", "data/tiny"]) == 0
    out, err = capsys.readouterr()
    assert out == path.read_text()
    assert f"seglib check {path.parent}" in err
    assert main(["check", "data/tiny"]) == 0
    assert main(["init", "data/tiny"]) == 1
    assert path.read_text() == out


def test_init_gives_images_of_sixteen_bits_their_range(root, capsys):
    folder = root / "data/tiny"
    (folder / "dataset.yaml").unlink()
    for path in folder.glob("*/images/*.png"):
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 2 + 5000).save(path)
    sorted(folder.glob("*/images/*.png"))[0].write_bytes(b"\x89PNG")  # damaged: for the check
    assert main(["init", "data/tiny"]) == 0
    low, high = yaml.safe_load(capsys.readouterr().out)["range"]
    assert 5000 <= low < high <= 5510
    main(["check", "data/tiny"])
    out = capsys.readouterr().out
    assert "range" not in out.replace("range-taken", "")
    assert "cannot be read" in out


def test_lab_opens_on_the_project(root, monkeypatch):
    started = []
    monkeypatch.setattr("jupyterlab.labapp.LabApp.launch_instance", started.extend)
    assert main(["lab"]) == 0
    assert started[0] == f"--ServerApp.root_dir={root}"


@pytest.mark.slow
def test_faults_are_planted_and_masks_go_to_an_annotation_tool_and_back(trained_root, monkeypatch, capsys):
    monkeypatch.chdir(trained_root)
    evaluate.evaluate_run(Evaluate(run="tiny", split="test"), False)
    assert main(["plant", "--dataset", "data/tiny", "--out", "copy", "--splits", "train"]) == 0
    assert "1 faults in copy; which and where: copy/planted.csv" in capsys.readouterr().out
    assert main(["export", "--run", "tiny", "--out", "out.zip"]) == 1
    assert "'tiny': 04_failure_analysis has not looked at it. Name images" in capsys.readouterr().err
    verdicts = trained_root / "artifacts/runs/tiny/failures/test/verdicts.csv"
    write_text(verdicts, "id,verdict,note,time\n0042,label wrong,,\n")
    assert main(["export", "--run", "tiny", "--out", "out.zip"]) == 0
    for ids, code in (("none_such", 1), ("0042,null", 0)):
        assert main(["export", "--run", "tiny", "--out", "out.zip", "--ids", ids]) == code
    assert "1 of 1 samples to export are not in dataset 'tiny': 'none_such'" in capsys.readouterr().err
    assert main(["import", "--from", "out.zip", "--dataset", "data/tiny", "--out", "corrected"]) == 0
    assert "0 of 2 masks changed." in capsys.readouterr().out


@pytest.fixture
def street(tmp_path, monkeypatch):
    """30 images of 6 sequences in train alone, and the draft of their dataset.yaml; c_04 is f_04 again."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    random, folder = np.random.default_rng(0), tmp_path / "street"
    for name in (f"{letter}_{k:02d}" for letter in "abcdef" for k in range(5)):
        image = np.kron(random.integers(0, 256, (4, 6, 1), np.uint8), np.ones((8, 8, 3), np.uint8))
        if name == "f_04":
            image = np.array(Image.open(folder / "train/images/c_04.png"))
        save(folder / f"train/images/{name}.png", image)
        save(folder / f"train/masks/{name}.png", (image[..., 0] > 128).astype(np.uint8))
    assert main(["init", str(folder)]) == 0
    path = folder / "dataset.yaml"
    path.write_text(path.read_text().replace("# group", "group"))
    return folder


def test_a_split_keeps_sequences_and_copies_together_and_splits_that_are_there(street, capsys):
    def split(*shares: str) -> int:
        return main(["init", str(street), "--split", *shares])

    assert main(["check", str(street)]) == 1
    told = capsys.readouterr().out
    assert f"-> seglib init {street} --split 0.7 0.15 0.15 divides" in told
    assert told.endswith("Training needs val too.\n")
    assert (split("0.5"), split("0.6", "0", "0.2"), split("0.6", "0.2", "0.2")) == (1, 0, 1)
    assert re.search("(?s)expected two or three of 0-1.*there are train, test", capsys.readouterr().err)
    path, test = street / "dataset.yaml", set(load_dataset(street).split("test")["id"])
    text = path.read_text()
    path.write_text("limit: 3\n" + text)
    assert split("0.7", "0.3") == 1
    path.write_text(text)
    assert split("0.7", "0.3") == 0
    samples = load_dataset(street).samples
    assert (len(samples), set(samples["split"])) == (30, {"train", "val", "test"})
    assert set(samples["id"][samples["split"] == "test"]) == test
    assert (samples.groupby("group")["split"].nunique() == 1).all()
    by_id = samples.set_index("id")["split"]
    assert by_id["c_04"] == by_id["f_04"]
    assert (by_id == "train").sum() in range(10, 21)
    assert main(["check", str(street)]) == 0
    listed = re.sub("(?m)^  val:.*\n", "", path.read_text()).replace("}", ", ids: mine.txt}", 1)
    path.write_text(listed)
    (street / "mine.txt").write_text("\n".join(by_id.index[by_id != "test"]))
    assert split("0.7", "0.3") == 0
    again = load_dataset(street).samples
    assert again["split"].value_counts().to_dict() == by_id.value_counts().to_dict()
    block = "  train:\n    images: train/images/*.png\n    masks: train/masks/*.png\n    ids: # mine\n      - b_00\n"
    path.write_text(re.sub("(?m)^  train:.*\n", block, listed))
    before = path.read_text()
    assert (split("0.7", "0.3"), path.read_text()) == (1, before)


def test_a_new_project_is_the_root_of_what_is_done_in_it(tmp_path, monkeypatch):
    assert main(["new", str(tmp_path / "mine")]) == 0
    for name in ("notebooks/02_train.ipynb", "params/camvid.yaml", "data/configs/camvid.yaml"):
        assert (tmp_path / "mine" / name).is_file()
    assert len(load_dataset(tmp_path / "mine/data/demo").samples) == 259
    raised(FileExistsError, "mine exists and is not empty", main, ["--debug", "new", str(tmp_path / "mine")])
    monkeypatch.delenv("SEGLIB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path / "mine/notebooks")
    assert project_root() == tmp_path / "mine"
