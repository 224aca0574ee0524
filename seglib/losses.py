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

from seglib.classes import IGNORE

_CPU_BLOCK = 1 << 15  # pixels a block: about 1.5 MB of float32 at 11 classes, within a core's L2 cache
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
            logits: (B, C, H, W), any float type and memory format; computed in float32.
            target: (B, H, W) integers, class ids or `ignore_id`.

        Raises:
            ValueError: shapes that do not belong together, or class weights of another number of classes.
        """
        if logits.ndim != 4 or target.shape != logits[:, 0].shape:
            raise ValueError(
                f"expected logits (B, C, H, W) and target (B, H, W): got {tuple(logits.shape)} and {tuple(target.shape)}."
            )
        classes = logits.shape[1]
        weights = (
            self.class_weights if self.class_weights is not None else logits.new_ones(classes, dtype=torch.float32)
        )
        if len(weights) != classes:
            raise ValueError(f"{len(weights)} class weights, but the logits have {classes} classes.")
        return LossTerms(*_Hybrid.apply(logits, target, weights, self.settings))


class _Settings(NamedTuple):
    terms: tuple[float, float, float]
    gamma: float
    ignore_id: int
    smoothing: float
    reduce: Callable[[Tensor], Tensor] | None


class _Hybrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, weights, settings):
        blocks = _Blocks(logits, target, settings.ignore_id)
        sums = _Sums(blocks, weights, settings, keep=ctx.needs_input_grad[0])
        values, dice_slopes = sums.losses()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(sums.gradient(dice_slopes))
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    def backward(ctx, grad_total, *_):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total.to(gradient.dtype), None, None, None


class _Blocks:
    """The pixels of a batch in blocks: (C, n) float32 logits, (n,) ids with 0 for ignored ones, (n,) 1.0 where scored."""

    def __init__(self, logits: Tensor, target: Tensor, ignore_id: int) -> None:
        self.logits, self.target, self.ignore_id = logits, target, ignore_id
        batch, _, height, width = logits.shape
        # On an accelerator every block is a kernel launch, so there one image is one block.
        rows = height if logits.is_cuda else max(1, _CPU_BLOCK // max(width, 1))
        self.places = [(b, slice(y, min(y + rows, height))) for b in range(batch) for y in range(0, height, rows)]

    def __iter__(self):
        for b, rows in self.places:
            z = self.logits[b, :, rows].to(torch.float32, memory_format=torch.contiguous_format).flatten(1)
            target = self.target[b, rows].reshape(-1)
            scored = target != self.ignore_id
            ids = torch.where(scored, target, 0).long()
            yield z.contiguous(), ids, scored.to(torch.float32)


class _Sums:
    """First visit: every sum that the three losses need, and the softmax kept for the gradient."""

    def __init__(self, blocks: _Blocks, weights: Tensor, settings: _Settings, keep: bool) -> None:
        # Adding millions of small numbers one by one loses digits in float32; Apple's GPUs know no float64.
        exact = torch.float32 if weights.device.type == "mps" else torch.float64
        self.blocks, self.weights, self.settings = blocks, weights, settings
        self.nll = self.spread = self.weight_sum = self.pixels = weights.new_zeros((), dtype=exact)
        self.intersection, self.predicted, self.true, self.focal = weights.new_zeros(
            4, len(weights), dtype=exact
        ).unbind()
        self.softmax: list[Tensor] = []
        for z, ids, scored in blocks:
            log_p = F.log_softmax(z, dim=0)
            log_pt = log_p.gather(0, ids[None])[0]
            if settings.smoothing:
                self.spread = self.spread - (weights @ log_p) @ scored
            p = log_p.exp_().mul_(scored)
            pixel_weights = weights[ids] * scored
            self.nll = self.nll - (pixel_weights * log_pt).sum()
            self.weight_sum = self.weight_sum + pixel_weights.sum()
            self.pixels = self.pixels + scored.sum()
            self.intersection = self.intersection.index_add(0, ids, log_pt.exp().mul_(scored).to(exact))
            self.predicted = self.predicted + p.sum(1)
            self.true = self.true.index_add(0, ids, scored.to(exact))
            loss_rest, loss_true, *_ = _focal(z, ids, settings.gamma, with_slopes=False)
            self.focal = self.focal + loss_rest.mul_(scored).sum(1)
            self.focal = self.focal.index_add(0, ids, (loss_true * scored).to(exact))
            if keep:
                self.softmax.append(p)
        if settings.reduce:
            self._add_up(settings.reduce)

    def _add_up(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Make every sum that over all processes, in one exchange."""
        scalars = torch.stack([self.nll, self.spread, self.weight_sum, self.pixels])
        sums = reduce(torch.cat([scalars, self.intersection, self.predicted, self.true, self.focal]))
        self.nll, self.spread, self.weight_sum, self.pixels = sums[:4]
        self.intersection, self.predicted, self.true, self.focal = sums[4:].view(4, -1)

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
        slopes = (counts * score / size).float(), (-2 * counts / size).float()
        return (total.float(), ce.float(), dice.float(), focal.float()), slopes

    def gradient(self, dice_slopes: tuple[Tensor, Tensor]) -> Tensor:
        """Second visit: d total / d logits, in the logits' type and memory format."""
        (ce, dice, focal), smoothing = self.settings.terms, self.settings.smoothing
        by_predicted, by_intersection = dice * dice_slopes[0], dice * dice_slopes[1]
        by_smoothed = (ce / self.weight_sum.clamp_min(_EPS)).float()
        by_nll, by_spread = (1 - smoothing) * by_smoothed, smoothing / len(self.weights) * by_smoothed * self.weights
        by_focal = focal * self.weights / self.weights.sum() / self.pixels.clamp_min(1).float()
        gradient = torch.empty_like(self.blocks.logits)
        for (b, rows), (z, ids, scored), p in zip(self.blocks.places, self.blocks, self.softmax, strict=True):
            index = ids[None]
            pt = p.gather(0, index)[0]
            pixel_nll = by_nll * self.weights[ids] * scored
            pull = pt * by_intersection[ids]
            # The softmax's Jacobian: dz = p * (slope - sum_c p_c slope_c), plus the true class's own part.
            shift = pixel_nll - by_predicted @ p - pull
            dz = p.mul_(by_predicted[:, None] + (shift + by_spread.sum()))
            if smoothing:
                dz.addcmul_(by_spread[:, None], scored, value=-1)
            dz.scatter_add_(0, index, (pull - pixel_nll)[None])
            if focal:
                *_, slope_rest, slope_true = _focal(z, ids, self.settings.gamma, with_slopes=True)
                dz.addcmul_(slope_rest, by_focal[:, None] * scored)
                dz.scatter_add_(0, index, (slope_true * by_focal[ids] * scored)[None])
            gradient[b, :, rows] = dz.view_as(gradient[b, :, rows])
        return gradient


def _focal(z: Tensor, ids: Tensor, gamma: float, with_slopes: bool) -> tuple[Tensor, ...]:
    """Focal loss of every class against the rest, taking every pixel as "rest", and the true class's correction.

    Returns:
        (C, n) loss as rest, (n,) true class's loss minus its loss as rest, and with slopes the same two of d loss / dz.
    """
    sigmoid, softplus = torch.sigmoid(z), F.softplus(z)
    power = sigmoid.square() if gamma == 2 else sigmoid.pow(gamma)
    zt = z.gather(0, ids[None])[0]
    st, sp = torch.sigmoid(zt), F.softplus(zt)
    rest_t, true_t = st.pow(gamma), (1 - st).pow(gamma)
    loss_true = true_t * F.softplus(-zt) - rest_t * sp
    if not with_slopes:
        return power.mul_(softplus), loss_true
    slope_true = -true_t * (gamma * st * F.softplus(-zt) + 1 - st) - rest_t * (gamma * (1 - st) * sp + st)
    slope_rest = softplus.mul_(1 - sigmoid).mul_(gamma).add_(sigmoid).mul_(power)
    return power, loss_true, slope_rest, slope_true
