"""What this machine has and what a training needs -> a plan, each choice with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from seglib.train.machine import Gpu, Machine
from seglib.train.plans import PRECISIONS, DevicePlan, Job, Trial

_CACHE_SHARE = 0.4  # of the memory available now: training itself, the notebook and the browser need the rest
_STEP_SHARE = {"cpu": 0.5, "mps": 0.5, "cuda": 0.85}  # of the available memory for one training step
_SLACK = 1.3  # memory of a step over what autograd keeps: gradients on their way, work space
_COMPILE_STEPS = 5000  # compiling takes a minute or more, which fewer steps seldom win back


def make_plan(
    device: str = "auto",
    precision: str = "auto",
    *,
    memory_format: str = "auto",
    compile: str = "auto",
    processes: int = 0,
    threads: int = 0,
    micro_batch: int = 0,
    cache: str = "auto",
    workers: int = 0,
    job: Job | None = None,
    machine: Machine | None = None,
    trial: Callable[[DevicePlan], Trial] | None = None,
) -> DevicePlan:
    """Choose how to compute. Every choice that is not "auto" or 0 is taken as asked for.

    Args:
        device: "auto" (a CUDA GPU, else Apple's, else the processor) or a torch device name.
        precision: "auto" or one of `PRECISIONS`.
        memory_format: "auto", "channels_last" or "contiguous".
        compile: "auto", "on" or "off".
        processes, threads, micro_batch, workers: numbers, 0 for automatic ones.
        cache: "auto", "ram", "disk" or "none".
        job: what is to be trained; None: nothing, the plan is for prediction.
        machine: what to plan for; this machine by default.
        trial: measures a few training steps of a candidate; asked where precision, memory format, compiler or micro-batch are
            open. The fastest candidate wins, plain fp32 among them. None: capabilities alone decide.

    Raises:
        ValueError: a device that is not here or a precision that it cannot do.
    """
    machine, reasons = machine or Machine.here(), {}
    asked_for_processes = processes
    device, reasons["device"] = _device(device, machine)
    _check_precision(precision, device)
    processes, reasons["processes"] = _processes(processes, device, job, machine)
    threads, reasons["threads"] = _threads(threads, processes, machine)
    plan = DevicePlan(device, processes=processes, threads=threads)
    candidates = _candidates(plan, precision, memory_format, compile, job, machine)
    open_choice = len(candidates) > 1 or (job is not None and not micro_batch)
    trials, failed = _try(candidates, trial) if trial is not None and open_choice else ({}, "")
    if trials:
        plan = min(trials, key=lambda candidate: trials[candidate].seconds)
        why = _comparison(plan, trials) + failed
    else:
        plan, why = candidates[-1], _capability(candidates[-1])
    for name, wanted in (("precision", precision), ("channels_last", memory_format), ("compile", compile)):
        reasons[name] = "asked for" if wanted != "auto" else why
    if compile == "auto" and not any(candidate.compile for candidate in candidates):
        reasons["compile"] = _why_not_compiled(plan, job)
    plan, batch_reasons = _batches(plan, micro_batch, job, machine, trials.get(plan, Trial(0)).image_bytes)
    plan, data_reasons = _data(plan, cache, workers, job, machine)
    if asked_for_processes:
        reasons["processes"] = "asked for"
    return replace(plan, reasons=reasons | batch_reasons | data_reasons)


def _device(wanted: str, machine: Machine) -> tuple[str, str]:
    if wanted != "auto":
        try:
            torch.empty(1, device=wanted)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {wanted!r} cannot be used here ({str(error).splitlines()[0]}). Choose 'auto' or 'cpu'."
            ) from None
        return wanted, "asked for"
    if machine.gpus:
        return "cuda", machine.gpus[0].name
    if machine.mps:
        return "mps", "Apple GPU"
    return "cpu", "no GPU that torch can use was found"


def _check_precision(wanted: str, device: str) -> None:
    if wanted not in ("auto", *PRECISIONS):
        raise ValueError(f"precision {wanted!r}: expected auto, {', '.join(PRECISIONS)}.")
    if wanted in ("fp16", "tf32") and device.split(":")[0] != "cuda":
        raise ValueError(
            f"precision {wanted!r} trains on CUDA GPUs only, and the device is {device!r}. Choose 'auto'."
        )


def _processes(wanted: int, device: str, job: Job | None, machine: Machine) -> tuple[int, str]:
    if wanted:
        if job and wanted > job.batch_size:
            raise ValueError(
                f"{wanted} processes cannot share a batch of {job.batch_size} images (of `batch_size`, or all there are). Enlarge "
                "batch_size, or ask for fewer processes."
            )
        local = _local(wanted, machine)
        if device == "cuda" and local > len(machine.gpus):
            raise ValueError(
                f"{local} processes asked for, but there are {len(machine.gpus)} GPUs, one for each."
            )
        return wanted, "asked for"
    if job and device == "cuda" and 1 < len(machine.gpus) <= job.batch_size:
        return len(machine.gpus), "one for each GPU"
    return 1, "one device, so training runs in this process"


def _threads(wanted: int, processes: int, machine: Machine) -> tuple[int, str]:
    if wanted:
        return wanted, "asked for"
    if processes == 1:
        return machine.threads, f"torch's own choice on {machine.cores} processors"
    local = _local(processes, machine)
    return max(1, machine.threads // local), f"{machine.threads} shared by {local} processes on this machine"


def _local(processes: int, machine: Machine) -> int:
    """Of so many processes, those on one machine."""
    return machine.sharing or processes


def _gpu(device: str, machine: Machine) -> Gpu | None:
    """The GPU that a torch device name means."""
    kind, _, number = device.partition(":")
    return machine.gpus[int(number or 0)] if kind == "cuda" and machine.gpus else None


def _candidates(
    plan: DevicePlan, precision: str, memory_format: str, compile: str, job: Job | None, machine: Machine
) -> list[DevicePlan]:
    """Plain fp32 first, what capabilities recommend last."""
    precisions, gpu = ["fp32"], _gpu(plan.device, machine)
    if gpu:
        precisions += ["tf32", "bf16"] if gpu.bf16 else ["fp16"] if gpu.fp16 else []
    elif plan.kind == "cpu" and machine.cpu_bf16:
        precisions += ["bf16"]
    formats = [False] if plan.kind == "mps" else [False, True]
    compiles = [False]
    if plan.kind == "cuda" and machine.triton and job and job.steps >= _COMPILE_STEPS:
        compiles += [True]
    precisions = precisions if precision == "auto" else [precision]
    formats = formats if memory_format == "auto" else [memory_format == "channels_last"]
    compiles = compiles if compile == "auto" else [compile == "on"]
    # Half precision gains most in channels_last; trying it in both would only cost time.
    pairs = [(p, f) for p in precisions for f in (formats if p == "fp32" else formats[-1:])]
    every = [replace(plan, precision=p, channels_last=f, compile=c) for c in compiles for p, f in pairs]
    return [*every[: len(pairs)], every[-1]] if len(compiles) > 1 else every


def _try(
    candidates: list[DevicePlan], trial: Callable[[DevicePlan], Trial]
) -> tuple[dict[DevicePlan, Trial], str]:
    """What each showed, and in words which ones failed."""
    trials, failed = {}, ""
    for candidate in candidates:
        try:
            trials[candidate] = trial(candidate)
        except RuntimeError as error:
            if candidate is candidates[0]:  # the plain one must work, or training could not either
                raise
            failed += f"; {candidate.label} failed: {' '.join(str(error).split())[:80]}"
    return trials, failed


def _comparison(best: DevicePlan, trials: dict[DevicePlan, Trial]) -> str:
    plain = next(iter(trials))
    if len(trials) == 1:
        return f"the only candidate; {trials[best].seconds:.2g} s an image in a trial"
    if best == plain:
        others = ", ".join(
            f"{c.label} {t.seconds / trials[best].seconds:.1f}x" for c, t in trials.items() if c != best
        )
        return f"nothing was faster in a trial (time against {plain.label}: {others})"
    gains = ", ".join(
        f"{c.label} {trials[plain].seconds / t.seconds:.1f}x" for c, t in trials.items() if c != plain
    )
    return f"fastest in a trial (speed against {plain.label}: {gains})"


def _why_not_compiled(plan: DevicePlan, job: Job | None) -> str:
    if plan.kind == "cpu":
        return "on processors it gained nothing and took more than a minute"
    if not job or job.steps < _COMPILE_STEPS:
        return f"compiling takes a minute or more, which fewer than {_COMPILE_STEPS} steps seldom win back"
    return (
        "torch.compile needs triton, which is not installed" if plan.kind == "cuda" else "for CUDA GPUs alone"
    )


def _capability(plan: DevicePlan) -> str:
    return {
        "bf16": "native bfloat16: no gradient scaler needed"
        if plan.kind == "cuda"
        else "this processor has bfloat16 instructions (AVX512-BF16 or AMX)",
        "fp16": "this GPU has no native bfloat16; fp16 with a gradient scaler",
        "tf32": "tensor cores compute float32 with shorter mantissas",
        "fp32": "no fast half precision is known on this device",
    }[plan.precision]


def _batches(
    plan: DevicePlan, wanted: int, job: Job | None, machine: Machine, image_bytes: int
) -> tuple[DevicePlan, dict[str, str]]:
    if job is None:
        return plan, {}
    share = math.ceil(job.batch_size / plan.processes)
    gpu = _gpu(plan.device, machine)
    budget = _STEP_SHARE[plan.kind] * (
        gpu.memory if gpu else machine.memory / _local(plan.processes, machine)
    )
    fits = share
    if image_bytes:
        # Weights, their gradients and AdamW's two moments, 4 bytes each.
        fits = max(1, int((budget - 16 * job.weights) / (_SLACK * image_bytes)))
    accumulation = math.ceil(share / min(share, wanted or fits))
    micro = math.ceil(share / accumulation)
    if wanted:
        why = "asked for"
    elif not image_bytes:
        why = "the whole share of the batch; memory was not measured"
    else:
        why = f"an image takes {image_bytes / 1e6:,.0f} MB in a step; {budget / 1e9:,.1f} GB may be used"
    if accumulation > 1:
        why += "; normalisation and the Dice term see one micro-batch at a time"
    return replace(plan, micro_batch=micro, accumulation=accumulation), {
        "micro_batch": why,
        "accumulation": f"{accumulation} x {micro} images make a process's share of {share}",
    }


def _data(
    plan: DevicePlan, cache: str, workers: int, job: Job | None, machine: Machine
) -> tuple[DevicePlan, dict[str, str]]:
    if job is None:
        return plan, {}
    room = f"{job.cache_bytes / 1e6:,.0f} MB decoded; up to {_CACHE_SHARE:.0%} of the available memory may hold it"
    why_cache = "asked for" if cache != "auto" else room
    if cache == "auto":
        # Several processes map the same file; each with a copy of its own would multiply it.
        fits = job.cache_bytes <= _CACHE_SHARE * machine.memory and plan.processes == 1
        cache = "none" if not job.stored else "ram" if fits else "disk"
        if not job.stored:
            why_cache = f"no room on the disk for {job.cache_bytes / 1e9:,.1f} GB of decoded data: files are decoded anew each epoch"
    if workers:
        why_workers = "asked for"
    elif cache == "none":
        workers = max(1, machine.cores // _local(plan.processes, machine))
        why_workers = "decoding keeps every processor busy"
    elif plan.kind == "cuda":
        workers, why_workers = 2, "batches are cut while the GPU computes"
    else:
        why_workers = "cutting a batch from the cache takes a small part of a step, on the same processor"
    return replace(plan, cache=cache, workers=workers), {"cache": why_cache, "workers": why_workers}


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch's says that a device's memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
