"""What the failure browser lists, says, sends and saves, without a page."""

import io
import json
import re
import zlib

import numpy as np
import pytest
from made_split import POLE, names, write_split
from PIL import Image

from seglib.browser import Details, FailureBrowser
from seglib.browser.details import describe, listing, pack_layers
from seglib.evaluate import evaluate_run
from seglib.failures import ERROR_KINDS, VERDICTS, Threshold, VerdictBook, analyse, find_failures
from seglib.params import Evaluate

IDS = names(16)


@pytest.fixture
def details(tmp_path):
    return write_split(tmp_path, 16, 12)


class Page:
    """A browser whose front end is this test: `ask` gives the answer's content and buffers."""

    def __init__(self, details: Details, monkeypatch) -> None:
        self.browser = FailureBrowser(details)
        monkeypatch.setattr(self.browser.widget, "send", lambda *answer: setattr(self, "answer", answer))

    def ask(self, asked: str, **message) -> tuple[dict, list[bytes]]:
        message |= {"type": asked, "ask": "7", "training": message.get("training", False)}
        self.browser._answer(self.browser.widget, message, [])
        content, buffers = self.answer
        content = json.loads(json.dumps(content, allow_nan=False))  # what a page can read
        assert content.pop("ask") == "7"
        return content, buffers

    def open(self) -> dict:
        _, (data,) = self.ask("open")
        return json.loads(zlib.decompress(data))


@pytest.fixture
def page(details, monkeypatch) -> Page:
    return Page(details, monkeypatch)


def test_what_the_front_end_lists_filters_and_sorts(details):
    details.class_ious.loc["0042", ["sky", "car", "road"]] = 0.2, np.nan, 0.5
    book = VerdictBook(details.folder / "verdicts.csv")
    book.set("0042", "label wrong", "the kerb")
    data = listing(details, book)
    assert [row["id"] for row in data["rows"]] == IDS  # "NA", "0042", "1e5" among them
    rows = {row["id"]: row for row in data["rows"]}
    assert (rows["0042"]["verdict"], rows["0042"]["note"]) == ("label wrong", "the kerb")
    assert {0, 2, 3} & set(rows["0042"]["low"]) == {0}  # 0.5 is not below 0.5
    assert [rows[name]["best_fix"] for name in (IDS[0], IDS[-1])] == [f"{POLE} -> building", None]
    assert (data["verdicts"], data["none"]) == (list(VERDICTS), "none yet")
    json.dumps(data, allow_nan=False)
    columns = [column for _, column, _ in data["sorts"]]
    assert columns[-1] == "time", "without an earlier run there is no gain"
    assert len(listing(details, book, 10)["rows"]) == 10


def test_what_is_said_of_an_image():
    row = {
        "id": "a", "miou": 0.25, "severity": "clear", "worst_class": "car", "worst_class_iou": 0.0, "group": "night",
        **{f"lost_{kind}": k / 10 for k, kind in enumerate(ERROR_KINDS)}, "label_score": 0.97, "suspect_given": "car",
        "degradation": "", "degradation_z": 1.0, "nearest": ["b"], "cause_strength": 0.8, "novelty": None,
    }  # fmt: skip
    facts = describe(row, [0.9, np.nan, np.nan, 0.0])
    assert facts["lost"] == [(kind, k / 10) for k, kind in enumerate(ERROR_KINDS)]
    assert facts["ious"] == [(3, 0.0), (0, 0.9)]
    assert dict(facts["rows"]) == {
        "mean IoU": "0.250, clear", "worst class": "car, IoU 0.000", "label": "probability 0.97, car given",
        "degradation": "none found, 1.0 robust sd from training", "sequence": "night",
        **dict.fromkeys(("top confusion", "best fix", "confidence", "novelty"), "unknown"),
    }  # fmt: skip
    assert [facts[n] for n in ("cause", "sureness")] == ["cause unknown", "strength of the evidence 0.80"]
    facts = describe({"failed": False, "miou": 0.75, "nearest": []})
    assert (facts["cause"], facts["rows"]) == ("no failure", [("mean IoU", "0.750")])
    facts = describe({"id": "a", "miou": 0.05, "worst_class_iou": np.nan, "nearest": []})
    assert [facts[name] for name in ("sureness", "lost", "ious")] == ["", [], []]


