"""Findings about a dataset, class statistics and class weights."""

import json
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.checks import check_dataset, require_sound, verdict, write
from seglib.dataset import DatasetError, load_dataset
from seglib.shares import class_weights

NAMES = ["road", "car", "person"]
H, W = 12, 16


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)


def ids(seed):
    return np.random.default_rng(seed).integers(0, 3, (H, W), np.uint8)


def put(root, split, name, image=None, mask=None):
    seed = zlib.crc32((split + name).encode())
    for side, array in (
        ("images", picture(seed) if image is None else image),
        ("masks", ids(seed) if mask is None else mask),
    ):
        folder = root / split / side
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(array, bytes):
            (folder / f"{name}.png").write_bytes(array)
        else:
            Image.fromarray(array).save(folder / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    """10 train and 11 val pairs without a fault."""
    (tmp_path / "dataset.yaml").write_text(
        "name: tiny\nclasses: [road, car, person]\nignore_ids: [9]\nsplits:\n"
        '  train: {images: "train/images/*", masks: "train/masks/*"}\n'
        '  val: {images: "val/images/*", masks: "val/masks/*"}\n'
        "group: '(?P<group>[a-z]+)(?P<frame>[0-9])$'\n"
    )
    for split, group in (("train", "a"), ("val", "b")):
        for k in range(10):
            put(tmp_path, split, f"{group}{k}")
    put(tmp_path, "val", "c0")
    return tmp_path


def check(root):
    return check_dataset(load_dataset(root, strict=False))


def test_sound_data_has_no_findings(root, capsys):
    result = check(root)
    assert result.findings.empty
    assert verdict(result) == "sound: 21 pairs, no errors, no warnings."
    require_sound(result)
    assert capsys.readouterr() == ("", "")


def test_counts_and_statistics_match_a_plain_count(root):
    put(root, "train", "a0", mask=np.where(ids(5) == 2, 9, ids(5)).astype(np.uint8))
    result = check(root)
    samples, stats = result.samples, result.class_stats
    for row, counts in zip(samples.itertuples(), result.pixel_counts, strict=True):
        stored = np.array(Image.open(root / row.split / "masks" / f"{row.id}.png"))
        assert counts.tolist() == [(stored == c).sum() for c in range(3)]
        assert row.ignore_share == pytest.approx((stored == 9).mean())
        assert row.classes_present == len(set(stored.ravel()) - {9})
        grey = np.array(Image.open(root / row.split / "images" / f"{row.id}.png").convert("L"), np.float64)
        assert row.brightness == pytest.approx(grey.mean(), abs=1)
        assert row.contrast == pytest.approx(grey.std(), abs=1)
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        assert row.sharpness == pytest.approx((around - 4 * grey[1:-1, 1:-1]).var(), rel=0.02)
    assert samples[["height", "width", "mode", "mask_mode"]].drop_duplicates().values.tolist() == [[H, W, "RGB", "L"]]
    assert stats["class"].tolist() == NAMES * 2
    train = stats[stats["split"] == "train"]
    inside = result.pixel_counts[(samples["split"] == "train").to_numpy()]
    assert train["pixels"].tolist() == inside.sum(axis=0).tolist()
    assert train["pixel_share"].sum() == pytest.approx(1)
    assert train["images"].tolist() == [10, 10, 9]
    assert train["image_share"].tolist() == [1, 1, 0.9]


NOTHING = np.full((H, W), 9, np.uint8)
ALMOST = NOTHING.copy()
ALMOST[0, :2] = [0, 1]


@pytest.mark.parametrize(
    ("found", "severity", "arguments"),
    [
        ("unreadable", "error", {"image": b"\x89PNG\r\n\x1a\n and no more"}),
        ("unreadable", "error", {"mask": b"a text"}),
        ("empty-file", "error", {"image": b""}),
        ("size-mismatch", "error", {"mask": np.zeros((H, W + 1), np.uint8)}),
        ("illegal-ids", "error", {"mask": np.full((H, W), 77, np.uint8)}),
        ("rgb-mask", "error", {"mask": picture(3)}),
        ("all-ignored", "warning", {"mask": NOTHING}),
        ("much-ignored", "warning", {"mask": ALMOST}),
        ("single-class", "warning", {"mask": np.ones((H, W), np.uint8)}),
        ("blank-image", "warning", {"image": np.full((H, W, 3), 80, np.uint8)}),
        ("modes-differ", "info", {"image": picture(3)[..., 0]}),
        ("modes-differ", "info", {"mask": ids(3).astype(np.uint16)}),
    ],
)
def test_each_fault_of_a_pair_is_found_and_alone(root, found, severity, arguments):
    put(root, "val", "b3", **arguments)
    result = check(root)
    about = result.findings[result.findings["check"] != "single-class"] if found == "size-mismatch" else result.findings
    assert about[["check", "severity"]].values.tolist() == [[found, severity]]
    row = about.iloc[0]
    assert row["remedy"]
    if found != "modes-differ":
        assert (row["sample"], row["split"]) == ("b3", "val")
        assert "'b3' (val/" in row["detail"]
    assert len(result.samples) == (20 if found == "empty-file" else 21)
    if severity == "error":
        assert verdict(result).startswith(f"not sound: {len(result.samples)} pairs, 1 error (1 {found})")
        with pytest.raises(DatasetError, match="'b3'") as error:
            require_sound(result)
        assert error.value.check == found
    else:
        require_sound(result)


def test_one_pair_may_have_several_faults_and_the_pass_goes_on(root):
    put(root, "train", "a1", image=b"x", mask=np.full((H, W), 77, np.uint8))
    put(root, "train", "a2", mask=np.full((H, W), 78, np.uint8))
    (root / "val/masks/b0.png").unlink()
    result = check(root)
    assert result.findings["check"].tolist() == ["missing-mask", "unreadable", "illegal-ids", "illegal-ids"]
    with pytest.raises(DatasetError, match=r"4 errors(?s:.*)2 such in train \(a1, a2\)"):
        require_sound(result)


def test_faults_of_whole_splits(root):
    for k in range(10):
        put(root, "train", f"a{k}", mask=np.minimum(ids(k), 1))
    put(root, "train", "a0", mask=ids(0))
    for k in range(4, 10):
        for side in ("images", "masks"):
            (root / "val" / side / f"b{k}.png").unlink()
    for k in range(4):
        put(root, "val", f"b{k}", mask=np.minimum(ids(k), 1))
    put(root, "val", "c0", mask=np.minimum(ids(4), 1))
    put(root, "val", "a7", image=picture(1)[:, :9], mask=ids(1)[:, :9] % 2)
    found = check(root).findings.set_index("check")
    assert set(found.index) == {"few-images", "class-not-in-split", "small-split", "sequence-leakage", "sizes-differ"}
    assert "person (1)" in found.loc["few-images", "detail"]
    assert "never in val: person" in found.loc["class-not-in-split", "detail"]
    assert "val has 6 images" in found.loc["small-split", "detail"]
    assert "1 of 3 groups of val are in train too: a." in found.loc["sequence-leakage", "detail"]
    assert "2 sizes (width x height): 16x12 (15), 9x12 (1)." in found.loc["sizes-differ", "detail"]


def test_class_that_train_never_shows_and_split_without_scores(root):
    for k in range(10):
        put(root, "train", f"a{k}", mask=ids(k) % 2)
        put(root, "val", f"b{k}", mask=NOTHING)
    put(root, "val", "c0", mask=NOTHING)
    found = check(root).findings
    assert "never in train: person" in found.set_index("check").loc["class-not-in-train", "detail"]
    assert found.iloc[0][["severity", "check", "split"]].tolist() == ["error", "nothing-scored", "val"]


def test_same_picture_twice(root):
    put(root, "train", "a1", image=picture(99))
    put(root, "val", "b5", image=picture(99))
    Image.fromarray(picture(98)).save(root / "train/images/a2.png")
    Image.fromarray(picture(98)).save(root / "train/images/a3.png", compress_level=0)  # other bytes, same pixels
    found = check(root).findings.set_index("check")
    assert "train/a1, val/b5" in found.loc["duplicate-across-splits", "detail"]
    assert "train/a2, train/a3" in found.loc["duplicate-image", "detail"]


def test_no_train_split_and_no_sample_at_all(tmp_path):
    (tmp_path / "dataset.yaml").write_text('classes: [a, b]\nsplits: {val: {images: "i/*", masks: "m/*"}}\n')
    result = check(tmp_path)
    assert result.findings["check"].tolist() == ["empty-split", "no-train"]
    assert result.pixel_counts.shape == (0, 2)
    assert result.class_stats.empty
    write(result, tmp_path / "out")


def test_written_files_read_back(root, tmp_path):
    put(root, "val", "b3", image=b"")
    result = check(root)
    write(result, tmp_path / "out")
    findings = pd.read_csv(tmp_path / "out/findings.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(findings, result.findings, check_dtype=False)
    samples = pd.read_csv(tmp_path / "out/samples.csv")
    np.testing.assert_array_equal(samples[[f"pixels {name}" for name in NAMES]], result.pixel_counts)
    assert len(pd.read_csv(tmp_path / "out/class_stats.csv")) == 6
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["findings"] == {"error": 1, "warning": 0, "info": 0}
    assert summary["splits"] == {"train": 10, "val": 10}
    assert summary["verdict"] == verdict(result)


def test_progress_counts_every_pair(root, capsys):
    check_dataset(load_dataset(root), progress=True)
    assert "21/21" in capsys.readouterr().err


def test_class_weights_by_hand():
    counts = np.array([[90, 10, 0, 0], [60, 20, 20, 0]])
    expected = 1 / np.sqrt(np.array([150, 30, 20]) / 200)
    np.testing.assert_allclose(class_weights(counts, "sqrt_inverse")[:3], expected / expected.mean(), rtol=1e-6)
    share = np.array([150 / 200, 30 / 200, 20 / 100])  # the third class is in the second image only
    expected = np.median(share) / share
    weights = class_weights(counts, "median_frequency")
    np.testing.assert_allclose(weights[:3], expected / expected.mean(), rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[3] == 1  # never seen
    np.testing.assert_array_equal(class_weights(np.zeros((2, 3)), "sqrt_inverse"), [1, 1, 1])
    with pytest.raises(ValueError, match="expected 'sqrt_inverse' or 'median_frequency'"):
        class_weights(counts, "inverse")
