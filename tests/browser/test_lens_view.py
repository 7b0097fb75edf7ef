"""The view of the logit lens in a browser: what `gpt.look` computes, by pointer and by keyboard."""

from urllib.parse import quote

import pytest

from gpt import look

pytestmark = pytest.mark.slow
TEXT = "take one down <b>"


def opened(page, site, run="text", text=TEXT):
    page.goto(f"{site.url}/#lens?run={run}&text={quote(text)}")
    page.wait_for_selector("table.grid tbody tr:nth-child(3) td")
    page.wait_for_selector("svg.chart" if run != "classifier" else "table.grid")
    return look.load(site.runs / run)


def cell(page, row, column):
    return page.locator(f'table.grid td[data-row="{row}"][data-column="{column}"]')


def test_each_cell_is_the_most_probable_token(page, site):
    lens = look.logit_lens(opened(page, site), TEXT)
    for i, layer in enumerate(lens.layers):
        for j, ids in enumerate(layer.ids):
            shown = lens.texts[ids[0]].replace(" ", "·").replace("\n", "↵")
            assert cell(page, i, j).text_content() == shown
            framed = "framed" in (cell(page, i, j).get_attribute("class") or "")
            assert framed == (layer.true_rank[j] == 1)
    assert page.locator("#view b").count() == 0


def test_the_arrow_keys_choose_a_cell(page, site):
    lens = look.logit_lens(opened(page, site), TEXT)
    cell(page, 2, 0).click()
    heading = page.locator(".panel h3").first
    assert heading.text_content().startswith("After block 1, at position 0")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert heading.text_content().startswith("After the embedding, at position 1")
    assert page.evaluate("document.activeElement.dataset.row + document.activeElement.dataset.column") == "01"
    best = page.locator("table.best tr")
    assert best.count() == 5
    assert f"{100 * lens.layers[0].probabilities[1][0]:.1f} %" in best.first.text_content()
    assert page.locator(".tooltip td.number").count() == 5
    page.keyboard.press("End")
    assert "there is no true next token" in page.locator(".panel").first.text_content()


def test_a_chosen_token_is_followed_through_the_layers(page, site):
    model = opened(page, site)
    cell(page, 2, 1).click()
    page.locator("table.best button").nth(3).click()
    id = look.logit_lens(model, TEXT).layers[2].ids[1][3]
    name = model.text_of(id).replace(" ", "·").replace("\n", "↵")
    page.wait_for_function("name => document.querySelector('svg.chart .main')?.textContent === name", arg=name)
    followed = look.follow_tokens(model, TEXT, [id], 1)
    page.get_by_label("show").select_option("rank")
    titles = page.locator("svg.chart circle[r='4'] title").all_text_contents()
    assert titles == [
        f"{name}, {layer}: rank {rank:,}" for layer, rank in zip(followed.layers, followed.ranks[0], strict=True)
    ]


def test_a_searched_token_is_followed(page, site):
    opened(page, site)
    page.get_by_label("another token").fill("7")
    page.wait_for_selector(".picker-found button")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('svg.chart .main')?.textContent === '7'")
    assert page.locator(".picker-found button").count() == 0


def test_the_selection_stays_when_the_checkpoint_changes(page, site):
    opened(page, site)
    cell(page, 1, 2).click()
    before = page.locator("table.grid").text_content()
    page.get_by_label("checkpoint", exact=True).focus()
    page.keyboard.press("Home")
    page.wait_for_function("before => document.querySelector('table.grid').textContent !== before", arg=before)
    assert cell(page, 1, 2).get_attribute("aria-selected") == "true"
    assert page.locator(".panel h3").first.text_content().startswith("After block 0, at position 2")


def test_a_classifier_shows_its_labels(page, site):
    found = look.label_lens(opened(page, site, "classifier"), TEXT)
    assert page.locator("table.grid thead th").all_text_contents() == ["label", *found.labels]
    assert cell(page, 2, 0).text_content() == f"{100 * found.probabilities[2][0]:.1f} %"
