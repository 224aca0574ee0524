"""dataset.yaml, pairing, reading every stored form, drafting."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seglib.data.classes import ClassMap
from seglib.data.dataset import DatasetError, load_dataset, read_image, read_mask, read_pair
from seglib.data.init import draft_dataset

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
GREY = RGB[..., 0]
IDS = RNG.integers(0, 3, (6, 8), np.uint8)
ABC = ClassMap(("a", "b", "c"))
YAML = """\
classes: [a, b, c]
splits:
  train: {images: "train/images/*.png", masks: "train/masks/*.png"}
  val: {images: "val/images/*.png", masks: "val/masks/*.png"}
"""


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return path


def make(root, names=("train/{}/one", "train/{}/two", "val/{}/three"), text=YAML):
    for name in names:
        save(root / (name.format("images") + ".png"), RGB)
        save(root / (name.format("masks") + ".png"), IDS)
    if text:
        root.mkdir(exist_ok=True)
        (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return root


# ---- pairing


def test_samples_table(tmp_path):
    dataset = load_dataset(make(tmp_path / "set"))
    assert dataset.name == "set"
    assert dataset.splits == ["train", "val"]
    assert dataset.samples.columns.tolist() == ["id", "split", "image", "mask", "group", "frame"]
    assert dataset.samples.iloc[0].tolist()[:5] == ["one", "train", "train/images/one.png", "train/masks/one.png", ""]
    assert dataset.samples["frame"].isna().all()
    assert str(dataset.samples["frame"].dtype) == "Int64"
    assert dataset.split("val")["id"].tolist() == ["three"]
    assert dataset.problems.empty
    image, mask = read_pair(dataset, next(dataset.samples.itertuples()))
    np.testing.assert_array_equal(image, RGB)
    np.testing.assert_array_equal(mask, IDS)
    with pytest.raises(DatasetError, match=r"no split 'test'.*train, val"):
        dataset.split("test")


def test_ids_get_folders_and_split_only_where_stems_clash(tmp_path):
    text = YAML.replace("images/*", "images/**/*").replace("masks/*", "masks/**/*")
    names = ("train/{}/s1/x", "train/{}/s2/x", "train/{}/y", "val/{}/y", "val/{}/z")
    samples = load_dataset(make(tmp_path, names, text)).samples
    assert samples["id"].tolist() == ["s1-x", "s2-x", "train-y", "val-y", "z"]
    assert samples["mask"].tolist()[1] == "train/masks/s2/x.png"


@pytest.mark.parametrize(
    ("images", "masks", "files", "ids"),
    [
        (
            "i/*_leftImg8bit.png",
            "m/*_gtFine_labelIds.png",
            [("i/q_1_leftImg8bit.png", "m/q_1_gtFine_labelIds.png")],
            ["q_1"],
        ),
        (
            "i/**/*_im.png",
            "m/**/*_id.png",
            [("i/c/q_im.png", "m/c/q_id.png"), ("i/d/q_im.png", "m/d/q_id.png")],
            ["c-q", "d-q"],
        ),
        ("*.png", "*_mask.png", [("a.png", "a_mask.png"), ("b.png", "b_mask.png")], ["a", "b"]),
        ("*_im.png", "*.png", [("a_im.png", "a.png")], ["a"]),
        ("i/*", "m/*.*", [("i/a.JPG", "m/A.png"), ("i/b.c.tif", "m/b.c.bmp")], ["a", "b.c"]),
        ("*/im/*.png", "*/gt/*.png", [("s/im/a.png", "s/gt/a.png"), ("t/im/a.png", "t/gt/a.png")], ["s-a", "t-a"]),
        ("i/[ab]?.png", "m/??.png", [("i/a1.png", "m/a1.png")], ["1"]),
        ("../near/i/*.png", "../near/m/*.png", [("../near/i/a.png", "../near/m/a.png")], ["a"]),
        ("i/**", "m/**", [("i/x/a.png", "m/x/a.png")], ["a"]),
    ],
)
def test_globs_pair_by_what_their_wildcards_match(tmp_path, images, masks, files, ids):
    root = tmp_path / "root"
    make(root, (), f'classes: [a, b, c]\nsplits: {{train: {{images: "{images}", masks: "{masks}"}}}}\n')
    for image, mask in files:
        save(root / image, RGB)
        save(root / mask, IDS)
    samples = load_dataset(root).samples
    assert list(zip(samples["image"], samples["mask"], strict=True)) == files
    if "[ab]" not in images:
        assert samples["id"].tolist() == ids
    for row in samples.itertuples():
        assert (root / row.image).is_file()


def test_groups_and_frames(tmp_path):
    text = YAML + r"group: '(?P<group>.+)_[A-Za-z]?(?P<frame>\d+)$'"
    names = ("train/{}/0001TP_006690", "train/{}/0006R0_f00930", "val/{}/other")
    dataset = load_dataset(make(tmp_path, names, text))
    assert dataset.samples["group"].tolist() == ["0001TP", "0006R0", ""]
    assert dataset.samples["frame"].tolist()[:2] == [6690, 930]
    assert dataset.problems["check"].tolist() == ["group-pattern"]


def test_exclude_optional_and_litter(tmp_path):
    text = YAML + '  test: {images: "test/*", masks: "testannot/*", optional: true}\nexclude: [bad, twoo]\n'
    make(tmp_path, text=text)
    save(tmp_path / "train/images/bad.png", RGB)  # excluded, so its missing mask is no error
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "train/images" / name).write_bytes(b"x")
    (tmp_path / "val/images/notes.txt").write_text("x")
    dataset = load_dataset(tmp_path)
    assert dataset.samples["id"].tolist() == ["one", "two", "three"]
    found = dataset.problems.set_index("check")
    assert sorted(found.index) == ["absent-split", "exclude", "unused-file"]
    assert "Did you mean 'two'?" in found.loc["exclude", "detail"]
    assert "val/images/notes.txt" in found.loc["unused-file", "detail"]
    assert found.loc["absent-split", "severity"] == "info"


def test_recipe_elsewhere_bom_and_crlf(tmp_path):
    make(tmp_path / "set", text="")
    config = tmp_path / "street.yaml"
    config.write_bytes(b"\xef\xbb\xbf" + YAML.replace("\n", "\r\n").encode())
    assert len(load_dataset(tmp_path / "set", config).samples) == 3


def test_colors_as_keys_of_id_map(tmp_path):
    text = YAML + "id_map: {[1, 2, 3]: 0, [4, 5, 6]: 2, [0, 0, 0]: 255}\n"
    assert load_dataset(make(tmp_path, text=text)).classes.id_map == {(1, 2, 3): 0, (4, 5, 6): 2, (0, 0, 0): 255}


def test_links_round_in_circles_end(tmp_path):
    make(tmp_path, text=YAML.replace("images/*", "images/**/*").replace("masks/*", "masks/**/*"))
    try:
        (tmp_path / "train/images/loop").symlink_to(tmp_path / "train/images", target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert len(load_dataset(tmp_path).samples) == 3


def test_loading_opens_no_picture(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(Image, "open", None)
    assert len(load_dataset(tmp_path).samples) == 3


# ---- images


def png16(array):
    """A PNG of 16 bits a channel, which Pillow cannot write in colour; array (H, W, C) uint16."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w, c = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 3: 2, 4: 6}[c], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "webp"])
