"""Annotations of other forms become masks that a drafted dataset.yaml reads."""

import json

import numpy as np
import pytest
import tifffile
from conftest import raised, save
from PIL import Image

from seglib.data import DatasetError, convert, draft_dataset, load_dataset, read_pair, read_stored
from seglib.runs import write_text

SIZE = (20, 30)
SQUARE, INNER = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
SQUARE[4:15, 6:19] = True  # corners included
INNER[8:11, 9:13] = True
CORNERS = [6, 4, 18, 4, 18, 14, 6, 14]
INNER_CORNERS = [9, 8, 12, 8, 12, 10, 9, 10]
COUNTS = [188, 3, 17, 2, 0, 1, 17, 3, 17, 3, 349]  # of INNER, a run cut in two
COMPRESSED = "l53a0O_OOa0200\\:"  # as cocoapi's rleToString writes them


def write(path, content):
    write_text(path, content if isinstance(content, str) else json.dumps(content))


def coco(polygons, name="car", area=143, group="none", **size):
    """COCO's JSON of one object on b.png."""
    one = {"id": 5, "image_id": 1, "category_id": 1, "area": area, "segmentation": polygons}
    kind = {"id": 1, "name": name, "supercategory": group}
    return {"images": [{"id": 1, "file_name": "b.png"} | size], "annotations": [one], "categories": [kind]}


