"""`predict` against simpler ways to the same figures: mirrored, scaled and tiled predictions, and the precision of scoring."""

import pytest
import torch
from torch import nn

from seglib.data import ClassMap
from seglib.evaluate import predict, scoring_plan
from seglib.params import Evaluate
from seglib.runs import Run, read_json, write_json
from seglib.train import Segmenter, load_checkpoint, make_plan
from seglib.train.model import ModelSpec

CLASSES = ClassMap(("sky", "road", "car"))
PLAN = make_plan("cpu", "fp32")


class Pixelwise(nn.Module):
    """A network without a neighbourhood: however an image is cut, mirrored or padded, a pixel's logits stay the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Identity()
        self.head = nn.Conv2d(3, 3, 1)
        self.sides: list[int] = []

    def forward(self, images):
        self.sides.append(max(images.shape[-2:]))
        return self.head(images)


class Local(nn.Module):
    """A network that divides the image by 8, as encoders do, and sees some 30 pixels around."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Identity()
        layers = [layer for c in (3, 8, 8) for layer in (nn.Conv2d(c, 8, 3, 2, 1), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=8, mode="bilinear"))

    def forward(self, images):
        return self.layers(images)


@pytest.fixture
def pixelwise() -> Segmenter:
    return Segmenter(Pixelwise(), ModelSpec("Unet", "resnet18", CLASSES)).eval()


@pytest.fixture
def trained(trained_root) -> Segmenter:
    return load_checkpoint(Run.open("tiny").best_checkpoint)[0]


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


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 65)])
@pytest.mark.parametrize("tile", [16, 33, 100])
def test_tiles_blend_to_the_whole(pixelwise, size, tile):
    images = images_of(*size)
    whole = predict(pixelwise, images, size, PLAN)
    pixelwise.net.sides.clear()
    tiled = predict(pixelwise, images, size, PLAN, Evaluate(tile=tile))
    assert max(pixelwise.net.sides) <= -(-tile // 32) * 32
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-4)
    resized = predict(pixelwise, images, (50, 20), PLAN, Evaluate(tile=tile))
    torch.testing.assert_close(resized, predict(pixelwise, images, (50, 20), PLAN), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "tile"), [((300, 411), 192), ((97, 500), 224), ((90, 1500), 640)])
def test_tiles_are_exact_where_the_model_sees_no_further(size, tile):
    model = Segmenter(Local(), ModelSpec("Unet", "resnet18", CLASSES)).eval()
    images = images_of(*size)
    whole, tiled = (predict(model, images, size, PLAN, Evaluate(tile=t)) for t in (0, tile))
    assert (tiled - whole).abs().max() < 1e-3
    assert whole.std() > 1e-2


def test_a_run_is_scored_in_the_precision_of_its_training(trained_root):
    run = Run.open("tiny")

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
