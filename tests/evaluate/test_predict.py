"""`predict` against simpler ways to the same figures: mirrored, scaled and tiled predictions, and the precision of scoring."""

import copy
import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from seglib.data import ClassMap
from seglib.evaluate import adapt_norm, predict, scoring_plan
from seglib.params import Evaluate
from seglib.runs import read_json, write_json
from seglib.train import ModelError, Segmenter, load_checkpoint, make_plan
from seglib.train.model import ModelSpec

SPEC = ModelSpec("Unet", "resnet18", ClassMap(("sky", "road", "car")))
PLAN = make_plan("cpu", "fp32")
TILED = ((300, 411), 192), ((97, 500), 210), ((90, 1500), 640), ((1, 1), 9)  # sizes, and their tiles


def segmenter(*layers) -> Segmenter:
    net = nn.Sequential(*layers)
    net.encoder = nn.Identity()
    return Segmenter(net, SPEC)


@pytest.fixture
def pixelwise() -> Segmenter:
    """A network without a neighbourhood: however an image is cut, mirrored or padded, a pixel's logits stay the same."""
    torch.manual_seed(0)
    return segmenter(nn.Conv2d(3, 3, 1)).eval()


@pytest.fixture
def trained(run) -> Segmenter:
    return load_checkpoint(run.best_checkpoint)[0]


def images_of(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


def test_flips_and_scales_average_probabilities(trained):
    images = images_of(32, 64)
    larger = nn.functional.interpolate(images.float(), size=(48, 96), mode="bilinear", align_corners=False)
    one, large = (predict(trained, x, (32, 64), PLAN).softmax(1) for x in (images, larger))
    mirrored = predict(trained, images.flip(-1), (32, 64), PLAN).softmax(1).flip(-1)
    assert (one - mirrored).abs().max() > 1e-3
    for other, how in ((mirrored, {"flip_tta": True}), (large, {"scale_tta": "1.5"})):
        both = predict(trained, images, (32, 64), PLAN, Evaluate(**how)).exp()
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-4, atol=1e-5)


def test_batch_norms_take_a_share_of_their_statistics_from_new_images(trained, pixelwise):
    """All of it: as PyTorch's own update of averaged models; a part: moments of the mixture of old and new."""
    batches = [torch.randint(0, 128, (8, 3, 32, 64), dtype=torch.uint8) for _ in range(2)]
    pictures = [*torch.cat(batches).permute(0, 2, 3, 1).numpy()]
    whole, part, none = (adapt_norm(trained, pictures, PLAN, share) for share in (1.0, 0.25, 0.0))
    reference = copy.deepcopy(trained)
    with torch.inference_mode():
        update_bn(batches, reference)
    models = trained, reference, whole, part
    norms = [[m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] for model in models]
    assert norms[0]
    for old, new, all_new, mixed in zip(*norms, strict=True):
        mean = 0.75 * old.running_mean + 0.25 * new.running_mean
        squares = [norm.running_var + norm.running_mean**2 for norm in (old, new)]
        torch.testing.assert_close(all_new.running_mean, new.running_mean)
        torch.testing.assert_close(all_new.running_var, new.running_var, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed.running_mean, mean)
        variance = 0.75 * squares[0] + 0.25 * squares[1] - mean**2
        torch.testing.assert_close(mixed.running_var, variance, rtol=1e-3, atol=1e-5)
    assert not part.training
    assert not any(norm.training for norm in norms[3])
    images = images_of(32, 64)
    torch.testing.assert_close(none.logits(images), trained.logits(images))
    assert (part.logits(images) - trained.logits(images)).abs().max() > 1e-3
    adapt_norm(trained, [pictures[0][:1, :1]], PLAN, 0.5)  # one value a channel
    torch.testing.assert_close(adapt_norm(trained, [], PLAN, 1.0).logits(images), trained.logits(images))
    with pytest.raises(ModelError, match="needs a network with batch normalisation"):
        adapt_norm(pixelwise, pictures, PLAN, 0.5)


