"""HybridLoss against torch's cross-entropy and SMP's Dice and focal losses in float64, values and gradients."""

import itertools
import math
import threading

import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss

from seglib.train import loss as losses
from seglib.train import pixelwise
from seglib.train.loss import HybridLoss

IGNORE = 255
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]


@pytest.fixture(autouse=True, params=["loops", "torch"])
def way(request, monkeypatch):
    """Both ways of computing it; what the loops do not know torch computes anyway."""
    if request.param == "torch":
        monkeypatch.setattr(pixelwise, "fits", lambda _: False)
    return request.param


def batch(shape=(2, 5, 6, 7), ignored=0.2, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * spread
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return logits, target


def reference(logits, target, terms, class_weights=None, gamma=2.0):
    """(total, ce, dice, focal) and d total / d logits, in float64 by other people's code, one class at a time."""
    z = logits.detach().double().requires_grad_()
    classes = z.shape[1]
    weights = torch.ones(classes).double() if class_weights is None else torch.tensor(class_weights).double()
    ce = torch.nn.functional.cross_entropy(z, target, weight=weights, ignore_index=IGNORE)
    dice_c, focal_c = [], []
    for c in range(classes):
        one = torch.where(target == IGNORE, IGNORE, (target == c).long())
        dice_c.append(DiceLoss("multiclass", classes=[c], ignore_index=IGNORE)(z, target))
        focal_c.append(FocalLoss("binary", gamma=gamma, ignore_index=IGNORE)(z[:, c], one))
    share = weights / weights.sum()
    dice, focal = (torch.stack(dice_c) * share).sum(), (torch.stack(focal_c) * share).sum()
    total = terms[0] * ce + terms[1] * dice + terms[2] * focal
    return (total, ce, dice, focal), torch.autograd.grad(total, z)[0]


def ours(logits, target, terms, **options):
    z = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    values = HybridLoss(*terms, **options)(z, target)
    values.total.backward()
    return values, z.grad


def assert_equal_to_reference(logits, target, terms=(1.0, 1.0, 1.0), class_weights=None, gamma=2.0):
    values, gradient = ours(logits, target, terms, class_weights=class_weights, gamma=gamma)
    expected, expected_gradient = reference(logits, target, terms, class_weights, gamma)
    for name, value, other in zip(values._fields, values, expected, strict=True):
        assert value.item() == pytest.approx(other.item(), rel=2e-6, abs=1e-7), name
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=2e-6 * scale)
    assert gradient.dtype == logits.dtype


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("terms", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.3, 2.0, 5.0)], ids=str)
def test_terms_alone_and_together(terms, class_weights):
    assert_equal_to_reference(*batch(), terms, class_weights)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_gamma(gamma):
    assert_equal_to_reference(*batch(seed=1), (0, 0, 1), gamma=gamma)
    assert_equal_to_reference(*batch(seed=1), (1, 1, 1), WEIGHTS, gamma)


@pytest.mark.parametrize("ignored", [0.0, 0.6])
@pytest.mark.parametrize(
    "shape", [(1, 5, 1, 1), (1, 5, 1, 13), (3, 5, 11, 1), (2, 1, 4, 5), (2, 2, 3, 3), (1, 19, 9, 7)], ids=str
)
def test_shapes(shape, ignored):
    assert_equal_to_reference(*batch(shape, ignored if shape[2] * shape[3] > 1 else 0.0, seed=2))


def test_defaults_are_the_plain_sum_of_three():
    logits, target = batch()
    values = HybridLoss()(logits, target)
    assert values.total.item() == pytest.approx((values.ce + values.dice + values.focal).item(), rel=1e-6)
    expected, _ = reference(logits, target, (1, 1, 1))
    assert values.total.item() == pytest.approx(expected[0].item(), rel=2e-6)


def test_smp_as_a_whole():
    logits, target = batch(seed=3)
    values = HybridLoss()(logits, target)
    z = logits.double()
    assert values.dice.item() == pytest.approx(
        DiceLoss("multiclass", ignore_index=IGNORE)(z, target).item(), rel=2e-6
    )
    assert values.focal.item() == pytest.approx(
        FocalLoss("multiclass", ignore_index=IGNORE)(z, target).item(), rel=2e-6
    )


@pytest.mark.parametrize("way", ["torch"], indirect=True)
@pytest.mark.parametrize("block", [1, 500, 1 << 26], ids=["an image", "two images", "all"])
def test_blocks_of_images(block, monkeypatch):
    monkeypatch.setattr(losses, "_BLOCK", block)
    monkeypatch.setattr(losses, "_LANES", 8)
    assert_equal_to_reference(*batch((5, 5, 6, 7), seed=4), class_weights=WEIGHTS)


