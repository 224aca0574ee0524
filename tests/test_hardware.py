"""The hardware plan on real and pretended machines, and the depthwise convolutions that it replaces."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seglib import hardware
from seglib.hardware import PRECISIONS, HardwarePlan, cpu_has_bf16, make_plan


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends what this machine has."""

    def pretend(cuda: bool = False, gpu_bf16: bool = False, mps: bool = False, cpu_bf16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Pretended GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: cpu_bf16)

    return pretend


def cpu_plan(precision: str = "fp32") -> HardwarePlan:
    return HardwarePlan("cpu", precision, True, 1, "ram")


def test_this_machine_gets_a_plan_that_computes():
    plan = make_plan()
    assert plan.precision in PRECISIONS
    model = plan.place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with plan.autocast():
        result = model(torch.rand(2, 3, 8, 8, device=plan.device))
    assert result.dtype == PRECISIONS[plan.precision]


def test_every_choice_has_a_reason():
    plan = make_plan("cpu")
    table = plan.table()
    assert list(table["choice"]) == ["device", "precision", "channels_last", "threads", "cache"]
    assert (table["why"].str.len() > 5).all()
    assert plan.to_dict()["reasons"] == plan.reasons


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({}, ("cpu", "fp32", True)),
        ({"cpu_bf16": True}, ("cpu", "bf16", True)),
        ({"cuda": True, "gpu_bf16": True}, ("cuda", "bf16", True)),
        ({"cuda": True, "cpu_bf16": True}, ("cuda", "fp16", True)),
        ({"cuda": True, "gpu_bf16": True, "mps": True}, ("cuda", "bf16", True)),
        ({"mps": True, "cpu_bf16": True}, ("mps", "fp32", False)),
    ],
)
def test_auto_takes_the_best_there_is(machine, has, expected):
    machine(**has)
    plan = make_plan()
    assert (plan.device, plan.precision, plan.channels_last) == expected
    assert (plan.table()["why"] != "").all()
    assert plan.memory_format == (torch.channels_last if expected[2] else torch.contiguous_format)


def test_what_is_asked_for_is_given(machine):
    machine(cuda=True, gpu_bf16=True)
    plan = make_plan("cpu", "bf16")
    assert (plan.device, plan.precision) == ("cpu", "bf16")
    assert plan.reasons["device"] == plan.reasons["precision"] == "asked for"


@pytest.mark.parametrize("device", ["abacus", "cuda:97"])
def test_an_unusable_device_is_named(device):
    with pytest.raises(ValueError, match=rf"device '{device}' cannot be used here .*'auto' or 'cpu'"):
        make_plan(device)


def test_fp16_on_the_processor_is_refused():
    with pytest.raises(ValueError, match=r"'fp16' trains on CUDA GPUs only.*'cpu'.*'auto'"):
        make_plan("cpu", "fp16")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"'fp8': expected auto, fp32, bf16, fp16"):
        make_plan("cpu", "fp8")


def test_the_cache_goes_to_memory_only_while_it_fits(monkeypatch):
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000_000))
    assert make_plan("cpu", cache_bytes=400_000_000).cache == "ram"
    plan = make_plan("cpu", cache_bytes=400_000_001)
    assert plan.cache == "disk"
    assert "400 MB" in plan.reasons["cache"]


def test_cpu_probe_answers_and_survives_their_absence(monkeypatch):
    assert cpu_has_bf16() in (True, False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert cpu_has_bf16() is False


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


def test_fp32_leaves_modules_alone():
    placed = cpu_plan().place(network())
    assert all("forward" not in vars(module) for module in placed.modules())
    with cpu_plan().autocast():
        assert placed(torch.rand(1, 3, 8, 8)).dtype == torch.float32
