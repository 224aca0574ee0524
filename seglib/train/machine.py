"""What there is to compute with."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
from dataclasses import dataclass
from typing import Self

import psutil
import torch

from seglib.train import limits


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Args:
        name: its product's.
        memory: free bytes.
        bf16: whether it has tensor cores for TF32 and bfloat16.
        fp16: whether it computes faster in float16 than in float32.
    """

    name: str
    memory: int
    bf16: bool
    fp16: bool = True


@dataclass(frozen=True)
class Machine:
    """What there is to compute with.

    Args:
        system: "Linux", "Darwin" or "Windows".
        processor: its kind, as far as the system tells.
        cores: processors that this process may use.
        threads: torch's own choice of threads for them.
        memory: bytes that this process may still take.
        cpu_bf16: whether the processor multiplies bfloat16 natively (AVX512-BF16 or AMX).
        gpus: the CUDA devices.
        mps: whether torch can use an Apple GPU.
        triton: whether torch.compile has its GPU compiler.
        sharing: processes of a training that share this machine; 0: all that it has.
    """

    system: str
    processor: str
    cores: int
    threads: int
    memory: int
    cpu_bf16: bool = False
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    triton: bool = False
    sharing: int = 0

    @classmethod
    def here(cls) -> Self:
        """This machine, now, as far as a container or a batch system leaves it to this process."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = max(1, math.ceil(min(cores, limits.processors())))
        return cls(
            system=platform.system(),
            processor=platform.processor() or platform.machine(),
            cores=cores,
            threads=min(cores, torch.get_num_threads()),
            memory=int(min(psutil.virtual_memory().available, limits.memory_left())),
            cpu_bf16=cpu_has_bf16(),
            gpus=tuple(map(_gpu, range(torch.cuda.device_count()))) if torch.cuda.is_available() else (),
            mps=torch.backends.mps.is_available(),
            triton=importlib.util.find_spec("triton") is not None,
        )

    @property
    def name(self) -> str:
        """What tells this machine from another kind; memory that is free by chance is left out."""
        gpus = ", ".join(gpu.name for gpu in self.gpus)
        return f"{self.system} {self.processor}, {self.cores} cores, bf16 {self.cpu_bf16}, [{gpus}]"

    @property
    def signature(self) -> str:
        """What measured times hold for."""
        return f"{self.name}, torch {torch.__version__}"


def _gpu(number: int) -> Gpu:
    with torch.cuda.device(number):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        version = torch.cuda.get_device_capability(number)
        fp16 = version >= (7, 0) or version == (
            6,
            0,
        )  # Pascal's other chips have one such unit for 64 of float32
        return Gpu(torch.cuda.get_device_name(number), torch.cuda.mem_get_info(number)[0], bf16, fp16)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16 or AMX); without, bf16 is slower than fp32."""
    probes = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(probe() for probe in probes if probe is not None)
