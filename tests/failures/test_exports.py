"""Tables for other programs and spreadsheets; masks to CVAT and Label Studio and back, to the last id."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.data.classes import IGNORE, ClassMap
from seglib.data.dataset import DatasetError, load_dataset, read_mask
from seglib.data.mask_files import encode_mask
from seglib.failures import brush
from seglib.failures.annotation import export_cvat, export_label_studio, ignored_name, label_colors
from seglib.failures.corrections import import_cvat, import_label_studio
from seglib.failures.exports import read_spreadsheet, to_relabel, write_records, write_spreadsheet

SIZE = (30, 41)


# tables


def test_json_records(tmp_path):
    table = pd.DataFrame(
        {
            "id": ["0042", "NA"],
            "miou": [0.25, np.nan],
            "failed": [True, False],
            "frame": pd.array([3, None], "Int64"),
            "nearest": ['["a b", "c\\"d"]', ""],
            "suspect_box": ["1 2 30 40", ""],
        }
    )
    write_records(tmp_path / "failures.json", table)
    assert json.loads((tmp_path / "failures.json").read_text()) == [
        {
            "id": "0042",
            "miou": 0.25,
            "failed": True,
            "frame": 3,
            "nearest": ["a b", 'c"d'],
            "suspect_box": [1, 2, 30, 40],
        },
        {"id": "NA", "miou": None, "failed": False, "frame": None, "nearest": [], "suspect_box": None},
    ]


HOSTILE = ["=1+1", "+cmd", "-2", "@SUM(A1)", "\tx", "'quoted", "''=2", '=HYPERLINK("x")', "＝1", "a,b", 'say "x"', "0042", "", "two\nlines"]  # fmt: skip


def test_a_spreadsheet_runs_nothing_and_gives_every_cell_back(tmp_path):
    table = pd.DataFrame({"id": HOSTILE, "miou": -0.5, "=note": HOSTILE[::-1]})
    path = write_spreadsheet(tmp_path / "failures.csv", table)
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    for cell in [*cells.columns, *cells["id"], *cells.iloc[:, 2]]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert set(cells["miou"]) == {"-0.5"}  # a number stays one
    back = read_spreadsheet(path)
    assert back.columns.tolist() == table.columns.tolist()
    assert back["id"].tolist() == HOSTILE
    assert back["=note"].tolist() == HOSTILE[::-1]


def test_what_to_relabel(tmp_path):
    assert to_relabel(tmp_path) == []
    pd.DataFrame(
        {
            "id": ["a", "b", "c", "NA"],
            "label_score": [0.9, 0.95, 0.2, ""],
            "failed": [True, False, True, True],
        }
    ).to_csv(tmp_path / "suspects.csv", index=False)
    pd.DataFrame({"id": ["NA", "c"], "miou": 0.2, "cause": ["label error", "rare class"]}).to_csv(
        tmp_path / "failures.csv", index=False
    )
    assert to_relabel(tmp_path) == ["b", "a", "NA"]
    (tmp_path / "verdicts.csv").write_text("id,verdict,note,time\nc,label wrong,,\nb,model wrong,,\n")
    assert to_relabel(tmp_path) == ["c", "a", "NA"]
    assert to_relabel(tmp_path, min_score=0.92) == ["c", "NA"]


# Label Studio's run-length code


def reference_decode(rle: list[int]) -> np.ndarray:
    """The format bit by bit, as slowly as it is written down."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word, sizes = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 5), (3, 70), (200, 200)])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_brush_masks_survive(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    rle = brush.encode(mask)
    assert all(isinstance(v, int) and 0 <= v <= 255 for v in rle)
    picture = reference_decode(rle).reshape(*shape, 4)
    assert np.array_equal(picture, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))
    assert np.array_equal(brush.decode(rle, *shape), mask)


