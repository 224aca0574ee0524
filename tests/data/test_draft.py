"""A drafted dataset.yaml loads, in every layout and with every kind of stored values."""

import numpy as np
import pytest
from PIL import Image

from seglib.data import DatasetError, draft_dataset, load_dataset, read_pair

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
IDS = RNG.integers(0, 3, (6, 8), np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize(
    ("layout", "third"),
    [
        ("train/{side}", "test/{side}"),
        ("train/{side}", "../testing/{side}"),
        ("{side}/train", "{side}/test"),
        ("train{annot}", "test{annot}"),
    ],
)
def test_draft_of_every_layout_loads(tmp_path, layout, third):
    root = tmp_path / "my set"
    for place in (layout, layout.replace("train", "val"), third):
        for side, array in (("images", RGB), ("masks", IDS)):
            folder = place.format(side=side, annot="annot" if side == "masks" else "")
            for name in "ab":
                save(root / folder / f"{name}.png", array)
    (root / "dataset.yaml").write_text(draft_dataset(root), encoding="utf-8")
    dataset = load_dataset(root)
    assert dataset.name == "my-set"
    assert len(dataset.samples) == 6
    assert dataset.classes.names == ("class_0", "class_1", "class_2")
    for row in dataset.samples.itertuples():
        np.testing.assert_array_equal(read_pair(dataset, row)[1], IDS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 255], [0, 1]),
        ([0, 1, 255], [0, 1, 255]),
        ([0, 2, 3], [0, 2, 3]),  # 1 is rare, or never used
        ([7, 40, 255], [0, 1, 255]),
        ([3000, 9, 1000], [2, 0, 1]),
    ],
)
def test_draft_finds_ids(tmp_path, values, expected):
    stored = np.resize(np.array(values, np.uint16), (4, 6))
    save(tmp_path / "train/images/a.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "train/masks/a.png", stored if max(values) > 255 else stored.astype(np.uint8))
    text = draft_dataset(tmp_path)
    assert "of the pixels" in text
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    dataset = load_dataset(tmp_path)
    mask = read_pair(dataset, dataset.samples.iloc[0])[1]
    np.testing.assert_array_equal(mask, np.resize(np.array(expected, np.uint8), (4, 6)))


def test_draft_of_colour_masks(tmp_path):
    colors = np.array([[0, 0, 0], [40, 50, 60], [70, 80, 90]], np.uint8)
    for name in ("q_000", "q_100"):
        save(tmp_path / f"train/images/x/{name}.jpg", RGB)
        save(tmp_path / f"train/masks/x/{name}.png", colors[IDS])
    (tmp_path / "dataset.yaml").write_text(draft_dataset(tmp_path), encoding="utf-8")
    dataset = load_dataset(tmp_path)
    assert dataset.samples["id"].tolist() == ["q_000", "q_100"]
    mask = read_pair(dataset, dataset.samples.iloc[1])[1]
    np.testing.assert_array_equal(dataset.classes.colors[mask], colors[IDS])


def test_draft_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(DatasetError, match="known layouts:\n  train/images") as error:
        draft_dataset(tmp_path)
    assert error.value.check == "no-layout"
    save(tmp_path / "train/images/a.png", RGB)
    photograph = np.arange(300 * 4, dtype=np.uint16).reshape(30, 40)
    save(tmp_path / "train/masks/a.png", photograph)
    with pytest.raises(DatasetError, match="more than 255 different values"):
        draft_dataset(tmp_path)
    (tmp_path / "train/masks/a.png").write_bytes(b"text")
    with pytest.raises(DatasetError, match="cannot be read"):
        draft_dataset(tmp_path)
