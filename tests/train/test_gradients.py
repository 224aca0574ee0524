"""Hand-written gradients: against central differences in float64 torch's way through `HybridLoss`, with each option, and the depthwise
convolution; against torch's own what upsamples. The loss's compiled loops know no float64: `test_losses` has them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import nn
from torch.autograd import gradcheck

from seglib.train.cpu import _Depthwise, fold_upsampling, replace_doubling
from seglib.train.loss import HybridLoss

IGNORE = 255
WEIGHTS = [0.5, 2.0, 0.0, 3.0]


def batch(shape=(2, 4, 3, 4), ignored=0.25, absent=(), spread=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    for c in absent:
        target[target == c] = shape[1] - 1
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return logits.requires_grad_(), target


def right(logits, target, *terms, **options) -> bool:
    """Whether the gradient is what central differences say, along a random direction; relative 1e-6."""
    loss = HybridLoss(*terms, **options)
    return gradcheck(
        lambda z: loss(z, target).total, (logits,), eps=1e-5, atol=1e-9, rtol=1e-6, fast_mode=True
    )


def test_every_logit_on_its_own():
    logits, target = batch((2, 3, 2, 2))
    loss = HybridLoss(1.0, 2.0, 3.0, class_weights=[0.5, 2.0, 1.0], label_smoothing=0.1)
    assert gradcheck(lambda z: loss(z, target).total, (logits,), eps=1e-5, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("terms", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.3, 2.0, 5.0)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_terms_weights_and_smoothing(terms, class_weights, smoothing):
    assert right(*batch(), *terms, class_weights=class_weights, label_smoothing=smoothing)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_focal_gamma(gamma):
    assert right(*batch(seed=1), 0, 0, 1, gamma=gamma, class_weights=WEIGHTS)


@pytest.mark.parametrize(
    "options",
    [
        {"ignored": 0.0},
        {"ignored": 0.9},
        {"ignored": 1.0},
        {"absent": (0, 1)},
        {"absent": (0, 1, 2)},
        {"shape": (1, 1, 2, 3)},
        {"shape": (1, 3, 1, 1), "ignored": 0.0},
        {"spread": 30.0},  # sure, and often wrong
    ],
    ids=str,
)
def test_whatever_is_in_the_batch(options):
    logits, target = batch(seed=2, **options)
    assert right(logits, target, label_smoothing=0.1)
    assert right(logits.detach().to(memory_format=torch.channels_last).requires_grad_(), target)


def test_a_batch_of_several_blocks(monkeypatch):
    monkeypatch.setattr("seglib.train.loss._BLOCK", 8)
    assert right(*batch((2, 4, 5, 4), seed=3), class_weights=WEIGHTS, label_smoothing=0.1)


def test_a_share_of_a_batch_that_several_processes_hold():
    """Each process: the loss of all, the gradient by its own logits. The other's sums are recorded first, then added."""
    (mine, mine_target), (other, other_target) = batch(seed=4), batch(seed=5, absent=(1,))
    options = {"class_weights": WEIGHTS, "label_smoothing": 0.1}
    sums = []
    HybridLoss(reduce=lambda values: sums.append(values) or values, **options)(other, other_target)

    def total(z):
        queue = iter(sums)
        return HybridLoss(reduce=lambda values: values + next(queue), **options)(z, mine_target).total

    whole = HybridLoss(**options)(torch.cat([mine, other]), torch.cat([mine_target, other_target]))
    assert len(sums) == 1
    assert total(mine).item() == pytest.approx(whole.total.item(), rel=1e-12)
    assert gradcheck(total, (mine,), eps=1e-5, atol=1e-9, rtol=1e-6, fast_mode=True)


def test_a_loss_of_logits_beyond_the_range_of_exp():
    logits = torch.tensor([[95.0, -95.0, 300.0]]).view(1, 3, 1, 1)
    for dtype, most in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        found = HybridLoss()(logits.to(dtype), torch.zeros(1, 1, 1, dtype=torch.long))
        # Class 2 is surely there and should not be: softplus(300) = 300; class 0 is surely there and should.
        assert found.focal.item() == pytest.approx(300 / 3, rel=most)
        assert found.ce.item() == pytest.approx(205, rel=most)


def test_nobody_differentiates_twice():
    """The gradient is no function of the logits to autograd: a second derivative would silently lack a part."""
    logits, target = batch()
    (first,) = torch.autograd.grad(HybridLoss()(logits, target).total ** 2, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "kernel", "multiplier"),
    [
        *((stride, kernel // 2, 1, kernel, 1) for stride in (1, 2) for kernel in (3, 5, 7)),
        (3, 2, 1, 5, 1),
        (1, 4, 1, 9, 1),
        (2, 0, 1, 3, 2),
        (1, 2, 1, 5, 2),
        (1, 2, 2, 3, 1),
        ((1, 2), (0, 1), 1, (1, 3), 2),
    ],
)
def test_depthwise_convolution(stride, padding, dilation, kernel, multiplier, bias):
    """It is linear in each input, so that differences are exact at any step; small whole numbers are exact in bfloat16 too."""
    generator = torch.Generator().manual_seed(0)

    def whole(*shape):
        return torch.randint(-2, 3, shape, generator=generator).double().requires_grad_()

    def pair(value):
        return value if isinstance(value, tuple) else (value, value)

    inputs = (
        whole(1, 3, 5, 4),
        whole(3 * multiplier, 1, *pair(kernel)),
        *([whole(3 * multiplier)] if bias else []),
    )

    def convolution(x, weight, bias=None):
        x, settings = x.to(memory_format=torch.channels_last), (pair(stride), pair(padding), pair(dilation))
        return _Depthwise.apply(x, weight.float(), None if bias is None else bias.float(), *settings).double()

    expected = F.conv2d(*inputs, *([] if bias else [None]), stride, padding, dilation, 3)
    assert torch.equal(convolution(*inputs), expected)
    assert gradcheck(convolution, inputs, eps=1.0, atol=0, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(16, 33), (9, 10), (3, 4), (2, 1)], ids=str)
