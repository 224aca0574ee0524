"""A drafted dataset.yaml loads, in every layout and with every kind of stored values."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import IDS, RGB, RNG, palette, raised, save
from PIL import Image

from seglib.data import DatasetError, draft_dataset, load_dataset, read_mask, read_pair, read_stored
from seglib.runs import write_text


def drafted(root, **told):
    """The dataset of the draft that is written into `root`."""
    (root / "dataset.yaml").write_text(draft_dataset(root, **told), encoding="utf-8")
    return load_dataset(root)


def refused(told, root, **how):
    """The error of a draft, which says this."""
    return raised(DatasetError, told, draft_dataset, root, **how)


# {k} is the number of a sample, {s} its split, {t} a folder of that: the test's lies beside the others
@pytest.mark.parametrize(
    ("image", "mask", "splits"),
    [("images/s{k}.jpg", "masks/s{k}.png", 1), ("imgs/s{k}.jpg", "gt/s{k}.png", 1),
     ("images/{s}/s{k}.png", "masks/{s}/s{k}.png", 3), ("{s}/s{k}.png", "{s}annot/s{k}.png", 3),
     ("img_dir/{s}/s{k}.jpg", "ann_dir/{s}/s{k}.png", 3), ("{s}/image/s{k}.jpg", "{s}/label/s{k}.png", 3),
     ("images/s{k}.jpg", "annotations/trimaps/s{k}.png", 1), ("a/images/s{k}.jpg", "b/masks/s{k}.png", 1),
     ("site{k}/images/s.jpg", "site{k}/masks/s.png", 1), ("s{k}.jpg", "s{k}_mask.png", 1),
     ("{s}/images/image_{k}.png", "{s}/masks/mask_{k}.png", 3), ("image_{k}.png", "mask_{k}.png", 1),
     ("images/ISIC_{k}.jpg", "masks/ISIC_{k}_segmentation.png", 1),
     ("images/{k}_training.png", "1st_manual/{k}_manual1.png", 1),
     ("photos of {k}/a.png", "photos of {k}/a_gt.png", 1), ("image_{k}/a.png", "image_{k}/a_mask.png", 1),
     ("leftImg8bit/{s}/c{k}/c_{k}_leftImg8bit.png", "gtFine/{s}/c{k}/c_{k}_gtFine_labels.png", 3),
     ("{s}/f_{k}_jpg.rf.{k}ab9.jpg", "{s}/f_{k}_jpg.rf.{k}ab9_mask.png", 3),
     ("{s}2017/s{k}.jpg", "masks/{s}2017/s{k}.png", 3), ("images/test{k}/a.jpg", "masks/test{k}/a.png", 1),
     ("paris_{s}/images/s{k}.jpg", "paris_{s}/masks/s{k}.png", 3),
     ("semantic/images/s{k}.png", "semantic/masks/s{k}.png", 1),
     ("segmentation_1/{s}/images/s{k}.png", "segmentation_1/{s}/masks/s{k}.png", 3),
     ("Task1-2_{s}_Input/I_{k}.jpg", "Task1_{s}_GroundTruth/I_{k}_segmentation.png", 3),
     ("{s}/image_2/s{k}.png", "{s}/semantic/s{k}.png", 3),
     ("video{k}/frames/s.jpg", "video{k}/masks/s.png", 1),
     ("{s}/input/s{k}.jpg", "{s}/target/s{k}.png", 3), ("{t}/images/s{k}.png", "{t}/masks/s{k}.png", 3)],
)  # fmt: skip
def test_images_and_masks_are_paired_by_what_their_names_have_in_common(tmp_path, image, mask, splits):
    masks = {}
    for k in range(9, 15):  # of one and two digits
        split = ("train", "train", "valid", "valid", "test", "test")[k - 9]
        names = {"k": k, "s": split, "t": "testing" if split == "test" else f"dataset/{split}"}
        masks[str(k)] = np.roll(np.kron(IDS, np.ones((4, 4), np.uint8)), k)
        save(tmp_path / image.format(**names), RNG.integers(0, 256, (24, 32, 3), np.uint8))
        save(tmp_path / mask.format(**names), masks[str(k)])
    dataset = drafted(tmp_path)
    assert dataset.splits == ["train", "val", "test"][:splits]
    assert len(dataset.samples) == 6
    assert ("no val split" in draft_dataset(tmp_path)) == (splits == 1)
    for row in dataset.samples.itertuples():
        number = re.search(r"(?<!\d)(9|1\d)(?!\d)", row.mask)[0]
        assert number in row.image
        np.testing.assert_array_equal(read_pair(dataset, row)[1], masks[number])


def test_two_readings_are_a_question_that_globs_answer(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split / "images/a.png", RGB)
        save(tmp_path / split / "masks/a.png", IDS)
        save(tmp_path / split / "gt/a.png", IDS * 80)
        save(tmp_path / split / "masks_color/a.png", RGB)  # no class ids by its name
    error = refused("train can be read in 2 ways", tmp_path)
    assert error.check == "two-readings"
    line = '--images "(.*)" --masks "(.*masks.*)"  # 1 pairs; a.png holds 0, 1, 2'
    told = re.search(line, str(error))
    dataset = drafted(tmp_path, images=told[1], masks=told[2])
    assert dataset.samples["mask"].tolist() == ["train/masks/a.png", "val/masks/a.png"]
    (tmp_path / "train").rename(tmp_path / "Train")
    assert drafted(tmp_path, images=told[1], masks=told[2]).splits == ["train", "val"]
    told = r"gt\*.jpg matches 0 files and \*/gt/\*.png 2, of which no two"
    refused(told, tmp_path, images="gt*.jpg", masks="*/gt/*.png")
    refused("told together", tmp_path, images="*")


@pytest.mark.parametrize(
    ("file", "text", "names", "order"),
    [("classes.txt", "road\ntraffic light\nlane 2\n", ["road", "traffic light", "lane 2"], [0, 1, 2]),
     ("codes.txt", "a\nb\nc", "abc", [0, 1, 2]), ("classes.txt", "2 c\n0 a\n1 b\n", "cab", [1, 2, 0]),
     ("classes.txt", "a,b,c\n", "abc", [0, 1, 2]), ("classes.txt", "0 a\n1 b\n2 c\n", "abc", [0, 1, 2]),
     ("train/_classes.csv", "Pixel Value, Class\n0, sky\n1, road\n2, car\n", ["sky", "road", "car"], [0, 1, 2]),
     ("masks/classes.txt", "a: 0\nb: 1\nc: 2\n", "abc", [0, 1, 2]),
     ("classes.json", '{"a": 1, "b": 0, "c": 2}', "abc", [1, 0, 2]),
     ("classes.json", '{"0": "a", "1": "b", "2": "c"}', "abc", [0, 1, 2]),
     ("classes.json", '[{"name": "a", "id": 2}, {"name": "b", "id": 1}, {"name": "c", "id": 0}]', "abc", [2, 1, 0]),
     ("class_names.txt", "a\nb\n", "ab", [255, 0, 1]),  # 0 is not named
     ("objectInfo150.txt", "Idx\tRatio\tName\n1\t0.3\tbuilding, edifice\n2\t0.1\tsky\n", ["building, edifice", "sky"], [255, 0, 1]),
     ("labels.txt", "a\n", ["a", "class_1", "class_2"], [0, 1, 2]),
     ("classes.txt", "Classes:\na\nb\nc\n", "abc", [0, 1, 2]),
     ("classes.txt", "background\na\n", ["background", "a", "class_2"], [0, 1, 2]),
     ("classes.json", '[{"label": "a", "value": 2}, {"label": "b", "value": 1}, {"label": "c", "value": 0}]', "abc", [2, 1, 0]),
     ("classes.json", '{"1": {"name": "a"}, "0": {"name": "b"}, "2": {"name": "c"}}', "abc", [1, 0, 2])],
)  # fmt: skip
def test_names_of_ids_come_from_a_file(tmp_path, file, text, names, order):
    save(tmp_path / "images/a.png", RGB)
    save(tmp_path / "masks/a.png", IDS)
    write_text(tmp_path / file, text)
    dataset = drafted(tmp_path)
    assert dataset.classes.names == tuple(names)
    np.testing.assert_array_equal(read_mask(tmp_path / "masks/a.png", dataset.classes), np.array(order)[IDS])
    assert ("0 is not in" in draft_dataset(tmp_path)) == (255 in order)


@pytest.mark.parametrize(
    ("file", "text"),
    [("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:9,9,200::\ncar:200,0,0::\n"),
     ("class_dict.csv", "name,r,g,b\nsky,0,0,0\nroad,9,9,200\ncar,200,0,0\n"),
     ("classes.json", '{"sky": [0, 0, 0], "road": [9, 9, 200], "car": {"color": [200, 0, 0]}}'),
     ("classes.json", '{"classes": [{"name": "sky", "color": [0, 0, 0]}, {"name": "road", "color": [9, 9, 200]},'
      ' {"name": "car", "color": [200, 0, 0]}]}')],
)  # fmt: skip
def test_names_of_colours_come_from_a_file(tmp_path, file, text):
    colors = np.array([[0, 0, 0], [9, 9, 200], [200, 0, 0], [1, 2, 3]], np.uint8)
    save(tmp_path / "JPEGImages/a.jpg", RGB)
    one_has_no_name_one_no_pixels = np.where(IDS == 2, 3, IDS)
    save(tmp_path / "SegmentationClass/a.png", colors[one_has_no_name_one_no_pixels])
    save(tmp_path / "SegmentationObject/a.png", RGB)
    (tmp_path / file).write_text(text)
    classes = drafted(tmp_path).classes
    assert classes.names == ("sky", "road", "car", "class_3")
    np.testing.assert_array_equal(classes.colors, colors)


def test_a_palette_gives_colours_and_a_broken_table_is_an_error(tmp_path):
    save(tmp_path / "images/a.png", RGB)
    save(tmp_path / "masks/a.png", palette(IDS, [0, 0, 0, 200, 0, 0, 0, 200, 0]))
    assert drafted(tmp_path).classes.colors.tolist() == [[0, 0, 0], [200, 0, 0], [0, 200, 0]]
    (tmp_path / "classes.json").write_text("{")
    refused(r"classes.json is no list of classes \(Expecting", tmp_path)
    (tmp_path / "classes.json").write_text('[{"name": "a", "color": [0.5, 0, 0]}]')
    refused("its colours are not three numbers", tmp_path)
    named = '[{"name": "x", "color": "#00c800"}, {"name": "Void", "color": "#C80000"}]'  # black is not
    (tmp_path / "classes.json").write_text(named)
    text = draft_dataset(tmp_path)
    assert "id_map: {0: 2, 1: 1, 2: 0, 255: 255}" in text
    assert "# Void: learnt and scored as a class." in text
    (tmp_path / "classes.json").write_text('[{"title": "a", "color": null}, {"name": "b"}, {"name": "c"}]')
    assert drafted(tmp_path).classes.names == ("a", "b", "c")


def test_cityscapes_and_lists_of_a_split(tmp_path):
    for split, k in (("train", 0), ("val", 1)):
        base = f"{split}/aachen/aachen_00000{k}_000019"
        save(tmp_path / f"leftImg8bit/{base}_leftImg8bit.png", RGB)
        kinds = {"labelIds": np.array([7, 26, 0], np.uint8)[IDS], "color": RGB, "instanceIds": IDS}
        for kind, array in kinds.items():
            save(tmp_path / f"gtFine/{base}_gtFine_{kind}.png", array)
        (tmp_path / f"gtFine/{base}_gtFine_polygons.json").write_text("{}")
    dataset = drafted(tmp_path)
    assert (dataset.splits, len(dataset.classes), dataset.classes.names[13]) == (["train", "val"], 19, "car")
    np.testing.assert_array_equal(read_pair(dataset, dataset.samples.iloc[0])[1], np.array([0, 13, 255])[IDS])


def test_several_masks_an_image_are_a_question_and_folders_of_one_side_are_not(tmp_path):
    for k in range(6):
        save(tmp_path / f"images/s{k}.jpg", RGB)
        for kind in ("car", "person")[: 1 + (k > 2)]:  # not every image shows all
            save(tmp_path / f"masks/s{k}_{kind}.png", IDS)
        save(tmp_path / f"sites/{k}/images/a.png", RGB)
        for side, array in (("color", RGB), ("depth", RGB), ("labels", IDS)):
            save(tmp_path / f"rgbd/{k}/{side}/a.png", array)
    save(tmp_path / "sites/3/masks/a.png", IDS)
    refused(r"_person.png\"  # 3 pairs[^$]*, join them: `seglib convert", tmp_path)
    refused("none of the known layouts", tmp_path / "rgbd")  # depth is no image
    assert 'images: "*/images/*.png", masks: "*/masks/*.png"}  # 1 pairs' in draft_dataset(tmp_path / "sites")


def test_lists_make_the_splits_of_voc(tmp_path):
    for name in "abcd":
        save(tmp_path / f"JPEGImages/{name}.jpg", RGB)
        if name != "d":
            save(tmp_path / f"SegmentationClass/{name}.png", IDS)
    lists = {"Segmentation/train": "a\nb\n", "Segmentation/val": "c\n", "Main/train": "a\nd\n"}
    for path, text in lists.items():
        write_text(tmp_path / "ImageSets" / f"{path}.txt", text)
    dataset = drafted(tmp_path)  # d has no mask, and is in no list of those that have
    assert dataset.samples["id"].tolist() == ["a", "b", "c"]
    assert dataset.split("train")["id"].tolist() == ["a", "b"]


def test_smeared_masks_and_polygons_are_told(tmp_path):
    smeared = np.kron(IDS % 2 * 255, np.ones((11, 13), np.uint8)).astype(np.uint8)
    save(tmp_path / "images/a.png", RGB)
    save(tmp_path / "masks/a.jpg", smeared)
    text = draft_dataset(tmp_path)
    assert "id_map: {0: 0, 255: 1}" in text
    assert "snap: true" in text
    (tmp_path / "masks/a.jpg").unlink()
    (tmp_path / "masks/a.json").write_text('{"shapes": []}')
    assert refused(r"1 annotation files \(masks/a.*: seglib convert", tmp_path).check == "polygons"


def test_run_lengths_are_told_and_the_lines_in_the_docs_draw_them(tmp_path, monkeypatch):
    save(tmp_path / "images/a.png", RGB)
    rows = ["ImageId,EncodedPixels", "a.png,1 2 7 1", "a.png,24 1"]  # of 6 x 8 pixels, down the columns
    write_text(tmp_path / "train.csv", "\n".join(rows))
    assert refused("train.csv seems to hold them as run lengths", tmp_path).check == "polygons"
    (tmp_path / "masks").mkdir()
    monkeypatch.chdir(tmp_path)
    docs = Path(__file__).parents[2] / "data/README.md"
    exec(re.search(r"```python\n(.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)[1])
    mask = np.zeros(RGB.shape[:2], np.uint8)
    mask.T.flat[[0, 1, 6, 23]] = 1
    np.testing.assert_array_equal(read_stored(tmp_path / "masks/a.png"), mask)


def test_names_that_do_not_fit_are_shown_even_beside_annotations(tmp_path):
    for k in "12":
        save(tmp_path / f"images/{k}.jpg", RGB)
        save(tmp_path / f"masks/x{k}0.png", IDS)
    (tmp_path / "config.json").write_text("{}")
    told = r"masks, 2 \(masks/x10.png, ...\), do not fit those of its images, 2 \(images/1.jpg, ...\)"
    refused(told, tmp_path)


def test_draft_refuses_what_it_does_not_know(tmp_path):
    assert refused("known layouts", tmp_path).check == "no-layout"
    save(tmp_path / "train/images/a.png", RGB)
    save(tmp_path / "train/masks/a.png", IDS).write_bytes(b"text")
    refused("cannot be read", tmp_path)
    save(tmp_path / "train/images/b.png", RGB)
    save(tmp_path / "train/masks/b.png", IDS)
    assert "# 1 of 2 masks cannot be read (a.png); 01 names them.\n" in draft_dataset(tmp_path)


BLOCKS = np.kron(np.array([[0, 0, 1], [1, 2, 0]], np.uint8), np.ones((16, 16), np.uint8))
COLORS = np.array([[70, 110, 60], [190, 60, 50], [60, 80, 200]], np.uint8)
SPECKS = (RNG.random((32, 48, 1)) < 0.05) * np.array([1, 0, 0], np.uint8)
NO_DATA = np.where(np.arange(48) < 4, -9999, BLOCKS.astype(int))
NO_CLASS = np.where(NO_DATA < 0, 255, NO_DATA)
NUMBERS = np.kron(RNG.permutation(40).reshape(5, 8), np.ones((5, 5))).astype(np.uint8)
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


def stored(*values):
    """BLOCKS with these values in place of 0, 1 and 2."""
    return np.array(values, np.uint16 if max(values) > 255 else np.uint8)[BLOCKS]


def masks_of(root, *masks, ending="png"):
    """A folder of images a, b, ... and their masks."""
    for name, mask in zip("abc", masks, strict=False):
        save(root / f"images/{name}.png", Image.fromarray(RGB).resize((48, 32)))
        path = save(root / f"masks/{name}.{ending}", BLOCKS if ending == "tif" else mask)
        if ending == "tif":
            tifffile.imwrite(path, mask)
    return root


@pytest.mark.parametrize(
    ("mask", "ending", "line", "expected"),
    [(stored(0, 1, 2), "png", "classes:", BLOCKS), (stored(0, 1, 255), "png", "classes:", stored(0, 1, 255)),
     (stored(0, 0, 255), "png", "id_map: {0: 0, 255: 1}", BLOCKS // 2),
     (stored(0, 2, 3), "png", "classes:", stored(0, 2, 3)),  # 1 is rare, or never used
     (stored(7, 40, 255), "png", "id_map: {7: 0, 40: 1", stored(0, 1, 255)),
     (stored(3000, 9, 1000), "png", "id_map: {9: 0, 255: 255, 1000: 1, 3000: 2}", stored(2, 0, 1)),
     (BLOCKS * np.uint8(100), "jpg", "snap: true", BLOCKS), (COLORS[BLOCKS], "jpg", "snap: true", BLOCKS),
     (COLORS[BLOCKS] + SPECKS, "png", "snap: true", BLOCKS),
     (np.repeat(BLOCKS[..., None] // 2 * 255, 3, 2), "png", "id_map: {0: 0, 255: 1}", BLOCKS // 2),
     (stored(0, 127, 255), "png", "id_map: {0: 0, 127: 1, 255: 2}", BLOCKS),
     (stored(0, 85, 255), "png", "id_map: {0: 0, 85: 1, 255: 2}", BLOCKS),
     (NO_DATA.astype(np.int32), "tif", "ignore_ids: [-9999]", NO_CLASS),
     (NO_DATA.astype(np.float64), "tif", "ignore_ids: [-9999]", NO_CLASS)],
)  # fmt: skip
def test_values_that_are_plain_smeared_drawn_or_missing_are_read(tmp_path, mask, ending, line, expected):
    text = draft_dataset(masks_of(tmp_path, mask, ending=ending))
    assert line in text
    assert ("Soft outlines between" in text) == ("snap" in line and mask.ndim == 2)
    dataset = drafted(tmp_path)
    mask = read_pair(dataset, dataset.samples.iloc[0])[1]
    assert (mask == expected).mean() >= (0.99 if "snap" in line else 1)


@pytest.mark.parametrize(
    ("masks", "ending", "told"),
    [([NUMBERS], "png", "40 values that number objects.*--kind instances"),
     ([BLOCKS.astype(np.uint16) + 7000], "tif", "number objects"), ([BLOCKS], "jpg", "which are no classes"),
     ([RAMP], "png", "256 different values"),
     ([BLOCKS, COLORS[BLOCKS]], "png", "1 of 2 masks have one channel"),
     ([Image.fromarray(BLOCKS)], "gif", r"1 files that are not read \(masks/a.gif\).* as PNG")],
)  # fmt: skip
def test_what_are_no_classes_is_refused(tmp_path, masks, ending, told):
    refused(told, masks_of(tmp_path, *masks, ending=ending))


def test_tables_of_one_name_of_colours_in_another_order_and_that_disagree(tmp_path):
    (masks_of(tmp_path / "one set", BLOCKS // 2) / "classes.txt").write_text("crack\n")
    dataset = drafted(tmp_path / "one set")
    assert (dataset.name, dataset.classes.names) == ("one-set", ("background", "crack"))
    root = masks_of(tmp_path / "two", palette(BLOCKS, COLORS))
    (root / "masks/labelmap.txt").write_text("bar:60,80,200::\nground:70,110,60::\ndisc:190,60,50::\n")
    (root / "labelmap.txt").write_text("farther away\n")
    np.testing.assert_array_equal(read_mask(root / "masks/a.png", drafted(root).classes), (BLOCKS + 1) % 3)
    root = masks_of(tmp_path / "three", COLORS[BLOCKS], ending="jpg")
    (root / "class_dict.csv").write_text("name,r,g,b\na,70,110,60\nb,190,62,49\nc,60,80,200\n")
    assert drafted(root).classes.names == ("a", "b", "c")
    for split in ("train", "val"):
        (masks_of(tmp_path / "four" / split, BLOCKS) / "masks/classes.txt").write_text(f"{split}\n")
    refused(r"train/masks/classes.txt and val/\S+ name different classes", tmp_path / "four")


def test_lists_of_one_split_and_names_with_wildcards(tmp_path):
    masks_of(tmp_path, BLOCKS, BLOCKS, BLOCKS)
    for side in ("images", "masks"):
        (tmp_path / side).rename(tmp_path / f"{side} [1]")
    for name in ("val_list.txt", "val.txt"):
        (tmp_path / name).write_text("images [1]\\b.png\n")
        assert drafted(tmp_path).split("train")["id"].tolist() == ["a", "c"]
        (tmp_path / name).unlink()
    (tmp_path / "val.txt").write_text("other\n")
    assert "# val.txt names none of these pairs" in draft_dataset(tmp_path)
    (tmp_path / "val.txt").write_text("b\nz\n")
    write_text(tmp_path / "lists/val.txt", "b\n")
    assert 'ids: "lists/val.txt"' in draft_dataset(tmp_path)
    (tmp_path / "val.txt").write_text("c\n")
    refused("lists hold lists of splits", tmp_path)
    refused("is no folder", tmp_path / "none")
