"""A suggested split: whole sequences, balanced classes; and lists of ids in dataset.yaml."""

import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.checks.check import check_dataset, write
from seglib.checks.splits import balance, suggest_split
from seglib.data.dataset import DatasetError, load_dataset


def samples_of(groups, splits=("train", "val")):
    """`groups`: (name, images); splits alternate, so that the present one tears every sequence apart."""
    rows = [(f"{name}{k}", splits[k % len(splits)], name) for name, count in groups for k in range(count)]
    return pd.DataFrame(rows, columns=["id", "split", "group"])


def cost(samples, counts, splits, shares):
    total, value = counts.sum(axis=0), 0.0
    for split, share in shares.items():
        inside = (splits == split).to_numpy()
        value += ((inside.mean() - share) / share) ** 2
        value += ((((counts[inside].sum(axis=0) / total) - share) / share) ** 2).mean()
    return value


@pytest.mark.parametrize("seed", range(6))
def test_as_good_as_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    groups = [(name, int(random.integers(1, 9))) for name in "abcdefg"]
    samples = samples_of(groups)
    counts = random.integers(0, 50, (len(samples), 3)) * random.integers(0, 2, (len(samples), 3))
    shares = {"train": 0.7, "val": 0.3}
    found = suggest_split(samples, counts, shares=shares)
    best = min(
        cost(samples, counts, samples["group"].map(dict(zip("abcdefg", places, strict=True))), shares)
        for places in itertools.product(shares, repeat=7)
        if len(set(places)) == 2
    )
    assert cost(samples, counts, found, shares) == pytest.approx(best, rel=1e-6)


def test_sequences_stay_whole_and_shares_are_kept():
    random = np.random.default_rng(0)
    samples = samples_of(
        [(f"g{k}_", int(random.integers(3, 12))) for k in range(40)], ("train", "train", "val", "test")
    )
    counts = random.poisson(20, (len(samples), 5)) * (
        random.random((len(samples), 5)) < [1, 1, 0.6, 0.3, 0.1]
    )
    found = suggest_split(samples, counts)
    assert found.groupby(samples["group"]).nunique().eq(1).all()
    table = balance(samples, counts, found).set_index("split")
    assert table["shared_sequences"].eq(0).all()
    assert table["absent_classes"].eq(0).all()
    for split, share in samples["split"].value_counts(normalize=True).items():
        assert table.loc[split, "images"] / len(samples) == pytest.approx(share, abs=0.01)
    assert table["class_distance"].max() < 0.02
    assert (found == suggest_split(samples, counts)).all()  # seeded
    before = balance(samples, counts, samples["split"]).set_index("split")
    assert before["shared_sequences"].gt(0).all()


def test_samples_without_a_sequence_and_copies_that_must_stay_together():
    samples = samples_of([("", 200)])
    samples["id"] = [f"s{k}" for k in range(200)]
    counts = np.random.default_rng(0).integers(0, 100, (200, 4))
    pairs = list(zip(samples["split"], samples["id"], strict=True))
    together = [pairs[k : k + 3] for k in range(0, 90, 3)]
    found = suggest_split(samples, counts, together, {"train": 0.8, "val": 0.2})
    for k in range(0, 90, 3):
        assert found.iloc[k : k + 3].nunique() == 1
    assert (found == "val").sum() == pytest.approx(40, abs=2)
    assert balance(samples, counts, found)["sequences"].tolist() == [0, 0]


