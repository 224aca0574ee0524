"""Pictures, checkpoints, archives and tables with anything in them: rightly read, or refused in words; never a wrong number."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from fuzzing import cases, damaged, is_ours, works_or_refuses
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seglib.failures.annotation import export_cvat
from seglib.data.classes import IGNORE, ClassMap
from seglib.failures.corrections import import_cvat
from seglib.data.dataset import DatasetError, load_dataset, read_image, read_mask
from seglib.evaluate.evaluation import evaluate_predictions, open_evaluation
from seglib.failures.find import find_failures
from seglib.data.download import Source, _unpack
from seglib.data.image_io import read_stored
from seglib.browser.layers import pack_layers
from seglib.train.model import ModelError, ModelSpec, build, load_checkpoint, save_checkpoint
from seglib.params import Evaluate
from seglib.evaluate.predictions import save_ids
from seglib.browser.report_data import read_items
from seglib.browser.table import describe, nearest_ids, read_failures, suspect_box
from seglib.runs import Run

pytestmark = pytest.mark.slow

# pictures

RNG = np.random.default_rng(0)
H, W = 7, 9
GREY = RNG.integers(0, 3, (H, W), np.uint8)
RGB = RNG.integers(0, 256, (H, W, 3), np.uint8)
CLASSES = ClassMap(("a", "b", "c"))
COLORS = ClassMap(("a", "b"), np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "I;16B",
    "F",
    "La",
    "RGBa",
)


def written(picture: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def every_form() -> list[bytes]:
    """Small pictures of every format and mode that Pillow can write, and of odd kinds."""
    files = []
    for mode in MODES:
        for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM"):
            try:
                picture = (
                    Image.fromarray(GREY).convert(mode) if mode not in ("I;16", "I;16B") else Image.new(mode, (W, H), 2)
                )
                files.append(written(picture, form))
            except (OSError, ValueError, KeyError):  # Pillow has no such pair
                continue
    grey, rgb = Image.fromarray(GREY), Image.fromarray(RGB)
    for turned in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turned
        files += [written(rgb, "JPEG", exif=exif), written(grey, "PNG", exif=exif)]
    files += [written(rgb, form, save_all=True, append_images=[rgb, rgb]) for form in ("PNG", "WEBP", "TIFF", "GIF")]
    files += [written(rgb, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    palette = grey.convert("P")
    return [
        *files,
        written(palette, "PNG", transparency=1),
        written(palette, "PNG", bits=2),
        written(rgb, "PNG", optimize=True),
    ]


FILES = every_form()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def lying_png(draw):
    """A PNG whose header says what it likes, with sound checksums."""
    side = st.sampled_from([0, 1, 2, 9, 255, 30_000, 60_000, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 12)
    header = struct.pack(
        ">IIBBBBB", draw(side), draw(side), draw(st.sampled_from([1, 2, 4, 8, 16, 3, 0])),
        draw(st.sampled_from([0, 2, 3, 4, 6, 1])), draw(st.sampled_from([0, 0, 1])), 0, draw(st.integers(0, 2)),
    )  # fmt: skip
    body = zlib.compress(draw(st.binary(max_size=200)) * draw(st.integers(1, 2000)))
    extra = draw(
        st.sampled_from([b"", chunk(b"PLTE", bytes(9)), chunk(b"tRNS", b"\0"), chunk(b"zTXt", b"a\0\0" + body)])
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures") / "x.png"


@cases(250)
@given(data=damaged(*FILES) | lying_png())
def test_pictures(file, data):
    file.write_bytes(data)
    with works_or_refuses():
        image = read_image(file)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.size
        assert image.flags.owndata or image.base is not None
    for classes in (CLASSES, COLORS):
        with works_or_refuses():
            mask = read_mask(file, classes)
            assert mask.dtype == np.uint8
            assert mask.ndim == 2
            assert set(np.unique(mask).tolist()) <= {*range(len(classes)), IGNORE}
            assert mask.shape == read_image(file).shape[:2]


@pytest.mark.parametrize("number", range(len(FILES)))
def test_sound_pictures_are_read_as_pillow_reads_them(file, number):
    """Every form, against Pillow's own conversion to grey or RGB where that is exact."""
    file.write_bytes(FILES[number])
    with Image.open(file) as picture:
        form, mode = picture.format, picture.mode
        turned = picture.getexif().get(0x0112, 1)
        reference = np.asarray(picture.convert("RGB"))
    if form not in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "MPO"):
        with pytest.raises(DatasetError, match="no picture; expected PNG"):
            read_image(file)
        return
    if mode in ("F", "La", "RGBa") or (mode == "LAB" and form == "TIFF"):
        with works_or_refuses():
            read_image(file)
        return
    image = read_image(file)
    if mode.startswith("I"):
        assert (image == 0).all()  # the upper byte of ids 0-2
        with Image.open(file) as picture:
            assert np.array_equal(read_stored(file), np.asarray(picture))
    elif turned == 1 and mode not in ("LA", "PA", "RGBA"):
        assert np.array_equal(image, reference)
    assert image.shape[:2] == ((W, H) if turned > 4 else (H, W))


