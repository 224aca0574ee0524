"""`HybridLoss`: cross-entropy + Dice + focal in one, its gradient computed along the way.

Written term by term, the three losses materialise a dozen tensors as large as the logits. Here all pixels are visited once for
the sums that the losses are made of, and once more for the gradient, since that of Dice is known only behind the last pixel. On
processors compiled loops do that (`seglib.train.pixelwise`); what these do not know, and accelerators, torch visits many images at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seglib.data import IGNORE
from seglib.train import pixelwise

_BLOCK = (
    1 << 25
)  # logits that torch visits at a time: 128 MB a tensor, since every block is a row of kernel launches
_LANES = 1024  # sums a class: GPUs add what goes to one place one by one
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
            raise ValueError(
                f"loss weights must not be negative nor all 0: got ce={ce}, dice={dice}, focal={focal}."
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing = {label_smoothing}: expected a share of at least 0 and below 1."
            )
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
            ValueError: shapes or devices that do not belong together, class weights of another number of classes, ids beyond the
                classes (on CUDA, which would have to be waited for, its own assertion).
        """
        if logits.ndim != 4 or target.shape != logits[:, 0].shape:
            raise ValueError(
                f"expected logits (B, C, H, W) and target (B, H, W): got {tuple(logits.shape)} and {tuple(target.shape)}."
            )
        if logits.device != target.device:
            raise ValueError(
                f"logits lie on {logits.device}, target on {target.device}: expected both on one device."
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
        scored, ids = _scored(target, settings.ignore_id, len(weights))
        if settings.gamma == 2 and pixelwise.fits(logits):
            way = _Loops(logits, ids, scored, weights)
        else:
            way = _Blocks(logits, ids, scored, weights, settings, keep=ctx.needs_input_grad[0])
        sums = way.sums()
        if settings.reduce:
            sums = settings.reduce(sums)
        values, slopes = _losses(sums, weights, settings)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(way.gradient(slopes))
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total, *_):
        (gradient,) = ctx.saved_tensors
        if gradient.is_cpu and grad_total == 1:  # elsewhere asking costs more than multiplying
            return gradient, None, None, None
        return gradient * grad_total.to(gradient.dtype), None, None, None


def _scored(target: Tensor, ignore_id: int, classes: int) -> tuple[Tensor, Tensor]:
    """Which pixels count, and the ids; 0 for those that do not."""
    scored = target != ignore_id
    ids = torch.where(scored, target, 0)
    if not ids.is_cuda and ids.numel():
        lowest, highest = map(int, ids.aminmax())
        if lowest < 0 or highest >= classes:
            raise ValueError(
                f"target holds ids {lowest}-{highest}; expected 0-{classes - 1}, or {ignore_id} where not scored."
            )
    return scored, ids


class _Slopes(NamedTuple):
    """Of the total, by the sums that it is made of: the first two (C,), the others scalars."""

    predicted: Tensor
    intersection: Tensor
    focal: Tensor
    nll: Tensor
    spread: Tensor


def _losses(sums: Tensor, weights: Tensor, settings: _Settings) -> tuple[tuple[Tensor, ...], _Slopes]:
    """(total, ce, dice, focal) and the slopes of the total.

    Args:
        sums: (3 + 3 C,), as `pixelwise.sums` has them.
        weights: (C,) of the classes.
    """
    nll, spread, focal_sum = sums[:3]
    true, intersection, predicted = sums[3:].view(3, -1)
    smoothing, (of_ce, of_dice, of_focal) = settings.smoothing, settings.terms
    share = weights / weights.sum()
    # As torch's CrossEntropyLoss (Szegedy et al., Rethinking the Inception Architecture, CVPR 2016).
    by_smoothed = 1 / (weights.to(sums.dtype) @ true).clamp_min(_EPS)
    smoothed = (1 - smoothing) * nll + smoothing / len(share) * spread if smoothing else nll
    ce = smoothed * by_smoothed
    size = (predicted + true).clamp_min(_EPS)
    counts = share * (true > 0)
    score = 2 * intersection / size
    dice = (counts * (1 - score)).sum()
    by_focal = 1 / (weights.sum() * true.sum().clamp_min(1))
    focal = focal_sum * by_focal
    slopes = (
        of_dice * counts * score / size,
        -2 * of_dice * counts / size,
        of_focal * by_focal,
        (1 - smoothing) * of_ce * by_smoothed,
        smoothing / len(share) * of_ce * by_smoothed,
    )
    values = of_ce * ce + of_dice * dice + of_focal * focal, ce, dice, focal
    return tuple(value.to(share.dtype) for value in values), _Slopes(
        *(slope.to(share.dtype) for slope in slopes)
    )


class _Loops:
    """Both visits by compiled loops."""

    def __init__(self, logits: Tensor, ids: Tensor, scored: Tensor, weights: Tensor) -> None:
        ids = torch.where(scored, ids.to(torch.int16), -1).contiguous()
        self.pixels = pixelwise.laid_out(logits), ids, weights

    def sums(self) -> Tensor:
        return torch.from_numpy(pixelwise.sums(*self.pixels))

    def gradient(self, slopes: _Slopes) -> Tensor:
        return pixelwise.gradient(
            *self.pixels, slopes.predicted, slopes.intersection, *map(float, slopes[2:])
        )


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


