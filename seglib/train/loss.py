"""What batches of logits and ids are judged by: a loss to train with, and the confusion counts of every image.

`HybridLoss` is cross-entropy + Dice + focal in one autograd function, which visits pixels in blocks: first for the
sums that the losses are made of, then for the gradient, which needs the sums of all pixels.

To add a term, give it a weight in `HybridLoss` and `params.Train` and a name in `LossTerms`. Then let
`HybridLoss.forward` add weight * term(logits, target) to `total`; or, in blocks as the three, add its sums to
`_visit`, its value to `values`, its gradient by the logits to `_gradient`. Add the weight to `weights` in
`Trainer.__init__`, to notebook 02's parameters and the term to `plots.training._LOSSES`. With several processes a term
that `reduce` does not sum must be divided by their number.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from seglib import metrics
from seglib.data import IGNORE

# Logits of a block: on a CPU (for each thread) what fits the cache, on a GPU a whole batch.
_CPU_BLOCK, _GPU_BLOCK = 1 << 18, 1 << 25
_EPS, _GAMMA = 1e-7, 2  # the second: the exponent of the focal loss


class LossTerms(NamedTuple):
    """Scalar tensors; only `total` carries a gradient, the others are its unweighted terms."""

    total: Tensor
    ce: Tensor
    dice: Tensor
    focal: Tensor


class HybridLoss(nn.Module):
    """Compute the weighted sum of cross-entropy, Dice and focal loss, each as torch and SMP define it.

    - cross-entropy: the mean over valid pixels, weighted by class;
    - Dice (Milletari et al., V-Net, 3DV 2016) per class over the whole batch; one without a pixel counts 0;
    - focal (Lin et al., ICCV 2017; gamma 2), one class against the rest, mean over valid pixels and classes.

    Pixels whose target is 255 have gradient 0, even where logits are NaN; a batch of only these has loss 0.

    Args:
        ce, dice, focal: weights of the terms.
        class_weights: C weights, used in all three terms; None: all equal.
        label_smoothing: share of the target that cross-entropy spreads evenly over all classes, in [0, 1).
        reduce: sums a tensor over all processes; the loss is then that of the batch of them all.
    """

    def __init__(
        self,
        ce: float = 1.0,
        dice: float = 1.0,
        focal: float = 1.0,
        class_weights: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not any((ce, dice, focal)):
            raise ValueError("ce_weight, dice_weight and focal_weight are all 0: nothing would be learnt.")
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.terms, self.smoothing = (ce, dice, focal), label_smoothing
        self.reduce = reduce or (lambda sums: sums)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> LossTerms:
        """Compute the loss in float32, or float64, of logits (B, C, H, W) and target (B, H, W): class ids or 255."""
        if logits.ndim != 4 or target.shape != logits[:, 0].shape:
            shapes = f"{tuple(logits.shape)} and {tuple(target.shape)}"
            raise ValueError(f"expected logits (B, C, H, W) and target (B, H, W): got {shapes}.")
        dtype = torch.promote_types(logits.dtype, torch.float32)
        weights = logits.new_ones(logits.shape[1]) if self.class_weights is None else self.class_weights
        valid = (target != IGNORE).flatten(1)
        ids = target.flatten(1).where(valid, 0).long()
        return LossTerms(*_Hybrid.apply(logits.flatten(2), ids, valid, weights.to(dtype), self))

    def values(self, sums: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Compute (total, ce, dice, focal) from the sums of `_visit`."""
        nll, spread, focal_sum = sums[:3]
        true, intersection, predicted = sums[3:].view(3, -1)
        share, (by_ce, by_dice, by_focal) = weights / weights.sum(), self.terms
        # Label smoothing: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016.
        smoothed = (1 - self.smoothing) * nll + self.smoothing / len(share) * spread
        ce = smoothed / (weights @ true).clamp_min(_EPS)
        score = 2 * intersection / (predicted + true).clamp_min(_EPS)
        dice = (share * (true > 0) * (1 - score)).sum()
        focal = focal_sum / (weights.sum() * true.sum().clamp_min(1))
        return by_ce * ce + by_dice * dice + by_focal * focal, ce, dice, focal


class _Hybrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, ids, valid, weights, loss):
        # Adding millions of small numbers in float32 loses digits; Apple's GPUs know no float64.
        exact = weights if logits.device.type == "mps" else weights.double()
        sums, blocks, wanted = exact.new_zeros(3 + 3 * len(weights)), [], ctx.needs_input_grad[0]
        for some in _slices(logits):
            part, kept = _visit(logits[some[0], :, some[1]], ids[some], valid[some], weights, loss)
            sums += part
            blocks += [(*some, kept)] if wanted else []
        with torch.set_grad_enabled(wanted):
            sums = loss.reduce(sums).requires_grad_(wanted)
            terms = loss.values(sums, exact)
        values = tuple(value.detach().to(weights.dtype) for value in terms)
        if wanted:
            slopes = torch.autograd.grad(terms[0], sums)[0].to(weights.dtype)
            # The gradient of fp16 logits stays in float32 until it is scaled.
            stored = weights.dtype if logits.dtype == torch.float16 else logits.dtype
            gradient = torch.empty_like(logits, dtype=stored)
            for images, pixels, kept in blocks:
                block = gradient[images, :, pixels].movedim(1, 0)
                block.copy_(_gradient(kept, weights, slopes).view_as(block))
            ctx.save_for_backward(gradient)
            ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    def backward(ctx, grad_total, *_):
        if torch.is_grad_enabled():  # by create_graph=True, to which this gradient would be a constant
            raise RuntimeError("HybridLoss has no second derivative. Call backward without create_graph.")
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_total).to(ctx.dtype), None, None, None, None


