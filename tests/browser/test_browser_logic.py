"""What the failure browser lists, says, sends and saves, without a page."""

import io
import json
import re
import zlib
from pathlib import Path

import failures_folder as made
import numpy as np
import pandas as pd
import pytest
from failures_folder import CLASSES, EVIL, POLE
from PIL import Image

from seglib.browser import Details, FailureBrowser, browser
from seglib.browser.layers import pack_layers, read_layers, thumbnail
from seglib.browser.table import describe, listing, read_failures
from seglib.data import ClassMap
from seglib.evaluate import evaluate_run
from seglib.failures import ERROR_KINDS, VERDICTS, Threshold, VerdictBook, analyse, find_failures
from seglib.params import Evaluate

IDS = made.names(12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With every column and picture."""
    return made.write_folder(tmp_path / "failures", IDS)


class Page:
    """A browser whose front end is this test: `ask` gives the answer's content and buffers."""

    def __init__(self, folder: Path, monkeypatch, browser: FailureBrowser | None = None) -> None:
        self.browser = browser or FailureBrowser(folder, CLASSES, made.class_ious(IDS))
        monkeypatch.setattr(self.browser.widget, "send", lambda *answer: setattr(self, "answer", answer))

    def ask(self, asked: str, **message) -> tuple[dict, list[bytes]]:
        self.browser._answer(self.browser.widget, {"type": asked, "ask": "7"} | message, [])
        content, buffers = self.answer
        content = json.loads(json.dumps(content, allow_nan=False))  # what a page can read
        assert content.pop("ask") == "7"
        return content, buffers

    def open(self) -> dict:
        _, (data,) = self.ask("open")
        return json.loads(zlib.decompress(data))


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(folder, monkeypatch)


def test_ids_stay_text_and_figures_that_are_none_are_unknown(folder):
    table = pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)
    table["confidence"] = ["high", "", "nan", "inf", *["0.5"] * 8]
    table.to_csv(folder / "failures.csv", index=False)
    rows = listing(read_failures(folder), CLASSES, VerdictBook(folder / "verdicts.csv"))["rows"]
    assert [row["id"] for row in rows] == IDS  # "NA", "0042", "1e5" among them
    assert [row["confidence"] for row in rows] == [None] * 4 + [0.5] * 8


def test_faulty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*failures.csv. Run 04_failure_analysis"):
        read_failures(tmp_path)
    (tmp_path / "failures.csv").write_text("id,a\n")
    with pytest.raises(ValueError, match="needs the columns id and miou"):
        read_failures(tmp_path)


def test_what_the_front_end_lists_filters_and_sorts(folder):
    book = VerdictBook(folder / "verdicts.csv")
    book.set("0042", "label wrong", "the kerb")
    ious = pd.DataFrame({"sky": [0.2, 0.5], "car": [np.nan, 0.1]}, index=["0042", "NA"])
    data = listing(read_failures(folder), CLASSES, book, ious)
    rows = {row["id"]: row for row in data["rows"]}
    assert list(rows) == IDS
    assert (rows["0042"]["verdict"], rows["0042"]["note"]) == ("label wrong", "the kerb")
    assert [rows[name]["low"] for name in ("0042", "NA", EVIL)] == [[0], [3], []]  # 0.5 is not below 0.5
    assert rows["NA"]["best_fix"] == f"{POLE} -> building"
    assert (data["verdicts"], data["none"], len(data["rules"])) == (list(VERDICTS), "none yet", 2)
    json.dumps(data, allow_nan=False)
    # Only what an older folder knows can be sorted by.
    data = listing(read_failures(folder)[["id", "miou", "worst_class"]], CLASSES, book)
    assert [column for _, column, _ in data["sorts"]] == ["miou", "miou", "id", "worst_class", "time"]
    assert len(data["rules"]) == 1


