"""Parameters: the defaults, what is refused and in which words, and the shares of a chain."""

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib.params import (
    NOTEBOOKS,
    DataCheck,
    Evaluate,
    Failures,
    ParameterError,
    Train,
    check_chain,
    read_file,
)


@pytest.mark.parametrize("model", NOTEBOOKS.values())
def test_the_defaults_are_valid_and_scalar(model):
    values = model().model_dump()
    assert values == model.check(values).model_dump()
    assert all(isinstance(value, (bool, int, float, str)) for value in values.values())


def test_the_defaults_are_those_that_the_documents_promise():
    train = Train()
    assert (train.epochs, train.batch_size, train.workers) == (30, 14, 0)
    assert train.ce_weight > 0
    assert train.dice_weight > 0
    assert train.focal_weight > 0
    assert Failures().threshold == 0.5
    assert {m().run for m in NOTEBOOKS.values() if "run" in m.model_fields} == {"demo"}


def test_a_name_means_the_same_in_every_notebook():
    seen = {}
    for model in NOTEBOOKS.values():
        for name, field in model.model_fields.items():
            told = (field.annotation, field.default, str(field.metadata))
            assert seen.setdefault(name, told) == told, f"{name} differs between notebooks"


def test_read_takes_its_own_names_from_a_namespace():
    namespace = {"run": "street", "epochs": 3, "In": ["..."], "_": 1, "pd": math}
    params = Train.read(namespace)
    assert (params.run, params.epochs, params.batch_size) == ("street", 3, 14)


def test_parameters_do_not_change_later():
    with pytest.raises(ValueError, match="frozen"):
        Train().epochs = 3


@pytest.mark.parametrize(
    ("model", "values", "told"),
    [
        (Train, {"epoch": 3}, r"Train: unknown parameter 'epoch' \(known: run, dataset, .*\)"),
        (Train, {"epochs": "many"}, r"Train: epochs = 'many': .*integer"),
        (Train, {"epochs": 2.5}, r"epochs = 2\.5: .*integer"),
        (Train, {"epochs": 0}, r"epochs = 0: .*greater than or equal to 1"),
        (Train, {"learning_rate": 0}, r"learning_rate = 0: .*greater than 0"),
        (Train, {"learning_rate": math.nan}, r"learning_rate = nan: "),
        (Train, {"learning_rate": math.inf}, r"learning_rate = inf: .*finite"),
        (Train, {"learning_rate": None}, r"learning_rate = None: .*number"),
        (Train, {"resume": "perhaps"}, r"resume = 'perhaps': .*boolean"),
        (Train, {"precision": "fp8"}, r"precision = 'fp8': .*'auto', 'fp32', 'tf32', 'bf16' or 'fp16'"),
        (Train, {"run": "../up"}, r"run = '\.\./up': .*not a path"),
        (Train, {"run": 3}, r"run = 3: .*string"),
        (Train, {"flip": 1.01}, r"flip = 1\.01: .*less than or equal to 1"),
        (Evaluate, {"absent": "zero"}, r"Evaluate: absent = 'zero': .*'truth' or 'union'"),
        (Evaluate, {"scale_tta": "0.5, big"}, r"Evaluate: scale_tta = '0.5, big': .*'big' is no scale"),
        (Evaluate, {"scale_tta": "9"}, r"'9' is no scale; expected numbers from 0.1 to 4"),
        (Failures, {"threshold": -0.1}, r"Failures: threshold = -0\.1: "),
        (DataCheck, {"examples": 0}, r"DataCheck: examples = 0: "),
    ],
)
def test_what_is_wrong_is_named_with_its_value(model, values, told):
    with pytest.raises(ParameterError, match=told):
        model.check(values)


def test_every_fault_is_named_at_once():
    with pytest.raises(
        ParameterError, match=r"epochs = 0: .*; batch_size = -1: .*; unknown parameter 'flop'"
    ):
        Train.check({"epochs": 0, "batch_size": -1, "flop": 1})


# What YAML and papermill's command line make of these values: 1e-4 and true arrive as text there.
@pytest.mark.parametrize(
    ("name", "bent", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("resume", "true", True),
        ("epochs", "7", 7),
        ("rotation", 2, 2.0),
        ("long_side", 640.0, 640),
    ],
)
def test_values_bent_on_the_way_are_straightened(name, bent, value):
    got = getattr(Train.check({name: bent}), name)
    assert got == value
    assert type(got) is type(value)


def test_the_chain_gives_each_notebook_its_share():
    shares = check_chain(
        {"dataset": "data/mine", "run": "mine", "split": "val", "epochs": "3", "threshold": 0.4}
    )
    assert shares == {
        "01_data_check": {"dataset": "data/mine"},
        "02_train": {"run": "mine", "dataset": "data/mine", "epochs": 3},
        "03_evaluate": {"run": "mine", "split": "val"},
        "04_failure_analysis": {"run": "mine", "split": "val", "threshold": 0.4},
    }


def test_a_chain_without_parameters_is_the_demo():
    assert check_chain({}) == {notebook: {} for notebook in NOTEBOOKS}


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(
        ParameterError, match=r"'tresholds' \(did you mean 'threshold'\?\), 'zzz'\. Known: absent, "
    ):
        check_chain({"zzz": 1, "tresholds": 0.5, "epochs": 3})


def test_a_bad_value_is_refused_whichever_notebook_it_is_for():
    with pytest.raises(ParameterError, match=r"Failures: threshold = 2: "):
        check_chain({"threshold": 2})


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "auto", "1e-4", "nan", "-1"])
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(Train.model_fields)), VALUES))
def test_any_values_are_taken_whole_or_refused_in_words(values):
    with suppress(ParameterError):  # anything else than a ParameterError fails here
        params = Train.check(values)
        assert Train.check(params.model_dump()) == params


def test_scales_are_read_from_text():
    assert Evaluate().scales == (1.0,)
    assert Evaluate(scale_tta="0.75, 1.25 1").scales == (1.0, 0.75, 1.25)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16"]
)  # editors on Windows; PowerShell's redirection
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_parameter_file_is_read_as_windows_writes_it(tmp_path, encoding, end):
    path = tmp_path / "mine.yaml"
    path.write_bytes(end.join(["run: a", "dataset: daten/Straße 1  # ü", "epochs: 3", ""]).encode(encoding))
    assert read_file(path) == {"run": "a", "dataset": "daten/Straße 1", "epochs": 3}


def test_json_is_read_as_json(tmp_path):
    values = {"learning_rate": 1e-05, "dataset": "data/\U0001f6e3 é", "run": "1e5", "resume": False}
    (tmp_path / "params.json").write_text(json.dumps(values), encoding="ascii")
    assert read_file(tmp_path / "params.json") == values
