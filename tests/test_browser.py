"""What the failure browser shows and saves, without a kernel."""

import io
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib import pictures, review
from seglib.browser import FailureBrowser
from seglib.classes import IGNORE, ClassMap
from seglib.review import Choice, choose, read_failures, read_layers
from seglib.verdicts import VERDICTS, VerdictBook

EVIL = '<script>alert("1")</script>'
CLASSES = ClassMap(("sky", "road", EVIL))


def make_failures(folder: Path, ids=("a", "0042", "NA"), mious=(0.05, 0.31, 0.48)) -> Path:
    for kind in ("images", "masks", "predictions"):
        (folder / kind).mkdir(parents=True)
    truth = np.zeros((6, 8), np.uint8)
    truth[3:], truth[5] = 1, IGNORE
    pred = truth.copy()
    pred[:2, :4] = 2
    for name in ids:
        Image.fromarray(np.full((6, 8, 3), 120, np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(truth).save(folder / "masks" / f"{name}.png")
        Image.fromarray(pred).save(folder / "predictions" / f"{name}.png")
    columns = {"id": ids, "miou": mious, "severity": ["guessing", "clear", "near-threshold"][: len(ids)]}
    columns |= {
        "worst_class": [EVIL, "road", EVIL][: len(ids)],
        "worst_class_iou": 0.0,
        "top_confusion": f"sky -> {EVIL}",
    }
    pd.DataFrame(columns | {"top_confusion_share": 0.2, "group": ""}).to_csv(folder / "failures.csv", index=False)
    return folder


def class_ious() -> pd.DataFrame:
    return pd.DataFrame(
        {"id": ["a", "0042", "NA"], "sky": [0.2, 0.5, 0.8], "road": [0.1, np.nan, 0.9], EVIL: [0.0, 0.3, 0.0]}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_failures(tmp_path / "failures")


@pytest.fixture
def browser(folder: Path) -> FailureBrowser:
    return FailureBrowser(folder, CLASSES, class_ious())


def chosen(folder: Path, **choice) -> list[str]:
    book = VerdictBook(folder / "verdicts.csv")
    return choose(read_failures(folder), Choice(**choice), book, class_ious().set_index("id"))["id"].tolist()


def test_ids_that_look_like_numbers_or_missing_values_stay_text(folder):
    table = read_failures(folder)
    assert table["id"].tolist() == ["a", "0042", "NA"]
    assert table["group"].tolist() == ["", "", ""]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["a", "0042", "NA"]),
        ({"sort": "best"}, ["NA", "0042", "a"]),
        ({"sort": "id"}, ["0042", "NA", "a"]),
        ({"sort": "class"}, ["a", "NA", "0042"]),
        ({"class_name": "road"}, ["0042"]),
        ({"class_name": "road", "rule": "low"}, ["a"]),
        ({"class_name": "sky", "rule": "low"}, ["a"]),  # 0.5 is not below 0.5
        ({"class_name": "unheard of", "rule": "low"}, []),
        ({"low": 0.05, "high": 0.31}, ["a", "0042"]),
        ({"severity": "clear"}, ["0042"]),
        ({"verdict": "none yet"}, ["a", "0042", "NA"]),
        ({"verdict": "ambiguous"}, []),
        ({"severity": "clear", "class_name": EVIL}, []),
    ],
)
def test_choices(folder, choice, expected):
    assert chosen(folder, **choice) == expected


def test_choices_by_verdict(folder):
    VerdictBook(folder / "verdicts.csv").set("NA", "label wrong")
    assert chosen(folder, verdict="label wrong") == ["NA"]
    assert chosen(folder, verdict="none yet") == ["a", "0042"]


def test_without_class_ious_no_class_is_known_to_be_low(folder):
    book = VerdictBook(folder / "verdicts.csv")
    assert choose(read_failures(folder), Choice(class_name="sky", rule="low"), book).empty
    assert FailureBrowser(folder, CLASSES).rule.options == (("is the worst class", "worst"),)


def test_an_image_without_a_score_is_listed_last(folder):
    table = read_failures(folder)
    table.loc[0, "miou"] = np.nan
    table.to_csv(folder / "failures.csv", index=False)
    assert chosen(folder, low=0.2, high=0.4) == ["0042", "a"]
    assert "–" in FailureBrowser(folder, CLASSES).list.options[-1][0]


@pytest.mark.parametrize("sample", ["../a", "x/../a", "/etc/passwd", "missing"])
def test_a_sample_never_leaves_its_folder(folder, sample):
    with pytest.raises(FileNotFoundError, match="is missing"):
        read_layers(folder, sample)


def test_a_broken_picture_is_named(folder):
    (folder / "masks" / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(OSError, match=r"masks/a\.png cannot be read"):
        read_layers(folder, "a")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"masks/a\.png holds colours"):
        read_layers(folder, "a")
    browser = FailureBrowser(folder, CLASSES)
    assert "masks/a.png holds colours" in browser.legend.value
    assert browser.picture.layout.display == "none"
    browser.next.click()
    assert browser.picture.layout.display is None
    assert "holds colours" not in browser.legend.value


def test_no_failures_csv_names_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="04_failure_analysis writes it"):
        FailureBrowser(tmp_path, CLASSES)