def test_what_a_folder_says():
    row = {
        "id": "a", "miou": 0.25, "severity": "clear", "worst_class": "car", "worst_class_iou": 0.0, "group": "night",
        **{f"lost_{kind}": k / 10 for k, kind in enumerate(ERROR_KINDS)}, "label_score": 0.97, "suspect_given": "car",
        "degradation": "", "degradation_z": 1.0, "nearest": json.dumps(list("abcdef")), "cause_strength": 0.8,
    }  # fmt: skip
    facts = describe(row, CLASSES, {"sky": 0.9, "car": 0.0, "road": np.nan})
    assert facts["lost"] == [(kind, k / 10) for k, kind in enumerate(ERROR_KINDS)]
    assert facts["ious"] == [(3, 0.0), (0, 0.9)]
    assert dict(facts["rows"]) == {
        "mean IoU": "0.250, clear", "worst class": "car, IoU 0.000", "label": "probability 0.97, car given",
        "degradation": "none found, 1.0 robust sd from training", "sequence": "night",
        **dict.fromkeys(("top confusion", "best fix", "confidence", "novelty"), "unknown"),
    }  # fmt: skip
    told = [facts[n] for n in ("cause", "sureness", "nearest")]
    assert told == ["cause unknown", "strength of the evidence 0.80", list("abcde")]
    facts = describe({"id": "a", "miou": 0.05, "worst_class_iou": np.nan}, CLASSES)
    assert [facts[name] for name in ("sureness", "lost", "ious", "nearest")] == ["", [], [], None]


@pytest.mark.parametrize("sample", ["../a", "x/../a", "/etc/passwd", "x" * 5000, "nul\0", "link"])
def test_neither_id_nor_link_leaves_the_folder(folder, sample):
    Image.new("RGB", (4, 4)).save(folder.parent / "a.png")
    (folder / "images" / "link.png").symlink_to(folder.parent / "a.png")
    with pytest.raises(FileNotFoundError, match="is missing"):
        read_layers(folder, sample)
    shown = pack_layers(folder, sample, 5000)
    assert (shown["layers"], len(shown["problems"])) == ({}, 1)
    assert thumbnail(folder, "images", sample) == b""


def test_every_pixel_arrives(folder):
    shown = pack_layers(folder, "0042", 5000)
    layers = shown.pop("layers")
    assert shown == {"width": 80, "height": 60, "step": 1, "problems": []}
    image, truth, pred = read_layers(folder, "0042")
    assert np.abs(np.asarray(Image.open(io.BytesIO(layers["image"]))).astype(int) - image).mean() < 2
    for name, expected in (("truth", truth), ("prediction", pred)):
        assert (np.frombuffer(zlib.decompress(layers[name]), np.uint8).reshape(60, 80) == expected).all()
    assert set(layers) == {"image", "truth", "prediction", "confidence", "suspect"}


def test_large_pictures_are_reduced_without_inventing_ids(folder):
    shown = pack_layers(folder, "NA", 32 * 32, compact=True)
    assert (shown["width"], shown["height"], shown["step"]) == (27, 20, 3)  # 80 x 60
    with Image.open(io.BytesIO(shown["layers"]["image"])) as sent:
        assert sent.size == (27, 20)
    planes = {name: np.frombuffer(zlib.decompress(data), np.uint8).reshape(20, 27)
              for name, data in shown["layers"].items() if name != "image"}  # fmt: skip
    assert (planes["truth"] == read_layers(folder, "NA")[1][::3, ::3]).all()
    stored = np.asarray(Image.open(folder / "confidences" / "NA.png"))[::3, ::3].astype(int)
    assert np.abs(planes["confidence"] - stored).max() <= 15


def test_pictures_that_are_missing_or_broken_are_named_and_the_others_shown(folder):
    (folder / "confidences" / "NA.png").unlink()
    (folder / "suspects" / "NA.png").unlink()
    assert pack_layers(folder, "NA", 5000)["problems"] == []  # unknown, no fault
    (folder / "predictions" / "NA.png").unlink()
    small, colours = (Image.fromarray(np.zeros(shape, np.uint8)) for shape in ((6, 8), (60, 80, 3)))
    mask = folder / "masks" / "NA.png"
    for damage, problem in (
        (lambda: mask.write_bytes(b"\x89PNG broken"), r"masks/NA\.png cannot be read"),
        (lambda: small.save(mask), r"masks/NA\.png is \(6, 8\) uint8, expected \(60, 80\) uint8\."),
        (lambda: colours.save(mask), r"masks/NA\.png is \(60, 80, 3\)"),
    ):
        mask.unlink()
        damage()
        shown = pack_layers(folder, "NA", 5000)
        assert list(shown["layers"]) == ["image"]
        assert re.match(problem + r".* predictions/NA\.png is missing\. Run ", " ".join(shown["problems"]))
    (folder / "images" / "NA.png").write_bytes(b"\x89PNG broken")
    assert "images/NA.png cannot be read" in pack_layers(folder, "NA", 5000)["problems"][0]


