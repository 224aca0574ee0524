"""What this machine has -> a plan for training and inference on it, each choice with its reason."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial

import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CACHE_SHARE = 0.4  # of the memory available now: training itself, the notebook and the browser need the rest


@dataclass(frozen=True)
class HardwarePlan:
    """How to compute here. `reasons` says why, one sentence a choice.

    Args:
        device: torch device name ("cpu", "cuda", "mps").
        precision: "fp32", "bf16" or "fp16" (fp16 trains with a gradient scaler).
        channels_last: memory format of images and convolution weights.
        threads: processor threads of torch.
        cache: "ram" or "disk", where decoded images lie while training.
    """

    device: str
    precision: str
    channels_last: bool
    threads: int
    cache: str
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager:
        """The mixed-precision context of this plan; without effect in fp32."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, dtype=PRECISIONS[self.precision], enabled=self.precision != "fp32")

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this plan's device and in its memory format; changed in place and returned."""
        model = model.to(self.device).to(memory_format=self.memory_format)
        if self.device == "cpu":
            _keep_freed_memory()
        if self.device == "cpu" and self.precision == "bf16":
            for module in model.modules():
                if (
                    type(module) is nn.Conv2d
                    and module.groups == module.in_channels > 1
                    and module.padding_mode == "zeros"
                ):
                    module.forward = partial(_depthwise, module)
        return model

    def table(self) -> pd.DataFrame:
        """One row a choice: choice, value, why."""
        values = {name: value for name, value in asdict(self).items() if name != "reasons"}
        return pd.DataFrame([{"choice": n, "value": str(v), "why": self.reasons.get(n, "")} for n, v in values.items()])

    def to_dict(self) -> dict:
        return asdict(self)


def _depthwise(module: nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(module.padding, str) or not torch.is_autocast_enabled("cpu"):
        return module._conv_forward(x, module.weight, module.bias)
    return _Depthwise.apply(x, module.weight, module.bias, module.stride, module.padding, module.dilation)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bfloat16 whose gradient is computed in float32.

    oneDNN's bfloat16 gradient of depthwise convolutions is several times slower than its float32 one.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation):
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.settings = (stride, padding, dilation, None if bias is None else list(bias.shape))
        return F.conv2d(
            x, weight.bfloat16(), None if bias is None else bias.bfloat16(), stride, padding, dilation, x.shape[1]
        )

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, bias_shape = ctx.settings
        wanted = (ctx.needs_input_grad[0], True, bias_shape is not None)
        convolution = (bias_shape, stride, padding, dilation, False, [0, 0], x.shape[1], wanted)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight, *convolution
        )
        return None if grad_x is None else grad_x.bfloat16(), grad_weight, grad_bias, None, None, None


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step, instead of giving it back and faulting it in again."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for large blocks
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap


def make_plan(device: str = "auto", precision: str = "auto", cache_bytes: int = 0) -> HardwarePlan:
    """Choose device, precision, memory format and place of the cache for this machine.

    Args:
        device: "auto" (a CUDA GPU, else Apple's, else the processor) or a torch device name.
        precision: "auto" or one of fp32, bf16, fp16.
        cache_bytes: size of the decoded data that training reads, in bytes.

    Raises:
        ValueError: a device that is not here or a precision that it cannot do.
    """
    device, device_reason = _device(device)
    precision, precision_reason = _precision(device, precision)
    channels_last = device.split(":")[0] != "mps"
    available = psutil.virtual_memory().available
    cache = "ram" if cache_bytes <= _CACHE_SHARE * available else "disk"
    threads = torch.get_num_threads()
    return HardwarePlan(
        device,
        precision,
        channels_last,
        threads,
        cache,
        reasons={
            "device": device_reason,
            "precision": precision_reason,
            "channels_last": "convolutions read neighbouring channels together"
            if channels_last
            else "no gain is known on Apple GPUs",
            "threads": f"torch's own choice on {os.cpu_count()} processors",
            "cache": f"{cache_bytes / 1e6:,.0f} MB decoded; up to {_CACHE_SHARE:.0%} of the available memory may hold it",
        },
    )


def _device(wanted: str) -> tuple[str, str]:
    if wanted != "auto":
        try:
            torch.empty(1, device=wanted)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {wanted!r} cannot be used here ({str(error).splitlines()[0]}). Choose 'auto' or 'cpu'."
            ) from None
        return wanted, "asked for"
    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name(0)
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU"
    return "cpu", "no GPU that torch can use was found"


def _precision(device: str, wanted: str) -> tuple[str, str]:
    kind = device.split(":")[0]
    if wanted != "auto":
        if wanted not in PRECISIONS:
            raise ValueError(f"precision {wanted!r}: expected auto, {', '.join(PRECISIONS)}.")
        if wanted == "fp16" and kind != "cuda":
            raise ValueError(f"precision 'fp16' trains on CUDA GPUs only, and the device is {device!r}. Choose 'auto'.")
        return wanted, "asked for"
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes bfloat16 natively: no gradient scaler needed"
        return "fp16", "this GPU has no native bfloat16; fp16 with a gradient scaler"
    if kind == "cpu" and cpu_has_bf16():
        return "bf16", "this processor has bfloat16 instructions (AVX512-BF16 or AMX)"
    return "fp32", "no fast half precision is known on this device"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16 or AMX); without, bf16 is slower than fp32."""
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)
