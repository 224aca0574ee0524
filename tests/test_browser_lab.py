"""The failure browser in a real JupyterLab in a real Chromium: what a person clicks, and what is there after a reload."""

from __future__ import annotations

import json
import os
import re
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

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from seglib.classes import IGNORE, ClassMap
from seglib.review import GALLERY

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
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
CLASSES = ClassMap(("sky", "road", "car", "<b>pole</b>"))
SAMPLES = {"night_1": 0.062, "street_2": 0.244, "street_3": 0.377, "dusk_4": 0.461}
ONE, ALL_FOUR = (
    15 * 64,
    2 * 7 * 64 + 8,
)  # columns of the pictures: enlarged to fill the page, and the gap between panels
WAIT = 60_000  # milliseconds, for a machine that trains meanwhile; 1-2 seconds otherwise


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """JupyterLab on a folder with failures and a notebook that browses them: (folder, address)."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or Chrome)")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("lab")
    write_failures(folder / "failures")
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


def write_failures(folder: Path) -> None:
    """Four failures of 48x64 pixels with one band unscored, and their tables."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks", "predictions"):
        (folder / kind).mkdir(parents=True)
    truth = np.zeros((48, 64), np.uint8)
    truth[24:], truth[30:40, 10:26], truth[8:30, 50:53], truth[46:] = 1, 2, 3, IGNORE
    for k, name in enumerate(SAMPLES):
        pred = truth.copy()
        pred[truth == 3] = 0
        pred[24:, : 16 * (4 - k)] = 2
        noise = rng.integers(0, 30, (48, 64, 1))
        Image.fromarray((CLASSES.colorize(truth) // 2 + 60 + noise).astype(np.uint8)).save(
            folder / "images" / f"{name}.png"
        )
        for kind, ids in (("masks", truth), ("predictions", pred)):
            picture = Image.fromarray(ids)
            picture.putpalette(CLASSES.palette().tobytes())
            picture.save(folder / kind / f"{name}.png")
    worst = ["car", "<b>pole</b>", "<b>pole</b>", "<b>pole</b>"]
    severity = ["guessing", "clear", "clear", "near-threshold"]
    table = {
        "id": SAMPLES.keys(),
        "miou": SAMPLES.values(),
        "severity": severity,
        "worst_class": worst,
        "worst_class_iou": 0.0,
    }
    pd.DataFrame(table | {"top_confusion": "road -> car", "top_confusion_share": 0.31, "group": "street"}).to_csv(
        folder / "failures.csv", index=False
    )
    ious = {
        "id": SAMPLES.keys(),
        "sky": 0.9,
        "road": [0.1, 0.3, 0.6, 0.7],
        "car": [0.0, 0.1, 0.2, 0.9],
        "<b>pole</b>": [0.3, 0.0, 0.0, 0.0],
    }
    pd.DataFrame(ious).to_csv(folder / "class_ious.csv", index=False)


def write_notebook(path: Path) -> None:
    source = (
        "import pandas as pd\nfrom seglib.browser import FailureBrowser\nfrom seglib.classes import ClassMap\n"
        f"classes = ClassMap({CLASSES.names!r})\n"
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
            page = chromium.new_page(viewport={"width": 1500, "height": 1150})
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
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    browser = page.locator(".seg-browser").first
    browser.locator(".seg-picture").wait_for(timeout=2 * WAIT)
    return browser


def settled(read, expected, seconds: float = WAIT / 1000):
    """Wait until `read()` gives `expected`: the kernel answers a moment after a click."""
    end = time.monotonic() + seconds
    while (value := read()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert value == expected


def title(browser) -> str:
    return browser.locator("h4").inner_text()


def listed(browser) -> list[str]:
    return [re.sub(r"[\s\u00a0]+", " ", t).strip() for t in browser.locator(".widget-select option").all_inner_texts()]


def shot(page, name: str, folder: Path) -> None:
    page.screenshot(path=Path(os.environ.get("SEGLIB_SHOTS", folder)) / f"{name}.png")


def test_browse_filter_judge_and_find_it_again(lab: tuple[Path, str]) -> None:
    folder, address = lab
    with opened(address) as page:
        browser = run_all(page)
        settled(lambda: title(browser), "night_1")
        shot(page, "1_opened", folder)
        assert listed(browser)[0] == "0.062 night_1 car"
        assert browser.locator(".seg-legend b").count() == 0
        assert "<b>pole</b>" in browser.locator(".seg-legend").inner_text()

        image = browser.locator("img.seg-picture")
        width = lambda: image.evaluate("i => i.complete && i.naturalWidth")  # noqa: E731
        settled(width, ALL_FOUR)
        browser.get_by_role("button", name="Next").click()
        settled(lambda: title(browser), "street_2")
        browser.get_by_role("button", name="errors").click()
        settled(width, ONE)
        shot(page, "2_errors", folder)
        before = image.get_attribute("src")
        browser.locator(".widget-readout").last.click()
        page.keyboard.press("Control+A")
        page.keyboard.type("1.0")
        page.keyboard.press("Enter")
        settled(lambda: image.get_attribute("src") != before, True)

        menus = browser.locator(".widget-dropdown select")
        menus.nth(0).select_option("<b>pole</b>")
        settled(lambda: len(listed(browser)), 3)
        assert title(browser) == "street_2"  # the one on show stays while it passes
        menus.nth(1).select_option("has IoU below 0.5")
        settled(lambda: len(listed(browser)), 4)
        menus.nth(2).select_option("near-threshold")
        settled(lambda: title(browser), "dusk_4")
        browser.get_by_role("button", name="all four").click()
        settled(width, ALL_FOUR)
        browser.get_by_role("button", name="label wrong").click()
        settled(lambda: (folder / "failures" / "verdicts.csv").exists(), True)
        note = browser.locator("input[type=text]").last
        note.fill("the far side is unlabelled, <i>really</i>")
        note.press("Enter")
        settled(lambda: "really" in (folder / "failures" / "verdicts.csv").read_text(), True)
        settled(lambda: "saved" in browser.locator(".seg-status").inner_text(), True)
        shot(page, "3_judged", folder)
        menus.nth(1).select_option("is the worst class")
        browser.get_by_role("button", name="Reset").click()
        settled(lambda: len(listed(browser)), 4)

        page.reload()
        ready(page)
        browser = run_all(page)
        menus = browser.locator(".widget-dropdown select")
        settled(lambda: len(listed(browser)), 4)
        menus.nth(3).select_option("label wrong")
        settled(lambda: title(browser), "dusk_4")
        assert browser.locator("input[type=text]").last.input_value() == "the far side is unlabelled, <i>really</i>"
        assert browser.locator(".seg-side .mod-active").inner_text() == "label wrong"
        shot(page, "4_found_again", folder)
    assert pd.read_csv(folder / "failures" / "verdicts.csv")[["id", "verdict"]].to_numpy().tolist() == [
        ["dusk_4", "label wrong"]
    ]


def test_the_saved_notebook_shows_the_gallery_without_its_kernel(lab: tuple[Path, str]) -> None:
    folder, address = lab
    with opened(address) as page:
        run_all(page)
        settled(lambda: page.locator(".seg-saved").is_visible(), False)  # live: the gallery would only repeat it
        page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        settled(lambda: "seg-saved" in (folder / "browse.ipynb").read_text(), True)
        page.evaluate("() => { jupyterapp.commands.execute('kernelmenu:shutdown'); }")
        page.reload()
        page.locator(".seg-saved").wait_for(timeout=2 * WAIT)
        assert page.locator(".seg-gallery img").count() == 4 * min(len(SAMPLES), GALLERY)
        settled(lambda: "model not found" in page.locator(".jp-OutputArea").inner_text(), False)
        shot(page, "5_without_kernel", folder)
