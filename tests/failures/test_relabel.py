"""Which samples go back to the annotators; masks to CVAT or a folder and back, to the last id."""

import dataclasses
import io
import json
import re
import zipfile
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import refused, write_dataset
from PIL import Image

from seglib.data import IGNORE, ClassMap, DatasetError, load_dataset, read_mask
from seglib.evaluate import Evaluation, save_ids
from seglib.failures import export_for_relabelling, import_corrections, to_relabel
from seglib.failures.relabel import _class_ids

SIZE = (30, 41)
COLORS = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 0)], np.uint8)
FORMS = {
    "ids": (lambda b: np.where(b == 4, 255, b).astype(np.uint8), "sky, road, car, 'tree & <b>'", ""),
    "ignored id": (lambda b: b.astype(np.uint8), "sky, ignored, car, tree", "ignore_ids: [4]"),
    "background": (lambda b: b.astype(np.uint8), "background, road, car, tree, pole", ""),
    "id map": (lambda b: np.uint8(b + 1), "a, b, c, d", "id_map: {0: 255, 1: 0, 2: 1, 3: 2, 4: 3, 5: 3}"),
    "colours": (lambda b: COLORS[b], "a, b, c, d", f"colors: {COLORS[:4].tolist()}"),
}


def make_dataset(root, form: str):
    """Two splits of three random masks, with 0-4 stored as the form says."""
    (stored, classes, extra), random = FORMS[form], np.random.default_rng(1)
    splits = {"train": {}, "val": {}}
    for split in splits:
        for name in (f"{split} 1", f"{split}_{{2}}", f"{split}=3"):
            blocks = random.integers(0, 5, (5, 6)).repeat(8, 0).repeat(8, 1)[: SIZE[0], : SIZE[1]]
            splits[split][name] = random.integers(0, 256, (*SIZE, 3), np.uint8), stored(blocks)
    write_dataset(root, splits, classes.split(", "), extra)
    return load_dataset(root)


@pytest.fixture(params=FORMS)
def dataset(request, tmp_path):
    return make_dataset(tmp_path / "data", request.param)


@pytest.fixture
def plain(tmp_path):
    return make_dataset(tmp_path / "data", "ids")


def evaluation_of(dataset, folder) -> Evaluation:
    """An evaluation whose saved predictions lie in folder/predictions."""
    run = SimpleNamespace(evaluation=lambda split: folder, failures=lambda split: folder / "failures")
    return Evaluation(run, dataset, "val", {}, None, None, None, None)


def truths(dataset) -> dict[str, np.ndarray]:
    return {s.id: read_mask(dataset.root / s.mask, dataset.classes) for s in dataset.samples.itertuples()}


def corrected(dataset, folder) -> dict[str, np.ndarray]:
    """Other masks of every sample as saved predictions: one left as it is, else a part of another class or ignored."""
    masks = {}
    for k, (sample, mask) in enumerate(truths(dataset).items()):
        new = mask.copy()
        if k:
            new[5:20, 5:30] = (np.where(new == IGNORE, 0, new)[5:20, 5:30] + 1) % len(dataset.classes)
            if dataset.classes.names[0] != "background":
                new[:4, :9] = IGNORE
        save_ids(folder / "predictions" / f"{sample}.png", new, dataset.classes)
        masks[sample] = new
    return masks


def test_a_zip_and_a_folder_there_and_back(dataset, tmp_path):
    before = {p: p.read_bytes() for p in dataset.root.rglob("*.*")}
    evaluation, masks = evaluation_of(dataset, tmp_path), corrected(dataset, tmp_path)
    same = export_for_relabelling(evaluation, tmp_path / "same.zip", masks)
    assert (import_corrections(same, dataset, tmp_path / "none")["changed"] == 0).all()
    assert not (tmp_path / "none").exists()
    zipped = export_for_relabelling(evaluation, tmp_path / "new.zip", masks, masks="predictions")
    for source, out in ((zipped, tmp_path / "a"), (tmp_path / "predictions", tmp_path / "b")):
        table, original = import_corrections(source, dataset, out), truths(dataset)
        assert table["id"].tolist() == list(masks)
        for row in table.itertuples():
            assert row.changed == (masks[row.id] != original[row.id]).sum()
            assert row.share == row.changed / masks[row.id].size
            if row.changed:
                np.testing.assert_array_equal(read_mask(out / row.mask, dataset.classes), masks[row.id])
        assert table["mask"].tolist()[0] == ""  # nothing changed there
        assert sum(1 for _ in out.rglob("*.png")) == len(masks) - 1
    assert before == {p: p.read_bytes() for p in dataset.root.rglob("*.*")}