def test_rgb_comes_back_bit_for_bit(tmp_path, ending):
    image = read_image(save(tmp_path / f"a.{ending}", RGB, **({"lossless": True} if ending == "webp" else {})))
    np.testing.assert_array_equal(image, RGB)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert image.flags.c_contiguous


def test_alpha_is_dropped_not_multiplied(tmp_path):
    rgba = np.dstack([RGB, RNG.integers(0, 256, GREY.shape, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), RGB)
    expected = np.repeat(GREY[..., None], 3, axis=2)
    la = np.dstack([GREY, rgba[..., 3]])
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", la)), expected)
    np.testing.assert_array_equal(read_image(save(tmp_path / "c.png", GREY)), expected)


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80\xff"])
def test_palette_gives_its_colours(tmp_path, transparency):
    palette = Image.fromarray(IDS)
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    options = {} if transparency is None else {"transparency": transparency}
    image = read_image(save(tmp_path / "a.png", palette, **options))
    np.testing.assert_array_equal(image, np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[IDS])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", ABC), IDS)


def test_16_bits_become_8_by_the_upper_byte(tmp_path):
    deep = RNG.integers(0, 65536, (6, 8, 4), np.uint16)
    grey = np.repeat((deep[..., :1] >> 8).astype(np.uint8), 3, axis=2)
    for channels, expected in ((1, grey), (3, (deep[..., :3] >> 8)), (4, (deep[..., :3] >> 8))):
        path = tmp_path / f"{channels}.png"
        path.write_bytes(png16(deep[..., :channels]))
        np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_image(save(tmp_path / "grey.tif", deep[..., 0])), grey)


