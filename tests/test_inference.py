"""`predict` against simpler ways to the same figures, and `evaluate_run` against torchmetrics on its own saved masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from seglib.classes import ClassMap
from seglib.dataset import DatasetError
from seglib.hardware import make_plan
from seglib.inference import evaluate_run, open_evaluation, predict, predicted_pairs, read_ids, save_ids
from seglib.models import ModelSpec, Segmenter, load_checkpoint, save_checkpoint
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json

CLASSES = ClassMap(("sky", "road", "car"))
PLAN = make_plan("cpu", "fp32")
TEST_IDS = ["0041", "0042", "1e5", "null"]


class Pixelwise(nn.Module):
    """A network without a neighbourhood: whatever is cut, mirrored or padded, a pixel's logits stay the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Identity()
        self.head = nn.Conv2d(3, 3, 1)
        self.sides: list[int] = []

    def forward(self, images):
        self.sides.append(max(images.shape[-2:]))
        return self.head(images)


@pytest.fixture
def pixelwise() -> Segmenter:
    return Segmenter(Pixelwise(), ModelSpec("Unet", "resnet18", CLASSES)).eval()


def images_of(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


def test_flipping_leaves_a_symmetric_model_alone(pixelwise):
    images = images_of(33, 40)
    plain = predict(pixelwise, images, (33, 40), PLAN).log_softmax(1)
    torch.testing.assert_close(predict(pixelwise, images, (33, 40), PLAN, flip=True), plain, rtol=1e-5, atol=1e-5)


def test_flipping_averages_the_two_probabilities(trained_root):
    model, _ = load_checkpoint(Run.open("tiny").best_checkpoint)
    images = images_of(32, 64)
    one = predict(model, images, (32, 64), PLAN).softmax(1)
    other = predict(model, images.flip(-1), (32, 64), PLAN).softmax(1).flip(-1)
    assert (one - other).abs().max() > 1e-3
    both = predict(model, images, (32, 64), PLAN, flip=True).exp()
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 65), (64, 64)])
@pytest.mark.parametrize("tile", [1, 16, 33, 100])
def test_tiles_blend_to_the_whole(pixelwise, size, tile):
    if tile == 1 and max(size) > 33:
        pytest.skip("thousands of tiles")
    images = images_of(*size)
    whole = predict(pixelwise, images, size, PLAN)
    pixelwise.net.sides.clear()
    tiled = predict(pixelwise, images, size, PLAN, tile=tile)
    assert max(pixelwise.net.sides) <= -(-tile // 32) * 32
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-4)
    resized = predict(pixelwise, images, (50, 20), PLAN, tile=tile)
    assert resized.shape == (2, 3, 50, 20)
    torch.testing.assert_close(resized, predict(pixelwise, images, (50, 20), PLAN), rtol=1e-3, atol=1e-3)


def check_against_torchmetrics(run: Run, evaluation) -> None:
    """Every headline score again, from the PNG files alone."""
    iou = MulticlassJaccardIndex(3, ignore_index=255)
    accuracy = MulticlassAccuracy(3, average="micro", ignore_index=255)
    root = Run.folder(run.name).parents[2] / "data" / "tiny"
    for row in evaluation.per_image.itertuples():
        truth = np.array(Image.open(root / row.mask))
        with Image.open(run.evaluation("test") / "predictions" / f"{row.id}.png") as picture:
            assert picture.mode == "P"
            pred = np.array(picture)
        assert pred.shape == truth.shape == (row.height, row.width)
        assert pred.max() < 3
        assert row.scored_pixels == (truth != 255).sum()
        scored = truth != 255
        if scored.any():
            assert row.pixel_accuracy == pytest.approx((truth == pred)[scored].mean(), abs=1e-9)
            there = [c for c in range(3) if (truth == c).any()]
            ious = [((truth == c) & (pred == c)).sum() / (((truth == c) | (pred == c)) & scored).sum() for c in there]
            assert row.miou == pytest.approx(np.mean(ious), abs=1e-9)
            assert row.worst_class == CLASSES.names[there[int(np.argmin(ious))]]
        iou.update(torch.tensor(pred)[None].long(), torch.tensor(truth)[None].long())
        accuracy.update(torch.tensor(pred)[None].long(), torch.tensor(truth)[None].long())
    assert evaluation.scores["mean_iou"] == pytest.approx(iou.compute().item(), abs=1e-6)
    assert evaluation.scores["pixel_accuracy"] == pytest.approx(accuracy.compute().item(), abs=1e-6)
    assert evaluation.scores["mean_iou_image"] == pytest.approx(evaluation.per_image["miou"].mean(), abs=1e-9)


