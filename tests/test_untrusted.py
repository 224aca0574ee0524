"""Datasets, names and files from strangers and other systems: nothing of them is run, read or written elsewhere."""

import ast
import json
import re
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, tree, write_dataset

from seglib import browser, checks, data, evaluate, failures
from seglib.data import draft_dataset, load_dataset
from seglib.params import Evaluate
from seglib.runs import is_plain

ROOT = Path(__file__).parent.parent
# Text that tables, pages, shells and spreadsheets take for something else.
NASTY = (
    "", " ", "NA", "null", "0042", "1e5", "-1", "=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "a\rb", "a\nb", "a,b", 'a"b',
    "'", "`id`", "$(id)", "; rm -rf x", "<script>evil()</script>", "<img src=x onerror=evil()>", "{{ 7 * 7 }}", "../up",
    "..", ".", "/abs", "C:\\x", "~root", "\0", "\x1b[2J", "\udcff", "\ud800", "\u202eabc", "fähre_🚢", "$\\frac$", "nan", "inf",
    "x" * 200, "None", "id", "car", "%s%n", "a:b", "#a", "[x](javascript:evil())", "\ufeff",
)  # fmt: skip
GOOD = [name for name in NASTY if name and name == name.strip() and is_plain(name) and name != "id"]


def write(root: Path, names, classes=("a", "b")) -> Path:
    pairs = {}
    for number, name in enumerate(names):
        array = np.full((12, 16), number % 2, np.uint8)
        array[: 1 + number % 11, :5] = 1 - number % 2
        pairs[name] = array, array
    write_dataset(root, {"train": pairs}, classes)
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")  # fonts without these characters
def test_hostile_names_of_files_and_classes(tiny_root, tmp_path):
    """Check, score, fail, analyse, report, export: what every notebook writes of a dataset."""
    files = (name for name in NASTY if name[:1] != "." and not {*name} & {*"/\0\ud800"})
    names = [f"{name}_{k}" for k, name in enumerate(files)]
    odd = [name for name in names if not is_plain(name)]
    assert len(odd) >= 5
    write(tiny_root / "data" / "set", names, [json.dumps(name, ensure_ascii=False) for name in GOOD])
    dataset = load_dataset("data/set", strict=False)
    assert sum(dataset.problems["check"] == "file-name") == 2 * len(odd)  # image and mask
    assert all(is_plain(text) for text in dataset.problems["detail"])
    refused(r"control character or no UTF-8 in its name.* Rename it", load_dataset, "data/set")
    for path in [p for p in (tiny_root / "data/set").rglob("*.png") if p.stem in odd]:
        path.unlink()
    before, dataset = tree(tiny_root / "data"), load_dataset("data/set", strict=False)
    checks.write(checks.check_dataset(dataset))
    for sample in dataset.split("train").itertuples():
        truth = data.read_mask(dataset.root / sample.mask, dataset.classes)
        evaluate.save_ids(tiny_root / "theirs" / f"{sample.id}.png", np.ones_like(truth), dataset.classes)
    params = Evaluate(run="theirs", split="train", dataset="data/set", boundary_ratio=0.0)
    evaluation = evaluate.evaluate_predictions(tiny_root / "theirs", params)
    found, table = failures.find_failures(evaluation, 0.5), evaluation.per_image
    analysis = failures.analyse(evaluation, found)
    report = browser.write_report(browser.Details(analysis, failures.Threshold(0.5)))
    with suppress(ValueError):  # names that CVAT's lists cannot hold
        failures.export_for_relabelling(evaluation, tmp_path / "tasks.zip", found["id"].tolist())
    assert len(found) == len(list((analysis.folder / "images").iterdir())) == len(names) - len(odd)
    assert set(table["worst_class"]) <= set(GOOD)
    assert all(not re.search(r'[<>:"|?*\\/\x00-\x1f]', name) for name in table["id"])
    assert tree(tiny_root / "data") == before
    assert {p.name for p in tmp_path.iterdir()} <= {"project", "tasks.zip"}, "results lie inside the project"
    assert not re.search(r"<script>evil|<img src='?x", report.read_text(encoding="utf-8"))


def test_hostile_names_of_classes(tiny_root):
    for name in set(NASTY) - {*GOOD, "id"}:
        write(tiny_root / "data" / "set", ["one"], ["a", json.dumps(name)])
        refused(r"dataset\.yaml: classes = .* is no name|not valid YAML", load_dataset, "data/set")


def test_a_draft_is_not_written_by_names(tmp_path):
    write(tmp_path, ["0", "1"])
    for path in (tmp_path / "train" / "masks").iterdir():
        path.rename(path.with_name(f'{path.stem}_"}}\nclasses: [evil]\n#.png'))
    refused("none of the known layouts", draft_dataset, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="such files cannot be there, or are one file")
def test_names_of_files_are_ids_however_accents_are_written(tmp_path):
    apart, together = (unicodedata.normalize(form, "Straße é") for form in ("NFD", "NFC"))
    names = ["con", "NUL", "com1.left", "aux ", "console", "a:b", 'q"<>|?*', "dot.", "space ", together]
    folder = write(tmp_path, names)
    (folder / f"train/masks/{together}.png").rename(folder / f"train/masks/{apart}.png")
    ids = [re.sub(r'[<>:"|?*]', "_", name) for name in names]  # what no Windows file may be called
    assert sorted(load_dataset(folder).samples["id"]) == sorted(ids)


def test_tensors_and_images_are_read_by_nothing_that_runs_code():
    """What else the sources must not call, ruff tells (rules S)."""
    for path in (ROOT / "seglib").rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)):
            called, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert called != "torch.load" or given["weights_only"] == "True", path
            assert called != "np.load" or given.get("allow_pickle", "False") == "False", path
            assert called != "Image.open" or "formats" in given, path


def test_nothing_in_the_pages_makes_markup_of_text():
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "seglib").rglob("*.js"))
    assert len(scripts) > 1000
    makes = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc"
    assert not re.search(makes, scripts)
