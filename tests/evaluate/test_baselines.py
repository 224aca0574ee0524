"""Baselines by hand, and beside a model."""

import numpy as np
import pytest
from PIL import Image

from seglib.evaluate import Evaluation, evaluate_predictions
from seglib.params import Evaluate
from seglib.runs import Run

MASKS = {
    "train": [[[0, 1], [1, 2]], [[0, 1], [2, 2]], [[1, 1], [2, 255]]],
    "val": [np.repeat(np.repeat([[0, 1], [2, 2]], 2, 0), 2, 1), np.full((4, 4), 255)],
}


@pytest.fixture
def folder(tiny_root):
    """Three train masks of 2 x 2 and two val masks of 4 x 4, and predictions that are always right."""
    root = tiny_root / "hand"
    for split, masks in MASKS.items():
        for k, mask in enumerate(masks):
            array = np.array(mask, np.uint8)
            three = np.repeat(array[..., None], 3, 2)
            right = {"predictions": np.where(array == 255, 0, array)}
            for kind, pixels in ({"images": three, "masks": array} | right).items():
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / split / kind / f"{split}{k}.png")
    splits = "".join(f"  {s}: {{images: '{s}/images/*.png', masks: '{s}/masks/*.png'}}\n" for s in MASKS)
    (root / "dataset.yaml").write_text(f"name: hand\nclasses: [a, b, c]\nsplits:\n{splits}")
    return root


def scored(folder) -> Evaluation:
    return evaluate_predictions(
        folder / "val/predictions", Evaluate(run="right", split="val", dataset=str(folder))
    )


def test_baselines_by_hand(folder):
    evaluation = scored(folder)
    table = evaluation.compare_with_baselines().set_index("predictor")
    assert list(table.index) == [
        "majority class (b)",
        "mean mask",
        "this model",
    ]  # b: 5 of 11 pixels of train
    assert table.loc["majority class (b)", "mean_iou"] == pytest.approx(4 / 16 / 3)
    assert table.loc["majority class (b)", "pixel_accuracy"] == pytest.approx(4 / 16)
    # The mean mask of train is [[a, b], [c, c]], stretched: right everywhere in the first image of val.
    assert table.loc["mean mask", ["mean_iou", "mean_iou_image", "pixel_accuracy"]].tolist() == [1, 1, 1]
    assert evaluation.per_image["baseline_miou"].tolist() == pytest.approx([1, np.nan], nan_ok=True)


def test_without_a_training_split_there_are_none(folder):
    config = folder / "dataset.yaml"
    lines = [line for line in config.read_text().splitlines() if "train" not in line]
    config.write_text("\n".join(lines))
    evaluation = scored(folder)
    assert not (Run.open("right").evaluation("val") / "baselines.csv").exists()
    assert evaluation.compare_with_baselines()["predictor"].tolist() == ["this model"]
