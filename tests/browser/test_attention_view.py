"""The views of tokens and attention: numbers are those of gpt.look, everything is reached by keyboard."""

import re
from urllib.parse import quote

import numpy as np
import pytest

from gpt import look

pytestmark = pytest.mark.slow

TEXT = "12 bottles stand on the wall; 12 <b>"


def opened(page, site, view="attention", run="text", text=TEXT, **fields):
    """The view, when its numbers are there."""
    more = "".join(f"&{name}={value}" for name, value in fields.items())
    page.goto(f"{site.url}/#{view}?run={run}&text={quote(text)}{more}")
    page.locator(".arc-tokens .token, .token-list li").first.wait_for()
    idle(page)
    return page


def idle(page):
    page.wait_for_function("!document.querySelector('[aria-busy]')")


def chosen(page) -> tuple[int, int]:
    """(layer, head) of the heading above the text."""
    found = re.match(r"Block (\d+), head (\d+)", page.locator("#view h3").first.text_content())
    return int(found[1]), int(found[2])


def shares(texts: list[str]) -> list[float]:
    """ "19.2 %" as 19.2."""
    return [float(text.removesuffix(" %")) for text in texts]


@pytest.fixture(scope="module")
def expected(site):
    return look.attention(look.load(site.runs / "text"), TEXT)


def test_the_picked_row_is_drawn_as_arcs_and_listed(page, site, expected):
    opened(page, site)
    row = expected.weights.numpy()[chosen(page)][-1]  # the last token is picked at first
    assert page.locator(".thumbnail").count() == 8
    assert page.locator(".arcs path").count() == min(40, int((row >= 0.002).sum()))
    listed = page.locator(".reads-table tbody tr td:first-child").all_text_contents()
    assert shares(listed) == pytest.approx(100 * np.sort(row)[::-1][:8], abs=0.051)
    places = page.locator(".reads-table tbody tr td:last-child").all_text_contents()
    assert row[int(places[0].partition(",")[0])] == row.max()


def test_pointing_at_a_token_shows_its_row_and_a_click_keeps_it(page, site, expected):
    opened(page, site)
    token = page.locator(".arc-tokens .token").nth(5)
    token.hover()
    row = expected.weights.numpy()[chosen(page)][5]
    assert page.locator(".tooltip .mono").first.text_content().startswith(f"{100 * row.max():.1f} %")
    assert "at position 5" in page.locator(".reads-table caption").text_content()
    page.locator("h2").hover()
    assert f"at position {len(expected.ids) - 1}" in page.locator(".reads-table caption").text_content()
    token.click()
    page.locator("h2").hover()
    assert "at position 5" in page.locator(".reads-table caption").text_content()
    line = page.locator(".heads-grid").evaluate("e => e.style.getPropertyValue('--row')")
    assert float(line.rstrip("%")) == pytest.approx(100 * 5.5 / len(expected.ids), abs=0.01)


def test_the_keyboard_reaches_tokens_heads_and_single_weights(page, site, expected):
    opened(page, site)
    page.locator(".arc-tokens .token[tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert "at position 1" in page.locator(".reads-table caption").text_content()
    page.keyboard.press("Enter")

    page.locator(".thumbnail[tabindex='0']").focus()
    layer, head = chosen(page)
    page.keyboard.press("ArrowUp" if layer else "ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function(
        f"document.querySelector('#view h3').textContent.startsWith('Block {1 - layer}, head {head} ')"
    )
    idle(page)

    page.locator(".map-surface").focus()
    for key in ("PageDown", "Home", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    said = page.locator(".map-value").text_content()
    weight = expected.weights.numpy()[1 - layer, head, -2, 1]
    assert float(said.rpartition(" ")[2]) == pytest.approx(weight, rel=1e-3)
    assert f"({len(expected.ids) - 2}) reads" in said
    for key in ("End", "ArrowRight"):
        page.keyboard.press(key)
    assert said != (later := page.locator(".map-value").text_content())
    assert "cannot read" in later


def test_the_head_and_token_stay_when_the_checkpoint_changes(page, site):
    opened(page, site)
    page.locator(".thumbnail").nth(6).click()
    page.wait_for_function("document.querySelector('#view h3').textContent.startsWith('Block 1, head 2 ')")
    page.locator(".arc-tokens .token").nth(3).click()
    step = look.kept_steps(site.runs / "text")[0]
    with page.expect_response("**/api/attention"):
        page.locator("#checkpoint input").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('change')); }")
    idle(page)
    assert chosen(page) == (1, 2)
    row = look.attention(look.load(site.runs / "text", step), TEXT).weights.numpy()[1, 2, 3]
    page.locator("h2").hover()
    listed = page.locator(".reads-table tbody tr td:first-child").all_text_contents()
    assert shares(listed) == pytest.approx(100 * np.sort(row[:4])[::-1], abs=0.051)


def test_heads_are_sorted_by_a_share(page, site, expected):
    opened(page, site)
    page.get_by_role("button", name="itself").click()
    names = page.locator(".heads-table tbody button").all_text_contents()
    order = sorted(expected.shares, key=lambda one: -one.itself)
    assert names == [f"{one.layer}.{one.head}" for one in order]
    assert page.locator(".heads-table th[aria-sort=descending]").inner_text().startswith("itself")
    page.locator(".heads-table tbody button").first.click()
    page.wait_for_function(
        f"document.querySelector('#view h3').textContent.startsWith('Block {order[0].layer}, head {order[0].head} ')"
    )


@pytest.mark.parametrize("run", ["classifier", "instruct", "gpt2"])
def test_every_kind_of_run_has_attention(page, site, run):
    opened(page, site, run=run)
    config = look.load(site.runs / run).model.config
    assert page.locator(".thumbnail").count() == config.n_layer * config.n_head


def test_a_text_that_is_too_long_is_refused_with_a_sentence(page, site, errors):
    opened(page, site)
    page.locator("textarea").fill("1 2 3 " * 300)
    page.locator(".error").wait_for()
    assert "the model's context has 96: give a shorter text" in page.locator(".error").text_content()
    page.locator("textarea").fill("12 bottles")
    page.locator(".error").wait_for(state="detached")
    errors.clear()  # the browser reports the answer 400


def test_tokens_are_shown_with_ids_bytes_and_specials(page, site):
    model = look.load(site.runs / "text")
    text = "é <b>x</b><|endoftext|>"
    opened(page, site, "tokens", text=text)
    ids = model.encode(text)
    assert page.locator(".token-list .id").all_text_contents() == [str(id) for id in ids]
    assert page.locator(".ids").text_content() == str(ids)
    assert page.locator("#view b").count() == 0
    assert page.locator(".token-list .special").count() == 1
    page.locator(".token-list button").first.focus()
    assert model.tokenizer.decode_bytes(ids[:1]).hex(" ") in page.locator(".tooltip").text_content()
    page.keyboard.press("End")
    assert "special token" in page.locator(".tooltip").text_content()
    assert (
        f"{len(text)} characters ({len(text.encode())} bytes) are {len(ids)} tokens"
        in page.locator(".counts").text_content()
    )
