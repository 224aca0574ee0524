"""A model for other programs: ONNX run by the very script of the docs, safetensors loaded without seglib."""

import importlib
import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from seglib import data, evaluate
from seglib.cli import main
from seglib.params import Evaluate
from seglib.runs import Run
from seglib.train import ModelError, load_checkpoint

DOCS = Path(__file__).parent.parent.parent / "docs" / "deployment.md"
pytestmark = pytest.mark.slow


@pytest.fixture
def run(trained_root) -> Run:
    evaluate.evaluate_run(Evaluate(run="tiny", split="test"))
    return Run.open("tiny")


def test_onnx_runs_by_the_script_of_the_docs_and_is_what_03_predicts(run, trained_root, monkeypatch, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install seglib[onnx]")
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(trained_root)
    assert main(["export", "--run", "tiny", "--to", "onnx", "--out", "model.onnx"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"model.onnx: takes any number of images of any size; .* of torch on 4 images", told)
    for name in ("0041", "null"):
        shutil.copy(trained_root / f"data/tiny/test/images/{name}.png", "image.png")
        (script,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
        assert "seglib" not in script.replace('["seglib"]', "")
        Path("script.py").write_text(script, encoding="utf-8")
        runpy.run_path("script.py")
        ids, saved = Path("mask.png"), run.evaluation("test") / f"predictions/{name}.png"
        np.testing.assert_array_equal(evaluate.read_ids(ids), evaluate.read_ids(saved))
    session = onnxruntime.InferenceSession("model.onnx")
    card = json.loads(session.get_modelmeta().custom_metadata_map["seglib"])
    assert card["classes"] == ["sky", "road", "car"]
    assert card["scores"]["test"]["mean_iou"] == evaluate.open_evaluation(run, "test").scores["mean_iou"]
    model, _ = load_checkpoint(run.best_checkpoint)
    for shape in ((2, 33, 70, 3), (1, 1, 1, 3)):  # other sizes than it was exported and checked with
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        ids, probabilities = session.run(None, {"images": images})
        with torch.inference_mode():
            expected = model.logits(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1)
        np.testing.assert_allclose(probabilities, expected, atol=1e-3)
        np.testing.assert_array_equal(ids, probabilities.argmax(1))
    again, module = onnx.load("model.onnx"), importlib.import_module("seglib.evaluate.export")
    monkeypatch.setattr(module, "_exported", lambda *_: (again, False))
    monkeypatch.setattr(module, "_CLOSE", -1.0)
    with pytest.raises(ModelError, match=r"off torch's in ONNX Runtime; .* at most -1\. Nothing was written"):
        evaluate.export_model(run, trained_root / "other.onnx", "onnx")
    assert not Path("other.onnx").exists()


def test_safetensors_are_the_state_of_the_smp_network_that_the_card_names(run, trained_root, capsys):
    assert main(f"export --run tiny --to safetensors --out {trained_root}/model.safetensors".split()) == 0
    card = json.loads((trained_root / "model.json").read_text())
    with safe_open(trained_root / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["seglib"]) == card
    assert len(card["data_sha256"]) == 64
    net = smp.create_model(card["architecture"], card["encoder"], None, classes=len(card["classes"])).eval()
    net.load_state_dict(load_file(trained_root / "model.safetensors"))
    image = data.read_image(trained_root / "data/tiny/test/images/0042.png")
    pixels = (image / 255 - np.array(card["mean"])) / np.array(card["std"])
    pixels = np.pad(pixels, [(0, -image.shape[0] % 32), (0, -image.shape[1] % 32), (0, 0)], "edge")
    with torch.inference_mode():
        logits = net(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0, :, :40, :56]
    saved = evaluate.read_ids(run.evaluation("test") / "predictions/0042.png")
    np.testing.assert_array_equal(logits.argmax(0), saved)
