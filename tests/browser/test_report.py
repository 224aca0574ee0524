"""The report of failures: one file that is whole, safe with hostile names, small, and works in a real Chromium from the disk."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from chromium_page import menu, need_chromium, opened, pixel, settled, shown
from failures_folder import CLASSES, EVIL, POLE, names, write_folder
from made_split import write_split

from seglib.browser import report as report_file
from seglib.browser import write_report
from seglib.failures import VerdictBook

BREAK = "</script><!--<script>evil()"
IDS = names(12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve failures with everything that 04 may say of them, hostile text among it."""
    folder = write_folder(tmp_path / "failures", IDS)
    table = pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)
    table.loc[0, ["evidence", "group"]] = [BREAK, EVIL]
    table.loc[1, "evidence"] = "{{ 7 * 7 }}"
    table.to_csv(folder / "failures.csv", index=False)
    suspects = pd.DataFrame(
        {"id": [IDS[0], "fine_1", "fine_2"], "label_score": [0.95, 0.9, 0.1], "suspect": [True, True, False]}
    )
    suspects.assign(suspect_kind=[EVIL, BREAK, ""]).to_csv(folder / "suspects.csv", index=False)
    VerdictBook(folder / "verdicts.csv").set("0042", "label wrong", "<script>evil()</script>")
    return folder


def write(folder: Path) -> str:
    path = write_report(folder, CLASSES)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


