"""HybridLoss against torch's cross-entropy and SMP's Dice and focal losses, in float64."""

import math

import numpy as np
import pytest
import torch
from conftest import raised
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from seglib import metrics
from seglib.train import ConfusionCounts, HybridLoss
from seglib.train import loss as losses

IGNORE = 255
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]
ALL = (1.0, 1.0, 1.0)
SHAPES = [(1, 5, 1, 1), (1, 5, 1, 13), (3, 5, 11, 1), (2, 1, 4, 5), (2, 2, 3, 3), (1, 40, 9, 7)]
DIGITS = (torch.bfloat16, 8e-3), (torch.float16, 1e-3), (torch.float64, 1e-6)


def batch(shape=(2, 5, 6, 7), ignored=0.2, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * spread
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return logits, target


def reference(logits, target, terms, class_weights=None, label_smoothing=0.0):
    """(total, ce, dice, focal) and d total / d logits, in float64 by other people's code, one class at a time."""
    z, target = logits.detach().double().requires_grad_(), target.long()
    classes = z.shape[1]
    weights = torch.ones(classes).double() if class_weights is None else torch.tensor(class_weights).double()
    how = {"weight": weights, "ignore_index": IGNORE, "label_smoothing": label_smoothing}
    ce = torch.nn.functional.cross_entropy(z, target, **how)
    dice_c, focal_c = [], []
    for c in range(classes):
        one = torch.where(target == IGNORE, IGNORE, (target == c).long())
        dice_c.append(DiceLoss("multiclass", classes=[c], ignore_index=IGNORE)(z, target))
        focal_c.append(FocalLoss("binary", gamma=2, ignore_index=IGNORE)(z[:, c], one))
    share = weights / weights.sum()
    dice, focal = (torch.stack(dice_c) * share).sum(), (torch.stack(focal_c) * share).sum()
    total = terms[0] * ce + terms[1] * dice + terms[2] * focal
    return (total, ce, dice, focal), torch.autograd.grad(total, z)[0]


def ours(logits, target, terms=ALL, **options):
    z = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    values = HybridLoss(*terms, **options)(z, target)
    values.total.backward()
    return values, z.grad


def assert_equal_to_reference(logits, target, terms=ALL, **options):
    values, gradient = ours(logits, target, terms, **options)
    expected, expected_gradient = reference(logits, target, terms, **options)
    for name, value, other in zip(values._fields, values, expected, strict=True):
        assert value.item() == pytest.approx(other.item(), rel=2e-6, abs=1e-7), name
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=2e-6 * scale)
    assert gradient.dtype == logits.dtype


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("terms", [(1, 0, 0), (0, 1, 0), (0, 0, 1), ALL, (0.3, 2.0, 5.0)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_terms_alone_and_together(terms, class_weights, smoothing):
    assert_equal_to_reference(*batch(), terms, class_weights=class_weights, label_smoothing=smoothing)


@pytest.mark.parametrize("ignored", [0.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_kinds_of_ids(shape, ignored):
    logits, target = batch(shape, ignored if shape[2] * shape[3] > 1 else 0.0, seed=2)
    for kind in (torch.uint8, torch.int32, torch.int64):
        assert_equal_to_reference(logits.to(memory_format=torch.channels_last), target.to(kind))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("block", [1, 100, 500, 1 << 26], ids=["a pixel", "pixels", "two images", "all"])
def test_blocks(block, memory_format, monkeypatch):
    monkeypatch.setattr(losses, "_CPU_BLOCK", block)
    logits, target = batch((5, 5, 6, 7), seed=4)
    assert_equal_to_reference(logits.to(memory_format=memory_format), target, class_weights=WEIGHTS)
    # A view with strides of its own, as slicing makes them.
    assert_equal_to_reference(logits.transpose(2, 3)[..., 1:], target.transpose(1, 2)[..., 1:])


def test_extreme_logits():
    logits = torch.tensor([[95.0, -95.0, 300.0]]).view(1, 3, 1, 1)
    for dtype, most in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        found = HybridLoss()(logits.to(dtype), torch.zeros(1, 1, 1, dtype=torch.long))
        # Class 2 is surely there and should not be: softplus(300) = 300; class 0 is surely there and should.
        assert found.focal.item() == pytest.approx(300 / 3, rel=most)
        assert found.ce.item() == pytest.approx(205, rel=most)
    logits, target = batch(seed=12)
    values, gradient = ours(logits * 1e4, target)
    assert all(torch.isfinite(value) for value in (*values, gradient.sum()))


@pytest.mark.parametrize(("dtype", "digits"), DIGITS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_other_float_types(dtype, digits, memory_format):
    logits, target = batch((2, 5, 12, 17), seed=7)
    logits = logits.to(dtype, memory_format=memory_format)
    values, gradient = ours(logits, target)
    expected, expected_gradient = reference(logits, target, ALL)
    assert gradient.dtype == dtype
    assert gradient.is_contiguous(memory_format=memory_format)
    assert {value.dtype for value in values} == {torch.promote_types(dtype, torch.float32)}
    assert values.total.item() == pytest.approx(expected[0].item(), rel=2e-6)
    assert (gradient.double() - expected_gradient).abs().max() <= digits * expected_gradient.abs().max()


@pytest.mark.parametrize("terms", [(1, 0, 0), (0, 1, 0), (0, 0, 1), ALL], ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (0, 5, 6, 7)], ids=str)
def test_without_a_valid_pixel_or_image_it_costs_nothing(terms, shape):
    logits, target = batch(shape)
    values, gradient = ours(logits, torch.full_like(target, IGNORE), terms)
    assert [value.item() for value in values] == [0, 0, 0, 0]
    assert gradient.shape == shape
    assert not gradient.any()


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf, -3e38], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_ignored_pixels_get_no_gradient_whatever_the_model_says_there(value, smoothing, dtype):
    logits, target = batch(seed=11)
    logits, ignored = logits.to(dtype), target == IGNORE
    values, gradient = ours(logits, target, label_smoothing=smoothing)
    assert not gradient.permute(1, 0, 2, 3)[:, ignored].any()
    other = torch.where(ignored[:, None], logits.new_tensor(value, dtype=torch.float64).to(dtype), logits)
    again, gradient_again = ours(other, target, label_smoothing=smoothing)
    assert again == values
    assert torch.equal(gradient_again, gradient)


def test_only_the_total_carries_a_gradient_and_that_once():
    logits, target = batch()
    values = HybridLoss()(logits.requires_grad_(), target)
    assert [value.requires_grad for value in values] == [True, False, False, False]
    (first,) = torch.autograd.grad(values.total, logits, retain_graph=True)
    (again,) = torch.autograd.grad(3 * values.total, logits)
    torch.testing.assert_close(again, 3 * first)
    with torch.no_grad():
        assert not HybridLoss()(logits, target).total.requires_grad
    for power in (1, 2):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(HybridLoss()(logits, target).total ** power, logits, create_graph=True)


def test_parts_of_a_batch_in_several_processes_make_the_whole_loss():
    logits, target = batch((4, 5, 6, 7), seed=13)
    options = {"class_weights": WEIGHTS, "label_smoothing": 0.1}
    whole, whole_gradient = ours(logits, target, **options)
    parts, sums = [(logits[part], target[part]) for part in (slice(0, 1), slice(1, 4))], []
    for part in parts:
        ours(*part, reduce=lambda own: sums.append(own.clone()) or own, **options)
    found = [ours(*part, reduce=lambda _: sums[0] + sums[1], **options) for part in parts]
    for values, _ in found:
        torch.testing.assert_close(tuple(values), tuple(whole), rtol=1e-6, atol=0)
    together = torch.cat([gradient for _, gradient in found])
    torch.testing.assert_close(together, whole_gradient, rtol=1e-5, atol=1e-9)


def test_other_shapes_and_a_loss_of_nothing_are_refused():
    raised(ValueError, "focal_weight are all 0", HybridLoss, 0, 0, 0)
    for shape, target in (((5,), (5,)), ((2, 5, 6, 7), (2, 7, 6)), ((2, 5, 6, 7), (2, 1, 6, 7))):
        raised(ValueError, "expected logits", HybridLoss(), torch.zeros(shape), torch.zeros(target).long())


def test_counts_as_a_metric_are_those_of_metrics_from_ids_bytes_and_logits_and_stand_in_a_collection():
    random = np.random.default_rng(0)
    truth, guess = random.integers(0, 4, (2, 6, 9, 11))
    pred = np.where(random.random(truth.shape) < 0.6, truth, guess)
    truth[random.random(truth.shape) < 0.1] = IGNORE
    counts = np.stack([metrics.confusion_matrix(t, p, 4) for t, p in zip(truth, pred, strict=True)])
    pred, truth = torch.from_numpy(pred), torch.from_numpy(truth)
    logits = torch.nn.functional.one_hot(pred, 4).permute(0, 3, 1, 2).float()
    for absent in metrics.POLICIES:
        expected = metrics.scores(counts, absent)
        for given, target in ((pred, truth), (pred.byte(), truth.byte()), (logits, truth)):
            jaccard = MulticlassJaccardIndex(4, ignore_index=IGNORE)
            collection = MetricCollection({"counts": ConfusionCounts(4, absent), "jaccard": jaccard})
            for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
                collection.update(given[part], target[part])
            found = {name: value.item() for name, value in collection.compute().items()}
            assert found.pop("jaccard") == pytest.approx(found["mean_iou"], abs=1e-6)
            assert found == expected
