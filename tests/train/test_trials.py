"""Trial steps: what they leave untouched, what they measure, what is remembered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from seglib.train.machine import Gpu, Machine
from seglib.train.plans import DevicePlan, Trial
from seglib.train.trials import Memory, measure, plan_training

from seglib.data.classes import ClassMap
from seglib.data.dataset import load_dataset
from seglib.train import trials
from seglib.train.loader import build_cache
from seglib.train.model import ModelError, ModelSpec, build

pytestmark = pytest.mark.slow

PLAIN = DevicePlan("cpu", "fp32", threads=torch.get_num_threads())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(ModelSpec("Linknet", "tu-mobilenetv3_small_050", ClassMap(("a", "b", "c"))))


def test_measuring_leaves_the_model_and_the_random_state_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    measure(DevicePlan("cpu", "bf16", True, threads=PLAIN.threads), model, (64, 64), 2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_network_that_needs_two_images_says_so():
    model = build(ModelSpec("DeepLabV3", "resnet18", ClassMap(("a", "b", "c"))))
    with pytest.raises(
        ModelError,
        match=r"DeepLabV3 cannot be trained on one image of 64x64 pixels at a time.*micro_batch to 2",
    ):
        measure(PLAIN, model, (64, 64), 1)
    assert measure(PLAIN, model, (64, 64), 2).seconds > 0


def test_memory_of_an_image_is_what_autograd_keeps(model):
    small = measure(PLAIN, model, (64, 64), 2).image_bytes
    large = measure(PLAIN, model, (128, 128), 2).image_bytes
    assert 3 * small < large < 5 * small  # four times the pixels
    more = measure(PLAIN, model, (64, 64), 6).image_bytes
    assert more == pytest.approx(small, rel=0.2)
    # The first feature map alone, of 16 channels at half the size, is kept for its convolution's and its norm's gradient.
    assert small > 16 * 32 * 32 * 4


def test_trials_are_made_once_and_remembered(tiny_root, tiny_params, monkeypatch):
    params = tiny_params(precision="auto")
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    first = plan_training(params, model, *splits)
    stored = json.loads((tiny_root / "artifacts" / "hardware.json").read_text())
    ((job, candidates),) = next(iter(stored.values())).items()
    assert "Linknet, tu-mobilenetv3_small_050, 3 classes, 32 x 32 pixels" in job
    names = {name.removesuffix(f", cpu, {first.threads} threads"): name for name in candidates}
    assert {"fp32 contiguous", "fp32 channels_last"} <= set(names)
    assert all(entry["seconds"] > 0 and entry["image_bytes"] > 0 for entry in candidates.values())
    assert first.label == min(names, key=lambda label: candidates[names[label]]["seconds"])

    def fail(*_):
        raise AssertionError("tried again")

    monkeypatch.setattr(trials, "measure", fail)
    assert plan_training(params, model, *splits) == first
    with pytest.raises(AssertionError, match="tried again"):
        plan_training(tiny_params(precision="auto", crop_height=64), model, *splits)
    with pytest.raises(AssertionError, match="tried again"):
        plan_training(tiny_params(precision="auto", threads=first.threads + 1), model, *splits)
    other = replace(Machine.here(), gpus=(Gpu("Pretended", 8_000_000_000, bf16=True),))
    monkeypatch.setattr(Machine, "name", Machine.here().name)
    with pytest.raises(AssertionError, match="tried again"):
        plan_training(tiny_params(precision="auto", device="auto"), model, *splits, other)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"machine": 3}', '{"machine": {"job": {"a": {"seconds": "x", "image_bytes": 1}}}}',
     '{"machine": {"job": {"a": {"seconds": -1, "image_bytes": 1}}}}', '{"machine": {"job": {"a": null}}}', "\x00\xff"],
)  # fmt: skip
def test_a_damaged_memory_counts_as_empty_and_is_written_anew(tmp_path, text):
    path = tmp_path / "hardware.json"
    path.write_bytes(text.encode("latin-1"))
    memory = Memory(path, "machine", "job")
    assert memory.get("a") is None
    memory.put("a", Trial(0.5, 7))
    assert memory.get("a") == Trial(0.5, 7)
    assert Memory(path, "another machine", "job").get("a") is None
    assert Memory(path, "machine", "another job").get("a") is None


def test_a_trial_that_does_not_fit_the_memory_is_made_with_fewer_images(tiny_root, tiny_params, monkeypatch):
    params = tiny_params(
        precision="fp32", memory_format="contiguous", compile="off", crop_height=64, crop_width=64
    )
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    asked = []

    def hungry(plan, model, crop, images):
        asked.append(images)
        if images > 1:
            raise torch.OutOfMemoryError("pretended")
        return Trial(1.0, 10)

    monkeypatch.setattr(trials, "measure", hungry)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    assert plan_training(params, model, *splits).micro_batch == 3
    assert asked == [3, 1]


def test_a_lack_of_memory_for_two_is_told_as_such(tiny_root, tiny_params, monkeypatch):
    params = tiny_params(precision="fp32", memory_format="contiguous", compile="off", crop_height=96)
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)

    def hungry(plan, model, crop, images):
        raise torch.OutOfMemoryError("pretended") if images > 1 else ModelError("not one at a time")

    monkeypatch.setattr(trials, "measure", hungry)
    model = build(ModelSpec(params.architecture, params.encoder, dataset.classes))
    with pytest.raises(torch.OutOfMemoryError, match="pretended"):
        plan_training(params, model, *splits)