def pack(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def header(count: int, word: int = 8, sizes=(3, 4, 8, 16)) -> str:
    return f"{count:032b}{word - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)


def test_literal_values_and_other_sizes_are_read():
    # Two pixels: soft stroke of alpha 127 (not painted) and 128 (painted), as literals after another table of sizes.
    body = "0" + "01" + f"{8 - 1:05b}" + "".join(f"{v:08b}" for v in (9, 9, 9, 127, 9, 9, 9, 128))
    rle = pack(header(8, sizes=(2, 5, 8, 16)) + body)
    assert np.array_equal(reference_decode(rle), [9, 9, 9, 127, 9, 9, 9, 128])
    assert brush.decode(rle, 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ([], "header"),
        ("0011", "list of bytes"),
        ("", "list of bytes"),
        (10**12, "list of bytes"),
        ([300] * 9, "list of bytes"),
        (None, "list of bytes"),
        (pack(header(1 << 31)), "has 8"),
        (pack(header(8, word=16)), "16 bits"),
        (pack(header(8)), "ends before"),
        (pack(header(8) + "1" + "10" + f"{200:08b}" + "11111111"), "go beyond"),
        (pack(header(8) + "0" + "00" + "111" + "1" * 20), "ends before"),
    ],
)
def test_damaged_brush_masks_are_refused(rle, says):
    with pytest.raises(ValueError, match=says):
        brush.decode(rle, 1, 2)


def test_brush_masks_must_have_pixels():
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        brush.encode(np.zeros((0, 4), bool))


# round trips


def make_dataset(root, stored, classes: str, mask_names="{}.png", splits=("train", "val")):
    """A dataset of one random mask an id: `stored` maps random integers 0-4 (H, W) to what a mask file holds."""
    rng = np.random.default_rng(1)
    for split in splits:
        (root / split / "images").mkdir(parents=True)
        (root / split / "masks").mkdir(parents=True)
        for name in (f"{split} 1", f"{split}_{{2}}", f"{split}=3"):
            blocks = rng.integers(0, 5, (5, 6)).repeat(8, 0).repeat(8, 1)[: SIZE[0], : SIZE[1]]
            Image.fromarray(stored(blocks)).save(root / split / "masks" / mask_names.format(name))
            picture = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8))
            picture.save(root / split / "images" / f"{name}.{'jpg' if split == 'train' else 'png'}")
    suffix = mask_names.rpartition(".")[2]
    text = "".join(f"  {s}: {{images: '{s}/images/*.*', masks: '{s}/masks/*.{suffix}'}}\n" for s in splits)
    (root / "dataset.yaml").write_text(f"name: d\n{classes}\nsplits:\n{text}")
    return load_dataset(root)


COLORS = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 0)], np.uint8)
FORMS = {
    "ids": (lambda b: np.where(b == 4, 255, b).astype(np.uint8), "classes: [sky, road, car, 'tree & <b>']"),
    "ignored id": (lambda b: b.astype(np.uint8), "classes: [sky, ignored, car, tree]\nignore_ids: [4]"),
    "background": (lambda b: b.astype(np.uint8), "classes: [background, road, car, tree, pole]"),
    "id map": (lambda b: (b * 10).astype(np.uint8), "classes: [a, b]\nid_map: {0: 0, 10: 0, 20: 1, 30: 255, 40: 1}"),
    "16 bit": (lambda b: (b * 300).astype(np.uint16), "classes: [a, b, c]\nid_map: {0: 0, 300: 1, 600: 2, 900: 255, 1200: 2}"),
    "colours": (lambda b: COLORS[b], f"classes: [a, b, c, d]\ncolors: {COLORS[:4].tolist()}"),
    "two alike": (lambda b: b.astype(np.uint8), "classes: [a, b, c, d, e]\ncolors: [[9, 9, 9], [9, 9, 9], [0, 0, 0], [1, 1, 1], [2, 2, 2]]"),
}  # fmt: skip


@pytest.fixture(params=FORMS)
def dataset(request, tmp_path):
    stored, classes = FORMS[request.param]
    return make_dataset(
        tmp_path / "data", stored, classes, "{}.tif" if request.param == "16 bit" else "{}.png"
    )


def truths(dataset) -> dict[str, np.ndarray]:
    return {s.id: read_mask(dataset.root / s.mask, dataset.classes) for s in dataset.samples.itertuples()}