@pytest.fixture
def root(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    for name in ("train/a", "train/b", "val/a"):  # one name in two splits
        save(tmp_path / f"images/{name}.png", image)
    return tmp_path


def refused(told, *what, **how):
    raised(DatasetError, told, convert, *what, **how)


def result(root, expected, names, **how):
    """Convert, draft, and compare the mask of train/a; return the masks by their paths."""
    out, told, count = convert(root, **how)
    assert told == names
    (root / "dataset.yaml").write_text(draft_dataset(root), encoding="utf-8")
    dataset = load_dataset(root, strict=False)
    assert dataset.classes.names[: len(names)] == tuple(names)
    masks = {row.mask: read_pair(dataset, row)[1] for row in dataset.samples.itertuples()}
    assert len(masks) == count
    np.testing.assert_array_equal(masks[f"{out.name}/images/train/a.png"], expected)
    return masks


@pytest.mark.parametrize("form", ["polygon", "compressed", "counts"])
def test_coco(root, form):
    rle = {"size": [*SIZE], "counts": COMPRESSED if form == "compressed" else COUNTS}
    small = [INNER_CORNERS] if form == "polygon" else rle
    boxes = [(7, 12, small), (3, 143, [CORNERS])]  # the large one comes second, and lies below
    objects = [{"category_id": c, "image_id": 1, "area": a, "segmentation": s} for c, a, s in boxes]
    found = {"annotations": objects, "categories": [{"id": 7, "name": "wheel"}, {"id": 3, "name": "car"}]}
    for split, names in (("train", "ab"), ("val", "a")):
        found["images"] = [{"id": k, "file_name": f"{name}.png"} for k, name in enumerate(names, 1)]
        write(root / f"annotations/instances_{split}.json", found)
    masks = result(root, SQUARE + INNER.astype(int), ["background", "car", "wheel"])
    assert not masks["masks/images/train/b.png"].any()  # it is in the list, and shows nothing


def test_annotations_of_a_split_make_a_list(root):
    for name, split in (("a", "train"), ("b", "val")):
        save(root / f"pictures/{name}.png", Image.open(root / "images/train/a.png"))
        found = coco([CORNERS]) | {"images": [{"id": 1, "file_name": f"{name}.png"}]}
        write(root / f"pictures/instances_{split}.json", found)
    convert(root / "pictures")
    (root / "pictures/dataset.yaml").write_text(draft_dataset(root / "pictures"), encoding="utf-8")
    samples = load_dataset(root / "pictures").samples
    assert dict(zip(samples["id"], samples["split"], strict=True)) == {"a": "train", "b": "val"}


def test_labelme(root):
    shapes = [{"label": "leaf", "points": np.reshape(CORNERS, (-1, 2)).tolist(), "shape_type": "polygon"}]
    shapes += [{"label": "hole", "points": np.reshape(INNER_CORNERS, (-1, 2)).tolist()}]
    for place in ("train/a", "val/a"):
        write(root / f"images/{place}.json", {"shapes": shapes, "imagePath": "a.png"})
    result(root, SQUARE + INNER.astype(int), ["background", "leaf", "hole"])


def test_masks_of_single_classes(root):
    for split in ("train", "val"):
        save(root / f"masks/{split}/car/a.png", SQUARE * np.uint8(255))
        save(root / f"masks/{split}/wheel/a.png", INNER * np.uint8(1))
    refused("masks exists", root, "classes")
    out, names, count = convert(root, "classes", root.parent / "ids")
    assert (names, count) == (["background", "car", "wheel"], 2)
    np.testing.assert_array_equal(Image.open(out / "images/train/a.png"), SQUARE + INNER.astype(int))
    assert (out / "classes.txt").read_text() == '0 "background"\n1 "car"\n2 "wheel"\n'


def test_several_masks_of_an_image(root):
    for name, mask in (("mask", SQUARE & ~INNER), ("mask_1", INNER)):
        save(root / f"masks/train/a_{name}.png", mask * np.uint8(255))
    out, names, count = convert(root, "instances", root / "objects")
    assert (names, count) == (["background", "object"], 1)
    np.testing.assert_array_equal(np.array(Image.open(out / "images/train/a.png")), SQUARE)
    for name, mask in (("car", SQUARE), ("wheel", INNER)):
        save(root / f"flat/masks/b_{name}.png", mask * np.uint8(255))
        save(root / f"sorted/masks/{name}/b_{name[:1]}.png", mask * np.uint8(255))
    for place in ("flat", "sorted"):  # by the names of files or of folders
        save(root / f"{place}/images/b.png", np.zeros((*SIZE, 3), np.uint8))
        ids, names, _ = convert(root / place, "classes", root / place / "class_masks")
        assert names == ["background", "car", "wheel"]
        np.testing.assert_array_equal(np.array(Image.open(ids / "images/b.png")), SQUARE + INNER.astype(int))
    assert "class_masks/images/*.png" in draft_dataset(root / "flat")  # and no question
    (root / "sorted/class_masks").rename(root / "old")
    save(root / "sorted/masks/car/b_2.png", SQUARE)
    refused("no image has the name of annotation masks/b_2", root / "sorted", "classes", root / "new")


def test_names_keep_their_dots_and_splits_their_annotations(root):
    image = Image.open(root / "images/train/a.png")
    for name in ("train/a_jpg.rf.01ab", "train/a_jpg.rf.02cd", "val/a_jpg.rf.01ab"):
        save(root / f"images/{name}.png", image)
    write(root / "labels/train/a_jpg.rf.02cd.txt", "0 .1 .1 .5 .5 .1 .5\n")
    assert [*convert(root)[0].rglob("*.png")] == [root / "masks/images/train/a_jpg.rf.02cd.png"]
    write(root / "labels/train/c.txt", "0 .1 .1 .5 .5 .1 .5\n")
    save(root / "images/val/c.png", image)
    refused(r"no image has the name of annotation labels/train/c\.txt", root, target=root / "new")


def test_captions_are_passed_over_and_two_entries_of_one_image_are_refused(root):
    write(root / "captions.json", {"images": [], "annotations": [{"caption": "a car"}]})
    content = coco([CORNERS], group="things")
    for k, name in enumerate(("things", "tree"), 2):
        content["categories"].append({"id": k, "name": name, "supercategory": "none"})
    write(root / "one.json", content)
    assert convert(root)[1:] == (["background", "car", "tree"], 1)
    content["images"][0]["file_name"] = "/home/me/b.png"
    write(root / "two.json", content)
    assert convert(root, target=root.with_name("ours"))[2] == 1
    content["images"].append({"id": 2, "file_name": "lost/b.png"})
    write(root / "one.json", content)
    refused(r"one\.json .*both are of one image", root, target=root / "new")


def test_instances_of_a_folder_are_of_its_only_image(root):
    for name in "12":
        save(root / f"stage1/{name}/images/{name}.png", Image.open(root / "images/train/a.png"))
        for k, mask in (("1", SQUARE), ("9f", INNER)):
            save(root / f"stage1/{name}/masks/{k}.png", mask * np.uint8(255))
    out, names, count = convert(root / "stage1", "instances", root / "new")
    assert (names, count) == (["background", "object"], 2)
    np.testing.assert_array_equal(np.array(Image.open(out / "2/images/2.png")), SQUARE)


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [("c.json", {"shapes": []}, "no image has the name of annotation c.json"),
     ("a.json", {"shapes": []}, "2 images .* have the name of annotation a.json"),
     ("train/b.json", {"version": 1}, "0 annotated images of 1 classes.* export COCO"),
     ("train/b.json", "{", "train/b.json is no annotation .*JSONDecodeError"),
     ("b.json", {"annotations": [{"image_id": 1}], "categories": []}, "KeyError: 'category_id'"),
     ("b.json", {"shapes": [{"label": "a", "points": [], "shape_type": "circle"}]}, "'a' is a circle"),
     ("b.json", coco([]), r"b.json .*annotation 5 is a box"),
     ("b.json", coco([CORNERS], height=40, width=60), r"b.json .*is of 60 x 40 pixels, b.png has 30 x 20"),
     ("b.json", coco([[6, 4, 60, 4, 60, 14]]), "b.json .*tells no size, and reaches beyond b.png"),
     ("b.txt", "0 .1 .1 .5 .5 .1 .5\n0 .5 .5 .1 .1\n", r"b.txt .*a box or a line"),
     ("b.txt", "0 .1 .1 .5 .5 .1 .5 .9\n", "b.txt .*7 numbers .* not x and y"),
     ("b.txt", "0 1 1 5 5 1 5\n", "b.txt .*numbers up to 5, not .* shares of the sides")],
)  # fmt: skip
def test_what_fits_no_image_is_an_error(root, path, content, told):
    write(root / path, content)
    refused(told, root)
    assert not (root / "masks").exists()