class _Blocks:
    """Both visits by torch, some images at a time."""

    def __init__(
        self, logits: Tensor, ids: Tensor, scored: Tensor, weights: Tensor, settings: _Settings, keep: bool
    ) -> None:
        self.logits, self.ids, self.scored, self.weights = logits, ids.long(), scored, weights
        self.settings, self.keep = settings, keep
        # Adding millions of small numbers one by one loses digits in float32; Apple's GPUs know no float64.
        self.exact = torch.float32 if weights.device.type == "mps" else torch.float64
        self.one = weights.new_ones(())
        count = min(len(logits), -(-logits.numel() // _BLOCK))
        edges = [len(logits) * k // count for k in range(count + 1)] if count else []
        self.places = [slice(*pair) for pair in pairwise(edges)]
        self.kept: list[_Kept | None] = []

    def sums(self) -> Tensor:
        total = self.weights.new_zeros(3 + 3 * len(self.weights), dtype=self.exact)
        for images in self.places:
            sums, kept = self._visit(images)
            total += sums
            self.kept.append(kept)
        return total

    def _visit(self, images: slice) -> tuple[Tensor, _Kept | None]:
        """What a block adds to the sums, and what the second visit needs of it."""
        (_, _, focal), gamma, _, smoothing, _ = self.settings
        # (b, C, h, w) -> (C, n)
        block, ids = self.logits[images].movedim(1, 0), self.ids[images].reshape(1, -1)
        z = block.to(self.weights.dtype, memory_format=torch.contiguous_format).flatten(1)
        counts = self.scored[images].reshape(-1)
        scored = counts.to(z.dtype)
        top = z.amax(0)
        e = (z - top).exp_()
        total = e.sum(0)
        log_total = total.log().add_(top)
        zt = z.gather(0, ids)[0].masked_fill_(~counts, 0)
        log_hit = zt - log_total
        pixel_weights = self.weights.index_select(0, ids[0]).mul_(scored)
        nll = -(pixel_weights @ log_hit)
        hit = log_hit.exp_().mul_(scored)
        spread = (
            (log_total * self.weights.sum() - self.weights @ z) @ scored
            if smoothing
            else torch.zeros_like(nll)
        )
        # Of ignored pixels exp is taken as 0, so that nothing follows from them.
        grown = torch.addcmul(self.one, z.clamp_max(88).exp_(), scored)
        softplus = torch.maximum(grown.log(), z).mul_(scored)
        with_slopes = self.keep and focal > 0
        rest_values, rest = _focal_rest(grown, softplus, gamma, with_slopes)
        true_values, true = _focal_true(zt, gamma, with_slopes)
        focal_sum = self.weights @ rest_values + pixel_weights @ true_values
        p = e.mul_(scored / total)
        scalars = torch.stack([nll, spread, focal_sum]).to(self.exact)
        by_class = self._by_class(torch.stack([scored, hit]), ids[0])
        sums = torch.cat([scalars, by_class.flatten(), p.sum(1).to(self.exact)])
        return sums, _Kept(p, rest, pixel_weights, hit, true) if self.keep else None

    def _by_class(self, values: Tensor, ids: Tensor) -> Tensor:
        """(k, C) sums of the values (k, n) of each class."""
        places = (
            torch.arange(len(ids), device=ids.device).remainder_(_LANES).mul_(len(self.weights)).add_(ids)
        )
        sums = values.new_zeros(len(values), _LANES * len(self.weights), dtype=self.exact)
        sums.scatter_add_(1, places.expand(len(values), -1), values.to(self.exact))
        return sums.view(len(values), _LANES, -1).sum(1)

    def gradient(self, slopes: _Slopes) -> Tensor:
        """d total / d logits, in the logits' type and memory format."""
        gradient, by_spread = torch.empty_like(self.logits), slopes.spread * self.weights
        by_rest = (slopes.focal * self.weights)[:, None]
        for images, (p, rest, weights, hit, true) in zip(self.places, self.kept, strict=True):
            ids = self.ids[images].reshape(1, -1)
            by_hit = hit * slopes.intersection.index_select(0, ids[0])
            pull = by_hit - weights * (slopes.nll if true is None else slopes.nll - slopes.focal * true)
            # The softmax's Jacobian: dz = p * (slope - sum_c p_c slope_c), plus the true class's own part.
            towards = (by_spread.sum() - slopes.predicted @ p).addcmul_(weights, slopes.nll).sub_(by_hit)
            g = (slopes.predicted[:, None] + towards).mul_(p)
            g.scatter_add_(0, ids, pull[None])
            if self.settings.smoothing:
                g.addcmul_(by_spread[:, None], self.scored[images].reshape(-1), value=-1)
            if rest is not None:
                g.addcmul_(rest, by_rest)
            block = gradient[images].movedim(1, 0)
            block.copy_(g.view_as(block))
        return gradient


def _focal_rest(
    grown: Tensor, softplus: Tensor, gamma: float, with_slopes: bool
) -> tuple[Tensor, Tensor | None]:
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
