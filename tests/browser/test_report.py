"""The report of failures: one file that is whole, safe with hostile names, small, and works in a real Chromium from the disk."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from chromium_page import menu, need_chromium, opened, pixel, settled, shown
from made_split import CAUSES, CLASSES, EVIL, POLE, names, write_split

from seglib.browser import report as report_file
from seglib.browser import write_report
from seglib.failures import VerdictBook

BREAK = "</script><!--<script>evil()"
IDS = names(14)[:12]
WHITE = """() => { const c = document.querySelector(".seg-picture canvas"); let n = 0;
new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)
.forEach((v) => { n += v === 0xffffffff; }); return n; }"""


@pytest.fixture
def details(tmp_path):
    """14 images, 12 of which fail; hostile text in what 04 says of them, and a suspicious label that did not fail."""
    details = write_split(tmp_path, 14, 12)
    failures, suspects = details.analysis.failures, details.analysis.suspects
    failures.loc[[0, 1], "evidence"] = BREAK, "{{ 7 * 7 }}"
    wrong = [[True, 0.95, EVIL], [True, 0.9, BREAK]]
    suspects.loc[[0, 12], ["suspect", "label_score", "suspect_kind"]] = wrong
    VerdictBook(details.folder / "verdicts.csv").set("0042", "label wrong", "<script>evil()</script>")
    return details


class Page(BeautifulSoup):
    def __init__(self, details) -> None:
        path = write_report(details)
        assert path == details.folder / "report.html"
        super().__init__(path.read_text(encoding="utf-8"), "html.parser")
        self.size = path.stat().st_size
        self.words = " ".join(self.get_text(" ").split())
        self.embedded = json.loads(self.find(id="data").string)


def test_hostile_text_stays_text_and_nothing_of_it_runs(details):
    page = Page(details)
    assert [len(page(tag)) for tag in ("script", "style", "main")] == [2, 1, 1]
    assert not page(["link", "iframe", "object"])
    assert not [t for t in page(True) if any(name.startswith("on") or name == "style" for name in t.attrs)]
    assert all(image["src"].startswith("data:image/") for image in page("img"))
    for text in (BREAK, "<script>evil()</script>", "{{ 7 * 7 }}", "car -> road"):
        assert text in page.words
    assert not re.search(r"[<>&]", page.find(id="data").string)
    assert [row["id"] for row in page.embedded["rows"]] == IDS
    assert set(page.embedded["nearest"]) == {"train_0", "train_1"}
    # Nothing but its own script and style may run.
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for name, inside in (("script", page("script")[1]), ("style", page.style)):
        digest = base64.b64encode(hashlib.sha256(inside.string.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_head_and_the_tables_of_the_summary(details, tmp_path):
    words = Page(details).words
    about = ("run now", "model Unet, resnet18", "dataset made", "split test, 14 images", "Glossary")
    about += "12 of 14 images fail: below a mean IoU", "By sequence sequence images failures mean IoU none 7"
    for told in about:
        assert told in words
    assert "By cause cause images label error 2" in words
    assert "By verdict verdict images none yet 11 label wrong 1" in words
    assert "Suspected labels of images that did not fail id label score suspect kind" in words
    assert f"{names(14)[12]} 0.900 {BREAK}" in words
    assert "Costliest confusions ground truth prediction pixels of true class images gain, mean IoU" in words
    assert "compared with" not in words


def test_a_picture_that_is_missing_is_said_and_without_failures_there_is_no_list(details, tmp_path):
    (details.evaluation.dataset.root / "images" / "0042.png").unlink()
    page = Page(details)
    assert "images/0042.png" in page.words  # in the gallery
    assert "images/0042.png" in page.embedded["pictures"]["0042"]["problems"][0]
    page = Page(write_split(tmp_path / "good", 3, 0))
    assert "0 of 3 images fail" in page.words
    assert not page("main")


def test_the_file_is_as_large_as_allowed_and_the_worst_come_with_pictures(details, monkeypatch):
    page = Page(details)
    limit = page.size - len(json.dumps(page.embedded["pictures"])) // 2
    monkeypatch.setattr(report_file, "LIMIT", limit)
    page = Page(details)
    assert 0.9 * limit < page.size <= limit
    count = len(page.embedded["pictures"])
    assert 0 < count < 12
    assert list(page.embedded["pictures"]) == IDS[:count]
    assert len(page.embedded["rows"]) == len(page.embedded["facts"]) == 12
    monkeypatch.setattr(report_file, "ROWS", 5)
    page = Page(details)
    assert len(page.embedded["rows"]) == len(page.embedded["facts"]) == 5
    assert "The worst 5 of 12 images are listed here" in page.words


@pytest.fixture
def report(details):
    """Opens it; on leaving, nothing must have gone wrong and nothing must have been asked for."""
    need_chromium()
    said, asked = [], []
    address = write_report(details).as_uri()
    yield lambda **options: opened(address, said, asked, **options)
    assert not said
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {address}


def listed(page) -> list[str]:
    return page.locator(".seg-name").all_inner_texts()


@pytest.mark.browser
def test_a_colleague_reads_it(details, report):
    with report() as page:
        settled(lambda: shown(page), IDS[0])
        settled(lambda: page.locator(".seg-row img[src^='data:']").count() >= 10, True)
        assert listed(page)[:10] == IDS[:10]
        assert page.locator(".seg-count").inner_text() == "1 of 12 failures"
        assert page.locator(".seg-verdicts button:visible, textarea:visible").count() == 0  # read-only
        assert not page.locator(".seg-saved").is_visible()
        assert page.locator("b:text-is('pole'), main script, main img[src='x']").count() == 0

        worst = [name for name in IDS if details.table["worst_class"][name] == POLE]
        for label, value, left in (
            ("text", "STREET 0003", ["street00_0003"]), ("text", "no such words", []), ("cause", CAUSES[3], IDS[3::6]),
            ("verdict", "label wrong", ["0042"]), ("class", POLE, worst), ("sequence", "street00", IDS[7:]),
        ):  # fmt: skip
            control = menu(page, label)
            control.fill(value) if label == "text" else control.select_option(value)
            assert listed(page)[:10] == left[:10], label
            assert page.locator(".seg-main").is_visible() == bool(left)
            page.get_by_role("button", name="Reset").click()
        miou = details.table["miou"].tolist()
        menu(page, "mean IoU from").fill(str(miou[2]))
        menu(page, "to").fill(str(miou[5]))
        assert listed(page) == IDS[2:6]
        page.get_by_role("button", name="Reset").click()
        menu(page, "sort by").select_option(label="IoU, best first")
        assert listed(page)[0] == IDS[-1]

        page.locator(".seg-row", has_text="0042").first.click()
        settled(lambda: shown(page), "0042")
        assert page.locator(".seg-status").inner_text().startswith("label wrong\n<script>evil()</script>\n")
        facts = page.locator(".seg-facts").inner_text()
        for text in ("unlike training", "→ Look at the mask", "false negative 0.", "> building, +0."):
            assert text in facts
        assert page.locator(".seg-near img[src^='data:']").count() == 2


@pytest.mark.browser
def test_layers_opacity_zoom_and_the_class_under_the_pointer(report):
    with report() as page:
        settled(lambda: shown(page), IDS[0])
        page.locator(".seg-browser").focus()
        page.keyboard.press("i")
        plain = pixel(page, 0.6, 0.85)
        page.keyboard.press("t")
        half = pixel(page, 0.6, 0.85)
        page.locator(".seg-opacity input").first.fill("100")
        full = pixel(page, 0.6, 0.85)
        assert full[:3] == CLASSES.colors[2].tolist()
        assert sum(np.abs(np.subtract(plain, full))) > sum(np.abs(np.subtract(half, full))) > 0
        # The suspect region is outlined, and the outline can be put away.
        page.locator(".seg-browser").focus()
        outlined = page.evaluate(WHITE)
        assert outlined > 50
        page.keyboard.press("s")
        assert page.evaluate(WHITE) < outlined / 5

        canvas = page.locator(".seg-picture canvas")
        canvas.hover(position={"x": 100, "y": canvas.bounding_box()["height"] * 0.9})
        said = page.locator(".seg-readout").inner_text()
        assert re.match(r"x \d+, y \d+ · ground truth road · predicted car · confidence 0\.\d\d$", said)
        before = pixel(page, 0.9, 0.1), pixel(page, 0.1, 0.9)
        page.mouse.wheel(0, -900)
        settled(lambda: (pixel(page, 0.9, 0.1), pixel(page, 0.1, 0.9)) != before, True)
        page.keyboard.press("f")
        settled(lambda: (pixel(page, 0.9, 0.1), pixel(page, 0.1, 0.9)), before)


@pytest.mark.browser
def test_it_prints_and_can_be_read_on_a_narrow_screen_and_without_scripts(report):
    with report(viewport={"width": 400, "height": 800}, color_scheme="dark") as page:
        settled(lambda: shown(page), IDS[0])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
        page.locator(".seg-chart button[aria-label^='rare class']").click()  # linked without a kernel
        settled(lambda: page.evaluate("location.hash"), "#cause=rare+class")
        settled(lambda: page.locator(".seg-count").inner_text()[:13], "1 of 2 chosen")
        page.emulate_media(media="print")
        assert not page.locator("main").is_visible()
        assert page.locator(".seg-gallery img:visible").count() == 4 * 12
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    with report(java_script_enabled=False) as page:
        assert page.locator(".seg-gallery img:visible").count() == 4 * 12
        assert page.locator("noscript").inner_text().startswith("Scripts are off")
