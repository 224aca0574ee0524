"""The report of failures: one file that is whole, safe with hostile names, small, and works in a real Chromium from the disk."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.browser.report import write_report
from seglib.browser.report_data import read_items, read_layers
from seglib.data.classes import IGNORE, ClassMap
from seglib.data.overlay import ERROR, error_map

CLASSES = ClassMap(("sky", "road", "car", "<b>pole</b>"))
SIZE = (48, 64)
EVIL = '"><img src=x onerror=evil()>'
BREAK = "</script><!--<script>evil()"
ODD = BREAK.replace("/", "\u2215") if os.name != "nt" else "odd"  # Windows allows no such file names
SAMPLES = {"night_1": 0.062, ODD: 0.2, "street_2": 0.244, "0042": 0.377, "NA": 0.461}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five failures of 48x64 pixels with everything that 04 may say of them, hostile text among it."""
    rng = np.random.default_rng(0)
    truth = np.zeros(SIZE, np.uint8)
    truth[24:], truth[30:40, 10:26], truth[8:30, 50:53], truth[46:] = 1, 2, 3, IGNORE
    for k, name in enumerate(SAMPLES):
        pred = truth.copy()
        pred[truth == 3] = 0
        pred[24:, : 12 * (5 - k)] = 2
        save(
            tmp_path / "images" / f"{name}.png",
            (CLASSES.colorize(truth) // 2 + rng.integers(60, 90, (*SIZE, 1))).astype(np.uint8),
        )
        save(tmp_path / "masks" / f"{name}.png", truth)
        save(tmp_path / "predictions" / f"{name}.png", pred)
    confidence = np.where(truth == 2, 40, 250).astype(np.uint8)
    for name in list(SAMPLES)[:3]:  # of the others it is not known
        save(tmp_path / "confidences" / f"{name}.png", confidence)
    save(tmp_path / "suspects" / "night_1.png", np.where(truth == 2, 255, 0).astype(np.uint8))
    save(tmp_path / "nearest" / "train_7.png", np.full((30, 200, 3), 90, np.uint8))
    table = {
        "id": SAMPLES.keys(),
        "miou": SAMPLES.values(),
        "severity": ["guessing", "clear", "clear", "clear", "near-threshold"],
        "worst_class": ["car", "<b>pole</b>", "<b>pole</b>", "<b>pole</b>", "car"],
        "worst_class_iou": 0.0,
        "top_confusion": ["road -> car", "<b>pole</b> -> sky", "road -> car", "road -> car", "road -> car"],
        "top_confusion_share": 0.31,
        "group": ["night", EVIL, "street", "street", ""],
        "best_fix": "road -> car",
        "best_fix_gain": [0.1, 0.2, 0.3, 0.15, 0.05],
        "confidence": [0.9, 0.8, np.nan, 0.7, 0.6],
        "label_score": [0.95, 0.2, 0.1, 0.3, 0.4],
        "suspect_kind": ["swapped class", "", "", "", ""],
        "suspect_given": ["road", "", "", "", ""],
        "suspect_suggested": ["car", "", "", "", ""],
        "suspect_box": ["10 30 26 40", "2 3 20 30", "", "one two", "-5 -5 900 900"],
        "degradation": ["blur", "", "", "", ""],
        "degradation_z": [6.5, 0.1, 0.2, 0.3, ""],
        "novelty": 0.4,
        "nearest": [json.dumps(["train_7", "gone", "../images/night_1", "a", "b"]), "[]", "not json", "[1]", ""],
        "cause": ["label error", "degraded image", "rare class", "rare class", ""],
        "cause_confidence": [0.9, 0.8, 0.7, 0.6, ""],
        "evidence": ["4,210 pixels of road", EVIL, BREAK, "{{ 7 * 7 }}", "</article></main>"],
        "suggestion": "relabel it",
    } | {f"lost_{name}": 0.1 for name in ("boundary", "missed", "invented", "swapped", "specks")}  # fmt: skip
    pd.DataFrame(table).to_csv(tmp_path / "failures.csv", index=False)
    suspects = {"id": ["night_1", "fine_1", "fine_2"], "label_score": [0.95, 0.9, 0.1], "suspect_kind": [EVIL, BREAK, ""], "failed": [True, False, False]}  # fmt: skip
    pd.DataFrame(suspects).to_csv(tmp_path / "suspects.csv", index=False)
    (tmp_path / "verdicts.csv").write_text(
        'id,verdict,note,time\nstreet_2,label wrong,"<script>evil()</script>",\n'
    )
    return tmp_path


def write(folder: Path, **options) -> str:
    tables = {
        EVIL: pd.DataFrame(
            {EVIL: [BREAK, "x"], "mIoU": [0.25, np.nan], "images": [1200, 3], "rare": [True, False]}
        )
    }
    path = write_report(
        folder,
        CLASSES,
        f"tiny {EVIL}",
        f"below a mean IoU of 0.5 {EVIL}",
        facts={EVIL: BREAK},
        tables=tables,
        **options,
    )
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, and what stands in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.inside: dict[str, str] = {}
        self.words = ""
        self.open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.words += " "
        self.open = attributes[0][1] if tag == "script" and attributes else tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open in ("script", "style", "application/json"):
            self.inside[self.open] = self.inside.get(self.open, "") + data
        else:
            self.words += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [a for t, a in self.tags if t == tag and attributes.items() <= a.items()]


def test_hostile_text_stays_text(folder):
    page = Page(write(folder))
    assert len(page.all("script")) == 2
    assert len(page.all("style")) == len(page.all("main")) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") or name == "style" for name in a)]
    assert all(a["src"].startswith("data:image/") for a in page.all("img") if "src" in a)
    assert not page.all("link") + page.all("iframe") + page.all("object") + page.all("b", **{"class": "evil"})
    for text in (
        EVIL,
        BREAK,
        "<script>evil()</script>",
        "{{ 7 * 7 }}",
        "</article></main>",
        "<b>pole</b> -> sky",
        f"tiny {EVIL}",
    ):
        assert text in page.words
    assert not re.search(r"[<>&]", page.inside["application/json"])
    data = json.loads(page.inside["application/json"])
    assert [i["id"] for i in data["items"]] == list(SAMPLES)  # the order of the file
    assert data["items"][1]["group"] == EVIL


def test_nothing_but_its_own_script_and_style_may_run(folder):
    page = Page(write(folder))
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inside[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    bare = re.sub(r'"data:image/[^"]+"', "", write(folder))
    assert not re.search(r"https?:|//[a-z]|innerHTML|insertAdjacent|eval\(|document\.write", bare)


def test_the_summary(folder):
    words = re.sub(r"\s+", " ", Page(write(folder, images=50)).words)
    assert "5 of 50 images fail (10%): below a mean IoU of 0.5" in words
    assert "rare class 2" in words
    assert "unknown 1" in words
    assert "guessing 1" in words
    assert "label wrong 1" in words
    assert "Suspected labels of images that did not fail id suspicion kind fine_1 0.9" in words
    assert "1,200" in words


def test_what_is_known_of_a_failure(folder):
    words = re.sub(r"\s+", " ", Page(write(folder)).words)
    first = words[words.index("night_1 0.062") : words.index("0.200 mIoU")]
    for text in ("label error 90 % sure", "4,210 pixels", "relabel it", "worst class car 0.00", "road -> car, 31.0 % of pixels", "road -> car: +0.10 mIoU",
                 "0.95 swapped class (road, suggested car)", "blur (6.5 deviations)", "boundary 0.10", "sequence night", "train_7"):  # fmt: skip
        assert text in first
    assert "confidence unknown" in words
    assert "cause unknown" in words


def test_an_older_folder_and_missing_pictures_are_no_error(folder):
    names = [
        "id",
        "miou",
        "severity",
        "worst_class",
        "worst_class_iou",
        "top_confusion",
        "top_confusion_share",
        "group",
    ]
    pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)[names].to_csv(
        folder / "failures.csv", index=False
    )
    for name in ("suspects.csv", "verdicts.csv"):
        (folder / name).unlink()
    for name in ("suspects", "nearest"):
        shutil.rmtree(folder / name)
    (folder / "images" / "0042.png").unlink()
    (folder / "masks" / "NA.png").write_bytes(b"no png")
    save(folder / "predictions" / "street_2.png", np.zeros((3, 3), np.uint8))
    words = re.sub(r"\s+", " ", Page(write(folder)).words)
    assert "5 images fail: below a mean IoU of 0.5" in words
    assert words.count("cause unknown") == words.count("Where IoU was lost: unknown.") == 5
    for text in (
        "images/0042.png is missing",
        "masks/NA.png cannot be read",
        "predictions/street_2.png is no mask",
    ):
        assert text in words
    pd.DataFrame(columns=names).to_csv(folder / "failures.csv", index=False)
    page = Page(write(folder, images=9))
    assert "None of 9 images fails: below a mean IoU of 0.5" in page.words
    assert EVIL in page.words  # the tables of the summary stay
    assert not page.all("article")


def test_faulty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="04_failure_analysis"):
        write_report(tmp_path, CLASSES)
    (tmp_path / "failures.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column id or miou"):
        write_report(tmp_path, CLASSES)


