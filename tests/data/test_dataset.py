"""dataset.yaml, pairing and lists of ids: which files become which samples; digests of files."""

import hashlib
import os
import re

import numpy as np
import pytest
from conftest import IDS, RGB, refused, save

from seglib.data import compare_digests, digests, load_dataset, read_pair
from seglib.data.dataset import CLASSES_FILE

NAMED = {
    "Bilder 2024 (neu)": "Bilder-2024-neu", "crack-v1.5 copy": "crack-v1.5-copy", "a/images": "a-images",
    "größe": "dataset-gr-e-[0-9a-f]{4}", "日本": "dataset-[0-9a-f]{4}", "b c/images": "b-c-images",
    "CON": "dataset-CON-[0-9a-f]{4}", "x" * 90: "dataset-x{70}-[0-9a-f]{4}",
}  # fmt: skip
YAML = """\
classes: [a, b, c]
splits:
  train: {images: "train/images/*.png", masks: "train/masks/*.png"}
  val: {images: "val/images/*.png", masks: "val/masks/*.png"}
"""


def make(root, names=("train/{}/one", "train/{}/two", "val/{}/three"), text=YAML):
    for name in names:
        save(root / (name.format("images") + ".png"), RGB)
        save(root / (name.format("masks") + ".png"), IDS)
    root.mkdir(exist_ok=True)
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return root


def test_samples_table(tmp_path):
    dataset = load_dataset(make(tmp_path / "set"))
    assert dataset.name == "set"
    assert dataset.samples.columns.tolist() == ["id", "split", "image", "mask", "group", "frame"]
    assert dataset.samples.iloc[0].tolist()[2:5] == ["train/images/one.png", "train/masks/one.png", ""]
    assert dataset.samples["id"].tolist() == ["one", "two", "three"]
    assert dataset.split("val")["id"].tolist() == ["three"]
    assert dataset.problems.empty
    image, mask = read_pair(dataset, next(dataset.samples.itertuples()))
    np.testing.assert_array_equal(image, RGB)
    np.testing.assert_array_equal(mask, IDS)
    refused(r"no split 'test'.*train, val", dataset.split, "test")


def test_ids_get_folders_and_split_only_where_stems_clash_and_links_round_in_circles_end(tmp_path):
    text = YAML.replace("images/*", "images/**/*").replace("masks/*", "masks/**/*")
    names = ("train/{}/s1/x", "train/{}/s2/x", "train/{}/y", "val/{}/y", "val/{}/z")
    samples = load_dataset(make(tmp_path, names, text)).samples
    assert samples["id"].tolist() == ["s1-x", "s2-x", "train-y", "val-y", "z"]
    assert samples["mask"].tolist()[1] == "train/masks/s2/x.png"
    (tmp_path / "train/images/loop").symlink_to(tmp_path / "train/images", target_is_directory=True)
    assert len(load_dataset(tmp_path).samples) == 5


@pytest.mark.parametrize(
    ("images", "masks", "files", "ids"),
    [("i/*_im.png", "m/*_gt_id.png", [("i/q_1_im.png", "m/q_1_gt_id.png")], ["q_1"]),
     ("i/**/*_im.png", "m/**/*_id.png", [("i/c/q_im.png", "m/c/q_id.png")], ["q"]),
     ("*.png", "*_mask.png", [("a.png", "a_mask.png"), ("b.png", "b_mask.png")], ["a", "b"]),
     ("*_im.png", "*.png", [("a_im.png", "a.png")], ["a"]),
     ("i/*", "m/*.*", [("i/a.JPG", "m/A.png"), ("i/b.c.tif", "m/b.c.bmp")], ["a", "b.c"]),
     ("*/i/*.png", "*/m/*.png", [("s/i/a.png", "s/m/a.png"), ("t/i/a.png", "t/m/a.png")], ["s-a", "t-a"]),
     ("i/[ab]?.png", "m/??.png", [("i/a1.png", "m/a1.png")], ["1"]),
     ("../near/i/*.png", "../near/m/*.png", [("../near/i/a.png", "../near/m/a.png")], ["a"]),
     ("i/**", "m/**", [("i/x/a.png", "m/x/a.png")], ["a"])],
)  # fmt: skip
def test_globs_pair_by_what_their_wildcards_match(tmp_path, images, masks, files, ids):
    root = tmp_path / "root"
    make(root, (), f'classes: [a, b, c]\nsplits: {{train: {{images: "{images}", masks: "{masks}"}}}}\n')
    for image, mask in files:
        save(root / image, RGB)
        save(root / mask, IDS)
    samples = load_dataset(root).samples
    assert list(zip(samples["image"], samples["mask"], strict=True)) == files
    assert samples["id"].tolist() == ids


def test_groups_and_frames(tmp_path):
    text = YAML + r"group: '(?P<group>.+)_[A-Za-z]?(?P<frame>\d+)$'"
    names = ("train/{}/0001TP_006690", "train/{}/0006R0_f00930", "val/{}/other")
    dataset = load_dataset(make(tmp_path, names, text))
    assert dataset.samples["group"].tolist() == ["0001TP", "0006R0", ""]
    assert dataset.samples["frame"].tolist()[:2] == [6690, 930]
    long = make(tmp_path / "long", ("train/{}/a_0002", "train/{}/a_12345678901234567890", "val/{}/b_1"), text)
    assert load_dataset(long).samples["frame"].isna().tolist() == [False, True, False]


