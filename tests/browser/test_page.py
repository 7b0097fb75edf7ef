"""Every view of the page, in both themes and two widths, by mouse and by keyboard alone.

SCREENSHOTS=1 also writes pictures to build/screenshots.
"""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VIEWS = ROOT / "gpt" / "serve" / "static" / "js" / "views"
PICTURES = ROOT / "build" / "screenshots"
RUNS = ("text", "instruct", "classifier")
WIDTHS = {360: 740, 1600: 1000}  # pixels: width and height


def ids() -> list[str]:
    """The id of each view in views/index.js."""
    files = re.findall(r'from "\./([\w-]+\.js)"', (VIEWS / "index.js").read_text(encoding="utf-8"))
    return [re.search(r'\bid: "([\w-]+)"', (VIEWS / file).read_text(encoding="utf-8"))[1] for file in files]


@pytest.fixture(scope="module")
def listed(context, site):
    """The views that the page lists for each run: {view: the first run that has it}."""
    found = {}
    page = context.new_page()
    for run in RUNS:
        page.goto(f"{site.url}/#?run={run}")
        page.reload()
        page.wait_for_selector("#nav a[aria-current]")
        for link in page.locator("#nav a").all():
            found.setdefault(link.get_attribute("href").partition("?")[0].removeprefix("#"), run)
    page.close()
    return found


def show(page, site, view: str, run: str) -> None:
    """Open a view and wait until it has drawn its answers."""
    page.goto("about:blank")
    page.goto(f"{site.url}/#{view}?run={run}&text=take+one+down")
    drawn(page, view)


def drawn(page, view: str) -> None:
    page.wait_for_selector(f"#view.view-{view} > *")
    page.wait_for_timeout(50)
    page.wait_for_function("!document.querySelector('[aria-busy=true]') && !document.getAnimations().length")


def test_every_view_is_tested(listed):
    assert sorted(listed) == sorted(ids())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", ids())
def test_a_view(page, site, listed, axe, view, width):
    """It fits, has no error in it, and axe-core finds nothing serious, also after a change of the theme."""
    page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    page.emulate_media(color_scheme="light")
    show(page, site, view, listed[view])
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        drawn(page, view)
        if os.environ.get("SCREENSHOTS"):
            PICTURES.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=PICTURES / f"{view}-{width}-{scheme}.png", full_page=True)
        assert page.locator(".error").all_inner_texts() == []
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"the page scrolls sideways by {wide} pixels: {too_wide(page)}"
        assert not (finds := axe(page)), f"{scheme}:\n" + "\n".join(finds)


def too_wide(page) -> list[str]:
    """What reaches beyond the right edge and is not inside something that scrolls."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((element) =>
             element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll, nav'))
           .map((element) => `${element.tagName}.${element.className.baseVal ?? element.className}`).slice(0, 8)"""
    )


FOCUS = "document.activeElement"


def tab_until(page, condition: str, most: int) -> int:
    """Press Tab until the JavaScript condition about `document.activeElement` holds; how often."""
    for presses in range(1, most + 1):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return presses
    raise AssertionError(f"{most} times Tab did not reach: {condition}; now at {page.evaluate(FOCUS + '.outerHTML')}")


@pytest.mark.parametrize("view", ids())
def test_the_keyboard_opens_a_view_and_leaves_it(page, site, listed, view):
    start = "tokens" if view != "tokens" else "attention"  # every run has both
    show(page, site, start, listed[view])
    links = len(listed) + 10
    tab_until(page, f"{FOCUS}.matches?.('#nav a') && {FOCUS}.hash.startsWith('#{view}?')", links)
    page.keyboard.press("Enter")
    drawn(page, view)
    if view != start:
        assert page.evaluate(f"{FOCUS}.id") == "main", "after the choice the focus is at the view"
    if page.locator("#view :is(a[href], button:enabled, input:enabled, select, textarea, [tabindex='0'])").count():
        tab_until(page, f"{FOCUS}.closest('#view')", 20)
    tab_until(page, f"!{FOCUS}.closest('#view, #text-bar')", 600)  # the view lets the focus go


def test_the_skip_link_leads_past_the_navigation_and_keeps_the_view(page, site, listed):
    view = list(listed)[-1]
    show(page, site, view, listed[view])
    page.keyboard.press("Tab")
    assert page.evaluate(f"{FOCUS}.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0, "with the focus it is visible"
    assert box["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{FOCUS}.closest('main') !== null && {FOCUS}.id !== 'main'")
    assert page.locator(f"#view.view-{view}").count() == 1


def test_the_checkpoint_slider_by_keyboard(page, site, listed):
    """An arrow key shows the checkpoint before, in the address too."""
    view = next(iter(listed))
    show(page, site, view, "text")
    page.locator("#checkpoint input").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("location.hash.includes('step=40')")
    assert page.locator("#checkpoint output").inner_text() == "step 40"
    drawn(page, view)


def test_the_address_opens_the_same_again(page, site, listed):
    view = list(listed)[-1]
    page.goto(f"{site.url}/#{view}?run={listed[view]}&step=10&text=on+the+wall")
    drawn(page, view)
    assert page.locator("#run").input_value() == listed[view]
    assert page.locator("#text-bar textarea").input_value() == "on the wall"
    if listed[view] == "text":
        assert page.locator("#checkpoint output").inner_text() == "step 10"
