"""Every stored form of images and masks is read rightly, or refused in words; masks are written back in their form."""

import contextlib
import io

import numpy as np
import pytest
import tifffile
from conftest import IDS, RGB, RNG, palette, raised, refused, save
from PIL import Image

from seglib import data
from seglib.data import IGNORE, ClassMap, DatasetError, ImageForm, default_colors, read_image, read_mask

ABC = ClassMap(("a", "b", "c"))
TOP = ImageForm(range=(0, 65535))
# one pixel of 16 bits a channel, of which Pillow would keep the upper bytes and which it cannot write
DEEP_RGB = "89504e470d0a1a0a0000000d4948445200000001000000011002000000c0e78f9d0000000b49444154789c6360000300"
DEEP_RGB = bytes.fromhex(DEEP_RGB + "00070001b286acf40000000049454e44ae426082")
COLORS = ClassMap(("a", "b", "c"), colors=[[10, 20, 30], [40, 50, 60], [70, 80, 90]])
MAPPED = ClassMap(("a", "b", "c"), ignore_ids=(9,), id_map={7: 0, 8: 0, 300: 1, 5: 2})
BINARY = ClassMap(("a", "b"), id_map={0: 0, 255: 1})
PALETTE = palette(IDS, [9, 8, 7, 6, 5, 4, 3, 2, 1])


def test_more_than_8_bits_are_scaled_by_the_range_and_refused_without(tmp_path):
    deep = RNG.integers(0, 65536, (6, 8, 4), np.uint16)
    save(tmp_path / "1.png", deep[..., 0])
    tiffs = {"1.tif": deep[..., 0], "3.tif": deep[..., :3], "f.tif": deep[..., 0] - np.float32(100)}
    for name, array in tiffs.items():
        tifffile.imwrite(tmp_path / name, array)
    low, high = 1000, 50000
    expected = np.rint(np.clip((deep.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    for path in sorted(tmp_path.iterdir()):
        assert refused(r"(16|32)-bit.* values.*range: ", read_image, path).check == "range"
        shift = 100 * (path.name == "f.tif")
        image = read_image(path, form=ImageForm(range=(low - shift, high - shift)))
        channels = slice(3) if path.name[0] in "34" else slice(1)
        np.testing.assert_array_equal(image, np.broadcast_to(expected[..., channels], image.shape))
    (tmp_path / "rgb.png").write_bytes(DEEP_RGB)
    refused(r"PNG of 16 bits in RGB.*Save it as TIFF", read_image, tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_image(save(tmp_path / "8.png", RGB), form=TOP), RGB)  # 8 bits stay
    tifffile.imwrite(tmp_path / "n.tif", np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32))
    shown = read_image(tmp_path / "n.tif", form=ImageForm(range=(0, 2)))
    assert shown[..., 0].tolist() == [[0, 255], [0, 128]]


@pytest.mark.parametrize("bands", [2, 4, 5])
def test_bands_are_named_and_never_dropped(tmp_path, bands):
    array = RNG.integers(0, 256, (6, 8, bands), np.uint8)
    for planar in ("contig", "separate"):
        path, stored = tmp_path / f"{planar}.tif", array if planar == "contig" else np.moveaxis(array, -1, 0)
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar)
        refused(rf"{bands} bands.*channels: \[", read_image, path)
        named = (2, 1, 1) if bands == 2 else (4, 3, 1)
        image = read_image(path, form=ImageForm(channels=named))
        np.testing.assert_array_equal(image, array[..., [c - 1 for c in named]])
        refused(rf"has {bands} bands.*names \[9, 1, 1\]", read_image, path, form=ImageForm((9, 1, 1)))
    assert (read_image(save(tmp_path / "rgb.png", RGB), form=ImageForm((3, 2, 1))) == RGB[..., ::-1]).all()


def test_tiffs_that_pillow_alone_misreads(tmp_path):
    for kind in (float, np.int64, np.uint32, np.int8):
        tifffile.imwrite(tmp_path / "m.tif", IDS.astype(kind))
        np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", ABC), IDS)
    for array in (IDS, IDS > 0):  # ids are as stored, pictures as they look
        tifffile.imwrite(tmp_path / "w.tif", array, photometric="miniswhite")
        mask, stored = data.read_mask_and_mode(tmp_path / "w.tif", ABC)
        np.testing.assert_array_equal(mask, array)
        assert stored.white_is_zero
        light = 255 - array if array.dtype == np.uint8 else ~array * np.uint8(255)
        np.testing.assert_array_equal(read_image(tmp_path / "w.tif")[..., 0], light)
    nodata = IDS.astype(np.int32)
    nodata[0, :2] = -1, -9999
    tifffile.imwrite(tmp_path / "n.tif", nodata)
    refused(r"holds ids \{-9999, -1\}.*ignore_ids: \[-9999, -1\]", read_mask, tmp_path / "n.tif", ABC)
    mask = read_mask(tmp_path / "n.tif", ClassMap(("a", "b", "c"), ignore_ids=(-1, -9999)))
    np.testing.assert_array_equal(mask, np.where(nodata < 0, IGNORE, nodata))
    with tifffile.TiffWriter(tmp_path / "o.tif") as out:  # with an overview
        for k in (0, 1):
            out.write(IDS[:: k + 1, :: k + 1], subfiletype=k)
    np.testing.assert_array_equal(read_mask(tmp_path / "o.tif", ABC), IDS)


def test_what_is_no_single_picture_is_named(tmp_path):
    frames = {"save_all": True, "append_images": [Image.fromarray(RGB[::-1].copy())]}
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([IDS] * 3), photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", np.stack([IDS] * 4), imagej=True)
    save(tmp_path / "apng.png", RGB, **frames)
    save(tmp_path / "gif.png", Image.fromarray(RGB), format="GIF")
    save(tmp_path / "alpha.png", np.dstack([RGB * 0, IDS]))
    tifffile.imwrite(tmp_path / "shares.tif", IDS / np.float32(2))
    (tmp_path / "rle.png").write_text('{"counts": []}')
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "empty.png").write_bytes(b"")
    tifffile.imwrite(tmp_path / "cut.tif", IDS)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:-9])
    told = {"stack.tif": "3 pages", "imagej.tif": "4 pages", "apng.png": "2 frames"}
    told |= {"gif.png": "is a GIF.*expected PNG.*Save it as PNG", "alpha.png": "alpha, 0 to 2.*getchannel"}
    told |= {"shares.tif": "fractions", "rle.png": "is JSON", "lfs.png": "Git LFS", "cut.tif": "ends before"}
    told["empty.png"] = "is empty .*Copy it again"
    for name, words in told.items():
        refused(words, read_mask, tmp_path / name, ABC)


