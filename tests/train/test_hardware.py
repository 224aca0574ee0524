"""The plan of how to compute: on this machine, and on machines that are described to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from seglib import train
from seglib.params import Train
from seglib.train import autotune, device
from seglib.train.device import (
    PRECISIONS,
    DevicePlan,
    Job,
    Machine,
    choose_micro_batch,
    choose_plan,
    make_plan,
)

GB = 1_000_000_000
LAPTOP = Machine("cpu", "some CPU", "", memory=8 * GB, ram=8 * GB, cores=4, threads=2)
SERVER = replace(LAPTOP, half="bf16", memory=256 * GB, ram=256 * GB, cores=64, threads=32)
APPLE = replace(LAPTOP, device="mps")
OLD_GPU = replace(LAPTOP, device="cuda", name="Old GPU", half="fp16", gpus=1)
NEW_GPU = replace(OLD_GPU, name="New GPU", half="bf16", memory=80 * GB)
EIGHT = replace(NEW_GPU, gpus=8, cores=64)
MACHINES = {
    "laptop": LAPTOP, "server": SERVER, "apple": APPLE, "old gpu": OLD_GPU, "new gpu": NEW_GPU, "eight gpus": EIGHT,
}  # fmt: skip
JOB = Job(batch_size=14, cache_bytes=GB, weights=6_000_000, accelerations=("this", "that"))


def test_this_machine_gets_a_plan_that_computes():
    plan = make_plan()
    model = plan.place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with plan.autocast():
        result = model(torch.rand(2, 3, 8, 8, device=plan.device))
    assert result.dtype == PRECISIONS[plan.precision]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_choice_has_a_reason(machine):
    plan = choose_micro_batch(choose_plan(Train(), JOB, machine), Train(), JOB, machine, 1000)
    table = plan.table()
    assert set(table["choice"]) == {
        "device", "precision", "memory_format", "compile", "accelerate", "processes", "threads", "micro_batch", "cache", "workers",
    }  # fmt: skip
    assert set(table["choice"]) - {"accelerate"} <= set(Train.model_fields), "parameters of 02_train"
    assert (table["why"].str.len() > 5).all(), table
    assert table.set_index("choice")["value"]["memory_format"] in ("channels_last", "contiguous")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (LAPTOP, ("cpu", "fp32", True)),
        (SERVER, ("cpu", "bf16", True)),
        (APPLE, ("mps", "fp32", False)),
        (OLD_GPU, ("cuda", "fp16", True)),
        (NEW_GPU, ("cuda", "bf16", True)),
    ],
)
def test_auto_follows_what_the_device_can_do(machine, expected):
    for plan in (make_plan(machine=machine), choose_plan(Train(), JOB, machine)):
        assert (plan.device, plan.precision, plan.channels_last) == expected
        assert plan.memory_format == (torch.channels_last if expected[2] else torch.contiguous_format)
        assert not plan.compile


def test_what_is_asked_for_is_given():
    asked = {
        "precision": "fp32",
        "memory_format": "contiguous",
        "compile": "on",
        "threads": 3,
        "processes": 2,
        "cache": "disk",
    }
    params = Train(**asked, workers=5, micro_batch=3)
    plan = choose_micro_batch(choose_plan(params, JOB, EIGHT), params, JOB, EIGHT, 1000)
    assert (plan.precision, plan.channels_last, plan.compile, plan.threads) == ("fp32", False, True, 3)
    assert (plan.processes, plan.cache, plan.workers, plan.micro_batch) == (2, "disk", 5, 3)
    for name in (*asked, "workers", "micro_batch"):
        assert plan.reasons[name].startswith("asked for"), name


@pytest.mark.parametrize(
    ("machine", "how", "accelerated"),
    [
        (LAPTOP, {}, True),
        (LAPTOP, {"accelerate": False}, False),
        (LAPTOP, {"memory_format": "contiguous"}, False),
        (LAPTOP, {"compile": "on"}, False),
        (NEW_GPU, {}, False),
    ],
)
def test_the_cpu_is_sped_up_where_that_applies_and_the_table_names_how(machine, how, accelerated):
    plan = choose_plan(Train(**how), JOB, machine)
    assert plan.accelerate == accelerated
    assert (plan.reasons["accelerate"] == "this; that") == accelerated
    assert not choose_plan(Train(**how), JOB._replace(accelerations=()), machine).accelerate


@pytest.mark.parametrize(
    ("memory", "image_bytes", "expected"),
    [
        (256 * GB, 100_000_000, 14),
        (2 * GB, 100_000_000, 5),  # room for 6.9 images beside the weights: two halves of 7 would not do
        (GB, 100_000_000, 3),
        (GB // 10, 100_000_000, 1),  # not even one fits by the books: try all the same
    ],
)
def test_micro_batches_fit_the_memory_and_share_the_batch_evenly(memory, image_bytes, expected):
    machine = replace(LAPTOP, memory=memory)
    plan = choose_micro_batch(choose_plan(Train(), JOB, machine), Train(), JOB, machine, image_bytes)
    assert plan.micro_batch == expected
    assert ("normalization and Dice" in plan.reasons["micro_batch"]) == (expected < 14)


def test_each_gpu_gets_a_process():
    large = JOB._replace(batch_size=64)
    plan = choose_plan(Train(), large, EIGHT)
    assert (plan.processes, plan.cache) == (8, "disk")
    assert choose_micro_batch(plan, Train(), large, EIGHT, 1000).micro_batch == 8
    assert choose_plan(Train(), JOB._replace(batch_size=6), EIGHT).processes == 1
    assert choose_plan(Train(processes=2), JOB, SERVER).threads == 16
    assert choose_plan(Train(), large._replace(stored=False), EIGHT).workers == 8
    with pytest.raises(ValueError, match="15 processes cannot share a batch of 14 images"):
        choose_plan(Train(processes=15), JOB, LAPTOP)


def test_the_cache_goes_to_memory_only_while_it_fits():
    machine = replace(LAPTOP, ram=GB)
    assert choose_plan(Train(), JOB._replace(cache_bytes=400_000_000), machine).cache == "ram"
    assert choose_plan(Train(), JOB._replace(cache_bytes=400_000_001), machine).cache == "disk"
    plan = choose_plan(Train(), JOB._replace(stored=False), machine)
    assert (plan.cache, plan.workers) == ("none", 4)
    assert "no room on the disk" in plan.reasons["cache"]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (("abacus", "auto"), r"device 'abacus' cannot be used here .*'auto' or 'cpu'"),
        (("cuda:97", "auto"), r"device 'cuda:97' cannot be used here .*'auto' or 'cpu'"),
        (("cpu", "fp16"), r"'fp16' is for CUDA GPUs.*'cpu'.*'auto'"),
        (("cpu", "tf32"), r"'tf32' is for CUDA GPUs.*'cpu'.*'auto'"),
        (("cpu", "fp8"), r"'fp8': expected auto, fp32, tf32, bf16, fp16"),
    ],
)
def test_what_cannot_be_used_is_named(asked, match):
    with pytest.raises(ValueError, match=match):
        make_plan(*asked)


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_s_limit_is_read(tmp_path, file):
    assert device._container_memory(tmp_path) == np.inf
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for text, expected in (("max\n", np.inf), (f"{GB}\n", GB)):
        (tmp_path / file).write_text(text)
        assert device._container_memory(tmp_path) == expected


def test_settings_hold_for_a_block_and_prediction_sets_none():
    threads = torch.get_num_threads()
    plan = DevicePlan("cpu", "fp32", True, threads=threads + 1)
    plan.place(nn.Conv2d(3, 4, 3))
    assert torch.get_num_threads() == threads
    with plan.applied():
        assert torch.get_num_threads() == threads + 1
    assert torch.get_num_threads() == threads


class Cached:
    """As much of a cached split as a plan asks for."""

    image_sizes = np.array([[64, 64]] * 6)
    nbytes, stored = 1000, True

    def __len__(self) -> int:
        return len(self.image_sizes)


@pytest.fixture
def model(tiny_params):
    from seglib.data import ClassMap

    return train.build_model(tiny_params(), ClassMap(("a", "b", "c")))


def planned(model, params, machine=SERVER, **measured):
    return autotune.plan_training(params, model, Cached(), Cached(), machine)


def test_half_precision_that_is_clearly_slower_is_not_used(model, tiny_params, monkeypatch):
    asked, seconds = [], [1.14, 1.0]

    def measure(plans, *_):
        asked.append([plan.precision for plan in plans])
        return seconds[: len(plans)], [10, 20][: len(plans)]

    monkeypatch.setattr(autotune, "measure", measure)
    assert planned(model, tiny_params(precision="auto")).precision == "bf16"
    seconds[0] = 1.16
    plan = planned(model, tiny_params(precision="auto"))
    assert (plan.precision, plan.reasons["precision"]) == (
        "fp32",
        "bf16 took 1.2 times as long as fp32 in a trial",
    )
    assert planned(model, tiny_params(precision="bf16")).precision == "bf16"
    assert planned(model, tiny_params(precision="bf16", micro_batch=2)).micro_batch == 2
    assert asked == [["bf16", "fp32"]] * 2 + [["bf16"]], "nothing is tried where nothing is open"


@pytest.mark.slow
def test_a_trial_leaves_the_model_the_process_and_random_numbers_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = torch.get_num_threads()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    plans = [DevicePlan("cpu", precision, True, accelerate=True, threads=2) for precision in ("bf16", "fp32")]
    seconds, _ = autotune.measure(plans, model, (64, 64), 2)
    assert min(seconds) > 0
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert all("forward" not in vars(module) for module in model.modules())
    assert torch.get_num_threads() == settings


@pytest.mark.slow
def test_memory_of_an_image_is_what_autograd_keeps(model):
    plan = DevicePlan("cpu", "fp32")
    sizes = [
        autotune.measure([plan], model, crop, n)[1][0]
        for crop, n in (((64, 64), 2), ((128, 128), 2), ((64, 64), 6))
    ]
    assert 3 * sizes[0] < sizes[1] < 5 * sizes[0]  # four times the pixels
    assert sizes[2] == pytest.approx(sizes[0], rel=0.2)
    # The first feature map alone, of 16 channels at half the size, is kept for its convolution's and its norm's gradient.
    assert sizes[0] > 16 * 32 * 32 * 4


def test_a_trial_that_does_not_fit_the_memory_takes_fewer_images(model):
    asked = []

    def weigh(_, inputs):
        asked.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("pretended")

    model.net.encoder.register_forward_pre_hook(weigh)
    assert autotune.measure([DevicePlan()], model, (64, 64), 9)[1][0] > 0
    assert asked[:3] == [9, 4, 2]
