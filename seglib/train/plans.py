"""A plan of how to compute: what was chosen for a training or a prediction, each choice with its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

from seglib.train.cpu import fold_upsampling, keep_freed_memory, replace_depthwise, replace_doubling
from seglib.train.normalization import fuse_normalization

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Job:
    """What a training asks of the machine.

    Args:
        batch_size: images a step, over all processes.
        steps: optimiser steps in all.
        cache_bytes: size of the decoded data.
        stored: whether the decoded data found room on the disk.
        weights: number of weights of the model.
    """

    batch_size: int
    steps: int
    cache_bytes: int = 0
    stored: bool = True
    weights: int = 0


@dataclass(frozen=True)
class DevicePlan:
    """How to compute here. `reasons` says why, one sentence a choice.

    Args:
        device: torch device name ("cpu", "cuda", "mps").
        precision: "fp32", "tf32", "bf16" or "fp16" (fp16 trains with a gradient scaler).
        channels_last: memory format of images and convolution weights.
        compile: whether torch.compile builds kernels for the model.
        processes: that share every batch, one a device.
        threads: processor threads of torch, each process.
        micro_batch: images that one process computes at a time; 0: its whole share of a batch.
        accumulation: micro-batches a step.
        cache: "ram", "disk" or "none": where decoded images lie while training.
        workers: threads that cut (or decode) batches ahead of time.
    """

    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    processes: int = 1
    threads: int = 1
    micro_batch: int = 0
    accumulation: int = 1
    cache: str = "ram"
    workers: int = 0
    reasons: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.split(":")[0]

    @property
    def label(self) -> str:
        """Precision, memory format and compiler in words."""
        words = [self.precision, "channels_last" if self.channels_last else "contiguous"]
        return " ".join([*words, "compiled"] if self.compile else words)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager:
        """The mixed-precision context of this plan; without effect in fp32 and tf32."""
        dtype = PRECISIONS[self.precision]
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.kind, dtype=dtype)

    @contextlib.contextmanager
    def repeating(self) -> Iterator[None]:
        """Where many steps of the same sizes follow, as in training: cuDNN then times its algorithms for each of them once."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    def fetch(self, values: Tensor) -> Callable[[], Tensor]:
        """Send values to the processor. What is returned waits for them when it is called, and for nothing that a CUDA GPU was
        given to do since: any other way to read them would."""
        if self.kind != "cuda":
            return lambda: values
        there = values.to("cpu", non_blocking=True)
        sent = torch.cuda.current_stream(values.device).record_event()

        def fetched() -> Tensor:
            sent.synchronize()
            return there

        return fetched

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this plan's device and in its memory format; changed in place and returned."""
        model = model.to(self.device).to(memory_format=self.memory_format)
        if self.kind == "cuda":
            torch.set_float32_matmul_precision("highest" if self.precision == "fp32" else "high")
            torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
        if self.kind == "cpu":
            torch.set_num_threads(self.threads)
            keep_freed_memory()
            if self.precision == "bf16":
                replace_depthwise(model)
            if self.channels_last and not self.compile:
                replace_doubling(model)
                fold_upsampling(model)
                fuse_normalization(model)
        if self.compile:
            model.compile()
        return model

    def table(self) -> pd.DataFrame:
        """One row a choice: choice, by its parameter's name where it has one; value; why."""
        rows, settings = [], self.settings()
        for name, value in asdict(self).items():
            if name != "reasons":
                choice = "memory_format" if name == "channels_last" else name
                value = str(settings.get(choice, value))
                rows.append({"choice": choice, "value": value, "why": self.reasons.get(name, "")})
        return pd.DataFrame(rows)

    def to_dict(self) -> dict:
        return asdict(self)

    def settings(self) -> dict[str, str | int]:
        """The parameters of 02_train that ask for this plan; processes apart."""
        return {
            "device": self.kind if self.processes > 1 else self.device,
            "precision": self.precision,
            "memory_format": "channels_last" if self.channels_last else "contiguous",
            "compile": "on" if self.compile else "off",
            "threads": self.threads,
            "micro_batch": self.micro_batch,
            "cache": self.cache,
            "workers": self.workers,
        }


@dataclass(frozen=True)
class Trial:
    """What a few steps showed: seconds an image, and bytes that a step keeps for each image (0: not known)."""

    seconds: float
    image_bytes: int = 0
