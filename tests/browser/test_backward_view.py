"""The view "Backward, node by node" in a browser: steps by keys, buttons, slider, table and graph, all in agreement."""

import re

import pytest

from gpt import look


@pytest.fixture
def view(page, site):
    page.goto(f"{site.url}/#backward?run=text&text=To%20be")
    page.wait_for_selector(".steps-table tbody tr")
    return page


def show(page, which: str, count: int) -> None:
    page.locator(".view-backward select").first.select_option(which)
    page.wait_for_function(f"document.querySelectorAll('.steps-table tbody tr').length >= {count}")


def current(page) -> tuple[str, str, str]:
    """The current step by the panel, by the table and by the graph: their names of the node."""
    heading = page.locator(".view-backward .step h3").inner_text()
    row = page.locator(".steps-table tr[aria-current=step] button").inner_text()
    box = page.locator(".view-backward .node.current .line-0").all_text_contents()
    assert len(box) == 1
    return re.sub(r"Step \d+ of \d+: ", "", heading), row, box[0].split(" = ")[0]


@pytest.mark.slow
def test_the_example_is_stepped_by_keys_buttons_slider_and_table(view):
    assert current(view) == ("loss",) * 3
    view.locator("h2").click()
    view.keyboard.press("ArrowRight")
    assert current(view) == ("error",) * 3
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("ArrowLeft")  # there is no step before the first
    assert current(view) == ("loss",) * 3
    view.get_by_role("button", name="next step").click()
    view.get_by_role("button", name="next step").click()
    assert current(view) == ("output",) * 3
    assert "g * (1 - out * out)" in view.locator(".view-backward .step").inner_text()
    assert "output = tl.tanh(total)" in view.locator(".code [aria-current]").inner_text()
    view.get_by_role("slider", name="step").press("End")
    assert current(view) == ("w",) * 3
    assert "-1.32" in view.locator(".view-backward .step").inner_text()
    assert view.get_by_role("button", name="next step").is_disabled()
    view.locator(".steps-table").get_by_role("button", name="total").click()
    assert current(view) == ("total",) * 3
    view.locator(".view-backward .node", has_text="output = tanh").click()
    assert current(view) == ("output",) * 3


@pytest.mark.slow
@pytest.mark.parametrize(("which", "count"), [("fused", 20), ("unfused", 70)])
def test_every_step_of_a_block_can_be_reached_and_its_box_is_in_view(view, which, count):
    show(view, which, count)
    names = []
    view.locator("h2").click()
    view.emulate_media(reduced_motion="reduce")
    steps = view.locator(".steps-table tbody tr").count()
    for _ in range(steps):
        names.append(current(view)[0])
        assert len(set(current(view))) == 1
        frame = view.locator(".view-backward .graph > svg").bounding_box()
        box = view.locator(".view-backward .node.current rect").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        assert frame["x"] < middle[0] < frame["x"] + frame["width"]
        assert frame["y"] < middle[1] < frame["y"] + frame["height"]
        view.keyboard.press("ArrowRight")
    assert len(names) == steps
    assert names[0].startswith("stream after block 0")
    assert names[-1] == "stream into block 0"
    assert view.locator(".view-backward .node.visited").count() == steps - 1


@pytest.mark.slow
def test_the_step_stays_when_the_checkpoint_changes(view):
    show(view, "fused", 20)
    view.locator(".steps-table").get_by_role("button", name="hidden layer", exact=True).click()
    before = view.locator(".view-backward .step .gradient").first.inner_text()
    with view.expect_response("**/api/backward"):
        view.get_by_role("slider", name="checkpoint").press("Home")
    view.wait_for_function(f"document.querySelector('.view-backward .step .gradient').innerText !== {before!r}")
    assert current(view) == ("hidden layer",) * 3


@pytest.mark.slow
def test_play_goes_on_by_itself_and_stops_at_the_end(view):
    view.get_by_role("slider", name="step").press("End")
    view.keyboard.press("ArrowLeft")
    view.get_by_role("button", name="Play", exact=True).click()
    view.wait_for_function("document.querySelector('.view-backward .step h3').textContent.includes('w')", timeout=5000)
    view.get_by_role("button", name="Play", exact=True).wait_for(timeout=5000)  # instead of Pause


@pytest.mark.slow
def test_it_fits_the_screen_and_is_accessible(view, axe, looks):
    show(view, "unfused", 70)
    for width in looks():
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert axe(view) == []
        order = view.evaluate(
            "['.step-column', '.table-column', '.graph'].map((name) =>"
            " document.querySelector(`.view-backward ${name}`).getBoundingClientRect().top)"
        )
        if width == 360:  # the panel and the table come before the picture
            assert order == sorted(order)


@pytest.mark.slow
def test_an_error_is_one_sentence(view, errors):
    view.locator(".view-backward select").first.select_option("fused")
    view.get_by_label("Text", exact=True).fill("T")
    view.get_by_role("alert").wait_for()
    assert "the text has one token: give at least two" in view.get_by_role("alert").inner_text()
    errors.clear()  # the browser logs the answer 400


@pytest.mark.slow
def test_a_classifiers_block_has_the_gradient_of_the_label(page, site):
    page.goto(f"{site.url}/#backward?run=classifier&text=I%20want%20a%20tea")
    page.wait_for_selector(".steps-table tbody tr")
    assert page.get_by_label("label to predict").is_hidden()  # the example has none
    show(page, "fused", 15)
    choice = page.get_by_label("label to predict")
    other = next(name for name in choice.locator("option").all_inner_texts() if name != choice.input_value())
    choice.select_option(other)
    summary = page.locator(".view-backward > .note").first
    page.locator(".view-backward .note", has_text=f"to predict {other}. Loss").wait_for()
    expected = look.backward(look.load(site.runs / "classifier"), "I want a tea", 0, True, other)
    assert f"Loss {expected.loss:.4g} nats" in summary.inner_text()