def test_each_image_counts_the_same_and_large_ones_by_their_middle(trained, monkeypatch):
    """Nine images as eight and one; of another size alone; and one whose middle is a tile."""
    module = importlib.import_module("seglib.evaluate.predict")
    monkeypatch.setattr(module, "_TILE", 64)
    images = [*images_of(64, 64).permute(0, 2, 3, 1).numpy()] * 5
    large = np.zeros((200, 96, 3), np.uint8)
    large[68:132, 16:80] = images[0]
    seen = []
    monkeypatch.setattr(trained, "logits", lambda x: seen.append(x), raising=False)
    monkeypatch.setattr(module.copy, "deepcopy", lambda model: model)
    adapt_norm(trained, [*images[:8], large, images[1][:40]], PLAN, 0.5)
    assert [x.shape for x in seen] == [(8, 3, 64, 64), (2, 3, 64, 64), (2, 3, 40, 64)]
    np.testing.assert_array_equal(seen[1][0].permute(1, 2, 0), images[0])
    norm = next(module for module in trained.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.momentum == pytest.approx(1 / 10)


def test_adapting_helps_in_other_light_and_harms_where_the_classes_differ():
    """A pixel's class is its brightness; images of another camera are darker, or show one class alone."""
    torch.manual_seed(0)
    levels = torch.tensor([60.0, 110, 160])
    hidden = [nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    model = segmenter(*hidden, nn.Conv2d(16, 3, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)

    def sample(shown=3):
        truth = torch.randint(0, shown, (8, 32, 32))
        return (levels[truth][:, None] + 8 * torch.randn(8, 3, 32, 32)).clamp(0, 255).byte(), truth

    def right(model, images, truth):
        return (model.logits(images).argmax(1) == truth).float().mean().item()

    for _ in range(150):
        images, truth = sample()
        loss = nn.functional.cross_entropy(model.train().logits(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    (images, truth), (alone, one) = sample(), sample(shown=1)
    dark = (images * 0.55).byte()
    with torch.inference_mode():
        assert right(model, images, truth) > 0.95
        seen = ([*some.permute(0, 2, 3, 1).numpy()] for some in (images, dark, alone))
        half = [adapt_norm(model, pictures, PLAN, 0.5) for pictures in seen]
        assert right(half[0], images, truth) > 0.95  # nothing is lost where nothing differs
        assert right(half[1], dark, truth) > right(model, dark, truth) + 0.1
        assert right(half[2], alone, one) < right(model, alone, one) - 0.1


@pytest.mark.parametrize(("size", "tile"), TILED)
def test_tiles_are_exact_where_the_model_sees_no_further(size, tile):
    """A network that divides the image by 8, as encoders do, and sees some 30 pixels around."""
    torch.manual_seed(1)
    layers = [layer for c in (3, 8, 8) for layer in (nn.Conv2d(c, 8, 3, 2, 1), nn.ReLU())]
    model = segmenter(*layers, nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=8, mode="bilinear")).eval()
    images, sides = images_of(*size), []
    whole = predict(model, images, size, PLAN)
    model.net.register_forward_pre_hook(lambda net, given: sides.extend(given[0].shape[-2:]))
    tiled = predict(model, images, size, PLAN, Evaluate(tile=tile))
    assert max(sides) <= -(-tile // 32) * 32
    assert (tiled - whole).abs().max() < 1e-3
    assert whole.std() > 1e-2


def test_a_run_is_scored_in_the_precision_of_its_training(run):
    def trained_in(asked: str, planned: str | None) -> str:
        write_json(run.params, read_json(run.params) | {"precision": asked})
        write_json(run.path / "environment.json", {"plan": {"precision": planned}} if planned else {})
        return scoring_plan(run, "cpu").precision

    assert trained_in("auto", "fp32") == "fp32"  # what the training chose, not what the CPU could do
    assert trained_in("auto", "bf16") == trained_in("bf16", "fp32") == "bf16"
    usual = make_plan("cpu").precision
    assert trained_in("tf32", "tf32") == trained_in("fp16", "fp16") == trained_in("auto", "tf32") == usual
    assert trained_in("auto", None) == usual
    for layout in ("contiguous", "channels_last"):
        write_json(run.path / "environment.json", {"plan": {"precision": "fp32", "memory_format": layout}})
        assert scoring_plan(run, "cpu").memory_format == layout