def _slices(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut (B, C, P) into blocks of some images, or of some pixels of one image."""
    images, classes, pixels = logits.shape
    size = _CPU_BLOCK * torch.get_num_threads() if logits.is_cpu else _GPU_BLOCK
    some_images, some_pixels = max(1, size // max(1, classes * pixels)), max(1, size // classes)
    for first in range(0, images, some_images):
        for start in range(0, pixels, some_pixels):
            yield slice(first, first + some_images), slice(start, start + some_pixels)


def _visit(logits: Tensor, ids: Tensor, valid: Tensor, weights: Tensor, loss: HybridLoss) -> tuple:
    """Add up a block of logits (b, C, p): (3 + 3 C,) sums over valid pixels, and what `_gradient` needs."""
    z = logits.movedim(1, 0).to(weights.dtype, memory_format=torch.contiguous_format).flatten(1)  # (C, n)
    ids, valid = ids.reshape(1, -1), valid.flatten()
    z = torch.where(valid, z, 0)  # what the model says of ignored pixels may be NaN
    valid = valid.to(z.dtype)
    log_softmax = z.log_softmax(0)
    nll = -(weights[ids[0]] * valid) @ log_softmax.gather(0, ids)[0]
    spread = -(weights @ log_softmax) @ valid if loss.smoothing else torch.zeros_like(nll)
    softmax = log_softmax.exp_()
    one_hot = torch.zeros_like(z).scatter_(0, ids, valid[None])
    true, predicted = one_hot.sum(1), softmax @ valid
    intersection = one_hot.mul_(softmax).sum(1)
    # One class against the rest: with the true class's logit negated, one formula serves all classes.
    x = z.scatter_(0, ids, -z.gather(0, ids))
    wrong, cross_entropy = x.sigmoid(), x.relu().sub_(x.abs().sigmoid_().log_())  # softplus, faster on a CPU
    power = wrong**_GAMMA
    slope = torch.addcmul(wrong, 1 - wrong, cross_entropy, value=_GAMMA).mul_(power)
    slope.scatter_(0, ids, -slope.gather(0, ids))
    focal = weights @ (cross_entropy.mul_(power) @ valid)
    sums = torch.cat([torch.stack([nll, spread, focal]), true, intersection, predicted])
    return sums, (softmax, slope, ids, valid)


def _gradient(kept: tuple, weights: Tensor, slopes: Tensor) -> Tensor:
    """Compute d total / d logits of a block, (C, n), from what `_visit` kept and d total / d sums."""
    softmax, focal, ids, valid = kept
    nll, spread, focal_sum = slopes[:3]
    _, intersection, predicted = slopes[3:].view(3, -1)
    by_true = softmax.gather(0, ids)[0] * intersection[ids[0]]
    by_nll, by_spread = nll * weights[ids[0]], spread * weights
    # The softmax's Jacobian: dz = p * (slope - sum_c p_c slope_c), plus the true class's own part.
    shared = by_nll + by_spread.sum() - by_true - predicted @ softmax
    gradient = (predicted[:, None] + shared).mul_(softmax)
    gradient.scatter_add_(0, ids, (by_true - by_nll)[None])
    gradient.addcmul_(focal, (focal_sum * weights)[:, None])
    return gradient.sub_(by_spread[:, None]).mul_(valid)


class ConfusionCounts(Metric):
    """Count a (C, C) confusion matrix an image, over all processes, in training loops of your own.

    `absent` is as in `metrics.image_class_iou`. Memory: 8 C^2 bytes an image.
    """

    is_differentiable, higher_is_better, full_state_update = False, True, False

    def __init__(self, num_classes: int, absent: str = "truth", **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.absent = num_classes, absent
        self.add_state("counts", default=[], dist_reduce_fx="cat")  # (1, C, C) an image

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch: ids (B, H, W) or float logits (B, C, H, W) against ids (B, H, W); 255 is ignored."""
        preds = preds.argmax(1) if preds.is_floating_point() else preds
        for truth, pred in zip(target.cpu().numpy(), preds.cpu().numpy(), strict=True):
            counts = metrics.confusion_matrix(truth, pred, self.num_classes)
            self.counts.append(torch.from_numpy(counts[None]).to(target.device))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all images so far by the names of `metrics.scores`, each a float64 scalar or NaN."""
        found = metrics.scores(dim_zero_cat(self.counts).cpu().numpy(), self.absent)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
