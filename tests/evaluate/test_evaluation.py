"""Evaluations of a model and of another tool's predictions: files, scores against torchmetrics, damage and bad input."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused, save
from PIL import Image
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex

from seglib import evaluate, failures, metrics, train
from seglib.data import ClassMap, DatasetError
from seglib.evaluate import evaluate_predictions, evaluate_run, open_evaluation
from seglib.evaluate.predict import _check_numbering
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json

CLASSES = ClassMap(("sky", "road", "car"))
TEST_IDS = ["0041", "0042", "1e5", "null"]
FILES = {"metrics.json", "per_image.csv", "per_class.csv", "per_image_class_iou.csv", "confusions.npz"}
FILES |= {"calibration.csv", "region_sizes.csv", "data.json", "predictions", "baselines.csv"}
PER_IMAGE = "id image mask group height width miou pixel_accuracy worst_class valid_pixels boundary_iou"
PER_IMAGE += " confidence baseline_miou"
PER_CLASS = "class_id class iou precision recall f1 images pixels pixel_share miou_c absent_false_positives boundary_iou"


def check_against_torchmetrics(evaluation) -> None:
    """Compute the scores again from the PNG files alone."""
    iou = MulticlassJaccardIndex(3, ignore_index=255)
    accuracy = MulticlassAccuracy(3, average="micro", ignore_index=255)
    for row in evaluation.per_image.itertuples():
        truth = np.array(Image.open(evaluation.dataset.root / row.mask))
        with Image.open(evaluation.run.evaluation("test") / "predictions" / f"{row.id}.png") as picture:
            assert picture.mode == "P"
            pred = np.array(picture)
        assert pred.shape == truth.shape == (row.height, row.width)
        assert row.valid_pixels == (truth != 255).sum()
        there = [c for c in range(3) if (truth == c).any()]
        ious = [jaccard_score((truth == c)[truth != 255], (pred == c)[truth != 255]) for c in there]
        if there:
            assert row.miou == pytest.approx(np.mean(ious), abs=1e-9)
            assert row.worst_class == CLASSES.names[there[int(np.argmin(ious))]]
        pair = torch.tensor(pred)[None].long(), torch.tensor(truth)[None].long()
        iou.update(*pair)
        accuracy.update(*pair)
    assert evaluation.scores["mean_iou"] == pytest.approx(iou.compute().item(), abs=1e-6)
    assert evaluation.scores["pixel_accuracy"] == pytest.approx(accuracy.compute().item(), abs=1e-6)
    assert evaluation.scores["mean_iou_image"] == pytest.approx(evaluation.per_image["miou"].mean(), abs=1e-9)


@pytest.mark.slow
def test_an_evaluation_holds_what_it_promises(run):
    stale = run.evaluation("test") / "predictions" / "gone.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    evaluation = evaluate_run(Evaluate(run="tiny", device="cpu"))
    folder = run.evaluation("test")
    assert {p.name for p in folder.iterdir()} >= FILES
    assert " ".join(evaluation.per_image.columns) == PER_IMAGE
    assert " ".join(evaluation.per_class.columns) == PER_CLASS
    assert evaluation.per_image["id"].tolist() == evaluation.per_image_class_iou["id"].tolist() == TEST_IDS
    assert sorted(p.stem for p in (folder / "predictions").iterdir()) == TEST_IDS
    assert evaluation.scores == read_json(folder / "metrics.json")
    assert (evaluation.scores["images"], evaluation.scores["images_unscored"]) == (4, [])
    check_against_torchmetrics(evaluation)
    for name, confusion in zip(TEST_IDS, evaluation.confusions, strict=True):
        _, truth, pred = evaluate.read_layers(evaluation, name)
        counts = [[((truth == t) & (pred == p)).sum() for p in range(3)] for t in range(3)]
        np.testing.assert_array_equal(confusion, counts)
    assert evaluation.headline().loc["mean IoU", "test"] == evaluation.scores["mean_iou"]
    image, truth, pred = evaluate.read_layers(evaluation, "1e5")
    np.testing.assert_array_equal(image, Image.open(evaluation.dataset.root / "test/images/1e5.png"))
    refused("'t00' is no longer in split 'test'", evaluate.read_layers, evaluation, "t00")


@pytest.mark.slow
def test_the_streamed_scores_are_those_of_the_files(run):
    evaluation = evaluate_run(Evaluate(run="tiny", device="cpu", boundary_ratio=0.05, batch_size=1))
    pairs, scores = [evaluate.read_layers(evaluation, name)[1:] for name in TEST_IDS], evaluation.scores
    with pytest.raises(FileExistsError, match="'tiny' exists and holds a trained model"):
        score(run.evaluation("test") / "predictions", "tiny")
    counts = sum(metrics.boundary_counts(truth, pred, 3, 0.05) for truth, pred in pairs)
    np.testing.assert_allclose(evaluation.per_class["boundary_iou"], metrics.boundary_iou(counts))
    assert (scores["boundary"]["narrowest"], scores["boundary"]["widest"]) == (3, 3)
    plan = train.make_plan("cpu", "fp32")
    model = plan.place(train.load_checkpoint(run.best_checkpoint)[0])
    reference = MulticlassCalibrationError(3, n_bins=10, ignore_index=255)
    for (truth, pred), row in zip(pairs, evaluation.per_image.itertuples(), strict=True):
        image = torch.from_numpy(np.array(Image.open(evaluation.dataset.root / row.image))).permute(2, 0, 1)
        probability = evaluate.predict(model, image[None], truth.shape, plan).softmax(1)
        np.testing.assert_array_equal(probability.argmax(1)[0], pred)
        reference.update(probability, torch.from_numpy(truth[None].astype(np.int64)))
        confidence = probability.amax(1)[0].numpy()[truth != 255].mean()
        assert row.confidence == pytest.approx(confidence, abs=1e-5)
    assert scores["ece"] == pytest.approx(reference.compute().item(), abs=1e-5)
    assert evaluation.calibration["pixels"].sum() == evaluation.confusions.sum()
    regions = sum(metrics.region_counts(truth, pred, 3) for truth, pred in pairs)
    pd.testing.assert_frame_equal(evaluation.region_sizes, metrics.region_table(regions, CLASSES.names))


@pytest.mark.slow
@pytest.mark.parametrize("long_side", [0, 32])
def test_images_of_different_sizes_and_without_a_label(run, trained_root, monkeypatch, long_side):
    folder = trained_root / "data" / "tiny" / "test"
    for kind in ("images", "masks"):
        path = folder / kind / "0042.png"
        Image.open(path).crop((0, 0, 33, 21)).save(path)
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(folder / "masks" / "null.png")
    model, facts = train.load_checkpoint(run.best_checkpoint)
    model.spec = replace(model.spec, long_side=long_side)
    monkeypatch.setattr("seglib.train.load_checkpoint", lambda path, classes: (model, facts))
    write_json(run.params, read_json(run.params) | {"precision": "fp16"})  # of a GPU; scored on a CPU anyway
    views = {"flip_tta": True, "scale_tta": "0.75", "tile": 32, "batch_size": 1}
    evaluation = evaluate_run(Evaluate(run="tiny", device="cpu", boundary_ratio=0, **views))
    images = evaluation.per_image.set_index("id")
    assert images.loc["0042", ["height", "width"]].tolist() == [21, 33]
    assert evaluation.scores["images_unscored"] == ["null"]
    assert images.loc["null", ["miou", "pixel_accuracy"]].isna().all()
    assert images.loc["null", ["worst_class", "valid_pixels"]].tolist() == ["", 0]
    assert evaluation.scores["precision"] in ("fp32", "bf16")
    assert evaluation.scores["mean_boundary_iou"] is None
    assert evaluation.scores["boundary"]["width"] == "off"
    check_against_torchmetrics(evaluation)


@pytest.mark.slow
def test_a_run_is_scored_on_another_dataset(run, trained_root):
    """Under a name of its own, from which 04 opens it; the run's own dataset, named, is as if it were not."""
    night, own = trained_root / "data" / "night", trained_root / "data" / "tiny"
    shutil.copytree(own, night)
    shutil.rmtree(night / "train")
    (night / "dataset.yaml").write_text((own / "dataset.yaml").read_text().replace("  train:", "  # train:"))
    other = evaluate_run(Evaluate(run="tiny", dataset="data/night", split="val"))
    assert (other.name, other.split, other.dataset.root) == ("night-val", "val", night)
    assert other.training_dataset.root == own
    for split, dataset in (("val", "data/night"), ("night-val", ""), ("night-val", None)):
        again = open_evaluation("tiny", split, dataset)
        assert (again.name, again.split, again.dataset.root) == ("night-val", "val", night)
    with pytest.raises(FileNotFoundError, match=r"no evaluation of split 'val' \(evaluated: night-val\)"):
        open_evaluation("tiny", "val", "data/tiny")
    with pytest.raises(ValueError, match=r"config = 'other.yaml', but run 'tiny' was trained with ''"):
        evaluate_run(Evaluate(run="tiny", config="other.yaml"))
    mine = evaluate_run(Evaluate(run="tiny", dataset=str(own), split="val"))
    assert (mine.name, mine.training_dataset) == ("val", mine.dataset)
    assert mine.scores["mean_iou"] == other.scores["mean_iou"]
    analysis = failures.analyse(other, failures.find_failures(other, 1.0))
    assert analysis.folder == run.failures("night-val")
    assert not failures.propose_actions(analysis).relabel
    own.rename(own.with_name("away"))  # nor is that of the training needed for it
    again = evaluate_run(Evaluate(run="tiny", dataset="data/night", split="val"))
    assert (again.scores["mean_iou"], again.baselines) == (other.scores["mean_iou"], None)
    own.with_name("away").rename(own)
    shutil.copytree(night, trained_root / "data" / "more" / "night")
    with pytest.raises(FileExistsError, match="night-val is an evaluation of data/night, not of data/more/"):
        evaluate_run(Evaluate(run="tiny", dataset="data/more/night", split="val"))


