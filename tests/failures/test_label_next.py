"""Which images to label next: the choice against brute force, what is written, and the way back from CVAT."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from seglib import data, evaluate, failures
from seglib.cli import main
from seglib.data import DatasetError
from seglib.failures.label_next import choose
from seglib.params import Evaluate
from seglib.runs import Run, read_table

RANDOM = np.random.default_rng(3)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_choice_is_that_of_brute_force():
    features, seen = unit(RANDOM.standard_normal((40, 6))), RANDOM.standard_normal((9, 6))
    value = RANDOM.random(40)
    places, distances = choose(value, features, seen, 12)
    known = list(unit(seen))
    for place, distance in zip(places, distances, strict=True):
        nearest = np.array([min(1 - one @ other for other in known) for one in features])
        assert place == np.argmax(value * nearest)
        assert distance == pytest.approx(nearest[place], abs=1e-6)
        known.append(features[place])
    assert len(set(places)) == 12


def test_frames_of_one_second_are_chosen_once_and_copies_never():
    scenes = unit(RANDOM.standard_normal((4, 16)))
    frames = unit(np.repeat(scenes, 10, axis=0) + 0.01 * RANDOM.standard_normal((40, 16)))
    value = np.repeat([0.9, 0.8, 0.7, 0.1], 10)
    places, _ = choose(value, frames, RANDOM.standard_normal((5, 16)), 4)
    assert sorted(k // 10 for k in places[:3]) == [0, 1, 2], "three scenes before a second frame of one"
    copies = np.repeat(scenes, 5, axis=0)
    places, _ = choose(np.ones(20), copies, scenes[:1] * 7, 20)
    assert sorted(k // 5 for k in places) == [1, 2, 3], "the first scene is trained on"


@pytest.fixture
def run(trained_root) -> Run:
    evaluate.evaluate_run(Evaluate(run="tiny", split="val"))
    return Run.open("tiny")


@pytest.mark.slow
def test_the_command_writes_a_list_a_sheet_and_a_zip_that_comes_back(run, trained_root, capsys):
    images = shutil.copytree(trained_root / "data/tiny/test/images", trained_root / "new")
    (images / "broken.png").write_bytes(b"no image")
    shutil.copy(images / "0041.png", images / "again.png")
    line = f"--run tiny --images new --out {trained_root}/chosen --split val"
    assert main(f"label-next {line} --count 3".split()) == 0
    told, out = capsys.readouterr().out, trained_root / "chosen"
    assert "3 of 5 images. Expected mIoU, learnt from 3 of val: off by " in told
    table, predictions = read_table(out / "label_next.csv"), read_table(out / "predictions.csv")
    assert table["rank"].tolist() == ["1", "2", "3"]
    assert len({"0041", "again"} & set(table["id"])) <= 1, "one picture is not labelled twice"
    assert table["expected_miou"].astype(float).between(0, 1).all()
    assert predictions.set_index("id").loc[table["id"], "confidence"].tolist() == table["confidence"].tolist()
    assert set(table["rarest_class"]) <= {"sky", "road", "car"}
    assert data.read_image(out / "label_next.png").size
    kept = json.loads((out / "label_next.json").read_text())
    assert (kept["calibrated_on"], kept["images"]) == (3, 5)
    assert min(kept["weights"].values()) >= 0
    with zipfile.ZipFile(out / "label_next.zip") as archive:
        named = archive.read("ImageSets/Segmentation/default.txt").decode().split()
    assert named == table["id"].tolist()


@pytest.mark.slow
def test_predict_by_the_command_line(run, trained_root, capsys):
    (trained_root / "bad").mkdir()
    (trained_root / "bad/broken.png").write_bytes(b"no image")
    assert main(f"predict --run tiny --images data/tiny/val/images --out {trained_root}/out".split()) == 0
    told = capsys.readouterr().out
    assert told.startswith("3 images: ")
    assert told.endswith("0 could not be predicted. Table: out/predictions.csv\n")
    assert main(f"predict --run tiny --images bad --out {trained_root}/out2".split()) == 1
    assert capsys.readouterr().out.startswith("image 'broken.png' cannot be read")
    evaluation = evaluate.open_evaluation(run, "val")
    with pytest.raises(DatasetError, match="none of 1 images can be read"):
        failures.label_next(evaluation, trained_root / "bad", trained_root / "out3")


@pytest.mark.slow
def test_the_expected_miou_follows_the_confidence(run, trained_root):
    """Where mIoU rises with confidence in the evaluated split, so does what is expected of new images."""
    evaluation = evaluate.open_evaluation(run, "val")
    evaluation.per_image["miou"] = 0.2 * evaluation.per_image["confidence"].rank()
    images = trained_root / "data/tiny/test/images"
    table = failures.label_next(evaluation, images, trained_root / "out", 4)
    assert table["expected_miou"].corr(table["confidence"]) > 0
    evaluation.per_image["miou"] = np.nan
    with pytest.raises(DatasetError, match="has 0 independent images that are scored"):
        failures.label_next(evaluation, images, trained_root / "out", 4)