def test_one_bit_and_cmyk(tmp_path):
    bits = IDS > 0
    image = read_image(save(tmp_path / "a.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(image, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))
    flat = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    assert abs(read_image(save(tmp_path / "b.jpg", flat, quality=95)).astype(int) - [200, 40, 90]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_image_and_mask(tmp_path, orientation):
    # Where the upright picture's (row, column) lies in the file, by the EXIF specification's table of orientations.
    stored = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1)}
    stored |= {6: np.rot90(RGB), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.ascontiguousarray(stored[orientation])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", pixels, exif=exif)), RGB)
    mask = read_mask(save(tmp_path / "m.png", np.ascontiguousarray(pixels[..., 0] % 3), exif=exif), ABC)
    np.testing.assert_array_equal(mask, RGB[..., 0] % 3)


# ---- masks


@pytest.mark.parametrize("form", ["8", "16", "tif16", "la", "rgb", "rgba", "webp"])
def test_ids_in_every_stored_form(tmp_path, form):
    three = np.repeat(IDS[..., None], 3, axis=2)
    alpha = np.full(IDS.shape, 128, np.uint8)
    array = {"16": IDS.astype(np.uint16), "tif16": IDS.astype(np.uint16), "la": np.dstack([IDS, alpha])}
    array |= {"rgb": three, "webp": three, "rgba": np.dstack([three, alpha])}
    path = tmp_path / {"tif16": "m.tif", "webp": "m.webp"}.get(form, "m.png")
    mask = read_mask(save(path, array.get(form, IDS), **({"lossless": True} if form == "webp" else {})), ABC)
    np.testing.assert_array_equal(mask, IDS)
    assert mask.dtype == np.uint8


def test_binary_masks(tmp_path):
    binary = ClassMap(("background", "object"), id_map={0: 0, 255: 1})
    expected = (IDS > 0).astype(np.uint8)
    for name, array in (
        ("l", expected * 255),
        ("1", IDS > 0),
        ("rgb", np.repeat(expected[..., None] * 255, 3, axis=2)),
    ):
        np.testing.assert_array_equal(read_mask(save(tmp_path / f"{name}.png", array), binary), expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "1.png", ABC), expected)


@pytest.mark.parametrize("alpha", [False, True])
def test_colour_masks_by_colors_and_by_id_map(tmp_path, alpha):
    colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [0, 0, 0]], np.uint8)
    stored = colors[IDS]
    stored[0, 0] = 0
    expected = IDS.copy()
    expected[0, 0] = 255
    path = save(tmp_path / "m.png", np.dstack([stored, GREY]) if alpha else stored)
    np.testing.assert_array_equal(read_mask(path, ClassMap(("a", "b", "c"), colors=colors[:3])), expected)
    id_map = {tuple(c): k for k, c in enumerate(colors[:3].tolist())} | {(0, 0, 0): 255}
    np.testing.assert_array_equal(read_mask(path, ClassMap(("a", "b", "c"), id_map=id_map)), expected)
    with pytest.raises(DatasetError, match=r"RGB image.*names no colours") as error:
        read_mask(path, ABC)
    assert error.value.check == "rgb-mask"