# what a few bytes may claim

BOMBS = """
import io, json, resource, struct, sys, zipfile, zlib
from pathlib import Path
import numpy as np
from PIL import Image
from seglib.corrections import import_cvat, import_label_studio
from seglib.dataset import DatasetError, load_dataset, read_image
from seglib.verdicts import VerdictBook

root = Path(sys.argv[1])
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
def png(side, body):
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for side in ("images", "masks"):
    (root / side).mkdir(parents=True)
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(root / side / "a.png")
(root / "dataset.yaml").write_text("classes: [a, b]\\nsplits: {train: {images: images/*.png, masks: masks/*.png}}")
data = load_dataset(root)
zeros = zlib.compressobj(1)
body = b"".join(zeros.compress(bytes(1 << 20)) for _ in range(256)) + zeros.flush()  # 256 MB in 256 kB
before, said = peak(), []
def refused(call, *args):
    try:
        call(*args)
    except ValueError as error:
        said.append(str(error))
for side in (60_000, 2**31 - 1):
    (root / "bomb.png").write_bytes(png(side, body))
    refused(read_image, root / "bomb.png")
(root / "bomb.png").write_bytes(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)) + chunk(b"iCCP", b"a\\0\\0" + body) + chunk(b"zTXt", b"a\\0\\0" + body) + chunk(b"IDAT", b""))
refused(read_image, root / "bomb.png")
labels = "# label:color_rgb:parts:actions\\na:1,1,1::\\nb:2,2,2::\\n"
for entry in ({"SegmentationClass/a.png": png(6, body)}, {"SegmentationClass/a.png": b"x", "labelmap.txt": bytes(1 << 27)}):
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in ({"labelmap.txt": labels.encode()} | entry).items():
            archive.writestr(name, content)
    content = entry = None
    refused(import_cvat, root / "bomb.zip", data, root / "out")
value = {"format": "rle", "rle": 10**12, "brushlabels": ["a"]}
region = {"type": "brushlabels", "original_width": 9, "original_height": 6, "value": value}
(root / "x.json").write_text(json.dumps([{"data": {"sample": "a"}, "annotations": [{"result": [region]}]}]))
refused(import_label_studio, root / "x.json", data, root / "out")
print(json.dumps({"said": said, "megabytes": peak() - before}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module measures it")
def test_bombs_are_refused_in_little_memory(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path / "data")], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(run.stdout)
    assert len(found["said"]) == 6, found
    for said, told in zip(
        found["said"],
        ("3600000000 pixels", "pixels", "", "unpacks to more than", "unpacks", "no list of bytes"),
        strict=True,
    ):
        assert told in said
    # 128 MB are what the test itself packs for the list of labels.
    assert found["megabytes"] < 200, found


# checkpoints

SPEC = ModelSpec("Linknet", "tu-mobilenetv3_small_050", ClassMap(("a", "b")))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "best.pth"
    save_checkpoint(path, build(SPEC), epoch=3, history=[{"val_miou": 0.5}])
    return path, path.read_bytes(), torch.load(path, weights_only=True)


def same(model, data) -> bool:
    return all(torch.equal(value, data["model"][name]) for name, value in model.state_dict().items())


@cases(15)
@given(data=st.data())
def test_bytes_of_a_checkpoint(checkpoint, data):
    path, whole, stored = checkpoint
    path.write_bytes(data.draw(damaged(whole)))
    with works_or_refuses():
        model, extra = load_checkpoint(path)
        assert same(model, stored)  # never other weights than were saved
        assert extra["epoch"] == 3


JUNK = st.sampled_from(
    [None, -1, 2**70, float("nan"), 0.0, "", "Unet", "no such", [], [1], {}, {"a": 1}, torch.zeros(2), True, b"x"]
)


@cases(5)
@given(data=st.data())
def test_contents_of_a_checkpoint(checkpoint, data):
    path, _, stored = checkpoint
    inner = {key: dict(value) if isinstance(value, dict) else value for key, value in stored.items()}
    inner["spec"]["classes"] = dict(inner["spec"]["classes"])
    where = data.draw(st.sampled_from([inner, inner["spec"], inner["spec"]["classes"], inner["model"]]))
    name = data.draw(st.sampled_from(list(where)[:12]))
    if data.draw(st.booleans()):
        del where[name]
    else:
        where[name] = data.draw(JUNK)
    torch.save(inner, path)
    with works_or_refuses():
        model, _ = load_checkpoint(path)
        assert same(model, stored)
        logits = model.logits(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        assert logits.isfinite().all()


def test_weights_that_are_no_numbers_and_changed_bits_are_refused(checkpoint, tmp_path):
    path, whole, stored = checkpoint
    weights = {n: v.clone() for n, v in stored["model"].items()}
    name = next(n for n, v in weights.items() if v.ndim == 4)
    for value in (float("nan"), float("inf")):
        weights[name].view(-1)[0] = value
        torch.save(stored | {"model": weights}, path)
        with pytest.raises(ModelError, match=r"best\.pth holds weights that are NaN or infinite"):
            load_checkpoint(path)
        torch.save(weights, tmp_path / "weights.pth")
        if "encoder" in name:
            with pytest.raises(ModelError, match=r"weights\.pth holds weights that are NaN"):
                build(SPEC, str(tmp_path / "weights.pth"))
    bad = bytearray(whole)
    bad[len(bad) // 2] ^= 1
    path.write_bytes(bad)
    with pytest.raises(ModelError, match="does not match its checksum"):
        load_checkpoint(path)
    torch.save(stored | {"spec": stored["spec"] | {"std": [0.2, 0.0, 0.2]}}, path)
    with pytest.raises(ModelError, match="std above 0"):
        load_checkpoint(path)


def test_a_checkpoint_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(ModelError, match="would unpack to 50,000,000 bytes"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_checkpoint_in_a_tar_archive_is_refused(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    path = tmp_path / "x.pth"
    path.write_bytes(stream.getvalue())
    with pytest.raises(ModelError, match="is a tar archive; it was refused"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "a") as archive:  # a zip by its end; PyTorch goes by the beginning
        archive.writestr("archive/data.pkl", b"x")
    assert zipfile.is_zipfile(path)
    with pytest.raises(ModelError, match="is a tar archive; it was refused"):
        load_checkpoint(path)


# archives of CVAT


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    for side, array in (("images", RGB), ("masks", GREY)):
        (root / side).mkdir()
        Image.fromarray(array).save(root / side / "a.png")
    (root / "dataset.yaml").write_text(
        "classes: [x, y, z]\nsplits: {train: {images: images/*.png, masks: masks/*.png}}\n"
    )
    dataset = load_dataset(root)
    return dataset, export_cvat(["a"], dataset, None, root / "export.zip").read_bytes()


@cases(60)
@given(data=st.data())
def test_archives_of_cvat(annotated, tmp_path_factory, data):
    dataset, whole = annotated
    folder = tmp_path_factory.mktemp("cvat")
    (folder / "x.zip").write_bytes(data.draw(damaged(whole)))
    with works_or_refuses():
        table = import_cvat(folder / "x.zip", dataset, folder / "out")
        assert table["changed"].tolist() == [0]  # checksums hold: what is read is what was written
    assert [p.name for p in folder.rglob("*")] == ["x.zip"]


# archives that are fetched

SOURCE = Source("https://nowhere", "Set", ("train", "masks"), 1 << 16)
INSIDE = {
    "Set-main/Set/train/1.png": bytes(900),
    "Set-main/Set/masks/1.png": b"x",
    "Set-main/README": b"r",
    "Set/train/2.png": b"",
}


def as_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in INSIDE.items():
            archive.writestr(name, data)
    return stream.getvalue()


def as_tar(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in INSIDE.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@cases(60)
@given(data=damaged(as_zip(), as_tar("w"), as_tar("w:gz"), as_tar("w:xz")))
def test_archives_that_are_fetched(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "archive").write_bytes(data)
    (folder / "set").mkdir()
    with works_or_refuses():
        _unpack(folder / "archive", folder / "set", SOURCE)
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    assert all(len(path.parts) == 3 and path.parts[1] in SOURCE.folders for path in files if path.name != "archive")
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert sum((folder / path).stat().st_size for path in files if path.name != "archive") <= SOURCE.most_bytes


# predictions and evaluations


@pytest.fixture
def evaluated(tiny_root):
    """The tiny dataset's test split with another tool's predictions, scored; folders of predictions and of scores."""
    dataset, folder = load_dataset("data/tiny"), tiny_root / "theirs"
    for sample in dataset.split("test").itertuples():
        truth = read_mask(dataset.root / sample.mask, dataset.classes)
        save_ids(folder / f"{sample.id}.png", np.where(truth == IGNORE, 0, np.roll(truth, 3, 0)) % 3, dataset.classes)
    params = Evaluate.check({"run": "theirs", "split": "test", "boundary_ratio": 0.0})
    evaluation = evaluate_predictions("theirs", folder, "data/tiny", params)
    return folder, params, evaluation


@cases(12)
@given(data=st.data())
def test_folders_of_predictions(evaluated, data):
    folder, params, before = evaluated
    path = folder / "0041.png"
    whole = path.read_bytes()
    others = [file for file in FILES if len(file) < 2000]
    path.write_bytes(data.draw(damaged(whole, *others[:20])))
    try:
        with works_or_refuses():
            after = evaluate_predictions("theirs", folder, "data/tiny", params)
            assert np.array_equal(
                after.confusions.sum(2), before.confusions.sum(2)
            )  # every scored pixel is counted once
            assert np.array_equal(after.confusions[1:], before.confusions[1:])
    finally:
        path.write_bytes(whole)


@cases(50)
@given(data=st.data())
def test_evaluations_read_back(evaluated, data):
    _, _, before = evaluated
    run = Run.open("theirs")
    folder = run.evaluation("test")
    path = data.draw(
        st.sampled_from(sorted([*folder.glob("*.csv"), *folder.glob("*.json"), *folder.glob("*.npz"), run.params]))
    )
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    try:
        with works_or_refuses():
            after = open_evaluation(run, "test")
            # Either what was written is read, or nothing is.
            assert np.array_equal(after.confusions, before.confusions)
            assert after.per_image["id"].tolist() == before.per_image["id"].tolist()
            assert np.allclose(after.per_image["miou"], before.per_image["miou"], atol=1e-6, equal_nan=True)
            assert find_failures(after)["id"].tolist() == find_failures(before)["id"].tolist()
    finally:
        path.write_bytes(whole)


# failures folders


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    from failures_folder import names, write_folder

    return write_folder(tmp_path_factory.mktemp("failed"), names(4), (12, 16))


@cases(25)
@given(data=st.data())
def test_failures_folders(failed, data):
    path = data.draw(st.sampled_from([failed / "failures.csv", *sorted(failed.rglob("NA.png"))]))
    whole = path.read_bytes()
    path.write_bytes(
        data.draw(damaged(whole, *([f for f in FILES if f[:4] == b"\x89PNG"] if path.suffix == ".png" else [])))
    )
    try:
        with works_or_refuses():
            table = read_failures(failed)
            for _, row in table.iterrows():
                describe(row, None, CLASSES)
                nearest_ids(row)
                suspect_box(row)
                facts, buffers = pack_layers(failed, row["id"])
                assert len(buffers) == len(facts["layers"])
        with works_or_refuses():
            assert all(isinstance(text, str) for item in read_items(failed) for text in item.text.values())
    finally:
        path.write_bytes(whole)


def test_the_property_tells_our_errors_from_others(tmp_path):
    for call in (lambda: int("x"), lambda: json.loads("{"), lambda: Image.open(tmp_path / "no.png"), lambda: {}["x"]):
        with pytest.raises(Exception) as error:  # noqa: PT011
            call()
        assert not is_ours(error.value)
    with pytest.raises(DatasetError) as error:
        read_image(tmp_path / "no.png")
    assert is_ours(error.value)