def test_edges():
    three = samples_of([("a", 2), ("b", 2), ("c", 2)], ("train", "val", "test"))
    found = suggest_split(three, np.ones((6, 2)), shares={"train": 1 / 3, "val": 1 / 3, "test": 1 / 3})
    assert sorted(set(found)) == ["test", "train", "val"]  # none is left empty
    lopsided = samples_of([("a", 90), ("b", 1), ("c", 1)])
    assert set(suggest_split(lopsided, np.ones((92, 1)), shares={"train": 0.5, "val": 0.5})) == {
        "train",
        "val",
    }
    suggest_split(three, np.zeros((6, 2)))  # no scored pixel at all
    with pytest.raises(
        ValueError, match=r"1 independent sequence cannot fill 2 splits \(train, val\).*Record more"
    ):
        suggest_split(samples_of([("a", 4)]), np.ones((4, 2)))
    for shares in ({"train": 0.5, "val": 0.6}, {"train": 1.0, "val": 0.0}, {}):
        with pytest.raises(ValueError, match="positive numbers that sum to 1"):
            suggest_split(three, np.ones((6, 2)), shares=shares)


# ---- lists of ids in dataset.yaml

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


def test_a_written_suggestion_is_loaded(root):
    check = check_dataset(load(root))
    assert (
        "4 of 4 sequences of val are in train too"
        in check.findings.set_index("check").loc["sequence-leakage", "detail"]
    )
    write(check, root)
    dataset = load(root, ", ids: suggested_split/train.txt", ", ids: suggested_split/val.txt")
    expected = dict(zip(check.samples["id"], check.suggested, strict=True))
    assert dict(zip(dataset.samples["id"], dataset.samples["split"], strict=True)) == expected
    assert dataset.samples["split"].is_monotonic_increasing  # train before val, as in dataset.yaml
    assert all((root / path).is_file() for path in dataset.samples["image"])
    again = check_dataset(dataset)
    assert "sequence-leakage" not in again.summary["checks"]
    assert again.summary["splits"] == {"train": 18, "val": 6}


def test_lists_inline_beside_globs_and_without(root):
    samples = load(root, val=", ids: [p_0, q_2]").samples
    assert samples.loc[samples["split"] == "val", "id"].tolist() == ["p_0", "q_2"]
    assert samples.loc[samples["split"] == "val", "image"].tolist() == [
        "train/images/p_0.png",
        "val/images/q_2.png",
    ]
    assert (
        samples["split"] == "train"
    ).sum() == 15  # train keeps what nobody else lists; the rest of val is left out
    (root / "held.txt").write_text("\ufeffs_5\n\n  r_0 \r\n", encoding="utf-8")
    samples = load(root, extra="  held: {ids: held.txt}\n").samples
    assert samples["split"].value_counts().to_dict() == {"train": 15, "val": 7, "held": 2}
    assert samples.loc[samples["split"] == "held", "id"].tolist() == ["r_0", "s_5"]


def test_splits_may_share_one_pair_of_globs(root):
    globs = '{images: "*/images/*.png", masks: "*/masks/*.png", ids: '
    text = f"classes: [a, b, c]\nsplits:\n  train: {globs}[p_0, p_2]}}\n  val: {globs}[q_1]}}\n"
    (root / "dataset.yaml").write_text(text)
    assert load_dataset(root).samples[["id", "split"]].values.tolist() == [
        ["p_0", "train"],
        ["p_2", "train"],
        ["q_1", "val"],
    ]


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
        (
            ", ids: [p_0, p_00]",
            "",
            r"ids of split 'train' name 'p_00', .* \(did you mean 'p_\d'\?\). 1 of its 2 ids",
        ),
        (", ids: [p_0, p_0]", "", "name 'p_0' twice; expected once"),
        (", ids: [p_0]", ", ids: [p_0]", "name 'p_0' in train and in val"),
        (
            ", ids: no.txt",
            "",
            r"ids of split 'train': no.txt cannot be read; expected a text file.*one id a line",
        ),
        (", ids: latin.txt", "", "latin.txt is not UTF-8 text"),
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
        ('{masks: "a/*", ids: [p_0]}', "no key 'images'"),
        ("{optional: true}", "no key 'images'"),
    ],
)
def test_a_split_needs_files_or_a_list(tmp_path, split, told):
    (tmp_path / "dataset.yaml").write_text(f"classes: [a, b]\nsplits: {{train: {split}}}\n")
    with pytest.raises(DatasetError, match=told):
        load_dataset(tmp_path)