def change(path, of_ids) -> None:
    Image.fromarray(of_ids(np.array(Image.open(path))).astype(np.uint8)).save(path)


@pytest.fixture
def external(tiny_root):
    """A folder of predictions of the test split: the truth, with the sky taken for a car here and there."""
    folder = tiny_root / "theirs"
    for name in TEST_IDS:
        mask = np.array(Image.open(tiny_root / "data" / "tiny" / "test" / "masks" / f"{name}.png"))
        mask[mask == 255] = 1
        mask[:4] = np.where(mask[:4] == 0, 2, mask[:4])
        save(folder / f"{name}.png", mask)
    return folder


def score(folder, name="theirs"):
    return evaluate_predictions(folder, Evaluate(run=name, dataset="data/tiny"))


def test_predictions_of_another_tool_are_scored_alike(external):
    evaluation = score(external)
    run = Run.open("theirs")
    assert run.external
    check_against_torchmetrics(evaluation)
    assert evaluation.scores["ece"] is evaluation.calibration is None
    assert evaluation.per_image["confidence"].isna().all()
    assert np.isnan(evaluation.headline().iloc[-1, 0])
    assert 0 < evaluation.scores["mean_boundary_iou"] < 1
    assert evaluation.scores["predictions"] == read_json(run.params)["predictions"] == "theirs"
    assert score(external).scores["images"] == 4
    assert score(run.evaluation("test") / "predictions").scores["images"] == 4  # onto themselves


