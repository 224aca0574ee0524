"""actions.yaml: what is proposed, written, read, refused and followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib import actions
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
from seglib.data.classes import ClassMap
from seglib.data.dataset import Dataset, load_dataset
from seglib.failures.propose import propose
from seglib.params import Train

SPLITS = {"train": ["t0", "t1", "0042", "t3"], "val": ["v0", "v1"], "test": ["x0", "x1", "x2", "x3"]}


@pytest.fixture
def dataset() -> Dataset:
    rows = [(i, split, f"{i}.png", f"{i}.png", "", pd.NA) for split, ids in SPLITS.items() for i in ids]
    samples = pd.DataFrame(rows, columns=["id", "split", "image", "mask", "group", "frame"])
    return Dataset(Path("data"), "street", ClassMap(("sky", "road")), samples, pd.DataFrame())


def names(entries) -> list[str]:
    return [entry.id for entry in entries]


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


# --- reading


def written(folder: Path, text: str) -> Path:
    path = folder / "actions.yaml"
    path.write_text(text, encoding="utf-8")
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"actions\.yaml is empty; expected keys such as exclude and augment"),
        ("- t0", r"is no mapping"),
        ("exclude: [", r"is not valid YAML at line \d"),
        ("exclude: [a]\nexclude: [b]", r"key 'exclude' stands twice"),
        ("!!python/object/apply:os.system [ls]", r"is not valid YAML"),
        ("excluded: [t0]", r"unknown key 'excluded' \(known: exclude, relabel, augment, class_weights\)"),
        ("exclude: [0042]", r"exclude\.1\.id = 34: .*string \(quote ids that are digits only\)"),
        ("exclude: [t0, {id: null}]", r"exclude\.2\.id = None"),
        ("exclude: [{name: t0}]", r"exclude\.1\.id.*Field required.*unknown key 'exclude\.1\.name'"),
        ("relabel: [t0, t1, t0]", r"relabel names 't0' twice"),
        (
            "augment: [{name: blurr, value: 0.1}]",
            r"augment\.1: no augmentation 'blurr' \(did you mean 'blur'\?\)",
        ),
        (
            "augment: [{name: epochs, value: 3}]",
            r"no augmentation 'epochs' \(expected one of flip, scale_min",
        ),
        ("augment: [{name: blur, value: 2}]", r"augment\.1: blur = 2\.0: .*less than or equal to 1"),
        ("augment: [{name: blur_radius, value: 2.5}]", r"blur_radius = 2\.5: .*integer"),
        ("augment: [{name: blur, value: .nan}]", r"augment\.1\.value = nan: .*finite"),
        ("augment: {blur: 0.3}", r"augment = \{'blur': 0\.3\}: .*list"),
        (
            "class_weights: median",
            r"class_weights = 'median': .*'none', 'sqrt_inverse' or 'median_frequency'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, told):
    with pytest.raises(ActionsError, match=told):
        read(written(tmp_path, text))


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(
        ActionsError, match=r"no actions file at .*gone\.yaml: 04_failure_analysis writes one"
    ):
        read(tmp_path / "gone.yaml")
    (tmp_path / "a.yaml").write_bytes(b"exclude: [\xff]")
    with pytest.raises(ActionsError, match="not UTF-8"):
        read(tmp_path / "a.yaml")


# --- writing

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["0042", "null", "1e5", "yes", "- a: b # c", "two\nlines", "'", '"', "{}", "\x85\u2028", " "]
)
SAMPLES = st.lists(st.builds(Sample, id=TEXTS, reason=TEXTS), unique_by=lambda s: s.id, max_size=4)
SETTINGS = st.lists(
    st.builds(
        Setting,
        name=st.sampled_from(["blur", "noise", "haze"]),
        value=st.floats(0, 1) | st.integers(0, 1),
        reason=TEXTS,
    ),
    unique_by=lambda s: s.name,
)
WEIGHTS = st.builds(
    Weights, value=st.sampled_from(["", "none", "sqrt_inverse", "median_frequency"]), reason=TEXTS
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.builds(Actions, exclude=SAMPLES, relabel=SAMPLES, augment=SETTINGS, class_weights=WEIGHTS))
def test_what_is_written_is_read(tmp_path_factory, wanted):
    path = write(tmp_path_factory.mktemp("actions") / "actions.yaml", wanted)
    assert read(path) == wanted
    entries = len(wanted.exclude) + len(wanted.relabel) + len(wanted.augment)
    assert (
        path.read_text(encoding="utf-8").count("\n  - {") == entries
    )  # a line each, whatever the names hold


def test_the_file_explains_itself(tmp_path):
    entry = Sample(id="t0", reason="verdict: label wrong")
    path = write(
        tmp_path / "actions.yaml", Actions(exclude=[entry], augment=[Setting(name="blur_radius", value=3)])
    )
    text = path.read_text(encoding="utf-8")
    assert '  - {id: "t0", reason: "verdict: label wrong"}' in text
    assert '  - {name: "blur_radius", value: 3}' in text
    for name in AUGMENTATIONS:
        assert name in text
    assert "relabel: []" in text
    assert yaml.safe_load(text)["relabel"] == []


def test_what_a_person_edited_is_never_overwritten(tmp_path):
    path = tmp_path / "actions.yaml"
    one, two = (Actions(exclude=[Sample(id=name)]) for name in ("t0", "t1"))
    assert write(path, one) == path
    assert write(path, two) == path  # nobody had touched it
    assert read(path) == two
    edited = path.read_text(encoding="utf-8").replace('"t1"', '"t3"')
    path.write_text(edited, encoding="utf-8")
    beside = tmp_path / "actions-2.yaml"
    assert write(path, one) == beside
    assert write(path, two) == beside
    assert read(beside) == two
    assert path.read_text(encoding="utf-8") == edited
    beside.write_text(beside.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    assert write(path, one).name == "actions-3.yaml"
    path.write_text("", encoding="utf-8")
    (tmp_path / "actions-3.yaml").write_bytes(b"\xff")
    assert write(path, one).name == "actions-4.yaml"


# --- following


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
    assert apply(wanted, params, dataset)[0] == params
    unchanged = apply(Actions(), Train(), dataset)
    assert unchanged[0] == Train()
    pd.testing.assert_frame_equal(unchanged[1].samples, dataset.samples)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (
            {"exclude": ["042"]},
            r"exclude names '042', which dataset 'street' does not have \(did you mean '0042'\?\)",
        ),
        (
            {"relabel": ["a", "b", "c", "d"]},
            r"relabel names 'a', 'b', 'c', \.\.\. \(4 in all\), which dataset",
        ),
        (
            {"exclude": ["t0", "x1"]},
            r"exclude names 'x1 \(test\)': only samples of split 'train' can be excluded",
        ),
        ({"exclude": ["v0"]}, r"'v0 \(val\)'"),
        ({"exclude": SPLITS["train"]}, r"every training sample of dataset 'street'; none would be left"),
    ],
)
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


def test_the_run_keeps_what_it_followed_and_resumes_with_nothing_else(tiny_root, tiny_params):
    from seglib.params import ParameterError
    from seglib.train.fitting import start_run

    write("mine.yaml", Actions(exclude=[Sample(id="t00")]))
    params = tiny_params(actions="mine.yaml")
    run = start_run(params)
    assert read(run.path / "actions.yaml") == read("mine.yaml")
    again = tiny_params(actions="mine.yaml", resume=True)
    write("mine.yaml", Actions(exclude=[Sample(id="t00", reason="other words")], relabel=[Sample(id="v0")]))
    start_run(again)
    write("mine.yaml", Actions(exclude=[Sample(id="t01")]))
    with pytest.raises(
        ParameterError, match=r"mine\.yaml was changed since run 'tiny' began; .*tiny/actions\.yaml"
    ):
        start_run(again)
    start_run(tiny_params())
    assert not (run.path / "actions.yaml").exists()


@pytest.mark.slow
def test_every_process_follows(tiny_root, tiny_params):
    import subprocess
    import sys

    from seglib.runs import read_json

    write(
        "mine.yaml",
        Actions(exclude=[Sample(id="t00"), Sample(id="t01")], augment=[Setting(name="blur", value=0.5)]),
    )
    values = tiny_params(actions="mine.yaml", epochs=1).model_dump()
    (tiny_root / "params.yaml").write_text(yaml.safe_dump(values))
    subprocess.run([sys.executable, "-m", "seglib.train.launch", "--params", "params.yaml"], check=True)
    run = tiny_root / "artifacts" / "runs" / "tiny"
    assert read_json(run / "params.json")["blur"] == 0.5
    (cache,) = (tiny_root / "artifacts" / "cache").glob("tiny-train-*/index.json")
    assert read_json(cache)["ids"] == [f"t{k:02d}" for k in range(2, 6)]


# --- proposing


def test_verdicts_go_before_claims(dataset):
    verdicts = {
        "t0": "label wrong",
        "t1": "ignore",
        "0042": "model wrong",
        "x0": "label wrong",
        "x1": "ignore",
        "x2": "ambiguous",
    }
    suspects = table(id=["0042", "x2", "t3", "x3", "v0"], label_score=[0.99, 0.98, 0.95, 0.9, 0.5])
    found = propose(dataset, table(id=["x0", "x1"]), suspects, verdicts)
    assert names(found.exclude) == ["t0", "t1", "t3"]
    assert names(found.relabel) == ["t0", "x0", "x1", "t3", "x3"]
    reasons = {entry.id: entry.reason for entry in found.relabel}
    assert reasons["x0"] == "test: stays in the scores; verdict: label wrong"
    assert reasons["x1"] == "test: stays in the scores; verdict: ignore"
    assert reasons["t3"] == "label suspected: unlike the prediction, score 0.95"
    assert found.exclude[0].reason == "until relabelled; verdict: label wrong"
    assert found.exclude[1].reason == "verdict: ignore"
    check(found, dataset)


def test_a_suspicion_says_what_it_is(dataset):
    suspects = table(
        id=["t0", "t1"],
        label_score=[0.9, 0.93],
        suspect_kind=["mask of another image", "swapped class"],
        suspect_given=["", "car"],
        suspect_suggested=["", "truck"],
    )
    found = propose(dataset, table(id=[]), suspects)
    assert [entry.reason for entry in found.relabel] == [
        "label suspected: swapped class (car, rather truck), score 0.93",
        "label suspected: mask of another image, score 0.90",
    ]
    assert propose(dataset, table(id=[]), suspects.assign(label_score=0.8)) == Actions()


def failed(causes, degradations=None, confidence=0.9) -> pd.DataFrame:
    count = len(causes)
    return pd.DataFrame(
        {
            "id": [f"x{k}" for k in range(count)],
            "cause": causes,
            "cause_confidence": confidence,
            "degradation": degradations or [""] * count,
        }
    )


def test_causes_become_augmentation_and_weights(dataset):
    causes = ["degraded image"] * 4 + ["rare class"] * 2 + ["small objects"] * 2 + ["unexplained"]
    found = propose(dataset, failed(causes, ["blur", "blur", "dark", "dark", "", "", "", "", ""]))
    assert found.changes == {
        "blur": 0.3, "blur_radius": 3, "darkness": 0.3, "scale_max": 2.0, "class_weights": "sqrt_inverse"
    }  # fmt: skip
    assert found.augment[0].reason == "2 of 9 failures: degraded image: blur"
    assert found.class_weights.reason == "2 of 9 failures: rare class"
    assert found.exclude == found.relabel == []
    has = Train(blur=0.5, darkness=0.3, class_weights="median_frequency")
    assert set(propose(dataset, failed(causes, ["blur"] * 9), params=has).changes) == {
        "blur_radius",
        "scale_max",
    }


def test_every_remedy_is_a_parameter_that_works(dataset):
    for kind in ("blur", "noise", "dark", "washed out"):
        found = propose(dataset, failed(["degraded image"] * 2, [kind] * 2))
        assert found.changes
        assert set(found.changes) <= set(AUGMENTATIONS)
        apply(found, Train(), dataset)


def test_a_change_of_training_needs_support_and_confidence(dataset):
    one = failed(["degraded image", "unexplained"], ["blur", ""])
    assert propose(dataset, one) == Actions()
    few = failed(["degraded image"] * 2 + ["unexplained"] * 30, ["blur"] * 2 + [""] * 30)
    assert propose(dataset, few) == Actions()
    unsure = failed(["degraded image"] * 2, ["blur"] * 2, confidence=0.6)
    assert propose(dataset, unsure) == Actions()
    said = propose(dataset, unsure, verdicts={"x0": "model wrong", "x1": "model wrong"})
    assert said.changes == {"blur": 0.3, "blur_radius": 3}
    doubted = propose(dataset, failed(["degraded image"] * 2, ["blur"] * 2), verdicts={"x0": "label wrong"})
    assert doubted.changes == {}


def test_tables_that_know_nothing_propose_nothing(dataset):
    for failures in (table(id=["x0", "x1"]), table(id=[]), failed([None, np.nan], [np.nan, None], np.nan)):
        assert propose(dataset, failures) == Actions()
        assert propose(dataset, failures, table(id=["x0"], label_score=[np.nan])) == Actions()
    assert propose(dataset, table(id=[]), verdicts={"gone": "label wrong"}) == Actions()


def test_what_may_be_named_is_a_parameter_of_training():
    assert set(AUGMENTATIONS) <= set(Train.model_fields)
    assert actions.TRAIN == "train"
