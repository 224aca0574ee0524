"""What verdicts, suspected labels and causes propose for the next training."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from seglib import actions
from seglib.actions import Actions
from seglib.data.classes import ClassMap
from seglib.data.dataset import Dataset
from seglib.failures import Analysis, VerdictBook, propose_actions, write_actions
from seglib.params import Train

SPLITS = {"train": ["t0", "t1", "0042", "t3"], "val": ["v0", "v1"], "test": ["x0", "x1", "x2", "x3"]}
SUSPECT = ("suspect", "suspect_kind", "suspect_given", "suspect_suggested", "suspect_detail")


@pytest.fixture
def dataset() -> Dataset:
    rows = [(i, split, f"{i}.png", f"{i}.png", "", pd.NA) for split, ids in SPLITS.items() for i in ids]
    samples = pd.DataFrame(rows, columns=["id", "split", "image", "mask", "group", "frame"])
    return Dataset(Path("data"), "street", ClassMap(("sky", "road")), samples, pd.DataFrame())


@pytest.fixture
def analysis(dataset, tmp_path):
    """A function: causes and degradations of x0, x1, ..., suspects (id -> score, kind, given, suggested), verdicts."""

    def made(causes=(), degradations=None, confidence=0.9, suspects=None, verdicts=None, **params):
        (tmp_path / "params.json").write_text(json.dumps(Train(**params).model_dump() | {"run": "a"}))
        for sample, verdict in (verdicts or {}).items():
            VerdictBook(tmp_path / "verdicts.csv").set(sample, verdict)
        failed = {"id": [f"x{k}" for k in range(len(causes))], "cause": causes}
        failed |= {"cause_strength": confidence, "degradation": degradations or [""] * len(causes)}
        rows = [(i, *found, *[""] * (6 - len(found))) for i, found in (suspects or {}).items()]
        run, own = SimpleNamespace(params=tmp_path / "params.json"), {"name": "test", "split": "test"}
        evaluation = SimpleNamespace(run=run, dataset=dataset, **own)
        table = pd.DataFrame(rows, columns=["id", "label_score", *SUSPECT])
        failed = pd.DataFrame(failed).astype({"cause": object})
        return Analysis(evaluation, tmp_path, failed, None, table, None, None)

    return made


def test_verdicts_go_before_suspicions(analysis, dataset):
    verdicts = dict.fromkeys(["t0", "x0", "gone"], "label wrong") | dict.fromkeys(["t1", "x1"], "ignore")
    verdicts |= {"0042": "model wrong", "x2": "ambiguous"}
    shift = [0.95, True, "shifted mask", "", "", "it fits moved by +8 px"]
    scores = {"0042": [0.99, True], "x2": [0.98, True], "t3": shift, "v0": [0.97, False]}
    scores["x3"] = [0.9, True, "swapped class", "car", "truck"]
    found = propose_actions(analysis(["unexplained"] * 2, verdicts=verdicts, suspects=scores))
    assert [entry.id for entry in found.exclude] == ["t0", "t1"]  # nothing that no person has judged
    reasons = {entry.id: entry.reason for entry in found.relabel}
    assert list(reasons) == ["t0", "x0", "x1", "t3", "x3"]
    assert reasons["x0"] == "test: stays in the scores; verdict: label wrong"
    assert reasons["t3"] == "label suspected: shifted mask, it fits moved by +8 px; probability 0.95"
    assert reasons["x3"].endswith("swapped class (labelled car, probably truck); probability 0.90")
    assert found.exclude[0].reason == "until relabelled; verdict: label wrong"
    assert found.exclude[1].reason == "verdict: ignore"
    actions.check(found, dataset)


def test_causes_become_augmentation_and_weights(analysis):
    causes = ["degraded image"] * 4 + ["rare class"] * 2 + ["small objects"] * 2 + ["unexplained"]
    found = propose_actions(analysis(causes, ["blur", "blur", "dark", "dark", "", "", "", "", ""]))
    wanted = {"blur": 0.3, "blur_radius": 3, "darkness": 0.3, "scale_max": 2.0}
    assert found.changes == wanted | {"class_weights": "sqrt_inverse"}
    told = "2 of the 9 failures whose labels are not in doubt: "
    assert found.augment[0].reason == told + "degraded image, blur"
    assert found.class_weights.reason == told + "rare class"
    assert found.exclude == found.relabel == []
    has = analysis(causes, ["blur"] * 9, blur=0.5, darkness=0.3, class_weights="median_frequency")
    assert set(propose_actions(has).changes) == {"blur_radius", "scale_max"}


def test_a_change_of_training_needs_support_and_confidence(analysis):
    two = (["degraded image"] * 2, ["blur"] * 2)
    assert propose_actions(analysis()) == Actions()
    assert propose_actions(analysis(["degraded image", "unexplained"], ["blur", ""])) == Actions()
    assert propose_actions(analysis(two[0] + ["unexplained"] * 30, two[1] + [""] * 30)) == Actions()
    assert propose_actions(analysis(*two, confidence=0.6)) == Actions()
    said = analysis(*two, confidence=0.6, verdicts={"x0": "model wrong", "x1": "model wrong"})
    assert propose_actions(said).changes == {"blur": 0.3, "blur_radius": 3}
    assert propose_actions(analysis(*two, verdicts={"x0": "label wrong"})).changes == {}


def test_actions_are_written(analysis):
    wanted = analysis(["small objects"] * 2, verdicts={"t1": "label wrong"})
    path, text = write_actions(wanted)
    assert (path.name, path.read_text()) == ("actions.yaml", text)
    assert actions.read(path) == propose_actions(wanted)