def corrected(dataset, folder) -> dict[str, np.ndarray]:
    """Other masks for every sample, as ids: shifted by one class, ignored ones among them, one sample left as it is."""
    folder.mkdir()
    masks = {}
    for k, (sample, mask) in enumerate(truths(dataset).items()):
        new = mask.copy()
        if k:
            scored = mask != IGNORE
            new[scored] = (mask[scored] + 1) % len(dataset.classes)
            if dataset.classes.names[0] != "background":
                new[:4, :9] = IGNORE
        Image.fromarray(new).save(folder / f"{sample}.png")
        masks[sample] = new
    return masks


def as_annotated(tasks: list[dict]) -> list[dict]:
    """What Label Studio exports when predictions were taken over as annotations."""
    return [
        task | {"id": k, "annotations": task["predictions"], "predictions": []}
        for k, task in enumerate(tasks)
    ]


def label_studio_export(zipped, path):
    with zipfile.ZipFile(zipped) as archive:
        path.write_text(json.dumps(as_annotated(json.loads(archive.read("tasks.json")))))
    return path


@pytest.mark.parametrize("tool", ["cvat", "label studio"])
def test_round_trip(dataset, tmp_path, tool):
    before = {p: p.read_bytes() for p in dataset.root.rglob("*.*")}
    masks = corrected(dataset, tmp_path / "new")
    ids, out = list(masks), tmp_path / "out"

    def there_and_back(folder):
        if tool == "cvat":
            return import_cvat(export_cvat(ids, dataset, folder, tmp_path / "x.zip"), dataset, out)
        zipped = export_label_studio(ids, dataset, folder, tmp_path / "x.zip")
        return import_label_studio(label_studio_export(zipped, tmp_path / "x.json"), dataset, out)

    table = there_and_back(None)
    assert table["id"].tolist() == ids
    assert (table["changed"] == 0).all()
    assert not out.exists()

    table = there_and_back(tmp_path / "new")
    assert table["id"].tolist() == ids
    original = truths(dataset)
    for row in table.itertuples():
        assert row.changed == (masks[row.id] != original[row.id]).sum()
        assert row.share == row.changed / masks[row.id].size
        if row.changed:
            assert np.array_equal(read_mask(out / row.mask, dataset.classes), masks[row.id])
    assert table["mask"].tolist()[0] == ""  # nothing changed there
    assert sum(1 for _ in out.rglob("*.png")) == len(ids) - 1
    assert before == {p: p.read_bytes() for p in dataset.root.rglob("*.*")}


def test_values_of_unchanged_pixels_stay(tmp_path):
    stored, classes = FORMS["id map"]
    dataset = make_dataset(tmp_path / "data", stored, classes)
    path = dataset.root / dataset.samples["mask"][0]
    mask = read_mask(path, dataset.classes)
    mask[0, 0] = 1 - mask[0, 0] if mask[0, 0] < 2 else 0
    before = np.asarray(Image.open(path))
    after = np.asarray(Image.open(io.BytesIO(encode_mask(path, dataset.classes, mask))))
    assert after[0, 0] in (0, 20)
    assert np.array_equal(after.ravel()[1:], before.ravel()[1:])


def test_palettes_stay(tmp_path):
    picture = Image.fromarray(np.eye(8, dtype=np.uint8))
    picture.putpalette([1, 2, 3, 4, 5, 6])
    picture.save(tmp_path / "m.png")
    data = encode_mask(tmp_path / "m.png", ClassMap(("a", "b")), np.zeros((8, 8), np.uint8))
    with Image.open(io.BytesIO(data)) as back:
        assert back.mode == "P"
        assert back.getpalette()[:6] == [1, 2, 3, 4, 5, 6]
        assert not np.asarray(back).any()


def test_one_bit_masks_are_written_for_their_reader(tmp_path):
    classes = ClassMap(("a", "b"), id_map={0: 0, 255: 1})
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "m.png")
    mask = np.ones((8, 8), np.uint8)
    (tmp_path / "new.png").write_bytes(encode_mask(tmp_path / "m.png", classes, mask))
    assert np.array_equal(read_mask(tmp_path / "new.png", classes), mask)


