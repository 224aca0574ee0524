"""Lists of ids in dataset.yaml: which samples a split takes."""

import numpy as np
import pytest
from PIL import Image

from seglib.data import DatasetError, load_dataset

YAML = """\
name: lists
classes: [a, b, c]
splits:
  train: {{images: "train/images/*.png", masks: "train/masks/*.png"{train}}}
  val: {{images: "val/images/*.png", masks: "val/masks/*.png"{val}}}
group: '(?P<group>[a-z]+)_(?P<frame>[0-9]+)$'
"""


@pytest.fixture
def root(tmp_path):
    """4 sequences of 6 frames, every third frame in val."""
    random = np.random.default_rng(0)
    for group in "pqrs":
        for k in range(6):
            for side, shape, high in (("images", (12, 16, 3), 256), ("masks", (12, 16), 3)):
                path = tmp_path / ("val" if k % 3 == 2 else "train") / side / f"{group}_{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, high, shape, np.uint8)).save(path)
    return tmp_path


def load(root, train="", val="", extra="", **options):
    text = YAML.format(train=train, val=val).replace("group:", f"{extra}group:")
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return load_dataset(root, **options)


def test_lists_inline_beside_globs_and_without(root):
    samples = load(root, val=", ids: [p_0, q_2]").samples
    assert samples.loc[samples["split"] == "val", "id"].tolist() == ["p_0", "q_2"]
    images = samples.loc[samples["split"] == "val", "image"]
    assert images.tolist() == ["train/images/p_0.png", "val/images/q_2.png"]
    assert (samples["split"] == "train").sum() == 15  # the rest of its own; the rest of val is left out
    (root / "held.txt").write_text("\ufeffs_5\n\n  r_0 \r\n", encoding="utf-8")
    samples = load(root, extra="  held: {ids: held.txt}\n").samples
    assert samples["split"].value_counts().to_dict() == {"train": 15, "val": 7, "held": 2}
    assert samples.loc[samples["split"] == "held", "id"].tolist() == ["r_0", "s_5"]


def test_splits_may_share_one_pair_of_globs(root):
    globs = '{images: "*/images/*.png", masks: "*/masks/*.png", ids: '
    text = f"classes: [a, b, c]\nsplits:\n  train: {globs}[p_0, p_2]}}\n  val: {globs}[q_1]}}\n"
    (root / "dataset.yaml").write_text(text)
    found = load_dataset(root).samples[["id", "split"]]
    assert found.values.tolist() == [["p_0", "train"], ["p_2", "train"], ["q_1", "val"]]


def test_what_no_list_names_does_not_count(root):
    (root / "train/masks/p_0.png").unlink()
    (root / "train/images/p_1.png").write_bytes(b"")
    assert load(root, ", ids: [p_3, p_4]").problems.empty
    with pytest.raises(DatasetError, match="no mask for image 'p_0'") as error:
        load(root, ", ids: [p_0, p_4]")
    assert error.value.check == "missing-mask"


@pytest.mark.parametrize(
    ("train", "val", "told"),
    [
        (", ids: [p_0, p_00]", "", r"'train' name 'p_00', .* \(did you mean 'p_\d'\?\). 1 of its 2 ids"),
        (", ids: [p_0, p_0]", "", "'train' name 'p_0', but it is named more than once"),
        (", ids: [p_0]", ", ids: [p_0]", "'val' name 'p_0', but it is named more than once"),
        (", ids: no.txt", "", r"ids of split 'train': no.txt cannot be read; .* one id a line"),
        (", ids: latin.txt", "", r"latin.txt cannot be read; expected UTF-8 text"),
        (", ids: /tmp/x.txt", "", "splits.train.ids = '/tmp/x.txt': .*relative to the dataset's folder"),
        (", ids: [7]", "", "splits.train.ids = .*quote ids that are digits only"),
        (", ids: []", "", "splits.train.ids = .*expected a text file or a list"),
    ],
)
def test_faulty_lists(root, train, val, told):
    (root / "latin.txt").write_bytes("stra\xdfe".encode("latin-1"))
    with pytest.raises(DatasetError, match=told):
        load(root, train, val)


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ("{ids: [p_0]}", "ids alone find no files"),
        ('{images: "a/*"}', "no key 'masks'"),
        ("{optional: true}", "no key 'images'"),
    ],
)
def test_a_split_needs_files_or_a_list(tmp_path, split, told):
    (tmp_path / "dataset.yaml").write_text(f"classes: [a, b]\nsplits: {{train: {split}}}\n")
    with pytest.raises(DatasetError, match=told):
        load_dataset(tmp_path)
