"""Several processes that train as one: who is who, sums over all of them, and averaged gradients."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(days=3)  # while one process decodes a million images; torchrun ends all when one dies


@dataclass(frozen=True)
class DistributedContext:
    """The processes of one training, of which this is number `rank` of `size`. Alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, on_cpu: bool) -> Self:
        """Meet the other processes that torchrun started, each with a GPU of its own unless `on_cpu`."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            gpu = torch.cuda.is_available() and not on_cpu
            if gpu:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
        return cls.current()

    @classmethod
    def current(cls) -> Self:
        """Return the processes that this one has joined; this one alone if none."""
        joined = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size()) if joined else cls()

    is_main = property(lambda self: self.rank == 0)  # the process that writes the files

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the main process while the others wait; return its result in all of them."""
        made = [make() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(made, src=0)
        return made[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main process's normalization statistics to all."""
        for buffer in model.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, src=0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return what to call in training instead of the model, so that gradients are averaged."""
        # Some encoders have weights that take no part, such as the layer before a classifier.
        return DistributedDataParallel(model, find_unused_parameters=True) if self.size > 1 else model

    def leave(self) -> None:
        """End the exchange when all have come here."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
