"""A folder of new images: what is predicted, written, warned of, refused and gone on with; which to label next."""

import importlib
import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import raised, refused, save
from PIL import Image, TiffImagePlugin

from seglib import data, evaluate, failures, train
from seglib.cli import main
from seglib.data import DatasetError
from seglib.failures import new_images
from seglib.params import Evaluate
from seglib.runs import Run, read_table

pytestmark = pytest.mark.slow
RANDOM = np.random.default_rng(3)


@pytest.fixture
def folder(trained_root):
    """The four test images of the tiny dataset, elsewhere."""
    return shutil.copytree(trained_root / "data/tiny/test/images", trained_root / "new")


def test_masks_are_those_of_03_and_the_table_says_what_they_hold(run, folder, tmp_path):
    evaluate.evaluate_run(Evaluate(run="tiny"))
    found = failures.predict_folder(run, folder, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/predictions.csv", dtype={"id": str}, keep_default_na=False)
    assert table["id"].tolist() == ["0041", "0042", "1e5", "null"] == found.table["id"].tolist()
    scored = evaluate.open_evaluation(run, "test").per_image
    for row, name in zip(table.itertuples(), table["id"], strict=True):
        ids = evaluate.read_ids(tmp_path / "out/masks" / f"{name}.png")
        saved = evaluate.read_ids(run.evaluation("test") / "predictions" / f"{name}.png")
        np.testing.assert_array_equal(ids, saved)
        shares = [(ids == c).mean() for c in range(3)]
        np.testing.assert_allclose([row.share_sky, row.share_road, row.share_car], shares)
        assert data.read_image(tmp_path / "out/overlays" / f"{name}.png").shape == (40, 56, 3)
    np.testing.assert_allclose(table["confidence"], scored["confidence"], atol=0.02)  # 03 ignores a row
    assert table["error"].eq("").all()
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-3)


def test_every_form_of_image_and_bad_files_are_listed(run, tmp_path):
    folder, deep = tmp_path / "in", np.random.default_rng(0).integers(0, 65536, (21, 33), dtype=np.uint16)
    save(folder / "sixteen.tif", deep)
    save(folder / "eight.png", (deep >> 8).astype(np.uint8))
    save(folder / "deep" / "one.jpg", np.full((1, 1, 3), 9, np.uint8))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("")
    table = failures.predict_folder(run, folder, tmp_path / "out").table.set_index("id")
    assert table.index.tolist() == ["broken", "deep-one", "eight", "sixteen"]
    assert (table.loc["deep-one", "height"], table.loc["eight", "width"]) == (1, 33)
    assert table.loc["broken", "error"].startswith("image 'broken.png' cannot be read")
    assert table.loc["broken", ["height", "confidence", "novelty", "share_sky"]].isna().all()
    assert "range" in table.loc["sixteen", "error"]  # the model learned from 8 bits: which of 16 are meant?
    assert not list((tmp_path / "out").rglob("broken.png"))