def test_coco_files_of_one_image_are_drawn_together_and_two_others_are_refused(root):
    write(root / "cars.json", coco([CORNERS], "car"))
    write(root / "wheels.json", "\ufeff" + json.dumps(coco([INNER_CORNERS], "wheel", area=50)))
    out, names, _ = convert(root)
    assert names == ["background", "car", "wheel"]
    np.testing.assert_array_equal(Image.open(out / "images/train/b.png"), SQUARE + INNER.astype(int))
    for folder in ("one", "two"):
        write(root / folder / "b.json", {"shapes": []})
    refused(r"one/b\.json .*both are of one image: move one away", root, target=root / "new")


@pytest.mark.parametrize(
    ("table", "content", "names"),
    [("data.yaml", "nc: 2\n", ["class_1"]), ("data.yaml", "names: car\n", ["car", "class_1"]),
     ("coco8.yaml", "names: {0: car, 1: dog, 3: cat}\nnc: 3\n", ["car", "dog", "cat"]),
     ("obj.names", "\ufeffcar\r\ndog\r\n", ["car", "dog"]), ("classes.txt", "car\nclass 7, 8\n", ["car", "class 7, 8"])],
)  # fmt: skip
def test_yolo_and_its_names(root, table, content, names):
    corners = np.divide(CORNERS, [30, 20] * 4)
    corners[2:6:2] = 1.0004  # as some tools round
    write(root / table, content)
    write(root / "labels/train/a.txt", f"1 {' '.join(map(str, corners))}\n")
    write(root / "labels/train/b.txt", "")
    expected = np.zeros(SIZE, int)
    expected[4:15, 6:] = min(2, len(names))
    assert not result(root, expected, ["background", *names])["masks/images/train/b.png"].any()


@pytest.mark.parametrize(
    ("size", "orientation", "told"),
    [((20, 30), 6, ""), ((30, 20), 6, "is of 20 x 30 .* has 30 x 20 once"), ((20, 30), 3, "EXIF turns b.jpg"), ((0, 0), 6, "EXIF turns b.jpg")],
)  # fmt: skip
def test_labels_of_labelme_and_images_that_exif_turns(root, size, orientation, told):
    labels = {"__ignore__": CORNERS, "_background_": INNER_CORNERS}
    shapes = [{"label": name, "points": np.reshape(xy, (-1, 2)).tolist()} for name, xy in labels.items()]
    write(root / "b.json", {"shapes": shapes, "imageHeight": size[0], "imageWidth": size[1]})
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "images/train/b.png").unlink()
    Image.new("RGB", (20, 30) if orientation == 6 else (30, 20)).save(root / "images/train/b.jpg", exif=exif)
    if told:
        refused(told, root)
    else:
        mask = Image.open(convert(root)[0] / "images/train/b.png")
        np.testing.assert_array_equal(np.array(mask), 255 * (SQUARE & ~INNER))


