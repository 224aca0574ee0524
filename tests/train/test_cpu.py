"""`accelerate`: an accelerated model computes what the plain one does, up to rounding, and copies of it stand alone."""

import copy

import pytest
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import nn

from seglib.train import accelerate

LAST = torch.channels_last


def accelerated(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    assert accelerate(module)
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(16, 33), (9, 10), (3, 4), (2, 1)], ids=str)
def test_depthwise_convolutions_against_float64(size, kernel, stride, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 32, kernel, stride, kernel // 2, groups=32, bias=bias)
    plain.load_state_dict({name: value.bfloat16() for name, value in plain.state_dict().items()})
    quick = accelerated(plain)
    x = torch.randn(2, 32, *size).bfloat16().to(memory_format=LAST).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = quick(x)
    assert found.grad_fn.name().startswith("_Depthwise")
    assert found.dtype == torch.bfloat16
    by = torch.randn(found.shape).bfloat16()
    slopes = torch.autograd.grad(found, (x, *quick.parameters()), by)
    exact, exact_x = copy.deepcopy(plain).double(), x.detach().double().requires_grad_()
    y = exact(exact_x)
    expected = torch.autograd.grad(y, (exact_x, *exact.parameters()), by.double())
    close = zip((found, *slopes), (y, *expected), (4e-3, 4e-3, 1e-5, 1e-5), strict=False)
    for value, right, most in close:  # results and slopes by x are rounded to bfloat16
        assert (value.double() - right).abs().max() <= most * right.abs().max()
    assert torch.equal(quick(x.float()), plain(x.float()))  # without autocast it is torch's own


OTHERS = [
    nn.Conv2d(8, 8, 3, 1, 1, groups=4),
    nn.Conv2d(8, 16, 3, 1, 1, groups=8),
    nn.Conv2d(8, 8, 3, 1, 0, groups=8),
    nn.Conv2d(8, 8, 3, 1, 2, dilation=2, groups=8),
    nn.Conv2d(8, 8, 3, 3, 1, groups=8),
    nn.Conv2d(8, 8, (1, 3), 1, (0, 1), groups=8),
    nn.Conv2d(8, 8, 3, 1, 1, groups=8, padding_mode="reflect"),
    nn.Conv2d(1, 1, 3, 1, 1),
    UnetDecoderBlock(16, 16, 16, "batchnorm", "scse"),
    UnetDecoderBlock(16, 16, 16, "batchnorm", None, "bilinear"),
]


@pytest.mark.parametrize("module", OTHERS, ids=str)
def test_what_does_not_fit_is_left_alone(module):
    assert accelerate(module) == []
    assert not any("forward" in vars(part) for part in module.modules())


def results(block: nn.Module, size: tuple[int, int], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a block makes of features and, if given, of the encoder's; its slope by these and by every parameter."""
    inputs = [values.clone().requires_grad_() for values in inputs]
    y = block(inputs[0], *size, *(values.to(memory_format=LAST) for values in inputs[1:]))
    by = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    wanted = [values for values in (*inputs, *block.parameters()) if values.numel()]
    return [y.detach(), *torch.autograd.grad(y, wanted, by)]


@pytest.mark.parametrize("norm", ["batchnorm", "instancenorm", "identity"])
@pytest.mark.parametrize("skip", [None, 0, 3])
@pytest.mark.parametrize(("channels", "size"), [(4, (3, 5)), (1, (2, 1)), (2, (1, 2))], ids=str)
def test_blocks_of_a_unet_in_float64(channels, size, skip, norm):
    torch.manual_seed(0)
    plain = UnetDecoderBlock(channels, skip or 0, 5, norm).double()
    quick = accelerated(plain)
    assert quick.state_dict().keys() == plain.state_dict().keys()
    large = 2 * size[0], 2 * size[1]
    inputs = [torch.randn(2, channels, *size, dtype=torch.float64)]
    inputs += [] if skip is None else [torch.randn(2, skip, *large, dtype=torch.float64)]
    expected = results(plain, large, *inputs)
    for block in (quick, copy.deepcopy(quick)):
        for found, right in zip(results(block, large, *inputs), expected, strict=True):
            assert torch.allclose(found, right, rtol=1e-10, atol=1e-10)
    nn.init.zeros_(block.conv1[0].weight)  # of the copy, which stands alone
    assert torch.allclose(results(quick, large, *inputs)[0], expected[0], rtol=1e-10, atol=1e-10)
    if not skip:
        for other in ((2 * size[0], 2 * size[1] + 1), (4 * size[0], 4 * size[1])):
            assert all(map(torch.equal, results(quick, other, inputs[0]), results(plain, other, inputs[0])))
