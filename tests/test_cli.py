"""The command line: what it prints, where that goes, and the exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglib import cli
from seglib.cli import main, parse
from seglib.pipeline import ChainError
from seglib.runs import Run, environment, write_json, write_text

COMMANDS = (
    "demo",
    "run",
    "check",
    "evaluate",
    "compare",
    "plant",
    "export",
    "import",
    "init",
    "fetch",
    "lab",
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(root, monkeypatch):
    """The calls of `run_chain`, which starts nothing here."""
    made = []

    def run_chain(*call):
        made.append(call)
        write_json(root / "artifacts/runs" / call[1] / "evaluation/val/metrics.json", {"mean_iou": 0.61251})
        write_json(root / "artifacts/runs" / call[1] / "evaluation/test/metrics.json", {"mean_iou": np.nan})

    monkeypatch.setattr(cli, "run_chain", run_chain)
    return made


def make_dataset(folder: Path, stored: int = 1) -> Path:
    """Four 8 x 8 pairs of the ids 0 and `stored`; sound when it is 1."""
    random = np.random.default_rng(0)
    for k, split in enumerate(("train", "train", "val", "val")):
        for kind, array in (
            ("images", random.integers(0, 256, (8, 8, 3), dtype=np.uint8)),
            ("masks", np.where(np.eye(8) > 0, stored, 0).astype(np.uint8)),
        ):
            path = folder / split / kind / f"{split}{k % 2}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


def config(folder: Path) -> None:
    splits = "".join(
        f"  {s}: {{images: '{s}/images/*.png', masks: '{s}/masks/*.png'}}\n" for s in ("train", "val")
    )
    write_text(folder / "dataset.yaml", f"name: tiny\nclasses: [ground, line]\nsplits:\n{splits}")


# the program as such


def test_help_and_version_load_nothing_heavy():
    code = """
import sys
from seglib.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "pandas", "numpy", "scipy", "papermill", "matplotlib", "IPython", "nbformat"}
    print("loaded:", sorted(heavy & set(sys.modules)))
