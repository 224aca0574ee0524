"""The command line: what it prints, where that goes, and the exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglib import cli
from seglib import pipeline as chain
from seglib.cli import main, parse, read_parameters
from seglib.data import download as fetch
from seglib.params import NOTEBOOKS, ParameterError, read_file
from seglib.pipeline import ChainError
from seglib.runs import write_json


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(root, monkeypatch):
    """The calls of `run_chain`, which starts nothing here."""
    made = []

    def run_chain(shares, run, start, stop):
        made.append({"shares": shares, "run": run, "start": start, "stop": stop})
        folder = root / "artifacts/runs" / run
        (folder / "outputs").mkdir(parents=True, exist_ok=True)
        write_json(folder / "evaluation/val/metrics.json", {"mean_iou": 0.61251})

    monkeypatch.setattr(chain, "run_chain", run_chain)
    return made


def make_dataset(folder: Path, stored: int = 1) -> Path:
    """Four 8 x 8 pairs of the ids 0 and `stored`, sound when the classes name both."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                folder / split / f"images/{split}{k}.png"
            )
            mask = np.where(np.eye(8) > 0, stored, 0).astype(np.uint8)
            Image.fromarray(mask).save(folder / split / f"masks/{split}{k}.png")
    return folder


def config(folder: Path) -> None:
    splits = "".join(
        f"  {s}: {{images: '{s}/images/*.png', masks: '{s}/masks/*.png'}}\n" for s in ("train", "val")
    )
    (folder / "dataset.yaml").write_text(f"name: tiny\nclasses: [ground, line]\nsplits:\n{splits}")


# the program as such


