"""Baselines by hand, and beside a model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from seglib import metrics
from seglib.data import load_dataset
from seglib.evaluate import Evaluation, compare_with_baselines

NAMES = ("a", "b", "c")
MASKS = {
    "train": [[[0, 1], [1, 2]], [[0, 1], [2, 2]], [[1, 1], [2, 255]]],
    "val": [np.repeat(np.repeat([[0, 1], [2, 2]], 2, 0), 2, 1), np.full((4, 4), 255)],
}


@pytest.fixture
def by_hand(tmp_path):
    """Three train masks of 2 x 2 and two val masks of 4 x 4, and an evaluation of a model that is always right."""
    for split, masks in MASKS.items():
        for k, mask in enumerate(masks):
            for kind in ("images", "masks"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                array = np.array(mask, np.uint8)
                array = np.repeat(array[..., None], 3, 2) if kind == "images" else array
                Image.fromarray(array).save(tmp_path / split / kind / f"{split}{k}.png")
    splits = "".join(f"  {s}: {{images: '{s}/images/*.png', masks: '{s}/masks/*.png'}}\n" for s in MASKS)
    (tmp_path / "dataset.yaml").write_text(f"name: hand\nclasses: [a, b, c]\nsplits:\n{splits}")
    counts = np.stack(
        [metrics.confusion_matrix(m, m, 3) for m in (np.array(m, np.uint8) for m in MASKS["val"])]
    )
    dataset = load_dataset(tmp_path)
    return Evaluation(None, dataset, "val", {"absent": "truth"}, None, None, None, counts)


def test_baselines_by_hand(by_hand):
    table = compare_with_baselines(by_hand).set_index("predictor")
    assert list(table.index[:1]) == ["majority class (b)"]  # 5 of the 11 valid pixels of train
    assert set(table.index) == {"majority class (b)", "mean mask", "this model"}
    assert table.loc["majority class (b)", "mean_iou"] == pytest.approx(4 / 16 / 3)
    assert table.loc["majority class (b)", "pixel_accuracy"] == pytest.approx(4 / 16)
    # The mean mask of train is [[a, b], [c, c]], stretched: right everywhere in the first image of val.
    assert table.loc["mean mask", ["mean_iou", "mean_iou_image", "pixel_accuracy"]].tolist() == [1, 1, 1]
    assert table["mean_iou"].is_monotonic_increasing


def test_what_was_never_labelled_is_the_majority(by_hand):
    for path in (by_hand.dataset.root / "train" / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[1, 1] = 255
        Image.fromarray(mask).save(path)
    table = compare_with_baselines(by_hand).set_index("predictor")
    assert table.loc["mean mask", "pixel_accuracy"] == pytest.approx(12 / 16)  # [[a, b], [c, b]]
