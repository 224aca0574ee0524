"""A trained model for other programs: ONNX with everything inside, or safetensors with a card."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seglib import __version__, data, runs, train
from seglib.evaluate.evaluation import run_dataset
from seglib.runs import Run
from seglib.train import ModelError, Segmenter

_CLOSE = 1e-3  # largest difference of a probability from torch's that is accepted


def export_model(run: Run, out: str | Path, to: str) -> str:
    """Write the best model of a run as one file for programs without seglib; say in words what was checked.

    "onnx": `images` (B, H, W, 3) uint8 RGB in, `ids` (B, H, W) uint8 and `probabilities` (B, C, H, W) float32
    out; normalisation and padding are inside, shrinking to `long_side` is not. "safetensors": the state dict of the
    SMP network. Both carry a card of the model as metadata "seglib" (JSON), safetensors in a file beside it as well.

    Raises:
        ValueError: a package of the extra `onnx` is missing.
        ModelError: there is no model, or it cannot be exported, or it answers otherwise in ONNX Runtime.
    """
    model, facts = train.load_checkpoint(run.best_checkpoint)
    card = _card(run, model) | {"epoch": facts["epoch"]}
    with runs.atomic_path(out) as temporary:
        if to == "onnx":
            return _write_onnx(run, model, card, temporary)
        from safetensors.torch import save_model

        save_model(model.net, str(temporary), {"seglib": json.dumps(card)})
        runs.write_json(Path(out).with_suffix(".json"), card)
    return "the state dict of the SMP network that the .json file beside it describes"


def _card(run: Run, model: Segmenter) -> dict[str, Any]:
    """What one must know to use the model, and how good it is."""
    spec, metrics = model.spec, sorted(run.path.glob("evaluation/*/metrics.json"))
    digest = hashlib.sha256(run.data.read_bytes()).hexdigest() if run.data.is_file() else ""
    about = {"seglib": __version__, "run": run.name, "data_sha256": digest}
    about |= {name: getattr(spec, name) for name in ("architecture", "encoder", "long_side", "images")}
    about |= {"input": "RGB, 0-255; mean and std are shares of 255", "mean": spec.mean, "std": spec.std}
    about |= {"classes": spec.classes.names, "colors": spec.classes.colors.tolist()}
    return about | {"scores": {path.parent.name: runs.read_json(path) for path in metrics}}


class _Deployed(nn.Module):  # (B, H, W, 3) uint8 -> ids (B, H, W) uint8, probabilities (B, C, H, W)
    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.net, self.mean, self.std = model.net, model.mean, model.std
        self.stride, self.least = model.stride, model.least

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels, (height, width) = images.permute(0, 3, 1, 2).float(), images.shape[1:3]
        for axis, side in ((2, height), (3, width)):  # F.pad's "replicate" in a form that sizes may vary in
            padded = (side + self.stride - 1) // self.stride * self.stride
            padded = torch.sym_max(padded, self.least) if self.least > self.stride else padded
            pixels = pixels.index_select(axis, torch.arange(padded).clamp(max=side - 1))
        probabilities = self.net((pixels - self.mean) / self.std)[..., :height, :width].softmax(1)
        return probabilities.argmax(1).to(torch.uint8), probabilities


def _write_onnx(run: Run, model: Segmenter, card: dict, path: Path) -> str:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # of torch's exporter
    except ImportError as error:
        raise ValueError(f"no package {error.name}: pip install 'seglib[onnx]' (or -e '.[onnx]').") from None
    images = _real_images(run, model.spec.long_side)
    proto, fixed = _exported(model, images[0])
    images = images[:1] if fixed else images
    onnx.helper.set_model_props(proto, {"seglib": json.dumps(card)})
    onnx.save_model(proto, str(path))
    session, worst = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), 0.0
    for image in images:
        (found,) = session.run(["probabilities"], {"images": image[None]})
        with torch.inference_mode():
            expected = model.logits(torch.from_numpy(image).permute(2, 0, 1)[None]).softmax(1)
        worst = max(worst, float(np.abs(found - expected.numpy()).max()))
    if not worst <= _CLOSE:
        told = f"probabilities are up to {worst:.2g} off torch's in ONNX Runtime; expected at most {_CLOSE:g}"
        raise ModelError(f"{told}. Nothing was written.")
    height, width = images[0].shape[:2]
    size = f"one image of {width}x{height} (width x height)" if fixed else "any number of images of any size"
    return f"takes {size}; ONNX Runtime within {worst:.1g} of torch on {len(images)} images"


def _exported(model: Segmenter, image: np.ndarray) -> tuple[Any, bool]:
    """Return the ONNX model, and whether its size is fixed: a ViT has an embedding for each position."""
    how = {"input_names": ["images"], "output_names": ["ids", "probabilities"], "dynamo": True}
    how["verbose"] = False
    dynamic = {"images": dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)}
    for count, sizes in ((2, dynamic), (1, None)):  # of a dynamic size 1 would be taken as fixed
        images = torch.from_numpy(image[None].repeat(count, 0))
        try:
            with warnings.catch_warnings(action="ignore"):  # about the exporter's own parts
                program = torch.onnx.export(_Deployed(model).eval(), (images,), dynamic_shapes=sizes, **how)
            return program.model_proto, sizes is None
        except Exception as failed:
            error = " ".join(str(failed).split())[:300]
    raise ModelError(f"torch cannot export {model.spec.architecture} of {model.spec.encoder!r}: {error}")


def _real_images(run: Run, long_side: int) -> list[np.ndarray]:
    """Three images of the run's dataset (H, W, 3) as the model gets them, and a part of one: another size."""
    dataset, images = run_dataset(run), []
    for path in dataset.samples["image"].iloc[-3:]:
        image = data.read_image(dataset.root / path, form=dataset.form)
        images.append(np.array(data.fitting(image, most=long_side or max(image.shape))[0]))
    height, width = images[0].shape[:2]
    return [*images, images[0][: height // 3 + 1, : width // 2 + 1].copy()]