@pytest.mark.parametrize("side", [1, 127, 128, 129, 4200])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_images_that_fill_tiles_and_that_do_not(side, memory_format):
    logits, target = batch((3, 5, 1, side), seed=5)
    assert_equal_to_reference(logits.to(memory_format=memory_format), target, class_weights=WEIGHTS)


@pytest.mark.parametrize("way", ["loops"], indirect=True)
def test_parts_for_several_threads(monkeypatch):
    monkeypatch.setattr(pixelwise, "_PART", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for shape in ((1, 5, 16, 16), (3, 5, 9, 30)):
        assert_equal_to_reference(*batch(shape, seed=6), class_weights=WEIGHTS)
        monkeypatch.setattr(pixelwise, "_team", lambda _: None)  # where torch's own threads cannot be asked


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 150])
def test_numbers_of_classes(classes):
    logits, target = batch((2, classes, 8, 9), seed=7)
    assert_equal_to_reference(logits.to(memory_format=torch.channels_last), target)


def test_what_is_not_a_number_is_not_hidden():
    for value in (float("nan"), float("inf")):
        logits, target = batch((1, 3, 4, 40), ignored=0)
        logits[0, 1, 2, 3] = value
        values = HybridLoss()(logits, target)
        assert not any(math.isfinite(term.item()) for term in (values.total, values.ce, values.dice))


@pytest.mark.parametrize("ruled_out", range(4))
@pytest.mark.parametrize("ignored", [0, 0.3])
def test_classes_that_are_ruled_out(ruled_out, ignored):
    """Logits of minus infinity, where they are not true."""
    logits, target = batch((2, 4, 5, 30), ignored=ignored)
    target[target == ruled_out] = (ruled_out + 1) % 4
    logits[:, ruled_out] = -math.inf
    values, gradient = ours(logits, target, (1, 1, 1))
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE)
    assert values.ce.item() == pytest.approx(expected.item(), rel=1e-6)
    low, low_gradient = ours(logits.clamp_min(-80), target, (1, 1, 1))
    torch.testing.assert_close(tuple(values), tuple(low), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, low_gradient)


def test_no_image_at_all_costs_nothing():
    values, gradient = ours(torch.empty(0, 3, 4, 5), torch.empty(0, 4, 5, dtype=torch.uint8), (1, 1, 1))
    assert [value.item() for value in values] == [0, 0, 0, 0]
    assert gradient.shape == (0, 3, 4, 5)


def test_a_target_on_another_device_is_refused():
    logits, target = batch((1, 3, 4, 5))
    with pytest.raises(ValueError, match="logits lie on cpu, target on meta"):
        HybridLoss()(logits, target.to("meta"))


def test_ids_beyond_the_classes_are_refused():
    logits, target = batch((1, 3, 4, 5), ignored=0)
    target[0, 0, 0] = 3
    with pytest.raises(ValueError, match="ids 0-3; expected 0-2, or 255"):
        HybridLoss()(logits, target)


def test_memory_format_changes_nothing():
    logits, target = batch(seed=6)
    flat, gradient = ours(logits, target, (1, 1, 1))
    last, gradient_last = ours(logits.to(memory_format=torch.channels_last), target, (1, 1, 1))
    assert gradient_last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(tuple(last), tuple(flat), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient_last, gradient, rtol=1e-5, atol=1e-9)
    # A view with strides of its own, as slicing makes them.
    view, gradient_view = ours(logits.transpose(2, 3)[..., 1:], target.transpose(1, 2)[..., 1:], (1, 1, 1))
    straight, gradient_straight = ours(
        logits.transpose(2, 3)[..., 1:].contiguous(), target.transpose(1, 2)[..., 1:].contiguous(), (1, 1, 1)
    )
    torch.testing.assert_close(tuple(view), tuple(straight), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient_view, gradient_straight, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3), (torch.float64, 1e-6)]
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_other_float_types(dtype, digits, memory_format):
    logits, target = batch((2, 5, 12, 17), seed=7)
    logits = logits.to(dtype, memory_format=memory_format)
    values, gradient = ours(logits, target, (1, 1, 1))
    expected, expected_gradient = reference(logits, target, (1, 1, 1))
    assert gradient.dtype == dtype
    assert {value.dtype for value in values} == {torch.promote_types(dtype, torch.float32)}
    assert values.total.item() == pytest.approx(
        expected[0].item(), rel=2e-6
    )  # no less than float32 whatever comes in
    worst = (gradient.double() - expected_gradient).abs().max()
    assert worst <= digits * expected_gradient.abs().max()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_targets(dtype):
    logits, target = batch(seed=8)
    values, gradient = ours(logits, target.to(dtype), (1, 1, 1))
    expected, expected_gradient = ours(logits, target, (1, 1, 1))
    assert values == expected
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)


