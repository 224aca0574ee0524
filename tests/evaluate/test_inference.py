"""`predict` against simpler ways to the same figures, and `evaluate_run` against torchmetrics on its own saved masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex

from seglib.data.classes import ClassMap
from seglib.data.dataset import DatasetError
from seglib.evaluate.predict import (
    evaluate_predictions,
    evaluate_run,
    open_evaluation,
    predict,
    predicted_pairs,
    read_ids,
    save_ids,
    scoring_plan,
)
from seglib.metrics.boundary import boundary_counts, boundary_iou
from seglib.metrics.region_scores import region_counts, region_table
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json
from seglib.train.device import make_plan
from seglib.train.model import ModelSpec, Segmenter, load_checkpoint, save_checkpoint

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
    torch.testing.assert_close(
        predict(pixelwise, images, (33, 40), PLAN, flip=True), plain, rtol=1e-5, atol=1e-5
    )


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


class Local(nn.Module):
    """A network that divides the image by 8, as encoders do, and sees some 30 pixels around."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Identity()
        layers = [
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
        ]
        self.layers = nn.Sequential(
            *layers, nn.ReLU(), nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=8, mode="bilinear")
        )

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize(
    ("size", "tile"),
    [((300, 411), 192), ((200, 192), 192), ((97, 500), 224), ((640, 200), 256), ((90, 1500), 640)],
)
def test_tiles_are_exact_where_the_model_sees_no_further(size, tile):
    model = Segmenter(Local(), ModelSpec("Unet", "resnet18", CLASSES)).eval()
    images = images_of(*size)
    whole, tiled = predict(model, images, size, PLAN), predict(model, images, size, PLAN, tile=tile)
    assert (tiled - whole).abs().max() < 1e-3
    assert whole.std() > 1e-2


@pytest.mark.parametrize("tile", [0, 24])
def test_scales_leave_a_model_without_neighbourhood_nearly_alone(pixelwise, tile):
    ramp = torch.linspace(0, 250, 48).round().to(torch.uint8)
    images = ramp.view(1, 1, 1, -1).expand(2, 3, 40, -1)
    plain = predict(pixelwise, images, (40, 48), PLAN).softmax(1)
    scaled = predict(pixelwise, images, (40, 48), PLAN, flip=True, tile=tile, scales=(1.0, 0.5, 2.0)).softmax(
        1
    )
    torch.testing.assert_close(scaled, plain, rtol=0, atol=0.05)


def test_scales_average_probabilities(trained_root):
    model, _ = load_checkpoint(Run.open("tiny").best_checkpoint)
    images = images_of(32, 64)
    larger = torch.nn.functional.interpolate(
        images.float(), size=(48, 96), mode="bilinear", align_corners=False
    )
    parts = [predict(model, x, (32, 64), PLAN).softmax(1) for x in (images, larger)]
    both = predict(model, images, (32, 64), PLAN, scales=(1.0, 1.5)).exp()
    torch.testing.assert_close(both, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-5)


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
        assert row.valid_pixels == (truth != 255).sum()
        scored = truth != 255
        if scored.any():
            assert row.pixel_accuracy == pytest.approx((truth == pred)[scored].mean(), abs=1e-9)
            there = [c for c in range(3) if (truth == c).any()]
            ious = [
                ((truth == c) & (pred == c)).sum() / (((truth == c) | (pred == c)) & scored).sum()
                for c in there
            ]
            assert row.miou == pytest.approx(np.mean(ious), abs=1e-9)
            assert row.worst_class == CLASSES.names[there[int(np.argmin(ious))]]
        iou.update(torch.tensor(pred)[None].long(), torch.tensor(truth)[None].long())
        accuracy.update(torch.tensor(pred)[None].long(), torch.tensor(truth)[None].long())
    assert evaluation.scores["mean_iou"] == pytest.approx(iou.compute().item(), abs=1e-6)
    assert evaluation.scores["pixel_accuracy"] == pytest.approx(accuracy.compute().item(), abs=1e-6)
    assert evaluation.scores["mean_iou_image"] == pytest.approx(evaluation.per_image["miou"].mean(), abs=1e-9)


