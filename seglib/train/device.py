"""What this machine can do, and a plan of how to compute on it; each choice has a reason."""

import contextlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pandas as pd
import psutil
import torch
from torch import nn

from seglib.train.cpu import accelerate

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # the memory limit of a Linux container, unknown to psutil


@dataclass(frozen=True)
class Machine:
    """What there is to compute with."""

    device: str  # torch device name
    name: str  # of the CPU or GPU
    half: str  # "bf16" or "fp16", where the device computes in it faster than in float32; "" elsewhere
    memory: float  # free bytes on the device
    threads: int  # of torch on the CPU
    gpus: int = 0  # CUDA devices

    @classmethod
    def find(cls, device: str = "auto") -> Self:
        """Describe this machine's CUDA GPU, else its Apple GPU, else its CPU; or the device that is asked for."""
        if device == "auto":
            others = "mps" if torch.backends.mps.is_available() else "cpu"
            device = "cuda" if torch.cuda.is_available() else others
        torch.empty(1, device=device)  # torch's error says why it cannot be used
        name, half = platform.processor() or platform.machine(), ""
        memory = psutil.virtual_memory().available
        with contextlib.suppress(OSError, ValueError):  # "max" without a limit
            memory = min(memory, int(_CONTAINER.read_text(encoding="ascii")))
        if device.startswith("cuda"):
            name, (memory, _) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
            with torch.cuda.device(device):
                half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        elif device == "cpu":  # without these instructions bfloat16 is slower than float32
            probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
            half = "bf16" if any(getattr(torch.cpu, probe, bool)() for probe in probes) else ""
        return cls(device, name, half, memory, torch.get_num_threads(), torch.cuda.device_count())


@dataclass(frozen=True)
class DevicePlan:
    """How to compute here."""

    device: str = "cpu"  # torch device name
    precision: str = "fp32"  # or tf32, bf16, fp16 (which trains with a gradient scaler)
    memory_format: str = "contiguous"  # or channels_last: of images and convolution weights
    compile: str = "off"  # or on: training runs the model through torch.compile
    accelerate: bool = False  # whether training calls `cpu.accelerate`
    processes: int = 1  # that share every batch, one a device
    threads: int = 1  # of torch on the CPU, in each process
    micro_batch: int = 0  # images that one process computes at a time; 0: its whole share of a batch
    cache: str = "disk"  # or none: where decoded images lie while training
    workers: int = 0  # threads that cut (or decode) batches ahead of time
    reasons: dict[str, str] = field(default_factory=dict, compare=False)  # by choice

    kind = property(lambda self: self.device.split(":")[0])  # the device without its number
    layout = property(lambda self: _LAYOUTS[self.memory_format])  # torch's name of the memory format

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the mixed-precision context of this plan; it does nothing in fp32 and tf32."""
        return torch.autocast(self.kind, _HALVES.get(self.precision), enabled=self.precision in _HALVES)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to this plan's device and memory format, and accelerate it, in place; return it."""
        model = model.to(self.device).to(memory_format=self.layout)
        if self.accelerate:
            accelerate(model)
        return model

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set torch's threads and TF32 for a block, and set them back afterwards."""
        cudnn = torch.backends.cudnn
        with contextlib.ExitStack() as stack:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.threads)
            for name in ("allow_tf32", "benchmark"):  # the second is set by the trainer
                stack.callback(setattr, cudnn, name, getattr(cudnn, name))
            if self.kind == "cuda":
                stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                torch.set_float32_matmul_precision("highest" if self.precision == "fp32" else "high")
                cudnn.allow_tf32 = self.precision != "fp32"
            yield

    def table(self) -> pd.DataFrame:
        """Return one row a choice: choice, by its parameter's name; value; why (of weights: which, normalised how)."""
        rows = [(name, str(getattr(self, name, "")), why) for name, why in self.reasons.items()]
        table = pd.DataFrame(rows, columns=["choice", "value", "why"])
        return table.replace({"value": {"True": "on", "False": "off"}})


def make_plan(device: str = "auto", precision: str = "auto", machine: Machine | None = None) -> DevicePlan:
    """Choose how to predict; "auto" is a GPU if there is one, and half precision where that is faster."""
    machine = machine or Machine.find(device)
    if precision in ("fp16", "tf32") and not machine.device.startswith("cuda"):
        raise ValueError(f"precision {precision!r} is for CUDA GPUs, not {machine.device!r}. Choose 'auto'.")
    why = "fast half precision is " + ("built in" if machine.half else "not built in")
    reasons = {
        "device": ("" if device == "auto" else "asked for: ") + machine.name,
        "precision": why if precision == "auto" else "asked for",
        "memory_format": "CPUs and CUDA GPUs convolve faster in channels_last, Apple GPUs do not",
    }
    chosen = machine.half or "fp32" if precision == "auto" else precision
    layout = "contiguous" if machine.device.startswith("mps") else "channels_last"
    return DevicePlan(machine.device, chosen, layout, threads=machine.threads, reasons=reasons)
