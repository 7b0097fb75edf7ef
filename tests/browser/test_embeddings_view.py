"""The view of the embeddings in a browser: nearest tokens, and the two maps."""

from urllib.parse import quote

import pytest

from gpt import look

pytestmark = pytest.mark.slow
TEXT = "take one down <b>"


def opened(page, site, run="text"):
    page.goto(f"{site.url}/#embeddings?run={run}&text={quote(TEXT)}")
    page.wait_for_selector("table.best")
    page.wait_for_function("document.querySelectorAll('svg.chart').length === 3")
    return look.load(site.runs / run)


def nearest(page, column=0) -> list[str]:
    return page.locator("table.best").nth(column).locator("td.number").all_text_contents()


def test_a_searched_token_shows_its_nearest(page, site):
    model = opened(page, site)
    page.get_by_label("find a token").fill("bottle")
    page.wait_for_selector(".picker-found button")
    shown = page.locator(".picker-found button").all_text_contents()
    found = look.find_tokens(model, "bottle")
    assert shown == [f"{text.replace(' ', '·')} {id}" for id, text in found]
    page.keyboard.press("Enter")
    page.wait_for_selector(f"text=(id {found[0][0]})")
    near = look.nearest_tokens(model, found[0][0])
    assert nearest(page) == [f"{line.cosine:.3f}" for line in near.embedding]
    assert nearest(page, 1) == [f"{line.cosine:.3f}" for line in near.head]
    page.locator("table.best button").first.click()
    page.wait_for_selector(f"text=(id {near.embedding[0].id})")


def test_a_tied_head_has_one_list(page, site):
    opened(page, site, "gpt2")
    assert page.locator("table.best").count() == 1
    assert page.locator("text=the same matrix as the token embedding").count() == 1


def test_the_maps_have_every_token_and_position(page, site):
    model = opened(page, site)
    tokens = look.token_map(model, TEXT)
    titles = page.locator("svg.chart").nth(0).locator("circle title").all_text_contents()
    assert titles == tokens.texts
    places = look.positions(model)
    assert page.locator("svg.chart").nth(2).locator("circle title").count() == len(places.components) == 96
    assert page.locator("canvas").evaluate("canvas => canvas.width / canvas.height") == 1


def test_the_slider_chooses_a_position_by_keyboard(page, site):
    opened(page, site)
    before = page.locator("svg.chart").nth(1).locator("path").get_attribute("d")
    page.get_by_role("slider", name="position").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("output", has_text="1").count() == 1
    assert page.locator("svg.chart").nth(1).locator("path").get_attribute("d") != before
    assert page.locator("svg.chart .main").text_content() == "position 1"


def test_the_heat_map_tells_the_similarity_of_two_positions(page, site):
    model = opened(page, site)
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 40.5 / 96, box["y"] + box["height"] * 20.5 / 96)
    value = look.positions(model).similarity[20][40]
    assert page.locator(".tooltip").text_content() == f"positions 20 and 40: {value:.3f}"


def test_it_is_readable_and_fits(page, site, axe, looks):
    opened(page, site, "classifier")
    for width in looks():
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