def test_it_answers_with_failures_and_pictures(page):
    shown, _ = page.ask("show", id=IDS[2])
    assert shown["names"] == ["image", "truth", "prediction", "confidence"]  # its label is not the suspect
    assert "suspect" in page.ask("show", id=IDS[0])[0]["names"]  # its cause is a label error
    assert shown["facts"]["nearest"] == ["train_0", EVIL, "../outside", "train_1"]
    with Image.open(io.BytesIO(page.ask("thumb", kind="images", id=IDS[0])[1][0])) as small:
        assert (small.format, small.size) == ("JPEG", (80, 60))
    assert page.ask("thumb", kind="nearest", id="../outside")[1] == [b""]


def test_a_verdict_that_cannot_be_saved_is_said(page, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    assert "surrogates" in page.ask("judge", id=IDS[0], verdict="ignore", note="half \ud83d")[0]["error"]
    monkeypatch.setattr(page.browser.book, "_write", refuse)
    assert page.ask("judge", id=IDS[0], verdict="ignore", note="")[0] == {"error": "read-only"}
    assert page.browser.book.get(IDS[0]).verdict == ""


def test_it_displays_itself_live_and_as_a_gallery_of_escaped_names(folder, monkeypatch):
    classes, shown = ClassMap((*CLASSES.names[:-1], '<script>alert("1")</script>')), []
    monkeypatch.setattr("seglib.browser.browser.display", lambda bundle, raw: shown.append(bundle))
    (browser := FailureBrowser(folder, classes))._ipython_display_()
    live, page = shown[0], shown[1]["text/html"]
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == browser.widget.model_id
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert set(re.findall(r"<img [^>]*?(\w+)=", page)) == {"alt"}  # nothing before their first attribute
    assert page.count("<img ") == page.count("data:image/jpeg;base64,") == 4 * 12
    (folder / "failures.csv").write_text("id,miou\n")
    FailureBrowser(folder, CLASSES)._ipython_display_()
    assert "No failures" in shown[2]["text/html"]


def test_the_front_end_makes_no_html_of_text_and_loads_nothing():
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "import ", "http"):
        assert way not in browser.SCRIPT
    assert not re.search(r"http|url\(", browser.STYLE)


@pytest.mark.slow
def test_what_an_analysis_knows_beyond_its_folder(trained_root, monkeypatch):
    evaluation = evaluate_run(Evaluate(run="tiny"))
    miou = evaluation.per_image.set_index("id")["miou"]
    threshold = Threshold(float(miou.median()))
    analysis = analyse(evaluation, find_failures(evaluation, threshold))
    details = Details.open(analysis, threshold, before="tiny", browse="all")
    browser = FailureBrowser(analysis.folder, evaluation.classes, evaluation.per_image_class_iou, details)
    page = Page(analysis.folder, monkeypatch, browser)
    data = page.open()
    rows = {row["id"]: row for row in data["rows"]}
    assert [row["failed"] for row in data["rows"]] == [True, True, False, False]
    assert (data["browse"], data["before"], len(data["training"])) == ("all", "tiny", 6)
    for k, sample in enumerate(miou.index):
        counts = dict(zip(rows[sample]["pixels"][::2], rows[sample]["pixels"][1::2], strict=True))
        flat = evaluation.confusions[k].ravel()
        assert counts == {int(pair): int(flat[pair]) for pair in np.flatnonzero(flat)}
        assert rows[sample]["before"] == rows[sample]["miou"]
        assert (rows[sample]["change"], rows[sample]["gain"]) == ("", 0)
    passing = data["rows"][-1]["id"]
    shown, _ = page.ask("show", id=passing)
    assert shown["names"] == ["image", "truth", "prediction", "before"]
    assert set(shown["facts"]["similar"]) == set(miou.index) - {passing}
    training, _ = page.ask("show", id=data["training"][0][0])
    assert (training["names"], training["facts"]["cause"]) == (["image", "truth"], "a training image")
    assert page.ask("thumb", kind="nearest", id=data["training"][0][0])[1][0][:2] == b"\xff\xd8"
    text = page.ask("write")[0]["text"]
    assert "actions.yaml" in text.splitlines()[-1]
    assert (analysis.folder / "report.html").stat().st_size > 50_000
