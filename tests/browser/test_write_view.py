"""The Write view in a real browser: tokens with their distributions, sliders, branches, undo, stop, the keyboard."""

import json
import urllib.request

import pytest

PROMPT = "take one down"


@pytest.fixture
def write(page, site):
    """The view with 12 tokens after the prompt."""
    return Write(page, site)


class Write:
    """What a reader does in the view, and what is seen there."""

    def __init__(self, page, site):
        self.page, self.site = page, site
        page.goto(f"{site.url}/#write?run=text&text={PROMPT.replace(' ', '+')}")
        self.idle()
        self.prompt = len(self.tokens())
        self.button("number of tokens", "12")

    def button(self, label: str, value: str) -> None:
        self.page.get_by_label(label).fill(value)
        self.page.get_by_label(label).blur()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def slide(self, label: str, value) -> None:
        self.page.get_by_label(label).fill(str(value))
        self.page.wait_for_timeout(50)  # two frames

    def idle(self) -> None:
        """Wait until each token has its distribution and none is written."""
        self.page.wait_for_function(
            """document.querySelectorAll('.strip .token').length > 1
               && document.querySelectorAll('.strip .unknown').length === 1
               && !document.querySelector('[aria-busy=true]')"""
        )

    def write(self) -> None:
        self.press("Write")
        self.idle()

    def tokens(self) -> list[str]:
        return self.page.locator(".strip .token").all_inner_texts()

    def text(self) -> str:
        return self.page.evaluate("document.querySelector('.joined').textContent")

    def labels(self) -> list[str]:
        return [button.get_attribute("aria-label") for button in self.page.locator(".strip .token").all()]

    def select(self, index: int) -> None:
        self.page.locator(".strip .token").nth(index).click()

    def rows(self):
        return self.page.locator(".write-panel .bar-row")

    def branches(self):
        return self.page.locator(".branch-list button")

    def ask(self, path: str, **fields) -> list[dict]:
        """The lines of an answer of the server."""
        body = json.dumps({"run": "text", "step": None, **fields}).encode()
        request = urllib.request.Request(self.site.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return [json.loads(line) for line in answer]


def test_the_tokens_are_those_that_the_server_draws(write):
    write.write()
    first, *lines, last = write.ask("/api/generate", text=PROMPT, tokens=12, temperature=0.8, seed=1337)
    assert len(write.tokens()) == write.prompt + 12
    assert write.text() == first["text"] + "".join(line["piece"] for line in lines) + last["piece"]
    assert write.page.locator(".strip .from-drawn").count() == 12
    write.select(write.prompt + 3)
    facts = write.page.locator(".facts").inner_text()
    assert f"{lines[3]['rank']} of {lines[3]['expected']['vocab_size']}" in facts
    assert f"{lines[3]['id']}, drawn" in facts


def test_a_token_shows_the_ten_best(write):
    write.write()
    write.page.locator(".strip .token").nth(write.prompt).hover()
    assert write.page.locator(".tooltip .bar-row").count() in (10, 11)
    write.select(write.prompt)
    values = [float(text.split()[0]) for text in write.page.locator(".write-panel .value").all_inner_texts()]
    assert values[:10] == sorted(values[:10], reverse=True)
    assert 0 < sum(values) <= 100.5
    assert write.page.locator(".write-panel .bar-row", has_text="◀ drawn").count() == 1


def test_the_prompt_has_what_the_model_expected(write):
    expected = write.ask("/api/expected", text=PROMPT)
    assert write.prompt == len(expected)
    write.slide("temperature", 1)
    for label, line in list(zip(write.labels(), expected, strict=True))[1:]:
        shown = float(label.rsplit(", ", 1)[1].split()[0].lstrip(">"))
        assert shown == pytest.approx(100 * line["probability"], rel=0.02, abs=0.06)
    write.select(0)
    assert "first token" in write.page.locator(".write-panel").inner_text()


def test_the_sliders_reshape_without_the_server(write):
    write.write()
    requests = []
    write.page.on("request", lambda request: requests.append(request.url))
    before = write.labels()
    write.slide("temperature", 2)
    hot = write.labels()
    assert hot != before
    write.slide("top-k", 0)  # the first choice: 1
    excluded = write.page.locator(".strip .token.excluded").count()
    assert 0 < excluded < len(before)
    certain = [label for label in write.labels() if label.endswith("100.0 %")]
    assert len(certain) == len(before) - 1 - excluded
    write.select(write.prompt)
    assert write.page.locator(".write-panel .name.excluded").count() >= 9
    write.slide("top-k", 100)  # the last: all
    assert write.labels() == hot
    write.slide("top-p", 0.05)
    assert write.page.locator(".strip .token.excluded").count() > 0
    assert requests == []


def test_the_sliders_shape_what_is_drawn_next(write):
    write.slide("temperature", 0)
    write.write()
    lines = write.ask("/api/generate", text=PROMPT, tokens=12, temperature=0)[1:-1]
    assert write.text() == PROMPT + "".join(line["piece"] for line in lines)


def test_an_alternative_is_a_branch_that_can_be_left_and_undone(write):
    write.write()
    before, text = write.tokens(), write.text()
    at = write.prompt + 4
    write.select(at)
    other = write.page.locator(".write-panel button.bar-row:enabled").first
    name = other.locator(".name").inner_text()
    other.click()
    write.idle()
    after = write.tokens()
    assert after[:at] == before[:at]
    assert after[at] == name != before[at]
    assert len(after) == at + 1 + 12
    assert "chosen" in write.page.locator(".facts").inner_text()
    assert write.branches().count() == 2
    write.branches().nth(0).click()
    assert (write.tokens(), write.text()) == (before, text)
    write.branches().nth(1).click()
    assert write.tokens() == after
    write.press("Undo")
    assert (write.tokens(), write.branches().count()) == (before, 1)
    write.press("Undo")
    assert len(write.tokens()) == write.prompt
    assert write.page.get_by_role("button", name="Undo").is_disabled()


def test_a_branch_inside_the_prompt(write):
    write.select(2)
    write.page.locator(".write-panel button.bar-row:enabled").first.click()
    write.idle()
    assert len(write.tokens()) == 3 + 12
    assert write.page.locator(".strip .from-prompt").count() == 2
    assert write.page.locator(".strip .from-chosen").count() == 1
    write.write()  # again from the whole prompt
    assert write.page.locator(".strip .from-prompt").count() == write.prompt
    assert write.branches().count() == 3


def test_continue_writes_on(write):
    write.write()
    before = write.tokens()
    with write.page.expect_request("**/api/generate") as asked:
        write.press("Continue")
    write.idle()
    assert asked.value.post_data_json["seed"] == 1337 + 12  # other random numbers
    assert write.tokens()[: len(before)] == before
    assert len(write.tokens()) == len(before) + 12


def test_another_checkpoint_shows_the_same_text(write):
    write.write()
    write.select(write.prompt + 2)
    before, labels = write.tokens(), write.labels()
    slider = write.page.get_by_label("checkpoint", exact=True)
    slider.focus()
    slider.press("Home")
    write.page.wait_for_function("location.hash.includes('step=0')")
    write.idle()
    assert write.tokens() == before
    assert write.labels() != labels
    pressed = write.page.locator(".strip .token[aria-pressed=true]")
    assert pressed.count() == 1
    assert pressed.inner_text() == before[write.prompt + 2]
    slider.press("End")
    write.page.wait_for_function("!location.hash.includes('step=')")
    write.idle()
    assert write.labels() == labels


def test_stop_ends_it(write):
    write.button("number of tokens", "2000")
    write.press("Write")
    write.page.wait_for_function(f"document.querySelectorAll('.strip .token').length > {write.prompt + 5}")
    write.press("Stop")
    write.idle()
    count = len(write.tokens())
    assert count < 2000
    write.page.wait_for_timeout(300)
    assert len(write.tokens()) == count
    assert "stopped" in write.page.locator("#view [role=status].note").inner_text()
    assert write.page.get_by_role("button", name="Stop").is_disabled()


def test_writing_begins_before_the_prompt_is_analysed(page, site):
    page.goto(f"{site.url}/#write?run=text&text={PROMPT.replace(' ', '+')}")
    page.get_by_label("Prompt").fill("on the wall; take")
    page.get_by_role("button", name="Write", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.strip .from-drawn').length === 60")
    page.wait_for_function("document.querySelectorAll('.strip .unknown').length === 1")
    assert page.evaluate("document.querySelector('.joined').textContent").startswith("on the wall; take")


def test_an_error_is_one_sentence_and_goes_away(page, site, errors):
    page.goto(f"{site.url}/#write?run=text&text={PROMPT.replace(' ', '+')}")
    page.route("**/api/expected", lambda route: route.fulfill(status=400, json={"error": "no such character"}))
    page.get_by_label("Prompt").fill("other")
    page.wait_for_selector(".error")
    assert page.locator(".error").inner_text() == "no such character"
    page.unroute("**/api/expected")
    page.get_by_label("Prompt").fill("another")
    page.wait_for_selector(".error", state="detached")
    errors.clear()  # the browser reports the status 400


def test_markup_is_text(write):
    write.page.get_by_label("Prompt").fill("<img src=x onerror=alert(1)><b>")
    write.page.wait_for_function("document.querySelector('.strip').textContent.includes('onerror')")
    write.idle()
    assert write.page.locator(".strip img, .strip b").count() == 0


def test_by_keyboard_alone(write):
    page = write.page
    write.write()
    before = write.tokens()
    page.locator(".strip .token[tabindex='0']").focus()
    page.keyboard.press("Home")
    for _ in range(write.prompt + 1):
        page.keyboard.press("ArrowRight")
    assert page.locator(".tooltip .bar-row").count() >= 10
    page.keyboard.press("Enter")
    assert page.locator(".strip .token[aria-pressed=true]").count() == 1
    for _ in range(4):  # the summary of the plain text is between
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.write-panel .bar-row')"):
            break
    page.keyboard.press("Enter")
    write.idle()
    assert write.tokens()[: write.prompt + 1] == before[: write.prompt + 1]
    assert page.locator(".strip .from-chosen").count() == 1


@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_nothing_serious(write, axe, width):
    write.page.set_viewport_size({"width": width, "height": 800})
    write.write()
    write.select(write.prompt + 1)
    write.slide("top-k", 2)
    for scheme in ("light", "dark"):
        write.page.emulate_media(color_scheme=scheme)
        assert not (finds := axe(write.page)), "\n".join(finds)
    assert write.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
