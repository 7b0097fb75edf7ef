"""The view of the residual stream in a browser: sizes, and the waterfall of effects on a logit."""

from urllib.parse import quote

import pytest

from gpt import look

pytestmark = pytest.mark.slow
TEXT = "take one down <b>"


def opened(page, site, run="text"):
    page.goto(f"{site.url}/#residual?run={run}&text={quote(TEXT)}")
    page.wait_for_selector("table.grid tbody tr:nth-child(6) td")
    return look.load(site.runs / run)


def values(page) -> list[float]:
    texts = page.locator(".waterfall .value").all_text_contents()
    return [float(text.replace("−", "-").replace(",", "")) for text in texts]


def test_the_bars_are_the_effects_and_sum_to_the_logit(page, site):
    found = look.residual_stream(opened(page, site), TEXT)
    effects = found.attribution.effects
    assert values(page)[:-1] == pytest.approx([effect.relative for effect in effects], rel=0.01, abs=1e-3)
    assert values(page)[-1] == pytest.approx(sum(effect.relative for effect in effects), rel=0.01)
    page.get_by_label("relative to the mean logit").uncheck()
    assert values(page)[:-1] == pytest.approx([effect.logit for effect in effects], rel=0.01, abs=1e-3)
    assert values(page)[-1] == pytest.approx(found.attribution.logit, rel=0.01)
    widths = page.locator(".waterfall .amount").evaluate_all(
        "all => all.map((bar) => bar.getBoundingClientRect().width)"
    )
    track = page.locator(".waterfall .track").first.bounding_box()["width"]
    ends = [sum(effect.logit for effect in effects[:n]) for n in range(len(effects) + 1)]
    scale = track / (max(ends) - min(ends))
    expected = [max(2, abs(effect.logit) * scale) for effect in effects]
    assert widths[:-1] == pytest.approx(expected, abs=1)


def test_attention_opens_to_its_heads_by_keyboard(page, site):
    found = look.residual_stream(opened(page, site), TEXT).attribution
    rows = page.locator(".waterfall li").count()
    page.locator(".waterfall button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".waterfall li").count() == rows + 5
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    inner = page.locator(".waterfall .inner .value").all_text_contents()
    heads = [part.relative for part in found.effects[4].parts]
    assert [float(text.replace("−", "-")) for text in inner] == pytest.approx(heads, rel=0.01, abs=1e-3)
    page.keyboard.press("Enter")
    assert page.locator(".waterfall li").count() == rows


def test_position_and_token_can_be_chosen(page, site):
    model = opened(page, site)
    page.get_by_label("after position").select_option("1")
    page.wait_for_selector("text=after position 1: probability")
    page.locator(".view-residual button.token").nth(2).click()
    chosen = look.residual_stream(model, TEXT, 1).attribution.candidates[2][0]
    expected = look.residual_stream(model, TEXT, 1, chosen).attribution
    page.wait_for_selector(f"text=probability {100 * expected.probability:.1f} %, rank 3,")
    assert values(page)[-1] == pytest.approx(expected.logit - expected.mean_logit, rel=0.01)
    page.locator('td[data-row="3"][data-column="4"]').click()
    page.wait_for_selector("text=after position 4: probability")


def test_the_sizes_are_those_of_the_stream(page, site):
    sizes = look.residual_stream(opened(page, site), TEXT).sizes
    for i, size in enumerate(sizes):
        shown = page.locator(f'td[data-row="{i}"][data-column="2"]').text_content()
        assert shown == ("–" if i == 0 else f"{size.added[2] / size.before[2]:.1f}")
    page.get_by_role("combobox", name="size").select_option("norm")
    assert page.locator('td[data-row="0"][data-column="2"]').text_content() == f"{sizes[0].added[2]:.1f}"


def test_a_classifier_has_sizes_only(page, site):
    opened(page, site, "classifier")
    page.wait_for_selector("text=This run is a classifier")
    assert page.locator(".waterfall").count() == 0


def test_it_is_readable_and_fits(page, site, axe, looks):
    opened(page, site)
    page.locator(".waterfall button").first.click()
    for width in looks():
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
