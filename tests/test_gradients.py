"""Every hand-written gradient against central differences in float64: `HybridLoss` with each option, the depthwise convolution."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from seglib.kernels import _Depthwise
from seglib.losses import HybridLoss

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
    return gradcheck(lambda z: loss(z, target).total, (logits,), eps=1e-5, atol=1e-9, rtol=1e-6, fast_mode=True)


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


def test_images_of_several_blocks(monkeypatch):
    monkeypatch.setattr("seglib.losses._CPU_BLOCK", 8)
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
    assert len(sums) == 2
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
    [(1, 1, 1, 3, 1), (2, 2, 1, 5, 1), (2, 0, 1, 3, 2), (1, 2, 2, 3, 1), ((1, 2), (0, 1), 1, (1, 3), 2)],
)
def test_depthwise_convolution(stride, padding, dilation, kernel, multiplier, bias):
    """It is linear in each input, so that differences are exact at any step; small whole numbers are exact in bfloat16 too."""
    generator = torch.Generator().manual_seed(0)

    def whole(*shape):
        return torch.randint(-2, 3, shape, generator=generator).double().requires_grad_()

    def pair(value):
        return value if isinstance(value, tuple) else (value, value)

    inputs = whole(1, 3, 5, 4), whole(3 * multiplier, 1, *pair(kernel)), *([whole(3 * multiplier)] if bias else [])

    def convolution(x, weight, bias=None):
        settings = pair(stride), pair(padding), pair(dilation)
        return _Depthwise.apply(x, weight.float(), None if bias is None else bias.float(), *settings).double()

    expected = torch.nn.functional.conv2d(*inputs, *([] if bias else [None]), stride, padding, dilation, 3)
    assert torch.equal(convolution(*inputs), expected)
    assert gradcheck(convolution, inputs, eps=1.0, atol=0, rtol=0)
