"""`HybridLoss`: cross-entropy + Dice + focal in one pass over the logits, its gradient computed along the way.

Written term by term, the three losses materialise a dozen tensors as large as the logits. Here the pixels are visited in
blocks that stay in the processor's cache, and the gradient is finished in a second visit, once the Dice sums are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seglib.classes import IGNORE

_CPU_BLOCK = (
    1 << 16
)  # pixels a block: about 3 MB of float32 at 11 classes; smaller ones cost more calls than they save misses
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
        if not gradient.is_cuda and grad_total == 1:  # there, asking would cost more than multiplying
            return gradient, None, None, None
        return gradient * grad_total.to(gradient.dtype), None, None, None


class _Kept(NamedTuple):
    """Of a block of n pixels, for the second visit: softmax (C, n), gradient without Dice's and the true classes' own (C, n),
    and of the true classes: ids (1, n), softmax (1, n), gradient to subtract (1, n); ignored pixels are 0 in all of them."""

    softmax: Tensor
    gradient: Tensor
    ids: Tensor
    hit: Tensor
    pull: Tensor


class _Pixels:
    """Both visits to the pixels. How many pixels each class has is counted before the first, so that only Dice waits for the
    second."""

    def __init__(self, logits: Tensor, target: Tensor, weights: Tensor, settings: _Settings, keep: bool) -> None:
        # Adding millions of small numbers one by one loses digits in float32; Apple's GPUs know no float64.
        exact = torch.float32 if weights.device.type == "mps" else torch.float64
        self.logits, self.weights, self.settings, self.keep = logits, weights, settings, keep
        self.nll = self.spread = weights.new_zeros((), dtype=exact)
        self.intersection, self.predicted, self.focal = weights.new_zeros(3, len(weights), dtype=exact).unbind()
        scored = target != settings.ignore_id
        ids = torch.where(scored, target, 0).long()
        self.true = _per_class(ids.flatten(), scored.flatten().to(exact), len(weights))
        if settings.reduce:
            self.true = settings.reduce(self.true)
        self.pixels, self.weight_sum = self.true.sum(), self.weights.to(exact) @ self.true
        batch, _, height, width = logits.shape
        # On an accelerator every block is a kernel launch, so there one image is one block.
        rows = height if logits.is_cuda else max(1, _CPU_BLOCK // max(width, 1))
        self.places = [(b, slice(y, min(y + rows, height))) for b in range(batch) for y in range(0, height, rows)]
        self.kept = [self._visit(logits[place[0], :, place[1]], ids[place], scored[place]) for place in self.places]
        if settings.reduce:
            self._add_up(settings.reduce)

    def _visit(self, logits: Tensor, ids: Tensor, scored: Tensor) -> _Kept | None:
        """Add up what a block adds to the losses: (C, h, w) logits, (h, w) ids with 0 for ignored ones, (h, w) bool."""
        (_, _, focal), gamma, _, smoothing, _ = self.settings
        z = logits.to(self.weights.dtype, memory_format=torch.contiguous_format).flatten(1).contiguous()
        ids, scored = ids.reshape(1, -1), scored.reshape(-1).to(z.dtype)
        top = z.amax(0)
        p = (z - top).exp_()
        total = p.sum(0)
        share = scored / total
        p.mul_(share)
        log_total = total.log_().add_(top)
        pixel_weights = self.weights.index_select(0, ids[0]).mul_(scored)
        zt = z.gather(0, ids)[0]
        hit = (zt - top).exp_().mul_(share)[None]
        self.nll = self.nll + pixel_weights @ (log_total - zt)
        self.intersection = self.intersection + _per_class(
            ids[0], hit[0].to(self.intersection.dtype), len(self.weights)
        )
        self.predicted = self.predicted + p.sum(1)
        by_nll, by_spread = self._slopes()
        g = pull = None
        if self.keep:
            pull = pixel_weights * -by_nll
            g = p * (by_spread.sum() - pull)
        if smoothing:
            self.spread = self.spread + (log_total * self.weights.sum() - self.weights @ z) @ scored
            if self.keep:
                g.addcmul_(by_spread[:, None], scored, value=-1)
        rest, slope_rest, true, slope_true = _focal(z, zt, scored, gamma, _bounded(top), self.keep and focal > 0)
        self.focal = self.focal + rest + _per_class(ids[0], true.to(self.focal.dtype), len(self.weights))
        if slope_rest is not None:
            by_focal = focal / self.weights.sum() / self.pixels.clamp_min(1).to(z.dtype)
            g.addcmul_(slope_rest, (by_focal * self.weights)[:, None])
            pull.addcmul_(slope_true.mul_(pixel_weights), by_focal)
        return _Kept(p, g, ids, hit, pull[None]) if self.keep else None

    def _slopes(self) -> tuple[Tensor, Tensor]:
        """d cross-entropy / d nll, a scalar, and d cross-entropy / d (-log p) by smoothing, (C,)."""
        ce, smoothing = self.settings.terms[0], self.settings.smoothing
        by_smoothed = (ce / self.weight_sum.clamp_min(_EPS)).to(self.weights.dtype)
        return (1 - smoothing) * by_smoothed, smoothing / len(self.weights) * by_smoothed * self.weights

    def _add_up(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Make every sum that over all processes."""
        scalars = torch.stack([self.nll, self.spread])
        sums = reduce(torch.cat([scalars, self.intersection, self.predicted, self.focal]))
        self.nll, self.spread = sums[:2]
        self.intersection, self.predicted, self.focal = sums[2:].view(3, -1)

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
        focal = (share * self.focal).sum() / self.pixels.clamp_min(1)
        total = terms[0] * ce + terms[1] * dice + terms[2] * focal
        slopes = counts * score / size, -2 * counts / size
        values, slopes = ([part.to(share.dtype) for part in parts] for parts in ((total, ce, dice, focal), slopes))
        return tuple(values), tuple(slopes)

    def gradient(self, dice_slopes: tuple[Tensor, Tensor]) -> Tensor:
        """Second visit: d total / d logits, in the logits' type and memory format."""
        by_predicted, by_intersection = (self.settings.terms[1] * slope for slope in dice_slopes)
        gradient = torch.empty_like(self.logits)
        for (b, rows), (p, g, ids, hit, pull) in zip(self.places, self.kept, strict=True):
            if self.settings.terms[1]:
                by_hit = hit * by_intersection.index_select(0, ids[0])
                # The softmax's Jacobian: dz = p * (slope - sum_c p_c slope_c), plus the true class's own part.
                g.addcmul_(p, by_predicted[:, None] - (by_predicted @ p + by_hit))
                pull.add_(by_hit)
            g.scatter_add_(0, ids, pull)
            gradient[b, :, rows] = g.view_as(gradient[b, :, rows])
        return gradient