def test_wide_integers_do_not_grow_tables(tmp_path):
    path = save(tmp_path / "m.tif", np.full((4, 4), 2**31 - 1, np.int32))
    with pytest.raises(DatasetError, match="ids up to 2147483647"):
        read_mask(path, ABC)
    with pytest.raises(DatasetError, match="32-bit"):
        read_image(path)
    with pytest.raises(DatasetError, match="stored as 'F'"):
        read_mask(save(tmp_path / "f.tif", np.zeros((4, 4), np.float32)), ABC)


# ---- drafts


@pytest.mark.parametrize(
    ("layout", "third"),
    [
        ("{split}/{side}", "test/{side}"),
        ("{split}/{side}", "../testing/{side}"),
        ("{side}/{split}", "{side}/test"),
        ("camvid", ""),
    ],
)
def test_draft_of_every_layout_loads(tmp_path, layout, third):
    root = tmp_path / "my set"
    for split in ("train", "val", *(["test"] if third else [])):
        place = third if split == "test" else layout
        for name in "ab":
            for side, array in (("images", RGB), ("masks", IDS)):
                folder = place.format(split=split, side=side)
                if layout == "camvid":
                    folder = split + ("annot" if side == "masks" else "")
                save(root / folder / f"{name}.png", array)
    text = draft_dataset(root)
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    dataset = load_dataset(root)
    assert dataset.name == "my-set"
    assert len(dataset.samples) == (6 if third else 4)
    assert dataset.classes.names == ("class_0", "class_1", "class_2")
    for row in dataset.samples.itertuples():
        np.testing.assert_array_equal(read_pair(dataset, row)[1], IDS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 255], [0, 1]),
        ([0, 1, 255], [0, 1, 255]),
        ([0, 2, 3], [0, 2, 3]),  # 1 is rare, or never used
        ([7, 40, 255], [0, 1, 255]),
        ([3000, 9, 1000], [2, 0, 1]),
    ],
)
def test_draft_finds_ids(tmp_path, values, expected):
    stored = np.resize(np.array(values, np.uint16), (4, 6))
    save(tmp_path / "train/images/a.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "train/masks/a.png", stored if max(values) > 255 else stored.astype(np.uint8))
    text = draft_dataset(tmp_path)
    assert "in 1 of 1 masks" in text
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    dataset = load_dataset(tmp_path)
    mask = read_pair(dataset, dataset.samples.iloc[0])[1]
    np.testing.assert_array_equal(mask, np.resize(np.array(expected, np.uint8), (4, 6)))


def test_draft_of_colour_masks_and_fixed_name_parts(tmp_path):
    colors = np.array([[0, 0, 0], [40, 50, 60], [70, 80, 90]], np.uint8)
    for name in ("q_000", "q_100"):
        save(tmp_path / f"train/images/x/{name}_leftImg8bit.jpg", RGB)
        save(tmp_path / f"train/masks/x/{name}_gtFine.png", colors[IDS])
    save(tmp_path / "train/images/x/black_000_leftImg8bit.jpg", RGB)
    save(tmp_path / "train/masks/x/black_000_gtFine.png", np.zeros((6, 8, 3), np.uint8))
    text = draft_dataset(tmp_path)
    assert 'images: "train/images/**/*_leftImg8bit.jpg", masks: "train/masks/**/*_gtFine.png"' in text
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    dataset = load_dataset(tmp_path)
    assert dataset.samples["id"].tolist() == ["black_000", "q_000", "q_100"]
    mask = read_pair(dataset, dataset.samples.iloc[1])[1]
    np.testing.assert_array_equal(dataset.classes.colors[mask], colors[IDS])


def test_draft_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(DatasetError, match="known layouts:\n  train/images") as error:
        draft_dataset(tmp_path)
    assert error.value.check == "no-layout"
    save(tmp_path / "train/images/a.png", RGB)
    photograph = np.arange(300 * 4, dtype=np.uint16).reshape(30, 40)
    save(tmp_path / "train/masks/a.png", photograph)
    with pytest.raises(DatasetError, match="more than 255 different values"):
        draft_dataset(tmp_path)
    (tmp_path / "train/masks/a.png").write_bytes(b"text")
    with pytest.raises(DatasetError, match="no picture"):
        draft_dataset(tmp_path)