def test_exclude_optional_and_litter(tmp_path):
    text = YAML + '  test: {images: "test/*", masks: "testannot/*", optional: true}\nexclude: [bad, twoo]\n'
    make(tmp_path, text=text)
    save(tmp_path / "train/images/bad.png", RGB)  # excluded, so its missing mask is no error
    for name in (".hidden.png", "Thumbs.db"):
        (tmp_path / "train/images" / name).write_bytes(b"x")
    dataset = load_dataset(tmp_path)
    assert dataset.samples["id"].tolist() == ["one", "two", "three"]
    assert dataset.problems["check"].tolist() == ["exclude"]
    assert "did you mean 'two'?" in dataset.problems["detail"][0]


def test_links_out_of_the_folder_are_refused_unless_allowed(tmp_path, monkeypatch):
    root = make(tmp_path / "set")
    path = root / "train/images/one.png"
    path.unlink()
    path.symlink_to(save(tmp_path / "private" / "secret.png", RGB))
    dataset = load_dataset(root, strict=False)
    assert dataset.samples["id"].tolist() == ["two", "three"]
    assert dataset.problems[["check", "sample"]].values.tolist() == [["link-outside", "one"]]
    refused(r"'one' .train/images/one\.png. is a link that .* SEGLIB_LINKS", load_dataset, root)
    monkeypatch.setenv("SEGLIB_LINKS", str(tmp_path / "priv"))
    assert len(load_dataset(root, strict=False).samples) == 2
    (tmp_path / "private/held.txt").write_text("two\n")
    (root / "link.txt").symlink_to(tmp_path / "private/held.txt")
    (root / "dataset.yaml").write_text(YAML + "  held: {ids: link.txt}\n")
    refused(r"link.txt is a link that leads out", load_dataset, root, strict=False)
    monkeypatch.setenv("SEGLIB_LINKS", str(tmp_path / "private"))
    assert [len(load_dataset(root).split(name)) for name in ("train", "held")] == [1, 1]


@pytest.fixture
def root(tmp_path):
    """3 sequences of 6 frames, every third frame in val."""
    names = [f"{'val' if k % 3 == 2 else 'train'}/{{}}/{group}_{k}" for group in "pqr" for k in range(6)]
    return make(tmp_path, names)


def load(root, train="", val="", extra="", **options):
    text = YAML.replace('train/masks/*.png"', f'train/masks/*.png"{train}')
    text = text.replace('val/masks/*.png"', f'val/masks/*.png"{val}') + extra
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return load_dataset(root, **options)


def test_lists_inline_beside_globs_and_without(root):
    samples = load(root, val=", ids: [p_0, q_2]").samples
    val = samples[samples["split"] == "val"]
    assert val["image"].tolist() == ["train/images/p_0.png", "val/images/q_2.png"]
    assert (samples["split"] == "train").sum() == 11  # the rest of its own; the rest of val is left out
    listed = "\ufeffr_5.png\n\n  train/images/q_0.png train/masks/q_0.png \r\n"
    (root / "held.txt").write_text(listed, encoding="utf-8")
    samples = load(root, extra="  held: {ids: held.txt}\n").samples
    assert samples["split"].value_counts().to_dict() == {"train": 11, "val": 5, "held": 2}
    assert samples.loc[samples["split"] == "held", "id"].tolist() == ["q_0", "r_5"]


def test_a_limit_is_spread_evenly_and_said(root):
    dataset = load(root, extra="limit: 2\n")
    assert dataset.name.endswith("-limit2")
    assert dataset.samples.groupby("split").size().max() == 2
    assert dataset.problems[["severity", "check"]].to_numpy().tolist() == [["info", "limit"]]
    assert "limit: 2 in dataset.yaml: 4 of" in dataset.problems["detail"][0]


@pytest.mark.parametrize("folder", NAMED)
def test_a_name_follows_from_any_folder(tmp_path, folder):
    assert re.fullmatch(NAMED[folder], load_dataset(make(tmp_path / folder)).name)


@pytest.mark.parametrize(
    ("split", "told"),
    [("{ids: [p_0, p_00]}", r"'held' name 'p_00', .* \(did you mean 'p_\d'\?\). 1 of its 2 ids"),
     ("{ids: [p_0, p_0]}", "'held' name 'p_0', but it is named more than once"),
     ("{ids: [p_0]}\n  other: {ids: [p_0]}", "'other' name 'p_0', but it is named more than once"),
     ("{ids: no.txt}", r"ids of split 'held': no.txt cannot be read; .* one id a line"),
     ("{ids: latin.txt}", r"latin.txt cannot be read; expected UTF-8 text"),
     ("{ids: [7]}", "splits.held.ids = .*quote it"),
     ("{ids: []}", "splits.held.ids = .*expected a text file or a list"),
     ('{images: "a/*"}', "no key 'masks'")],
)  # fmt: skip
def test_faulty_lists(root, split, told):
    (root / "latin.txt").write_bytes("stra\xdfe".encode("latin-1"))
    refused(told, load, root, extra=f"  held: {split}\n")


def test_digests_are_of_the_bytes_and_of_the_classes(tiny_root):
    dataset = load_dataset("data/tiny")
    before = digests(dataset, "val")
    assert {*before} == {CLASSES_FILE, *dataset.split("val")["image"], *dataset.split("val")["mask"]}
    path = dataset.root / "val/masks/v1.png"
    stat, content = path.stat(), path.read_bytes()
    assert before["val/masks/v1.png"] == hashlib.sha256(content).hexdigest()[:16]
    path.write_bytes(content[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # an edit that keeps size and time
    assert compare_digests(before, digests(dataset, "val")) == "1 file changed (val/masks/v1.png)"
    path.unlink()
    assert digests(dataset, "val")["val/masks/v1.png"] == ""
    path.write_bytes(content)
    config = dataset.root / "dataset.yaml"
    config.write_text(config.read_text() + "ignore_ids: [255, 7]\n")
    now = digests(load_dataset("data/tiny"), "val")
    assert compare_digests(before, now) == f"1 file changed ({CLASSES_FILE})"