def test_what_to_relabel(tmp_path):
    folder = tmp_path / "failures"
    folder.mkdir()
    assert to_relabel(folder) == []
    suspects = "id,label_score,suspect\na,0.9,True\nb,0.95,True\nc,0.2,False\nNA,,False\n"
    (folder / "suspects.csv").write_text(suspects)
    assert to_relabel(folder) == ["b", "a"]
    (folder / "verdicts.csv").write_text("id,verdict,note,time\nval 1,label wrong,,\nb,model wrong,,\n")
    assert to_relabel(folder) == ["val 1", "a"]


def test_the_zip_is_what_cvat_expects(plain, tmp_path):
    ids = ["train=3", "val 1"]
    out = export_for_relabelling(evaluation_of(plain, tmp_path), tmp_path / "x.zip", ids)
    with zipfile.ZipFile(out) as archive:
        kinds = ("JPEGImages", "SegmentationClass", "SegmentationObject")
        assert {f"{kind}/{i}.png" for kind in kinds for i in ids} < set(archive.namelist())
        assert archive.read("ImageSets/Segmentation/default.txt") == b"train=3\nval 1\n"
        head, *lines = archive.read("labelmap.txt").decode().splitlines()
        assert head == "# label:color_rgb:parts:actions"
        labels = {n: tuple(map(int, rgb.split(","))) for n, rgb, *_ in (line.split(":") for line in lines)}
        assert labels["background"] == (0, 0, 0)
        assert len(set(labels.values())) == 6
        named = {label["name"]: label["color"] for label in json.loads(archive.read("labels.json"))}
        assert list(named) == [*plain.classes.names, "ignored"]
        assert all(named[name] == "#{:02x}{:02x}{:02x}".format(*labels[name]) for name in named)
        image = Image.open(plain.root / "val" / "images" / "val 1.png")
        np.testing.assert_array_equal(Image.open(archive.open("JPEGImages/val 1.png")), image)
        mask = truths(plain)["val 1"]
        lut = np.array([*(labels[n] for n in plain.classes.names), *[labels["ignored"]] * 252], np.uint8)
        for kind in kinds[1:]:  # each class is an object too
            np.testing.assert_array_equal(Image.open(archive.open(f"{kind}/val 1.png")), lut[mask])


def test_faults_of_what_is_exported(plain, tmp_path):
    evaluation = evaluation_of(plain, tmp_path)
    with pytest.raises(DatasetError, match=r"1 of 2 samples to export are not in dataset 'data': 'nobody'"):
        export_for_relabelling(evaluation, tmp_path / "x.zip", ["nobody", "val 1"])
    save_ids(tmp_path / "predictions" / "val 1.png", np.zeros((3, 3), np.uint8), plain.classes)
    refused(r"\(3, 3\)", export_for_relabelling, evaluation, tmp_path / "x.zip", ["val 1"], "predictions")
    for name in ("a:b", " a", "#a", "a\nb"):
        named = evaluation_of(dataclasses.replace(plain, classes=ClassMap((name, "c"))), tmp_path)
        with pytest.raises(ValueError, match="CVAT's lists cannot hold the name"):
            export_for_relabelling(named, tmp_path / "x.zip", ["val 1"])
    assert not list(tmp_path.glob("*.zip"))


