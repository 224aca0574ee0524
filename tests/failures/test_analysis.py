"""A whole analysis of a tiny run: what it writes, what it says, and that it says the same as its parts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import actions
from seglib.evaluate.predict import evaluate_predictions, evaluate_run
from seglib.failures import analyse as analysis
from seglib.failures import causes, evidence
from seglib.failures.error_types import KINDS
from seglib.failures.find import find_failures
from seglib.params import Evaluate
from seglib.runs import Run, write_text

pytestmark = pytest.mark.slow


@pytest.fixture
def run(trained_root) -> Run:
    return Run.open("tiny")


def analysed(run: Run, split: str = "test", threshold: float = 2.0):
    """Every image fails at a threshold above 1."""
    evaluation = evaluate_run(run, Evaluate(run="tiny", split=split))
    return evaluation, analysis.analyse(run, evaluation, find_failures(evaluation, threshold))


def test_it_writes_what_it_says(run):
    evaluation, found = analysed(run)
    folder = run.failures("test")
    ids = set(evaluation.per_image["id"])
    for kind in ("images", "masks", "predictions", "overlays", "confidences"):
        assert {path.stem for path in (folder / kind).glob("*.png")} == ids, kind
    table = pd.read_csv(folder / "failures.csv", dtype={"id": str}, keep_default_na=False)
    assert table["id"].tolist() == found.failures["id"].tolist()
    assert table["nearest"].map(json.loads).tolist() == found.failures["nearest"].tolist()
    assert set(table["cause"]) <= set(causes.CAUSES)
    suspects = pd.read_csv(folder / "suspects.csv", dtype={"id": str}, keep_default_na=False)
    assert set(suspects["id"]) == ids
    assert suspects["label_score"].is_monotonic_decreasing
    thumbnails = {path.stem for path in (folder / "nearest").glob("*.png")}
    assert thumbnails == {name for names in found.failures["nearest"] for name in names}
    lost = found.failures[[f"lost_{kind}" for kind in KINDS]].sum(axis=1)
    np.testing.assert_allclose(lost, 1 - found.failures["miou"], atol=1e-9)


def test_confidences_are_those_of_the_model(run):
    evaluation, found = analysed(run)
    for seen in evidence.look_again(run, evaluation):
        with Image.open(found.folder / "confidences" / f"{seen.id}.png") as picture:
            kept = np.asarray(picture)
        np.testing.assert_array_equal(kept, np.round(255 * seen.probabilities.max(0)))


def test_a_copy_of_a_training_image_is_nearest_to_it(run, trained_root):
    data = trained_root / "data" / "tiny"
    for kind in ("images", "masks"):
        (data / "test" / kind / "0042.png").write_bytes((data / "train" / kind / "t03.png").read_bytes())
    _, found = analysed(run)
    row = found.failures.set_index("id").loc["0042"]
    assert row["nearest"][0] == "t03"
    assert row["novelty"] == 0


def test_a_training_image_is_not_its_own_neighbour(run):
    _, found = analysed(run, "train")
    assert all(row.id not in row.nearest and len(row.nearest) == 5 for row in found.failures.itertuples())
    assert found.images["novelty"].isna().all()


def test_predictions_of_another_tool(run):
    evaluate_run(run, Evaluate(run="tiny", split="test"))
    masks = run.evaluation("test") / "predictions"
    evaluation = evaluate_predictions("other", masks, "data/tiny", Evaluate(run="other", split="test"))
    other = Run.open("other")
    found = analysis.analyse(other, evaluation, find_failures(evaluation, 2.0))
    assert len(found.failures) == 4
    assert found.suspects.empty
    assert found.failures["label_score"].isna().all()
    assert not (found.folder / "confidences").exists()
    assert analysis.beside_nearest(other, found.failures) == ([], [])
    assert len(analysis.slices_of(other, evaluation, found)) >= 0
    assert {warning.images for warning in analysis.warnings_of(other, evaluation, found).values()} == {0}


def test_no_failure_at_all(run):
    _, found = analysed(run, threshold=-1.0)
    assert found.failures.empty
    assert {"cause", "evidence", "nearest"} <= set(found.failures)
    assert len(found.suspects) == 4
    assert causes.summary(found.failures).empty
    assert analysis.propose(run, found).exclude == []


def test_verdicts_become_actions(run):
    _, found = analysed(run, "train")
    write_text(found.folder / "verdicts.csv", "id,verdict,note,time\nt01,label wrong,,\nt02,ignore,,\n")
    asked = analysis.propose(run, found)
    assert {"t01", "t02"} <= {sample.id for sample in asked.exclude}
    path = actions.write(found.folder / "actions.yaml", asked)
    assert actions.read(path) == asked


def test_a_second_analysis_leaves_nothing_of_the_first(run):
    analysed(run)
    _, found = analysed(run, threshold=-1.0)
    assert not any((found.folder / kind).exists() for kind in ("confidences", "nearest"))
