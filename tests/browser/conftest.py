"""Fixtures for tests of the page of `gpt look` in a real browser: Playwright with the system's Chromium.

    def test_something(page, site):
        page.goto(f"{site.url}/#tokens?run=text")

`site.runs` has the runs `text` (checkpoints at steps 0, 10, ..., 50 or most of them), `classifier`, `instruct` and
`gpt2`. A test fails on an error in the console, on an exception in the page and on a request to another server; a test
that provokes one looks into the fixture `errors` and clears it. Without Playwright or Chromium the tests are skipped.
All tests here are slow.
"""

import shutil
import time
from functools import partial
from pathlib import Path

import pytest
from looked_at import Site, made_once, served, shared_folder, snapshot

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A server with small runs: `.url` and `.runs`. Each process of pytest-xdist has its own; the runs are shared.

    Whatever the tests do in the page, it changes no byte of a run, and no file appears.
    """
    runs = made_once(shared_folder(tmp_path_factory) / "runs")
    before = snapshot(runs)
    with served(runs) as (_, address):
        yield Site(address.rstrip("/"), runs)
    assert snapshot(runs) == before


@pytest.fixture(scope="module")
def context():
    """A browser's context, one a module: Playwright's event loop would disturb other tests, which use asyncio."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install -e '.[browser]'")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        context.set_default_timeout(30_000)  # conditions are waited for: a loaded machine needs longer
        yield context
        browser.close()


@pytest.fixture
def errors():
    """What went wrong in the page: a test fails if something is left here."""
    return []


@pytest.fixture
def page(context, site, errors):
    """A page of Playwright's synchronous API, 1200 x 800 pixels."""
    page = context.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(f"exception: {error}"))
    page.on("request", lambda request: None if local(request.url, site) else errors.append(f"asks {request.url}"))
    page.wait_for_function = partial(wait_for_function, page)
    yield page
    page.close()
    assert not errors, "\n".join(errors)


TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
def looks(page):
    """Sets each width and theme on the open page in turn; test_page.py opens every view at each of them."""

    def each():
        for width in (360, 1600):
            page.set_viewport_size({"width": width, "height": 800})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.evaluate(TWO_FRAMES)  # what is drawn in colours of the theme is drawn again in the next one
                yield width

    return each


def wait_for_function(page, expression: str, arg: object = None, timeout: float = 30_000) -> None:
    """Wait until the JavaScript expression is true. Playwright's own calls eval, which the page's policy forbids."""
    deadline = time.monotonic() + timeout / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, f"not true within {timeout / 1000} s: {expression}"
        page.wait_for_timeout(30)


def local(url: str, site: Site) -> bool:
    return url.startswith((f"{site.url}/", "data:", f"blob:{site.url}/"))


@pytest.fixture
def axe():
    """axe(page): the serious and critical finds of axe-core, one line each."""
    package = pytest.importorskip("axe_playwright_python", reason="needs axe-core: pip install -e '.[browser]'")
    script = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def examine(page) -> list[str]:
        if not page.evaluate("typeof axe === 'object'"):
            page.evaluate(f"{script}; undefined")
        finds = page.evaluate("axe.run({ resultTypes: ['violations'] }).then((found) => found.violations)")
        return [
            f"{find['impact']}: {find['id']}: {find['help']}: {node['target']}: {node['failureSummary']}"
            for find in finds
            if find["impact"] in ("serious", "critical")
            for node in find["nodes"]
        ]

    return examine
