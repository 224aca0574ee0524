"""The notebooks' parameters: defaults, what is refused and how, and the share of each notebook."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib.params import (
    NOTEBOOKS,
    OTHERS,
    DataCheck,
    Evaluate,
    Failures,
    ParameterError,
    Train,
    check_chain,
    read_file,
    read_parameters,
)


def test_the_defaults_are_the_demo_and_one_name_means_one_thing():
    train, seen = Train(), {}
    assert (train.dataset, train.encoder, train.epochs, train.replace) == (
        "data/demo",
        "timm-tf_efficientnet_lite0",
        30,
        "demo",
    )
    assert {m().run for m in NOTEBOOKS.values() if "run" in m.model_fields} == {"demo"}
    for model in NOTEBOOKS.values():
        for name, field in model.model_fields.items():
            told = (field.annotation, field.default, str(field.metadata))
            assert seen.setdefault(name, told) == told, f"{name} differs between notebooks"
    assert set(OTHERS) == set(seen) - set(Train.model_fields)
    with pytest.raises(ValueError, match="frozen"):
        train.epochs = 3


def test_read_takes_its_own_names_from_a_namespace():
    params = Train.read({"run": "street", "epochs": 3, "In": ["..."], "_": 1, "pd": math})
    assert (params.run, params.epochs, params.batch_size) == ("street", 3, 14)
    with pytest.raises(ParameterError, match=r"'recipe' \(is called 'config' now\)"):
        Train.read({"run": "street", "recipe": "mine.yaml"})


@pytest.mark.parametrize(
    ("model", "values", "told"),
    [
        (Train, {"epoch": 3}, r"Train: unknown parameter 'epoch' \(did you mean 'epochs'\?\) \(known: run, dataset, .*\)"),
        (Train, {"recipe": "x"}, r"'recipe' \(is called 'config' now\)"),
        (Train, {"epochs": "many"}, r"Train: epochs = 'many': .*integer"),
        (Train, {"epochs": 2.5}, r"epochs = 2\.5: .*integer"),
        (Train, {"epochs": 0}, r"epochs = 0: .*greater than or equal to 1"),
        (Train, {"epochs": True}, r"epochs = True: .*expected a number"),
        (Train, {"learning_rate": math.inf}, r"learning_rate = inf: .*finite"),
        (Train, {"learning_rate": None}, r"learning_rate = None: .*number"),
        (Train, {"resume": "perhaps"}, r"resume = 'perhaps': .*boolean"),
        (Train, {"precision": "fp8"}, r"precision = 'fp8': .*'auto', 'fp32', 'tf32', 'bf16' or 'fp16'"),
        (Train, {"run": "../up"}, r"run = '\.\./up': .*not a path"),
        (Train, {"run": 3}, r"run = 3: .*string"),
        (Train, {"flip": 1.01}, r"flip = 1\.01: .*less than or equal to 1"),
        (Evaluate, {"absent": "zero"}, r"Evaluate: absent = 'zero': .*'truth' or 'union'"),
        (Evaluate, {"scale_tta": "0.5, big"}, r"'big' is no scale; expected numbers from 0.1 to 4"),
        (Evaluate, {"scale_tta": "9"}, r"'9' is no scale"),
        (Failures, {"threshold": -0.1}, r"Failures: threshold = -0\.1: "),
        (DataCheck, {"examples": 10**5000}, r"DataCheck: examples = a huge int: "),
        (Train, {"epochs": 0, "batch_size": -1, "flop": 1}, r"epochs = 0: .*; batch_size = -1: .*; unknown parameter 'flop'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_value(model, values, told):
    with pytest.raises(ParameterError, match=told):
        model.check(values)


# What YAML, a terminal and papermill's command line make of these values.
@pytest.mark.parametrize(
    ("name", "bent", "value"),
    [("learning_rate", "1e-4", 1e-4), ("resume", "true", True), ("epochs", "7", 7), ("rotation", 2, 2.0),
     ("long_side", 640.0, 640), ("run", "007", "007"), ("encoder_weights", "none", "none")],
)  # fmt: skip
def test_values_bent_on_the_way_are_straightened(name, bent, value):
    got = getattr(Train.check({name: bent}), name)
    assert (got, type(got)) == (value, type(value))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "auto", "1e-4", "nan", "-1"])  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(Train.model_fields)), VALUES))
def test_any_values_are_taken_whole_or_refused_in_words(values):
    with suppress(ParameterError):  # anything else than a ParameterError fails here
        params = Train.check(values)
        assert Train.check(params.model_dump()) == params


def test_scales_are_read_from_text():
    assert Evaluate().scales == (1.0,)
    assert Evaluate(scale_tta="0.75, 1.25 1 .5").scales == (1.0, 0.75, 1.25, 0.5)


def test_the_chain_gives_each_notebook_its_share():
    values = {"dataset": "data/mine", "run": "mine", "split": "val", "epochs": "3", "threshold": 0.4}
    assert check_chain(values) == {
        "01_data_check": {"dataset": "data/mine"},
        "02_train": {"run": "mine", "dataset": "data/mine", "epochs": 3},
        "03_evaluate": {"run": "mine", "split": "val"},
        "04_failure_analysis": {"run": "mine", "split": "val", "threshold": 0.4},
    }
    assert check_chain({}) == {notebook: {} for notebook in NOTEBOOKS}
    told = r"'recipe' \(is called 'config' now\), 'tresholds' \(did you mean 'threshold'\?\), 'zzz'\. Known: absent, "
    with pytest.raises(ParameterError, match=told):
        check_chain({"zzz": 1, "tresholds": 0.5, "epochs": 3, "recipe": "x"})
    with pytest.raises(ParameterError, match=r"Failures: threshold = 2: "):
        check_chain({"threshold": 2})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # editors on Windows; PowerShell
def test_a_parameter_file_is_read_as_it_was_written(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    path.write_bytes("run: a\r\ndataset: daten/Straße 1  # ü\r\nepochs: 3\r\n".encode(encoding))
    assert read_file(path) == {"run": "a", "dataset": "daten/Straße 1", "epochs": 3}
    values = {"learning_rate": 1e-05, "dataset": "data/\U0001f6e3 é", "run": "1e5", "resume": False}
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
    assert Train.check(read_file(path)) == Train.check(values)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "holds nothing"), ("- a\n- b\n", "holds list"), ("epochs", "holds str"), ("a: [", "is not valid YAML at line 1"),
     ("a: !!python/object:x.y {}", "is not valid YAML"), ("epochs: 3\nepochs: 30\n", "is not valid YAML at line 2, .*'epochs' stands twice"),
     ("run: stra\udcdfe", "is not UTF-8 text")],
)  # fmt: skip
def test_a_parameter_file_that_is_none_is_named(tmp_path, text, told):
    (tmp_path / "p.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ParameterError, match=rf"p\.yaml {told}"):
        read_file(tmp_path / "p.yaml")


def test_parameters_at_a_terminal():
    assert read_parameters(["epochs=3", "dataset=/data/a=b", "config=", "epochs=4"]) == {
        "epochs": "4", "dataset": "/data/a=b", "config": ""
    }  # fmt: skip
    for model in NOTEBOOKS.values():  # every parameter can be given there
        for name, value in model().model_dump().items():
            text = value if isinstance(value, str) else json.dumps(value)
            assert model.check(read_parameters([f"{name}={text}"])).model_dump()[name] == value
    for pair in ("epochs", "=3", " =3"):
        with pytest.raises(ParameterError, match=f"-p {pair}: expected NAME=VALUE"):
            read_parameters([pair])
