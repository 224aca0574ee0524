"""Geometry and colour: image and mask must move together, proved on images of coordinates."""

import numpy as np
import pytest
import torch

from seglib.train.augment import Colour, Geometry, Light, Window, recolour, warp

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SIZES = [(1, 1), (1, 40), (20, 30), (64, 48), (200, 180)]


def coordinates(height, width):
    """Image with x in channel 0 and y in channel 1, and the same two as masks."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([x, y, x]), x, y


def cut(array, window):
    return torch.from_numpy(np.ascontiguousarray(array[..., window.rows, window.columns]))[None]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("crop", [(32, 32), (48, 24)], ids=str)
def test_image_and_mask_move_together(size, crop):
    random = np.random.default_rng(0)
    geometry = Geometry(crop, scale=(0.5, 2.0), rotation=30.0)
    image, xs, ys = coordinates(*size)
    for _ in range(25):
        window = geometry.draw(random, *size)
        assert 0 <= window.top < window.top + window.height <= size[0]
        assert 0 <= window.left < window.left + window.width <= size[1]
        part = cut(image, window)
        warped, x = warp(part, cut(xs, window), [window], crop)
        _, y = warp(part, cut(ys, window), [window], crop)
        assert warped.shape == (1, 3, *crop)
        assert x.shape == (1, *crop)
        assert x.dtype == torch.uint8
        inside = x != 255
        assert torch.equal(inside, y != 255)
        assert ((warped[:, 0] - x).abs()[inside] <= 0.51).all()
        assert ((warped[:, 1] - y).abs()[inside] <= 0.51).all()
        # And both lie where the matrix says, reckoned here in float64 in pixels of the whole image.
        (a, b, c), (d, e, f) = window.matrix
        v, u = np.mgrid[: crop[0], : crop[1]]
        wanted_x, wanted_y = a * u + b * v + c + window.left, d * u + e * v + f + window.top
        clipped = np.clip(wanted_x, 0, size[1] - 1), np.clip(wanted_y, 0, size[0] - 1)
        np.testing.assert_allclose(warped[0, 0], clipped[0], atol=2e-3)
        np.testing.assert_allclose(warped[0, 1], clipped[1], atol=2e-3)
        beyond = np.maximum(abs(wanted_x - clipped[0]), abs(wanted_y - clipped[1]))
        assert not inside[0].numpy()[beyond > 0.501].any()
        assert inside[0].numpy()[beyond < 0.499].all()


def test_identity_gives_the_image_back():
    random = np.random.default_rng(1)
    image, mask = random.integers(0, 256, (3, 37, 53), np.uint8), random.integers(0, 9, (37, 53), np.uint8)
    window = Geometry((37, 53), flip=0, scale=(1, 1), rotation=0).draw(random, 37, 53)
    assert (window.top, window.left, window.height, window.width) == (0, 0, 37, 53)
    np.testing.assert_allclose(window.matrix, IDENTITY, atol=1e-12)
    warped, warped_mask = warp(cut(image, window), cut(mask, window), [window], (37, 53))
    np.testing.assert_allclose(warped[0], image, atol=5e-3)
    np.testing.assert_array_equal(warped_mask[0], mask)


def test_flip():
    random = np.random.default_rng(2)
    image, mask = random.integers(0, 256, (3, 11, 14), np.uint8), random.integers(0, 9, (11, 14), np.uint8)
    window = Geometry((11, 14), flip=1, scale=(1, 1), rotation=0).draw(random, 11, 14)
    warped, warped_mask = warp(cut(image, window), cut(mask, window), [window], (11, 14))
    np.testing.assert_allclose(warped[0], image[..., ::-1], atol=5e-3)
    np.testing.assert_array_equal(warped_mask[0], mask[:, ::-1])


def test_small_image_stands_whole_in_a_frame_of_ignore():
    random = np.random.default_rng(3)
    mask = random.integers(0, 9, (4, 6), np.uint8)
    image = np.repeat(mask[None], 3, axis=0)
    window = Geometry((10, 12), flip=0, scale=(1, 1), rotation=0).draw(random, 4, 6)
    warped, warped_mask = warp(cut(image, window), cut(mask, window), [window], (10, 12))
    assert (warped_mask != 255).sum() == 24
    assert warped.max() <= 9  # edges are repeated, not blackened nor mixed with ignore


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_the_outer_half_of_a_rim_pixel_belongs_to_the_image(shift):
    image, xs, _ = coordinates(4, 5)
    for reach, ignored in ((shift, 0), (1.01 * shift, 4 + 5 - 1)):
        window = Window(0, 0, 4, 5, ((1.0, 0.0, reach), (0.0, 1.0, reach)))
        mask = warp(cut(image, window), cut(xs, window), [window], (4, 5))[1]
        assert (mask == 255).sum() == ignored


def test_batch_of_windows_of_different_sizes_reads_no_padding():
    random = np.random.default_rng(4)
    windows = [Window(0, 0, 5, 6, IDENTITY), Window(0, 0, 9, 8, IDENTITY)]
    images, masks = np.full((2, 3, 9, 8), 250, np.uint8), np.full((2, 9, 8), 77, np.uint8)
    for k, w in enumerate(windows):
        images[k, :, : w.height, : w.width] = random.integers(0, 9, (3, w.height, w.width))
        masks[k, : w.height, : w.width] = 1
    warped, warped_masks = warp(torch.from_numpy(images), torch.from_numpy(masks), windows, (9, 8))
    assert warped.max() < 9
    assert set(warped_masks.unique().tolist()) == {1, 255}
    assert (warped_masks[0] == 1).sum() == 30


def test_draws_cover_their_ranges_and_are_seeded():
    geometry = Geometry((16, 16), flip=0.5, scale=(0.75, 1.5), rotation=5.0)
    windows = [geometry.draw(np.random.default_rng([0, k]), 60, 80) for k in range(300)]
    assert windows[:9] == [geometry.draw(np.random.default_rng([0, k]), 60, 80) for k in range(9)]
    linear = np.array([w.matrix for w in windows])[..., :2]
    zoom = 1 / np.sqrt(abs(np.linalg.det(linear)))
    assert 0.75 - 1e-9 <= zoom.min() < 0.8 < 1.4 < zoom.max() <= 1.5 + 1e-9
    assert 0.35 < (np.linalg.det(linear) < 0).mean() < 0.65
    angles = np.degrees(np.arctan2(-linear[:, 0, 1], linear[:, 1, 1]))
    assert -5 <= angles.min() < -4 < 4 < angles.max() <= 5


def pictures(seed=0):
    return torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(seed)) * 255


def lights(colour, count=6, seed=0):
    random = np.random.default_rng(seed)
    return [colour.draw(random) for _ in range(count)]


def test_recolour_identity():
    images = pictures()
    result = recolour(images.clone(), lights(Colour(0, 0, 0)))
    torch.testing.assert_close(result, images, rtol=0, atol=0)


@pytest.mark.parametrize(
    "colour", [Colour(), Colour(1, 1, 1), Colour(0.3, 0, 0), Colour(0, 1, 0), Colour(0, 0, 1)], ids=str
)
def test_recolour(colour):
    def once(seed):
        return recolour(pictures(), lights(colour, seed=seed))

    result = once(0)
    assert result.shape == (6, 3, 9, 11)
    assert result.dtype == torch.float32
    assert 0 <= result.min() <= result.max() <= 255
    assert not torch.equal(result, pictures())
    assert torch.equal(result, once(0))
    if colour.strength or colour.noise:
        assert not torch.equal(result, once(1))


def test_an_image_changes_alike_whatever_batch_it_is_in():
    drawn = lights(Colour(0.5, 0.5, 0.5))
    whole = recolour(pictures(), drawn)
    parts = [recolour(part.clone(), drawn[2 * k : 2 * k + 2]) for k, part in enumerate(pictures().split(2))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-4)


def test_probabilities_and_strengths_are_kept():
    drawn = lights(Colour(0.2, 0.25, 0.5), 4000)
    factors = np.array([[light.brightness, light.contrast, light.saturation] for light in drawn])
    assert factors.min() >= 0.8
    assert factors.max() <= 1.2
    assert np.abs(factors.mean(0) - 1).max() < 0.01
    assert np.mean([light.blur for light in drawn]) == pytest.approx(0.25, abs=0.03)
    noisy = [light.noise for light in drawn if light.noise]
    assert len(noisy) / 4000 == pytest.approx(0.5, abs=0.03)
    assert 2 <= min(noisy) <= max(noisy) <= 12


def test_stronger_ranges_are_drawn_and_what_is_off_changes_no_draw():
    strong = lights(Colour(0.2, 0.5, 0.5, blur_radius=3, noise_most=40.0, darkness=0.3, haze=0.25), 4000)
    assert np.bincount([light.blur for light in strong])[1:].tolist() == pytest.approx(
        [2000 / 3] * 3, rel=0.15
    )
    assert 35 < max(light.noise for light in strong) <= 40
    factors = np.array([[light.brightness, light.contrast] for light in strong])
    assert 0.8 * 0.15 <= factors[:, 0].min() < 0.2
    assert (factors[:, 0] < 0.56).mean() == pytest.approx(0.3 * 0.8, abs=0.06)
    assert 0.8 * 0.2 <= factors[:, 1].min() < 0.25
    assert (factors[:, 1] < 0.56).mean() == pytest.approx(0.25 * 0.8, abs=0.06)
    plain = Colour(0.2, 0.5, 0.5)
    assert lights(plain) == lights(
        Colour(0.2, 0.5, 0.5, blur_radius=1, noise_most=12.0, darkness=0.0, haze=0.0)
    )


@pytest.mark.parametrize("radius", [1, 2, 3, 7])
def test_a_blur_has_the_spread_of_its_radius(radius):
    image = torch.zeros(1, 3, 61, 61)
    image[..., 30, 30] = 200.0
    blurred = recolour(image, [Light(blur=radius)])[0, 0].double()
    assert blurred.sum().item() == pytest.approx(200, rel=1e-4)
    variance = (blurred.sum(0) * (torch.arange(61) - 30) ** 2).sum() / blurred.sum()
    assert variance.item() == pytest.approx(2 * radius * (radius + 1) / 3, rel=1e-3)


def test_blur_reaches_beyond_images_smaller_than_itself():
    assert recolour(pictures(), [Light(blur=32)] * 6).isfinite().all()


def test_darkness_and_haze_do_what_they_say():
    image = torch.rand(1, 3, 30, 30, generator=torch.Generator().manual_seed(0)) * 200 + 20
    dark = recolour(image.clone(), [Light(brightness=0.3)])
    torch.testing.assert_close(dark, image * 0.3)
    hazy = recolour(image.clone(), [Light(contrast=0.3)])
    assert hazy.std().item() == pytest.approx(0.3 * image.std().item(), rel=1e-3)
    assert hazy.mean().item() == pytest.approx(image.mean().item(), rel=1e-4)


def test_noise_has_its_strength():
    noisy = recolour(torch.full((1, 3, 80, 80), 128.0), [Light(noise=8.0, seed=3)])
    assert noisy.std().item() == pytest.approx(8, rel=0.03)


def test_brightness_multiplies():
    result = recolour(torch.full((1, 3, 4, 4), 100.0), [Light(brightness=1.2)])
    torch.testing.assert_close(result, torch.full((1, 3, 4, 4), 120.0))


def test_blur_leaves_a_flat_image_flat():
    flat = torch.full((2, 3, 5, 5), 90.0)
    torch.testing.assert_close(recolour(flat.clone(), [Light(blur=True)] * 2), flat)
