"""Run, checkpoint, text and view are in the address: links, reload and the history show the same again."""

LONG = "take one down and pass it around " * 60  # more than an address has


def opened(page, site, address: str) -> None:
    page.goto("about:blank")
    page.goto(f"{site.url}/#{address}")
    page.wait_for_selector("#nav a[aria-current]")


def text_of(page) -> str:
    return page.locator("#text-bar textarea").input_value()


def shown(page, view: str) -> None:
    page.wait_for_selector(f"#view.view-{view} h2")


def test_a_long_text_survives_another_view_and_a_reload(page, site, errors):
    opened(page, site, "tokens?run=text&text=a")
    page.locator("#text-bar textarea").fill(LONG)
    page.wait_for_function("location.hash.includes('around')")
    page.get_by_role("link", name="Attention").click()
    shown(page, "attention")
    assert text_of(page) == LONG
    page.reload()
    shown(page, "attention")
    assert text_of(page) == LONG
    assert "and the model's context has 96: give a shorter text" in page.locator("#view .error").inner_text()
    errors.clear()


def test_an_empty_text_stays_empty_and_is_mended(page, site, errors):
    opened(page, site, "tokens?run=text&text=down")
    page.locator("#text-bar textarea").fill("")
    assert page.locator("#view .error").inner_text() == "the text has no tokens: give some text"
    page.reload()
    shown(page, "tokens")
    assert text_of(page) == ""
    page.locator("#view .error").wait_for()
    page.locator("#text-bar textarea").fill("one")
    page.wait_for_function("!document.querySelector('#view .error')")
    assert len(errors) == 2
    errors.clear()


def test_back_and_forward_show_the_views_again(page, site):
    opened(page, site, "tokens?run=text&step=20&text=one")
    page.get_by_role("link", name="Embeddings").click()
    shown(page, "embeddings")
    page.get_by_role("link", name="Runs").click()
    shown(page, "runs")
    for step, view in ((-1, "embeddings"), (-1, "tokens"), (1, "embeddings")):
        page.evaluate(f"history.go({step})")
        shown(page, view)
        assert page.locator("#checkpoint output").inner_text() == "step 20"
        assert page.locator("#run").input_value() == "text"
    assert text_of(page) == "one"


def learned(page, site) -> None:
    opened(page, site, "learn?run=text&step=20&text=take one down")
    page.get_by_role("button", name="5 steps", exact=True).click()
    page.wait_for_function("document.querySelector('.outcome')?.innerText.includes('after 5 steps')")
    page.wait_for_function("location.hash.includes('session=')")


def test_learned_steps_survive_a_reload_and_another_view(page, site):
    learned(page, site)
    badge = page.locator("#session .session-badge").inner_text()
    assert badge == "checkpoint step 20 + 5 steps on your text"
    page.reload()
    page.wait_for_selector(".outcome")
    assert page.locator("#session .session-badge").inner_text() == badge
    page.get_by_role("link", name="Tokens").click()
    shown(page, "tokens")
    with page.expect_request("**/api/tokens") as asked:
        page.reload()
    assert f"session={asked.value.post_data_json['session']}" in page.url
    page.get_by_role("button", name="Return to the checkpoint").click()
    page.wait_for_function("!location.hash.includes('session=')")


def test_learned_steps_that_the_server_no_longer_has_are_said(page, site, errors):
    learned(page, site)
    address = page.url.partition("#")[2]
    page.get_by_role("button", name="Return to the checkpoint").click()
    page.wait_for_selector("#session", state="hidden")
    opened(page, site, address)
    page.locator("#message", has_text="does not have the learned steps of this address any more").wait_for()
    assert page.locator("#checkpoint output").inner_text() == "step 20"
    assert "session=" not in page.url
    assert len(errors) == 1
    assert "404" in errors.pop()


def test_what_is_not_here_is_said(page, site):
    opened(page, site, "tokens?run=nowhere&step=7&text=one")
    assert page.locator("#message").inner_text().startswith("There is no run nowhere here that can be read: this is ")
    assert page.locator("#view .error").count() == 0
    page.evaluate("location.hash = 'tokens?run=text&step=7&text=one'")
    page.locator("#message", has_text="text has no checkpoint of step 7").wait_for()
    assert page.locator("#run").input_value() == "text"
    assert page.locator("#checkpoint output").inner_text() == "step 50, newest"
    page.evaluate("location.hash = 'tokens?run=text&step=abc&text=one'")
    page.locator("#message", has_text="step NaN").wait_for()
    page.evaluate("location.hash = 'tokens?run=text&step=10&text=one'")
    page.wait_for_function("document.querySelector('#checkpoint output').textContent === 'step 10'")
    assert page.locator("#message").inner_text() == ""


def test_all_views_fit_into_the_navigation(page, site):
    """At 1200 pixels, also for the run that has the most; at 360 the current one is in sight."""
    opened(page, site, "runs?run=instruct")
    assert page.evaluate("(nav => nav.scrollWidth - nav.clientWidth)(document.querySelector('#nav'))") <= 0
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, site, "runs?run=instruct")
    box = page.locator("#nav [aria-current]").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 361
