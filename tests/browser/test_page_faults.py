"""What the page does when something is lost: a damaged run, a deleted one, a server that ends and comes back."""

import shutil
import subprocess
import sys

import pytest
from looked_at import address, served

from gpt.look import kept_steps


@pytest.fixture(scope="module")
def copies(site, tmp_path_factory):
    """Runs that may be harmed: `text`, `other`, and `damaged`, whose config is not JSON."""
    folder = tmp_path_factory.mktemp("harmed") / "runs"
    for name in ("text", "other", "damaged"):
        shutil.copytree(site.runs / "text", folder / name)
    (folder / "damaged" / "config.json").write_text("{")
    return folder


def opened(page, url: str, where: str) -> None:
    page.goto("about:blank")
    page.goto(f"{url.rstrip('/')}/#{where}")
    page.wait_for_selector("#nav a[aria-current]")


@pytest.fixture
def lenient(page, errors):
    """A page of another server than `site`, in which requests fail."""
    yield page
    assert not any("exception" in error for error in errors), errors
    errors.clear()


def test_a_damaged_run_is_announced_and_explained(lenient, copies):
    with served(copies) as (_, url):
        said = []
        lenient.on("console", lambda message: said.append(message.text))
        opened(lenient, url, "tokens?run=text")
        assert not said, "no warning that only the console shows"
        lenient.get_by_role("link", name="1 run cannot be read").click()
        lenient.wait_for_selector("#view.view-runs tbody tr")
        (row,) = [text for text in lenient.locator("#view tbody tr").all_inner_texts() if "damaged" in text]
        assert "config.json" in row
        assert lenient.locator("#run option").all_inner_texts() == ["other", "text"]


def test_a_deleted_run_is_said(lenient, copies):
    with served(copies) as (_, url):
        opened(lenient, url, "tokens?run=other&text=one")
        lenient.wait_for_selector(".token-list")
        (copies / "other").rename(copies / ".gone")
        try:
            lenient.locator("#text-bar textarea").fill("two")
            lenient.wait_for_function("document.querySelector('#run').value === 'text'")
            assert "other is not here any more" in lenient.locator("#checkpoint").inner_text()
            lenient.wait_for_selector("#view .token-list li")
            lenient.wait_for_selector(".error", state="detached")
        finally:
            (copies / ".gone").rename(copies / "other")


def test_a_server_that_ends_and_comes_back(lenient, copies):
    with served(copies) as (process, url):
        opened(lenient, url, "tokens?run=text&text=one")
        lenient.wait_for_selector(".token-list")
        process.kill()
        process.wait()
        port = url.rstrip("/").rpartition(":")[2]
        for view in ("tokens", "attention", "lens", "residual", "embeddings", "learn", "training", "runs", "write"):
            lenient.evaluate(f"location.hash = '{view}?run=text&text={view}'")
            lenient.wait_for_selector(f"#view.view-{view}")
            error = lenient.locator("#view .error").first
            assert error.inner_text() == "the server does not answer: is gpt look still running?", view
        command = [sys.executable, "-m", "gpt", "look", copies, "--no-browser", "--port", port]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as again:
            try:
                address(again)
                lenient.evaluate("location.hash = 'tokens?run=text&text=two'")
                lenient.wait_for_selector("#view.view-tokens .token-list li")
                assert lenient.locator(".error").count() == 0
            finally:
                again.terminate()


def test_a_run_that_changes_while_a_view_computes(page, site):
    """The answer that is shown is that of the run and checkpoint chosen last."""
    opened(page, site.url, "tokens?run=text&text=take+one+down")
    page.wait_for_selector(".token-list")
    for view in ("attention", "lens", "residual", "embeddings"):
        page.evaluate(f"location.hash = '{view}?run=text&text=take+one+down'")
        for run in ("gpt2", "text", "instruct", "text"):
            page.locator("#run").select_option(run)
        page.locator("#checkpoint input").focus()
        for _ in kept_steps(site.runs / "text"):
            page.keyboard.press("ArrowLeft")
        page.wait_for_function("document.querySelector('#checkpoint output').textContent === 'step 0'")
        page.wait_for_function("!document.querySelector('[aria-busy=true]')")
        assert page.locator("#view .error").count() == 0
        assert page.locator("#run").input_value() == "text"
