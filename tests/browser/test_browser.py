"""What the failure browser chooses, says, sends and saves, without a kernel or a page."""

import io
import json
import re
import zlib
from pathlib import Path

import failures_folder as made
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from failures_folder import ADVERSARIAL, CLASSES, EVIL, POLE
from PIL import Image

from seglib.browser import gallery, layers
from seglib.browser import table as review
from seglib.browser.browser import FailureBrowser, Front
from seglib.browser.layers import Thumbnails, pack_layers
from seglib.browser.table import Choice, choose, describe, read_failures, read_layers
from seglib.data import overlay as pictures
from seglib.data.classes import IGNORE, ClassMap
from seglib.failures.verdicts import VERDICTS, VerdictBook

IDS = made.names(12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With every column and picture."""
    return made.write_folder(tmp_path / "failures", IDS)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Three failures as an earlier analysis left them: without probabilities, causes or training images."""
    folder = made.write_folder(tmp_path / "older", ["a", "0042", "NA"])
    table = pd.read_csv(folder / "failures.csv", dtype={"id": str}, keep_default_na=False)
    table = table[
        [
            "id",
            "miou",
            "severity",
            "worst_class",
            "worst_class_iou",
            "top_confusion",
            "top_confusion_share",
            "group",
        ]
    ]
    table.assign(miou=[0.05, 0.31, 0.48], worst_class=[EVIL, "road", EVIL], group="").to_csv(
        folder / "failures.csv", index=False
    )
    for name in ("confidences", "suspects", "nearest"):
        for path in (folder / name).iterdir():
            path.unlink()
    return folder


def class_ious() -> pd.DataFrame:
    return pd.DataFrame({"id": ["a", "0042", "NA"], "sky": [0.2, 0.5, 0.8], "road": [0.1, np.nan, 0.9]})


def chosen(folder: Path, **choice) -> list[str]:
    book = VerdictBook(folder / "verdicts.csv")
    return choose(read_failures(folder), Choice(**choice), book, class_ious().set_index("id"))["id"].tolist()


class Page:
    """A browser whose front end is this test: what is sent to it, the last message of each type."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, classes: ClassMap = CLASSES) -> None:
        self.browser, self.sent = FailureBrowser(folder, classes, made.class_ious(IDS)), {}
        monkeypatch.setattr(self.browser.front, "send", self.hear)
        self.ask(type="ready")

    def hear(self, message: dict, buffers: list[bytes] | None = None) -> None:
        text = json.dumps(message, allow_nan=False)  # what a page can read
        self.sent[message["type"]] = (json.loads(text), list(buffers or []))

    def ask(self, **message) -> dict:
        self.browser._answer(None, message, [])
        return {name: content for name, (content, _) in self.sent.items()}

    def go(self, index: int) -> dict:
        return self.ask(type="go", generation=self.sent["list"][0]["generation"], index=index)["show"]


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(folder, monkeypatch)


# failures.csv


def test_ids_that_look_like_numbers_or_missing_values_stay_text(older):
    table = read_failures(older)
    assert table["id"].tolist() == ["a", "0042", "NA"]
    assert table["group"].tolist() == ["", "", ""]
    assert "cause" not in table


def test_figures_that_are_none_are_unknown_and_missing_scores_are_named(folder):
    table = pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)
    table["confidence"] = ["high", "", "nan", *table["confidence"][3:]]
    table.drop(columns=["severity", "worst_class_iou"]).to_csv(folder / "failures.csv", index=False)
    read = read_failures(folder)
    assert read["confidence"].isna().tolist() == [True] * 3 + [False] * 9
    assert read["severity"].eq("").all()
    assert read["worst_class_iou"].isna().all()
    table.drop(columns=["miou"]).to_csv(folder / "failures.csv", index=False)
    with pytest.raises(
        ValueError, match=r"failures\.csv has no column miou: 04_failure_analysis writes both"
    ):
        read_failures(folder)


def test_no_failures_csv_names_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="04_failure_analysis writes it"):
        FailureBrowser(tmp_path, CLASSES)


# choosing


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["a", "0042", "NA"]),
        ({"sort": "-miou"}, ["NA", "0042", "a"]),
        ({"sort": "id"}, ["0042", "NA", "a"]),
        ({"sort": "worst_class"}, ["a", "NA", "0042"]),
        ({"sort": "-label_score"}, ["a", "0042", "NA"]),  # unknown here: worst first
        ({"class_name": "road"}, ["0042"]),
        ({"class_name": "road", "rule": "low"}, ["a"]),
        ({"class_name": "sky", "rule": "low"}, ["a"]),  # 0.5 is not below 0.5
        ({"class_name": "unheard of", "rule": "low"}, []),
        ({"low": 0.05, "high": 0.31}, ["a", "0042"]),
        ({"verdict": "none yet"}, ["a", "0042", "NA"]),
        ({"verdict": "ambiguous"}, []),
        ({"cause": "label error"}, []),
        ({"text": "  "}, ["a", "0042", "NA"]),
        ({"text": "na"}, ["NA"]),
        ({"text": "road 42"}, ["0042"]),
        ({"text": "(.*"}, []),
        ({"text": "ROAD", "low": 0.4}, ["NA"]),
    ],
)
def test_choices(older, choice, expected):
    table = read_failures(older).assign(top_confusion=["sky -> car", "sky -> car", "sky -> road"])
    table.to_csv(older / "failures.csv", index=False)
    assert chosen(older, **choice) == expected


def test_choices_that_newer_folders_allow(folder):
    table = read_failures(folder)
    for column, choice in (("cause", "cause"), ("group", "group")):
        value = table[column].iloc[-1]
        assert chosen(folder, **{choice: value}) == table.loc[table[column] == value, "id"].tolist()
    assert len(chosen(folder, confusion=f"{POLE} -> building")) == len(table)  # the best swap of each
    assert (
        chosen(folder, confusion="car -> road")
        == table.loc[table["top_confusion"] == "car -> road", "id"].tolist()
    )
    for sort, column in (("-novelty", "novelty"), ("-confidence", "confidence")):
        assert chosen(folder, sort=sort) == table.sort_values(column, ascending=False)["id"].tolist()
    assert chosen(folder, sort="cause") == table.sort_values(["cause", "miou"])["id"].tolist()
    assert chosen(folder, text="🚢") == ["fähre_🚢_7"]


def test_choices_by_verdict_and_note(older):
    VerdictBook(older / "verdicts.csv").set("NA", "label wrong", "The Kerb")
    assert chosen(older, verdict="label wrong") == ["NA"]
    assert chosen(older, verdict="none yet") == ["a", "0042"]
    assert chosen(older, text="kerb") == ["NA"]


def test_an_image_without_a_score_passes_and_is_listed_last(older):
    table = read_failures(older)
    table.loc[0, "miou"] = np.nan
    table.to_csv(older / "failures.csv", index=False)
    for sort in ("miou", "-miou"):
        assert chosen(older, low=0.2, high=0.4, sort=sort) == ["0042", "a"]
    assert review.line(read_failures(older).iloc[0], "")["score"] == "–"


def test_values_to_filter_by_are_the_most_frequent_and_leave_out_the_unknown():
    table = pd.DataFrame({"cause": ["b", "a", "b", ""], "other": ["", "c", "c", "c"]})
    assert review.offered(table, "cause") == [("b (2)", "b"), ("a (1)", "a")]
    assert review.offered(table, "cause", "other", most=2) == [("c (3)", "c"), ("b (2)", "b")]
    assert review.offered(table, "missing") == []


# describing


def test_what_an_older_folder_does_not_say_is_unknown(older):
    row = read_failures(older).iloc[0]
    facts = describe(row, None, CLASSES)
    rows = dict(facts["rows"])
    assert (facts["cause"], facts["sureness"], facts["evidence"], facts["lost"], facts["ious"]) == (
        "cause unknown",
        "",
        "",
        [],
        [],
    )
    assert {rows[name] for name in ("best swap", "label", "confidence", "degradation", "novelty")} == {
        "unknown"
    }
    assert rows["mean IoU"] == "0.050 (guessing)"
    assert review.nearest_ids(row) is None
    assert review.suspect_box(row) is None


def test_what_a_newer_folder_says():
    row = pd.Series(
        {
            "id": "a", "miou": 0.25, "severity": "clear", "worst_class": "car", "worst_class_iou": 0.0, "top_confusion": "car -> road",
            "top_confusion_share": 0.0421, "group": "night", "lost_boundary": 0.05, "lost_false_negative": 0.4, "lost_false_positive": 0.1,
            "lost_misclassified": 0.2, "lost_noise": 0.0, "best_fix": "car -> road", "best_fix_gain": 0.113, "confidence": 0.9,
            "label_score": 0.97, "suspect_kind": "swapped class", "suspect_given": "car", "suspect_suggested": "road",
            "suspect_box": "3 4 10 12", "degradation": "", "degradation_z": 1.0, "novelty": 0.5, "nearest": "[]",
            "cause": "label error", "cause_confidence": 0.8, "evidence": "E.", "suggestion": "R.",
        }
    )  # fmt: skip
    facts = describe(row, pd.Series({"sky": 0.9, "car": 0.0, "road": np.nan}), CLASSES)
    assert facts["lost"] == [
        ("boundary", 0.05),
        ("missed", 0.4),
        ("invented", 0.1),
        ("swapped", 0.2),
        ("specks", 0.0),
    ]
    assert facts["ious"] == [(3, 0.0), (0, 0.9)]
    assert dict(facts["rows"]) == {
        "mean IoU": "0.250 (clear)",
        "worst class": "car 0.000",
        "top confusion": "car -> road, 4.2% of the pixels",
        "best swap": "car -> road: +0.113 mean IoU",
        "label": "suspicion 0.97, swapped class, car given, road suggested",
        "confidence": "0.90, mean over the image",
        "degradation": "none found",
        "novelty": "0.50 (1: like no training image)",
        "sequence": "night",
    }
    assert (facts["cause"], facts["sureness"]) == ("label error", "confidence 0.80")
    assert review.suspect_box(row) == (3, 4, 10, 12)
    assert review.nearest_ids(row) == []


@pytest.mark.parametrize("text", ["", "nonsense", "{}", "5", "[" * 100_000, '["a"', None, np.nan, "null"])
def test_nearest_images_that_cannot_be_read_are_unknown(text):
    assert review.nearest_ids(pd.Series({"nearest": text})) is None


def test_nearest_images_are_at_most_five_ids():
    assert review.nearest_ids(pd.Series({"nearest": '["a", 1, null, ["x"], "b", "c", "d", "e", "f"]'})) == [
        "a",
        "b",
        "c",
        "d",
        "e",
    ]


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "1 2 3 x", "5 5 5 9", "-1 0 3 3", "1.5 2 3 4", "9" * 50 + " 0 1 1", np.nan]
)
def test_boxes_that_are_none(text):
    assert review.suspect_box(pd.Series({"suspect_box": text})) is None


# pictures of a folder


@pytest.mark.parametrize("sample", ["../a", "x/../a", "/etc/passwd", "missing", "x" * 5000, "nul\0"])
def test_a_sample_never_leaves_its_folder(older, sample):
    Image.new("RGB", (4, 4)).save(older / "a.png")
    with pytest.raises((OSError, ValueError)):
        read_layers(older, sample)
    shown, buffers = pack_layers(older, sample)
    assert (shown["layers"], buffers, len(shown["problems"])) == ([], [], 1)
    assert Thumbnails(older).get("images", sample) == b""
    assert Thumbnails(older).get("masks/../images", "a") == b""


def test_every_pixel_arrives(folder):
    shown, buffers = pack_layers(folder, "0042")
    assert shown == {
        "width": 80, "height": 60, "step": 1, "finer": False, "problems": [],
        "layers": ["image", "truth", "prediction", "confidence", "suspect"],
    }  # fmt: skip
    image, truth, pred = read_layers(folder, "0042")
    with Image.open(io.BytesIO(buffers[0])) as sent:
        assert (np.asarray(sent) == image).all()
    for buffer, expected in zip(buffers[1:3], (truth, pred), strict=True):
        assert (np.frombuffer(zlib.decompress(buffer), np.uint8).reshape(60, 80) == expected).all()


def test_large_pictures_are_reduced_without_inventing_ids(folder, monkeypatch):
    monkeypatch.setattr(layers, "QUICK", 32 * 32)
    shown, buffers = pack_layers(folder, "NA")
    assert (shown["width"], shown["height"], shown["step"], shown["finer"]) == (27, 20, 3, True)  # 80 x 60
    with Image.open(io.BytesIO(buffers[0])) as sent:
        assert sent.size == (27, 20)
    truth = read_layers(folder, "NA")[1]
    assert (np.frombuffer(zlib.decompress(buffers[1]), np.uint8).reshape(20, 27) == truth[::3, ::3]).all()
    shown, buffers = pack_layers(folder, "NA", sharp=True)
    assert (shown["width"], shown["height"], shown["step"], shown["finer"]) == (80, 60, 1, False)
    assert buffers[0] == (folder / "images" / "NA.png").read_bytes()
    monkeypatch.setattr(layers, "LARGEST", 32 * 32)
    assert not pack_layers(folder, "NA")[0]["finer"]
    (folder / "images" / "NA.png").unlink()
    (folder / "images" / "NA.png").write_bytes((folder / "images" / "0042.png").read_bytes()[:2000])
    shown, buffers = pack_layers(folder, "NA")
    assert (shown["layers"], buffers, shown["finer"]) == ([], [], False)
    assert re.fullmatch(r"images/NA\.png cannot be read .*", shown["problems"][0])


def test_pictures_that_are_missing_or_broken_are_named_and_the_others_shown(folder):
    (folder / "confidences" / "NA.png").unlink()
    (folder / "suspects" / "NA.png").unlink()
    assert pack_layers(folder, "NA")[0]["problems"] == []  # unknown, no fault
    (folder / "predictions" / "NA.png").unlink()
    (folder / "masks" / "NA.png").unlink()
    (folder / "masks" / "NA.png").write_bytes(b"\x89PNG broken")
    shown, _ = pack_layers(folder, "NA")
    assert shown["layers"] == ["image"]
    assert re.fullmatch(
        r"masks/NA\.png cannot be read .* predictions/NA\.png is missing\. Run .*",
        " ".join(shown["problems"]),
    )
    (folder / "masks" / "NA.png").unlink()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "masks" / "NA.png")
    assert (
        "masks/NA.png is 6x8, its image 60x80: they must lie pixel on pixel."
        in pack_layers(folder, "NA")[0]["problems"]
    )


def test_a_broken_picture_is_named(older):
    (older / "masks" / "a.png").unlink()
    (older / "masks" / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(OSError, match=r"masks/a\.png cannot be read"):
        read_layers(older, "a")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(older / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"masks/a\.png holds colours"):
        read_layers(older, "a")


def test_thumbnails_are_small_and_few_are_kept(folder):
    thumbs = Thumbnails(folder, size=(40, 40), most=3)
    for name in IDS[:6]:
        with Image.open(io.BytesIO(thumbs.get("images", name))) as small:
            assert (small.format, small.size) == ("JPEG", (40, 30))
    assert len(thumbs) == 3
    first = thumbs.get("images", IDS[3])
    thumbs.get("images", IDS[0])  # the longest unused goes, not the one just used
    (folder / "images" / f"{IDS[3]}.png").unlink()
    assert thumbs.get("images", IDS[3]) is first
    assert thumbs.get("nearest", EVIL)
    assert thumbs.get("masks", IDS[0]) == b""


# the browser


def test_it_lists_steps_and_shows(page):
    assert page.browser.current == IDS[0]
    listed = page.ask(type="rows", generation=1, start=0, stop=10_000)
    assert [row["id"] for row in listed["rows"]["rows"]] == IDS
    assert set(listed["rows"]["rows"][0]) == {"id", "score", "words", "verdict"}
    shown = page.go(2)
    assert (page.browser.current, shown["id"], shown["index"]) == (IDS[2], IDS[2], 2)
    assert shown["nearest"] == ["train_0", EVIL, "../outside", "train_1"]
    assert shown["box"] == [20, 27, 52, 42]
    assert (page.go(10**9)["id"], page.go(-7)["id"]) == (IDS[-1], IDS[0])


def test_the_next_picture_is_packed_before_it_is_asked_for(page, folder, monkeypatch):
    packed, pack = [], layers.pack_layers
    monkeypatch.setattr(layers, "pack_layers", lambda *sample: packed.append(sample[1]) or pack(*sample))
    page.go(5)
    assert packed == [IDS[5]]  # a jump: what comes next is anyone's guess
    page.go(4)
    page.go(3)
    page.go(2)
    assert packed[1:4] == [IDS[4], IDS[3], IDS[2]]  # each once, and in the background but for the first
    assert page.sent["show"][1] == pack(folder, IDS[2])[1]
    page.go(9)
    assert page.sent["show"][1] == pack(folder, IDS[9])[1]
    assert page.go(8)["id"] == IDS[8]


def test_all_pixels_are_sent_of_the_failure_on_show_alone(page, monkeypatch):
    monkeypatch.setattr(layers, "QUICK", 32 * 32)
    assert page.go(4)["step"] == 3
    page.ask(type="sharp", id=IDS[3])  # it came too late: another is on show
    assert "sharp" not in page.sent
    assert page.ask(type="sharp", id=IDS[4])["sharp"]["step"] == 1
    assert len(page.sent["sharp"][1]) == 5


def test_filters_change_the_list_and_keep_the_failure_on_show_while_it_passes(page):
    page.go(4)
    page.browser.class_name.value = POLE
    assert page.browser.current == IDS[4]
    assert page.sent["list"][0]["total"] == 8
    page.browser.text.value = "🚢"
    assert page.browser.current == "fähre_🚢_7"
    page.browser.text.value = "no such words"
    assert page.browser.current is None
    assert page.sent["list"][0] | {"generation": 0} == {"type": "list", "generation": 0, "total": 0, "of": 12}
    page.browser.reset.click()
    assert page.sent["list"][0]["total"] == 12
    stale = page.sent["show"][0]
    assert page.ask(type="go", generation=1, index=5)["show"] == stale  # an index into a list that is gone
    assert (
        page.ask(type="rows", generation=1, start=5, stop=6)["rows"]["generation"]
        == page.sent["list"][0]["generation"]
    )


def test_thumbnails_are_sent_a_few_at_a_time(page, monkeypatch):
    wanted = [["images", name] for name in IDS] + [["nearest", "train_0"], ["nearest", "../outside"]]
    monkeypatch.setattr("seglib.browser.browser._PATIENCE", 0)
    page.ask(type="thumbs", wanted=wanted)
    assert page.sent["thumbs"][0]["made"] == wanted[:1]
    monkeypatch.setattr("seglib.browser.browser._PATIENCE", 60)
    page.ask(type="thumbs", wanted=wanted)
    made, buffers = page.sent["thumbs"]
    assert made["made"] == wanted
    assert [bool(b) for b in buffers] == [True] * 13 + [False]


def test_a_verdict_is_saved_at_once_and_found_again(page, folder, monkeypatch):
    page.go(1)
    assert not (folder / "verdicts.csv").exists()
    note = 'the kerb, "left";\nover there'
    saved = page.ask(type="judge", id=IDS[0], verdict="label wrong", note=note + " ")["saved"]
    assert (saved["id"], saved["verdict"], saved["error"]) == (
        IDS[0],
        "label wrong",
        "",
    )  # not the one on show
    assert pd.read_csv(folder / "verdicts.csv", dtype=str)[["id", "verdict"]].to_numpy().tolist() == [
        [IDS[0], "label wrong"]
    ]
    assert page.ask(type="rows", generation=1, start=0, stop=1)["rows"]["rows"][0]["verdict"] == "label wrong"
    again = Page(folder, monkeypatch)
    assert (again.sent["show"][0]["verdict"], again.sent["show"][0]["note"]) == ("label wrong", note)
    assert again.sent["show"][0]["time"].endswith("UTC")
    again.ask(type="judge", id=IDS[0], verdict="", note="")
    assert pd.read_csv(folder / "verdicts.csv").empty


def test_a_verdict_that_cannot_be_saved_is_said(page, monkeypatch):
    assert (
        "not saved"
        in page.ask(type="judge", id=IDS[0], verdict="ignore", note="half \ud83d")["saved"]["error"]
    )
    assert page.browser.book.get(IDS[0]).verdict == ""

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(page.browser.book, "_write", refuse)
    saved = page.ask(type="judge", id=IDS[0], verdict="ignore", note="")["saved"]
    assert (saved["error"], saved["verdict"]) == ("not saved: read-only", "")


def test_only_what_the_folder_knows_can_be_sorted_or_filtered_by(older):
    browser = FailureBrowser(older, CLASSES)
    assert dict(browser.sort.options) == {
        "IoU, worst first": "miou", "IoU, best first": "-miou", "id": "id", "worst class": "worst_class",
    }  # fmt: skip
    assert browser.cause.options == (("any", ""),)
    assert dict(browser.rule.options) == {"is the worst class": "worst"}


def test_every_filter_has_a_name_for_screen_readers(folder):
    browser = FailureBrowser(folder, CLASSES, made.class_ious(IDS))
    names = [control.tooltip for control in (*browser.filters.values(), browser.iou)]
    assert all(names)
    assert len(set(names)) == len(names)


def test_no_failures_is_said(tmp_path):
    (tmp_path / "failures.csv").write_text("id,miou\n")
    browser = FailureBrowser(tmp_path, CLASSES)
    assert isinstance(browser.widget, ipywidgets.HTML)
    assert "No failures" in browser.widget.value


def test_the_browser_tells_of_a_verdicts_file_kept_aside(older):
    (older / "verdicts.csv").write_text("nonsense")
    browser = FailureBrowser(older, CLASSES)
    assert any("bak-1" in getattr(child, "value", "") for child in browser.widget.children)


def test_it_displays_itself_live_and_as_a_gallery(older, monkeypatch):
    browser, shown = FailureBrowser(older, CLASSES), []
    monkeypatch.setattr("seglib.browser.browser.display", lambda bundle, raw: shown.append(bundle))
    browser._ipython_display_()
    live, saved = shown
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == browser.widget.model_id
    assert live["text/plain"] == "FailureBrowser(3 failures)"
    assert saved["text/html"].count("data:image/jpeg;base64,") == 12


def test_names_are_escaped_in_the_gallery(folder):
    classes = ClassMap((*CLASSES.names[:-1], '<script>alert("1")</script>'))
    page = gallery.gallery_html(folder, read_failures(folder), classes, VerdictBook(folder / "verdicts.csv"))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert set(re.findall(r"<img [^>]*?(\w+)=", page)) == {
        "alt"
    }  # ours, with nothing before their first attribute
    assert page.count("<img ") == 4 * 12


def test_the_front_end_makes_no_html_of_text_and_loads_nothing():
    code = str(Front._esm)
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "import ",
        "http:",
        "https:",
    ):
        assert way not in code, way
    assert "http" not in str(Front._css)
    assert "url(" not in str(Front._css)


def test_it_can_be_read_in_every_theme():
    """Where a front end lacks a variable something stands in for it, and no background is a theme's.

    VS Code sets some of JupyterLab's variables to its own colours and leaves others at those of a light theme: text of
    one kind on a ground of the other is white on white.
    """
    css = re.sub(r"/\*.*?\*/", "", str(Front._css), flags=re.DOTALL)
    assert re.findall(r"var\((--(?:jp|vscode)-[\w-]+)\s*\)", css) == []
    theirs = {name for name, value in re.findall(r"(--seg-\w+):\s*([^;]+);", css) if "--jp-" in value}
    assert theirs == {"--seg-line", "--seg-muted", "--seg-ink", "--seg-accent"}
    grounds = re.findall(r"background(?:-color)?:\s*([^;}]+)", css)
    assert set(grounds) == {"none", "var(--seg-raised)", "var(--seg-deep)"}


def test_colours_are_hexadecimal(older):
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in FailureBrowser(older, CLASSES).front.colors)


def test_adversarial_names_are_among_those_browsed():
    assert {name for name in ADVERSARIAL if "/" not in name} <= set(IDS)


# verdicts.csv


def test_two_books_on_one_file_do_not_lose_each_others_rows(tmp_path):
    one, two = VerdictBook(tmp_path / "v.csv"), VerdictBook(tmp_path / "v.csv")
    one.set("a", "ignore")
    two.set("b", "ambiguous", "unsure")
    assert set(VerdictBook(tmp_path / "v.csv").rows) == {"a", "b"}
    assert two.get("b").time.endswith("+00:00")


def test_an_unknown_verdict_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of model wrong, label wrong"):
        VerdictBook(tmp_path / "v.csv").set("a", "fine")
    assert not (tmp_path / "v.csv").exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"id,verdict,note,time\na,ignore,x,t\nb,nonsense,,\n", ["a"]),
        (b"id,verdict,note,time\na,ignore,x,t\na,ambiguous,,\n", ["a"]),
        (b"id,verdict,note,time\na,ignore\n", []),
        (b"id;verdict;note;time\na;ignore;;\n", []),
        (b"\xff\xfe\x00broken", []),
        (b'id,verdict,note,time\na,"ignore', []),
        (b"", []),
    ],
)
def test_a_file_that_cannot_be_read_wholly_is_kept_aside(tmp_path, text, kept):
    path = tmp_path / "verdicts.csv"
    (tmp_path / "verdicts.csv.bak-1").write_bytes(b"older")
    path.write_bytes(text)
    book = VerdictBook(path)
    assert list(book.rows) == kept
    assert "kept as verdicts.csv.bak-2" in book.problem
    assert (tmp_path / "verdicts.csv.bak-2").read_bytes() == text
    assert (tmp_path / "verdicts.csv.bak-1").read_bytes() == b"older"
    book.set("z", VERDICTS[0])
    again = VerdictBook(path)
    assert (list(again.rows), again.problem) == ([*kept, "z"], "")


def test_a_spreadsheets_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "v.csv").write_bytes("\ufeffid,verdict,note,time\r\nstraße,ignore,ö,\r\n".encode())
    book = VerdictBook(tmp_path / "v.csv")
    assert (book.get("straße").note, book.problem) == ("ö", "")


# pictures


def test_overlay_blends_and_error_map_marks_wrong_valid_pixels_only():
    image = np.full((2, 2, 3), 100, np.uint8)
    truth = np.array([[0, 1], [1, IGNORE]], np.uint8)
    pred = np.array([[0, 0], [1, 0]], np.uint8)
    classes = ClassMap(("a", "b"), np.array([[200, 0, 0], [0, 0, 50]]))
    assert (pictures.overlay(image, truth, classes, 0.0) == image).all()
    assert (pictures.overlay(image, truth, classes, 1.0) == classes.colorize(truth)).all()
    assert pictures.overlay(image, truth, classes, 0.5)[0, 0].tolist() == [150, 50, 50]
    errors = pictures.error_map(image, truth, pred)
    assert (errors == pictures.ERROR).all(axis=-1).tolist() == [[False, True], [False, False]]
    assert errors[0, 0].tolist() == errors[1, 0].tolist() == [58, 58, 58]
    assert image.max() == image.min() == 100  # untouched
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match="alpha"):
            pictures.overlay(image, truth, classes, alpha)
    with pytest.raises(ValueError, match="image is 2x2, but its prediction is 1x2"):
        pictures.error_map(image, truth, pred[:1])


def test_errors_are_brighter_than_everything_else_in_greyscale():
    white = np.full((1, 2, 3), 255, np.uint8)
    picture = pictures.error_map(white, np.array([[0, 0]], np.uint8), np.array([[0, 1]], np.uint8))
    right, wrong = np.asarray(Image.fromarray(picture).convert("L"))[0]
    assert wrong > right


def test_top_confusions_count_valid_pixels():
    truth = np.array([[0, 0, 0, 1, IGNORE]], np.uint8)
    pred = np.array([[1, 1, 2, 0, 2]], np.uint8)
    classes = ClassMap(("sky", "road", EVIL))
    assert pictures.top_confusions(truth, pred, classes) == [
        ("sky", "road", 0.5),
        ("sky", EVIL, 0.25),
        ("road", "sky", 0.25),
    ]
    assert pictures.top_confusions(truth, truth, classes) == []
    assert (
        pictures.top_confusions(np.full((2, 2), IGNORE, np.uint8), np.zeros((2, 2), np.uint8), classes) == []
    )


def test_confidences_are_coloured_as_in_the_browser_and_as_matplotlibs_cividis():
    values = np.arange(256, dtype=np.uint8)[None]
    expected = plt.get_cmap("cividis")(values, bytes=True)[..., :3].astype(int)
    assert (
        np.abs(pictures.confidence_map(values) - expected).mean() < 6
    )  # five of its colours, and lines between them
    assert str([list(color) for color in pictures.CIVIDIS]) in str(Front._esm)


def test_thumbnails_are_jpeg_of_the_asked_width():
    import base64

    for width, expected in ((400, 180), (64, 128)):
        uri = pictures.data_uri(np.zeros((30, width, 3), np.uint8), 180)
        head, data = uri.split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as thumb:
            assert thumb.width == expected
