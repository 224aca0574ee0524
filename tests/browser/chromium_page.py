"""A real Chromium for the tests of the front end: started, watched and closed."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WAIT = 60_000  # milliseconds, for a machine that trains meanwhile; 1-2 seconds otherwise


def need_chromium() -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or Chrome)")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")


@contextmanager
def opened(address: str, said: list, asked: list | None = None, **options) -> Iterator:
    """The address in a fresh Chromium; `said` collects the page's messages and errors, `asked` what it loads."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            page = chromium.new_page(**{"viewport": {"width": 1400, "height": 1100}} | options)
            page.set_default_timeout(WAIT)
            page.on("console", lambda m: m.text.startswith("Canvas2D: Multiple") or said.append(m.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked is None or asked.append(request.url))
            page.goto(address)
            yield page
        finally:
            chromium.close()


def settled(read: Callable[[], object], expected: object) -> None:
    """Wait until `read()` gives `expected`: a picture is drawn a moment after a click."""
    end = time.monotonic() + WAIT / 1000
    while (value := read()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert value == expected


def shown(page) -> str:
    return page.locator(".seg-browser").get_attribute("data-shown")


def menu(page, label: str):
    """A filter, by the text above it."""
    return page.locator(f".seg-filter [aria-label='{label}']")


def pixel(page, x: float, y: float) -> list[int]:
    """The colour of the canvas at a share of its width and height."""
    return page.evaluate(
        "([x, y]) => { const c = document.querySelector('.seg-picture canvas');"
        " return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]; }",
        [x, y],
    )


PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>%s</style><main id="host"></main><script type="module">%s
const hears = new Set();
const model = {
  text: "", on: (_, hear) => hears.add(hear), off: (_, hear) => hears.delete(hear), get: () => model.text,
  set: (_, text) => { model.text = text; }, save_changes: () => {},
  send: async (message) => {
    const [content, buffers] = await window.kernel(message);
    const bytes = async (text) => new DataView(await (await fetch(`data:;base64,${text}`)).arrayBuffer());
    const views = await Promise.all(buffers.map(bytes));
    for (const hear of hears) hear(content, views);
  },
};
window.model = model;
new Browser(new Kernel(model), document.getElementById("host"));
</script>"""


@contextmanager
def live(folder: Path, browser, monkeypatch, **options) -> Iterator:
    """The front end of a FailureBrowser in a page whose kernel is this process; much faster than JupyterLab."""
    from seglib.browser.report import SCRIPT, STYLE

    answers: list = []
    monkeypatch.setattr(browser.widget, "send", lambda *answer: answers.append(answer))

    def kernel(message: dict) -> list:
        browser._answer(browser.widget, message, [])
        content, buffers = answers.pop()
        return [content, [base64.b64encode(data).decode() for data in buffers]]

    around = (Path(__file__).parents[2] / "seglib" / "browser" / "report.css").read_text()
    (folder / "live.html").write_text(PAGE % (STYLE + around, SCRIPT), encoding="utf-8")
    said: list[str] = []
    with opened("about:blank", said, **options) as page:
        page.expose_function("kernel", kernel)
        page.goto((folder / "live.html").as_uri())
        page.locator(".seg-browser[data-shown]").wait_for()
        yield page
    assert not said
