"""Near-duplicates: found however they were changed, and nothing else taken for them."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from seglib.checks.duplicates import difference_hash, near_duplicates, thumbnail


def scene(seed, size=(64, 96)):
    """A smooth random picture with one sharp thing in it, (H, W, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    pixels = np.array(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    y, x = random.integers(0, size[0] - 16), random.integers(0, size[1] - 16)
    pixels[y : y + 16, x : x + 16] = random.integers(0, 256, 3)
    return pixels


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def find(images, splits, one_hash=False):
    samples = pd.DataFrame({"id": [f"i{k}" for k in range(len(images))], "split": splits})
    grey = [Image.fromarray(i).convert("L") for i in images]
    samples["_bits"] = [difference_hash(grey[0 if one_hash else k]) for k in range(len(images))]
    samples["_thumb"] = [thumbnail(g) for g in grey]
    return near_duplicates(samples)[0]


NOISE = np.random.default_rng(1).normal(0, 4, (96, 128, 3))
CHANGES = {
    "jpeg": lambda image: jpeg(image, 70),
    "noise": lambda image: np.clip(image + NOISE, 0, 255).astype(np.uint8),
    "smaller": lambda image: np.array(Image.fromarray(image).resize((72, 48), Image.Resampling.BOX)),
    "larger": lambda image: np.array(Image.fromarray(image).resize((133, 91), Image.Resampling.BICUBIC)),
    "darker": lambda image: (image * 0.8).astype(np.uint8),
    "softer": lambda image: np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.7))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_however_it_was_changed(change):
    images = [scene(k, (96, 128)) for k in range(12)]
    found = find([*images, CHANGES[change](images[3])], ["train"] * 12 + ["val"])
    assert found[["split_1", "id_1", "split_2", "id_2"]].values.tolist() == [["train", "i3", "val", "i12"]]


def test_another_picture_of_the_same_place_is_none():
    image = scene(1)
    moved = image.copy()
    moved[40:60, 20:40] = moved[40:60, 24:44] // 2 + 90  # something passed by
    flat = np.full_like(image, 80)  # is like nothing, even itself
    for pair in ([image, moved], [image, image[:, ::-1]], [flat, image], [flat, flat]):
        assert find(pair, ["train", "val"], one_hash=True).empty
    assert find([image, moved, jpeg(image, 80)], "train", one_hash=True)["id_2"].tolist() == ["i2"]
    assert find([], []).empty
