"""Properties of an image, and what is stated of simulated degradations."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage, stats

from seglib.checks import Reference, degradation, qualities
from seglib.checks.image_quality import look
from seglib.data.inject import degrade


def _scene(seed: int, size: tuple[int, int] = (96, 128), haze: float = 0.0) -> np.ndarray:
    """Flat shapes with sharp outlines in front of a slope, as a camera with a little noise sees them."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    grey = 60 + random.uniform(60, 120) * rows / size[0]
    for _ in range(25):
        y, x = random.uniform(0, size[0]), random.uniform(0, size[1])
        high = abs(rows - y) < random.uniform(2, size[0] / 5)
        grey[high & (abs(columns - x) < random.uniform(2, size[1] / 6))] = random.uniform(0, 255)
    color = grey[..., None] + random.uniform(-20, 20, 3)
    color = (1 - haze) * color + haze * 190 + random.normal(0, 1.5, (*size, 3))
    return color.clip(0, 255).round().astype(np.uint8)


def _table(images) -> pd.DataFrame:
    return pd.DataFrame([qualities(image) for image in images])


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of 48 scenes, one sequence in six in haze."""
    return Reference.of(_table(_scene(k, haze=0.45 * (k % 6 == 0)) for k in range(48)))


def test_noise_is_immerkaers_mask():
    """The median of its absolute response, whose variance for white noise is 36 times that of the noise."""
    grey = np.random.default_rng(2).integers(1, 255, (30, 41)).astype(np.uint8)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = ndimage.convolve(grey.astype(int), mask)[1:-1, 1:-1]
    expected = np.median(abs(response)) / stats.norm.ppf(0.75) / 6
    assert qualities(np.repeat(grey[..., None], 3, axis=2))["noise"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["blur", "noise", "dark", "washed out"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_planted_degradations_are_named(kind, level, reference):
    grain = np.random.default_rng(0).standard_normal((12, 96, 128, 3), dtype=np.float32)
    worse = [degrade(_scene(100 + k), kind.replace(" ", "_"), level + 1, grain[k]) for k in range(12)]
    stated = [degradation(qualities(image), reference) for image in worse]
    # A picture that is mildly pale is no paler than those in haze, which the model has learnt from.
    assert {name for name, _, _ in stated} <= ({kind, ""} if level == 0 else {kind})
    assert level or kind == "washed out" or sum(name == kind for name, _, _ in stated) >= 11
    assert all("48 training images" in detail for name, _, detail in stated if name)


def test_sound_images_are_not(reference):
    stated = [degradation(qualities(_scene(200 + k, haze=0.45 * (k % 2))), reference)[0] for k in range(60)]
    assert sum(map(bool, stated)) <= 1


@pytest.mark.parametrize(("width", "noise"), [(5, 0), (9, 3), (31, 1.5)])
def test_a_lens_out_of_focus_is_blur_though_the_sensor_adds_noise(width, noise, reference):
    for k in range(6):
        image = ndimage.uniform_filter(_scene(400 + k, (240, 320)).astype(float), (width, width, 1))
        image += np.random.default_rng(k).normal(0, noise, image.shape)
        assert degradation(qualities(image.clip(0, 255).round().astype(np.uint8)), reference)[0] == "blur"


def test_dark_scene_with_lamps_is_not_a_dark_picture(reference):
    night = _scene(7) // 5
    night[40:52, 60:76] = 230
    assert degradation(qualities(night), reference)[0] != "dark"
    assert degradation(qualities(_scene(7) // 5), reference)[0] == "dark"


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("size", [(96, 128), (1, 1), (2, 50)])
def test_flat_and_tiny_images(value, size, reference):
    found = qualities(np.full((*size, 3), value, np.uint8))
    assert np.isnan(found["sharpness"])
    assert found["noise"] == 0
    assert degradation(found, reference)[0] == ("dark" if value == 0 else "washed out")


def test_too_few_training_images_say_nothing(reference):
    kind, z, detail = degradation(qualities(_scene(0)), Reference.of(_table(_scene(k) for k in range(19))))
    assert (kind, detail) == ("", "")
    assert np.isnan(z)
    # Flat images tell no sharpness, and are left out of what is known of it.
    flat = Reference.of(_table([np.full((20, 20, 3), 90, np.uint8)] * 25))
    assert np.isnan(flat.table.loc["blur", "median"])
    assert degradation(qualities(_scene(0)), flat)[0] != "blur"


@pytest.mark.parametrize(("size", "bands", "lines"), [((48, 64), 1, (1, 1)), ((200, 301), 3, (2, 3))])
def test_looks_by_hand(size, bands, lines):
    image = _scene(0, size)
    picture = Image.fromarray(image).convert("L")
    facts, grey = look(image, picture), np.array(picture)
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    assert facts["entropy"] == pytest.approx(-(share[share > 0] * np.log2(share[share > 0])).sum())
    assert facts["brightness"] == pytest.approx(grey.mean())
    assert facts["contrast"] == pytest.approx(grey.std())
    laplacian = ndimage.laplace(grey.astype(float))[1:-1, 1:-1][::bands]
    assert facts["sharpness"] == pytest.approx(laplacian.var())
    r, g, b = image[:: lines[0], :: lines[1]].reshape(-1, 3).T.astype(float)
    opponents = np.stack([r - g, (r + g) / 2 - b])
    colour = np.hypot(*opponents.std(axis=1)) + 0.3 * np.hypot(*opponents.mean(axis=1))
    assert facts["colour"] == pytest.approx(colour, rel=1e-5)