def test_a_lost_class_is_named_however_good_the_mean(external):
    assert score(external).lost_classes() == ""
    for path in external.iterdir():
        change(path, lambda ids: np.where(ids == 2, 1, ids))
    evaluation = score(external)
    first, second = evaluation.summary().splitlines()
    assert re.match(r"mean IoU 0\..*, no interval: too little is independent \(4 images, taken as", first)
    assert re.match(r"1 of 3 classes nearly lost, .* \(IoU below 1/3\): car 0\.00 \(4 images\)$", second)
    assert evaluation.scores["classes_never_predicted"] == ["car"]
    assert evaluation.per_class.set_index("class").loc["car", ["precision", "f1"]].tolist() == [0, 0]
    assert evaluation.scores["mean_precision"] == pytest.approx(evaluation.per_class["precision"].mean())


def test_faults_of_predictions_are_named_and_counted(external):
    for name in ("0042", "1e5"):
        Image.open(external / f"{name}.png").crop((0, 0, 50, 40)).save(external / f"{name}.png")
    change(external / "null.png", lambda ids: np.where(np.arange(56) < 2, 7, ids))
    told = r"3 of 4 predictions .*: prediction '0042.png' is \(40, 50\), its mask \(40, 56\)"
    refused(told + r".* 'null.png' holds ids \[7\] .*ids 0-2", score, external)
    with pytest.raises(FileNotFoundError, match="no evaluation"):
        open_evaluation(Run(Run.folder("theirs")), "test")
    Image.new("RGB", (56, 40)).save(external / "0041.png")
    refused(r"4 of 4 .* '0041.png' is \(40, 56, 3\), .*Expected one channel", score, external)
    (external / "0042.png").unlink()
    (external / "null.png").unlink()
    refused(r"2 of 4 images .*: expected theirs/0042.png, theirs/null.png", score, external)
    refused("4 of 4 images of split 'test' have no prediction", score, external / "none", "other")
    assert not Run(Run.folder("other")).path.exists()


