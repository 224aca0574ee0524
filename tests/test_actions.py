"""actions.yaml: written, read, refused and followed."""

import pandas as pd
import pytest
from conftest import raised

from seglib.actions import Actions, Sample, Setting, Weights, check, follow, read, write
from seglib.data import load_dataset
from seglib.params import ParameterError
from seglib.runs import write_text


def test_a_file_as_a_person_writes_it(tmp_path):
    text = (
        "exclude:\n- t0  # blurred beyond use\n- {id: t1}\n- id: '0042'\n  reason: a cow\nrelabel:\n"
        "augment:\n- {name: blur, value: 0.4}\n- {name: blur_radius, value: 3}\nclass_weights: sqrt_inverse\n"
    )
    found = read(write_text(tmp_path / "actions.yaml", text))
    assert found.exclude == [Sample(id="t0"), Sample(id="t1"), Sample(id="0042", reason="a cow")]
    assert found.changes == {"blur": 0.4, "blur_radius": 3, "class_weights": "sqrt_inverse"}
    assert type(found.changes["blur_radius"]) is int
    assert found.trains_like(Actions(**found.model_dump() | {"relabel": ["t3"]}))
    assert not found.trains_like(Actions())


@pytest.mark.parametrize(
    ("text", "told"),
    [("", r"holds None; expected keys such as exclude and augment"), ("exclude: [", r"is not valid YAML at line \d"),
     ("exclude: \udcdf", "is not UTF-8 text"), ("excluded: [t0]", "unknown name 'excluded'"),
     ("exclude: [0042]", r"exclude\.0\.id = 34: .*string.* Quote ids that are digits only"),
     ("exclude: [{name: t0}]", r"exclude\.0\.id .*Field required.*; unknown name 'exclude\.0\.name'"),
     ("augment: [{name: epochs, value: 3}]", r"augment\.0\.name = 'epochs': .*'flip', 'scale_min'"),
     ("augment: [{name: blur, value: 2}]", r"blur = 2\.0: .*less than or equal to 1"),
     ("augment: {blur: 0.3}", r"augment = \{'blur': 0\.3\}: .*list"),
     ("class_weights: median", r"class_weights = 'median': .*'none', 'sqrt_inverse' or 'median_frequency'")],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, text, told):
    (tmp_path / "actions.yaml").write_text(text, "utf-8", "surrogateescape")
    raised(ParameterError, rf"actions\.yaml.* {told}", read, tmp_path / "actions.yaml")


def test_what_is_written_is_read(tmp_path):
    hard = ["0042", "null", "1e5", "yes", "- a: b # c", "two\nlines", "'", '"', "{}", "fähre_🚢", " "]
    wanted = Actions(
        exclude=hard,
        relabel=[Sample(id=str(k), reason=text) for k, text in enumerate(hard)],
        augment=[Setting(name="blur", value=1 / 3, reason="two\nlines")],
        class_weights=Weights(value="none", reason="# no"),
    )
    assert read(write(tmp_path / "actions.yaml", wanted)) == wanted


def test_what_a_person_edited_is_never_overwritten(tmp_path):
    path, beside = tmp_path / "actions.yaml", tmp_path / "actions-2.yaml"
    one, two = Actions(exclude=["t0"]), Actions(exclude=["t1"])
    assert write(path, one) == write(path, two) == path, "as it was written"
    edited = path.read_text(encoding="utf-8").replace("t1", "t3")
    write_text(path, edited)
    assert write(path, one) == write(path, two) == beside
    assert (read(beside), path.read_text(encoding="utf-8")) == (two, edited)
    beside.write_bytes(b"\xff")
    assert write(path, one).name == "actions-3.yaml"


def test_follow_leaves_out_training_samples_and_sets_parameters(tiny_root, tiny_params):
    data = load_dataset("data/tiny")
    assert follow(tiny_params(), data) == (tiny_params(), data)
    changes = {"augment": [Setting(name="noise", value=0.5)], "class_weights": "sqrt_inverse"}
    write("mine.yaml", Actions(exclude=["t00", "t03"], relabel=["0041"], **changes))
    params, left = follow(tiny_params(actions="mine.yaml", blur=0.2), data)
    assert params == tiny_params(actions="mine.yaml", blur=0.2, noise=0.5, class_weights="sqrt_inverse")
    assert left.split("train")["id"].tolist() == ["t01", "t02", "t04", "t05"]
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(left.split(split), data.split(split))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [({"exclude": ["42"]}, r"name 1 samples that dataset 'tiny' does not have: \['42'\]\. Correct"),
     ({"relabel": ["a", "b", "c", "d", "e"]}, r"name 5 samples .*\['a', 'b', 'c', 'd', \.\.\.\]"),
     ({"exclude": ["t00", "1e5"]}, r"exclude names \['1e5'\]: only samples of split 'train'")],
)  # fmt: skip
def test_what_does_not_fit_the_dataset_is_refused(tiny_root, wanted, told):
    raised(ParameterError, told, check, Actions(**wanted), load_dataset("data/tiny"))
