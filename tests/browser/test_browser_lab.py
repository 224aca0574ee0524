"""The failure browser in a real JupyterLab in a real Chromium: what a person clicks, and what is there after a reload."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from chromium_page import WAIT, menu, need_chromium, opened, settled, shown
from made_split import EVIL, names

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
IDS = names(300)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """JupyterLab on a folder with a notebook that browses 300 failures: (folder, address)."""
    need_chromium()
    folder = tmp_path_factory.mktemp("lab")
    source = "import made_split, pathlib, seglib.browser\n"
    source += "seglib.browser.FailureBrowser(made_split.write_split(pathlib.Path.cwd(), 300, 300))"
    cell = nbformat.v4.new_code_cell(source)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "browse.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, path = secrets.token_hex(16), f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    env = os.environ | {"JUPYTER_TOKEN": token, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    kinds = "_CONFIG", "_DATA", "_RUNTIME", "LAB_WORKSPACES", "LAB_SETTINGS"
    env |= {f"JUPYTER{kind}_DIR": str(folder / kind) for kind in kinds}
    env["IPYTHONDIR"] = str(folder / "ipython")
    flags = ("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0")
    flags += ("--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=")
    command = [sys.executable, "-m", "jupyterlab", *flags]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            said = (folder / "lab.log").read_text
            settled(lambda: server.poll() is not None or " is running at:" in said(), True)
            assert server.poll() is None, said()
            yield folder, f"http://127.0.0.1:{port}/lab/tree/browse.ipynb?token={token}"
        finally:
            server.terminate()  # it ends its kernels
            server.wait(timeout=60)


def run_all(page):
    """Run the notebook; returns the browser's locator. The command is not awaited: it ends only when the kernel is idle."""
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=2 * WAIT)
    ready = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady"
    page.wait_for_function(ready, timeout=2 * WAIT)
    page.evaluate("() => jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.locator(".seg-browser").wait_for(state="detached")  # of an earlier run
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.locator(".seg-browser[data-shown]").wait_for(timeout=2 * WAIT)
    return page.locator(".seg-browser")


def test_browse_filter_judge_and_find_it_again(lab) -> None:
    folder, address = lab
    saved = folder / "now" / "failures" / "test" / "verdicts.csv"
    with opened(address, []) as page:
        browser = run_all(page)
        assert shown(page) == IDS[0] == EVIL
        settled(lambda: browser.locator(".seg-row img[src]").count() > 5, True)
        assert browser.locator(".seg-count").inner_text() == "1 of 300 failures"
        assert browser.locator(".seg-row").count() < 40  # of 300: only those in sight
        # Step by keys, which JupyterLab would take for its own, by button and by row.
        browser.focus()
        for key, name in (("j", IDS[1]), ("ArrowRight", IDS[2]), ("k", IDS[1]), ("End", IDS[-1])):
            page.keyboard.press(key)
            settled(lambda name=name: shown(page), name)
        first = IDS[-3]
        browser.locator(".seg-row", has_text=first).click()
        settled(lambda: shown(page), first)
        for key in ("x", "d", "d"):  # keys that cut and delete cells
            page.keyboard.press(key)
        # Judge by key, note by typing; the note stays with its image although one steps on at once.
        browser.get_by_label("step on").uncheck()
        browser.focus()
        page.keyboard.press("2")
        settled(saved.exists, True)
        page.keyboard.press("n")
        page.keyboard.type("the far side is unlabelled, <i>really</i>")
        browser.get_by_role("button", name="Next").click()
        settled(lambda: shown(page) != first, True)
        settled(lambda: "really" in saved.read_text(), True)
        assert browser.locator("textarea").input_value() == ""
        assert page.locator(".jp-Notebook .jp-Cell").count() == 1  # no key reached the notebook

        page.reload()
        browser = run_all(page)
        menu(page, "verdict").select_option("label wrong")
        settled(lambda: shown(page), first)
        assert browser.locator("textarea").input_value() == "the far side is unlabelled, <i>really</i>"
        assert browser.locator(".seg-verdicts [aria-pressed=true]").inner_text() == "2 label wrong"
        assert page.evaluate("() => window.hacked === undefined")
    assert pd.read_csv(saved)[["id", "verdict"]].to_numpy().tolist() == [[first, "label wrong"]]


def test_a_held_key_does_not_queue_up_and_the_saved_notebook_shows_a_picture(lab) -> None:
    folder, address = lab
    with opened(address, []) as page:
        browser = run_all(page)
        browser.focus()
        press = "browser.dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}))"
        browser.evaluate(f"(browser) => {{ for (let k = 0; k < 100; k++) {press}; }}")
        settled(lambda: shown(page), IDS[100])
        # Saved and without its kernel, the notebook shows a picture, which would only repeat the live browser.
        assert not page.locator(".seg-saved").is_visible()
        assert not page.locator(".jp-RenderedImage img").is_visible()
        page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        settled(lambda: "seg-saved" in (folder / "browse.ipynb").read_text(), True)
        page.evaluate("() => { jupyterapp.commands.execute('kernelmenu:shutdown'); }")
        page.reload()
        page.locator(".seg-saved").wait_for(timeout=2 * WAIT)
        assert page.locator(".jp-RenderedImage img").is_visible()


def test_a_verdict_that_no_kernel_takes_is_kept_until_one_does(lab) -> None:
    folder, address = lab
    saved = folder / "now" / "failures" / "test" / "verdicts.csv"
    saved.unlink(missing_ok=True)
    with opened(address, []) as page:
        browser = run_all(page)
        page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        browser.get_by_label("step on").uncheck()
        browser.focus()
        page.keyboard.press("3")
        settled(browser.locator(".seg-status").inner_text, "not saved: run this cell again")
        assert browser.locator(".seg-verdicts [aria-pressed=true]").count() == 0
        assert not saved.exists()
        page.reload()  # what was not saved stays with the page
        browser = run_all(page)
        settled(saved.exists, True)
        settled(lambda: browser.locator(".seg-verdicts [aria-pressed=true]").inner_text(), "3 ambiguous")
        kept = "() => Object.keys(sessionStorage).filter((key) => key.startsWith('seglib ')).length"
        settled(lambda: page.evaluate(kept), 0)
    assert pd.read_csv(saved)[["id", "verdict"]].to_numpy().tolist() == [[IDS[0], "ambiguous"]]