@pytest.mark.slow
def test_an_evaluation_holds_what_it_promises(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    folder = run.evaluation("test")
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json", "per_image.csv", "per_class.csv", "per_image_class_iou.csv", "confusions.npz", "calibration.csv",
        "region_sizes.csv", "data.json", "predictions",
    }  # fmt: skip
    assert list(evaluation.per_image.columns) == [
        "id", "image", "mask", "group", "height", "width", "miou", "pixel_accuracy", "worst_class", "valid_pixels",
        "boundary_iou", "confidence",
    ]  # fmt: skip
    assert list(evaluation.per_class.columns) == [
        "class_id", "class", "iou", "precision", "recall", "f1", "images", "pixels", "pixel_share", "miou_c",
        "absent_false_positives", "boundary_iou",
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
    for (name, truth, pred), confusion in zip(
        predicted_pairs(run, "test"), evaluation.confusions, strict=True
    ):
        counts = [[((truth == t) & (pred == p)).sum() for p in range(3)] for t in range(3)]
        np.testing.assert_array_equal(confusion, counts, err_msg=name)


@pytest.mark.slow
def test_the_streamed_scores_are_those_of_the_files(trained_root):
    run = Run.open("tiny")
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu", boundary_ratio=0.05, batch_size=1))
    counts = np.stack(
        [boundary_counts(truth, pred, 3, 0.05) for _, truth, pred in predicted_pairs(run, "test")]
    )
    scores = evaluation.scores
    np.testing.assert_allclose(evaluation.per_class["boundary_iou"], boundary_iou(counts.sum(0)))
    assert scores["mean_boundary_iou"] == pytest.approx(boundary_iou(counts.sum(0)).mean())
    np.testing.assert_allclose(evaluation.per_image["boundary_iou"], boundary_iou(counts).mean(1))
    assert scores["boundary"] == {
        "ratio": 0.05, "width": "max(1, round(ratio x diagonal)) pixels", "narrowest": 3, "widest": 3
    }  # fmt: skip
    model = PLAN.place(load_checkpoint(run.best_checkpoint)[0])
    reference = MulticlassCalibrationError(3, n_bins=10, ignore_index=255)
    for (_, truth, pred), row in zip(
        predicted_pairs(run, "test"), evaluation.per_image.itertuples(), strict=True
    ):
        image = torch.from_numpy(np.array(Image.open(trained_root / "data" / "tiny" / row.image))).permute(
            2, 0, 1
        )
        probability = predict(model, image[None], truth.shape, PLAN).softmax(1)
        np.testing.assert_array_equal(probability.argmax(1)[0], pred)
        reference.update(probability, torch.from_numpy(truth[None].astype(np.int64)))
        confidence = probability.amax(1)[0].numpy()[truth != 255].mean()
        assert row.confidence == pytest.approx(confidence, abs=1e-5)
    assert scores["ece"] == pytest.approx(reference.compute().item(), abs=1e-5)
    assert evaluation.calibration["pixels"].sum() == evaluation.confusions.sum()
    assert scores["latency_ms"] > 0
    regions = sum(region_counts(truth, pred, 3) for _, truth, pred in predicted_pairs(run, "test"))
    pd.testing.assert_frame_equal(evaluation.region_sizes, region_table(regions, CLASSES.names))


@pytest.mark.slow
def test_without_boundaries(trained_root):
    evaluation = evaluate_run(Run.open("tiny"), Evaluate(run="tiny", device="cpu", boundary_ratio=0))
    assert evaluation.scores["mean_boundary_iou"] is None
    assert evaluation.scores["boundary"]["width"] == "off"
    assert evaluation.per_class["boundary_iou"].isna().all()


@pytest.mark.slow
def test_shrunk_images_are_scored_at_original_resolution(trained_root):
    run = Run.open("tiny")
    model, facts = load_checkpoint(run.best_checkpoint)
    model.spec = replace(model.spec, long_side=32)
    save_checkpoint(run.best_checkpoint, model, **facts)
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert (evaluation.per_image[["height", "width"]].to_numpy() == (40, 56)).all()
    check_against_torchmetrics(run, evaluation)


@pytest.mark.slow
def test_images_of_different_sizes_and_without_a_label(trained_root):
    folder = trained_root / "data" / "tiny" / "test"
    for kind in ("images", "masks"):
        path = folder / kind / "0042.png"
        Image.open(path).crop((0, 0, 33, 21)).save(path)
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(folder / "masks" / "null.png")
    run = Run.open("tiny")
    evaluation = evaluate_run(
        run, Evaluate(run="tiny", device="cpu", flip_tta=True, scale_tta="0.75", tile=32, batch_size=1)
    )
    images = evaluation.per_image.set_index("id")
    assert images.loc["0042", ["height", "width"]].tolist() == [21, 33]
    assert evaluation.scores["images_unscored"] == ["null"]
    assert np.isnan(images.loc["null", "miou"])
    assert np.isnan(images.loc["null", "pixel_accuracy"])
    assert images.loc["null", "worst_class"] == ""
    assert images.loc["null", "valid_pixels"] == 0
    assert evaluation.per_image_class_iou.iloc[3, 1:].isna().all()
    check_against_torchmetrics(run, evaluation)


@pytest.mark.slow
def test_a_second_evaluation_leaves_nothing_of_the_first(trained_root):
    run = Run.open("tiny")
    stale = run.evaluation("test") / "predictions" / "gone.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert not stale.exists()


@pytest.mark.slow
def test_an_interrupted_evaluation_is_none_and_leaves_an_earlier_one_whole(trained_root, monkeypatch):
    run = Run.open("tiny")
    evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    before = {path: path.read_bytes() for path in run.evaluation("test").rglob("*") if path.is_file()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seglib.evaluate.evaluation.save_ids", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert {path: path.read_bytes() for path in run.evaluation("test").rglob("*") if path.is_file()} == before
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, Evaluate(run="tiny", split="val", device="cpu"))
    with pytest.raises(FileNotFoundError, match=r"no evaluation of split 'val' \(evaluated: test\)"):
        open_evaluation(run, "val")


@pytest.mark.slow
def test_a_run_trained_in_fp16_is_evaluated_on_a_processor(trained_root):
    run = Run.open("tiny")
    write_json(run.params, read_json(run.params) | {"precision": "fp16"})
    assert evaluate_run(run, Evaluate(run="tiny", device="cpu")).scores["precision"] in ("fp32", "bf16")


@pytest.mark.slow
def test_class_names_that_look_like_gaps_or_numbers_survive(trained_root):
    config = trained_root / "data" / "tiny" / "dataset.yaml"
    names = ("None", "7", "NA")
    config.write_text(config.read_text().replace("[sky, road, car]", "['None', '7', 'NA']"))
    run = Run.open("tiny")
    model, facts = load_checkpoint(run.best_checkpoint)
    model.spec = replace(model.spec, classes=ClassMap(names))
    save_checkpoint(run.best_checkpoint, model, **facts)
    evaluation = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    assert tuple(evaluation.per_class["class"]) == names
    assert set(evaluation.per_image["worst_class"]) <= set(names)
    assert pd.api.types.is_float_dtype(evaluation.per_image_class_iou["NA"])


@pytest.mark.slow
def test_missing_evaluations_and_splits_are_named(trained_root):
    run = Run.open("tiny")
    with pytest.raises(
        FileNotFoundError, match=r"'tiny' has no evaluation of split 'test' \(evaluated: none\)"
    ):
        open_evaluation(run, "test")
    evaluate_run(run, Evaluate(run="tiny", split="val", device="cpu"))
    with pytest.raises(
        FileNotFoundError, match=r"\(evaluated: val\)\. Run 03_evaluate with run='tiny', split='test'"
    ):
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


# another tool's predictions


@pytest.fixture
def external(tiny_root):
    """A folder of predictions of the test split: the truth, with the sky taken for a car here and there."""
    folder = tiny_root / "theirs"
    folder.mkdir()
    for name in TEST_IDS:
        mask = np.array(Image.open(tiny_root / "data" / "tiny" / "test" / "masks" / f"{name}.png"))
        mask[mask == 255] = 1
        mask[:4] = np.where(mask[:4] == 0, 2, mask[:4])
        Image.fromarray(mask).save(folder / f"{name}.png")
    return folder


def test_predictions_of_another_tool_are_scored_alike(external):
    evaluation = evaluate_predictions("theirs", external, "data/tiny", Evaluate(run="theirs"))
    run = Run.open("theirs")
    assert run.external
    check_against_torchmetrics(run, evaluation)
    assert evaluation.scores["ece"] is None
    assert evaluation.calibration is None
    assert evaluation.per_image["confidence"].isna().all()
    assert 0 < evaluation.scores["mean_boundary_iou"] < 1
    assert evaluation.scores["predictions"] == read_json(run.params)["predictions"] == "theirs"
    assert evaluate_predictions("theirs", external, "data/tiny", Evaluate(run="theirs")).scores["images"] == 4
    with pytest.raises(DatasetError, match="is where the results go"):
        evaluate_predictions(
            "theirs", run.evaluation("test") / "predictions", "data/tiny", Evaluate(run="theirs")
        )
    assert len(list((run.evaluation("test") / "predictions").iterdir())) == 4


@pytest.mark.slow
def test_the_same_predictions_get_the_same_scores(trained_root):
    run = Run.open("tiny")
    own = evaluate_run(run, Evaluate(run="tiny", device="cpu"))
    folder = run.evaluation("test") / "predictions"
    theirs = evaluate_predictions("again", folder, trained_root / "data" / "tiny", Evaluate(run="again"))
    np.testing.assert_array_equal(theirs.confusions, own.confusions)
    same = [name for name in own.scores if name.startswith("mean_")]
    assert {name: theirs.scores[name] for name in same} == {name: own.scores[name] for name in same}
    with pytest.raises(FileExistsError, match="'tiny' exists and holds a trained model"):
        evaluate_predictions("tiny", folder, "data/tiny", Evaluate(run="tiny"))


def test_faults_of_predictions_are_named_and_counted(external):
    params = Evaluate(run="theirs")
    for name in ("0042", "1e5"):
        picture = Image.open(external / f"{name}.png")
        picture.crop((0, 0, 50, 40)).save(external / f"{name}.png")
    ids = np.array(Image.open(external / "null.png"))
    ids[0, :2] = 7, 9
    Image.fromarray(ids).save(external / "null.png")
    with pytest.raises(DatasetError) as error:
        evaluate_predictions("theirs", external, "data/tiny", params)
    told = str(error.value)
    assert told.startswith(
        "3 of 4 predictions cannot be scored: prediction '0042.png' is 50x40 (width x height)"
    )
    assert "the mask 56x40" in told
    assert "prediction 'null.png' holds ids {7, 9} on scored pixels; expected 0-2" in told
    with pytest.raises(FileNotFoundError, match="no evaluation"):
        open_evaluation(Run(Run.folder("theirs")), "test")
    Image.new("RGB", (56, 40)).save(external / "0041.png")
    with pytest.raises(DatasetError, match=r"4 of 4 .* '0041.png' is an RGB image; expected one channel"):
        evaluate_predictions("theirs", external, "data/tiny", params)
    (external / "0042.png").unlink()
    (external / "null.png").unlink()
    with pytest.raises(
        DatasetError, match=r"image '0042': expected theirs/0042.png. 2 of 4 images .* \(0042, null\)"
    ):
        evaluate_predictions("theirs", external, "data/tiny", params)
    with pytest.raises(DatasetError, match="no folder of predictions"):
        evaluate_predictions("theirs", external / "none", "data/tiny", params)


def test_a_run_is_scored_in_the_precision_it_was_trained_in(trained_root):
    run = Run.open("tiny")

    def trained_in(asked: str, planned: str | None) -> str:
        write_json(run.params, read_json(run.params) | {"precision": asked})
        write_json(run.path / "environment.json", {"plan": {"precision": planned}} if planned else {})
        return scoring_plan(run, "cpu").precision

    assert trained_in("auto", "fp32") == "fp32"  # what the trial chose, not what the processor could do
    assert trained_in("auto", "bf16") == "bf16"
    assert trained_in("bf16", "fp32") == "bf16"
    usual = make_plan("cpu").precision
    assert trained_in("tf32", "tf32") == trained_in("fp16", "fp16") == trained_in("auto", "tf32") == usual
    assert trained_in("auto", None) == usual
