"""Looking again: the same predictions as 03's, probabilities and features against direct calls of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seglib import actions
from seglib.actions import Actions
from seglib.data.dataset import read_pair
from seglib.evaluate.predict import evaluate_predictions, evaluate_run
from seglib.evaluate.predictions import read_ids, run_dataset
from seglib.failures import evidence
from seglib.params import Evaluate
from seglib.runs import Run
from seglib.train.model import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def run(trained_root) -> Run:
    return Run.open("tiny")


def brightness(image: np.ndarray) -> dict[str, float]:
    return {"brightness": float(image.mean()), "rows": float(image.shape[0])}


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_seen_as_it_was_scored(run, flip):
    evaluation = evaluate_run(run, Evaluate(run="tiny", split="test", flip_tta=flip))
    data, model = run_dataset(run), load_checkpoint(run.best_checkpoint)[0]
    seen = sorted(evidence.look_again(run, evaluation))
    assert [one.id for one in seen] == evaluation.per_image["id"].tolist()
    for one, row in zip(seen, data.split("test").itertuples(), strict=True):
        image, truth = read_pair(data, row)
        np.testing.assert_array_equal(one.image, image)
        np.testing.assert_array_equal(one.truth, truth)
        np.testing.assert_array_equal(
            one.pred, read_ids(run.evaluation("test") / "predictions" / f"{one.id}.png")
        )
        np.testing.assert_array_equal(one.probabilities.argmax(0), one.pred)
        np.testing.assert_allclose(one.probabilities.sum(0), 1, atol=1e-5)
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            np.testing.assert_allclose(one.features, model.features(batch)[0].numpy(), atol=1e-4)


def test_predictions_of_another_tool_have_no_probabilities(run, trained_root):
    evaluate_run(run, Evaluate(run="tiny", split="test"))
    folder = run.evaluation("test") / "predictions"
    external = evaluate_predictions("other", folder, "data/tiny", Evaluate(run="other", split="test"))
    seen = sorted(evidence.look_again(Run.open("other"), external))
    assert len(seen) == 4
    assert all(one.probabilities is None and one.features is None for one in seen)
    np.testing.assert_array_equal(seen[0].pred, read_ids(folder / f"{seen[0].id}.png"))


def test_training_images_are_looked_at_once(run):
    looked = []

    def measure(image):
        looked.append(image.shape)
        return brightness(image)

    first = evidence.training_images(run, measure)
    data = run_dataset(run)
    assert first.samples["id"].tolist() == data.split("train")["id"].tolist()
    images = [read_pair(data, row)[0] for row in data.split("train").itertuples()]
    np.testing.assert_allclose(first.qualities["brightness"], [image.mean() for image in images])
    assert first.features.shape == (6, load_checkpoint(run.best_checkpoint)[0].net.encoder.out_channels[-1])
    again = evidence.training_images(run, measure)
    assert len(looked) == 6, "the second time everything comes from the run folder"
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.qualities, first.qualities)


def test_training_images_that_changed_are_looked_at_anew(run, trained_root):
    first = evidence.training_images(run, brightness)
    path = trained_root / "data" / "tiny" / "train" / "images" / "t00.png"
    path.write_bytes((path.parent / "t01.png").read_bytes())
    again = evidence.training_images(run, brightness)
    np.testing.assert_allclose(again.features[0], first.features[1], atol=1e-5)
    assert not np.allclose(first.features[0], first.features[1])


def test_images_that_a_run_left_out_are_none_of_its_training_images(run):
    every = evidence.training_images(run, brightness)
    actions.write(run.path / "actions.yaml", Actions(exclude=[every.samples["id"][2]]))
    found = evidence.training_images(run, brightness)
    assert found.samples["id"].tolist() == every.samples["id"].drop(2).tolist()
    np.testing.assert_allclose(found.features, np.delete(every.features, 2, axis=0), atol=1e-5)
    assert found.pixels.sum() < every.pixels.sum()


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("Unet", "resnet18"),
        ("Segformer", "mit_b0"),
        ("DPT", "tu-test_vit"),
        ("Unet", "tu-mobilenetv3_small_050"),
    ],
)
def test_features_of_every_kind_of_encoder(architecture, encoder):
    from seglib.data.classes import ClassMap
    from seglib.train.model import ModelSpec, build

    model = build(ModelSpec(architecture, encoder, ClassMap(("a", "b")))).eval()
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.inference_mode():
        features = model.features(images)
    assert features.shape[0] == 2
    assert features.ndim == 2
    assert features.isfinite().all()
