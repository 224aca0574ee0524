"""Batch normalization with its activation in one, against torch's in float64."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from seglib.train.normalization import fuse_normalization
from timm.layers import BatchNormAct2d
from torch import nn

from seglib.train import channelwise

ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8}  # of the largest value
ACTIVATIONS = [nn.Identity, nn.ReLU, nn.ReLU6]


def layers(channels: int, activation: type[nn.Module], of_timm: bool = False) -> nn.Module:
    torch.manual_seed(channels)
    if of_timm:
        model = norm = BatchNormAct2d(channels, act_layer=activation)
    else:
        model = nn.Sequential(nn.BatchNorm2d(channels), activation())
        norm = model[0]
    nn.init.normal_(norm.weight, 1, 0.5)
    nn.init.normal_(norm.bias, 0, 0.5)
    return model


def features(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 3.0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + mean
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def trained(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The result, the slopes by features and parameters, and the buffers behind one pass."""
    x = x.clone().requires_grad_()
    y = model(x)
    by = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16().to(y.dtype)
    slopes = torch.autograd.grad(
        y, [x, *model.parameters()], by.contiguous(memory_format=torch.channels_last)
    )
    return [y.detach(), *slopes, *(buffer.clone() for buffer in model.buffers())]


def close(found: list[torch.Tensor], right: list[torch.Tensor], share: float) -> bool:
    pairs = zip(found, right, strict=True)
    return all(
        (a.double() - b.double()).abs().max() <= share * b.double().abs().max() + 1e-9 for a, b in pairs
    )


@pytest.mark.parametrize("of_timm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(
    "shape", [(3, 5, 7, 9), (1, 700, 3, 5), (2, 16, 96, 100), (3, 1, 3, 1), (1, 3, 2, 5)], ids=str
)
def test_training_against_float64(shape, dtype, activation, of_timm):
    plain = layers(shape[1], activation, of_timm)
    fused = copy.deepcopy(plain)
    fuse_normalization(fused)
    x = features(shape, dtype)
    exact = copy.deepcopy(plain).double()
    right = trained(exact, x.double())
    found = trained(fused, x)
    assert found[0].dtype == x.dtype
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert close(found[:1], right[:1], ROUNDING[dtype])
    assert close(found[1:2], right[1:2], 4 * ROUNDING[dtype])
    assert close(found[2:], right[2:], 1e-4)
    assert found[-1] == 1  # batches tracked


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_prediction_against_float64(dtype, activation):
    plain = layers(6, activation)
    plain.train()(features((4, 6, 9, 9), torch.float32))
    plain.eval()
    fused = copy.deepcopy(plain)
    fuse_normalization(fused)
    x = features((2, 6, 5, 7), dtype)
    with torch.no_grad():
        right = plain.double()(x.double())
        assert close([fused(x)], [right], ROUNDING[dtype])
    assert close([fused(x.float())], [right], 1e-5)  # with gradients, torch's own


def test_features_far_from_zero_keep_their_variance():
    plain, x = layers(4, nn.Identity), features((4, 4, 50, 50), torch.float32, mean=3000.0)
    fused = copy.deepcopy(plain)
    fuse_normalization(fused)
    assert close([fused(x)], [plain.double()(x.double())], 1e-3)


def test_any_number_of_threads_and_either_pool_give_the_same(monkeypatch):
    fused, x = layers(16, nn.ReLU), features((2, 16, 150, 151), torch.bfloat16)
    fuse_normalization(fused)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(trained(copy.deepcopy(fused), x))
        with monkeypatch.context() as patch:
            patch.setattr(channelwise, "_team", lambda dtype: None)
            results.append(trained(copy.deepcopy(fused), x))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, results[-1], results[-2]))  # the same parts
    for other in results[1:3]:
        assert torch.equal(other[0], results[0][0])
        assert close(other[1:], results[0][1:], 2e-3)


def test_what_is_left_to_torch():
    plain = layers(3, nn.ReLU)
    fused = copy.deepcopy(plain)
    fuse_normalization(fused)
    x = torch.randn(2, 3, 4, 5)  # contiguous
    assert all(map(torch.equal, trained(fused, x), trained(plain, x)))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fused(torch.randn(1, 3, 1, 1))
    several = layers(3, nn.ReLU)
    fuse_normalization(several)
    several[0].forward = lambda x: -x  # as several processes give it a way of their own
    assert several(torch.ones(1, 3, 1, 1)).sum() == 0


def test_not_a_number_stays_one():
    fused = layers(3, nn.ReLU)
    fuse_normalization(fused)
    x = features((2, 3, 8, 8), torch.bfloat16)
    x[0, 1, 2, 3] = float("nan")
    assert fused(x)[:, 1].isnan().all()
    assert not fused(x)[:, 0].isnan().any()


@pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite0", "resnet18", "mobilenet_v2"])
def test_a_whole_network(encoder):
    torch.manual_seed(0)
    plain = smp.Unet(encoder, encoder_weights=None, classes=3).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fuse_normalization(fused)
    x = features((2, 3, 64, 64), torch.float32)
    with torch.no_grad():
        y = copy.deepcopy(fused)(x)  # a copy stands alone
        right, rounded = copy.deepcopy(plain).double()(x.double()), copy.deepcopy(plain)(x)
    wrong, usual = (float((v - right).norm() / right.norm()) for v in (y, rounded))
    assert wrong <= 5 * usual + 1e-5
    assert fused.state_dict().keys() == plain.state_dict().keys()
    norms = [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all("forward" in vars(norm) for norm in norms)