def test_an_older_run_is_read_and_a_damaged_one_refused(external):
    score(external)
    run = Run.open("theirs")
    folder = run.evaluation("test")
    images = folder / "per_image.csv"
    images.write_text(images.read_text().replace("valid_pixels", "scored_pixels"))
    params = read_json(run.params)
    write_json(run.params, {("recipe" if key == "config" else key): value for key, value in params.items()})
    assert (open_evaluation(run, "test").per_image["valid_pixels"] > 0).all()
    whole = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for change in (
        lambda: images.write_text(images.read_text().replace("\n0041,", "\nzebra,")),
        lambda: images.write_text(images.read_text().replace("\n0041,", "\nlost\n0041,")),
        lambda: (folder / "per_class.csv").write_text("class,iou\nsky,high\n"),
        lambda: (folder / "confusions.npz").write_bytes(b"PK"),
    ):
        change()
        with pytest.raises(ValueError, match=r"test is not a whole evaluation .* Run 03_evaluate again"):
            open_evaluation(run, "test")
        for path, content in whole.items():
            path.write_bytes(content)


def test_what_changed_and_what_is_gone_since_is_told(external):
    evaluation, root = score(external), external.parent / "data" / "tiny"
    evaluate.check_as_scored(evaluation)
    change(root / "test" / "masks" / "0042.png", lambda ids: np.where(ids == 2, 1, ids))
    with pytest.raises(DatasetError, match=r"'theirs' was evaluated .*masks/0042\.png.* again, then 04"):
        evaluate.check_as_scored(evaluation)
    (evaluation.run.evaluation("test") / "predictions" / "0042.png").unlink()
    refused(r"deleted\. Run 03_evaluate again", evaluate.read_layers, evaluation, "0042")
    root.rename(root.with_name("elsewhere"))
    refused(r"tiny is not there.*'theirs' was trained.*params\.json", open_evaluation, "theirs", "test")


def test_saved_ids_come_back(external, tmp_path):
    ids = np.array([[0, 1, 2], [255, 254, 0]], np.uint8)
    evaluate.save_ids(tmp_path / "ids.png", ids, CLASSES)
    np.testing.assert_array_equal(evaluate.read_ids(tmp_path / "ids.png"), ids)
    np.testing.assert_array_equal(Image.open(tmp_path / "ids.png").convert("RGB"), CLASSES.colorize(ids))
    with pytest.raises(DatasetError, match=r"is \(40, 56\) uint8, .* mask \(7, 9\)"):
        evaluate.saved_prediction(score(external), "0041", (7, 9))


@pytest.mark.parametrize(
    ("pairs", "told"),  # pixels by true class and value
    [({(0, 1): 90, (1, 2): 60, (2, 3): 8, (2, 0): 3}, "1 for 'a', 2 for 'b', 3 for 'c'"), ({(0, 1): 90, (1, 0): 10}, "1 for 'a', 0 for 'b'"),
     ({(0, 0): 90, (1, 255): 9}, "255 for 'b'"), ({(0, 0): 90, (1, 1): 50, (2, 3): 5, (3, 3): 0}, ""),
     ({(0, 1): 90, (1, 1): 5}, ""), ({(0, 0): 60, (0, 1): 30, (1, 0): 5, (1, 1): 5}, "")],
)  # fmt: skip
def test_values_that_number_the_classes_otherwise_are_told_but_no_bad_model(pairs, told):
    """Shifted, exchanged, black and white; one class taken for another that is absent, always the same, often wrong."""
    pixels, classes = np.zeros((4, 256), np.int64), ClassMap(("a", "b", "c", "d"))
    for pair, count in pairs.items():
        pixels[pair] = count
    if told:
        refused(rf"classes \({told}\)\. Write class ids", _check_numbering, pixels, classes)
    else:
        _check_numbering(pixels, classes)


@pytest.mark.parametrize("ids", [(1, 2, 3, 0), (0, 2, 1, 255), (0, 7, 11, 255)])  # and what is ignored
def test_predictions_in_the_ids_of_the_files_are_told_and_not_scored(external, ids):
    path, stored = external.parent / "data" / "tiny" / "dataset.yaml", np.zeros(256, np.uint8)
    stored[[0, 1, 2, 255]] = ids
    path.write_text(path.read_text() + f"id_map: {dict(zip(ids, (0, 1, 2, 255), strict=True))}\n")
    for file in [*external.glob("*.png"), *path.parent.glob("*/masks/*.png")]:
        change(file, lambda found: stored[found])
    for name in TEST_IDS if ids[0] else ():  # without the last class, no id is illegal
        change(external / f"{name}.png", lambda found: np.where(found == 3, 1, found))
    refused(r"as class ids, but in .*% if their values stand for", score, external)
