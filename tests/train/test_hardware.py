"""The hardware plan on this machine and on pretended ones, and the depthwise convolutions that it replaces."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from seglib.train.machine import Gpu, Machine, cpu_has_bf16
from seglib.train.plans import PRECISIONS, DevicePlan, Job, Trial
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import nn

from seglib.train import limits
from seglib.train.device import make_plan

GB = 1_000_000_000
LAPTOP = Machine("Linux", "x86_64", cores=4, threads=2, memory=8 * GB)
SERVER = replace(LAPTOP, cpu_bf16=True, cores=64, threads=32, memory=256 * GB)
TINY = replace(LAPTOP, memory=GB // 10)
WINDOWS = replace(LAPTOP, system="Windows", processor="AMD64")
APPLE = replace(LAPTOP, system="Darwin", processor="arm", mps=True)
OLD_GPU = replace(LAPTOP, gpus=(Gpu("Old GPU", 8 * GB, bf16=False),))
NEW_GPU = replace(LAPTOP, gpus=(Gpu("New GPU", 80 * GB, bf16=True),), triton=True)
EIGHT = replace(NEW_GPU, gpus=NEW_GPU.gpus * 8)
PASCAL = replace(LAPTOP, gpus=(Gpu("Slow in half precision", 8 * GB, bf16=False, fp16=False),))
MACHINES = {
    "laptop": LAPTOP, "server": SERVER, "tiny": TINY, "windows": WINDOWS, "apple": APPLE, "old gpu": OLD_GPU,
    "new gpu": NEW_GPU, "eight gpus": EIGHT, "pascal": PASCAL,
}  # fmt: skip
JOB = Job(batch_size=14, steps=1000, cache_bytes=GB, weights=6_000_000)
# Seconds an image of plans on pretended machines, by their label.
HONEST = {"fp32 contiguous": 1.0, "fp32 channels_last": 0.6, "tf32 channels_last": 0.4, "bf16 channels_last": 0.3,
          "bf16 channels_last compiled": 0.2, "fp16 channels_last": 0.35}  # fmt: skip


def cpu_plan(precision: str = "fp32") -> DevicePlan:
    return DevicePlan("cpu", precision, channels_last=True)


def test_this_machine_gets_a_plan_that_computes():
    plan = make_plan()
    assert plan.precision in PRECISIONS
    model = plan.place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with plan.autocast():
        result = model(torch.rand(2, 3, 8, 8, device=plan.device))
    assert result.dtype == PRECISIONS[plan.precision]


@pytest.mark.parametrize(
    ("plan", "folds"),
    [
        (cpu_plan("bf16"), True),
        (cpu_plan(), True),
        (DevicePlan("cpu", "fp32", channels_last=False), False),
        (replace(cpu_plan(), compile=True), False),
    ],
    ids=["bf16", "fp32", "contiguous", "compiled"],
)
def test_where_blocks_of_a_unet_convolve_before_they_upsample(plan, folds):
    block = plan.place(UnetDecoderBlock(4, 0, 4))
    assert ("forward" in vars(block)) == folds


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize(
    "trial", [None, lambda plan: Trial(HONEST[plan.label], 1000)], ids=["untried", "tried"]
)
def test_every_choice_has_a_reason(machine, trial):
    plan = make_plan(job=JOB, machine=machine, trial=trial)
    table = plan.table()
    assert list(table["choice"]) == [
        "device", "precision", "memory_format", "compile", "processes", "threads", "micro_batch", "accumulation",
        "cache", "workers",
    ]  # fmt: skip
    assert (table["why"].str.len() > 5).all(), table
    assert plan.to_dict()["reasons"] == plan.reasons


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (LAPTOP, ("cpu", "fp32", True)),
        (WINDOWS, ("cpu", "fp32", True)),
        (SERVER, ("cpu", "bf16", True)),
        (APPLE, ("mps", "fp32", False)),
        (OLD_GPU, ("cuda", "fp16", True)),
        (PASCAL, ("cuda", "fp32", True)),
        (replace(OLD_GPU, cpu_bf16=True), ("cuda", "fp16", True)),
        (NEW_GPU, ("cuda", "bf16", True)),
        (replace(NEW_GPU, mps=True), ("cuda", "bf16", True)),
    ],
)
@pytest.mark.parametrize("trial", [None, lambda plan: Trial(HONEST[plan.label])], ids=["untried", "tried"])
def test_auto_takes_the_best_there_is(machine, expected, trial):
    plan = make_plan(job=JOB, machine=machine, trial=trial)
    assert (plan.device, plan.precision, plan.channels_last) == expected
    assert plan.memory_format == (torch.channels_last if expected[2] else torch.contiguous_format)
    assert not plan.compile


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("seed", range(8))
def test_nothing_slower_than_plain_fp32_is_ever_chosen(machine, seed):
    """Whatever a machine's trials show: drawn at random, some candidates failing."""
    random = torch.Generator().manual_seed(seed)
    shown = {}

    def trial(plan):
        seconds = torch.rand((), generator=random).item()
        if shown and seconds > 0.7:
            raise RuntimeError("not implemented on this device")
        shown[plan.label] = seconds
        return Trial(seconds)

    plan = make_plan(job=replace(JOB, steps=10_000), machine=machine, trial=trial)
    assert shown[plan.label] == min(shown.values()) <= shown["fp32 contiguous"]


