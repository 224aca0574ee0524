"""`HybridLoss`: cross-entropy + Dice + focal in one pass over the logits, its gradient computed along the way.

Written term by term, the three losses materialise a dozen tensors as large as the logits. Here the pixels are visited in
blocks, which stay in a processor's cache, and the gradient is finished in a second visit, once the Dice sums are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seglib.classes import IGNORE

# Pixels of a block on a processor: of 11 classes it takes 2.9 MB a tensor; smaller ones cost more calls than they save misses.
_CPU_BLOCK = 1 << 16
# Values of a block on an accelerator, where each is a row of kernel launches: 256 MB a tensor.
_DEVICE_BLOCK = 1 << 26
_LANES = 1024  # sums a class on an accelerator, which would else add all pixels of a class to one place, one by one
_LARGE = 1e30  # sums of exp(logits) between this and its inverse need no shift
_EPS = 1e-7


class LossTerms(NamedTuple):
    """Scalar tensors; only `total` carries a gradient, the others are its unweighted terms."""

    total: Tensor
    ce: Tensor
    dice: Tensor
    focal: Tensor


class HybridLoss(nn.Module):
    """Weighted sum of cross-entropy, Dice and focal loss, equal to SMP's definitions of the three.

    - cross-entropy over the softmax, as `torch.nn.CrossEntropyLoss`: the mean over scored pixels, weighted by class;
    - Dice (Milletari et al., V-Net, 3DV 2016) over the softmax, per class over the whole batch; classes without a true
      pixel in the batch count 0, as in SMP's `DiceLoss`;
    - focal (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017), one against the rest over the sigmoid, the mean
      over scored pixels, then over classes, as in SMP's `FocalLoss`.

    Args:
        ce, dice, focal: weights of the terms, not negative, not all 0.
        class_weights: C weights, not negative, not all 0, used in all three terms; None: all equal.
        gamma: focusing parameter of the focal term.
        ignore_id: target value of pixels that count nowhere.
        label_smoothing: share of the target that cross-entropy spreads evenly over all classes, in [0, 1).
        reduce: sums a tensor over all processes, in place. With it every process computes the loss of the whole batch, and
            the gradient of that with respect to its own logits.

    A batch without a scored pixel has loss 0 and gradient 0.
    """

    def __init__(
        self,
        ce: float = 1.0,
        dice: float = 1.0,
        focal: float = 1.0,
        class_weights: Sequence[float] | Tensor | None = None,
        gamma: float = 2.0,
        ignore_id: int = IGNORE,
        label_smoothing: float = 0.0,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if min(ce, dice, focal) < 0 or ce + dice + focal == 0:
            raise ValueError(f"loss weights must not be negative nor all 0: got ce={ce}, dice={dice}, focal={focal}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing = {label_smoothing}: expected a share of at least 0 and below 1.")
        self.settings = _Settings((ce, dice, focal), gamma, ignore_id, label_smoothing, reduce)
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        if weights is not None and (weights.min() < 0 or weights.sum() == 0):
            raise ValueError(f"class weights must not be negative nor all 0: got {weights.tolist()}.")
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> LossTerms:
        """Compute the loss.

        Args:
            logits: (B, C, H, W), any float type and memory format; computed in float32, or in float64 where they are that.
            target: (B, H, W) integers, class ids or `ignore_id`.

        Raises:
            ValueError: shapes that do not belong together, or class weights of another number of classes.
        """
        if logits.ndim != 4 or target.shape != logits[:, 0].shape:
            raise ValueError(
                f"expected logits (B, C, H, W) and target (B, H, W): got {tuple(logits.shape)} and {tuple(target.shape)}."
            )
        classes = logits.shape[1]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        weights = logits.new_ones(classes) if self.class_weights is None else self.class_weights
        if len(weights) != classes:
            raise ValueError(f"{len(weights)} class weights, but the logits have {classes} classes.")
        return LossTerms(*_Hybrid.apply(logits, target, weights.to(dtype), self.settings))


class _Settings(NamedTuple):
    terms: tuple[float, float, float]
    gamma: float
    ignore_id: int
    smoothing: float
    reduce: Callable[[Tensor], Tensor] | None


class _Hybrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, weights, settings):
        found = _Pixels(logits, target, weights, settings, keep=ctx.needs_input_grad[0])
        values, dice_slopes = found.losses()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(found.gradient(dice_slopes))
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total, *_):
        (gradient,) = ctx.saved_tensors
        if _on_processor(gradient) and grad_total == 1:  # elsewhere asking costs more than multiplying
            return gradient, None, None, None
        return gradient * grad_total.to(gradient.dtype), None, None, None


class _Kept(NamedTuple):
    """Of a block of n pixels, for the second visit; ignored pixels are 0 in all of them.

    softmax: (C, n). rest: (C, n) slope of the focal loss that takes every pixel as "rest".
    Of the true classes: weights (n,), softmax `hit` (n,), and (n,) what they add to the focal loss's slope.
    """

    softmax: Tensor
    rest: Tensor | None
    weights: Tensor
    hit: Tensor
    true: Tensor | None


class _Pixels:
    """Both visits to the pixels: the first adds up what the losses are made of, the second writes their gradient."""

    def __init__(self, logits: Tensor, target: Tensor, weights: Tensor, settings: _Settings, keep: bool) -> None:
        # Adding millions of small numbers one by one loses digits in float32; Apple's GPUs know no float64.
        exact = torch.float32 if weights.device.type == "mps" else torch.float64
        self.logits, self.weights, self.settings, self.keep = logits, weights, settings, keep
        self.one = weights.new_ones(())
        self.nll = self.spread = self.focal = weights.new_zeros((), dtype=exact)
        self.true, self.intersection, self.predicted = weights.new_zeros(3, len(weights), dtype=exact).unbind()
        self.scored = target != settings.ignore_id
        self.ids = torch.where(self.scored, target, 0).long()
        self.places = _blocks(logits)
        self.kept = [self._visit(*place) for place in self.places]
        if settings.reduce:
            self._add_up(settings.reduce)
        self.pixels, self.weight_sum = self.true.sum(), self.weights.to(exact) @ self.true

    def _ids(self, images: slice, rows: slice) -> Tensor:
        """(1, n) ids of a block, 0 for ignored ones."""
        return self.ids[images, rows].reshape(1, -1)

    def _visit(self, images: slice, rows: slice) -> _Kept | None:
        """Add up what a block adds to the losses."""
        (_, _, focal), gamma, _, smoothing, _ = self.settings
        # (b, C, h, w) -> (C, n)
        block, ids = self.logits[images, :, rows].movedim(1, 0), self._ids(images, rows)
        z = block.to(self.weights.dtype, memory_format=torch.contiguous_format).flatten(1)
        scored = self.scored[images, rows].reshape(-1).to(z.dtype)
        e, total, top = _exponentials(z)
        log_total = total.log() if top is None else total.log().add_(top)
        zt = z.gather(0, ids)[0]
        log_hit = zt - log_total
        pixel_weights = self.weights.index_select(0, ids[0]).mul_(scored)
        self.nll = self.nll - pixel_weights @ log_hit
        hit = log_hit.exp_().mul_(scored)
        self.true = self.true + self._by_class(scored, ids[0])
        self.intersection = self.intersection + self._by_class(hit, ids[0])
        if smoothing:
            self.spread = self.spread + (log_total * self.weights.sum() - self.weights @ z) @ scored
        # Of ignored pixels exp is taken as 0, so that nothing follows from them.
        grown = torch.addcmul(self.one, e if top is None else z.clamp_max(88).exp_(), scored)
        softplus = grown.log() if top is None else torch.maximum(grown.log(), z * scored)
        with_slopes = self.keep and focal > 0
        rest_values, rest = _focal_rest(grown, softplus, gamma, with_slopes)
        true_values, true = _focal_true(zt, gamma, with_slopes)
        self.focal = self.focal + self.weights @ rest_values + pixel_weights @ true_values
        p = e.mul_(scored / total)
        self.predicted = self.predicted + p.sum(1)
        return _Kept(p, rest, pixel_weights, hit, true) if self.keep else None

    def _by_class(self, values: Tensor, ids: Tensor) -> Tensor:
        """(C,) sums of the values (n,) of each class."""
        classes, values = len(self.weights), values.to(self.true.dtype)
        if _on_processor(values):
            return values.new_zeros(classes).scatter_add(0, ids, values)
        places = torch.arange(len(ids), device=ids.device).remainder_(_LANES).mul_(classes).add_(ids)
        return values.new_zeros(_LANES * classes).scatter_add_(0, places, values).view(_LANES, classes).sum(0)

    def _add_up(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Make every sum that over all processes."""
        scalars = torch.stack([self.nll, self.spread, self.focal])
        sums = reduce(torch.cat([scalars, self.true, self.intersection, self.predicted]))
        self.nll, self.spread, self.focal = sums[:3]
        self.true, self.intersection, self.predicted = sums[3:].view(3, -1)

    def losses(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        """((total, ce, dice, focal), (d dice / d predicted, d dice / d intersection)), the slopes (C,) each."""
        terms, smoothing = self.settings.terms, self.settings.smoothing
        share = self.weights / self.weights.sum()
        # As torch's CrossEntropyLoss (Szegedy et al., Rethinking the Inception Architecture, CVPR 2016).
        smoothed = (1 - smoothing) * self.nll + smoothing / len(share) * self.spread
        ce = smoothed / self.weight_sum.clamp_min(_EPS)
        size = (self.predicted + self.true).clamp_min(_EPS)
        counts = share * (self.true > 0)
        score = 2 * self.intersection / size
        dice = (counts * (1 - score)).sum()
        focal = self.focal / self.weights.sum() / self.pixels.clamp_min(1)
        total = terms[0] * ce + terms[1] * dice + terms[2] * focal
        slopes = counts * score / size, -2 * counts / size
        values, slopes = ([part.to(share.dtype) for part in parts] for parts in ((total, ce, dice, focal), slopes))
        return tuple(values), tuple(slopes)

    def gradient(self, dice_slopes: tuple[Tensor, Tensor]) -> Tensor:
        """Second visit: d total / d logits, in the logits' type and memory format."""
        (ce, dice, focal), _, _, smoothing, _ = self.settings
        by_predicted, by_intersection = (dice * slope for slope in dice_slopes)
        by_smoothed = (ce / self.weight_sum.clamp_min(_EPS)).to(self.weights.dtype)
        by_nll, by_spread = (1 - smoothing) * by_smoothed, smoothing / len(self.weights) * by_smoothed * self.weights
        by_focal = (focal / self.weights.sum() / self.pixels.clamp_min(1)).to(self.weights.dtype)
        by_rest = (by_focal * self.weights)[:, None]
        gradient = torch.empty_like(self.logits)
        for (images, rows), (p, rest, weights, hit, true) in zip(self.places, self.kept, strict=True):
            ids = self._ids(images, rows)
            by_hit = hit * by_intersection.index_select(0, ids[0])
            pull = by_hit - weights * (by_nll if true is None else by_nll - by_focal * true)
            # The softmax's Jacobian: dz = p * (slope - sum_c p_c slope_c), plus the true class's own part.
            towards = (by_spread.sum() - by_predicted @ p).addcmul_(weights, by_nll).sub_(by_hit)
            g = (by_predicted[:, None] + towards).mul_(p)
            g.scatter_add_(0, ids, pull[None])
            if smoothing:
                g.addcmul_(by_spread[:, None], self.scored[images, rows].reshape(-1), value=-1)
            if rest is not None:
                g.addcmul_(rest, by_rest)
            # The type apart from the layout: twice as fast as both at once.
            block = gradient[images, :, rows].movedim(1, 0)
            block.copy_(g.view_as(block).to(gradient.dtype))
        return gradient


def _on_processor(values: Tensor) -> bool:
    return values.is_cpu


def _blocks(logits: Tensor) -> list[tuple[slice, slice]]:
    """What is visited at a time: some rows of an image on a processor, elsewhere as many whole images as may be."""
    images, _, height, width = logits.shape
    if _on_processor(logits):
        rows = _pieces(height, min(height, -(-height * width // _CPU_BLOCK)))
        return [(slice(b, b + 1), piece) for b in range(images) for piece in rows]
    return [(piece, slice(None)) for piece in _pieces(images, min(images, -(-logits.numel() // _DEVICE_BLOCK)))]


def _pieces(length: int, count: int) -> list[slice]:
    edges = [length * k // count for k in range(count + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def _exponentials(z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """exp(z - top), (C, n), its sum over the classes, (n,), and the largest logits `top`, (n,).

    None stands for a `top` of 0, where sums without it stay far from float32's limits; only a processor is asked, since an
    accelerator would have to be waited for.
    """
    if _on_processor(z):
        e = z.exp()
        total = e.sum(0)
        if total.amax() < _LARGE and total.amin() > 1 / _LARGE:
            return e, total, None
    top = z.amax(0)
    e = (z - top).exp_()
    return e, e.sum(0), top


def _focal_rest(grown: Tensor, softplus: Tensor, gamma: float, with_slopes: bool) -> tuple[Tensor, Tensor | None]:
    """Focal loss of every class against the rest, taking every pixel as "rest".

    Args:
        grown: (C, n) 1 + exp(z) of the logits z; softplus: (C, n) its logarithm. Both are overwritten.

    Returns:
        (C,) the loss, added up, and (C, n) its slope by z, or None.
    """
    # exp and log take a quarter of the time of sigmoid and softplus.
    other = grown.reciprocal_()
    slope = 1 - other
    power = _power(slope, gamma)
    slope = slope.addcmul_(other, softplus, value=gamma).mul_(power) if with_slopes else None
    return softplus.mul_(power).sum(1), slope


def _focal_true(zt: Tensor, gamma: float, with_slopes: bool) -> tuple[Tensor, Tensor | None]:
    """Focal loss of true classes' logits, (n,), minus what `_focal_rest` takes them for: (n,), and its slope or None."""
    log_hit, hit = F.logsigmoid(zt), torch.sigmoid(zt)
    missed = 1 - hit
    true, rest = _power(missed, gamma), _power(hit, gamma)
    loss_true, loss_rest = true * log_hit, rest * (log_hit - zt)  # both negative
    values = loss_rest - loss_true
    if not with_slopes:
        return values, None
    steep = (hit * loss_true).addcmul_(missed, loss_rest)
    return values, (steep * gamma).addcmul_(true, missed, value=-1).addcmul_(rest, hit, value=-1)


def _power(x: Tensor, exponent: float) -> Tensor:
    return x.square() if exponent == 2 else x.pow(exponent)
