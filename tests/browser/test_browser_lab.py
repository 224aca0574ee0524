"""The failure browser in a real JupyterLab in a real Chromium: what a person clicks, and what is there after a reload."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import failures_folder as made
import numpy as np
import pandas as pd
import psutil
import pytest
from failures_folder import EVIL, POLE
from PIL import Image

from seglib.browser.gallery import GALLERY

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
IDS = made.names(300)
WAIT = 60_000  # milliseconds, for a machine that trains meanwhile; 1-2 seconds otherwise


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """JupyterLab on a folder with failures and a notebook that browses them: (folder, address)."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or Chrome)")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("lab")
    made.write_folder(folder / "failures", IDS, (120, 160))
    write_notebook(folder / "browse.ipynb")
    with running_lab(folder) as address:
        yield folder, address


@contextmanager
def running_lab(folder: Path) -> Iterator[str]:
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
    for name, values in (
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
        ("notebook-extension/tracker", {"windowingMode": "none"}),
    ):
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    env = os.environ | {"JUPYTER_TOKEN": token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name, part in (
        ("JUPYTER_CONFIG_DIR", "config"), ("JUPYTER_DATA_DIR", "data"), ("JUPYTER_RUNTIME_DIR", "runtime"), ("IPYTHONDIR", "ipython"),
        ("JUPYTERLAB_SETTINGS_DIR", "config/lab/user-settings"), ("JUPYTERLAB_WORKSPACES_DIR", "config/lab/workspaces"),
    ):  # fmt: skip
        env[name] = str(folder / part)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
               "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                if server.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(f"{address}/api?token={token}", timeout=2).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.2)
            else:
                server.poll()
            assert server.poll() is None, (folder / "lab.log").read_text()
            yield f"{address}/lab/tree/browse.ipynb?token={token}"
        finally:
            kernels = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
            server.terminate()
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:  # it waits for a kernel that is just starting
                server.kill()
                server.wait()
            for kernel in kernels:
                with suppress(psutil.NoSuchProcess):
                    kernel.kill()


def write_notebook(path: Path) -> None:
    source = (
        "import pandas as pd\nfrom seglib import layers\nfrom seglib.browser.browser import FailureBrowser\n"
        "from seglib.data.classes import ClassMap\nlayers.QUICK = 10_000  # every picture is a large one: reduced at first\n"
        f"classes = ClassMap({made.CLASSES.names!r})\n"
        "FailureBrowser('failures', classes, pd.read_csv('failures/class_ious.csv', dtype={'id': str}))"
    )
    cell = {
        "cell_type": "code",
        "id": "browse",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": source,
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@contextmanager
def opened(address: str):
    """The notebook in a fresh browser, its kernel ready."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = chromium.new_page(viewport={"width": 1400, "height": 1100})
            page.set_default_timeout(WAIT)
            page.goto(address)
            ready(page)
            yield page
        finally:
            chromium.close()


def ready(page) -> None:
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=2 * WAIT)
    page.wait_for_function(
        "() => window.jupyterapp && jupyterapp.shell.currentWidget && jupyterapp.shell.currentWidget.sessionContext"
        " && jupyterapp.shell.currentWidget.sessionContext.isReady",
        timeout=2 * WAIT,
    )


def run_all(page):
    """Run the notebook; returns the browser's locator. The command is not awaited: it ends only when the kernel is idle."""
    page.evaluate("() => jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.locator(".seg-browser").wait_for(state="detached")  # of an earlier run
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.locator(".seg-browser[data-shown]").wait_for(timeout=2 * WAIT)
    return page.locator(".seg-browser")


def settled(read, expected, seconds: float = WAIT / 1000):
    """Wait until `read()` gives `expected`: the kernel answers a moment after a click."""
    end = time.monotonic() + seconds
    while (value := read()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert value == expected


def shown(browser) -> str:
    """The id of the failure whose picture is drawn."""
    return browser.get_attribute("data-shown")


def menu(page, label: str):
    """A filter, by the text above it."""
    return page.locator(f".widget-vbox:has(> .seg-filter:text-is('{label}'))").last.locator(
        "select, input[type=text]"
    )


def count(browser) -> str:
    return browser.locator(".seg-count").inner_text()


def pixel(page, x: float, y: float) -> list[int]:
    """The colour of the canvas at a share of its width and height."""
    return page.evaluate(
        "([x, y]) => { const c = document.querySelector('.seg-picture canvas');"
        " return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]; }",
        [x, y],
    )


def shot(page, name: str, folder: Path) -> None:
    page.screenshot(path=Path(os.environ.get("SEGLIB_SHOTS", folder)) / f"{name}.png")


def test_browse_filter_judge_and_find_it_again(lab: tuple[Path, str]) -> None:
    folder, address = lab
    saved = folder / "failures" / "verdicts.csv"
    with opened(address) as page:
        browser = run_all(page)
        cells = page.locator(".jp-Notebook .jp-Cell").count()
        assert shown(browser) == IDS[0] == EVIL
        settled(lambda: browser.locator(".seg-row img[src]").count() > 5, True)
        shot(page, "1_opened", folder)
        assert count(browser) == "1 of 300 failures"
        assert browser.locator(".seg-row").count() < 40  # of 300: only those in sight

        # Step by keys, which JupyterLab would take for its own, by button and by row.
        browser.focus()
        page.keyboard.press("j")
        settled(lambda: shown(browser), IDS[1])
        page.keyboard.press("ArrowRight")
        settled(lambda: shown(browser), IDS[2])
        browser.get_by_role("button", name="Next").click()
        settled(lambda: shown(browser), IDS[3])
        page.keyboard.press("k")
        settled(lambda: shown(browser), IDS[2])
        page.keyboard.press("End")
        settled(lambda: shown(browser), IDS[-1])
        browser.locator(".seg-row", has_text=IDS[-3]).click()
        settled(lambda: shown(browser), IDS[-3])

        # Of keys that mean nothing here the page hears none: VS Code would cut the cell at x and delete it at d d.
        page.evaluate(
            "() => { window.heard = []; addEventListener('keydown', (event) => heard.push(event.key)); }"
        )
        for key in ("x", "d", "d", "Delete", "Escape"):
            page.keyboard.press(key)
        assert page.evaluate("() => heard") == ["Escape"]

        # Values under the pointer, against the files.
        page.keyboard.press("i")
        canvas = browser.locator(".seg-picture canvas")
        box = canvas.bounding_box()
        canvas.hover(position={"x": box["width"] * 65.5 / 160, "y": box["height"] * 0.6})

        def place(text: str) -> tuple[int, ...]:
            return tuple(int(part.split()[1]) for part in text.split(" · ")[0].split(", "))

        settled(
            lambda: place(browser.locator(".seg-readout").inner_text())[0], 65
        )  # every second pixel at first
        text = browser.locator(".seg-readout").inner_text()
        x, y = place(text)
        names = (*made.CLASSES.names, *[""] * 249, "not scored")
        read = {
            kind: np.asarray(Image.open(folder / "failures" / kind / f"{IDS[-3]}.png"))
            for kind in ("masks", "predictions", "confidences")
        }
        values = names[read["masks"][y, x]], names[read["predictions"][y, x]], read["confidences"][y, x] / 255
        assert text == "x {}, y {} · truth {} · predicted {} · confidence {:.2f}".format(x, y, *values)

        # The suspect region is outlined, as finely when it is enlarged, and the outline can be put away.
        white = "() => { const c = document.querySelector('.seg-picture canvas'); let n = 0;" \
            " new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)" \
            ".forEach((v) => { n += v === 0xffffffff; }); return n; }"  # fmt: skip
        outlined = page.evaluate(white)
        assert outlined > 50
        page.keyboard.press("+")
        assert 0 < page.evaluate(white) < 2 * outlined
        page.keyboard.press("s")
        assert page.evaluate(white) < outlined / 5
        page.keyboard.press("s")
        page.keyboard.press("f")

        # Layers, opacity and zoom need no kernel.
        plain = pixel(page, 0.5, 0.9)
        page.keyboard.press("t")
        half = pixel(page, 0.5, 0.9)
        browser.locator(".seg-opacity input").fill("100")
        full = pixel(page, 0.5, 0.9)
        assert full[:3] == made.CLASSES.colors[2].tolist()
        assert sum(np.abs(np.subtract(plain, full))) > sum(np.abs(np.subtract(half, full))) > 0
        page.keyboard.press("i")
        before = pixel(page, 0.9, 0.1), pixel(page, 0.1, 0.9)
        browser.focus()
        canvas.hover(position={"x": box["width"] * 0.5, "y": box["height"] * 0.6})
        page.mouse.wheel(0, -900)
        settled(lambda: (pixel(page, 0.9, 0.1), pixel(page, 0.1, 0.9)) != before, True)
        page.keyboard.press("f")
        settled(lambda: (pixel(page, 0.9, 0.1), pixel(page, 0.1, 0.9)), before)
        page.keyboard.press("a")
        shot(page, "2_stepped", folder)

        # Filter.
        menu(page, "cause").select_option("degraded image (50)")
        settled(lambda: count(browser).endswith("of 50 chosen (300 failures in all)"), True)
        menu(page, "class").select_option(POLE)
        menu(page, "text").fill("STREET01")
        settled(lambda: count(browser).endswith("of 4 chosen (300 failures in all)"), True)
        settled(lambda: shown(browser).startswith("street01"), True)
        first = shown(browser)

        # Judge by key, note by typing; the note stays with its image although one steps on at once.
        browser.focus()
        page.keyboard.press("2")
        settled(saved.exists, True)
        page.keyboard.press("n")
        page.keyboard.type("the far side is unlabelled, <i>really</i>")
        shot(page, "3_judged", folder)
        browser.get_by_role("button", name="Next").click()
        settled(lambda: shown(browser) != first, True)
        settled(lambda: "really" in saved.read_text(), True)
        assert browser.locator("textarea").input_value() == ""
        page.locator(".jp-OutputArea").get_by_role("button", name="Reset").click()
        settled(lambda: "of 300 failures" in count(browser), True)
        assert page.locator(".jp-Notebook .jp-Cell").count() == cells

        page.reload()
        ready(page)
        browser = run_all(page)
        menu(page, "verdict").select_option("label wrong")
        settled(lambda: shown(browser), first)
        assert browser.locator("textarea").input_value() == "the far side is unlabelled, <i>really</i>"
        assert browser.locator(".seg-verdicts [aria-pressed=true]").inner_text() == "2 label wrong"
        assert browser.locator(".seg-row .seg-given").first.inner_text() == "✓ label wrong"
        shot(page, "4_found_again", folder)
        assert page.evaluate("() => window.hacked === undefined")
        made_up = "b:text-is('pole'), script, img[src='x']"  # elements, had a name become HTML
        assert browser.locator(made_up).count() == 0
    assert pd.read_csv(saved)[["id", "verdict"]].to_numpy().tolist() == [[first, "label wrong"]]


def test_the_next_picture_is_there_in_a_moment_and_a_held_key_does_not_queue_up(
    lab: tuple[Path, str],
) -> None:
    _, address = lab
    with opened(address) as page:
        browser = run_all(page)
        browser.focus()
        settled(lambda: browser.locator(".seg-row img[src]").count() > 5, True)
        step = """(by) => new Promise((done) => {
            const root = document.querySelector(".seg-browser"), start = performance.now();
            new MutationObserver((_, self) => { self.disconnect(); done(performance.now() - start); })
                .observe(root, {attributes: true, attributeFilter: ["data-shown"]});
            root.dispatchEvent(new KeyboardEvent("keydown", {key: by, bubbles: true}));
        })"""
        taken = sorted(page.evaluate(step, "j") for _ in range(30))
        print(f"next picture: median {taken[15]:.0f} ms, slowest {taken[-1]:.0f} ms")
        assert taken[15] < 1000  # 100 ms on an idle machine; tests share theirs
        page.evaluate(
            "() => { for (let k = 0; k < 100; k++) document.querySelector('.seg-browser')"
            ".dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true})); }"
        )
        settled(lambda: shown(browser), IDS[130])


def test_the_saved_notebook_shows_the_gallery_without_its_kernel(lab: tuple[Path, str]) -> None:
    folder, address = lab
    with opened(address) as page:
        run_all(page)
        settled(
            lambda: page.locator(".seg-saved").is_visible(), False
        )  # live: the gallery would only repeat it
        hidden = page.evaluate(
            "() => { const area = document.querySelector('.jp-OutputArea:has(.seg-browser)');"
            " const saved = area.querySelector('.seg-saved'), names = ['cell_container', '', area.className];"
            " return names.map((name) => {"
            " area.className = name; return getComputedStyle(saved).display === 'none'; }); }"
        )
        assert hidden == [True, False, True]  # VS Code calls a cell's outputs a cell_container
        page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        settled(lambda: "seg-saved" in (folder / "browse.ipynb").read_text(), True)
        page.evaluate("() => { jupyterapp.commands.execute('kernelmenu:shutdown'); }")
        page.reload()
        page.locator(".seg-saved").wait_for(timeout=2 * WAIT)
        assert page.locator(".seg-gallery img").count() == 4 * min(len(IDS), GALLERY)
        settled(lambda: "model not found" in page.locator(".jp-OutputArea").inner_text(), False)
        shot(page, "5_without_kernel", folder)
