"""A tiny generated dataset whose colours tell its classes, and one run trained on it, for the tests that need them."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.data import DatasetError
from seglib.params import Train
from seglib.runs import Run

# A small image and its mask.
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
IDS = RNG.integers(0, 3, (6, 8), np.uint8)
CLASSES = ("sky", "road", "car")
_COLORS = np.array([(60, 90, 210), (110, 110, 110), (220, 60, 50)], np.uint8)
# The names of the test images look like numbers and like missing values, which tables must not take them for.
_IDS = {"train": "t00 t01 t02 t03 t04 t05", "val": "v0 v1 v2", "test": "0041 0042 1e5 null"}
_HEIGHT, _WIDTH = 40, 56
TINY_PARAMS = {
    "run": "tiny", "dataset": "data/tiny", "architecture": "Linknet", "encoder": "tu-mobilenetv3_small_050",
    "encoder_weights": "none", "epochs": 3, "batch_size": 3, "learning_rate": 3e-3, "warmup_epochs": 0.5,
    "device": "cpu", "precision": "fp32",
}  # fmt: skip


def _sample(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask: sky above road, a car on it, one row without a label."""
    mask = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    horizon = int(random.integers(_HEIGHT // 4, _HEIGHT // 2))
    mask[horizon:] = 1
    left = int(random.integers(0, _WIDTH // 2))
    mask[horizon : horizon + _HEIGHT // 3, left : left + _WIDTH // 3] = 2
    image = _COLORS[mask].astype(np.int16) + random.integers(-12, 13, (_HEIGHT, _WIDTH, 3))
    mask[-1] = 255
    return image.clip(0, 255).astype(np.uint8), mask


def save(path: Path, picture, **options) -> Path:
    """Write an array or a Pillow image into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def palette(mask: np.ndarray, colors) -> Image.Image:
    """A mask as a picture with a palette of these colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(np.ravel(colors).tolist())
    return picture


def raised(error, told: str, work, *given, **how):
    """The error of a call, which says this."""
    with pytest.raises(error, match=told) as found:
        work(*given, **how)
    return found.value


refused = partial(raised, DatasetError)


def tree(folder: Path) -> dict[str, bytes]:
    """What the files below a folder hold, by their paths from there."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_dataset(folder: Path, splits: dict[str, dict[str, tuple]], classes, extra: str = "") -> None:
    """Write {split: {id: (image, mask)}} as PNGs, and their dataset.yaml, with further lines."""
    lines = ""
    for split, pairs in splits.items():
        lines += f"  {split}: {{images: {split}/images/*.png, masks: {split}/masks/*.png}}\n"
        for name, pair in pairs.items():
            for kind, array in zip(("images", "masks"), pair, strict=True):
                save(folder / split / kind / f"{name}.png", array)
    text = f"name: {folder.name}\nclasses: [{', '.join(classes)}]\nsplits:\n{lines}{extra}"
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")


def write_tiny(root: Path) -> None:
    """`root` with notebooks/ and data/tiny: 6 train, 3 val and 4 test images of 40 x 56 pixels, 3 classes."""
    (root / "notebooks").mkdir(parents=True)
    random = np.random.default_rng(0)
    splits = {split: {name: _sample(random) for name in names.split()} for split, names in _IDS.items()}
    write_dataset(root / "data" / "tiny", splits, CLASSES)


@pytest.fixture
def tiny_root(tmp_path, monkeypatch) -> Path:
    """A project root of its own with the tiny dataset in data/tiny."""
    root = tmp_path / "project"
    write_tiny(root)
    monkeypatch.setenv("SEGLIB_ROOT", str(root))
    return root


@pytest.fixture
def tiny_params():
    """A function: changed parameters -> `Train` for a fast run on the tiny dataset."""
    return lambda **changed: Train.check(TINY_PARAMS | changed)


def made_evaluation(counts, names, iou=None, absent: str = "truth", run: str = "made"):
    """An `Evaluation` of counts (N, C, C) that no run has; `iou` (N, C) in place of theirs."""
    from seglib import data, evaluate, metrics

    counts = np.asarray(counts, np.int64)
    iou = metrics.image_class_iou(counts, absent) if iou is None else iou
    table = pd.DataFrame(iou, columns=list(names))
    images = pd.DataFrame({"id": [f"i{k}" for k in range(len(counts))], "group": ""})
    images["miou"] = metrics.nanmean(iou, axis=1)
    images["worst_class"] = table.fillna(9).idxmin(axis=1).where(table.notna().any(axis=1), "")
    images["valid_pixels"] = counts.sum((1, 2))
    table.insert(0, "id", images["id"])
    classes, tables = data.ClassMap(tuple(names)), (images, pd.DataFrame(), table, counts)
    dataset = SimpleNamespace(classes=classes, split=lambda name: images.assign(frame=np.nan))
    run = SimpleNamespace(name=run, evaluation=lambda split: Path("nowhere"))
    return evaluate.Evaluation(run, dataset, "test", {"absent": absent}, *tables)


def prepared(params, model=None):
    """The splits, model and plan of a training, as 02_train makes them."""
    from seglib import train

    dataset = train.open_dataset(params)[1]
    splits, model = train.open_splits(dataset, params), model or train.build_model(params, dataset.classes)
    return splits, model, train.plan_training(params, model, splits[0])


def trained(params, model=None, on_epoch=None, **planned):
    """Do what 02_train does, with changes of its plan; return the run and its history."""
    from seglib import train

    (splits, model, plan), run = prepared(params, model), train.start_run(params)
    return run, train.fit(run, model, *splits, params, replace(plan, **planned), on_epoch)


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "project"
    write_tiny(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLIB_ROOT", str(root))
        trained(Train.check(TINY_PARAMS), accelerate=False)
    return root


@pytest.fixture
def trained_root(_trained_once, tmp_path, monkeypatch) -> Path:
    """A project root of its own with the tiny dataset and the run "tiny", trained for 3 epochs on it."""
    root = tmp_path / "project"
    shutil.copytree(_trained_once, root)
    monkeypatch.setenv("SEGLIB_ROOT", str(root))
    return root


@pytest.fixture
def run(trained_root) -> Run:
    return Run.open("tiny")
