"""Datasets, names and files from strangers: nothing of them is run, copied from elsewhere, or written elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import NASTY, cases, works_or_refuses
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import seglib
from seglib.browser.layers import pack_layers
from seglib.browser.report import write_report
from seglib.checks import check as checks
from seglib.data.classes import ClassMap
from seglib.data.dataset import DatasetError, load_dataset, read_mask
from seglib.data.init import draft_dataset
from seglib.data.inject import plant
from seglib.evaluate.evaluation import evaluate_predictions, open_evaluation
from seglib.evaluate.predictions import save_ids
from seglib.failures.annotation import export_cvat, export_label_studio
from seglib.failures.exports import read_spreadsheet, write_spreadsheet
from seglib.failures.find import export, find_failures
from seglib.params import Evaluate
from seglib.reading import is_plain
from seglib.runs import Run

pytestmark = pytest.mark.slow

PACKAGE = Path(seglib.__file__).parent
RECIPE = "classes: [{classes}]\nsplits:\n  train: {{images: train/images/*.png, masks: train/masks/*.png}}\n"


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((12, 16), value % 2, np.uint8)
    array[: 1 + value % 11, :5] = 1 - value % 2
    Image.fromarray(array).save(path, format="PNG")


def write(root: Path, names, classes: str = "a, b") -> None:
    for number, name in enumerate(names):
        save(root / "train" / "images" / f"{name}.png", number)
        save(root / "train" / "masks" / f"{name}.png", number)
    (root / "dataset.yaml").write_text(RECIPE.format(classes=classes), encoding="utf-8")


def can_be_a_file(name: str) -> bool:
    try:
        size = len(f"{name}.png".encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False
    return len(name) > 0 and size <= 255 and not set(name) & {"/", "\0"} and name[0] != "."


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "data").mkdir()
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


def through_everything(root: Path, tmp: Path) -> pd.DataFrame:
    """Check, score, fail, export, report: what every notebook writes of a dataset. Returns the scores by image."""
    dataset = load_dataset("data/set", strict=False)
    check = checks.check_dataset(dataset)
    checks.write(check, root / "artifacts" / "data_check" / "set")
    for sample in dataset.split("train").itertuples():
        truth = read_mask(dataset.root / sample.mask, dataset.classes)
        save_ids(root / "theirs" / f"{sample.id}.png", 1 - truth, dataset.classes)
    params = Evaluate.check({"run": "theirs", "split": "train", "boundary_ratio": 0.0})
    evaluation = evaluate_predictions("theirs", root / "theirs", "data/set", params)
    run = Run.open("theirs")
    found = find_failures(evaluation)
    folder = export(run, evaluation, found)
    write_report(folder, evaluation.classes, "theirs")
    write_spreadsheet(folder / "failures_spreadsheet.csv", found)
    assert read_spreadsheet(folder / "failures_spreadsheet.csv")["id"].tolist() == found["id"].tolist()
    assert len(found) == len(dataset.samples) == len(list((folder / "images").iterdir()))
    export_label_studio(found["id"], dataset, None, tmp / "tasks.zip")
    return evaluation.per_image


def test_hostile_names_of_files(root, tmp_path):
    names = sorted({f"{name}_{k}" for k, name in enumerate(NASTY) if can_be_a_file(f"{name}_{k}")})
    odd = [name for name in names if not is_plain(name)]
    assert len(odd) >= 5
    write(root / "data" / "set", names)
    dataset = load_dataset("data/set", strict=False)
    refused = dataset.problems[dataset.problems["check"] == "file-name"]
    assert len(refused) == 2 * len(odd)  # image and mask
    assert all(is_plain(text) for text in dataset.problems["detail"])
    assert len(dataset.samples) == len(names) - len(odd)
    with pytest.raises(DatasetError, match=r"control character or no UTF-8 in its name.* Rename it"):
        load_dataset("data/set")
    for name in odd:
        for side in ("images", "masks"):
            (root / "data" / "set" / "train" / side / f"{name}.png").unlink()
    before = tree(root / "data")
    table = through_everything(root, tmp_path)
    assert table["id"].tolist() == load_dataset("data/set").samples["id"].tolist()
    assert all(not re.search(r'[<>:"|?*\\/\x00-\x1f]', name) for name in table["id"])
    # Nothing but results, and those inside the project.
    assert tree(root / "data") == before
    assert {p.name for p in tmp_path.iterdir()} == {"project", "tasks.zip"}
    assert {p.name for p in root.iterdir()} == {"notebooks", "data", "artifacts", "theirs"}
    page = (root / "artifacts/runs/theirs/failures/train/report.html").read_text(encoding="utf-8")
    assert "<script>evil" not in page
    assert len(re.findall(r"<script", page)) == 2


@cases(5)
@given(
    names=st.lists(
        st.text(min_size=1, max_size=60) | st.sampled_from(NASTY), min_size=1, max_size=5, unique=True
    )
)
def test_any_names_of_files(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("set")
    write(folder, [name for name in names if can_be_a_file(name)])
    with works_or_refuses():
        dataset = load_dataset(folder, strict=False)
        checks.write(checks.check_dataset(dataset), folder / "out")
        assert len(set(dataset.samples["id"].str.casefold())) == len(dataset.samples)
        back = pd.read_csv(folder / "out" / "samples.csv", dtype=str, keep_default_na=False)
        assert back["id"].tolist() == dataset.samples["id"].tolist()
    with works_or_refuses():
        (folder / "dataset.yaml").write_text(draft_dataset(folder), encoding="utf-8")
        load_dataset(folder, strict=False)


def test_hostile_names_of_classes(root, tmp_path):
    good = [
        name
        for name in NASTY
        if name and name == name.strip() and is_plain(name) and name != "id" and len(name) < 999
    ]
    write(root / "data" / "set", ["one", "two"], ", ".join(map(json.dumps, good)))
    table = through_everything(root, tmp_path)
    assert set(table["worst_class"]) <= set(good)
    page = (root / "artifacts/runs/theirs/failures/train/report.html").read_text(encoding="utf-8")
    assert "<script>evil" not in page
    assert "<img src=x" not in page
    for name in NASTY:
        if name not in good and name != "id" and len(name) < 999:
            text = json.dumps(name)
            (root / "data" / "set" / "dataset.yaml").write_text(
                RECIPE.format(classes=f"a, {text}"), encoding="utf-8"
            )
            with pytest.raises(DatasetError, match=r"dataset\.yaml: classes = .* is no name|not valid YAML"):
                load_dataset("data/set")


def test_long_numbers_and_long_names(root):
    write(root / "data" / "set", ["a_12345678901234567890", "a_0002"])
    with (root / "data" / "set" / "dataset.yaml").open("a") as file:
        file.write("group: '(?P<group>.+)_(?P<frame>[0-9]+)$'\n")
    dataset = load_dataset("data/set")
    assert dataset.samples["frame"].tolist() == [2, pd.NA]
    assert "1 frame numbers have more than 18 digits" in dataset.problems["detail"].iloc[0]
    for side in ("images", "masks"):
        for folder in ("x" * 200, "y" * 200):
            save(root / "data" / "set" / "train" / side / folder / f"{'z' * 100}.png", 1)
    path = root / "data" / "set" / "dataset.yaml"
    path.write_text(path.read_text().replace("*.png", "**/*.png"))
    with pytest.raises(DatasetError, match=r"would have an id of 301 bytes; expected at most 240\. Shorten"):
        load_dataset("data/set")


def test_a_draft_is_not_written_by_names(tmp_path):
    for number in range(2):
        save(tmp_path / "train" / "images" / f"{number}.png", number)
        save(tmp_path / "train" / "masks" / f'{number}_"}}\nclasses: [evil]\n#.png', number)
    draft = draft_dataset(tmp_path)
    assert "\nclasses: [evil]" not in draft


# links


@pytest.fixture
def linked(root, tmp_path):
    """The folder of a dataset of which one image is a link to a private picture, one a link to its neighbour."""
    write(root / "data" / "set", ["one", "two", "three"])
    private = tmp_path / "private" / "secret.png"
    save(private, 1)
    images = root / "data" / "set" / "train" / "images"
    for name, target in (("one", private), ("two", images / "three.png")):
        (images / f"{name}.png").unlink()
        (images / f"{name}.png").symlink_to(target)
    return root / "data" / "set"


def test_what_links_lead_out_to_is_not_read(linked, root, tmp_path):
    told = (
        r"image 'one' \(train/images/one\.png\) is reached by a link that leads out of the dataset's folder, to "
        r"\.\.\./private/secret\.png\..* SEGLIB_LINKS, or list the id under exclude"
    )
    with pytest.raises(DatasetError, match=told):
        load_dataset(linked)
    dataset = load_dataset(linked, strict=False)
    assert dataset.samples["id"].tolist() == ["three", "two"]  # a link that stays inside is no fault
    assert dataset.problems[["severity", "check", "sample"]].values.tolist() == [
        ["error", "link-outside", "one"]
    ]
    with pytest.raises(DatasetError, match=told):
        through_everything(root, tmp_path)
    with pytest.raises(DatasetError, match="no sample 'one'"):
        export_cvat(["one"], dataset, None, tmp_path / "out.zip")
    assert {p.name for p in tmp_path.iterdir()} == {"project", "private"}


def test_links_that_were_made_after_the_scoring(root, tmp_path):
    """04 reads the dataset anew: what has become a link meanwhile comes into no failures folder."""
    write(root / "data" / "set", ["one", "two"])
    through_everything(root, tmp_path)
    image = root / "data" / "set" / "train" / "images" / "one.png"
    image.rename(tmp_path / "secret.png")
    image.symlink_to(tmp_path / "secret.png")
    with pytest.raises(DatasetError, match="leads out"):
        open_evaluation(Run.open("theirs"), "train")


def test_links_to_folders_that_somebody_vouches_for(linked, root, tmp_path, monkeypatch):
    for folders in (tmp_path, tmp_path / "private", f"/nowhere{os.pathsep}{tmp_path / 'private'}"):
        monkeypatch.setenv("SEGLIB_LINKS", str(folders))
        assert len(load_dataset(linked).samples) == 3
    assert len(through_everything(root, tmp_path)) == 3
    plant(load_dataset(linked), tmp_path / "copy", splits=["train"], kinds=["blur"], share=0.5)
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    for folder in ("", tmp_path / "priv", tmp_path / "private" / "deeper"):
        monkeypatch.setenv("SEGLIB_LINKS", str(folder))
        with pytest.raises(DatasetError, match="leads out"):
            load_dataset(linked)


def test_a_linked_folder_is_outside_too(root, tmp_path):
    write(tmp_path / "elsewhere", ["one"])
    (root / "data" / "set").mkdir()
    (root / "data" / "set" / "train").symlink_to(tmp_path / "elsewhere" / "train")
    (root / "data" / "set" / "dataset.yaml").write_text(RECIPE.format(classes="a, b"))
    dataset = load_dataset("data/set", strict=False)
    assert dataset.problems["check"].tolist() == ["link-outside"] * 2
    assert dataset.samples.empty
    (root / "data" / "whole").symlink_to(
        tmp_path / "elsewhere"
    )  # the dataset's folder itself may well be a link
    assert load_dataset("data/whole").problems.empty


def test_a_report_shows_no_picture_that_a_link_leads_to(root, tmp_path):
    write(root / "data" / "set", ["one", "two"])
    through_everything(root, tmp_path)
    folder = Run.open("theirs").failures("train")
    save(tmp_path / "secret.png", 5)
    (folder / "images" / "one.png").unlink()
    (folder / "images" / "one.png").symlink_to(tmp_path / "secret.png")
    page = write_report(folder, ClassMap(("a", "b"))).read_text(encoding="utf-8")
    assert "images/one.png is missing." in page
    assert pack_layers(folder, "one")[0]["problems"] == [
        "images/one.png is missing. Run 04_failure_analysis again: it rebuilds this folder."
    ]


@pytest.mark.parametrize(
    "glob", ["../**/*.png", "../*/x/*.png", "../*.png", "../[a-z]*/*/*", "..", "a\0b/*", "a\ud800/*"]
)
def test_globs_stay_near(root, glob):
    write(root / "data" / "set", ["one"])
    text = RECIPE.format(classes="a, b").replace("train/images/*.png", json.dumps(glob))
    (root / "data" / "set" / "dataset.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"sibling|control character|not valid YAML"):
        load_dataset("data/set")


# the sources themselves


def test_nothing_in_the_sources_runs_what_it_reads():
    """No shell, no evaluation of text, no pickle, no extraction by an archive's own paths, no unsafe YAML or tensors."""
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            where = f"{path.name}:{node.lineno}: {called}"
            assert given.get("shell", "False") == "False", where
            assert given.get("allow_pickle", "False") == "False", where
            assert called not in (
                "eval",
                "exec",
                "compile",
                "__import__",
                "os.system",
                "os.popen",
                "torch.save_pickle",
            ), where
            assert not re.search(
                r"\b(extractall|pickle\.loads?|read_pickle|unpack_archive|unsafe_load|full_load)$", called
            ), where
            if called == "torch.load":
                assert given["weights_only"] == "True", where
            if called == "yaml.load":
                assert (path.name, given["Loader"]) == ("reading.py", "_Loader"), where
            if called == "Image.open":
                assert "formats" in given or path.name.startswith("demo"), where


def test_nothing_in_the_pages_makes_markup_of_text():
    scripts = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.js"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc", scripts
    )
    page = (PACKAGE / "report_template.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r"(\w+)\s*\|\s*safe", page)) == ["data", "script", "style"]


def test_tables_of_notebooks_show_what_is_written_in_full_and_as_text():
    from seglib.plots.training import in_full

    hostile = "<img src=x onerror=alert(1)>" + "a" * 60
    html = in_full(pd.DataFrame({"evidence": [hostile], "miou": [0.12345]}, index=[hostile])).to_html()
    assert "<img" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;" + "a" * 60) == 2
    assert "0.123<" in html