@pytest.mark.slow
def test_more_than_fits_is_listed_without_pictures(folder):
    whole = len(write(folder).encode())
    counts = []
    for limit in range(whole, whole // 2, -whole // 12):
        text = write(folder, limit=limit)
        page = Page(text)
        counts.append(len(page.all("article")))
        assert counts[-1] == 0 or len(text.encode()) <= limit
        assert len([a for t, a in page.tags if t == "tr" and "data-i" in a]) == 5 - counts[-1]
        assert (f"{5 - counts[-1]} more failures, without pictures" in page.words) == (counts[-1] < 5)
        assert len(json.loads(page.inside["application/json"])["items"]) == 5
    assert counts[0] == 5
    assert counts == sorted(counts, reverse=True)
    assert any(0 < count < 5 for count in counts)


@pytest.mark.slow
def test_many_failures_fill_the_file_and_no_more(folder):
    table = pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)
    few = len(write(folder).encode())
    pd.concat([table] * 20, ignore_index=True).to_csv(folder / "failures.csv", index=False)
    text = write(folder, limit=5 * few)
    page = Page(text)
    pictured = len(page.all("article"))
    assert 4 * few < len(text.encode()) <= 5 * few
    assert f"{100 - pictured} more failures, without pictures" in page.words
    assert "not listed here" not in page.words
    # Where even their rows would crowd out the pictures, the worst are listed and the rest is counted.
    pd.concat([table] * 200, ignore_index=True).to_csv(folder / "failures.csv", index=False)
    text = write(folder, limit=3 * few)
    page = Page(text)
    listed = len(json.loads(page.inside["application/json"])["items"])
    assert len(text.encode()) <= 3 * few
    assert 0 < len(page.all("article")) < listed < 1000
    assert f"{1000 - listed} more, with a higher mIoU, are not listed here" in page.words