def test_a_slow_half_precision_is_not_taken_and_the_table_says_so():
    slow = {"fp32 contiguous": 1.0, "fp32 channels_last": 1.5, "bf16 channels_last": 4.0}
    plan = make_plan(job=JOB, machine=SERVER, trial=lambda plan: Trial(slow[plan.label]))
    assert (plan.precision, plan.channels_last) == ("fp32", False)
    assert "nothing was faster in a trial" in plan.reasons["precision"]
    assert "bf16 channels_last 4.0x" in plan.reasons["precision"]


def test_the_reason_tells_what_the_trial_gained():
    plan = make_plan(job=JOB, machine=SERVER, trial=lambda plan: Trial(HONEST[plan.label]))
    assert "bf16 channels_last 3.3x" in plan.reasons["precision"]


def test_long_trainings_on_gpus_may_be_compiled():
    def trial(plan):
        return Trial(HONEST[plan.label])

    assert make_plan(job=replace(JOB, steps=5000), machine=NEW_GPU, trial=trial).compile
    assert not make_plan(job=replace(JOB, steps=4999), machine=NEW_GPU, trial=trial).compile
    assert not make_plan(
        job=replace(JOB, steps=5000), machine=replace(NEW_GPU, triton=False), trial=trial
    ).compile
    assert not make_plan(job=replace(JOB, steps=5000), machine=SERVER, trial=trial).compile


def test_the_table_says_why_nothing_is_compiled():
    long = replace(JOB, steps=5000)
    for machine, why in (
        (replace(NEW_GPU, triton=False), "needs triton, which is not installed"),
        (SERVER, "on processors it gained nothing"),
        (APPLE, "for CUDA GPUs alone"),
    ):
        assert why in make_plan(job=long, machine=machine, trial=lambda plan: Trial(1.0)).reasons["compile"]
    assert "fewer than 5000 steps" in make_plan(job=JOB, machine=NEW_GPU).reasons["compile"]


def test_the_table_tells_which_candidates_failed():
    def trial(plan):
        if plan.precision == "bf16":
            raise RuntimeError("no kernel\n for this")
        return Trial(HONEST[plan.label])

    plan = make_plan(job=JOB, machine=SERVER, trial=trial)
    assert plan.label == "fp32 channels_last"
    assert plan.reasons["precision"].endswith("; bf16 channels_last failed: no kernel for this")