def test_every_pixel_arrives():
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (6, 8, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
    planes = {name: random.integers(0, 256, (60, 80), np.uint8) for name in ("truth", "confidence")}
    for most, compact, step in ((5000, False, 1), (32 * 32, True, 3)):
        shown = pack_layers(image, planes, most, compact)
        assert (shown["width"], shown["height"], shown["step"]) == (-(-80 // step), 60 // step, step)
        with Image.open(io.BytesIO(shown["layers"]["image"])) as sent:
            assert sent.size == (shown["width"], shown["height"])
            assert compact or np.abs(np.asarray(sent).astype(int) - image).mean() < 2
        for name, plane in planes.items():  # reduced without inventing ids
            sent = np.frombuffer(zlib.decompress(shown["layers"][name]), np.uint8).reshape(-1, shown["width"])
            off = np.abs(sent.astype(int) - plane[::step, ::step]).max()
            assert off == 0 or (compact and name == "confidence" and off <= 15)


def test_pictures_that_are_missing_or_broken_are_named_and_the_others_shown(details):
    at, data = details.folder, details.evaluation.dataset.root
    prediction = details.evaluation.run.evaluation("test") / "predictions" / "NA.png"
    assert "suspect" in details.pack(IDS[0], False, 5000)["layers"]  # its cause is a label error
    assert set(details.pack("NA", False, 5000)["layers"]) == {"image", "truth", "prediction", "confidence"}
    (at / "confidences" / "NA.png").unlink()
    assert details.pack("NA", False, 5000)["problems"] == []  # unknown, no fault
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(at / "confidences" / "NA.png")
    prediction.write_bytes(b"\x89PNG broken")
    shown = details.pack("NA", False, 5000)
    assert list(shown["layers"]) == ["image", "truth"]
    assert re.search(r"NA\.png.*confidences/NA\.png is \(6, 8\) uint8", " ".join(shown["problems"]))
    prediction.unlink()
    assert "NA.png: it was deleted. Run 03" in details.pack("NA", False, 5000)["problems"][0]
    (data / "images" / "NA.png").write_bytes(b"\x89PNG broken")
    shown = details.pack("NA", False, 5000)
    assert shown["layers"] == {}
    assert "images/NA.png" in shown["problems"][0]
    assert details.thumbnail("NA", False) == b""


def test_a_verdict_that_cannot_be_saved_is_said(page, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    assert "surrogates" in page.ask("judge", id=IDS[0], verdict="ignore", note="half \ud83d")[0]["error"]
    monkeypatch.setattr(page.browser.book, "_write", refuse)
    assert page.ask("judge", id=IDS[0], verdict="ignore", note="")[0] == {"error": "read-only"}
    assert page.browser.book.get(IDS[0]).verdict == ""


def test_it_displays_itself_live_and_as_a_picture(details, tmp_path, monkeypatch):
    shown, pictures = [], []
    monkeypatch.setattr("seglib.browser.browser.display", lambda bundle, raw: shown.append(bundle))
    monkeypatch.setattr("seglib.plots.show_small", pictures.append)
    (browser := FailureBrowser(details))._ipython_display_()
    assert shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == browser.widget.model_id
    titles = [ax.get_title(loc="left") for ax in pictures[0].axes]
    assert len(titles) == 4 * 6
    assert " ".join(titles[0].split()).startswith(IDS[0])
    FailureBrowser(write_split(tmp_path / "good", 3, 0))._ipython_display_()
    assert "No failures" in shown[2]["text/html"]


@pytest.mark.slow
def test_what_an_analysis_knows(trained_root, monkeypatch):
    evaluation = evaluate_run(Evaluate(run="tiny"))
    miou = evaluation.per_image.set_index("id")["miou"]
    threshold = Threshold(float(miou.median()))
    analysis = analyse(evaluation, find_failures(evaluation, threshold))
    page = Page(Details(analysis, threshold, "all", before=evaluation), monkeypatch)
    data = page.open()
    rows = {row["id"]: row for row in data["rows"]}
    assert [row["failed"] for row in data["rows"]] == [True, True, False, False]
    assert (data["browse"], data["before"], len(data["training"])) == ("all", "tiny", 6)
    for k, sample in enumerate(miou.index):
        counts = dict(zip(rows[sample]["pixels"][::2], rows[sample]["pixels"][1::2], strict=True))
        flat = evaluation.confusions[k].ravel()
        assert counts == {int(pair): int(flat[pair]) for pair in np.flatnonzero(flat)}
        assert rows[sample]["before"] == rows[sample]["miou"] == miou[sample]
        assert (rows[sample]["change"], rows[sample]["gain"]) == ("", 0)
    passing = data["rows"][-1]["id"]
    shown, _ = page.ask("show", id=passing)
    assert shown["names"] == ["image", "truth", "prediction", "before"]
    assert set(shown["facts"]["similar"]) == set(miou.index) - {passing}
    training, _ = page.ask("show", id=data["training"][0][0], training=True)
    assert (training["names"], training["facts"]["cause"]) == (["image", "truth"], "a training image")
    assert page.ask("thumb", id=data["training"][0][0], training=True)[1][0][:2] == b"\xff\xd8"
    assert "actions.yaml" in page.ask("write")[0]["text"].splitlines()[-1]
    assert (analysis.folder / "report.html").stat().st_size > 50_000
