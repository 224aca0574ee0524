"""The plan of how to compute: on this machine, and on machines that are described to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seglib import train
from seglib.data import ClassMap
from seglib.params import Train
from seglib.train import CachedSplit, DevicePlan, autotune, make_plan
from seglib.train.device import Machine, choose_plan

GB = 1_000_000_000
LAPTOP = Machine("cpu", "some CPU", "", memory=8 * GB, threads=2)
SERVER = replace(LAPTOP, half="bf16", memory=256 * GB, threads=32)
APPLE = replace(LAPTOP, device="mps")
OLD_GPU = replace(LAPTOP, device="cuda", name="Old GPU", half="fp16", gpus=1)
NEW_GPU = replace(OLD_GPU, name="New GPU", half="bf16", memory=80 * GB)
EIGHT = replace(NEW_GPU, gpus=8, threads=64)


SPLIT = CachedSplit([str(k) for k in range(14)], np.array([[64, 64]] * 14), *[None] * 4)


@pytest.fixture
def model(tiny_params):
    return train.build_model(tiny_params(), ClassMap(("a", "b", "c")))


@pytest.fixture
def measured(monkeypatch):
    """What the trials of a plan find: seconds with half precision and without, bytes of an image; `asked`: their precisions."""
    found = {"seconds": [1.0, 1.0], "bytes": 1000, "asked": []}

    def measure(plans, *_):
        found["asked"].append([plan.precision for plan in plans])
        return np.array([[seconds, found["bytes"]] for seconds in found["seconds"][: len(plans)]])

    monkeypatch.setattr(autotune, "measure", measure)
    return found


def planned(model, machine=SERVER, **how):
    return train.plan_training(Train(**how), model, SPLIT, machine)


def chosen(machine, batch_size=14, accelerations=("this", "that"), **how):
    return choose_plan(Train(**how), machine, batch_size, accelerations)


AUTO = {
    "laptop": (LAPTOP, "cpu", "fp32", "channels_last"),
    "server": (SERVER, "cpu", "bf16", "channels_last"),
    "apple": (APPLE, "mps", "fp32", "contiguous"),
    "old gpu": (OLD_GPU, "cuda", "fp16", "channels_last"),
    "eight gpus": (EIGHT, "cuda", "bf16", "channels_last"),
}


@pytest.mark.parametrize(("machine", "device", "precision", "layout"), AUTO.values(), ids=AUTO)
def test_auto_follows_what_the_device_can_do_and_says_why(
    model, measured, machine, device, precision, layout
):
    for plan in (make_plan(machine=machine), planned(model, machine)):
        assert (plan.device, plan.precision, plan.memory_format) == (device, precision, layout)
    table = plan.table().set_index("choice")
    names = "encoder_weights device precision memory_format compile accelerate processes threads micro_batch cache workers"
    assert table.index.sort_values().tolist() == sorted(names.split())
    assert (table["why"].str.len() > 5).all(), table
    assert table["value"][["memory_format", "compile"]].tolist() == [layout, "off"]


def test_what_is_asked_for_is_given(model):
    asked = {"precision": "fp32", "threads": 3, "processes": 2, "cache": "disk", "workers": 5}
    asked |= {"micro_batch": 3, "memory_format": "contiguous", "compile": "on"}
    plan = planned(model, EIGHT, **asked)
    assert {name: getattr(plan, name) for name in asked} == asked
    assert all(plan.reasons[name].startswith("asked for") for name in asked)


def test_the_cpu_is_sped_up_where_that_applies_and_the_table_names_how():
    plan = chosen(LAPTOP)
    assert (plan.accelerate, plan.reasons["accelerate"]) == (True, "this; that")
    for how in ({"accelerate": False}, {"memory_format": "contiguous"}, {"compile": "on"}):
        assert not chosen(LAPTOP, **how).accelerate
    assert not chosen(NEW_GPU).accelerate
    assert not chosen(LAPTOP, accelerations=()).accelerate


# Room beside the weights for all, for 7.4 images, for 3.6, and for not even one: that is tried all the same.
@pytest.mark.parametrize(("memory", "expected"), [(256 * GB, 14), (2 * GB, 7), (GB, 3), (GB // 10, 1)])
def test_micro_batches_fit_the_memory_and_share_the_batch_evenly(model, measured, memory, expected):
    measured["bytes"] = 100_000_000
    plan = planned(model, replace(LAPTOP, memory=memory))
    assert plan.micro_batch == expected
    assert ("normalization and Dice" in plan.reasons["micro_batch"]) == (expected < 14)


def test_each_gpu_gets_a_process(model, measured):
    plan = planned(model, EIGHT)
    assert (plan.processes, plan.cache, plan.micro_batch) == (8, "disk", 2)
    assert chosen(EIGHT, batch_size=6).processes == 1
    assert chosen(SERVER, processes=2).threads == 16
    assert chosen(EIGHT, cache="none").workers == 8
    with pytest.raises(ValueError, match="15 processes cannot share a batch of 14 images"):
        chosen(LAPTOP, processes=15)


def test_what_cannot_be_used_is_named():
    with pytest.raises(RuntimeError, match="abacus"):
        make_plan("abacus")
    for precision in ("fp16", "tf32"):
        with pytest.raises(ValueError, match=rf"'{precision}' is for CUDA GPUs.*'cpu'.*'auto'"):
            make_plan("cpu", precision)


def test_half_precision_that_is_clearly_slower_is_not_used(model, measured):
    measured["seconds"] = [1.14, 1.0]
    assert planned(model).precision == "bf16"
    measured["seconds"] = [1.16, 1.0]
    plan = planned(model)
    assert plan.precision == "fp32"
    assert plan.reasons["precision"] == "bf16 took 1.2 times as long as fp32 in a trial"
    assert planned(model, precision="bf16").precision == "bf16"
    assert planned(model, precision="bf16", micro_batch=2).micro_batch == 2
    assert measured["asked"] == [["bf16", "fp32"]] * 2 + [["bf16"]], "nothing is tried where nothing is open"


@pytest.mark.slow
def test_a_trial_leaves_the_model_and_the_process_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    how = {"memory_format": "channels_last", "accelerate": True, "threads": threads + 1}
    plans = [DevicePlan("cpu", precision, **how) for precision in ("bf16", "fp32")]
    assert (autotune.measure(plans, model, (64, 64), 2) > 0).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert all("forward" not in vars(module) for module in model.modules())
    assert torch.get_num_threads() == threads


def test_a_trial_that_does_not_fit_the_memory_takes_fewer_images(model):
    asked = []

    def weigh(_, inputs):
        asked.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("pretended")

    model.net.encoder.register_forward_pre_hook(weigh)
    assert autotune.measure([DevicePlan()], model, (64, 64), 9)[0, 1] > 0
    assert asked[:3] == [9, 4, 2]
