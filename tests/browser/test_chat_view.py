"""The chat in a browser: history, stop, new conversation, notes; with the keyboard alone; narrow."""

import pytest


@pytest.fixture
def chat(page, site):
    page.goto(f"{site.url}/#chat?run=instruct")
    page.get_by_text("It was trained on single turns").wait_for()
    return page


def ask(page, text: str) -> None:
    page.get_by_label("Question").fill(text)
    page.get_by_label("Question").press("Enter")
    page.locator(".chat-log:not([aria-busy])").wait_for()
    page.locator(".turn:last-child details").wait_for()


def test_a_conversation(chat):
    chat.get_by_label("Longest answer").fill("4")
    chat.get_by_label("Longest answer").press("Tab")
    ask(chat, "Say yes.")
    chat.get_by_label("Input, optional").fill("no")
    ask(chat, "Say")
    assert chat.locator(".bubble.user .bubble-text").all_inner_texts() == ["Say yes.", "Say", "no"]
    assert chat.locator(".bubble.model").count() == 2
    assert "1 earlier turn not shown to it" in chat.locator(".turn").nth(1).inner_text()
    chat.locator(".turn").nth(1).locator("summary").click()
    assert chat.locator(".turn").nth(1).locator(".prompt").inner_text().startswith("<|user|>\nSay\nno\n<|assistant|>:")
    chat.get_by_label("Earlier turns shown").fill("1")
    ask(chat, "Say yes.")
    assert "with 1 earlier turn" in chat.locator(".turn").nth(2).inner_text()
    chat.get_by_role("button", name="New conversation").click()
    assert chat.locator(".turn").count() == 0
    ask(chat, "Say yes.")
    assert "earlier" not in chat.locator(".turn").inner_text()


def test_the_conversation_is_there_again_after_another_view(chat):
    ask(chat, "Say yes.")
    chat.get_by_role("link", name="Tokens").click()
    chat.locator(".token-list li").first.wait_for()
    chat.get_by_role("link", name="Chat").click()
    chat.locator(".turn").first.wait_for()
    assert chat.locator(".turn").count() == 1


def test_stop_ends_an_answer_and_keeps_it(chat):
    """A server that sends a part of the answer and then waits."""
    chat.evaluate(
        """() => {
            const real = fetch;
            window.fetch = (path, options) => {
                if (path !== "/api/chat") return real(path, options);
                const first = { prompt: "x", prompt_tokens: 1, seen: 0, dropped: 2, hidden: 0 };
                const lines = [first, { piece: "ab", ids: [1] }].map((line) => JSON.stringify(line) + "\\n").join("");
                const body = new ReadableStream({ start(controller) {
                    controller.enqueue(new TextEncoder().encode(lines));
                    options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
                }});
                return Promise.resolve(new Response(body));
            };
        }"""
    )
    chat.get_by_label("Question").fill("Say yes.")
    chat.get_by_label("Question").press("Enter")
    chat.locator(".bubble.model .bubble-text", has_text="ab").wait_for()
    assert chat.get_by_role("button", name="Send").is_disabled()
    assert "2 earlier turns did not fit" in chat.locator(".turn").inner_text()
    chat.get_by_role("button", name="Stop").click()
    chat.get_by_text("You stopped this answer.").wait_for()
    assert chat.get_by_role("button", name="Send").is_enabled()
    assert chat.get_by_role("button", name="Stop").is_disabled()


def test_a_question_that_fails_is_taken_back(chat, errors):
    chat.get_by_label("Question").fill("word " * 200)
    chat.get_by_label("Question").press("Enter")
    chat.locator(".error", has_text="ask with fewer words").wait_for()
    assert chat.locator(".turn").count() == 0
    assert chat.get_by_label("Question").input_value().startswith("word word")
    errors.clear()  # the browser reports the status 400


def test_what_the_model_writes_is_text(chat):
    ask(chat, "<img src=x onerror=alert(1)><b>bold</b>")
    assert chat.locator(".chat-log img, .chat-log b").count() == 0
    assert chat.locator(".bubble.user .bubble-text").inner_text() == "<img src=x onerror=alert(1)><b>bold</b>"


def test_every_width_and_theme_is_accessible(chat, axe, looks):
    ask(chat, "Say yes.")
    for width in looks():
        assert axe(chat) == []
        assert chat.evaluate("document.documentElement.scrollWidth") <= width
