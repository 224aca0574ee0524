"""Record a tour of the failure browser: `python benchmarks/browser_gif.py report.html` writes docs/browser.gif.

04 writes the report, with `browse=all`. docs/browser.gif shows CamVid's drive 0016E5 with a threshold of 0.45 and a model that was
trained on the other two drives (that of unseen_drive.py, predicted with 03's defaults).
"""

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

POINTER = [(0, 0), (0, 20), (5, 15), (9, 23), (12, 22), (8, 14), (15, 14)]
LASSO = [(0.53, 0.4), (0.42, 0.4), (0.42, 0.6), (0.48, 0.8), (0.53, 0.8), (0.53, 0.4)]  # shares of the map


def record(page: Page, cell: str) -> list[Image.Image]:
    """Go through the browser, with a click on a `cell` of the matrix; return the frames."""
    frames, top = [], "html"

    def keep(x: float, y: float) -> None:
        page.evaluate("top => document.querySelector(top).scrollIntoView()", top)
        page.wait_for_timeout(600)  # images and charts are drawn a moment later
        frame = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        ImageDraw.Draw(frame).polygon([(x + dx, y + dy) for dx, dy in POINTER], "white", "black")
        frames.append(frame.quantize(160, Image.Quantize.MEDIANCUT, kmeans=3))

    def click(css: str) -> None:
        box = page.locator(css).bounding_box()
        page.dispatch_event(css, "click")  # a real click would scroll
        keep(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    keep(150, 560)
    top = ".seg-charts"
    keep(150, 280)
    for css in (
        ".seg-row >> nth=1",
        "[title^='layer: errors']",
        cell,
        "[title^='layer: all']",
        ".seg-row >> nth=2",
    ):
        click(css)
    for name in ("Reset", "charts", "map"):
        page.dispatch_event(f"button:text-is('{name}')", "click")
    page.get_by_label("colour by").select_option("split")
    top = ".seg-mapped"
    keep(380, 20)
    left, above, width, height = page.locator(".seg-map canvas").bounding_box().values()
    for k, (u, v) in enumerate(LASSO):
        page.mouse.move(x := left + u * width, y := above + v * height, steps=5)
        if k == 0:
            page.mouse.down()
    keep(x, y)
    page.mouse.up()
    keep(x, y)
    return frames


with sync_playwright() as playwright:
    chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    tab = chromium.new_page(viewport={"width": 1200, "height": 800})
    tab.goto(Path(sys.argv[1]).resolve().as_uri())
    first, *rest = record(tab, "[aria-label^='bicyclist -> pedestrian: ']")
    first.save("docs/browser.gif", save_all=True, append_images=rest, duration=2500, loop=0, optimize=False)