def test_class_absent_from_the_batch():
    logits, target = batch(seed=9)
    target[(target == 2) | (target == 4)] = 0
    assert_equal_to_reference(logits, target)
    assert_equal_to_reference(logits, target, (0, 1, 0), WEIGHTS)


def test_another_ignore_id():
    logits, target = batch(seed=10)
    expected = HybridLoss()(logits, target)
    other = HybridLoss(ignore_id=-1)(logits, torch.where(target == IGNORE, -1, target))
    assert other == expected


@pytest.mark.parametrize("terms", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)], ids=str)
def test_all_ignored_batch_costs_nothing(terms):
    logits, target = batch()
    values, gradient = ours(logits, torch.full_like(target, IGNORE), terms)
    assert [value.item() for value in values] == [0, 0, 0, 0]
    assert not gradient.any()


def test_only_classes_of_weight_zero():
    logits, _ = batch((1, 5, 4, 4))
    values, gradient = ours(logits, torch.full((1, 4, 4), 3), (1, 1, 0), class_weights=WEIGHTS)
    assert values.total.item() == 0
    assert not gradient.any()


def test_ignored_pixels_get_no_gradient_and_do_not_count():
    logits, target = batch(seed=11)
    ignored = target == IGNORE
    values, gradient = ours(logits, target, (1, 1, 1))
    assert not gradient.permute(1, 0, 2, 3)[:, ignored].any()
    changed = torch.where(ignored[:, None], torch.randn_like(logits) * 50, logits)
    again, gradient_again = ours(changed, target, (1, 1, 1))
    torch.testing.assert_close(tuple(again), tuple(values), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient_again, gradient, rtol=1e-5, atol=1e-9)


def test_extreme_logits_stay_finite():
    logits, target = batch(seed=12)
    values, gradient = ours(logits * 1e4, target, (1, 1, 1))
    assert all(torch.isfinite(value) for value in values)
    assert torch.isfinite(gradient).all()
    sure = torch.full((1, 3, 2, 2), -60.0)
    sure[:, 1] = 60.0
    values, gradient = ours(sure, torch.ones(1, 2, 2, dtype=torch.long), (1, 1, 1))
    assert values.total.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


def test_finite_differences():
    logits, target = batch((1, 3, 3, 4), seed=13, spread=1.0)
    loss = HybridLoss(1.0, 1.0, 1.0, class_weights=[1.0, 2.0, 0.5])
    _, gradient = ours(logits, target, (1, 1, 1), class_weights=[1.0, 2.0, 0.5])
    step = 1e-2
    for c, y, x in itertools.product(range(3), (0, 2), (1, 3)):
        up, down = logits.clone(), logits.clone()
        up[0, c, y, x] += step
        down[0, c, y, x] -= step
        slope = (loss(up, target).total - loss(down, target).total).item() / (2 * step)
        assert gradient[0, c, y, x].item() == pytest.approx(slope, rel=1e-2, abs=5e-5)


def test_only_the_total_carries_a_gradient():
    logits, target = batch()
    values = HybridLoss()(logits.requires_grad_(), target)
    assert [value.requires_grad for value in values] == [True, False, False, False]
    assert [value.ndim for value in values] == [0, 0, 0, 0]
    assert not any(value.requires_grad for value in HybridLoss()(logits.detach(), target))
    with torch.no_grad():
        assert not HybridLoss()(logits, target).total.requires_grad


def test_gradient_is_scaled_and_can_be_asked_for_twice():
    logits, target = batch()
    logits.requires_grad_()
    total = HybridLoss()(logits, target).total
    (first,) = torch.autograd.grad(total, logits, retain_graph=True)
    (second,) = torch.autograd.grad(3 * total, logits)
    torch.testing.assert_close(second, 3 * first)


def test_inputs_stay_as_they_were():
    logits, target = batch()
    before = logits.clone(), target.clone()
    ours(logits, target, (1, 1, 1))
    HybridLoss()(logits, target)
    assert torch.equal(logits, before[0])
    assert torch.equal(target, before[1])