# pictures


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_layers_are_the_pictures_of_the_browser(folder):
    item = read_items(folder)[0]
    layers = read_layers(folder, item, CLASSES, 480)
    truth, pred = (np.asarray(Image.open(folder / kind / "night_1.png")) for kind in ("masks", "predictions"))
    assert layers.size == SIZE[::-1]
    assert np.array_equal(decoded(layers.truth)[..., :3], CLASSES.colorize(truth))
    assert np.array_equal(decoded(layers.prediction)[..., :3], CLASSES.colorize(pred))
    assert layers.ids == (0, 1, 2, 3, IGNORE)
    errors = decoded(layers.errors)
    wrong, ignored = (truth != pred) & (truth != IGNORE), truth == IGNORE
    assert np.array_equal(errors[..., 3] > 0, wrong | ignored)
    assert (errors[wrong][:, :3] == ERROR).all()
    reference = error_map(np.zeros((*SIZE, 3), np.uint8), truth, pred)
    assert np.array_equal(errors[ignored][:, :3], reference[ignored])
    # Lossy: a step between two confidences stays where it is, and near the colours of its ends.
    sure = decoded(layers.confidence)[..., :3].astype(int)
    expected = plt.get_cmap("cividis")(np.where(truth == 2, 40, 250).astype(np.uint8), bytes=True)[..., :3]
    assert np.median(np.abs(sure - expected)) < 12
    assert np.corrcoef(sure[..., 0].ravel(), expected[..., 0].ravel())[0, 1] > 0.95
    assert read_layers(folder, read_items(folder)[3], CLASSES, 480).confidence == ""
    photo, image = decoded(layers.photo)[..., :3], np.asarray(Image.open(folder / "images" / "night_1.png"))
    assert np.abs(photo.astype(int) - image).mean() < 12


