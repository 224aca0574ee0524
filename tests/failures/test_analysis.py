"""A whole analysis of a tiny run: what it writes, what it says, and that it is what the model says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from seglib import actions, failures
from seglib.data import load_dataset, read_pair, read_stored
from seglib.evaluate import evaluate_predictions, evaluate_run
from seglib.failures.analyse import observe
from seglib.failures.label_errors import LabelCheck
from seglib.failures.novelty import load_scorer
from seglib.params import Evaluate
from seglib.train.model import load_checkpoint

pytestmark = pytest.mark.slow


def analysed(run, threshold: float = 2.0) -> failures.Analysis:
    """Every image fails at a threshold above 1."""
    evaluation = evaluate_run(Evaluate(run="tiny", split="test"))
    return failures.analyse(evaluation, failures.find_failures(evaluation, threshold))


def test_it_writes_what_it_says(run):
    found = analysed(run)
    folder, ids = run.failures("test"), set(found.evaluation.per_image["id"])
    for kind in ("images", "masks", "predictions", "overlays", "confidences"):
        assert {path.stem for path in (folder / kind).glob("*.png")} == ids, kind
    table = pd.read_csv(folder / "failures.csv", dtype={"id": str}, keep_default_na=False)
    assert table["id"].tolist() == found.failures["id"].tolist()
    assert table["nearest"].map(json.loads).tolist() == found.failures["nearest"].tolist()
    assert set(table["cause"]) <= set(failures.CAUSES)
    records = json.loads((folder / "failures.json").read_text())
    assert [record["nearest"] for record in records] == found.failures["nearest"].tolist()
    assert list(records[0]) == list(table.columns)
    suspects = pd.read_csv(folder / "suspects.csv", dtype={"id": str}, keep_default_na=False)
    assert set(suspects["id"]) == ids
    assert suspects["label_score"].is_monotonic_decreasing
    for row in suspects.itertuples():
        region = failures.suspect_region(found.evaluation, row.id)
        assert (0 if region is None else region.sum()) == row.pixels
    none = analysed(run, threshold=-1.0)  # leaves nothing of the first
    assert not (folder / "confidences").exists()
    assert none.failures.columns.equals(found.failures.columns)
    assert (len(none.failures), len(none.suspects)) == (0, 4)
    assert failures.propose_actions(none).augment == []


def test_where_the_image_is_degraded_no_mask_is_named(run, monkeypatch):
    told, lost = iter([("blur", 9.0, "blur: 0.1 of 0.5.")]), []
    monkeypatch.setattr("seglib.checks.degradation", lambda *_: next(told, ("", 0.0, "")))
    judge = LabelCheck.judge
    monkeypatch.setattr(LabelCheck, "judge", lambda self, where: lost.append(where) or judge(self, where))
    found = analysed(run)
    np.testing.assert_array_equal(lost[0], found.images["degradation"] == "blur")
    assert lost[0].sum() == 1


def test_a_copy_of_a_training_image_is_nearest_to_it(run, trained_root):
    data = trained_root / "data" / "tiny"
    for kind in ("images", "masks"):
        (data / "test" / kind / "0042.png").write_bytes((data / "train" / kind / "t03.png").read_bytes())
    found = analysed(run)
    row = found.failures.set_index("id").loc["0042"]
    assert (row["nearest"][0], row["novelty"]) == ("t03", 0)
    images, titles = failures.beside_nearest(found, found.failures[found.failures["id"] == "0042"])
    assert titles[:2] == ["0042: novelty 0%", "train: t03"]
    np.testing.assert_array_equal(images[0], images[1])


def test_predictions_of_another_tool(run):
    evaluate_run(Evaluate(run="tiny", split="test"))
    masks = run.evaluation("test") / "predictions"
    evaluation = evaluate_predictions(masks, Evaluate(run="other", split="test", dataset="data/tiny"))
    found = failures.analyse(evaluation, failures.find_failures(evaluation, 2.0).iloc[:2])
    assert (len(found.failures), found.suspects.empty, found.training) == (2, True, None)
    assert not (found.folder / "confidences").exists()
    assert json.loads((found.folder / "failures.json").read_text())[0]["novelty"] is None
    source = evaluation.dataset.root / "test"
    originals = {"images": source / "images", "masks": source / "masks", "predictions": masks}
    for kind, original in originals.items():
        assert {path.stem for path in (found.folder / kind).iterdir()} == set(found.failures["id"])
        for path in (found.folder / kind).iterdir():  # of exactly the failures
            np.testing.assert_array_equal(read_stored(path), read_stored(original / path.name))
    assert failures.beside_nearest(found, found.failures) == ([], [])
    means = failures.sequence_means(found)
    assert means[["sequence", "images", "failures"]].to_numpy().tolist() == [["", 4, 2]]
    assert means["miou"].item() == pytest.approx(evaluation.per_image["miou"].mean())
    assert failures.warnings_of(found).count("0 failed and 0 passed images") == 2


@pytest.mark.parametrize("how", [{}, {"flip_tta": True}, {"adapt_norm": 0.5}], ids=str)
def test_every_image_is_seen_as_it_was_scored(run, how):
    evaluation = evaluate_run(Evaluate(run="tiny", split="test", **how))
    data, model = evaluation.dataset, load_checkpoint(run.best_checkpoint)[0]
    seen = sorted(observe(evaluation, load_scorer(run)), key=lambda one: one.position)
    assert [one.id for one in seen] == evaluation.per_image["id"].tolist()
    folder = failures.analyse(evaluation, failures.find_failures(evaluation, 2.0)).folder
    for one, row in zip(seen, data.split("test").itertuples(), strict=True):
        image, truth = read_pair(data, row)
        np.testing.assert_array_equal(one.image, image)
        np.testing.assert_array_equal(one.truth, truth)
        np.testing.assert_array_equal(one.probabilities.argmax(0), one.pred)
        np.testing.assert_allclose(one.probabilities.sum(0), 1, atol=1e-5)
        with Image.open(folder / "confidences" / f"{one.id}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), np.round(255 * one.probabilities.max(0)))
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            np.testing.assert_allclose(one.features, model.features(batch)[0].numpy(), atol=1e-4)


def test_training_images_are_those_that_the_run_was_trained_on(run):
    every = analysed(run).training
    assert every.samples["id"].tolist() == load_dataset("data/tiny").split("train")["id"].tolist()
    assert every.features.shape == (6, load_checkpoint(run.best_checkpoint)[0].net.encoder.out_channels[-1])
    actions.write(run.path / "actions.yaml", actions.Actions(exclude=[every.samples["id"][2]]))
    found = analysed(run).training
    assert found.samples["id"].tolist() == every.samples["id"].drop(2).tolist()
    np.testing.assert_allclose(found.features, np.delete(every.features, 2, axis=0), atol=1e-5)
    assert found.pixels.sum() < every.pixels.sum()