@pytest.mark.parametrize(
    ("values", "line"),
    [([1, 2, 3], r"id_map: \{1: 0, 2: 1, 3: 2\}"), ([0, 65535], r"id_map: \{0: 0, 65535: 1\}"),
     ([0, 1, 2, 3], r"id_map: \{0: 255, 1: 0, 2: 1, 3: 2\}"),
     ([0, 128, 255], r"id_map: \{0: 0, 128: 1, 255: 2\}"), ([0, 77, 78, 200, 201], "Correct the mask"),
     ([*range(12)], "instance numbers.*id_map"), ([0, 26001, 26002, 7000], "instance numbers.*labelIds"),
     ([0, 1, 3], r"begin at 1.*in this order, write id_map: \{0: 0, 1: 1, 3: 2\}")],
)  # fmt: skip
def test_masks_that_are_not_what_they_seem_come_with_the_line_to_write(tmp_path, values, line):
    with pytest.raises(DatasetError, match=line):
        read_mask(save(tmp_path / "m.png", np.resize(np.array(values, np.uint16), (12, 12))), ABC)


def test_smeared_masks_are_refused_or_snapped_to_the_nearest_value(tmp_path):
    large = np.zeros((64, 64), np.uint8)
    large[20:50, 10:40] = 255
    path = save(tmp_path / "m.jpg", large, quality=60)
    names, id_map = ("a", "b"), {0: 0, 255: 1}
    refused(r"smeared.*snap: true and id_map: \{0: 0, 255: 1\}", read_mask, path, ClassMap(names))
    refused("snap: true into", read_mask, path, ClassMap(names, id_map=id_map))
    snapping = ClassMap(names, id_map=id_map, snap=True)
    np.testing.assert_array_equal(read_mask(path, snapping), large // 255)
    assert ClassMap.from_dict(snapping.to_dict()) == snapping
    with pytest.raises(DatasetError, match=r"100 or the like in 19.1% of its pixels, inside.*Name it there"):
        read_mask(save(tmp_path / "n.png", large // 255 * np.uint8(100)), snapping)
    colors = ClassMap(names, colors=[[10, 0, 0], [250, 240, 0]], snap=True)
    noisy = colors.colors[large // 255].astype(int) + RNG.integers(-9, 10, (64, 64, 3))
    mask = read_mask(save(tmp_path / "c.png", noisy.clip(0, 255).astype(np.uint8)), colors)
    mask[mask == IGNORE] = 0  # black may win over (10, 0, 0)
    np.testing.assert_array_equal(mask, large // 255)
    raised(ValueError, r"at least 16 apart; two of these differ by 1.*id_map", ClassMap, names, snap=True)


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


@pytest.mark.parametrize("form", ["8", "16", "tif16", "la", "rgb", "rgba", "webp", "palette"])
def test_ids_in_every_stored_form(tmp_path, form):
    three = np.repeat(IDS[..., None], 3, axis=2)
    alpha = np.full(IDS.shape, 128, np.uint8)
    array = {"16": IDS.astype(np.uint16), "tif16": IDS.astype(np.uint16), "la": np.dstack([IDS, alpha])}
    array |= {"rgb": three, "webp": three, "rgba": np.dstack([three, alpha]), "palette": PALETTE}
    path = tmp_path / {"tif16": "m.tif", "webp": "m.webp"}.get(form, "m.png")
    options = {"webp": {"lossless": True}, "palette": {"transparency": b"\x00\x80\xff"}}
    save(path, array.get(form, IDS), **options.get(form, {}))
    mask, stored = data.read_mask_and_mode(path, ABC)
    np.testing.assert_array_equal(mask, IDS)
    assert mask.dtype == np.uint8
    assert stored == data.read_picture(path, form=TOP)[1]


def test_colour_masks_by_colors_and_by_id_map_and_black_is_ignored_unless_a_class_has_it(tmp_path):
    colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [0, 0, 0]], np.uint8)
    stored = colors[IDS]
    stored[0, 0] = 0
    expected = IDS.copy()
    expected[0, 0] = 255
    path = save(tmp_path / "m.png", np.dstack([stored, RGB[..., 0]]))  # alpha says nothing
    np.testing.assert_array_equal(read_mask(path, ClassMap(("a", "b", "c"), colors=colors[:3])), expected)
    id_map = {tuple(c): k for k, c in enumerate(colors[:3].tolist())} | {(0, 0, 0): 255}
    np.testing.assert_array_equal(read_mask(path, ClassMap(("a", "b", "c"), id_map=id_map)), expected)
    assert refused(r"RGB image.*names no colours", read_mask, path, ABC).check == "rgb-mask"
    with pytest.raises(DatasetError, match="two classes have one colour"):
        read_mask(path, ClassMap(("a", "b", "c"), colors=colors[[0, 1, 1]]))
    void = ClassMap(("void", "b"), colors=[[0, 0, 0], [0, 20, 0]])
    assert void.encode(np.zeros((1, 1, 3), np.uint8)).tolist() == [[0]]
    merged = ClassMap(("a", "b"), id_map={(1, 1, 1): 0, (2, 2, 2): 0, (3, 3, 3): 1, (9, 9, 9): IGNORE})
    assert merged.encode(np.repeat(np.uint8([[[1], [2], [3], [9]]]), 3, axis=2)).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize("count", [1, 2, 16, 17, 64, 255])
def test_default_colors_differ_and_none_is_black(count):
    colors = default_colors(count)
    assert (colors.shape, colors.dtype) == ((count, 3), np.uint8)
    assert len({tuple(c) for c in colors.tolist()} | {(0, 0, 0)}) == count + 1
    np.testing.assert_array_equal(colors, default_colors(255)[:count])


@pytest.mark.parametrize("most", [256, 65536])
def test_encode_follows_id_map_value_by_value(most):
    for seed in range(20):
        random = np.random.default_rng(seed)
        known, ids = random.choice(most, 20, replace=False), random.choice([0, 1, 2, IGNORE], 20)
        place = random.integers(0, 20, (4, 6))
        classes = ClassMap(("a", "b", "c"), id_map=dict(zip(known.tolist(), ids.tolist(), strict=True)))
        encoded = classes.encode(known[place].astype(np.uint8 if most == 256 else np.uint16))
        np.testing.assert_array_equal(encoded, ids[place].astype(np.uint8), strict=True)


@pytest.mark.parametrize(
    ("stored", "classes", "mode"),
    [(IDS, ABC, "L"),
     (PALETTE, ABC, "P"),
     (IDS.astype(np.uint16), ABC, "I;16"),
     (np.array([7, 8, 300, 5, 9], np.uint16)[RNG.integers(0, 5, (6, 8))], MAPPED, "I;16"),
     (IDS > 0, BINARY, "L"),
     (np.repeat(IDS[..., None], 3, axis=2), ABC, "L"),
     (COLORS.colorize(IDS), COLORS, "RGB")],
)  # fmt: skip
def test_a_mask_is_written_in_its_own_form(tmp_path, stored, classes, mode):
    path = save(tmp_path / "m.png", stored)
    before = read_mask(path, classes)
    mask = before.copy()
    mask[2:4] = (mask[2:4] + 1) % len(classes)
    mask[0, :3] = 1
    if classes is not BINARY:
        mask[5, :2] = IGNORE
    out = tmp_path / "out.png"
    out.write_bytes(data.encode_mask(path, classes, mask))
    np.testing.assert_array_equal(read_mask(out, classes), mask)
    with Image.open(out) as written, Image.open(path) as original:
        assert written.mode == mode
        assert mode != "P" or written.getpalette()[:9] == original.getpalette()[:9]
    if classes is BINARY:
        with pytest.raises(DatasetError, match=r"stands for ignored pixels.*ignore_ids or id_map"):
            data.encode_mask(path, BINARY, np.full((6, 8), IGNORE, np.uint8))
    if mode == "I;16":  # what stays keeps its very value, even where several stand for one class
        same = mask == before
        np.testing.assert_array_equal(data.read_stored(out)[same], data.read_stored(path)[same])


def every_form():
    """Small pictures of every format and mode that Pillow can write."""
    files, modes = [], ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
    wanted = [(mode, form, {}) for mode in modes for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")]
    wanted += [("RGB", "TIFF", {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "packbits")]
    wanted += [("P", "PNG", {"transparency": shown}) for shown in (0, b"\x00\x80\xff")]
    for mode, form, options in wanted:
        stream = io.BytesIO()
        # Pillow has no such pair, or cannot read its own.
        with contextlib.suppress(OSError, ValueError, KeyError):
            Image.fromarray(RGB if options else IDS).convert(mode).save(stream, form, **options)
            Image.open(stream).load()
            files.append(stream.getvalue())
    return files


FILES = every_form()


def test_sound_pictures_are_read_as_pillow_reads_them(tmp_path):
    assert len(FILES) > 25
    for content in FILES:
        (tmp_path / "x.png").write_bytes(content)
        with Image.open(tmp_path / "x.png") as picture:
            reference = np.asarray(picture.convert("RGBA"))[..., :3]
        image = read_image(tmp_path / "x.png")
        np.testing.assert_array_equal(image, reference)
        assert image.flags.writeable
        assert image.flags.c_contiguous


@pytest.mark.slow
def test_any_damaged_file_is_read_or_refused(tmp_path):
    random, file = np.random.default_rng(0), tmp_path / "x.png"
    for number in range(150):
        content = bytearray(FILES[number % len(FILES)])
        for _ in range(random.integers(1, 5)):  # a part is lost, doubled, zeroed or turned, or the rest lost
            start, how = random.integers(len(content)), random.integers(5)
            part = content[start : start + random.integers(1, 64)]
            other = (b"", part * 2, bytes(len(part)), bytes(byte ^ 255 for byte in part), part[:1])[how]
            content[start : start + len(part) if how < 4 else None] = other
        file.write_bytes(content)
        with contextlib.suppress(DatasetError):
            image = read_image(file)
            assert (image.dtype, image.shape[2:]) == (np.uint8, (3,))
        for classes in (ABC, COLORS):
            with contextlib.suppress(DatasetError):
                mask = read_mask(file, classes)
                assert mask.dtype == np.uint8
                assert set(np.unique(mask).tolist()) <= {*range(len(classes)), IGNORE}
                assert mask.shape == read_image(file).shape[:2]
