"""The view of a step of learning in a real browser: the story of a step, undo, the badge, keyboard, narrow screens."""

import re

import pytest

TEXT = "take one down"
STRIP = ".loss-strip"


def opened(page, site, text: str = TEXT, run: str = "text"):
    page.goto(f"{site.url}/#learn?run={run}&text={text}")
    page.wait_for_selector(STRIP)
    return page


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector(".running", state="hidden")


def mean_losses(page) -> tuple[float, float]:
    """The mean loss before and after, as the page says it."""
    words = page.locator(".outcome strong").inner_text().split()
    return float(words[2]), float(words[4])


def test_a_step_tells_its_story_in_four_parts(page, site, axe):
    opened(page, site)
    assert page.get_by_text("Press “One step” to see it.").count() == 3
    press(page, "One step")
    page.wait_for_selector(".outcome")
    before, after = mean_losses(page)
    assert 0 < after < before
    assert f"Mean loss: {page.locator('.outcome strong').inner_text().split()[2]} nats" in page.inner_text(
        "section >> nth=1"
    )
    tokens = page.locator(STRIP).first.locator("button").count()
    assert page.locator(".arrows svg path").count() == tokens - 1
    assert page.locator(".grid-map").first.locator("g:nth-of-type(3) rect").count() == 3 * (tokens - 1)
    assert "about 1e-3: rule of thumb" in page.locator("svg").filter(has_text="rule of thumb").first.text_content()
    assert axe(page) == []


@pytest.mark.parametrize("width", [1170, 1280, 1460])
def test_the_badge_covers_nothing_of_the_header(page, site, width):
    """With a long name of a run, and a long label of its checkpoint."""
    page.set_viewport_size({"width": width, "height": 800})
    opened(page, site)
    press(page, "One step")
    page.wait_for_selector(".session-badge")
    page.evaluate(
        "document.querySelector('#run').selectedOptions[0].textContent = 'a-run-with-a-very-long-name-indeed';"
        "document.querySelector('#checkpoint output').textContent = 'step 100,000, newest'"
    )
    badge = page.locator("#session").bounding_box()
    for part in ("#run", "#checkpoint output"):
        box = page.locator(part).bounding_box()
        assert box["x"] + box["width"] <= badge["x"] or box["y"] + box["height"] <= badge["y"], part


def test_steps_undo_and_the_way_back(page, site):
    opened(page, site)
    badge = page.locator("#session")
    assert badge.is_hidden()
    press(page, "One step")
    assert "checkpoint step 50 + 1 step on your text" in badge.inner_text()
    first = page.locator(".outcome").inner_text()
    press(page, "5 steps")
    assert "+ 6 steps on your text" in badge.inner_text()
    assert "after 5 steps" in page.locator(".outcome").inner_text()
    for count in (5, 4, 3, 2, 1):
        page.get_by_role("button", name="Undo", exact=True).click()
        page.wait_for_function(f"document.querySelector('#session').textContent.includes('+ {count} step')")
    page.wait_for_function("text => document.querySelector('.outcome').innerText === text", arg=first)
    page.get_by_role("button", name="Return to the checkpoint").click()
    page.wait_for_selector(".outcome", state="detached")
    assert badge.is_hidden()
    assert page.get_by_role("button", name="Undo", exact=True).is_disabled()


def test_other_views_show_the_learned_model_until_the_checkpoint_changes(page, site):
    opened(page, site)
    press(page, "One step")
    with page.expect_request("**/api/tokens") as asked:
        page.get_by_role("link", name="Tokens").click()
    assert asked.value.post_data_json["session"]
    page.get_by_role("link", name="One step").click()
    page.wait_for_selector(".outcome")  # the newest step is shown again
    with page.expect_request("**/api/learn/reset"):
        page.get_by_label("checkpoint", exact=True).press("ArrowLeft")
    page.wait_for_selector(".outcome", state="detached")
    assert page.locator("#session").inner_text() == "The learned step was dropped: this is a checkpoint."
    page.get_by_label("checkpoint", exact=True).press("ArrowLeft")
    page.wait_for_selector("#session", state="hidden")


def test_a_session_that_the_server_has_dropped(page, site, errors):
    opened(page, site)
    press(page, "One step")
    page.evaluate(
        """async () => {
            const { state } = await import('/static/js/state.js');
            const headers = {'Content-Type': 'application/json'};
            await fetch('/api/learn/reset', {method: 'POST', headers, body: JSON.stringify({session: state.session})});
        }"""
    )
    page.get_by_role("button", name="One step", exact=True).click()
    page.wait_for_selector("[role=alert]")
    assert "does not have this learning session any more" in page.locator("[role=alert]").inner_text()
    assert page.locator("#session").is_hidden()
    assert len(errors) == 1
    assert "404" in errors.pop()
    press(page, "One step")
    page.wait_for_selector(".outcome")