def test_help_loads_nothing_heavy():
    code = """
import sys
from seglib.cli import main
try:
    main(["--help"])
finally:
    heavy = {"torch", "pandas", "numpy", "papermill", "pydantic", "yaml", "matplotlib", "IPython", "nbformat"}
    print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("loaded: []\n")
    assert all(
        name in done.stdout
        for name in ("demo", "run", "check", "evaluate", "compare", "init", "fetch", "lab")
    )


def test_the_installed_command_is_this_module():
    done = subprocess.run(
        [sys.executable, "-m", "seglib.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("seglib ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dmeo"],
        ["run"],
        ["check"],
        ["evaluate"],
        ["compare", "one"],
        ["demo", "--bro"],
        ["run", "--params"],
        ["demo", "left over"],
        ["init", "a", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "usage: seglib" in capsys.readouterr().err


def test_an_error_is_one_message_and_debug_shows_more(root, capsys):
    assert main(["run", "--params", "none.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        captured.err
        == f"seglib: no parameter file {root / 'none.yaml'}. It is YAML or JSON, such as params/camvid.yaml.\n"
    )
    with pytest.raises(FileNotFoundError):
        main(["--debug", "run", "--params", "none.yaml"])


def test_an_interruption_is_exit_code_130(root, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "fetch", interrupt)
    assert main(["fetch", "camvid"]) == 130
    assert capsys.readouterr().err == "seglib: interrupted.\n"


# parameters


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("epochs=3", 3),
        ("resume=true", True),
        ("flip=0.25", 0.25),
        ("learning_rate=1.0e-4", 1e-4),
        ("learning_rate=1e-4", "1e-4"),  # YAML sees text here; validation makes a number of it
        ("run=2024-05-01", "2024-05-01"),  # YAML would see a date
        ("run=007", "007"),
        ("recipe=", ""),
        ("dataset=/data/a=b", "/data/a=b"),
        ("encoder_weights=none", "none"),
        ("track=csv", "csv"),
    ],
)
def test_values_are_read_as_yaml_and_texts_as_written(pair, value):
    assert read_parameters([pair]) == {pair.split("=")[0]: value}


@pytest.mark.parametrize("pair", ["epochs", "=3", " =3", "epochs=[1"])
def test_a_pair_that_cannot_be_read_is_named(pair):
    with pytest.raises(ParameterError) as caught:
        read_parameters([pair])
    assert str(caught.value).startswith(f"-p {pair}: ")


def test_the_last_of_a_name_counts():
    assert read_parameters(["epochs=3", "epochs=4"]) == {"epochs": 4}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds nothing"),
        ("- a\n- b\n", "holds list"),
        ("epochs", "holds str"),
        ("a: [", "is not YAML at line 1, column 5: "),
        ("a: !!python/object:x.y {}", "is not YAML"),
    ],
)
def test_a_parameter_file_that_is_none_is_named(tmp_path, text, told):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ParameterError, match=told):
        read_file(tmp_path / "p.yaml")


def test_json_is_read_like_yaml(tmp_path):
    values = {"run": "a", "epochs": 3, "learning_rate": 0.0001, "resume": False}
    (tmp_path / "params.json").write_text(json.dumps(values))
    assert read_file(tmp_path / "params.json") == values


# run


def test_run_gives_file_and_options_to_the_chain(root, calls, capsys):
    (root / "mine.yaml").write_text("dataset: data/mine\nepochs: 50\nlearning_rate: 3e-4\n")
    assert (
        main(
            [
                "run",
                "--params",
                "mine.yaml",
                "-p",
                "epochs=2",
                "-p",
                "split=val",
                "--from",
                "02_train",
                "--to",
                "3",
            ]
        )
        == 0
    )
    (call,) = calls
    assert call["shares"] == {
        "01_data_check": {"dataset": "data/mine"},
        "02_train": {"run": "mine", "dataset": "data/mine", "epochs": 2, "learning_rate": 3e-4},
        "03_evaluate": {"run": "mine", "split": "val"},
        "04_failure_analysis": {"run": "mine", "split": "val"},
    }
    assert (call["run"], call["start"], call["stop"]) == ("mine", "02_train", "3")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "notebooks  artifacts/runs/mine/notebooks (.ipynb, .html)",
        "pictures   artifacts/runs/mine/outputs",
        "scores     artifacts/runs/mine/evaluation/val/metrics.json (mean IoU 0.613 on val)",
    ]  # and no failures, since there are none


@pytest.mark.parametrize(
    ("text", "options", "run"),
    [
        ("epochs: 1", [], "street"),
        ("run: night", [], "night"),
        ("run: night", ["--run", "day"], "day"),
        ("run: a", ["-p", "run=b"], "b"),
    ],
)
def test_the_run_is_named_by_option_then_file_then_the_files_name(root, calls, text, options, run):
    (root / "street.yaml").write_text(text)
    assert main(["run", "--params", "street.yaml", *options]) == 0
    assert calls[0]["run"] == run


def test_a_parameter_file_is_found_from_the_project_root_too(root, calls, monkeypatch, tmp_path_factory):
    (root / "params").mkdir()
    (root / "params/mine.yaml").write_text("epochs: 1")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main(["run", "--params", "params/mine.yaml"]) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch: 3", "unknown parameters: 'epoch' (did you mean 'epochs'?)"),
        ("epochs: three", "Train: epochs = 'three'"),
        ("run: ../up", "not a path"),
        ("threshold: 5", "Failures: threshold = 5"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_starts(root, calls, capsys, text, told):
    (root / "a.yaml").write_text(text)
    assert main(["run", "--params", "a.yaml"]) == 1
    assert told in capsys.readouterr().err
    assert calls == []
    assert not (root / "artifacts").exists()


def test_a_split_without_a_scored_pixel_has_no_mean_iou_to_tell(root, monkeypatch, capsys):
    write_json(root / "artifacts/runs/a/evaluation/test/metrics.json", {"mean_iou": float("nan")})
    monkeypatch.setattr(chain, "run_chain", lambda *args: [])
    (root / "a.yaml").write_text("split: test")
    assert main(["run", "--params", "a.yaml"]) == 0
    assert capsys.readouterr().out.endswith("scores     artifacts/runs/a/evaluation/test/metrics.json\n")


def test_a_failing_notebook_is_told_in_its_own_words(root, monkeypatch, capsys):
    saved = root / "artifacts/runs/a/notebooks/03_evaluate.ipynb"

    def run_chain(*args):
        raise ChainError("03_evaluate", "ValueError: no split 'tset'", saved)

    monkeypatch.setattr(chain, "run_chain", run_chain)
    (root / "a.yaml").write_text("split: tset")
    assert main(["run", "--params", "a.yaml"]) == 1
    assert capsys.readouterr().err == (
        "seglib: 03_evaluate stopped: ValueError: no split 'tset'\n"
        "As far as it came: artifacts/runs/a/notebooks/03_evaluate.ipynb (and .html)\n"
    )


# demo


@pytest.fixture
def drawn(monkeypatch):
    """The demo datasets that were asked for; none is drawn here."""
    from seglib.data import demo

    made = []
    monkeypatch.setattr(demo, "make_demo", lambda folder, broken=False: made.append((folder, broken)))
    return made


def test_the_demo_makes_its_dataset_and_runs_all_four(root, calls, drawn):
    assert main(["demo", "-p", "epochs=2"]) == 0
    assert drawn == [(root / "data/demo", False)]
    assert calls[0]["shares"]["02_train"] == {"run": "demo", "dataset": "data/demo", "epochs": 2}
    assert (calls[0]["run"], calls[0]["start"], calls[0]["stop"]) == ("demo", "1", "4")


def test_the_broken_demo_stops_in_01_and_lists_what_it_found(root, drawn, monkeypatch, capsys):
    findings = ["severity,check,sample,split,detail,suggestion"]
    findings += [f"error,missing-mask,a{k},train,no mask for 'a{k}'.,Add it." for k in range(5)]
    findings += ["warning,blank-image,b,val,image 'b' is flat.,Look at it."]

    def run_chain(shares, run, start, stop):
        assert shares["01_data_check"] == {"dataset": "data/demo_broken"}
        assert (start, stop) == ("1", "1")
        path = root / "artifacts/data_check/demo_broken/findings.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(findings))
        assert run == "demo_broken"  # not into the run of the sound demo
        raise ChainError(
            "01_data_check", "DatasetError: 5 errors:\n- no mask for 'a0'.", root / "01_data_check.ipynb"
        )

    monkeypatch.setattr(chain, "run_chain", run_chain)
    assert main(["demo", "--broken"]) == 1
    captured = capsys.readouterr()
    assert drawn == [(root / "data/demo_broken", True)]
    assert captured.out.splitlines() == [
        "error    missing-mask (5)",
        "         no mask for 'a0'.",
        "         no mask for 'a1'.",
        "         no mask for 'a2'.",
        "         ... and 2 more",
        "         -> Add it.",
        "warning  blank-image (1)",
        "         image 'b' is flat.",
        "         -> Look at it.",
        "All findings: artifacts/data_check/demo_broken/findings.csv",
        "",
    ]
    # What is listed above is not said again.
    assert captured.err.startswith(
        "seglib: 01_data_check stopped: DatasetError: 5 errors.\nAs far as it came: "
    )


# check, init, fetch, lab


def test_check_tells_the_verdict_and_exits_by_it(root, capsys):
    config(make_dataset(root / "mine"))
    assert main(["check", "mine"]) == 0
    out = capsys.readouterr().out
    assert "tiny: sound: 4 pairs, no errors" in out
    assert (root / "artifacts/data_check/tiny/findings.csv").exists()

    config(make_dataset(root / "other", stored=7))
    assert main(["check", str(root / "other")]) == 1
    out = capsys.readouterr().out
    assert "error    illegal-ids (4)" in out
    assert "tiny: not sound" in out


def test_check_takes_a_recipe_from_elsewhere(root, capsys):
    config(make_dataset(root / "mine"))
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
        command = [
            "evaluate",
            "--predictions",
            name,
            "--dataset",
            "mine",
            "--split",
            "val",
            "-p",
            "boundary_ratio=0.1",
        ]
        assert main(command) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("2 images of val: mean IoU 0.")
        assert captured.out.endswith(f"\nscores   artifacts/runs/{name}/evaluation/val\n")
    assert json.loads((root / "artifacts/runs/better/params.json").read_text())["dataset"] == "mine"
    assert main(["compare", "worse", "better", "--split", "val"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("better against worse on val: mean IoU 0.")
    assert "2 images fixed, 0 regressed" in told[-2]
    assert told[-1] == "Tables and picture: artifacts/runs/better/comparison/worse-val"
    folder = root / "artifacts/runs/better/comparison/worse-val"
    assert {path.name for path in folder.iterdir()} == {
        "images.png",
        "per_class.csv",
        "per_image.csv",
        "summary.json",
    }
    assert main(["compare", "worse", "none", "--split", "val"]) == 1
    assert "run 'none' has no trained model" in capsys.readouterr().err
    (root / "worse/val1.png").unlink()
    assert main(["evaluate", "--predictions", "worse", "--dataset", "mine", "--split", "val"]) == 1
    assert "no prediction for image 'val1'" in capsys.readouterr().err


def test_init_writes_a_draft_that_check_understands_and_never_overwrites(root, capsys):
    make_dataset(root / "mine")
    assert main(["init", "mine"]) == 0
    captured = capsys.readouterr()
    path = root / "mine/dataset.yaml"
    assert captured.out == path.read_text()
    assert "seglib check mine" in captured.err
    assert main(["check", "mine"]) == 0
    capsys.readouterr()

    path.write_text("mine: by hand\n")
    assert main(["init", "mine"]) == 1
    captured = capsys.readouterr()
    assert "classes:" in captured.out  # what a new draft would be
    assert "stays as it is" in captured.err
    assert path.read_text() == "mine: by hand\n"


def test_init_needs_a_known_layout(root, capsys):
    (root / "empty").mkdir()
    assert main(["init", "empty"]) == 1
    assert "none of the known layouts" in capsys.readouterr().err
    assert list((root / "empty").iterdir()) == []


@pytest.mark.parametrize(("options", "folder"), [([], "data/camvid"), (["--to", "sets/c"], "sets/c")])
def test_fetch_goes_where_it_is_told(root, monkeypatch, capsys, options, folder):
    monkeypatch.setattr(fetch, "fetch", lambda name, to: Path(to))
    assert main(["fetch", "camvid", *options]) == 0
    assert capsys.readouterr().out == f"In {folder}. Next: seglib check {folder}\n"


def test_fetch_names_what_it_knows(root, capsys):
    assert main(["fetch", "camvdi"]) == 1
    assert "camvid" in capsys.readouterr().err


def test_lab_opens_on_the_project_and_hands_on_its_options(root, monkeypatch):
    started = []

    def run(command, check):
        started.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["lab", "--port=9999", "--no-browser"]) == 3
    (command,) = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={root}" in command
    assert command[-2:] == ["--port=9999", "--no-browser"]
    assert parse(["lab"]).rest == []


def test_every_parameter_can_be_given_by_option():
    for model in NOTEBOOKS.values():
        for name, value in model().model_dump().items():
            text = json.dumps(value) if not isinstance(value, str) else value
            assert model.check(read_parameters([f"{name}={text}"])).model_dump()[name] == value


def test_help_of_every_command(capsys):
    for name in (
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
    ):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert f"usage: seglib {name}" in capsys.readouterr().out


def test_plant(tiny_root, capsys):
    asked = [
        "plant",
        "--dataset",
        "data/tiny",
        "--out",
        str(tiny_root / "copy"),
        "--splits",
        "train",
        "--share",
        "0.5",
    ]
    assert main([*asked, "--kinds", "dark,noise"]) == 0
    assert "3 faults planted" in capsys.readouterr().out
    rows = (tiny_root / "copy" / "planted.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4
    assert main(asked) == 1
    assert "exists and is left as it is" in capsys.readouterr().err


@pytest.mark.slow
def test_masks_go_to_an_annotation_tool_and_back(trained_root, capsys):
    zipped, corrected = trained_root / "out.zip", trained_root / "corrected"
    assert main(["export", "--run", "tiny", "--to", "cvat", "--out", str(zipped)]) == 0
    assert "nothing to export" in capsys.readouterr().out
    assert main(["export", "--run", "tiny", "--to", "cvat", "--out", str(zipped), "--ids", "0042,null"]) == 0
    assert "2 images in out.zip" in capsys.readouterr().out
    assert main(["import", "--from", str(zipped), "--dataset", "data/tiny", "--out", str(corrected)]) == 0
    assert "0 of 2 masks changed." in capsys.readouterr().out
    assert not list(corrected.rglob("*.png"))