def test_the_outline_lies_around_the_region(folder):
    by_id = {item["id"]: item for item in read_items(folder)}

    zoom = 480 // max(SIZE)  # the outline of a small picture is finer than its pixels

    def drawn(name):
        line = decoded(read_layers(folder, by_id[name], CLASSES, 480).outline)[..., 3] > 0
        assert line.shape == (SIZE[0] * zoom, SIZE[1] * zoom)
        return line

    line = drawn("night_1")
    top, left, right = 30 * zoom, 10 * zoom, 26 * zoom
    assert not line[top : 40 * zoom, left:right].any()
    assert line[top - 3 : top, left:right].all()
    assert not line[: top - 4].any()
    boxed = drawn(list(SAMPLES)[1])
    assert boxed[10 * zoom, 20 * zoom]
    assert not boxed[10 * zoom, 2 * zoom : 20 * zoom].any()
    assert drawn("NA")[0].all()  # a box beyond the picture: its border
    assert not drawn("NA")[24 * zoom, 3 * zoom : 60 * zoom].any()
    for name in ("street_2", "0042"):
        assert read_layers(folder, by_id[name], CLASSES, 480).outline == ""


def test_large_pictures_are_reduced_and_ids_not_mixed(folder):
    image = np.random.default_rng(0).integers(0, 256, (200, 900, 3), np.uint8)
    mask = np.random.default_rng(0).choice(np.array([0, 3], np.uint8), (200, 900))
    for kind, array in (("images", image), ("masks", mask), ("predictions", mask)):
        save(folder / kind / "0042.png", array)
    layers = read_layers(folder, read_items(folder)[3], CLASSES, 300)
    assert layers.size == (300, 67)
    assert decoded(layers.truth).shape[:2] == decoded(layers.photo).shape[:2] == (67, 300)
    assert layers.ids == (0, 3)


def test_a_table_of_the_summary_that_is_empty_says_so_and_heads_stand_over_their_numbers(folder):
    slices = pd.DataFrame(columns=["slice", "images"])
    costs = pd.DataFrame({"truth": ["pole"], "gain": [0.1], "gain_image": [0.2]})
    write_report(folder, CLASSES, tables={"Slices": slices, "Costs": costs})
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<h2>Slices</h2>\s*<p class=\"quiet\">None.</p>", text)  # no head without rows
    assert '<th>truth</th><th class="n">gain, mean IoU</th><th class="n">gain, mIoU</th>' in text


def test_sample_names_cannot_leave_the_folder(folder):
    secret = folder.parent / "secret.png"
    save(secret, np.zeros((4, 4, 3), np.uint8))
    table = pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)
    table.loc[0, "id"] = "../../secret"
    table.loc[0, "nearest"] = '["../../secret", "../images/street_2"]'
    table.to_csv(folder / "failures.csv", index=False)
    page = Page(write(folder))
    assert "images/../../secret.png is missing" in page.words
    assert json.loads(page.inside["application/json"])["thumbs"] == []


@pytest.mark.slow
def test_the_report_needs_no_torch():
    code = "import sys, seglib.report; print(*{'torch', 'matplotlib', 'ipywidgets'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "\n"
    )


# in Chromium

CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync"]  # fmt: skip
WAIT = 60_000  # milliseconds, for a machine that trains meanwhile


@contextmanager
def opened(path: Path, **options):
    """The file in a fresh Chromium; on leaving, nothing must have gone wrong and nothing must have been asked for."""
    from playwright.sync_api import sync_playwright

    said, asked = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = chromium.new_page(**{"viewport": {"width": 1400, "height": 1000}} | options)
            page.set_default_timeout(WAIT)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(path.as_uri())
            yield page
            assert not said
            assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        finally:
            chromium.close()


def shot(page, name: str, **options) -> None:
    if "SEGLIB_SHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SEGLIB_SHOTS"]) / f"report_{name}.png", **options)


@pytest.fixture
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or Chrome)")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")


