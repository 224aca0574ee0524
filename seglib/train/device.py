"""What this machine has and what a training needs -> a plan of how to compute, each choice with its reason."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import pandas as pd
import psutil
import torch
from torch import nn

from seglib.params import Train

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_CACHE_SHARE = 0.4  # of the memory available now: training itself, the notebook and the browser need the rest
_STEP_SHARE = {"cpu": 0.5, "mps": 0.5, "cuda": 0.85}  # of the available memory, for one training step
_SLACK = 1.3  # memory of a step over what autograd keeps: gradients on their way, work space


@dataclass(frozen=True)
class Machine:
    """What there is to compute with."""

    device: str  # torch device name
    name: str  # of the CPU or GPU
    half: str  # "bf16" or "fp16", where the device computes in it faster than in float32
    memory: float  # free bytes on the device
    ram: float  # bytes of main memory that this process may still take
    cores: int  # of the CPU, that this process may use
    threads: int  # of torch
    gpus: int = 0  # CUDA devices

    @classmethod
    def find(cls, device: str = "auto") -> Self:
        """Look for a CUDA GPU, else an Apple GPU, else the CPU; or for the device that is asked for.

        Raises:
            ValueError: torch cannot use this device here.
        """
        if device == "auto":
            others = "mps" if torch.backends.mps.is_available() else "cpu"
            device = "cuda" if torch.cuda.is_available() else others
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            told = str(error).splitlines()[0]
            raise ValueError(
                f"device {device!r} cannot be used here ({told}). Choose 'auto' or 'cpu'."
            ) from None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        name, half = f"{platform.processor() or platform.machine()}, {cores} cores", ""
        ram = memory = min(psutil.virtual_memory().available, _container_memory())
        if device.startswith("cuda"):
            name, (memory, _) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
            with torch.cuda.device(device):
                half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        elif device == "cpu":  # without these instructions bfloat16 is slower than float32
            probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
            half = "bf16" if any(getattr(torch.cpu, probe, bool)() for probe in probes) else ""
        threads = min(cores, torch.get_num_threads())
        return cls(device, name, half, memory, ram, cores, threads, torch.cuda.device_count())


def _container_memory(tree: Path = Path("/sys/fs/cgroup")) -> float:
    """Read the memory limit of a Linux container in bytes, which psutil does not know; infinite without one."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups v2 and v1
        with contextlib.suppress(OSError, ValueError):
            return int((tree / file).read_text(encoding="ascii"))
    return math.inf


@dataclass(frozen=True)
class DevicePlan:
    """How to compute here."""

    device: str = "cpu"  # torch device name
    precision: str = "fp32"  # or tf32, bf16, fp16 (which trains with a gradient scaler)
    channels_last: bool = False  # memory format of images and convolution weights
    compile: bool = False  # whether training runs the model through torch.compile
    accelerate: bool = (
        False  # whether training replaces what torch computes slowly on CPUs (`cpu.accelerate`)
    )
    processes: int = 1  # that share every batch, one a device
    threads: int = 1  # of torch on the CPU, in each process
    micro_batch: int = 0  # images that one process computes at a time; 0: its whole share of a batch
    cache: str = "ram"  # or disk, none: where decoded images lie while training
    workers: int = 0  # threads that cut (or decode) batches ahead of time
    reasons: dict[str, str] = field(default_factory=dict, compare=False)  # why, one sentence a choice

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.split(":")[0]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the mixed-precision context of this plan; it does nothing in fp32 and tf32."""
        dtype = PRECISIONS[self.precision]
        return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(self.kind, dtype=dtype)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to this plan's device and memory format, in place; returns it. Nothing else is changed."""
        return model.to(self.device).to(memory_format=self.memory_format)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set torch's threads and TF32 for the time of a block, and set them back afterwards."""
        cudnn = torch.backends.cudnn
        with contextlib.ExitStack() as stack:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.threads)
            if self.kind == "cuda":
                for name in ("allow_tf32", "benchmark"):
                    stack.callback(setattr, cudnn, name, getattr(cudnn, name))
                stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                torch.set_float32_matmul_precision("highest" if self.precision == "fp32" else "high")
                cudnn.allow_tf32 = self.precision != "fp32"
            yield

    def table(self) -> pd.DataFrame:
        """Return one row a choice: choice, by its parameter's name; value; why."""
        values = {name: str(getattr(self, name)) for name in self.reasons}
        names = {"torch.contiguous_format": "contiguous", "torch.channels_last": "channels_last"}
        names |= {"True": "on", "False": "off"}
        rows = [(name, names.get(value, value), self.reasons[name]) for name, value in values.items()]
        return pd.DataFrame(rows, columns=["choice", "value", "why"])