def _per_class(ids: Tensor, values: Tensor, classes: int) -> Tensor:
    """(C,) sums of the values, (n,), by their class ids, (n,)."""
    if ids.is_cuda:  # where bincount would wait for the GPU
        return values.new_zeros(classes).index_add(0, ids, values)
    return torch.bincount(ids, values, classes)


def _bounded(top: Tensor) -> bool:
    """Whether exp of logits up to these stays in float32's range; a GPU is not waited for to tell."""
    return not top.is_cuda and bool(top.max() <= 88)


def _focal(
    z: Tensor, zt: Tensor, scored: Tensor, gamma: float, bounded: bool, with_slopes: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Focal loss of every class against the rest, taking every pixel as "rest", and the true class's correction.

    Args:
        z: (C, n) logits; zt: (n,) those of the true classes; scored: (n,) 1.0 or 0.0; bounded: no logit is above 88.

    Returns:
        (C,) loss as rest, added up, and (C, n) its slope by z; (n,) the true class's loss minus its loss as rest, and the
        slope of that. Without slopes: None in their place.
    """
    # exp and log take a quarter of the time of sigmoid and softplus.
    grown = (z if bounded else z.clamp_max(88)).exp().add_(1)
    softplus = grown.log() if bounded else torch.maximum(grown.log(), z)
    other = grown.reciprocal_()
    sigmoid = torch.addcmul(scored, other, scored, value=-1)
    power = _power(sigmoid, gamma) * scored if gamma == 0 else _power(sigmoid, gamma)  # 0 ** 0 is 1
    rest = (power * softplus).sum(1)
    st, loss_true = torch.sigmoid(zt), F.softplus(-zt)
    loss_rest, missed = loss_true + zt, 1 - st
    rest_t, true_t = _power(st, gamma), _power(missed, gamma)
    true = (true_t * loss_true - rest_t * loss_rest).mul_(scored)
    if not with_slopes:
        return rest, None, true, None
    slope_rest = sigmoid.addcmul_(other, softplus, value=gamma).mul_(power)
    slope_true = -true_t * (gamma * st * loss_true + missed) - rest_t * (gamma * missed * loss_rest + st)
    return rest, slope_rest, true, slope_true.mul_(scored)


def _power(x: Tensor, exponent: float) -> Tensor:
    return x.square() if exponent == 2 else x.pow(exponent)
