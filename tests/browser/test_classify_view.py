"""The classifier in a browser: labels, deciding words, the check, examples; with the keyboard alone; narrow."""

from urllib.parse import quote

import pytest

from gpt import look

TEXT = "give me a plum 3"


@pytest.fixture
def classify(page, site):
    page.goto(f"{site.url}/#classify?run=classifier&text={quote(TEXT)}")
    page.locator(".view-classify td").first.wait_for()
    return page


def shown(value: float) -> str:
    """A value as the page writes it: two digits."""
    return ("−" if value < 0 else "+") + f"{float(f'{abs(value):.2g}'):g}"


def test_the_page_shows_the_numbers_of_deciding_words(classify, site):
    found = look.deciding_words(look.load(site.runs / "classifier"), TEXT)
    words = classify.locator(".deciding button")
    assert words.count() == len(found.words)
    for i, word in enumerate(found.words):
        name, value = words.nth(i).inner_text().split("\n")
        assert name == word.text.strip()
        if abs(word.value) >= 1e-3:
            assert value == shown(word.value)
    assert classify.get_by_role("button", pressed=True).inner_text().startswith(found.label)
    p = found.probabilities[found.labels.index(found.label)]
    assert f"{100 * p:.1f} %" in classify.get_by_role("button", pressed=True).inner_text()
    strongest = max(found.words, key=lambda word: abs(word.value))
    first = classify.locator("tbody tr").first.inner_text()
    assert strongest.text.strip() in first
    assert f"{100 * strongest.without:.1f} %" in first


def test_the_keyboard_reaches_everything(classify):
    other = classify.get_by_role("button", pressed=False).filter(has=classify.locator(".label-name"))
    name = other.locator(".label-name").inner_text()
    other.focus()
    classify.keyboard.press("Enter")
    classify.locator("h3", has_text=f"What speaks for “{name}”").wait_for()
    assert classify.evaluate("document.activeElement.innerText").startswith(name)
    classify.locator(".deciding button").first.focus()
    assert name in classify.get_by_role("tooltip").inner_text()
    words = classify.locator(".deciding button").count()
    box = classify.get_by_label("single tokens instead of words")
    box.focus()
    classify.keyboard.press("Space")
    assert classify.locator(".deciding button").count() > words
    classify.keyboard.press("Space")
    assert classify.locator(".deciding button").count() == words


def test_an_example_of_the_test_set_becomes_the_text(classify):
    example = classify.locator(".example").first
    text = example.get_attribute("title")
    example.click()
    classify.wait_for_function(f"document.querySelectorAll('.deciding button').length === {len(text.split())}")
    assert classify.get_by_role("textbox", name="Text").input_value() == text


def test_what_is_typed_is_text(classify):
    classify.get_by_role("textbox", name="Text").fill("a <b>b</b>")
    classify.locator(".deciding button", has_text="<b>b</b>").wait_for()
    assert classify.locator("#view b").count() == 0


def test_every_width_and_theme_is_accessible(classify, axe, looks):
    classify.get_by_role("textbox", name="Text").fill("a tea")
    classify.locator(".deciding button", has_text="tea").wait_for()
    classify.locator(".view-classify td").first.wait_for()
    for width in looks():
        assert axe(classify) == []
        assert classify.evaluate("document.documentElement.scrollWidth") <= width
