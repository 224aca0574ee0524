"""Several processes that train as one: who is who, sums over all, normalisation over the whole batch.

accelerate joins the processes (it knows torchrun's, MPI's and its own launcher, and picks the backend); torch's
DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(
    days=3
)  # for what one process does while the others wait, such as decoding a million images


@dataclass(frozen=True)
class World:
    """The processes of one training. The default is one process alone, in which nothing is exchanged.

    Args:
        rank: which of them this is; 0 writes the files.
        size: how many there are.
        device: what this one computes on.
        local: how many of them run on this machine.
        patient: a process group whose operations wait for days; None for one process alone.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    local: int = 1
    patient: dist.ProcessGroup | None = None

    @classmethod
    def join(cls, on_cpu: bool) -> Self:
        """Meet the other processes that torchrun or accelerate launch started."""
        from accelerate import PartialState

        state = PartialState(cpu=on_cpu)
        device = "cpu" if state.device.type == "cpu" else str(state.device)
        if state.num_processes == 1:
            return cls(device=device)
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        names = [""] * state.num_processes
        dist.all_gather_object(names, platform.node(), group=patient)
        return cls(state.process_index, state.num_processes, device, names.count(platform.node()), patient)

    def leave(self) -> None:
        """Say goodbye, so that the others do not take the end for a failure."""
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all of them, however long it takes (other operations give up after some minutes).

        If it fails there, its connections break, and this fails in the others.
        """
        if self.size == 1:
            return make()
        made = [make() if self.leads else None]
        dist.broadcast_object_list(made, src=0, group=self.patient)
        return made[0]

    def share(self, model: nn.Module) -> nn.Module:
        """What to call in training instead of the model: its gradients are averaged over all processes.

        Normalisation layers are made to see the whole batch, changing `model` in place.
        """
        if self.size == 1:
            return model
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.forward = partial(_whole_batch_norm, module, self)
        ids = None if self.device == "cpu" else [torch.device(self.device)]
        return DistributedDataParallel(
            model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )


def _whole_batch_norm(module: nn.modules.batchnorm._BatchNorm, world: World, x: Tensor) -> Tensor:
    """`module.forward` with the statistics of all processes' images (torch's SyncBatchNorm works on GPUs only)."""
    if not module.training:
        return type(module).forward(module, x)
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    values = x.float()
    if module.track_running_stats:
        # About a mean that all processes share: squares of values far from 0 would swallow the digits of the variance.
        values = values - module.running_mean.view(shape)
    local = torch.cat(
        [values.sum(axes), values.square().sum(axes), values.new_tensor([values.numel() / x.shape[1]])]
    )
    total, squares, count = _Sum.apply(local, world).split([x.shape[1], x.shape[1], 1])
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    if module.track_running_stats:
        with torch.no_grad():
            module.num_batches_tracked.add_(1)
            momentum = (
                module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
            )
            module.running_mean.add_(mean * momentum)
            module.running_var.lerp_(variance * count / (count - 1).clamp_min(1), momentum)
    scale = (variance + module.eps).rsqrt()
    if module.affine:
        scale = scale * module.weight
    shift = -mean * scale
    if module.affine:
        shift = shift + module.bias
    y = (values * scale.view(shape) + shift.view(shape)).to(x.dtype)
    # timm's variants activate within the layer.
    for extra in ("drop", "act"):
        y = getattr(module, extra)(y) if hasattr(module, extra) else y
    return y


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx, values, world):
        ctx.world = world
        return world.sum(values.clone())

    @staticmethod
    def backward(ctx, grad):
        return ctx.world.sum(grad.contiguous().clone()), None
