"""A run that somebody else made: its name and tokens are text, never markup, and what is invisible is shown."""

from urllib.parse import quote

import pytest
from looked_at import Site, served

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.tokenizer import END_OF_TEXT, BPETokenizer
from gpt.training import checkpoint
from tensorlite.optim import AdamW

MARKUP = ["<img/src=x/onerror=hacked=1>", "</span><script>hacked=1</script>", "'\"><svg/onload=hacked=1>", "&lt;b&gt;"]
INVISIBLE = ["\u202e", "\u2066", "\x1b", "\u200b", "\U000e0041"]
SHOWN = ["\\u202e", "\\u2066", "\\x1b", "\\u200b", "\\U000e0041", "↵", "→", "·", "\\x7f"]
TEXT = "".join([*MARKUP, *INVISIBLE]) + "\n\t \x7f"
NAME = "run <img src=x onerror=hacked=1>"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with one run, whose name and tokens are attacks."""
    folder = tmp_path_factory.mktemp("hostile")
    tokenizer = BPETokenizer([bytes([i]) for i in range(256)], [END_OF_TEXT, *MARKUP, *INVISIBLE])
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=128, n_layer=1, n_head=2, n_embd=8)
    description = {"format": "gpt.run", "version": checkpoint.VERSION, "model": config.to_dict()}
    tl.manual_seed(0)
    model = GPT(config)
    run = folder / NAME
    run.mkdir()
    for log in checkpoint.LOGS:
        (run / log).touch()
    checkpoint.save(run, 0, config=description, tokenizer=tokenizer, model=model,
                    optimizer=AdamW(model.parameters(), lr=0.1), state={}, keep=1)  # fmt: skip
    with served(folder) as (_, address):
        yield Site(address.rstrip("/"), folder)


def open_view(page, site, view: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{site.url}/#{view}?text={quote(TEXT)}")
    page.wait_for_selector("#view > *")
    page.wait_for_timeout(500)
    page.wait_for_function("!document.querySelector('[aria-busy=true]')")


def test_no_view_executes_a_token(page, site):
    """Every view with the text of all these tokens, whose buttons are pressed, too."""
    open_view(page, site)
    views = [link.get_attribute("href").partition("?")[0][1:] for link in page.locator("#nav a").all()]
    assert views
    for view in views:
        open_view(page, site, view)
        for button in page.locator("#view button.primary:enabled").all():
            button.click()
            page.wait_for_timeout(300)
        page.locator("#view .token").first.or_(page.locator("#view")).first.hover()
        assert page.evaluate("window.hacked") is None, view
        assert (
            page.evaluate("document.querySelectorAll('#view :is(img, script, iframe, [onerror], [onload])').length")
            == 0
        )
        reversing = page.evaluate("/[\\u202a-\\u202e\\u2066-\\u2069]/.test(document.querySelector('#view').innerText)")
        assert not reversing, f"{view} shows a character that reverses the text after it"
    assert page.locator("#run option").all_inner_texts() == [NAME]


def test_the_tokens_are_shown_as_they_are_written(page, site):
    open_view(page, site, "tokens")
    shown = page.locator("#view").inner_text()
    for token in MARKUP:
        assert token in shown
    for sign in SHOWN:
        assert sign in shown


def test_the_policy_stops_what_would_be_executed(page, site, errors):
    """A second line of defence: even markup in the page could run no script and ask no server."""
    open_view(page, site)
    page.evaluate("document.querySelector('#view').innerHTML = `<img src=x onerror='hacked=1'>`")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert "Content Security Policy" in " ".join(errors)
    errors.clear()
    loads = "(url) => fetch(url, { mode: 'no-cors' }).then(() => 'loaded', () => 'refused')"
    assert page.evaluate(loads, "http://127.0.0.1:9/") == "refused"
    assert "Content Security Policy" in errors[-1]
    errors.clear()
