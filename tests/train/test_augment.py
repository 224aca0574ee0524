"""Crops and colours: image and mask must move together, proved on images of coordinates."""

import numpy as np
import pytest
import torch

from seglib.params import Train
from seglib.train.augment import ColorJitter, adjust_colors, draw_crop, draw_jitter, warp

SIZES = [(1, 1), (1, 40), (20, 30), (64, 48), (200, 180)]


def draw(crop, size, seed=0, **params):
    return draw_crop(np.random.default_rng(seed), Train(**params), crop, size)


def cut(array, crop):
    return torch.from_numpy(np.ascontiguousarray(array[..., crop.rows, crop.columns]))[None]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("crop_size", [(32, 32), (48, 24)], ids=str)
def test_image_and_mask_move_together(size, crop_size):
    """The image holds x in channel 0 and y in channel 1, the mask x: where the matrix says, ignored outside."""
    ys, xs = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    for seed in range(25):
        crop = draw(crop_size, size, seed, scale_min=0.5, scale_max=2.0, rotation=30.0)
        assert 0 <= crop.rows.start < crop.rows.stop <= size[0]
        assert 0 <= crop.columns.start < crop.columns.stop <= size[1]
        warped, x = warp(cut(np.stack([xs, ys, xs]), crop), cut(xs, crop), [crop], crop_size)
        assert (warped.shape, x.shape, x.dtype) == ((1, 3, *crop_size), (1, *crop_size), torch.uint8)
        inside = x != 255
        assert ((warped[:, 0] - x).abs()[inside] <= 0.51).all()
        a, b, c, d, e, f = crop.matrix
        v, u = np.mgrid[: crop_size[0], : crop_size[1]]
        wanted_x, wanted_y = a * u + b * v + c + crop.columns.start, d * u + e * v + f + crop.rows.start
        clipped = np.clip(wanted_x, 0, size[1] - 1), np.clip(wanted_y, 0, size[0] - 1)
        np.testing.assert_allclose(warped[0, 0], clipped[0], atol=2e-3)
        np.testing.assert_allclose(warped[0, 1], clipped[1], atol=2e-3)
        beyond = np.maximum(abs(wanted_x - clipped[0]), abs(wanted_y - clipped[1]))
        assert not inside[0].numpy()[beyond > 0.501].any()
        assert inside[0].numpy()[beyond < 0.499].all()


def test_crops_cover_their_ranges_and_are_seeded():
    ranges = {"flip": 0.5, "scale_min": 0.75, "scale_max": 1.5, "rotation": 5.0}
    crops = [draw((16, 16), (60, 80), [0, k], **ranges) for k in range(300)]
    assert crops[:9] == [draw((16, 16), (60, 80), [0, k], **ranges) for k in range(9)]
    linear = np.array([crop.matrix for crop in crops]).reshape(-1, 2, 3)[..., :2]
    zoom = 1 / np.sqrt(abs(np.linalg.det(linear)))
    assert 0.75 - 1e-9 <= zoom.min() < 0.8 < 1.4 < zoom.max() <= 1.5 + 1e-9
    assert 0.35 < (np.linalg.det(linear) < 0).mean() < 0.65
    angles = np.degrees(np.arctan2(-linear[:, 0, 1], linear[:, 1, 1]))
    assert -5 <= angles.min() < -4 < 4 < angles.max() <= 5


def jitters(count=6, seed=0, **params):
    random, params = np.random.default_rng(seed), Train(**params)
    return [draw_jitter(random, params) for _ in range(count)]


def test_probabilities_and_strengths_are_kept_and_what_is_off_changes_no_draw():
    plain = {"color": 0.2, "blur": 0.25, "noise": 0.5}
    drawn = jitters(4000, **plain)
    factors = np.array([jitter[:3] for jitter in drawn])
    assert 0.8 <= factors.min() < factors.max() <= 1.2
    assert np.abs(factors.mean(0) - 1).max() < 0.01
    assert np.mean([jitter.blur for jitter in drawn]) == pytest.approx(0.25, abs=0.03)
    noisy = [jitter.noise for jitter in drawn if jitter.noise]
    assert len(noisy) / 4000 == pytest.approx(0.5, abs=0.03)
    assert 2 <= min(noisy) <= max(noisy) <= 12
    assert drawn[:9] == jitters(9, **plain, blur_radius=1, noise_most=12.0, darkness=0.0, haze=0.0)
    strong = jitters(4000, **plain, blur_radius=3, noise_most=40.0, darkness=0.3, haze=0.25)
    radii = np.bincount([jitter.blur for jitter in strong])
    assert radii[1:].tolist() == pytest.approx([1000 / 3] * 3, rel=0.2)
    assert 35 < max(jitter.noise for jitter in strong) <= 40
    for values, low, share in ((0, 0.15, 0.3), (1, 0.2, 0.25)):
        factor = np.array([jitter[values] for jitter in strong])
        assert 0.8 * low <= factor.min() < low + 0.05
        assert (factor < 0.56).mean() == pytest.approx(share * 0.8, abs=0.06)


@pytest.mark.parametrize("radius", [1, 3, 7])
def test_a_blur_has_the_spread_of_its_radius(radius):
    image = torch.zeros(1, 3, 61, 61)
    image[..., 30, 30] = 200.0
    blurred = adjust_colors(image, [ColorJitter(blur=radius)])[0, 0].double()
    assert blurred.sum().item() == pytest.approx(200, rel=1e-4)
    variance = (blurred.sum(0) * (torch.arange(61) - 30) ** 2).sum() / blurred.sum()
    assert variance.item() == pytest.approx(2 * radius * (radius + 1) / 3, rel=1e-3)
    flat = torch.full((1, 3, 2, 3), 90.0)  # smaller than the blur
    torch.testing.assert_close(adjust_colors(flat.clone(), [ColorJitter(blur=radius)]), flat)


def test_brightness_contrast_and_noise_do_what_they_say():
    image = torch.rand(1, 3, 30, 30, generator=torch.Generator().manual_seed(0)) * 200 + 20
    torch.testing.assert_close(adjust_colors(image.clone(), [ColorJitter(brightness=0.3)]), image * 0.3)
    hazy = adjust_colors(image.clone(), [ColorJitter(contrast=0.3)])
    assert hazy.std().item() == pytest.approx(0.3 * image.std().item(), rel=1e-3)
    assert hazy.mean().item() == pytest.approx(image.mean().item(), rel=1e-4)
    noisy = adjust_colors(torch.full((1, 3, 80, 80), 128.0), [ColorJitter(noise=8.0, seed=3)])
    assert noisy.std().item() == pytest.approx(8, rel=0.03)