def test_names_are_escaped_everywhere(browser):
    page = browser.legend.value + browser.facts.value
    page += review.gallery_html(browser.folder, browser.failures, CLASSES, browser.book)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_steps_filters_and_layers(browser):
    assert (browser.current, browser.previous.disabled, browser.next.disabled) == ("a", True, False)
    browser.next.click()
    browser.next.click()
    browser.next.click()  # there is no further one
    assert (browser.current, browser.next.disabled) == ("NA", True)
    browser.class_name.value = EVIL
    assert browser.current == "NA"  # still among the chosen
    assert "<b>2</b> of 2 chosen (3 failures in all)" in browser.count.value
    browser.severity.value = "clear"
    assert browser.current is None
    assert browser.judging.layout.visibility == "hidden"
    assert "Widen" in browser.facts.value
    browser.next.click()
    browser.reset.click()
    assert [i for _, i in browser.list.options] == ["a", "0042", "NA"]
    before = browser.picture.value
    browser.view.value = "errors"
    assert browser.picture.value != before
    before = browser.picture.value
    browser.opacity.value = 1.0
    assert browser.picture.value != before


def test_a_verdict_is_saved_at_once_and_found_again(browser, folder):
    browser.next.click()
    assert not (folder / "verdicts.csv").exists()
    browser.verdict.value = "label wrong"
    browser.note.value = 'the kerb, "left";\nover there'
    saved = pd.read_csv(folder / "verdicts.csv", dtype=str)
    assert saved[["id", "verdict"]].to_numpy().tolist() == [["0042", "label wrong"]]
    assert browser.list.options[1][0].startswith("✓")
    again = FailureBrowser(folder, CLASSES)
    assert again.verdict.value == ""
    again.next.click()
    assert (again.verdict.value, again.note.value) == ("label wrong", 'the kerb, "left";\nover there')
    again.note.value = ""
    again.verdict.value = ""
    assert pd.read_csv(folder / "verdicts.csv").empty


def test_a_verdict_that_cannot_be_saved_is_said(browser, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(browser.book, "_write", refuse)
    browser.verdict.value = "ignore"
    assert "not saved: read-only" in browser.status.value
    assert browser.book.get("a").verdict == ""


def test_no_failures_is_said(tmp_path):
    browser = FailureBrowser(make_failures(tmp_path / "none", (), ()), CLASSES)
    assert isinstance(browser.widget, ipywidgets.HTML)
    assert "No failures" in browser.widget.value


def test_it_displays_itself_live_and_as_a_gallery(browser, monkeypatch):
    shown = []
    monkeypatch.setattr("seglib.browser.display", lambda bundle, raw: shown.append(bundle))
    browser._ipython_display_()
    live, saved = shown
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == browser.widget.model_id
    assert live["text/plain"] == "FailureBrowser(3 failures)"
    assert saved["text/html"].count("data:image/jpeg;base64,") == 12


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


def test_the_browser_tells_of_a_file_kept_aside(folder):
    (folder / "verdicts.csv").write_text("nonsense")
    browser = FailureBrowser(folder, CLASSES)
    assert any("bak-1" in getattr(child, "value", "") for child in browser.widget.children)


# pictures


def test_overlay_blends_and_error_map_marks_wrong_scored_pixels_only():
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


def test_top_confusions_count_scored_pixels():
    truth = np.array([[0, 0, 0, 1, IGNORE]], np.uint8)
    pred = np.array([[1, 1, 2, 0, 2]], np.uint8)
    assert pictures.top_confusions(truth, pred, CLASSES) == [
        ("sky", "road", 0.5),
        ("sky", EVIL, 0.25),
        ("road", "sky", 0.25),
    ]
    assert pictures.top_confusions(truth, truth, CLASSES) == []
    assert pictures.top_confusions(np.full((2, 2), IGNORE, np.uint8), np.zeros((2, 2), np.uint8), CLASSES) == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (96, 128), (360, 480), (1024, 2048), (2000, 300), (3, 4000)])
@pytest.mark.parametrize("view", pictures.VIEWS)
def test_every_size_fits_the_page(height, width, view):
    truth = np.zeros((height, width), np.uint8)
    picture = pictures.compose(np.zeros((height, width, 3), np.uint8), truth, truth, CLASSES, view)
    assert picture.dtype == np.uint8
    assert picture.shape[0] <= pictures.BOX[0] + 4 * 20
    assert picture.shape[1] <= pictures.BOX[1]


def test_small_pictures_are_enlarged_by_whole_pixels():
    image = np.arange(96 * 128 * 3, dtype=np.uint32).reshape(96, 128, 3).astype(np.uint8)
    mask = np.zeros((96, 128), np.uint8)
    picture = pictures.compose(image, mask, mask, CLASSES, "image")[20:]
    assert (picture == image.repeat(7, 0).repeat(7, 1)).all()
    with pytest.raises(ValueError, match="view 'mask': expected one of all, image"):
        pictures.compose(image, mask, mask, CLASSES, "mask")


def test_png_is_read_back_by_pillow():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(pictures.png(picture[:, ::-1]))) as read:
        assert (np.asarray(read) == picture[:, ::-1]).all()
        assert read.mode == "RGB"


def test_thumbnails_are_jpeg_of_the_asked_width():
    import base64

    for width, expected in ((400, 180), (64, 128)):
        uri = pictures.data_uri(np.zeros((30, width, 3), np.uint8), 180)
        head, data = uri.split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as thumb:
            assert thumb.width == expected
