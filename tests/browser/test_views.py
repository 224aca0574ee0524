"""From a number to its images: charts, map, sequence, two runs and verdicts of the front end, in a real Chromium."""

import numpy as np
import pytest
from chromium_page import live, menu, need_chromium, settled, shown
from made_split import CLASSES, names, write_split

from seglib.browser import FailureBrowser

pytestmark = pytest.mark.browser
IDS = names(60)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A function: options of `write_split` -> the page of a browser, with its details as `page.details`."""
    need_chromium()

    def opens(view=None, **options):
        details = write_split(tmp_path, **options)
        return details, live(tmp_path, FailureBrowser(details), monkeypatch, **(view or {}))

    return opens


def count(page) -> str:
    return page.locator(".seg-count").inner_text().split(" of ", 1)[-1]


def filters(page) -> str:
    return page.evaluate("model.text")


def test_charts_filter_to_exactly_the_images_they_count(page):
    details, opened = page(browse="all")
    evaluation, names = details.analysis.evaluation, CLASSES.names
    with opened as page:
        assert count(page) == "60 images"
        # A confusion: every image that has it, by its pixels, largest first.
        pixels = evaluation.confusions[:, 3, 2]
        page.locator(f".seg-matrix button[aria-label^='{names[3]} -> {names[2]}:']").click()
        order = [IDS[k] for k in np.argsort(-pixels, kind="stable") if pixels[k]]
        settled(lambda: count(page), f"{len(order)} chosen (20 failures in all)")
        ranks = [pixels[IDS.index(name)] for name in page.locator(".seg-name").all_inner_texts()]
        assert ranks == sorted(pixels[pixels > 0], reverse=True)[: len(ranks)]
        assert page.locator(".seg-bar button:has-text('car -> road, most pixels first')").count() == 1
        # Filters combine, and are one string.
        page.locator(".seg-columns button:not([aria-label$=': 0 images'])").first.click()
        settled(lambda: filters(page).split("&")[0], "confusion=car+-%3E+road")
        low, high = map(float, filters(page).split("IoU=")[1].split("+to+"))
        miou = evaluation.per_image["miou"]
        settled(lambda: count(page).split()[0], str(((miou >= low) & (miou < high) & (pixels > 0)).sum()))
        page.get_by_label("save filters as").fill("my cars")
        page.get_by_label("save filters as").press("Enter")
        page.get_by_role("button", name="Reset").click()
        settled(lambda: filters(page), "")
        bar = page.locator(".seg-chart button[aria-label^='rare class']")
        images = bar.get_attribute("aria-label").split(": ")[1].split()[0]
        bar.click()
        settled(lambda: count(page).split()[0], images)
        menu(page, "saved filters").select_option("my cars")
        settled(lambda: filters(page).startswith("confusion=car+-%3E+road&IoU="), True)
    assert "my cars" in (details.analysis.folder / "views.json").read_text()


def test_two_runs_passing_images_and_verdicts(page):
    details, opened = page(before=True)
    before = details.before.per_image.set_index("id")["miou"]
    now = details.analysis.images.set_index("id")
    with opened as page:
        assert count(page) == "20 failures"
        first = shown(page)
        head = page.locator(".seg-head b").first.inner_text()
        assert head == f"{before[first]:.3f} → {now['miou'][first]:.3f}"
        page.get_by_role("button", name="before", exact=True).click()
        assert page.locator(".seg-legend").inner_text()
        # What the new run fixed passes now: it is listed all the same, and its pictures come from the dataset.
        fixed = [i for i in IDS if before[i] < details.threshold.value <= now["miou"][i]]
        menu(page, "change").select_option(f"fixed ({len(fixed)})")
        settled(lambda: count(page).split()[0], str(len(fixed)))
        settled(lambda: shown(page) in fixed, True)
        assert page.locator(".seg-problem").inner_text() == ""
        page.get_by_role("button", name="Reset").click()
        menu(page, "images").select_option("passing")
        settled(lambda: count(page).split()[0], "40")
        page.get_by_role("button", name="Reset").click()
        # A verdict steps on, and undo takes it back; several at once; the last verdict on top.
        page.locator(".seg-browser").focus()
        page.keyboard.press("Home")
        settled(lambda: shown(page), first)
        page.keyboard.press("1")
        settled(lambda: shown(page) != first, True)
        label = page.locator(".seg-verdicts .seg-label")
        settled(label.inner_text, "your verdict: 1 of 20 judged")
        page.keyboard.press("u")
        settled(label.inner_text, "your verdict: 0 of 20 judged")
        page.get_by_label("step on").uncheck()
        rows = page.locator(".seg-row")
        rows.nth(0).click()
        rows.nth(3).click(modifiers=["Shift"])
        page.keyboard.press("2")
        settled(label.inner_text, "your verdict: 4 of 20 judged")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert page.get_by_text("take the last verdict back").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("End")
        settled(lambda: page.locator(".seg-count").inner_text().startswith("20 of"), True)
        page.keyboard.press("3")
        menu(page, "sort by").select_option("last verdict first")
        settled(lambda: page.locator(".seg-given").first.inner_text() != "", True)


def test_sequence_similar_training_map_and_window(page):
    details, opened = page(view={"color_scheme": "dark", "viewport": {"width": 1000, "height": 900}})
    with opened as page:
        page.locator(".seg-row", has_text="street00").first.click()
        settled(lambda: shown(page).startswith("street00"), True)
        strip = page.locator(".seg-strip")
        box = strip.bounding_box()
        strip.click(position={"x": box["width"] - 3, "y": 20})  # the last frame of the sequence passes
        settled(lambda: shown(page), "street00_0024")
        assert "not in the list" in page.locator(".seg-count").inner_text()
        page.locator(".seg-near").nth(1).locator("figure").first.click()
        settled(lambda: shown(page), details.similar("street00_0024")[0])
        page.locator(".seg-near").nth(0).locator("figure").first.click()
        settled(lambda: shown(page), "train_0")
        assert page.get_by_role("button", name="ground truth").is_enabled()
        assert page.get_by_role("button", name="prediction", exact=True).is_disabled()

        page.get_by_role("button", name="map").click()
        box = page.locator(".seg-map canvas").bounding_box()
        middle = box["x"] + box["width"] / 2
        page.mouse.move(middle, box["y"] + 4)
        page.mouse.down()
        for x, y in ((box["x"] + 2, 4), (box["x"] + 2, 290), (middle, 290)):
            page.mouse.move(x, box["y"] + y, steps=6)
        page.mouse.up()
        settled(lambda: "map=" in filters(page), True)
        settled(lambda: count(page).endswith("chosen (20 failures in all)"), True)
        assert 0 < int(count(page).split()[0]) < 20
        page.get_by_role("button", name="map: lasso").click()
        page.locator(".seg-browser").focus()
        page.keyboard.press("w")
        assert page.locator(".seg-main").bounding_box()["width"] == 1000
        page.keyboard.press("Escape")
        assert page.locator(".seg-main").bounding_box()["width"] < 1000