def test_it_goes_on_where_it_was_and_refuses_what_differs(run, folder, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", failures.predict_folder(run, folder, tmp_path / "whole").table
    seen, predict_image = [], new_images.predict_image

    def two_then_killed(model, image, plan):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return predict_image(model, image, plan)

    monkeypatch.setattr(new_images, "predict_image", two_then_killed)
    with pytest.raises(KeyboardInterrupt):
        failures.predict_folder(run, folder, out)
    assert not (out / "predictions.csv").exists()
    pd.testing.assert_frame_equal(failures.predict_folder(run, folder, out).table, whole)
    assert len(seen) == 3 + 2, "the two that were done are not predicted again"
    failures.predict_folder(run, folder, out)
    assert len(seen) == 5
    with pytest.raises(ValueError, match=r"holds other results \(other images\)"):
        failures.predict_folder(run, shutil.copytree(folder, tmp_path / "same"), out)
    Image.new("RGB", (9, 9)).save(folder / "0041.png")
    raised(ValueError, r"other files\)\. Choose a new folder", failures.predict_folder, run, folder, out)
    run.best_checkpoint.write_bytes(run.best_checkpoint.read_bytes() + b" ")
    raised(ValueError, "other run, files", failures.predict_folder, run, folder, out)
    raised(ValueError, "holds other results", failures.predict_folder, run, folder, tmp_path / "same")
    with pytest.raises(ValueError, match="lies in the folder of the images"):
        failures.predict_folder(run, folder, folder / "out")


def test_a_model_is_adapted_to_the_folder(run, folder, tmp_path, capsys):
    """As 03 adapts it to the same images; what is unlike training is measured with the model as trained."""
    plain = failures.predict_folder(run, folder, tmp_path / "plain").table
    arguments = ["predict", "--run", "tiny", "--images", str(folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--adapt-norm", "0.5"]) == 0
    told = "4 images: 0 with a warning, 0 could not be predicted. Table: .../out/predictions.csv\n"
    assert capsys.readouterr().out == told
    assert evaluate.evaluate_run(Evaluate(run="tiny", adapt_norm=0.5)).scores["adapt_norm"] == 0.5
    agreed, differs = [], []
    for name in plain["id"]:
        ids = evaluate.read_ids(tmp_path / "out/masks" / f"{name}.png")
        agreed.append((ids == evaluate.read_ids(run.evaluation("test") / f"predictions/{name}.png")).mean())
        differs.append((ids != evaluate.read_ids(tmp_path / "plain/masks" / f"{name}.png")).mean())
    assert np.mean(agreed) > 0.97  # 03 lets them pass together
    assert np.mean(differs) > 0.01
    table = read_table(tmp_path / "out/predictions.csv")
    np.testing.assert_allclose(table["novelty"].astype(float), plain["novelty"])
    with pytest.raises(ValueError, match=r"holds other results \(other adapt_norm\)"):
        failures.predict_folder(run, folder, tmp_path / "out")
    assert main([*arguments[:-1], str(tmp_path / "bad"), "--adapt-norm", "2"]) == 1
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    assert main([*arguments[:-1], str(tmp_path / "bad")]) == 1
    assert capsys.readouterr().out.startswith("image '0041.png' cannot be read")


def test_names_that_cannot_be_told_apart_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "notes.txt").write_bytes(b"")
    refused(r"no image in .*expected .*\.png", data.find_images, tmp_path)
    for name in ("a-b.png", "a/b.png"):
        (tmp_path / name).write_bytes(b"")
    refused("one id", data.find_images, tmp_path)


def test_warnings_and_disagreement(run, folder, tmp_path, trained_root):
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    other = shutil.copytree(run.path, run.path.with_name("other"))
    model = torch.load(other / "checkpoints/best.pth", weights_only=True)
    model["model"] = {k: v + 0.2 if "segmentation_head" in k else v for k, v in model["model"].items()}
    model["model"]["net.segmentation_head.0.bias"] += torch.tensor([9.0, 0, 0])  # the sky everywhere
    torch.save(model, other / "checkpoints/best.pth")
    failures.predict_folder(run, folder, tmp_path / "out", Run(other))
    table = read_table(tmp_path / "out/predictions.csv")
    shares = table["disagreement"].astype(float)
    np.testing.assert_allclose(shares, 1 - table["share_sky"].astype(float), atol=1e-9)
    assert shares.is_monotonic_decreasing
    assert table.set_index("id").loc["noise", "warnings"].startswith("unlike training: 100% of the")
    model["spec"]["classes"]["names"] = ["a", "b", "c"]
    torch.save(model, other / "checkpoints/best.pth")
    with pytest.raises(train.ModelError, match="was trained for 3 "):
        failures.predict_folder(run, folder, tmp_path / "new", Run(other))


def test_without_the_dataset_it_says_what_stays_unknown(run, folder, tmp_path, capsys, trained_root):
    (trained_root / "data/tiny").rename(trained_root / "data/moved")
    table = failures.predict_folder(run, folder, tmp_path / "out").table
    assert table["novelty"].isna().all()
    assert table["confidence"].notna().all()
    assert "Distance from the training images and degradation stay unknown" in capsys.readouterr().out


def test_the_georeference_of_a_tiff_is_kept(run, tmp_path):
    info, place = TiffImagePlugin.ImageFileDirectory_v2(), (0.0, 0.0, 0.0, 600000.0, 5400000.0, 0.0)
    values = {33550: (0.5, 0.5, 0.0), 33922: place, 34737: "UTM zone 32N|"}
    for tag, value in values.items():
        info[tag], info.tagtype[tag] = value, 2 if isinstance(value, str) else 12
    info[34735], info.tagtype[34735] = (1, 1, 0, 1, 3072, 0, 1, 32632), 3
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save(tmp_path / "in/geo.tif", pixels, tiffinfo=info)
    save(tmp_path / "in/plain.tif", pixels)
    info[274] = 6  # turned by readers: its place would be that of other pixels
    save(tmp_path / "in/turned.tif", pixels, tiffinfo=info)
    failures.predict_folder(run, tmp_path / "in", tmp_path / "out")
    assert [path.stem for path in (tmp_path / "out/masks").glob("*.tif")] == ["geo"]
    with Image.open(tmp_path / "out/masks/geo.tif") as picture:
        tags = {tag: picture.tag_v2[tag] for tag in (*values, 34735)}
        np.testing.assert_array_equal(picture, evaluate.read_ids(tmp_path / "out/masks/geo.png"))
        assert picture.mode == "P"
    assert tags == values | {34735: (1, 1, 0, 1, 3072, 0, 1, 32632)}


def test_a_large_image_is_tiled_and_rows_resized_in_parts_are_those_of_the_whole(run, monkeypatch):
    model, _ = train.load_checkpoint(run.best_checkpoint)
    module = importlib.import_module("seglib.evaluate.predict")
    image = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)
    image[:, 70:] //= 4
    small, plan = data.fitting(image, most=64)[0], train.make_plan("cpu", "fp32")
    object.__setattr__(model.spec, "long_side", 64)
    views = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        whole = model.logits(views, (150, 210))[0].softmax(0)
    monkeypatch.setattr(module, "_SCORES", 3 * 210 * 7)  # seven rows at a time
    ids, total = module.predict_image(model, image, plan)
    np.testing.assert_allclose(total, summed(whole), rtol=1e-3)
    assert (ids == whole.argmax(0).numpy()).mean() > 0.999
    object.__setattr__(model.spec, "long_side", 0)
    monkeypatch.setattr(module, "_TILE", 64)  # 150 x 210 is more than twice that
    views = torch.from_numpy(image).permute(2, 0, 1)[None]
    whole = module.predict(model, views, (150, 210), plan, Evaluate(tile=64))[0].softmax(0)
    ids, total = module.predict_image(model, image, plan)
    np.testing.assert_allclose(total, summed(whole), rtol=1e-5)
    np.testing.assert_array_equal(ids, whole.argmax(0))


def summed(probabilities):
    best = probabilities.max(0)
    return [best.values[best.indices == c].sum().item() for c in range(len(probabilities))]


def test_tiffs_beyond_pillows_limit_are_read_by_way_of_the_disk(run, tmp_path, monkeypatch):
    """Predicted as where there is no limit; other formats, and TIFFs that only Pillow decodes, are listed."""
    small, model = tmp_path / "small", torch.load(run.best_checkpoint, weights_only=True)
    small.mkdir()
    model["spec"]["images"] = {"range": [0, 65535], "channels": None, "exif": None}  # of a run on 16 bits
    torch.save(model, run.best_checkpoint)
    pixels = np.random.default_rng(1).integers(0, 256, (150, 210, 3), dtype=np.uint8)
    tags = [(33550, "d", 3, (0.5, 0.5, 0.0), True)]
    tifffile.imwrite(small / "tiled.tif", pixels, tile=(64, 64), compression="zlib", extratags=tags)
    tifffile.imwrite(small / "white.tif", pixels[..., 0], photometric="miniswhite", rowsperstrip=7)
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(small / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(small / "turned.tif", pixels, photometric="rgb", extratags=tags)
    tifffile.imwrite(small / "sixteen.tif", pixels[..., 0] * np.uint16(257))
    Image.fromarray(pixels[..., 0]).save(small / "eight.tif")
    Image.fromarray(pixels).save(small / "packed.tif", compression="tiff_lzw")
    Image.fromarray(pixels).save(small / "png.png")
    whole = failures.predict_folder(run, small, tmp_path / "whole").table.set_index("id")
    assert whole["error"].eq("").all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # twice that is refused
    monkeypatch.setattr(importlib.import_module("seglib.data.image_io"), "_ROWS", 64)
    overlays = importlib.import_module("seglib.data.overlay")
    monkeypatch.setattr(overlays, "_ROWS", 8)
    table = failures.predict_folder(run, small, tmp_path / "out").table.set_index("id")
    read = ["eight", "planes", "sixteen", "tiled", "turned", "white"]
    assert table.index[table["error"].eq("")].tolist() == read
    told = r"pixels than is safe to open.*Cut it into tiles, or save it as TIFF, uncompressed or deflated\.$"
    assert re.search(told, table.loc["png", "error"])
    pd.testing.assert_frame_equal(table.loc[read], whole.loc[read])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for name in read:
        masks = (evaluate.read_ids(tmp_path / where / f"masks/{name}.png") for where in ("out", "whole"))
        np.testing.assert_array_equal(*masks)
    masks = (evaluate.read_ids(tmp_path / f"out/masks/{name}.png") for name in ("sixteen", "eight"))
    np.testing.assert_array_equal(*masks)
    assert data.georeference(tmp_path / "out/masks/tiled.tif")[33550] == (0.5, 0.5, 0.0)
    large, (same,) = data.read_large(small / "tiled.tif"), data.fitting(pixels, most=60)
    monkeypatch.setattr(overlays, "_LARGE", 1000)
    assert np.abs(data.fitting(large, most=60)[0].astype(int) - same).max() < 40
    np.testing.assert_array_equal(data.reduced(large, 7), Image.fromarray(pixels).reduce(7))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_choice_is_that_of_brute_force_and_leaves_copies_out():
    features, seen = unit(RANDOM.standard_normal((40, 6))), RANDOM.standard_normal((9, 6))
    value = RANDOM.random(40)
    places, distances = new_images.choose(value, features, seen, 12)
    known = list(unit(seen))
    for place, distance in zip(places, distances, strict=True):
        nearest = np.array([min(1 - one @ other for other in known) for one in features])
        assert place == np.argmax(value * nearest)
        assert distance == pytest.approx(nearest[place], abs=1e-6)
        known.append(features[place])
    assert len(set(places)) == 12
    scenes = unit(RANDOM.standard_normal((4, 16)))
    copies = np.repeat(scenes, 5, axis=0)  # of what is chosen or trained on are left out
    places, _ = new_images.choose(np.ones(20), copies, scenes[:1] * 7, 20)
    assert sorted(k // 5 for k in places) == [1, 2, 3], "the first scene is trained on"


@pytest.fixture
def evaluation(run) -> evaluate.Evaluation:
    return evaluate.evaluate_run(Evaluate(run="tiny", split="val"))


def test_the_command_writes_a_list_a_sheet_and_a_zip(evaluation, folder, trained_root, capsys):
    (folder / "broken.png").write_bytes(b"no image")
    shutil.copy(folder / "0041.png", folder / "again.png")
    line = f"--run tiny --images new --out {trained_root}/chosen --split val"
    assert main(f"label-next {line} --count 3".split()) == 0
    told, out = capsys.readouterr().out, trained_root / "chosen"
    assert "3 of 5 images. Expected mIoU, learnt from 3 of val: off by " in told
    table, predictions = read_table(out / "label_next.csv"), read_table(out / "predictions.csv")
    assert table["rank"].tolist() == ["1", "2", "3"]
    assert len({"0041", "again"} & set(table["id"])) <= 1, "one picture is not labelled twice"
    assert table["expected_miou"].astype(float).between(0, 1).all()
    assert predictions.set_index("id").loc[table["id"], "confidence"].tolist() == table["confidence"].tolist()
    assert set(table["rarest_class"]) <= {"sky", "road", "car"}
    assert data.read_image(out / "label_next.png").size
    kept = json.loads((out / "label_next.json").read_text())
    assert (kept["calibrated_on"], kept["images"]) == (3, 5)
    assert min(kept["weights"].values()) >= 0
    with zipfile.ZipFile(out / "label_next.zip") as archive:
        named = archive.read("ImageSets/Segmentation/default.txt").decode().split()
    assert named == table["id"].tolist()


def test_the_expected_miou_follows_the_confidence(evaluation, folder, tmp_path):
    """Where mIoU rises with confidence in the evaluated split, so does what is expected of new images."""
    evaluation.per_image["miou"] = 0.2 * evaluation.per_image["confidence"].rank()
    table = failures.label_next(evaluation, folder, tmp_path / "out", 4)
    assert table["expected_miou"].corr(table["confidence"]) > 0
    evaluation.per_image["miou"] = np.nan
    with pytest.raises(DatasetError, match="has 0 independent images that are scored"):
        failures.label_next(evaluation, folder, tmp_path / "out", 4)


def test_images_beyond_pillows_limit_are_predicted_but_not_chosen(evaluation, folder, tmp_path, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    tifffile.imwrite(folder / "0000.tif", pixels, photometric="rgb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # the others have 2240 pixels
    table = failures.label_next(evaluation, folder, tmp_path / "out", 5)
    assert read_table(tmp_path / "out/predictions.csv").set_index("id").loc["0000", "height"] == "90"
    assert sorted(table["id"]) == ["0041", "0042", "1e5", "null"]
    for path in folder.glob("*.png"):
        path.unlink()
    for told in ("they are too large", "image '0000.tif' cannot be read"):
        with pytest.raises(DatasetError, match=f"none of 1 images can be annotated: {told}"):
            failures.label_next(evaluation, folder, tmp_path / told[:5])
        (folder / "0000.tif").write_bytes(b"no image")