def test_an_evaluation_holds_what_it_promises(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    folder = run.evaluation("test")
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json", "per_image.csv", "per_class.csv", "per_image_class_iou.csv", "confusions.npz", "predictions"
    }  # fmt: skip
    assert list(evaluation.per_image.columns) == [
        "id", "image", "mask", "group", "height", "width", "miou", "pixel_accuracy", "worst_class", "scored_pixels"
    ]  # fmt: skip
    assert list(evaluation.per_class.columns) == [
        "class_id", "class", "iou", "precision", "recall", "f1", "images", "pixels", "pixel_share", "miou_c",
        "absent_false_positives",
    ]  # fmt: skip
    assert list(evaluation.per_image_class_iou.columns) == ["id", *CLASSES.names]
    # Names that look like numbers or gaps are still names.
    assert evaluation.per_image["id"].tolist() == evaluation.per_image_class_iou["id"].tolist() == TEST_IDS
    assert sorted(p.stem for p in (folder / "predictions").iterdir()) == TEST_IDS
    with np.load(folder / "confusions.npz") as stored:
        assert stored["ids"].tolist() == TEST_IDS
        assert stored["classes"].tolist() == list(CLASSES.names)
        assert stored["confusions"].shape == (4, 3, 3)
        np.testing.assert_array_equal(stored["confusions"], evaluation.confusions)
    assert evaluation.scores == read_json(folder / "metrics.json")
    assert evaluation.scores["images"] == 4
    assert evaluation.scores["images_unscored"] == []
    assert evaluation.classes == CLASSES
    check_against_torchmetrics(run, evaluation)
    for (name, truth, pred), confusion in zip(predicted_pairs(run, "test"), evaluation.confusions, strict=True):
        counts = [[((truth == t) & (pred == p)).sum() for p in range(3)] for t in range(3)]
        np.testing.assert_array_equal(confusion, counts, err_msg=name)


def test_shrunk_images_are_scored_at_original_resolution(trained_root):
    run = Run.open("tiny")
    model, facts = load_checkpoint(run.best_checkpoint)
    model.spec = replace(model.spec, long_side=32)
    save_checkpoint(run.best_checkpoint, model, **facts)
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert (evaluation.per_image[["height", "width"]].to_numpy() == (40, 56)).all()
    check_against_torchmetrics(run, evaluation)


def test_images_of_different_sizes_and_without_a_label(trained_root):
    folder = trained_root / "data" / "tiny" / "test"
    for kind in ("images", "masks"):
        path = folder / kind / "0042.png"
        Image.open(path).crop((0, 0, 33, 21)).save(path)
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(folder / "masks" / "null.png")
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu", flip_tta=True, tile=32, batch_size=1))
    images = evaluation.per_image.set_index("id")
    assert images.loc["0042", ["height", "width"]].tolist() == [21, 33]
    assert evaluation.scores["images_unscored"] == ["null"]
    assert np.isnan(images.loc["null", "miou"])
    assert np.isnan(images.loc["null", "pixel_accuracy"])
    assert images.loc["null", "worst_class"] == ""
    assert images.loc["null", "scored_pixels"] == 0
    assert evaluation.per_image_class_iou.iloc[3, 1:].isna().all()
    check_against_torchmetrics(run, evaluation)


def test_a_second_evaluation_leaves_nothing_of_the_first(trained_root):
    run = Run.open("tiny")
    stale = run.evaluation("test") / "predictions" / "gone.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert not stale.exists()


def test_an_interrupted_evaluation_is_not_opened_as_a_whole_one(trained_root, monkeypatch):
    run = Run.open("tiny")
    evaluate_run(run, Evaluate(run="tiny", device="cpu"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seglib.inference.save_ids", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    with pytest.raises(FileNotFoundError, match="no evaluation"):
        open_evaluation(run, "test")


def test_a_run_trained_in_fp16_is_evaluated_on_a_processor(trained_root):
    run = Run.open("tiny")
    write_json(run.params, read_json(run.params) | {"precision": "fp16"})
    assert evaluate_run(run, Evaluate(run="tiny", device="cpu")).scores["precision"] in ("fp32", "bf16")


def test_class_names_that_look_like_gaps_or_numbers_survive(trained_root):
    recipe = trained_root / "data" / "tiny" / "dataset.yaml"
    names = ("None", "7", "NA")
    recipe.write_text(recipe.read_text().replace("[sky, road, car]", "['None', '7', 'NA']"))
    run = Run.open("tiny")
    model, facts = load_checkpoint(run.best_checkpoint)
    model.spec = replace(model.spec, classes=ClassMap(names))
    save_checkpoint(run.best_checkpoint, model, **facts)
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert tuple(evaluation.per_class["class"]) == names
    assert set(evaluation.per_image["worst_class"]) <= set(names)
    assert pd.api.types.is_float_dtype(evaluation.per_image_class_iou["NA"])


def test_missing_evaluations_and_splits_are_named(trained_root):
    run = Run.open("tiny")
    with pytest.raises(FileNotFoundError, match=r"'tiny' has no evaluation of split 'test' \(evaluated: none\)"):
        open_evaluation(run, "test")
    evaluate_run(run, Evaluate(run="tiny", split="val", device="cpu"))
    with pytest.raises(FileNotFoundError, match=r"\(evaluated: val\)\. Run 03_evaluate with run='tiny', split='test'"):
        open_evaluation(run, "test")
    with pytest.raises(DatasetError, match="no split 'night'"):
        evaluate_run(run, Evaluate(run="tiny", split="night", device="cpu"))


def test_saved_ids_come_back(tmp_path):
    ids = np.array([[0, 1, 2], [255, 254, 0]], np.uint8)
    save_ids(tmp_path / "ids.png", ids, CLASSES)
    np.testing.assert_array_equal(read_ids(tmp_path / "ids.png"), ids)
    with Image.open(tmp_path / "ids.png") as picture:
        colors = np.array(picture.convert("RGB"))
    np.testing.assert_array_equal(colors, CLASSES.colorize(ids))
