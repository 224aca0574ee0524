"""The first steps: a project of one's own, and val and test that are made of train."""

import numpy as np
import pytest
from PIL import Image

from seglib.cli import main
from seglib.data import load_dataset
from seglib.pipeline import new_project
from seglib.runs import project_root


@pytest.fixture
def root(tmp_path, monkeypatch):
    """30 images of 6 sequences in train alone, and the draft of their dataset.yaml; c_04 is f_04 again."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    random, folder = np.random.default_rng(0), tmp_path / "street"
    for name in (f"{street}_{k:02d}" for street in "abcdef" for k in range(5)):
        image = np.kron(random.integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        if name == "f_04":
            image = np.array(Image.open(folder / "train/images/c_04.png"))
        for side, array in (("images", image), ("masks", (image[..., 0] > 128).astype(np.uint8))):
            (folder / "train" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / "train" / side / f"{name}.png")
    assert main(["init", str(folder)]) == 0
    path = folder / "dataset.yaml"
    path.write_text(path.read_text().replace("# group", "group"))
    return folder


def test_a_split_keeps_sequences_and_copies_together(root, capsys):
    assert main(["check", str(root)]) == 1
    assert f"-> seglib init {root} --split 0.7 0.15 0.15 makes" in capsys.readouterr().out
    assert main(["init", str(root), "--split", "0.6", "0.2", "0.2"]) == 0
    samples = load_dataset(root).samples
    assert list(dict.fromkeys(samples["split"])) == ["train", "val", "test"]
    assert len(samples) == 30
    assert (samples.groupby("group")["split"].nunique() == 1).all()
    by_id = samples.set_index("id")["split"]
    assert by_id["c_04"] == by_id["f_04"]
    assert (samples["split"] == "train").sum() in range(10, 21)
    assert main(["check", str(root)]) == 0


def test_a_split_or_a_dataset_yaml_that_cannot_be_changed_stays(root, capsys):
    path, line = root / "dataset.yaml", f"init {root} --split"
    assert main(f"{line} 0.5".split()) == 1
    assert "expected two or three of 0-1" in capsys.readouterr().err
    assert main(f"{line} 0.8 0 0.2".split()) == 0
    test, text = set(load_dataset(root).split("test")["id"]), path.read_text()
    assert main(f"{line} 0.6 0.2 0.2".split()) == 1
    assert "there are train, test" in capsys.readouterr().err
    path.write_text("limit: 3\n" + text)
    assert main(f"{line} 0.7 0.3".split()) == 1
    path.write_text(text)
    assert main(f"{line} 0.7 0.3".split()) == 0
    assert set(load_dataset(root).split("test")["id"]) == test
    assert set(load_dataset(root).splits) == {"train", "val", "test"}


def test_a_new_project_is_the_root_of_what_is_done_in_it(tmp_path, monkeypatch):
    folder = new_project(tmp_path / "mine")
    for name in (
        "notebooks/02_train.ipynb",
        "params/camvid.yaml",
        "data/README.md",
        "data/configs/camvid.yaml",
    ):
        assert (folder / name).is_file()
    assert len(load_dataset(folder / "data/demo").samples) == 259
    monkeypatch.delenv("SEGLIB_ROOT", raising=False)
    monkeypatch.chdir(folder / "notebooks")
    assert project_root() == folder