def test_the_keyboard_moves_in_the_map_and_along_the_tokens(page, site):
    opened(page, site)
    press(page, "One step")
    page.locator(".grid-map").first.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    said = page.locator(".hidden-text").first
    assert said.text_content().startswith("after block 0, position 1, which reads")
    assert page.locator(".tooltip").inner_text() == said.text_content()
    page.keyboard.press("Enter")
    assert page.locator(f"{STRIP} >> nth=0").locator("[aria-pressed=true]").get_attribute("data-t") == "2"
    strip = page.locator(STRIP).first
    strip.locator("button").first.focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.t") == str(strip.locator("button").count() - 1)
    assert "nats" in page.locator(".tooltip").inner_text()


def test_gradients_with_and_without_the_parts_of_a_block(page, site):
    opened(page, site)
    page.locator("section.panel").last.scroll_into_view_if_needed()
    page.wait_for_selector(".series.without")
    section = page.locator("section.panel").last
    assert "with neither" in section.inner_text()
    assert section.locator(".grid-map").count() == 2
    page.get_by_role("checkbox", name="LayerNorm").check()
    page.get_by_role("checkbox", name="shortcut connections").check()
    page.wait_for_selector(".series.without", state="detached")
    assert "Switch off a part to compare." in section.inner_text()


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_does_not_scroll_sideways(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    opened(page, site, "take one down and pass it around, take one down and pass it around")
    press(page, "One step")
    page.locator("section.panel").last.scroll_into_view_if_needed()
    page.wait_for_selector(".series.without")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_text_without_a_next_token(page, site, errors):
    opened(page, site)
    page.locator("textarea").fill("t")
    page.wait_for_selector("[role=alert]")
    assert "give at least two" in page.locator("[role=alert]").inner_text()
    errors.clear()


def test_learning_rates_that_are_no_number_or_too_large(page, site):
    opened(page, site)
    rate = page.get_by_label("learning rate")
    rate.fill("much")
    page.get_by_role("button", name="One step", exact=True).click()
    page.wait_for_selector("[role=alert]")
    assert page.locator("[role=alert]").inner_text() == "the learning rate must be a number, such as 0.001"
    assert page.locator("#session").is_hidden()
    rate.fill("1e30")
    press(page, "One step")
    page.wait_for_selector(".outcome")
    assert "→ not finite after one step" in page.locator(".outcome").inner_text()
    press(page, "One step")
    page.wait_for_selector("[role=alert]")
    assert page.locator("[role=alert]").inner_text().startswith("the gradient is not finite, so no step was taken")
    page.get_by_role("button", name="Undo", exact=True).click()
    page.wait_for_selector(".outcome", state="detached")


def test_a_classifier_learns_the_label_that_is_chosen(page, site, axe):
    page.goto(f"{site.url}/#learn?run=classifier&text=I want a tea")
    page.wait_for_selector(".label-row")
    choice = page.get_by_label("label to predict")
    labels = choice.locator("option").all_inner_texts()
    other = next(name for name in labels if name != choice.input_value())
    choice.select_option(other)
    page.wait_for_function("name => document.querySelector('.label-row.wanted').innerText.startsWith(name)", arg=other)
    press(page, "5 steps")
    page.wait_for_function("document.querySelector('.outcome')?.innerText.includes('after 5 steps')")
    before, after = map(float, re.findall(r"[\d.]+", page.locator(".outcome strong").inner_text()))
    assert 0 < after < before
    rows = page.locator("section >> nth=4").locator(".label-row")
    assert rows.count() == len(labels)
    assert " → " in rows.first.inner_text()
    assert "mean loss" not in page.locator("section >> nth=1").inner_text().lower()
    assert axe(page) == []
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name="Classify").click()
    row = page.locator(".view-classify .label-row").filter(has_text=other)
    row.wait_for()
    page.get_by_role("link", name="One step").click()
    page.wait_for_selector(".outcome")
    assert page.get_by_label("label to predict").input_value() == other


def test_the_sentences_change_with_the_kind_of_the_run(page, site):
    opened(page, site)
    assert "Each token is coloured by its loss" in page.inner_text("section >> nth=1")
    page.locator("#run").select_option("classifier")
    page.wait_for_selector(".label-row")
    assert "gives each label a probability" in page.inner_text("section >> nth=1")
    page.locator("#run").select_option("text")
    page.wait_for_selector(STRIP)
    assert page.get_by_label("label to predict").is_hidden()
    assert "Each token is coloured by its loss" in page.inner_text("section >> nth=1")