def make_plan(device: str = "auto", precision: str = "auto", machine: Machine | None = None) -> DevicePlan:
    """Choose how to predict here: device, precision and memory format.

    Args:
        device: "auto" or a torch device name.
        precision: "auto" (half precision where the device is faster in it) or one of `PRECISIONS`.
        machine: what to plan for, instead of this machine.

    Raises:
        ValueError: a device that is not here, or a precision that it cannot do.
    """
    machine = machine or Machine.find(device)
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision {precision!r}: expected auto, {', '.join(PRECISIONS)}.")
    if precision in ("fp16", "tf32") and not machine.device.startswith("cuda"):
        raise ValueError(f"precision {precision!r} is for CUDA GPUs, not {machine.device!r}. Choose 'auto'.")
    reasons = {
        "device": ("" if device == "auto" else "asked for: ") + machine.name,
        "precision": "fast half precision is " + ("built in" if machine.half else "not built in"),
        "memory_format": "CPUs and CUDA GPUs convolve faster in channels_last, Apple GPUs do not",
    }
    if precision != "auto":
        reasons["precision"] = "asked for"
    chosen = machine.half or "fp32" if precision == "auto" else precision
    channels_last = not machine.device.startswith("mps")
    return DevicePlan(machine.device, chosen, channels_last, threads=machine.threads, reasons=reasons)


class Job(NamedTuple):
    """What a training asks of the machine."""

    batch_size: int  # images a step, over all processes
    cache_bytes: int = 0  # of the decoded data
    stored: bool = True  # whether the decoded data found room on the disk
    weights: int = 0  # number of weights of the model
    accelerations: tuple[str, ...] = ()  # what `cpu.accelerate` would replace in the model


def choose_plan(params: Train, job: Job, machine: Machine) -> DevicePlan:
    """Choose how to train, but for the micro-batch. Every parameter that is not "auto" or 0 is taken as asked for.

    Raises:
        ValueError: a precision that the device cannot do; more processes than images a step.
    """
    plan = make_plan(params.device, params.precision, machine)
    reasons = dict(plan.reasons)

    def choose(name: str, value: Any, why: str) -> Any:
        asked = getattr(params, name)
        reasons[name] = why if asked in ("auto", 0) else "asked for"
        return value if asked in ("auto", 0) else asked

    layout = "channels_last" if plan.channels_last else "contiguous"
    channels_last = choose("memory_format", layout, reasons["memory_format"]) == "channels_last"
    compiled = choose("compile", "off", "takes a minute or more; try it for long trainings on a GPU") == "on"
    fast = params.accelerate and plan.kind == "cpu" and channels_last and not compiled
    reasons["accelerate"] = "; ".join(job.accelerations) or "nothing in this model is slow on a CPU"
    if not fast:
        reasons["accelerate"] = "for CPUs in channels_last without torch.compile, if the parameter is True"
    several = plan.device == "cuda" and 1 < machine.gpus <= job.batch_size
    processes = choose("processes", machine.gpus if several else 1, "one for each device")
    if processes > job.batch_size:
        raise ValueError(
            f"{processes} processes cannot share a batch of {job.batch_size} images (of batch_size, or all there are). Enlarge "
            "batch_size, or ask for fewer processes."
        )
    # Several processes map the same file; each with a copy of its own would multiply it.
    fits = job.cache_bytes <= _CACHE_SHARE * machine.ram and processes == 1
    room = f"{job.cache_bytes / 1e6:,.0f} MB decoded; up to {_CACHE_SHARE:.0%} of free memory may hold it"
    if not job.stored:
        room = f"no room on the disk for {job.cache_bytes / 1e9:,.1f} GB: files are decoded in every epoch"
    cache = choose("cache", ("ram" if fits else "disk") if job.stored else "none", room)
    workers = max(1, machine.cores // processes) if cache == "none" else 2 * (plan.kind == "cuda")
    return replace(
        plan,
        channels_last=channels_last,
        compile=compiled,
        accelerate=fast and bool(job.accelerations),
        processes=processes,
        threads=choose("threads", max(1, machine.threads // processes), f"shared {machine.cores} cores"),
        cache=cache,
        workers=choose("workers", workers, "what cutting or decoding batches beside the training needs"),
        reasons=reasons,
    )


def choose_micro_batch(
    plan: DevicePlan, params: Train, job: Job, machine: Machine, image_bytes: int
) -> DevicePlan:
    """Choose the most images whose step fits the memory, and share the batch evenly. `image_bytes`: measured, of one image."""
    share = math.ceil(job.batch_size / plan.processes)
    memory = machine.memory / (plan.processes if plan.kind == "cpu" else 1)
    budget = _STEP_SHARE[plan.kind] * memory
    # Weights, their gradients and AdamW's two moments take 4 bytes each.
    fits = max(1, int((budget - 16 * job.weights) / (_SLACK * max(1, image_bytes))))
    parts = math.ceil(share / min(share, params.micro_batch or fits))
    why = f"an image takes {image_bytes / 1e6:,.0f} MB in a step; {budget / 1e9:,.1f} GB may be used"
    if params.micro_batch:
        why = "asked for"
    if parts > 1:
        why += f"; {parts} make a step, and normalization and Dice see one at a time"
    return replace(plan, micro_batch=math.ceil(share / parts), reasons=plan.reasons | {"micro_batch": why})


def out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error of torch's says that a device's memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