def test_depthwise_convolution_of_any_size(size, kernel, stride):
    """Of many channels and several images, against torch's own gradient in float64."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(2, 32, *size, generator=generator),
        torch.randn(32, 1, kernel, kernel, generator=generator),
    )
    x = x.bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    weight = weight.bfloat16().float().requires_grad_()  # what the convolution sees
    found = _Depthwise.apply(x, weight, None, (stride,) * 2, (kernel // 2,) * 2, (1, 1))
    by = torch.randn(found.shape, generator=generator).bfloat16()
    slopes = torch.autograd.grad(found, (x, weight), by)
    exact = [values.detach().double().requires_grad_() for values in (x, weight)]
    expected = torch.autograd.grad(F.conv2d(*exact, None, stride, kernel // 2, 1, 32), exact, by.double())
    for slope, right, most in zip(slopes, expected, (4e-3, 1e-5), strict=True):  # one is rounded to bfloat16
        assert (slope.double() - right).abs().max() <= most * right.abs().max()


class Upsampling(nn.Module):
    """Upsamples as decoders do and joins the result with what it is given."""

    def __init__(self, options: dict) -> None:
        super().__init__()
        self.options = options

    def forward(self, x, skip):
        up = F.interpolate(x, **self.options)
        self.gradient = up.grad_fn.name()
        return torch.cat([up, skip], 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("options", "doubles"),
    [
        ({"scale_factor": 2}, True),
        ({"scale_factor": 2.0, "mode": "nearest"}, True),
        ({"size": (6, 10), "mode": "nearest"}, True),
        ({"size": torch.Size([6, 10])}, True),
        ({"size": (6, 11)}, False),
        ({"size": 6}, False),
        ({"scale_factor": 4}, False),
        ({"scale_factor": (2, 1)}, False),
        ({"scale_factor": 2, "mode": "bilinear"}, False),
    ],
    ids=str,
)
def test_upsampling(options, doubles, memory_format, dtype):
    """torch's own gradient, digit by digit, and through copies of the model."""
    plain = Upsampling(options)
    quick = Upsampling(options)
    replace_doubling(quick)
    x = torch.randn(2, 3, 3, 5).to(dtype).to(memory_format=memory_format).requires_grad_()
    skip = torch.randn(2, 4, *F.interpolate(x, **options).shape[2:]).to(dtype).to(memory_format=memory_format)
    for model in (quick, copy.deepcopy(quick)):
        expected, found = plain(x, skip), model(x, skip)
        assert torch.equal(found, expected)
        assert model.gradient.startswith("_Doubled") == doubles
        by = torch.randn_like(expected)
        (slope,), (right,) = (torch.autograd.grad(y, x, by) for y in (found, expected))
        assert torch.equal(slope, right)


def test_a_copy_of_a_model_that_upsamples_quickly_stands_alone():
    model = nn.Linear(1, 1)
    replace_doubling(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight.zero_()
        other.bias.zero_()
    assert other(torch.ones(1, 1)).item() == 0
    assert model(torch.ones(1, 1)).item() != 0


def results(block: nn.Module, size: tuple[int, int], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a block makes of features and, if given, of the encoder's; its slope by these and by every parameter."""
    inputs = [values.clone().requires_grad_() for values in inputs]
    y = block(inputs[0], *size, *(values.to(memory_format=torch.channels_last) for values in inputs[1:]))
    by = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, [*inputs, *block.parameters()], by)]


def unet_block(channels: int, skip: int, *options, seed: int = 0) -> UnetDecoderBlock:
    torch.manual_seed(seed)
    return UnetDecoderBlock(channels, skip, 5, *options).double()


@pytest.mark.parametrize("norm", ["batchnorm", "instancenorm", "identity"])
@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize(("channels", "size"), [(4, (3, 5)), (1, (2, 1)), (2, (1, 2))], ids=str)
def test_a_block_that_convolves_before_it_upsamples(channels, size, skip, norm):
    plain = unet_block(channels, skip, norm)
    quick = copy.deepcopy(plain)
    fold_upsampling(quick)
    large = 2 * size[0], 2 * size[1]
    inputs = [torch.randn(2, channels, *size, dtype=torch.float64)]
    inputs += [torch.randn(2, skip, *large, dtype=torch.float64)] if skip else []
    expected = results(plain, large, *inputs)
    for block in (quick, copy.deepcopy(quick)):
        assert block.forward.args[0] is block  # a copy stands alone
        for found, right in zip(results(block, large, *inputs), expected, strict=True):
            assert torch.allclose(found, right, rtol=1e-10, atol=1e-10)


def test_blocks_and_sizes_that_are_left_alone():
    for options in (("batchnorm", "scse"), ("batchnorm", None, "bilinear")):
        block = UnetDecoderBlock(16, 16, 16, *options)
        fold_upsampling(block)
        assert "forward" not in vars(block)
    plain = unet_block(4, 0)
    quick = copy.deepcopy(plain)
    fold_upsampling(quick)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    for size in ((6, 11), (3, 5), (12, 20)):
        assert all(map(torch.equal, results(quick, size, x), results(plain, size, x)))