def test_class_weights_are_a_buffer_but_no_state():
    loss = HybridLoss(class_weights=WEIGHTS)
    assert dict(loss.named_buffers()).keys() == {"class_weights"}
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ce": -1.0}, "must not be negative"),
        ({"dice": -0.1}, "dice=-0.1"),
        ({"focal": -0.1}, "focal=-0.1"),
        ({"ce": 0, "dice": 0, "focal": 0}, "nor all 0"),
        ({"class_weights": [1.0, -1.0]}, "class weights must not be negative"),
        ({"class_weights": [0.0, 0.0]}, "nor all 0"),
    ],
)
def test_refused_settings(options, message):
    with pytest.raises(ValueError, match=message):
        HybridLoss(**options)


@pytest.mark.parametrize(
    ("logits", "target"),
    [((5,), (5,)), ((2, 5), (2,)), ((2, 5, 6), (2, 6)), ((2, 5, 6, 7), (2, 7, 6)), ((2, 5, 6, 7), (1, 6, 7)),
     ((2, 5, 6, 7), (2, 1, 6, 7))],
)  # fmt: skip
def test_refused_shapes(logits, target):
    with pytest.raises(ValueError, match="expected logits"):
        HybridLoss()(torch.zeros(logits), torch.zeros(target, dtype=torch.long))


def test_wrong_number_of_class_weights():
    logits, target = batch()
    with pytest.raises(ValueError, match="4 class weights, but the logits have 5 classes"):
        HybridLoss(class_weights=[1.0] * 4)(logits, target)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("smoothing", [0.05, 0.5])
def test_label_smoothing_is_that_of_cross_entropy(smoothing, class_weights):
    logits, target = batch(seed=12)
    values, gradient = ours(logits, target, (1, 0, 0), class_weights=class_weights, label_smoothing=smoothing)
    z = logits.double().requires_grad_()
    weights = None if class_weights is None else torch.tensor(class_weights).double()
    expected = torch.nn.functional.cross_entropy(
        z, target, weight=weights, ignore_index=IGNORE, label_smoothing=smoothing
    )
    assert values.ce.item() == pytest.approx(expected.item(), rel=2e-6)
    (expected_gradient,) = torch.autograd.grad(expected, z)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=2e-6 * scale)
    # Dice and focal are left alone.
    plain, _ = ours(logits, target, (1, 1, 1), class_weights=class_weights)
    smooth, _ = ours(logits, target, (1, 1, 1), class_weights=class_weights, label_smoothing=smoothing)
    assert (smooth.dice, smooth.focal) == (plain.dice, plain.focal)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="expected a share"):
        HybridLoss(label_smoothing=smoothing)


def test_parts_of_a_batch_in_several_processes_make_the_whole_loss():
    logits, target = batch((4, 5, 6, 7), seed=13)
    options = {"class_weights": WEIGHTS, "label_smoothing": 0.1}
    whole, whole_gradient = ours(logits, target, (1, 1, 1), **options)
    meeting, heap, results = threading.Barrier(2, timeout=60), [], {}

    def reduce(values):
        heap.append(values)
        meeting.wait()
        total = heap[-2] + heap[-1]
        meeting.wait()
        return total

    def process(name, part):
        results[name] = ours(logits[part], target[part], (1, 1, 1), reduce=reduce, **options)

    parts = {"first": slice(0, 1), "second": slice(1, 4)}
    threads = [threading.Thread(target=process, args=item) for item in parts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for values, _ in results.values():
        torch.testing.assert_close(tuple(values), tuple(whole), rtol=1e-6, atol=0)
    together = torch.cat([results["first"][1], results["second"][1]])
    torch.testing.assert_close(together, whole_gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("way", ["torch"], indirect=True)
def test_sums_keep_the_digits_of_small_blocks_beside_a_large_one(monkeypatch):
    """Blocks of one pixel: beside one loss of 1e7 float32 would round each of the others to 1."""
    monkeypatch.setattr(losses, "_BLOCK", 1)
    logits, target = torch.zeros(300, 2, 1, 1), torch.zeros(300, 1, 1, dtype=torch.long)
    logits[0, 1] = 1e7
    value = HybridLoss(1, 0, 0)(logits, target).ce.item()
    assert value == pytest.approx((1e7 + 299 * math.log(2)) / 300, rel=1e-6)


@pytest.mark.slow
def test_a_class_of_more_pixels_than_float32_counts_one_by_one():
    """From 2^24 on a float32 does not grow by adding 1."""
    logits, target = torch.zeros(1, 2, 4100, 4200), torch.zeros(1, 4100, 4200, dtype=torch.long)
    value = HybridLoss(0, 1, 0)(logits, target).dice.item()
    assert value == pytest.approx(
        (1 - 2 * 0.5 / (1 + 0.5)) / 2, rel=1e-6
    )  # the other class, absent, counts as 0
