"""No control of the page moves once it is shown; a view that waits for its answer is as readable as before."""

import pytest
from test_page import ids

# In each frame: the place of every control that is visible. `moved` says which were elsewhere in the frame before.
# Answers of the server arrive one after the other, with frames between them, and none while the page is told to hold.
RECORDER = """
(() => {
  const CONTROLS = 'button, input, select, textarea, summary, a[href], canvas, [tabindex="0"]';
  const places = new Map(), moved = [];
  let held = false;
  const look = () => {
    for (const control of document.querySelectorAll(CONTROLS)) {
      if (!control.checkVisibility({ visibilityProperty: true })) continue;
      const { left, top } = control.getBoundingClientRect();
      const [x, y] = places.get(control) ?? [left, top];
      if (Math.hypot(left - x, top - y) > 1) {
        moved.push(`${control.localName} ${name(control)}: (${x}, ${y}) -> (${left}, ${top})`);
      }
      places.set(control, [left, top]);
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  const frames = async (count) => { while (count--) await new Promise(requestAnimationFrame); };
  const free = async () => { do await frames(3); while (held); };
  const ask = window.fetch;
  let before = Promise.resolve(), open = 0;
  window.fetch = (...request) => {
    open += 1;
    const answer = before.then(free).then(() => ask(...request));
    before = answer.then(() => frames(3), () => {}).finally(() => (open -= 1));
    return answer;
  };
  const name = (control) =>
    control.getAttribute('aria-label') ?? (control.labels?.[0] ?? control).textContent.slice(0, 40);
  const replaced = () => [...places.keys()].filter((control) => !control.isConnected).map(name);
  const restart = async () => { await frames(2); moved.length = 0; };
  window.recorder = { moved, replaced, restart, hold: (on) => { held = on; }, quiet: () => !open };
})();
"""
QUIET = "recorder.quiet() && !document.querySelector('[aria-busy], .unanswered')"
RUNS = {"chat": "instruct", "classify": "classifier"}


@pytest.fixture
def recorded(page):
    page.add_init_script(RECORDER)
    return page


def open_view(page, site, view: str, run: str) -> None:
    page.goto("about:blank")
    page.goto(f"{site.url}/#{view}?run={run}&text=take one down and pass it around")
    page.wait_for_selector(f"#view.view-{view} > *")


@pytest.mark.parametrize("view", ids())
def test_no_control_moves_from_the_first_paint_on(recorded, site, view):
    for width in (1200, 360):
        recorded.set_viewport_size({"width": width, "height": 800})
        for run in [RUNS[view]] if view in RUNS else ["text", "classifier"] if view in ("learn", "lens") else ["text"]:
            open_view(recorded, site, view, run)
            recorded.wait_for_timeout(100)  # requests that are made a little later, after the last key
            recorded.wait_for_function(QUIET)
            assert recorded.locator("#view :is(button, input, [tabindex='0'])").first.is_visible()
            assert recorded.evaluate("recorder.moved") == [], f"{width} pixels, run {run}"
            assert recorded.evaluate("recorder.replaced()") == [], "a click on it would be lost"


def test_a_step_can_be_pressed_when_its_defaults_are_known(recorded, site):
    """A click before that would only report that the learning rate is missing."""
    open_view(recorded, site, "tokens", "text")
    recorded.wait_for_function(QUIET)
    recorded.evaluate("recorder.hold(true)")
    recorded.get_by_role("link", name="One step").click()
    recorded.wait_for_selector("#view.view-learn h2")
    button = recorded.locator(".learn-controls button.primary")
    assert not button.is_visible()
    assert not button.is_enabled()
    recorded.evaluate("recorder.hold(false)")
    recorded.get_by_role("button", name="One step", exact=True).click()
    recorded.wait_for_selector(".outcome")
    assert recorded.locator(".error").count() == 0


@pytest.mark.parametrize("width", [1200, 360])
def test_the_buttons_of_a_step_stay_where_they_are(recorded, site, width):
    recorded.set_viewport_size({"width": width, "height": 800})
    open_view(recorded, site, "learn", "text")
    recorded.wait_for_function(QUIET)
    for count in (1, 2):
        recorded.get_by_role("button", name="One step", exact=True).click()
        recorded.wait_for_function(f"document.querySelector('.session-badge')?.textContent.includes('+ {count} step')")
        recorded.wait_for_function(QUIET)
    moved = recorded.evaluate("recorder.moved")
    assert [line for line in moved if line.startswith(("button One step", "button 5 steps", "button Undo"))] == []


@pytest.mark.parametrize("width", [1200, 360])
def test_an_answer_of_chat_moves_no_button(recorded, site, width):
    recorded.set_viewport_size({"width": width, "height": 800})
    open_view(recorded, site, "chat", "instruct")
    recorded.wait_for_function(QUIET)
    recorded.get_by_label("Question").fill("Name a fruit.")  # scrolls the page
    recorded.evaluate("recorder.restart()")
    for turns in (1, 2, 3):
        recorded.get_by_label("Question").fill("Name a fruit.")
        recorded.keyboard.press("Enter")
        recorded.wait_for_function(f"document.querySelectorAll('.bubble.model summary').length === {turns}")
        recorded.wait_for_function(QUIET)
    moved = recorded.evaluate("recorder.moved")
    assert [line for line in moved if not line.startswith("summary")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_view_that_waits_is_as_readable_as_before(recorded, site, axe, scheme):
    recorded.emulate_media(color_scheme=scheme)
    open_view(recorded, site, "tokens", "text")
    recorded.wait_for_function(QUIET)
    line = "getComputedStyle(document.querySelector('header'), '::after').content"
    assert recorded.evaluate(line) == "none"
    recorded.evaluate("recorder.hold(true)")
    recorded.locator("#text-bar textarea").fill("another text")
    recorded.wait_for_selector("#view[aria-busy=true]")
    assert recorded.evaluate(line) == '""', "a line below the header says that the view waits"
    recorded.wait_for_timeout(500)
    assert axe(recorded) == []
    recorded.evaluate("recorder.hold(false)")
    recorded.wait_for_function(QUIET)
    assert recorded.evaluate(line) == "none"
