"""The notebooks' parameters: defaults, what is refused and how, and the share of each notebook."""

import json
import math
from datetime import date

import pytest
from conftest import raised
from IPython.core.interactiveshell import InteractiveShell

from seglib import params
from seglib.params import NOTEBOOKS, Evaluate, ParameterError, Train, check_chain, read_file


def test_the_defaults_are_the_demo_and_one_name_means_one_thing():
    train, seen = Train(), {}
    assert (train.dataset, train.run, train.replace) == ("data/demo", "demo", "demo")
    for model in NOTEBOOKS.values():
        for name, field in model.model_fields.items():
            own = name == "dataset" and model not in (params.DataCheck, Train)  # empty: that of the run
            told = (field.annotation, field.default or own * "data/demo", str(field.metadata))
            assert seen.setdefault(name, told) == told, f"{name} differs between notebooks"
    with pytest.raises(ValueError, match="frozen"):
        train.epochs = 3


def test_read_takes_its_own_names_from_a_namespace():
    assert Evaluate().scales == (1.0,)
    assert Evaluate(scale_tta="0.75, 1.25 1 .5 4").scales == (1.0, 0.75, 1.25, 0.5, 4.0)
    found = Train.read({"run": "street", "epochs": 3, "In": ["..."], "_": 1, "epoch": math, "title": "a"})
    assert (found.run, found.epochs, found.batch_size) == ("street", 3, 14)
    slips = {"runn": r"did you mean 'run'\?", "threshold": "of 04_fail", "recipe": "is called 'config'"}
    for slip, told in slips.items():  # papermill puts them there
        raised(ParameterError, rf"'{slip}' \({told}", Train.read, {"run": "street", slip: "0.4"})


@pytest.mark.parametrize(
    ("model", "values", "told"),
    [(Train, {"epochs": "many"}, r"Train: epochs = 'many': .*integer"), (Train, {"epochs": 0}, r"epochs = 0: .*equal to 1"),
     (Train, {"learning_rate": math.inf}, r"learning_rate = inf: .*finite"), (Train, {"run": "../up"}, r"run = '\.\./up': .*not a path"),
     (Train, {"precision": "fp8"}, r"precision = 'fp8': .*'auto', 'fp32', 'tf32', 'bf16' or 'fp16'"),
     (Train, {"run": 2024}, r"run = 2024: .*string; quote it as you wrote it: run: \"\.\.\.\" \(papermill: -r run"),
     (Train, {"run": date(2024, 5, 1)}, "quote it"), (Train, {"flip": True, "epochs": True}, "epochs = True: expected a number; flip"),
     (Train, {"compile": False}, r"compile = False: .*'auto', 'on' or 'off'; quote it as you wrote it: compile: "),
     (Evaluate, {"scale_tta": "0.5, big"}, r"scale_tta = '0\.5, big': "), (Evaluate, {"scale_tta": "9"}, r"scale_tta = '9': "),
     (Train, {"epochs": 0, "batch_size": -1, "flop": 1}, r"epochs = 0: .*; batch_size = -1: .*; unknown name 'flop'")],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_value(model, values, told):
    raised(ParameterError, told, model.check, values)


# What YAML, a terminal and papermill's command line make of these values.
@pytest.mark.parametrize(
    ("name", "bent", "value"),
    [("learning_rate", "1e-4", 1e-4), ("resume", "true", True), ("epochs", "7", 7), ("rotation", 2, 2.0),
     ("long_side", 640.0, 640), ("run", "007", "007"), ("encoder_weights", "none", "none"),
     ("cache", "ram", "auto"), ("encoder_weights", None, "none"), ("encoder_weights", "None", "none"), ("encoder_weights", "ImageNet", "imagenet")],
)  # fmt: skip
def test_values_bent_on_the_way_are_straightened(name, bent, value):
    got = getattr(Train.check({name: bent}), name)
    assert (got, type(got)) == (value, type(value))


def test_the_chain_gives_each_notebook_its_share():
    values = {"dataset": "data/mine", "run": "mine", "epochs": "3", "threshold": 0.4}
    own = {"run": "mine", "dataset": "data/mine"}
    shares = [{"dataset": "data/mine"}, own | {"epochs": 3}, own, own | {"threshold": 0.4}]
    assert list(check_chain(values).values()) == shares
    told = r"'tresholds' \(did you mean 'threshold'\?\), 'zzz'\. Known: absent, "
    raised(ParameterError, told, check_chain, {"zzz": 1, "tresholds": 0.5, "epochs": 3})
    raised(ParameterError, r"'lr' \(did you mean 'learning_rate'\?\)\.", check_chain, {"lr": 1})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # editors on Windows; PowerShell
def test_a_parameter_file_is_read_as_it_was_written(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    path.write_bytes("run: a\r\ndataset: daten/Straße 1  # ü\r\nepochs: 3\r\n".encode(encoding))
    assert read_file(path) == {"run": "a", "dataset": "daten/Straße 1", "epochs": 3}


def test_every_parameter_can_be_given_at_a_terminal():
    found = params.read_parameters(["epochs=3", "dataset=/data/a=b", "config=", "epochs=4"])
    assert found == {"epochs": "4", "dataset": "/data/a=b", "config": ""}
    for model in NOTEBOOKS.values():
        values = model().model_dump()
        texts = [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in values.items()]
        assert model.check(params.read_parameters(texts)).model_dump() == values
    for pair in ("epochs", "=3", " =3"):
        raised(ParameterError, f"-p {pair}: expected NAME=VALUE", params.read_parameters, [pair])


def test_a_notebook_shows_our_errors_in_one_sentence_and_others_in_full(capsys):
    shell = InteractiveShell()
    shell.run_cell("from seglib.params import DataCheck\nparams = DataCheck.read(globals())")
    shell.run_cell("DataCheck.read({'exampels': 3})")
    told = "ParameterError: DataCheck: unknown name 'exampels' (did you mean 'examples'?)"
    assert capsys.readouterr().out.strip() == told
    shell.run_cell("float('x')")
    assert "Traceback" in capsys.readouterr().out
