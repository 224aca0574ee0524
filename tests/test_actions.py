"""actions.yaml: written, read, refused and followed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib.actions import (
    AUGMENTATIONS,
    Actions,
    ActionsError,
    Sample,
    Setting,
    Weights,
    apply,
    check,
    follow,
    read,
    write,
)
from seglib.data import ClassMap, Dataset, load_dataset
from seglib.params import Train

SPLITS = {"train": ["t0", "t1", "0042", "t3"], "val": ["v0", "v1"], "test": ["x0", "x1", "x2", "x3"]}


@pytest.fixture
def dataset() -> Dataset:
    rows = [(i, split, f"{i}.png", f"{i}.png", "", pd.NA) for split, ids in SPLITS.items() for i in ids]
    samples = pd.DataFrame(rows, columns=["id", "split", "image", "mask", "group", "frame"])
    return Dataset(Path("data"), "street", ClassMap(("sky", "road")), samples, pd.DataFrame())


def written(folder: Path, text: str) -> Path:
    path = folder / "actions.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_a_file_as_a_person_writes_it(tmp_path):
    text = (
        "exclude:\n- t0  # blurred beyond use\n- {id: t1}\n- id: '0042'\n  reason: a cow\nrelabel:\n"
        "augment:\n- {name: blur, value: 0.4}\n- {name: blur_radius, value: 3}\nclass_weights: sqrt_inverse\n"
    )
    found = read(written(tmp_path, text))
    assert found == Actions(
        exclude=[Sample(id="t0"), Sample(id="t1"), Sample(id="0042", reason="a cow")],
        augment=[Setting(name="blur", value=0.4), Setting(name="blur_radius", value=3)],
        class_weights=Weights(value="sqrt_inverse"),
    )
    assert found.changes == {"blur": 0.4, "blur_radius": 3, "class_weights": "sqrt_inverse"}
    assert type(found.changes["blur_radius"]) is int
    assert found.trains_like(Actions(**found.model_dump() | {"relabel": ["t3"]}))
    assert not found.trains_like(Actions())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"holds nothing; expected keys such as exclude and augment"),
        ("- t0", r"holds list"),
        ("exclude: [", r"is not valid YAML at line \d"),
        ("exclude: [a]\nexclude: [b]", r"key 'exclude' stands twice"),
        ("!!python/object/apply:os.system [ls]", r"is not valid YAML"),
        ("exclude: [\udcff]", "not UTF-8"),
        ("excluded: [t0]", r"excluded = \['t0'\]: Extra inputs are not permitted"),
        ("exclude: [0042]", r"exclude\.0\.id = 34: .*string.* Quote ids that are digits only"),
        ("exclude: [t0, {id: null}]", r"exclude\.1\.id = None"),
        ("exclude: [{name: t0}]", r"exclude\.0\.id .*Field required.*; exclude\.0\.name = 't0': Extra"),
        ("relabel: [t0, t1, t0]", r"relabel names 't0' twice"),
        ("augment: [{name: blurr, value: 0.1}]", r"augment\.0\.name = 'blurr': .*'flip', 'scale_min'"),
        ("augment: [{name: epochs, value: 3}]", r"augment\.0\.name = 'epochs'"),
        ("augment: [{name: blur, value: 2}]", r"blur = 2\.0: .*less than or equal to 1"),
        ("augment: [{name: blur_radius, value: 2.5}]", r"blur_radius = 2\.5: .*integer"),
        ("augment: [{name: blur, value: .nan}]", r"augment\.0\.value = nan: .*finite"),
        ("augment: {blur: 0.3}", r"augment = \{'blur': 0\.3\}: .*list"),
        ("class_weights: median", r"class_weights = 'median': .*'none', 'sqrt_inverse' or 'median_frequency'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, text, told):
    with pytest.raises(ActionsError, match=rf"actions\.yaml:? .*{told}|actions\.yaml {told}"):
        read(written(tmp_path, text))
    with pytest.raises(
        ActionsError, match=r"no actions file at .*gone\.yaml: 04_failure_analysis writes one"
    ):
        read(tmp_path / "gone.yaml")


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12) | st.sampled_from(
    ["0042", "null", "1e5", "yes", "- a: b # c", "two\nlines", "'", '"', "{}", "fähre_🚢", " "]
)
SAMPLES = st.lists(st.builds(Sample, id=TEXTS, reason=TEXTS), unique_by=lambda s: s.id, max_size=4)
SETTINGS = st.lists(
    st.builds(Setting, name=st.sampled_from(["blur", "noise", "haze"]), value=st.floats(0, 1), reason=TEXTS),
    unique_by=lambda s: s.name,
)
WEIGHTS = st.builds(Weights, value=st.sampled_from(["none", "sqrt_inverse"]), reason=TEXTS) | st.just(
    Weights()
)


@settings(deadline=None, max_examples=40)
@given(st.builds(Actions, exclude=SAMPLES, relabel=SAMPLES, augment=SETTINGS, class_weights=WEIGHTS))
def test_what_is_written_is_read(tmp_path_factory, wanted):
    assert read(write(tmp_path_factory.mktemp("actions") / "actions.yaml", wanted)) == wanted


def test_the_file_explains_itself(tmp_path):
    entry = Sample(id="0042", reason="verdict: label wrong")
    wanted = Actions(exclude=[entry], augment=[Setting(name="blur_radius", value=3)])
    lines = write(tmp_path / "actions.yaml", wanted).read_text(encoding="utf-8").splitlines()
    assert "- {id: '0042', reason: 'verdict: label wrong'}" in lines
    assert {
        "relabel: []",
        "class_weights: {}",
        "# Reasons are for people: a bare id will do. Quote ids that are digits only.",
    } < set(lines)
    assert all(any(name in line for line in lines if line[0:1] == "#") for name in AUGMENTATIONS)


def test_what_a_person_edited_is_never_overwritten(tmp_path):
    path = tmp_path / "actions.yaml"
    one, two = (Actions(exclude=[Sample(id=name)]) for name in ("t0", "t1"))
    assert write(path, one) == path
    assert write(path, two) == path  # nobody had touched it
    assert read(path) == two
    edited = path.read_text(encoding="utf-8").replace("t1", "t3")
    path.write_text(edited, encoding="utf-8")
    beside = tmp_path / "actions-2.yaml"
    assert write(path, one) == write(path, two) == beside
    assert (read(beside), path.read_text(encoding="utf-8")) == (two, edited)
    beside.write_text(beside.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    assert write(path, one).name == "actions-3.yaml"
    path.write_text("", encoding="utf-8")
    (tmp_path / "actions-3.yaml").write_bytes(b"\xff")
    assert write(path, one).name == "actions-4.yaml"


def test_apply_leaves_out_training_samples_and_sets_parameters(dataset):
    wanted = Actions(
        exclude=[Sample(id="t1"), Sample(id="0042")],
        relabel=[Sample(id="x0")],
        augment=[Setting(name="darkness", value=0.3)],
        class_weights=Weights(value="median_frequency"),
    )
    params, left = apply(wanted, Train(blur=0.2), dataset)
    assert left.split("train")["id"].tolist() == ["t0", "t3"]
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(left.split(split), dataset.split(split))
    assert len(dataset.samples) == 10  # what came in is as it was
    assert params == Train(blur=0.2, darkness=0.3, class_weights="median_frequency")
    unchanged = apply(Actions(), Train(), dataset)
    assert unchanged[0] == Train()
    pd.testing.assert_frame_equal(unchanged[1].samples, dataset.samples)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [({"exclude": ["042"]}, r"exclude names 1 samples that dataset 'street' does not have: \['042'\]\. Correct"),
     ({"relabel": ["a", "b", "c", "d", "e"]}, r"relabel names 5 samples .*\['a', 'b', 'c', 'd', \.\.\.\]"),
     ({"exclude": ["t0", "x1"]}, r"exclude names \['x1 \(test\)'\]: only samples of split 'train' can be excluded"),
     ({"exclude": ["v0"]}, r"'v0 \(val\)'"), ({"exclude": SPLITS["train"]}, r"every training sample of dataset 'street'")],
)  # fmt: skip
def test_what_does_not_fit_the_dataset_is_refused(dataset, wanted, told):
    with pytest.raises(ActionsError, match=told):
        check(Actions(**wanted), dataset)


def test_follow_reads_the_file_that_the_parameter_names(tiny_root, tiny_params):
    data = load_dataset("data/tiny")
    assert follow(tiny_params(), data) == (tiny_params(), data)
    write("mine.yaml", Actions(exclude=[Sample(id="t00")], augment=[Setting(name="noise", value=0.5)]))
    params, left = follow(tiny_params(actions="mine.yaml"), data)
    assert params == tiny_params(actions="mine.yaml", noise=0.5)
    assert left.split("train")["id"].tolist() == [f"t{k:02d}" for k in range(1, 6)]
