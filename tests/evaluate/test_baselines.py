"""Baselines by hand, and beside a model."""

import numpy as np
import pytest
from conftest import write_dataset

from seglib import data, evaluate
from seglib.params import Evaluate
from seglib.runs import Run

MASKS = {
    "train": [[[0, 1], [1, 2]], [[0, 1], [2, 2]], [[1, 1], [2, 255]]],
    "val": [np.repeat(np.repeat([[0, 1], [2, 2]], 2, 0), 2, 1), np.full((4, 4), 255)],
}


@pytest.fixture
def folder(tiny_root):
    """Three train masks of 2 x 2 and two val masks of 4 x 4, and predictions that are always right."""
    root, splits = tiny_root / "hand", {}
    for split, masks in MASKS.items():
        arrays = {f"{split}{k}": np.array(mask, np.uint8) for k, mask in enumerate(masks)}
        splits[split] = {name: (np.repeat(mask[..., None], 3, 2), mask) for name, mask in arrays.items()}
        for name, mask in arrays.items() if split == "val" else ():
            evaluate.save_ids(root / f"predictions/{name}.png", mask % 255, data.ClassMap(("a", "b", "c")))
    write_dataset(root, splits, "abc")
    return root


def scored(folder) -> evaluate.Evaluation:
    params = Evaluate(run="right", split="val", dataset=str(folder))
    return evaluate.evaluate_predictions(folder / "predictions", params)


def test_baselines_by_hand(folder):
    evaluation = scored(folder)
    table = evaluation.compare_with_baselines().set_index("predictor")
    assert list(table.index) == ["majority class (b)", "mean mask", "this model"]  # 5 of 11 pixels are b
    assert table.loc["majority class (b)", "mean_iou"] == pytest.approx(4 / 16 / 3)
    assert table.loc["majority class (b)", "pixel_accuracy"] == pytest.approx(4 / 16)
    # The mean mask of train is [[a, b], [c, c]], stretched: right everywhere in the first image of val.
    assert table.loc["mean mask", ["mean_iou", "mean_iou_image", "pixel_accuracy"]].tolist() == [1, 1, 1]
    assert evaluation.per_image["baseline_miou"].tolist() == pytest.approx([1, np.nan], nan_ok=True)


def test_without_a_training_split_there_are_none(folder):
    config = folder / "dataset.yaml"
    config.write_text("\n".join([line for line in config.read_text().splitlines() if "train" not in line]))
    evaluation = scored(folder)
    assert not (Run.open("right").evaluation("val") / "baselines.csv").exists()
    assert evaluation.compare_with_baselines()["predictor"].tolist() == ["this model"]