def rewrite(source, out, change):
    """A copy of a zip; `change` takes (name, data) and gives a list of them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            for entry, data in change(name, old.read(name)):
                new.writestr(entry, data)
    return out


@pytest.fixture
def exported(plain, tmp_path):
    return export_for_relabelling(evaluation_of(plain, tmp_path), tmp_path / "x.zip", ["train 1", "val 1"])


def repainted(data: bytes, change, palette: bool = False) -> bytes:
    stream, picture = io.BytesIO(), Image.fromarray(change(np.asarray(Image.open(io.BytesIO(data)))))
    (picture.quantize(64) if palette else picture).save(stream, "PNG")
    return stream.getvalue()


def test_cvat_may_choose_other_colours_folders_and_palettes(plain, exported, tmp_path):
    def change(name, data):
        if name == "labelmap.txt":
            lines = [line.split(":") for line in data.decode().splitlines()[1:]]
            colors = [(label, [255 - int(v) for v in rgb.split(",")]) for label, rgb, *_ in lines[::-1]]
            return [(name, "".join(f"{label}:{r},{g},{b}::\n" for label, (r, g, b) in colors).encode())]
        if name.startswith("SegmentationClass/"):
            name = name.replace("Class/", "Class/some/folder/")
            return [(name, repainted(data, lambda a: 255 - a, palette=True))]
        return [] if name.startswith("JPEG") else [(name, data)]

    table = import_corrections(rewrite(exported, tmp_path / "own.zip", change), plain, tmp_path / "out")
    assert table["changed"].tolist() == [0, 0]


def test_nothing_escapes_from_the_archive(plain, tmp_path):
    name, evaluation = list(corrected(plain, tmp_path))[1], evaluation_of(plain, tmp_path)
    source = export_for_relabelling(evaluation, tmp_path / "y.zip", [name], "predictions")

    def escape(entry, data):
        entry = entry.replace("SegmentationClass/", "../../SegmentationClass/../SegmentationClass/")
        evil = [("../../evil.txt", b"x"), ("/tmp/evil.png", b"x")] if "labelmap" in entry else []
        return [(entry, data), *evil]

    before = set(tmp_path.parent.rglob("*"))
    table = import_corrections(rewrite(source, tmp_path / "z.zip", escape), plain, tmp_path / "out")
    new = {p.relative_to(tmp_path).as_posix() for p in set(tmp_path.parent.rglob("*")) - before}
    assert new == {"z.zip", "out", "out/train", "out/train/masks", f"out/{table['mask'].item()}"}


def only(name, change):
    return lambda n, data: [(n, change(data) if n == name else data)]


mask, labels = (partial(only, name) for name in ("SegmentationClass/val 1.png", "labelmap.txt"))
FAULTS = {
    "more than it can need": mask(lambda d: d + bytes(50_000_000)),
    "it is (9, 8)": mask(lambda d: repainted(d, lambda a: a[:9, :8])),
    "is an RGB image with unknown colours (#": mask(lambda d: repainted(d, lambda a: a // 2 + 3)),
    "'val 1': it cannot be read (cannot identify": mask(lambda d: b"GIF89a"),
    "'sea:": labels(lambda d: d.replace(b"sky", b"sea")),
    "no item named 'labelmap.txt'": lambda n, d: [] if n == "labelmap.txt" else [(n, d)],
    "more than 1,048,576 bytes": labels(lambda d: d + b"#" * (1 << 21)),
    "a colour of its own": labels(lambda d: d + b"background:0,0,0::\n"),
    "'sea'": lambda n, d: [(n.replace("val 1", "sea"), d)],
    "2 of 3 masks do not": lambda n, d: [(n, d)] + [("a/" + n, d)] * n.startswith("SegmentationClass/val"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_archives_write_nothing(plain, exported, tmp_path, fault):
    broken = rewrite(exported, tmp_path / "broken.zip", FAULTS[fault])
    refused(re.escape(fault), import_corrections, broken, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_faulty_folders_write_nothing(plain, tmp_path):
    corrected(plain, tmp_path)
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(tmp_path / "predictions" / "val 1.png")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "predictions" / "val=3.png")
    with pytest.raises(DatasetError, match=r"2 of 6 masks cannot be used: 'val 1': .*; 'val=3': .* \(3, 4\)"):
        import_corrections(tmp_path / "predictions", plain, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_bytes(b"PK but not really")
    faults = {"empty": "there are no masks", "none": "folder of PNG masks", "x.zip": "as a zip"}
    for name, told in faults.items():
        refused(told, import_corrections, tmp_path / name, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_could_be_class_ids_are_judged_by_what_would_change():
    three, two = ClassMap(("a", "b", "c"), id_map={0: 1, 1: 2, 2: 0}), ClassMap(("a", "b"))
    original = np.random.default_rng(0).integers(0, 3, SIZE, np.uint8)
    changed = np.where(np.eye(*SIZE) > 0, 255, original).astype(np.uint8)
    np.testing.assert_array_equal(_class_ids(three, original, changed), changed)
    with pytest.raises(ValueError, match="that the dataset's masks store; expected class ids, 0-2"):
        _class_ids(three, original, (original + np.uint8(2)) % 3)
    black = np.zeros(SIZE, np.uint8)
    with pytest.raises(ValueError, match=r"it is an RGB image, .* expected class ids, 0-1"):
        _class_ids(two, black, np.dstack([black] * 3))
    with pytest.raises(ValueError, match=r"black and white; .* import a zip of CVAT"):
        _class_ids(two, black, np.where(np.eye(*SIZE) > 0, 255, black).astype(np.uint8))
    for mask in (black, changed % 2, np.full(SIZE, 255, np.uint8)):
        np.testing.assert_array_equal(_class_ids(two, original % 2, mask), mask)


def test_originals_are_never_overwritten(plain, tmp_path):
    corrected(plain, tmp_path)
    before = {p: p.read_bytes() for p in plain.root.rglob("*.png")}
    (tmp_path / "link").symlink_to(plain.root)
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "masks").symlink_to(plain.root / "train" / "masks")
    for out in (plain.root, tmp_path / "link", tmp_path / "out"):
        refused("would lie on another mask", import_corrections, tmp_path / "predictions", plain, out)
    assert before == {p: p.read_bytes() for p in plain.root.rglob("*.png")}
