"""The plan of how to compute: on this machine, and on machines that are described to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import raised

from seglib import data, train
from seglib.params import Train
from seglib.train import CachedSplit, DevicePlan, fitting, make_plan
from seglib.train.device import Machine

GB = 1_000_000_000
LAPTOP = Machine("cpu", "some CPU", "", memory=8 * GB, threads=2)
SERVER = replace(LAPTOP, half="bf16", memory=256 * GB, threads=32)
OLD_GPU = replace(LAPTOP, device="cuda", name="Old GPU", half="fp16", gpus=1)
NEW_GPU = replace(OLD_GPU, name="New GPU", half="bf16", memory=80 * GB)
EIGHT = replace(NEW_GPU, gpus=8, threads=64)
AUTO = {
    "laptop": (LAPTOP, "cpu", "fp32", "channels_last"),
    "server": (SERVER, "cpu", "bf16", "channels_last"),
    "apple": (replace(LAPTOP, device="mps"), "mps", "fp32", "contiguous"),
    "old gpu": (OLD_GPU, "cuda", "fp16", "channels_last"),
    "eight gpus": (EIGHT, "cuda", "bf16", "channels_last"),
}


@pytest.fixture
def model(tiny_params):
    return train.build_model(tiny_params(), data.ClassMap(("a", "b", "c")))


@pytest.fixture
def planned(model, monkeypatch):
    """A function: machine, number of images, bytes that one takes in a step, parameters -> the plan of a training."""

    def plan(machine, images=14, image_bytes=1000, **how):
        monkeypatch.setattr(fitting, "measure", lambda *_: image_bytes)
        split = CachedSplit([str(k) for k in range(images)], np.array([[64, 64]] * images), *[None] * 4)
        return train.plan_training(Train(**how), model, split, machine)

    return plan


@pytest.mark.parametrize(("machine", "device", "precision", "layout"), AUTO.values(), ids=AUTO)
def test_auto_follows_what_the_device_can_do_and_says_why(planned, machine, device, precision, layout):
    for plan in (make_plan(machine=machine), planned(machine)):
        assert (plan.device, plan.precision, plan.memory_format) == (device, precision, layout)
    table = plan.table().set_index("choice")
    names = "encoder_weights device precision memory_format compile accelerate processes threads micro_batch cache workers"
    assert table.index.sort_values().tolist() == sorted(names.split())
    assert (table["why"].str.len() > 5).all(), table
    assert table["value"][["memory_format", "compile"]].tolist() == [layout, "off"]


def test_a_convolution_that_crashes_in_channels_last_is_told(planned, model):
    assert planned(SERVER).memory_format == "channels_last"
    model.stem = torch.nn.Conv2d(3, 48, 1, stride=2)
    plan = planned(SERVER)
    assert (plan.memory_format, plan.accelerate) == ("contiguous", False)
    assert "crashes" in plan.reasons["memory_format"]
    assert planned(NEW_GPU).memory_format == "channels_last"


def test_what_is_asked_for_is_given(planned):
    asked = {"precision": "fp32", "threads": 3, "processes": 2, "cache": "none", "workers": 5}
    asked |= {"micro_batch": 3, "memory_format": "contiguous", "compile": "on"}
    plan = planned(EIGHT, **asked)
    assert {name: getattr(plan, name) for name in asked} == asked
    assert all(plan.reasons[name].startswith("asked for") for name in asked)


def test_the_cpu_is_sped_up_where_that_applies_and_the_table_names_how(planned):
    plan = planned(LAPTOP)
    assert plan.accelerate
    assert plan.reasons["accelerate"].startswith("depthwise gradients in bfloat16 (")
    for how in ({"accelerate": False}, {"memory_format": "contiguous"}, {"compile": "on"}):
        assert not planned(LAPTOP, **how).accelerate
    assert not planned(NEW_GPU).accelerate


# Room beside the weights for all, for 7.4 images, for 3.6, and for not even one: that is tried all the same.
@pytest.mark.parametrize(("memory", "expected"), [(256 * GB, 14), (2 * GB, 7), (GB, 3), (GB // 10, 1)])
def test_micro_batches_fit_the_memory_and_share_the_batch_evenly(planned, memory, expected):
    plan = planned(replace(LAPTOP, memory=memory), image_bytes=100_000_000)
    assert plan.micro_batch == expected
    assert ("normalization and Dice" in plan.reasons["micro_batch"]) == (expected < 14)


def test_each_gpu_gets_a_process(planned):
    plan = planned(EIGHT)
    assert (plan.processes, plan.cache, plan.micro_batch) == (8, "disk", 2)
    assert planned(EIGHT, images=6).processes == 1
    assert planned(SERVER, processes=2).threads == 16
    assert planned(EIGHT, cache="none").workers == 8
    raised(ValueError, "15 processes cannot share a batch of 14 images", planned, LAPTOP, processes=15)


def test_what_cannot_be_used_is_named():
    raised(RuntimeError, "abacus", make_plan, "abacus")
    for precision in ("fp16", "tf32"):
        raised(ValueError, rf"'{precision}' is for CUDA GPUs.*'cpu'.*'auto'", make_plan, "cpu", precision)
    # One image at a time: pooled to one value, as in DeepLabV3+, an image alone has no variance.
    params = Train(architecture="DeepLabV3Plus", encoder="resnet18", encoder_weights="none")
    model = train.build_model(params, data.ClassMap(("a", "b")))
    told = r"cannot be trained on one image at a time .* Set batch_size to 2"
    raised(train.ModelError, told, fitting.measure, DevicePlan(), model, (64, 64), 1)


def test_a_trial_counts_the_bytes_of_an_image_and_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = DevicePlan("cpu", memory_format="channels_last", accelerate=True)
    small, large = (fitting.measure(plan, model, (side, side), 2) for side in (64, 128))
    assert small > 64 * 64 * 4 * 3  # the image in float32 alone
    assert large == pytest.approx(4 * small, rel=0.1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all("forward" not in vars(module) for module in model.modules())