def test_a_class_that_cannot_be_stored_is_named(tmp_path):
    classes = ClassMap(("a", "b"), id_map={0: 0, 1: 1})
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DatasetError, match=r"pixels that are not scored.*ignore_ids"):
        encode_mask(tmp_path / "m.png", classes, np.full((4, 4), IGNORE, np.uint8))
    with pytest.raises(DatasetError, match="which is"):
        encode_mask(tmp_path / "m.png", classes, np.zeros((4, 5), np.uint8))
    black = ClassMap(("a", "b"), np.array([(0, 0, 0), (1, 1, 1)]))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(DatasetError, match="cannot be told apart"):
        encode_mask(tmp_path / "rgb.png", black, np.full((4, 4), IGNORE, np.uint8))


# CVAT


@pytest.fixture
def plain(tmp_path):
    return make_dataset(tmp_path / "data", *FORMS["ids"])


def test_the_zip_is_what_cvat_expects(plain, tmp_path):
    with zipfile.ZipFile(export_cvat(["train=3", "val 1"], plain, None, tmp_path / "x.zip")) as archive:
        assert sorted(archive.namelist()) == [
            "ImageSets/Segmentation/default.txt", "JPEGImages/train=3.jpg", "JPEGImages/val 1.png", "SegmentationClass/train=3.png",
            "SegmentationClass/val 1.png", "SegmentationObject/train=3.png", "SegmentationObject/val 1.png", "labelmap.txt", "labels.json",
        ]  # fmt: skip
        assert archive.read("ImageSets/Segmentation/default.txt") == b"train=3\nval 1\n"
        lines = archive.read("labelmap.txt").decode().splitlines()
        assert lines[:2] == ["# label:color_rgb:parts:actions", "background:0,0,0::"]
        assert [line.split(":")[0] for line in lines[2:]] == ["sky", "road", "car", "tree & <b>", "ignored"]
        assert [label["name"] for label in json.loads(archive.read("labels.json"))] == [
            *plain.classes.names,
            "ignored",
        ]
        image = plain.root / plain.samples.set_index("id").loc["train=3", "image"]
        assert archive.read("JPEGImages/train=3.jpg") == image.read_bytes()  # not compressed a second time
        mask = truths(plain)["val 1"]
        colors = label_colors(plain.classes)
        lut = [*(colors[n] for n in plain.classes.names), *[colors["ignored"]] * 252]
        stored = np.asarray(Image.open(archive.open("SegmentationClass/val 1.png")))
        assert np.array_equal(stored, np.array(lut, np.uint8)[mask])
        objects = np.asarray(Image.open(archive.open("SegmentationObject/val 1.png")))
        # VOC's first colours; one object a class, none is background
        first = [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
        assert {tuple(c) for c in objects.reshape(-1, 3).tolist()} == set(first[: len(np.unique(mask))])
        assert len(np.unique(np.concatenate([stored, objects], 2).reshape(-1, 6), axis=0)) == len(
            np.unique(mask)
        )


def test_turned_and_odd_images_become_png(plain, tmp_path):
    row = plain.samples.iloc[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(plain.root / row["image"], exif=exif)
    with zipfile.ZipFile(export_cvat([row["id"]], plain, None, tmp_path / "x.zip")) as archive:
        picture = Image.open(archive.open(f"JPEGImages/{row['id']}.png"))
        assert picture.size == SIZE[::-1]


def test_label_colors():
    own = label_colors(ClassMap(("a", "background"), np.array([(1, 2, 3), (1, 2, 3)])))
    assert own == {"background": (0, 0, 0), "a": (1, 2, 3), "ignored": (224, 224, 192)}
    for colors in ([(0, 0, 0), (1, 1, 1)], [(5, 5, 5), (5, 5, 5)], [(224, 224, 192), (1, 1, 1)]):
        named = label_colors(ClassMap(("a", "b"), np.array(colors)))
        assert list(named) == ["background", "a", "b", "ignored"]
        assert len(set(named.values())) == 4
    assert ignored_name(ClassMap(("ignored", "ignored_"))) == "ignored__"


@pytest.mark.parametrize("name", ["a:b", " a", "#a", "a\nb"])
def test_class_names_that_the_labelmap_cannot_hold(plain, tmp_path, name):
    named = dataclasses.replace(plain, classes=ClassMap((name, "c")))
    with pytest.raises(ValueError, match=r"labelmap\.txt"):
        export_cvat([], named, None, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_faults_of_what_is_exported(plain, tmp_path):
    with pytest.raises(DatasetError, match=r"'nobody' \(1 of 2"):
        export_cvat(["nobody", "val 1"], plain, None, tmp_path / "x.zip")
    with pytest.raises(DatasetError, match=r"no val 1\.png"):
        export_cvat(["val 1"], plain, tmp_path, tmp_path / "x.zip")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "val 1.png")
    with pytest.raises(DatasetError, match=r"\(3, 3\)"):
        export_label_studio(["val 1"], plain, tmp_path, tmp_path / "x.zip")
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(tmp_path / "val 1.png")
    with pytest.raises(DatasetError, match=r"ids \[9\]"):
        export_label_studio(["val 1"], plain, tmp_path, tmp_path / "x.zip")
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
    return export_cvat(["train 1", "val 1"], plain, None, tmp_path / "x.zip")


def test_cvat_may_choose_other_colours_folders_and_forms(plain, exported, tmp_path):
    """CVAT gives labels colours of its own, may nest names in folders, and others write palettes or positions."""
    names = list(label_colors(plain.classes))
    order = names[::-1]
    own = {name: (40 * k, 7, 200 - k) for k, name in enumerate(order)}
    voc = label_colors(plain.classes)

    def recolor(name, data, mode):
        if name == "labelmap.txt":
            return [(name, "".join(f"{n}:{','.join(map(str, own[n]))}::\n" for n in order).encode())]
        if name.startswith("SegmentationClass/"):
            old = np.asarray(Image.open(io.BytesIO(data)))
            place = np.zeros(old.shape[:2], np.uint8)
            for k, n in enumerate(order):
                place[(old == voc[n]).all(-1)] = k
            picture = Image.fromarray(place)
            if mode == "P":
                picture.putpalette(np.array([own[n] for n in order], np.uint8).tobytes())
            elif mode == "RGB":
                picture = Image.fromarray(np.array([own[n] for n in order], np.uint8)[place])
            stream = io.BytesIO()
            picture.save(stream, "PNG")
            return [(name.replace("Class/", "Class/some/folder/"), stream.getvalue())]
        return [] if name.startswith("JPEG") else [(name, data)]

    for mode in ("P", "RGB", "L"):
        changed = rewrite(exported, tmp_path / f"{mode}.zip", lambda n, d, mode=mode: recolor(n, d, mode))
        assert import_cvat(changed, plain, tmp_path / "out")["changed"].tolist() == [0, 0]


def test_nothing_escapes_from_the_archive(plain, exported, tmp_path):
    def escape(name, data):
        name = name.replace(
            "SegmentationClass/train 1", "../../SegmentationClass/../SegmentationClass/train 1"
        )
        return (
            [(name, data), ("../../evil.txt", b"x"), ("/tmp/evil.png", b"x")]
            if "labelmap" in name
            else [(name, data)]
        )

    blank = tmp_path / "blank"
    blank.mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(blank / "train 1.png")
    source = export_cvat(["train 1"], plain, blank, tmp_path / "y.zip")
    before = set(tmp_path.parent.rglob("*"))
    table = import_cvat(rewrite(source, tmp_path / "z.zip", escape), plain, tmp_path / "out")
    assert table["mask"].tolist() == ["train/masks/train 1.png"]
    new = {p.relative_to(tmp_path).as_posix() for p in set(tmp_path.parent.rglob("*")) - before}
    assert new == {"z.zip", "out", "out/train", "out/train/masks", "out/train/masks/train 1.png"}


def only(name, change):
    return lambda n, data: [(n, change(data))] if n == name else [(n, data)]


def resized(data):
    stream = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((9, 9)).save(stream, "PNG")
    return stream.getvalue()


def recolored(data):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(Image.open(io.BytesIO(data))) // 2 + 3).save(stream, "PNG")
    return stream.getvalue()


FAULTS = {
    "bomb": (only("SegmentationClass/val 1.png", lambda d: d + bytes(50_000_000)), "more than it can need"),
    "size": (only("SegmentationClass/val 1.png", resized), "9x9"),
    "colour": (only("SegmentationClass/val 1.png", recolored), "labelmap.txt lacks"),
    "damaged": (only("SegmentationClass/val 1.png", lambda d: d[:60]), "val 1"),
    "no png": (only("SegmentationClass/val 1.png", lambda d: b"GIF89a"), "val 1"),
    "strange label": (only("labelmap.txt", lambda d: d.replace(b"sky", b"sea")), "'sea'"),
    "no labelmap": (lambda n, d: [] if n == "labelmap.txt" else [(n, d)], "0 labelmap.txt"),
    "long labelmap": (only("labelmap.txt", lambda d: d + b"#" * (1 << 21)), "more than"),
    "odd labelmap": (only("labelmap.txt", lambda d: d + b"x:1,2::\n"), "'x:1,2::'"),
    "one colour": (only("labelmap.txt", lambda d: d + b"background:0,0,0::\n"), "one colour"),
    "strange sample": (lambda n, d: [(n.replace("val 1", "sea"), d)], "'sea'"),
    "twice": (lambda n, d: [(n, d)] + [("a/" + n, d)] * n.startswith("SegmentationClass/val"), "two masks"),
    "no masks": (lambda n, d: [] if "Class/" in n else [(n, d)], "no SegmentationClass"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_archives_write_nothing(plain, exported, tmp_path, fault):
    change, says = FAULTS[fault]
    broken = rewrite(exported, tmp_path / "broken.zip", change)
    with pytest.raises(DatasetError, match=says.replace(".", r"\.")):
        import_cvat(broken, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_archive(plain, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK but not really")
    with pytest.raises(DatasetError, match="no zip"):
        import_cvat(tmp_path / "x.zip", plain, tmp_path / "out")


def test_originals_are_never_overwritten(plain, tmp_path):
    masks = corrected(plain, tmp_path / "new")
    source = export_cvat(masks, plain, tmp_path / "new", tmp_path / "x.zip")
    before = {p: p.read_bytes() for p in plain.root.rglob("*.png")}
    (tmp_path / "link").symlink_to(plain.root)
    for out in (plain.root, tmp_path / "link"):
        with pytest.raises(DatasetError, match="lie on the original"):
            import_cvat(source, plain, out)
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "masks").symlink_to(plain.root / "train" / "masks")
    with pytest.raises(DatasetError, match="would lie on another mask"):
        import_cvat(source, plain, tmp_path / "out")
    assert before == {p: p.read_bytes() for p in plain.root.rglob("*.png")}


# Label Studio


def test_the_tasks_are_what_label_studio_expects(plain, tmp_path):
    with zipfile.ZipFile(
        export_label_studio(["val=3", "train 1"], plain, None, tmp_path / "x.zip")
    ) as archive:
        assert archive.namelist() == [
            "images/val=3.png",
            "images/train 1.jpg",
            "tasks.json",
            "label_config.xml",
        ]
        tasks = json.loads(archive.read("tasks.json"))
        config = ElementTree.fromstring(archive.read("label_config.xml"))
    assert [t["data"] for t in tasks] == [
        {"image": "/data/local-files/?d=images/val%3D3.png", "sample": "val=3"},
        {"image": "/data/local-files/?d=images/train%201.jpg", "sample": "train 1"},
    ]
    labels = [label.get("value") for label in config.find("BrushLabels")]
    assert labels == ["sky", "road", "car", "tree & <b>", "ignored"]
    assert config.find("Image").attrib["name"] == config.find("BrushLabels").attrib["toName"] == "image"
    truth = truths(plain)["val=3"]
    regions = tasks[0]["predictions"][0]["result"]
    assert [r["value"]["brushlabels"] for r in regions] == [
        [(*plain.classes.names, *["ignored"] * 252)[c]] for c in np.unique(truth)
    ]
    for region, c in zip(regions, np.unique(truth), strict=True):
        assert (region["original_height"], region["original_width"]) == SIZE
        assert (region["type"], region["value"]["format"]) == ("brushlabels", "rle")
        alpha = reference_decode(region["value"]["rle"]).reshape(*SIZE, 4)[..., 3]
        assert np.array_equal(alpha > 0, truth == c)


def region(mask, label, **changed):
    value = {"format": "rle", "rle": brush.encode(mask), "brushlabels": [label]}
    size = {"original_width": mask.shape[1], "original_height": mask.shape[0]}
    return {"type": "brushlabels", "from_name": "mask", "image_rotation": 0, "value": value} | size | changed


def import_tasks(dataset, tmp_path, tasks):
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    return import_label_studio(tmp_path / "export.json", dataset, tmp_path / "out")


def test_which_annotation_counts(plain, tmp_path):
    full, part = np.ones(SIZE, bool), np.zeros(SIZE, bool)
    part[3:9, 4:20] = True
    tasks = [
        {"data": {"sample": "val 1"}, "annotations": [
            {"updated_at": "2026-01-02", "result": [region(full, "road"), region(part, "car"), {"type": "choices"}]},
            {"updated_at": "2026-01-01", "result": [region(full, "sky")]},
            {"updated_at": "2026-01-03", "was_cancelled": True, "result": [region(full, "sky")]},
        ]},
        {"data": {"sample": "val=3"}, "annotations": []},
        {"data": {"sample": "train 1"}, "annotations": [{"result": [region(part, "sky"), region(part, "ignored")]}]},
    ]  # fmt: skip
    table = import_tasks(plain, tmp_path, tasks)
    assert table["id"].tolist() == ["train 1", "val 1"]
    got = {row.id: read_mask(tmp_path / "out" / row.mask, plain.classes) for row in table.itertuples()}
    assert np.array_equal(got["val 1"], np.where(part, 2, 1))
    assert (got["train 1"] == IGNORE).all()  # not painted, or painted over as ignored


def test_what_nobody_painted_is_background_where_there_is_such_a_class(tmp_path):
    dataset = make_dataset(tmp_path / "data", *FORMS["background"])
    part = np.zeros(SIZE, bool)
    part[:5] = True
    tasks = [{"data": {"sample": "val 1"}, "annotations": [{"result": [region(part, "road")]}]}]
    table = import_tasks(dataset, tmp_path, tasks)
    assert np.array_equal(
        read_mask(tmp_path / "out" / table["mask"][0], dataset.classes), part.astype(np.uint8)
    )


def one(result, sample="val 1"):
    return [{"data": {"sample": sample}, "annotations": [{"result": result}]}]


FULL = np.ones(SIZE, bool)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({}, "no list of tasks"),
        ([1], "no list of tasks"),
        ([{"data": {}}], "sample None"),
        ([{"data": {"sample": ["x"]}}], r"sample \['x'\]"),
        (one([], "../../x"), "sample '../../x'"),
        (one([region(FULL, "sky")]) * 2, "two annotated tasks"),
        (one([region(FULL, "sea")]), "'sea'"),
        (one([region(FULL[:9], "sky")]), "41x9"),
        (one([region(FULL[:9], "sky", original_height=SIZE[0])]), "rle of"),
        (one([region(FULL, "sky", image_rotation=90)]), "rotated"),
        (one([region(FULL, "sky", value={"points": []})]), "no rle"),
        (
            one([region(FULL, "sky", value=region(FULL, "x")["value"] | {"brushlabels": ["sky", "road"]})]),
            "labelled",
        ),
    ],
)
def test_faulty_exports_write_nothing(plain, tmp_path, tasks, says):
    with pytest.raises(DatasetError, match=says):
        import_tasks(plain, tmp_path, tasks)
    assert not (tmp_path / "out").exists()


def test_no_json(plain, tmp_path):
    for data in (b"\xff\xfe", b"{", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(data)
        with pytest.raises(DatasetError, match="no JSON"):
            import_label_studio(tmp_path / "x.json", plain, tmp_path / "out")


@pytest.mark.slow
def test_exports_need_no_torch():
    code = "import sys, seglib.failures.annotation, seglib.failures.corrections, seglib.exports; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