@pytest.mark.browser
def test_a_colleague_reads_it(folder, chromium):
    write(folder)

    def names():
        return page.locator("article:visible h3").all_inner_texts()

    with opened(folder / "report.html") as page:
        every = list(SAMPLES)
        assert names() == every
        assert page.locator("#count").inner_text() == "5 of 5 failures"
        assert page.evaluate("[...document.images].every(i => i.complete && (i.naturalWidth || !i.src))")
        first = page.locator("article").first
        assert first.locator(".photo").count() == 5  # the photograph lies under every panel
        assert first.locator(".outline").count() == 5
        assert page.locator("article").nth(3).locator(".photo").count() == 4  # no confidences are known of it
        assert (
            first.locator(".photo").first.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
        )  # 64 wide
        assert first.locator(".nearest img[src^='data:']").count() == 1
        assert page.locator("article b.evil, article > script, main img[src='x']").count() == 0
        shot(page, "tiny")

        page.locator("#search").fill("pole POLE")
        assert names() == every[1:4]
        page.locator("#cause").select_option("=rare class")
        assert names() == every[2:4]
        page.locator("#verdict").select_option("=label wrong")
        assert names() == ["street_2"]
        assert page.locator("#count").inner_text() == "1 of 5 failures"
        page.locator("button[type=reset]").click()
        page.locator("#count").filter(has_text=re.compile("^5")).wait_for()  # the page's policy forbids eval
        page.locator("#low").fill("0.2")
        page.locator("#high").fill("0.38")
        assert names() == every[1:4]
        page.locator("#search").fill("no such thing")
        assert page.locator("#nothing").is_visible()
        page.locator("button[type=reset]").click()
        page.locator("#count").filter(has_text=re.compile("^5")).wait_for()  # the page's policy forbids eval
        assert page.locator("#group option").all_inner_texts()[0:3] == ["any", "none (1)", f"{EVIL} (1)"]
        page.locator("#group").select_option("=" + EVIL)
        assert names() == [every[1]]
        page.locator("button[type=reset]").click()
        page.locator("#count").filter(has_text=re.compile("^5")).wait_for()  # the page's policy forbids eval

        page.locator("#sort").select_option("largest repair")
        assert names() == ["street_2", every[1], "0042", "night_1", "NA"]
        page.locator("#sort").select_option("name")
        assert [name for name in names() if name != ODD] == ["0042", "NA", "night_1", "street_2"]
        page.locator("#sort").select_option("best first")
        assert names() == every[::-1]

        page.locator("#opacity").fill("1")
        colors = page.locator("article .photo ~ .colors").first
        assert colors.evaluate("i => getComputedStyle(i).opacity") == "1"
        page.locator("#outlines").uncheck()
        assert page.locator("article .outline:visible").count() == 0

        page.locator("article [data-layer=truth] button").nth(1).click()
        large = page.locator("#large")
        assert large.locator("h3").inner_text() == every[3]
        assert large.locator("[aria-pressed=true]").inner_text() == "truth"
        assert large.locator(".stack").bounding_box()["width"] > 600
        page.keyboard.press("ArrowRight")
        assert large.locator("[aria-pressed=true]").inner_text() == "prediction"
        assert large.locator(".legend span").count() == 5
        assert large.get_by_role("button", name="confidence").is_disabled()
        for name in ("errors", "image"):  # the arrows pass over what is not known
            page.keyboard.press("ArrowRight")
            assert large.locator("[aria-pressed=true]").inner_text() == name
        page.keyboard.press("PageDown")
        page.keyboard.press("ArrowLeft")
        assert large.locator("[aria-pressed=true]").inner_text() == "confidence"
        assert large.locator("h3").inner_text() == every[2]
        large.locator(".next").click()
        large.locator(".next").click()
        assert large.locator(".next").is_disabled()
        assert large.locator("h3").inner_text() == "night_1"
        shot(page, "large")
        page.keyboard.press("Escape")
        assert not large.is_visible()


@pytest.mark.browser
def test_it_prints_whole_failures_and_no_controls(folder, chromium, tmp_path):
    text = write(folder, limit=len(write(folder).encode()) - 8_000)
    with opened(folder / "report.html", color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.locator("form:visible, dialog:visible").count() == 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for article in page.locator("article").all():
            assert article.evaluate("a => getComputedStyle(a).breakInside") == "avoid"
        pdf = page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) >= 1
    assert "without pictures" in text


@pytest.mark.browser
def test_it_can_be_read_on_a_narrow_screen_and_without_scripts(folder, chromium):
    write(folder)
    with opened(folder / "report.html", viewport={"width": 420, "height": 800}, color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
        shot(page, "narrow")
    with opened(folder / "report.html", java_script_enabled=False) as page:
        assert page.locator("article").count() == 5
        assert page.locator("#controls").is_hidden()
        assert page.locator("noscript").inner_text().startswith("Scripts are off")