"""
    for argument, told in (("--help", COMMANDS), ("--version", ["seglib "])):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.endswith("loaded: []\n")
        assert all(name in done.stdout for name in told)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: seglib {name}" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "dmeo", "run", "check", "evaluate", "compare one", "demo --bro", "run --params",
    "demo left", "init a b", "export --to label-studio --out x"])  # fmt: skip
def test_wrong_usage_is_exit_code_2(line, capsys):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 2
    assert "usage: seglib" in capsys.readouterr().err


def test_an_error_is_one_message_and_debug_shows_more(root, capsys):
    assert main(["run", "--params", "none.yaml"]) == 1
    told = "seglib: no parameter file none.yaml. It is YAML or JSON, such as params/camvid.yaml.\n"
    assert capsys.readouterr() == ("", told)
    with pytest.raises(FileNotFoundError):
        main(["--debug", "run", "--params", "none.yaml"])


def test_a_terminal_that_lacks_a_character_ends_no_command(root):
    config(make_dataset(root / "mine"))
    (root / "mine/val/masks/val0.png").unlink()
    (root / "mine/val/images/val0.png").rename(root / "mine/val/images/交差点.png")
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "seglib.cli", "check", "mine"]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="cp1252")
    assert (done.returncode, done.stderr) == (1, "")
    assert "no mask for image '\\u4ea4\\u5dee\\u70b9'" in done.stdout


# run and demo


def test_run_gives_file_and_options_to_the_chain(root, calls, capsys):
    (root / "mine.yaml").write_text("dataset: data/mine\nepochs: 50\nlearning_rate: 3e-4\n")
    line = "run --params mine.yaml -p epochs=2 -p split=val --from 02_train --to 3"
    assert main(line.split()) == 0
    shares = {
        "01_data_check": {"dataset": "data/mine"},
        "02_train": {"run": "mine", "dataset": "data/mine", "epochs": 2, "learning_rate": 3e-4},
        "03_evaluate": {"run": "mine", "split": "val"},
        "04_failure_analysis": {"run": "mine", "split": "val"},
    }
    assert calls == [(shares, "mine", "02_train", "3")]
    assert capsys.readouterr().out.endswith(": artifacts/runs/mine (mean IoU 0.613 on val)\n")
    assert main(["run", "--params", "mine.yaml"]) == 0
    assert capsys.readouterr().out.endswith(": artifacts/runs/mine\n"), "no pixel of test was scored"


@pytest.mark.parametrize(
    ("text", "options", "run"),
    [("epochs: 1", "", "street"), ("run: night", "", "night"), ("run: night", "--run day", "day"),
     ("run: a", "-p run=b", "b"), ("", "-p epochs=1", None), ("epoch: 3", "", None), ("epochs: three", "", None),
     ("recipe: a", "", None), ("run: ../up", "", None), ("threshold: 5", "", None), ("epochs: 1", "-p epochs", None)],
)  # fmt: skip
def test_the_run_is_named_by_option_then_file_then_the_files_name(root, calls, capsys, text, options, run):
    (root / "params").mkdir()
    (root / "params/street.yaml").write_text(text)
    (root / "elsewhere").mkdir()
    os.chdir(root / "elsewhere")  # the file is found from the project root too
    assert main(["run", "--params", "params/street.yaml", *options.split()]) == (0 if run else 1)
    assert [call[1] for call in calls] == ([run] if run else [])
    if not run:  # a wrong parameter is named before anything starts
        assert not (root / "artifacts").exists()
        assert capsys.readouterr().err.startswith("seglib: ")


def test_a_failing_notebook_is_told_in_its_own_words(root, monkeypatch, capsys):
    def run_chain(*args):
        raise ChainError(
            "03_evaluate stopped: ValueError: no split 'tset'\nAs far as it came: x.ipynb (and .html)"
        )

    monkeypatch.setattr(cli, "run_chain", run_chain)
    (root / "a.yaml").write_text("split: tset")
    assert main(["run", "--params", "a.yaml"]) == 1
    told = (
        "seglib: 03_evaluate stopped: ValueError: no split 'tset'\nAs far as it came: x.ipynb (and .html)\n"
    )
    assert capsys.readouterr().err == told
    monkeypatch.setattr(cli, "run_chain", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["run", "--params", "a.yaml"]) == 130
    assert capsys.readouterr().err == "seglib: interrupted.\n"


def test_a_run_is_repeated_and_what_differs_is_named(root, calls, capsys):
    config(make_dataset(root / "data/mine"))
    run = Run.create("first")
    values = {
        "run": "first",
        "dataset": "data/mine",
        "actions": "data/edited since.yaml",
        "resume": True,
        "seed": 3,
    }
    write_json(run.params, values)
    write_json(run.path / "environment.json", environment())
    write_json(run.data, {"train": {}, "val": {}})
    assert main(["run", "--params", str(run.params), "--run", "again", "-p", "epochs=2"]) == 0
    told = capsys.readouterr().out
    assert "Not as it was for run 'first': The data changed" in told
    assert "torch" not in told
    shares = calls.pop()[0]["02_train"]
    kept = {"actions": "artifacts/runs/first/actions.yaml", "resume": False, "epochs": 2, "run": "again"}
    assert shares == values | kept
    then = environment() | {"python": "3.9.1"}
    write_json(run.path / "environment.json", then | {"packages": then["packages"] | {"torch": "1.0"}})
    assert main(["run", "--params", str(run.params), "--run", "again"]) == 0
    assert "'first': Python was 3.9.1 and is 3." in (told := capsys.readouterr().out)
    assert "; torch was 1.0 and is " in told
    assert main(["run", "--params", str(run.params), "--from", "3"]) == 0, "the run itself goes on"
    assert "Not as it was" not in capsys.readouterr().out
    assert calls[-1][0]["02_train"]["actions"] == "data/edited since.yaml"


def test_the_demo_runs_all_four_and_its_broken_twin_the_first(root, calls, monkeypatch):
    from seglib import data

    made = []
    monkeypatch.setattr(data, "ensure_demo", made.append)
    assert main(["demo", "-p", "epochs=2"]) == main(["demo", "--broken"]) == 0
    assert made == ["data/demo", "data/demo_broken"]
    assert calls[0][0]["02_train"] == {"run": "demo", "dataset": "data/demo", "epochs": 2}
    assert [call[1:] for call in calls] == [("demo", "1", "4"), ("demo_broken", "1", "1")]


# the other commands


def test_check_tells_the_verdict_and_exits_by_it(root, capsys):
    config(make_dataset(root / "mine"))
    assert main(["check", "mine"]) == 0
    assert "tiny: sound: 4 pairs, no errors" in capsys.readouterr().out
    assert (root / "artifacts/data_check/tiny/findings.csv").exists()
    config(make_dataset(root / "other", stored=7))
    assert main(["check", str(root / "other")]) == 1
    out = capsys.readouterr().out
    assert "error    illegal-ids (4)\n         mask " in out
    assert "\n         ... and 1 more\n         -> " in out
    assert "tiny: not sound" in out
    (root / "mine/dataset.yaml").rename(root / "tiny.yaml")
    assert main(["check", "mine"]) == 1
    assert "seglib init" in capsys.readouterr().err
    assert main(["check", "mine", "--config", "tiny.yaml"]) == 0


@pytest.mark.slow
def test_predictions_are_scored_and_runs_compared(root, capsys):
    config(make_dataset(root / "mine"))
    for name, step in (("worse", 2), ("better", 1)):
        (root / name).mkdir()
        for k in range(2):
            pred = np.array(Image.open(root / "mine/val/masks" / f"val{k}.png"))
            pred[::2, ::step] = 0
            Image.fromarray(pred if name == "better" else 1 - pred).save(root / name / f"val{k}.png")
        line = f"evaluate --predictions {name} --dataset mine --split val -p boundary_ratio=0.1"
        assert main(line.split()) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("2 images of val: mean IoU 0.")
        assert captured.out.endswith(f"\nscores   artifacts/runs/{name}/evaluation/val\n")
    assert json.loads((root / "artifacts/runs/better/params.json").read_text())["dataset"] == "mine"
    assert main(["compare", "worse", "better", "--split", "val"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("better against worse on val: mean IoU 0.")
    assert "2 images fixed, 0 regressed" in told[-2]
    assert told[-1] == "Tables and figure: artifacts/runs/better/comparison/worse-val"
    folder = root / "artifacts/runs/better/comparison/worse-val"
    written = {path.name for path in folder.iterdir()} - {".writing"}
    assert written == {"images.png", "per_class.csv", "per_image.csv", "summary.json"}
    assert main(["compare", "worse", "none", "--split", "val"]) == 1
    assert "run 'none' has no trained model" in capsys.readouterr().err
    (root / "worse/val1.png").unlink()
    assert main(["evaluate", "--predictions", "worse", "--dataset", "mine", "--split", "val"]) == 1
    assert "no prediction for image 'val1'" in capsys.readouterr().err


def test_init_writes_a_draft_that_check_understands_and_never_overwrites(root, capsys):
    path = make_dataset(root / "mine") / "dataset.yaml"
    assert main(["init", "mine"]) == 0
    captured = capsys.readouterr()
    assert captured.out == path.read_text()
    assert "seglib check mine" in captured.err
    assert main(["check", "mine"]) == 0
    path.write_text("mine: by hand\n")
    capsys.readouterr()
    assert main(["init", "mine"]) == 1
    captured = capsys.readouterr()
    assert "classes:" in captured.out  # what a new draft would be
    assert "stays as it is" in captured.err
    assert path.read_text() == "mine: by hand\n"
    (root / "empty").mkdir()
    assert main(["init", "empty"]) == 1
    assert "none of the known layouts" in capsys.readouterr().err
    assert list((root / "empty").iterdir()) == []


@pytest.mark.parametrize(("options", "folder"), [([], "data/camvid"), (["--to", "sets/c"], "sets/c")])
def test_fetch_goes_where_it_is_told(root, monkeypatch, capsys, options, folder):
    from seglib import data

    monkeypatch.setattr(data, "download", lambda name, to: Path(to))
    assert main(["fetch", "camvid", *options]) == 0
    assert capsys.readouterr().out == f"In {folder}. Next: seglib check {folder}\n"
    monkeypatch.undo()
    assert main(["fetch", "camvdi"]) == 1
    assert "camvid" in capsys.readouterr().err


def test_lab_opens_on_the_project_and_hands_on_its_options(root, monkeypatch):
    started = []

    def run(command, check):
        started.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["lab", "--port=9999", "--no-browser"]) == 3
    assert started[0][:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={root}" in started[0]
    assert started[0][-2:] == ["--port=9999", "--no-browser"]
    assert parse(["lab"])[1]["options"] == []


def test_plant(tiny_root, capsys):
    line = f"plant --dataset data/tiny --out {tiny_root}/copy --splits train --share 0.5 --kinds dark,noise"
    assert main(line.split()) == 0
    assert "3 faults in copy; which and where: copy/planted.csv" in capsys.readouterr().out
    assert len((tiny_root / "copy" / "planted.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert main(line.split()) == 1
    assert "exists and is left as it is" in capsys.readouterr().err


@pytest.mark.slow
def test_masks_go_to_an_annotation_tool_and_back(trained_root, capsys):
    from seglib.evaluate import evaluate_run
    from seglib.params import Evaluate

    evaluate_run(Evaluate(run="tiny", split="test"), False)
    zipped, corrected = trained_root / "out.zip", trained_root / "corrected"
    line = f"export --run tiny --to cvat --out {zipped}"
    assert main([*line.split(), "--ids", "0042,null"]) == 0
    assert "2 images in out.zip" in capsys.readouterr().out
    assert main(f"import --from {zipped} --dataset data/tiny --out {corrected}".split()) == 0
    assert "0 of 2 masks changed." in capsys.readouterr().out
    assert not list(corrected.rglob("*.png"))
    assert main([*line.split(), "--ids", "nobody"]) == 1
    assert "no sample 'nobody'" in capsys.readouterr().err