class Page(BeautifulSoup):
    """The page of a report, with its words and its embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "html.parser")
        self.words = " ".join(self.get_text(" ").split())
        self.embedded = json.loads(self.find(id="data").string)


def test_hostile_text_stays_text_and_nothing_of_it_runs(folder):
    page = Page(write(folder))
    assert [len(page(tag)) for tag in ("script", "style", "main", "link", "iframe", "object")] == [
        2,
        1,
        1,
        0,
        0,
        0,
    ]
    assert not [
        tag for tag in page(True) if any(name.startswith("on") or name == "style" for name in tag.attrs)
    ]
    assert all(image["src"].startswith("data:image/") for image in page("img"))
    for text in (BREAK, "<script>evil()</script>", "{{ 7 * 7 }}", f"{POLE} -> building"):
        assert text in page.words
    assert not re.search(r"[<>&]", page.find(id="data").string)
    assert [row["id"] for row in page.embedded["rows"]] == IDS  # the order of the file
    assert page.embedded["rows"][0]["group"] == EVIL
    nearest = page.embedded["nearest"]
    assert set(nearest) == {"train_0", EVIL, "../outside", "train_1"}
    assert nearest["../outside"] == ""  # sample names cannot leave the folder
    # Nothing but its own script and style may run.
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for name, inside in (("script", page("script")[1]), ("style", page.style)):
        digest = base64.b64encode(hashlib.sha256(inside.string.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_head_and_the_tables_of_the_summary(folder, tmp_path):
    words = Page(write(folder)).words
    assert "12 images fail." in words
    assert "By cause cause images label error 2" in words
    assert "By verdict verdict images none yet 11 label wrong 1" in words
    assert "Suspected labels of images that did not fail id label score suspect kind" in words
    assert f"fine_1 0.900 {BREAK}" in words
    details = write_split(tmp_path, before=True)
    words = Page(write_report(details.analysis.folder, CLASSES, details).read_text(encoding="utf-8")).words
    about = "run now", "model Unet, resnet18", "dataset made", "split test, 60 images", "compared with old"
    for told in (*about, "20 images fail: below a mean IoU of 0.", "Glossary"):
        assert told in words
    assert "Costliest confusions truth prediction pixels of true class images gain, mean IoU" in words
    assert "By sequence sequence images failures miou" in words


def test_an_older_folder_and_missing_pictures_are_no_error(folder):
    table = pd.read_csv(folder / "failures.csv", dtype=str, keep_default_na=False)[["id", "miou", "severity"]]
    table.to_csv(folder / "failures.csv", index=False)
    (folder / "suspects.csv").unlink()
    shutil.rmtree(folder / "nearest")
    (folder / "images" / "0042.png").unlink()
    page = Page(write(folder))
    assert "images/0042.png is missing" in page.words  # in the gallery
    assert "images/0042.png is missing" in page.embedded["pictures"]["0042"]["problems"][0]
    assert {facts["cause"] for facts in page.embedded["facts"].values()} == {"cause unknown"}
    table.head(0).to_csv(folder / "failures.csv", index=False)
    page = Page(write(folder))
    assert "0 images fail" in page.words
    assert not page("main")


def test_the_file_is_as_large_as_allowed_and_the_worst_come_with_pictures(folder, monkeypatch):
    text = write(folder)
    limit = len(text.encode()) - len(json.dumps(Page(text).embedded["pictures"])) // 2
    monkeypatch.setattr(report_file, "LIMIT", limit)
    text = write(folder)
    data = Page(text).embedded
    assert 0.9 * limit < len(text.encode()) <= limit
    count = len(data["pictures"])
    assert 0 < count < 12
    assert list(data["pictures"]) == IDS[:count]
    assert len(data["rows"]) == len(data["facts"]) == 12


def test_the_worst_rows_are_listed(folder, monkeypatch):
    monkeypatch.setattr(report_file, "ROWS", 10)
    page = Page(write(folder))
    assert len(page.embedded["rows"]) == len(page.embedded["pictures"]) == 10
    assert "The worst 10 of 12 images are listed here" in page.words


@pytest.fixture
def report(folder):
    """Opens it; on leaving, nothing must have gone wrong and nothing must have been asked for."""
    need_chromium()
    write(folder)
    said, asked = [], []
    address = (folder / "report.html").as_uri()
    yield lambda **options: opened(address, said, asked, **options)
    assert not said
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {address}


def listed(page) -> list[str]:
    return page.locator(".seg-name").all_inner_texts()


@pytest.mark.browser
def test_a_colleague_reads_it(folder, report):
    with report() as page:
        settled(lambda: shown(page), IDS[0])
        settled(lambda: page.locator(".seg-row img[src^='data:']").count() >= 10, True)
        assert listed(page)[:10] == IDS[:10]
        assert page.locator(".seg-count").inner_text() == "1 of 12 failures"
        assert page.locator(".seg-verdicts button:visible, textarea:visible").count() == 0  # read-only
        assert not page.locator(".seg-saved").is_visible()
        assert page.locator("b:text-is('pole'), main script, main img[src='x']").count() == 0

        for label, value, left in (
            ("text", "STREET 0003", ["street00_0003"]), ("text", "no such words", []), ("cause", "rare class", IDS[3::6]),
            ("verdict", "label wrong", ["0042"]), ("class", POLE, [i for k, i in enumerate(IDS) if k % 3]),
            ("sequence", "street00", IDS[7:]), ("confusion", "car -> road", IDS[::2]),
        ):  # fmt: skip
            control = menu(page, label)
            control.fill(value) if label == "text" else control.select_option(value)
            assert listed(page)[:10] == left[:10], label
            assert page.locator(".seg-main").is_visible() == bool(left)
            page.get_by_role("button", name="Reset").click()
        miou = pd.read_csv(folder / "failures.csv")["miou"]
        menu(page, "mean IoU from").fill(str(miou[2]))
        menu(page, "to").fill(str(miou[5]))
        assert listed(page) == IDS[2:6]
        page.get_by_role("button", name="Reset").click()
        menu(page, "sort by").select_option(label="IoU, best first")
        assert listed(page)[0] == IDS[-1]

        # Steps by key and button; verdict, note and facts are shown.
        page.locator(".seg-row", has_text="0042").first.click()
        settled(lambda: shown(page), "0042")
        assert page.locator(".seg-status").inner_text().startswith("label wrong\n<script>evil()</script>\n")
        facts = page.locator(".seg-facts").inner_text()
        for text in ("unlike training", "→ Look at the mask", "false negative 0.", "> building, +0."):
            assert text in facts
        assert page.locator(".seg-near img[src^='data:']").count() == 3


WHITE = """() => { const c = document.querySelector(".seg-picture canvas"); let n = 0;
new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)
.forEach((v) => { n += v === 0xffffffff; }); return n; }"""


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
        box = canvas.bounding_box()
        canvas.hover(position={"x": 100, "y": box["height"] * 0.9})
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
        page.emulate_media(media="print")
        assert not page.locator("main").is_visible()
        assert page.locator(".seg-gallery img:visible").count() == 4 * 12
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    with report(java_script_enabled=False) as page:
        assert page.locator(".seg-gallery img:visible").count() == 4 * 12
        assert page.locator("noscript").inner_text().startswith("Scripts are off")


@pytest.mark.browser
def test_charts_are_linked_without_a_kernel_on_a_phone(tmp_path):
    need_chromium()
    details, said = write_split(tmp_path, browse="all", before=True), []
    path = write_report(details.analysis.folder, CLASSES, details)
    with opened(path.as_uri(), said, viewport={"width": 400, "height": 800}) as page:
        settled(lambda: page.locator(".seg-count").inner_text().endswith("of 60 images"), True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        bar = page.locator(".seg-matrix button:enabled").first
        images = bar.get_attribute("aria-label").split(" in ")[1].split()[0]
        bar.click()
        settled(lambda: page.locator(".seg-count").inner_text().split(" of ")[1].split()[0], images)
        assert page.evaluate("location.hash").startswith("#confusion=")
    assert not said