@pytest.mark.parametrize(
    ("kind", "place", "values", "expected"),
    [("classes", "masks/car/b.jpg", SQUARE * 255, SQUARE), ("classes", "masks/car/b.png", SQUARE + INNER * 1, "holds 0, 1, 2"),
     ("instances", "instances/b.png", SQUARE * 1 + INNER * 254, SQUARE + INNER * 254), ("instances", "instances/b.png", SQUARE * 1000, SQUARE), ("instances", "instances/b.jpg", SQUARE * 9, "JPEG|smeared"),
     ("classes", "masks/b.png", SQUARE * 1, "lies in no folder of a class"), ("class", "masks/b.png", SQUARE * 1, "'class' is none of polygons")],
)  # fmt: skip
def test_masks_of_one_class_and_instances_are_told_from_others(root, kind, place, values, expected):
    save(root / place, values.astype(np.uint16 if values.max() > 255 else np.uint8))
    if isinstance(expected, str):
        refused(expected, root, kind, root / "new")
    else:
        out = convert(root, kind, root / "new")[0]
        np.testing.assert_array_equal(np.array(Image.open(out / "images/train/b.png")), expected)


def test_stacks_are_unpacked_into_pages_that_pair_and_a_missing_folder_is_named(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2, (3, *SIZE), np.uint8)
    for side, stack in (("images", np.repeat(ids[..., None] * 9, 3, 3)), ("masks", ids)):
        (tmp_path / "set" / side).mkdir(parents=True)
        photometric = "rgb" if side == "images" else "minisblack"
        tifffile.imwrite(tmp_path / "set" / side / "a.tif", stack, photometric=photometric)
    out, names, count = convert(tmp_path / "set", "pages")
    assert (out, names, count) == (tmp_path / "set_pages", [], 6)
    (out / "dataset.yaml").write_text(draft_dataset(out))
    dataset = load_dataset(out)
    assert dataset.samples["id"].tolist() == ["a_001", "a_002", "a_003"]
    for k, row in enumerate(dataset.samples.itertuples()):
        image, mask = read_pair(dataset, row)
        np.testing.assert_array_equal(mask, ids[k])
        np.testing.assert_array_equal(image[..., 0], 9 * ids[k])
    folder = tmp_path / "set/images"
    (folder / "a.tif").rename(tmp_path / "out.png")
    Image.fromarray(ids[0]).save(folder / "a.png")  # a picture beside its stack of masks
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    out, _, count = convert(tmp_path / "set", "pages", tmp_path / "more")
    assert (count, sorted(path.name for path in out.glob("images/*"))) == (3, ["a.png"])
    refused("none is no folder", tmp_path / "none")


def test_pages_keep_their_bands_and_series_and_what_cannot_be_unpacked_is_named(tmp_path):
    bands = np.random.default_rng(0).integers(0, 255, (3, 5, *SIZE), np.uint8)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="separate")
    with tifffile.TiffWriter(tmp_path / "loop.tif") as writer:
        for page in (np.zeros((4, 6), np.uint8), np.ones((5, 6), np.uint8)):
            writer.write(page)
    colors = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
    tifffile.imwrite(tmp_path / "palette.tif", bands[:2, 0], photometric="palette", colormap=colors)
    out, _, count = convert(tmp_path, "pages", tmp_path.with_name("out"))
    assert count == 7
    np.testing.assert_array_equal(tifffile.imread(out / "bands_002.tif"), bands[1])
    assert tifffile.imread(out / "loop_002.tif").tolist() == np.ones((5, 6)).tolist()
    np.testing.assert_array_equal(read_stored(out / "palette_002.tif"), bands[1, 0])
    (tmp_path / "bad.tif").write_bytes(b"II")
    refused(r"bad\.tif cannot be unpacked", tmp_path, "pages", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    (tmp_path / "none").mkdir()
    refused("has no TIFF to unpack", tmp_path / "none", "pages")