def test_a_gpu_of_a_number_is_planned_for_as_it_is(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    machine = replace(OLD_GPU, gpus=(replace(OLD_GPU.gpus[0], memory=GB), NEW_GPU.gpus[0]))
    plans = {
        device: make_plan(
            device,
            job=JOB,
            machine=machine,
            trial=lambda plan: Trial(HONEST[plan.label], image_bytes=200_000_000),
        )
        for device in ("auto", "cuda:0", "cuda:1")
    }
    assert [plan.precision for plan in plans.values()] == ["fp16", "fp16", "bf16"]
    assert [plan.micro_batch for plan in plans.values()] == [2, 2, 14]


def test_processes_on_several_machines_share_each_machine_alone():
    job, machine = replace(JOB, batch_size=64, stored=False), replace(SERVER, sharing=2)
    plan = make_plan("cpu", processes=8, job=job, machine=machine, trial=lambda plan: Trial(1.0, 4 * GB))
    assert (plan.threads, plan.workers) == (16, 32)
    assert "2 processes on this machine" in plan.reasons["threads"]
    assert plan.micro_batch == 8  # half of 256 GB for two processes: twelve images of 4 GB each
    assert make_plan(processes=32, job=job, machine=replace(EIGHT, sharing=8)).processes == 32
    with pytest.raises(ValueError, match="9 processes asked for, but there are 8 GPUs"):
        make_plan(processes=33, job=job, machine=replace(EIGHT, sharing=9))


def test_a_plain_fp32_that_fails_is_an_error():
    def trial(plan):
        raise RuntimeError("broken driver")

    with pytest.raises(RuntimeError, match="broken driver"):
        make_plan(job=JOB, machine=SERVER, trial=trial)


def test_trials_are_left_out_when_every_choice_is_given():
    def trial(plan):
        raise AssertionError("tried")

    given = {"precision": "bf16", "memory_format": "channels_last", "compile": "off", "micro_batch": 7}
    plan = make_plan(**given, job=JOB, machine=SERVER, trial=trial)
    assert (plan.precision, plan.channels_last, plan.micro_batch, plan.accumulation) == ("bf16", True, 7, 2)
    for name in ("precision", "channels_last", "compile", "micro_batch"):
        assert plan.reasons[name].startswith("asked for")


def test_what_is_asked_for_is_given():
    asked = {"memory_format": "contiguous", "threads": 3, "processes": 2, "cache": "disk", "workers": 5}
    plan = make_plan("cpu", "fp32", **asked, job=JOB, machine=EIGHT)
    assert (plan.device, plan.precision, plan.channels_last) == ("cpu", "fp32", False)
    assert (plan.threads, plan.processes, plan.cache, plan.workers) == (3, 2, "disk", 5)
    for name in ("device", "precision", "channels_last", "threads", "processes", "cache", "workers"):
        assert plan.reasons[name] == "asked for"


@pytest.mark.parametrize(
    ("memory", "image_bytes", "expected"),
    [
        (256 * GB, 100_000_000, (14, 1)),
        (2 * GB, 100_000_000, (7, 2)),  # room for 6.9 images beside the weights: two halves of 7 would not do
        (GB, 100_000_000, (3, 5)),
        (GB // 10, 100_000_000, (1, 14)),  # not even one fits by the books: try all the same
        (GB // 10, 0, (14, 1)),
    ],
)
def test_micro_batches_fit_the_memory(memory, image_bytes, expected):
    plan = make_plan(
        job=JOB,
        machine=replace(LAPTOP, memory=memory),
        trial=lambda plan: Trial(HONEST[plan.label], image_bytes),
    )
    assert plan.micro_batch * plan.accumulation >= 14
    if image_bytes and memory > GB // 10:
        assert plan.micro_batch * image_bytes * 1.3 + 16 * JOB.weights <= 0.5 * memory
    if expected[0] in (1, 14):
        assert (plan.micro_batch, plan.accumulation) == expected
    assert ("one micro-batch at a time" in plan.reasons["micro_batch"]) == (plan.accumulation > 1)


def test_each_gpu_gets_a_process():
    plan = make_plan(job=replace(JOB, batch_size=64), machine=EIGHT)
    assert (plan.processes, plan.micro_batch, plan.cache) == (8, 8, "disk")
    assert make_plan(job=replace(JOB, batch_size=6), machine=EIGHT).processes == 1
    assert make_plan(machine=EIGHT).processes == 1  # prediction
    assert make_plan("cpu", processes=2, job=JOB, machine=SERVER).threads == 16
    assert (
        make_plan(job=replace(JOB, batch_size=64, stored=False), machine=replace(EIGHT, cores=64)).workers
        == 8
    )


@pytest.mark.parametrize(
    ("device", "processes", "machine", "match"),
    [
        ("cpu", 15, LAPTOP, "15 processes cannot share a batch of 14 images"),
        ("auto", 2, NEW_GPU, "2 processes asked for, but there are 1 GPUs"),
    ],
)
def test_impossible_processes_are_refused(device, processes, machine, match):
    with pytest.raises(ValueError, match=match):
        make_plan(device, processes=processes, job=JOB, machine=machine)


@pytest.mark.parametrize("device", ["abacus", "cuda:97"])
def test_an_unusable_device_is_named(device):
    with pytest.raises(ValueError, match=rf"device '{device}' cannot be used here .*'auto' or 'cpu'"):
        make_plan(device)


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_precisions_of_gpus_are_refused_on_the_processor(precision):
    with pytest.raises(ValueError, match=rf"'{precision}' trains on CUDA GPUs only.*'cpu'.*'auto'"):
        make_plan("cpu", precision)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"'fp8': expected auto, fp32, tf32, bf16, fp16"):
        make_plan("cpu", "fp8")


def test_the_cache_goes_to_memory_only_while_it_fits():
    machine = replace(LAPTOP, memory=GB)
    assert make_plan(job=replace(JOB, cache_bytes=400_000_000), machine=machine).cache == "ram"
    plan = make_plan(job=replace(JOB, cache_bytes=400_000_001), machine=machine)
    assert plan.cache == "disk"
    assert "400 MB" in plan.reasons["cache"]


def test_without_room_on_the_disk_all_processors_decode():
    plan = make_plan(job=replace(JOB, stored=False), machine=LAPTOP)
    assert (plan.cache, plan.workers) == ("none", 4)
    assert "no room on the disk" in plan.reasons["cache"]


def test_a_container_is_the_machine(monkeypatch):
    free = Machine.here()
    monkeypatch.setattr(limits, "memory_left", lambda: 1e6)
    monkeypatch.setattr(limits, "processors", lambda: 0.5)
    machine = Machine.here()
    assert (machine.memory, machine.cores, machine.threads) == (1_000_000, 1, 1)
    assert free.memory > machine.memory


def test_cpu_probe_answers_and_survives_their_absence(monkeypatch):
    assert cpu_has_bf16() in (True, False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert cpu_has_bf16() is False


def test_the_signature_leaves_out_what_is_free_by_chance():
    assert replace(LAPTOP, memory=1).signature == LAPTOP.signature
    assert (
        len({machine.signature for machine in MACHINES.values()}) == len(MACHINES) - 1
    )  # a tiny laptop is one


def network(multiplier: int = 1, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 8, 3, padding=1),
            depthwise=nn.Conv2d(8, 8 * multiplier, 5, stride=2, padding=2, groups=8, bias=bias),
            same=nn.Conv2d(8 * multiplier, 8 * multiplier, 3, padding="same", groups=8 * multiplier),
            reflect=nn.Conv2d(
                8 * multiplier, 8 * multiplier, 3, padding=1, groups=8 * multiplier, padding_mode="reflect"
            ),
            head=nn.Conv2d(8 * multiplier, 2, 1),
        )
    )


@pytest.mark.parametrize(("multiplier", "bias"), [(1, True), (1, False), (2, True)])
def test_placed_depthwise_convolutions_keep_their_meaning(multiplier, bias):
    plain, placed, exact = (network(multiplier, bias) for _ in range(3))
    cpu_plan("bf16").place(placed)
    assert list(placed.state_dict()) == list(plain.state_dict())
    assert "forward" in vars(placed.depthwise)  # otherwise this test tests nothing
    images = torch.rand(2, 3, 17, 20)
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = plain(images), placed(images)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    exact_images, got_images = images.clone().requires_grad_(), images.clone().requires_grad_()
    exact(exact_images).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        placed(got_images).float().square().sum().backward()
    for (name, want), have in zip(exact.named_parameters(), placed.parameters(), strict=True):
        assert have.grad.dtype == torch.float32, name
        assert (have.grad - want.grad).norm() <= 0.05 * want.grad.norm(), name
    assert (got_images.grad - exact_images.grad).norm() <= 0.05 * exact_images.grad.norm()


def test_a_single_depthwise_convolution_equals_plain_bf16_forward():
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
    images = torch.rand(2, 6, 9, 11)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(images)
        got = cpu_plan("bf16").place(plain)(images)
    assert torch.equal(got, expected)


def test_without_autocast_and_in_eval_nothing_changes():
    plain, placed = network(), cpu_plan("bf16").place(network())
    images = torch.rand(1, 3, 12, 12)
    torch.testing.assert_close(placed(images), plain(images), rtol=1e-5, atol=1e-6)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(placed.eval()(images), plain.eval()(images), rtol=0.02, atol=0.02)


def test_frozen_depthwise_weights_get_no_gradient():
    placed = cpu_plan("bf16").place(network())
    placed.depthwise.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        placed(torch.rand(1, 3, 8, 8)).float().sum().backward()
    assert placed.depthwise.weight.grad is None
    assert placed.stem.weight.grad is not None


def test_fp32_leaves_layers_alone():
    placed = cpu_plan().place(network())
    assert all("forward" not in vars(module) for module in placed.modules() if module is not placed)
    with cpu_plan().autocast():
        assert placed(torch.rand(1, 3, 8, 8)).dtype == torch.float32
